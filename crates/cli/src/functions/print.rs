//! Results as text.

use serde::Serialize;
use serde_json::Value;

/// How a result is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// As JSON.
    pub json: bool,
    /// For a person at a terminal.
    pub terminal: bool,
}

/// A result as it is printed.
pub fn text(result: &Value, style: Style) -> String {
    if style.json {
        return json(result);
    }
    let mut out = match result {
        Value::Array(items) if items.iter().any(Value::is_object) => objects(result, style),
        Value::Array(items) => items.iter().map(|i| plain(i) + "\n").collect(),
        Value::Object(_) => objects(result, style),
        one => plain(one),
    };
    if style.terminal && !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn objects(value: &Value, style: Style) -> String {
    if style.terminal {
        let mut out = String::new();
        yaml(value, "", &mut out);
        out
    } else {
        json(value)
    }
}

fn json(value: &Value) -> String {
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, format);
    // Writing to memory a value that was read as JSON.
    let _ = value.serialize(&mut serializer);
    out.push(b'\n');
    String::from_utf8_lossy(&out).into_owned()
}

/// Results are objects of values and of lists of values, or lists of such objects.
fn yaml(value: &Value, indent: &str, out: &mut String) {
    match value {
        Value::Object(fields) => {
            for (i, (name, field)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push_str(indent);
                }
                out.push_str(name);
                out.push(':');
                match field {
                    Value::Array(items) if !items.is_empty() => {
                        out.push('\n');
                        for item in items {
                            out.push_str(&format!("{indent}    - {}\n", scalar(item)));
                        }
                    }
                    other => out.push_str(&format!(" {}\n", scalar(other))),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                out.push_str(indent);
                out.push_str("- ");
                yaml(item, &format!("{indent}  "), out);
            }
        }
        other => out.push_str(&format!("{}\n", scalar(other))),
    }
}

/// A value on one line. JSON is YAML; text that is safe as it is goes without quotes.
fn scalar(value: &Value) -> String {
    let Value::String(text) = value else {
        return value.to_string();
    };
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let inside = |c: char| c.is_alphanumeric() || "/_-.+@ ".contains(c);
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|w| text.eq_ignore_ascii_case(w));
    if starts && !word && text.chars().all(inside) && !text.ends_with(' ') {
        text.clone()
    } else {
        value.to_string()
    }
}
