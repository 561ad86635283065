//! The API as commands: `core container from --address alpine with-exec --args ls stdout`. Pure.
//!
//! What the session's introspection says ([`model`]) tells how a command line is read ([`parse`]), its flags' values
//! included ([`value`]); that gives queries ([`plan`]), and an answer gives what is printed ([`print`]). Values that stand for
//! objects are made by queries of their own ([`object`]), whose IDs take their place.

pub mod help;
pub mod model;
pub mod object;
pub mod parse;
pub mod plan;
pub mod print;
pub mod value;

#[cfg(test)]
mod tests;
