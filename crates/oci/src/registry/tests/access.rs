//! Credentials, tokens, TLS.

use super::*;

#[tokio::test]
async fn basic_authentication() {
    let registry = Registry::start_with(Auth::Basic("alice", "s3cret"), false);
    registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    let text = World::new(|_| {}).failure(&registry, &address).await;
    assert!(
        text.ends_with(
            "not allowed by `HOST`: authentication is required and there are no credentials for it"
        ),
        "{text}"
    );
    let text = World::with(|_| {}, World::user("alice", "guess"))
        .failure(&registry, &address)
        .await;
    assert!(
        text.ends_with("not allowed by `HOST`: the credentials for user `alice` are not accepted")
            || text.contains("access denied"),
        "{text}"
    );
    assert!(!text.contains("guess"));
    let purse = World::user("alice", "s3cret");
    let world = World::with(|_| {}, Arc::clone(&purse) as Arc<dyn Credentials>);
    world.pull(&address).await.unwrap();
    assert_eq!(*purse.asked.lock().unwrap(), [registry.address()]);
}

#[tokio::test]
async fn token_authentication() {
    let registry = Registry::start_with(Auth::Token("alice", "s3cret"), false);
    registry.add("library/app", "1", &image());
    registry.add("private/app", "1", &image());
    let public = format!("{}/library/app:1", registry.address());
    let private = format!("{}/private/app:1", registry.address());
    let world = World::new(|_| {});
    world.pull(&public).await.unwrap();
    let tokens = |registry: &Registry| {
        registry
            .seen()
            .iter()
            .filter(|s| s.path.starts_with("/token"))
            .count()
    };
    assert_eq!(tokens(&registry), 1, "one token serves all requests");
    registry.revoke_tokens();
    let fresh = World::new(|_| {});
    let resolved = world.resolve(&public).await.unwrap();
    assert_eq!(
        tokens(&registry),
        2,
        "a token that expired early is replaced"
    );
    drop((fresh, resolved));
    let text = world.failure(&registry, &private).await;
    assert!(
        text.ends_with(
            "not allowed by `HOST`: authentication is required and there are no credentials for it"
        ),
        "{text}"
    );
    let text = World::with(|_| {}, World::user("alice", "guess"))
        .failure(&registry, &private)
        .await;
    assert!(
        text.ends_with("not allowed by `HOST`: the credentials for user `alice` are not accepted"),
        "{text}"
    );
    World::with(|_| {}, World::user("alice", "s3cret"))
        .pull(&private)
        .await
        .unwrap();
    World::with(|_| {}, World::user("<token>", "s3cret"))
        .pull(&private)
        .await
        .unwrap();
}

#[tokio::test]
async fn one_sessions_token_does_not_serve_another() {
    let registry = Registry::start_with(Auth::Token("alice", "s3cret"), false);
    registry.add("private/app", "1", &image());
    let address = format!("{}/private/app:1", registry.address());
    let alice = World::with(|_| {}, World::user("alice", "s3cret"));
    alice.pull(&address).await.unwrap();
    let other = alice.access.client.access(Arc::new(Anonymous));
    let reference = Reference::parse(&address).unwrap();
    let error = other
        .resolve(&reference, &Platform::host(), &alice.blobs)
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("authentication is required"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn credentials_stay_where_they_belong() {
    let (registry, other) = (
        Registry::start_with(Auth::Basic("alice", "s3cret"), false),
        Registry::start(),
    );
    let image = image();
    registry.add("app", "1", &image);
    let layer = big(&image);
    other.put_blob(&image.build().1[&layer]);
    let location = format!(
        "http://{}/v2/any/blobs/{layer}?signature=abc",
        other.address()
    );
    registry.fault(
        layer,
        Fault::Status(307, vec![("Location", location)]),
        1000,
    );
    let world = World::with(|_| {}, World::user("alice", "s3cret"));
    world
        .pull(&format!("{}/app:1", registry.address()))
        .await
        .unwrap();
    assert!(
        other.seen().iter().all(|seen| seen.authorization.is_none()),
        "{:?}",
        other.seen()
    );
    assert_eq!(other.seen().len(), 1);
    // A redirect that never ends, one to nowhere, and one to another scheme.
    for (location, expected) in [
        (
            format!("http://{}/v2/app/blobs/{layer}", registry.address()),
            "redirects to yet another place, which is refused",
        ),
        (
            "file:///etc/passwd".to_owned(),
            "redirects to `file://`, which is refused",
        ),
        (
            "http://alice:pw@else.example/".to_owned(),
            "redirects to `http://else.example`, which is refused",
        ),
    ] {
        registry.clear_faults();
        registry.fault(
            layer,
            Fault::Status(302, vec![("Location", location)]),
            1000,
        );
        let text = World::with(|_| {}, World::user("alice", "s3cret"))
            .failure(&registry, &format!("{}/app:1", registry.address()))
            .await;
        assert!(text.contains(expected), "{text}");
    }
    // A mirror gets its own credentials, not the registry's.
    let purse = World::user("alice", "s3cret");
    let world = World::with(
        |config| {
            config.registries.insert(
                "docker.io".to_owned(),
                Host {
                    mirrors: vec![registry.address()],
                    ..Host::default()
                },
            );
        },
        Arc::clone(&purse) as Arc<dyn Credentials>,
    );
    registry.clear_faults();
    registry.add("library/app", "1", &image);
    world.pull("app:1").await.unwrap();
    assert_eq!(*purse.asked.lock().unwrap(), [registry.address()]);
}

#[tokio::test]
async fn token_servers_elsewhere_get_nothing() {
    let thief = Registry::start();
    for realm in [
        format!("http://{}/token", thief.address()).replace("127.0.0.1", "10.255.255.1"),
        "file:///x".to_owned(),
        "nonsense".to_owned(),
    ] {
        let registry = Registry::start_with(Auth::TokenFrom(realm.clone()), false);
        registry.add("app", "1", &image());
        let world = World::with(|_| {}, World::user("alice", "s3cret"));
        let text = world
            .failure(&registry, &format!("{}/app:1", registry.address()))
            .await;
        assert!(
            text.contains("for a token, which is refused"),
            "{realm}: {text}"
        );
    }
    assert_eq!(thief.seen(), []);
}

#[tokio::test]
async fn private_authorities_and_insecure_registries() {
    let registry = Registry::start_with(Auth::Basic("alice", "s3cret"), true);
    registry.add("app", "1", &image());
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, registry.certificate().unwrap()).unwrap();
    let address = format!("{}/app:1", registry.address());
    let world = |host: Host| {
        World::with(
            |config| {
                config.registries.insert(registry.address(), host);
            },
            World::user("alice", "s3cret"),
        )
    };
    world(Host {
        ca: vec![ca.clone()],
        ..Host::default()
    })
    .pull(&address)
    .await
    .unwrap();
    world(Host {
        insecure: true,
        ..Host::default()
    })
    .pull(&address)
    .await
    .unwrap();
    // Other authorities than ours: no.
    let stranger = Registry::start_with(Auth::None, true);
    std::fs::write(&ca, stranger.certificate().unwrap()).unwrap();
    let text = world(Host {
        ca: vec![ca.clone()],
        ..Host::default()
    })
    .failure(&registry, &address)
    .await;
    assert!(
        text.contains("cannot reach `HOST`") && text.contains("certificate"),
        "{text}"
    );
    std::fs::write(&ca, "nothing").unwrap();
    let text = world(Host {
        ca: vec![ca],
        ..Host::default()
    })
    .failure(&registry, &address)
    .await;
    assert!(
        text.contains("cannot read certificates from")
            && text.ends_with("no certificate in the file"),
        "{text}"
    );
    // Insecure means plain HTTP too.
    let plain = Registry::start();
    plain.add("app", "1", &image());
    let world = World::new(|config| {
        config.registries.insert(
            plain.address(),
            Host {
                insecure: true,
                ..Host::default()
            },
        );
    });
    world
        .pull(&format!("{}/app:1", plain.address()))
        .await
        .unwrap();
}
