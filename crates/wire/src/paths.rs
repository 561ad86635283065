//! Where the engine of this user is: its socket and its state.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The environment variable that names the state directory.
pub const STATE_DIR: &str = "BODKIN_STATE_DIR";
/// The environment variable that names the socket.
pub const SOCKET: &str = "BODKIN_SOCKET";
/// The environment variable that names the configuration file.
pub const CONFIG: &str = "BODKIN_CONFIG";
/// The environment variable with the idle timeout.
pub const IDLE_TIMEOUT: &str = "BODKIN_IDLE_TIMEOUT";
/// The environment variable with the address of an engine elsewhere.
pub const RUNNER_HOST: &str = "_EXPERIMENTAL_DAGGER_RUNNER_HOST";

/// The exit status of an engine that found another one on its store: whoever started it should connect to that one.
pub const EXIT_ANOTHER_RUNS: u8 = 75;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:///path`.
    Unix(PathBuf),
    /// `tcp://host:port`.
    Tcp(String),
}

/// An address nobody understands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot use the address `{address}`: {problem}expected unix:///path or tcp://host:port")]
pub struct AddressError {
    address: String,
    /// What is wrong with it, as a phrase before `expected`.
    problem: &'static str,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = |problem| AddressError {
            address: text.to_owned(),
            problem,
        };
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.is_empty() {
                Err(bad("the path is missing; "))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let host = text.strip_prefix("tcp://").ok_or_else(|| bad(""))?;
        // What is in brackets is an address with colons of its own.
        let name_end = host.rfind(']').map_or(0, |at| at + 1);
        match host.get(name_end..).unwrap_or_default().rsplit_once(':') {
            None if host.is_empty() => Err(bad("host and port are missing; ")),
            None => Err(bad("the port is missing; ")),
            Some((name, _)) if name_end == 0 && name.is_empty() => {
                Err(bad("the host is missing; "))
            }
            Some((_, "")) => Err(bad("the port is missing; ")),
            Some((_, port)) if port.parse::<u16>().is_err() => {
                Err(bad("the port is no number from 0 to 65535; "))
            }
            Some(_) => Ok(Self::Tcp(host.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

/// What the paths depend on.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The user is root.
    pub root: bool,
    /// Looks up an environment variable; empty ones count as unset.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

impl Place<'_> {
    fn var(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|v| !v.is_empty())
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        if let Some(dir) = self.var(STATE_DIR) {
            return dir.into();
        }
        if self.root {
            return "/var/lib/bodkin".into();
        }
        match (self.var("XDG_STATE_HOME"), self.var("HOME")) {
            (Some(state), _) => Path::new(&state).join("bodkin"),
            (None, Some(home)) => Path::new(&home).join(".local/state/bodkin"),
            (None, None) => "/var/tmp/bodkin".into(),
        }
    }

    /// The engine's socket.
    pub fn socket(&self) -> PathBuf {
        if let Some(path) = self.var(SOCKET) {
            return path.into();
        }
        if self.var(STATE_DIR).is_some() {
            // Another state is another engine: it must not meet the default one at its socket.
            return self.state_dir().join("engine.sock");
        }
        if self.root {
            return "/run/bodkin/engine.sock".into();
        }
        match self.var("XDG_RUNTIME_DIR") {
            Some(dir) => Path::new(&dir).join("bodkin/engine.sock"),
            None => self.state_dir().join("engine.sock"),
        }
    }

    /// The configuration file; it need not exist.
    pub fn config(&self) -> PathBuf {
        if let Some(path) = self.var(CONFIG) {
            return path.into();
        }
        match (self.root, self.var("XDG_CONFIG_HOME"), self.var("HOME")) {
            (false, Some(config), _) => Path::new(&config).join("bodkin/engine.json"),
            (false, None, Some(home)) => Path::new(&home).join(".config/bodkin/engine.json"),
            _ => "/etc/bodkin/engine.json".into(),
        }
    }

    /// The log of an engine that was started by a client.
    pub fn log_file(&self) -> PathBuf {
        self.state_dir().join("engine.log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: bool, env: &[(&str, &str)]) -> (String, String) {
        let env = |name: &str| {
            env.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        let place = Place { root, env: &env };
        (
            place.state_dir().display().to_string(),
            place.socket().display().to_string(),
        )
    }

    #[test]
    fn addresses_that_cannot_be_used_say_why() {
        let said = |text: &str| match text.parse::<Address>() {
            Ok(address) => {
                assert_eq!(address.to_string(), text);
                String::new()
            }
            Err(e) => e.problem.to_owned(),
        };
        for fine in [
            "unix:///k",
            "tcp://h:1",
            "tcp://127.0.0.1:8080",
            "tcp://[::1]:1",
        ] {
            assert_eq!(said(fine), "", "{fine}");
        }
        assert_eq!(said("tcp://nohost"), "the port is missing; ");
        assert_eq!(said("tcp://nohost:"), "the port is missing; ");
        assert_eq!(said("tcp://[::1]"), "the port is missing; ");
        assert_eq!(said("tcp://"), "host and port are missing; ");
        assert_eq!(said("tcp://:1"), "the host is missing; ");
        assert_eq!(
            said("tcp://h:99999"),
            "the port is no number from 0 to 65535; "
        );
        assert_eq!(said("unix://"), "the path is missing; ");
        assert_eq!(
            "nohost".parse::<Address>().unwrap_err().to_string(),
            "cannot use the address `nohost`: expected unix:///path or tcp://host:port"
        );
    }

    #[test]
    fn every_user_has_one_engine_and_every_state_its_own() {
        let s = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            place(true, &[]),
            s("/var/lib/bodkin", "/run/bodkin/engine.sock")
        );
        assert_eq!(
            place(true, &[("BODKIN_STATE_DIR", "/s")]),
            s("/s", "/s/engine.sock")
        );
        assert_eq!(
            place(true, &[("BODKIN_STATE_DIR", "/s"), ("BODKIN_SOCKET", "/k")]),
            s("/s", "/k")
        );
        let user = [
            ("HOME", "/home/u"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("XDG_STATE_HOME", ""),
        ];
        assert_eq!(
            place(false, &user),
            s(
                "/home/u/.local/state/bodkin",
                "/run/user/1/bodkin/engine.sock"
            )
        );
        assert_eq!(
            place(false, &[("HOME", "/h")]),
            s(
                "/h/.local/state/bodkin",
                "/h/.local/state/bodkin/engine.sock"
            )
        );
    }

    #[test]
    fn addresses_are_unix_or_tcp() {
        for good in ["unix:///run/x.sock", "tcp://host:1", "tcp://[::1]:80"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "unix://",
            "tcp://host",
            "tcp://:1",
            "docker-container://x",
            "tcp://h:99999",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
