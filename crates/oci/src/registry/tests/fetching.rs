//! Blobs through thick and thin.

use std::{
    fs::File,
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    blobs::{CommitError, Ingest},
    digest::Digest,
};

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
        assert!(
            text.starts_with("failed to ") && text.ends_with(&expected),
            "{fault:?} on {pattern}: {text}"
        );
        registry.clear_faults();
        world
            .pull(&address)
            .await
            .unwrap_or_else(|e| panic!("after {fault:?} on {pattern}: {e}"));
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
        registry
            .seen()
            .into_iter()
            .filter(|s| s.path.contains(&layer.to_string()))
            .map(|s| s.range)
            .collect()
    };
    // Cut off twice, silent once, and each time asked for the rest.
    registry.fault(layer, Fault::CutOff(500_000), 1);
    registry.fault(layer, Fault::Stall(100_000), 1);
    let world = World::new(|_| {});
    world.pull(&address).await.unwrap();
    let asked = ranges(&registry);
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0], None);
    assert!(
        asked[1..]
            .iter()
            .all(|range| range.as_deref().is_some_and(|r| r != "bytes=0-")),
        "{asked:?}"
    );
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
    assert!(
        text.ends_with("`HOST` answered with another range than asked for"),
        "{text}"
    );
    // What is there of an earlier run is used.
    assert!(world.parts() >= 1);
    registry.take_seen();
    world.pull(&address).await.unwrap();
    assert!(ranges(&registry)[0].is_some());
    // And thrown away if it was wrong.
    let world = World::new(|_| {});
    std::fs::write(
        DirBlobs::new(world.dir.path())
            .path(&layer)
            .with_extension("part"),
        "not the beginning",
    )
    .unwrap();
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
        if let Progress::Fetched {
            bytes: 400_000..,
            size: 1_000_000..,
            ..
        } = progress
        {
            let _ = told.send(());
        }
    };
    tokio::select! {
        result = world.access.fetch(&resolved.reference, &resolved.manifest.layers, &world.blobs, &watch, |_| {}) => panic!("{result:?}"),
        _ = hears.recv() => {}
    }
    world.pull(&address).await.unwrap();
}

/// Blobs whose first piece of a big one is written when the test says so, and which count who writes.
struct Gated {
    inner: DirBlobs,
    writing: Arc<AtomicUsize>,
    most: AtomicUsize,
    gate: Mutex<Option<Gate>>,
}

struct Gate {
    reached: tokio::sync::oneshot::Sender<()>,
    open: std::sync::mpsc::Receiver<()>,
}

struct GatedPart {
    inner: Box<dyn Ingest>,
    gate: Option<Gate>,
    writing: Arc<AtomicUsize>,
}

impl Drop for GatedPart {
    fn drop(&mut self) {
        self.writing.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Blobs for Gated {
    fn read(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.inner.read(digest, limit)
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<File>> {
        self.inner.open(digest)
    }

    fn ingest(&self, digest: &Digest, size: u64) -> io::Result<Box<dyn Ingest>> {
        let inner = self.inner.ingest(digest, size)?;
        if size < 100_000 {
            return Ok(inner);
        }
        let now = self.writing.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Ok(Box::new(GatedPart {
            inner,
            gate: self.gate.lock().unwrap().take(),
            writing: self.writing.clone(),
        }))
    }

    fn fresh(&self) -> io::Result<Box<dyn crate::blobs::Fresh>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Ingest for GatedPart {
    fn offset(&self) -> u64 {
        self.inner.offset()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(gate) = self.gate.take() {
            gate.reached.send(()).unwrap();
            gate.open.recv().unwrap();
        }
        self.inner.write(bytes)
    }

    fn commit(mut self: Box<Self>) -> Result<(), CommitError> {
        let inner = std::mem::replace(&mut self.inner, Box::new(Nothing));
        inner.commit()
    }
}

struct Nothing;

impl Ingest for Nothing {
    fn offset(&self) -> u64 {
        0
    }

    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), CommitError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_blob_has_one_writer_even_while_a_cancelled_one_is_in_the_disk() {
    let registry = Registry::start();
    let image = image();
    registry.add("app", "1", &image);
    let mut world = World::new(|_| {});
    let (reached, at_gate) = tokio::sync::oneshot::channel();
    let (opener, open) = std::sync::mpsc::channel();
    let gated = Arc::new(Gated {
        inner: DirBlobs::new(world.dir.path()),
        writing: Arc::default(),
        most: AtomicUsize::new(0),
        gate: Mutex::new(Some(Gate { reached, open })),
    });
    world.blobs = gated.clone();
    let address = format!("{}/app:1", registry.address());
    tokio::select! {
        result = world.pull(&address) => panic!("{result:?}"),
        reached = at_gate => reached.unwrap(),
    }
    let second = world.pull(&address);
    tokio::pin!(second);
    // It waits for the write that cannot be cancelled, however long that takes.
    tokio::time::timeout(Duration::from_millis(100), &mut second)
        .await
        .expect_err("the first is still writing");
    opener.send(()).unwrap();
    second.await.unwrap();
    assert_eq!(gated.most.load(Ordering::SeqCst), 1);
}

/// Blobs on a disk without room.
struct Full(DirBlobs);

impl Blobs for Full {
    fn read(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.0.read(digest, limit)
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<File>> {
        self.0.open(digest)
    }

    fn ingest(&self, digest: &Digest, size: u64) -> io::Result<Box<dyn Ingest>> {
        if size > 100_000 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.ingest(digest, size)
    }

    fn fresh(&self) -> io::Result<Box<dyn crate::blobs::Fresh>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[tokio::test]
async fn a_full_disk_is_not_blamed_on_a_registry() {
    let (mirror, registry) = (Registry::start(), Registry::start());
    let image = image();
    mirror.add("app", "1", &image);
    registry.add("app", "1", &image);
    let host = Host {
        mirrors: vec![format!("http://{}", mirror.address())],
        ..Host::default()
    };
    let mut world =
        World::new(|config| drop(config.registries.insert(registry.address(), host.clone())));
    world.blobs = Arc::new(Full(DirBlobs::new(world.dir.path())));
    let text = world
        .pull(&format!("{}/app:1", registry.address()))
        .await
        .unwrap_err();
    assert!(
        text.ends_with("cannot keep what was fetched: no storage space"),
        "{text}"
    );
    assert!(text.contains("mirror") && !text.contains("; "), "{text}");
    assert!(registry.seen().is_empty(), "nobody else was asked");
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
    assert_eq!(
        registry
            .seen()
            .iter()
            .filter(|s| s.path.contains(&layer))
            .count(),
        1
    );
}

#[tokio::test]
async fn busy_registries_are_asked_again_and_not_for_ever() {
    let registry = Registry::start();
    registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    for status in [429, 500, 503] {
        let world = World::new(|_| {});
        registry.fault(
            "manifests/1",
            Fault::Status(status, vec![("Retry-After", "3600".to_owned())]),
            2,
        );
        world.pull(&address).await.unwrap();
        registry.take_seen();
        registry.fault("manifests/1", Fault::Status(status, vec![]), 1000);
        let text = World::new(|_| {}).failure(&registry, &address).await;
        assert!(
            text.contains(&format!("`HOST` answered {status}")),
            "{text}"
        );
        assert_eq!(registry.take_seen().len(), 3, "as often as there are tries");
        registry.clear_faults();
    }
    registry.fault("manifests/1", Fault::Stall(0), 1000);
    let text = World::new(|config| config.patience.tries = 1)
        .failure(&registry, &address)
        .await;
    assert!(text.contains("`HOST` was silent for"), "{text}");
}

#[tokio::test]
async fn an_answer_that_drips_is_given_up() {
    let registry = Registry::start();
    registry.add("app", "1", &image());
    let address = format!("{}/app:1", registry.address());
    registry.fault(
        "manifests/sha256",
        Fault::Drip(Duration::from_millis(60)),
        1,
    );
    let world = World::new(|config| config.patience.silence = Duration::from_millis(510));
    let text = world.failure(&registry, &address).await;
    assert!(
        text.contains("`HOST` sent only ") && text.contains(" bytes in 1."),
        "{text}"
    );
}

#[tokio::test]
async fn a_layer_that_drips_is_not_resumed_for_ever() {
    let registry = Registry::start();
    let image = image();
    registry.add("app", "1", &image);
    let address = format!("{}/app:1", registry.address());
    let layer = big(&image);
    registry.fault(layer, Fault::Drip(Duration::from_millis(60)), 1000);
    let world = World::new(|config| config.patience.silence = Duration::from_millis(510));
    let text = world.failure(&registry, &address).await;
    assert!(text.contains("`HOST` sent only "), "{text}");
    let asked = registry.take_seen();
    let tries = asked.iter().filter(|s| s.contains(&layer.to_string()));
    assert_eq!(tries.count(), 2, "{asked:?}");
}

#[tokio::test]
async fn layers_that_take_long_keep_nobody_waiting() {
    let registry = Registry::start();
    let layer = |n: u32| LayerBuilder::new().file("f", n.to_string());
    let image = (0..4).fold(Image::new(), |image, n| {
        image.layer(layer(n), Compression::Gzip)
    });
    registry.add("app", "1", &image);
    let world = World::new(|config| config.patience.silence = Duration::from_secs(60));
    let resolved = world
        .resolve(&format!("{}/app:1", registry.address()))
        .await
        .unwrap();
    let digests = image.layer_digests();
    for slow in &digests[..2] {
        registry.fault(slow, Fault::Stall(0), 1000);
    }
    registry.take_seen();
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let ready = |digest| arrived.send(digest).unwrap();
    let (reference, layers) = (&resolved.reference, &resolved.manifest.layers);
    let fetch = world
        .access
        .fetch(reference, layers, &world.blobs, &|_| {}, ready);
    let others = async {
        let mut there = [arrivals.recv().await, arrivals.recv().await].map(Option::unwrap);
        there.sort_by_key(|digest| *digest == digests[3]);
        assert_eq!(there, digests[2..]);
    };
    tokio::select! { _ = fetch => panic!("two never arrive"), () = others => {} }
    let seen = registry.take_seen();
    let first = |digest: &Digest| seen.iter().position(|r| r.ends_with(&digest.to_string()));
    for slow in &digests[..2] {
        assert!(first(slow) < first(&digests[2]), "{seen:?}");
    }
}
