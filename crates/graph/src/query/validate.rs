//! Checks a document against a view before anything runs: operations, variables, fragments, fields, directives.
//! Arguments are checked where they are coerced, in [`super::plan`].

use std::collections::{HashMap, HashSet, VecDeque};

use crate::{
    error::Error,
    schema::{Kind, SchemaView, TypeId},
};

use super::{
    coerce::{Coercion, Raw, Variables, indices},
    lex::position,
    parse::{Document, NONE, OpKind, Operation, Sel, Val},
    response::{Failure, Step},
};

/// The operation to run.
pub(crate) fn choose<'d, 'a>(
    doc: &'d Document<'a>,
    name: Option<&str>,
) -> Result<&'d Operation<'a>, Failure> {
    let name = name.filter(|n| !n.is_empty());
    let op = match (name, doc.operations.as_slice()) {
        (_, []) => return Err(Failure::invalid("the document has no operation")),
        (None, [one]) => one,
        (None, _) => {
            return Err(Failure::invalid(
                "the document has several operations: name the one to run in operationName",
            ));
        }
        (Some(n), all) => {
            let mut named = all.iter().filter(|o| o.name == Some(n));
            match (named.next(), named.next()) {
                (Some(op), None) => op,
                (Some(_), Some(_)) => {
                    return Err(Failure::invalid(format!(
                        "the document has several operations named {n:?}"
                    )));
                }
                (None, _) => {
                    return Err(Failure::invalid(format!(
                        "the document has no operation named {n:?}"
                    )));
                }
            }
        }
    };
    match op.kind {
        OpKind::Query => Ok(op),
        OpKind::Mutation => Err(refused(
            doc,
            op.pos,
            "there are no mutations: every field is part of Query",
        )),
        OpKind::Subscription => Err(refused(
            doc,
            op.pos,
            "there are no subscriptions: every field is part of Query",
        )),
    }
}

fn refused(doc: &Document<'_>, pos: u32, message: impl Into<String>) -> Failure {
    Failure::field(Error::user(message), Vec::new()).at(position(doc.text, pos as usize))
}

fn invalid(doc: &Document<'_>, pos: u32, message: impl Into<String>) -> Failure {
    Failure::invalid(message).at(position(doc.text, pos as usize))
}

/// The values of the operation's variables.
pub(crate) fn variables<'a>(
    view: &SchemaView,
    doc: &'a Document<'a>,
    op: &'a Operation<'a>,
    given: &'a serde_json::Value,
) -> Result<Variables<'a>, Failure> {
    match given {
        serde_json::Value::Object(map) => known(view, doc, op, |name| map.get(name)),
        serde_json::Value::Null => known(view, doc, op, |_| None),
        _ => Err(Failure::invalid("the variables are no JSON object")),
    }
}

fn known<'a>(
    view: &SchemaView,
    doc: &'a Document<'a>,
    op: &'a Operation<'a>,
    given: impl Fn(&str) -> Option<&'a serde_json::Value>,
) -> Result<Variables<'a>, Failure> {
    let coercion = Coercion {
        defs: &view.defs,
        interval: Some(view.interval),
    };
    let mut out = Variables::default();
    for var in &op.vars {
        let path = || vec![Step::Key("variable".into()), Step::Key(var.name.into())];
        let bad = |message: String| invalid(doc, var.pos, message).with_path(path());
        if out.declared(var.name) {
            return Err(bad(format!("the variable ${} is declared twice", var.name)));
        }
        let ty = coercion.var_type(&var.ty).ok_or_else(|| {
            bad(format!(
                "the variable ${}: there is no input type {}",
                var.name, var.ty.name
            ))
        })?;
        let raw = match given(var.name) {
            Some(json) => Some(Raw::json(json, 0)),
            None if var.default != NONE => {
                Some(Raw::literal(doc, var.default, &Variables::default()))
            }
            None if ty.nullable().1 => {
                return Err(bad(format!("the variable ${} needs a value", var.name)));
            }
            None => None,
        };
        if let Some(raw) = &raw {
            coercion
                .value(&ty, raw)
                .map_err(|e| bad(format!("the variable ${}: {e}", var.name)))?;
        }
        out.0.insert(var.name, raw);
    }
    Ok(out)
}

/// Fragments by name: their index in the document.
pub(crate) type Fragments<'a> = HashMap<&'a str, usize>;

/// The fragments, each name once and none reaching itself.
pub(crate) fn fragments<'a>(doc: &Document<'a>) -> Result<Fragments<'a>, Failure> {
    let mut out = Fragments::new();
    for (i, f) in doc.fragments.iter().enumerate() {
        if out.insert(f.name, i).is_some() {
            return Err(invalid(
                doc,
                f.pos,
                format!("the fragment {} is declared twice", f.name),
            ));
        }
    }
    // Which fragments each one spreads, anywhere inside.
    let mut spreads: Vec<Vec<usize>> = Vec::with_capacity(doc.fragments.len());
    for f in &doc.fragments {
        let mut found = Vec::new();
        let mut open = vec![f.first];
        while let Some(at) = open.pop() {
            let Some(sel) = doc.sels.get(at as usize) else {
                continue;
            };
            open.extend([sel.next, sel.first].into_iter().filter(|i| *i != NONE));
            if let Sel::Spread(name) = sel.sel {
                found.extend(out.get(name));
            }
        }
        found.sort_unstable();
        found.dedup();
        spreads.push(found);
    }
    // Depth-first with an explicit stack: 0 new, 1 on the way, 2 done.
    let mut state = vec![0u8; spreads.len()];
    for start in 0..spreads.len() {
        if state[start] != 0 {
            continue;
        }
        let mut stack = vec![(start, 0)];
        state[start] = 1;
        while let Some((f, next)) = stack.last_mut() {
            match spreads[*f].get(*next) {
                None => {
                    state[*f] = 2;
                    stack.pop();
                }
                Some(&g) => {
                    *next += 1;
                    match state[g] {
                        0 => {
                            state[g] = 1;
                            stack.push((g, 0));
                        }
                        1 => {
                            let f = &doc.fragments[g];
                            return Err(invalid(
                                doc,
                                f.pos,
                                format!("the fragment {} contains itself", f.name),
                            ));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(out)
}

/// The root's meta fields or the type's own: the declaration of a field.
pub(crate) fn find_field(view: &SchemaView, parent: TypeId, name: &str) -> Option<u32> {
    if parent == view.defs.query && name.starts_with("__") {
        return view.field(view.defs.root_meta, name);
    }
    view.field(parent, name)
}

/// Checks all selections the operation reaches.
pub(crate) fn check<'a>(
    view: &SchemaView,
    doc: &Document<'a>,
    op: &Operation<'a>,
    fragments: &Fragments<'a>,
    vars: &Variables<'a>,
) -> Result<(), Failure> {
    // (first selection, type it is made on, entry of the path above it)
    let mut queue: VecDeque<(u32, TypeId, u32)> =
        VecDeque::from([(op.first, view.defs.query, NONE)]);
    let mut path: Vec<(u32, &'a str)> = Vec::new();
    let mut seen: HashSet<usize> = HashSet::new();
    let steps = |path: &[(u32, &'a str)], mut at: u32, last: Option<&str>| {
        let mut out: Vec<Step> = last.into_iter().map(|k| Step::Key(k.into())).collect();
        while let Some((up, key)) = path.get(at as usize) {
            out.push(Step::Key((*key).into()));
            at = *up;
        }
        out.reverse();
        out
    };
    let condition = |pos: u32, on: &str| -> Result<TypeId, Failure> {
        let ty = view.ty(on).ok_or_else(|| {
            invalid(
                doc,
                pos,
                format!("a fragment is on {on}, but there is no such type"),
            )
        })?;
        match view.defs.ty(ty).kind {
            Kind::Object | Kind::Interface | Kind::Union => Ok(ty),
            _ => Err(invalid(
                doc,
                pos,
                format!("a fragment is on {on}, which has no fields"),
            )),
        }
    };
    while let Some((first, parent, up)) = queue.pop_front() {
        for sel in doc.sels(first) {
            directives(doc, sel.directives, vars)?;
            match &sel.sel {
                Sel::Field { key, name, args } => {
                    for at in indices(doc, *args) {
                        used(doc, at, vars)?;
                    }
                    let fail = |message: String| {
                        refused(doc, sel.pos, message).with_path(steps(&path, up, Some(key)))
                    };
                    if *name == "__typename" {
                        if sel.first != NONE {
                            return Err(fail("`__typename` has no fields to select".into()));
                        }
                        continue;
                    }
                    let Some(field) = find_field(view, parent, name) else {
                        return Err(fail(no_field(view, parent, name)));
                    };
                    let ty = view.defs.field(field).ty.named();
                    let composite = matches!(
                        view.defs.ty(ty).kind,
                        Kind::Object | Kind::Interface | Kind::Union
                    );
                    match (composite, sel.first != NONE) {
                        (true, false) => {
                            let ty = &view.defs.ty(ty).name;
                            return Err(fail(format!(
                                "`{name}` is a {ty}: select fields of it, such as `{name} {{ id }}`"
                            )));
                        }
                        (false, true) => {
                            let ty = &view.defs.ty(ty).name;
                            return Err(fail(format!(
                                "`{name}` is a {ty}, which has no fields to select"
                            )));
                        }
                        (true, true) => {
                            queue.push_back((sel.first, ty, path.len() as u32));
                            path.push((up, key));
                        }
                        (false, false) => {}
                    }
                }
                Sel::Spread(name) => {
                    let Some(&f) = fragments.get(name) else {
                        return Err(invalid(
                            doc,
                            sel.pos,
                            format!("there is no fragment {name}"),
                        ));
                    };
                    if seen.insert(f) {
                        let fragment = &doc.fragments[f];
                        queue.push_back((
                            fragment.first,
                            condition(fragment.pos, fragment.on)?,
                            up,
                        ));
                    }
                }
                Sel::Inline(on) => {
                    let ty = on.map_or(Ok(parent), |on| condition(sel.pos, on))?;
                    queue.push_back((sel.first, ty, up));
                }
            }
        }
    }
    Ok(())
}

fn used(doc: &Document<'_>, at: u32, vars: &Variables<'_>) -> Result<(), Failure> {
    let Some(entry) = doc.vals.get(at as usize) else {
        return Ok(());
    };
    match &entry.val {
        Val::Var(name) if !vars.declared(name) => Err(invalid(
            doc,
            entry.pos,
            format!("the variable ${name} is not declared"),
        )),
        // The parser bounds the nesting.
        Val::List(first) | Val::Object(first) => {
            indices(doc, *first).try_for_each(|i| used(doc, i, vars))
        }
        _ => Ok(()),
    }
}

fn directives(doc: &Document<'_>, first: u32, vars: &Variables<'_>) -> Result<(), Failure> {
    for d in doc.dirs(first) {
        if d.name != "skip" && d.name != "include" {
            return Err(invalid(
                doc,
                d.pos,
                format!("there is no directive @{} for queries", d.name),
            ));
        }
        let mut args = indices(doc, d.args);
        match (args.next(), args.next()) {
            (Some(at), None) if doc.vals[at as usize].name == "if" => used(doc, at, vars)?,
            _ => {
                return Err(invalid(
                    doc,
                    d.pos,
                    format!("@{} takes exactly one argument, `if: Boolean!`", d.name),
                ));
            }
        }
    }
    Ok(())
}

/// "Container has no field "nope"", with the nearest name if one is near.
fn no_field(view: &SchemaView, parent: TypeId, name: &str) -> String {
    let defs = &view.defs;
    let ty = defs.ty(parent);
    let near = ty
        .fields
        .iter()
        .map(|f| defs.field(*f))
        .filter(|f| view.sees(f.mask))
        .map(|f| (distance(name, &f.name), &f.name))
        .min_by_key(|(d, _)| *d)
        .filter(|(d, n)| *d <= 1 + n.len() / 4);
    match near {
        Some((_, near)) => format!("{} has no field {name:?}; did you mean {near:?}?", ty.name),
        None => format!("{} has no field {name:?}", ty.name),
    }
}

/// Edit distance of two names, letter case ignored; long names are far from everything.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = (corner + usize::from(x != y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}
