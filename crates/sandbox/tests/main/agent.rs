//! Agents of the engine in containers.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use sandbox::{
    Child, StartError,
    spec::{AgentSpec, UserSpec},
};

use crate::kit::{Image, able, native, start};

/// An agent, as the engine talks to it.
struct Line {
    channel: BufReader<UnixStream>,
    pid: u32,
}

impl Line {
    fn open(child: &Child, user: &str, privileged: bool) -> Result<Line, StartError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let user = UserSpec { name: user.into() };
        child.agency()?.start(AgentSpec {
            user,
            privileged,
            channel: theirs.into(),
        })?;
        let mut line = Line {
            channel: BufReader::new(ours),
            pid: 0,
        };
        assert_eq!(line.ask("/nothing"), "entity not found");
        line.pid = find(child.pid() as u32).expect("an agent");
        Ok(line)
    }

    fn ask(&mut self, question: &str) -> String {
        writeln!(self.channel.get_ref(), "{question}").unwrap();
        let mut answer = String::new();
        self.channel.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    fn is_there(&self) -> bool {
        Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

fn namespace(pid: u32, kind: &str) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// The agent of a container, by its first process.
fn find(first: u32) -> Option<u32> {
    let same = namespace(first, "mnt");
    let all = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    let is_agent =
        |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c == b"/.agent\0");
    all.filter(is_agent)
        .find(|pid| namespace(*pid, "mnt") == same)
}

/// What the kernel says a process may do.
fn rights(pid: u32) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let told = [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp:",
    ];
    let mut rights: Vec<String> = status
        .lines()
        .filter(|l| told.iter().any(|t| l.starts_with(t)))
        .map(str::to_owned)
        .collect();
    rights.push(fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap());
    rights
}

/// A container that says when it is there and ends when it is told to.
fn waiting(image: &Image, user: &str, privileged: bool) -> (Child, BufReader<fs::File>, fs::File) {
    let mut spec = image.script("echo secret > /tmp/f; echo there; read x; echo ended");
    spec.user = UserSpec { name: user.into() };
    spec.privileged = privileged;
    let (read, write) = std::io::pipe().unwrap();
    spec.stdio.stdin = Some(read.into());
    let (child, out) = start(native(), spec).unwrap();
    let mut out = BufReader::new(out);
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "there\n");
    (
        child,
        out,
        fs::File::from(std::os::fd::OwnedFd::from(write)),
    )
}

#[test]
fn root_an_agent_is_in_the_container_but_not_among_its_processes() {
    if !able() {
        return;
    }
    for (user, privileged) in [("", false), ("", true), ("build:wheel", false)] {
        let image = Image::new();
        fs::set_permissions(
            image.lower().join("tmp"),
            std::os::unix::fs::PermissionsExt::from_mode(0o1777),
        )
        .unwrap();
        let (mut child, _out, _stdin) = waiting(&image, user, privileged);
        let mut agent = Line::open(&child, user, privileged).unwrap();
        let first = child.pid() as u32;
        assert_eq!(agent.ask("/tmp/f"), "secret");
        assert_eq!(
            agent.ask("/proc/self/status"),
            "entity not found",
            "it has no number in there"
        );
        assert_eq!(rights(agent.pid), rights(first), "as `{user}`");
        for kind in ["mnt", "net", "ipc", "uts", "cgroup"] {
            assert_eq!(namespace(agent.pid, kind), namespace(first, kind));
        }
        assert_ne!(namespace(agent.pid, "pid"), namespace(first, "pid"));
        assert_ne!(
            namespace(agent.pid, "pid"),
            namespace(std::process::id(), "pid")
        );
        // Standard input is the channel, of which it has made a copy.
        assert_eq!(
            fs::read_dir(format!("/proc/{}/fd", agent.pid))
                .unwrap()
                .count(),
            4
        );
        let environment = fs::read_to_string(format!("/proc/{}/environ", agent.pid)).unwrap();
        assert_eq!(
            environment
                .split_terminator('\0')
                .filter(|e| !e.starts_with("HOME="))
                .count(),
            0,
            "{environment}"
        );
        child.kill().unwrap();
        child.wait_blocking().unwrap();
    }
}

#[test]
fn root_a_container_neither_sees_nor_kills_an_agent() {
    if !able() {
        return;
    }
    let image = Image::new();
    let mut spec = image
        .script("echo there; read x; set -- /proc/[0-9]*; echo $#; kill -9 -1; echo done; read y");
    let (read, stdin) = std::io::pipe().unwrap();
    spec.stdio.stdin = Some(read.into());
    let (mut child, out) = start(native(), spec).unwrap();
    let mut out = BufReader::new(out).lines();
    assert_eq!(out.next().unwrap().unwrap(), "there");
    let mut agent = Line::open(&child, "", false).unwrap();
    writeln!(&stdin, "go").unwrap();
    // The init and the shell.
    assert_eq!(out.next().unwrap().unwrap(), "2");
    assert_eq!(
        out.by_ref()
            .map_while(Result::ok)
            .find(|l| l == "done")
            .as_deref(),
        Some("done")
    );
    assert_eq!(agent.ask("/nothing"), "entity not found");
    assert!(agent.is_there());
    drop(stdin);
    child.wait_blocking().unwrap();
    assert!(!agent.is_there());
}

#[test]
fn root_an_agent_ends_with_its_container_before_anything_is_tidied() {
    if !able() {
        return;
    }
    let image = Image::new();
    let (mut child, mut out, stdin) = waiting(&image, "", false);
    let agent = Line::open(&child, "", false).unwrap();
    assert!(agent.is_there());
    drop(stdin);
    child.wait_blocking().unwrap();
    assert!(!agent.is_there());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "ended\n");
    assert_eq!(image.changes(), ["tmp/", "tmp/f"]);

    let (child, _out, _stdin) = waiting(&image, "", false);
    let mut agent = Line::open(&child, "", false).unwrap();
    drop(child);
    // Its end of the channel closes when it is gone.
    assert_eq!(agent.channel.read(&mut [0]).unwrap(), 0);
}

#[test]
fn root_there_is_no_agent_with_more_rights_than_the_container_or_after_its_end() {
    if !able() {
        return;
    }
    let image = Image::new();
    let (mut child, _out, _stdin) = waiting(&image, "", false);
    let agency = child.agency().unwrap();
    let start = |privileged| {
        let user = UserSpec::default();
        let channel = UnixStream::pair().unwrap().1.into();
        agency
            .start(AgentSpec {
                user,
                privileged,
                channel,
            })
            .map_err(|e| e.to_string())
    };
    start(false).unwrap();
    assert!(start(true).unwrap_err().contains("more privileges"));
    child.kill().unwrap();
    child.wait_blocking().unwrap();
    assert!(
        start(false)
            .unwrap_err()
            .contains("the container has ended")
    );
}
