//! The server's two doors, UDP and TCP, and the decision what to answer.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

use super::{
    Client, Clients, Dns,
    message::{A, CLASSIC, Code, PTR, Query},
    upstream::{Way, framed},
    zone::Found,
};

/// Questions being worked on at once, all containers together.
const WORKING: usize = 1024;
/// Connections open at once.
const CONNECTIONS: usize = 256;
/// The longest question that is read.
const LONGEST_QUESTION: usize = 4096;
/// How long a client may keep a connection without asking.
const IDLE: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_millis(20);

/// Answers datagrams until dropped.
pub(crate) async fn serve_udp(socket: UdpSocket, dns: Arc<Dns>, clients: Arc<dyn Clients>) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; LONGEST_QUESTION];
    let mut working = JoinSet::new();
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, from)) if working.len() < WORKING => {
                    if let Some(client) = admitted(&*clients, from) {
                        let question = buffer.get(..length).unwrap_or_default().to_vec();
                        working.spawn(datagram(question, from, client, Arc::clone(&socket), Arc::clone(&dns)));
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a name query");
                    tokio::time::sleep(REST).await;
                }
            },
            Some(_) = working.join_next() => {}
        }
    }
}

async fn datagram(
    question: Vec<u8>,
    from: SocketAddr,
    client: Client,
    socket: Arc<UdpSocket>,
    dns: Arc<Dns>,
) {
    let Some(query) = Query::parse(&question) else {
        return;
    };
    let mut answer = dns.answer(&client, &query, Way::Datagram).await;
    if answer.len() > query.room.max(CLASSIC) {
        answer = query.truncated();
    }
    // The client has left, or its queue is full: it asks again if it still wants to know.
    drop(socket.send_to(&answer, from).await);
}

/// Answers connections until dropped.
pub(crate) async fn serve_tcp(listener: TcpListener, dns: Arc<Dns>, clients: Arc<dyn Clients>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < CONNECTIONS => match accepted {
                Ok((stream, from)) => {
                    // Counts as one question for as long as it is open.
                    if let Some(client) = admitted(&*clients, from) {
                        open.spawn(connection(stream, client, Arc::clone(&dns)));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a name query");
                    tokio::time::sleep(REST).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn connection(mut stream: TcpStream, client: Client, dns: Arc<Dns>) {
    while let Ok(Ok(question)) = timeout(IDLE, read(&mut stream)).await {
        let Some(query) = Query::parse(&question) else {
            return;
        };
        let answer = dns.answer(&client, &query, Way::Whole).await;
        match timeout(IDLE, stream.write_all(&framed(&answer))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > LONGEST_QUESTION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut question = vec![0; length];
    stream.read_exact(&mut question).await?;
    Ok(question)
}

fn admitted(clients: &dyn Clients, from: SocketAddr) -> Option<Client> {
    let SocketAddr::V4(from) = from else {
        return None;
    };
    let address: Ipv4Addr = *from.ip();
    clients.admit(address)
}

impl Dns {
    async fn answer(&self, client: &Client, query: &Query<'_>, way: Way) -> Vec<u8> {
        if query.operation() != 0 {
            return query.settled(Code::NotImplemented);
        }
        let found = query.name.as_ref().map_or(Found::Elsewhere, |name| {
            self.zone().find(client.session, name)
        });
        match found {
            Found::Addresses(addresses) if query.kind == A => query.addresses(&addresses),
            Found::Pointer(name) if query.kind == PTR => query.pointer(&name),
            // The name exists, but has nothing of the kind.
            Found::Addresses(_) | Found::Pointer(_) => query.settled(Code::NoError),
            Found::Nothing => query.settled(Code::NoSuchName),
            Found::Elsewhere => match self.upstream.ask(query, way).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(name = ?query.name, %error, "name not resolved");
                    query.settled(Code::ServerFailure)
                }
            },
        }
    }
}
