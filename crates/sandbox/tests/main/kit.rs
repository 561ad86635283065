//! What the tests share: a root filesystem, a specification, and running it to the end.

use std::{
    fs,
    io::Read,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use sandbox::{
    Child, Exit, Native, Runtime, StartError,
    spec::{Net, Root, Spec, Stdio, UserSpec},
};

const BUSYBOX: &str = "/usr/bin/busybox";

/// Whether these tests can run here; says why not.
pub(crate) fn able() -> bool {
    let able = rustix::process::geteuid().is_root() && Path::new(BUSYBOX).exists();
    if !able {
        assert!(
            std::env::var_os("CI").is_none(),
            "these tests need root and {BUSYBOX}"
        );
        eprintln!("skipped: needs root and {BUSYBOX}");
    }
    able
}

/// The one runtime of this test program.
pub(crate) fn native() -> &'static Native {
    static NATIVE: OnceLock<Native> = OnceLock::new();
    NATIVE.get_or_init(|| Native::new().expect("a runtime"))
}

/// A scratch image with busybox, and an upper layer, in memory.
pub(crate) struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    pub(crate) fn new() -> Image {
        let dir = tempfile::Builder::new()
            .prefix("sandbox-test-")
            .tempdir_in("/dev/shm")
            .unwrap();
        let image = Image { dir };
        for name in ["bin", "etc", "tmp", "root", "usr/bin"] {
            fs::create_dir_all(image.lower().join(name)).unwrap();
        }
        fs::create_dir(image.upper()).unwrap();
        fs::copy(BUSYBOX, image.lower().join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "ls", "id", "env", "pwd", "ps", "sleep", "echo", "grep", "stat",
            "readlink", "mount", "hostname", "tty", "true", "kill", "touch", "rm", "mkdir", "test",
            "seq", "mknod", "chmod", "head", "stty", "ln", "dd", "wc", "tr", "unshare", "sort",
            "rmdir", "awk", "cut", "tail", "find",
        ] {
            symlink("busybox", image.lower().join("bin").join(applet)).unwrap();
        }
        fs::write(
            image.lower().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nbuild:x:1000:1000:B:/home/build:/bin/sh\n",
        )
        .unwrap();
        fs::write(
            image.lower().join("etc/group"),
            "root:x:0:\nbuild:x:1000:\nwheel:x:10:root,build\n",
        )
        .unwrap();
        image
    }

    pub(crate) fn lower(&self) -> PathBuf {
        self.dir.path().join("lower")
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.dir.path().join("upper")
    }

    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The names in the upper layer, sorted, with what they are.
    pub(crate) fn changes(&self) -> Vec<String> {
        fn visit(dir: &Path, prefix: &str, found: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.file_type().unwrap().is_dir() {
                    found.push(format!("{name}/"));
                    visit(&entry.path(), &format!("{name}/"), found);
                } else {
                    found.push(name);
                }
            }
        }
        let mut found = Vec::new();
        visit(&self.upper(), "", &mut found);
        found.sort();
        found
    }

    /// A specification that runs `argv` in this image.
    pub(crate) fn spec(&self, argv: &[&str]) -> Spec {
        // The mark that a volatile mount leaves would forbid the next one.
        let work = self.dir.path().join("work");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).unwrap();
        let overlay = sys::mount::Overlay {
            lower: vec![self.lower()],
            upper: Some((self.upper(), work)),
        };
        Spec {
            root: Root::Overlay(overlay),
            mounts: Vec::new(),
            argv: argv.iter().map(|a| a.as_bytes().to_vec()).collect(),
            env: vec![b"PATH=/usr/bin:/bin".to_vec()],
            cwd: b"/".to_vec(),
            user: UserSpec::default(),
            hostname: "box".into(),
            stdio: Stdio {
                stdin: None,
                stdout: None,
                stderr: None,
                terminal: false,
            },
            net: Net::None,
            hosts: None,
            resolv_conf: None,
            privileged: false,
            init: true,
            ca_bundle: None,
            rlimits: Vec::new(),
        }
    }

    /// [`Image::spec`] for a shell script.
    pub(crate) fn script(&self, script: &str) -> Spec {
        self.spec(&["sh", "-c", script])
    }
}

/// What a container printed and how it ended.
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) exit: Exit,
}

/// A pipe for both output streams of a specification.
pub(crate) fn capture(spec: &mut Spec) -> fs::File {
    let (read, write) = std::io::pipe().unwrap();
    spec.stdio.stdout = Some(OwnedFd::from(write.try_clone().unwrap()));
    spec.stdio.stderr = Some(OwnedFd::from(write));
    fs::File::from(OwnedFd::from(read))
}

/// Starts a container whose output is read from the file.
pub(crate) fn start(
    runtime: &dyn Runtime,
    mut spec: Spec,
) -> Result<(Child, fs::File), StartError> {
    let out = capture(&mut spec);
    Ok((runtime.start(spec)?, out))
}

/// Runs a container to its end.
pub(crate) fn run_on(runtime: &dyn Runtime, spec: Spec) -> Result<Ran, StartError> {
    let (mut child, mut read) = start(runtime, spec)?;
    let mut out = String::new();
    read.read_to_string(&mut out).unwrap();
    Ok(Ran {
        out,
        exit: child.wait_blocking().unwrap(),
    })
}

pub(crate) fn run(spec: Spec) -> Ran {
    run_on(native(), spec).unwrap_or_else(|e| panic!("{e}: {:?}", e.errno()))
}

/// The message of a failed start, with its cause.
pub(crate) fn refused(spec: Spec) -> String {
    match run_on(native(), spec) {
        Ok(ran) => panic!("it ran: {:?} {}", ran.exit, ran.out),
        Err(e) => match std::error::Error::source(&e) {
            Some(source) => format!("{e}: {source}"),
            None => e.to_string(),
        },
    }
}
