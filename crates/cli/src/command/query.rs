//! `query`: sends a document, prints the answer's data.

use std::{
    io::{IsTerminal, Read},
    path::Path,
};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Opened, Setup, block_on, done, ending, lost};
use crate::{
    Outcome,
    answer::{self, Api, ExitOf},
    args,
    error::Failure,
    output,
    progress::Detail,
};

/// What is sent.
#[derive(Serialize)]
struct Request<'a> {
    query: &'a str,
    variables: Map<String, Value>,
    #[serde(rename = "operationName")]
    operation: &'a str,
}

/// Runs the command.
///
/// # Errors
/// A document that is not there, no engine, the errors of the answer.
pub fn run(setup: Setup, query: args::Query) -> Result<Outcome, Failure> {
    if query.r#mod.is_some() {
        return Err(Failure::new(
            "cannot load a module yet: --mod is not available in this version",
        ));
    }
    let document = document(query.doc.as_deref())?;
    let variables = variables(&query.var, query.var_json.as_deref())?;
    let request = Request {
        query: &document,
        variables,
        operation: query.operation.as_deref().unwrap_or_default(),
    };
    let body = serde_json::to_vec(&request).map_err(|e| Failure::new(e.to_string()))?;
    let stderr = setup.stderr.clone();
    let silent = setup.detail < Detail::Steps;
    let text = block_on(&stderr, async move {
        let signal = ending()?;
        let work = async {
            let (opened, upstream, token) = Opened::open(&setup).await?;
            let api = Api {
                upstream: &upstream,
                token: &token,
                with_output: silent,
            };
            let answer = tokio::select! {
                biased;
                answer = api.post(body) => answer,
                () = opened.lost() => Err(lost()),
            };
            opened.close().await;
            answer
        };
        tokio::select! {
            answer = work => answer,
            _ = signal => Err(Failure::cancelled("query canceled")),
        }
    })?;
    let result = render(&text, silent)?;
    output::stdout(&result)
        .map_err(|e| Failure::new(format!("cannot write to standard output: {e}")))?;
    Ok(done())
}

fn document(file: Option<&Path>) -> Result<String, Failure> {
    if let Some(path) = file {
        return std::fs::read_to_string(path)
            .map_err(|e| Failure::new(wire::LinkError::io("open", path, &e).message));
    }
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Err(Failure::new(
            "no document: name a file with --doc, or pipe it into standard input",
        ));
    }
    let mut text = String::new();
    stdin
        .read_to_string(&mut text)
        .map_err(|e| Failure::new(format!("cannot read the document from standard input: {e}")))?;
    Ok(text)
}

/// The variables of the flags. A list of `name=value` may be separated by commas; a part without `=` belongs to the value
/// before it.
fn variables(flags: &[String], json: Option<&str>) -> Result<Map<String, Value>, Failure> {
    let mut variables = match json {
        None => Map::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|e| Failure::new(format!("cannot understand --var-json: {e}")))?,
    };
    for flag in flags {
        let mut pairs: Vec<String> = Vec::new();
        for part in flag.split(',') {
            match pairs.last_mut() {
                Some(last) if !part.contains('=') => {
                    last.push(',');
                    last.push_str(part);
                }
                _ => pairs.push(part.to_owned()),
            }
        }
        for pair in pairs {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                Failure::new(format!("cannot use --var `{pair}`: expected name=value"))
            })?;
            variables.insert(name.to_owned(), Value::String(value.to_owned()));
        }
    }
    Ok(variables)
}

/// Levels that are indented; what is nested more deeply stands below them.
const INDENTED_MAX: usize = 1000;

/// The answer as it is printed.
fn render(text: &[u8], with_output: bool) -> Result<Vec<u8>, Failure> {
    let mut out = indented(answer::data(text, with_output, ExitOf::Client)?);
    out.push(b'\n');
    Ok(out)
}

/// JSON, a line for each value, indented by four. However deeply it is nested: nothing here recurses.
fn indented(json: &str) -> Vec<u8> {
    fn line(out: &mut Vec<u8>, depth: usize) {
        out.push(b'\n');
        out.resize(out.len() + 4 * depth.min(INDENTED_MAX), b' ');
    }
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let (mut text, mut escaped) = (false, false);
    // Whether a list or object has just begun: an empty one stays on its line.
    let mut begun = false;
    for byte in json.bytes() {
        if text {
            out.push(byte);
            (text, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        if matches!(byte, b'}' | b']') {
            depth = depth.saturating_sub(1);
            if !begun {
                line(&mut out, depth);
            }
        } else if begun {
            line(&mut out, depth);
        }
        begun = matches!(byte, b'{' | b'[');
        out.push(byte);
        match byte {
            b'{' | b'[' => depth += 1,
            b',' => line(&mut out, depth),
            b':' => out.push(b' '),
            b'"' => text = true,
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_printed_with_four_spaces_and_in_the_order_of_the_answer() {
        let out = render(br#"{"data":{"b":{"x":"<&>"},"a":[]}}"#, false).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\n    \"b\": {\n        \"x\": \"<&>\"\n    },\n    \"a\": []\n}\n"
        );
    }

    #[test]
    fn answers_may_be_nested_as_deeply_as_questions() {
        let deep = |n: usize| format!("{}1{}", "{\"a\":[".repeat(n), "]}".repeat(n));
        let answer = format!("{{\"data\":{}}}", deep(10_000));
        let out = render(answer.as_bytes(), false).unwrap();
        assert!(out.ends_with(b"\n    ]\n}\n"));
        let small = deep(20);
        let value: Value = serde_json::from_str(&small).unwrap();
        let mut wanted = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut wanted, format);
        serde::Serialize::serialize(&value, &mut serializer).unwrap();
        assert_eq!(indented(&small), wanted);
    }

    #[test]
    fn texts_and_empty_values_are_left_as_they_are() {
        let json = r#"{"a":"{\"x\":[1,\\","b":{},"c":[],"d":[true,null,-1.5e3]}"#;
        let out = String::from_utf8(indented(json)).unwrap();
        let lines: Vec<&str> = out.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "{",
                r#""a": "{\"x\":[1,\\","#,
                r#""b": {},"#,
                r#""c": [],"#,
                r#""d": ["#,
                "true,",
                "null,",
                "-1.5e3",
                "]",
                "}"
            ]
        );
    }

    #[test]
    fn variables_come_from_pairs_and_json() {
        let vars = variables(
            &["a=1,b=x=y".into(), "words=a,b".into()],
            Some(r#"{"n": 3, "a": 0}"#),
        )
        .unwrap();
        assert_eq!(
            Value::Object(vars),
            serde_json::json!({"n": 3, "a": "1", "b": "x=y", "words": "a,b"})
        );
        assert!(variables(&["novalue".into()], None).is_err());
        assert!(variables(&[], Some("[]")).is_err());
    }
}
