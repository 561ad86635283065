//! The same specification through `runc`: what the program finds must be the same.

use std::{fs, io::Read, path::Path};

use sandbox::{
    Runc, Runtime,
    spec::{Mount, Rlimit, Source, Spec, UserSpec},
};

use crate::{
    kit::{Image, able, native, run_on},
    probe,
};

fn runc(image: &Image) -> Option<Runc> {
    let path = ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/bin/runc"]
        .into_iter()
        .find(|p| Path::new(p).exists());
    if path.is_none() {
        eprintln!("skipped: runc is not installed");
    }
    Some(Runc::new(path?, image.scratch("state")))
}

/// Runs what `spec` makes on both runtimes and compares output and exit.
fn same(what: &str, spec: impl Fn(&Image) -> Spec) {
    if !able() {
        return;
    }
    let run = |runtime: &dyn Runtime, image: &Image| {
        let mut spec = spec(image);
        spec.init = false;
        match run_on(runtime, spec) {
            Ok(ran) => format!("{}\n{}", ran.out, ran.exit.code()),
            Err(e) => format!("refused: {e}"),
        }
    };
    let image = Image::new();
    let Some(runc) = runc(&image) else { return };
    let theirs = run(&runc, &image);
    let image = Image::new();
    let ours = run(native(), &image);
    assert_eq!(ours, theirs, "{what} (left: ours, right: runc)");
}

#[test]
fn root_streams_environment_and_exit() {
    same("exit", |i| i.script("echo out; exit 9"));
    same("killed", |i| {
        i.script("sh -c 'kill -9 $$' 2> /dev/null; echo $?")
    });
    same("environment", |i| {
        let mut spec = i.spec(&["env"]);
        spec.env = [&b"PATH=/bin"[..], b"A=b"].map(<[u8]>::to_vec).to_vec();
        spec
    });
    same("home of another", |i| {
        let mut spec = i.script("echo $HOME");
        spec.user.name = "build".into();
        spec
    });
    same("unknown program", |i| i.spec(&["nope"]));
    same("hostname, mask, directory", |i| {
        let mut spec = i.script("hostname; umask; pwd; cat /proc/sys/kernel/domainname");
        spec.cwd = b"/made/here".to_vec();
        spec
    });
}

#[test]
fn root_identity_and_rights() {
    let status = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|SigBlk)' /proc/self/status";
    for user in ["", "build", "1000:10", "77"] {
        same(&format!("user `{user}`"), |i| {
            let mut spec = i.script(status);
            spec.user = UserSpec { name: user.into() };
            spec
        });
    }
    same("privileged", |i| {
        let mut spec = i.script(status);
        spec.privileged = true;
        spec
    });
}

#[test]
fn root_limits() {
    same("limits", |i| {
        let mut spec = i.script("ulimit -n; ulimit -Hn; ulimit -c; ulimit -s; ulimit -v");
        spec.rlimits = vec![
            Rlimit {
                resource: libc::RLIMIT_NOFILE,
                soft: 100,
                hard: u64::MAX,
            },
            Rlimit {
                resource: libc::RLIMIT_CORE,
                soft: 0,
                hard: 0,
            },
        ];
        spec
    });
}

#[test]
fn root_calls() {
    let mut questions = vec![
        "/probe",
        "unshare=268435456",
        "unshare=131072",
        "clone=268435473",
        "clone3",
        "personality=0",
        "personality=1",
        "personality=131072",
    ];
    let sockets: Vec<String> = (0..46).map(|n| format!("socket={n}")).collect();
    questions.extend(sockets.iter().map(String::as_str));
    // Calls that are harmless with null arguments, among them all that the filter should refuse.
    let calls: Vec<String> = [
        103, 134, 155, 156, 161, 163, 165, 166, 167, 168, 169, 170, 171, 172, 173, 174, 175, 176,
        177, 178, 179, 180, 212, 237, 238, 239, 246, 248, 249, 250, 253, 256, 279, 298, 300, 301,
        303, 304, 308, 310, 311, 312, 313, 320, 321, 323,
    ]
    .iter()
    .map(|n| format!("call={n}"))
    .collect();
    questions.extend(calls.iter().map(String::as_str));
    let old: Vec<String> = [20, 21, 52, 88, 103, 129, 286, 310, 346, 357]
        .iter()
        .map(|n| format!("i386={n}"))
        .collect();
    if cfg!(target_arch = "x86_64") {
        questions.extend(old.iter().map(String::as_str));
        questions.extend(["i386-socket=1", "i386-socket=40", "i386-socket=38"]);
    }
    same("calls", |i| {
        let mut spec = i.spec(&questions);
        probe::install(&mut spec);
        spec
    });
}

#[test]
fn root_mounts_and_devices() {
    let mounts = |i: &Image| {
        // Target, options and type; the order is the runtime's business, and so is what files are masked with.
        let mut spec = i.script(
            "awk '{ for (n = 7; $n != \"-\"; n++); o = $6; if ($(n+1) == \"overlay\") next; \
             if ($5 ~ \"^/proc/|^/sys/\" && $(n+1) == \"tmpfs\") { o = \"masked\" }; print $5, o, $(n+1) }' /proc/self/mountinfo | sort",
        );
        spec.mounts = vec![
            Mount {
                target: b"/tmp/t".to_vec(),
                source: Source::Tmpfs {
                    size: Some(1 << 20),
                },
                readonly: false,
            },
            Mount {
                target: b"/secret".to_vec(),
                source: Source::File {
                    contents: b"x".to_vec(),
                    mode: 0o400,
                    uid: 0,
                    gid: 0,
                },
                readonly: true,
            },
            Mount {
                target: b"/bound".to_vec(),
                source: Source::Bind("/etc".into()),
                readonly: true,
            },
        ];
        spec.hosts = Some(b"127.0.0.1 localhost\n".to_vec());
        spec
    };
    same("mounts", mounts);
    same("devices", |i| {
        i.script("cd /dev; for d in null zero full random urandom tty; do stat -c '%n %a %u %t:%T %F' $d; done; for l in fd stdin stdout stderr ptmx; do readlink $l; done; mknod /tmp/n c 1 3; echo > /tmp/n; echo $?")
    });
    same("descriptors", |i| {
        i.script("ls /proc/self/fd; ls /proc/1/fd; true")
    });
    same("network", |i| {
        i.script("ls /sys/class/net; cat /sys/class/net/lo/operstate; head -3 /proc/net/dev | tail -1 | cut -c1-6")
    });
}

#[test]
fn root_privileged_containers_have_the_hosts_devices_and_control_groups() {
    let of = |script: &str| {
        let script = script.to_owned();
        move |i: &Image| {
            let mut spec = i.script(&script);
            spec.privileged = true;
            spec
        }
    };
    same(
        "devices of the host",
        of(
            "cd /dev; find . -xdev \\( -type b -o -type c \\) | sort | while read d; do stat -c '%n %a %u %g %t:%T %F' $d; done",
        ),
    );
    // `runc` mounts those of the old hierarchies that the host has mounted, and never the new one beside them.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted: Vec<&str> = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(4)?.strip_prefix("/sys/fs/cgroup/"))
        .filter(|name| *name != "unified")
        .collect();
    same(
        "control groups",
        of(&format!(
            "awk '{{ for (n = 7; $n != \"-\"; n++); if ($5 ~ \"^/sys/fs/cgroup(/({}))?$\" && $(n+1) != \"tmpfs\") print $4, $5, $6, $(n+1) }}' /proc/self/mountinfo | sort",
            mounted.join("|")
        )),
    );
}

#[test]
fn root_a_mount_over_etc_hides_the_files_there() {
    same("a mount over /etc", |i| {
        let other = i.scratch("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        let mut spec = i.script("ls /etc; cat /etc/hosts 2> /dev/null; echo $?");
        spec.hosts = Some(b"127.0.0.1 localhost\n".to_vec());
        spec.resolv_conf = Some(b"nameserver 127.0.0.1\n".to_vec());
        spec.mounts = vec![Mount {
            target: b"/etc".to_vec(),
            source: Source::Bind(other),
            readonly: true,
        }];
        spec
    });
}

#[test]
fn root_certificate_authorities_of_the_host_are_added() {
    let certificate =
        |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    same("authorities", |i| {
        let host = i.scratch("host.pem");
        fs::write(&host, certificate("SE9TVA==")).unwrap();
        let mut spec = i.script(
            "mkdir -p /etc/ssl/certs; cat /etc/ssl/certs/ca-certificates.crt; \
             grep ' /etc/ssl' /proc/self/mountinfo | cut -d ' ' -f 5,6; touch /etc/ssl/certs/ca-certificates.crt 2> /dev/null; echo $?",
        );
        let certs = i.lower().join("etc/ssl/certs");
        fs::create_dir_all(&certs).unwrap();
        fs::write(certs.join("ca-certificates.crt"), certificate("SU1BR0U=")).unwrap();
        spec.ca_bundle = Some(host);
        spec
    });
}

#[test]
fn root_a_container_of_runc_is_killed_and_leaves_nothing() {
    if !able() {
        return;
    }
    let image = Image::new();
    let Some(runc) = runc(&image) else { return };
    let mut spec = image.script("tty; sleep 1000");
    spec.stdio.terminal = true;
    spec.hosts = Some(b"127.0.0.1 localhost\n".to_vec());
    let mut child = runc.start(spec).unwrap();
    let mut line = [0; 10];
    fs::File::from(child.terminal.take().unwrap())
        .read_exact(&mut line)
        .unwrap();
    assert_eq!(&line, b"/dev/pts/0");
    child.kill().unwrap();
    assert_eq!(child.wait_blocking().unwrap().code(), 137);
    assert!(image.changes().is_empty(), "{:?}", image.changes());
    let left: Vec<_> = fs::read_dir(image.scratch("state"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["runc"], "only runc's own directory");
    assert_eq!(
        fs::read_dir(image.scratch("state/runc")).unwrap().count(),
        0
    );
}
