//! `engine.toml`, the older file: what of it means something here, as the settings of `engine.json`.
//!
//! Keys that only say how another engine is put together (its sockets, its workers' programs) are read over with a warning;
//! a key that nobody knows is an error.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What has no meaning for this engine.
const FOREIGN: [&str; 10] = [
    "root",
    "grpc",
    "otel",
    "log",
    "dns",
    "history",
    "cdi",
    "frontend",
    "system",
    "provenanceEnvDir",
];
/// The same, of a worker.
const FOREIGN_WORKER: [&str; 15] = [
    "enabled",
    "platforms",
    "snapshotter",
    "proxySnapshotterPath",
    "rootless",
    "noProcessSandbox",
    "labels",
    "networkMode",
    "cniConfigPath",
    "cniBinaryPath",
    "cniPoolSize",
    "binary",
    "apparmor-profile",
    "selinux",
    "defaultCgroupParent",
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    debug: bool,
    trace: bool,
    #[serde(rename = "insecure-entitlements")]
    entitlements: Option<Vec<String>>,
    registry: BTreeMap<String, Registry>,
    worker: Workers,
    #[serde(flatten)]
    others: BTreeMap<String, toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Registry {
    mirrors: Vec<String>,
    http: bool,
    insecure: bool,
    ca: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Workers {
    oci: Worker,
    containerd: Option<toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Worker {
    gc: Option<bool>,
    /// Megabytes, or a text with a unit.
    #[serde(alias = "gc-keepstorage")]
    gckeepstorage: Option<Value>,
    #[serde(rename = "reservedSpace")]
    reserved: Option<Value>,
    #[serde(rename = "maxUsedSpace")]
    most: Option<Value>,
    #[serde(rename = "minFreeSpace")]
    free: Option<Value>,
    gcpolicy: Vec<Rule>,
    #[serde(rename = "max-parallelism")]
    parallelism: Option<u64>,
    #[serde(flatten)]
    others: BTreeMap<String, toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rule {
    all: bool,
    filters: Vec<String>,
    #[serde(rename = "keepDuration")]
    keep_duration: Option<Value>,
    #[serde(rename = "keepBytes")]
    keep_bytes: Option<Value>,
    #[serde(rename = "reservedSpace")]
    reserved: Option<Value>,
    #[serde(rename = "maxUsedSpace")]
    most: Option<Value>,
    #[serde(rename = "minFreeSpace")]
    free: Option<Value>,
}

/// The settings, and the keys that were read over.
///
/// # Errors
/// What is wrong with the text, with its place.
pub(super) fn settings(text: &str) -> Result<(Value, Vec<String>), String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
    let mut passed = Vec::new();
    over("", &file.others, &FOREIGN, &mut passed)?;
    over(
        "worker.oci.",
        &file.worker.oci.others,
        &FOREIGN_WORKER,
        &mut passed,
    )?;
    if file.worker.containerd.is_some() {
        passed.push("worker.containerd".to_owned());
    }
    let mut all = Map::new();
    if file.trace {
        all.insert("logLevel".into(), "trace".into());
    } else if file.debug {
        all.insert("logLevel".into(), "debug".into());
    }
    if let Some(allowed) = &file.entitlements {
        let insecure = allowed.iter().any(|e| e == "security.insecure");
        all.insert(
            "security".into(),
            json!({ "insecureRootCapabilities": insecure }),
        );
    }
    let registries: Map<String, Value> = file
        .registry
        .into_iter()
        .map(|(host, r)| {
            let settings =
                json!({ "mirrors": r.mirrors, "http": r.http, "insecure": r.insecure, "ca": r.ca });
            (host, settings)
        })
        .collect();
    all.insert("registries".into(), registries.into());
    if let Some(most) = file.worker.oci.parallelism {
        all.insert("maxParallelism".into(), most.into());
    }
    all.insert("gc".into(), gc(file.worker.oci).into());
    Ok((all.into(), passed))
}

fn over(
    before: &str,
    found: &BTreeMap<String, toml::Value>,
    foreign: &[&str],
    passed: &mut Vec<String>,
) -> Result<(), String> {
    for key in found.keys() {
        if !foreign.contains(&key.as_str()) {
            return Err(format!("unknown key `{before}{key}`"));
        }
        passed.push(format!("{before}{key}"));
    }
    Ok(())
}

fn gc(worker: Worker) -> Map<String, Value> {
    let mut gc = Map::new();
    gc.insert("enabled".into(), worker.gc.unwrap_or(true).into());
    let kept = worker.gckeepstorage.map(|kept| match kept.as_u64() {
        Some(megabytes) => megabytes.saturating_mul(1_000_000).into(),
        None => kept,
    });
    put(&mut gc, "reservedSpace", worker.reserved.or(kept));
    put(&mut gc, "maxUsedSpace", worker.most);
    put(&mut gc, "minFreeSpace", worker.free);
    let rules = worker.gcpolicy.into_iter().map(|rule| {
        let mut r = Map::new();
        r.insert("all".into(), rule.all.into());
        r.insert("filters".into(), rule.filters.into());
        put(&mut r, "keepDuration", rule.keep_duration);
        put(&mut r, "reservedSpace", rule.reserved.or(rule.keep_bytes));
        put(&mut r, "maxUsedSpace", rule.most);
        put(&mut r, "minFreeSpace", rule.free);
        Value::from(r)
    });
    gc.insert("policies".into(), rules.collect());
    gc
}

fn put(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_means_something_is_taken() {
        let text = r#"
debug = true
insecure-entitlements = []
[grpc]
address = ["tcp://0.0.0.0:8080"]
[worker.oci]
gc = true
gckeepstorage = 9000
maxUsedSpace = "60%"
max-parallelism = 3
snapshotter = "overlayfs"
[[worker.oci.gcpolicy]]
all = true
keepBytes = 512000000
keepDuration = "48h"
filters = ["type==source.local", "type==exec.cachemount"]
[registry."docker.io"]
mirrors = ["mirror.example:5000"]
[registry."mirror.example:5000"]
http = true
ca = ["/etc/ca.pem"]
"#;
        let (found, passed) = settings(text).expect("understood");
        let wanted = json!({
            "logLevel": "debug",
            "security": {"insecureRootCapabilities": false},
            "maxParallelism": 3,
            "gc": {
                "enabled": true, "reservedSpace": 9_000_000_000_u64, "maxUsedSpace": "60%",
                "policies": [{"all": true, "keepDuration": "48h", "reservedSpace": 512_000_000, "filters": ["type==source.local", "type==exec.cachemount"]}]
            },
            "registries": {
                "docker.io": {"mirrors": ["mirror.example:5000"], "http": false, "insecure": false, "ca": []},
                "mirror.example:5000": {"mirrors": [], "http": true, "insecure": false, "ca": ["/etc/ca.pem"]}
            }
        });
        assert_eq!(found, wanted);
        assert_eq!(passed, ["grpc", "worker.oci.snapshotter"]);
    }

    #[test]
    fn mistakes_are_told_with_their_key() {
        for (text, want) in [
            ("debgu = true", "unknown key `debgu`"),
            ("[worker.oci]\ngcc = true", "unknown key `worker.oci.gcc`"),
            ("[worker.oxi]\ngc = true", "oxi"),
            ("[registry.\"a\"]\nmirror = []", "mirror"),
            ("debug = 3", "debug"),
            ("a = ", "line 1"),
        ] {
            let error = settings(text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
