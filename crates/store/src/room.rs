//! Room on the disk: enough to start again after it was full.

use std::{fs, io::Write as _, path::Path};

use crate::{Store, disk, layout::Layout};

/// With less than this free, what is certainly garbage goes before anything is written.
const LOW: u64 = 8 << 20;
/// Kept to be given back when the disk is full: enough for the database to note that things are removed.
const RESERVE: usize = 1 << 20;
/// The reserve is made when this much is free.
const PLENTY: u64 = 64 << 20;

/// Before the first write of an opening: on a disk that is full, removes what no earlier program can miss. It is gone from
/// the disk when this returns. The store's lock must be held.
pub(crate) fn make_at_start(layout: &Layout) {
    if free(layout.root()).is_none_or(|free| free >= LOW) {
        return;
    }
    // As far as it goes: what cannot be removed is met again by the sweep, which says so.
    let _ = fs::remove_file(layout.reserve());
    for dir in [
        layout.trash(),
        layout.drafts(),
        layout.tmp(),
        layout.ingest(),
    ] {
        for name in disk::names(&dir).unwrap_or_default() {
            let path = dir.join(name);
            let _ = match fs::symlink_metadata(&path) {
                Ok(m) if m.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
        }
    }
    tracing::warn!(
        dir = %layout.root().display(),
        free = free(layout.root()).unwrap_or(0),
        "the disk is nearly full: unfinished work was removed before the start"
    );
}

/// Puts the reserve aside, if there is plenty of room and it is not there.
pub(crate) fn put_aside(layout: &Layout) {
    let path = layout.reserve();
    if path.exists() || free(layout.root()).is_none_or(|free| free < PLENTY) {
        return;
    }
    let new = layout.tmp().join("reserve");
    // Written, so that the file system really has it.
    let written = fs::File::create(&new)
        .and_then(|mut file| file.write_all(&vec![0; RESERVE]))
        .and_then(|()| fs::rename(&new, &path));
    if let Err(error) = written {
        tracing::debug!(%error, "no reserve on the disk");
    }
}

fn free(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

impl Store {
    /// Removes at once what nobody would miss: unfinished downloads and what was thrown away. Answers the bytes of the
    /// former.
    pub fn drop_unfinished(&self) -> u64 {
        let freed = self.inner.blobs.drop_partial();
        self.empty_trash();
        freed
    }
}
