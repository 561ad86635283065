//! The system call filter of ordinary containers, compiled once per process.
//!
//! The rules are those of Docker's default profile for its default capabilities. A refused call fails with `EPERM`; one that
//! is newer than the list fails with `ENOSYS`, so that programs fall back to an older one; nothing is ever killed.

use std::sync::OnceLock;

mod bpf;
mod profile;

pub(crate) use bpf::Instruction;
pub(crate) use profile::oci;

/// The filter for this machine's architecture and the 32-bit one it also runs.
pub(crate) fn filter() -> &'static [Instruction] {
    static FILTER: OnceLock<Vec<Instruction>> = OnceLock::new();
    FILTER.get_or_init(|| bpf::compile(&profile::sections(profile::MACHINE)))
}
