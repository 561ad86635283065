//! Pouring a Debian package into a layer: its files, and its entry for the dpkg database.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tar::{Archive, EntryType};

use super::apt::{field, mark_installed, stanzas};
use super::layer::{Attributes, Kind, Layer};
use crate::process;

/// Files larger than this are never kept in memory.
const KEEP_LIMIT: u64 = 8 << 20;

/// How package paths become layer paths.
pub(crate) struct Rules<'a> {
    /// Prefixes of layer paths to leave out.
    pub(crate) drop: Vec<&'a str>,
    /// `/bin`, `/lib` and so on are links into `/usr`.
    pub(crate) merged_usr: bool,
    /// Write the dpkg database.
    pub(crate) database: bool,
}

impl Rules<'_> {
    fn place(&self, path: &str) -> String {
        if !self.merged_usr {
            return path.to_owned();
        }
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        match first {
            "bin" | "sbin" | "lib" | "lib32" | "lib64" | "libx32" => format!("usr/{path}"),
            "var" if rest.starts_with("run/") || rest.starts_with("lock/") => {
                match rest.strip_prefix("lock/") {
                    Some(below) => format!("run/lock/{below}"),
                    None => rest.to_owned(),
                }
            }
            _ => path.to_owned(),
        }
    }

    fn drops(&self, path: &str, is_dir: bool) -> bool {
        // A prefix that ends in a slash names a folder: the folder itself goes too.
        self.drop
            .iter()
            .any(|d| path.starts_with(d) || (is_dir && d.strip_suffix('/') == Some(path)))
    }
}

/// Files whose contents later steps need: by exact path, or by a prefix that ends in a slash.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) wanted: Vec<&'static str>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Kept {
    fn wants(&self, path: &str) -> bool {
        self.wanted
            .iter()
            .any(|w| *w == path || (w.ends_with('/') && path.starts_with(w)))
    }

    /// The contents of a kept file, or an error that names it.
    pub(crate) fn get(&self, path: &str) -> Result<&[u8]> {
        self.files
            .get(path)
            .map(Vec::as_slice)
            .with_context(|| format!("no package brought `{path}`"))
    }

    pub(crate) fn text(&self, path: &str) -> Result<&str> {
        std::str::from_utf8(self.get(path)?).with_context(|| format!("`{path}` is not UTF-8"))
    }
}

/// Adds all of the package at `path`; returns its stanza for the dpkg status file.
pub(crate) fn pour(
    layer: &mut Layer,
    path: &Path,
    rules: &Rules<'_>,
    kept: &mut Kept,
) -> Result<String> {
    let context = || format!("cannot unpack `{}`", path.display());
    let names = pour_files(layer, path, rules, kept).with_context(context)?;
    let control = read_control(path).with_context(context)?;
    let fields = control
        .get("control")
        .map(|(_, text)| String::from_utf8_lossy(text).into_owned());
    let fields = fields.with_context(context)?;
    let mut stanza = mark_installed(fields.trim());
    if let Some((_, files)) = control.get("conffiles") {
        // dpkg wants a hash; one that never matches means "the user changed it", which keeps the file on upgrades.
        stanza.push_str("Conffiles:\n");
        for file in String::from_utf8_lossy(files)
            .lines()
            .filter(|l| l.starts_with('/'))
        {
            stanza.push_str(&format!(" {file} {:032}\n", 0));
        }
    }
    if rules.database {
        let id = stanza_id(&fields);
        layer.file(
            &format!("var/lib/dpkg/info/{id}.list"),
            names.join("\n") + "\n",
            0o644,
        )?;
        for (name, (mode, contents)) in &control {
            if !["control", "templates", "config", "shlibs", "symbols"].contains(&name.as_str()) {
                layer.file(&format!("var/lib/dpkg/info/{id}.{name}"), contents, *mode)?;
            }
        }
    }
    Ok(stanza)
}

/// How dpkg names the files of a package in its database: with the architecture if several may be installed at once.
fn stanza_id(stanza: &str) -> String {
    let package = field(stanza, "Package").unwrap_or_default();
    match field(stanza, "Multi-Arch") {
        Some("same") => format!(
            "{package}:{}",
            field(stanza, "Architecture").unwrap_or_default()
        ),
        _ => package.to_owned(),
    }
}

/// The names of all packages of a status file, as dpkg's database has them.
pub(crate) fn stanza_ids(status: &str) -> Vec<String> {
    stanzas(status).map(stanza_id).collect()
}

/// Adds the package's files; returns the paths as dpkg lists them.
fn pour_files(
    layer: &mut Layer,
    path: &Path,
    rules: &Rules<'_>,
    kept: &mut Kept,
) -> Result<Vec<String>> {
    let mut unpack = Command::new("dpkg-deb");
    unpack
        .arg("--fsys-tarfile")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut unpack = unpack.spawn().context("cannot run `dpkg-deb`")?;
    let stdout = unpack.stdout.take().context("`dpkg-deb` has no output")?;
    let mut archive = Archive::new(BufReader::with_capacity(1 << 18, stdout));
    let mut names = vec!["/.".to_owned()];
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(name) = relative(&entry.path_bytes())? else {
            continue;
        };
        names.push(format!("/{name}"));
        let place = rules.place(&name);
        let header = entry.header();
        let kind = header.entry_type();
        if rules.drops(&place, kind == EntryType::Directory) {
            continue;
        }
        let attributes = Attributes {
            mode: header.mode()?,
            uid: header.uid()?,
            gid: header.gid()?,
            mtime: header.mtime()?,
        };
        let size = entry.size();
        let target = entry
            .link_name_bytes()
            .map(|b| String::from_utf8(b.into_owned()))
            .transpose()?
            .unwrap_or_default();
        match kind {
            EntryType::Regular | EntryType::Continuous
                if kept.wants(&place) && size <= KEEP_LIMIT =>
            {
                let mut contents = Vec::new();
                entry.read_to_end(&mut contents)?;
                layer.add(
                    &place,
                    Kind::File {
                        size,
                        data: &mut contents.as_slice(),
                    },
                    attributes,
                )?;
                kept.files.insert(place, contents);
            }
            EntryType::Regular | EntryType::Continuous => {
                layer.add(
                    &place,
                    Kind::File {
                        size,
                        data: &mut entry,
                    },
                    attributes,
                )?;
            }
            EntryType::Directory => layer.add(&place, Kind::Dir, attributes)?,
            EntryType::Symlink => layer.add(&place, Kind::Symlink(&target), attributes)?,
            EntryType::Link => {
                let target = rules.place(&relative(target.as_bytes())?.unwrap_or_default());
                layer.add(&place, Kind::HardLink(&target), attributes)?;
            }
            other => bail!("`{name}` is of kind {other:?}, which no package should hold"),
        }
    }
    // What follows the end mark must be read, or dpkg-deb fails for the closed pipe.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink())?;
    let status = unpack.wait().context("cannot wait for `dpkg-deb`")?;
    if !status.success() {
        bail!("`dpkg-deb --fsys-tarfile` failed ({status})");
    }
    Ok(names)
}

/// The files of the package's control archive with their modes.
fn read_control(path: &Path) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
    let bytes = process::output(Command::new("dpkg-deb").arg("--ctrl-tarfile").arg(path))?;
    let mut files = BTreeMap::new();
    for entry in Archive::new(bytes.as_slice()).entries()? {
        let mut entry = entry?;
        let Some(name) = relative(&entry.path_bytes())? else {
            continue;
        };
        if entry.header().entry_type() == EntryType::Regular {
            let mode = entry.header().mode()? & 0o777;
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents)?;
            files.insert(name, (mode, contents));
        }
    }
    Ok(files)
}

/// `./usr/bin/` → `usr/bin`; nothing for the root itself.
fn relative(path: &[u8]) -> Result<Option<String>> {
    let path = std::str::from_utf8(path).context("path is not UTF-8")?;
    let path = path.strip_prefix("./").unwrap_or(path).trim_matches('/');
    if path.split('/').any(|p| p == "..") {
        bail!("path `{path}` leads out of the package");
    }
    Ok((!path.is_empty() && path != ".").then(|| path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules<'static> {
        Rules {
            drop: vec!["usr/share/doc/", "usr/bin/x"],
            merged_usr: true,
            database: false,
        }
    }

    #[test]
    fn merged_usr_moves_what_lies_in_linked_folders() {
        let rules = rules();
        let moved = [
            "bin/sh",
            "lib64",
            "library/x",
            "var/run/a",
            "var/lock/b",
            "usr/bin",
        ]
        .map(|p| rules.place(p));
        assert_eq!(
            moved,
            [
                "usr/bin/sh",
                "usr/lib64",
                "library/x",
                "run/a",
                "run/lock/b",
                "usr/bin"
            ]
        );
    }

    #[test]
    fn a_dropped_prefix_takes_its_folder_along() {
        let rules = rules();
        assert!(
            rules.drops("usr/share/doc", true)
                && rules.drops("usr/share/doc/a", false)
                && rules.drops("usr/bin/xy", false)
        );
        assert!(!rules.drops("usr/share/doc", false) && !rules.drops("usr/share/docs", true));
    }

    #[test]
    fn paths_are_relative_and_stay_inside() {
        assert_eq!(relative(b"./usr/bin/").unwrap().as_deref(), Some("usr/bin"));
        assert_eq!(relative(b"./").unwrap(), None);
        assert!(relative(b"./a/../../b").is_err());
    }
}
