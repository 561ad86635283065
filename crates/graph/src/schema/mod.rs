//! The schema: types, fields and arguments as data, each with the range of views that sees it.

pub mod bind;
mod declare;
pub(crate) mod introspect;
pub(crate) mod sdl;
pub mod view;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use crate::{
    resolve::{Memo, Resolver, View},
    value::Value,
};

pub use bind::{Builder, SchemaError};
pub use view::SchemaView;

/// Which intervals of views see a declaration: one bit per interval between two versions named in the schema.
pub(crate) type Mask = u64;

/// Index of a type in [`Defs::types`].
pub(crate) type TypeId = u32;
/// Index of a field in [`Defs::fields`].
pub(crate) type FieldId = u32;

/// What a type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Scalar,
    Object,
    Interface,
    Union,
    Enum,
    Input,
}

impl Kind {
    /// The name in `__TypeKind`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Scalar => "SCALAR",
            Kind::Object => "OBJECT",
            Kind::Interface => "INTERFACE",
            Kind::Union => "UNION",
            Kind::Enum => "ENUM",
            Kind::Input => "INPUT_OBJECT",
        }
    }
}

/// What a scalar holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScalarKind {
    Int,
    Float,
    Boolean,
    /// `String` and every scalar without a meaning of its own.
    Text,
    /// `FooID`, with the type of the object it names.
    IdOf(TypeId),
    /// `ID`: any object.
    AnyId,
}

/// A type reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ty {
    Named(TypeId),
    List(Box<Ty>),
    NonNull(Box<Ty>),
}

impl Ty {
    /// The named type inside all wrappings.
    pub(crate) fn named(&self) -> TypeId {
        let mut ty = self;
        loop {
            match ty {
                Ty::Named(id) => return *id,
                Ty::List(inner) | Ty::NonNull(inner) => ty = inner,
            }
        }
    }

    /// The type without its outermost `!`, and whether there was one.
    pub(crate) fn nullable(&self) -> (&Ty, bool) {
        match self {
            Ty::NonNull(inner) => (inner, true),
            other => (other, false),
        }
    }
}

/// A directive applied to something, as introspection shows it.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub(crate) name: Arc<str>,
    /// Argument names and their values as JSON text.
    pub(crate) args: Vec<(Arc<str>, Arc<str>)>,
}

/// An argument or input field.
#[derive(Debug, Clone)]
pub(crate) struct ArgDef {
    pub(crate) name: Arc<str>,
    pub(crate) description: Option<Arc<str>>,
    pub(crate) ty: Ty,
    /// A second type whose values are accepted too (`@also`).
    pub(crate) also: Option<Ty>,
    /// The declared default, coerced.
    pub(crate) default: Option<Value>,
    /// The declared default, as text.
    pub(crate) default_text: Option<Arc<str>>,
    pub(crate) mask: Mask,
    pub(crate) deprecated: Option<Arc<str>>,
    pub(crate) applied: Vec<Applied>,
}

/// Who answers a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    /// A resolver of the engine, or nobody yet.
    Engine,
    /// `id`: the graph prints the receiver's recipe.
    Id,
    /// `loadFooFromID`, `node`: the graph loads the argument.
    Load,
    /// A field of the introspection types.
    Meta,
}

/// A field declaration.
#[derive(Debug, Clone)]
pub(crate) struct FieldDef {
    pub(crate) parent: TypeId,
    pub(crate) name: Arc<str>,
    pub(crate) description: Option<Arc<str>>,
    pub(crate) args: Vec<ArgDef>,
    pub(crate) ty: Ty,
    pub(crate) mask: Mask,
    pub(crate) deprecated: Option<Arc<str>>,
    pub(crate) applied: Vec<Applied>,
    pub(crate) provider: Provider,
    /// Per interval of views: what a recipe records as its view. Empty when the meaning is the same everywhere.
    pub(crate) recorded: Vec<Arc<str>>,
}

/// An enum value.
#[derive(Debug, Clone)]
pub(crate) struct EnumValueDef {
    pub(crate) name: Arc<str>,
    pub(crate) description: Option<Arc<str>>,
    pub(crate) mask: Mask,
    pub(crate) deprecated: Option<Arc<str>>,
    pub(crate) applied: Vec<Applied>,
}

/// A type declaration.
#[derive(Debug, Clone)]
pub(crate) struct TypeDef {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) scalar: ScalarKind,
    pub(crate) description: Option<Arc<str>>,
    pub(crate) mask: Mask,
    pub(crate) applied: Vec<Applied>,
    /// Interfaces of an object, with the views that see it implement them.
    pub(crate) interfaces: Vec<(TypeId, Mask)>,
    /// Members of a union, implementers of an interface.
    pub(crate) possible: Vec<(TypeId, Mask)>,
    /// Fields, sorted by name.
    pub(crate) fields: Vec<FieldId>,
    pub(crate) by_name: HashMap<Arc<str>, Vec<FieldId>>,
    pub(crate) inputs: Vec<ArgDef>,
    pub(crate) values: Vec<EnumValueDef>,
}

/// A directive definition.
#[derive(Debug, Clone)]
pub(crate) struct DirectiveDef {
    pub(crate) name: Arc<str>,
    pub(crate) description: Option<Arc<str>>,
    pub(crate) args: Vec<ArgDef>,
    pub(crate) locations: Vec<Arc<str>>,
    pub(crate) repeatable: bool,
    pub(crate) mask: Mask,
}

/// Everything declared, for all views.
#[derive(Debug)]
pub(crate) struct Defs {
    /// The versions at which something changes, ascending. Interval `i` is below `bounds[i]`.
    pub(crate) bounds: Vec<View>,
    pub(crate) types: Vec<TypeDef>,
    pub(crate) by_name: HashMap<Arc<str>, TypeId>,
    /// Types sorted by name.
    pub(crate) sorted: Vec<TypeId>,
    pub(crate) fields: Vec<FieldDef>,
    pub(crate) directives: Vec<DirectiveDef>,
    pub(crate) query: TypeId,
    /// The hidden type whose fields are `__schema`, `__type` and `__schemaVersion`.
    pub(crate) root_meta: TypeId,
    /// Since which interval objects are told apart by `ID` alone.
    pub(crate) unified: Mask,
}

impl Defs {
    /// The type's declaration.
    pub(crate) fn ty(&self, id: TypeId) -> &TypeDef {
        &self.types[id as usize]
    }

    /// The field's declaration.
    pub(crate) fn field(&self, id: FieldId) -> &FieldDef {
        &self.fields[id as usize]
    }

    /// The interval a view falls in.
    pub(crate) fn interval(&self, view: View) -> u32 {
        self.bounds.partition_point(|b| *b <= view) as u32
    }

    /// A type by name, whoever sees it.
    pub(crate) fn type_named(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// The declaration of a field that an interval sees.
    pub(crate) fn field_in(&self, parent: TypeId, name: &str, interval: u32) -> Option<FieldId> {
        let all = self.ty(parent).by_name.get(name)?;
        all.iter()
            .copied()
            .find(|f| self.field(*f).mask & (1 << interval) != 0)
    }

    /// The declaration a recipe means that records `view`: the one of that view; without one, the one of the default view,
    /// else the newest.
    pub(crate) fn field_of_recipe(
        &self,
        parent: TypeId,
        name: &str,
        view: &str,
    ) -> Option<(FieldId, u32)> {
        let all = self.ty(parent).by_name.get(name)?;
        let interval = self.interval(View::parse(view).unwrap_or(View::DEFAULT));
        if let Some(f) = all
            .iter()
            .copied()
            .find(|f| self.field(*f).mask & (1 << interval) != 0)
        {
            return Some((f, interval));
        }
        let newest = all.iter().copied().max_by_key(|f| self.field(*f).mask)?;
        Some((newest, 63 - self.field(newest).mask.leading_zeros().min(63)))
    }

    /// Can an object of type `object` stand where `declared` is expected?
    pub(crate) fn is_a(&self, object: TypeId, declared: TypeId) -> bool {
        object == declared || self.ty(declared).possible.iter().any(|(t, _)| *t == object)
    }

    /// How a type is written.
    pub(crate) fn show(&self, ty: &Ty) -> String {
        match ty {
            Ty::Named(id) => self.ty(*id).name.to_string(),
            Ty::List(inner) => format!("[{}]", self.show(inner)),
            Ty::NonNull(inner) => format!("{}!", self.show(inner)),
        }
    }

    /// `Type.field`.
    pub(crate) fn path(&self, field: FieldId) -> String {
        let f = self.field(field);
        format!("{}.{}", self.ty(f.parent).name, f.name)
    }
}

/// A resolver and its caching words.
pub(crate) struct Binding<C> {
    pub(crate) resolver: Resolver<C>,
    pub(crate) memo: Memo,
    pub(crate) by_view: bool,
    /// Arguments that are left out of recipes.
    pub(crate) sensitive: Vec<Arc<str>>,
}

impl<C> Clone for Binding<C> {
    fn clone(&self) -> Self {
        Self {
            resolver: self.resolver.clone(),
            memo: self.memo,
            by_view: self.by_view,
            sensitive: self.sensitive.clone(),
        }
    }
}

/// A schema with its resolvers. Cheap to clone.
pub struct Schema<C>(pub(crate) Arc<Inner<C>>);

impl<C> Clone for Schema<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(crate) struct Inner<C> {
    pub(crate) defs: Arc<Defs>,
    /// By field id; `None` for what the graph provides itself and for unbound fields.
    pub(crate) bindings: Vec<Option<Binding<C>>>,
    pub(crate) views: Vec<OnceLock<Arc<SchemaView>>>,
    pub(crate) builder: Builder<C>,
}

impl<C> Schema<C> {
    /// An empty schema to declare and bind things in.
    pub fn builder() -> Builder<C> {
        Builder::default()
    }

    /// A builder holding all this schema holds, to add types and resolvers to.
    pub fn extend(&self) -> Builder<C> {
        self.0.builder.clone()
    }

    /// What a client of version `view` sees. One per interval between two versions named in the schema.
    pub fn view(&self, view: View) -> Arc<SchemaView> {
        let interval = self.0.defs.interval(view);
        let make = || Arc::new(SchemaView::new(self.0.defs.clone(), interval));
        match self.0.views.get(interval as usize) {
            Some(cell) => cell.get_or_init(make).clone(),
            None => make(),
        }
    }

    /// The fields (`Type.field`) nobody answers yet, sorted.
    pub fn unbound(&self) -> Vec<String> {
        let defs = &self.0.defs;
        let mut out: Vec<String> = (0..defs.fields.len() as u32)
            .filter(|f| {
                defs.field(*f).provider == Provider::Engine
                    && self.0.bindings[*f as usize].is_none()
            })
            .filter(|f| defs.ty(defs.field(*f).parent).kind == Kind::Object)
            .map(|f| defs.path(f))
            .collect();
        out.sort();
        out.dedup();
        out
    }

    /// Every field (`Type.field`) of an object type, whether bound or provided by the graph, sorted.
    pub fn fields(&self) -> Vec<String> {
        let defs = &self.0.defs;
        let mut out: Vec<String> = (0..defs.fields.len() as u32)
            .filter(|f| {
                defs.field(*f).provider != Provider::Meta
                    && defs.ty(defs.field(*f).parent).kind == Kind::Object
            })
            .map(|f| defs.path(f))
            .collect();
        out.sort();
        out.dedup();
        out
    }
}
