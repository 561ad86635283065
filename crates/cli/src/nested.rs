//! A session that is there already: inside `run`, and inside containers with nested access.

use std::{io, net::Ipv4Addr};

use tokio::net::TcpStream;

use crate::error::Failure;

/// Its port and token, from the environment.
#[derive(Clone, PartialEq, Eq)]
pub struct Nested {
    /// On the loopback.
    pub port: u16,
    /// What requests authenticate with.
    pub token: String,
}

impl std::fmt::Debug for Nested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nested")
            .field("port", &self.port)
            .field("token", &"…")
            .finish()
    }
}

impl Nested {
    /// The session of the environment, if there is one.
    ///
    /// # Errors
    /// A port that is none, a port without a token.
    pub fn find(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, Failure> {
        let Some(port) = env("DAGGER_SESSION_PORT").filter(|p| !p.is_empty()) else {
            return Ok(None);
        };
        let port = port.parse().map_err(|_| {
            Failure::new(format!(
                "cannot use DAGGER_SESSION_PORT `{port}`: not a port"
            ))
        })?;
        let token = env("DAGGER_SESSION_TOKEN").filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| {
            Failure::new("DAGGER_SESSION_TOKEN must be set when using DAGGER_SESSION_PORT")
        })?;
        Ok(Some(Self { port, token }))
    }

    /// A connection to it.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(port: &str, token: &str) -> Result<Option<Nested>, Failure> {
        Nested::find(&|name| {
            Some(
                if name == "DAGGER_SESSION_PORT" {
                    port
                } else {
                    token
                }
                .to_owned(),
            )
        })
    }

    #[test]
    fn a_port_needs_a_token() {
        assert_eq!(find("", "t").unwrap(), None);
        assert_eq!(
            find("80", "t").unwrap(),
            Some(Nested {
                port: 80,
                token: "t".into()
            })
        );
        assert_eq!(
            find("80", "").unwrap_err().message,
            "DAGGER_SESSION_TOKEN must be set when using DAGGER_SESSION_PORT"
        );
        assert!(find("eighty", "t").is_err());
    }
}
