//! The engine's configuration file: `engine.json`, or `engine.toml` where there is only that.

mod toml;

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// What `engine.json` may say. Unknown keys are an error: a misspelt key would silently do nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object with settings"
)]
pub struct Config {
    /// Verbosity of the engine's own log, see [`LOG_LEVELS`].
    pub log_level: Option<String>,
    /// How much the store may keep.
    pub gc: Gc,
    /// What pipelines may do.
    pub security: Security,
    /// Registries by host.
    pub registries: BTreeMap<String, Registry>,
    /// Container networking.
    pub network: Network,
    /// Most execs at once; 0 is four per core.
    pub max_parallelism: usize,
    /// `native` (default) or the name of an OCI runtime such as `runc`.
    pub runtime: Option<String>,
}

/// Garbage collection.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object with settings"
)]
pub struct Gc {
    /// Collect at all?
    pub enabled: bool,
    /// Kept whatever else is said: bytes, `"10GB"` or `"10%"` of the disk.
    pub reserved_space: Option<serde_json::Value>,
    /// Never more than this.
    pub max_used_space: Option<serde_json::Value>,
    /// Left free on the disk.
    pub min_free_space: Option<serde_json::Value>,
    /// Collected at once.
    pub sweep_size: Option<serde_json::Value>,
    /// Finer rules.
    pub policies: Vec<serde_json::Value>,
}

impl Default for Gc {
    fn default() -> Self {
        Self {
            enabled: true,
            reserved_space: None,
            max_used_space: None,
            min_free_space: None,
            sweep_size: None,
            policies: vec![],
        }
    }
}

/// Entitlements.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object with settings"
)]
pub struct Security {
    /// May execs ask for all of the engine's capabilities?
    pub insecure_root_capabilities: bool,
    /// May Dockerfiles ask for them too, with `RUN --security=insecure`? Who builds one has often not read it.
    pub insecure_dockerfiles: bool,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            insecure_root_capabilities: true,
            insecure_dockerfiles: false,
        }
    }
}

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object with settings"
)]
pub struct Registry {
    /// Asked in order before the registry itself.
    pub mirrors: Vec<String>,
    /// Plain HTTP.
    pub http: bool,
    /// Do not check certificates.
    pub insecure: bool,
    /// Additional certificate authorities: paths of PEM files.
    pub ca: Vec<String>,
}

/// Container networking.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object with settings"
)]
pub struct Network {
    /// Bridge subnet; `10.87.0.0/16` when absent.
    pub cidr: Option<String>,
    /// Run containers without network.
    pub disabled: bool,
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Unreadable.
    #[error("cannot read the configuration `{path}`")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not what is expected.
    #[error("cannot understand {}the configuration `{path}`", part(key))]
    Parse {
        /// Which file.
        path: String,
        /// Where in it, as `network.cidr`; `.` for the whole, `?` where there is no telling.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Not what is expected of an `engine.toml`.
    #[error("cannot understand the configuration `{path}`: {problem}")]
    Toml {
        /// Which file.
        path: String,
        /// What is wrong, and where.
        problem: String,
    },
    /// A value that means nothing.
    #[error("cannot use `{key}` in the configuration `{path}`: {value:?} {problem}")]
    Value {
        /// Which file.
        path: String,
        /// Where in it.
        key: &'static str,
        /// What it says.
        value: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// Rules for collecting garbage that mean nothing.
    #[error("cannot use the configuration `{path}`")]
    Gc {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: crate::gc::GcError,
    },
}

/// A place in the configuration, as a phrase before its name.
fn part(key: &str) -> String {
    match key {
        "." | "?" => String::new(),
        key => format!("`{key}` in "),
    }
}

/// What `logLevel` may be, and what the log calls it.
pub const LOG_LEVELS: [(&str, &str); 6] = [
    ("error", "error"),
    ("warn", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("debugextra", "trace"),
    ("trace", "trace"),
];

impl Config {
    /// Reads a file, or the older `engine.toml` beside it where it is missing; without either it is the default configuration.
    /// The second answer names what of the older file has no meaning here.
    ///
    /// # Errors
    /// An unreadable or malformed file.
    pub fn read(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        let older = path.with_extension("toml");
        let file = match found(path)? {
            None => found(&older)?,
            newer => newer,
        };
        let Some((path, bytes)) = file else {
            return Ok(Default::default());
        };
        let name = path.display().to_string();
        let path_var = std::env::var_os("PATH").unwrap_or_default();
        let find = |program: &str| find_program(program, std::env::split_paths(&path_var));
        if path.extension().is_none_or(|e| e != "toml") {
            return Ok((Self::parse(&bytes, &name, &find)?, Vec::new()));
        }
        let wrong = |problem: String| ConfigError::Toml {
            path: name.clone(),
            problem,
        };
        let text = std::str::from_utf8(&bytes).map_err(|e| wrong(e.to_string()))?;
        let (settings, passed) = toml::settings(text).map_err(wrong)?;
        let config = Self::parse(settings.to_string().as_bytes(), &name, &find)?;
        Ok((config, passed))
    }

    /// Understands the text of the file `path`. `find` looks for a program, as a shell would.
    fn parse(
        bytes: &[u8],
        path: &str,
        find: &dyn Fn(&str) -> Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let parse = |key: String, source| ConfigError::Parse {
            path: path.to_owned(),
            key,
            source,
        };
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let config: Self = serde_path_to_error::deserialize(&mut json)
            .map_err(|e| parse(e.path().to_string(), e.into_inner()))?;
        json.end().map_err(|e| parse(".".to_owned(), e))?;
        config.check(path, find)?;
        Ok(config)
    }

    /// Refuses values that would do nothing, or something else, later.
    fn check(&self, path: &str, find: &dyn Fn(&str) -> Option<PathBuf>) -> Result<(), ConfigError> {
        let wrong = |key, value: &str, problem: String| ConfigError::Value {
            path: path.to_owned(),
            key,
            value: value.to_owned(),
            problem,
        };
        if let Some(level) = &self.log_level
            && self.log_filter().is_none()
        {
            let known = LOG_LEVELS.map(|(name, _)| name).join(", ");
            return Err(wrong("logLevel", level, format!("is none of {known}")));
        }
        if let Some(cidr) = &self.network.cidr
            && let Err(e) = cidr.parse::<sandbox::network::Subnet>()
        {
            let problem = format!("is no subnet for containers, such as `10.87.0.0/16`: {e}");
            return Err(wrong("network.cidr", cidr, problem));
        }
        if let Some(runtime) = &self.runtime
            && runtime != NATIVE
            && find(runtime).is_none()
        {
            let problem = format!(
                "is neither `{NATIVE}` nor a program: no executable file by that name or in PATH"
            );
            return Err(wrong("runtime", runtime, problem));
        }
        crate::gc::Settings::read(&self.gc).map_err(|source| ConfigError::Gc {
            path: path.to_owned(),
            source,
        })?;
        Ok(())
    }

    /// How the log names the verbosity; `None` without one, or with one that is none.
    pub fn log_filter(&self) -> Option<&'static str> {
        let wanted = self.log_level.as_deref()?;
        LOG_LEVELS
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, filter)| *filter)
    }
}

/// A file's contents, if there is one.
fn found(path: &Path) -> Result<Option<(&Path, Vec<u8>)>, ConfigError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some((path, bytes))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Read {
            path: path.display().to_string(),
            source,
        }),
    }
}

/// The runtime that needs no other program.
pub const NATIVE: &str = "native";

/// Finds an executable file as a shell would.
fn find_program(name: &str, path: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    let executable = |p: &PathBuf| {
        p.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(executable);
    }
    path.map(|dir| dir.join(name)).find(executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_file_counts_where_there_is_no_newer_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let (json, toml) = (
            dir.path().join("engine.json"),
            dir.path().join("engine.toml"),
        );
        assert_eq!(Config::read(&json).expect("nothing"), Default::default());
        std::fs::write(&toml, "root = \"/x\"\n[worker.oci]\nmax-parallelism = 7\n")
            .expect("written");
        let (config, passed) = Config::read(&json).expect("understood");
        assert_eq!(
            (config.max_parallelism, passed.join(" ")),
            (7, "root".into())
        );
        std::fs::write(&json, "{}").expect("written");
        let (config, _) = Config::read(&json).expect("understood");
        assert_eq!(config.max_parallelism, 0);
        let (config, _) = Config::read(&toml).expect("understood");
        assert_eq!(config.max_parallelism, 7);
        std::fs::write(&toml, "[worker.oci]\nmaxUsedSpace = \"many\"\n").expect("written");
        let error = graph::error::chain(&Config::read(&toml).expect_err("no size"));
        assert!(
            error.contains("engine.toml") && error.contains("many"),
            "{error}"
        );
    }

    fn said(text: &str) -> String {
        let found = |name: &str| (name == "runc").then(|| PathBuf::from("/usr/bin/runc"));
        match Config::parse(text.as_bytes(), "/c/engine.json", &found) {
            Ok(_) => String::new(),
            Err(e) => graph::error::chain(&e),
        }
    }

    #[test]
    fn what_would_do_nothing_is_refused_with_file_key_and_what_is_allowed() {
        for fine in [
            "{}",
            r#"{"logLevel":"debugextra","runtime":"runc","network":{"cidr":"10.1.0.0/16"},"gc":{"maxUsedSpace":"10GB"}}"#,
            r#"{"runtime":"native"}"#,
        ] {
            assert_eq!(said(fine), "", "{fine}");
        }
        let cases = [
            (
                r#"{"gc":{"bogus":1}}"#,
                "`gc.bogus`|`/c/engine.json`|unknown field `bogus`, expected one of `enabled`",
            ),
            (
                r#"{"gc":{"enabled":"yes"}}"#,
                "`gc.enabled`|`/c/engine.json`|\"yes\"|a boolean",
            ),
            (
                r#"{"gc":{"maxUsedSpace":"many"}}"#,
                "`/c/engine.json`|maxUsedSpace|many",
            ),
            (
                r#"{"logLevel":"zzz"}"#,
                "`logLevel`|`/c/engine.json`|\"zzz\"|error, warn, info",
            ),
            (
                r#"{"network":{"cidr":"bad"}}"#,
                "`network.cidr`|`/c/engine.json`|\"bad\"|10.87.0.0/16",
            ),
            (
                r#"{"runtime":"nope"}"#,
                "`runtime`|`/c/engine.json`|\"nope\"|`native`|PATH",
            ),
            (
                r#"{"registries":{"a":{"mirror":[]}}}"#,
                "`registries.a.mirror`|`mirrors`",
            ),
            (r#"{"network":3}"#, "`network`|`3`|an object with settings"),
            ("{} x", "understand the configuration `/c/engine.json`"),
            ("{", "understand the configuration `/c/engine.json`"),
        ];
        for (text, parts) in cases {
            let said = said(text);
            for part in parts.split('|') {
                assert!(said.contains(part), "{text}: {said}: {part}");
            }
        }
    }

    #[test]
    fn programs_are_found_as_shells_do() {
        let path = || ["/nowhere", "/bin"].into_iter().map(PathBuf::from);
        assert_eq!(find_program("sh", path()), Some("/bin/sh".into()));
        assert_eq!(find_program("/bin/sh", path()), Some("/bin/sh".into()));
        assert_eq!(find_program("/etc/passwd", path()), None);
        assert_eq!(find_program("no-such-runtime", path()), None);
    }
}
