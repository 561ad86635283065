//! A real registry, filled by another client.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use oci::{
    Digest, Platform, Reference,
    blobs::Blobs,
    layer::{Beneath, Compression, Expected, Limits, Target, unpack},
    registry::{Anonymous, Client, Config},
    testkit::{DirBlobs, Image, LayerBuilder},
};
use serde_json::json;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

#[tokio::test]
async fn root_pulls_from_a_real_registry() {
    if !installed("docker-registry") || !installed("skopeo") {
        assert!(
            std::env::var_os("CI").is_none(),
            "docker-registry and skopeo must be installed"
        );
        eprintln!("skipped: docker-registry and skopeo are not installed");
        return;
    }
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = format!(
        "version: 0.1\nlog:\n  level: info\n  formatter: json\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        scratch.path().join("registry").display()
    );
    fs::write(scratch.path().join("config.yml"), config).unwrap();
    let mut child = Command::new("docker-registry")
        .arg("serve")
        .arg(scratch.path().join("config.yml"))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let _registry = Killed(child);
    let mut lines = log.lines();
    assert!(
        lines.any(|line| line.unwrap().contains("listening on")),
        "the registry ended"
    );
    // Nobody reads its log from here on, so somebody has to.
    std::thread::spawn(move || lines.for_each(drop));

    let image = Image::new()
        .layer(
            LayerBuilder::new()
                .dir("bin")
                .file_mode("bin/sh", "#!", 0o755)
                .symlink("sbin", "bin"),
            Compression::Gzip,
        )
        .layer(
            LayerBuilder::new()
                .file("sbin/init", "init")
                .whiteout("bin/sh"),
            Compression::Zstd,
        )
        .with("Cmd", json!(["sh"]));
    let layout = scratch.path().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let (manifest, mut blobs) = image.build();
    let digest = Digest::of(&manifest);
    let entry = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "v1"}});
    fs::write(
        layout.join("index.json"),
        json!({"schemaVersion": 2, "manifests": [entry]}).to_string(),
    )
    .unwrap();
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    blobs.insert(digest, manifest);
    for (digest, bytes) in &blobs {
        fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    }
    let status = Command::new("skopeo")
        .args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--preserve-digests",
            "--dest-tls-verify=false",
        ])
        .arg(format!("oci:{}:v1", layout.display()))
        .arg(format!("docker://127.0.0.1:{port}/test/app:v1"))
        .status()
        .unwrap();
    assert!(status.success());

    let access = Client::new(Config::default()).access(Arc::new(Anonymous));
    fs::create_dir(scratch.path().join("blobs")).unwrap();
    let store = DirBlobs::new(scratch.path().join("blobs"));
    let blobs: Arc<dyn Blobs> = Arc::new(store.clone());
    let reference = Reference::parse(&format!("127.0.0.1:{port}/test/app:v1")).unwrap();
    let resolved = access
        .resolve(&reference, &Platform::host(), &blobs)
        .await
        .unwrap();
    assert_eq!(resolved.digest, digest);
    assert_eq!(resolved.config.config.cmd, ["sh"]);
    access
        .fetch(
            &reference,
            &resolved.manifest.layers,
            &blobs,
            &|_| {},
            |_| {},
        )
        .await
        .unwrap();
    fs::create_dir(scratch.path().join("root")).unwrap();
    let root = fs::File::open(scratch.path().join("root")).unwrap();
    for (at, (layer, diff_id)) in resolved
        .manifest
        .layers
        .iter()
        .zip(&resolved.config.rootfs.diff_ids)
        .enumerate()
    {
        let beneath = if at == 0 {
            Beneath::Nothing
        } else {
            Beneath::Layers
        };
        let expected = Expected {
            digest: Some(layer.digest),
            diff_id: Some(*diff_id),
        };
        let blob = store.open(&layer.digest).unwrap().unwrap();
        unpack(
            blob,
            Target {
                root: root.as_fd(),
                beneath,
            },
            &expected,
            &Limits::default(),
        )
        .unwrap();
    }
    assert!(!scratch.path().join("root/bin/sh").exists());
    assert_eq!(
        fs::read_to_string(scratch.path().join("root/bin/init")).unwrap(),
        "init"
    );

    let error = access
        .resolve(
            &Reference::parse(&format!("127.0.0.1:{port}/test/app:none")).unwrap(),
            &Platform::host(),
            &blobs,
        )
        .await
        .unwrap_err();
    assert!(error.to_string().ends_with("/test/app:none"), "{error}");
}
