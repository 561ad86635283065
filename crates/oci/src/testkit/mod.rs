//! For tests, of this and other crates: layers entry by entry (also hostile ones), small images, and a registry in this
//! process that serves them and can misbehave on demand.

mod layer;

pub use self::layer::{LayerBuilder, Raw, compress};
