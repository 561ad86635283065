//! Tags whose registry is gone.

use std::time::SystemTime;

use super::*;

/// A memory that forgets nothing it is not told to.
#[derive(Default)]
struct Memory(Mutex<Vec<(String, Option<Known>, Digest)>>);

impl Tags for Memory {
    fn remember(&self, tag: &Reference, digest: Digest, who: Option<&Known>) {
        let mut all = self.0.lock().unwrap();
        all.retain(|(t, w, _)| (t, w.as_ref()) != (&tag.to_string(), who));
        all.push((tag.to_string(), who.cloned(), digest));
    }

    fn recall(&self, tag: &Reference, who: &[Known]) -> Option<Sighting> {
        let all = self.0.lock().unwrap();
        let known = |w: &Option<Known>| w.as_ref().is_none_or(|w| who.contains(w));
        let found =
            |(t, w, _): &&(String, Option<Known>, Digest)| *t == tag.to_string() && known(w);
        let (_, _, digest) = all.iter().rfind(found)?;
        Some(Sighting {
            digest: *digest,
            seen: SystemTime::UNIX_EPOCH,
        })
    }

    fn forget(&self, tag: &Reference, who: &[Known]) {
        let meant = |w: &Option<Known>| match w {
            Some(w) => who.contains(w),
            None => who.is_empty(),
        };
        let mut all = self.0.lock().unwrap();
        all.retain(|(t, w, _)| *t != tag.to_string() || !meant(w));
    }
}

/// The same store, memory and machine, for somebody else.
fn again(world: &World, tags: &Arc<Memory>, login: Option<Arc<Purse>>) -> World {
    let credentials: Arc<dyn Credentials> = match login {
        Some(purse) => purse,
        None => Arc::new(Anonymous),
    };
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    World {
        access: world
            .access
            .client
            .access(credentials)
            .remembering(Arc::clone(tags) as Arc<dyn Tags>),
        dir,
        blobs: Arc::clone(&world.blobs),
    }
}

fn remembering(configure: impl FnOnce(&mut Config)) -> (World, Arc<Memory>) {
    let tags = Arc::new(Memory::default());
    let mut world = World::new(configure);
    world.access = world.access.remembering(Arc::clone(&tags) as Arc<dyn Tags>);
    (world, tags)
}

#[tokio::test]
async fn a_tag_is_what_it_was_while_its_registry_does_not_answer() {
    let registry = Registry::start();
    let digest = registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    let (world, _tags) = remembering(|_| {});
    let first = world.resolve(&address).await.unwrap();
    assert_eq!(first.remembered, None);
    for fault in [
        Fault::Status(500, vec![]),
        Fault::Status(503, vec![("Retry-After", "1".to_owned())]),
        Fault::Stall(0),
    ] {
        registry.fault("manifests/1", fault.clone(), 1000);
        let found = world.resolve(&address).await.unwrap();
        assert_eq!(found.digest, digest, "{fault:?}");
        assert_eq!(found.reference, first.reference);
        let remembered = found.remembered.unwrap();
        assert_eq!(remembered.seen, SystemTime::UNIX_EPOCH);
        assert!(
            remembered
                .tried
                .starts_with(&format!("registry `{}`: ", registry.address())),
            "{remembered:?}"
        );
        registry.clear_faults();
    }
    drop(registry);
    let found = world.resolve(&address).await.unwrap();
    let tried = found.remembered.unwrap().tried;
    assert!(
        tried.ends_with("Connection refused (os error 111)"),
        "{tried}"
    );
}

#[tokio::test]
async fn an_answer_counts_however_unwelcome() {
    let registry = Registry::start();
    registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    for (fault, said) in [
        (Fault::Status(401, vec![]), "not allowed by"),
        (Fault::Status(403, vec![]), "access denied"),
        (Fault::Status(404, vec![]), "has no such image"),
        (Fault::Status(429, vec![]), "answered 429"),
        (Fault::Status(501, vec![]), "answered 501"),
        (
            Fault::Status(302, vec![("Location", "file:///etc/passwd".to_owned())]),
            "which is refused",
        ),
        (Fault::Status(302, vec![]), "redirects to nowhere"),
    ] {
        let (world, _tags) = remembering(|_| {});
        world.resolve(&address).await.unwrap();
        registry.fault("manifests/1", fault.clone(), 1000);
        let text = world.failure(&registry, &address).await;
        assert!(text.contains(said), "{fault:?}: {text}");
        registry.clear_faults();
    }
}

#[tokio::test]
async fn a_tag_that_is_known_to_have_moved_is_not_what_it_was() {
    let registry = Registry::start();
    registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    let (world, _tags) = remembering(|_| {});
    world.resolve(&address).await.unwrap();
    let moved = registry.add("app", "1", &image().with("Cmd", json!(["new"])));
    registry.fault(
        format!("manifests/{moved}"),
        Fault::Status(500, vec![]),
        1000,
    );
    let text = world.failure(&registry, &address).await;
    assert!(text.contains("answered 500"), "{text}");
}

#[tokio::test]
async fn what_was_refused_since_is_not_remembered() {
    let registry = Registry::start();
    registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    let (world, _tags) = remembering(|_| {});
    world.resolve(&address).await.unwrap();
    registry.fault("manifests/1", Fault::Status(404, vec![]), 2);
    assert!(world.resolve(&address).await.is_err());
    registry.clear_faults();
    registry.fault("manifests/1", Fault::Status(500, vec![]), 1000);
    let text = world.failure(&registry, &address).await;
    assert!(text.contains("has not been seen before"), "{text}");
}

#[tokio::test]
async fn only_those_who_were_answered_may_remember() {
    let registry = Registry::start_with(Auth::Token("alice", "s3cret"), false);
    registry.add("private/app", "1", &image());
    registry.add("library/app", "1", &image());
    let private = format!("{}/private/app:1", registry.address());
    let public = format!("{}/library/app:1", registry.address());
    let (nobody, tags) = remembering(|_| {});
    let alice = again(&nobody, &tags, Some(World::user("alice", "s3cret")));
    alice.resolve(&private).await.unwrap();
    nobody.resolve(&public).await.unwrap();
    registry.fault("manifests/1", Fault::Status(500, vec![]), 1000);
    let stranger = again(&nobody, &tags, None);
    let bob = again(&nobody, &tags, Some(World::user("alice", "guess")));
    for other in [&nobody, &stranger] {
        let text = other.failure(&registry, &private).await;
        assert!(
            !text.contains("s3cret") && !text.contains("sha256:"),
            "{text}"
        );
    }
    drop(registry);
    for other in [&nobody, &stranger, &bob] {
        let text = chain(&other.resolve(&private).await.unwrap_err());
        assert!(text.contains("has not been seen before"), "{text}");
        assert!(!text.contains("sha256:"), "{text}");
        assert!(other.resolve(&public).await.unwrap().remembered.is_some());
    }
    let later = again(&nobody, &tags, Some(World::user("alice", "s3cret")));
    assert!(later.resolve(&private).await.unwrap().remembered.is_some());
    assert!(later.resolve(&public).await.unwrap().remembered.is_some());
}

#[tokio::test]
async fn a_mirror_that_lacks_it_does_not_make_its_registry_answer() {
    let (mirror, upstream) = (Registry::start(), Registry::start());
    upstream.add("app", "1", &image());
    let address = format!("{}/app:1", upstream.address());
    let (world, _tags) = remembering(|config| {
        let host = Host {
            mirrors: vec![mirror.address()],
            http: true,
            ..Host::default()
        };
        config.registries.insert(upstream.address(), host);
    });
    world.resolve(&address).await.unwrap();
    drop(upstream);
    assert!(world.resolve(&address).await.unwrap().remembered.is_some());
    // A mirror that has it is asked, and one that says no is heard.
    mirror.fault("manifests/1", Fault::Status(403, vec![]), 1000);
    let text = chain(&world.resolve(&address).await.unwrap_err());
    assert!(text.contains("access denied"), "{text}");
    mirror.clear_faults();
    let moved = mirror.add("app", "1", &image().with("Cmd", json!(["new"])));
    let found = world.resolve(&address).await.unwrap();
    assert_eq!((found.digest, found.remembered), (moved, None));
}

#[tokio::test]
async fn what_is_not_here_any_more_and_what_was_never_seen() {
    let registry = Registry::start();
    let digest = registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    let (world, _tags) = remembering(|_| {});
    world.resolve(&address).await.unwrap();
    let host = registry.address();
    drop(registry);
    let text = chain(&world.resolve(&format!("{host}/app:2")).await.unwrap_err());
    assert_eq!(
        text.replace(&host, "HOST"),
        "failed to resolve image HOST/app:2: its registry does not answer, and what the tag means has not been seen before: \
         registry `HOST`: cannot reach `HOST`: Connection refused (os error 111); check the network; a mirror can be named in \
         `registries` of the engine's configuration, a proxy in HTTPS_PROXY"
    );
    std::fs::remove_file(DirBlobs::new(world.dir.path()).path(&digest)).unwrap();
    let text = chain(&world.resolve(&address).await.unwrap_err());
    assert!(
        text.contains(&format!(
            "of {digest}, which the tag meant when it was last seen, not everything is in the store"
        )),
        "{text}"
    );
}

#[tokio::test]
async fn an_authority_that_is_not_trusted_is_no_outage() {
    let registry = Registry::start_with(Auth::None, true);
    registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, registry.certificate().unwrap()).unwrap();
    let host = |insecure| Host {
        ca: vec![ca.clone()],
        insecure,
        ..Host::default()
    };
    let (world, tags) = remembering(|config| {
        config.registries.insert(registry.address(), host(false));
    });
    world.resolve(&address).await.unwrap();
    let stranger = Registry::start_with(Auth::None, true);
    std::fs::write(&ca, stranger.certificate().unwrap()).unwrap();
    let mut other = World::new(|config| {
        config.registries.insert(registry.address(), host(false));
    });
    other.access = other.access.remembering(tags);
    other.blobs = Arc::clone(&world.blobs);
    let text = chain(&other.resolve(&address).await.unwrap_err());
    assert!(
        text.contains("certificate") && !text.contains("seen before"),
        "{text}"
    );
}

#[tokio::test]
async fn an_apology_that_drips_is_not_waited_for() {
    let registry = Registry::start();
    registry.add("app", "1", &image());
    let world = World::new(|_| {});
    let start = Instant::now();
    registry.fault(
        "manifests/1",
        Fault::DripStatus(400, Duration::from_millis(50)),
        1000,
    );
    let text = world
        .failure(&registry, &format!("{}/app:1", registry.address()))
        .await;
    assert!(text.contains("answered 400"), "{text}");
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}
