//! A container that means harm: what it reaches, and what others notice.

use std::{
    io::ErrorKind,
    net::{IpAddr, TcpListener, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use crate::kit::{Lab, args, quoted};

/// Listens by TCP on 80 and by UDP on 81, in both families, and says what comes.
const VICTIM: &str = "
import socket, threading
def serve(t, family, kind, port):
    s = socket.socket(family, kind)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('', port))
    if kind == socket.SOCK_DGRAM:
        while True: print('datagram', s.recvfrom(9000), flush=True)
    s.listen(50)
    while True:
        c, a = s.accept()
        print('connection', a, flush=True)
        c.recv(9000)
        c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nsafe')
        c.close()
for n, (f, k, p) in enumerate([(f, k, p) for f in (socket.AF_INET6, socket.AF_INET) for k, p in ((socket.SOCK_DGRAM, 81), (socket.SOCK_STREAM, 80))]):
    threading.Thread(target=serve, args=(n, f, k, p)).start()
";

/// The machine's own addresses of version 4.
fn machine() -> Vec<String> {
    let out = Command::new("hostname").arg("-I").output();
    let out = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let words = out.unwrap_or_default();
    words
        .split_whitespace()
        .filter(|w| matches!(w.parse(), Ok(IpAddr::V4(_))))
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn root_a_hostile_container_reaches_nobody_and_hurts_nobody() {
    let Some(lab) = Lab::new() else { return };
    let (ours, theirs) = (lab.session(), lab.session());
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = tcp.local_addr().expect("an address").port();
        if let Ok(udp) = UdpSocket::bind(("0.0.0.0", port)) {
            break (tcp, udp);
        }
    };
    let port = tcp.local_addr().expect("an address").port();

    let id = ours.text(&format!(
        "{{container{{from(address:\"python:3.12-slim\"){{withExposedPort(port:80){{withExec(args:{}){{asService{{withHostname(hostname:\"victim\"){{id",
        args(&["python3", "-c", VICTIM])
    ));
    let service = |what: &str| format!("{{loadServiceFromID(id:{}){{{what}", quoted(&id));
    ours.get(&service("start"));
    let beside = |command: &str| {
        ours.text(&format!(
            "{{container{{from(address:\"python:3.12-slim\"){{withServiceBinding(alias:\"it\",service:{}){{withExec(args:{}){{stdout",
            quoted(&id),
            args(&["sh", "-c", command])
        ))
    };
    let fetch = "python3 -c \"import urllib.request as r; print(r.urlopen('http://victim/').read().decode())\"; : ";
    assert_eq!(beside(&format!("{fetch} before")).trim(), "safe");
    let address = beside("sed -n 's/\\tit$//p' /etc/hosts");
    // Its link-local address follows from its hardware address, or is made up; either way it is not on the attacker's link.
    let told = serde_json::json!([address.trim(), "fe80::1", machine(), port]).to_string();
    let calm = ours.text(&service("logs"));

    let attack = format!(
        "{{container{{from(address:\"python:3.12-slim\"){{withNewFile(path:\"/attack.py\",contents:{}){{withExec(args:{}){{stdout",
        quoted(include_str!("hostile.py")),
        args(&["python3", "/attack.py", &told])
    );
    let said = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| theirs.text(&attack));
        // Meanwhile the others are served as ever.
        let mut n = 0;
        while !attacker.is_finished() || n == 0 {
            let began = Instant::now();
            assert_eq!(beside(&format!("{fetch} {n}")).trim(), "safe");
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "{:?}",
                began.elapsed()
            );
            n += 1;
        }
        attacker.join().expect("it ends")
    });
    assert_eq!(said.trim(), "tried all");
    let logs = ours.text(&service("logs"));
    let new = logs.strip_prefix(calm.as_str()).unwrap_or(&logs);
    assert!(!new.contains("datagram"), "{new}");

    tcp.set_nonblocking(true).expect("set");
    assert_eq!(
        tcp.accept().expect_err("nobody").kind(),
        ErrorKind::WouldBlock
    );
    udp.set_nonblocking(true).expect("set");
    assert_eq!(
        udp.recv(&mut [0; 9]).expect_err("nothing").kind(),
        ErrorKind::WouldBlock
    );
    theirs.close();
    ours.close();
}
