//! Git as users have it: repositories behind a web server with passwords, behind SSH with an agent, behind `git daemon`, and
//! repositories that mean harm. The servers are real and belong to one test each.

mod added;
mod history;
mod hostile;
mod killed;
mod kinds;
#[path = "../services/kit.rs"]
#[expect(dead_code, reason = "services use more of it")]
mod kit;
mod private;
mod servers;
mod web;
