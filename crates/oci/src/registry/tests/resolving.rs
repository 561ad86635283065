//! From names to manifests.

use super::*;

#[test]
fn futures_can_move_between_threads() {
    fn send<T: Send>(_: T) {}
    let world = World::new(|_| {});
    let reference = Reference::parse("a").unwrap();
    let platform = Platform::host();
    send(world.access.resolve(&reference, &platform, &world.blobs));
    send(
        world
            .access
            .fetch(&reference, &[], &world.blobs, &|_| {}, |_| {}),
    );
    let pull = async |image: Resolved, layers: Arc<DirLayers>| {
        send(image::pull(
            &world.access,
            &(&image).into(),
            &world.blobs,
            &layers,
            &|_| {},
        ));
    };
    let _ = pull;
}

#[tokio::test]
async fn pulls_by_tag_and_asks_nothing_for_a_pinned_image_it_has() {
    let registry = Registry::start();
    let digest = registry.add("library/app", "1", &image());
    let world = World::new(|config| {
        let host = Host {
            mirrors: vec![registry.address()],
            ..Host::default()
        };
        config.registries.insert("docker.io".to_owned(), host);
    });
    let resolved = world.pull("app:1").await.unwrap();
    assert_eq!(
        resolved.reference.to_string(),
        format!("docker.io/library/app:1@{digest}")
    );
    assert_eq!(
        (resolved.digest, resolved.manifest_digest),
        (digest, digest)
    );
    assert_eq!(resolved.platform.to_string(), "linux/amd64");
    let seen = registry.take_seen();
    assert_eq!(seen[0], "HEAD /v2/library/app/manifests/1");
    assert_eq!(seen.len(), 5, "{seen:?}");
    world.pull(&resolved.reference.to_string()).await.unwrap();
    world.pull(&format!("app@{digest}")).await.unwrap();
    assert_eq!(
        registry.take_seen(),
        [""; 0],
        "a pinned image is not asked for again"
    );
    world.pull("app:1").await.unwrap();
    assert_eq!(
        registry.take_seen(),
        ["HEAD /v2/library/app/manifests/1"],
        "a tag is only looked up"
    );
}

#[tokio::test]
async fn a_damaged_document_is_fetched_again() {
    let registry = Registry::start();
    let digest = registry.add("app", "1", &image());
    let world = World::new(|_| {});
    let address = format!("{}/app@{digest}", registry.address());
    world.pull(&address).await.unwrap();
    let path = DirBlobs::new(world.dir.path()).path(&digest);
    std::fs::write(&path, "damaged").unwrap();
    registry.take_seen();
    world.pull(&address).await.unwrap();
    assert_eq!(
        registry.take_seen(),
        [format!("GET /v2/app/manifests/{digest}")]
    );
    assert_eq!(Digest::of(&std::fs::read(path).unwrap()), digest);
}

#[tokio::test]
async fn picks_the_platform_from_an_index() {
    let registry = Registry::start();
    let (amd, arm) = (
        "linux/amd64".parse().unwrap(),
        "linux/arm64".parse().unwrap(),
    );
    let (for_amd, for_arm) = (
        image(),
        Image::new().platform(&arm).with("Cmd", json!(["arm"])),
    );
    let index = registry.add_index("multi", "1", &[(&arm, &for_arm), (&amd, &for_amd)]);
    let world = World::new(|_| {});
    let reference = Reference::parse(&format!("{}/multi:1", registry.address())).unwrap();
    let resolved = world
        .access
        .resolve(&reference, &arm, &world.blobs)
        .await
        .unwrap();
    assert_eq!((resolved.digest, resolved.platform), (index, arm));
    assert_ne!(resolved.manifest_digest, index);
    assert_eq!(resolved.config.config.cmd, ["arm"]);
    let s390 = "linux/s390x".parse().unwrap();
    let error = world
        .access
        .resolve(&reference, &s390, &world.blobs)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "failed to resolve image {reference}: no match for platform linux/s390x in manifest (it has linux/arm64, linux/amd64)"
        )
    );
}

#[tokio::test]
async fn an_unknown_image_names_everybody_who_was_asked() {
    let (mirror, upstream) = (Registry::start(), Registry::start());
    let world = World::new(|config| {
        let host = Host {
            mirrors: vec![mirror.address()],
            http: true,
            ..Host::default()
        };
        config.registries.insert(upstream.address(), host);
    });
    let error = world
        .resolve(&format!("{}/app:no", upstream.address()))
        .await
        .unwrap_err();
    let text = chain(&error)
        .replace(&mirror.address(), "MIRROR")
        .replace(&upstream.address(), "UPSTREAM");
    assert_eq!(
        text,
        "failed to resolve image UPSTREAM/app:no: mirror `MIRROR` does not have it; \
         registry `UPSTREAM`: `UPSTREAM` has no such image"
    );
    let ResolveError::Content {
        source: ContentError::Attempts(attempts),
        ..
    } = error
    else {
        panic!()
    };
    assert!(attempts.not_found());
    upstream.add("app", "yes", &image());
    world
        .pull(&format!("{}/app:yes", upstream.address()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_dead_mirror_costs_little() {
    let upstream = Registry::start();
    upstream.add("app", "1", &image());
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let world = World::new(|config| {
        config.registries.insert(
            upstream.address(),
            Host {
                mirrors: vec![dead],
                ..Host::default()
            },
        );
    });
    let start = Instant::now();
    world
        .pull(&format!("{}/app:1", upstream.address()))
        .await
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn registries_that_cannot_do_head() {
    let registry = Registry::start();
    let digest = registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    registry.fault("manifests/1", Fault::Status(405, vec![]), 1);
    assert_eq!(
        World::new(|_| {}).pull(&address).await.unwrap().digest,
        digest
    );
    registry.fault("manifests/1", Fault::NoDigestHeader, 2);
    assert_eq!(
        World::new(|_| {}).pull(&address).await.unwrap().digest,
        digest
    );
    registry.fault("manifests/1", Fault::NoDigestHeader, 1);
    registry.fault(
        "manifests/1",
        Fault::WrongDigestHeader(Digest::of(b"x").to_string()),
        1,
    );
    let text = World::new(|_| {}).failure(&registry, &address).await;
    assert!(
        text.ends_with(&format!(
            "sent content that does not match {}",
            Digest::of(b"x")
        )),
        "{text}"
    );
}

#[tokio::test]
async fn documents_that_are_too_large_or_two_things_at_once() {
    let registry = Registry::start();
    // A slow machine takes a while over the first.
    let world = World::new(|config| config.patience.silence = Duration::from_secs(60));
    registry.put("app", "huge", &vec![b' '; 9 << 20]);
    let text = world
        .failure(&registry, &format!("{}/app:huge", registry.address()))
        .await;
    assert!(
        text.ends_with("`HOST` sends more than 8388608 bytes"),
        "{text}"
    );
    let both = json!({"schemaVersion": 2, "manifests": [], "layers": []});
    let digest = registry.put("app", "both", both.to_string().as_bytes());
    let text = world
        .failure(&registry, &format!("{}/app:both", registry.address()))
        .await;
    assert_eq!(
        text,
        format!(
            "failed to resolve image HOST/app:both: manifest {digest} is unusable: document is both an image manifest and an index"
        )
    );
    let digest = registry.add("app", "1", &image());
    registry.fault(digest, Fault::ContentType(media_type::OCI_INDEX), 1);
    let text = world
        .failure(&registry, &format!("{}/app:1", registry.address()))
        .await;
    assert!(
        text.contains("document says it is `application/vnd.oci.image.manifest.v1+json`, expected"),
        "{text}"
    );
    // An index that leads to itself would need a digest that contains itself; a chain of them does not.
    let mut child = registry.add_index(
        "app",
        "chain",
        &[(&"linux/amd64".parse().unwrap(), &image())],
    );
    for _ in 0..4 {
        let platform = json!({"os": "linux", "architecture": "amd64"});
        let entry = json!({"mediaType": media_type::OCI_INDEX, "digest": child, "size": 1, "platform": platform});
        let parent =
            json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry]});
        child = registry.put("app", "chain", parent.to_string().as_bytes());
    }
    let text = world
        .failure(&registry, &format!("{}/app:chain", registry.address()))
        .await;
    assert!(
        text.ends_with("indexes are nested more than 3 deep"),
        "{text}"
    );
}
