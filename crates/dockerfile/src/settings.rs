//! The configuration a build gives its image.

use serde_json::{Map, Value, json};

/// How an image is run, as its configuration's `config` object says. What no instruction changes stays in `other`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// Environment in order.
    pub env: Vec<(String, String)>,
    /// `user[:group]`.
    pub user: String,
    /// Working directory.
    pub workdir: String,
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// What shell forms run in; empty is the usual one.
    pub shell: Vec<String>,
    /// Instructions for builds from this image.
    pub onbuild: Vec<String>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// `80/tcp` and the like.
    pub exposed: Vec<String>,
    /// Paths meant to be volumes.
    pub volumes: Vec<String>,
    /// Signal that asks the program to end.
    pub stop_signal: String,
    /// The health check.
    pub healthcheck: Option<Value>,
    /// What `MAINTAINER` said: no part of the `config` object, but of what is around it.
    pub author: Option<String>,
    /// Everything else.
    pub other: Map<String, Value>,
}

/// `PATH` of images that bring none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Sets a name in an ordered list, in place when it is there.
pub(crate) fn set(list: &mut Vec<(String, String)>, name: &str, value: &str) {
    match list.iter_mut().find(|(n, _)| n == name) {
        Some((_, v)) => value.clone_into(v),
        None => list.push((name.to_owned(), value.to_owned())),
    }
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

fn keys(value: &Value) -> Vec<String> {
    value
        .as_object()
        .map(|m| m.keys().cloned().collect())
        .unwrap_or_default()
}

impl Settings {
    /// What an image that does not exist yet begins with.
    pub fn scratch() -> Self {
        Self {
            env: vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())],
            ..Self::default()
        }
    }

    /// Reads the `config` object of an image. Keys of another shape than expected count as absent.
    pub fn read(config: &Map<String, Value>) -> Self {
        let mut other = config.clone();
        let mut take = |key: &str| other.remove(key).unwrap_or_default();
        let text = |v: Value| v.as_str().unwrap_or_default().to_owned();
        let mut env = Vec::new();
        for pair in strings(&take("Env")) {
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            set(&mut env, name, value);
        }
        let labels = match take("Labels") {
            Value::Object(m) => m
                .iter()
                .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
                .collect(),
            _ => Vec::new(),
        };
        Self {
            env,
            user: text(take("User")),
            workdir: text(take("WorkingDir")),
            entrypoint: strings(&take("Entrypoint")),
            cmd: strings(&take("Cmd")),
            shell: strings(&take("Shell")),
            onbuild: strings(&take("OnBuild")),
            labels,
            exposed: keys(&take("ExposedPorts")),
            volumes: keys(&take("Volumes")),
            stop_signal: text(take("StopSignal")),
            healthcheck: Some(take("Healthcheck")).filter(|v| !v.is_null()),
            author: None,
            other,
        }
    }

    /// Writes the `config` object; what is empty is left out.
    pub fn write(&self) -> Map<String, Value> {
        let mut config = self.other.clone();
        let mut put = |key: &str, value: Value| {
            let empty = match &value {
                Value::Null => true,
                Value::String(s) => s.is_empty(),
                Value::Array(a) => a.is_empty(),
                Value::Object(o) => o.is_empty(),
                _ => false,
            };
            if !empty {
                config.insert(key.to_owned(), value);
            }
        };
        let set_of = |items: &[String]| {
            Value::Object(items.iter().map(|i| (i.clone(), json!({}))).collect())
        };
        put(
            "Env",
            self.env
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect::<Vec<_>>()
                .into(),
        );
        put("User", self.user.clone().into());
        put("WorkingDir", self.workdir.clone().into());
        put("Entrypoint", self.entrypoint.clone().into());
        put("Cmd", self.cmd.clone().into());
        put("Shell", self.shell.clone().into());
        put("OnBuild", self.onbuild.clone().into());
        put(
            "Labels",
            Value::Object(
                self.labels
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone().into()))
                    .collect(),
            ),
        );
        put("ExposedPorts", set_of(&self.exposed));
        put("Volumes", set_of(&self.volumes));
        put("StopSignal", self.stop_signal.clone().into());
        put("Healthcheck", self.healthcheck.clone().unwrap_or_default());
        config
    }

    /// What a shell form runs in.
    pub fn shell(&self) -> Vec<String> {
        if self.shell.is_empty() {
            vec!["/bin/sh".to_owned(), "-c".to_owned()]
        } else {
            self.shell.clone()
        }
    }

    /// The value of a variable.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}
