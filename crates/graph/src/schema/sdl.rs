//! Schema text to declarations.

use std::sync::Arc;

use crate::{
    query::{
        lex::{SyntaxError, Token},
        parse::{NONE, Parser, Val},
    },
    resolve::View,
};

use super::Kind;

/// A type reference by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TyDecl {
    Named(Arc<str>),
    List(Box<TyDecl>),
    NonNull(Box<TyDecl>),
}

/// Which views see a declaration: from `since` on, up to but not with `until`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) since: Option<View>,
    pub(crate) until: Option<View>,
}

/// A constant literal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Const {
    Null,
    Bool(bool),
    Int(String),
    Float(String),
    Str(String),
    Enum(String),
    List(Vec<Const>),
    Object(Vec<(String, Const)>),
}

impl Const {
    /// As GraphQL text.
    pub(crate) fn text(&self) -> String {
        match self {
            Const::Null => "null".into(),
            Const::Bool(b) => b.to_string(),
            Const::Int(t) | Const::Float(t) | Const::Enum(t) => t.clone(),
            Const::Str(t) => serde_json::Value::from(t.as_str()).to_string(),
            Const::List(items) => format!(
                "[{}]",
                items.iter().map(Const::text).collect::<Vec<_>>().join(", ")
            ),
            Const::Object(fields) => {
                format!(
                    "{{{}}}",
                    fields
                        .iter()
                        .map(|(n, v)| format!("{n}: {}", v.text()))
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            }
        }
    }
}

/// An applied directive.
#[derive(Debug, Clone)]
pub(crate) struct DirDecl {
    pub(crate) name: Arc<str>,
    pub(crate) args: Vec<(Arc<str>, Const)>,
}

/// An argument or input field.
#[derive(Debug, Clone)]
pub(crate) struct ArgDecl {
    pub(crate) name: Arc<str>,
    pub(crate) description: Option<Arc<str>>,
    pub(crate) ty: TyDecl,
    pub(crate) default: Option<Const>,
    pub(crate) directives: Vec<DirDecl>,
    pub(crate) range: Range,
}

/// A field.
#[derive(Debug, Clone)]
pub(crate) struct FieldDecl {
    pub(crate) name: Arc<str>,
    pub(crate) description: Option<Arc<str>>,
    pub(crate) args: Vec<ArgDecl>,
    pub(crate) ty: TyDecl,
    pub(crate) directives: Vec<DirDecl>,
    pub(crate) range: Range,
}

/// An enum value.
#[derive(Debug, Clone)]
pub(crate) struct ValueDecl {
    pub(crate) name: Arc<str>,
    pub(crate) description: Option<Arc<str>>,
    pub(crate) directives: Vec<DirDecl>,
    pub(crate) range: Range,
}

/// A type, or an extension of one.
#[derive(Debug, Clone)]
pub(crate) struct TypeDecl {
    pub(crate) kind: Kind,
    pub(crate) name: Arc<str>,
    pub(crate) extends: bool,
    pub(crate) description: Option<Arc<str>>,
    pub(crate) interfaces: Vec<Arc<str>>,
    pub(crate) fields: Vec<FieldDecl>,
    pub(crate) inputs: Vec<ArgDecl>,
    pub(crate) values: Vec<ValueDecl>,
    pub(crate) members: Vec<Arc<str>>,
    pub(crate) directives: Vec<DirDecl>,
    pub(crate) range: Range,
}

/// A directive.
#[derive(Debug, Clone)]
pub(crate) struct DirectiveDecl {
    pub(crate) name: Arc<str>,
    pub(crate) description: Option<Arc<str>>,
    pub(crate) args: Vec<ArgDecl>,
    pub(crate) locations: Vec<Arc<str>>,
    pub(crate) repeatable: bool,
    pub(crate) range: Range,
}

/// All of one text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sdl {
    pub(crate) types: Vec<TypeDecl>,
    pub(crate) directives: Vec<DirectiveDecl>,
}

/// Deepest list wrapping of a type.
const MAX_TYPE_DEPTH: usize = 8;

/// Reads schema text.
pub(crate) fn parse(text: &str) -> Result<Sdl, SyntaxError> {
    let mut p = Reader {
        p: Parser::new(text)?,
        out: Sdl::default(),
    };
    while p.p.token != Token::End {
        p.definition()?;
    }
    Ok(p.out)
}

struct Reader<'a> {
    p: Parser<'a>,
    out: Sdl,
}

impl Reader<'_> {
    fn description(&mut self) -> Result<Option<Arc<str>>, SyntaxError> {
        Ok(self.p.string()?.map(Arc::from))
    }

    fn name(&mut self) -> Result<Arc<str>, SyntaxError> {
        Ok(self.p.name()?.into())
    }

    fn definition(&mut self) -> Result<(), SyntaxError> {
        let description = self.description()?;
        let extends = self.p.eat_word("extend")?;
        let Token::Name(word) = self.p.token else {
            return Err(self.p.expected("a definition"));
        };
        let kind = match word {
            "scalar" => Kind::Scalar,
            "type" => Kind::Object,
            "interface" => Kind::Interface,
            "union" => Kind::Union,
            "enum" => Kind::Enum,
            "input" => Kind::Input,
            "directive" if !extends => return self.directive(description),
            "schema" => return self.schema(),
            _ => return Err(self.p.expected("a definition")),
        };
        self.p.advance()?;
        let name = self.name()?;
        let mut interfaces = Vec::new();
        if matches!(kind, Kind::Object | Kind::Interface) && self.p.eat_word("implements")? {
            self.p.eat(b'&')?;
            loop {
                interfaces.push(self.name()?);
                if !self.p.eat(b'&')? {
                    break;
                }
            }
        }
        let (directives, range) = self.directives()?;
        let mut ty = TypeDecl {
            kind,
            name,
            extends,
            description,
            interfaces,
            fields: Vec::new(),
            inputs: Vec::new(),
            values: Vec::new(),
            members: Vec::new(),
            directives,
            range,
        };
        match kind {
            Kind::Scalar => {}
            Kind::Union => {
                if self.p.eat(b'=')? {
                    self.p.eat(b'|')?;
                    loop {
                        ty.members.push(self.name()?);
                        if !self.p.eat(b'|')? {
                            break;
                        }
                    }
                }
            }
            Kind::Object | Kind::Interface => {
                if self.p.eat(b'{')? {
                    while !self.p.eat(b'}')? {
                        ty.fields.push(self.field()?);
                    }
                }
            }
            Kind::Input => {
                if self.p.eat(b'{')? {
                    ty.inputs = self.args(b'}')?;
                }
            }
            Kind::Enum => {
                if self.p.eat(b'{')? {
                    while !self.p.eat(b'}')? {
                        let description = self.description()?;
                        let name = self.name()?;
                        let (directives, range) = self.directives()?;
                        ty.values.push(ValueDecl {
                            name,
                            description,
                            directives,
                            range,
                        });
                    }
                }
            }
        }
        self.out.types.push(ty);
        Ok(())
    }

    /// `schema { query: Query }`: only the usual name is allowed.
    fn schema(&mut self) -> Result<(), SyntaxError> {
        self.p.advance()?;
        self.directives()?;
        self.p.expect(b'{')?;
        while !self.p.eat(b'}')? {
            let operation = self.p.name()?;
            self.p.expect(b':')?;
            let name = self.p.name()?;
            if (operation, name) != ("query", "Query") {
                return Err(self.p.error("the only root type may be `query: Query`"));
            }
        }
        Ok(())
    }

    fn directive(&mut self, description: Option<Arc<str>>) -> Result<(), SyntaxError> {
        self.p.advance()?;
        self.p.expect(b'@')?;
        let name = self.name()?;
        let args = if self.p.eat(b'(')? {
            self.args(b')')?
        } else {
            Vec::new()
        };
        // Not in the language: a directive may itself be limited to some views.
        let (_, range) = self.directives()?;
        let repeatable = self.p.eat_word("repeatable")?;
        if !self.p.eat_word("on")? {
            return Err(self.p.expected("`on`"));
        }
        self.p.eat(b'|')?;
        let mut locations = Vec::new();
        loop {
            locations.push(self.name()?);
            if !self.p.eat(b'|')? {
                break;
            }
        }
        self.out.directives.push(DirectiveDecl {
            name,
            description,
            args,
            locations,
            repeatable,
            range,
        });
        Ok(())
    }

    fn field(&mut self) -> Result<FieldDecl, SyntaxError> {
        let description = self.description()?;
        let name = self.name()?;
        let args = if self.p.eat(b'(')? {
            self.args(b')')?
        } else {
            Vec::new()
        };
        self.p.expect(b':')?;
        let ty = self.ty(0)?;
        let (directives, range) = self.directives()?;
        Ok(FieldDecl {
            name,
            description,
            args,
            ty,
            directives,
            range,
        })
    }

    fn args(&mut self, end: u8) -> Result<Vec<ArgDecl>, SyntaxError> {
        let mut out = Vec::new();
        while !self.p.eat(end)? {
            let description = self.description()?;
            let name = self.name()?;
            self.p.expect(b':')?;
            let ty = self.ty(0)?;
            let default = if self.p.eat(b'=')? {
                let at = self.p.value(true)?;
                Some(self.constant(at))
            } else {
                None
            };
            let (directives, range) = self.directives()?;
            out.push(ArgDecl {
                name,
                description,
                ty,
                default,
                directives,
                range,
            });
        }
        Ok(out)
    }

    fn ty(&mut self, depth: usize) -> Result<TyDecl, SyntaxError> {
        if depth > MAX_TYPE_DEPTH {
            return Err(self.p.error("the type has too many lists"));
        }
        let ty = if self.p.eat(b'[')? {
            let inner = self.ty(depth + 1)?;
            self.p.expect(b']')?;
            TyDecl::List(Box::new(inner))
        } else {
            TyDecl::Named(self.name()?)
        };
        Ok(if self.p.eat(b'!')? {
            TyDecl::NonNull(Box::new(ty))
        } else {
            ty
        })
    }

    /// A parsed value; its nesting is bounded by the parser.
    fn constant(&self, at: u32) -> Const {
        let Some(entry) = self.p.doc.vals.get(at as usize) else {
            return Const::Null;
        };
        match &entry.val {
            Val::Null | Val::Var(_) => Const::Null,
            Val::Bool(b) => Const::Bool(*b),
            Val::Int(t) => Const::Int((*t).into()),
            Val::Float(t) => Const::Float((*t).into()),
            Val::Str(t) => Const::Str(t.to_string()),
            Val::Enum(t) => Const::Enum((*t).into()),
            Val::List(first) => {
                Const::List(self.chain(*first).map(|(_, i)| self.constant(i)).collect())
            }
            Val::Object(first) => Const::Object(
                self.chain(*first)
                    .map(|(n, i)| (n.to_owned(), self.constant(i)))
                    .collect(),
            ),
        }
    }

    fn chain(&self, first: u32) -> impl Iterator<Item = (&str, u32)> {
        let vals = &self.p.doc.vals;
        let next = |i: u32| (i != NONE).then_some(i);
        std::iter::successors(next(first), move |i| {
            vals.get(*i as usize).and_then(|v| next(v.next))
        })
        .filter_map(move |i| vals.get(i as usize).map(|v| (v.name, i)))
    }

    /// Applied directives; `@since` and `@until` become the range.
    fn directives(&mut self) -> Result<(Vec<DirDecl>, Range), SyntaxError> {
        let pos = self.p.pos;
        let first = self.p.directives(true)?;
        let mut out = Vec::new();
        let mut range = Range::default();
        for d in self.p.doc.dirs(first) {
            let args: Vec<(Arc<str>, Const)> = self
                .chain(d.args)
                .map(|(n, i)| (n.into(), self.constant(i)))
                .collect();
            if d.name != "since" && d.name != "until" {
                out.push(DirDecl {
                    name: d.name.into(),
                    args,
                });
                continue;
            }
            let version = match args.first() {
                Some((_, Const::Str(v))) => View::parse(v),
                _ => None,
            };
            let version = version.ok_or_else(|| {
                SyntaxError::at(
                    self.p.doc.text,
                    pos,
                    format!("@{} needs `version: \"v1.2.3\"`", d.name),
                )
            })?;
            if d.name == "since" {
                range.since = Some(version);
            } else {
                range.until = Some(version);
            }
        }
        Ok((out, range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_read() {
        let sdl = parse(
            r#""""Doc""" type A implements B & C @since(version: "v0.12.0") {
                "d" f("arg" x: [Int!]! = [1, 2] @until(version: "v0.13.0"), y: E = ONE): A! @deprecated(reason: "no")
            }
            extend type A { g: Int } union U = A | B  enum E { ONE TWO @since(version: "v0.15.0") } input I { a: String = "x\"y" }
            scalar S directive @d(r: String!) repeatable on FIELD_DEFINITION | ENUM schema { query: Query } interface B { id: S! }"#,
        )
        .expect("a schema");
        assert_eq!(sdl.types.len(), 7);
        let a = &sdl.types[0];
        assert_eq!(a.range.since, Some(View::new(0, 12, 0)));
        assert_eq!(a.interfaces.len(), 2);
        assert_eq!(
            a.fields[0].args[0]
                .default
                .as_ref()
                .map(Const::text)
                .as_deref(),
            Some("[1, 2]")
        );
        assert_eq!(a.fields[0].args[0].range.until, Some(View::new(0, 13, 0)));
        assert_eq!(a.fields[0].directives[0].name.as_ref(), "deprecated");
        assert_eq!(
            sdl.types[4].inputs[0]
                .default
                .as_ref()
                .map(Const::text)
                .as_deref(),
            Some(r#""x\"y""#)
        );
        assert_eq!(sdl.directives[0].locations.len(), 2);
        assert!(sdl.directives[0].repeatable);
    }

    #[test]
    fn mistakes_say_where() {
        assert!(
            parse("type A { a }")
                .expect_err("no type")
                .to_string()
                .contains("expected `:`")
        );
        assert!(
            parse("type A @since(version: \"x\")")
                .expect_err("no version")
                .to_string()
                .contains("@since needs")
        );
        assert!(
            parse("schema { mutation: M }")
                .expect_err("a mutation")
                .to_string()
                .contains("only root")
        );
        assert!(
            parse("{a}")
                .expect_err("a query")
                .to_string()
                .contains("expected a definition")
        );
    }
}
