//! What the API can do, from its introspection.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// The question this model is made from.
pub const INTROSPECTION: &str = "{__schema{queryType{name} types{kind name description \
    fields(includeDeprecated:true){name description isDeprecated type{...T} args{name description defaultValue type{...T}}} \
    enumValues(includeDeprecated:true){name}}}} \
    fragment T on __Type{kind name ofType{kind name ofType{kind name ofType{kind name ofType{kind name ofType{kind name}}}}}}";

/// Why an answer gives no model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Not what introspection answers.
    #[error("cannot understand the API's description")]
    Json(#[source] serde_json::Error),
    /// The type where everything starts is missing.
    #[error("the API's description has no type {0}")]
    NoRoot(String),
}

/// A type as it is used: what it is a list of, and whether it may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeRef {
    /// Name of the innermost type.
    pub name: String,
    /// How many lists are around it.
    pub lists: u8,
    /// May not be null.
    pub required: bool,
}

/// An argument of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// As the API spells it.
    pub name: String,
    /// For people.
    pub description: String,
    /// What it takes.
    pub of: TypeRef,
    /// What it is when not given, as GraphQL text.
    pub default: Option<String>,
}

impl Argument {
    /// It must be given.
    pub fn required(&self) -> bool {
        self.of.required && self.default.is_none()
    }
}

/// A function: a field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// As the API spells it.
    pub name: String,
    /// For people.
    pub description: String,
    /// In declared order.
    pub args: Vec<Argument>,
    /// What it gives.
    pub returns: TypeRef,
    /// Not to be used any more.
    pub deprecated: bool,
}

/// An object with functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its type's name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Sorted by name.
    pub functions: Vec<Function>,
}

/// What comes after a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned<'a> {
    /// An object, or a list of them.
    Object(&'a Object),
    /// The object it was called on, once the call is done: `sync`, `start`.
    Same(&'a Object),
    /// A value, or a list of them.
    Value,
    /// Nothing.
    Void,
}

/// Kinds of objects a flag's text can stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// An image's address.
    Container,
    /// A path or a Git repository.
    Directory,
    /// A path, or one in a Git repository.
    File,
    /// Where a secret is kept.
    Secret,
    /// An address to connect to.
    Service,
    /// A name.
    CacheVolume,
    /// A path.
    Socket,
}

impl ObjectKind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "Container" => Self::Container,
            "Directory" => Self::Directory,
            "File" => Self::File,
            "Secret" => Self::Secret,
            "Service" => Self::Service,
            "CacheVolume" => Self::CacheVolume,
            "Socket" => Self::Socket,
            _ => return None,
        })
    }

    /// The type's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "Container",
            Self::Directory => "Directory",
            Self::File => "File",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::CacheVolume => "CacheVolume",
            Self::Socket => "Socket",
        }
    }
}

/// What a flag takes, apart from being a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// Any text.
    String,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Yes or no; the flag alone means yes.
    Boolean,
    /// One of these.
    Enum {
        /// The enum's name.
        name: &'a str,
        /// In declared order.
        values: &'a [String],
    },
    /// `os/arch`, or `current`.
    Platform,
    /// `frontend:backend`.
    PortForward,
    /// Text that stands for an object.
    Object(ObjectKind),
}

/// The API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    root: String,
    objects: BTreeMap<String, Object>,
    enums: BTreeMap<String, Vec<String>>,
    scalars: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "__schema")]
    schema: RawSchema,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSchema {
    query_type: Named,
    types: Vec<RawType>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawType {
    kind: String,
    name: String,
    description: Option<String>,
    fields: Option<Vec<RawField>>,
    enum_values: Option<Vec<Named>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawField {
    name: String,
    description: Option<String>,
    #[serde(default)]
    is_deprecated: bool,
    args: Vec<RawArg>,
    r#type: RawRef,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawArg {
    name: String,
    description: Option<String>,
    default_value: Option<String>,
    r#type: RawRef,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRef {
    kind: String,
    name: Option<String>,
    of_type: Option<Box<RawRef>>,
}

impl From<RawRef> for TypeRef {
    fn from(raw: RawRef) -> Self {
        let required = raw.kind == "NON_NULL";
        let mut lists = 0;
        let mut at = raw;
        loop {
            lists += u8::from(at.kind == "LIST");
            match at.of_type {
                Some(inner) => at = *inner,
                None => {
                    return Self {
                        name: at.name.unwrap_or_default(),
                        lists,
                        required,
                    };
                }
            }
        }
    }
}

impl From<RawField> for Function {
    fn from(raw: RawField) -> Self {
        let args = raw.args.into_iter().map(|a| Argument {
            name: a.name,
            description: a.description.unwrap_or_default(),
            of: a.r#type.into(),
            default: a.default_value.filter(|d| d != "null"),
        });
        Self {
            name: raw.name,
            description: raw.description.unwrap_or_default(),
            args: args.collect(),
            returns: raw.r#type.into(),
            deprecated: raw.is_deprecated,
        }
    }
}

impl Model {
    /// From the data that [`INTROSPECTION`] is answered with.
    ///
    /// # Errors
    /// Something else.
    pub fn from_introspection(data: serde_json::Value) -> Result<Self, ModelError> {
        let data: Data = serde_json::from_value(data).map_err(ModelError::Json)?;
        let mut model = Self {
            root: data.schema.query_type.name,
            objects: BTreeMap::new(),
            enums: BTreeMap::new(),
            scalars: BTreeSet::new(),
        };
        for raw in data.schema.types {
            if raw.name.starts_with("__") {
                continue;
            }
            match raw.kind.as_str() {
                "OBJECT" => {
                    let mut functions: Vec<Function> = raw
                        .fields
                        .unwrap_or_default()
                        .into_iter()
                        .map(Into::into)
                        .collect();
                    functions.sort_by(|a, b| a.name.cmp(&b.name));
                    let object = Object {
                        name: raw.name.clone(),
                        description: raw.description.unwrap_or_default(),
                        functions,
                    };
                    model.objects.insert(raw.name, object);
                }
                "ENUM" => {
                    let values = raw.enum_values.unwrap_or_default();
                    let values = values.into_iter().map(|v| v.name).collect();
                    model.enums.insert(raw.name, values);
                }
                "SCALAR" => {
                    model.scalars.insert(raw.name);
                }
                _ => {}
            }
        }
        if model.objects.contains_key(&model.root) {
            Ok(model)
        } else {
            Err(ModelError::NoRoot(model.root))
        }
    }

    /// The object where everything starts.
    pub fn root(&self) -> Option<&Object> {
        self.objects.get(&self.root)
    }

    /// An object type.
    pub fn object(&self, name: &str) -> Option<&Object> {
        self.objects.get(name)
    }

    /// What an argument of this type takes; `None` when no text can give it.
    pub fn input(&self, of: &TypeRef) -> Option<Input<'_>> {
        if of.lists > 1 {
            return None;
        }
        Some(match of.name.as_str() {
            "String" | "JSON" => Input::String,
            "Int" => Input::Int,
            "Float" => Input::Float,
            "Boolean" => Input::Boolean,
            "Platform" => Input::Platform,
            "PortForward" => Input::PortForward,
            name => {
                if let Some((name, values)) = self.enums.get_key_value(name) {
                    Input::Enum { name, values }
                } else if !self.scalars.contains(name) {
                    return None;
                } else if let Some(object) = self.id_of(name) {
                    Input::Object(ObjectKind::named(&object.name)?)
                } else if name == "Void" || name == "ID" {
                    return None;
                } else {
                    Input::String
                }
            }
        })
    }

    /// The object that a scalar names.
    fn id_of(&self, scalar: &str) -> Option<&Object> {
        self.objects.get(scalar.strip_suffix("ID")?)
    }

    /// What a function of an object gives.
    pub fn returned<'a>(&'a self, on: &'a Object, function: &Function) -> Returned<'a> {
        let of = &function.returns;
        if let Some(object) = self.objects.get(&of.name) {
            return Returned::Object(object);
        }
        match self.id_of(&of.name) {
            Some(object) if object.name == on.name && function.name != "id" && of.lists == 0 => {
                Returned::Same(on)
            }
            _ if of.name == "Void" => Returned::Void,
            _ => Returned::Value,
        }
    }

    /// Whether a command line can call a function: every argument that must be given can be.
    pub fn callable(&self, function: &Function) -> bool {
        let known = self.objects.contains_key(&function.returns.name)
            || self.enums.contains_key(&function.returns.name)
            || self.scalars.contains(&function.returns.name);
        known
            && function
                .args
                .iter()
                .all(|a| !a.required() || self.input(&a.of).is_some())
    }
}

/// A function or argument by any spelling: kebab, camel or snake.
pub fn same_name(a: &str, b: &str) -> bool {
    let bare = |t: &str| -> String {
        t.chars()
            .filter(|c| *c != '-' && *c != '_')
            .map(|c| c.to_ascii_lowercase())
            .collect()
    };
    a == b || bare(a) == bare(b)
}

/// A name of the API as command lines spell it: `withExec` is `with-exec`.
pub fn kebab(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::with_capacity(name.len() + 4);
    for (i, c) in letters.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|j| letters.get(j));
        let after_lower = letters.get(i + 1).is_some_and(char::is_ascii_lowercase);
        let starts_word = c.is_ascii_uppercase()
            && before.is_some_and(|b| {
                b.is_ascii_lowercase()
                    || b.is_ascii_digit()
                    || (b.is_ascii_uppercase() && after_lower)
            });
        if starts_word {
            out.push('-');
        }
        out.push(match c {
            '_' => '-',
            c => c.to_ascii_lowercase(),
        });
    }
    out
}
