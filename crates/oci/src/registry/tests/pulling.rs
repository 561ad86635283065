//! Whole images, unpacked.

use super::*;

#[tokio::test]
async fn root_pulls_an_image_and_shares_its_layers() {
    let registry = Registry::start();
    let base = LayerBuilder::new()
        .dir("d")
        .file("d/base", "base")
        .file("gone", "");
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
        let image = world
            .resolve(&format!("{}/app:{tag}", registry.address()))
            .await
            .unwrap();
        image::pull(
            &world.access,
            &(&image).into(),
            &world.blobs,
            &layers,
            &watch,
        )
        .await
    };
    let root = pull("1").await.unwrap();
    assert_eq!(
        std::fs::read_to_string(root.join("d/base")).unwrap(),
        "base"
    );
    assert!(root.join("d/one").exists() && !root.join("gone").exists());
    let [first, second] = one.layer_digests()[..] else {
        panic!()
    };
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
    let evil = Image::new().layer(good.clone(), Compression::Gzip).layer(
        LayerBuilder::new().file("../../evil", "x"),
        Compression::Gzip,
    );
    let liar = Image::new()
        .layer(good.clone(), Compression::Gzip)
        .layer_bytes(good.tar(), Compression::None, Digest::of(b"else"));
    registry.add("app", "evil", &evil);
    registry.add("app", "liar", &liar);
    let world = World::new(|_| {});
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let layers = Arc::new(DirLayers::new(dir.path()));
    for (tag, image, expected) in [
        (
            "evil",
            &evil,
            "layer entry `../../evil` is refused: path contains `..`".to_owned(),
        ),
        (
            "liar",
            &liar,
            format!(
                "layer contents have digest {}, the image config says {}",
                liar.layer_digests()[1],
                Digest::of(b"else")
            ),
        ),
    ] {
        let resolved = world
            .resolve(&format!("{}/app:{tag}", registry.address()))
            .await
            .unwrap();
        let error = image::pull(
            &world.access,
            &(&resolved).into(),
            &world.blobs,
            &layers,
            &|_| {},
        )
        .await
        .unwrap_err();
        assert_eq!(
            chain(&error),
            format!(
                "failed to unpack layer {} of image {}: {expected}",
                image.layer_digests()[1],
                resolved.reference
            )
        );
        assert_eq!(layers.count(), 1, "only the good layer");
    }
    registry.fault(liar.layer_digests()[1], Fault::Status(404, vec![]), 9);
    let world = World::new(|_| {});
    let resolved = world
        .resolve(&format!("{}/app:liar", registry.address()))
        .await
        .unwrap();
    let error = image::pull(
        &world.access,
        &(&resolved).into(),
        &world.blobs,
        &layers,
        &|_| {},
    )
    .await
    .unwrap_err();
    assert!(
        chain(&error).starts_with("failed to fetch layer"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn root_pulls_into_the_store_and_finds_it_there_after_a_restart() {
    let registry = Registry::start();
    let image = Image::new()
        .layer(
            LayerBuilder::new()
                .dir("usr/lib")
                .symlink("lib", "usr/lib")
                .file("gone", "")
                .file("d/x", "x"),
            Compression::Gzip,
        )
        .layer(
            LayerBuilder::new()
                .file("lib/y", "y")
                .whiteout("gone")
                .file("d/.wh..wh..opq", ""),
            Compression::Zstd,
        );
    let digest = registry.add("app", "1", &image);
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let reference = Reference::parse(&format!("{}/app:1@{digest}", registry.address())).unwrap();
    let client = Client::new(Config::default());
    for round in 0..2 {
        let store = store::Store::open(dir.path(), store::Options::default()).unwrap();
        let blobs: Arc<dyn Blobs> = Arc::new(store.clone());
        let access = client.access(Arc::new(Anonymous));
        let resolved = access
            .resolve(&reference, &Platform::host(), &blobs)
            .await
            .unwrap();
        let stack = image::Stack::from(&resolved);
        let snapshot = image::pull(&access, &stack, &blobs, &Arc::new(store.clone()), &|_| {})
            .await
            .unwrap();
        let tree = snapshot.tree().unwrap();
        assert_eq!(tree.read_file("usr/lib/y", 10).unwrap(), b"y");
        assert_eq!(tree.read_link("lib").unwrap(), b"usr/lib");
        assert!(tree.lstat("gone").unwrap().is_none() && tree.lstat("d/x").unwrap().is_none());
        assert_eq!(registry.take_seen().is_empty(), round == 1);
        store.close().unwrap();
    }
    // Half a blob from an engine that was killed is finished, not begun again.
    let store = store::Store::open(dir.path(), store::Options::default()).unwrap();
    let noise: Vec<u8> = (0..40_000u64)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11).to_le_bytes())
        .collect();
    let image = Image::new().layer(LayerBuilder::new().file("noise", noise), Compression::None);
    registry.add("app", "2", &image);
    let (layer, all) = (image.layer_digests()[0], image.build().1);
    let half = &all[&layer][..100_000];
    let mut ingest = Blobs::ingest(&store, &layer, all[&layer].len() as u64).unwrap();
    ingest.write(half).unwrap();
    drop(ingest);
    let blobs: Arc<dyn Blobs> = Arc::new(store.clone());
    let access = client.access(Arc::new(Anonymous));
    let reference = Reference::parse(&format!("{}/app:2", registry.address())).unwrap();
    let resolved = access
        .resolve(&reference, &Platform::host(), &blobs)
        .await
        .unwrap();
    image::pull(
        &access,
        &(&resolved).into(),
        &blobs,
        &Arc::new(store),
        &|_| {},
    )
    .await
    .unwrap();
    let asked = registry
        .seen()
        .into_iter()
        .find(|seen| seen.path.contains(&layer.to_string()))
        .unwrap();
    assert_eq!(asked.range.as_deref(), Some("bytes=100000-"));
}
