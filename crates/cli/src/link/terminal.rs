//! The user's terminal, lent to a process in a container.

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    termios::{OptionalActions, Termios},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe::{Receiver, Sender},
    signal::unix::{SignalKind, signal},
    sync::Mutex,
};
use wire::{
    LinkError, LinkErrorKind, Status,
    frame::{self, Kind},
    link::TerminalFacts,
};

use super::status_line;
use crate::{connect::Conn, output};

/// One process at a time has the terminal; others wait for it.
static LENT: Mutex<()> = Mutex::const_new(());
/// Largest piece read at once, in bytes.
const CHUNK: usize = 16 << 10;

/// The terminal in raw mode. Dropping it puts everything back.
struct Raw {
    tty: OwnedFd,
    before: Termios,
    _quiet: output::Hold,
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = rustix::termios::tcsetattr(&self.tty, OptionalActions::Drain, &self.before);
    }
}

impl Raw {
    fn open() -> Result<Self, LinkError> {
        let none = |why: &str| {
            LinkError::new(
                LinkErrorKind::Invalid,
                format!("the client has no terminal: {why}"),
            )
        };
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let tty = rustix::fs::open("/dev/tty", flags, Mode::empty())
            .map_err(|_| none("run it from one"))?;
        let front = rustix::termios::tcgetpgrp(&tty).ok();
        if front != Some(rustix::process::getpgrp()) {
            return Err(none("it runs in the background of its own"));
        }
        let failed = |e: io::Error| none(&e.to_string());
        let before = rustix::termios::tcgetattr(&tty).map_err(|e| failed(e.into()))?;
        let mut raw = before.clone();
        raw.make_raw();
        let lent = Self {
            tty,
            before,
            _quiet: output::Hold::new(),
        };
        rustix::termios::tcsetattr(&lent.tty, OptionalActions::Drain, &raw)
            .map_err(|e| failed(e.into()))?;
        Ok(lent)
    }

    /// Rows and columns.
    fn size(&self) -> (u16, u16) {
        rustix::termios::tcgetwinsize(&self.tty).map_or((24, 80), |s| (s.ws_row, s.ws_col))
    }
}

/// Answers a request for the terminal on its connection.
///
/// # Errors
/// A broken connection.
pub(super) async fn lend(mut conn: Conn) -> io::Result<()> {
    let _lent = LENT.lock().await;
    let raw = match Raw::open() {
        Ok(raw) => raw,
        Err(e) => return conn.write_all(&status_line(&Status::<()>::Error(e))?).await,
    };
    let mut resized = signal(SignalKind::window_change())?;
    let (rows, columns) = raw.size();
    let facts = TerminalFacts {
        rows,
        columns,
        term: std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned()),
    };
    conn.write_all(&status_line(&Status::Ok(facts))?).await?;
    let (mut from, mut to) = tokio::io::split(conn);
    // A terminal is read and written as a pipe is, whatever else it can do.
    let mut pressed = Receiver::from_owned_fd_unchecked(raw.tty.try_clone()?)?;
    let mut screen = Sender::from_owned_fd_unchecked(raw.tty.try_clone()?)?;
    let keys = async {
        let mut buf = vec![0; CHUNK];
        loop {
            tokio::select! {
                n = pressed.read(&mut buf) => match n? {
                    0 => return Ok::<_, io::Error>(()),
                    n => frame::write_async(&mut to, Kind::Data, &buf[..n]).await?,
                },
                _ = resized.recv() => {
                    let (rows, columns) = raw.size();
                    let size = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
                    frame::write_async(&mut to, Kind::Resize, &size).await?;
                }
            }
            to.flush().await?;
        }
    };
    let shown = async {
        let mut payload = Vec::new();
        while let Ok(Kind::Data) = frame::read_async(&mut from, &mut payload).await {
            screen.write_all(&payload).await?;
        }
        Ok::<_, io::Error>(())
    };
    tokio::select! {
        ended = shown => ended,
        gone = keys => gone,
    }
}
