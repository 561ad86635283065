//! The engine's configuration file: `engine.json`.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

/// What `engine.json` may say. Unknown keys are an error: a misspelt key would silently do nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Verbosity of the engine's own log.
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
#[serde(rename_all = "camelCase", default)]
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
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Security {
    /// May execs ask for all of the engine's capabilities?
    pub insecure_root_capabilities: bool,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            insecure_root_capabilities: true,
        }
    }
}

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
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
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
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
    #[error("cannot understand the configuration `{path}`")]
    Parse {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Config {
    /// Reads a file; a missing one is the default configuration.
    ///
    /// # Errors
    /// An unreadable or malformed file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = || path.display().to_string();
        let bytes = match std::fs::read(path) {
            Ok(b) => b,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => {
                return Err(ConfigError::Read {
                    path: name(),
                    source,
                });
            }
        };
        serde_json::from_slice(&bytes).map_err(|source| ConfigError::Parse {
            path: name(),
            source,
        })
    }
}
