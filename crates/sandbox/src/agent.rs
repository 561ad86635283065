//! The engine's agent in a container: this very executable, run again in the container's namespaces, with the identity,
//! capabilities, filter and control group that its processes have, but as the only process of a pid namespace of its own:
//! the container's processes can neither see it nor do anything to it, and it to nobody.
//!
//! It is executed by descriptor, so that nothing of the container can take its place, has one descriptor, a channel to the
//! engine, and ends with the container and with the engine. What it must not do is execute a program of the container: that would be outside of
//! the container's processes, too.

use std::{
    env,
    ffi::{CStr, OsStr},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// `argv[0]` by which this executable knows that it is to be an agent.
pub(crate) const NAME: &CStr = c"/.agent";

/// The channel to the engine, if this process was started as an agent. It is standard input, so that whoever starts this
/// executable by that name gives away no more than that.
///
/// To be asked right after [`crate::init::maybe_run`].
pub fn channel() -> Option<OwnedFd> {
    if env::args_os().next().as_deref() != Some(OsStr::from_bytes(NAME.to_bytes())) {
        return None;
    }
    std::io::stdin().as_fd().try_clone_to_owned().ok()
}

/// A running agent. Dropping it kills it and waits until nothing of it keeps the container's mounts.
#[derive(Debug)]
pub(crate) struct Agent(pub(crate) OwnedFd);

impl Drop for Agent {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = sys::process::signal(self.0.as_fd(), libc::SIGKILL);
        let _ = sys::process::wait(&self.0);
    }
}
