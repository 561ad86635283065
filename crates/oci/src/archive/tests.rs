//! Archives written and read again, and archives nobody should send.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;

use super::*;
use crate::{
    assemble::{Image, Layer, MediaTypes, Parts, image},
    blobs::Blobs,
    config::RunConfig,
    digest::Digest,
    manifest::{Descriptor, media_type},
    pack::header::{Head, encode, padding},
    platform::Platform,
    reference::Reference,
    testkit::DirBlobs,
};

fn blobs() -> (tempfile::TempDir, Arc<dyn Blobs>) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Arc::new(DirBlobs::new(dir.path()));
    (dir, blobs)
}

fn sample(blobs: &dyn Blobs, architecture: &str) -> Image {
    let tar = [0_u8; 1024];
    let mut fresh = blobs.fresh().unwrap();
    std::io::Write::write_all(&mut fresh, &tar).unwrap();
    let (digest, size) = fresh.commit().unwrap();
    let parts = Parts {
        platform: Platform::normalised("linux", architecture, ""),
        run: RunConfig::default(),
        layers: vec![Layer {
            descriptor: Descriptor {
                media_type: media_type::OCI_LAYER.into(),
                digest,
                size,
                platform: None,
                annotations: BTreeMap::new(),
            },
            diff_id: digest,
        }],
        history: vec![],
        created: None,
        author: None,
        annotations: BTreeMap::new(),
    };
    image(parts, MediaTypes::Oci)
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        out.extend(encode(&Head {
            name: name.as_bytes(),
            kind: b'0',
            size: bytes.len() as u64,
            ..Head::default()
        }));
        out.extend_from_slice(bytes);
        out.resize(out.len() + padding(bytes.len() as u64), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn failure(archive: &[u8], tag: &str) -> String {
    let (_dir, place) = blobs();
    let error = match read(archive, &*place) {
        Ok(contents) => contents.find(&place, &amd64(), tag).unwrap_err(),
        Err(e) => e,
    };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn what_is_written_is_read_again_by_platform_and_tag() {
    let (_dir, place) = blobs();
    let images = [sample(&*place, "amd64"), sample(&*place, "arm64")];
    let name = Reference::parse("app:dev").unwrap();
    for (some, wanted) in [(&images[..], "linux/arm64"), (&images[..1], "linux/amd64")] {
        let mut out = Vec::new();
        Archive::new(some, MediaTypes::Oci, Some(&name))
            .write(&*place, &mut out)
            .unwrap();
        let (_other, target) = blobs();
        let contents = read(out.as_slice(), &*target).unwrap();
        for tag in ["", "dev", "docker.io/library/app:dev"] {
            let found = contents
                .find(&target, &wanted.parse().unwrap(), tag)
                .unwrap();
            assert_eq!(found.config.platform().to_string(), wanted);
            assert!(
                target
                    .open(&found.manifest.layers[0].digest)
                    .unwrap()
                    .is_some()
            );
        }
        let error = contents
            .find(&target, &amd64(), "nope")
            .unwrap_err()
            .to_string();
        assert_eq!(error, "no manifest for platform linux/amd64 and tag nope");
    }
}

#[test]
fn what_docker_save_wrote_before_it_knew_of_layouts() {
    let layer = tar(&[("f", b"x")]);
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}});
    let manifest =
        json!([{"Config": "abc.json", "RepoTags": ["app:1"], "Layers": ["l/layer.tar"]}])
            .to_string();
    let config = config.to_string();
    let files: &[(&str, &[u8])] = &[
        ("abc.json", config.as_bytes()),
        ("l/layer.tar", &layer),
        ("l/VERSION", b"1.0"),
        ("manifest.json", manifest.as_bytes()),
    ];
    let (_dir, place) = blobs();
    let contents = read(tar(files).as_slice(), &*place).unwrap();
    for tag in ["", "1", "app:1"] {
        let found = contents.find(&place, &amd64(), tag).unwrap();
        assert_eq!(found.manifest.layers[0].digest, Digest::of(&layer));
        assert_eq!(
            found.manifest.layers[0].media_type,
            media_type::DOCKER_LAYER
        );
    }
    assert!(contents.find(&place, &amd64(), "2").is_err());
    assert!(
        contents
            .find(&place, &"linux/arm64".parse().unwrap(), "")
            .is_err()
    );
}

#[test]
fn hostile_archives_are_told_what_is_wrong() {
    let hex = Digest::of(b"right").hex();
    let blob = format!("blobs/sha256/{hex}");
    assert!(failure(b"no", "").starts_with("cannot read the image archive"));
    assert_eq!(
        failure(&tar(&[("x.txt", b"1")]), ""),
        "the file is no image archive: it has neither `index.json` nor `manifest.json`"
    );
    assert_eq!(
        failure(&tar(&[("../x.json", b"{}")]), ""),
        "image archive names `../x.json`, which is refused"
    );
    assert!(failure(&tar(&[(&blob, b"wrong")]), "").contains("is not what its name says"));
    assert!(
        failure(&tar(&[("index.json", b"{]")]), "")
            .starts_with("`index.json` of the image archive is unusable")
    );
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": media_type::OCI_MANIFEST, "digest": format!("sha256:{hex}"), "size": 5}]}).to_string();
    assert_eq!(
        failure(&tar(&[("index.json", index.as_bytes())]), ""),
        format!("the image archive lacks `{blob}`")
    );
    let docker = json!([{"Config": "../../etc/passwd", "Layers": []}]).to_string();
    assert_eq!(
        failure(&tar(&[("manifest.json", docker.as_bytes())]), ""),
        "image archive names `../../etc/passwd`, which is refused"
    );
    let mut cut = tar(&[(&blob, &[1; 4000])]);
    cut.truncate(2000);
    assert!(
        failure(&cut, "").contains("cut off"),
        "{}",
        failure(&cut, "")
    );
    // Links in a circle.
    let mut circle = Vec::new();
    for (name, to) in [("a.json", "b.json"), ("b.json", "a.json")] {
        circle.extend(encode(&Head {
            name: name.as_bytes(),
            link: to.as_bytes(),
            kind: b'2',
            ..Head::default()
        }));
    }
    let docker = json!([{"Config": "a.json", "Layers": []}]).to_string();
    circle.extend(tar(&[("manifest.json", docker.as_bytes())]));
    assert_eq!(failure(&circle, ""), "the image archive lacks `a.json`");
}

#[test]
fn a_layer_that_is_gone_is_no_half_archive() {
    let (_dir, place) = blobs();
    let image = sample(&*place, "amd64");
    let (_other, empty) = blobs();
    let error = Archive::new(&[image], MediaTypes::Oci, None)
        .write(&*empty, &mut Vec::new())
        .unwrap_err();
    assert!(error.to_string().contains("is not here any more"));
}
