//! Literals, JSON and recipes to values of a declared type; loosely, as clients expect.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use crate::{
    call::{Call, Literal},
    schema::{ArgDef, Defs, Kind, ScalarKind, Ty, sdl::Const},
    value::Value,
};

use super::parse::{Document, Val, VarType};

/// Deepest nesting that is converted.
const MAX_DEPTH: u32 = 64;

/// A value before it has a type.
#[derive(Debug, Clone)]
pub(crate) enum Raw<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer that has no 64 bits.
    BigInt,
    Float(f64),
    Str(Cow<'a, str>),
    Enum(Cow<'a, str>),
    List(Vec<Raw<'a>>),
    Object(Vec<(Cow<'a, str>, Raw<'a>)>),
    Call(Arc<Call>),
    /// Nested deeper than anything sensible.
    TooDeep,
}

fn int<'a>(text: &str) -> Raw<'a> {
    text.parse().map_or(Raw::BigInt, Raw::Int)
}

impl<'a> Raw<'a> {
    /// From JSON.
    pub(crate) fn json(value: &'a serde_json::Value, depth: u32) -> Self {
        use serde_json::Value as J;
        if depth > MAX_DEPTH {
            return Raw::TooDeep;
        }
        match value {
            J::Null => Raw::Null,
            J::Bool(b) => Raw::Bool(*b),
            J::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(i), _) => Raw::Int(i),
                (None, Some(f)) if n.is_f64() && f.fract() == 0.0 && f.abs() < 9e15 => {
                    Raw::Int(f as i64)
                }
                (None, Some(f)) if n.is_f64() => Raw::Float(f),
                _ => Raw::BigInt,
            },
            J::String(s) => Raw::Str(Cow::Borrowed(s)),
            J::Array(items) => Raw::List(items.iter().map(|v| Raw::json(v, depth + 1)).collect()),
            J::Object(map) => Raw::Object(
                map.iter()
                    .map(|(n, v)| (Cow::Borrowed(n.as_str()), Raw::json(v, depth + 1)))
                    .collect(),
            ),
        }
    }

    /// From a literal of a document; `vars` gives variables their values. Absent variables are null.
    pub(crate) fn literal(doc: &'a Document<'a>, at: u32, vars: &Variables<'a>) -> Self {
        match doc.vals.get(at as usize).map(|e| &e.val) {
            None | Some(Val::Null) => Raw::Null,
            Some(Val::Var(name)) => vars.get(name).cloned().unwrap_or(Raw::Null),
            Some(Val::Bool(b)) => Raw::Bool(*b),
            Some(Val::Int(t)) => int(t),
            Some(Val::Float(t)) => t.parse().map_or(Raw::BigInt, Raw::Float),
            Some(Val::Str(s)) => Raw::Str(Cow::Borrowed(s)),
            Some(Val::Enum(s)) => Raw::Enum(Cow::Borrowed(s)),
            // The parser bounds the nesting.
            Some(Val::List(first)) => Raw::List(
                indices(doc, *first)
                    .map(|i| Raw::literal(doc, i, vars))
                    .collect(),
            ),
            Some(Val::Object(first)) => Raw::Object(
                indices(doc, *first)
                    .map(|i| {
                        (
                            Cow::Borrowed(doc.vals[i as usize].name),
                            Raw::literal(doc, i, vars),
                        )
                    })
                    .collect(),
            ),
        }
    }

    /// From a constant of the schema.
    pub(crate) fn constant(value: &'a Const) -> Self {
        match value {
            Const::Null => Raw::Null,
            Const::Bool(b) => Raw::Bool(*b),
            Const::Int(t) => int(t),
            Const::Float(t) => t.parse().map_or(Raw::BigInt, Raw::Float),
            Const::Str(s) => Raw::Str(Cow::Borrowed(s)),
            Const::Enum(s) => Raw::Enum(Cow::Borrowed(s)),
            Const::List(items) => Raw::List(items.iter().map(Raw::constant).collect()),
            Const::Object(fields) => Raw::Object(
                fields
                    .iter()
                    .map(|(n, v)| (Cow::Borrowed(n.as_str()), Raw::constant(v)))
                    .collect(),
            ),
        }
    }

    /// From a recipe's argument.
    pub(crate) fn recipe(value: &'a Literal, depth: u32) -> Self {
        if depth > MAX_DEPTH {
            return Raw::TooDeep;
        }
        match value {
            Literal::Null => Raw::Null,
            Literal::Bool(b) => Raw::Bool(*b),
            Literal::Int(i) => Raw::Int(*i),
            Literal::Float(f) => Raw::Float(*f),
            Literal::String(s) => Raw::Str(Cow::Borrowed(s)),
            Literal::Enum(s) => Raw::Enum(Cow::Borrowed(s)),
            Literal::List(items) => {
                Raw::List(items.iter().map(|l| Raw::recipe(l, depth + 1)).collect())
            }
            Literal::Input(fields) => Raw::Object(
                fields
                    .iter()
                    .map(|(n, l)| (Cow::Borrowed(&**n), Raw::recipe(l, depth + 1)))
                    .collect(),
            ),
            Literal::Call(c) => Raw::Call(c.clone()),
        }
    }

    /// From a value of the engine.
    pub(crate) fn value(value: &'a Value, depth: u32) -> Self {
        if depth > MAX_DEPTH {
            return Raw::TooDeep;
        }
        match value {
            Value::Null => Raw::Null,
            Value::Bool(b) => Raw::Bool(*b),
            Value::Int(i) => Raw::Int(*i),
            Value::Float(f) => Raw::Float(*f),
            Value::String(s) => Raw::Str(Cow::Borrowed(s)),
            Value::Enum(s) => Raw::Enum(Cow::Borrowed(s)),
            Value::List(items) => {
                Raw::List(items.iter().map(|v| Raw::value(v, depth + 1)).collect())
            }
            Value::Input(fields) => Raw::Object(
                fields
                    .iter()
                    .map(|(n, v)| (Cow::Borrowed(&**n), Raw::value(v, depth + 1)))
                    .collect(),
            ),
            Value::Id(c) => Raw::Call(c.clone()),
            Value::Object(o) => Raw::Call(o.call.clone()),
        }
    }

    fn describe(&self) -> String {
        match self {
            Raw::Null => "null".into(),
            Raw::Bool(b) => b.to_string(),
            Raw::Int(i) => i.to_string(),
            Raw::BigInt => "a number out of range".into(),
            Raw::Float(f) => f.to_string(),
            Raw::Str(s) if s.chars().count() <= 40 => format!("{s:?}"),
            Raw::Str(_) => "a string".into(),
            Raw::Enum(s) => format!("the name {s}"),
            Raw::List(_) => "a list".into(),
            Raw::Object(_) => "an object".into(),
            Raw::Call(c) => format!("the ID of a {}", c.type_name),
            Raw::TooDeep => "a value nested too deep".into(),
        }
    }
}

/// The indices of a chain of values.
pub(crate) fn indices<'d>(doc: &'d Document<'d>, first: u32) -> impl Iterator<Item = u32> + 'd {
    let there = |i: u32| ((i as usize) < doc.vals.len()).then_some(i);
    std::iter::successors(there(first), move |i| there(doc.vals[*i as usize].next))
}

/// The variables of one request.
#[derive(Debug, Default)]
pub(crate) struct Variables<'a>(pub(crate) HashMap<&'a str, Option<Raw<'a>>>);

impl<'a> Variables<'a> {
    /// The value, if the variable has one.
    pub(crate) fn get(&self, name: &str) -> Option<&Raw<'a>> {
        self.0.get(name)?.as_ref()
    }

    /// Is it declared?
    pub(crate) fn declared(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// Coerces with the input fields and enum values that `interval` sees (all of them when `None`).
pub(crate) struct Coercion<'d> {
    pub(crate) defs: &'d Defs,
    pub(crate) interval: Option<u32>,
}

impl Coercion<'_> {
    fn sees(&self, mask: u64) -> bool {
        self.interval.is_none_or(|i| mask & (1 << i) != 0)
    }

    /// An argument's value; its second type is tried when the first does not take it.
    pub(crate) fn argument(&self, arg: &ArgDef, raw: &Raw<'_>) -> Result<Value, String> {
        self.value(&arg.ty, raw).or_else(|e| match &arg.also {
            Some(also) => self.value(also, raw).map_err(|_| e),
            None => Err(e),
        })
    }

    /// A value of type `ty`.
    pub(crate) fn value(&self, ty: &Ty, raw: &Raw<'_>) -> Result<Value, String> {
        let mismatch = || {
            Err(format!(
                "expected {}, found {}",
                self.defs.show(ty),
                raw.describe()
            ))
        };
        match (ty, raw) {
            (Ty::NonNull(_), Raw::Null) => mismatch(),
            (Ty::NonNull(inner), raw) => self.value(inner, raw),
            (_, Raw::Null) => Ok(Value::Null),
            (Ty::List(inner), Raw::List(items)) => {
                let item = |(i, raw)| self.value(inner, raw).map_err(|e| format!("item {i}: {e}"));
                Ok(Value::List(
                    items
                        .iter()
                        .enumerate()
                        .map(item)
                        .collect::<Result<_, _>>()?,
                ))
            }
            (Ty::List(_), _) => mismatch(),
            (Ty::Named(id), raw) => {
                let def = self.defs.ty(*id);
                match def.kind {
                    Kind::Scalar => match (def.scalar, raw) {
                        (ScalarKind::Int, Raw::Int(i)) => Ok(Value::Int(*i)),
                        (ScalarKind::Int, Raw::Str(s)) => {
                            s.trim().parse().map(Value::Int).or_else(|_| mismatch())
                        }
                        (ScalarKind::Float, Raw::Int(i)) => Ok(Value::Float(*i as f64)),
                        (ScalarKind::Float, Raw::Float(f)) => Ok(Value::Float(*f)),
                        (ScalarKind::Float, Raw::Str(s)) => match s.trim().parse::<f64>() {
                            Ok(f) if f.is_finite() => Ok(Value::Float(f)),
                            _ => mismatch(),
                        },
                        (ScalarKind::Boolean, Raw::Bool(b)) => Ok(Value::Bool(*b)),
                        (ScalarKind::Boolean, Raw::Str(s)) => {
                            s.parse().map(Value::Bool).or_else(|_| mismatch())
                        }
                        (ScalarKind::Text, Raw::Str(s)) => Ok(Value::String(Arc::from(&**s))),
                        (ScalarKind::IdOf(_) | ScalarKind::AnyId, Raw::Str(s)) => {
                            let call = Call::decode(s).map_err(|e| e.to_string())?;
                            self.id(def.scalar, call)
                        }
                        (ScalarKind::IdOf(_) | ScalarKind::AnyId, Raw::Call(c)) => {
                            self.id(def.scalar, c.clone())
                        }
                        _ => mismatch(),
                    },
                    Kind::Enum => {
                        let name: &str = match raw {
                            Raw::Enum(s) | Raw::Str(s) => s,
                            Raw::Bool(true) => "true",
                            Raw::Bool(false) => "false",
                            _ => return mismatch(),
                        };
                        match def
                            .values
                            .iter()
                            .find(|v| *v.name == *name && self.sees(v.mask))
                        {
                            Some(v) => Ok(Value::Enum(v.name.clone())),
                            None => {
                                let names: Vec<&str> = def
                                    .values
                                    .iter()
                                    .filter(|v| self.sees(v.mask))
                                    .map(|v| &*v.name)
                                    .collect();
                                Err(format!(
                                    "invalid enum value {name:?} (expected one of {})",
                                    names.join(", ")
                                ))
                            }
                        }
                    }
                    Kind::Input => match raw {
                        Raw::Object(given) => self.input(*id, given),
                        _ => mismatch(),
                    },
                    Kind::Object | Kind::Interface | Kind::Union => mismatch(),
                }
            }
        }
    }

    fn id(&self, scalar: ScalarKind, call: Arc<Call>) -> Result<Value, String> {
        if let ScalarKind::IdOf(expected) = scalar {
            let found = self.defs.type_named(&call.type_name);
            if !found.is_some_and(|f| self.defs.is_a(f, expected)) {
                let expected = &self.defs.ty(expected).name;
                return Err(format!(
                    "expected the ID of a {expected}, found the ID of a {}",
                    call.type_name
                ));
            }
        }
        Ok(Value::Id(call))
    }

    fn input(&self, id: u32, given: &[(Cow<'_, str>, Raw<'_>)]) -> Result<Value, String> {
        let def = self.defs.ty(id);
        let fields: Vec<&ArgDef> = def.inputs.iter().filter(|a| self.sees(a.mask)).collect();
        for (i, (name, _)) in given.iter().enumerate() {
            if !fields.iter().any(|a| *a.name == **name) {
                return Err(format!("{} has no field {name:?}", def.name));
            }
            if given[..i].iter().any(|(n, _)| n == name) {
                return Err(format!("the field {name:?} of {} is given twice", def.name));
            }
        }
        let mut out = Vec::with_capacity(fields.len());
        for field in fields {
            let raw = given
                .iter()
                .find(|(n, _)| **n == *field.name)
                .map(|(_, v)| v);
            let value = match raw {
                None | Some(Raw::Null) if field.default.is_some() => {
                    field.default.clone().unwrap_or(Value::Null)
                }
                None | Some(Raw::Null) if field.ty.nullable().1 => {
                    return Err(format!("{} needs the field {:?}", def.name, field.name));
                }
                None | Some(Raw::Null) => Value::Null,
                Some(raw) => self
                    .argument(field, raw)
                    .map_err(|e| format!("field {:?}: {e}", field.name))?,
            };
            out.push((field.name.clone(), value));
        }
        Ok(Value::Input(out))
    }

    /// The type a variable is declared with; `None` when there is no such input type.
    pub(crate) fn var_type(&self, ty: &VarType<'_>) -> Option<Ty> {
        let id = self.defs.type_named(ty.name)?;
        let def = self.defs.ty(id);
        if !self.sees(def.mask) || !matches!(def.kind, Kind::Scalar | Kind::Enum | Kind::Input) {
            return None;
        }
        let mut levels = ty.non_null.iter().rev();
        let wrap = |t: Ty, non_null: bool| {
            if non_null {
                Ty::NonNull(Box::new(t))
            } else {
                t
            }
        };
        let mut out = wrap(Ty::Named(id), *levels.next()?);
        for non_null in levels {
            out = wrap(Ty::List(Box::new(out)), *non_null);
        }
        Some(out)
    }
}

/// Are two argument values the same?
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (Value::String(a), Value::String(b)) | (Value::Enum(a), Value::Enum(b)) => a == b,
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Input(a), Value::Input(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|((an, a), (bn, b))| an == bn && same(a, b))
        }
        (Value::Id(a), Value::Id(b)) => a == b,
        (Value::Object(a), Value::Object(b)) => a.call == b.call,
        _ => false,
    }
}

/// A value as it stands in a recipe.
pub(crate) fn to_literal(value: &Value) -> Literal {
    match value {
        Value::Null => Literal::Null,
        Value::Bool(b) => Literal::Bool(*b),
        Value::Int(i) => Literal::Int(*i),
        Value::Float(f) => Literal::Float(*f),
        Value::String(s) => Literal::String(s.clone()),
        Value::Enum(s) => Literal::Enum(s.clone()),
        Value::List(items) => Literal::List(items.iter().map(to_literal).collect()),
        Value::Input(fields) => Literal::Input(
            fields
                .iter()
                .map(|(n, v)| (n.clone(), to_literal(v)))
                .collect(),
        ),
        Value::Id(c) => Literal::Call(c.clone()),
        Value::Object(o) => Literal::Call(o.call.clone()),
    }
}
