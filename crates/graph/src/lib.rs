//! The graph: calls, digests, IDs, schema, query language, execution and memoisation.
//!
//! Knows nothing of Linux, disks, sockets or wall-clock time. The engine gives it a [`schema::Schema`] with a resolver per
//! field and a context type; the graph parses, validates and runs documents against a client's view of that schema.
//!
//! | module | what it does |
//! |---|---|
//! | [`call`] | recipes: a field asked of a receiver with arguments; digests; printable IDs |
//! | [`value`], [`error`], [`resolve`] | what resolvers get and give |
//! | [`schema`] | declarations from text, per range of client versions; binding; introspection |
//! | [`query`] | text → tokens → document → checked → plan → work list → JSON; all flat, nothing recurses with the input |
//! | [`solve`] | results by digest: one computation however many wait, cancelled with its last waiter, failures forgotten |

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
