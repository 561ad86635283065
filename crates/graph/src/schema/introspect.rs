//! Introspection: the schema described in terms of itself, written straight to JSON without recursion.

use std::sync::Arc;

use crate::{
    error::Error,
    query::{
        plan::{Plan, What},
        response::{Failure, put_str},
    },
    value::Value,
};

use super::{
    Applied, ArgDef, DirectiveDef, EnumValueDef, FieldId, Kind, ScalarKind, SchemaView, Ty, TypeId,
};

/// Largest introspection answer.
const MAX_BYTES: usize = 32 << 20;

/// Something introspection can describe.
#[derive(Clone, Copy)]
enum Meta<'s> {
    Schema,
    Type(TypeId),
    Wrapped(&'s Ty),
    Field(FieldId),
    Input(&'s ArgDef),
    EnumValue(&'s EnumValueDef),
    Directive(&'s DirectiveDef),
    Applied(&'s Applied),
    /// `@expectedType(name: …)`, of ID arguments where there is only one ID scalar.
    Expected(TypeId),
    AppliedArg(&'s (Arc<str>, Arc<str>)),
    ExpectedArg(TypeId),
}

/// The value of one of its fields.
enum Is<'s> {
    Null,
    Text(&'s str),
    Owned(String),
    Bool(bool),
    One(Meta<'s>),
    Many(Vec<Meta<'s>>),
    Names(Vec<&'s str>),
}

impl<'s> From<&'s Option<Arc<str>>> for Is<'s> {
    fn from(text: &'s Option<Arc<str>>) -> Self {
        text.as_deref().map_or(Is::Null, Is::Text)
    }
}

/// Answers the root fields `__schema` and `__type` (field `at` of the plan).
pub(crate) fn answer(plan: &mut Plan<'_>, at: u32) -> Result<Vec<u8>, Failure> {
    let view = plan.view;
    let field = &plan.fields[at as usize];
    let meta = match field.args.opt_str("name") {
        None => Some(Meta::Schema),
        Some(name) => view.ty(name).filter(|t| shown(view, *t)).map(Meta::Type),
    };
    match meta {
        None => Ok(b"null".to_vec()),
        Some(meta) => write(plan, at, meta),
    }
}

enum Open<'s> {
    /// The next and last field of the plan, and what they are asked of.
    Object(u32, u32, Meta<'s>),
    /// The field of the plan, and the items left.
    List(u32, std::vec::IntoIter<Meta<'s>>),
}

fn write<'a>(plan: &mut Plan<'a>, at: u32, meta: Meta<'a>) -> Result<Vec<u8>, Failure> {
    let view: &'a SchemaView = plan.view;
    let mut out = Vec::with_capacity(64 << 10);
    let mut open: Vec<Open<'a>> = Vec::new();
    let enter = |plan: &mut Plan<'a>,
                 out: &mut Vec<u8>,
                 at: u32,
                 meta: Meta<'a>|
     -> Result<Open<'a>, Failure> {
        let (first, len) = plan.children(at, type_of(view, at, plan))?;
        out.push(b'{');
        Ok(Open::Object(first, first + len, meta))
    };
    open.push(enter(plan, &mut out, at, meta)?);
    while let Some(top) = open.last_mut() {
        if out.len() > MAX_BYTES {
            let error = Error::user(format!("the answer has more than {MAX_BYTES} bytes"));
            return Err(Failure::field(error, plan.path(at)));
        }
        let (field, meta) = match top {
            Open::List(field, items) => match items.next() {
                None => {
                    out.push(b']');
                    open.pop();
                    continue;
                }
                Some(meta) => {
                    comma(&mut out);
                    let field = *field;
                    open.push(enter(plan, &mut out, field, meta)?);
                    continue;
                }
            },
            Open::Object(next, end, _) if next == end => {
                out.push(b'}');
                open.pop();
                continue;
            }
            Open::Object(next, _, meta) => {
                *next += 1;
                (*next - 1, *meta)
            }
        };
        comma(&mut out);
        let planned = &plan.fields[field as usize];
        put_str(&mut out, planned.key);
        out.push(b':');
        let (name, deprecated) = match planned.what {
            What::Typename => ("__typename", false),
            What::Field(f) => (
                &*view.defs.field(f).name,
                matches!(planned.args.get("includeDeprecated"), Value::Bool(true)),
            ),
        };
        match ask(view, meta, name, deprecated) {
            Is::Null => out.extend_from_slice(b"null"),
            Is::Text(t) => put_str(&mut out, t),
            Is::Owned(t) => put_str(&mut out, &t),
            Is::Bool(b) => out.extend_from_slice(if b { b"true" } else { b"false" }),
            Is::Names(names) => {
                out.push(b'[');
                for name in names {
                    comma(&mut out);
                    put_str(&mut out, name);
                }
                out.push(b']');
            }
            Is::One(meta) => open.push(enter(plan, &mut out, field, meta)?),
            Is::Many(items) => {
                out.push(b'[');
                open.push(Open::List(field, items.into_iter()));
            }
        }
    }
    Ok(out)
}

fn comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[')) {
        out.push(b',');
    }
}

/// The declared type of a planned field.
fn type_of(view: &SchemaView, at: u32, plan: &Plan<'_>) -> TypeId {
    match plan.fields[at as usize].what {
        What::Field(f) => view.defs.field(f).ty.named(),
        What::Typename => view.defs.query,
    }
}

/// Is the type listed? The helper for root fields never is; ID scalars of single types are not where `ID` replaces them.
fn shown(view: &SchemaView, id: TypeId) -> bool {
    let def = view.defs.ty(id);
    view.sees(def.mask)
        && id != view.defs.root_meta
        && !(view.unified() && matches!(def.scalar, ScalarKind::IdOf(_)))
}

/// The type a reference stands for in this view, and the object it is the ID of.
fn seen(view: &SchemaView, id: TypeId) -> (TypeId, Option<TypeId>) {
    match view.defs.ty(id).scalar {
        ScalarKind::IdOf(object) if view.unified() => {
            (view.defs.type_named("ID").unwrap_or(id), Some(object))
        }
        _ => (id, None),
    }
}

fn reference<'s>(view: &SchemaView, ty: &'s Ty) -> Meta<'s> {
    match ty {
        Ty::Named(id) => Meta::Type(seen(view, *id).0),
        wrapped => Meta::Wrapped(wrapped),
    }
}

fn types<'s>(view: &SchemaView, of: &[(TypeId, u64)]) -> Is<'s> {
    Is::Many(
        of.iter()
            .filter(|(t, m)| view.sees(*m) && shown(view, *t))
            .map(|(t, _)| Meta::Type(*t))
            .collect(),
    )
}

/// The directives applied to something of this type.
fn directives<'s>(view: &SchemaView, applied: &'s [Applied], ty: Option<&Ty>) -> Is<'s> {
    let expected = ty
        .and_then(|ty| seen(view, ty.named()).1)
        .map(Meta::Expected);
    Is::Many(applied.iter().map(Meta::Applied).chain(expected).collect())
}

fn ask<'s>(view: &'s SchemaView, meta: Meta<'s>, name: &str, deprecated: bool) -> Is<'s> {
    let defs = &*view.defs;
    if name == "__typename" {
        return Is::Text(match meta {
            Meta::Schema => "__Schema",
            Meta::Type(_) | Meta::Wrapped(_) => "__Type",
            Meta::Field(_) => "__Field",
            Meta::Input(_) => "__InputValue",
            Meta::EnumValue(_) => "__EnumValue",
            Meta::Directive(_) => "__Directive",
            Meta::Applied(_) | Meta::Expected(_) => "_DirectiveApplication",
            Meta::AppliedArg(_) | Meta::ExpectedArg(_) => "_DirectiveApplicationArg",
        });
    }
    match (meta, name) {
        (Meta::Schema, "types") => Is::Many(
            defs.sorted
                .iter()
                .filter(|t| shown(view, **t))
                .map(|t| Meta::Type(*t))
                .collect(),
        ),
        (Meta::Schema, "queryType") => Is::One(Meta::Type(defs.query)),
        (Meta::Schema, "directives") => Is::Many(
            defs.directives
                .iter()
                .filter(|d| view.sees(d.mask))
                .map(Meta::Directive)
                .collect(),
        ),
        (Meta::Type(id), _) => named_type(view, id, name, deprecated),
        (Meta::Wrapped(ty), "kind") => Is::Text(if matches!(ty, Ty::List(_)) {
            "LIST"
        } else {
            "NON_NULL"
        }),
        (Meta::Wrapped(Ty::List(inner) | Ty::NonNull(inner)), "ofType") => {
            Is::One(reference(view, inner))
        }
        (Meta::Wrapped(_), "directives") => Is::Many(Vec::new()),
        (Meta::Field(f), _) => {
            let f = defs.field(f);
            match name {
                "name" => Is::Text(&f.name),
                "description" => (&f.description).into(),
                "args" => Is::Many(
                    view.args(f)
                        .filter(|a| deprecated || a.deprecated.is_none())
                        .map(Meta::Input)
                        .collect(),
                ),
                "type" => Is::One(reference(view, &f.ty)),
                "isDeprecated" => Is::Bool(f.deprecated.is_some()),
                "deprecationReason" => (&f.deprecated).into(),
                "directives" => directives(view, &f.applied, (&*f.name != "id").then_some(&f.ty)),
                _ => Is::Null,
            }
        }
        (Meta::Input(a), "name") => Is::Text(&a.name),
        (Meta::Input(a), "description") => (&a.description).into(),
        (Meta::Input(a), "type") => Is::One(reference(view, &a.ty)),
        (Meta::Input(a), "defaultValue") => (&a.default_text).into(),
        (Meta::Input(a), "isDeprecated") => Is::Bool(a.deprecated.is_some()),
        (Meta::Input(a), "deprecationReason") => (&a.deprecated).into(),
        (Meta::Input(a), "directives") => directives(view, &a.applied, Some(&a.ty)),
        (Meta::EnumValue(v), "name") => Is::Text(&v.name),
        (Meta::EnumValue(v), "description") => (&v.description).into(),
        (Meta::EnumValue(v), "isDeprecated") => Is::Bool(v.deprecated.is_some()),
        (Meta::EnumValue(v), "deprecationReason") => (&v.deprecated).into(),
        (Meta::EnumValue(v), "directives") => directives(view, &v.applied, None),
        (Meta::Directive(d), "name") => Is::Text(&d.name),
        (Meta::Directive(d), "description") => (&d.description).into(),
        (Meta::Directive(d), "isRepeatable") => Is::Bool(d.repeatable),
        (Meta::Directive(d), "locations") => Is::Names(d.locations.iter().map(|l| &**l).collect()),
        (Meta::Directive(d), "args") => Is::Many(
            d.args
                .iter()
                .filter(|a| view.sees(a.mask))
                .map(Meta::Input)
                .collect(),
        ),
        (Meta::Applied(a), "name") => Is::Text(&a.name),
        (Meta::Applied(a), "args") => Is::Many(a.args.iter().map(Meta::AppliedArg).collect()),
        (Meta::Expected(_), "name") => Is::Text("expectedType"),
        (Meta::Expected(t), "args") => Is::Many(vec![Meta::ExpectedArg(t)]),
        (Meta::AppliedArg((n, _)), "name") => Is::Text(n),
        (Meta::AppliedArg((_, v)), "value") => Is::Text(v),
        (Meta::ExpectedArg(_), "name") => Is::Text("name"),
        (Meta::ExpectedArg(t), "value") => Is::Owned(format!("{:?}", defs.ty(t).name)),
        _ => Is::Null,
    }
}

fn named_type<'s>(view: &'s SchemaView, id: TypeId, name: &str, deprecated: bool) -> Is<'s> {
    let defs = &*view.defs;
    let def = defs.ty(id);
    let composite = matches!(def.kind, Kind::Object | Kind::Interface);
    match name {
        "kind" => Is::Text(def.kind.name()),
        "name" => Is::Text(&def.name),
        "description" => (&def.description).into(),
        "fields" if composite => Is::Many(
            def.fields
                .iter()
                .map(|f| (*f, defs.field(*f)))
                .filter(|(_, f)| view.sees(f.mask) && (deprecated || f.deprecated.is_none()))
                .map(|(f, _)| Meta::Field(f))
                .collect(),
        ),
        "interfaces" if composite => types(view, &def.interfaces),
        "possibleTypes" if matches!(def.kind, Kind::Interface | Kind::Union) => {
            types(view, &def.possible)
        }
        "enumValues" if def.kind == Kind::Enum => Is::Many(
            def.values
                .iter()
                .filter(|v| view.sees(v.mask) && (deprecated || v.deprecated.is_none()))
                .map(Meta::EnumValue)
                .collect(),
        ),
        "inputFields" if def.kind == Kind::Input => Is::Many(
            view.inputs(def)
                .filter(|a| deprecated || a.deprecated.is_none())
                .map(Meta::Input)
                .collect(),
        ),
        "isOneOf" if def.kind == Kind::Input => Is::Bool(false),
        "directives" => directives(view, &def.applied, None),
        _ => Is::Null,
    }
}
