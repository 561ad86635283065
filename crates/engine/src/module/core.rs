//! The engine's own types, described as those of a module are: what `currentTypeDefs` answers.
//!
//! They are made from the introspection of the schema as the client's version sees it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use graph::{Request, error::Error, resolve::View};
use serde::Deserialize;

use super::{
    function::{Function, FunctionArg},
    typedef::{
        About, Enum, EnumValue, Field, Input, Interface, Kind, Object, Shape, TypeDef, TypeDefError,
    },
};
use crate::Ctx;

/// Most views whose types are kept.
const MAX_VIEWS: usize = 16;

const INTROSPECTION: &str = "query CoreTypes{__schema{types{kind name description \
    fields(includeDeprecated:true){name description deprecationReason type{...T} args(includeDeprecated:true){...I}} \
    inputFields(includeDeprecated:true){...I} \
    enumValues(includeDeprecated:true){name description deprecationReason directives{name args{name value}}}}}} \
    fragment I on __InputValue{name description deprecationReason defaultValue type{...T} directives{name args{name value}}} \
    fragment T on __Type{kind name ofType{kind name ofType{kind name ofType{kind name ofType{kind name ofType{kind name \
    ofType{kind name}}}}}}}";

/// The types of each view, made once.
#[derive(Debug, Default)]
pub(super) struct CoreTypes(Mutex<HashMap<View, Types>>);

/// Descriptions of types.
pub(super) type Types = Arc<[Arc<TypeDef>]>;

impl CoreTypes {
    /// All types the view has.
    pub(super) async fn of(&self, ctx: &Ctx, view: View) -> Result<Types, Error> {
        if let Some(types) = crate::lock(&self.0).get(&view) {
            return Ok(types.clone());
        }
        let request = Request {
            query: INTROSPECTION.into(),
            ..Request::default()
        };
        let answer = ctx.session.solver.run(ctx, view, request).await;
        let parsed: Answer = serde_json::from_slice(&answer.body).map_err(|e| {
            Error::internal(format!(
                "the schema's introspection of view {view} is not what is expected: {e}"
            ))
        })?;
        let types: Types = describe(&parsed.data.schema.types)?.into();
        let mut known = crate::lock(&self.0);
        if known.len() < MAX_VIEWS {
            known.insert(view, types.clone());
        }
        Ok(types)
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    #[serde(rename = "__schema")]
    schema: SchemaOf,
}

#[derive(Debug, Deserialize)]
struct SchemaOf {
    types: Vec<TypeOf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeOf {
    kind: String,
    name: String,
    description: Option<String>,
    fields: Option<Vec<FieldOf>>,
    input_fields: Option<Vec<InputOf>>,
    enum_values: Option<Vec<ValueOf>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FieldOf {
    name: String,
    description: Option<String>,
    deprecation_reason: Option<String>,
    #[serde(rename = "type")]
    ty: TypeRef,
    args: Vec<InputOf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InputOf {
    name: String,
    description: Option<String>,
    deprecation_reason: Option<String>,
    default_value: Option<String>,
    #[serde(rename = "type")]
    ty: TypeRef,
    directives: Vec<Directive>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ValueOf {
    name: String,
    description: Option<String>,
    deprecation_reason: Option<String>,
    directives: Vec<Directive>,
}

#[derive(Debug, Deserialize)]
struct Directive {
    name: String,
    args: Vec<DirectiveArg>,
}

#[derive(Debug, Deserialize)]
struct DirectiveArg {
    name: String,
    value: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeRef {
    kind: String,
    name: Option<String>,
    of_type: Option<Box<TypeRef>>,
}

/// The value of a directive's argument, without the quotes of its JSON.
fn directive(directives: &[Directive], name: &str, arg: &str) -> Option<String> {
    let args = &directives.iter().find(|d| d.name == name)?.args;
    let text = args.iter().find(|a| a.name == arg)?.value.as_deref()?;
    Some(serde_json::from_str(text).unwrap_or_else(|_| text.to_owned()))
}

fn about(name: &str, description: &Option<String>, deprecated: &Option<String>) -> About {
    About {
        deprecated: deprecated.as_deref().map(Into::into),
        ..About::new(name, name, description.as_deref().unwrap_or_default())
    }
}

/// Describes all types of an introspection that mean something to users.
fn describe(types: &[TypeOf]) -> Result<Vec<Arc<TypeDef>>, TypeDefError> {
    let objects = types
        .iter()
        .filter(|t| t.kind == "OBJECT" || t.kind == "INTERFACE")
        .map(|t| t.name.as_str())
        .collect();
    let names = Names(objects);
    let mut out = Vec::new();
    for ty in types.iter().filter(|t| !t.name.starts_with('_')) {
        if let Some(shape) = names.shape(ty)? {
            let kind = match &shape {
                Shape::Object(_) => Kind::Object,
                Shape::Interface(_) => Kind::Interface,
                Shape::Input(_) => Kind::Input,
                Shape::Enum(_) => Kind::Enum,
                Shape::Plain | Shape::List(_) | Shape::Scalar(_) => Kind::Scalar,
            };
            out.push(Arc::new(TypeDef {
                shape,
                ..TypeDef::of(kind)
            }));
        }
    }
    Ok(out)
}

/// The names of objects and interfaces.
struct Names<'a>(HashSet<&'a str>);

impl Names<'_> {
    fn shape(&self, ty: &TypeOf) -> Result<Option<Shape>, TypeDefError> {
        let about_type = about(&ty.name, &ty.description, &None);
        Ok(match ty.kind.as_str() {
            "OBJECT" => {
                let fields = ty.fields.as_deref().unwrap_or_default();
                if ty.name != "Query" && !fields.iter().any(|f| f.name == "id") {
                    return Ok(None);
                }
                let functions = self.functions(fields)?;
                Some(Shape::Object(Arc::new(Object {
                    about: about_type,
                    fields: vec![],
                    functions,
                    constructor: None,
                })))
            }
            "INTERFACE" => {
                let functions = self.functions(ty.fields.as_deref().unwrap_or_default())?;
                Some(Shape::Interface(Arc::new(Interface {
                    about: about_type,
                    functions,
                })))
            }
            "INPUT_OBJECT" => {
                let fields = ty.input_fields.as_deref().unwrap_or_default().iter();
                let field = |f: &InputOf| {
                    Arc::new(Field {
                        about: f.about(),
                        ty: Arc::new(self.argument(f)),
                    })
                };
                Some(Shape::Input(Arc::new(Input {
                    about: about_type,
                    fields: fields.map(field).collect(),
                })))
            }
            "ENUM" => {
                let values = ty
                    .enum_values
                    .as_deref()
                    .unwrap_or_default()
                    .iter()
                    .map(|v| {
                        let value = directive(&v.directives, "enumValue", "value")
                            .unwrap_or_else(|| v.name.clone());
                        Arc::new(EnumValue {
                            about: about(&v.name, &v.description, &v.deprecation_reason),
                            value: value.into(),
                        })
                    });
                Some(Shape::Enum(Arc::new(Enum {
                    about: about_type,
                    values: values.collect(),
                })))
            }
            "SCALAR" if !self.is_known_scalar(&ty.name) => {
                Some(Shape::Scalar(Arc::new(about_type)))
            }
            _ => None,
        })
    }

    /// Scalars that are a kind of their own or stand for an object.
    fn is_known_scalar(&self, name: &str) -> bool {
        matches!(name, "String" | "Int" | "Float" | "Boolean" | "ID" | "Void")
            || self.of_id(name).is_some()
    }

    /// The object that an ID scalar names.
    fn of_id<'n>(&self, scalar: &'n str) -> Option<&'n str> {
        scalar
            .strip_suffix("ID")
            .filter(|object| self.0.contains(object))
    }

    fn functions(&self, fields: &[FieldOf]) -> Result<Vec<Arc<Function>>, TypeDefError> {
        let mut out = Vec::with_capacity(fields.len());
        for field in fields.iter().filter(|f| f.name != "id") {
            let returns = Arc::new(self.reference(&field.ty, None, false));
            let mut function = Function::new(
                about(&field.name, &field.description, &field.deprecation_reason),
                returns,
            )?;
            function.args = field
                .args
                .iter()
                .map(|a| Arc::new(self.function_arg(a)))
                .collect();
            out.push(Arc::new(function));
        }
        Ok(out)
    }

    fn function_arg(&self, arg: &InputOf) -> FunctionArg {
        FunctionArg {
            about: arg.about(),
            ty: Arc::new(self.argument(arg)),
            default_value: arg
                .default_value
                .as_deref()
                .map(|text| json_of_literal(text).into()),
            default_path: "".into(),
            default_address: "".into(),
            ignore: vec![],
        }
    }

    /// The type of an argument: IDs stand for their objects.
    fn argument(&self, arg: &InputOf) -> TypeDef {
        let expected = directive(&arg.directives, "expectedType", "name");
        self.reference(&arg.ty, expected.as_deref(), true)
    }

    /// A reference to a type. Introspection shows a few levels only.
    fn reference(&self, ty: &TypeRef, expected: Option<&str>, input: bool) -> TypeDef {
        let inner = |ty: &TypeRef| match &ty.of_type {
            Some(of) => self.reference(of, expected, input),
            None => TypeDef::default(),
        };
        let name = ty.name.as_deref().unwrap_or_default();
        let simple = |name: &str| About::new(name, name, "");
        let made = match ty.kind.as_str() {
            "NON_NULL" => return inner(ty).with_optional(false),
            "LIST" => {
                let element = Arc::new(inner(ty));
                TypeDef {
                    depth: element.depth + 1,
                    shape: Shape::List(element),
                    ..TypeDef::of(Kind::List)
                }
            }
            "OBJECT" => TypeDef::object(name),
            "INTERFACE" => {
                let interface = Interface {
                    about: simple(name),
                    functions: vec![],
                };
                TypeDef {
                    shape: Shape::Interface(Arc::new(interface)),
                    ..TypeDef::of(Kind::Interface)
                }
            }
            "INPUT_OBJECT" => {
                let of = Input {
                    about: simple(name),
                    fields: vec![],
                };
                TypeDef {
                    shape: Shape::Input(Arc::new(of)),
                    ..TypeDef::of(Kind::Input)
                }
            }
            "ENUM" => {
                let of = Enum {
                    about: simple(name),
                    values: vec![],
                };
                TypeDef {
                    shape: Shape::Enum(Arc::new(of)),
                    ..TypeDef::of(Kind::Enum)
                }
            }
            _ => match (name, expected, self.of_id(name)) {
                ("String", ..) => TypeDef::of(Kind::String),
                ("Int", ..) => TypeDef::of(Kind::Integer),
                ("Float", ..) => TypeDef::of(Kind::Float),
                ("Boolean", ..) => TypeDef::of(Kind::Boolean),
                ("Void", ..) => TypeDef::of(Kind::Void),
                ("ID", Some(object), _) | (_, _, Some(object)) if input => TypeDef::object(object),
                _ => TypeDef {
                    shape: Shape::Scalar(Arc::new(simple(name))),
                    ..TypeDef::of(Kind::Scalar)
                },
            },
        };
        made.with_optional(true)
    }
}

impl InputOf {
    fn about(&self) -> About {
        about(&self.name, &self.description, &self.deprecation_reason)
    }
}

/// A GraphQL literal as JSON: names of enum values and keys are put in quotes.
fn json_of_literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '"' {
            out.push(c);
            while let Some(c) = chars.next() {
                out.push(c);
                match c {
                    '"' => break,
                    '\\' => out.extend(chars.next()),
                    _ => {}
                }
            }
        } else if c.is_ascii_alphabetic() || c == '_' {
            let mut word = String::from(c);
            while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                word.push(c);
            }
            match word.as_str() {
                "true" | "false" | "null" => out.push_str(&word),
                _ => {
                    out.push('"');
                    out.push_str(&word);
                    out.push('"');
                }
            }
        } else {
            out.push(c);
            // The exponent of a number is no name.
            if c.is_ascii_digit() {
                out.extend(chars.next_if(|c| matches!(c, 'e' | 'E')));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_become_json() {
        let cases = [
            ("\"a \\\"b\\\" c\"", "\"a \\\"b\\\" c\""),
            ("420", "420"),
            ("1e3", "1e3"),
            ("false", "false"),
            ("OCIMediaTypes", "\"OCIMediaTypes\""),
            ("[A, B]", "[\"A\", \"B\"]"),
            (
                "{port: 80, protocol: TCP}",
                "{\"port\": 80, \"protocol\": \"TCP\"}",
            ),
            ("[]", "[]"),
        ];
        for (text, json) in cases {
            assert_eq!(json_of_literal(text), json);
            assert!(
                serde_json::from_str::<serde_json::Value>(json).is_ok(),
                "{json}"
            );
        }
    }

    fn types(json: serde_json::Value) -> Vec<Arc<TypeDef>> {
        let types: Vec<TypeOf> = serde_json::from_value(json).expect("an introspection");
        describe(&types).expect("descriptions")
    }

    fn named(kind: &str, name: &str) -> serde_json::Value {
        serde_json::json!({"kind": kind, "name": name, "ofType": null})
    }

    #[test]
    fn ids_of_arguments_stand_for_objects() {
        let arg = |name: &str, ty: serde_json::Value, directives: serde_json::Value| {
            serde_json::json!({"name": name, "description": null, "deprecationReason": null, "defaultValue": null,
                "type": {"kind": "NON_NULL", "name": null, "ofType": ty}, "directives": directives})
        };
        let expected = serde_json::json!([{"name": "expectedType", "args": [{"name": "name", "value": "\"Box\""}]}]);
        let of = types(serde_json::json!([
            {"kind": "OBJECT", "name": "Query", "description": "root", "inputFields": null, "enumValues": null, "fields": [
                {"name": "open", "description": "d", "deprecationReason": "old", "type": named("SCALAR", "BoxID"), "args": [
                    arg("a", named("SCALAR", "BoxID"), serde_json::json!([])),
                    arg("b", named("SCALAR", "ID"), expected),
                    arg("c", named("SCALAR", "ID"), serde_json::json!([])),
                    arg("d", named("SCALAR", "VoidID"), serde_json::json!([])),
                ]},
            ]},
            {"kind": "OBJECT", "name": "Box", "description": "d", "inputFields": null, "enumValues": null, "fields": [
                {"name": "id", "description": "d", "deprecationReason": null, "type": named("SCALAR", "BoxID"), "args": []},
            ]},
            {"kind": "OBJECT", "name": "NoId", "description": "d", "inputFields": null, "enumValues": null, "fields": []},
            {"kind": "SCALAR", "name": "BoxID", "description": "d", "inputFields": null, "enumValues": null, "fields": null},
            {"kind": "SCALAR", "name": "Platform", "description": "d", "inputFields": null, "enumValues": null, "fields": null},
            {"kind": "OBJECT", "name": "__Type", "description": "d", "inputFields": null, "enumValues": null, "fields": []},
        ]));
        let names: Vec<String> = of.iter().map(|t| t.name()).collect();
        assert_eq!(names, ["Query", "Box", "Platform"]);
        let Shape::Object(query) = &of[0].shape else {
            panic!("an object")
        };
        let open = &query.functions[0];
        assert_eq!(
            (open.returns.name().as_str(), open.returns.kind),
            ("BoxID", Some(Kind::Scalar))
        );
        assert!(open.returns.optional);
        let args: Vec<_> = open
            .args
            .iter()
            .map(|a| (a.ty.name(), a.ty.kind_name(), a.ty.optional))
            .collect();
        let expected = [
            ("Box".to_owned(), "OBJECT_KIND", false),
            ("Box".to_owned(), "OBJECT_KIND", false),
            ("ID".to_owned(), "SCALAR_KIND", false),
            ("VoidID".to_owned(), "SCALAR_KIND", false),
        ];
        assert_eq!(args, expected);
    }
}
