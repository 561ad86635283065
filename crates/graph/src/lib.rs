//! The graph: calls, digests, IDs, schema, query language, execution and memoisation.
//!
//! Knows nothing of Linux, disks, sockets or wall-clock time. The engine gives it a [`schema::Schema`] with a resolver per
//! field and a context type; the graph parses, validates and runs documents against a client's view of that schema.

#![forbid(unsafe_code)]

pub mod call;
pub mod error;
pub mod query;
pub mod resolve;
pub mod schema;
pub mod solve;
pub mod value;

pub use query::{Request, Response};
pub use schema::{Schema, SchemaError, SchemaView};
pub use solve::Solver;
