//! Privileged containers, control groups, certificate authorities.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use sandbox::{
    Exit, Native, Options, Runtime,
    spec::{Mount, Source},
};

use crate::{
    kit::{Image, able, native, run, run_on},
    probe,
};

#[test]
fn root_a_privileged_container_has_what_the_engine_has() {
    if !able() {
        return;
    }
    let image = Image::new();
    let mut spec = image.script(
        "grep -E '^(Cap|Seccomp:)' /proc/self/status; mount -t tmpfs x /tmp && echo mounted; \
        grep -c ' /sys sysfs rw' /proc/mounts; test -e /dev/kmsg && echo kmsg; ls /proc/self/fd",
    );
    spec.privileged = true;
    spec.user.name = "build".into();
    let ours = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = ours
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:\t"))
        .unwrap()
        .to_owned();
    let sets: Vec<String> = ["Inh", "Prm", "Eff", "Bnd", "Amb"]
        .map(|s| format!("Cap{s}:\t{bounding}"))
        .to_vec();
    let out = run(spec).out;
    assert_eq!(
        out,
        format!(
            "{}\nSeccomp:\t0\nmounted\n1\nkmsg\n0\n1\n2\n3\n",
            sets.join("\n")
        ),
        "as another user"
    );

    let mut spec = image.script("echo name > /proc/sys/kernel/domainname && echo writable; d=/sys/fs/cgroup; test -d $d/unified && d=$d/unified; mkdir $d/x && echo group; rmdir $d/x; ls /sys/fs/cgroup | head -3");
    spec.privileged = true;
    let out = run(spec).out;
    assert!(out.starts_with("writable\ngroup\n"), "{out}");
}

#[test]
fn root_an_engine_runs_inside_a_privileged_container() {
    if !able() {
        return;
    }
    let (image, inner) = (Image::new(), Image::new());
    let bind = |target: &str, source: PathBuf| Mount {
        target: target.into(),
        source: Source::Bind(source),
        readonly: false,
    };
    let mut spec = image.spec(&[
        probe::ENGINE,
        "/inner",
        "hostname; echo $$; grep ^Seccomp: /proc/self/status; ls /proc/self/fd; exit 6",
    ]);
    spec.privileged = true;
    spec.mounts = vec![
        bind(probe::ENGINE, std::env::current_exe().unwrap()),
        bind("/inner", inner.lower()),
    ];
    let ran = run(spec);
    assert_eq!(
        (ran.out.as_str(), ran.exit),
        ("inner\n2\nSeccomp:\t2\n0\n1\n2\n3\n", Exit::Code(6))
    );

    let mut spec = image.script("mkdir /tmp/t && mount -t tmpfs x /tmp/t && cd /tmp/t && mkdir l u w m && mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m && echo overlay");
    spec.privileged = true;
    assert_eq!(run(spec).out, "overlay\n");
}

#[test]
fn root_without_control_groups_devices_are_held_back_by_flags() {
    if !able() {
        return;
    }
    let mut options = Options::default();
    options.cgroups = false;
    let runtime = Native::with(options).unwrap();
    let image = Image::new();
    let ran = run_on(&runtime, image.script("mknod /tmp/disk b 8 0; head -c 1 /tmp/disk; mknod /dev/mem c 1 1; head -c 1 /dev/mem; echo > /dev/null; head -c 2 /dev/zero | wc -c; stat -c '%a %t' /dev/null; exit 3"));
    let ran = ran.unwrap();
    assert_eq!(
        ran.out,
        "head: /tmp/disk: Permission denied\nhead: /dev/mem: Permission denied\n2\n666 1\n"
    );
    assert_eq!(ran.exit, Exit::Code(3));
}

/// Directories of this process's runtimes in mounted hierarchies.
fn groups() -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap(), fields.next().unwrap());
        let name = if controllers.is_empty() {
            "unified"
        } else {
            controllers.trim_start_matches("name=")
        };
        for mount in [
            format!("/sys/fs/cgroup/{name}{path}"),
            format!("/sys/fs/cgroup{path}"),
        ] {
            let Ok(entries) = fs::read_dir(mount) else {
                continue;
            };
            let prefix = format!("bodkin-{}-", std::process::id());
            found.extend(
                entries
                    .flatten()
                    .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
                    .map(|e| e.path()),
            );
        }
    }
    found
}

#[test]
fn root_groups_go_with_their_containers() {
    if !able() {
        return;
    }
    let runtime = Native::new().unwrap();
    let image = Image::new();
    let mut child = runtime.start(image.spec(&["sleep", "1000"])).unwrap();
    let group = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    if !group(child.pid()).contains("/confined/") {
        eprintln!("skipped: no unified hierarchy");
        return;
    }
    let dirs: Vec<_> = groups()
        .iter()
        .map(|g| g.join("confined"))
        .filter(|d| d.exists())
        .collect();
    let count = || {
        dirs.iter()
            .flat_map(|d| fs::read_dir(d).unwrap())
            .flatten()
            .filter(|e| e.file_type().unwrap().is_dir())
            .count()
    };
    assert!(dirs.is_empty() || count() >= 1);
    child.kill().unwrap();
    child.wait_blocking().unwrap();
    let name = group(std::process::id() as i32);
    assert!(
        !name.contains("bodkin"),
        "the engine itself stays where it is: {name}"
    );
    drop(runtime);
}

/// Directories of this name in mounted hierarchies.
fn named(name: &str, dir: &std::path::Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        if entry.file_name() == name {
            found.push(entry.path());
        }
        named(name, &entry.path(), found);
    }
}

#[test]
fn root_groups_that_a_privileged_container_made_go_with_the_runtime() {
    if !able() {
        return;
    }
    let name = format!("made-{}", std::process::id());
    let runtime = Native::new().unwrap();
    let image = Image::new();
    let mut spec = image.script(&format!(
        "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do test -e $d/cgroup.procs && mkdir $d/{name} && echo made; done"
    ));
    spec.privileged = true;
    let ran = run_on(&runtime, spec).unwrap();
    assert!(ran.out.starts_with("made\n"), "{}", ran.out);
    drop(runtime);
    let mut left = Vec::new();
    named(&name, "/sys/fs/cgroup".as_ref(), &mut left);
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn root_running_out_of_memory_is_told() {
    if !able() {
        return;
    }
    // A limit on the group of a runtime of our own; where its hierarchy is not mounted, nothing can be set.
    let before = groups();
    let runtime = Native::new().unwrap();
    let image = Image::new();
    run_on(&runtime, image.script("true")).unwrap();
    let new: Vec<_> = groups()
        .into_iter()
        .filter(|g| !before.contains(g))
        .collect();
    let limited = new.iter().any(|g| {
        fs::write(g.join("memory.limit_in_bytes"), "20M").is_ok()
            || fs::write(g.join("memory.max"), "20M").is_ok()
    });
    if !limited {
        eprintln!("skipped: no memory controller");
        return;
    }
    let ran = run_on(&runtime, image.script("x=a; while :; do x=$x$x; done")).unwrap();
    assert_eq!(ran.exit, Exit::OutOfMemory, "{}", ran.out);
    assert_eq!(
        run_on(&runtime, image.script("kill -9 $$")).unwrap().exit,
        Exit::Code(137)
    );
}

#[test]
fn root_authorities_of_the_host_are_added_to_the_images() {
    if !able() {
        return;
    }
    let image = Image::new();
    let cert =
        |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    fs::create_dir_all(image.lower().join("etc/ssl/certs")).unwrap();
    fs::create_dir_all(image.lower().join("etc/pki/tls/certs")).unwrap();
    fs::write(
        image.lower().join("etc/ssl/certs/ca-certificates.crt"),
        cert("THEIRS"),
    )
    .unwrap();
    symlink(
        "/etc/ssl/certs/ca-certificates.crt",
        image.lower().join("etc/pki/tls/certs/ca-bundle.crt"),
    )
    .unwrap();
    symlink("/proc/self/environ", image.lower().join("etc/ssl/cert.pem")).unwrap();
    let host = image.scratch("host.pem");
    fs::write(&host, cert("OURS")).unwrap();
    let mut spec = image.script("cat /etc/pki/tls/certs/ca-bundle.crt");
    spec.ca_bundle = Some(host.clone());
    assert_eq!(run(spec).out, cert("THEIRS") + &cert("OURS"));
    assert!(image.changes().is_empty(), "{:?}", image.changes());

    // Without a bundle in the image nothing is added, and a bundle that cannot be read stops nobody.
    let bare = Image::new();
    for path in [host, "/nowhere".into()] {
        let mut spec = bare.script("ls /etc");
        spec.ca_bundle = Some(path);
        assert_eq!(run(spec).out, "group\npasswd\n");
    }
    let _ = native();
}
