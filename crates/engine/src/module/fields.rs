//! The fields of the API that build descriptions of types and show them.

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Invocation, Memo, View},
    value::Value,
};

use super::{
    function::{Function, type_arg},
    typedef::{
        About, Enum, EnumValue, Field, Input, Interface, Kind, Object, Shape, SourceMap, TypeDef,
        TypeDefError,
    },
};
use crate::{Ctx, dispatch::Binder};

/// From this version on a place that nobody named is null.
const NULL_PLACES: View = View::new(0, 21, 0);

/// Binds all fields.
pub(super) fn bind(b: &mut Binder) {
    build(b);
    show_typedef(b);
    show_object(b);
    show_interface(b);
    show_enum(b);
    show_rest(b);
    source_map(b);
}

fn build(b: &mut Binder) {
    b.bind("Query.typeDef", Memo::Session, |inv| async move {
        Ok(inv.object(Arc::new(TypeDef::default())))
    });
    b.bind("TypeDef.withKind", Memo::Session, |inv| async move {
        let name = inv.args.str("kind");
        let kind = Kind::parse(name)
            .ok_or_else(|| Error::internal(format!("`{name}` is no kind of type")))?;
        changed(&inv, |t| Ok(t.with_kind(kind)))
    });
    b.bind("TypeDef.withOptional", Memo::Session, |inv| async move {
        let optional = inv.args.bool("optional");
        changed(&inv, |t| Ok(t.with_optional(optional)))
    });
    b.bind("TypeDef.withScalar", Memo::Session, |inv| async move {
        let about = About::of_type(inv.args.str("name"), inv.args.str("description"));
        changed(&inv, |t| t.with_scalar(about))
    });
    b.bind("TypeDef.withListOf", Memo::Session, |inv| async move {
        let element = type_arg(&inv, "elementType").await?;
        changed(&inv, |t| t.with_list_of(element))
    });
    b.bind("TypeDef.withObject", Memo::Session, |inv| async move {
        let about = about_type(&inv).await?;
        changed(&inv, |t| t.with_object(about))
    });
    b.bind("TypeDef.withInterface", Memo::Session, |inv| async move {
        let about = about_type(&inv).await?;
        changed(&inv, |t| t.with_interface(about))
    });
    b.bind("TypeDef.withEnum", Memo::Session, |inv| async move {
        let about = about_type(&inv).await?;
        changed(&inv, |t| t.with_enum(about))
    });
    b.bind("TypeDef.withField", Memo::Session, |inv| async move {
        let ty = type_arg(&inv, "typeDef").await?;
        let about = About {
            source_map: source_map_arg(&inv).await?,
            deprecated: inv.args.opt_str("deprecated").map(Into::into),
            ..About::of_field(inv.args.str("name"), inv.args.str("description"))
        };
        changed(&inv, |t| t.with_field(Field { about, ty }))
    });
    b.bind("TypeDef.withFunction", Memo::Session, |inv| async move {
        let function = function_arg(&inv).await?;
        changed(&inv, |t| t.with_function(function))
    });
    b.bind("TypeDef.withConstructor", Memo::Session, |inv| async move {
        let function = function_arg(&inv).await?;
        changed(&inv, |t| t.with_constructor(function))
    });
    b.bind("TypeDef.withEnumValue", Memo::Session, |inv| async move {
        let name: Arc<str> = inv.args.str("value").into();
        let about = about_value(&inv, &name).await?;
        changed(&inv, |t| {
            t.with_enum_value(EnumValue { about, value: name })
        })
    });
    b.bind("TypeDef.withEnumMember", Memo::Session, |inv| async move {
        let name: Arc<str> = inv.args.str("name").into();
        let about = about_value(&inv, &name).await?;
        let value = Some(inv.args.str("value"))
            .filter(|v| !v.is_empty())
            .map_or(name, Into::into);
        changed(&inv, |t| t.with_enum_value(EnumValue { about, value }))
    });
}

/// What the arguments of `withObject`, `withInterface` and `withEnum` say of a type.
async fn about_type(inv: &Invocation<Ctx>) -> Result<About, Error> {
    Ok(About {
        source_map: source_map_arg(inv).await?,
        deprecated: inv.args.opt_str("deprecated").map(Into::into),
        ..About::of_type(inv.args.str("name"), inv.args.str("description"))
    })
}

/// What the arguments say of an enum's value, whose name stays as it is.
async fn about_value(inv: &Invocation<Ctx>, name: &str) -> Result<About, Error> {
    Ok(About {
        source_map: source_map_arg(inv).await?,
        deprecated: inv.args.opt_str("deprecated").map(Into::into),
        ..About::new(name, name, inv.args.str("description"))
    })
}

async fn function_arg(inv: &Invocation<Ctx>) -> Result<Arc<Function>, Error> {
    match inv.args.id("function") {
        Some(id) => inv.ctx.load(id).await,
        None => Err(Error::internal(
            "the required argument `function` is missing",
        )),
    }
}

fn this(inv: &Invocation<Ctx>) -> Result<&TypeDef, Error> {
    inv.this::<Arc<TypeDef>>().map(|t| &**t)
}

fn changed(
    inv: &Invocation<Ctx>,
    change: impl FnOnce(&TypeDef) -> Result<TypeDef, TypeDefError>,
) -> Result<Value, Error> {
    Ok(inv.object(Arc::new(change(this(inv)?)?)))
}

fn show_typedef(b: &mut Binder) {
    b.bind("TypeDef.kind", Memo::Never, |inv| async move {
        let kind = this(&inv)?.kind.ok_or_else(|| {
            Error::user(
                "the type's kind is not set yet: begin with `withKind`, `withObject` or the like",
            )
        })?;
        Ok(Value::string(kind.name()))
    });
    b.bind("TypeDef.optional", Memo::Never, |inv| async move {
        Ok(Value::Bool(this(&inv)?.optional))
    });
    b.bind("TypeDef.name", Memo::Never, |inv| async move {
        Ok(Value::string(this(&inv)?.name()))
    });
    b.bind("TypeDef.asObject", Memo::Session, |inv| async move {
        Ok(match &this(&inv)?.shape {
            Shape::Object(o) => inv.object(o.clone()),
            _ => Value::Null,
        })
    });
    b.bind("TypeDef.asInterface", Memo::Session, |inv| async move {
        Ok(match &this(&inv)?.shape {
            Shape::Interface(i) => inv.object(i.clone()),
            _ => Value::Null,
        })
    });
    b.bind("TypeDef.asEnum", Memo::Session, |inv| async move {
        Ok(match &this(&inv)?.shape {
            Shape::Enum(e) => inv.object(e.clone()),
            _ => Value::Null,
        })
    });
    b.bind("TypeDef.asInput", Memo::Session, |inv| async move {
        Ok(match &this(&inv)?.shape {
            Shape::Input(i) => inv.object(i.clone()),
            _ => Value::Null,
        })
    });
    b.bind("TypeDef.asScalar", Memo::Session, |inv| async move {
        Ok(match &this(&inv)?.shape {
            Shape::Scalar(about) => inv.object(about.clone()),
            _ => Value::Null,
        })
    });
    b.bind("TypeDef.asList", Memo::Session, |inv| async move {
        Ok(match &this(&inv)?.shape {
            Shape::List(element) => inv.object(List(element.clone())),
            _ => Value::Null,
        })
    });
}

/// A list's element.
struct List(Arc<TypeDef>);

/// Binds the fields that everything with a name has.
fn show_about<T: Send + Sync + 'static>(
    b: &mut Binder,
    ty: &str,
    fields: &[&str],
    about: fn(&T) -> &About,
) {
    let has = |name| fields.contains(&name);
    let of = move |inv: &Invocation<Ctx>| inv.this::<Arc<T>>().map(|t| about(t).clone());
    if has("name") {
        b.bind(&format!("{ty}.name"), Memo::Never, move |inv| async move {
            Ok(Value::String(of(&inv)?.name))
        });
    }
    if has("description") {
        b.bind(
            &format!("{ty}.description"),
            Memo::Never,
            move |inv| async move { Ok(Value::String(of(&inv)?.description)) },
        );
    }
    if has("deprecated") {
        b.bind(
            &format!("{ty}.deprecated"),
            Memo::Never,
            move |inv| async move { Ok(Value::opt_string(of(&inv)?.deprecated)) },
        );
    }
    if has("sourceModuleName") {
        b.bind(
            &format!("{ty}.sourceModuleName"),
            Memo::Never,
            move |inv| async move { Ok(Value::String(of(&inv)?.module)) },
        );
    }
    if has("sourceMap") {
        b.bind(
            &format!("{ty}.sourceMap"),
            Memo::Session,
            move |inv| async move { source_map_field(&inv, of(&inv)?.source_map.as_ref()) },
        );
    }
}

fn show_object(b: &mut Binder) {
    show_about::<Object>(
        b,
        "ObjectTypeDef",
        &[
            "name",
            "description",
            "deprecated",
            "sourceModuleName",
            "sourceMap",
        ],
        |o| &o.about,
    );
    b.bind("ObjectTypeDef.fields", Memo::Session, |inv| async move {
        Ok(inv.objects(inv.this::<Arc<Object>>()?.fields.iter().cloned()))
    });
    b.bind("ObjectTypeDef.functions", Memo::Session, |inv| async move {
        Ok(inv.objects(inv.this::<Arc<Object>>()?.functions.iter().cloned()))
    });
    b.bind(
        "ObjectTypeDef.constructor",
        Memo::Session,
        |inv| async move {
            Ok(inv
                .this::<Arc<Object>>()?
                .constructor
                .clone()
                .map_or(Value::Null, |f| inv.object(f)))
        },
    );
    show_about::<Field>(
        b,
        "FieldTypeDef",
        &["name", "description", "deprecated", "sourceMap"],
        |f| &f.about,
    );
    b.bind("FieldTypeDef.typeDef", Memo::Session, |inv| async move {
        Ok(inv.object(inv.this::<Arc<Field>>()?.ty.clone()))
    });
}

fn show_interface(b: &mut Binder) {
    show_about::<Interface>(
        b,
        "InterfaceTypeDef",
        &["name", "description", "sourceModuleName", "sourceMap"],
        |i| &i.about,
    );
    b.bind("InterfaceTypeDef.functions", Memo::Session, |inv| async move {
        Ok(inv.objects(inv.this::<Arc<Interface>>()?.functions.iter().cloned()))
    });
}

fn show_enum(b: &mut Binder) {
    show_about::<Enum>(
        b,
        "EnumTypeDef",
        &["name", "description", "sourceModuleName", "sourceMap"],
        |e| &e.about,
    );
    for field in ["EnumTypeDef.values", "EnumTypeDef.members"] {
        b.bind(field, Memo::Session, |inv| async move {
            Ok(inv.objects(inv.this::<Arc<Enum>>()?.values.iter().cloned()))
        });
    }
    show_about::<EnumValue>(
        b,
        "EnumValueTypeDef",
        &["name", "description", "deprecated", "sourceMap"],
        |v| &v.about,
    );
    b.bind("EnumValueTypeDef.value", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<Arc<EnumValue>>()?.value.clone()))
    });
}

fn show_rest(b: &mut Binder) {
    show_about::<About>(
        b,
        "ScalarTypeDef",
        &["name", "description", "sourceModuleName"],
        |a| a,
    );
    show_about::<Input>(b, "InputTypeDef", &["name"], |i| &i.about);
    b.bind("InputTypeDef.fields", Memo::Session, |inv| async move {
        Ok(inv.objects(inv.this::<Arc<Input>>()?.fields.iter().cloned()))
    });
    b.bind(
        "ListTypeDef.elementTypeDef",
        Memo::Session,
        |inv| async move { Ok(inv.object(inv.this::<List>()?.0.clone())) },
    );
}

fn source_map(b: &mut Binder) {
    b.bind("Query.sourceMap", Memo::Session, |inv| async move {
        Ok(inv.object(SourceMap {
            module: "".into(),
            filename: inv.args.str("filename").into(),
            line: inv.args.int("line").unwrap_or_default(),
            column: inv.args.int("column").unwrap_or_default(),
        }))
    });
    b.bind("SourceMap.module", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<SourceMap>()?.module.clone()))
    });
    b.bind("SourceMap.filename", Memo::Never, |inv| async move {
        Ok(Value::String(inv.this::<SourceMap>()?.filename.clone()))
    });
    b.bind("SourceMap.line", Memo::Never, |inv| async move {
        Ok(Value::Int(inv.this::<SourceMap>()?.line))
    });
    b.bind("SourceMap.column", Memo::Never, |inv| async move {
        Ok(Value::Int(inv.this::<SourceMap>()?.column))
    });
    b.bind("SourceMap.url", Memo::Never, |inv| async move {
        inv.this::<SourceMap>()?;
        Ok(Value::string(""))
    });
}

/// Loads the argument `sourceMap`.
pub(super) async fn source_map_arg(inv: &Invocation<Ctx>) -> Result<Option<SourceMap>, Error> {
    match inv.args.id("sourceMap") {
        Some(id) => inv.ctx.load(id).await.map(Some),
        None => Ok(None),
    }
}

/// The field `sourceMap`: where nobody named a place it is null, or an empty one for clients that know no null there.
pub(super) fn source_map_field(
    inv: &Invocation<Ctx>,
    place: Option<&SourceMap>,
) -> Result<Value, Error> {
    Ok(match place {
        Some(place) => inv.object(place.clone()),
        None if inv.view >= NULL_PLACES => Value::Null,
        None => inv.object(SourceMap::default()),
    })
}
