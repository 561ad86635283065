//! Cache volumes: directories by key that outlive everything but `prune`.

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use sha2::{Digest, Sha256};

use crate::{
    DiskError, Inner, Store,
    blobs::to_hex,
    clock,
    db::{VolumeRow, Write},
    disk::{self, on},
    layout,
    tree::{Tree, TreeError},
};

/// The file in a volume's directory that names its key.
const KEY: &str = "key";

/// All volumes.
pub(crate) struct Volumes {
    state: Mutex<HashMap<String, Slot>>,
}

struct Slot {
    row: VolumeRow,
    live: Weak<Held>,
}

/// A cache volume, kept while this handle or a clone of it exists.
#[derive(Clone)]
pub struct Volume {
    held: Arc<Held>,
}

struct Held {
    key: String,
    dir: PathBuf,
    data: PathBuf,
    preparing: Mutex<()>,
    store: Arc<Inner>,
}

impl Volumes {
    pub(crate) fn new(rows: Vec<VolumeRow>) -> Volumes {
        let slot = |row: VolumeRow| {
            (
                row.key.clone(),
                Slot {
                    row,
                    live: Weak::new(),
                },
            )
        };
        Volumes {
            state: Mutex::new(rows.into_iter().map(slot).collect()),
        }
    }

    /// Every volume, and whether it is held.
    pub(crate) fn rows(&self) -> Vec<(VolumeRow, bool)> {
        self.lock()
            .values()
            .map(|slot| (slot.row.clone(), slot.live.strong_count() > 0))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// The volume of a key, made at first use.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn volume(&self, key: &str) -> Result<Volume, DiskError> {
        let store = &self.inner;
        let mut state = store.volumes.lock();
        let now = clock::now_ns();
        let held = match state.get(key).and_then(|slot| slot.live.upgrade()) {
            Some(held) => held,
            None => {
                let dir = directory(&store.layout, key);
                let data = dir.join("data");
                disk::ensure_dir(&dir, 0o755)?;
                disk::ensure_dir(&data, 0o755)?;
                // So that a volume is known by its directory alone.
                let name = dir.join(KEY);
                fs::write(&name, key).map_err(on("write", &name))?;
                Arc::new(Held {
                    key: key.to_owned(),
                    dir,
                    data,
                    preparing: Mutex::new(()),
                    store: store.clone(),
                })
            }
        };
        let created = state.get(key).map_or(now, |slot| slot.row.created);
        let row = VolumeRow {
            key: key.to_owned(),
            created,
            last_used: now,
        };
        store.writer.write(Write::Volume(row.clone()));
        state.insert(
            key.to_owned(),
            Slot {
                row,
                live: Arc::downgrade(&held),
            },
        );
        Ok(Volume { held })
    }
}

impl Inner {
    /// Deletes a volume if nobody holds it and it has not been used since.
    pub(crate) fn remove_idle_volume(&self, key: &str, last_used: i64) -> bool {
        let mut state = self.volumes.lock();
        match state.get(key) {
            Some(slot) if slot.live.strong_count() == 0 && slot.row.last_used == last_used => {}
            _ => return false,
        }
        state.remove(key);
        self.writer.write(Write::RemoveVolume(key.to_owned()));
        // Renamed under the lock: who asks for the key next gets a new directory.
        self.trash.take_or_warn(&directory(&self.layout, key));
        true
    }
}

impl Volume {
    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.held.data
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.held.key
    }

    /// Fills the volume, the first time only. `fill` writes to a directory that becomes the volume when it is done; others
    /// who prepare the volume wait.
    ///
    /// # Errors
    /// What `fill` answered, or a failed call; the volume stays unprepared.
    pub fn prepare(
        &self,
        fill: impl FnOnce(&Tree) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let held = &self.held;
        let _turn = held
            .preparing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mark = held.dir.join("prepared");
        if mark.exists() {
            return Ok(());
        }
        let scratch = held
            .store
            .layout
            .tmp()
            .join(layout::name(held.store.new_id()));
        disk::make_dir(&scratch, 0o755)?;
        let filled = Tree::open_dir(&scratch).and_then(|tree| fill(&tree));
        // A volume that has content was used before it was asked to be prepared: that stays.
        let placed = filled.and_then(|()| match fs::rename(&scratch, &held.data) {
            Err(e)
                if e.raw_os_error() != Some(rustix::io::Errno::NOTEMPTY.raw_os_error())
                    && e.kind() != io::ErrorKind::AlreadyExists =>
            {
                Err(DiskError::new("rename", &scratch, e).into())
            }
            _ => Ok(()),
        });
        if scratch.exists() {
            held.store.trash.take_or_warn(&scratch);
        }
        placed?;
        fs::write(&mark, b"").map_err(on("create", &mark))?;
        Ok(())
    }
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Volume({})", self.held.key)
    }
}

impl fmt::Debug for Volumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Volumes({})", self.lock().len())
    }
}

/// The directory of a key: keys are users' text, names on disk are ours.
pub(crate) fn directory(layout: &layout::Layout, key: &str) -> PathBuf {
    layout.volumes().join(directory_name(key))
}

/// The key of a directory that the database does not know.
pub(crate) fn key_of(layout: &layout::Layout, name: &str) -> Option<String> {
    let key = fs::read_to_string(layout.volumes().join(name).join(KEY)).ok()?;
    (directory_name(&key) == name).then_some(key)
}

pub(crate) fn directory_name(key: &str) -> String {
    to_hex(Sha256::digest(key).get(..16).unwrap_or_default())
}
