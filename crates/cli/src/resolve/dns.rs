//! Just enough of a DNS client (RFC 1035) to ask the name servers of a container for addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

/// Between two attempts with one server.
const PATIENCE: Duration = Duration::from_secs(2);
/// Attempts per server.
const ATTEMPTS: usize = 2;
/// Most servers and search domains that count, as in the C library.
const SERVERS: usize = 3;
const DOMAINS: usize = 6;
/// Largest answer over UDP without extensions is 512 bytes; servers may send more.
const ANSWER: usize = 4096;
const HEADER: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;

/// What `/etc/resolv.conf` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conf {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    dots: usize,
}

impl Conf {
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
        };
        for line in text.lines() {
            let mut words = line
                .split(['#', ';'])
                .next()
                .unwrap_or_default()
                .split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(
                    words
                        .next()
                        .and_then(|w| w.parse().ok())
                        .map(|ip: IpAddr| SocketAddr::new(ip, 53)),
                ),
                // The last line counts.
                Some("search" | "domain") => {
                    conf.search = words
                        .take(DOMAINS)
                        .map(|d| d.trim_end_matches('.').to_owned())
                        .collect()
                }
                Some("options") => {
                    conf.dots = words
                        .find_map(|w| w.strip_prefix("ndots:")?.parse().ok())
                        .unwrap_or(conf.dots)
                }
                _ => {}
            }
        }
        conf.servers.truncate(SERVERS);
        conf
    }

    /// The full names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let searched = self.search.iter().map(|d| format!("{name}.{d}"));
        if name.matches('.').count() >= self.dots {
            std::iter::once(name.to_owned()).chain(searched).collect()
        } else {
            searched.chain([name.to_owned()]).collect()
        }
    }
}

/// The addresses of a name, IPv4 first; `None` when nobody knows it.
pub(super) async fn lookup(name: &str, conf: &Conf) -> Option<Vec<IpAddr>> {
    for full in conf.candidates(name) {
        let (four, six) = tokio::join!(ask(&full, A, conf), ask(&full, AAAA, conf));
        let found: Vec<IpAddr> = four.into_iter().chain(six).flatten().collect();
        if !found.is_empty() {
            return Some(found);
        }
    }
    None
}

/// What the first server that answers says.
async fn ask(name: &str, kind: u16, conf: &Conf) -> Option<Vec<IpAddr>> {
    for server in &conf.servers {
        for _ in 0..ATTEMPTS {
            // Random: whoever does not see the question cannot answer it.
            let id = u16::from_ne_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk()?);
            let question = question(id, name, kind)?;
            match timeout(PATIENCE, exchange(*server, &question)).await {
                Ok(Ok(Some(answer))) => return Some(answer),
                // A server that fails is not asked again.
                Ok(_) => break,
                Err(_) => {}
            }
        }
    }
    None
}

/// One question and its answer; `None` when the server cannot tell.
async fn exchange(server: SocketAddr, question: &[u8]) -> io::Result<Option<Vec<IpAddr>>> {
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; ANSWER];
    loop {
        let n = socket.recv(&mut answer).await?;
        match read(question, answer.get(..n).unwrap_or_default()) {
            Read::Stray => {}
            Read::Failed => return Ok(None),
            Read::Addresses(found) => return Ok(Some(found)),
        }
    }
}

/// A question as it is sent; `None` when it is no name.
fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(HEADER + name.len() + 6);
    out.extend(id.to_be_bytes());
    // Recursion desired; one question.
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let len = u8::try_from(label.len())
            .ok()
            .filter(|n| (1..=63).contains(n))?;
        out.push(len);
        out.extend(label.as_bytes());
    }
    out.push(0);
    if out.len() > HEADER + 255 {
        return None;
    }
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    Some(out)
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// Not the answer to this question.
    Stray,
    /// The server cannot tell.
    Failed,
    /// There are these; none when the name does not exist.
    Addresses(Vec<IpAddr>),
}

fn read(question: &[u8], answer: &[u8]) -> Read {
    let asked = question.get(HEADER..).unwrap_or_default();
    let rest = answer
        .get(HEADER..)
        .and_then(|r| r.split_at_checked(asked.len()));
    let (Some((echo, mut rest)), Some(&[i0, i1, flags, code, _, _, n0, n1])) =
        (rest, answer.first_chunk::<8>())
    else {
        return Read::Stray;
    };
    if question.first_chunk() != Some(&[i0, i1])
        || flags & 0x80 == 0
        || !echo.eq_ignore_ascii_case(asked)
    {
        return Read::Stray;
    }
    if !matches!(code & 0x0f, 0 | 3) {
        return Read::Failed;
    }
    let mut found = Vec::new();
    for _ in 0..u16::from_be_bytes([n0, n1]) {
        // What is cut off is as good as not there.
        let Some((kind, data, after)) = record(rest) else {
            break;
        };
        rest = after;
        match kind {
            A => found.extend(<[u8; 4]>::try_from(data).map(|a| IpAddr::from(Ipv4Addr::from(a)))),
            AAAA => {
                found.extend(<[u8; 16]>::try_from(data).map(|a| IpAddr::from(Ipv6Addr::from(a))))
            }
            _ => {}
        }
    }
    Read::Addresses(found)
}

/// The type and data of the first record, and what follows it.
fn record(mut from: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    loop {
        let (len, rest) = from.split_first()?;
        from = match len {
            0 => {
                from = rest;
                break;
            }
            // A pointer ends a name.
            0xc0.. => {
                from = rest.get(1..)?;
                break;
            }
            1..=63 => rest.get(usize::from(*len)..)?,
            _ => return None,
        };
    }
    let (&[k0, k1, _, _, _, _, _, _, l0, l1], rest) = from.split_first_chunk::<10>()?;
    let (data, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
    Some((u16::from_be_bytes([k0, k1]), data, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(question: &[u8], code: u8, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut out = question.to_vec();
        out[2] = 0x81;
        out[3] = 0x80 | code;
        out[7] = records.len() as u8;
        for (kind, data) in records {
            out.extend([0xc0, 12]);
            out.extend(kind.to_be_bytes());
            out.extend([0, 1, 0, 0, 0, 9]);
            out.extend((data.len() as u16).to_be_bytes());
            out.extend(*data);
        }
        out
    }

    #[test]
    fn the_configuration_is_read_as_the_c_library_does() {
        let conf = Conf::parse(
            "# x\nnameserver 10.0.0.1\nnameserver nonsense\nsearch a.local. b\noptions edns0 ndots:2\nnameserver ::1 ; y\n",
        );
        let servers = vec!["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(
            conf,
            Conf {
                servers,
                search: vec!["a.local".into(), "b".into()],
                dots: 2
            }
        );
        assert_eq!(conf.candidates("db"), ["db.a.local", "db.b", "db"]);
        assert_eq!(
            conf.candidates("db.x.y"),
            ["db.x.y", "db.x.y.a.local", "db.x.y.b"]
        );
        assert_eq!(conf.candidates("db."), ["db"]);
    }

    #[test]
    fn addresses_are_found_behind_aliases() {
        let q = question(0x1234, "db.local", A).unwrap();
        let a = answer(&q, 0, &[(5, b"\x01x\x00"), (A, &[10, 0, 0, 2])]);
        assert_eq!(
            read(&q, &a),
            Read::Addresses(vec!["10.0.0.2".parse().unwrap()])
        );
        assert_eq!(read(&q, &a[..a.len() - 1]), Read::Addresses(vec![]));
    }

    #[test]
    fn answers_to_other_questions_do_not_count() {
        let q = question(0x1234, "db", A).unwrap();
        let other = question(0x1234, "dc", A).unwrap();
        let late = question(0x1235, "db", A).unwrap();
        assert_eq!(
            read(&q, &answer(&other, 0, &[(A, &[1, 1, 1, 1])])),
            Read::Stray
        );
        assert_eq!(
            read(&q, &answer(&late, 0, &[(A, &[1, 1, 1, 1])])),
            Read::Stray
        );
        assert_eq!(read(&q, &q), Read::Stray);
        assert_eq!(read(&q, b""), Read::Stray);
        assert_eq!(read(&q, &answer(&q, 3, &[])), Read::Addresses(vec![]));
        assert_eq!(read(&q, &answer(&q, 2, &[])), Read::Failed);
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        assert_eq!(question(1, "a..b", A), None);
        assert_eq!(question(1, &"x".repeat(64), A), None);
        assert_eq!(question(1, &["x"; 200].join("."), A), None);
    }

    #[tokio::test]
    async fn a_server_is_asked_for_both_kinds_of_addresses() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let conf = Conf {
            servers: vec![server.local_addr().unwrap()],
            search: vec!["in.test".into()],
            dots: 1,
        };
        let serve = async {
            let mut buffer = [0; 512];
            loop {
                let (n, from) = server.recv_from(&mut buffer).await.unwrap();
                let q = &buffer[..n];
                let known = q[HEADER..].starts_with(b"\x02db\x02in\x04test\x00");
                let six = q[n - 3] == AAAA as u8;
                let reply = match (known, six) {
                    (false, _) => answer(q, 3, &[]),
                    (true, false) => answer(q, 0, &[(A, &[10, 1, 2, 3])]),
                    (true, true) => answer(q, 0, &[(AAAA, &[0; 16])]),
                };
                server.send_to(&reply, from).await.unwrap();
            }
        };
        let ask = async {
            let found = lookup("db", &conf).await.unwrap();
            assert_eq!(
                found,
                ["10.1.2.3".parse::<IpAddr>().unwrap(), "::".parse().unwrap()]
            );
            assert_eq!(lookup("nobody", &conf).await, None);
        };
        tokio::select! { () = serve => {}, () = ask => {} }
    }
}
