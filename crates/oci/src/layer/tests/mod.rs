//! Layers, friendly and hostile, against a directory of their own.

mod deletions;
mod entries;
mod stream;

use std::{
    collections::BTreeMap,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use expect_test::Expect;

use super::*;
use crate::testkit::{LayerBuilder, Raw};

/// A root inside a directory whose other contents an attack would reach.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self { dir }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    fn unpack(&self, layer: LayerBuilder) -> Result<Unpacked, UnpackError> {
        self.unpack_bytes(&layer.tar(), Beneath::Nothing)
    }

    /// Over what is there already, as if it had come from lower layers.
    fn unpack_over(&self, layer: LayerBuilder) -> Result<Unpacked, UnpackError> {
        self.unpack_bytes(&layer.tar(), Beneath::Layers)
    }

    fn unpack_bytes(&self, bytes: &[u8], beneath: Beneath) -> Result<Unpacked, UnpackError> {
        let root = std::fs::File::open(self.root()).unwrap();
        let target = Target {
            root: root.as_fd(),
            beneath,
        };
        let result = unpack(bytes, target, &Expected::default(), &Limits::default());
        assert_eq!(
            std::fs::read_to_string(self.dir.path().join("outside/secret")).unwrap(),
            "secret"
        );
        assert_eq!(
            std::fs::read_dir(self.dir.path().join("outside"))
                .unwrap()
                .count(),
            1,
            "something was made outside"
        );
        assert_eq!(
            std::fs::read_dir(self.dir.path()).unwrap().count(),
            2,
            "something was made outside"
        );
        result
    }

    fn listing(&self) -> String {
        let mut lines = BTreeMap::new();
        list(&self.root(), "", &mut lines);
        lines
            .into_iter()
            .map(|(path, line)| format!("{path} {line}\n"))
            .collect()
    }
}

fn list(dir: &Path, prefix: &str, lines: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        let meta = entry.path().symlink_metadata().unwrap();
        let what = if meta.is_dir() {
            list(&entry.path(), &path, lines);
            "dir".to_owned()
        } else if meta.is_symlink() {
            format!("-> {}", std::fs::read_link(entry.path()).unwrap().display())
        } else if meta.is_file() {
            let text = std::fs::read(entry.path()).unwrap();
            format!(
                "links={} {:?}",
                meta.nlink(),
                String::from_utf8_lossy(&text)
            )
        } else {
            format!("node rdev={:x} kind={:o}", meta.rdev(), meta.mode() >> 12)
        };
        lines.insert(
            path,
            format!(
                "{:o} {}:{} {} {what}",
                meta.mode() & 0o7777,
                meta.uid(),
                meta.gid(),
                meta.mtime()
            ),
        );
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

fn check_error(layer: LayerBuilder, expected: Expect) {
    let place = Place::new();
    expected.assert_eq(&chain(&place.unpack(layer).unwrap_err()));
}
