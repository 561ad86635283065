//! What others make of an image.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::kit::{Lab, REGISTRY, Session, args, quoted};

/// Lists a tree: path, kind, mode, owner, links, extended attributes, contents. The same in a container and beside it.
const LIST: &str = r#"
import hashlib, os, stat, sys
root = sys.argv[1]
for dir, dirs, files in os.walk(root):
    dirs.sort()
    for name in sorted(dirs + files):
        path = os.path.join(dir, name)
        s = os.lstat(path)
        said = [os.path.relpath(path, root), oct(s.st_mode), s.st_uid, s.st_gid]
        said.append({k: os.getxattr(path, k, follow_symlinks=False) for k in os.listxattr(path, follow_symlinks=False)})
        if stat.S_ISREG(s.st_mode):
            said += [s.st_nlink, hashlib.sha256(open(path, 'rb').read()).hexdigest()]
        if stat.S_ISLNK(s.st_mode):
            said.append(os.readlink(path))
        print(said)
"#;

/// Runs a program that must succeed; its output.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

fn read(program: &str, args: &[&str]) -> Value {
    serde_json::from_str(&run(program, args)).expect("JSON")
}

/// A container after two steps: hard links and an attribute in the first; a removed file, a directory made anew and an owner
/// in the second.
fn pipeline(session: &Session, then: &str) -> Value {
    let first = "import os; os.makedirs('/data/again'); os.makedirs('/data/kept')\n\
        open('/data/one', 'w').write('1'); os.link('/data/one', '/data/two'); os.symlink('one', '/data/link')\n\
        open('/data/gone', 'w').write('g'); open('/data/again/old', 'w').write('o'); open('/data/kept/old', 'w').write('o')\n\
        os.setxattr('/data/one', 'user.bodkin', b'\\x00value'); os.chmod('/data/one', 0o4755)";
    let second = "import os, shutil; os.unlink('/data/gone'); shutil.rmtree('/data/again'); os.mkdir('/data/again')\n\
        open('/data/again/new', 'w').write('n'); os.chown('/data/again/new', 7, 8); open('/data/kept/new', 'w').write('n')";
    session.get(&format!(
        "{{container{{from(address:\"python:3.12-slim\"){{withExec(args:{}){{withExec(args:{}){{{then}",
        args(&["python3", "-c", first]),
        args(&["python3", "-c", second]),
    ))
}

#[test]
fn root_skopeo_and_umoci_find_the_files_of_a_published_image() {
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let s = lab.session();
    let list = args(&["python3", "-c", LIST, "/data"]);
    let ours = pipeline(&s, &format!("withExec(args:{list}){{stdout"));
    let ours = ours.as_str().expect("text");
    for sign in ["user.bodkin", "'0o104755', 0, 0", "again/new", "7, 8"] {
        assert!(ours.contains(sign), "{ours}");
    }
    let name = format!("conformance/oracle-{}", std::process::id());
    for (compression, media_type) in [
        ("Gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("EStarGZ", "application/vnd.oci.image.layer.v1.tar+gzip"),
        // umoci of Debian 12 knows no zstd.
        ("Uncompressed", "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let address = format!("{REGISTRY}/{name}:{}", compression.to_lowercase());
        let published = pipeline(
            &s,
            &format!(
                "publish(address:{},forcedCompression:{compression})",
                quoted(&address)
            ),
        );
        let remote = format!("docker://{address}");
        let seen = read("skopeo", &["inspect", "--tls-verify=false", &remote]);
        assert_eq!(
            published,
            json!(format!(
                "{address}@{}",
                seen["Digest"].as_str().expect("one")
            ))
        );
        let manifest = read(
            "skopeo",
            &["inspect", "--tls-verify=false", "--raw", &remote],
        );
        let layers = manifest["layers"].as_array().expect("layers");
        assert!(layers.len() >= 3, "{manifest}");
        assert!(
            layers.iter().all(|l| l["mediaType"] == media_type),
            "{manifest}"
        );

        let layout = dir.path().join(compression);
        let local = format!("oci:{}:it", layout.display());
        run(
            "skopeo",
            &[
                "copy",
                "--quiet",
                "--src-tls-verify=false",
                "--insecure-policy",
                &remote,
                &local,
            ],
        );
        let bundle = dir.path().join(format!("{compression}-bundle"));
        let image = format!("{}:it", layout.display());
        run(
            "umoci",
            &[
                "unpack",
                "--image",
                &image,
                bundle.to_str().expect("a path"),
            ],
        );
        assert_eq!(
            run("python3", &["-c", LIST, &text(&bundle.join("rootfs/data"))]),
            ours,
            "{compression}"
        );
    }
    s.close();
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path").to_owned()
}

#[test]
fn root_skopeo_reads_labels_annotations_and_variants() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let other = s.text(
        "{container(platform:\"linux/arm64\"){withNewFile(path:\"/f\",contents:\"arm\"){withAnnotation(name:\"org.example.which\",value:\"second\"){id",
    );
    let address = format!("{REGISTRY}/conformance/variants-{}:v1", std::process::id());
    s.get(&format!(
        "{{container(platform:\"linux/amd64\"){{withNewFile(path:\"/f\",contents:\"x86\"){{withLabel(name:\"a\",value:\"b c\"){{withEnvVariable(name:\"E\",value:\"v\"){{\
         withEntrypoint(args:[\"/e\"]){{withUser(name:\"7\"){{withWorkdir(path:\"/w\"){{withExposedPort(port:53,protocol:UDP){{\
         withAnnotation(name:\"org.example.which\",value:\"first\"){{publish(address:{},platformVariants:[{}],mediaTypes:OCIMediaTypes)",
        quoted(&address),
        quoted(&other)
    ));
    let remote = format!("docker://{address}");
    let raw = ["inspect", "--tls-verify=false", "--raw"];
    let of = |digest: &str| format!("docker://{}@{digest}", address.trim_end_matches(":v1"));
    let index = read("skopeo", &[&raw[..], &[&remote]].concat());
    assert_eq!(
        index["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    let manifests = index["manifests"].as_array().expect("manifests");
    let mut found = Vec::new();
    for manifest in manifests {
        let at = of(manifest["digest"].as_str().expect("a digest"));
        let document = read("skopeo", &[&raw[..], &[&at]].concat());
        found.push((
            manifest["platform"]["architecture"].clone(),
            manifest["annotations"]["org.example.which"].clone(),
            document["annotations"]["org.example.which"].clone(),
        ));
    }
    assert_eq!(
        found,
        [
            (json!("amd64"), json!("first"), json!("first")),
            (json!("arm64"), json!("second"), json!("second"))
        ]
    );
    let config = ["inspect", "--tls-verify=false", "--config"];
    let choose = ["--override-arch", "amd64", "--override-os", "linux"];
    let config = read("skopeo", &[&choose[..], &config, &[&remote]].concat());
    let run = &config["config"];
    assert_eq!(run["Labels"], json!({"a": "b c"}));
    assert_eq!(run["Entrypoint"], json!(["/e"]));
    assert_eq!(run["ExposedPorts"], json!({"53/udp": {}}));
    assert_eq!(
        (&run["User"], &run["WorkingDir"]),
        (&json!("7"), &json!("/w"))
    );
    assert!(
        run["Env"]
            .as_array()
            .expect("variables")
            .contains(&json!("E=v"))
    );
    s.close();
}

#[test]
fn root_a_docker_daemon_loads_and_runs_a_tarball() {
    let Some(lab) = Lab::new() else { return };
    let s = lab.session();
    let tarball = s.text(&format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withExec(args:{}){{withExec(args:{}){{withEntrypoint(args:[\"cat\"]){{\
         withDefaultArgs(args:[\"/data/one\",\"/data/again/new\"]){{withLabel(name:\"made\",value:\"here\"){{asTarball{{id",
        args(&["sh", "-c", "mkdir -p /data/again; echo one >/data/one; echo old >/data/again/old"]),
        args(&["sh", "-c", "rm -r /data/again; mkdir /data/again; echo new >/data/again/new"]),
    ));
    let docker = s.text(&format!(
        "{{container{{from(address:\"docker:24-dind\"){{withoutEntrypoint{{withMountedTemp(path:\"/var/lib/docker\"){{withExposedPort(port:2375){{\
         withExec(args:{},insecureRootCapabilities:true){{asService{{id",
        args(&["dockerd", "--host=tcp://0.0.0.0:2375", "--tls=false"])
    ));
    let script = "set -e; said=$(docker load --quiet --input /image.tar); id=${said##*ID: }; docker run --rm --network=none $id; \
        docker run --rm --network=none --entrypoint ls $id /data/again; docker image inspect --format '{{.Config.Labels.made}}' $id";
    let said = s.text(&format!(
        "{{container{{from(address:\"docker:cli\"){{withServiceBinding(alias:\"docker\",service:{}){{withEnvVariable(name:\"DOCKER_HOST\",value:\"tcp://docker:2375\"){{\
         withMountedFile(path:\"/image.tar\",source:{}){{withExec(args:{}){{stdout",
        quoted(&docker),
        quoted(&tarball),
        args(&["sh", "-c", script])
    ));
    assert_eq!(said, "one\nnew\nnew\nhere\n");
    s.close();
}
