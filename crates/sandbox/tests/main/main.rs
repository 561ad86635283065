//! Containers for real: a static busybox in a scratch root. Needs root; says so and passes without.

mod kit;
mod probe;

mod basics;
mod hostile;
mod isolation;
mod processes;
mod stubs;
