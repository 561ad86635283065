//! eStargz: a layer whose files can be fetched one by one. Contents begin gzip members of their own, a table of contents names
//! where, and a footer says where the table is (stargz-snapshotter, `docs/estargz.md`).

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;

use super::header::{BLOCK, Head, encode, padding};
use crate::time::rfc3339;

/// Name of the table in the tar.
const TABLE: &[u8] = b"stargz.index.json";

/// A layer's table of contents.
#[derive(Debug, Serialize)]
pub(super) struct Table {
    version: u32,
    pub(super) entries: Vec<Entry>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            version: 1,
            entries: Vec::new(),
        }
    }
}

/// One entry of the tar, or a further piece of a large file.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "zero")]
    pub(super) size: u64,
    #[serde(skip_serializing_if = "String::is_empty", rename = "modtime")]
    pub(super) modified: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) link_name: String,
    #[serde(skip_serializing_if = "zero")]
    pub(super) mode: u64,
    #[serde(skip_serializing_if = "zero")]
    pub(super) uid: u64,
    #[serde(skip_serializing_if = "zero")]
    pub(super) gid: u64,
    #[serde(skip_serializing_if = "zero")]
    pub(super) offset: u64,
    #[serde(skip_serializing_if = "zero")]
    pub(super) dev_major: u64,
    #[serde(skip_serializing_if = "zero")]
    pub(super) dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) digest: String,
    #[serde(skip_serializing_if = "zero")]
    pub(super) chunk_offset: u64,
    #[serde(skip_serializing_if = "zero")]
    pub(super) chunk_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) chunk_digest: String,
    /// Number of the unit its contents begin; becomes `offset`.
    #[serde(skip)]
    pub(super) unit: Option<usize>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn zero(n: &u64) -> bool {
    *n == 0
}

impl Entry {
    /// The entry of a header.
    pub(super) fn of(head: &Head<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let kind = match head.kind {
            b'1' => "hardlink",
            b'2' => "symlink",
            b'3' => "char",
            b'4' => "block",
            b'5' => "dir",
            b'6' => "fifo",
            _ => "reg",
        };
        Self {
            name: text(head.name),
            kind,
            size: head.size,
            modified: rfc3339(head.mtime),
            link_name: text(head.link),
            mode: head.mode.into(),
            uid: head.uid,
            gid: head.gid,
            dev_major: head.device.0.into(),
            dev_minor: head.device.1.into(),
            xattrs: head
                .xattrs
                .iter()
                .map(|(name, value)| (text(name), BASE64_STANDARD.encode(value)))
                .collect(),
            ..Self::default()
        }
    }
}

impl Table {
    /// The table's JSON once it is known where the units begin.
    pub(super) fn json(mut self, offsets: &[u64]) -> Vec<u8> {
        for entry in &mut self.entries {
            if let Some(offset) = entry.unit.and_then(|unit| offsets.get(unit)) {
                entry.offset = *offset;
            }
        }
        serde_json::to_vec(&self).unwrap_or_default()
    }
}

/// The end of the tar: the table as its last entry.
pub(super) fn tail(json: &[u8]) -> Vec<u8> {
    let mut tar = encode(&Head {
        name: TABLE,
        kind: b'0',
        size: json.len() as u64,
        ..Head::default()
    });
    tar.extend_from_slice(json);
    tar.resize(tar.len() + padding(json.len() as u64) + 2 * BLOCK, 0);
    tar
}

/// The last 51 bytes: an empty gzip member whose extra field says where the table's member begins.
pub(super) fn footer(table: u64) -> Vec<u8> {
    let mut out = vec![
        0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0,
    ];
    out.extend_from_slice(format!("{table:016x}STARGZ").as_bytes());
    out.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_footer_is_as_long_as_specified() {
        assert_eq!(footer(7).len(), 51);
    }
}
