//! File contents on their way: what an export writes and what a read answers, as frames.

use crate::{
    LinkError,
    frame::{self, FrameError, Kind, take_bytes, take_u64, take_varint},
    listing,
};

/// Most content in one `Data` piece.
pub const DATA: usize = frame::MAX_PAYLOAD;

/// What a tree's entry looks like when it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Modification time in nanoseconds since 1970; `i64::MIN` leaves it.
    pub mtime_ns: i64,
}

/// One frame of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Export: a directory. An empty path is the destination itself.
    Dir {
        /// Relative to the destination.
        path: &'a [u8],
        /// How it looks.
        meta: Meta,
    },
    /// Export: a regular file; `Data` and `Hole` pieces and `End` follow.
    File {
        /// Relative to the destination.
        path: &'a [u8],
        /// How it looks.
        meta: Meta,
    },
    /// Export: a symbolic link.
    Symlink {
        /// Relative to the destination.
        path: &'a [u8],
        /// Where it leads: any bytes.
        target: &'a [u8],
        /// When it was made.
        mtime_ns: i64,
    },
    /// Export: another name of an earlier file.
    HardLink {
        /// Relative to the destination.
        path: &'a [u8],
        /// The earlier file, relative to the destination.
        target: &'a [u8],
    },
    /// Content of the open file; at most [`DATA`] bytes.
    Data(&'a [u8]),
    /// Zeros of the open file.
    Hole(u64),
    /// The open file is complete. For a read: `changed` says that the file was written to while it was read.
    End {
        /// The content may be mixed; ask again.
        changed: bool,
    },
    /// Read: a file begins.
    Begin {
        /// Which of the asked paths.
        index: u64,
        /// Its size when it was opened.
        size: u64,
        /// Permission bits when it was opened.
        mode: u32,
        /// Modification time when it was opened.
        mtime_ns: i64,
        /// As in the listing.
        stamp: u64,
    },
    /// Read: a file cannot be given.
    Missing {
        /// Which of the asked paths.
        index: u64,
        /// Why.
        error: LinkError,
    },
    /// All is said.
    Done,
    /// The sender gives up.
    Fail(LinkError),
}

impl<'a> Piece<'a> {
    fn kind(&self) -> Kind {
        match self {
            Self::Dir { .. } => Kind::Dir,
            Self::File { .. } => Kind::File,
            Self::Symlink { .. } => Kind::Symlink,
            Self::HardLink { .. } => Kind::HardLink,
            Self::Data(_) => Kind::Data,
            Self::Hole(_) => Kind::Hole,
            Self::End { .. } => Kind::End,
            Self::Begin { .. } => Kind::Begin,
            Self::Missing { .. } => Kind::Missing,
            Self::Done => Kind::Done,
            Self::Fail(_) => Kind::Fail,
        }
    }

    /// Appends the piece as a whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&frame::header(self.kind(), 0));
        match self {
            Self::Dir { path, meta } | Self::File { path, meta } => {
                frame::push_bytes(out, path);
                frame::push_varint(out, meta.mode.into());
                out.extend_from_slice(&meta.mtime_ns.to_le_bytes());
            }
            Self::Symlink {
                path,
                target,
                mtime_ns,
            } => {
                frame::push_bytes(out, path);
                frame::push_bytes(out, target);
                out.extend_from_slice(&mtime_ns.to_le_bytes());
            }
            Self::HardLink { path, target } => {
                frame::push_bytes(out, path);
                frame::push_bytes(out, target);
            }
            Self::Data(bytes) => out.extend_from_slice(bytes),
            Self::Hole(len) => frame::push_varint(out, *len),
            Self::End { changed } => out.push(u8::from(*changed)),
            Self::Begin {
                index,
                size,
                mode,
                mtime_ns,
                stamp,
            } => {
                frame::push_varint(out, *index);
                frame::push_varint(out, *size);
                frame::push_varint(out, (*mode).into());
                out.extend_from_slice(&mtime_ns.to_le_bytes());
                out.extend_from_slice(&stamp.to_le_bytes());
            }
            Self::Missing { index, error } => {
                frame::push_varint(out, *index);
                push_error(out, error);
            }
            Self::Done => {}
            Self::Fail(error) => push_error(out, error),
        }
        let len = out.len() - start - frame::HEADER;
        let header = frame::header(self.kind(), len);
        if let Some(place) = out.get_mut(start..start + frame::HEADER) {
            place.copy_from_slice(&header);
        }
    }

    /// Understands a frame.
    ///
    /// # Errors
    /// A frame of another kind or a malformed one. Paths are checked: relative, no empty component, no `.` or `..`.
    pub fn decode(kind: Kind, payload: &'a [u8]) -> Result<Self, FrameError> {
        let mut rest = payload;
        let piece = Self::take(kind, &mut rest)
            .ok_or(FrameError::Malformed(kind, "cut or out of range"))?;
        if !rest.is_empty() {
            return Err(FrameError::Malformed(kind, "longer than it should be"));
        }
        let path_ok = match &piece {
            Self::Dir { path, .. } => path.is_empty() || is_relative(path),
            Self::File { path, .. } => is_relative(path),
            Self::Symlink { path, target, .. } => {
                is_relative(path)
                    && !target.is_empty()
                    && target.len() < 4096
                    && !target.contains(&0)
            }
            Self::HardLink { path, target } => is_relative(path) && is_relative(target),
            _ => true,
        };
        if path_ok {
            Ok(piece)
        } else {
            Err(FrameError::Malformed(kind, "a path that leads elsewhere"))
        }
    }

    fn take(kind: Kind, rest: &mut &'a [u8]) -> Option<Self> {
        Some(match kind {
            Kind::Dir => Self::Dir {
                path: take_bytes(rest)?,
                meta: take_meta(rest)?,
            },
            Kind::File => Self::File {
                path: take_bytes(rest)?,
                meta: take_meta(rest)?,
            },
            Kind::Symlink => Self::Symlink {
                path: take_bytes(rest)?,
                target: take_bytes(rest)?,
                mtime_ns: take_u64(rest)?.cast_signed(),
            },
            Kind::HardLink => Self::HardLink {
                path: take_bytes(rest)?,
                target: take_bytes(rest)?,
            },
            Kind::Data => Self::Data(std::mem::take(rest)),
            Kind::Hole => Self::Hole(take_varint(rest)?),
            Kind::End => {
                let (flag, after) = rest.split_first()?;
                *rest = after;
                Self::End {
                    changed: *flag != 0,
                }
            }
            Kind::Begin => Self::Begin {
                index: take_varint(rest)?,
                size: take_varint(rest)?,
                mode: u32::try_from(take_varint(rest)?).ok()?,
                mtime_ns: take_u64(rest)?.cast_signed(),
                stamp: take_u64(rest)?,
            },
            Kind::Missing => Self::Missing {
                index: take_varint(rest)?,
                error: take_error(rest)?,
            },
            Kind::Done => Self::Done,
            Kind::Fail => Self::Fail(take_error(rest)?),
            Kind::Entries | Kind::Resize => return None,
        })
    }
}

fn take_meta(rest: &mut &[u8]) -> Option<Meta> {
    Some(Meta {
        mode: u32::try_from(take_varint(rest)?).ok()? & 0o7777,
        mtime_ns: take_u64(rest)?.cast_signed(),
    })
}

/// An error always serialises: two plain fields.
fn push_error(out: &mut Vec<u8>, error: &LinkError) {
    if let Ok(json) = serde_json::to_vec(error) {
        out.extend_from_slice(&json);
    }
}

fn take_error(rest: &mut &[u8]) -> Option<LinkError> {
    serde_json::from_slice(std::mem::take(rest)).ok()
}

/// A path below some directory: plain names between single slashes.
pub fn is_relative(path: &[u8]) -> bool {
    path.len() < 4096
        && path
            .split(|b| *b == b'/')
            .all(|name| listing::check_name(name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LinkErrorKind;

    #[test]
    fn every_piece_round_trips() {
        let meta = Meta {
            mode: 0o644,
            mtime_ns: -1,
        };
        let error = LinkError::new(LinkErrorKind::Permission, "no");
        let pieces = [
            Piece::Dir { path: b"", meta },
            Piece::Dir { path: b"d", meta },
            Piece::File { path: b"d/f", meta },
            Piece::Symlink {
                path: b"l",
                target: b"/etc/passwd",
                mtime_ns: 3,
            },
            Piece::HardLink {
                path: b"h",
                target: b"d/f",
            },
            Piece::Data(b"content"),
            Piece::Hole(1 << 50),
            Piece::End { changed: true },
            Piece::Begin {
                index: 4,
                size: 5,
                mode: 0o600,
                mtime_ns: 7,
                stamp: 8,
            },
            Piece::Missing {
                index: 2,
                error: error.clone(),
            },
            Piece::Fail(error),
            Piece::Done,
        ];
        let mut out = Vec::new();
        pieces.iter().for_each(|p| p.encode(&mut out));
        let (mut from, mut payload) = (&out[..], Vec::new());
        for piece in &pieces {
            let kind = frame::read(&mut from, &mut payload).unwrap();
            assert_eq!(&Piece::decode(kind, &payload).unwrap(), piece);
        }
        assert!(from.is_empty());
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        let meta = Meta {
            mode: 0,
            mtime_ns: 0,
        };
        for path in [&b"/etc"[..], b"..", b"a/../b", b"a//b", b"a/", b".", b"a\0"] {
            let mut out = Vec::new();
            Piece::File { path, meta }.encode(&mut out);
            let (kind, payload) = (Kind::File, &out[frame::HEADER..]);
            assert!(Piece::decode(kind, payload).is_err(), "{path:?}");
        }
    }
}
