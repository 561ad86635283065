//! The network of containers in a world of its own: a machine and an outside, both namespaces of the test.

mod kit;

mod containers;
mod lifetime;
mod names;
mod outside;
