//! Who holds a port of this machine: for the error of somebody who wants it too.

use std::{fs, net::SocketAddr, os::unix::ffi::OsStrExt};

/// States of sockets in the kernel's tables: a listener, and an unconnected datagram socket.
const HOLDING: [&str; 2] = ["0A", "07"];

/// The process that has the port open, as far as it can be seen: `` `nginx` (process 123) ``.
pub(super) fn of(address: SocketAddr, udp: bool) -> Option<String> {
    let tables = if udp {
        ["udp", "udp6"]
    } else {
        ["tcp", "tcp6"]
    };
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|t| fs::read_to_string(format!("/proc/self/net/{t}")).ok())
        .flat_map(|table| sockets(&table, address.port()))
        .collect();
    let wanted: Vec<String> = inodes.iter().map(|i| format!("socket:[{i}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        let mut links = descriptors
            .flatten()
            .filter_map(|d| fs::read_link(d.path()).ok());
        links.any(|link| {
            wanted
                .iter()
                .any(|w| w.as_bytes() == link.as_os_str().as_bytes())
        })
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("`{}` (process {pid})", name.trim()))
}

/// The sockets that hold a port in a table of the kernel.
fn sockets(table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let holds = words.get(1)?.ends_with(&suffix) && HOLDING.contains(words.get(3)?);
        holds.then(|| words.get(9)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn holders_are_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let me = format!("(process {})", std::process::id());
        for (address, udp) in [
            (listener.local_addr().unwrap(), false),
            (socket.local_addr().unwrap(), true),
        ] {
            let holder = of(address, udp).unwrap();
            assert!(holder.ends_with(&me), "{holder}");
        }
        let free = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(of(free, false), None);
    }
}
