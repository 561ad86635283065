//! Images out, read back by programs that are not ours: `skopeo`, `umoci`, a docker daemon. They go to the registry of the
//! tests, or to one that is a service.

mod dockerfiles;
#[path = "../services/kit.rs"]
#[expect(dead_code, reason = "services use more of it")]
mod kit;
mod oracles;
mod same;
mod served;
