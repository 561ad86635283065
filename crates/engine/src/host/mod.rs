//! The client's machine as the API shows it.

mod fields;
mod index;
mod socket;
pub(crate) mod upload;

pub use fields::bind;
pub(crate) use fields::client_path;
pub use socket::{Socket, SocketProxy};
pub(crate) use upload::link_error;
