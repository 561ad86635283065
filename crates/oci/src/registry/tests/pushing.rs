//! Pushing to a registry that misbehaves.

use super::*;
use crate::{
    assemble::{self, Layer, MediaTypes, Parts},
    config::RunConfig,
    manifest::Descriptor,
};

/// Stores bytes and describes them.
fn stored(world: &World, bytes: &[u8], media_type: &str) -> Descriptor {
    let mut fresh = world.blobs.fresh().unwrap();
    std::io::Write::write_all(&mut fresh, bytes).unwrap();
    let (digest, size) = fresh.commit().unwrap();
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: Default::default(),
    }
}

/// An image with a layer of 6 MiB, which is uploaded in two steps, and a small one.
fn push(world: &World, address: &str, origin: Option<&str>) -> Push {
    let big: Vec<u8> = (0..6_u32 << 18)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let layers: Vec<Layer> = [big.as_slice(), b"small"]
        .into_iter()
        .map(|bytes| Layer {
            descriptor: stored(world, bytes, media_type::OCI_LAYER),
            diff_id: Digest::of(bytes),
        })
        .collect();
    let image = assemble::image(
        Parts {
            platform: "linux/amd64".parse().unwrap(),
            run: RunConfig::default(),
            layers,
            history: vec![],
            created: None,
            author: None,
            annotations: Default::default(),
        },
        MediaTypes::Oci,
    );
    stored(world, &image.config.1, media_type::OCI_CONFIG);
    let blob = |descriptor: &Descriptor| PushBlob {
        descriptor: descriptor.clone(),
        origin: origin.map(|o| Reference::parse(o).unwrap()),
        seen: None,
    };
    Push {
        reference: Reference::parse(address).unwrap(),
        blobs: image
            .layers
            .iter()
            .chain([&image.config.0])
            .map(blob)
            .collect(),
        documents: vec![image.manifest],
    }
}

async fn pushed(world: &World, push: &Push) -> Result<Digest, String> {
    world
        .access
        .push(push, &world.blobs, &|_| {})
        .await
        .map(Option::unwrap)
        .map_err(|e| chain(&e))
}

/// The registry has the image whole: another client pulls it.
async fn arrives(registry: &Registry, address: &str) {
    let other = World::new(|_| {});
    other.pull(address).await.unwrap();
    registry.clear_faults();
}

#[tokio::test]
async fn what_is_there_is_not_sent_again() {
    let (registry, world) = (Registry::start(), World::new(|_| {}));
    let address = format!("{}/a/b:1", registry.address());
    let push = push(&world, &address, None);
    let digest = pushed(&world, &push).await.unwrap();
    assert_eq!(digest, push.documents[0].0.digest);
    arrives(&registry, &address).await;
    registry.take_seen();
    pushed(&world, &push).await.unwrap();
    let seen = registry.take_seen();
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(
        seen.iter()
            .all(|s| s.starts_with("HEAD ") || s == "PUT /v2/a/b/manifests/1"),
        "{seen:?}"
    );
}

#[tokio::test]
async fn what_another_repository_has_is_mounted() {
    let (registry, world) = (Registry::start(), World::new(|_| {}));
    let first = format!("{}/a/b:1", registry.address());
    pushed(&world, &push(&world, &first, None)).await.unwrap();
    registry.take_seen();
    let second = format!("{}/c/d:1", registry.address());
    pushed(&world, &push(&world, &second, Some(&first)))
        .await
        .unwrap();
    let seen = registry.take_seen();
    assert!(!seen.iter().any(|s| s.starts_with("PATCH")), "{seen:?}");
    assert_eq!(
        seen.iter()
            .filter(|s| s.contains("mount=") && s.contains("from=a/b"))
            .count(),
        3
    );
    arrives(&registry, &second).await;
    // Where it was pushed once does as well, and need not have it any more.
    for (from, patches) in [("a/b", 0), ("gone", 1)] {
        let again = format!("{}/again/{from}:1", registry.address());
        let mut push = push(&world, &again, None);
        for blob in &mut push.blobs {
            blob.seen =
                Some(Reference::parse(&format!("{}/{from}:1", registry.address())).unwrap());
        }
        if patches > 0 {
            registry.fault("mount=", Fault::Status(404, vec![]), 3);
        }
        registry.take_seen();
        pushed(&world, &push).await.unwrap();
        let sent = registry
            .take_seen()
            .iter()
            .filter(|s| s.starts_with("PATCH"))
            .count();
        assert_eq!(sent, patches);
        arrives(&registry, &again).await;
    }
    // A refused mount is an upload.
    let third = format!("{}/e/f:1", registry.address());
    registry.fault("mount=", Fault::Status(403, vec![]), 3);
    pushed(&world, &push(&world, &third, Some(&first)))
        .await
        .unwrap();
    arrives(&registry, &third).await;
}

#[tokio::test]
async fn an_interrupted_upload_goes_on_where_it_ended() {
    for fault in [Fault::CutUpload(2 << 20), Fault::StallUpload(2 << 20)] {
        let (registry, world) = (Registry::start(), World::new(|_| {}));
        let address = format!("{}/a/b:1", registry.address());
        let push = push(&world, &address, None);
        registry.fault("state=x", fault.clone(), 1);
        pushed(&world, &push)
            .await
            .unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        let sent: Vec<usize> = registry
            .seen()
            .iter()
            .filter(|s| s.method == "PATCH")
            .map(|s| s.body)
            .collect();
        assert_eq!(sent, [2 << 20, 4 << 20], "{fault:?}");
        arrives(&registry, &address).await;
    }
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_and_a_forgetful_one_from_the_start() {
    for (status, headers) in [
        (429, vec![("Retry-After", "0".to_owned())]),
        (500, vec![]),
        (503, vec![]),
        (404, vec![]),
    ] {
        for pattern in ["blobs/uploads/", "state=x", "manifests/1", "blobs/sha256"] {
            if status == 404 && pattern != "state=x" {
                continue;
            }
            let (registry, world) = (Registry::start(), World::new(|_| {}));
            let address = format!("{}/a/b:1", registry.address());
            registry.fault(pattern, Fault::Status(status, headers.clone()), 2);
            pushed(&world, &push(&world, &address, None))
                .await
                .unwrap_or_else(|e| panic!("{status} at {pattern}: {e}"));
            arrives(&registry, &address).await;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_pushed_is_said_and_no_tag_is_set() {
    let cases = [
        (
            "manifests/1",
            Fault::Status(500, vec![]),
            "failed to push manifest",
        ),
        ("state=x", Fault::Status(500, vec![]), "`HOST` answered 500"),
        (
            "manifests/1",
            Fault::WrongDigestHeader(Digest::of(b"lie").to_string()),
            "does not match",
        ),
        (
            "digest=",
            Fault::WrongDigestHeader(Digest::of(b"lie").to_string()),
            "does not match",
        ),
        ("digest=", Fault::Status(400, vec![]), "answered 400"),
        (
            "blobs/uploads/",
            Fault::Status(401, vec![]),
            "not allowed by `HOST`",
        ),
        (
            "blobs/uploads/",
            Fault::Status(403, vec![]),
            "not allowed by `HOST`: access denied",
        ),
        ("state=x", Fault::StallUpload(0), "was silent for"),
        ("state=x", Fault::CutUpload(0), "`HOST` did not answer: "),
    ];
    for (pattern, fault, said) in cases {
        let (registry, world) = (Registry::start(), World::new(|_| {}));
        let address = format!("{}/a/b:1", registry.address());
        registry.fault(pattern, fault.clone(), 1000);
        let error = pushed(&world, &push(&world, &address, None))
            .await
            .unwrap_err();
        let error = error.replace(&registry.address(), "HOST");
        assert!(error.contains(said), "{fault:?} at {pattern}: {error}");
        assert!(error.contains("of image HOST/a/b:1"), "{error}");
        registry.clear_faults();
        let set = World::new(|_| {}).resolve(&address).await.is_ok();
        // This registry does what it is told and only answers that it did not.
        assert_eq!(set, pattern == "manifests/1", "{fault:?}");
    }
}

#[tokio::test]
async fn an_upload_that_cannot_begin_is_not_tried_as_often_as_squared() {
    let blob = |registry: &Registry, method: &str| {
        let seen = registry.take_seen();
        let begun = seen
            .iter()
            .filter(|s| s.starts_with(method) && s.contains("/blobs/uploads/"));
        begun.count()
    };
    // Three tries, and none of them begun anew.
    let (registry, world) = (Registry::start(), World::new(|_| {}));
    let address = format!("{}/a/b:1", registry.address());
    let one = |world: &World| {
        let mut image = push(world, &address, None);
        image.blobs.truncate(1);
        image
    };
    registry.fault("blobs/uploads/", Fault::Status(503, vec![]), 1000);
    pushed(&world, &one(&world)).await.unwrap_err();
    assert_eq!(blob(&registry, "POST"), 3);
    registry.clear_faults();
    // Who is silent is not asked so often.
    registry.fault("state=x", Fault::StallUpload(0), 1000);
    pushed(&world, &one(&world)).await.unwrap_err();
    let tries = blob(&registry, "P");
    assert!(tries <= 4, "{tries}");
}

#[tokio::test]
async fn one_token_for_everything_and_none_for_others() {
    let registry = Registry::start_with(Auth::Token("me", "secret"), false);
    let purse = World::user("me", "secret");
    let world = World::with(|_| {}, purse.clone());
    let first = format!("{}/a/b:1", registry.address());
    pushed(&world, &push(&world, &first, None)).await.unwrap();
    let tokens = |registry: &Registry| {
        registry
            .take_seen()
            .iter()
            .filter(|s| s.contains("/token"))
            .count()
    };
    assert_eq!(tokens(&registry), 1);
    let second = format!("{}/c/d:1", registry.address());
    pushed(&world, &push(&world, &second, Some(&first)))
        .await
        .unwrap();
    assert_eq!(tokens(&registry), 1, "one for both repositories");
    let stranger = World::with(|_| {}, World::user("me", "wrong"));
    let error = pushed(&stranger, &push(&stranger, &first, None))
        .await
        .unwrap_err();
    assert!(
        error.contains("the credentials for user `me` are not accepted"),
        "{error}"
    );
    assert!(!error.contains("wrong"));
}

#[tokio::test]
async fn a_layer_that_is_gone_here_is_fetched_from_where_it_came() {
    let (registry, world) = (Registry::start(), World::new(|_| {}));
    let first = format!("{}/a/b:1", registry.address());
    let image = push(&world, &first, None);
    pushed(&world, &image).await.unwrap();
    let other = Registry::start();
    let second = format!("{}/c/d:1", other.address());
    let mut image = push(&world, &second, Some(&first));
    let gone = image.blobs[0].descriptor.digest;
    std::fs::remove_file(DirBlobs::new(world.dir.path()).path(&gone)).unwrap();
    pushed(&world, &image).await.unwrap();
    arrives(&other, &second).await;
    std::fs::remove_file(DirBlobs::new(world.dir.path()).path(&gone)).unwrap();
    image.blobs[0].origin = None;
    image.reference = Reference::parse(&format!("{}/x/y:1", other.address())).unwrap();
    let error = pushed(&world, &image).await.unwrap_err();
    assert!(error.contains("is not here any more"), "{error}");
}
