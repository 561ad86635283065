//! Run a process in a box: container, network, DNS.
//!
//! [`Runtime::start`] turns a [`spec::Spec`] into a running [`Child`]. [`Native`] is the runtime of the engine,
//! [`Runc`] one that lets another program do the work.
//! An executable that uses it calls [`init::maybe_run`] first thing in `main`.

pub mod agent;
mod ca;
mod caps;
mod check;
mod child;
pub mod dns;
mod error;
pub mod init;
mod native;
pub mod network;
mod parts;
mod plan;
mod program;
mod rooted;
mod runc;
mod seccomp;
pub mod spec;
mod stubs;
mod user;

pub use child::{Agency, Child, Exit};
pub use error::StartError;
pub use native::{Native, Options};
pub use runc::Runc;

/// Something that starts containers.
pub trait Runtime: Send + Sync {
    /// Starts one container and returns once its program runs, usually after a few milliseconds. Blocks the thread.
    ///
    /// # Errors
    /// What could not be done, naming the step and the path.
    fn start(&self, spec: spec::Spec) -> Result<Child, StartError>;
}
