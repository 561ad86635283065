//! The health check of a container's configuration, as images and `withDockerHealthcheck` set it.

use std::{sync::Arc, time::Duration};

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};
use serde_json::{Map, Value as Json, json};

use super::ready::{duration, shown};
use crate::{Ctx, container::Container, dispatch::Binder};

/// The key in an image's configuration.
const KEY: &str = "Healthcheck";

/// A command that tells whether the container is healthy. Times that are not said are those of Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Healthcheck {
    pub(super) args: Vec<String>,
    pub(super) shell: bool,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) start_period: Duration,
    pub(super) start_interval: Duration,
    pub(super) retries: u32,
}

impl Default for Healthcheck {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            shell: false,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            start_period: Duration::ZERO,
            start_interval: Duration::from_secs(5),
            retries: 3,
        }
    }
}

impl Healthcheck {
    /// Reads an image's configuration; `None` when there is none, or it is switched off.
    pub(super) fn of(config: &Map<String, Json>) -> Option<Self> {
        let object = config.get(KEY)?.as_object()?;
        let test: Vec<String> = object
            .get("Test")?
            .as_array()?
            .iter()
            .filter_map(|t| Some(t.as_str()?.to_owned()))
            .collect();
        let (kind, args) = test.split_first()?;
        let shell = match kind.as_str() {
            "CMD" => false,
            "CMD-SHELL" => true,
            _ => return None,
        };
        if args.is_empty() {
            return None;
        }
        let default = Self::default();
        let time = |key: &str, default| match object.get(key).and_then(Json::as_u64) {
            None | Some(0) => default,
            Some(nanos) => Duration::from_nanos(nanos),
        };
        Some(Self {
            args: args.to_vec(),
            shell,
            interval: time("Interval", default.interval),
            timeout: time("Timeout", default.timeout),
            start_period: time("StartPeriod", default.start_period),
            start_interval: time("StartInterval", default.start_interval),
            retries: object
                .get("Retries")
                .and_then(Json::as_u64)
                .filter(|n| *n > 0)
                .map_or(default.retries, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        })
    }

    /// What to run.
    pub(super) fn command(&self) -> Vec<String> {
        if self.shell {
            vec!["/bin/sh".into(), "-c".into(), self.args.join(" ")]
        } else {
            self.args.clone()
        }
    }
}

type Answer = Result<Value, Error>;

/// Binds all fields.
pub(super) fn bind(b: &mut Binder) {
    b.bind("Container.withDockerHealthcheck", Memo::Session, with);
    b.bind(
        "Container.withoutDockerHealthcheck",
        Memo::Session,
        |inv| async move {
            let c = inv.this::<Container>()?;
            Ok(inv.object(c.configured(|k| drop(k.other.remove(KEY)))))
        },
    );
    b.bind(
        "Container.dockerHealthcheck",
        Memo::Session,
        |inv| async move {
            Ok(Healthcheck::of(&inv.this::<Container>()?.config.other)
                .map_or(Value::Null, |h| inv.object(h)))
        },
    );
    let field = |b: &mut Binder, name: &str, get: fn(&Healthcheck) -> Value| {
        b.bind(name, Memo::Never, move |inv| async move {
            Ok(get(inv.this::<Healthcheck>()?))
        });
    };
    field(b, "HealthcheckConfig.args", |h| {
        Value::strings(h.args.iter().map(|a| Arc::from(a.as_str())))
    });
    field(b, "HealthcheckConfig.shell", |h| Value::Bool(h.shell));
    field(b, "HealthcheckConfig.interval", |h| {
        Value::string(shown(h.interval))
    });
    field(b, "HealthcheckConfig.timeout", |h| {
        Value::string(shown(h.timeout))
    });
    field(b, "HealthcheckConfig.startPeriod", |h| {
        Value::string(shown(h.start_period))
    });
    field(b, "HealthcheckConfig.startInterval", |h| {
        Value::string(shown(h.start_interval))
    });
    field(b, "HealthcheckConfig.retries", |h| {
        Value::Int(h.retries.into())
    });
}

async fn with(inv: Invocation<Ctx>) -> Answer {
    let args = inv.args.strings("args");
    if args.is_empty() {
        return Err(Error::user("a health check needs a command"));
    }
    let mut test = vec![json!(if inv.args.bool("shell") {
        "CMD-SHELL"
    } else {
        "CMD"
    })];
    test.extend(args.iter().map(|a| json!(**a)));
    let mut object = Map::new();
    object.insert("Test".to_owned(), Json::Array(test));
    for (arg, key) in [
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("startPeriod", "StartPeriod"),
        ("startInterval", "StartInterval"),
    ] {
        if let Some(text) = inv.args.opt_str(arg).filter(|t| !t.is_empty()) {
            let time = duration(text)
                .ok_or_else(|| Error::user(format!("{arg}: `{text}` is no time such as `30s`")))?;
            object.insert(
                key.to_owned(),
                json!(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            );
        }
    }
    if let Some(retries) = inv.args.int("retries") {
        let retries = u32::try_from(retries)
            .map_err(|_| Error::user(format!("retries: {retries} is out of range")))?;
        object.insert("Retries".to_owned(), json!(retries));
    }
    let c = inv.this::<Container>()?;
    Ok(inv.object(c.configured(|k| drop(k.other.insert(KEY.to_owned(), Json::Object(object))))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Json) -> Option<Healthcheck> {
        Healthcheck::of(
            json!({ "Healthcheck": value })
                .as_object()
                .expect("an object"),
        )
    }

    #[test]
    fn an_images_health_check_is_read_with_dockers_defaults() {
        let h = read(json!({"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 5_000_000_000_u64, "Retries": 9})).expect("a health check");
        assert_eq!(h.command(), ["/bin/sh", "-c", "curl -f localhost"]);
        assert_eq!(
            (h.interval, h.timeout, h.retries),
            (Duration::from_secs(5), Duration::from_secs(30), 9)
        );
        assert_eq!(
            read(json!({"Test": ["CMD", "a", "b"]})).map(|h| h.command()),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
    }

    #[test]
    fn none_is_none() {
        for none in [
            json!({"Test": ["NONE"]}),
            json!({"Test": []}),
            json!({"Test": ["CMD"]}),
            json!({}),
            json!(null),
            json!({"Test": ["CMD-SHELL"]}),
        ] {
            assert_eq!(read(none.clone()), None, "{none}");
        }
    }
}
