//! Asking the machine's own name servers, from the machine's own namespace.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    message::{self, LONGEST_UDP, Query},
    resolv::ResolvConf,
};

/// How long one server may take, once, over UDP. Clients usually ask again after five seconds.
const PATIENCE: Duration = Duration::from_millis(1800);
/// How long one server may take over TCP.
const TCP_PATIENCE: Duration = Duration::from_secs(4);
/// How often the list of servers is gone through.
const ROUNDS: usize = 2;
/// The longest `resolv.conf` that is read.
const LONGEST_FILE: u64 = 64 * 1024;

/// The machine's name servers.
#[derive(Debug)]
pub(super) struct Upstream {
    path: PathBuf,
    port: u16,
    read: Mutex<Option<(Stamp, Arc<ResolvConf>)>>,
}

/// By what a changed file is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// One datagram; the answer may be truncated.
    Datagram,
    /// As a datagram first, and over TCP when the answer does not fit one.
    Whole,
}

impl Upstream {
    pub(super) fn new(path: PathBuf) -> Upstream {
        Upstream {
            path,
            port: 53,
            read: Mutex::new(None),
        }
    }

    /// What the file says now; it is read only when it changed. Without a file there are no servers.
    pub(super) fn resolv_conf(&self) -> Arc<ResolvConf> {
        let stamp = fs::metadata(&self.path).ok().map(|meta| Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            changed: (meta.mtime(), meta.mtime_nsec()),
            size: meta.size(),
        });
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*read, stamp) {
            (Some((known, conf)), Some(stamp)) if *known == stamp => Arc::clone(conf),
            (_, Some(stamp)) if stamp.size <= LONGEST_FILE => {
                let text = fs::read(&self.path).unwrap_or_default();
                let conf = Arc::new(ResolvConf::parse(&String::from_utf8_lossy(&text)));
                *read = Some((stamp, Arc::clone(&conf)));
                conf
            }
            // It may be between two versions of itself: what was known is better than nothing.
            (Some((_, conf)), _) => Arc::clone(conf),
            (None, _) => Arc::default(),
        }
    }

    /// Asks one server after the other; the first useful answer counts, else the last one.
    ///
    /// # Errors
    /// When no server answers at all.
    pub(super) async fn ask(&self, query: &Query<'_>, way: Way) -> io::Result<Vec<u8>> {
        let conf = self.resolv_conf();
        let mut last = Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the machine has no name server",
        ));
        for _ in 0..ROUNDS {
            for server in &conf.servers {
                let server = SocketAddr::new(*server, self.port);
                match exchange(query, server, way).await {
                    Ok(answer) if !message::is_failure(&answer) => {
                        return Ok(message::numbered(&answer, query.id()));
                    }
                    Ok(answer) => last = Ok(message::numbered(&answer, query.id())),
                    Err(error) if last.is_err() => last = Err(error),
                    Err(_) => {}
                }
            }
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

async fn exchange(query: &Query<'_>, server: SocketAddr, way: Way) -> io::Result<Vec<u8>> {
    let answer = timeout(PATIENCE, by_datagram(query, server))
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
    if way == Way::Datagram || !message::is_truncated(&answer) {
        return Ok(answer);
    }
    timeout(TCP_PATIENCE, by_stream(query, server))
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// A fresh socket for each question: its port and the random number are what a forger would have to guess.
async fn by_datagram(query: &Query<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = random();
    socket.send(&query.numbered(id)).await?;
    let mut buffer = vec![0; LONGEST_UDP];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if query.answered_by(answer, id) {
            return Ok(answer.to_vec());
        }
    }
}

async fn by_stream(query: &Query<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random();
    stream.write_all(&framed(&query.numbered(id))).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if query.answered_by(&answer, id) {
        Ok(answer)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the name server answered another question",
        ))
    }
}

/// A message as it travels over TCP.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(message.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
        .to_vec();
    bytes.extend(
        message
            .get(..message.len().min(usize::from(u16::MAX)))
            .unwrap_or_default(),
    );
    bytes
}

fn random() -> u16 {
    let mut bytes = [0; 2];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(2) => u16::from_ne_bytes(bytes),
        // Seeded from the same source when the process started.
        _ => u16::try_from(RandomState::new().hash_one(0) & 0xffff).unwrap_or(0),
    }
}
