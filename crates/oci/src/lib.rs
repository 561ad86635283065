//! Container images: names, formats, layers and registries.
//!
//! Everything this crate reads was written by a stranger: names are parsed into types once, every blob is checked against
//! its digest and size before anyone sees it, and layers are unpacked so that no entry can leave the target directory.

#![forbid(unsafe_code)]

pub mod archive;
pub mod assemble;
pub mod blobs;
pub mod config;
pub mod digest;
pub mod image;
pub mod layer;
pub mod manifest;
pub mod pack;
pub mod platform;
pub mod reference;
pub mod registry;
pub mod stored;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod time;

pub use digest::Digest;
pub use platform::Platform;
pub use reference::Reference;
