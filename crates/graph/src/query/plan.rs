//! From selections to a plan: fragments are opened, equal response keys merged, arguments coerced. Flat and iterative.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    call::Literal,
    error::Error,
    resolve::Args,
    schema::{FieldId, Kind, SchemaView, TypeId},
    value::Value,
};

use super::{
    coerce::{Coercion, Raw, Variables, same},
    lex::position,
    parse::{Document, NONE, Sel, SelEntry},
    response::{Failure, Step},
    validate::{Fragments, find_field},
};

/// Most fields one query may ask for, counted after merging.
pub(crate) const MAX_FIELDS: usize = 250_000;

/// Most selections looked at while planning: the same fragment may be opened in many places.
const MAX_VISITS: usize = 5_000_000;

/// What answers a planned field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Typename,
    Field(FieldId),
}

/// What of a field's coerced arguments stands in a recipe.
pub(crate) type Recipe<'a> = dyn Fn(FieldId, &Args) -> Vec<(Arc<str>, Literal)> + Send + Sync + 'a;

/// The selections of an object's fields in the plan: first and how many.
pub(crate) type Set = (u32, u32);

/// A field of the plan.
#[derive(Debug)]
pub(crate) struct PlanField<'a> {
    pub(crate) key: &'a str,
    pub(crate) what: What,
    /// Coerced, declared defaults filled in.
    pub(crate) args: Args,
    /// What of the arguments stands in the recipe.
    pub(crate) literals: Vec<(Arc<str>, Literal)>,
    /// Selection sets merged under this key.
    bodies: Vec<u32>,
    /// By type of object; one entry for fields of object type.
    children: Vec<(TypeId, Set)>,
    /// The field above, or [`NONE`].
    parent: u32,
    pos: u32,
}

/// A planned operation.
pub(crate) struct Plan<'a> {
    pub(crate) view: &'a SchemaView,
    doc: &'a Document<'a>,
    fragments: &'a Fragments<'a>,
    vars: &'a Variables<'a>,
    recipe: &'a Recipe<'a>,
    pub(crate) fields: Vec<PlanField<'a>>,
    pub(crate) root: Set,
    /// Selections looked at so far.
    visits: usize,
}

fn too_large() -> Failure {
    Failure::field(
        Error::user(format!("the query asks for more than {MAX_FIELDS} fields")),
        Vec::new(),
    )
}

impl<'a> Plan<'a> {
    /// Plans everything whose type is known before running.
    pub(crate) fn new(
        view: &'a SchemaView,
        doc: &'a Document<'a>,
        first: u32,
        fragments: &'a Fragments<'a>,
        vars: &'a Variables<'a>,
        recipe: &'a Recipe<'a>,
    ) -> Result<Self, Failure> {
        let mut plan = Self {
            view,
            doc,
            fragments,
            vars,
            recipe,
            fields: Vec::new(),
            root: (0, 0),
            visits: 0,
        };
        plan.root = plan.collect(&[first], view.defs.query, NONE)?;
        plan.descend(0)?;
        Ok(plan)
    }

    /// Plans the selections of all fields from `from` on that are of object type.
    fn descend(&mut self, from: usize) -> Result<(), Failure> {
        let mut at = from;
        while at < self.fields.len() {
            if let What::Field(f) = self.fields[at].what {
                let ty = self.view.defs.field(f).ty.named();
                if self.view.defs.ty(ty).kind == Kind::Object {
                    let bodies = std::mem::take(&mut self.fields[at].bodies);
                    let set = self.collect(&bodies, ty, at as u32)?;
                    self.fields[at].children.push((ty, set));
                }
            }
            at += 1;
        }
        Ok(())
    }

    /// What is selected of an object of type `ty` that field `field` gave.
    pub(crate) fn children(&mut self, field: u32, ty: TypeId) -> Result<Set, Failure> {
        let f = &self.fields[field as usize];
        if let Some((_, set)) = f.children.iter().find(|(t, _)| *t == ty) {
            return Ok(*set);
        }
        let bodies = f.bodies.clone();
        let from = self.fields.len();
        let set = self.collect(&bodies, ty, field)?;
        self.descend(from)?;
        self.fields[field as usize].children.push((ty, set));
        Ok(set)
    }

    /// The response keys down to a field.
    pub(crate) fn path(&self, mut field: u32) -> Vec<Step> {
        let mut out = Vec::new();
        while let Some(f) = self.fields.get(field as usize) {
            out.push(Step::Key(f.key.into()));
            field = f.parent;
        }
        out.reverse();
        out
    }

    /// The fields that `bodies` select of an object of type `ty`.
    fn collect(&mut self, bodies: &[u32], ty: TypeId, parent: u32) -> Result<Set, Failure> {
        let start = self.fields.len();
        let mut keys: HashMap<&'a str, usize> = HashMap::new();
        let mut opened: HashSet<usize> = HashSet::new();
        let doc = self.doc;
        let mut open: Vec<u32> = bodies.iter().rev().copied().collect();
        while let Some(at) = open.pop() {
            let Some(sel) = doc.sels.get(at as usize) else {
                continue;
            };
            if sel.next != NONE {
                open.push(sel.next);
            }
            self.visits += 1;
            if self.visits > MAX_VISITS {
                return Err(too_large());
            }
            if !self.included(sel)? {
                continue;
            }
            let applies = |on: &str| {
                let on = self.view.ty(on);
                on.is_some_and(|on| self.view.defs.is_a(ty, on))
            };
            match &sel.sel {
                Sel::Inline(on) => {
                    if on.is_none_or(applies) {
                        open.push(sel.first);
                    }
                }
                Sel::Spread(name) => {
                    let Some(&f) = self.fragments.get(name) else {
                        continue;
                    };
                    if applies(doc.fragments[f].on) && opened.insert(f) {
                        open.push(doc.fragments[f].first);
                    }
                }
                Sel::Field { key, name, args } => {
                    // A short set is searched in place; a long one by hash.
                    let known = if self.fields.len() - start < 8 {
                        self.fields[start..]
                            .iter()
                            .position(|f| f.key == *key)
                            .map(|i| start + i)
                    } else {
                        if keys.is_empty() {
                            keys.extend(
                                self.fields[start..]
                                    .iter()
                                    .enumerate()
                                    .map(|(i, f)| (f.key, start + i)),
                            );
                        }
                        keys.get(key).copied()
                    };
                    let what = if *name == "__typename" {
                        What::Typename
                    } else {
                        match find_field(self.view, ty, name) {
                            Some(f) => What::Field(f),
                            None => continue,
                        }
                    };
                    if let Some(i) = known {
                        self.merge(i, what, *args, sel)?;
                        continue;
                    }
                    if self.fields.len() >= MAX_FIELDS {
                        return Err(too_large());
                    }
                    let index = self.fields.len();
                    if !keys.is_empty() {
                        keys.insert(key, index);
                    }
                    self.fields.push(PlanField {
                        key,
                        what,
                        args: Args::default(),
                        literals: Vec::new(),
                        bodies: if sel.first == NONE {
                            Vec::new()
                        } else {
                            vec![sel.first]
                        },
                        children: Vec::new(),
                        parent,
                        pos: sel.pos,
                    });
                    if let What::Field(f) = what {
                        let args = self.arguments(f, *args, index)?;
                        self.fields[index].literals = (self.recipe)(f, &args);
                        self.fields[index].args = args;
                    }
                }
            }
        }
        Ok((start as u32, (self.fields.len() - start) as u32))
    }

    /// Adds a selection to the field that has its response key already.
    fn merge(
        &mut self,
        index: usize,
        what: What,
        args: u32,
        sel: &SelEntry<'a>,
    ) -> Result<(), Failure> {
        let clash = |plan: &Self, why: &str| {
            let key = plan.fields[index].key;
            let at = position(plan.doc.text, sel.pos as usize);
            let message =
                format!("{key:?} is asked twice with different {why}: give one of them an alias");
            Err(Failure::field(Error::user(message), plan.path(index as u32)).at(at))
        };
        if self.fields[index].what != what {
            return clash(self, "fields");
        }
        if let What::Field(f) = what {
            let args = self.arguments(f, args, index)?;
            let old = &self.fields[index].args.0;
            if args.0.len() != old.len()
                || !args.0.iter().zip(old).all(|((_, a), (_, b))| same(a, b))
            {
                return clash(self, "arguments");
            }
        }
        if sel.first != NONE {
            self.fields[index].bodies.push(sel.first);
        }
        Ok(())
    }

    fn included(&self, sel: &SelEntry<'a>) -> Result<bool, Failure> {
        for d in self.doc.dirs(sel.directives) {
            let value = match Raw::literal(self.doc, d.args, self.vars) {
                Raw::Bool(b) => b,
                _ => {
                    return Err(
                        Failure::invalid(format!("@{} needs `if: Boolean!`", d.name))
                            .at(position(self.doc.text, d.pos as usize)),
                    );
                }
            };
            if value == (d.name == "skip") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The coerced arguments of planned field `index`.
    fn arguments(&self, field: FieldId, first: u32, index: usize) -> Result<Args, Failure> {
        let (doc, view) = (self.doc, self.view);
        let def = view.defs.field(field);
        if first == NONE && def.args.is_empty() {
            return Ok(Args::default());
        }
        let fail = |message: String| {
            let at = position(doc.text, self.fields[index].pos as usize);
            Err(Failure::field(Error::user(message), self.path(index as u32)).at(at))
        };
        let path = || view.defs.path(field);
        let given: Vec<(u32, &str)> = super::coerce::indices(doc, first)
            .map(|i| (i, doc.vals[i as usize].name))
            .collect();
        for (i, (_, name)) in given.iter().enumerate() {
            if !view.args(def).any(|a| *a.name == **name) {
                let names: Vec<&str> = view.args(def).map(|a| &*a.name).collect();
                return fail(match names.as_slice() {
                    [] => format!("{} takes no arguments, but {name:?} is given", path()),
                    names => format!(
                        "{} has no argument {name:?} (it has {})",
                        path(),
                        names.join(", ")
                    ),
                });
            }
            if given[..i].iter().any(|(_, n)| n == name) {
                return fail(format!(
                    "the argument {name:?} of {} is given twice",
                    path()
                ));
            }
        }
        let coercion = Coercion {
            defs: &view.defs,
            interval: Some(view.interval),
        };
        let mut out = Vec::with_capacity(def.args.len());
        for arg in view.args(def) {
            let raw = given
                .iter()
                .find(|(_, n)| *arg.name == **n)
                .map(|(i, _)| Raw::literal(doc, *i, self.vars));
            let value = match raw {
                None | Some(Raw::Null) => match (&arg.default, arg.ty.nullable().1) {
                    (Some(default), _) => default.clone(),
                    (None, true) => {
                        return fail(format!("missing required argument: {:?}", arg.name));
                    }
                    (None, false) => Value::Null,
                },
                Some(raw) => match coercion.argument(arg, &raw) {
                    Ok(v) => v,
                    Err(e) => return fail(format!("argument {:?} of {}: {e}", arg.name, path())),
                },
            };
            out.push((arg.name.clone(), value));
        }
        Ok(Args(out))
    }
}
