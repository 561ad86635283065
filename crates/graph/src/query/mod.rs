//! The query language: documents are parsed, checked against a view, run, and answered.

pub(crate) mod coerce;
pub(crate) mod execute;
pub(crate) mod lex;
pub(crate) mod parse;
pub(crate) mod plan;
pub(crate) mod response;
pub(crate) mod validate;

pub use response::Response;

/// One request of a client.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The document.
    #[serde(default)]
    pub query: String,
    /// Which operation to run; not needed when there is only one.
    #[serde(default)]
    pub operation_name: Option<String>,
    /// The variables: an object, or null.
    #[serde(default)]
    pub variables: serde_json::Value,
}
