//! A docker-registry on loopback that stands in for Docker Hub and takes pushes.
//!
//! It is filled by hard links into its storage folder (the layout that docker-registry has had since 2.0), which takes a
//! fraction of the time of pushing. Whether it serves what we expect is then asked over HTTP, by digest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::images::{Manifest, blob_path, read_list, referenced};
use crate::process::Service;
use crate::{files, workspace};

const PROGRAM: &str = "docker-registry";
const START_LIMIT: Duration = Duration::from_secs(15);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The registry of this work tree.
pub(crate) struct Registry {
    dir: PathBuf,
    pub(crate) port: u16,
}

impl Registry {
    pub(crate) fn new(port: u16) -> Self {
        Registry {
            dir: workspace::target("registry"),
            port,
        }
    }

    /// `HOST:PORT`, as image references and engine.json write it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("registry.log")
    }

    pub(crate) fn service(&self) -> Service {
        Service {
            name: "registry",
            pid_file: self.dir.join("registry.pid"),
            mark: self.config().display().to_string(),
        }
    }

    fn config(&self) -> PathBuf {
        self.dir.join("config.yml")
    }

    /// Makes the registry serve the images of the layout that `list`, an `images.json`, belongs to.
    pub(crate) fn serve(&self, list: &Path) -> Result<()> {
        let _lock = files::lock(&self.dir.join("lock"))?;
        let images = read_list(list)?;
        let layout = list
            .parent()
            .context("the list of images lies in no folder")?;
        self.fill(&images, &layout.join("blobs/sha256"))?;
        self.start()?;
        let client = Client {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)),
        };
        for (name, manifest) in &images {
            let served = client.digest(name)?;
            if served.as_ref() != Some(&manifest.digest) {
                let ours = self.service().running()?.is_some();
                let hint = if ours {
                    "`cargo xtask down` and try again"
                } else {
                    "another program listens there; stop it or give `--port`"
                };
                bail!(
                    "the registry at {} does not serve `{name}` as built ({}); {hint}",
                    self.address(),
                    served.as_deref().unwrap_or("not found")
                );
            }
        }
        Ok(())
    }

    /// Puts blobs and names into the storage folder, unless the same list was put there last. What was put there before and
    /// is in no image any more goes.
    fn fill(&self, images: &BTreeMap<String, Manifest>, blobs: &Path) -> Result<()> {
        let mut filled = Filled {
            images: images.clone(),
            blobs: BTreeSet::new(),
        };
        let stamp = self.dir.join("filled.json");
        let last: Option<Filled> = fs::read(&stamp)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        if last.as_ref().is_some_and(|last| last.images == *images) {
            return Ok(());
        }
        let storage = Storage {
            root: self.dir.join("data/docker/registry/v2"),
        };
        for (name, manifest) in images {
            let (repository, tag) = name
                .rsplit_once(':')
                .with_context(|| format!("image name `{name}` has no tag"))?;
            let parts = referenced(blobs, &manifest.digest)?;
            for digest in parts
                .iter()
                .chain([&manifest.digest])
                .filter(|d| filled.blobs.insert((*d).clone()))
            {
                storage.add_blob(&blob_path(blobs, digest), digest)?;
            }
            for digest in &parts {
                storage.add_link(&format!("{repository}/_layers"), digest)?;
            }
            storage.tag(repository, tag, &manifest.digest)?;
        }
        for old in last.iter().flat_map(|l| l.blobs.difference(&filled.blobs)) {
            fs::remove_file(storage.blob(old)?).ok();
        }
        files::write(&stamp, &serde_json::to_vec(&filled)?)
    }

    /// Starts the program if nothing listens on the port, and waits until it answers.
    fn start(&self) -> Result<()> {
        let client = Client {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)),
        };
        if client.answers() {
            return Ok(());
        }
        if self.service().stop()? {
            eprintln!("stopped the registry that listened on another port");
        }
        files::write(&self.config(), self.configuration().as_bytes())?;
        let log = File::create(self.log())
            .with_context(|| format!("cannot create `{}`", self.log().display()))?;
        // A session of its own, so that the terminal's signals do not reach it.
        let mut command = Command::new("setsid");
        command
            .arg(PROGRAM)
            .arg("serve")
            .arg(self.config())
            .env_remove("OTEL_TRACES_EXPORTER");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command.spawn().context("cannot run `setsid`")?;
        self.service().record(child.id())?;
        let started = Instant::now();
        while !client.answers() {
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                bail!(
                    "`{PROGRAM}` ended at once ({status})\n{}",
                    log.lines().last().unwrap_or_default()
                );
            }
            if started.elapsed() > START_LIMIT {
                bail!(
                    "`{PROGRAM}` does not answer on {}; its log is `{}`",
                    self.address(),
                    self.log().display()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("registry listens on {}", self.address());
        Ok(())
    }

    fn configuration(&self) -> String {
        let data = self.dir.join("data");
        // No cache of descriptors: the storage is filled behind the program's back.
        format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: '{}'}}\n  delete: {{enabled: true}}\n\
             http:\n  addr: {}\n  relativeurls: true\n",
            data.display(),
            self.address()
        )
    }
}

/// What was put into the storage folder last.
#[derive(Debug, Serialize, Deserialize)]
struct Filled {
    images: BTreeMap<String, Manifest>,
    /// Digests of all that the images consist of.
    blobs: BTreeSet<String>,
}

/// What a person has to install for the registry to run; nothing if it is there.
pub(crate) fn missing_program() -> Option<&'static str> {
    let found = std::env::var_os("PATH")
        .is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(PROGRAM).is_file()));
    (!found).then_some(
        "`docker-registry` is not installed; on Debian: `apt-get install docker-registry`",
    )
}

/// docker-registry's storage folder.
struct Storage {
    root: PathBuf,
}

impl Storage {
    fn blob(&self, digest: &str) -> Result<PathBuf> {
        let hex = hex_of(digest)?;
        Ok(self
            .root
            .join("blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data"))
    }

    fn add_blob(&self, from: &Path, digest: &str) -> Result<()> {
        let to = self.blob(digest)?;
        if to.exists() {
            return Ok(());
        }
        if let Some(parent) = to.parent() {
            files::make_dir(parent)?;
        }
        if fs::hard_link(from, &to).is_err() {
            fs::copy(from, &to).with_context(|| {
                format!("cannot copy `{}` to `{}`", from.display(), to.display())
            })?;
        }
        Ok(())
    }

    /// Says that a repository has this blob; `below` is `REPOSITORY/_layers` or the like.
    fn add_link(&self, below: &str, digest: &str) -> Result<()> {
        let dir = self
            .root
            .join("repositories")
            .join(below)
            .join("sha256")
            .join(hex_of(digest)?);
        files::make_dir(&dir)?;
        files::write(&dir.join("link"), digest.as_bytes())
    }

    fn tag(&self, repository: &str, tag: &str, digest: &str) -> Result<()> {
        self.add_link(&format!("{repository}/_manifests/revisions"), digest)?;
        self.add_link(&format!("{repository}/_manifests/tags/{tag}/index"), digest)?;
        let current = self
            .root
            .join("repositories")
            .join(repository)
            .join("_manifests/tags")
            .join(tag)
            .join("current");
        files::make_dir(&current)?;
        files::write(&current.join("link"), digest.as_bytes())
    }
}

fn hex_of(digest: &str) -> Result<&str> {
    let hex = digest
        .strip_prefix("sha256:")
        .filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()));
    hex.with_context(|| format!("`{digest}` is not a sha256 digest"))
}

/// As much of an HTTP client as asking for a digest takes.
struct Client {
    address: SocketAddr,
}

impl Client {
    fn answers(&self) -> bool {
        self.head("/v2/")
            .is_ok_and(|head| head.starts_with("HTTP/1.1 200"))
    }

    /// The digest that `REPOSITORY:TAG` has; nothing if the registry does not know it.
    fn digest(&self, name: &str) -> Result<Option<String>> {
        let (repository, tag) = name
            .rsplit_once(':')
            .with_context(|| format!("image name `{name}` has no tag"))?;
        let head = self.head(&format!("/v2/{repository}/manifests/{tag}"));
        let head = head
            .with_context(|| format!("cannot ask the registry at {} for `{name}`", self.address))?;
        let value = |line: &str| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case("docker-content-digest")
                .then(|| value.trim().to_owned())
        };
        Ok(head.lines().find_map(value))
    }

    fn head(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let accept =
            "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
        let host = self.address;
        write!(
            stream,
            "HEAD {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )?;
        let mut head = String::new();
        stream.take(1 << 16).read_to_string(&mut head)?;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_points_to_its_manifest() {
        let root = std::env::temp_dir().join(format!("xtask-registry-{}", std::process::id()));
        let digest = format!("sha256:{}", "ab".repeat(32));
        Storage { root: root.clone() }
            .tag("library/x", "1", &digest)
            .unwrap();
        let link =
            fs::read_to_string(root.join("repositories/library/x/_manifests/tags/1/current/link"));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(link.unwrap(), digest);
    }

    #[test]
    fn a_malformed_digest_never_becomes_a_path() {
        assert!(hex_of("sha256:../../x").is_err() && hex_of("md5:ab").is_err());
    }
}
