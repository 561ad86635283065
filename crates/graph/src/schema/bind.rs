//! Building a schema: texts are merged, resolvers are bound, and the whole is checked for every view.

use std::{future::Future, sync::Arc};

use crate::{
    error::Error,
    query::lex::SyntaxError,
    resolve::{Invocation, Memo},
    value::Value,
};

use super::{
    Binding, Inner, Provider, Schema,
    declare::declare,
    sdl::{self, Sdl},
};

/// What is wrong with a schema.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A text cannot be read.
    #[error("cannot read the schema text `{name}`")]
    Syntax {
        /// Which text.
        name: String,
        /// Where and why.
        #[source]
        source: SyntaxError,
    },
    /// A type is declared twice in the same views, or extended but not declared, or as another kind.
    #[error("type `{name}`: {problem}")]
    Type {
        /// The type.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A field, argument, enum value or directive is declared wrongly.
    #[error("`{path}`: {problem}")]
    Member {
        /// `Type.field`, `Type.field(argument:)` or `@directive`.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A resolver is bound to something that is not declared, twice, or with words that contradict each other.
    #[error("the binding of `{path}`: {problem}")]
    Binding {
        /// `Type.field`.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The declarations name more versions than a mask holds.
    #[error("the schema names {0} versions, more than 63")]
    TooManyVersions(usize),
}

/// Collects schema texts and resolvers. See [`Schema::builder`].
pub struct Builder<C> {
    texts: Vec<Arc<Sdl>>,
    bindings: Vec<(String, Binding<C>)>,
}

impl<C> Default for Builder<C> {
    fn default() -> Self {
        Self {
            texts: Vec::new(),
            bindings: Vec::new(),
        }
    }
}

impl<C> Clone for Builder<C> {
    fn clone(&self) -> Self {
        Self {
            texts: self.texts.clone(),
            bindings: self.bindings.clone(),
        }
    }
}

impl<C> Builder<C> {
    /// Adds a schema text; `name` is for error messages.
    ///
    /// # Errors
    /// When the text is no schema.
    pub fn sdl(&mut self, name: &str, text: &str) -> Result<&mut Self, SchemaError> {
        let sdl = sdl::parse(text).map_err(|source| SchemaError::Syntax {
            name: name.into(),
            source,
        })?;
        self.texts.push(Arc::new(sdl));
        Ok(self)
    }

    /// Gives `Type.field` its resolver. [`Builder::by_view`] and [`Builder::sensitive`] speak about the last one bound.
    pub fn bind<F, R>(&mut self, path: &str, memo: Memo, resolver: F) -> &mut Self
    where
        F: Fn(Invocation<C>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, Error>> + Send + 'static,
    {
        let resolver = Arc::new(move |inv| Box::pin(resolver(inv)) as crate::resolve::BoxFuture<_>);
        self.bindings.push((
            path.into(),
            Binding {
                resolver,
                memo,
                by_view: false,
                sensitive: Vec::new(),
            },
        ));
        self
    }

    /// The field last bound means something else in other views: recipes record the view.
    pub fn by_view(&mut self) -> &mut Self {
        if let Some((_, b)) = self.bindings.last_mut() {
            b.by_view = true;
        }
        self
    }

    /// Arguments of the field last bound that never enter a recipe; null when the field is asked by loading its recipe. The
    /// field must be bound with [`Memo::Never`].
    pub fn sensitive(&mut self, args: &[&str]) -> &mut Self {
        if let Some((_, b)) = self.bindings.last_mut() {
            b.sensitive = args.iter().map(|a| Arc::from(*a)).collect();
        }
        self
    }

    /// The schema.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn build(&self) -> Result<Schema<C>, SchemaError> {
        let defs = Arc::new(declare(&self.texts)?);
        let mut bindings: Vec<Option<Binding<C>>> = (0..defs.fields.len()).map(|_| None).collect();
        for (path, binding) in &self.bindings {
            let bad = |problem: &str| SchemaError::Binding {
                path: path.clone(),
                problem: problem.into(),
            };
            let (ty, name) = path
                .split_once('.')
                .ok_or_else(|| bad("expected `Type.field`"))?;
            let ty = defs
                .type_named(ty)
                .ok_or_else(|| bad("there is no such type"))?;
            let fields = defs
                .ty(ty)
                .by_name
                .get(name)
                .ok_or_else(|| bad("there is no such field"))?;
            if !binding.sensitive.is_empty() && binding.memo != Memo::Never {
                return Err(bad(
                    "sensitive arguments need `Memo::Never`: the recipe does not tell two calls apart",
                ));
            }
            for arg in &binding.sensitive {
                if !fields
                    .iter()
                    .any(|f| defs.field(*f).args.iter().any(|a| a.name == *arg))
                {
                    return Err(bad(&format!("there is no argument `{arg}` to leave out")));
                }
            }
            for f in fields {
                if defs.field(*f).provider != Provider::Engine {
                    return Err(bad("the graph answers this field itself"));
                }
                if bindings[*f as usize].replace(binding.clone()).is_some() {
                    return Err(bad("it is bound already"));
                }
            }
        }
        let views = (0..=defs.bounds.len())
            .map(|_| std::sync::OnceLock::new())
            .collect();
        Ok(Schema(Arc::new(Inner {
            defs,
            bindings,
            views,
            builder: self.clone(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing<C>(_: Invocation<C>) -> std::future::Ready<Result<Value, Error>> {
        std::future::ready(Ok(Value::Null))
    }

    fn problem(texts: &[&str], bind: impl Fn(&mut Builder<()>)) -> String {
        let mut builder = Schema::<()>::builder();
        for text in texts {
            if let Err(e) = builder.sdl("text", text) {
                return crate::error::chain(&e);
            }
        }
        bind(&mut builder);
        builder
            .build()
            .err()
            .map_or_else(String::new, |e| e.to_string())
    }

    #[test]
    fn contradictions_are_found() {
        for (texts, part) in [
            (
                &["type Query { a: }"][..],
                "cannot read the schema text `text`: expected a name, found `}` (line 1, column 17)",
            ),
            (&["type A { a: Int }"], "type `Query`: it is not declared"),
            (
                &["type Query { a: Int }", "type Query { b: Int }"],
                "type `Query`: it is declared twice",
            ),
            (
                &["type Query { a: Int } extend type B { b: Int }"],
                "type `B`: it is extended but not declared",
            ),
            (
                &["type Query { a: Int } extend enum Query { B }"],
                "it is extended as another kind",
            ),
            (&["type Query { a: B }"], "`Query.a`: there is no type `B`"),
            (
                &["type Query { a(b: C): Int }"],
                "`Query.a(b:)`: there is no type `C`",
            ),
            (
                &["type Query { a(b: Query): Int }"],
                "its type is no input type",
            ),
            (
                &["type Query { a: I } input I { a: Int }"],
                "its type is an input type",
            ),
            (
                &["type Query { a: Int a: Int }"],
                "`Query.a`: two declarations are seen by the same view",
            ),
            (
                &[
                    "type Query { a: Int @until(version: \"v0.13.0\") a: Int @since(version: \"v0.12.0\") }",
                ],
                "two declarations are seen by the same view",
            ),
            (
                &["type Query { a(b: Int, b: Int): Int }"],
                "`Query.a(b:)`: two declarations",
            ),
            (
                &["type Query { a: New } type New @since(version: \"v0.15.0\") { b: Int }"],
                "`Query.a`: it is seen by views that do not see its type `New`",
            ),
            (
                &["type Query { a(b: Int = \"x\"): Int }"],
                "`Query.a(b:)`: the default: expected Int, found \"x\"",
            ),
            (
                &["type Query { a(b: E = B): Int } enum E { A }"],
                "the default: invalid enum value \"B\"",
            ),
            (
                &["type Query { a: E } enum E { A A }"],
                "`E.A`: the value is declared twice",
            ),
            (
                &["type Query implements I { a: Int } interface I { b: Int }"],
                "`Query.b`: the field is missing",
            ),
            (
                &["type Query implements I { a: Int }"],
                "type `Query`: there is no type `I`",
            ),
            (
                &["type Query { a(b: Int @also(type: 1)): Int }"],
                "@also needs",
            ),
        ] {
            let found = problem(texts, |_| {});
            assert!(found.contains(part), "{texts:?}: {found}");
        }
    }

    #[test]
    fn bindings_are_checked() {
        let text = &["type Query { a(b: Int): A! } type A { id: AID! }"];
        assert_eq!(problem(text, |_| {}), "");
        let bound = |path: &'static str, memo| {
            problem(text, |b| {
                b.bind(path, memo, nothing).sensitive(&[]);
            })
        };
        assert_eq!(bound("Query.a", Memo::Session), "");
        assert!(bound("Query", Memo::Session).contains("expected `Type.field`"));
        assert!(bound("B.a", Memo::Session).contains("`B.a`: there is no such type"));
        assert!(bound("Query.b", Memo::Session).contains("`Query.b`: there is no such field"));
        assert!(bound("A.id", Memo::Session).contains("the graph answers this field itself"));
        assert!(
            bound("Query.loadAFromID", Memo::Session)
                .contains("the graph answers this field itself")
        );
        let twice = problem(text, |b| {
            b.bind("Query.a", Memo::Session, nothing)
                .bind("Query.a", Memo::Never, nothing);
        });
        assert!(twice.contains("it is bound already"));
        let sensitive = |memo, arg: &'static str| {
            problem(text, |b| {
                b.bind("Query.a", memo, nothing).sensitive(&[arg]);
            })
        };
        assert_eq!(sensitive(Memo::Never, "b"), "");
        assert!(sensitive(Memo::Session, "b").contains("Memo::Never"));
        assert!(sensitive(Memo::Never, "c").contains("no argument `c`"));
    }

    #[test]
    fn a_schema_can_be_extended() {
        let mut builder = Schema::<()>::builder();
        builder
            .sdl("a", "type Query { a: Int }")
            .expect("a schema")
            .bind("Query.a", Memo::Session, nothing);
        let schema = builder.build().expect("a schema");
        assert!(schema.unbound().is_empty());
        let mut more = schema.extend();
        more.sdl("b", "extend type Query { b: B! } type B { id: BID! }")
            .expect("a schema");
        let more = more.build().expect("a schema");
        assert_eq!(more.unbound(), ["Query.b"]);
        assert!(more.fields().contains(&"Query.loadBFromID".to_owned()));
    }
}
