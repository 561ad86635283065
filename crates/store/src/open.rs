//! Opening a store: one engine at a time, on a file system that can hold layers, with what a crash left swept away.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use rusqlite::Connection;
use rustix::{fs::FlockOperation, io::Errno};
use serde::{Deserialize, Serialize};

use crate::{
    DbError, DiskError, Inner, Options, Store, blobs, clock,
    db::{self, BlobRow, Loaded, VolumeRow, Write},
    disk::{self, on},
    layout::{self, Layout},
    room,
    snapshot::{EMPTY_LAYER, OTHER_EMPTY_LAYER},
    table::Table,
    trash::Trash,
    volumes,
    writer::{self, Writer},
};

/// `f_type` of overlayfs in `statfs(2)`.
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
/// What a reader must understand to use a store of this program.
const FORMAT: &[&str] = &["layers-1"];

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Overlayfs cannot have its upper directories on overlayfs.
    #[error(
        "`{}` is on an overlay file system, which cannot hold the layers of containers: \
         put a volume, a bind mount or a tmpfs there, or choose another directory with BODKIN_STATE_DIR",
        dir.display()
    )]
    OnOverlay {
        /// The state directory.
        dir: PathBuf,
    },
    /// Another engine uses it.
    #[error("another engine{} uses `{}`", pid.map_or(String::new(), |pid| format!(" (process {pid})")), dir.display())]
    InUse {
        /// The state directory.
        dir: PathBuf,
        /// The engine's process, as far as it is known.
        pid: Option<u32>,
    },
    /// Something else lives there: what a store would sweep away is not its own.
    #[error(
        "`{}` is not a store, but has a `{name}` already: choose an empty directory with BODKIN_STATE_DIR",
        dir.display()
    )]
    NotAStore {
        /// The state directory.
        dir: PathBuf,
        /// What is there.
        name: String,
    },
    /// Made by a program that keeps things differently.
    #[error("`{}` was made by a newer program: it needs `{flag}`; use that program, or another directory", dir.display())]
    Format {
        /// The state directory.
        dir: PathBuf,
        /// What this program does not know.
        flag: String,
    },
    /// The description of the format cannot be read.
    #[error("cannot read `{}`; if nothing in the directory matters, delete it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The database cannot be used, though it is not damaged.
    #[error(transparent)]
    Database(#[from] DbError),
    /// A failed call on a file.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    /// What every program that uses the store must know.
    incompatible: Vec<String>,
    /// What programs that only read it may ignore.
    #[serde(default)]
    read_only_compatible: Vec<String>,
    /// What all may ignore.
    #[serde(default)]
    compatible: Vec<String>,
}

impl Store {
    /// Opens the store in a directory, making it at first use.
    ///
    /// # Errors
    /// When another engine uses it, the file system cannot hold layers, a newer program made it, or a call fails.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Store, OpenError> {
        let dir = prepare_dir(dir.as_ref())?;
        let layout = Layout::new(dir);
        check_ours(&layout)?;
        let lock = lock(&layout)?;
        check_format(&layout)?;
        for dir in layout.dirs() {
            disk::ensure_dir(&dir, 0o755)?;
        }
        for id in [EMPTY_LAYER, OTHER_EMPTY_LAYER] {
            disk::ensure_dir(&layout.layer(id), 0o755)?;
        }
        let trash =
            Trash::start(layout.trash()).map_err(on("start a thread for", &layout.trash()))?;
        let (db, mut loaded) = load(&layout)?;
        let first = begin(&db, &mut loaded)?;
        let dropped = sweep(&layout, &trash, &mut loaded)?;
        let seq = loaded
            .results
            .iter()
            .map(|r| r.seq)
            .chain(loaded.blobs.iter().map(|b| b.seq))
            .max()
            .unwrap_or(0);
        let root = disk::open_dir(layout.root())?;
        let reader = Arc::new(Mutex::new(db::connect(&layout.db())?));
        let writer =
            Writer::start(db, root, seq).map_err(on("start a thread for", &layout.db()))?;
        for write in dropped {
            writer.write(write);
        }
        room::put_aside(&layout);
        let table = fill_table(&loaded);
        let inner = Arc::new_cyclic(|inner| Inner {
            table,
            results: crate::Results::new(loaded.results, reader.clone(), inner.clone()),
            facts: crate::Facts::new(reader, inner.clone()),
            blobs: crate::Blobs::new(loaded.blobs, inner.clone()),
            volumes: volumes::Volumes::new(loaded.volumes),
            slots: crate::slots::Slots::default(),
            next_id: AtomicU64::new(first),
            prune_lock: Mutex::new(()),
            layout,
            options,
            writer,
            trash,
            _lock: lock,
        });
        Ok(Store { inner })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.results.write_uses_to(&self.writer);
        self.writer.stop();
        self.trash.stop();
    }
}

fn prepare_dir(dir: &Path) -> Result<PathBuf, OpenError> {
    if !dir.exists() {
        fs::create_dir_all(dir).map_err(on("create", dir))?;
        // What is in layers belongs to containers, with modes that mean nothing here.
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(on("set the mode of", dir))?;
    }
    // Not resolved: a link may be the only way there, as it is for a mount that has no place in the tree.
    let dir = std::path::absolute(dir).map_err(on("resolve", dir))?;
    let stat = rustix::fs::statfs(&dir).map_err(on("look at", &dir))?;
    if stat.f_type == OVERLAYFS_MAGIC {
        return Err(OpenError::OnOverlay { dir });
    }
    Ok(dir)
}

/// A directory without a format is one that is being made a store. It must have nothing by our names, because all that is
/// there by these names and not recorded is swept. The names are looked for first: another engine may be making this very
/// store, and writes its format before anything else.
fn check_ours(layout: &Layout) -> Result<(), OpenError> {
    let taken = layout
        .dirs()
        .into_iter()
        .chain([layout.db()])
        .find(|path| fs::symlink_metadata(path).is_ok());
    let Some(taken) = taken else {
        return Ok(());
    };
    let format = layout.format();
    if format.try_exists().map_err(on("look at", &format))? {
        return Ok(());
    }
    let name = taken.strip_prefix(layout.root()).unwrap_or(&taken);
    Err(OpenError::NotAStore {
        dir: layout.root().to_owned(),
        name: name.display().to_string(),
    })
}

/// Takes the lock, which the kernel gives back when this process ends, however it ends.
fn lock(layout: &Layout) -> Result<File, OpenError> {
    let path = layout.lock();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(on("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let pid = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok());
            return Err(OpenError::InUse {
                dir: layout.root().to_owned(),
                pid,
            });
        }
        Err(e) => return Err(DiskError::new("lock", &path, e).into()),
    }
    room::make_at_start(layout);
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(on("write", &path))?;
    Ok(file)
}

fn check_format(layout: &Layout) -> Result<(), OpenError> {
    let path = layout.format();
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let incompatible = FORMAT.iter().map(|flag| (*flag).to_owned()).collect();
            let format = Format {
                incompatible,
                read_only_compatible: Vec::new(),
                compatible: Vec::new(),
            };
            let text =
                serde_json::to_vec_pretty(&format).map_err(|source| OpenError::Unreadable {
                    path: path.clone(),
                    source,
                })?;
            let new = path.with_extension("new");
            fs::write(&new, text).map_err(on("write", &new))?;
            disk::rename(&new, &path)?;
            return Ok(());
        }
        Err(e) => return Err(DiskError::new("read", &path, e).into()),
    };
    let format: Format =
        serde_json::from_slice(&text).map_err(|source| OpenError::Unreadable { path, source })?;
    match format
        .incompatible
        .into_iter()
        .find(|flag| !FORMAT.contains(&flag.as_str()))
    {
        Some(flag) => Err(OpenError::Format {
            dir: layout.root().to_owned(),
            flag,
        }),
        None => Ok(()),
    }
}

/// Reads the database; a damaged one is moved aside and its blobs taken over by the new one.
fn load(layout: &Layout) -> Result<(Connection, Loaded), OpenError> {
    let try_load = || {
        let db = db::open(&layout.db())?;
        let loaded = db::load(&db)?;
        Ok::<_, DbError>((db, loaded))
    };
    match try_load() {
        Ok(loaded) => Ok(loaded),
        Err(error) if error.corrupt => {
            let aside = move_aside(layout)?;
            tracing::warn!(
                reason = %error,
                kept = %aside.display(),
                "the database was damaged and is moved aside: results are lost, blobs and volumes are kept"
            );
            let (db, mut loaded) = try_load()?;
            loaded.blobs = adopt_blobs(layout)?;
            let transaction = db.unchecked_transaction().map_err(DbError::of("write"))?;
            for blob in &loaded.blobs {
                db::apply(&transaction, &Write::Blob(blob.clone()))
                    .map_err(DbError::of("write"))?;
            }
            transaction.commit().map_err(DbError::of("write"))?;
            Ok((db, loaded))
        }
        Err(error) => Err(error.into()),
    }
}

fn move_aside(layout: &Layout) -> Result<PathBuf, DiskError> {
    let db = layout.db();
    let named = |suffix: &str| PathBuf::from(format!("{}{suffix}", db.display()));
    let aside = (0..)
        .map(|n| named(&format!(".damaged-{n}")))
        .find(|path| !path.exists())
        .unwrap_or_else(|| named(".damaged"));
    disk::rename(&db, &aside)?;
    for suffix in ["-wal", "-shm"] {
        let path = named(suffix);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(DiskError::new("remove", &path, e)),
        }
    }
    Ok(aside)
}

/// The blobs on disk that are what their names say.
fn adopt_blobs(layout: &Layout) -> Result<Vec<BlobRow>, DiskError> {
    let now = clock::now_ns();
    let mut rows = Vec::new();
    for (digest, size) in blobs::on_disk(&layout.blobs())? {
        if blobs::verify(&layout.blobs(), &digest)? {
            rows.push(BlobRow {
                digest,
                seq: 0,
                size,
                created: now,
                last_used: now,
            });
        }
    }
    Ok(rows)
}

/// Notes that the store is opened, and answers the first number of this opening. After a restart of the machine, records
/// that are newer than the last sync are forgotten: their files may be empty.
fn begin(db: &Connection, loaded: &mut Loaded) -> Result<u64, OpenError> {
    let number = |bytes: Option<Vec<u8>>| {
        bytes
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    let opened = number(db::meta(db, "opened")?).saturating_add(1);
    let booted = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let last_booted = db::meta(db, "booted")?;
    let transaction = db.unchecked_transaction().map_err(DbError::of("write"))?;
    let write = |write: &Write| db::apply(&transaction, write).map_err(DbError::of("write"));
    if last_booted.is_some_and(|last| last != booted) {
        let synced = number(db::meta(db, writer::SYNCED)?);
        for result in loaded.results.extract_if(.., |r| r.seq > synced) {
            write(&Write::RemoveResult(result.key))?;
        }
        for blob in loaded.blobs.extract_if(.., |b| b.seq > synced) {
            write(&Write::RemoveBlob(blob.digest))?;
        }
    }
    write(&Write::Meta("opened", opened.to_le_bytes().to_vec()))?;
    write(&Write::Meta("booted", booted))?;
    transaction.commit().map_err(DbError::of("write"))?;
    // Numbers are never used twice, though those of an earlier opening are not all known.
    Ok(opened << 32)
}

/// Throws away what no record mentions and forgets records of what is not there. Answers what the database must forget.
fn sweep(layout: &Layout, trash: &Trash, loaded: &mut Loaded) -> Result<Vec<Write>, OpenError> {
    let mut writes = Vec::new();
    for name in disk::names(&layout.drafts())? {
        trash.take(&layout.drafts().join(name))?;
    }
    for name in disk::names(&layout.tmp())? {
        trash.take(&layout.tmp().join(name))?;
    }

    let on_disk: HashMap<String, Option<u64>> = disk::names(&layout.layers())?
        .into_iter()
        .map(|name| (name.clone(), layout::id_of(&name)))
        .collect();
    let existing: HashSet<u64> = on_disk.values().copied().flatten().collect();
    loaded.snapshots.insert(EMPTY_LAYER, Vec::new());
    loaded
        .snapshots
        .retain(|_, layers| layers.iter().all(|layer| existing.contains(layer)));
    let known = &loaded.snapshots;
    for result in loaded
        .results
        .extract_if(.., |r| !r.outputs.iter().all(|id| known.contains_key(id)))
    {
        writes.push(Write::RemoveResult(result.key));
    }
    let named: HashSet<u64> = loaded
        .results
        .iter()
        .flat_map(|r| r.outputs.iter().copied())
        .collect();
    let gone: Vec<u64> = loaded
        .snapshots
        .keys()
        .copied()
        .filter(|id| !named.contains(id))
        .collect();
    loaded.snapshots.retain(|id, _| named.contains(id));
    let used: HashSet<u64> = loaded
        .snapshots
        .values()
        .flatten()
        .copied()
        .chain([EMPTY_LAYER, OTHER_EMPTY_LAYER])
        .collect();
    for (name, id) in on_disk {
        if !id.is_some_and(|id| used.contains(&id)) {
            trash.take(&layout.layers().join(name))?;
        }
    }
    let sizes: Vec<u64> = loaded
        .sizes
        .extract_if(|id, _| !used.contains(id))
        .map(|(id, _)| id)
        .collect();
    writes.push(Write::RemoveSnapshots(gone));
    writes.push(Write::RemoveLayers(sizes));

    let mut files = blobs::on_disk(&layout.blobs())?;
    for blob in loaded
        .blobs
        .extract_if(.., |b| files.remove(&b.digest) != Some(b.size))
    {
        writes.push(Write::RemoveBlob(blob.digest));
    }
    for path in files
        .keys()
        .filter_map(|digest| blobs::file_of(&layout.blobs(), digest))
    {
        trash.take(&path)?;
    }

    let mut dirs: HashSet<String> = disk::names(&layout.volumes())?.into_iter().collect();
    for volume in loaded
        .volumes
        .extract_if(.., |v| !dirs.remove(&volumes::directory_name(&v.key)))
    {
        writes.push(Write::RemoveVolume(volume.key));
    }
    for name in dirs {
        let Some(key) = volumes::key_of(layout, &name) else {
            trash.take(&layout.volumes().join(name))?;
            continue;
        };
        let now = clock::now_ns();
        let row = VolumeRow {
            key,
            created: now,
            last_used: now,
        };
        writes.push(Write::Volume(row.clone()));
        loaded.volumes.push(row);
    }
    Ok(writes)
}

fn fill_table(loaded: &Loaded) -> Table {
    let table = Table::default();
    let mut state = table.lock();
    for (id, layers) in &loaded.snapshots {
        state.insert(*id, layers.as_slice().into());
    }
    for id in loaded.results.iter().flat_map(|r| &r.outputs) {
        state.retain(crate::SnapshotId(*id));
    }
    state.sizes.clone_from(&loaded.sizes);
    drop(state);
    table
}
