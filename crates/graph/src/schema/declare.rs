//! Declarations to definitions: texts are merged, names resolved, ranges of views become masks, and all is checked.

use std::{collections::HashMap, sync::Arc};

use crate::{
    query::coerce::{Coercion, Raw},
    resolve::View,
    value::Value,
};

use super::{
    Applied, ArgDef, Defs, DirectiveDef, EnumValueDef, FieldDef, Kind, Mask, Provider, ScalarKind,
    SchemaError, Ty, TypeDef, TypeId,
    sdl::{self, ArgDecl, Const, DirDecl, FieldDecl, Range, Sdl, TyDecl, TypeDecl},
};

/// The version from which objects are told apart by the scalar `ID` alone.
const UNIFIED_IDS: View = View::new(0, 21, 1);
/// Most versions at which something may change.
const MAX_BOUNDS: usize = 63;

/// A type's declaration and all its extensions.
struct Merged<'a> {
    decl: &'a TypeDecl,
    range: Range,
    parts: Vec<(&'a TypeDecl, Range)>,
}

struct Declaring<'a> {
    bounds: Vec<View>,
    names: HashMap<Arc<str>, TypeId>,
    /// Mask of each type.
    masks: Vec<Mask>,
    kinds: Vec<Kind>,
    merged: Vec<Merged<'a>>,
}

fn member(path: impl Into<String>, problem: impl Into<String>) -> SchemaError {
    SchemaError::Member {
        path: path.into(),
        problem: problem.into(),
    }
}

/// All texts as one, for all views.
pub(super) fn declare(texts: &[Arc<Sdl>]) -> Result<Defs, SchemaError> {
    let builtin =
        sdl::parse(include_str!("builtin.graphql")).map_err(|source| SchemaError::Syntax {
            name: "builtin.graphql".into(),
            source,
        })?;
    // What the texts declare themselves replaces what is built in.
    let declared = |name: &str| {
        texts
            .iter()
            .any(|t| t.types.iter().any(|d| !d.extends && *d.name == *name))
    };
    let declared_directive = |name: &str| {
        texts
            .iter()
            .any(|t| t.directives.iter().any(|d| *d.name == *name))
    };
    let implied = implied(texts);
    let mut decls: Vec<&TypeDecl> = builtin
        .types
        .iter()
        .filter(|d| !declared(&d.name))
        .collect();
    decls.extend(implied.types.iter());
    decls.extend(texts.iter().flat_map(|t| &t.types));
    let mut merged: Vec<Merged<'_>> = Vec::new();
    let mut names: HashMap<Arc<str>, TypeId> = HashMap::new();
    for decl in decls.iter().filter(|d| !d.extends) {
        let id = merged.len() as TypeId;
        if names.insert(decl.name.clone(), id).is_some() {
            return Err(SchemaError::Type {
                name: decl.name.to_string(),
                problem: "it is declared twice".into(),
            });
        }
        merged.push(Merged {
            decl,
            range: decl.range,
            parts: vec![(decl, Range::default())],
        });
    }
    for decl in decls.iter().filter(|d| d.extends) {
        let bad = |problem: &str| SchemaError::Type {
            name: decl.name.to_string(),
            problem: problem.into(),
        };
        let id = *names
            .get(&decl.name)
            .ok_or_else(|| bad("it is extended but not declared"))?;
        let m = &mut merged[id as usize];
        if m.decl.kind != decl.kind {
            return Err(bad("it is extended as another kind"));
        }
        m.parts.push((decl, decl.range));
    }
    let directives: Vec<_> = builtin
        .directives
        .iter()
        .filter(|d| !declared_directive(&d.name))
        .chain(texts.iter().flat_map(|t| &t.directives))
        .collect();

    let mut bounds = vec![UNIFIED_IDS];
    let mut note = |r: Range| bounds.extend(r.since.into_iter().chain(r.until));
    for m in &merged {
        note(m.range);
        for (part, range) in &m.parts {
            note(*range);
            part.fields.iter().for_each(|f| {
                note(f.range);
                f.args.iter().for_each(|a| note(a.range));
            });
            part.inputs.iter().for_each(|a| note(a.range));
            part.values.iter().for_each(|v| note(v.range));
        }
    }
    directives.iter().for_each(|d| note(d.range));
    bounds.sort();
    bounds.dedup();
    if bounds.len() > MAX_BOUNDS {
        return Err(SchemaError::TooManyVersions(bounds.len()));
    }
    let mut d = Declaring {
        bounds,
        names,
        masks: Vec::new(),
        kinds: Vec::new(),
        merged,
    };
    d.masks = d.merged.iter().map(|m| d.mask(m.range)).collect();
    d.kinds = d.merged.iter().map(|m| m.decl.kind).collect();
    let query = *d.names.get("Query").ok_or_else(|| SchemaError::Type {
        name: "Query".into(),
        problem: "it is not declared".into(),
    })?;
    let root_meta = *d.names.get("__Root").unwrap_or(&query);
    let mut defs = d.types(query, root_meta)?;
    for decl in directives {
        let path = format!("@{}", decl.name);
        let mask = d.mask(decl.range);
        defs.directives.push(DirectiveDef {
            name: decl.name.clone(),
            description: decl.description.clone(),
            args: d.args(&path, &decl.args, mask)?,
            locations: decl.locations.clone(),
            repeatable: decl.repeatable,
            mask,
        });
    }
    defs.directives.sort_by(|a, b| a.name.cmp(&b.name));
    finish(&mut defs)?;
    Ok(defs)
}

/// What object types with an `id` bring along: the scalar `FooID`, `Query.loadFooFromID`, and `Query.node`.
fn implied(texts: &[Arc<Sdl>]) -> Sdl {
    let types = || texts.iter().flat_map(|t| &t.types);
    let declares = |ty: &str, field: &str| {
        types().any(|d| *d.name == *ty && d.fields.iter().any(|f| *f.name == *field))
    };
    let named = |n: &str| TyDecl::Named(n.into());
    let non_null = |n: &str| TyDecl::NonNull(Box::new(TyDecl::Named(n.into())));
    let blank = |kind: Kind, name: &str, range: Range| TypeDecl {
        kind,
        name: name.into(),
        extends: false,
        description: None,
        interfaces: Vec::new(),
        fields: Vec::new(),
        inputs: Vec::new(),
        values: Vec::new(),
        members: Vec::new(),
        directives: Vec::new(),
        range,
    };
    let mut out = Sdl::default();
    let mut query = TypeDecl {
        extends: true,
        ..blank(Kind::Object, "Query", Range::default())
    };
    let arg = |ty: TyDecl| ArgDecl {
        name: "id".into(),
        description: Some("The object's ID.".into()),
        ty,
        default: None,
        directives: Vec::new(),
        range: Range::default(),
    };
    let mut seen: Vec<&str> = Vec::new();
    for ty in
        types().filter(|d| d.kind == Kind::Object && d.fields.iter().any(|f| *f.name == *"id"))
    {
        if seen.contains(&&*ty.name) {
            continue;
        }
        seen.push(&ty.name);
        let range = types()
            .find(|d| !d.extends && d.name == ty.name)
            .map_or(ty.range, |d| d.range);
        let scalar = format!("{}ID", ty.name);
        if !types().any(|d| *d.name == *scalar) {
            let mut decl = blank(Kind::Scalar, &scalar, range);
            decl.description =
                Some(format!("The ID of a {}: its recipe, opaque to clients.", ty.name).into());
            out.types.push(decl);
        }
        let loader = format!("load{}FromID", ty.name);
        if *ty.name != *"Query" && !declares("Query", &loader) {
            query.fields.push(FieldDecl {
                name: loader.into(),
                description: Some(format!("Loads a {} from its ID.", ty.name).into()),
                args: vec![arg(non_null(&scalar))],
                ty: non_null(&ty.name),
                directives: Vec::new(),
                range,
            });
        }
    }
    if !declares("Query", "node") {
        query.fields.push(FieldDecl {
            name: "node".into(),
            description: Some("Loads any object from its ID.".into()),
            args: vec![arg(non_null("ID"))],
            ty: named("Node"),
            directives: Vec::new(),
            range: Range {
                since: Some(UNIFIED_IDS),
                until: None,
            },
        });
    }
    if types().any(|d| *d.name == *"Query") {
        out.types.push(query);
    }
    out
}

impl Declaring<'_> {
    /// The intervals inside a range.
    fn mask(&self, range: Range) -> Mask {
        let all: Mask = if self.bounds.len() >= 63 {
            Mask::MAX
        } else {
            (1 << (self.bounds.len() + 1)) - 1
        };
        let from = |v: View| self.bounds.partition_point(|b| *b <= v) as u32;
        let since = range.since.map_or(all, |v| all & (Mask::MAX << from(v)));
        let until = range.until.map_or(all, |v| all & !(Mask::MAX << from(v)));
        since & until
    }

    fn ty(&self, path: &str, decl: &TyDecl, mask: Mask) -> Result<Ty, SchemaError> {
        Ok(match decl {
            TyDecl::List(inner) => Ty::List(Box::new(self.ty(path, inner, mask)?)),
            TyDecl::NonNull(inner) => Ty::NonNull(Box::new(self.ty(path, inner, mask)?)),
            TyDecl::Named(name) => {
                let id = *self
                    .names
                    .get(name)
                    .ok_or_else(|| member(path, format!("there is no type `{name}`")))?;
                if mask & !self.masks[id as usize] != 0 {
                    return Err(member(
                        path,
                        format!("it is seen by views that do not see its type `{name}`"),
                    ));
                }
                Ty::Named(id)
            }
        })
    }

    fn args(
        &self,
        path: &str,
        decls: &[ArgDecl],
        within: Mask,
    ) -> Result<Vec<ArgDef>, SchemaError> {
        let mut out: Vec<ArgDef> = Vec::new();
        for decl in decls {
            let path = format!("{path}({}:)", decl.name);
            let mask = within & self.mask(decl.range);
            if out
                .iter()
                .any(|a| a.name == decl.name && a.mask & mask != 0)
            {
                return Err(member(path, "two declarations are seen by the same view"));
            }
            let ty = self.ty(&path, &decl.ty, mask)?;
            let also = match decl
                .directives
                .iter()
                .find(|d| *d.name == *"also")
                .map(|d| d.args.first())
            {
                None => None,
                Some(Some((_, Const::Str(text)))) => {
                    let decl =
                        type_text(text).ok_or_else(|| member(&path, "@also needs a type"))?;
                    Some(self.ty(&path, &decl, mask)?)
                }
                Some(_) => return Err(member(path, "@also needs `type: \"…\"`")),
            };
            let input = self.kinds[ty.named() as usize];
            if !matches!(input, Kind::Scalar | Kind::Enum | Kind::Input) {
                return Err(member(path, "its type is no input type"));
            }
            out.push(ArgDef {
                name: decl.name.clone(),
                description: decl.description.clone(),
                ty,
                also,
                default: None,
                default_text: decl.default.as_ref().map(|c| c.text().into()),
                mask,
                deprecated: deprecated(&decl.directives),
                applied: applied(&decl.directives),
            });
        }
        Ok(out)
    }

    fn types(&self, query: TypeId, root_meta: TypeId) -> Result<Defs, SchemaError> {
        let mut defs = Defs {
            bounds: self.bounds.clone(),
            types: Vec::new(),
            by_name: self.names.clone(),
            sorted: Vec::new(),
            fields: Vec::new(),
            directives: Vec::new(),
            query,
            root_meta,
            unified: self.mask(Range {
                since: Some(UNIFIED_IDS),
                until: None,
            }),
        };
        for (id, m) in self.merged.iter().enumerate() {
            let mut def = TypeDef {
                name: m.decl.name.clone(),
                kind: m.decl.kind,
                scalar: self.scalar(&m.decl.name),
                description: m.decl.description.clone(),
                mask: self.masks[id],
                applied: applied(&m.decl.directives),
                interfaces: Vec::new(),
                possible: Vec::new(),
                fields: Vec::new(),
                by_name: HashMap::new(),
                inputs: Vec::new(),
                values: Vec::new(),
            };
            for (part, range) in &m.parts {
                let within = def.mask & self.mask(*range);
                for field in &part.fields {
                    self.field(&mut defs, &mut def, id as TypeId, field, within)?;
                }
                def.inputs
                    .extend(self.args(&def.name, &part.inputs, within)?);
                for v in &part.values {
                    let mask = within & self.mask(v.range);
                    if def
                        .values
                        .iter()
                        .any(|o| o.name == v.name && o.mask & mask != 0)
                    {
                        return Err(member(
                            format!("{}.{}", def.name, v.name),
                            "the value is declared twice",
                        ));
                    }
                    def.values.push(EnumValueDef {
                        name: v.name.clone(),
                        description: v.description.clone(),
                        mask,
                        deprecated: deprecated(&v.directives),
                        applied: applied(&v.directives),
                    });
                }
                for (names, union) in [(&part.interfaces, false), (&part.members, true)] {
                    for name in names {
                        let TyMask(other, mask) = self.other(&def.name, name, within)?;
                        if union {
                            def.possible.push((other, mask))
                        } else {
                            def.interfaces.push((other, mask))
                        }
                    }
                }
            }
            defs.types.push(def);
        }
        Ok(defs)
    }

    fn other(&self, of: &str, name: &Arc<str>, within: Mask) -> Result<TyMask, SchemaError> {
        let bad = || SchemaError::Type {
            name: of.into(),
            problem: format!("there is no type `{name}`"),
        };
        let id = *self.names.get(name).ok_or_else(bad)?;
        Ok(TyMask(id, within & self.masks[id as usize]))
    }

    fn scalar(&self, name: &str) -> ScalarKind {
        match name {
            "Int" => ScalarKind::Int,
            "Float" => ScalarKind::Float,
            "Boolean" => ScalarKind::Boolean,
            "ID" => ScalarKind::AnyId,
            _ => match name.strip_suffix("ID").and_then(|n| self.names.get(n)) {
                Some(id) if matches!(self.kinds[*id as usize], Kind::Object | Kind::Interface) => {
                    ScalarKind::IdOf(*id)
                }
                _ => ScalarKind::Text,
            },
        }
    }

    fn field(
        &self,
        defs: &mut Defs,
        def: &mut TypeDef,
        parent: TypeId,
        decl: &FieldDecl,
        within: Mask,
    ) -> Result<(), SchemaError> {
        let path = format!("{}.{}", def.name, decl.name);
        let mask = within & self.mask(decl.range);
        let same = def.by_name.entry(decl.name.clone()).or_default();
        if same
            .iter()
            .any(|f| defs.fields[*f as usize].mask & mask != 0)
        {
            return Err(member(path, "two declarations are seen by the same view"));
        }
        let ty = self.ty(&path, &decl.ty, mask)?;
        if self.kinds[ty.named() as usize] == Kind::Input {
            return Err(member(path, "its type is an input type"));
        }
        let args = self.args(&path, &decl.args, mask)?;
        let id_scalar = |t: &Ty| self.id_of(t.named());
        let loads = |n: &str| n == "node" || (n.starts_with("load") && n.ends_with("FromID"));
        let provider = if def.name.starts_with('_') {
            Provider::Meta
        } else if def.kind == Kind::Object && &*decl.name == "id" && id_scalar(&ty) {
            Provider::Id
        } else if &*def.name == "Query"
            && loads(&decl.name)
            && args.len() == 1
            && id_scalar(&args[0].ty)
        {
            Provider::Load
        } else {
            Provider::Engine
        };
        let id = defs.fields.len() as u32;
        same.push(id);
        def.fields.push(id);
        defs.fields.push(FieldDef {
            parent,
            name: decl.name.clone(),
            description: decl.description.clone(),
            args,
            ty,
            mask,
            deprecated: deprecated(&decl.directives),
            applied: applied(&decl.directives),
            provider,
            recorded: Vec::new(),
        });
        Ok(())
    }

    fn id_of(&self, id: TypeId) -> bool {
        let name = &self.merged[id as usize].decl.name;
        self.kinds[id as usize] == Kind::Scalar
            && matches!(self.scalar(name), ScalarKind::IdOf(_) | ScalarKind::AnyId)
    }
}

struct TyMask(TypeId, Mask);

/// Reads `[Int!]`.
fn type_text(text: &str) -> Option<TyDecl> {
    let sdl = sdl::parse(&format!("type T {{ f: {text} }}")).ok()?;
    Some(sdl.types.first()?.fields.first()?.ty.clone())
}

fn deprecated(directives: &[DirDecl]) -> Option<Arc<str>> {
    let d = directives.iter().find(|d| *d.name == *"deprecated")?;
    Some(match d.args.first() {
        Some((_, Const::Str(s))) => s.as_str().into(),
        _ => "No longer supported".into(),
    })
}

/// The directives introspection shows.
fn applied(directives: &[DirDecl]) -> Vec<Applied> {
    let shown = directives.iter().filter(|d| *d.name != *"also");
    shown
        .map(|d| Applied {
            name: d.name.clone(),
            args: d
                .args
                .iter()
                .map(|(n, v)| (n.clone(), v.text().into()))
                .collect(),
        })
        .collect()
}

/// What needs all declarations: sorting, implementers, defaults, recorded views, and checks across types.
fn finish(defs: &mut Defs) -> Result<(), SchemaError> {
    let mut sorted: Vec<TypeId> = (0..defs.types.len() as TypeId)
        .filter(|t| *t != defs.root_meta)
        .collect();
    sorted.sort_by(|a, b| defs.ty(*a).name.cmp(&defs.ty(*b).name));
    defs.sorted = sorted;
    // Every object with an ID is a Node where there are Nodes.
    if let Some(node) = defs.type_named("Node") {
        for i in 0..defs.types.len() {
            let has_id = defs.types[i]
                .by_name
                .get("id")
                .is_some_and(|f| defs.field(f[0]).provider == Provider::Id);
            if has_id && !defs.types[i].interfaces.iter().any(|(t, _)| *t == node) {
                let mask = defs.types[i].mask & defs.ty(node).mask;
                defs.types[i].interfaces.push((node, mask));
            }
        }
    }
    let implements: Vec<(TypeId, TypeId, Mask)> = (0..defs.types.len() as TypeId)
        .filter(|t| defs.ty(*t).kind == Kind::Object)
        .flat_map(|t| defs.ty(t).interfaces.iter().map(move |(i, m)| (*i, t, *m)))
        .collect();
    for (interface, object, mask) in implements {
        for f in defs.ty(interface).fields.clone() {
            let wanted = defs.field(f);
            let seen = defs
                .ty(object)
                .by_name
                .get(&wanted.name)
                .map_or(0, |all| all.iter().fold(0, |m, f| m | defs.field(*f).mask));
            if wanted.mask & mask & !seen != 0 {
                return Err(member(
                    format!("{}.{}", defs.ty(object).name, wanted.name),
                    format!(
                        "the field is missing, though `{}` is implemented",
                        defs.ty(interface).name
                    ),
                ));
            }
        }
        defs.types[interface as usize].possible.push((object, mask));
    }
    for i in 0..defs.types.len() {
        let mut fields = std::mem::take(&mut defs.types[i].fields);
        fields.sort_by(|a, b| defs.field(*a).name.cmp(&defs.field(*b).name));
        defs.types[i].fields = fields;
        let mut possible = std::mem::take(&mut defs.types[i].possible);
        possible.sort_by(|(a, _), (b, _)| defs.ty(*a).name.cmp(&defs.ty(*b).name));
        defs.types[i].possible = possible;
    }
    defaults(defs)?;
    for f in 0..defs.fields.len() {
        defs.fields[f].recorded = recorded(defs, f as u32);
    }
    Ok(())
}

/// Coerces all declared defaults. Input fields first: arguments' defaults may be input objects.
fn defaults(defs: &mut Defs) -> Result<(), SchemaError> {
    let coerce = |defs: &Defs, path: String, arg: &ArgDef| -> Result<Option<Value>, SchemaError> {
        let Some(text) = &arg.default_text else {
            return Ok(None);
        };
        let sdl = sdl::parse(&format!("input I {{ a: X = {text} }}"))
            .map_err(|e| member(&path, e.to_string()))?;
        let constant = sdl
            .types
            .first()
            .and_then(|t| t.inputs.first())
            .and_then(|a| a.default.as_ref());
        let raw = Raw::constant(constant.unwrap_or(&Const::Null));
        let value = Coercion {
            defs,
            interval: None,
        }
        .argument(arg, &raw);
        value
            .map(Some)
            .map_err(|e| member(path, format!("the default: {e}")))
    };
    for t in 0..defs.types.len() {
        for a in 0..defs.types[t].inputs.len() {
            let arg = &defs.types[t].inputs[a];
            let value = coerce(defs, format!("{}.{}", defs.types[t].name, arg.name), arg)?;
            defs.types[t].inputs[a].default = value;
        }
    }
    for f in 0..defs.fields.len() {
        for a in 0..defs.fields[f].args.len() {
            let arg = &defs.fields[f].args[a];
            let value = coerce(defs, format!("{}({}:)", defs.path(f as u32), arg.name), arg)?;
            defs.fields[f].args[a].default = value;
        }
    }
    for d in 0..defs.directives.len() {
        for a in 0..defs.directives[d].args.len() {
            let arg = &defs.directives[d].args[a];
            let value = coerce(
                defs,
                format!("@{}({}:)", defs.directives[d].name, arg.name),
                arg,
            )?;
            defs.directives[d].args[a].default = value;
        }
    }
    Ok(())
}

/// What recipes record as the view of a field, by interval: nothing when every view that has the field means the same by it
/// as the default view; else the first version of the run of intervals with that meaning.
fn recorded(defs: &Defs, field: u32) -> Vec<Arc<str>> {
    let def = defs.field(field);
    let all = defs
        .ty(def.parent)
        .by_name
        .get(&def.name)
        .map_or(&[][..], Vec::as_slice);
    let count = defs.bounds.len() + 1;
    let empty: Arc<str> = "".into();
    let repeated = |args: &[ArgDef]| {
        args.iter()
            .enumerate()
            .any(|(i, a)| args[..i].iter().any(|b| b.name == a.name))
    };
    if all.len() == 1 && !repeated(&def.args) {
        return vec![empty; count];
    }
    // The meaning: which declaration, and which of several declarations of the same argument.
    let meaning = |interval: usize| -> Option<(u32, Vec<usize>)> {
        let sees = |m: Mask| m & (1 << interval) != 0;
        let f = *all.iter().find(|f| sees(defs.field(**f).mask))?;
        let args = &defs.field(f).args;
        let twice = |a: &ArgDef| args.iter().filter(|b| b.name == a.name).count() > 1;
        let variants = args
            .iter()
            .enumerate()
            .filter(|(_, a)| twice(a) && sees(a.mask))
            .map(|(i, _)| i);
        Some((f, variants.collect()))
    };
    let usual = defs.interval(View::DEFAULT) as usize;
    // A recipe without a view means what the default view, or else the newest, means.
    let usual = meaning(usual).or_else(|| (0..count).rev().find_map(meaning));
    let mut out: Vec<Arc<str>> = Vec::with_capacity(count);
    for i in 0..count {
        let m = meaning(i);
        out.push(if m.is_none() || m == usual {
            empty.clone()
        } else if i > 0 && m == meaning(i - 1) {
            out[i - 1].clone()
        } else {
            let first = if i == 0 {
                View::new(0, 0, 0)
            } else {
                defs.bounds[i - 1]
            };
            first.to_string().into()
        });
    }
    out
}
