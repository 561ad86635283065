//! Answers as JSON, written without recursion.

use crate::{
    error::{Class, Error},
    value::Value,
};

use super::{lex::SyntaxError, parse::NONE};

/// An answer: the HTTP status that goes with it, and the JSON body.
#[derive(Debug, Clone)]
pub struct Response {
    /// 200, or 422 when the document cannot be parsed or its operation cannot be chosen.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// One step of an error's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(u32),
}

/// What is answered instead of data.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) error: Error,
    pub(crate) path: Vec<Step>,
    pub(crate) location: Option<(usize, usize)>,
}

impl Failure {
    /// The document is no GraphQL.
    pub(crate) fn syntax(e: &SyntaxError) -> Self {
        Self {
            location: Some((e.line, e.column)),
            ..Self::coded(
                "GRAPHQL_PARSE_FAILED",
                format!("cannot parse the query: {}", e.message),
            )
        }
    }

    /// The document is GraphQL, but cannot be run: no operation, bad variables, bad fragments.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::coded("GRAPHQL_VALIDATION_FAILED", message)
    }

    fn coded(code: &str, message: impl Into<String>) -> Self {
        let mut extensions = serde_json::Map::new();
        extensions.insert("code".into(), code.into());
        Self {
            status: 422,
            error: Error::user(message).with_extensions(extensions),
            path: Vec::new(),
            location: None,
        }
    }

    /// A field fails.
    pub(crate) fn field(error: Error, path: Vec<Step>) -> Self {
        Self {
            status: 200,
            error,
            path,
            location: None,
        }
    }

    pub(crate) fn at(mut self, location: (usize, usize)) -> Self {
        self.location = Some(location);
        self
    }

    pub(crate) fn with_path(mut self, path: Vec<Step>) -> Self {
        self.path = path;
        self
    }

    /// The answer.
    pub(crate) fn response(&self) -> Response {
        let mut out = br#"{"data":null,"errors":[{"message":"#.to_vec();
        put_str(&mut out, self.error.message());
        if let Some((line, column)) = self.location {
            out.extend_from_slice(
                format!(r#","locations":[{{"line":{line},"column":{column}}}]"#).as_bytes(),
            );
        }
        if !self.path.is_empty() {
            out.extend_from_slice(br#","path":["#);
            for (i, step) in self.path.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                match step {
                    Step::Key(k) => put_str(&mut out, k),
                    Step::Index(n) => out.extend_from_slice(n.to_string().as_bytes()),
                }
            }
            out.push(b']');
        }
        if let Some(extensions) = self.error.extensions() {
            out.extend_from_slice(br#","extensions":"#);
            // Maps of strings and numbers always serialise.
            let _ = serde_json::to_writer(&mut out, extensions);
        }
        out.extend_from_slice(b"}]}");
        Response {
            status: self.status,
            body: out,
        }
    }
}

/// One node of an answer under construction.
#[derive(Debug)]
pub(crate) enum Out {
    Pending,
    Leaf(Value),
    /// JSON text.
    Raw(std::sync::Arc<[u8]>),
    /// Children, one per field of the plan from `fields` on.
    Object {
        fields: u32,
        first: u32,
        len: u32,
    },
    List {
        first: u32,
        len: u32,
    },
}

/// A node and its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) out: Out,
    /// The object or list it is in, or [`NONE`].
    pub(crate) parent: u32,
    /// The field of the plan it answers.
    pub(crate) field: u32,
    /// Its place in a list, or [`NONE`].
    pub(crate) index: u32,
}

/// Writes `{"data":…}` for the tree whose root is node 0.
pub(crate) fn write<'k>(
    nodes: &[Node],
    key: impl Fn(u32) -> &'k str,
    max: usize,
) -> Result<Vec<u8>, Error> {
    let mut out = br#"{"data":"#.to_vec();
    // Open objects and lists: the next child, the end, the plan's field of the next child (objects).
    let mut open: Vec<(u32, u32, u32)> = Vec::new();
    let mut at = 0u32;
    loop {
        if out.len() > max {
            return Err(Error::user(format!("the answer has more than {max} bytes")));
        }
        match nodes.get(at as usize).map(|n| &n.out) {
            Some(Out::Object { fields, first, len }) => {
                out.push(b'{');
                open.push((*first, first + len, *fields));
            }
            Some(Out::List { first, len }) => {
                out.push(b'[');
                open.push((*first, first + len, NONE));
            }
            Some(Out::Leaf(value)) => put_value(&mut out, value),
            Some(Out::Raw(json)) => out.extend_from_slice(json),
            Some(Out::Pending) | None => {
                return Err(Error::new(
                    Class::Internal,
                    "an answer was written before it was whole",
                ));
            }
        }
        // The next child of the innermost open node, closing those that are done.
        loop {
            let Some((next, end, field)) = open.last_mut() else {
                out.push(b'}');
                return Ok(out);
            };
            if next == end {
                out.push(if *field == NONE { b']' } else { b'}' });
                open.pop();
                continue;
            }
            if !matches!(out.last(), Some(b'{' | b'[')) {
                out.push(b',');
            }
            at = *next;
            *next += 1;
            if *field != NONE {
                put_str(&mut out, key(*field));
                out.push(b':');
                *field += 1;
            }
            break;
        }
    }
}

/// A string as JSON.
pub(crate) fn put_str(out: &mut Vec<u8>, s: &str) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out, s);
}

/// A scalar, enum, ID, or list of them as JSON. The nesting of lists is bounded by their types.
pub(crate) fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Int(i) => out.extend_from_slice(i.to_string().as_bytes()),
        Value::Float(f) => match serde_json::Number::from_f64(*f) {
            Some(n) => out.extend_from_slice(n.to_string().as_bytes()),
            None => out.extend_from_slice(b"null"),
        },
        Value::String(s) | Value::Enum(s) => put_str(out, s),
        Value::List(items) => {
            out.push(b'[');
            for (i, v) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                put_value(out, v);
            }
            out.push(b']');
        }
        Value::Input(fields) => {
            out.push(b'{');
            for (i, (n, v)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                put_str(out, n);
                out.push(b':');
                put_value(out, v);
            }
            out.push(b'}');
        }
        Value::Id(call) => put_str(out, &call.encode()),
        Value::Object(o) => put_str(out, &o.call.encode()),
    }
}
