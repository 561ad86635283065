//! Descriptions of types: plain data, built step by step. Every step is a pure function from one description to the next.

use std::sync::Arc;

use super::{
    function::Function,
    names::{field_name, type_name},
};

/// Most levels of descriptions inside one another. They are taken apart level by level.
pub const MAX_DEPTH: u32 = 100;
/// Most members of one type: fields, functions, values.
pub const MAX_MEMBERS: usize = 10_000;

/// A place in a module's source code.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceMap {
    /// Name of the module.
    pub module: Arc<str>,
    /// File, relative to the module's source.
    pub filename: Arc<str>,
    /// Line, from 1.
    pub line: i64,
    /// Column, from 1.
    pub column: i64,
}

/// What something is called and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Name as GraphQL spells it.
    pub name: Arc<str>,
    /// Name as the code spells it.
    pub original_name: Arc<str>,
    /// What it is for.
    pub description: Arc<str>,
    /// Where the code declares it.
    pub source_map: Option<SourceMap>,
    /// What to use instead.
    pub deprecated: Option<Arc<str>>,
    /// Module that defines it; empty for the engine's own.
    pub module: Arc<str>,
}

impl About {
    /// Something that is named and explained, and no more.
    pub fn new(name: &str, original_name: &str, description: &str) -> Self {
        Self {
            name: name.into(),
            original_name: original_name.into(),
            description: description.into(),
            source_map: None,
            deprecated: None,
            module: "".into(),
        }
    }

    /// A type named as code spells it.
    pub fn of_type(name: &str, description: &str) -> Self {
        Self::new(&type_name(name), name, description)
    }

    /// A field, function or argument named as code spells it.
    pub fn of_field(name: &str, description: &str) -> Self {
        Self::new(&field_name(name), name, description)
    }
}

/// The kinds of types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// A number with a fraction.
    Float,
    /// True or false.
    Boolean,
    /// Text with a meaning of its own.
    Scalar,
    /// A list.
    List,
    /// An object.
    Object,
    /// An interface.
    Interface,
    /// A bundle of values given as one argument.
    Input,
    /// Nothing.
    Void,
    /// One of several named values.
    Enum,
}

impl Kind {
    const ALL: [(Kind, &'static str); 11] = [
        (Kind::String, "STRING_KIND"),
        (Kind::Integer, "INTEGER_KIND"),
        (Kind::Float, "FLOAT_KIND"),
        (Kind::Boolean, "BOOLEAN_KIND"),
        (Kind::Scalar, "SCALAR_KIND"),
        (Kind::List, "LIST_KIND"),
        (Kind::Object, "OBJECT_KIND"),
        (Kind::Interface, "INTERFACE_KIND"),
        (Kind::Input, "INPUT_KIND"),
        (Kind::Void, "VOID_KIND"),
        (Kind::Enum, "ENUM_KIND"),
    ];

    /// The name in `TypeDefKind`.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(k, _)| *k == self)
            .map_or("", |(_, n)| n)
    }

    /// A value of `TypeDefKind`, with or without the ending `_KIND`.
    pub fn parse(name: &str) -> Option<Self> {
        let found = Self::ALL
            .iter()
            .find(|(_, n)| *n == name || n.strip_suffix("_KIND") == Some(name));
        found.map(|(k, _)| *k)
    }
}

/// A field of an object or input.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name.
    pub about: About,
    /// Its type.
    pub ty: Arc<TypeDef>,
}

/// A value of an enum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnumValue {
    /// Its name.
    pub about: About,
    /// What the name stands for.
    pub value: Arc<str>,
}

/// An object or interface.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Its name.
    pub about: About,
    /// Stored data.
    pub fields: Vec<Arc<Field>>,
    /// What can be called.
    pub functions: Vec<Arc<Function>>,
    /// What makes it.
    pub constructor: Option<Arc<Function>>,
}

/// An interface: the functions an object must have.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Its name.
    pub about: About,
    /// Its functions.
    pub functions: Vec<Arc<Function>>,
}

/// An enum.
#[derive(Debug, Clone, PartialEq)]
pub struct Enum {
    /// Its name.
    pub about: About,
    /// Its values.
    pub values: Vec<Arc<EnumValue>>,
}

/// An input object.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Its name.
    pub about: About,
    /// Its fields.
    pub fields: Vec<Arc<Field>>,
}

/// What is known of a type besides its kind.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Shape {
    /// Nothing.
    #[default]
    Plain,
    /// A scalar's name.
    Scalar(Arc<About>),
    /// A list's element.
    List(Arc<TypeDef>),
    /// An object.
    Object(Arc<Object>),
    /// An interface.
    Interface(Arc<Interface>),
    /// An input object.
    Input(Arc<Input>),
    /// An enum.
    Enum(Arc<Enum>),
}

/// The description of a type.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeDef {
    /// What kind it is; none yet at the start of a description.
    pub kind: Option<Kind>,
    /// May there be no value?
    pub optional: bool,
    /// The rest.
    pub shape: Shape,
    /// How many levels of descriptions are inside this one.
    pub depth: u32,
}

/// Why a description was not changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TypeDefError {
    /// An addition to something that cannot have it.
    #[error("cannot add {what} to a type of kind {kind}: {wants}")]
    WrongKind {
        /// What was to be added.
        what: &'static str,
        /// To what.
        kind: &'static str,
        /// What it can be added to.
        wants: &'static str,
    },
    /// A type without a name.
    #[error("an {0} type must have a name")]
    NoName(&'static str),
    /// An enum value without a name.
    #[error("enum value must not be empty")]
    EmptyValue,
    /// An enum value that is no name.
    #[error(
        "enum value {0:?} is not valid: it must be letters, digits and underscores, and not begin with a digit"
    )]
    BadValue(String),
    /// An enum value that is there already.
    #[error("enum value {0:?} is already defined")]
    SameValue(String),
    /// Descriptions inside descriptions inside …
    #[error("the description of the type has more than {MAX_DEPTH} levels")]
    TooDeep,
    /// Too many fields, functions or values.
    #[error("the type has more than {MAX_MEMBERS} {0}")]
    TooMany(&'static str),
    /// Both kinds of default.
    #[error("cannot set both default value and default path from context, of argument {0:?}")]
    TwoDefaults(String),
    /// A default path for something that is no file or directory.
    #[error("can only set default path for Directory or File type, not {0}")]
    DefaultPath(String),
    /// Patterns for something that is no directory.
    #[error("can only set ignore for Directory type, not {0}")]
    Ignore(String),
    /// Not the kind of type a module may have there.
    #[error("expected the description of an {expected}, got one of kind {found}")]
    Expected {
        /// What should have come.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
    /// A name the engine uses itself.
    #[error("cannot define {what} with reserved name {name:?} on object {object:?}")]
    Reserved {
        /// A field or function.
        what: &'static str,
        /// Its name.
        name: String,
        /// Where.
        object: String,
    },
}

impl From<TypeDefError> for graph::error::Error {
    fn from(error: TypeDefError) -> Self {
        graph::error::Error::user(error.to_string())
    }
}

/// One level more than what is inside, if that is allowed.
pub(super) fn above(inside: u32) -> Result<u32, TypeDefError> {
    if inside >= MAX_DEPTH {
        Err(TypeDefError::TooDeep)
    } else {
        Ok(inside + 1)
    }
}

impl Default for TypeDef {
    fn default() -> Self {
        Self {
            kind: None,
            optional: false,
            shape: Shape::Plain,
            depth: 0,
        }
    }
}

impl TypeDef {
    /// A type of a kind that needs no more words.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind: Some(kind),
            ..Self::default()
        }
    }

    /// A reference to an object by name.
    pub fn object(name: &str) -> Self {
        let about = About::new(name, name, "");
        let object = Object {
            about,
            fields: vec![],
            functions: vec![],
            constructor: None,
        };
        Self {
            shape: Shape::Object(Arc::new(object)),
            ..Self::of(Kind::Object)
        }
    }

    /// The same as one that may have no value.
    #[must_use]
    pub fn with_optional(&self, optional: bool) -> Self {
        Self {
            optional,
            ..self.clone()
        }
    }

    /// Sets the kind.
    #[must_use]
    pub fn with_kind(&self, kind: Kind) -> Self {
        Self {
            kind: Some(kind),
            ..self.clone()
        }
    }

    /// Makes it a scalar.
    ///
    /// # Errors
    /// It has no name.
    pub fn with_scalar(&self, about: About) -> Result<Self, TypeDefError> {
        named(&about, "scalar")?;
        Ok(self.shaped(Kind::Scalar, Shape::Scalar(Arc::new(about)), 0))
    }

    /// Makes it a list.
    ///
    /// # Errors
    /// Lists of lists of lists.
    pub fn with_list_of(&self, element: Arc<TypeDef>) -> Result<Self, TypeDefError> {
        let depth = above(element.depth)?;
        Ok(self.shaped(Kind::List, Shape::List(element), depth))
    }

    /// Makes it an object.
    ///
    /// # Errors
    /// It has no name.
    pub fn with_object(&self, about: About) -> Result<Self, TypeDefError> {
        named(&about, "object")?;
        let object = Object {
            about,
            fields: vec![],
            functions: vec![],
            constructor: None,
        };
        Ok(self.shaped(Kind::Object, Shape::Object(Arc::new(object)), 0))
    }

    /// Makes it an interface.
    ///
    /// # Errors
    /// It has no name.
    pub fn with_interface(&self, about: About) -> Result<Self, TypeDefError> {
        named(&about, "interface")?;
        let interface = Interface {
            about,
            functions: vec![],
        };
        Ok(self.shaped(Kind::Interface, Shape::Interface(Arc::new(interface)), 0))
    }

    /// Makes it an enum.
    ///
    /// # Errors
    /// It has no name.
    pub fn with_enum(&self, about: About) -> Result<Self, TypeDefError> {
        named(&about, "enum")?;
        Ok(self.shaped(
            Kind::Enum,
            Shape::Enum(Arc::new(Enum {
                about,
                values: vec![],
            })),
            0,
        ))
    }

    /// Adds a field to an object.
    ///
    /// # Errors
    /// It is no object, or has too much already.
    pub fn with_field(&self, field: Field) -> Result<Self, TypeDefError> {
        let Shape::Object(object) = &self.shape else {
            return Err(self.cannot("a field", "only objects have fields"));
        };
        let depth = above(field.ty.depth)?.max(self.depth);
        let mut object = Object::clone(object);
        push(&mut object.fields, field, "fields")?;
        Ok(Self {
            shape: Shape::Object(Arc::new(object)),
            depth,
            ..self.clone()
        })
    }

    /// Adds a function to an object or interface.
    ///
    /// # Errors
    /// It is neither, or has too much already.
    pub fn with_function(&self, function: Arc<Function>) -> Result<Self, TypeDefError> {
        let depth = above(function.depth)?.max(self.depth);
        let room = |list: &Vec<Arc<Function>>| {
            if list.len() < MAX_MEMBERS {
                Ok(())
            } else {
                Err(TypeDefError::TooMany("functions"))
            }
        };
        let shape = match &self.shape {
            Shape::Object(object) => {
                room(&object.functions)?;
                let mut object = Object::clone(object);
                object.functions.push(function);
                Shape::Object(Arc::new(object))
            }
            Shape::Interface(interface) => {
                room(&interface.functions)?;
                let mut interface = Interface::clone(interface);
                interface.functions.push(function);
                Shape::Interface(Arc::new(interface))
            }
            _ => {
                return Err(self.cannot("a function", "only objects and interfaces have functions"));
            }
        };
        Ok(Self {
            shape,
            depth,
            ..self.clone()
        })
    }

    /// Sets the function that makes an object.
    ///
    /// # Errors
    /// It is no object.
    pub fn with_constructor(&self, function: Arc<Function>) -> Result<Self, TypeDefError> {
        let Shape::Object(object) = &self.shape else {
            return Err(self.cannot("a constructor", "only objects have constructors"));
        };
        let depth = above(function.depth)?.max(self.depth);
        let object = Object {
            constructor: Some(function),
            ..Object::clone(object)
        };
        Ok(Self {
            shape: Shape::Object(Arc::new(object)),
            depth,
            ..self.clone()
        })
    }

    /// Adds a value to an enum.
    ///
    /// # Errors
    /// It is no enum, or the value is none or there already.
    pub fn with_enum_value(&self, value: EnumValue) -> Result<Self, TypeDefError> {
        let Shape::Enum(of) = &self.shape else {
            return Err(self.cannot("a value", "only enums have values"));
        };
        let name = &*value.about.name;
        if name.is_empty() {
            return Err(TypeDefError::EmptyValue);
        }
        if !is_name(name) {
            return Err(TypeDefError::BadValue(name.to_owned()));
        }
        if of.values.iter().any(|v| *v.about.name == *name) {
            return Err(TypeDefError::SameValue(name.to_owned()));
        }
        let mut of = Enum::clone(of);
        push(&mut of.values, value, "values")?;
        Ok(Self {
            shape: Shape::Enum(Arc::new(of)),
            ..self.clone()
        })
    }

    /// What it is called: an object's, interface's, input's, enum's or scalar's name; a list's by its element; else the kind's.
    pub fn name(&self) -> String {
        match &self.shape {
            Shape::List(element) => format!("[{}]", element.name()),
            _ => self.about().map_or_else(
                || self.kind_name().to_owned(),
                |about| about.name.to_string(),
            ),
        }
    }

    /// What is said about a type that has a name.
    pub fn about(&self) -> Option<&About> {
        match &self.shape {
            Shape::Plain | Shape::List(_) => None,
            Shape::Scalar(about) => Some(about),
            Shape::Object(o) => Some(&o.about),
            Shape::Interface(i) => Some(&i.about),
            Shape::Input(i) => Some(&i.about),
            Shape::Enum(e) => Some(&e.about),
        }
    }

    /// The name of the kind.
    pub fn kind_name(&self) -> &'static str {
        self.kind.map_or("", Kind::name)
    }

    fn shaped(&self, kind: Kind, shape: Shape, depth: u32) -> Self {
        Self {
            kind: Some(kind),
            optional: self.optional,
            shape,
            depth,
        }
    }

    fn cannot(&self, what: &'static str, wants: &'static str) -> TypeDefError {
        TypeDefError::WrongKind {
            what,
            kind: self.kind.map_or("unknown", Kind::name),
            wants,
        }
    }
}

fn named(about: &About, what: &'static str) -> Result<(), TypeDefError> {
    if about.name.is_empty() {
        Err(TypeDefError::NoName(what))
    } else {
        Ok(())
    }
}

fn push<T>(list: &mut Vec<Arc<T>>, item: T, what: &'static str) -> Result<(), TypeDefError> {
    if list.len() >= MAX_MEMBERS {
        return Err(TypeDefError::TooMany(what));
    }
    list.push(Arc::new(item));
    Ok(())
}

/// Letters, digits and underscores, not beginning with a digit.
fn is_name(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> EnumValue {
        EnumValue {
            about: About::new(name, name, ""),
            value: name.into(),
        }
    }

    #[test]
    fn being_optional_survives_everything() {
        let start = TypeDef::default().with_optional(true);
        assert!(start.with_kind(Kind::String).optional);
        assert!(
            start
                .with_object(About::of_type("x", ""))
                .expect("an object")
                .optional
        );
        assert!(
            start
                .with_list_of(Arc::new(TypeDef::of(Kind::String)))
                .expect("a list")
                .optional
        );
    }

    #[test]
    fn kinds_have_short_names_too() {
        assert_eq!(Kind::parse("STRING"), Some(Kind::String));
        assert_eq!(Kind::parse("STRING_KIND"), Some(Kind::String));
        assert_eq!(Kind::parse("NONE"), None);
    }

    #[test]
    fn enum_values_are_names_and_differ() {
        let of = TypeDef::default()
            .with_enum(About::of_type("e", ""))
            .expect("an enum");
        let of = of.with_enum_value(value("ACTIVE")).expect("a value");
        assert_eq!(
            of.with_enum_value(value("ACTIVE")),
            Err(TypeDefError::SameValue("ACTIVE".into()))
        );
        assert_eq!(of.with_enum_value(value("")), Err(TypeDefError::EmptyValue));
        for bad in ["1x-y", "a b", "ä", "1"] {
            assert_eq!(
                of.with_enum_value(value(bad)),
                Err(TypeDefError::BadValue(bad.into())),
                "{bad}"
            );
        }
        assert!(of.with_enum_value(value("_x9")).is_ok());
    }

    #[test]
    fn only_objects_have_fields() {
        let text = Arc::new(TypeDef::of(Kind::String));
        let field = Field {
            about: About::of_field("x", ""),
            ty: text.clone(),
        };
        assert!(matches!(
            text.with_field(field),
            Err(TypeDefError::WrongKind {
                kind: "STRING_KIND",
                ..
            })
        ));
        assert!(matches!(
            text.with_enum_value(value("A")),
            Err(TypeDefError::WrongKind { .. })
        ));
    }

    #[test]
    fn types_need_names() {
        assert_eq!(
            TypeDef::default().with_object(About::of_type(" ", "")),
            Err(TypeDefError::NoName("object"))
        );
        assert_eq!(
            TypeDef::default().with_enum(About::of_type("", "")),
            Err(TypeDefError::NoName("enum"))
        );
    }

    #[test]
    fn descriptions_are_not_endlessly_deep() {
        let mut of = Arc::new(TypeDef::of(Kind::String));
        for _ in 0..MAX_DEPTH {
            of = Arc::new(TypeDef::default().with_list_of(of).expect("a list"));
        }
        assert_eq!(
            TypeDef::default().with_list_of(of.clone()),
            Err(TypeDefError::TooDeep)
        );
        assert!(of.name().starts_with("[[["));
    }
}
