//! Names of machines to addresses, as the client's machine sees them.
//!
//! The executable is static, and a static C library cannot load the machine's name services. Literal addresses, `localhost`
//! and `/etc/hosts` are read here; everything else is asked of `getent`, which goes the machine's own way, or in a container
//! of its name servers, because no program of a container may be run.

mod dns;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use tokio::{net::TcpStream, process::Command, time::timeout};

/// How long the machine's name services may take.
const LOOKUP: Duration = Duration::from_secs(10);

/// Who knows the names that `/etc/hosts` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// The machine's name services.
    Machine,
    /// The name servers of `/etc/resolv.conf`. Nothing is executed.
    Servers,
}

/// The addresses of `host:port`, best first.
///
/// # Errors
/// Not `host:port`, or a name nobody knows.
pub async fn lookup(addr: &str, names: Names) -> io::Result<Vec<SocketAddr>> {
    let invalid = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{addr}` is not host:port"),
        )
    };
    if let Ok(literal) = addr.parse::<SocketAddr>() {
        return Ok(vec![literal]);
    }
    let (host, port) = addr.rsplit_once(':').ok_or_else(invalid)?;
    let port: u16 = port.parse().map_err(|_| invalid())?;
    let host = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    let ips = match host.to_ascii_lowercase().as_str() {
        "" | "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        name => match name.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => ask(name, names).await?,
        },
    };
    Ok(ips
        .into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect())
}

async fn ask(name: &str, names: Names) -> io::Result<Vec<IpAddr>> {
    let unknown = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("lookup {name}: no such host"),
        )
    };
    if name.starts_with('-') || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(unknown());
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let found = in_hosts(&hosts, name);
    if !found.is_empty() {
        return Ok(found);
    }
    if names == Names::Servers {
        let conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let found = timeout(LOOKUP, dns::lookup(name, &dns::Conf::parse(&conf))).await;
        return found
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            .ok_or_else(unknown);
    }
    let asked = Command::new("getent")
        .args(["ahosts", name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let answer = timeout(LOOKUP, asked)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&answer.stdout).lines() {
        if let Some(ip) = line
            .split_whitespace()
            .next()
            .and_then(|w| w.parse::<IpAddr>().ok())
            && !found.contains(&ip)
        {
            found.push(ip);
        }
    }
    if found.is_empty() {
        Err(unknown())
    } else {
        Ok(found)
    }
}

/// What a hosts file says of a name.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let ip = words.next().and_then(|w| w.parse::<IpAddr>().ok());
        if let Some(ip) = ip
            && words.any(|w| w.eq_ignore_ascii_case(name))
        {
            found.push(ip);
        }
    }
    found
}

/// Connects to the first address that accepts.
///
/// # Errors
/// What the last address said.
pub async fn connect_tcp(addr: &str, names: Names) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for candidate in lookup(addr, names).await? {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_files_are_read_with_comments_and_aliases() {
        let text = "127.0.0.1 localhost\n# 1.1.1.1 db\n10.0.0.1\tDB db.local # here\nnonsense db\n::2 db\n";
        let ips: Vec<String> = in_hosts(text, "db")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(ips, ["10.0.0.1", "::2"]);
    }

    #[tokio::test]
    async fn literals_and_localhost_need_nobody() {
        assert_eq!(
            lookup("127.0.0.1:80", Names::Machine).await.unwrap(),
            ["127.0.0.1:80".parse().unwrap()]
        );
        assert_eq!(
            lookup("localhost:80", Names::Machine).await.unwrap().len(),
            2
        );
        assert_eq!(
            lookup("[::1]:80", Names::Machine).await.unwrap(),
            ["[::1]:80".parse().unwrap()]
        );
        assert!(lookup("nothing", Names::Machine).await.is_err());
        assert!(lookup("-x:1", Names::Machine).await.is_err());
    }
}
