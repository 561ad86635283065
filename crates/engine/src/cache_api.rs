//! The engine's cache as clients see it: what is in it, its limits, and making it smaller.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use graph::{
    call::{Call, Literal},
    error::{Class, Error},
    resolve::{Invocation, Memo},
    value::{Object, Value},
};
use store::{Entry, EntryKind};

use crate::{
    Ctx,
    dispatch::Binder,
    gc::{Limits, Request, Size, Wishes, parse_size},
};

/// Most sets of entries a session keeps, for their IDs to be loaded.
const MAX_SETS: usize = 8;
/// Names the engine, if it is set.
const ENGINE_NAME: &str = "_EXPERIMENTAL_DAGGER_ENGINE_NAME";

/// The engine, as an object of the API.
struct EngineInfo;

/// The cache, as an object of the API.
#[derive(Default)]
struct Cache {
    /// The sets of entries that were looked at, by key, oldest first.
    sets: Mutex<VecDeque<(Arc<str>, EntrySet)>>,
}

/// What was in the cache at one moment.
type EntrySet = Arc<[Arc<Entry>]>;

impl Cache {
    fn find(&self, key: &str) -> Option<EntrySet> {
        let sets = crate::lock(&self.sets);
        sets.iter()
            .find(|(k, _)| **k == *key)
            .map(|(_, set)| set.clone())
    }

    /// Keeps a set under its key, or one that no other has. The set that was there first stays.
    fn keep(&self, key: &str, set: EntrySet) -> (Arc<str>, EntrySet) {
        let mut sets = crate::lock(&self.sets);
        let taken = |key: &str| sets.iter().find(|(k, _)| **k == *key);
        let key: Arc<str> = if key.is_empty() {
            let free = sets
                .iter()
                .filter_map(|(k, _)| k.strip_prefix('#')?.parse::<u64>().ok())
                .max()
                .unwrap_or(0);
            format!("#{}", free.saturating_add(1)).into()
        } else if let Some((key, set)) = taken(key) {
            return (key.clone(), set.clone());
        } else {
            key.into()
        };
        if sets.len() >= MAX_SETS {
            sets.pop_front();
        }
        sets.push_back((key.clone(), set.clone()));
        (key, set)
    }
}

/// Binds all fields.
pub(crate) fn bind(b: &mut Binder) {
    b.bind("Query.engine", Memo::Session, |inv| async move {
        Ok(inv.object(EngineInfo))
    });
    b.bind("Engine.name", Memo::Never, |_| async {
        let given = std::env::var(ENGINE_NAME)
            .ok()
            .filter(|name| !name.is_empty());
        Ok(Value::string(given.unwrap_or_else(|| {
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned()
        })))
    });
    // Remembered for each client, so that each is looked at.
    b.bind("Engine.localCache", Memo::Client, |inv| async move {
        inv.this::<EngineInfo>()?;
        let client = &inv.ctx.client;
        if client.user().key != client.key {
            return Err(Error::user(
                "not main client: the engine's cache is not for programs inside containers",
            ));
        }
        Ok(inv.object(Cache::default()))
    });
    type Pick = fn(Limits) -> u64;
    let limits: [(&str, Pick); 5] = [
        ("EngineCache.keepBytes", |l| l.reserved),
        ("EngineCache.reservedSpace", |l| l.reserved),
        ("EngineCache.maxUsedSpace", |l| l.max_used),
        ("EngineCache.minFreeSpace", |l| l.min_free),
        ("EngineCache.targetSpace", |l| l.target),
    ];
    for (field, pick) in limits {
        b.bind(field, Memo::Never, move |inv| async move {
            let engine = &inv.ctx.engine;
            let store = engine.store.clone();
            let disk = engine
                .blocking(move || {
                    store
                        .disk()
                        .map_err(|e| Error::from_chain(Class::Environment, &e))
                })
                .await?;
            Ok(int(pick(engine.gc.settings().limits(disk.total))))
        });
    }
    b.bind("EngineCache.entrySet", Memo::Never, entry_set);
    b.bind("EngineCache.prune", Memo::Never, prune);
    entries(b);
}

fn entries(b: &mut Binder) {
    fn set(inv: &Invocation<Ctx>) -> Result<&EntrySet, Error> {
        inv.this()
    }
    fn entry(inv: &Invocation<Ctx>) -> Result<&Entry, Error> {
        inv.this::<Arc<Entry>>().map(|e| &**e)
    }
    b.bind(
        "EngineCacheEntrySet.entryCount",
        Memo::Never,
        |inv| async move { Ok(int(set(&inv)?.len() as u64)) },
    );
    b.bind(
        "EngineCacheEntrySet.diskSpaceBytes",
        Memo::Never,
        |inv| async move {
            Ok(int(set(&inv)?
                .iter()
                .fold(0, |sum, e| sum.saturating_add(e.size))))
        },
    );
    b.bind(
        "EngineCacheEntrySet.entries",
        Memo::Session,
        |inv| async move { Ok(inv.objects(set(&inv)?.iter().cloned())) },
    );
    b.bind(
        "EngineCacheEntry.description",
        Memo::Never,
        |inv| async move { Ok(Value::string(entry(&inv)?.description.as_str())) },
    );
    b.bind(
        "EngineCacheEntry.diskSpaceBytes",
        Memo::Never,
        |inv| async move { Ok(int(entry(&inv)?.size)) },
    );
    b.bind(
        "EngineCacheEntry.activelyUsed",
        Memo::Never,
        |inv| async move { Ok(Value::Bool(entry(&inv)?.in_use)) },
    );
    b.bind(
        "EngineCacheEntry.createdTimeUnixNano",
        Memo::Never,
        |inv| async move { Ok(Value::Int(entry(&inv)?.created_ns)) },
    );
    b.bind(
        "EngineCacheEntry.mostRecentUseTimeUnixNano",
        Memo::Never,
        |inv| async move { Ok(Value::Int(entry(&inv)?.last_used_ns)) },
    );
    b.bind(
        "EngineCacheEntry.recordType",
        Memo::Never,
        |inv| async move { Ok(Value::string(record_type(entry(&inv)?.kind))) },
    );
    b.bind(
        "EngineCacheEntry.recordTypes",
        Memo::Never,
        |inv| async move { Ok(Value::strings([record_type(entry(&inv)?.kind)])) },
    );
}

/// What clients call the kinds of entries.
fn record_type(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Result => "regular",
        EntryKind::Blob => "source.image",
        EntryKind::Volume => "exec.cachemount",
    }
}

fn int(n: u64) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// `EngineCache.entrySet`: looks anew unless the same key was asked before. The answer's recipe has a key in any case, so that
/// IDs of the set and its entries mean what was seen then.
async fn entry_set(inv: Invocation<Ctx>) -> Result<Value, Error> {
    let cache = inv.this::<Cache>()?;
    let asked = inv.args.str("key");
    if let Some(set) = cache.find(asked) {
        return Ok(inv.object(set));
    }
    let store = inv.ctx.engine.store.clone();
    let entries = inv.ctx.engine.blocking(move || Ok(store.usage())).await?;
    let (key, set) = cache.keep(asked, entries.into_iter().map(Arc::new).collect());
    let args = vec![("key".into(), Literal::String(key))];
    let call = Call::with(
        inv.call.receiver.clone(),
        &inv.call.field,
        args,
        &inv.call.type_name,
        0,
        &inv.call.view,
    );
    Ok(Value::Object(Object::new(&inv.call.type_name, call, set)))
}

async fn prune(inv: Invocation<Ctx>) -> Result<Value, Error> {
    inv.this::<Cache>()?;
    let size = |name: &str| {
        match inv.args.opt_str(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => parse_size(text).map(Some).ok_or_else(|| {
            Error::user(format!("`{name}` is {text:?}: expected a size such as \"10GB\" or \"512MiB\", or a part of the disk such as \"20%\""))
        }),
    }
    };
    let wishes = Wishes {
        reserved: size("reservedSpace")?,
        max_used: size("maxUsedSpace")?,
        min_free: size("minFreeSpace")?,
        sweep: None,
    };
    let target: Option<Size> = size("targetSpace")?;
    let request = Request {
        use_default: inv.args.bool("useDefaultPolicy"),
        wishes,
        target,
    };
    let report = inv.ctx.engine.prune_requested(request).await?;
    tracing::info!(
        removed = report.removed,
        bytes = report.freed,
        "cache pruned"
    );
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use graph::resolve::View;
    use serde_json::json;

    use super::*;
    use crate::testkit::Kit;

    fn set(description: &str) -> EntrySet {
        let entry = Entry {
            kind: EntryKind::Result,
            id: String::new(),
            description: description.to_owned(),
            size: 1,
            created_ns: 1,
            last_used_ns: 1,
            in_use: false,
        };
        [Arc::new(entry)].into_iter().collect()
    }

    #[test]
    fn sets_are_kept_by_key_and_only_some() {
        let cache = Cache::default();
        assert_eq!(&*cache.keep("", set("a")).0, "#1");
        assert_eq!(&*cache.keep("", set("b")).0, "#2");
        assert_eq!(&*cache.keep("mine", set("c")).0, "mine");
        let (_, kept) = cache.keep("mine", set("d"));
        assert_eq!(kept[0].description, "c");
        assert_eq!(cache.find("#1").expect("a set")[0].description, "a");
        for _ in 0..MAX_SETS {
            cache.keep("", set("e"));
        }
        assert!(cache.find("#1").is_none());
        assert!(cache.find("").is_none());
        assert_eq!(cache.sets.lock().expect("a lock").len(), MAX_SETS);
    }
    #[tokio::test]
    async fn root_policy_numbers() {
        let kit = Kit::new();
        let s = kit.session(View::new(0, 14, 0));
        let shown = s
            .leaf("{engine{localCache{keepBytes reservedSpace maxUsedSpace minFreeSpace}}}")
            .await;
        let total = kit.engine.store.disk().expect("a disk").total;
        let limits = kit.engine.gc.settings().limits(total);
        let expected = json!({
            "keepBytes": limits.reserved, "reservedSpace": limits.reserved,
            "maxUsedSpace": total / 4 * 3, "minFreeSpace": total / 5,
        });
        assert_eq!(shown, expected);
    }

    #[tokio::test]
    async fn root_entries_are_seen_and_pruned_unless_in_use() {
        let kit = Kit::new();
        let view = View::new(0, 21, 7);
        let s = kit.session(view);
        let entries = "{engine{localCache{entrySet{id entryCount entries{id description activelyUsed recordType}}}}}";
        assert_eq!(s.leaf(entries).await["entryCount"], json!(0));
        s.leaf("{directory{withNewFile(path:\"f\",contents:\"x\"){entries}}}")
            .await;
        let seen = s.leaf(entries).await;
        assert_eq!(seen["entryCount"], json!(1), "{seen}");
        assert_eq!(seen["entries"][0]["activelyUsed"], json!(true));
        // The session holds it.
        assert_eq!(s.leaf("{engine{localCache{prune}}}").await, json!(null));
        assert_eq!(
            s.leaf("{engine{localCache{entrySet{entryCount}}}}").await,
            json!(1)
        );
        s.0.session.solver.forget();
        let other = kit.session(view);
        other
            .leaf("{engine{localCache{prune(useDefaultPolicy:true)}}}")
            .await;
        assert_eq!(
            other
                .leaf("{engine{localCache{entrySet{entryCount}}}}")
                .await,
            json!(1)
        );
        other.leaf("{engine{localCache{prune}}}").await;
        assert_eq!(
            other
                .leaf("{engine{localCache{entrySet{entryCount}}}}")
                .await,
            json!(0)
        );
        assert!(
            other
                .error("{engine{localCache{prune(maxUsedSpace:\"lots\")}}}")
                .await
                .contains("`maxUsedSpace` is \"lots\"")
        );
    }

    #[tokio::test]
    async fn root_ids_of_entries_mean_what_was_seen() {
        let kit = Kit::new();
        let s = kit.session(View::new(0, 14, 0));
        s.leaf("{directory{withNewFile(path:\"f\",contents:\"x\"){entries}}}")
            .await;
        let seen = s
            .leaf("{engine{localCache{entrySet{id entries{id}}}}}")
            .await;
        let (set, entry) = (
            seen["id"].as_str().expect("an ID"),
            seen["entries"][0]["id"].as_str().expect("an ID"),
        );
        s.leaf("{directory{withNewFile(path:\"g\",contents:\"y\"){entries}}}")
            .await;
        assert_eq!(
            s.leaf("{engine{localCache{entrySet{entryCount}}}}").await,
            json!(2)
        );
        assert_eq!(
            s.leaf(&format!(
                "{{loadEngineCacheEntrySetFromID(id:\"{set}\"){{entryCount}}}}"
            ))
            .await,
            json!(1)
        );
        let loaded = s
            .leaf(&format!(
                "{{loadEngineCacheEntryFromID(id:\"{entry}\"){{description}}}}"
            ))
            .await;
        assert_eq!(loaded, json!("file change"));
        // In another session they are looked at anew.
        let other = kit.session(View::new(0, 14, 0));
        assert_eq!(
            other
                .leaf(&format!(
                    "{{loadEngineCacheEntrySetFromID(id:\"{set}\"){{entryCount}}}}"
                ))
                .await,
            json!(2)
        );
    }

    #[tokio::test]
    async fn root_keys_give_the_same_answer_again() {
        let kit = Kit::new();
        let s = kit.session(View::new(0, 15, 0));
        let keyed = "{engine{localCache{entrySet(key:\"k\"){entryCount}}}}";
        assert_eq!(s.leaf(keyed).await, json!(0));
        s.leaf("{directory{withNewFile(path:\"f\",contents:\"x\"){entries}}}")
            .await;
        assert_eq!(s.leaf(keyed).await, json!(0));
        assert_eq!(
            s.leaf("{engine{localCache{entrySet(key:\"l\"){entryCount}}}}")
                .await,
            json!(1)
        );
    }
    #[tokio::test]
    async fn root_programs_in_containers_do_not_see_the_cache() {
        let kit = Kit::new();
        let s = kit.session(View::DEFAULT);
        let id = s.text("{engine{localCache{id}}}").await;
        let nested = s.nested();
        for query in [
            "{engine{localCache{prune}}}".to_owned(),
            format!("{{loadEngineCacheFromID(id:\"{id}\"){{entrySet{{entryCount}}}}}}"),
        ] {
            let error = nested.error(&query).await;
            assert!(error.starts_with("not main client"), "{error}");
        }
    }
}
