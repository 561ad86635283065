//! `JSONValue`: reading and building JSON.

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};
use serde_json::Value as Json;

use crate::{Ctx, dispatch::Binder};

type Answer = Result<Value, Error>;

/// Deepest path of fields that is followed or made.
const DEPTH_MAX: usize = 128;

/// A JSON value.
#[derive(Debug, Clone)]
pub(crate) struct JsonValue(Arc<Json>);

impl JsonValue {
    /// Reads a JSON text. `from` says where it comes from.
    ///
    /// # Errors
    /// A text that is no JSON.
    pub(crate) fn parse(text: &[u8], from: &str) -> Result<Self, Error> {
        serde_json::from_slice(text)
            .map(|v| Self(Arc::new(v)))
            .map_err(|e| Error::user(format!("cannot read {from} as JSON: {e}")))
    }
}

/// Binds all fields.
pub(crate) fn bind(b: &mut Binder) {
    b.bind("Query.json", Memo::Session, |inv| async move {
        Ok(inv.object(JsonValue(Arc::new(Json::Null))))
    });
    b.bind("JSONValue.withContents", Memo::Session, |inv| async move {
        let text = inv.args.str("contents");
        Ok(inv.object(JsonValue::parse(text.as_bytes(), "`contents`")?))
    });
    b.bind("JSONValue.newString", Memo::Session, |inv| async move {
        let value = Json::from(inv.args.str("value"));
        Ok(inv.object(JsonValue(Arc::new(value))))
    });
    b.bind("JSONValue.newBoolean", Memo::Session, |inv| async move {
        let value = Json::from(inv.args.bool("value"));
        Ok(inv.object(JsonValue(Arc::new(value))))
    });
    b.bind("JSONValue.newInteger", Memo::Session, |inv| async move {
        let value = Json::from(inv.args.int("value").unwrap_or(0));
        Ok(inv.object(JsonValue(Arc::new(value))))
    });
    b.bind("JSONValue.asString", Memo::Never, |inv| async move {
        match &*inv.this::<JsonValue>()?.0 {
            Json::String(s) => Ok(Value::string(s.as_str())),
            other => Err(is_not(other, "a string")),
        }
    });
    b.bind("JSONValue.asBoolean", Memo::Never, |inv| async move {
        match &*inv.this::<JsonValue>()?.0 {
            Json::Bool(b) => Ok(Value::Bool(*b)),
            other => Err(is_not(other, "a boolean")),
        }
    });
    b.bind("JSONValue.asInteger", Memo::Never, |inv| async move {
        let value = &inv.this::<JsonValue>()?.0;
        let whole = |f: f64| (f.fract() == 0.0 && f.abs() < 9.0e15).then_some(f as i64);
        value
            .as_i64()
            .or_else(|| value.as_f64().and_then(whole))
            .map(Value::Int)
            .ok_or_else(|| is_not(value, "a whole number"))
    });
    b.bind("JSONValue.asArray", Memo::Session, |inv| async move {
        match &*inv.this::<JsonValue>()?.0 {
            Json::Array(items) => {
                Ok(inv.objects(items.iter().map(|v| JsonValue(Arc::new(v.clone())))))
            }
            other => Err(is_not(other, "an array")),
        }
    });
    b.bind("JSONValue.fields", Memo::Never, |inv| async move {
        match &*inv.this::<JsonValue>()?.0 {
            Json::Object(fields) => Ok(Value::strings(fields.keys().map(String::as_str))),
            other => Err(is_not(other, "an object")),
        }
    });
    b.bind("JSONValue.field", Memo::Session, field);
    b.bind("JSONValue.withField", Memo::Session, with_field);
    b.bind("JSONValue.contents", Memo::Never, contents);
}

fn is_not(value: &Json, wanted: &str) -> Error {
    let is = match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    };
    Error::user(format!("the JSON value is {is}, not {wanted}"))
}

async fn field(inv: Invocation<Ctx>) -> Answer {
    let mut at = &*inv.this::<JsonValue>()?.0;
    for name in inv.args.strings("path") {
        let Json::Object(fields) = at else {
            return Err(is_not(at, "an object").context(format!("field {name:?}")));
        };
        at = fields
            .get(&*name)
            .ok_or_else(|| Error::user(format!("the JSON object has no field {name:?}")))?;
    }
    Ok(inv.object(JsonValue(Arc::new(at.clone()))))
}

async fn with_field(inv: Invocation<Ctx>) -> Answer {
    let id = inv.args.id("value");
    let value: JsonValue = inv
        .ctx
        .load(id.ok_or_else(|| Error::user("`value` is missing"))?)
        .await?;
    let path = inv.args.strings("path");
    if path.len() > DEPTH_MAX {
        return Err(Error::user(format!(
            "a path of {} fields is deeper than {DEPTH_MAX}",
            path.len()
        )));
    }
    let mut whole = (*inv.this::<JsonValue>()?.0).clone();
    let mut at = &mut whole;
    for name in &path {
        if at.is_null() {
            *at = Json::Object(serde_json::Map::new());
        }
        let Json::Object(fields) = at else {
            return Err(is_not(at, "an object").context(format!("field {name:?}")));
        };
        at = fields.entry(name.to_string()).or_insert(Json::Null);
    }
    *at = (*value.0).clone();
    Ok(inv.object(JsonValue(Arc::new(whole))))
}

async fn contents(inv: Invocation<Ctx>) -> Answer {
    let value = &inv.this::<JsonValue>()?.0;
    if !inv.args.bool("pretty") {
        return Ok(Value::string(value.to_string()));
    }
    let indent = inv.args.opt_str("indent").unwrap_or("  ");
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    let mut ser = serde_json::Serializer::with_formatter(&mut out, format);
    serde::Serialize::serialize(&**value, &mut ser)
        .map_err(|e| Error::internal(format!("cannot write JSON: {e}")))?;
    Ok(Value::string(String::from_utf8_lossy(&out)))
}
