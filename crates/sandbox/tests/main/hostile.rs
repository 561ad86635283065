//! Images that try to lead the runtime astray.

use std::{fs, os::unix::fs::symlink};

use sandbox::spec::{Mount, Source};

use crate::kit::{Image, able, refused, run};

fn mount(target: &str, source: Source) -> Mount {
    Mount {
        target: target.into(),
        source,
        readonly: false,
    }
}

#[test]
fn root_system_directories_must_not_be_links() {
    if !able() {
        return;
    }
    for name in ["proc", "sys", "dev"] {
        let image = Image::new();
        symlink("/etc", image.lower().join(name)).unwrap();
        assert_eq!(
            refused(image.script("true")),
            format!("`/{name}` of the image is not a directory")
        );
        let image = Image::new();
        fs::write(image.lower().join(name), "").unwrap();
        assert_eq!(
            refused(image.script("true")),
            format!("`/{name}` of the image is not a directory")
        );
    }
}

#[test]
fn root_links_lead_nowhere_but_into_the_root() {
    if !able() {
        return;
    }
    let image = Image::new();
    let outside = image.scratch("outside");
    fs::create_dir(&outside).unwrap();
    fs::rename(image.lower().join("etc"), image.lower().join("real")).unwrap();
    symlink("../../../../../../../real", image.lower().join("etc")).unwrap();
    symlink(&outside, image.lower().join("abs")).unwrap();
    symlink("/proc/1/root/tmp", image.lower().join("magic")).unwrap();
    let mut spec = image
        .script("cat /real/hosts; readlink /etc; ls -d /abs/. ; cat /abs/in; echo x > /abs/in");
    spec.hosts = Some(b"127.0.0.1 me\n".to_vec());
    spec.mounts = vec![mount(
        "/abs/in",
        Source::File {
            contents: b"in\n".to_vec(),
            mode: 0o644,
            uid: 0,
            gid: 0,
        },
    )];
    let out = run(spec).out;
    assert_eq!(out, "127.0.0.1 me\n../../../../../../../real\n/abs/.\nin\n");
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "nothing was made outside"
    );
    assert!(image.changes().is_empty(), "{:?}", image.changes());

    let mut spec = image.script("true");
    spec.mounts = vec![mount("/magic/x", Source::Tmpfs { size: None })];
    assert_eq!(
        refused(spec),
        "`/magic/x` leads into a system directory: nothing can be mounted there"
    );
    let mut spec = image.script("true");
    spec.mounts = vec![mount("/tmp/../", Source::Tmpfs { size: None })];
    assert_eq!(
        refused(spec),
        "`/tmp/../` is the container's root: nothing can be mounted there"
    );
    let mut spec = image.script("true");
    spec.mounts = vec![mount("/real/passwd", Source::Tmpfs { size: None })];
    assert_eq!(
        refused(spec),
        "cannot mount a directory on `/real/passwd`, which is a file"
    );
}

#[test]
fn root_a_working_directory_cannot_be_a_descriptor_of_the_engine() {
    if !able() {
        return;
    }
    let image = Image::new();
    let _host = fs::File::open("/").unwrap();
    for n in 3..20 {
        let mut spec = image.script("ls; pwd");
        spec.cwd = format!("/proc/self/fd/{n}").into_bytes();
        let message = refused(spec);
        assert!(
            message.starts_with("cannot enter the working directory `/proc/self/fd/"),
            "{message}"
        );
        assert!(
            message.ends_with("(os error 40)") || message.ends_with("(os error 2)"),
            "{message}"
        );
    }
    // The same through a link in the image.
    symlink("/proc/self/fd/7", image.lower().join("seven")).unwrap();
    let mut spec = image.script("pwd");
    spec.cwd = b"/seven".to_vec();
    assert!(refused(spec).starts_with("cannot enter the working directory `/seven`"));
    assert!(image.changes().is_empty(), "{:?}", image.changes());
}

#[test]
fn root_users_beyond_the_range_are_refused() {
    if !able() {
        return;
    }
    let image = Image::new();
    for (name, reason) in [
        ("4294967296", "`4294967296` is outside 0..=2147483647"),
        ("0:4294967296", "`4294967296` is outside 0..=2147483647"),
        ("nobody", "no such user in /etc/passwd"),
    ] {
        let mut spec = image.script("id");
        spec.user.name = name.into();
        assert_eq!(
            refused(spec),
            format!("cannot run as user `{name}`: {reason}")
        );
    }
}

#[test]
fn root_a_user_file_that_is_no_file_is_refused() {
    if !able() {
        return;
    }
    let image = Image::new();
    let passwd = image.lower().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &passwd,
        rustix::fs::FileType::Fifo,
        0o644.into(),
        0,
    )
    .unwrap();
    assert_eq!(
        refused(image.script("true")),
        "cannot run as user ``: /etc/passwd: not a regular file"
    );
    fs::remove_file(&passwd).unwrap();
    symlink("/proc/self/environ", &passwd).unwrap();
    assert_eq!(
        run(image.script("echo no entry is no error for root")).out,
        "no entry is no error for root\n"
    );
}

#[test]
fn root_the_engines_file_cannot_be_rewritten() {
    if !able() {
        return;
    }
    let image = Image::new();
    let before = fs::metadata("/proc/self/exe").unwrap().modified().unwrap();
    // Opened while the init runs it, and kept to be tried again when nobody does.
    let out = run(image.script("{ echo x > /proc/1/exe; } 2>&1; exec 9< /proc/1/exe; { echo x > /proc/self/fd/9; } 2>&1; { echo x >> /proc/$$/fd/9; } 2>&1; echo over"));
    let lines: Vec<&str> = out.out.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for line in &lines[..3] {
        let refusals = [
            "Read-only file system",
            "Operation not permitted",
            "Permission denied",
            "permission denied",
            "Text file busy",
        ];
        assert!(refusals.iter().any(|r| line.contains(r)), "{line}");
    }
    assert_eq!(
        fs::metadata("/proc/self/exe").unwrap().modified().unwrap(),
        before
    );
}

#[test]
fn root_a_volume_that_changes_under_the_start_leads_nowhere_else() {
    if !able() {
        return;
    }
    // One name in a shared volume is a directory and a link to the outside in turn, as another container could make it.
    let holder = Image::new();
    let (volume, outside) = (holder.scratch("volume"), holder.scratch("outside"));
    for dir in [&volume, &outside, &volume.join("x")] {
        fs::create_dir(dir).unwrap();
    }
    symlink(&outside, volume.join("evil")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = fs::File::open(&volume).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&dir, "x", &dir, "evil", swap).unwrap();
            }
        });
        let image = Image::new();
        for _ in 0..60 {
            let mut spec = image.script("touch /v/x/y/inside");
            spec.mounts = vec![
                mount("/v", Source::Bind(volume.clone())),
                mount("/v/x/y", Source::Tmpfs { size: None }),
            ];
            // Whether it starts depends on the moment; where it leads does not.
            let _ = crate::kit::run_on(crate::kit::native(), spec);
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "made outside");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
