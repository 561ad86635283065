//! Mount targets that the image lacks leave no trace.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::MetadataExt,
    time::{Duration, SystemTime},
};

use sandbox::spec::{Mount, Root, Source};

use crate::kit::{Image, able, native, run, start};

fn tmpfs(target: &str) -> Mount {
    Mount {
        target: target.into(),
        source: Source::Tmpfs { size: None },
        readonly: false,
    }
}

#[test]
fn root_nothing_stays_of_targets_and_their_parents() {
    if !able() {
        return;
    }
    let image = Image::new();
    let mut spec = image.script("cat /etc/hosts /etc/resolv.conf; touch /a/b/c/x /usr/lib/deep/x; stat -c %a /a /a/b; mkdir -p /usr/lib/deep/y");
    spec.hosts = Some(b"hosts\n".to_vec());
    spec.resolv_conf = Some(b"resolv\n".to_vec());
    spec.mounts = vec![tmpfs("/a/b/c"), tmpfs("/usr/lib/deep"), tmpfs("/a/other")];
    assert_eq!(run(spec).out, "hosts\nresolv\n755\n755\n");
    assert!(image.changes().is_empty(), "{:?}", image.changes());
}

#[test]
fn root_what_the_program_made_beside_a_target_stays() {
    if !able() {
        return;
    }
    let image = Image::new();
    let mut spec = image.script("touch /a/mine; echo x >> /etc/passwd; chmod 700 /usr");
    spec.hosts = Some(b"hosts\n".to_vec());
    spec.mounts = vec![tmpfs("/a/b"), tmpfs("/usr/b"), tmpfs("/tmp/c/d")];
    assert_eq!(run(spec).out, "");
    assert_eq!(
        image.changes(),
        ["a/", "a/mine", "etc/", "etc/passwd", "usr/"]
    );
    assert_eq!(
        fs::metadata(image.upper().join("usr")).unwrap().mode() & 0o777,
        0o700
    );
}

#[test]
fn root_times_of_directories_are_the_images() {
    if !able() {
        return;
    }
    let image = Image::new();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for name in ["etc", "usr", "tmp"] {
        fs::File::open(image.lower().join(name))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    let mut spec = image.script("stat -c %Y /etc /usr /tmp; chmod 711 /usr");
    spec.hosts = Some(b"hosts\n".to_vec());
    spec.mounts = vec![tmpfs("/usr/b"), tmpfs("/tmp/x")];
    assert_eq!(run(spec).out, "1000000\n1000000\n1000000\n");
    assert_eq!(image.changes(), ["usr/"]);
    assert_eq!(
        fs::metadata(image.upper().join("usr"))
            .unwrap()
            .modified()
            .unwrap(),
        old
    );
}

#[test]
fn root_targets_inside_other_mounts_are_removed_there() {
    if !able() {
        return;
    }
    let image = Image::new();
    let volume = image.scratch("volume");
    fs::create_dir(&volume).unwrap();
    let source = Image::new();
    let Root::Overlay(overlay) = source.spec(&["x"]).root else {
        unreachable!()
    };
    let mut spec = image.script("touch /v/cache/x /src/etc/modules/x /src/mine");
    spec.mounts = vec![
        Mount {
            target: b"/v".to_vec(),
            source: Source::Bind(volume.clone()),
            readonly: false,
        },
        tmpfs("/v/cache/x"),
        tmpfs("/v/cache"),
        Mount {
            target: b"/src".to_vec(),
            source: Source::Overlay {
                overlay,
                subpath: Vec::new(),
            },
            readonly: false,
        },
        tmpfs("/src/etc/modules"),
    ];
    assert_eq!(run(spec).out, "");
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    assert_eq!(source.changes(), ["mine"]);
    assert!(image.changes().is_empty(), "{:?}", image.changes());
}

#[test]
fn root_a_target_in_a_shared_volume_stays_while_another_container_uses_it() {
    if !able() {
        return;
    }
    let volume = Image::new().scratch("volume");
    fs::create_dir_all(&volume).unwrap();
    let spec = |image: &Image, script: &str| {
        let mut spec = image.script(script);
        spec.mounts = vec![
            Mount {
                target: b"/v".to_vec(),
                source: Source::Bind(volume.clone()),
                readonly: false,
            },
            tmpfs("/v/cache"),
        ];
        spec
    };
    let (long, short) = (Image::new(), Image::new());
    let (read, stdin) = std::io::pipe().unwrap();
    let mut waiting = spec(&long, "touch /v/cache/mine; echo ready; cat; ls /v/cache");
    waiting.stdio.stdin = Some(read.into());
    let (mut child, out) = start(native(), waiting).unwrap();
    let mut out = BufReader::new(out);
    let mut text = String::new();
    out.read_line(&mut text).unwrap();
    assert_eq!(run(spec(&short, "ls /v/cache")).out, "");
    assert!(volume.join("cache").exists(), "still in use");
    drop(stdin);
    out.read_to_string(&mut text).unwrap();
    assert_eq!(
        text, "ready\nmine\n",
        "the other container's end did not unmount it"
    );
    child.wait_blocking().unwrap();
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    fs::remove_dir_all(volume.parent().unwrap()).unwrap();
}

#[test]
fn root_a_plain_directory_as_root_is_left_clean() {
    if !able() {
        return;
    }
    let image = Image::new();
    let mut spec = image.script("touch /new; cat /etc/hosts");
    spec.root = Root::Dir(image.lower());
    spec.hosts = Some(b"hosts\n".to_vec());
    spec.mounts = vec![tmpfs("/mnt/x")];
    assert_eq!(run(spec).out, "hosts\n");
    let mut names: Vec<_> = fs::read_dir(image.lower())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["bin", "etc", "new", "root", "tmp", "usr"]);
    assert!(!image.lower().join("etc/hosts").exists());
}

#[test]
fn root_a_failed_start_leaves_nothing_either() {
    if !able() {
        return;
    }
    let image = Image::new();
    let mut spec = image.script("true");
    spec.hosts = Some(b"hosts\n".to_vec());
    spec.mounts = vec![tmpfs("/a/b/c")];
    spec.user.name = "nobody".into();
    crate::kit::refused(spec);
    assert!(image.changes().is_empty(), "{:?}", image.changes());
}
