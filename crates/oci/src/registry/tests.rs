//! The client against a registry that misbehaves.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::json;

use super::*;
use crate::{
    blobs::Blobs,
    image,
    layer::Compression,
    manifest::media_type,
    platform::Platform,
    reference::Reference,
    testkit::{Auth, DirBlobs, DirLayers, Fault, Image, LayerBuilder, Registry},
};

/// Credentials that write down who was asked for.
#[derive(Default)]
struct Purse {
    login: Option<Login>,
    asked: Mutex<Vec<String>>,
}

impl Credentials for Purse {
    fn login<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Option<Login>> {
        self.asked.lock().unwrap().push(host.to_owned());
        Box::pin(async { self.login.clone() })
    }
}

struct World {
    access: Access,
    dir: tempfile::TempDir,
    blobs: Arc<dyn Blobs>,
}

impl World {
    fn new(configure: impl FnOnce(&mut Config)) -> Self {
        Self::with(configure, Arc::new(Anonymous))
    }

    fn with(configure: impl FnOnce(&mut Config), credentials: Arc<dyn Credentials>) -> Self {
        let mut config = Config {
            patience: Patience {
                silence: Duration::from_millis(300),
                connect: Duration::from_millis(300),
                backoff: Duration::from_millis(1),
                longest_wait: Duration::from_millis(20),
                tries: 3,
                ..Patience::default()
            },
            ..Config::default()
        };
        configure(&mut config);
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let blobs: Arc<dyn Blobs> = Arc::new(DirBlobs::new(dir.path()));
        Self { access: Client::new(config).access(credentials), dir, blobs }
    }

    fn user(name: &str, secret: &str) -> Arc<Purse> {
        let login = Login { username: name.to_owned(), secret: secret.to_owned() };
        Arc::new(Purse { login: Some(login), asked: Mutex::default() })
    }

    async fn resolve(&self, address: &str) -> Result<Resolved, ResolveError> {
        let reference = Reference::parse(address).unwrap();
        self.access.resolve(&reference, &"linux/amd64".parse().unwrap(), &self.blobs).await
    }

    async fn pull(&self, address: &str) -> Result<Resolved, String> {
        let resolved = self.resolve(address).await.map_err(|e| chain(&e))?;
        self.access
            .fetch(&resolved.reference, &resolved.manifest.layers, &self.blobs, &|_| {}, |_| {})
            .await
            .map_err(|e| chain(&e))?;
        Ok(resolved)
    }

    async fn failure(&self, registry: &Registry, address: &str) -> String {
        self.pull(address).await.unwrap_err().replace(&registry.address(), "HOST")
    }

    fn parts(&self) -> usize {
        DirBlobs::new(self.dir.path()).names().iter().filter(|name| name.ends_with(".part")).count()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn image() -> Image {
    // Not compressible, so that the blob is as large as it looks.
    let noise: Vec<u8> = (0..200_000u64).flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11).to_le_bytes()).collect();
    Image::new()
        .layer(LayerBuilder::new().file("a", noise), Compression::None)
        .layer(LayerBuilder::new().file("b", "b"), Compression::Gzip)
        .platform(&"linux/amd64".parse().unwrap())
}

fn big(image: &Image) -> Digest {
    image.layer_digests()[0]
}

#[test]
fn futures_can_move_between_threads() {
    fn send<T: Send>(_: T) {}
    let world = World::new(|_| {});
    let reference = Reference::parse("a").unwrap();
    let platform = Platform::host();
    send(world.access.resolve(&reference, &platform, &world.blobs));
    send(world.access.fetch(&reference, &[], &world.blobs, &|_| {}, |_| {}));
    let pull = async |image: Resolved, layers: Arc<DirLayers>| {
        send(image::pull(&world.access, &image, &world.blobs, &layers, &|_| {}));
    };
    let _ = pull;
}

#[tokio::test]
async fn pulls_by_tag_and_asks_nothing_for_a_pinned_image_it_has() {
    let registry = Registry::start();
    let digest = registry.add("library/app", "1", &image());
    let world = World::new(|config| {
        let host = Host { mirrors: vec![registry.address()], ..Host::default() };
        config.registries.insert("docker.io".to_owned(), host);
    });
    let resolved = world.pull("app:1").await.unwrap();
    assert_eq!(resolved.reference.to_string(), format!("docker.io/library/app:1@{digest}"));
    assert_eq!((resolved.digest, resolved.manifest_digest), (digest, digest));
    assert_eq!(resolved.platform.to_string(), "linux/amd64");
    let seen = registry.take_seen();
    assert_eq!(seen[0], "HEAD /v2/library/app/manifests/1");
    assert_eq!(seen.len(), 5, "{seen:?}");
    world.pull(&resolved.reference.to_string()).await.unwrap();
    world.pull(&format!("app@{digest}")).await.unwrap();
    assert_eq!(registry.take_seen(), [""; 0], "a pinned image is not asked for again");
    world.pull("app:1").await.unwrap();
    assert_eq!(registry.take_seen(), ["HEAD /v2/library/app/manifests/1"], "a tag is only looked up");
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
    assert_eq!(registry.take_seen(), [format!("GET /v2/app/manifests/{digest}")]);
    assert_eq!(Digest::of(&std::fs::read(path).unwrap()), digest);
}

#[tokio::test]
async fn picks_the_platform_from_an_index() {
    let registry = Registry::start();
    let (amd, arm) = ("linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap());
    let (for_amd, for_arm) = (image(), Image::new().platform(&arm).with("Cmd", json!(["arm"])));
    let index = registry.add_index("multi", "1", &[(&arm, &for_arm), (&amd, &for_amd)]);
    let world = World::new(|_| {});
    let reference = Reference::parse(&format!("{}/multi:1", registry.address())).unwrap();
    let resolved = world.access.resolve(&reference, &arm, &world.blobs).await.unwrap();
    assert_eq!((resolved.digest, resolved.platform), (index, arm));
    assert_ne!(resolved.manifest_digest, index);
    assert_eq!(resolved.config.config.cmd, ["arm"]);
    let s390 = "linux/s390x".parse().unwrap();
    let error = world.access.resolve(&reference, &s390, &world.blobs).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("failed to resolve image {reference}: no match for platform linux/s390x in manifest (it has linux/arm64, linux/amd64)")
    );
}

#[tokio::test]
async fn an_unknown_image_names_everybody_who_was_asked() {
    let (mirror, upstream) = (Registry::start(), Registry::start());
    let world = World::new(|config| {
        let host = Host { mirrors: vec![mirror.address()], http: true, ..Host::default() };
        config.registries.insert(upstream.address(), host);
    });
    let error = world.resolve(&format!("{}/app:no", upstream.address())).await.unwrap_err();
    let text = chain(&error).replace(&mirror.address(), "MIRROR").replace(&upstream.address(), "UPSTREAM");
    assert_eq!(
        text,
        "failed to resolve image UPSTREAM/app:no: mirror `MIRROR`: `MIRROR` has no such image; \
         registry `UPSTREAM`: `UPSTREAM` has no such image"
    );
    let ResolveError::Content { source: ContentError::Attempts(attempts), .. } = error else { panic!() };
    assert!(attempts.not_found());
    upstream.add("app", "yes", &image());
    world.pull(&format!("{}/app:yes", upstream.address())).await.unwrap();
}

#[tokio::test]
async fn a_dead_mirror_costs_little() {
    let upstream = Registry::start();
    upstream.add("app", "1", &image());
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let world = World::new(|config| {
        config.registries.insert(upstream.address(), Host { mirrors: vec![dead], ..Host::default() });
    });
    let start = Instant::now();
    world.pull(&format!("{}/app:1", upstream.address())).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn wrong_content_is_never_accepted() {
    let registry = Registry::start();
    let image = image();
    let digest = registry.add("app", "1", &image);
    let address = format!("{}/app:1", registry.address());
    let layer = big(&image);
    let size = image.build().1[&layer].len();
    let cases: Vec<(String, Fault, String)> = vec![
        (format!("manifests/{digest}"), Fault::WrongByte, format!("registry `HOST`: `HOST` sent content that does not match {digest}")),
        ("manifests/1".into(), Fault::WrongDigestHeader("sha256:abc".into()), "registry `HOST`: `HOST` names an unusable digest: invalid checksum digest length or character in `sha256:abc`".into()),
        ("manifests/1".into(), Fault::WrongDigestHeader(Digest::of(b"x").to_string()), "registry `HOST`: `HOST` has no such image (manifest unknown)".into()),
        (layer.to_string(), Fault::WrongByte, format!("registry `HOST`: `HOST` sent content that does not match {layer}")),
        (layer.to_string(), Fault::Longer(1), format!("registry `HOST`: `HOST` sends more than {size} bytes")),
        (layer.to_string(), Fault::Body(b"short".to_vec()), format!(" of {size} bytes")),
        (layer.to_string(), Fault::Status(404, vec![]), "registry `HOST`: `HOST` has no such image (made to fail)".into()),
        (layer.to_string(), Fault::Status(418, vec![]), "registry `HOST`: `HOST` answered 418 I'm a teapot (made to fail)".into()),
        (layer.to_string(), Fault::Status(500, vec![]), "registry `HOST`: `HOST` answered 500 Internal Server Error (made to fail)".into()),
    ];
    for (pattern, fault, expected) in cases {
        let world = World::new(|_| {});
        registry.fault(&pattern, fault.clone(), 1000);
        let text = world.failure(&registry, &address).await;
        assert!(text.starts_with("failed to ") && text.ends_with(&expected), "{fault:?} on {pattern}: {text}");
        registry.clear_faults();
        world.pull(&address).await.unwrap_or_else(|e| panic!("after {fault:?} on {pattern}: {e}"));
    }
}

#[tokio::test]
async fn a_broken_download_continues_where_it_stopped() {
    let registry = Registry::start();
    let image = image();
    registry.add("app", "1", &image);
    let address = format!("{}/app:1", registry.address());
    let layer = big(&image);
    let ranges = |registry: &Registry| -> Vec<Option<String>> {
        registry.seen().into_iter().filter(|s| s.path.contains(&layer.to_string())).map(|s| s.range).collect()
    };
    // Cut off twice, silent once, and each time asked for the rest.
    registry.fault(layer, Fault::CutOff(500_000), 1);
    registry.fault(layer, Fault::Stall(100_000), 1);
    let world = World::new(|_| {});
    world.pull(&address).await.unwrap();
    let asked = ranges(&registry);
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0], None);
    assert!(asked[1..].iter().all(|range| range.as_deref().is_some_and(|r| r != "bytes=0-")), "{asked:?}");
    // A registry that knows no ranges sends everything again.
    registry.take_seen();
    registry.fault(layer, Fault::CutOff(500_000), 1);
    registry.fault(layer, Fault::NoRange, 1);
    let world = World::new(|_| {});
    world.pull(&address).await.unwrap();
    assert_eq!(ranges(&registry).len(), 2);
    // Another part than asked for is not glued on.
    registry.fault(layer, Fault::CutOff(500_000), 1);
    registry.fault(layer, Fault::WrongRange, 1);
    let world = World::new(|_| {});
    let text = world.failure(&registry, &address).await;
    assert!(text.ends_with("`HOST` answered with another range than asked for"), "{text}");
    // What is there of an earlier run is used.
    assert!(world.parts() >= 1);
    registry.take_seen();
    world.pull(&address).await.unwrap();
    assert!(ranges(&registry)[0].is_some());
    // And thrown away if it was wrong.
    let world = World::new(|_| {});
    std::fs::write(DirBlobs::new(world.dir.path()).path(&layer).with_extension("part"), "not the beginning").unwrap();
    world.pull(&address).await.unwrap();
}

#[tokio::test]
async fn a_cancelled_download_leaves_nothing_running() {
    let registry = Registry::start();
    let image = image();
    registry.add("app", "1", &image);
    registry.fault(big(&image), Fault::Stall(500_000), 1);
    let world = World::new(|config| config.patience.silence = Duration::from_secs(60));
    let address = format!("{}/app:1", registry.address());
    let resolved = world.resolve(&address).await.unwrap();
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let watch = move |progress| {
        if let Progress::Fetched { bytes: 400_000.., size: 1_000_000.., .. } = progress {
            let _ = told.send(());
        }
    };
    tokio::select! {
        result = world.access.fetch(&resolved.reference, &resolved.manifest.layers, &world.blobs, &watch, |_| {}) => panic!("{result:?}"),
        _ = hears.recv() => {}
    }
    world.pull(&address).await.unwrap();
}

#[tokio::test]
async fn two_users_of_a_layer_fetch_it_once() {
    let registry = Registry::start();
    let image = image();
    registry.add("app", "1", &image);
    let world = World::new(|_| {});
    let address = format!("{}/app:1", registry.address());
    let (a, b) = tokio::join!(world.pull(&address), world.pull(&address));
    a.and(b).unwrap();
    let layer = big(&image).to_string();
    assert_eq!(registry.seen().iter().filter(|s| s.path.contains(&layer)).count(), 1);
}

#[tokio::test]
async fn busy_registries_are_asked_again_and_not_for_ever() {
    let registry = Registry::start();
    registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    for status in [429, 500, 503] {
        let world = World::new(|_| {});
        registry.fault("manifests/1", Fault::Status(status, vec![("Retry-After", "3600".to_owned())]), 2);
        world.pull(&address).await.unwrap();
        registry.take_seen();
        registry.fault("manifests/1", Fault::Status(status, vec![]), 1000);
        let text = World::new(|_| {}).failure(&registry, &address).await;
        assert!(text.contains(&format!("`HOST` answered {status}")), "{text}");
        assert_eq!(registry.take_seen().len(), 3, "as often as there are tries");
        registry.clear_faults();
    }
    registry.fault("manifests/1", Fault::Stall(0), 1000);
    let text = World::new(|config| config.patience.tries = 1).failure(&registry, &address).await;
    assert!(text.contains("`HOST` was silent for"), "{text}");
}

#[tokio::test]
async fn registries_that_cannot_do_head() {
    let registry = Registry::start();
    let digest = registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    registry.fault("manifests/1", Fault::Status(405, vec![]), 1);
    assert_eq!(World::new(|_| {}).pull(&address).await.unwrap().digest, digest);
    registry.fault("manifests/1", Fault::NoDigestHeader, 2);
    assert_eq!(World::new(|_| {}).pull(&address).await.unwrap().digest, digest);
    registry.fault("manifests/1", Fault::NoDigestHeader, 1);
    registry.fault("manifests/1", Fault::WrongDigestHeader(Digest::of(b"x").to_string()), 1);
    let text = World::new(|_| {}).failure(&registry, &address).await;
    assert!(text.ends_with(&format!("sent content that does not match {}", Digest::of(b"x"))), "{text}");
}

#[tokio::test]
async fn documents_that_are_too_large_or_two_things_at_once() {
    let registry = Registry::start();
    let world = World::new(|_| {});
    registry.put("app", "huge", &vec![b' '; 9 << 20]);
    let text = world.failure(&registry, &format!("{}/app:huge", registry.address())).await;
    assert!(text.ends_with("`HOST` sends more than 8388608 bytes"), "{text}");
    let both = json!({"schemaVersion": 2, "manifests": [], "layers": []});
    let digest = registry.put("app", "both", both.to_string().as_bytes());
    let text = world.failure(&registry, &format!("{}/app:both", registry.address())).await;
    assert_eq!(text, format!("failed to resolve image HOST/app:both: manifest {digest} is unusable: document is both an image manifest and an index"));
    let digest = registry.add("app", "1", &image());
    registry.fault(digest, Fault::ContentType(media_type::OCI_INDEX), 1);
    let text = world.failure(&registry, &format!("{}/app:1", registry.address())).await;
    assert!(text.contains("document says it is `application/vnd.oci.image.manifest.v1+json`, expected"), "{text}");
    // An index that leads to itself would need a digest that contains itself; a chain of them does not.
    let mut child = registry.add_index("app", "chain", &[(&"linux/amd64".parse().unwrap(), &image())]);
    for _ in 0..4 {
        let platform = json!({"os": "linux", "architecture": "amd64"});
        let entry = json!({"mediaType": media_type::OCI_INDEX, "digest": child, "size": 1, "platform": platform});
        let parent = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry]});
        child = registry.put("app", "chain", parent.to_string().as_bytes());
    }
    let text = world.failure(&registry, &format!("{}/app:chain", registry.address())).await;
    assert!(text.ends_with("indexes are nested more than 3 deep"), "{text}");
}

#[tokio::test]
async fn basic_authentication() {
    let registry = Registry::start_with(Auth::Basic("alice", "s3cret"), false);
    registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    let text = World::new(|_| {}).failure(&registry, &address).await;
    assert!(text.ends_with("not allowed by `HOST`: authentication is required and there are no credentials for it"), "{text}");
    let text = World::with(|_| {}, World::user("alice", "guess")).failure(&registry, &address).await;
    assert!(text.ends_with("not allowed by `HOST`: the credentials for user `alice` are not accepted") || text.contains("access denied"), "{text}");
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
    let tokens = |registry: &Registry| registry.seen().iter().filter(|s| s.path.starts_with("/token")).count();
    assert_eq!(tokens(&registry), 1, "one token serves all requests");
    registry.revoke_tokens();
    let fresh = World::new(|_| {});
    let resolved = world.resolve(&public).await.unwrap();
    assert_eq!(tokens(&registry), 2, "a token that expired early is replaced");
    drop((fresh, resolved));
    let text = world.failure(&registry, &private).await;
    assert!(text.ends_with("not allowed by `HOST`: authentication is required and there are no credentials for it"), "{text}");
    let text = World::with(|_| {}, World::user("alice", "guess")).failure(&registry, &private).await;
    assert!(text.ends_with("not allowed by `HOST`: the credentials for user `alice` are not accepted"), "{text}");
    World::with(|_| {}, World::user("alice", "s3cret")).pull(&private).await.unwrap();
    World::with(|_| {}, World::user("<token>", "s3cret")).pull(&private).await.unwrap();
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
    let error = other.resolve(&reference, &Platform::host(), &alice.blobs).await.unwrap_err();
    assert!(chain(&error).contains("authentication is required"), "{}", chain(&error));
}

#[tokio::test]
async fn credentials_stay_where_they_belong() {
    let (registry, other) = (Registry::start_with(Auth::Basic("alice", "s3cret"), false), Registry::start());
    let image = image();
    registry.add("app", "1", &image);
    let layer = big(&image);
    other.put_blob(&image.build().1[&layer]);
    let location = format!("http://{}/v2/any/blobs/{layer}?signature=abc", other.address());
    registry.fault(layer, Fault::Status(307, vec![("Location", location)]), 1000);
    let world = World::with(|_| {}, World::user("alice", "s3cret"));
    world.pull(&format!("{}/app:1", registry.address())).await.unwrap();
    assert!(other.seen().iter().all(|seen| seen.authorization.is_none()), "{:?}", other.seen());
    assert_eq!(other.seen().len(), 1);
    // A redirect that never ends, one to nowhere, and one to another scheme.
    for (location, expected) in [
        (format!("http://{}/v2/app/blobs/{layer}", registry.address()), "redirects to yet another place, which is refused"),
        ("file:///etc/passwd".to_owned(), "redirects to `file://`, which is refused"),
        ("http://alice:pw@else.example/".to_owned(), "redirects to `http://else.example`, which is refused"),
    ] {
        registry.clear_faults();
        registry.fault(layer, Fault::Status(302, vec![("Location", location)]), 1000);
        let text = World::with(|_| {}, World::user("alice", "s3cret")).failure(&registry, &format!("{}/app:1", registry.address())).await;
        assert!(text.contains(expected), "{text}");
    }
    // A mirror gets its own credentials, not the registry's.
    let purse = World::user("alice", "s3cret");
    let world = World::with(
        |config| {
            config.registries.insert("docker.io".to_owned(), Host { mirrors: vec![registry.address()], ..Host::default() });
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
    for realm in [format!("http://{}/token", thief.address()).replace("127.0.0.1", "10.255.255.1"), "file:///x".to_owned(), "nonsense".to_owned()] {
        let registry = Registry::start_with(Auth::TokenFrom(realm.clone()), false);
        registry.add("app", "1", &image());
        let world = World::with(|_| {}, World::user("alice", "s3cret"));
        let text = world.failure(&registry, &format!("{}/app:1", registry.address())).await;
        assert!(text.contains("for a token, which is refused"), "{realm}: {text}");
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
    let world = |host: Host| World::with(|config| {
        config.registries.insert(registry.address(), host);
    }, World::user("alice", "s3cret"));
    world(Host { ca: vec![ca.clone()], ..Host::default() }).pull(&address).await.unwrap();
    world(Host { insecure: true, ..Host::default() }).pull(&address).await.unwrap();
    // Other authorities than ours: no.
    let stranger = Registry::start_with(Auth::None, true);
    std::fs::write(&ca, stranger.certificate().unwrap()).unwrap();
    let text = world(Host { ca: vec![ca.clone()], ..Host::default() }).failure(&registry, &address).await;
    assert!(text.contains("cannot reach `HOST`") && text.contains("certificate"), "{text}");
    std::fs::write(&ca, "nothing").unwrap();
    let text = world(Host { ca: vec![ca], ..Host::default() }).failure(&registry, &address).await;
    assert!(text.contains("cannot read certificates from") && text.ends_with("no certificate in the file"), "{text}");
    // Insecure means plain HTTP too.
    let plain = Registry::start();
    plain.add("app", "1", &image());
    let world = World::new(|config| {
        config.registries.insert(plain.address(), Host { insecure: true, ..Host::default() });
    });
    world.pull(&format!("{}/app:1", plain.address())).await.unwrap();
}

#[tokio::test]
async fn root_pulls_an_image_and_shares_its_layers() {
    let registry = Registry::start();
    let base = LayerBuilder::new().dir("d").file("d/base", "base").file("gone", "");
    let one = Image::new().layer(base.clone(), Compression::Gzip).layer(
        LayerBuilder::new().file("d/one", "1").whiteout("gone"),
        Compression::Zstd,
    );
    // The same layer twice, and an uncompressed one whose blob is its own contents.
    let again = LayerBuilder::new().file("d/two", "2");
    let two = Image::new()
        .layer(base, Compression::Gzip)
        .layer(again.clone(), Compression::None)
        .layer(again, Compression::None);
    registry.add("app", "1", &one);
    registry.add("app", "2", &two);
    registry.add("app", "0", &Image::new());
    let world = World::new(|_| {});
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let layers = Arc::new(DirLayers::new(dir.path()));
    let told = Mutex::new(Vec::new());
    let watch = |progress| {
        if !matches!(progress, Progress::Fetched { .. }) {
            told.lock().unwrap().push(progress);
        }
    };
    let pull = async |tag: &str| {
        let image = world.resolve(&format!("{}/app:{tag}", registry.address())).await.unwrap();
        image::pull(&world.access, &image, &world.blobs, &layers, &watch).await
    };
    let root = pull("1").await.unwrap();
    assert_eq!(std::fs::read_to_string(root.join("d/base")).unwrap(), "base");
    assert!(root.join("d/one").exists() && !root.join("gone").exists());
    let [first, second] = one.layer_digests()[..] else { panic!() };
    assert_eq!(
        *told.lock().unwrap(),
        [
            Progress::Unpacking { digest: first },
            Progress::Ready { digest: first },
            Progress::Unpacking { digest: second },
            Progress::Ready { digest: second }
        ]
    );
    let (a, b) = tokio::join!(pull("2"), pull("2"));
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(layers.count(), 4, "the base is shared");
    let empty = pull("0").await.unwrap();
    assert_eq!(std::fs::read_dir(empty).unwrap().count(), 0);
    // What is unpacked needs no blob any more.
    for layer in one.layer_digests() {
        std::fs::remove_file(DirBlobs::new(world.dir.path()).path(&layer)).unwrap();
    }
    registry.take_seen();
    pull("1").await.unwrap();
    assert_eq!(registry.take_seen(), ["HEAD /v2/app/manifests/1"]);
}

#[tokio::test]
async fn root_an_image_with_a_bad_layer_leaves_the_good_ones() {
    let registry = Registry::start();
    let good = LayerBuilder::new().file("good", "");
    let evil = Image::new()
        .layer(good.clone(), Compression::Gzip)
        .layer(LayerBuilder::new().file("../../evil", "x"), Compression::Gzip);
    let liar = Image::new().layer(good.clone(), Compression::Gzip).layer_bytes(good.tar(), Compression::None, Digest::of(b"else"));
    registry.add("app", "evil", &evil);
    registry.add("app", "liar", &liar);
    let world = World::new(|_| {});
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let layers = Arc::new(DirLayers::new(dir.path()));
    for (tag, image, expected) in [
        ("evil", &evil, "layer entry `../../evil` is refused: path contains `..`".to_owned()),
        ("liar", &liar, format!("layer contents have digest {}, the image config says {}", liar.layer_digests()[1], Digest::of(b"else"))),
    ] {
        let resolved = world.resolve(&format!("{}/app:{tag}", registry.address())).await.unwrap();
        let error = image::pull(&world.access, &resolved, &world.blobs, &layers, &|_| {}).await.unwrap_err();
        assert_eq!(
            chain(&error),
            format!("failed to unpack layer {} of image {}: {expected}", image.layer_digests()[1], resolved.reference)
        );
        assert_eq!(layers.count(), 1, "only the good layer");
    }
    registry.fault(liar.layer_digests()[1], Fault::Status(404, vec![]), 9);
    let world = World::new(|_| {});
    let resolved = world.resolve(&format!("{}/app:liar", registry.address())).await.unwrap();
    let error = image::pull(&world.access, &resolved, &world.blobs, &layers, &|_| {}).await.unwrap_err();
    assert!(chain(&error).starts_with("failed to fetch layer"), "{}", chain(&error));
}
