//! Part `dockerfiles`: the Dockerfiles of `tests/dockerfiles`, each built by bodkin and by buildah, compared file by file and
//! setting by setting.
//!
//! A folder is one build: `Dockerfile`, what it copies, `args` with a `NAME=value` per line for `ARG`, and
//! `oracle.Dockerfile` where buildah does not know what the Dockerfile uses yet: the same result by other means. `differs`
//! names what is not the same, and why: each must be a difference, and there may be no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use dockerfile::{Answer, Images, Options, Settings};
use serde_json::{Map, Value, json};

use super::suite::{Outcome, Suite};
use crate::{files, process, workspace};

/// Paths that a builder makes for its own mounts; what is in them is nobody's image.
const OWN: [&str; 7] = [
    "dev",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "proc",
    "run",
    "sys",
];
/// What `MAINTAINER` sets: it stands beside an image's `config` object, here it is in it.
const AUTHOR: &str = "Author";
/// What Dockerfiles set of the configuration.
const KEYS: [&str; 13] = [
    AUTHOR,
    "Env",
    "Entrypoint",
    "Cmd",
    "User",
    "WorkingDir",
    "Labels",
    "ExposedPorts",
    "Volumes",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
];
/// Size in bytes below which a file of an image's archive may be a document.
const DOCUMENT_MAX: u64 = 4 << 20;
/// Differences shown per build.
const SHOWN: usize = 8;

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let oracle = Oracle::prepare(suite)?;
    let mut names: Vec<PathBuf> = fs::read_dir(workspace::root().join("tests/dockerfiles"))
        .context("cannot list `tests/dockerfiles`")?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.is_dir())
        .collect();
    names.sort();
    for dir in names {
        let name = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if suite.filter().is_some_and(|f| !name.contains(f)) {
            continue;
        }
        let start = Instant::now();
        let result = one(suite, &oracle, &dir);
        let name = format!("{name} ({:.1} s)", start.elapsed().as_secs_f64());
        outcome.count(&name, result);
    }
    oracle.end()?;
    ensure!(
        outcome.passed + outcome.failed > 0,
        "no Dockerfile has that name"
    );
    Ok(outcome)
}

/// What one builder made.
#[derive(Debug, PartialEq)]
struct Made {
    tree: BTreeMap<String, String>,
    config: Value,
}

fn one(suite: &Suite, oracle: &Oracle, dir: &Path) -> Result<()> {
    let args = arguments(dir)?;
    let theirs = oracle.build(suite, dir, &args).context("buildah")?;
    let ours = built(suite, dir, &args).context("bodkin")?;
    let mut expected = reasons(dir)?;
    let mut differences = Vec::new();
    for (what, a, b) in differing(&ours, &theirs) {
        if !expected.remove(&what) {
            differences.push(format!("{what}: bodkin {a}, buildah {b}"));
        }
    }
    differences.extend(
        expected
            .iter()
            .map(|what| format!("`differs` explains {what}, where there is no difference")),
    );
    if differences.is_empty() {
        return Ok(());
    }
    let more = differences.len().saturating_sub(SHOWN);
    differences.truncate(SHOWN);
    let more = if more > 0 {
        format!("\n    and {more} more")
    } else {
        String::new()
    };
    bail!("\n    {}{more}", differences.join("\n    "))
}

/// Where two results differ: paths, and keys of the configuration with a dot before them.
fn differing(ours: &Made, theirs: &Made) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let paths: BTreeSet<&String> = ours.tree.keys().chain(theirs.tree.keys()).collect();
    for path in paths {
        let of = |made: &Made| {
            let found = made.tree.get(path);
            found.map_or("nothing", String::as_str).to_owned()
        };
        found.push((path.clone(), of(ours), of(theirs)));
    }
    for key in KEYS {
        let of = |made: &Made| made.config.get(key).unwrap_or(&Value::Null).to_string();
        found.push((format!(".{key}"), of(ours), of(theirs)));
    }
    found.retain(|(_, a, b)| a != b);
    found
}

/// What may differ, from `differs`: a path or `.Key` per line, and after a colon the reason.
fn reasons(dir: &Path) -> Result<BTreeSet<String>> {
    let path = dir.join("differs");
    if !path.exists() {
        return Ok(BTreeSet::new());
    }
    files::read_text(&path)?
        .lines()
        .map(|l| {
            let (what, why) = l
                .split_once(':')
                .context("a line of `differs` without `:`")?;
            ensure!(
                !why.trim().is_empty(),
                "a line of `differs` without a reason"
            );
            Ok(what.to_owned())
        })
        .collect()
}

fn arguments(dir: &Path) -> Result<Vec<(String, String)>> {
    let path = dir.join("args");
    if !path.exists() {
        return Ok(Vec::new());
    }
    files::read_text(&path)?
        .lines()
        .map(|l| {
            l.split_once('=')
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .context("a line of `args` without `=`")
        })
        .collect()
}

/// Builds with the engine under test.
fn built(suite: &Suite, dir: &Path, args: &[(String, String)]) -> Result<Made> {
    let given: Vec<String> = args
        .iter()
        .map(|(n, v)| format!("{{name:{},value:{}}}", json!(n), json!(v)))
        .collect();
    let build = format!(
        "host{{directory(path:{},exclude:[\"oracle.Dockerfile\",\"args\",\"differs\"]){{dockerBuild(buildArgs:[{}]){{",
        json!(dir),
        given.join(",")
    );
    let fields = "envVariables{name value} entrypoint defaultArgs user workdir labels{name value} exposedPorts{port protocol} rootfs{id}";
    let answer = query(suite, &format!("{{{build}{fields}}}}}}}}}"))?;
    let image = &answer["host"]["directory"]["dockerBuild"];
    let out = suite.tmp().join("dockerfile.tar");
    // Modes and owners do not survive an export to the client's machine; they do in an archive.
    let tree = format!(
        "{{container{{from(address:\"alpine:3.20.2\"){{withMountedDirectory(path:\"/t\",source:{}){{withExec(args:[\"tar\",\"-C\",\"/t\",\"-cf\",\"/out.tar\",\".\"]){{file(path:\"/out.tar\"){{export(path:{})}}}}}}}}}}}}",
        image["rootfs"]["id"],
        json!(out)
    );
    query(suite, &tree)?;
    let tree = listed(&out)?;
    fs::remove_file(&out).context("cannot remove the archive")?;
    // The API shows some of the configuration; the plan and the image have all of it.
    let exported = exported(suite, &build, &out)?;
    let planned = planned(suite, dir, args)?;
    for key in KEYS.iter().filter(|k| **k != AUTHOR) {
        let (plan, image) = (planned.get(key), exported.get(key));
        ensure!(
            plan == image,
            "the plan has {key} {plan:?}, the image {image:?}"
        );
    }
    let mut seen = Map::new();
    let names = |list: &Value| -> Map<String, Value> {
        let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .filter_map(|p| Some((p["name"].as_str()?.to_owned(), p["value"].clone())))
            .collect()
    };
    let env = names(&image["envVariables"]);
    seen.insert(
        "Env".into(),
        env.iter()
            .map(|(k, v)| json!(format!("{k}={}", v.as_str().unwrap_or(""))))
            .collect(),
    );
    seen.insert("Entrypoint".into(), image["entrypoint"].clone());
    seen.insert("Cmd".into(), image["defaultArgs"].clone());
    seen.insert("User".into(), image["user"].clone());
    seen.insert("WorkingDir".into(), image["workdir"].clone());
    seen.insert("Labels".into(), Value::Object(names(&image["labels"])));
    let ports = image["exposedPorts"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ports = ports.iter().map(|p| {
        let protocol = p["protocol"].as_str().unwrap_or("").to_lowercase();
        (format!("{}/{protocol}", p["port"]), json!({}))
    });
    seen.insert("ExposedPorts".into(), Value::Object(ports.collect()));
    for (key, value) in normal(&seen).as_object().into_iter().flatten() {
        ensure!(
            exported.get(key) == Some(value),
            "the API says {key} {value}, the image {:?}",
            exported.get(key)
        );
    }
    Ok(Made {
        tree,
        config: exported,
    })
}

/// The configuration of the image that a build is exported as; `build` is the query up to its fields.
fn exported(suite: &Suite, build: &str, out: &Path) -> Result<Value> {
    let export = format!(
        "{{{build}export(path:{},forcedCompression:Uncompressed)}}}}}}}}",
        json!(out)
    );
    query(suite, &export)?;
    let mut documents = BTreeMap::new();
    let mut archive = tar::Archive::new(File::open(out).context("cannot open the image")?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // Layers are larger, and archives of their own.
        if entry.size() < DOCUMENT_MAX {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            documents.insert(name, bytes);
        }
    }
    fs::remove_file(out).context("cannot remove the image")?;
    let read = |name: &str| -> Result<Value> {
        let bytes = documents
            .get(name)
            .with_context(|| format!("the image has no `{name}`"))?;
        serde_json::from_slice(bytes).with_context(|| format!("`{name}` is no JSON"))
    };
    let blob = |descriptor: &Value| -> Result<Value> {
        let digest = descriptor["digest"].as_str().context("no digest")?;
        read(&format!("blobs/{}", digest.replace(':', "/")))
    };
    let manifest = blob(&read("index.json")?["manifests"][0])?;
    let config = blob(&manifest["config"])?;
    Ok(whole(&config))
}

/// The `config` object of an image's configuration with the author in it.
fn whole(config: &Value) -> Value {
    let mut run = config["config"].as_object().cloned().unwrap_or_default();
    run.insert(AUTHOR.to_owned(), config["author"].clone());
    normal(&run)
}

/// The configuration that the plan of a build ends with.
fn planned(suite: &Suite, dir: &Path, args: &[(String, String)]) -> Result<Value> {
    let source = dockerfile::parse("Dockerfile", &files::read_text(&dir.join("Dockerfile"))?)?;
    let options = Options {
        args: args.to_vec(),
        platform: "linux/amd64".to_owned(),
        build_platform: "linux/amd64".to_owned(),
        ..Options::default()
    };
    let mut images = Images::new();
    loop {
        match dockerfile::plan(&source, &options, &images)? {
            Answer::Plan(plan) => {
                let target = plan.target().context("no stage")?;
                return Ok(normal(&target.settings.write()));
            }
            Answer::Needs(keys) => {
                for key in keys {
                    let mut inspect = suite.plain(Command::new("skopeo"));
                    inspect.args(["inspect", "--config", "--raw", "--tls-verify=false"]);
                    inspect.arg(format!(
                        "docker://{}/library/{}",
                        suite.registry().address(),
                        key.reference
                    ));
                    let config: Value = serde_json::from_slice(&process::output(&mut inspect)?)?;
                    let run = config["config"].as_object().cloned().unwrap_or_default();
                    images.insert(key, Settings::read(&run));
                }
            }
        }
    }
}

fn query(suite: &Suite, document: &str) -> Result<Value> {
    let path = suite.tmp().join("dockerfile.graphql");
    files::write(&path, document.as_bytes())?;
    let mut command = suite.command("dagger")?;
    command.args(["query", "--doc"]).arg(&path);
    let answer = process::output(&mut command)?;
    fs::remove_file(&path).context("cannot remove the query")?;
    serde_json::from_slice(&answer).context("the answer is no JSON")
}

/// Only what Dockerfiles set, without what is empty: builders differ in how they write nothing.
fn normal(config: &Map<String, Value>) -> Value {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    let mut kept = Map::new();
    for key in KEYS {
        let Some(value) = config.get(key).filter(|v| !empty(v)) else {
            continue;
        };
        let mut value = value.clone();
        match (key, &mut value) {
            // buildah adds a label that names itself.
            ("Labels", Value::Object(labels)) => {
                labels.remove("io.buildah.version");
            }
            // No directory is the root.
            ("WorkingDir", Value::String(dir)) if dir == "/" => continue,
            ("Env", Value::Array(env)) => env.sort_by_key(Value::to_string),
            ("Healthcheck", Value::Object(check)) => check.retain(|_, v| v != &json!(0)),
            _ => {}
        }
        if !empty(&value) {
            // Sorted keys: the order says nothing.
            if let Value::Object(map) = &mut value {
                map.sort_keys();
            }
            kept.insert(key.to_owned(), value);
        }
    }
    Value::Object(kept)
}

/// Path to kind, mode, owner and contents of everything in an archive.
fn listed(path: &Path) -> Result<BTreeMap<String, String>> {
    let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
    let mut archive = tar::Archive::new(file);
    let mut tree = BTreeMap::new();
    let mut contents = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name
            .trim_start_matches("./")
            .trim_end_matches('/')
            .to_owned();
        let own = |p: &str| name == p || name.strip_prefix(p).is_some_and(|r| r.starts_with('/'));
        if name.is_empty() || name == "." || OWN.iter().any(|p| own(p)) {
            continue;
        }
        let header = entry.header();
        let kind = header.entry_type();
        let link = entry.link_name_bytes().map(|l| {
            String::from_utf8_lossy(&l)
                .trim_start_matches("./")
                .to_owned()
        });
        let meta = format!(
            "{:o} {}:{}",
            header.mode()? & 0o7777,
            header.uid()?,
            header.gid()?
        );
        let what = if kind.is_hard_link() {
            // Which of the names is the file and which the link depends on the order of a directory.
            let first = link.and_then(|l| tree.get(&l).cloned());
            first.context("a hard link to nothing")?
        } else if kind.is_symlink() {
            format!(
                "link to {} {}:{}",
                link.unwrap_or_default(),
                header.uid()?,
                header.gid()?
            )
        } else if kind.is_dir() {
            format!("directory {meta}")
        } else if kind.is_file() {
            contents.clear();
            entry.read_to_end(&mut contents)?;
            format!(
                "file {meta} {} bytes {}",
                contents.len(),
                &files::hash_of([contents.as_slice()])[..12]
            )
        } else {
            format!("{kind:?} {meta}")
        };
        tree.insert(name, what);
    }
    Ok(tree)
}

/// buildah with a store of its own, in memory where there is such a place.
struct Oracle {
    dir: PathBuf,
}

impl Oracle {
    fn prepare(suite: &Suite) -> Result<Self> {
        suite.shell()?;
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            memory.to_owned()
        } else {
            suite.tmp().to_owned()
        };
        let dir = base.join(format!("bodkin-buildah-{}", std::process::id()));
        files::make_dir(&dir)?;
        let registries = format!(
            "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
            suite.registry().address()
        );
        files::write(&dir.join("registries.conf"), registries.as_bytes())?;
        files::write(
            &dir.join("policy.json"),
            br#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )?;
        Ok(Self { dir })
    }

    fn command(&self, suite: &Suite) -> Command {
        let mut command = suite.plain(Command::new("buildah"));
        // vfs needs no overlay on whatever the folder is on.
        command
            .args(["--storage-driver", "vfs", "--root"])
            .arg(self.dir.join("root"));
        command.arg("--runroot").arg(self.dir.join("run"));
        // It leaves a cache there.
        command.env("TMPDIR", &self.dir);
        command
            .arg("--registries-conf")
            .arg(self.dir.join("registries.conf"));
        command
    }

    fn build(&self, suite: &Suite, dir: &Path, args: &[(String, String)]) -> Result<Made> {
        let own = dir.join("oracle.Dockerfile");
        let file = if own.exists() {
            own
        } else {
            dir.join("Dockerfile")
        };
        let mut build = self.command(suite);
        build.args([
            "bud",
            "--isolation",
            "chroot",
            "--format",
            "docker",
            "--quiet",
            "--tag",
            "corpus",
            "--signature-policy",
        ]);
        build
            .arg(self.dir.join("policy.json"))
            .arg("--file")
            .arg(&file);
        // What only the folder has is no part of the context.
        let ignored = self.dir.join("ignored");
        files::write(&ignored, b"oracle.Dockerfile\nargs\ndiffers\n")?;
        build.arg("--ignorefile").arg(&ignored);
        for (name, value) in args {
            build.arg("--build-arg").arg(format!("{name}={value}"));
        }
        build.arg(dir);
        process::output(&mut build)?;
        let mut inspect = self.command(suite);
        inspect.args(["inspect", "--type", "image", "corpus"]);
        let inspected: Value = serde_json::from_slice(&process::output(&mut inspect)?)?;
        let config = whole(&inspected["Docker"]);
        let archive = self.dir.join("tree.tar");
        let mut tar = suite.plain(Command::new("tar"));
        tar.args(["--numeric-owner", "-C"])
            .arg(self.tree(&inspected)?);
        tar.arg("-cf").arg(&archive).arg(".");
        process::output(&mut tar)?;
        Ok(Made {
            tree: listed(&archive)?,
            config,
        })
    }

    /// Where the store has the files of an image. A container made from it would run its `ONBUILD`.
    fn tree(&self, inspected: &Value) -> Result<PathBuf> {
        let id = inspected["FromImageID"]
            .as_str()
            .context("an image without an ID")?;
        let images = files::read_text(&self.dir.join("root/vfs-images/images.json"))?;
        let images: Vec<Value> = serde_json::from_str(&images)?;
        let image = images
            .iter()
            .find(|i| i["id"] == id)
            .context("the image is not in the store")?;
        let layer = image["layer"]
            .as_str()
            .context("an image without a layer")?;
        Ok(self.dir.join("root/vfs/dir").join(layer))
    }

    fn end(self) -> Result<()> {
        fs::remove_dir_all(&self.dir)
            .with_context(|| format!("cannot remove `{}`", self.dir.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_is_not_compared() {
        let config = json!({"Cmd": null, "User": "", "WorkingDir": "/", "Env": ["B=1", "A=2"], "Labels": {"io.buildah.version": "1"}, "Image": "x"});
        let normal = normal(config.as_object().expect("an object"));
        assert_eq!(normal, json!({"Env": ["A=2", "B=1"]}));
    }
}
