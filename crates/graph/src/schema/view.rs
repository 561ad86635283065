//! A view: the schema as clients of one range of versions see it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::{ArgDef, Defs, FieldDef, FieldId, Mask, TypeDef, TypeId};

/// Most introspection answers one view remembers.
const MAX_REMEMBERED: usize = 16;
/// Largest introspection answer that is remembered.
const MAX_REMEMBERED_BYTES: usize = 8 << 20;

/// The schema seen by clients of one interval of versions.
#[derive(Debug)]
pub struct SchemaView {
    pub(crate) defs: Arc<Defs>,
    pub(crate) interval: u32,
    /// Answers to whole introspection documents, oldest first.
    remembered: Mutex<VecDeque<(u128, Arc<[u8]>)>>,
}

impl SchemaView {
    pub(crate) fn new(defs: Arc<Defs>, interval: u32) -> Self {
        Self {
            defs,
            interval,
            remembered: Mutex::default(),
        }
    }

    /// Is something with this mask part of the view?
    pub(crate) fn sees(&self, mask: Mask) -> bool {
        mask & (1 << self.interval) != 0
    }

    /// Are objects told apart by `ID` alone in this view?
    pub(crate) fn unified(&self) -> bool {
        self.sees(self.defs.unified)
    }

    pub(crate) fn ty(&self, name: &str) -> Option<TypeId> {
        self.defs
            .type_named(name)
            .filter(|t| self.sees(self.defs.ty(*t).mask))
    }

    pub(crate) fn field(&self, parent: TypeId, name: &str) -> Option<FieldId> {
        self.defs.field_in(parent, name, self.interval)
    }

    pub(crate) fn args<'a>(&'a self, field: &'a FieldDef) -> impl Iterator<Item = &'a ArgDef> {
        field.args.iter().filter(|a| self.sees(a.mask))
    }

    pub(crate) fn inputs<'a>(&'a self, ty: &'a TypeDef) -> impl Iterator<Item = &'a ArgDef> {
        ty.inputs.iter().filter(|a| self.sees(a.mask))
    }

    /// The remembered answer to the document with this digest.
    pub(crate) fn recall(&self, document: u128) -> Option<Arc<[u8]>> {
        let kept = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .find(|(d, _)| *d == document)
            .map(|(_, bytes)| bytes.clone())
    }

    /// Remembers an answer.
    pub(crate) fn remember(&self, document: u128, answer: &[u8]) {
        if answer.len() > MAX_REMEMBERED_BYTES {
            return;
        }
        let mut kept = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if kept.iter().any(|(d, _)| *d == document) {
            return;
        }
        if kept.len() >= MAX_REMEMBERED {
            kept.pop_front();
        }
        kept.push_back((document, answer.into()));
    }

    /// Does the view have `Type`, or `Type.field`, or `Type.field(arg:)` written `Type.field.arg`?
    pub fn has(&self, path: &str) -> bool {
        let mut parts = path.split('.');
        let Some(ty) = parts.next().and_then(|t| self.ty(t)) else {
            return false;
        };
        let Some(name) = parts.next() else {
            return true;
        };
        let def = self.defs.ty(ty);
        if let Some(field) = self.field(ty, name) {
            return parts
                .next()
                .is_none_or(|arg| self.args(self.defs.field(field)).any(|a| *a.name == *arg));
        }
        self.inputs(def).any(|a| *a.name == *name)
            || def
                .values
                .iter()
                .any(|v| *v.name == *name && self.sees(v.mask))
    }
}
