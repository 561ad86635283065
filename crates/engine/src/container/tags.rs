//! What the tags of images meant when they were last looked up, kept in the store for the time when a registry cannot be
//! reached. Beside each meaning stands to whom it was told: a keyed hash of the login, or nobody in particular.

use std::{
    collections::HashSet,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use oci::{
    Digest, Reference,
    registry::{Known, Sighting, Tags},
};
use serde::{Deserialize, Serialize};
use store::Store;

use crate::lock;

/// Where they are kept, by name and tag.
const SPACE: &str = "image tags";
/// What the hashes are keyed with, in the same space: no image is called so.
const KEY: &str = "key";
/// Meanings of one tag that are kept: of so many logins. The oldest go.
const MOST: usize = 64;
/// A meaning that stays the same is written again only after so long.
const OFTEN: u64 = 60;

/// A tag's meaning, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    digest: String,
    /// Seconds since 1970.
    seen: u64,
    /// Hash of the login that was answered; nothing when none was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    who: Option<String>,
}

/// The memory of all sessions.
#[derive(Debug)]
pub struct TagMemory {
    store: Store,
    /// Held while a fact is read and written.
    turn: Mutex<()>,
}

impl TagMemory {
    /// The memory in a store.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            turn: Mutex::default(),
        }
    }

    fn entries(&self, tag: &Reference) -> Vec<Entry> {
        self.store
            .facts()
            .get(SPACE, &tag.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn keep(&self, tag: &Reference, entries: &[Entry]) {
        let name = tag.to_string();
        match serde_json::to_vec(entries) {
            Ok(bytes) if !entries.is_empty() => self.store.facts().put(SPACE, &name, &bytes),
            _ => self.store.facts().remove(SPACE, &name),
        }
    }

    /// The hash of a login under this store's key, which is made when it is not there: without it no hash fits.
    fn hash(&self, who: &Known) -> String {
        let facts = self.store.facts();
        let known: Option<[u8; 32]> = facts.get(SPACE, KEY).and_then(|key| key.try_into().ok());
        let key = known.unwrap_or_else(|| {
            let mut key = [0; 32];
            for half in key.chunks_exact_mut(16) {
                half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
            }
            facts.put(SPACE, KEY, &key);
            key
        });
        let login = [&who.host, &who.login.username, &who.login.secret];
        let text = login.map(String::as_str).join("\0");
        blake3::keyed_hash(&key, text.as_bytes())
            .to_hex()
            .to_string()
    }
}

/// The meanings after one more was told; `None` when nothing has changed that is worth writing.
fn told(mut entries: Vec<Entry>, new: Entry) -> Option<Vec<Entry>> {
    let same = |old: &Entry| {
        old.who == new.who
            && old.digest == new.digest
            && old.seen <= new.seen
            && new.seen - old.seen < OFTEN
    };
    if entries.iter().any(same) {
        return None;
    }
    entries.retain(|old| old.who != new.who);
    entries.push(new);
    let surplus = entries.len().saturating_sub(MOST);
    entries.drain(..surplus);
    Some(entries)
}

/// The last meaning that was told to one of `who` or to anybody.
fn last<'a>(entries: &'a [Entry], who: &HashSet<String>) -> Option<&'a Entry> {
    entries
        .iter()
        .filter(|entry| entry.who.as_ref().is_none_or(|w| who.contains(w)))
        .max_by_key(|entry| entry.seen)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

impl Tags for TagMemory {
    fn remember(&self, tag: &Reference, digest: Digest, who: Option<&Known>) {
        let _turn = lock(&self.turn);
        let new = Entry {
            digest: digest.to_string(),
            seen: now(),
            who: who.map(|who| self.hash(who)),
        };
        if let Some(entries) = told(self.entries(tag), new) {
            self.keep(tag, &entries);
        }
    }

    fn recall(&self, tag: &Reference, who: &[Known]) -> Option<Sighting> {
        let _turn = lock(&self.turn);
        let who = who.iter().map(|who| self.hash(who)).collect();
        let entries = self.entries(tag);
        let entry = last(&entries, &who)?;
        Some(Sighting {
            digest: entry.digest.parse().ok()?,
            seen: UNIX_EPOCH.checked_add(Duration::from_secs(entry.seen))?,
        })
    }

    fn forget(&self, tag: &Reference, who: &[Known]) {
        let _turn = lock(&self.turn);
        let hashes: HashSet<String> = who.iter().map(|who| self.hash(who)).collect();
        let before = self.entries(tag);
        let mut after = before.clone();
        after.retain(|entry| match &entry.who {
            Some(who) => !hashes.contains(who),
            None => !who.is_empty(),
        });
        if after != before {
            self.keep(tag, &after);
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::{
        registry::Login,
        testkit::{Auth, Fault, Image, Registry},
    };

    use super::*;
    use crate::testkit::Kit;

    fn entry(digest: &str, seen: u64, who: Option<&str>) -> Entry {
        Entry {
            digest: digest.to_owned(),
            seen,
            who: who.map(str::to_owned),
        }
    }

    #[test]
    fn meanings_are_kept_by_who_was_told() {
        let first = told(Vec::new(), entry("a", 100, None)).expect("new");
        assert_eq!(told(first.clone(), entry("a", 100 + OFTEN - 1, None)), None);
        assert_eq!(
            told(first.clone(), entry("a", 100 + OFTEN, None)),
            Some(vec![entry("a", 100 + OFTEN, None)])
        );
        // A clock that went back does not keep what is newer from being written.
        assert_eq!(
            told(first.clone(), entry("a", 50, None)),
            Some(vec![entry("a", 50, None)])
        );
        let both = told(first, entry("b", 101, Some("x"))).expect("new");
        let of = |who: &[&str]| {
            let who = who.iter().map(|w| (*w).to_owned()).collect();
            last(&both, &who).map(|e| e.digest.clone())
        };
        assert_eq!(of(&[]).as_deref(), Some("a"));
        assert_eq!(of(&["y"]).as_deref(), Some("a"));
        assert_eq!(of(&["y", "x"]).as_deref(), Some("b"));
        let mut many = both;
        for n in 0..MOST {
            many = told(many, entry("c", 200, Some(&n.to_string()))).expect("new");
        }
        assert_eq!(many.len(), MOST);
        assert_eq!(last(&many, &HashSet::from(["x".to_owned()])), None);
    }

    #[tokio::test]
    async fn logins_are_told_apart_and_not_written() {
        let kit = Kit::new();
        let memory = TagMemory::new(kit.engine.store.clone());
        let tag = Reference::parse("r.example/a:1").expect("a name");
        let known = |host: &str, secret: &str| Known {
            host: host.to_owned(),
            login: Login {
                username: "me".to_owned(),
                secret: secret.to_owned(),
            },
        };
        let me = known("r.example", "s3cret");
        memory.remember(&tag, Digest::of(b"x"), Some(&me));
        let meaning = |who: &[Known]| memory.recall(&tag, who).map(|s| s.digest);
        assert_eq!(meaning(std::slice::from_ref(&me)), Some(Digest::of(b"x")));
        for who in [
            &[][..],
            &[known("r.example", "other")],
            &[known("mirror", "s3cret")],
        ] {
            assert_eq!(meaning(who), None);
            memory.forget(&tag, who);
        }
        assert!(meaning(std::slice::from_ref(&me)).is_some());
        let kept = kit.engine.store.facts().get(SPACE, &tag.to_string());
        let kept = String::from_utf8(kept.expect("a fact")).expect("text");
        assert!(!kept.contains("s3cret") && !kept.contains("me\""), "{kept}");
        memory.forget(&tag, std::slice::from_ref(&me));
        assert_eq!(meaning(&[me]), None);
        memory.remember(&tag, Digest::of(b"x"), None);
        assert!(meaning(&[known("r.example", "other")]).is_some());
        // Whom a registry does not let in says nothing about what anybody may have.
        memory.forget(&tag, &[known("r.example", "other")]);
        assert!(meaning(&[]).is_some());
        memory.forget(&tag, &[]);
        assert_eq!(meaning(&[]), None);
    }

    #[tokio::test]
    async fn another_session_finds_a_tag_whose_registry_is_gone() {
        let kit = Kit::new();
        let registry = Registry::start_with(Auth::Token("me", "s3cret"), false);
        let image = Image::new().platform(&oci::Platform::host());
        let digest = registry.add("library/app", "1", &image);
        registry.add("private/app", "1", &image);
        let host = registry.address();
        let open = format!(
            r#"{{ container {{ from(address: "{host}/library/app:1") {{ imageRef }} }} }}"#
        );
        let closed = format!(
            r#"{{ container {{ withRegistryAuth(address: "{host}", username: "me", secret: "SECRET") {{
                from(address: "{host}/private/app:1") {{ imageRef }} }} }} }}"#
        );
        let login = async |asker: &crate::testkit::Asker| {
            let secret = asker
                .text(r#"{ setSecret(name: "s", plaintext: "s3cret") { id } }"#)
                .await;
            closed.replace("SECRET", &secret)
        };
        let view = graph::resolve::View::new(0, 14, 0);
        let first = kit.session(view);
        let pinned = format!("{host}/library/app:1@{digest}");
        assert_eq!(first.text(&open).await, pinned);
        let query = login(&first).await;
        first.text(&query).await;
        registry.fault("manifests/1", Fault::Status(502, vec![]), 1000);
        let second = kit.session(view);
        assert_eq!(second.text(&open).await, pinned);
        drop(registry);
        let third = kit.session(view);
        assert_eq!(third.text(&open).await, pinned);
        let private = format!(
            r#"{{ container {{ from(address: "{host}/private/app:1") {{ imageRef }} }} }}"#
        );
        let answer = third.answer(&private).await;
        let said = answer["errors"][0]["message"].as_str().unwrap_or_default();
        assert!(
            said.contains("has not been seen before") && said.contains("Connection refused"),
            "{said}"
        );
        let query = login(&third).await;
        assert!(third.text(&query).await.contains(&digest.to_string()));
    }
}
