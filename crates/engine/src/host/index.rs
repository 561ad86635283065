//! What was uploaded of a host directory, so that only changes travel the next time.

use wire::frame::{push_bytes, push_varint, take_bytes, take_varint};

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Dir,
    File {
        size: u64,
        stamp: u64,
        hash: [u8; 32],
    },
    Symlink(Vec<u8>),
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Relative to the root; the root itself is empty.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) mtime_ns: i64,
}

/// An uploaded tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// The client's digest of its listing.
    pub(super) listing: [u8; 32],
    /// Parents before children, siblings sorted.
    pub(super) items: Vec<Item>,
}

const FORMAT: u8 = 1;

impl Index {
    /// The digest of the content: names, kinds, permissions and bytes, but not times.
    pub(super) fn content_digest(&self) -> String {
        let mut h = blake3::Hasher::new();
        let mut part = |b: &[u8]| {
            h.update(&(b.len() as u64).to_le_bytes());
            h.update(b);
        };
        for item in &self.items {
            part(&item.path);
            part(&item.mode.to_le_bytes());
            match &item.kind {
                Kind::Dir => part(b"d"),
                Kind::File { hash, .. } => part(hash),
                Kind::Symlink(target) => {
                    part(b"l");
                    part(target);
                }
            }
        }
        format!("blake3:{}", h.finalize().to_hex())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.listing);
        push_varint(&mut out, self.items.len() as u64);
        let mut last: &[u8] = &[];
        for item in &self.items {
            // Neighbours share most of their path.
            let shared = item
                .path
                .iter()
                .zip(last)
                .take_while(|(a, b)| a == b)
                .count();
            push_varint(&mut out, shared as u64);
            push_bytes(&mut out, &item.path[shared..]);
            last = &item.path;
            push_varint(&mut out, item.mode.into());
            push_varint(&mut out, zigzag(item.mtime_ns));
            match &item.kind {
                Kind::Dir => out.push(0),
                Kind::File { size, stamp, hash } => {
                    out.push(1);
                    push_varint(&mut out, *size);
                    push_varint(&mut out, *stamp);
                    out.extend_from_slice(hash);
                }
                Kind::Symlink(target) => {
                    out.push(2);
                    push_bytes(&mut out, target);
                }
            }
        }
        out
    }

    /// Reads [`Index::encode`]; `None` when it is something else.
    pub(super) fn decode(mut from: &[u8]) -> Option<Self> {
        let from = &mut from;
        if take_byte(from)? != FORMAT {
            return None;
        }
        let listing = take_array(from)?;
        let count = take_varint(from)?;
        let mut items: Vec<Item> = Vec::new();
        for _ in 0..count {
            let shared = usize::try_from(take_varint(from)?).ok()?;
            let mut path = items
                .last()
                .map_or(&[][..], |i| &i.path)
                .get(..shared)?
                .to_vec();
            path.extend_from_slice(take_bytes(from)?);
            let mode = u32::try_from(take_varint(from)?).ok()?;
            let mtime_ns = unzigzag(take_varint(from)?);
            let kind = match take_byte(from)? {
                0 => Kind::Dir,
                1 => Kind::File {
                    size: take_varint(from)?,
                    stamp: take_varint(from)?,
                    hash: take_array(from)?,
                },
                2 => Kind::Symlink(take_bytes(from)?.to_vec()),
                _ => return None,
            };
            items.push(Item {
                path,
                kind,
                mode,
                mtime_ns,
            });
        }
        from.is_empty().then_some(Self { listing, items })
    }
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

fn unzigzag(n: u64) -> i64 {
    ((n >> 1) as i64) ^ -((n & 1) as i64)
}

fn take_byte(from: &mut &[u8]) -> Option<u8> {
    let (b, rest) = from.split_first()?;
    *from = rest;
    Some(*b)
}

fn take_array(from: &mut &[u8]) -> Option<[u8; 32]> {
    let (a, rest) = from.split_first_chunk::<32>()?;
    *from = rest;
    Some(*a)
}

/// Which files must be fetched, given what is there already: pairs of the new item's place and, for a file that is
/// unchanged, its place in the old index.
pub(super) fn plan(new: &[Item], old: Option<&Index>) -> Vec<(usize, Option<usize>)> {
    let mut out = Vec::new();
    let old = old.map_or(&[][..], |i| &i.items);
    let mut at = 0;
    for (n, item) in new.iter().enumerate() {
        let Kind::File { size, stamp, .. } = &item.kind else {
            continue;
        };
        // Both lists are in walk order: paths compare as lists of components.
        while at < old.len() && walk_order(&old[at].path, &item.path).is_lt() {
            at += 1;
        }
        let same = old.get(at).filter(|o| {
            o.path == item.path
                && o.mode == item.mode
                && o.mtime_ns == item.mtime_ns
                && matches!(&o.kind, Kind::File { size: s, stamp: t, .. } if s == size && t == stamp)
        });
        out.push((n, same.map(|_| at)));
    }
    out
}

/// The order of a walk that visits a directory's children sorted by name.
fn walk_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.split(|c| *c == b'/').cmp(b.split(|c| *c == b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, stamp: u64) -> Item {
        Item {
            path: path.into(),
            kind: Kind::File {
                size: 1,
                stamp,
                hash: [stamp as u8; 32],
            },
            mode: 0o644,
            mtime_ns: -5,
        }
    }

    #[test]
    fn an_index_reads_back() {
        let index = Index {
            listing: [7; 32],
            items: vec![
                Item {
                    path: vec![],
                    kind: Kind::Dir,
                    mode: 0o755,
                    mtime_ns: 1,
                },
                file("a", 1),
                file("a.b", u64::MAX),
                Item {
                    path: b"\xff".to_vec(),
                    kind: Kind::Symlink(b"../x".to_vec()),
                    mode: 0o777,
                    mtime_ns: i64::MIN,
                },
            ],
        };
        assert_eq!(Index::decode(&index.encode()), Some(index.clone()));
        let bytes = index.encode();
        assert_eq!(Index::decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn only_changed_files_are_fetched() {
        let old = Index {
            listing: [0; 32],
            items: vec![file("a", 1), file("a/x", 1), file("a.b", 1), file("c", 1)],
        };
        let new = vec![file("a/x", 1), file("a.b", 2), file("b", 1), file("c", 1)];
        assert_eq!(
            plan(&new, Some(&old)),
            [(0, Some(1)), (1, None), (2, None), (3, Some(3))]
        );
        assert_eq!(
            plan(&new, None),
            [(0, None), (1, None), (2, None), (3, None)]
        );
    }

    #[test]
    fn times_do_not_change_the_content() {
        let a = Index {
            listing: [1; 32],
            items: vec![file("a", 1)],
        };
        let mut b = a.clone();
        b.items[0].mtime_ns = 99;
        assert_eq!(a.content_digest(), b.content_digest());
        b.items[0].mode = 0o600;
        assert_ne!(a.content_digest(), b.content_digest());
    }
}
