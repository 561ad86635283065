//! The store: blobs by sha256, overlay snapshots, named cache volumes, an index in SQLite.
