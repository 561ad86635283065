//! Answers of the API, and how their errors are told.

use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{error::Failure, http, proxy::Upstream};

/// What comes back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer<'a> {
    /// Unread: it may be nested more deeply than anything else is.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    errors: Vec<Problem>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    message: String,
    path: Option<Vec<Value>>,
    extensions: Map<String, Value>,
}

impl Problem {
    fn is_exec(&self) -> bool {
        self.extensions.get("_type").and_then(Value::as_str) == Some("EXEC_ERROR")
    }

    /// The exit code of the command that failed, if one did.
    fn exit(&self) -> Option<u8> {
        let code = self.extensions.get("exitCode").filter(|_| self.is_exec())?;
        u8::try_from(code.as_u64()?).ok().filter(|c| *c != 0)
    }

    /// As Dagger's clients tell it: `input: container.from resolve: …`.
    fn told(&self, with_output: bool) -> String {
        let path = self
            .path
            .iter()
            .flatten()
            .map(|p| p.as_str().map_or_else(|| p.to_string(), str::to_owned));
        let path = path.collect::<Vec<_>>().join(".");
        let message = &self.message;
        let mut text = match path.as_str() {
            "" => format!("input: {message}"),
            _ if message.starts_with("resolve: ") => format!("input: {path} {message}"),
            _ => format!("input: {path} resolve: {message}"),
        };
        if with_output && self.is_exec() {
            for (title, key) in [("Stdout", "stdout"), ("Stderr", "stderr")] {
                let output = self
                    .extensions
                    .get(key)
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if !output.trim().is_empty() {
                    text.push_str(&format!("\n{title}:\n{output}"));
                }
            }
        }
        text
    }
}

/// The exit status of a failed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitOf {
    /// 1.
    Client,
    /// That of the command in a container that failed, otherwise 1.
    Exec,
}

fn not_understood(e: serde_json::Error) -> Failure {
    Failure::new(format!("cannot understand the engine's answer: {e}"))
}

/// An answer's data, as JSON.
///
/// # Errors
/// The answer's errors; `with_output` if the output of failed commands was not shown meanwhile.
pub fn data(text: &[u8], with_output: bool, exit: ExitOf) -> Result<&str, Failure> {
    let answer: Answer<'_> = serde_json::from_slice(text).map_err(not_understood)?;
    if answer.errors.is_empty() {
        return Ok(answer.data.map_or("null", RawValue::get));
    }
    let told: Vec<_> = answer.errors.iter().map(|p| p.told(with_output)).collect();
    let mut failure = Failure::new(told.join("\n"));
    if exit == ExitOf::Exec {
        failure.exit = answer.errors.iter().find_map(Problem::exit).unwrap_or(1);
    }
    Err(failure)
}

/// A session's API.
#[derive(Debug, Clone, Copy)]
pub struct Api<'a> {
    /// Where it is.
    pub upstream: &'a Upstream,
    /// What it is asked with.
    pub token: &'a str,
    /// The output of failed commands is not shown otherwise.
    pub with_output: bool,
}

impl Api<'_> {
    /// Sends a request's body; the body of the answer.
    ///
    /// # Errors
    /// No engine any more.
    pub async fn post(&self, body: Vec<u8>) -> Result<bytes::Bytes, Failure> {
        let conn = self
            .upstream
            .connect()
            .await
            .map_err(|e| Failure::new(format!("cannot reach the engine: {e}")))?;
        http::post_query(conn, self.token, body)
            .await
            .map_err(|e| Failure::from_error(&e))
    }

    /// Asks a question without variables; the answer's data.
    ///
    /// # Errors
    /// No engine any more, the answer's errors with the failed command's exit status.
    pub async fn ask(&self, query: &str) -> Result<Value, Failure> {
        let body = json!({ "query": query }).to_string().into_bytes();
        let answer = self.post(body).await?;
        let data = data(&answer, self.with_output, ExitOf::Exec)?;
        serde_json::from_str(data).map_err(not_understood)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_with_their_path_and_exec_output_when_it_was_not_shown() {
        let text = br#"{"data":null,"errors":[{"message":"exit code: 5","path":["container",0,"stdout"],
            "extensions":{"_type":"EXEC_ERROR","exitCode":5,"stdout":"out","stderr":" "}},{"message":"other"}]}"#;
        let quiet = data(text, true, ExitOf::Client).unwrap_err();
        assert_eq!(
            quiet.message,
            "input: container.0.stdout resolve: exit code: 5\nStdout:\nout\ninput: other"
        );
        assert_eq!(quiet.exit, 1);
        let shown = data(text, false, ExitOf::Exec).unwrap_err();
        assert_eq!(
            shown.message,
            "input: container.0.stdout resolve: exit code: 5\ninput: other"
        );
        assert_eq!(shown.exit, 5);
    }
}
