//! From what is asked to queries: effects first, then the one whose answer is the result.

use serde_json::Value as Json;

use super::{
    model::{Function, Model, Object, ObjectKind, Returned},
    parse::{Asked, Call},
    value::{Value, quoted},
};

/// What is done with the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// It is printed.
    Print,
    /// It is where the engine wrote the object.
    Saved,
    /// Nothing: there is none.
    Nothing,
}

/// What is sent, and what is done then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Queries whose answers do not matter, in order.
    pub effects: Vec<String>,
    /// The query with the result.
    pub query: String,
    /// Where the result is in its answer.
    pub path: Vec<String>,
    /// What is done with it.
    pub finish: Finish,
}

/// The objects that arguments stand for, in order.
pub fn objects(asked: &Asked) -> Vec<(ObjectKind, &str)> {
    fn collect<'a>(value: &'a Value, into: &mut Vec<(ObjectKind, &'a str)>) {
        match value {
            Value::Literal(_) => {}
            Value::Object(kind, text) => into.push((*kind, text)),
            Value::List(values) => values.iter().for_each(|v| collect(v, into)),
        }
    }
    let mut found = Vec::new();
    let args = asked.calls.iter().flat_map(|c| &c.args);
    args.for_each(|(_, value)| collect(value, &mut found));
    found
}

/// One query for the IDs of many selections; answers are under `a0`, `a1`, ….
pub fn ids_query(selections: &[String]) -> String {
    let parts: Vec<_> = selections
        .iter()
        .enumerate()
        .map(|(i, s)| format!("a{i}:{s}"))
        .collect();
    format!("{{{}}}", parts.join(" "))
}

/// An error of [`ids_query`] that names the fields instead of their aliases.
pub fn without_aliases(message: &str, selections: &[String]) -> String {
    let lines = message.split('\n').map(|line| {
        let named = selections.iter().enumerate().find_map(|(i, selection)| {
            let rest = line.strip_prefix(&format!("input: a{i}"))?;
            let field = selection.split(['(', '{']).next()?;
            rest.starts_with(['.', ' '])
                .then(|| format!("input: {field}{rest}"))
        });
        named.unwrap_or_else(|| line.to_owned())
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The IDs of an answer to [`ids_query`]; as many as there are.
pub fn ids(data: &Json, count: usize) -> Vec<String> {
    (0..count)
        .map_while(|i| {
            let mut at = data.get(format!("a{i}"))?;
            while let Json::Object(inner) = at {
                at = inner.values().next()?;
            }
            at.as_str().map(str::to_owned)
        })
        .collect()
}

/// What is sent. `ids` are those of [`objects`], `output` is the absolute path the result goes to.
pub fn plan(model: &Model, asked: &Asked, ids: &[String], output: Option<&str>) -> Plan {
    let mut ids = ids.iter();
    let mut chain: Vec<String> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut effects = Vec::new();
    let mut last: Option<Returned<'_>> = None;
    let mut many = false;
    for call in &asked.calls {
        let on = model.object(&call.on);
        let Some((on, function)) = on.and_then(|o| {
            let function = o.functions.iter().find(|f| f.name == call.function)?;
            Some((o, function))
        }) else {
            continue;
        };
        let segment = segment(call, &mut ids);
        let returned = model.returned(on, function);
        many |= function.returns.lists > 0;
        if matches!(returned, Returned::Same(_)) {
            effects.push(nest(&chain, Some(&segment)));
        } else if call.function == "terminal" && matches!(returned, Returned::Object(_)) {
            // It gives back what it is opened in, and must not be opened twice.
            effects.push(nest(&chain, Some(&format!("{segment}{{id}}"))));
        } else {
            chain.push(segment);
            path.push(call.function.clone());
        }
        last = Some(returned);
    }
    let finish = match last {
        Some(Returned::Object(object) | Returned::Same(object)) => {
            let exported = ["Container", "Directory", "File"].contains(&object.name.as_str());
            match output {
                Some(output) if exported && !many => {
                    let parent = match object.name.as_str() {
                        "File" => ",allowParentDirPath:true",
                        _ => "",
                    };
                    chain.push(format!("export(path:{}{parent})", quoted(output)));
                    path.push("export".to_owned());
                    Finish::Saved
                }
                _ => {
                    if object.name == "Container" {
                        effects.push(nest(&chain, Some("sync")));
                    }
                    chain.push(facts(model, object));
                    Finish::Print
                }
            }
        }
        Some(Returned::Value) => Finish::Print,
        Some(Returned::Void) | None => Finish::Nothing,
    };
    Plan {
        effects,
        query: nest(&chain, None),
        path,
        finish,
    }
}

fn segment<'i>(call: &Call, ids: &mut impl Iterator<Item = &'i String>) -> String {
    let mut args = Vec::with_capacity(call.args.len());
    for (name, value) in &call.args {
        args.push(format!("{name}:{}", literal(value, ids)));
    }
    match args.as_slice() {
        [] => call.function.clone(),
        args => format!("{}({})", call.function, args.join(",")),
    }
}

fn literal<'i>(value: &Value, ids: &mut impl Iterator<Item = &'i String>) -> String {
    match value {
        Value::Literal(text) => text.clone(),
        // There are as many IDs as objects; the engine says what is wrong with an empty one.
        Value::Object(..) => quoted(ids.next().map_or("", String::as_str)),
        Value::List(values) => {
            let mut parts = Vec::with_capacity(values.len());
            for value in values {
                parts.push(literal(value, ids));
            }
            format!("[{}]", parts.join(","))
        }
    }
}

fn nest(chain: &[String], last: Option<&str>) -> String {
    let parts: Vec<_> = chain.iter().map(String::as_str).chain(last).collect();
    let mut text = String::from("{");
    text.push_str(&parts.join("{"));
    text.push_str(&"}".repeat(parts.len()));
    text
}

/// What is shown of an object: the values it gives without being told anything.
fn facts(model: &Model, object: &Object) -> String {
    let mut fields = vec!["_type:__typename".to_owned()];
    let shown = object.functions.iter().filter(|f| fact(model, object, f));
    fields.extend(shown.map(|f| f.name.clone()));
    fields.join(" ")
}

fn fact(model: &Model, object: &Object, function: &Function) -> bool {
    let costly = match object.name.as_str() {
        "Container" => ["imageRef", "stdout", "stderr", "combinedOutput", "exitCode"]
            .contains(&function.name.as_str()),
        "File" => ["contents", "asJSON"].contains(&function.name.as_str()),
        "Secret" => function.name == "plaintext",
        _ => false,
    };
    let id = function.returns.name.ends_with("ID");
    !costly
        && !id
        && !function.deprecated
        && !function.args.iter().any(super::model::Argument::required)
        && model.returned(object, function) == Returned::Value
}

/// The result of an answer: what is at the end of the path, for each where there are many.
pub fn result(data: Json, path: &[String]) -> Json {
    let mut at = vec![data];
    let mut many = false;
    for name in path {
        let mut next = Vec::with_capacity(at.len());
        for value in at {
            let inner = match value {
                Json::Object(mut object) => object.remove(name).unwrap_or(Json::Null),
                _ => Json::Null,
            };
            match inner {
                Json::Array(values) => {
                    many = true;
                    next.extend(values);
                }
                one => next.push(one),
            }
        }
        at = next;
    }
    if many {
        Json::Array(at)
    } else {
        at.pop().unwrap_or(Json::Null)
    }
}
