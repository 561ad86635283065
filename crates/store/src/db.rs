//! The database: what is written and read, as functions over one connection.

use std::{collections::HashMap, path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension, params};

use crate::Key;

/// A failed call of the database.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {action} the database: {message}")]
pub struct DbError {
    /// What was tried.
    pub action: &'static str,
    /// SQLite's words.
    pub message: String,
    /// Whether the file is damaged, rather than the disk full or a lock taken.
    pub corrupt: bool,
}

impl DbError {
    pub(crate) fn of(action: &'static str) -> impl FnOnce(rusqlite::Error) -> DbError {
        move |e| {
            use rusqlite::ErrorCode as Code;
            let code = e.sqlite_error_code();
            // A value of the wrong type means that this is not what we wrote.
            let corrupt = match code {
                Some(code) => matches!(code, Code::DatabaseCorrupt | Code::NotADatabase),
                None => !matches!(e, rusqlite::Error::QueryReturnedNoRows),
            };
            DbError {
                action,
                message: e.to_string(),
                corrupt,
            }
        }
    }
}

/// What the schema says in `PRAGMA user_version`.
const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE snapshots (id INTEGER PRIMARY KEY, layers BLOB NOT NULL);
CREATE TABLE layers (id INTEGER PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE results (
    key BLOB PRIMARY KEY, seq INTEGER NOT NULL, outputs BLOB NOT NULL, extra BLOB NOT NULL, description TEXT NOT NULL,
    created INTEGER NOT NULL, last_used INTEGER NOT NULL);
CREATE TABLE blobs (
    digest TEXT PRIMARY KEY, seq INTEGER NOT NULL, size INTEGER NOT NULL, created INTEGER NOT NULL, last_used INTEGER NOT NULL);
CREATE TABLE volumes (key TEXT PRIMARY KEY, created INTEGER NOT NULL, last_used INTEGER NOT NULL);
CREATE TABLE facts (
    space TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (space, key));
";

/// Opens the database, making it if it is not there.
pub(crate) fn open(path: &Path) -> Result<Connection, DbError> {
    let db = connect(path)?;
    let version: i64 = db
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(DbError::of("read the version of"))?;
    match version {
        VERSION => {}
        0 => {
            let sql = format!("BEGIN;{SCHEMA}PRAGMA user_version = {VERSION};COMMIT;");
            db.execute_batch(&sql)
                .map_err(DbError::of("make the tables of"))?;
        }
        other => {
            let message = format!("it has version {other}, this program knows {VERSION}");
            return Err(DbError {
                action: "use",
                message,
                corrupt: true,
            });
        }
    }
    Ok(db)
}

/// A connection to an existing database.
pub(crate) fn connect(path: &Path) -> Result<Connection, DbError> {
    let db = Connection::open(path).map_err(DbError::of("open"))?;
    db.busy_timeout(Duration::from_secs(10))
        .map_err(DbError::of("open"))?;
    db.set_prepared_statement_cache_capacity(32);
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4096;",
    )
    .map_err(DbError::of("set up"))?;
    Ok(db)
}

/// Everything that is kept in memory.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) snapshots: HashMap<u64, Vec<u64>>,
    pub(crate) sizes: HashMap<u64, u64>,
    pub(crate) results: Vec<ResultRow>,
    pub(crate) blobs: Vec<BlobRow>,
    pub(crate) volumes: Vec<VolumeRow>,
}

#[derive(Debug, Clone)]
pub(crate) struct ResultRow {
    pub(crate) key: Key,
    pub(crate) seq: u64,
    pub(crate) outputs: Vec<u64>,
    /// `None` when it is so large that it is read when asked for.
    pub(crate) extra: Option<Vec<u8>>,
    pub(crate) description: String,
    pub(crate) created: i64,
    pub(crate) last_used: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct BlobRow {
    pub(crate) digest: String,
    pub(crate) seq: u64,
    pub(crate) size: u64,
    pub(crate) created: i64,
    pub(crate) last_used: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct VolumeRow {
    pub(crate) key: String,
    pub(crate) created: i64,
    pub(crate) last_used: i64,
}

/// Larger extras stay on disk until asked for.
pub(crate) const EXTRA_IN_MEMORY: usize = 4096;

/// Reads everything that is kept in memory.
pub(crate) fn load(db: &Connection) -> Result<Loaded, DbError> {
    load_rows(db).map_err(DbError::of("read"))
}

fn load_rows(db: &Connection) -> rusqlite::Result<Loaded> {
    let mut loaded = Loaded::default();
    let mut rows = db.prepare("SELECT id, layers FROM snapshots")?;
    for row in rows.query_map([], |row| {
        Ok((number(row.get(0)?), ids(&row.get::<_, Vec<u8>>(1)?)))
    })? {
        let (id, layers) = row?;
        loaded.snapshots.insert(id, layers);
    }
    let mut rows = db.prepare("SELECT id, size FROM layers")?;
    for row in rows.query_map([], |row| Ok((number(row.get(0)?), number(row.get(1)?))))? {
        let (id, size) = row?;
        loaded.sizes.insert(id, size);
    }
    let sql = format!(
        "SELECT key, seq, outputs, CASE WHEN length(extra) <= {EXTRA_IN_MEMORY} THEN extra END, description, created, last_used \
         FROM results"
    );
    let mut rows = db.prepare(&sql)?;
    let results = rows.query_map([], |row| {
        Ok(ResultRow {
            key: row.get(0)?,
            seq: number(row.get(1)?),
            outputs: ids(&row.get::<_, Vec<u8>>(2)?),
            extra: row.get(3)?,
            description: row.get(4)?,
            created: row.get(5)?,
            last_used: row.get(6)?,
        })
    })?;
    loaded.results = results.collect::<Result<_, _>>()?;
    let mut rows = db.prepare("SELECT digest, seq, size, created, last_used FROM blobs")?;
    let blobs = rows.query_map([], |row| {
        let (seq, size) = (number(row.get(1)?), number(row.get(2)?));
        Ok(BlobRow {
            digest: row.get(0)?,
            seq,
            size,
            created: row.get(3)?,
            last_used: row.get(4)?,
        })
    })?;
    loaded.blobs = blobs.collect::<Result<_, _>>()?;
    let mut rows = db.prepare("SELECT key, created, last_used FROM volumes")?;
    let volumes = rows.query_map([], |row| {
        Ok(VolumeRow {
            key: row.get(0)?,
            created: row.get(1)?,
            last_used: row.get(2)?,
        })
    })?;
    loaded.volumes = volumes.collect::<Result<_, _>>()?;
    Ok(loaded)
}

/// A large extra.
pub(crate) fn extra(db: &Connection, key: &Key) -> Result<Option<Vec<u8>>, DbError> {
    let get = || {
        db.prepare_cached("SELECT extra FROM results WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()
    };
    get().map_err(DbError::of("read"))
}

/// A fact.
pub(crate) fn fact(db: &Connection, space: &str, key: &str) -> Result<Option<Vec<u8>>, DbError> {
    let get = || {
        db.prepare_cached("SELECT value FROM facts WHERE space = ?1 AND key = ?2")?
            .query_row([space, key], |row| row.get(0))
            .optional()
    };
    get().map_err(DbError::of("read"))
}

/// A number about the store as a whole.
pub(crate) fn meta(db: &Connection, name: &str) -> Result<Option<Vec<u8>>, DbError> {
    let get = || {
        db.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .optional()
    };
    get().map_err(DbError::of("read"))
}

/// One change.
#[derive(Debug)]
pub(crate) enum Write {
    Result {
        row: ResultRow,
        snapshots: Vec<(u64, Vec<u64>)>,
    },
    RemoveResult(Key),
    /// Snapshots that no result names any more.
    RemoveSnapshots(Vec<u64>),
    RemoveLayers(Vec<u64>),
    ResultUses(Vec<(Key, i64)>),
    LayerSizes(Vec<(u64, u64)>),
    Blob(BlobRow),
    RemoveBlob(String),
    Volume(VolumeRow),
    RemoveVolume(String),
    Fact {
        space: String,
        key: String,
        value: std::sync::Arc<[u8]>,
        used: i64,
    },
    RemoveFact {
        space: String,
        key: String,
    },
    RemoveFactsBefore(i64),
    Meta(&'static str, Vec<u8>),
}

/// Applies one change, within the caller's transaction.
pub(crate) fn apply(db: &Connection, write: &Write) -> rusqlite::Result<()> {
    match write {
        Write::Result { row, snapshots } => {
            let mut insert =
                db.prepare_cached("INSERT OR REPLACE INTO snapshots (id, layers) VALUES (?1, ?2)")?;
            for (id, layers) in snapshots {
                insert.execute(params![stored(*id), blob(layers)])?;
            }
            db.prepare_cached(
                "INSERT OR REPLACE INTO results (key, seq, outputs, extra, description, created, last_used) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                row.key,
                stored(row.seq),
                blob(&row.outputs),
                row.extra.as_deref().unwrap_or_default(),
                row.description,
                row.created,
                row.last_used
            ])?;
        }
        Write::RemoveResult(key) => {
            db.prepare_cached("DELETE FROM results WHERE key = ?1")?
                .execute([key])?;
        }
        Write::RemoveSnapshots(ids) => {
            let mut delete = db.prepare_cached("DELETE FROM snapshots WHERE id = ?1")?;
            for id in ids {
                delete.execute([stored(*id)])?;
            }
        }
        Write::RemoveLayers(ids) => {
            let mut delete = db.prepare_cached("DELETE FROM layers WHERE id = ?1")?;
            for id in ids {
                delete.execute([stored(*id)])?;
            }
        }
        Write::ResultUses(uses) => {
            let mut update =
                db.prepare_cached("UPDATE results SET last_used = ?2 WHERE key = ?1")?;
            for (key, at) in uses {
                update.execute(params![key, at])?;
            }
        }
        Write::LayerSizes(sizes) => {
            let mut insert =
                db.prepare_cached("INSERT OR REPLACE INTO layers (id, size) VALUES (?1, ?2)")?;
            for (id, size) in sizes {
                insert.execute(params![stored(*id), stored(*size)])?;
            }
        }
        Write::Blob(row) => {
            db.prepare_cached(
                "INSERT OR REPLACE INTO blobs (digest, seq, size, created, last_used) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![row.digest, stored(row.seq), stored(row.size), row.created, row.last_used])?;
        }
        Write::RemoveBlob(digest) => {
            db.prepare_cached("DELETE FROM blobs WHERE digest = ?1")?
                .execute([digest])?;
        }
        Write::Volume(row) => {
            db.prepare_cached(
                "INSERT OR REPLACE INTO volumes (key, created, last_used) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![row.key, row.created, row.last_used])?;
        }
        Write::RemoveVolume(key) => {
            db.prepare_cached("DELETE FROM volumes WHERE key = ?1")?
                .execute([key])?;
        }
        Write::Fact {
            space,
            key,
            value,
            used,
        } => {
            db.prepare_cached(
                "INSERT OR REPLACE INTO facts (space, key, value, used) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![space, key, &**value, used])?;
        }
        Write::RemoveFact { space, key } => {
            db.prepare_cached("DELETE FROM facts WHERE space = ?1 AND key = ?2")?
                .execute([space, key])?;
        }
        Write::RemoveFactsBefore(time) => {
            db.prepare_cached("DELETE FROM facts WHERE used < ?1")?
                .execute([time])?;
        }
        Write::Meta(name, value) => {
            db.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
                .execute(params![name, value])?;
        }
    }
    Ok(())
}

fn number(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Numbers as bytes: eight each, little end first.
fn blob(ids: &[u64]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

fn ids(blob: &[u8]) -> Vec<u64> {
    blob.chunks_exact(8)
        .filter_map(|bytes| bytes.try_into().ok().map(u64::from_le_bytes))
        .collect()
}
