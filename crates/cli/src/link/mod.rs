//! The client's side of what the engine asks of this machine: see [`wire::LinkRequest`].
//!
//! Each request gets a connection of its own. File work is blocking and runs on the runtime's bounded pool; connections are
//! copied by async tasks.

pub mod dial;
pub mod docker;
pub mod export;
pub mod git;
mod holder;
mod ignored;
pub mod load;
pub mod read;
mod reader;
pub mod secret;
pub mod stat;
mod terminal;
pub mod walk;

use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
};

use serde::Serialize;
use tokio::{io::AsyncWriteExt, sync::Semaphore};
use wire::{LinkError, LinkErrorKind, LinkRequest, Preamble, Status, line};

use crate::{
    connect::{Conn, Door},
    resolve::Names,
};

/// Most file requests at work at once; more wait.
const AT_WORK: usize = 16;

/// Why a request was not answered to its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The engine is gone or does not want to know any more.
    #[error("the engine closed the stream")]
    Connection(#[source] io::Error),
    /// The request failed; the engine is told.
    #[error("the request failed")]
    Request(#[from] LinkError),
}

impl From<io::Error> for Broken {
    fn from(e: io::Error) -> Self {
        Self::Connection(e)
    }
}

/// Whether a session may read and write this machine's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// It may, with the user's rights.
    Allowed,
    /// It may not.
    Denied,
}

/// Answers the requests of one session.
#[derive(Clone)]
pub struct Server {
    files: Files,
    door: Door,
    session: Arc<str>,
    at_work: Arc<Semaphore>,
}

impl Server {
    /// For a session at this door.
    pub fn new(door: Door, session: &str, files: Files) -> Self {
        Self {
            files,
            door,
            session: session.into(),
            at_work: Arc::new(Semaphore::new(AT_WORK)),
        }
    }

    /// Answers one request. What goes wrong is told to the engine, which asked.
    pub async fn answer(self, stream: u64, request: LinkRequest) {
        // A connection that cannot be opened, or breaks, is noticed by the engine as well.
        let _ = self.try_answer(stream, request).await;
    }

    async fn try_answer(&self, stream: u64, request: LinkRequest) -> Result<(), Broken> {
        let preamble = Preamble::Stream {
            session: self.session.to_string(),
            stream,
        };
        let mut conn = self.open(&preamble).await?;
        if self.in_container() && !harmless(&request) {
            let error = LinkError::new(LinkErrorKind::Invalid, "a container is not asked for that");
            conn.write_all(&status_line(&Status::<()>::Error(error))?)
                .await?;
            return Ok(());
        }
        match request {
            LinkRequest::Dial {
                network,
                addr,
                pass,
            } => dial::dial(conn, network, &addr, pass, self.names())
                .await
                .map_err(Broken::Connection),
            LinkRequest::Listen {
                addr,
                network,
                pass,
            } => dial::listen(self, stream, conn, (network, &addr), pass).await,
            LinkRequest::Terminal {} => terminal::lend(conn).await.map_err(Broken::Connection),
            LinkRequest::Unknown => {
                let error = LinkError::new(
                    LinkErrorKind::Invalid,
                    "this client is too old for what the engine asks",
                );
                conn.write_all(&status_line(&Status::<()>::Error(error))?)
                    .await?;
                Ok(())
            }
            request if self.files == Files::Denied && touches_files(&request) => {
                let error = LinkError::new(
                    LinkErrorKind::Permission,
                    "this session may not use the client's files",
                );
                conn.write_all(&status_line(&Status::<()>::Error(error))?)
                    .await?;
                Ok(())
            }
            file_request => {
                let Ok(_permit) = self.at_work.acquire().await else {
                    return Ok(());
                };
                let blocking = conn.into_blocking()?;
                let work = tokio::task::spawn_blocking(move || serve(blocking, file_request));
                work.await
                    .unwrap_or_else(|e| Err(Broken::Connection(io::Error::other(e))))
            }
        }
    }

    /// Whether what is answered for is a container, in which nothing may be executed.
    fn in_container(&self) -> bool {
        matches!(self.door, Door::Broker(_))
    }

    fn names(&self) -> Names {
        if self.in_container() {
            Names::Servers
        } else {
            Names::Machine
        }
    }

    /// A new connection with its first line said.
    async fn open(&self, preamble: &Preamble) -> io::Result<Conn> {
        let mut conn = self.door.connect().await?;
        let line = line::encode(preamble).map_err(io::Error::other)?;
        conn.write_all(&line).await?;
        Ok(conn)
    }

    /// A connection for something that a listener accepted.
    async fn accepted(&self, stream: u64, peer: String) -> io::Result<Conn> {
        self.open(&Preamble::Accepted {
            session: self.session.to_string(),
            stream,
            peer,
        })
        .await
    }
}

/// Whether a request touches files and sockets only. What may run a program of the machine must not be answered by a process
/// that is in a container but not among its processes.
fn harmless(request: &LinkRequest) -> bool {
    matches!(
        request,
        LinkRequest::Stat { .. }
            | LinkRequest::List { .. }
            | LinkRequest::Read { .. }
            | LinkRequest::ReadFile { .. }
            | LinkRequest::SecretFile { .. }
            | LinkRequest::ExportTree { .. }
            | LinkRequest::ExportFile { .. }
            | LinkRequest::Dial { .. }
            | LinkRequest::Listen { .. }
    )
}

/// Credentials are read from files too, but for registries: they are not the session's to see.
fn touches_files(request: &LinkRequest) -> bool {
    matches!(request, LinkRequest::LoadImage { .. })
        || harmless(request)
            && !matches!(
                request,
                LinkRequest::Dial { .. } | LinkRequest::Listen { .. }
            )
}

fn status_line<T: Serialize>(status: &Status<T>) -> io::Result<Vec<u8>> {
    line::encode(status).map_err(io::Error::other)
}

/// Answers a request about files on its connection.
///
/// # Errors
/// A broken connection; a request that failed after its first line was said.
pub fn serve(mut conn: File, request: LinkRequest) -> Result<(), Broken> {
    match request {
        LinkRequest::Stat { path, follow } => whole(&mut conn, stat::stat(path.as_path(), follow)),
        LinkRequest::DockerAuth { host } => whole(
            &mut conn,
            docker::credentials(&docker::Place::of_process(), &host),
        ),
        LinkRequest::GitCredential {
            protocol,
            host,
            path,
        } => whole(&mut conn, git::credentials(&protocol, &host, &path)),
        LinkRequest::List {
            path,
            include,
            mut exclude,
            git_ignore,
            known,
        } => {
            if git_ignore {
                exclude.extend(ignored::patterns(path.as_path()));
            }
            let filter = match patterns(&include, &exclude) {
                Ok(f) => f,
                Err(e) => return whole::<()>(&mut conn, Err(e)),
            };
            let known = known.as_deref().and_then(walk::digest_from_hex);
            walk::list(&mut conn, path.as_path(), filter.as_ref(), known)
        }
        LinkRequest::Read { root, paths } => read::read(&mut conn, root.as_path(), &paths),
        LinkRequest::ReadFile { path, max } => read::read_file(&mut conn, path.as_path(), max),
        LinkRequest::SecretVariable { name } => read::answer(&mut conn, secret::variable(&name)),
        LinkRequest::SecretFile { path } => read::answer(&mut conn, secret::file(path.as_path())),
        LinkRequest::SecretCommand { command, workdir } => read::answer(
            &mut conn,
            secret::command(&command, workdir.as_path(), None),
        ),
        LinkRequest::ExportTree { dest, wipe, remove } => {
            export::tree(conn, dest.as_path(), wipe, &remove)
        }
        LinkRequest::ExportFile {
            dest,
            name,
            allow_parent_dir,
            mode,
            mtime_ns,
        } => {
            let plan = export::FilePlan {
                dest: dest.into_path_buf(),
                name,
                allow_parent_dir,
                mode,
                mtime_ns,
            };
            export::file(conn, plan)
        }
        LinkRequest::LoadImage { name } => load::load(conn, &load::Place::of_process(), &name),
        LinkRequest::Dial { .. }
        | LinkRequest::Listen { .. }
        | LinkRequest::Terminal {}
        | LinkRequest::Unknown => whole::<()>(
            &mut conn,
            Err(LinkError::new(
                LinkErrorKind::Invalid,
                "not a request about files",
            )),
        ),
    }
}

/// An answer that is all in its first line.
fn whole<T: Serialize>(conn: &mut impl Write, answer: Result<T, LinkError>) -> Result<(), Broken> {
    let status = match answer {
        Ok(v) => Status::Ok(v),
        Err(e) => Status::Error(e),
    };
    conn.write_all(&status_line(&status)?)?;
    Ok(())
}

/// The filter of a listing; none when everything is taken.
fn patterns(include: &[String], exclude: &[String]) -> Result<Option<patterns::Filter>, LinkError> {
    if include.is_empty() && exclude.is_empty() {
        return Ok(None);
    }
    patterns::Filter::new(include, exclude)
        .map(Some)
        .map_err(|e| LinkError::new(LinkErrorKind::Invalid, crate::error::chain(&e)))
}
