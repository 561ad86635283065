//! Collecting garbage: how much the store may keep, and when what is too much goes.
//!
//! The limits come from `engine.json` and the size of the disk ([`Settings::policy`], pure). After a session ends the store
//! is collected in the background: a second later, at most once a minute, one collection at a time ([`Schedule`], pure).

mod parse;
mod schedule;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use graph::error::{Class, Error};
use store::{EntryKind, Policy, Rule};
use tokio::time::Instant;

pub use parse::{Size, parse_duration, parse_size};
use schedule::Schedule;

use crate::{Engine, config};

/// Side data — image blobs and cache volumes — that was not used for [`SIDE_UNUSED`] may take so much.
const SIDE_MAX: u64 = 512_000_000;
/// After how long side data may go.
const SIDE_UNUSED: Duration = Duration::from_secs(48 * 60 * 60);
/// After how long everything may go that is over the limits, before what was used since.
const OLD: Duration = Duration::from_secs(60 * 24 * 60 * 60);
/// Most that is kept whatever the limits say, unless the configuration says otherwise.
const RESERVED_MAX: u64 = 10_000_000_000;

/// Why the configuration of the garbage collection was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GcError {
    /// A size.
    #[error(
        "`{key}` in `gc` is {found}: expected a number of bytes, a size such as \"10GB\" or \"512MiB\", or a part of the disk such as \"10%\""
    )]
    Size {
        /// The setting.
        key: String,
        /// What it says.
        found: String,
    },
    /// A duration.
    #[error(
        "`{key}` in `gc` is {found}: expected a number of seconds or a duration such as \"48h\" or \"1h30m\""
    )]
    Duration {
        /// The setting.
        key: String,
        /// What it says.
        found: String,
    },
    /// A filter of a policy.
    #[error(
        "`{key}` in `gc` is {found}: expected \"type==KIND\" with KIND one of exec.cachemount, regular, source.local, source.git.checkout, source.image"
    )]
    Filter {
        /// The setting.
        key: String,
        /// What it says.
        found: String,
    },
    /// A policy that cannot be understood.
    #[error("`{key}` in `gc` cannot be understood: {problem}")]
    Policy {
        /// The setting.
        key: String,
        /// Why.
        problem: String,
    },
}

/// What `engine.json` says about collecting garbage, understood.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// Collect by itself?
    pub enabled: bool,
    /// The limits on everything.
    pub wishes: Wishes,
    /// Rules that replace the standard ones.
    pub rules: Vec<WishedRule>,
}

/// Limits as they are written, not yet measured against a disk.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Wishes {
    /// Kept whatever the other limits say.
    pub reserved: Option<Size>,
    /// Never more than this.
    pub max_used: Option<Size>,
    /// Left free on the disk.
    pub min_free: Option<Size>,
    /// Removed at least, once a limit was passed.
    pub sweep: Option<Size>,
}

/// A rule as it is written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WishedRule {
    /// What it applies to; empty for everything.
    pub kinds: Vec<EntryKind>,
    /// Only to what was not used for so long.
    pub unused_for: Option<Duration>,
    /// Its limits.
    pub wishes: Wishes,
}

/// The limits on everything, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Kept whatever the other limits say.
    pub reserved: u64,
    /// Never more than this.
    pub max_used: u64,
    /// Left free on the disk.
    pub min_free: u64,
    /// What the store is brought down to once a limit was passed.
    pub target: u64,
}

/// What is known of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that can be used.
    pub free: u64,
    /// Bytes the store takes.
    pub used: u64,
}

/// What a client asks to be removed: what goes by the limits given, everything when there are none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Request {
    /// Start from the configured limits.
    pub use_default: bool,
    /// Limits instead of those.
    pub wishes: Wishes,
    /// What the store is brought down to once a limit was passed; whatever it takes when there is none.
    pub target: Option<Size>,
}

impl Settings {
    /// Understands a configuration.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn read(config: &config::Gc) -> Result<Self, GcError> {
        let wishes = Wishes {
            reserved: parse::size_setting("reservedSpace", config.reserved_space.as_ref())?,
            max_used: parse::size_setting("maxUsedSpace", config.max_used_space.as_ref())?,
            min_free: parse::size_setting("minFreeSpace", config.min_free_space.as_ref())?,
            sweep: parse::size_setting("sweepSize", config.sweep_size.as_ref())?,
        };
        let rules = config
            .policies
            .iter()
            .enumerate()
            .map(|(at, p)| parse::rule(&format!("policies[{at}]"), p));
        Ok(Self {
            enabled: config.enabled,
            wishes,
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// The limits on everything, on a disk of `total` bytes: a tenth of it or 10 GB are kept, three quarters are the most,
    /// a fifth is left free, unless the configuration says otherwise. The last rule's where rules are configured.
    pub fn limits(&self, total: u64) -> Limits {
        let wishes = self
            .rules
            .last()
            .map_or(Wishes::default(), |rule| rule.wishes);
        let pick = |of: fn(&Wishes) -> Option<Size>, standard: u64| {
            of(&wishes)
                .or_else(|| of(&self.wishes))
                .map_or(standard, |size| size.of(total))
        };
        let reserved = pick(|w| w.reserved, (total / 10).min(RESERVED_MAX));
        let max_used = pick(|w| w.max_used, total / 4 * 3);
        let min_free = pick(|w| w.min_free, total / 5);
        let sweep = pick(|w| w.sweep, 0);
        Limits {
            reserved,
            max_used,
            min_free,
            target: max_used.saturating_sub(sweep).max(reserved),
        }
    }

    /// Does the policy depend on what the store takes?
    pub fn sweeps(&self) -> bool {
        self.wishes.sweep.is_some() || self.rules.iter().any(|r| r.wishes.sweep.is_some())
    }

    /// What goes by itself. Without configured rules: what has not been used for 60 days and then the rest, as long as the
    /// limits are passed; before all that, blobs and volumes not used for two days, beyond 512 MB.
    pub fn policy(&self, facts: Facts) -> Policy {
        let rules = if self.rules.is_empty() {
            let side = Rule {
                kinds: vec![EntryKind::Blob, EntryKind::Volume],
                unused_for: Some(SIDE_UNUSED),
                max_used: Some(SIDE_MAX),
                ..Rule::default()
            };
            let limits = self.limits(facts.total);
            let all = Rule {
                max_used: Some(limits.max_used),
                min_free: Some(limits.min_free),
                reserved: limits.reserved,
                ..Rule::default()
            };
            let all = swept(
                all,
                self.wishes.sweep.map_or(0, |s| s.of(facts.total)),
                facts,
            );
            vec![
                side,
                Rule {
                    unused_for: Some(OLD),
                    ..all.clone()
                },
                all,
            ]
        } else {
            self.rules.iter().map(|rule| rule.measured(facts)).collect()
        };
        Policy { rules }
    }

    /// What goes because a client asks.
    pub fn requested(&self, request: &Request, facts: Facts) -> Policy {
        let wishes = &request.wishes;
        let limited = [
            wishes.reserved,
            wishes.max_used,
            wishes.min_free,
            request.target,
        ]
        .iter()
        .any(Option::is_some);
        if !limited {
            return if request.use_default {
                self.policy(facts)
            } else {
                Policy::everything()
            };
        }
        let of = |size: Option<Size>| size.map(|s| s.of(facts.total));
        let standard = request.use_default.then(|| self.limits(facts.total));
        let mut rule = Rule {
            max_used: of(wishes.max_used).or(standard.map(|l| l.max_used)),
            min_free: of(wishes.min_free).or(standard.map(|l| l.min_free)),
            reserved: of(wishes.reserved)
                .or(standard.map(|l| l.reserved))
                .unwrap_or(0),
            ..Rule::default()
        };
        let unlimited = rule.max_used.is_none() && rule.min_free.is_none();
        if let Some(target) = of(request.target)
            && (unlimited || passed(&rule, facts))
        {
            rule.max_used = Some(rule.max_used.map_or(target, |max| max.min(target)));
        }
        Policy { rules: vec![rule] }
    }
}

impl WishedRule {
    fn measured(&self, facts: Facts) -> Rule {
        let of = |size: Option<Size>| size.map(|s| s.of(facts.total));
        let rule = Rule {
            kinds: self.kinds.clone(),
            unused_for: self.unused_for,
            max_used: of(self.wishes.max_used),
            min_free: of(self.wishes.min_free),
            reserved: of(self.wishes.reserved).unwrap_or(0),
        };
        swept(rule, of(self.wishes.sweep).unwrap_or(0), facts)
    }
}

/// Is a limit passed?
fn passed(rule: &Rule, facts: Facts) -> bool {
    rule.max_used.is_some_and(|max| facts.used > max)
        || rule.min_free.is_some_and(|min| facts.free < min)
}

/// The rule that removes `sweep` bytes more than it takes to keep the limits, if one is passed.
fn swept(rule: Rule, sweep: u64, facts: Facts) -> Rule {
    if sweep == 0 || !passed(&rule, facts) {
        return rule;
    }
    Rule {
        max_used: rule.max_used.map(|max| max.saturating_sub(sweep)),
        min_free: rule
            .min_free
            .map(|min| min.saturating_add(sweep).min(facts.total)),
        ..rule
    }
}

/// Collects garbage in the background.
#[derive(Debug)]
pub struct Collector {
    settings: Settings,
    schedule: Mutex<Schedule>,
}

impl Collector {
    /// Nothing is scheduled yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            schedule: Mutex::default(),
        }
    }

    /// What the configuration says.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn scheduled<T>(&self, f: impl FnOnce(&mut Schedule) -> T) -> T {
        f(&mut crate::lock(&self.schedule))
    }
}

impl Engine {
    /// A session is over: what it held may go now. Returns at once. Needs a runtime to run in.
    pub fn session_closed(self: &Arc<Self>) {
        if !self.gc.settings.enabled {
            return;
        }
        let Some(mut at) = self.gc.scheduled(|s| s.request(Instant::now())) else {
            return;
        };
        // It must not keep the engine: it may end before.
        let engine = Arc::downgrade(self);
        drop(tokio::spawn(async move {
            loop {
                tokio::time::sleep_until(at).await;
                let Some(engine) = engine.upgrade() else {
                    return;
                };
                engine.gc.scheduled(|s| s.begin(Instant::now()));
                if let Err(error) = engine.collect().await {
                    tracing::warn!("cannot collect garbage: {error}");
                }
                match engine.gc.scheduled(|s| s.end(Instant::now())) {
                    Some(next) => at = next,
                    None => return,
                }
            }
        }));
    }

    /// Removes what the configured limits say.
    ///
    /// # Errors
    /// The room on the disk cannot be told.
    pub async fn collect(&self) -> Result<store::Report, Error> {
        let settings = self.gc.settings.clone();
        let report = self
            .prune(settings.sweeps(), move |facts| settings.policy(facts))
            .await?;
        if report.removed > 0 {
            tracing::info!(
                removed = report.removed,
                bytes = report.freed,
                "garbage collected"
            );
        }
        Ok(report)
    }

    /// Removes what a client asks for. What is removed is gone from the disk afterwards.
    ///
    /// # Errors
    /// The room on the disk cannot be told.
    pub async fn prune_requested(&self, request: Request) -> Result<store::Report, Error> {
        let settings = self.gc.settings.clone();
        let report = self
            .prune(true, move |facts| settings.requested(&request, facts))
            .await?;
        let store = self.store.clone();
        self.blocking(move || {
            store.empty_trash();
            Ok(())
        })
        .await?;
        Ok(report)
    }

    async fn prune(
        &self,
        measure: bool,
        policy: impl FnOnce(Facts) -> Policy + Send + 'static,
    ) -> Result<store::Report, Error> {
        let store = self.store.clone();
        self.blocking(move || {
            let disk = store
                .disk()
                .map_err(|e| Error::from_chain(Class::Environment, &e))?;
            let used = if measure {
                store
                    .usage()
                    .iter()
                    .fold(0, |sum: u64, e| sum.saturating_add(e.size))
            } else {
                0
            };
            let facts = Facts {
                total: disk.total,
                free: disk.free,
                used,
            };
            store
                .prune(&policy(facts))
                .map_err(|e| Error::from_chain(Class::Environment, &e))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use graph::resolve::View;

    use super::*;
    use crate::testkit::Kit;

    const GB: u64 = 1_000_000_000;

    fn settings(json: serde_json::Value) -> Settings {
        let config: config::Gc = serde_json::from_value(json).expect("a configuration");
        Settings::read(&config).expect("settings")
    }

    fn facts(total: u64, free: u64, used: u64) -> Facts {
        Facts { total, free, used }
    }

    #[test]
    fn standard_limits() {
        let limits = |total| settings(serde_json::json!({})).limits(total);
        assert_eq!(
            limits(1000 * GB),
            Limits {
                reserved: 10 * GB,
                max_used: 750 * GB,
                min_free: 200 * GB,
                target: 750 * GB
            }
        );
        assert_eq!(
            limits(40 * GB),
            Limits {
                reserved: 4 * GB,
                max_used: 30 * GB,
                min_free: 8 * GB,
                target: 30 * GB
            }
        );
    }

    #[test]
    fn without_configuration_the_policy_is_the_stores_own() {
        let total = 400 * GB;
        let policy = settings(serde_json::json!({})).policy(facts(total, 0, 0));
        assert_eq!(policy, Policy::standard(total));
    }

    #[test]
    fn configured_limits_replace_the_standard_ones() {
        let of = settings(
            serde_json::json!({"reservedSpace": "1GiB", "maxUsedSpace": "50%", "minFreeSpace": 7, "sweepSize": "10%"}),
        );
        let limits = of.limits(100 * GB);
        assert_eq!(
            limits,
            Limits {
                reserved: 1 << 30,
                max_used: 50 * GB,
                min_free: 7,
                target: 40 * GB
            }
        );
        assert!(of.sweeps());
        let rule = |facts| of.policy(facts).rules.pop().expect("a rule");
        assert_eq!(
            rule(facts(100 * GB, 60 * GB, 40 * GB)).max_used,
            Some(50 * GB)
        );
        assert_eq!(
            rule(facts(100 * GB, 40 * GB, 51 * GB)).max_used,
            Some(40 * GB)
        );
        assert_eq!(rule(facts(100 * GB, 6, 9 * GB)).min_free, Some(10 * GB + 7));
    }

    #[test]
    fn configured_rules_replace_the_standard_ones() {
        let of = settings(serde_json::json!({"policies": [
            {"filters": ["type==exec.cachemount,type==regular"], "keepDuration": "48h", "maxUsedSpace": "512MB"},
            {"all": true, "reservedSpace": "2GB"},
        ]}));
        let policy = of.policy(facts(100 * GB, 0, 0));
        let first = Rule {
            kinds: vec![EntryKind::Volume, EntryKind::Result],
            unused_for: Some(Duration::from_secs(48 * 3600)),
            max_used: Some(512_000_000),
            ..Rule::default()
        };
        assert_eq!(
            policy.rules,
            [
                first,
                Rule {
                    reserved: 2 * GB,
                    ..Rule::default()
                }
            ]
        );
        assert_eq!(of.limits(100 * GB).reserved, 2 * GB);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let read = |json| {
            let config: config::Gc = serde_json::from_value(json).expect("a configuration");
            Settings::read(&config).expect_err("an error").to_string()
        };
        let text = read(serde_json::json!({"maxUsedSpace": "lots"}));
        assert!(
            text.starts_with("`maxUsedSpace` in `gc` is \"lots\": expected"),
            "{text}"
        );
        let text = read(serde_json::json!({"policies": [{}, {"keepDuration": "soon"}]}));
        assert!(
            text.starts_with("`policies[1].keepDuration` in `gc` is \"soon\""),
            "{text}"
        );
        let text = read(serde_json::json!({"policies": [{"filters": ["id==5"]}]}));
        assert!(
            text.starts_with("`policies[0].filters` in `gc` is \"id==5\""),
            "{text}"
        );
        let text = read(serde_json::json!({"policies": [{"maxUsed": 5}]}));
        assert!(text.contains("unknown field `maxUsed`"), "{text}");
    }

    #[test]
    fn clients_ask_for_everything_or_for_limits() {
        let of = settings(serde_json::json!({}));
        let disk = facts(100 * GB, 10 * GB, 60 * GB);
        assert_eq!(
            of.requested(&Request::default(), disk),
            Policy::everything()
        );
        assert_eq!(
            of.requested(
                &Request {
                    use_default: true,
                    ..Request::default()
                },
                disk
            ),
            of.policy(disk)
        );
        let wishes = Wishes {
            max_used: Some(Size::Bytes(50 * GB)),
            ..Wishes::default()
        };
        let request = Request {
            wishes,
            target: Some(Size::Part(20.0)),
            ..Request::default()
        };
        let expected = Rule {
            max_used: Some(20 * GB),
            ..Rule::default()
        };
        assert_eq!(of.requested(&request, disk).rules, [expected]);
        // Not passed: nothing goes.
        let small = facts(100 * GB, 60 * GB, 30 * GB);
        assert_eq!(
            of.requested(&request, small).rules,
            [Rule {
                max_used: Some(50 * GB),
                ..Rule::default()
            }]
        );
        let request = Request {
            use_default: true,
            ..request
        };
        let rule = of.requested(&request, small).rules.pop().expect("a rule");
        assert_eq!(
            (rule.max_used, rule.min_free, rule.reserved),
            (Some(50 * GB), Some(20 * GB), 10 * GB)
        );
        let only_target = Request {
            target: Some(Size::Bytes(GB)),
            ..Request::default()
        };
        assert_eq!(
            of.requested(&only_target, small).rules,
            [Rule {
                max_used: Some(GB),
                ..Rule::default()
            }]
        );
    }
    #[tokio::test]
    async fn root_what_is_over_the_limits_goes_unless_it_is_in_use() {
        let gc = serde_json::json!({"maxUsedSpace": 0, "minFreeSpace": 0, "reservedSpace": 0});
        let gc = serde_json::from_value(gc).expect("a configuration");
        let kit = Kit::with(config::Config {
            gc,
            ..config::Config::default()
        });
        let session = kit.session(View::DEFAULT);
        session
            .leaf("{directory{withNewFile(path:\"f\",contents:\"x\"){entries}}}")
            .await;
        assert_eq!(kit.engine.collect().await.expect("a collection").removed, 0);
        session.0.session.solver.forget();
        assert_eq!(kit.engine.collect().await.expect("a collection").removed, 1);
    }
}
