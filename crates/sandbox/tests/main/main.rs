//! Containers for real: a static busybox in a scratch root. Needs root; says so and passes without.

mod kit;
mod probe;

mod agent;
mod basics;
mod exec;
mod hostile;
mod isolation;
mod oracle;
mod privileged;
mod processes;
mod stubs;
