//! The configuration of a container: what an image says of how it is run.

use std::sync::Arc;

/// The parts of an OCI image configuration that pipelines read or change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Environment in order.
    pub env: Vec<(Arc<str>, Arc<str>)>,
    /// `user[:group]`; empty is root.
    pub user: Arc<str>,
    /// Working directory; empty is `/`.
    pub workdir: Arc<str>,
    /// Entrypoint.
    pub entrypoint: Vec<Arc<str>>,
    /// Default arguments.
    pub cmd: Vec<Arc<str>>,
    /// The pipeline chose them, not the image.
    pub cmd_chosen: bool,
    /// Labels in order.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// The image's exposed ports: number and `tcp` or `udp`.
    pub exposed: Vec<(u16, bool)>,
    /// Ports of protocols that the API has no word for, as written: `36412/sctp`.
    pub exposed_other: Vec<Arc<str>>,
    /// Who made it, when a Dockerfile said so.
    pub author: Option<Arc<str>>,
    /// Everything else of the image's `config` object, as it was.
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// Sets `name` in an ordered list: in place when it is there.
pub fn set(list: &mut Vec<(Arc<str>, Arc<str>)>, name: &str, value: &str) {
    match list.iter_mut().find(|(n, _)| **n == *name) {
        Some((_, v)) => *v = value.into(),
        None => list.push((name.into(), value.into())),
    }
}

/// The value of `name`.
pub fn get<'a>(list: &'a [(Arc<str>, Arc<str>)], name: &str) -> Option<&'a Arc<str>> {
    list.iter().find(|(n, _)| **n == *name).map(|(_, v)| v)
}

impl Config {
    /// Reads the `config` object of an OCI image configuration. Keys of another shape than expected count as absent.
    pub fn from_oci(config: &serde_json::Map<String, serde_json::Value>) -> Self {
        let mut other = config.clone();
        let mut take = |key: &str| other.remove(key).unwrap_or_default();
        let strings = |v: serde_json::Value| -> Vec<Arc<str>> {
            v.as_array()
                .map(|a| a.iter().filter_map(|s| s.as_str().map(Arc::from)).collect())
                .unwrap_or_default()
        };
        let text = |v: serde_json::Value| -> Arc<str> { v.as_str().unwrap_or_default().into() };
        let mut env = Vec::new();
        for pair in strings(take("Env")) {
            let (k, v) = pair.split_once('=').unwrap_or((&pair, ""));
            set(&mut env, k, v);
        }
        let labels = match take("Labels") {
            serde_json::Value::Object(m) => m
                .iter()
                .filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into())))
                .collect(),
            _ => Vec::new(),
        };
        let ports = take("ExposedPorts");
        let ports = || ports.as_object().into_iter().flat_map(|m| m.keys());
        let exposed = ports().filter_map(|k| parse_port(k)).collect();
        let exposed_other = ports()
            .filter(|k| is_other_port(k))
            .map(|k| k.as_str().into())
            .collect();
        Self {
            env,
            user: text(take("User")),
            workdir: text(take("WorkingDir")),
            entrypoint: strings(take("Entrypoint")),
            cmd: strings(take("Cmd")),
            cmd_chosen: false,
            labels,
            exposed,
            exposed_other,
            author: None,
            other,
        }
    }

    /// The `config` object of an OCI image configuration, with further exposed ports (number, and whether it is UDP).
    pub fn to_oci(&self, ports: &[(u16, bool)]) -> serde_json::Map<String, serde_json::Value> {
        use serde_json::{Map, Value};
        let mut config = self.other.clone();
        let strings = |items: &[Arc<str>]| {
            Value::Array(items.iter().map(|s| Value::String(s.to_string())).collect())
        };
        let mut put = |key: &str, value: Value| {
            let empty = match &value {
                Value::String(s) => s.is_empty(),
                Value::Array(a) => a.is_empty(),
                Value::Object(o) => o.is_empty(),
                _ => false,
            };
            if !empty {
                config.insert(key.to_owned(), value);
            }
        };
        put("User", Value::String(self.user.to_string()));
        let env: Vec<Arc<str>> = self
            .env
            .iter()
            .map(|(k, v)| format!("{k}={v}").into())
            .collect();
        put("Env", strings(&env));
        put("Entrypoint", strings(&self.entrypoint));
        put("Cmd", strings(&self.cmd));
        put("WorkingDir", Value::String(self.workdir.to_string()));
        // Sorted: their order means nothing, and the same set is the same image.
        let labels: std::collections::BTreeMap<&str, &str> =
            self.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
        let labels: Map<String, Value> = labels
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.into()))
            .collect();
        put("Labels", Value::Object(labels));
        let exposed: std::collections::BTreeSet<String> = self
            .exposed
            .iter()
            .chain(ports)
            .map(|(port, udp)| format!("{port}/{}", if *udp { "udp" } else { "tcp" }))
            .chain(self.exposed_other.iter().map(ToString::to_string))
            .collect();
        let exposed: Map<String, Value> = exposed
            .into_iter()
            .map(|port| (port, Value::Object(Map::new())))
            .collect();
        put("ExposedPorts", Value::Object(exposed));
        config
    }

    /// This container's configuration after `from` an image: environment, labels and ports are merged, the rest replaced.
    #[must_use]
    pub fn merged_from(&self, image: &Self) -> Self {
        let mut merged = image.clone();
        merged.env.clone_from(&self.env);
        merged.labels.clone_from(&self.labels);
        for (k, v) in &image.env {
            set(&mut merged.env, k, v);
        }
        for (k, v) in &image.labels {
            set(&mut merged.labels, k, v);
        }
        merged.exposed.clone_from(&self.exposed);
        for p in &image.exposed {
            if !merged.exposed.contains(p) {
                merged.exposed.push(*p);
            }
        }
        merged.exposed_other.clone_from(&self.exposed_other);
        for p in &image.exposed_other {
            if !merged.exposed_other.contains(p) {
                merged.exposed_other.push(p.clone());
            }
        }
        merged
    }
}

/// Reads `80/tcp`, `53/udp` or `80`.
fn parse_port(text: &str) -> Option<(u16, bool)> {
    let (port, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = match proto {
        "tcp" => false,
        "udp" => true,
        _ => return None,
    };
    Some((port.parse().ok()?, udp))
}

/// Is it a port of another protocol?
fn is_other_port(text: &str) -> bool {
    text.split_once('/').is_some_and(|(port, proto)| {
        port.parse::<u16>().is_ok() && !proto.is_empty() && !matches!(proto, "tcp" | "udp")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_merges_lists_and_replaces_the_rest() {
        let image = Config::from_oci(
            serde_json::json!({"Env": ["PATH=/bin", "X"], "Cmd": ["sh"], "Labels": {"a": "1"}, "ExposedPorts": {"53/udp": {}, "9/sctp": {}}, "Volumes": {"/v": {}}})
                .as_object()
                .expect("an object"),
        );
        let mine = Config {
            env: vec![("MINE".into(), "1".into())],
            user: "me".into(),
            exposed: vec![(80, false)],
            ..Config::default()
        };
        let merged = mine.merged_from(&image);
        assert_eq!(
            merged.env,
            [
                ("MINE".into(), "1".into()),
                ("PATH".into(), "/bin".into()),
                ("X".into(), "".into())
            ]
        );
        assert_eq!(&*merged.user, "");
        assert_eq!(merged.exposed, [(80, false), (53, true)]);
        assert!(merged.other.contains_key("Volumes"));
        assert_eq!(
            serde_json::Value::Object(merged.to_oci(&[(7, false)]))["ExposedPorts"],
            serde_json::json!({"53/udp": {}, "7/tcp": {}, "80/tcp": {}, "9/sctp": {}})
        );
    }
}
