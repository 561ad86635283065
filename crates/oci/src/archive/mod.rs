//! Images as archives: an OCI layout in a tar, with the `manifest.json` that `docker load` wants when there is one image in it.

mod read;
mod write;

pub use self::{
    read::{ArchiveError, Contents, Found, read},
    write::Archive,
};

/// Says what an archive's format is.
const LAYOUT: &str = "oci-layout";
/// Names the images.
const INDEX: &str = "index.json";
/// Docker's way to name them.
const DOCKER: &str = "manifest.json";
/// Where blobs are.
const BLOBS: &str = "blobs/sha256/";
/// The annotation with an image's tag.
const TAG: &str = "org.opencontainers.image.ref.name";
/// The annotation with an image's whole name.
const NAME: &str = "io.containerd.image.name";

#[cfg(test)]
mod tests;
