//! Functions of modules, as described: plain data, and the fields of the API that build and show it.

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};

use super::{
    fields::{source_map_arg, source_map_field},
    typedef::{About, MAX_MEMBERS, SourceMap, TypeDef, TypeDefError, above},
};
use crate::{Ctx, dispatch::Binder};

/// An argument of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionArg {
    /// Its name.
    pub about: About,
    /// Its type.
    pub ty: Arc<TypeDef>,
    /// Value used when the caller gives none, as JSON text; as the code wrote it, which may be no JSON at all.
    pub default_value: Option<Arc<str>>,
    /// Path used when the caller gives none.
    pub default_path: Arc<str>,
    /// Address used when the caller gives none.
    pub default_address: Arc<str>,
    /// Patterns of what is left out of a directory.
    pub ignore: Vec<Arc<str>>,
}

/// How long results of a function are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CachePolicy {
    /// `Default`, `PerSession` or `Never`; empty when nobody said.
    pub rule: Arc<str>,
    /// How long a result is good.
    pub time_to_live: Option<Arc<str>>,
}

/// What a function is besides callable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles {
    /// A check of the module.
    pub check: bool,
    /// It generates files.
    pub generator: bool,
    /// It gives a service to run.
    pub up: bool,
}

/// A function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its name; empty for a constructor.
    pub about: About,
    /// Its arguments, in order.
    pub args: Vec<Arc<FunctionArg>>,
    /// Type of its result.
    pub returns: Arc<TypeDef>,
    /// How long results are kept.
    pub cache: CachePolicy,
    /// What else it is.
    pub roles: Roles,
    /// How many levels of descriptions are inside this one.
    pub depth: u32,
}

impl Function {
    /// A function without arguments.
    ///
    /// # Errors
    /// Types inside types inside …
    pub fn new(about: About, returns: Arc<TypeDef>) -> Result<Self, TypeDefError> {
        let depth = above(returns.depth)?;
        Ok(Self {
            about,
            args: vec![],
            returns,
            cache: CachePolicy::default(),
            roles: Roles::default(),
            depth,
        })
    }

    /// Adds an argument. One with a default path need not be given.
    ///
    /// # Errors
    /// Defaults that exclude one another or do not suit the type.
    pub fn with_arg(&self, mut arg: FunctionArg) -> Result<Self, TypeDefError> {
        if self.args.len() >= MAX_MEMBERS {
            return Err(TypeDefError::TooMany("arguments"));
        }
        let name = arg.ty.name();
        if !arg.default_path.is_empty() {
            if arg.default_value.is_some() {
                return Err(TypeDefError::TwoDefaults(arg.about.name.to_string()));
            }
            if !matches!(name.as_str(), "Directory" | "File") {
                return Err(TypeDefError::DefaultPath(name));
            }
            arg.ty = Arc::new(arg.ty.with_optional(true));
        }
        if !arg.ignore.is_empty() && name != "Directory" {
            return Err(TypeDefError::Ignore(name));
        }
        let depth = above(arg.ty.depth)?.max(self.depth);
        let mut function = Self {
            depth,
            ..self.clone()
        };
        function.args.push(Arc::new(arg));
        Ok(function)
    }

    fn about_with(&self, change: impl FnOnce(&mut About)) -> Self {
        let mut function = self.clone();
        change(&mut function.about);
        function
    }
}

/// Binds all fields.
pub(super) fn bind(b: &mut Binder) {
    b.bind("Query.function", Memo::Session, function);
    b.bind("Function.withArg", Memo::Session, with_arg);
    b.bind(
        "Function.withDescription",
        Memo::Session,
        |inv| async move {
            let text = inv.args.str("description").into();
            changed(&inv, |f| Ok(f.about_with(|about| about.description = text)))
        },
    );
    b.bind("Function.withSourceMap", Memo::Session, |inv| async move {
        let place = source_map_arg(&inv).await?;
        changed(&inv, |f| Ok(f.about_with(|about| about.source_map = place)))
    });
    b.bind("Function.withDeprecated", Memo::Session, |inv| async move {
        let reason = inv.args.str("reason").into();
        changed(&inv, |f| {
            Ok(f.about_with(|about| about.deprecated = Some(reason)))
        })
    });
    b.bind(
        "Function.withCachePolicy",
        Memo::Session,
        |inv| async move {
            let cache = CachePolicy {
                rule: inv.args.str("policy").into(),
                time_to_live: inv.args.opt_str("timeToLive").map(Into::into),
            };
            changed(&inv, |f| Ok(Function { cache, ..f.clone() }))
        },
    );
    type Set = fn(&mut Roles);
    let roles: [(&str, Set); 3] = [
        ("Function.withCheck", |r| r.check = true),
        ("Function.withGenerator", |r| r.generator = true),
        ("Function.withUp", |r| r.up = true),
    ];
    for (field, set) in roles {
        b.bind(field, Memo::Session, move |inv| async move {
            changed(&inv, |f| {
                let mut function = f.clone();
                set(&mut function.roles);
                Ok(function)
            })
        });
    }
    show_function(b);
    show_arg(b);
}

fn show_function(b: &mut Binder) {
    b.bind("Function.name", Memo::Never, |inv| async move {
        Ok(Value::String(this(&inv)?.about.name.clone()))
    });
    b.bind("Function.description", Memo::Never, |inv| async move {
        Ok(Value::String(this(&inv)?.about.description.clone()))
    });
    b.bind("Function.deprecated", Memo::Never, |inv| async move {
        Ok(Value::opt_string(this(&inv)?.about.deprecated.clone()))
    });
    b.bind("Function.sourceModuleName", Memo::Never, |inv| async move {
        Ok(Value::String(this(&inv)?.about.module.clone()))
    });
    b.bind("Function.sourceMap", Memo::Session, |inv| async move {
        source_map_field(&inv, this(&inv)?.about.source_map.as_ref())
    });
    b.bind("Function.returnType", Memo::Session, |inv| async move {
        Ok(inv.object(this(&inv)?.returns.clone()))
    });
    b.bind("Function.args", Memo::Session, |inv| async move {
        Ok(inv.objects(this(&inv)?.args.iter().cloned()))
    });
}

fn show_arg(b: &mut Binder) {
    fn arg(inv: &Invocation<Ctx>) -> Result<&FunctionArg, Error> {
        inv.this::<Arc<FunctionArg>>().map(|a| &**a)
    }
    b.bind("FunctionArg.name", Memo::Never, |inv| async move {
        Ok(Value::String(arg(&inv)?.about.name.clone()))
    });
    b.bind("FunctionArg.description", Memo::Never, |inv| async move {
        Ok(Value::String(arg(&inv)?.about.description.clone()))
    });
    b.bind("FunctionArg.deprecated", Memo::Never, |inv| async move {
        Ok(Value::opt_string(arg(&inv)?.about.deprecated.clone()))
    });
    b.bind("FunctionArg.defaultValue", Memo::Never, |inv| async move {
        Ok(Value::opt_string(arg(&inv)?.default_value.clone()))
    });
    b.bind("FunctionArg.defaultPath", Memo::Never, |inv| async move {
        Ok(Value::String(arg(&inv)?.default_path.clone()))
    });
    b.bind(
        "FunctionArg.defaultAddress",
        Memo::Never,
        |inv| async move { Ok(Value::String(arg(&inv)?.default_address.clone())) },
    );
    b.bind("FunctionArg.ignore", Memo::Never, |inv| async move {
        Ok(Value::strings(arg(&inv)?.ignore.iter().cloned()))
    });
    b.bind("FunctionArg.sourceMap", Memo::Session, |inv| async move {
        source_map_field(&inv, arg(&inv)?.about.source_map.as_ref())
    });
    b.bind("FunctionArg.typeDef", Memo::Session, |inv| async move {
        Ok(inv.object(arg(&inv)?.ty.clone()))
    });
}

fn this(inv: &Invocation<Ctx>) -> Result<&Function, Error> {
    inv.this::<Arc<Function>>().map(|f| &**f)
}

fn changed(
    inv: &Invocation<Ctx>,
    change: impl FnOnce(&Function) -> Result<Function, TypeDefError>,
) -> Result<Value, Error> {
    Ok(inv.object(Arc::new(change(this(inv)?)?)))
}

/// Loads the argument `name`, the ID of a type's description.
pub(super) async fn type_arg(inv: &Invocation<Ctx>, name: &str) -> Result<Arc<TypeDef>, Error> {
    match inv.args.id(name) {
        Some(id) => inv.ctx.load(id).await,
        None => Err(Error::internal(format!(
            "the required argument `{name}` is missing"
        ))),
    }
}

async fn function(inv: Invocation<Ctx>) -> Result<Value, Error> {
    let returns = type_arg(&inv, "returnType").await?;
    let about = About::of_field(inv.args.str("name"), "");
    Ok(inv.object(Arc::new(Function::new(about, returns)?)))
}

async fn with_arg(inv: Invocation<Ctx>) -> Result<Value, Error> {
    let ty = type_arg(&inv, "typeDef").await?;
    let source_map: Option<SourceMap> = source_map_arg(&inv).await?;
    let args = &inv.args;
    let about = About {
        source_map,
        deprecated: args.opt_str("deprecated").map(Into::into),
        ..About::of_field(args.str("name"), args.str("description"))
    };
    let arg = FunctionArg {
        about,
        ty,
        default_value: args
            .opt_str("defaultValue")
            .filter(|v| !v.is_empty())
            .map(Into::into),
        default_path: args.str("defaultPath").into(),
        default_address: args.str("defaultAddress").into(),
        ignore: args.strings("ignore"),
    };
    changed(&inv, |f| f.with_arg(arg))
}

#[cfg(test)]
mod tests {
    use super::{super::typedef::Kind, *};

    fn arg(ty: TypeDef) -> FunctionArg {
        FunctionArg {
            about: About::of_field("x", ""),
            ty: Arc::new(ty),
            default_value: None,
            default_path: "".into(),
            default_address: "".into(),
            ignore: vec![],
        }
    }

    fn f() -> Function {
        Function::new(About::of_field("f", ""), Arc::new(TypeDef::of(Kind::Void)))
            .expect("a function")
    }

    #[test]
    fn paths_are_for_files_and_directories_and_make_an_argument_optional() {
        let with_path = |ty| FunctionArg {
            default_path: "/x".into(),
            ..arg(ty)
        };
        let made = f()
            .with_arg(with_path(TypeDef::object("Directory")))
            .expect("an argument");
        assert!(made.args[0].ty.optional);
        let refused = f().with_arg(with_path(TypeDef::object("Container")));
        assert_eq!(refused, Err(TypeDefError::DefaultPath("Container".into())));
        let both = FunctionArg {
            default_value: Some("1".into()),
            ..with_path(TypeDef::object("File"))
        };
        assert_eq!(
            f().with_arg(both),
            Err(TypeDefError::TwoDefaults("x".into()))
        );
    }

    #[test]
    fn patterns_are_for_directories() {
        let with = |ty| FunctionArg {
            ignore: vec!["*.o".into()],
            ..arg(ty)
        };
        assert_eq!(
            f().with_arg(with(TypeDef::of(Kind::String))),
            Err(TypeDefError::Ignore("STRING_KIND".into()))
        );
        assert!(f().with_arg(with(TypeDef::object("Directory"))).is_ok());
    }
}
