//! Git repositories on other machines.
//!
//! A reference is resolved once per session; its commit names a checkout, lazy like all file work. What was fetched from a
//! repository stays in a bare mirror of the store, one per repository and depth of history, behind a lock, so that the next
//! commit brings only what is new and a known one needs no network. Everything is done by the machine's `git`, run so that
//! neither the machine's configuration nor what is in a repository decides what happens.

pub mod address;
mod admission;
mod checkout;
mod command;
mod fields;
mod mirror;
pub mod refs;
mod remote;
pub(crate) mod strays;
mod submodules;

pub use self::{
    checkout::{Checkout, tree},
    fields::{GitRef, bind},
    remote::{Known, Repository},
};
