//! Tar files entry by entry, with every freedom to be wrong.

use std::io::Write as _;

use crate::layer::Compression;

/// A header as raw as it gets.
#[derive(Debug, Clone)]
pub struct Raw<'a> {
    /// Type flag.
    pub kind: u8,
    /// Name; what does not fit 100 bytes goes into a GNU long name.
    pub name: &'a [u8],
    /// Link target, likewise.
    pub link: &'a [u8],
    /// Mode.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Modification time in seconds.
    pub mtime: i64,
    /// The size field, whatever the contents are.
    pub size: u64,
    /// Device numbers.
    pub device: (u32, u32),
}

impl Default for Raw<'_> {
    fn default() -> Self {
        Self {
            kind: b'0',
            name: b"",
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_000_000_000,
            size: 0,
            device: (0, 0),
        }
    }
}

/// Builds the tar of a layer.
#[derive(Debug, Default, Clone)]
pub struct LayerBuilder {
    bytes: Vec<u8>,
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A regular file, mode 0644.
    #[must_use]
    pub fn file(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        self.file_mode(name, contents, 0o644)
    }

    /// A regular file.
    #[must_use]
    pub fn file_mode(self, name: &str, contents: impl AsRef<[u8]>, mode: u32) -> Self {
        let contents = contents.as_ref();
        let size = contents.len() as u64;
        self.raw(
            &Raw {
                name: name.as_bytes(),
                mode,
                size,
                ..Raw::default()
            },
            contents,
        )
    }

    /// A directory, mode 0755.
    #[must_use]
    pub fn dir(self, name: &str) -> Self {
        self.dir_mode(name, 0o755)
    }

    /// A directory.
    #[must_use]
    pub fn dir_mode(self, name: &str, mode: u32) -> Self {
        self.raw(
            &Raw {
                kind: b'5',
                name: name.as_bytes(),
                mode,
                ..Raw::default()
            },
            b"",
        )
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(
            &Raw {
                kind: b'2',
                name: name.as_bytes(),
                link: target.as_bytes(),
                mode: 0o777,
                ..Raw::default()
            },
            b"",
        )
    }

    /// A hard link.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(
            &Raw {
                kind: b'1',
                name: name.as_bytes(),
                link: target.as_bytes(),
                ..Raw::default()
            },
            b"",
        )
    }

    /// A deletion of `name` in the layers beneath.
    #[must_use]
    pub fn whiteout(self, name: &str) -> Self {
        let (parent, base) = name
            .rsplit_once('/')
            .map_or(("", name), |(parent, base)| (parent, base));
        let separator = if parent.is_empty() { "" } else { "/" };
        self.file(&format!("{parent}{separator}.wh.{base}"), "")
    }

    /// An extended header for the next entry.
    #[must_use]
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', records)
    }

    /// An extended header of the given kind (`x` or `g`).
    #[must_use]
    pub fn extended(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.raw(
            &Raw {
                kind,
                name: b"PaxHeaders/0",
                size: body.len() as u64,
                ..Raw::default()
            },
            &body,
        )
    }

    /// Any header and contents, padded.
    #[must_use]
    pub fn raw(mut self, raw: &Raw<'_>, contents: &[u8]) -> Self {
        for (kind, text) in [(b'L', raw.name), (b'K', raw.link)] {
            if text.len() > 100 {
                let size = text.len() as u64;
                self = self.raw(
                    &Raw {
                        kind,
                        name: b"././@LongLink",
                        size,
                        ..Raw::default()
                    },
                    text,
                );
            }
        }
        let block = block(raw);
        self.bytes(&block).padded(contents)
    }

    /// Bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn padded(mut self, contents: &[u8]) -> Self {
        self.bytes.extend_from_slice(contents);
        let length = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(length, 0);
        self
    }

    /// The tar with its two closing blocks.
    pub fn tar(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }

    /// The tar as it stands, without an end.
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }
}

/// A ustar header block.
fn block(raw: &Raw<'_>) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, len: usize, bytes: &[u8]| {
        for (to, from) in block.iter_mut().skip(at).take(len).zip(bytes) {
            *to = *from;
        }
    };
    let number = |value: u64, len: usize| {
        if value < 1 << (3 * (len - 1)) {
            format!("{value:0width$o}", width = len - 1).into_bytes()
        } else {
            let mut field = vec![0; len];
            field[0] = 0x80;
            field[len - 8 + usize::from(len == 8)..]
                .copy_from_slice(&value.to_be_bytes()[usize::from(len == 8)..]);
            field
        }
    };
    put(0, 100, raw.name);
    put(100, 8, &number(raw.mode.into(), 8));
    put(108, 8, &number(raw.uid, 8));
    put(116, 8, &number(raw.gid, 8));
    put(124, 12, &number(raw.size, 12));
    match u64::try_from(raw.mtime) {
        Ok(mtime) => put(136, 12, &number(mtime, 12)),
        Err(_) => {
            put(136, 4, &[0xff; 4]);
            put(140, 8, &raw.mtime.to_be_bytes());
        }
    }
    put(156, 1, &[raw.kind]);
    put(157, 100, raw.link);
    put(257, 8, b"ustar\x0000");
    put(329, 8, &number(raw.device.0.into(), 8));
    put(337, 8, &number(raw.device.1.into(), 8));
    put(148, 8, b"        ");
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    for (to, from) in block
        .iter_mut()
        .skip(148)
        .zip(format!("{sum:06o}\0 ").bytes())
    {
        *to = from;
    }
    block
}

/// Compresses a tar.
pub fn compress(tar: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => tar.to_vec(),
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder
                .write_all(tar)
                .expect("writing to memory cannot fail");
            encoder.finish().expect("writing to memory cannot fail")
        }
        Compression::Zstd => {
            zstd::bulk::compress(tar, 1).expect("compressing in memory cannot fail")
        }
    }
}
