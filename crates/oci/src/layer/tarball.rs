//! Reading tar headers: ustar, GNU long names, PAX, sparse files. Strict: what two readers could take differently is refused.

use super::{
    HeaderError, UnpackError,
    pax::{self, Pax, decimal},
    shown,
    source::Stream,
};

const MAX_EXTENDED: u64 = 1 << 20;
const MAX_LONG_NAME: u64 = 64 << 10;
const MAX_SPARSE: usize = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Character,
    Block,
    Fifo,
}

/// One entry, its extended headers applied.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Major and minor number.
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) contents: Contents,
}

/// The bytes of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// All of them, in one piece.
    Whole(u64),
    /// Pieces of a file with holes.
    Sparse {
        /// Length of the file.
        length: u64,
        /// Offset and length of each piece, ascending.
        pieces: Vec<(u64, u64)>,
    },
}

/// Reads entries from a stream.
pub(super) struct Reader<'a> {
    stream: &'a mut Stream,
    /// Bytes of the current entry not yet taken.
    left: u64,
    /// Zeros after them.
    padding: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(stream: &'a mut Stream) -> Self {
        Self {
            stream,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry, skipping what was not taken of the last one; `None` at the end.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        self.stream
            .take(std::mem::take(&mut self.left), |_| Ok(()))?;
        self.stream
            .take(std::mem::take(&mut self.padding), |_| Ok(()))?;
        let offset = self.stream.offset();
        let bad = |reader: &Self, source| UnpackError::Header {
            offset,
            near: shown(&reader.stream.entry),
            source,
        };
        let mut extended: Option<Pax> = None;
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        loop {
            let block = match self.stream.block()? {
                Some(block) if block.iter().any(|b| *b != 0) => block,
                _ if extended.is_some() || long_name.is_some() || long_link.is_some() => {
                    return Err(bad(
                        self,
                        HeaderError::Ambiguous("an extended header without its entry"),
                    ));
                }
                Some(_) => match self.stream.block()? {
                    Some(next) if next.iter().any(|b| *b != 0) => {
                        return Err(bad(
                            self,
                            HeaderError::Ambiguous("entries after a lone zero block"),
                        ));
                    }
                    _ => return Ok(None),
                },
                None => return Ok(None),
            };
            let header = Header(&block);
            header.check().map_err(|e| bad(self, e))?;
            let size = header.number("size", 124, 12).map_err(|e| bad(self, e))?;
            match header.kind() {
                b'x' | b'X' if extended.is_some() => {
                    return Err(bad(
                        self,
                        HeaderError::Ambiguous("two extended headers for one entry"),
                    ));
                }
                b'x' | b'X' => {
                    let records = self
                        .extra(size, MAX_EXTENDED)
                        .map_err(|e| e.unwrap_or_else(|e| bad(self, e)))?;
                    extended = Some(pax::parse(&records).map_err(|e| bad(self, e))?);
                }
                b'g' => {
                    let records = self
                        .extra(size, MAX_EXTENDED)
                        .map_err(|e| e.unwrap_or_else(|e| bad(self, e)))?;
                    pax::check_global(&records).map_err(|e| bad(self, e))?;
                }
                kind @ (b'L' | b'K') => {
                    let slot = if kind == b'L' { &long_name } else { &long_link };
                    if slot.is_some() {
                        return Err(bad(
                            self,
                            HeaderError::Ambiguous("two long names for one entry"),
                        ));
                    }
                    let mut name = self
                        .extra(size, MAX_LONG_NAME)
                        .map_err(|e| e.unwrap_or_else(|e| bad(self, e)))?;
                    while name.last() == Some(&0) {
                        name.pop();
                    }
                    if kind == b'L' {
                        long_name = Some(name)
                    } else {
                        long_link = Some(name)
                    }
                }
                _ => {
                    return self
                        .build(
                            &header,
                            size,
                            extended.unwrap_or_default(),
                            long_name,
                            long_link,
                        )
                        .map_err(|e| e.unwrap_or_else(|e| bad(self, e)))
                        .map(Some);
                }
            }
        }
    }

    /// Hands the contents of the current entry to `sink` as offset and bytes.
    pub(super) fn contents(
        &mut self,
        contents: &Contents,
        mut sink: impl FnMut(u64, &[u8]) -> Result<(), UnpackError>,
    ) -> Result<(), UnpackError> {
        let whole;
        let pieces = match contents {
            Contents::Whole(length) => {
                whole = [(0, *length)];
                whole.as_slice()
            }
            Contents::Sparse { pieces, .. } => pieces.as_slice(),
        };
        for (offset, length) in pieces {
            let mut at = *offset;
            self.stream.take(*length, |bytes| {
                sink(at, bytes)?;
                at += bytes.len() as u64;
                Ok(())
            })?;
            self.left -= length;
        }
        Ok(())
    }

    /// The contents of an extended header and its padding.
    fn extra(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, Either> {
        if size > limit {
            return Err(Either::Header(HeaderError::PaxSize(size)));
        }
        let bytes = self.stream.bytes(size)?;
        self.stream.take(padding(size), |_| Ok(()))?;
        Ok(bytes)
    }

    fn build(
        &mut self,
        header: &Header<'_>,
        size: u64,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, Either> {
        let mut name = one_of(pax.path, long_name, "two long names for one entry")?
            .unwrap_or_else(|| header.name());
        let link = one_of(pax.link, long_link, "two link names for one entry")?
            .unwrap_or_else(|| header.text(157, 100));
        if let Some(sparse_name) = pax.sparse.name.clone() {
            name = sparse_name;
        }
        self.stream.entry.clone_from(&name);
        let size = pax.size.unwrap_or(size);
        let kind = match header.kind() {
            // Before ustar a directory was a file whose name ends in a slash.
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(HeaderError::Kind(char::from(other)).into()),
        };
        let stored = match kind {
            Kind::File => size,
            // Archivers write the size of the file a hard link points to; no data follows.
            Kind::HardLink => 0,
            _ if size == 0 => 0,
            _ => return Err(HeaderError::Size(size).into()),
        };
        (self.left, self.padding) = (stored, padding(stored));
        let contents = self.map(header, kind, &pax.sparse, stored)?;
        let device = match kind {
            Kind::Character | Kind::Block => (
                header.small("devmajor", 329, 8)?,
                header.small("devminor", 337, 8)?,
            ),
            _ => (0, 0),
        };
        Ok(Entry {
            name,
            link,
            kind,
            mode: header.small("mode", 100, 8)? & 0o7777,
            uid: pax.uid.map_or_else(|| header.number("uid", 108, 8), Ok)?,
            gid: pax.gid.map_or_else(|| header.number("gid", 116, 8), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.time(), Ok)?,
            device,
            xattrs: pax.xattrs,
            contents,
        })
    }

    /// Finds out where the stored bytes belong.
    fn map(
        &mut self,
        header: &Header<'_>,
        kind: Kind,
        keys: &pax::SparseKeys,
        stored: u64,
    ) -> Result<Contents, Either> {
        let (length, numbers) = if header.kind() == b'S' {
            self.old_gnu_map(header)?
        } else if keys.major == Some(1) && keys.minor.unwrap_or(0) == 0 {
            (keys.size, self.prefixed_map()?)
        } else if keys.major.is_some_and(|major| major > 1)
            || keys.minor.is_some_and(|minor| minor > 1)
        {
            return Err(HeaderError::Sparse.into());
        } else if let Some(map) = &keys.map {
            (keys.size, map.clone())
        } else if keys.size.is_some() {
            return Err(HeaderError::Sparse.into());
        } else {
            return Ok(Contents::Whole(stored));
        };
        if kind != Kind::File {
            return Err(HeaderError::Sparse.into());
        }
        let length = length
            .filter(|length| i64::try_from(*length).is_ok())
            .ok_or(HeaderError::Sparse)?;
        let pieces = pieces(&numbers, length, self.left).ok_or(HeaderError::Sparse)?;
        Ok(Contents::Sparse { length, pieces })
    }

    /// The map of GNU's own format: four pieces in the header, more in blocks after it.
    fn old_gnu_map(&mut self, header: &Header<'_>) -> Result<(Option<u64>, Vec<u64>), Either> {
        let length = header.number("realsize", 483, 12)?;
        let mut numbers = Vec::new();
        header.sparse_numbers(386, 4, &mut numbers)?;
        let mut more = header.0[482] != 0;
        while more {
            let block = self.stream.block()?.ok_or(HeaderError::Sparse)?;
            let extension = Header(&block);
            extension.sparse_numbers(0, 21, &mut numbers)?;
            more = block[504] != 0;
            if numbers.len() > 2 * MAX_SPARSE {
                return Err(HeaderError::Sparse.into());
            }
        }
        Ok((Some(length), numbers))
    }

    /// The map of version 1.0: decimal lines before the data, filled up to a block.
    fn prefixed_map(&mut self) -> Result<Vec<u64>, Either> {
        let mut text: Vec<u8> = Vec::new();
        let mut at = 0;
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            match text
                .get(at..)
                .and_then(|rest| rest.iter().position(|b| *b == b'\n'))
            {
                Some(end) => {
                    let number = text
                        .get(at..at + end)
                        .and_then(decimal)
                        .ok_or(HeaderError::Sparse)?;
                    at += end + 1;
                    if numbers.is_empty() {
                        let count = usize::try_from(number)
                            .ok()
                            .filter(|n| *n <= MAX_SPARSE)
                            .ok_or(HeaderError::Sparse)?;
                        wanted = 1 + 2 * count;
                    }
                    numbers.push(number);
                }
                None if text.len() - at > 32 || self.left < 512 => {
                    return Err(HeaderError::Sparse.into());
                }
                None => {
                    text.drain(..at);
                    at = 0;
                    text.extend_from_slice(&self.stream.block()?.ok_or(HeaderError::Sparse)?);
                    self.left -= 512;
                }
            }
        }
        numbers.remove(0);
        Ok(numbers)
    }
}

/// A header error or one from the stream below.
enum Either {
    Header(HeaderError),
    Stream(UnpackError),
}

impl Either {
    fn unwrap_or_else(self, wrap: impl FnOnce(HeaderError) -> UnpackError) -> UnpackError {
        match self {
            Self::Header(error) => wrap(error),
            Self::Stream(error) => error,
        }
    }
}

impl From<HeaderError> for Either {
    fn from(error: HeaderError) -> Self {
        Self::Header(error)
    }
}

impl From<UnpackError> for Either {
    fn from(error: UnpackError) -> Self {
        Self::Stream(error)
    }
}

fn one_of(
    pax: Option<Vec<u8>>,
    gnu: Option<Vec<u8>>,
    conflict: &'static str,
) -> Result<Option<Vec<u8>>, HeaderError> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => Err(HeaderError::Ambiguous(conflict)),
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(512) - size
}

/// Pairs up a sparse map and checks that it is ascending, inside the file, and holds exactly the stored bytes.
fn pieces(numbers: &[u64], length: u64, stored: u64) -> Option<Vec<(u64, u64)>> {
    if !numbers.len().is_multiple_of(2) {
        return None;
    }
    let (mut end, mut sum) = (0, 0u64);
    let mut pieces = Vec::with_capacity(numbers.len() / 2);
    for pair in numbers.chunks_exact(2) {
        let [offset, bytes] = pair else { return None };
        let to = offset.checked_add(*bytes)?;
        if *offset < end || to > length {
            return None;
        }
        end = to;
        sum = sum.checked_add(*bytes)?;
        if *bytes > 0 {
            pieces.push((*offset, *bytes));
        }
    }
    (sum == stored).then_some(pieces)
}

/// A header block, its fields at fixed places.
struct Header<'a>(&'a [u8; 512]);

impl Header<'_> {
    fn field(&self, at: usize, len: usize) -> &[u8] {
        self.0.get(at..at + len).unwrap_or_default()
    }

    fn kind(&self) -> u8 {
        self.0[156]
    }

    fn check(&self) -> Result<(), HeaderError> {
        let stated = octal(self.field(148, 8)).ok_or(HeaderError::Checksum)?;
        let blank = |(at, byte): (usize, &u8)| {
            if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            }
        };
        let unsigned: u64 = self.0.iter().enumerate().map(|b| u64::from(blank(b))).sum();
        // Some old archivers summed signed bytes.
        let signed: i64 = self
            .0
            .iter()
            .enumerate()
            .map(|b| i64::from(blank(b).cast_signed()))
            .sum();
        if unsigned == stated || i64::try_from(stated).is_ok_and(|stated| stated == signed) {
            Ok(())
        } else {
            Err(HeaderError::Checksum)
        }
    }

    /// Bytes up to the first NUL.
    fn text(&self, at: usize, len: usize) -> Vec<u8> {
        self.field(at, len)
            .iter()
            .take_while(|b| **b != 0)
            .copied()
            .collect()
    }

    fn name(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        // GNU's magic ("ustar  ") has no prefix but other fields there.
        let prefix = if self.field(257, 6) == b"ustar\0" {
            self.text(345, 155)
        } else {
            Vec::new()
        };
        if prefix.is_empty() {
            return name;
        }
        let mut joined = prefix;
        joined.push(b'/');
        joined.extend_from_slice(&name);
        joined
    }

    /// An unsigned number, octal or base 256.
    fn number(&self, name: &'static str, at: usize, len: usize) -> Result<u64, HeaderError> {
        let field = self.field(at, len);
        let number = match field.split_first() {
            Some((0x80, rest)) => binary(rest),
            Some((first, _)) if first & 0x80 != 0 => None,
            _ => octal(field),
        };
        number.ok_or(HeaderError::Number(name))
    }

    fn small(&self, name: &'static str, at: usize, len: usize) -> Result<u32, HeaderError> {
        u32::try_from(self.number(name, at, len)?).map_err(|_| HeaderError::Number(name))
    }

    fn time(&self) -> Result<(i64, u32), HeaderError> {
        let seconds = match self.field(136, 12) {
            // Base 256, negative: two's complement.
            [0xff, rest @ ..] => rest
                .split_last_chunk::<8>()
                .filter(|(high, low)| high.iter().all(|b| *b == 0xff) && low[0] & 0x80 != 0)
                .map(|(_, low)| i64::from_be_bytes(*low)),
            _ => i64::try_from(self.number("mtime", 136, 12)?).ok(),
        };
        seconds
            .map(|seconds| (seconds, 0))
            .ok_or(HeaderError::Number("mtime"))
    }

    fn sparse_numbers(
        &self,
        at: usize,
        count: usize,
        numbers: &mut Vec<u64>,
    ) -> Result<(), HeaderError> {
        for piece in 0..count {
            let at = at + piece * 24;
            if self.field(at, 1).iter().all(|b| *b == 0) {
                break;
            }
            numbers.push(self.number("sparse", at, 12)?);
            numbers.push(self.number("sparse", at + 12, 12)?);
        }
        Ok(())
    }
}

/// Octal digits between spaces and NULs; an empty field is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let field = field.trim_ascii_start();
    let digits = field
        .iter()
        .position(|b| *b == 0 || *b == b' ')
        .map_or(field, |end| field.split_at(end).0);
    digits.iter().try_fold(0u64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Big-endian bytes that fit 64 bits.
fn binary(bytes: &[u8]) -> Option<u64> {
    bytes.iter().try_fold(0u64, |number, byte| {
        number.checked_mul(256)?.checked_add(u64::from(*byte))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// PAX records with their lengths.
    pub(in crate::layer) fn pax_records(records: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            out.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
        }
        out
    }

    #[test]
    fn numbers_octal_and_binary() {
        assert_eq!(octal(b"0000644\0"), Some(0o644));
        assert_eq!(octal(b"   644 \0"), Some(0o644));
        assert_eq!(octal(b"\0\0\0\0"), Some(0));
        assert_eq!(octal(b"00008\0"), None);
        assert_eq!(octal(b"-1"), None);
        assert_eq!(binary(&[0, 0, 1, 0]), Some(256));
        assert_eq!(binary(&[1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn sparse_maps_must_add_up() {
        assert_eq!(
            pieces(&[0, 5, 10, 5, 20, 0], 20, 10),
            Some(vec![(0, 5), (10, 5)])
        );
        assert_eq!(pieces(&[0, 5, 4, 5], 20, 10), None, "overlap");
        assert_eq!(pieces(&[0, 5, 16, 5], 20, 10), None, "beyond the end");
        assert_eq!(pieces(&[0, 5], 20, 6), None, "sum");
        assert_eq!(pieces(&[0, 5, 1], 20, 5), None, "odd");
        assert_eq!(pieces(&[u64::MAX, 5], u64::MAX, 5), None, "overflow");
    }
}
