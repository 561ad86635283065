//! What the API means: one folder per noun, and the lazy filesystem nodes that all of them are made of.

#![forbid(unsafe_code)]

mod address;
mod cache_api;
pub mod config;
pub mod container;
pub mod ctx;
pub mod directory;
mod dispatch;
mod dockerfile;
pub mod engine;
mod env_file;
mod file;
pub mod flight;
pub mod gc;
pub mod git;
pub mod host;
pub mod http;
mod json;
pub mod link;
pub mod module;
pub mod nested;
pub mod network;
pub mod node;
pub mod platform;
pub mod progress;
mod query;
mod room;
pub mod schema;
pub mod scrub;
pub mod secret;
pub mod service;
pub mod session;
#[cfg(test)]
mod testkit;
mod volume;

/// Locks; what a thread that panicked left is as good as anything: nothing is kept in pieces.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub use ctx::Ctx;
pub use engine::Engine;
