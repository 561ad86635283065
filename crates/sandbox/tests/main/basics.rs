//! Exit codes, streams, environment, working directory, users, programs, limits, terminal.

use std::{
    fs,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use sandbox::{
    Exit, Runtime,
    spec::{Mount, Rlimit, Source, UserSpec},
};

use crate::{
    kit::{Image, able, native, refused, run, start},
    probe,
};

#[test]
fn root_exit_codes_and_output_come_back() {
    if !able() {
        return;
    }
    let image = Image::new();
    for init in [true, false] {
        let mut spec = image.script("echo out; echo err >&2; exit 7");
        spec.init = init;
        let ran = run(spec);
        assert_eq!(
            (ran.out.as_str(), ran.exit),
            ("out\nerr\n", Exit::Code(7)),
            "init: {init}"
        );
    }
    assert_eq!(run(image.script("kill -KILL $$")).exit, Exit::Code(137));
    let mut spec = image.script("kill -KILL $$; echo pid 1 cannot kill itself");
    spec.init = false;
    assert_eq!(run(spec).out, "pid 1 cannot kill itself\n");
}

#[test]
fn root_unknown_programs_are_named() {
    if !able() {
        return;
    }
    let image = Image::new();
    fs::write(image.lower().join("bin/script"), "#!/bin/none\n").unwrap();
    fs::write(image.lower().join("bin/text"), "x").unwrap();
    for name in ["bin/script", "bin/text"] {
        fs::set_permissions(
            image.lower().join(name),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
    }
    for init in [true, false] {
        let check = |argv: &[&str], expected: &str| {
            let mut spec = image.spec(argv);
            spec.init = init;
            assert_eq!(refused(spec), expected, "init: {init}");
        };
        check(
            &["nope"],
            "unknown program `nope`: not found in `/usr/bin:/bin`",
        );
        check(&["/bin/nope"], "unknown program `/bin/nope`: no such file");
        check(
            &["/bin"],
            "cannot execute `/bin`: Is a directory (os error 21)",
        );
        check(
            &["/etc/passwd/x"],
            "cannot execute `/etc/passwd/x`: Not a directory (os error 20)",
        );
        check(
            &["script"],
            "unknown program `script`: no such file, or its interpreter is missing",
        );
        check(
            &["text"],
            "cannot execute `text`: Exec format error (os error 8)",
        );
        check(
            &["/etc/passwd"],
            "cannot execute `/etc/passwd`: Permission denied (os error 13)",
        );
        check(
            &[""],
            "no program to run: the first argument, its name, is empty",
        );
        let long = "x".repeat(100_000);
        let many: Vec<&str> = std::iter::once("true")
            .chain(std::iter::repeat_n(long.as_str(), 40))
            .collect();
        check(
            &many,
            "the arguments and the environment of `true` have 4000419 bytes together, more than the 2097152 that Linux takes here; \
             longer texts can be given in a file or as stdin",
        );
    }
}

#[test]
fn root_the_environment_is_what_was_given_and_a_home() {
    if !able() {
        return;
    }
    let image = Image::new();
    for init in [true, false] {
        let mut spec = image.spec(&["env"]);
        spec.init = init;
        spec.env = [&b"PATH=/bin"[..], b"A=1", b"EMPTY=", b"ODD=a=b\xff"]
            .map(<[u8]>::to_vec)
            .to_vec();
        let (mut child, mut out) = start(native(), spec).unwrap();
        let mut text = Vec::new();
        out.read_to_end(&mut text).unwrap();
        assert_eq!(child.wait_blocking().unwrap(), Exit::Code(0));
        assert_eq!(
            text, b"PATH=/bin\nA=1\nEMPTY=\nODD=a=b\xff\nHOME=/root\n",
            "init: {init}"
        );
    }
    for (user, given, home) in [
        ("build", "X=", "/home/build"),
        ("77", "HOME=", "/"),
        ("", "HOME=/given", "/given"),
    ] {
        let mut spec = image.script("echo $HOME");
        spec.user = UserSpec { name: user.into() };
        spec.env.push(given.into());
        assert_eq!(run(spec).out, format!("{home}\n"));
    }
}

#[test]
fn root_the_working_directory_is_made_for_the_user() {
    if !able() {
        return;
    }
    let image = Image::new();
    let mut spec = image.script("pwd; stat -c '%u:%g %a' . ..");
    spec.cwd = b"/work/deep".to_vec();
    spec.user = UserSpec {
        name: "build".into(),
    };
    assert_eq!(run(spec).out, "/work/deep\n1000:1000 755\n1000:1000 755\n");
    assert_eq!(image.changes(), ["work/", "work/deep/"]);
    assert_eq!(
        fs::metadata(image.upper().join("work/deep")).unwrap().uid(),
        1000
    );

    let mut spec = image.script("pwd");
    spec.cwd = b"/etc/passwd".to_vec();
    assert_eq!(
        refused(spec),
        "cannot make the working directory `/etc/passwd`: Not a directory (os error 20)"
    );
    let mut spec = image.script("pwd");
    spec.cwd = b"relative".to_vec();
    assert_eq!(
        refused(spec),
        "the working directory `relative` is not an absolute path"
    );
}

#[test]
fn root_users_and_groups_come_from_the_image() {
    if !able() {
        return;
    }
    let image = Image::new();
    let check = |name: &str, expected: &str| {
        let mut spec = image.script("id -u; id -g; id -G; grep ^Groups /proc/self/status");
        spec.user = UserSpec { name: name.into() };
        let out = run(spec).out;
        assert_eq!(
            out.split_whitespace().collect::<Vec<_>>().join(" "),
            expected,
            "{name}"
        );
    };
    check("", "0 0 0 10 Groups: 0 10");
    check("build", "1000 1000 1000 10 Groups: 10 1000");
    check("1000:0", "1000 0 0 Groups: 0");
    check("4321", "4321 0 0 Groups: 0");
}

#[test]
fn root_hostname_streams_and_limits_are_set() {
    if !able() {
        return;
    }
    let image = Image::new();
    assert_eq!(run(image.script("hostname; cat; umask")).out, "box\n0022\n");

    let (read, mut write) = std::io::pipe().unwrap();
    let mut spec = image.spec(&["cat"]);
    spec.stdio.stdin = Some(OwnedFd::from(read));
    let (mut child, mut out) = start(native(), spec).unwrap();
    write.write_all(b"through").unwrap();
    drop(write);
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(
        (text.as_str(), child.wait_blocking().unwrap()),
        ("through", Exit::Code(0))
    );

    let mut spec = image.spec(&["/probe", "nofile", "ignored", "parent-death"]);
    probe::install(&mut spec);
    spec.rlimits = vec![Rlimit {
        resource: libc::RLIMIT_NOFILE,
        soft: 512,
        hard: u64::MAX,
    }];
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .maximum
        .unwrap();
    assert_eq!(run(spec).out, format!("512/{hard} ok ok\n"));
}

#[test]
fn root_a_limit_of_descriptors_below_what_the_engine_has_open() {
    if !able() {
        return;
    }
    let image = Image::new();
    let open: Vec<fs::File> = (0..64)
        .map(|_| fs::File::open("/dev/null").unwrap())
        .collect();
    let mut spec = image.script("ulimit -n; pwd");
    spec.cwd = b"/etc".to_vec();
    spec.rlimits = vec![Rlimit {
        resource: libc::RLIMIT_NOFILE,
        soft: 16,
        hard: 16,
    }];
    assert_eq!(run(spec).out, "16\n/etc\n");
    drop(open);
}

#[test]
fn root_mounts_show_their_sources() {
    if !able() {
        return;
    }
    let image = Image::new();
    let host = image.scratch("host");
    fs::create_dir_all(host.join("sub")).unwrap();
    fs::write(host.join("sub/file"), "from the host").unwrap();
    let other = Image::new();
    fs::write(other.lower().join("etc/one"), "1").unwrap();
    let overlay = |image: &Image| match image.spec(&["x"]).root {
        sandbox::spec::Root::Overlay(overlay) => overlay,
        sandbox::spec::Root::Dir(_) => unreachable!(),
    };
    let mut spec = image.script(
        "cat /host/sub/file /single /secret /sub/one; stat -c '%a %u' /secret; touch /host/x /ro/x; echo $?; touch /tmp/t/x && echo ok; \
         touch /sub/new; grep -c 'size=1024k' /proc/mounts",
    );
    let mount = |target: &str, source, readonly| Mount {
        target: target.into(),
        source,
        readonly,
    };
    spec.mounts = vec![
        mount("/host", Source::Bind(host.clone()), false),
        mount("/ro", Source::Bind(host.clone()), true),
        mount("/single", Source::Bind(host.join("sub/file")), false),
        mount(
            "/secret",
            Source::File {
                contents: b"s3cret".to_vec(),
                mode: 0o400,
                uid: 7,
                gid: 8,
            },
            true,
        ),
        mount(
            "/tmp/t",
            Source::Tmpfs {
                size: Some(1 << 20),
            },
            false,
        ),
        mount(
            "/sub",
            Source::Overlay {
                overlay: overlay(&other),
                subpath: b"etc".to_vec(),
            },
            false,
        ),
    ];
    let out = run(spec).out;
    assert_eq!(
        out,
        "from the hostfrom the hosts3cret1400 7\ntouch: /ro/x: Read-only file system\n1\nok\n1\n"
    );
    assert!(host.join("x").exists());
    assert_eq!(other.changes(), ["etc/", "etc/new"]);
    assert!(image.changes().is_empty(), "{:?}", image.changes());
}

#[test]
fn root_a_terminal_is_the_containers_own() {
    if !able() {
        return;
    }
    let image = Image::new();
    for init in [true, false] {
        let mut spec = image.script("tty; read x; stty size; test -t 0 -a -t 1 -a -t 2 && echo yes; stat -c %u /dev/pts/0; ls /dev/pts; echo > /dev/console; echo > /dev/tty; exit 3");
        spec.init = init;
        spec.stdio.terminal = true;
        spec.user = UserSpec {
            name: "build".into(),
        };
        let mut child = native().start(spec).unwrap();
        let mut out = Vec::new();
        child.resize(33, 99).unwrap();
        let mut master = fs::File::from(child.terminal.take().unwrap());
        master.write_all(b"go\n").unwrap();
        // The master reports EIO once the last slave is closed.
        let mut chunk = [0; 1024];
        while let Ok(n @ 1..) = master.read(&mut chunk) {
            out.extend_from_slice(&chunk[..n]);
        }
        assert_eq!(
            child.wait_blocking().unwrap(),
            Exit::Code(3),
            "{}",
            String::from_utf8_lossy(&out)
        );
        // The terminal echoes what is typed, before or after the first answer.
        let out = String::from_utf8_lossy(&out)
            .replace('\r', "")
            .replacen("go\n", "", 1);
        assert_eq!(
            out, "/dev/pts/0\n33 99\nyes\n1000\n0     ptmx\n\n\n",
            "init: {init}"
        );
    }
}

#[test]
fn root_an_asynchronous_wait_can_be_dropped_and_repeated() {
    if !able() {
        return;
    }
    let image = Image::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut child = native().start(image.spec(&["cat"])).unwrap();
        assert_eq!(child.wait().await.unwrap(), Exit::Code(0));
        assert_eq!(child.wait().await.unwrap(), Exit::Code(0));

        let mut child = native().start(image.spec(&["sleep", "1000"])).unwrap();
        let early = tokio::time::timeout(std::time::Duration::from_millis(1), child.wait()).await;
        assert!(early.is_err());
        child.kill().unwrap();
        assert_eq!(child.wait().await.unwrap(), Exit::Signal(9));
        child.kill().unwrap();
    });
}
