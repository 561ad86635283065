//! For tests, of this and other crates: layers entry by entry (also hostile ones), small images, and a registry in this
//! process that serves them and can misbehave on demand.
//!
//! A failure in here is a failure of the test that uses it, so this module panics instead of returning errors.

mod blobs;
mod fault;
mod http;
mod image;
mod layer;
mod layers;
mod registry;

pub use self::{
    blobs::DirBlobs,
    fault::Fault,
    image::Image,
    layer::{LayerBuilder, Raw, compress},
    layers::DirLayers,
    registry::{Auth, Registry, Seen},
};
