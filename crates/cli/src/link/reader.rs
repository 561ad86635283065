//! Frames from the engine, with the status of what they led to.

use std::{fs::File, io::BufReader};

use wire::{
    LinkError, LinkErrorKind,
    frame::{self, FrameError, Kind},
    piece::Piece,
};

use super::Broken;

/// The pieces of an export.
pub(super) struct Pieces {
    from: BufReader<File>,
    payload: Vec<u8>,
    done: bool,
}

impl Pieces {
    pub(super) fn new(conn: File) -> Self {
        Self {
            from: BufReader::with_capacity(256 << 10, conn),
            payload: Vec::new(),
            done: false,
        }
    }

    /// The next piece.
    ///
    /// # Errors
    /// A lost connection, a malformed piece, or the engine's own failure.
    pub(super) fn next(&mut self) -> Result<Piece<'_>, Broken> {
        let kind = frame::read(&mut self.from, &mut self.payload).map_err(|e| match e {
            FrameError::Io(e) => Broken::Connection(e),
            other => Broken::Request(LinkError::new(LinkErrorKind::Invalid, other.to_string())),
        })?;
        self.done = matches!(kind, Kind::Done | Kind::Fail);
        match Piece::decode(kind, &self.payload) {
            Ok(Piece::Fail(e)) => Err(e.into()),
            Ok(piece) => Ok(piece),
            Err(e) => Err(LinkError::new(LinkErrorKind::Invalid, e.to_string()).into()),
        }
    }

    /// Discards what still comes: the engine does not look for a status while it writes.
    pub(super) fn discard(&mut self) {
        while !self.done {
            match frame::read(&mut self.from, &mut self.payload) {
                Ok(kind) => self.done = matches!(kind, Kind::Done | Kind::Fail),
                Err(_) => return,
            }
        }
    }

    /// The connection, to write to.
    pub(super) fn conn(&mut self) -> &mut File {
        self.from.get_mut()
    }
}
