//! Between this machine and containers.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use crate::kit::{Lab, PATIENCE, Session, args, quoted, until};

/// A tunnel to port 7000 of a service that is a Python program; its address.
fn tunnel(s: &Session, program: &str) -> String {
    let id = s.text(&format!(
        "{{container{{from(address:\"python:3.12-slim\"){{withExposedPort(port:7000){{withExec(args:{}){{asService{{id",
        args(&["python3", "-c", program])
    ));
    let tunnel = s.text(&format!("{{host{{tunnel(service:{}){{id", quoted(&id)));
    s.get(&format!(
        "{{loadServiceFromID(id:{}){{start}}}}",
        quoted(&tunnel)
    ));
    s.text(&format!(
        "{{loadServiceFromID(id:{}){{endpoint}}}}",
        quoted(&tunnel)
    ))
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the tunnel listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// A server that answers with the sum of all it got once the other side has finished, then goes on for a while.
fn a_half_close_arrives(s: &Session) {
    let address = tunnel(
        s,
        "import socket\nl=socket.create_server(('0.0.0.0',7000))\nwhile True:\n c,_=l.accept()\n n=0\n while (b:=c.recv(65536)): n+=len(b)\n if n: c.sendall(str(n).encode())\n c.close()",
    );
    let mut client = connect(&address);
    client.write_all(&vec![7; 300_000]).expect("it reads");
    client.shutdown(Shutdown::Write).expect("a half-close");
    let mut said = String::new();
    client
        .read_to_string(&mut said)
        .expect("the server's close arrives");
    assert_eq!(said, "300000");
}

#[test]
fn root_both_sides_hear_of_the_others_end() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    a_half_close_arrives(&s);

    // The server closes first.
    let address = tunnel(
        &s,
        "import socket\nl=socket.create_server(('0.0.0.0',7000))\nwhile True:\n c,_=l.accept()\n try: c.sendall(b'bye')\n except OSError: pass\n c.close()",
    );
    let mut said = String::new();
    connect(&address)
        .read_to_string(&mut said)
        .expect("the server's close arrives");
    assert_eq!(said, "bye");
    s.close();
}

#[test]
fn root_much_data_arrives_whole() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let address = tunnel(
        &s,
        "import socket,threading\nl=socket.create_server(('0.0.0.0',7000))\ndef serve(c):\n while (b:=c.recv(65536)): c.sendall(b)\n c.close()\nwhile True: threading.Thread(target=serve,args=(l.accept()[0],),daemon=True).start()",
    );
    let data: Vec<u8> = (0..8u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = connect(&address);
                let mut back = client.try_clone().expect("a handle");
                let sender = scope.spawn({
                    let data = &data;
                    move || {
                        client.write_all(data).expect("it reads");
                        client.shutdown(Shutdown::Write).expect("a half-close");
                    }
                });
                let mut got = Vec::new();
                back.read_to_end(&mut got).expect("an end");
                sender.join().expect("sent");
                assert!(
                    got == data,
                    "{} of {} bytes, or others",
                    got.len(),
                    data.len()
                );
            });
        }
    });
    s.close();
}

#[test]
fn root_a_port_in_use_is_an_error_that_says_so() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let id = s.text(&format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withExposedPort(port:80,experimentalSkipHealthcheck:true){{withExec(args:{}){{asService{{id",
        args(&["sleep", "100"])
    ));
    let tunnel = s.text(&format!(
        "{{host{{tunnel(service:{},ports:[{{backend:80,frontend:{port}}}]){{id",
        quoted(&id)
    ));
    let e = s.error(&format!(
        "{{loadServiceFromID(id:{}){{start}}}}",
        quoted(&tunnel)
    ));
    let holder = format!("(process {})", std::process::id());
    assert!(
        e.contains(&format!(
            "host to container: listen tcp 127.0.0.1:{port}: address already in use by `"
        )) && e.ends_with(&holder),
        "{e}"
    );

    // Another tunnel holds it: that is the engine, by its name.
    drop(taken);
    s.get(&format!(
        "{{loadServiceFromID(id:{}){{start}}}}",
        quoted(&tunnel)
    ));
    let again = s.text(&format!(
        "{{host{{tunnel(service:{},ports:[{{backend:80,frontend:{port}}},{{backend:81}}]){{id",
        quoted(&id)
    ));
    let e = s.error(&format!(
        "{{loadServiceFromID(id:{}){{start}}}}",
        quoted(&again)
    ));
    assert!(
        e.contains("address already in use by `bodkin` (process "),
        "{e}"
    );
    s.close();
}

#[test]
fn root_containers_reach_this_machine_through_a_host_service() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a connection");
        let mut got = String::new();
        peer.read_to_string(&mut got).expect("a half-close arrives");
        // In one piece: the other side reads once.
        peer.write_all(format!("got {got}").as_bytes())
            .expect("it reads");
    });
    let host = s.text(&format!(
        "{{host{{service(ports:[{{frontend:7001,backend:{port}}}]){{id"
    ));
    let program = "import socket; c=socket.create_connection(('host',7001)); c.sendall(b'hello'); c.shutdown(socket.SHUT_WR); print(c.recv(100).decode())";
    let said = s.text(&format!(
        "{{container{{from(address:\"python:3.12-slim\"){{withServiceBinding(alias:\"host\",service:{}){{withExec(args:{}){{stdout",
        quoted(&host),
        args(&["python3", "-c", program])
    ));
    assert_eq!(said.trim(), "got hello");
    server.join().expect("served");
    s.close();
}

#[test]
fn root_datagrams_pass_in_both_directions() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    both_directions(&s);
    s.close();
}

#[test]
fn root_an_engine_elsewhere_has_tunnels_too() {
    let Some(lab) = Lab::new() else { return };
    let elsewhere = lab.elsewhere();
    let s = elsewhere.session(&lab);
    both_directions(&s);
    a_half_close_arrives(&s);
    s.close();
}

/// Datagrams to a container and back, of two peers at once, and from a container to this machine.
fn both_directions(s: &Session) {
    let echo = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('0.0.0.0',7002))\nwhile True:\n b,a=s.recvfrom(9000)\n s.sendto(b.upper(),a)";
    let id = s.text(&format!(
        "{{container{{from(address:\"python:3.12-slim\"){{withExposedPort(port:7002,protocol:UDP){{withExec(args:{}){{asService{{id",
        args(&["python3", "-c", echo])
    ));
    let tunnel = s.text(&format!(
        "{{host{{tunnel(service:{},ports:[{{backend:7002,protocol:UDP}}]){{id",
        quoted(&id)
    ));
    s.get(&format!(
        "{{loadServiceFromID(id:{}){{start",
        quoted(&tunnel)
    ));
    let endpoint = s.text(&format!(
        "{{loadServiceFromID(id:{}){{endpoint",
        quoted(&tunnel)
    ));
    // Whether the server is there cannot be known but by its answer, which may be to any of the questions.
    let here = UdpSocket::bind("127.0.0.1:0").expect("a port");
    here.set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a time-out");
    let mut buffer = [0; 100];
    let heard = |buffer: &[u8], n: usize| assert_eq!(&buffer[..n], b"HELLO");
    let mut unanswered = 0;
    until("the server answers", PATIENCE, || {
        here.send_to(b"hello", &endpoint).expect("sent");
        let answer = here.recv(&mut buffer);
        if let Ok(n) = answer {
            heard(&buffer, n);
        } else {
            unanswered += 1;
        }
        answer.is_ok()
    });
    for _ in 0..unanswered {
        let Ok(n) = here.recv(&mut buffer) else { break };
        heard(&buffer, n);
    }
    here.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let other = UdpSocket::bind("127.0.0.1:0").expect("a port");
    other.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    other.send_to(b"other", &endpoint).expect("sent");
    here.send_to(b"again", &endpoint).expect("sent");
    for (peer, wanted) in [(&other, b"OTHER"), (&here, b"AGAIN")] {
        let (n, _) = peer.recv_from(&mut buffer).expect("an answer");
        assert_eq!(&buffer[..n], wanted);
    }
    s.get(&format!(
        "{{loadServiceFromID(id:{}){{stop}}}}",
        quoted(&tunnel)
    ));
    UdpSocket::bind(&endpoint).expect("the port is free when the tunnel has stopped");

    // And to this machine.
    let port = here.local_addr().expect("an address").port();
    let server = thread::spawn(move || {
        let mut buffer = [0; 100];
        let (n, from) = here.recv_from(&mut buffer).expect("a question");
        here.send_to(&buffer[..n].repeat(2), from).expect("sent");
    });
    let host = s.text(&format!(
        "{{host{{service(ports:[{{frontend:7003,backend:{port},protocol:UDP}}]){{id"
    ));
    let ask = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.settimeout(20)\ns.sendto(b'ab',('host',7003))\nprint(s.recv(100).decode())";
    let said = s.text(&format!(
        "{{container{{from(address:\"python:3.12-slim\"){{withServiceBinding(alias:\"host\",service:{}){{withExec(args:{}){{stdout",
        quoted(&host),
        args(&["python3", "-c", ask])
    ));
    assert_eq!(said.trim(), "abab");
    server.join().expect("served");
}
