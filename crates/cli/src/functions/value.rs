//! What a flag's text means, as GraphQL text.

use super::model::{Input, ObjectKind};

/// A value of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// As it is written in a query.
    Literal(String),
    /// An object this text stands for: its ID goes here.
    Object(ObjectKind, String),
    /// A list.
    List(Vec<Value>),
}

/// Text as it is written in a query.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Understands one value.
///
/// # Errors
/// Why the text is none, as it is told after `invalid argument … for … flag`.
pub fn one(input: Input<'_>, text: &str) -> Result<Value, String> {
    let literal = match input {
        Input::String => quoted(text),
        Input::Int => int(text)
            .ok_or_else(|| "not a whole number".to_owned())?
            .to_string(),
        Input::Float => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => serde_json::Value::from(number).to_string(),
            _ => return Err("not a number".to_owned()),
        },
        Input::Boolean => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => "true".to_owned(),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => "false".to_owned(),
            _ => return Err("neither true nor false".to_owned()),
        },
        Input::Enum { values, .. } => values
            .iter()
            .find(|v| v.as_str() == text)
            .or_else(|| values.iter().find(|v| v.eq_ignore_ascii_case(text)))
            .cloned()
            .ok_or_else(|| format!("value should be one of {}", values.join(",")))?,
        Input::Platform if text == "current" => quoted(&current_platform()),
        Input::Platform => quoted(text),
        Input::PortForward => port_forward(text)?,
        Input::Object(kind) => return Ok(Value::Object(kind, text.to_owned())),
    };
    Ok(Value::Literal(literal))
}

/// Understands a list written in one flag.
///
/// # Errors
/// As [`one`]; quotes that are not closed.
pub fn list(input: Input<'_>, text: &str) -> Result<Vec<Value>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    csv(text)?.iter().map(|part| one(input, part)).collect()
}

/// The fields of a line of comma-separated values.
fn csv(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("a `\"` inside of a value that does not begin with one".to_owned());
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut at = quoted;
        let after = loop {
            let Some((part, after)) = at.split_once('"') else {
                return Err("a `\"` that is not closed".to_owned());
            };
            field.push_str(part);
            match after.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    at = more;
                }
                None => break after,
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err("text between a closing `\"` and the next comma".to_owned()),
        }
    }
}

/// A whole number as Go's flags write it: `0x1f`, `0b11`, `0o644` and `0644` too.
fn int(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, lower.get(2..)?),
        Some("0b") => (2, lower.get(2..)?),
        Some("0o") => (8, lower.get(2..)?),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, lower.as_str()),
        _ => (10, lower.as_str()),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -number } else { number }).ok()
}

fn port_forward(text: &str) -> Result<String, String> {
    let (frontend, backend) = text
        .split_once(':')
        .ok_or("expected frontend:backend, such as 8080:80")?;
    let port = |t: &str| {
        t.parse::<u16>()
            .map_err(|_| format!("`{t}` is not a port; expected frontend:backend"))
    };
    Ok(format!(
        "{{frontend:{},backend:{}}}",
        port(frontend)?,
        port(backend)?
    ))
}

fn current_platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{arch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(input: Input<'_>, text: &str) -> String {
        match one(input, text) {
            Ok(Value::Literal(l)) => l,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn numbers_are_go_s() {
        for (text, number) in [
            ("80", "80"),
            ("-5", "-5"),
            ("0644", "420"),
            ("0o644", "420"),
            ("0x1F", "31"),
            ("0", "0"),
        ] {
            assert_eq!(literal(Input::Int, text), number);
        }
        for bad in ["", "x", "1.5", "--1", "0x", "99999999999999999999"] {
            assert!(one(Input::Int, bad).is_err(), "{bad}");
        }
        assert_eq!(literal(Input::Float, "1.5"), "1.5");
        assert!(one(Input::Float, "inf").is_err());
    }

    #[test]
    fn enums_are_found_in_any_case_and_told_when_not() {
        let values = ["SHARED".to_owned(), "PRIVATE".to_owned()];
        let input = Input::Enum {
            name: "E",
            values: &values,
        };
        assert_eq!(literal(input, "private"), "PRIVATE");
        assert_eq!(
            one(input, "x"),
            Err("value should be one of SHARED,PRIVATE".into())
        );
    }

    #[test]
    fn lists_are_csv() {
        assert_eq!(
            csv("sh,-c,exit 5").unwrap(),
            ["sh".to_owned(), "-c".into(), "exit 5".into()]
        );
        assert_eq!(
            csv(r#""a,b",,"say ""x""""#).unwrap(),
            ["a,b".to_owned(), String::new(), "say \"x\"".into()]
        );
        assert_eq!(csv("a,").unwrap(), ["a".to_owned(), String::new()]);
        for bad in ["\"a", "a\"b", "\"a\"b"] {
            assert!(csv(bad).is_err(), "{bad}");
        }
        assert_eq!(list(Input::String, "").unwrap(), []);
    }

    #[test]
    fn text_is_quoted_for_queries() {
        assert_eq!(quoted("a\"\n\u{1}ü"), "\"a\\\"\\n\\u0001ü\"");
        assert_eq!(
            literal(Input::PortForward, "8080:80"),
            "{frontend:8080,backend:80}"
        );
        assert!(one(Input::PortForward, "8080").is_err());
        assert!(one(Input::Boolean, "yes").is_err());
    }
}
