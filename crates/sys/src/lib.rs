//! Linux as safe functions. The only crate, beside the sandbox's child, that may contain `unsafe`.

pub mod clone;
pub mod devices;
pub mod mount;
pub mod netns;
pub mod process;
pub mod raw;
