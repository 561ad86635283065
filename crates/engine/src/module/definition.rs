//! Modules as they are put together from descriptions of types, and the code that is generated for them.

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::{Object as GraphObject, Value},
};

use super::{
    function::type_arg,
    typedef::{MAX_MEMBERS, Shape, TypeDef, TypeDefError},
};
use crate::{Ctx, dispatch::Binder};

/// A name that every object has already.
const RESERVED: &str = "id";

/// A module: so far, what it says of itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Module {
    /// Its name; empty until it has a source.
    pub name: Arc<str>,
    /// What it is for.
    pub description: Arc<str>,
    /// Its objects.
    pub objects: Vec<Arc<TypeDef>>,
    /// Its interfaces.
    pub interfaces: Vec<Arc<TypeDef>>,
    /// Its enums.
    pub enums: Vec<Arc<TypeDef>>,
}

impl Module {
    /// Adds an object.
    ///
    /// # Errors
    /// It is none, or has a field or function the engine gives every object.
    pub fn with_object(&self, ty: Arc<TypeDef>) -> Result<Self, TypeDefError> {
        let Shape::Object(object) = &ty.shape else {
            return Err(expected("object", &ty));
        };
        let reserved = |what: &'static str, name: &str| TypeDefError::Reserved {
            what,
            name: name.to_owned(),
            object: object.about.name.to_string(),
        };
        if object.fields.iter().any(|f| *f.about.name == *RESERVED) {
            return Err(reserved("field", RESERVED));
        }
        if object.functions.iter().any(|f| *f.about.name == *RESERVED) {
            return Err(reserved("function", RESERVED));
        }
        let mut module = self.clone();
        add(&mut module.objects, ty, "objects")?;
        Ok(module)
    }

    /// Adds an interface.
    ///
    /// # Errors
    /// It is none.
    pub fn with_interface(&self, ty: Arc<TypeDef>) -> Result<Self, TypeDefError> {
        if !matches!(ty.shape, Shape::Interface(_)) {
            return Err(expected("interface", &ty));
        }
        let mut module = self.clone();
        add(&mut module.interfaces, ty, "interfaces")?;
        Ok(module)
    }

    /// Adds an enum.
    ///
    /// # Errors
    /// It is none.
    pub fn with_enum(&self, ty: Arc<TypeDef>) -> Result<Self, TypeDefError> {
        if !matches!(ty.shape, Shape::Enum(_)) {
            return Err(expected("enum", &ty));
        }
        let mut module = self.clone();
        add(&mut module.enums, ty, "enums")?;
        Ok(module)
    }
}

fn expected(expected: &'static str, ty: &TypeDef) -> TypeDefError {
    TypeDefError::Expected {
        expected,
        found: ty.kind.map_or("unknown", |k| k.name()),
    }
}

fn add(
    list: &mut Vec<Arc<TypeDef>>,
    ty: Arc<TypeDef>,
    what: &'static str,
) -> Result<(), TypeDefError> {
    if list.len() >= MAX_MEMBERS {
        return Err(TypeDefError::TooMany(what));
    }
    list.push(ty);
    Ok(())
}

/// Generated code and what version control should know about it.
#[derive(Debug, Clone)]
pub struct GeneratedCode {
    /// The directory with it.
    pub code: GraphObject,
    /// Paths to mark as generated.
    pub vcs_generated: Vec<Arc<str>>,
    /// Paths to be ignored.
    pub vcs_ignored: Vec<Arc<str>>,
}

/// Binds all fields.
pub(super) fn bind(b: &mut Binder) {
    b.bind("Query.module", Memo::Session, |inv| async move {
        Ok(inv.object(Arc::new(Module::default())))
    });
    b.bind("Module.withDescription", Memo::Session, |inv| async move {
        let description = inv.args.str("description").into();
        changed(&inv, |m| {
            Ok(Module {
                description,
                ..m.clone()
            })
        })
    });
    b.bind("Module.withObject", Memo::Session, |inv| async move {
        let ty = type_arg(&inv, "object").await?;
        changed(&inv, |m| m.with_object(ty))
    });
    b.bind("Module.withInterface", Memo::Session, |inv| async move {
        let ty = type_arg(&inv, "iface").await?;
        changed(&inv, |m| m.with_interface(ty))
    });
    b.bind("Module.withEnum", Memo::Session, |inv| async move {
        let ty = type_arg(&inv, "enum").await?;
        changed(&inv, |m| m.with_enum(ty))
    });
    b.bind("Module.name", Memo::Never, |inv| async move {
        Ok(Value::String(this(&inv)?.name.clone()))
    });
    b.bind("Module.description", Memo::Never, |inv| async move {
        Ok(Value::String(this(&inv)?.description.clone()))
    });
    b.bind("Module.objects", Memo::Session, |inv| async move {
        Ok(inv.objects(this(&inv)?.objects.iter().cloned()))
    });
    b.bind("Module.interfaces", Memo::Session, |inv| async move {
        Ok(inv.objects(this(&inv)?.interfaces.iter().cloned()))
    });
    b.bind("Module.enums", Memo::Session, |inv| async move {
        Ok(inv.objects(this(&inv)?.enums.iter().cloned()))
    });
    b.bind("Module.sync", Memo::Session, |inv| async move {
        this(&inv)?;
        Ok(inv.this.map_or(Value::Null, Value::Object))
    });
    generated_code(b);
}

fn this(inv: &Invocation<Ctx>) -> Result<&Module, Error> {
    inv.this::<Arc<Module>>().map(|m| &**m)
}

fn changed(
    inv: &Invocation<Ctx>,
    change: impl FnOnce(&Module) -> Result<Module, TypeDefError>,
) -> Result<Value, Error> {
    Ok(inv.object(Arc::new(change(this(inv)?)?)))
}

fn generated_code(b: &mut Binder) {
    b.bind("Query.generatedCode", Memo::Session, |inv| async move {
        let id = inv
            .args
            .id("code")
            .ok_or_else(|| Error::internal("the required argument `code` is missing"))?;
        let code = inv.ctx.load_object(id).await?;
        Ok(inv.object(GeneratedCode {
            code,
            vcs_generated: vec![],
            vcs_ignored: vec![],
        }))
    });
    b.bind("GeneratedCode.code", Memo::Session, |inv| async move {
        Ok(Value::Object(inv.this::<GeneratedCode>()?.code.clone()))
    });
    b.bind(
        "GeneratedCode.vcsGeneratedPaths",
        Memo::Never,
        |inv| async move {
            Ok(Value::strings(
                inv.this::<GeneratedCode>()?.vcs_generated.iter().cloned(),
            ))
        },
    );
    b.bind(
        "GeneratedCode.vcsIgnoredPaths",
        Memo::Never,
        |inv| async move {
            Ok(Value::strings(
                inv.this::<GeneratedCode>()?.vcs_ignored.iter().cloned(),
            ))
        },
    );
    b.bind(
        "GeneratedCode.withVCSGeneratedPaths",
        Memo::Session,
        |inv| async move {
            let vcs_generated = inv.args.strings("paths");
            Ok(inv.object(GeneratedCode {
                vcs_generated,
                ..inv.this::<GeneratedCode>()?.clone()
            }))
        },
    );
    b.bind(
        "GeneratedCode.withVCSIgnoredPaths",
        Memo::Session,
        |inv| async move {
            let vcs_ignored = inv.args.strings("paths");
            Ok(inv.object(GeneratedCode {
                vcs_ignored,
                ..inv.this::<GeneratedCode>()?.clone()
            }))
        },
    );
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            function::Function,
            typedef::{About, Field, Kind},
        },
        *,
    };

    #[test]
    fn modules_take_what_they_are_given_for() {
        let text = Arc::new(TypeDef::of(Kind::String));
        let refused = Module::default().with_object(text.clone());
        assert_eq!(
            refused,
            Err(TypeDefError::Expected {
                expected: "object",
                found: "STRING_KIND"
            })
        );
        assert!(Module::default().with_enum(text.clone()).is_err());
        assert!(Module::default().with_interface(text).is_err());
        let of = TypeDef::default()
            .with_object(About::of_type("thing", ""))
            .expect("an object");
        assert_eq!(
            Module::default()
                .with_object(Arc::new(of))
                .expect("a module")
                .objects
                .len(),
            1
        );
    }

    #[test]
    fn ids_are_the_engines() {
        let text = Arc::new(TypeDef::of(Kind::String));
        let of = TypeDef::default()
            .with_object(About::of_type("thing", ""))
            .expect("an object");
        let field = of
            .with_field(Field {
                about: About::of_field("ID", ""),
                ty: text.clone(),
            })
            .expect("a field");
        let error = Module::default()
            .with_object(Arc::new(field))
            .expect_err("reserved");
        assert_eq!(
            error.to_string(),
            "cannot define field with reserved name \"id\" on object \"Thing\""
        );
        let function = Function::new(About::of_field("id", ""), text).expect("a function");
        let function = of.with_function(Arc::new(function)).expect("an object");
        assert!(Module::default().with_object(Arc::new(function)).is_err());
    }
}
