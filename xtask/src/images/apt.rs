//! Debian packages by way of apt: an own root for its state and cache, the machine's own Debian source, nothing installed.
//!
//! apt resolves (`--print-uris`), downloads and checks signatures. The machine's apt configuration is used for what
//! concerns reaching the source (proxies, certificates); its hooks and other sources are not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::files::{self, hash_of};
use crate::process;

/// A package file as apt names it: `NAME_VERSION_ARCH.deb`, with the size that the index says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Deb {
    pub(crate) file: String,
    pub(crate) size: u64,
}

impl Deb {
    pub(crate) fn name(&self) -> &str {
        self.file.split('_').next().unwrap_or_default()
    }

    /// `name=version`, with the escapes of the file name undone.
    fn with_version(&self) -> String {
        let version = self.file.split('_').nth(1).unwrap_or_default();
        format!(
            "{}={}",
            self.name(),
            version.replace("%3a", ":").replace("%7e", "~")
        )
    }
}

/// apt with its state in our cache folder.
pub(crate) struct Apt {
    dir: PathBuf,
    /// The Debian source in deb822 form, as written into the images too.
    pub(crate) source: String,
    /// Changes when the package indexes change.
    pub(crate) index_key: String,
}

impl Apt {
    /// Sets up the root in `dir`; fetches the package indexes if there are none or `update` asks for it.
    pub(crate) fn open(dir: &Path, suite: &str, update: bool) -> Result<Self> {
        let source = machine_source(suite, Path::new("/etc/apt"))?;
        for below in [
            "none",
            "parts",
            "state/lists/partial",
            "cache/archives/partial",
            "empty/partial",
            "plans",
        ] {
            files::make_dir(&dir.join(below))?;
        }
        files::write(&dir.join("parts/debian.sources"), source.as_bytes())?;
        for empty in ["sources.list", "state/status", "none.conf"] {
            files::write(&dir.join(empty), b"")?;
        }
        // Other sources may carry a suite of the same name: Debian's packages win.
        files::write(
            &dir.join("preferences"),
            b"Package: *\nPin: release o=Debian\nPin-Priority: 900\n",
        )?;
        let machine = process::output_text(Command::new("apt-config").arg("dump"))?;
        files::write(
            &dir.join("apt.conf"),
            configuration(dir, &machine).as_bytes(),
        )?;
        let mut apt = Apt {
            dir: dir.to_owned(),
            source,
            index_key: String::new(),
        };
        let last = dir.join("state/last-source");
        let current = fs::read_to_string(&last).is_ok_and(|text| text == apt.source);
        if update || !current || apt.release_files()?.is_empty() {
            apt.update()?;
            files::write(&last, apt.source.as_bytes())?;
        }
        apt.index_key = apt.key()?;
        Ok(apt)
    }

    /// Fetches the package indexes again.
    pub(crate) fn update(&mut self) -> Result<()> {
        eprintln!("fetching the Debian package indexes");
        process::output(self.command("apt-get").args([
            "-o",
            "APT::Update::Error-Mode=any",
            "update",
        ]))?;
        self.index_key = self.key()?;
        Ok(())
    }

    fn release_files(&self) -> Result<Vec<PathBuf>> {
        let mut lists = files::list(&self.dir.join("state/lists"))?;
        lists.retain(|p| p.to_string_lossy().ends_with("Release"));
        Ok(lists)
    }

    fn key(&self) -> Result<String> {
        let mut parts = vec![self.source.clone().into_bytes()];
        for path in self.release_files()? {
            parts.push(files::read(&path)?);
        }
        Ok(hash_of(parts.iter().map(Vec::as_slice)))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }

    /// What `packages` need beyond `status`, the text of a dpkg status file, sorted by file name.
    pub(crate) fn resolve(&self, packages: &[String], status: &str) -> Result<Vec<Deb>> {
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        let joined = packages.join("\n");
        let key = hash_of([
            joined.as_bytes(),
            status.as_bytes(),
            self.index_key.as_bytes(),
        ]);
        let plan = self.dir.join("plans").join(format!("{}.json", &key[..24]));
        if let Ok(text) = fs::read(&plan)
            && let Ok(debs) = serde_json::from_slice(&text)
        {
            return Ok(debs);
        }
        let status_file = plan.with_extension("status");
        files::write(&status_file, status.as_bytes())?;
        // An archive folder that stays empty: `--print-uris` leaves out what was downloaded before.
        let mut command = self.command("apt-get");
        command
            .arg("-o")
            .arg(format!("Dir::State::status={}", status_file.display()));
        command.arg("-o").arg(format!(
            "Dir::Cache::archives={}",
            self.dir.join("empty").display()
        ));
        command
            .args(["-y", "--print-uris", "install"])
            .args(packages);
        let text = process::output_text(&mut command);
        fs::remove_file(&status_file).ok();
        let debs = parse_uris(&text?);
        files::write(&plan, &serde_json::to_vec(&debs)?)?;
        Ok(debs)
    }

    /// Stanzas that say: these packages are installed. They must be the index's word for word, or apt takes them for
    /// another build and fetches them again.
    pub(crate) fn installed(&self, names: &[&str]) -> Result<String> {
        if names.is_empty() {
            return Ok(String::new());
        }
        Ok(mark_installed(&self.show(names)?))
    }

    /// Stanzas that make apt believe that packages are there which are left out on purpose. The version is a little
    /// higher than the real one, or apt would "upgrade" them.
    pub(crate) fn left_out(&self, names: &[String]) -> Result<String> {
        if names.is_empty() {
            return Ok(String::new());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(stanzas(&self.show(&names)?)
            .map(left_out_stanza)
            .collect::<Vec<_>>()
            .join("\n"))
    }

    fn show(&self, names: &[&str]) -> Result<String> {
        process::output_text(
            self.command("apt-cache")
                .args(["show", "--no-all-versions"])
                .args(names),
        )
    }

    /// The file of `deb`, once downloaded.
    pub(crate) fn path(&self, deb: &Deb) -> PathBuf {
        self.dir.join("cache/archives").join(&deb.file)
    }

    /// Downloads what is missing.
    pub(crate) fn download(&self, debs: &[&Deb]) -> Result<()> {
        let absent = |d: &&Deb| fs::metadata(self.path(d)).map(|m| m.len()).ok() != Some(d.size);
        let mut missing: Vec<&Deb> = debs.iter().copied().filter(absent).collect();
        missing.sort();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let bytes: u64 = missing.iter().map(|d| d.size).sum();
        eprintln!(
            "downloading {} Debian packages, {:.1} MB",
            missing.len(),
            bytes as f64 / 1e6
        );
        for deb in &missing {
            fs::remove_file(self.path(deb)).ok();
        }
        let mut command = self.command("apt-get");
        command
            .current_dir(self.dir.join("cache/archives"))
            .args(["-q", "download"]);
        process::output(command.args(missing.iter().map(|d| d.with_version())))?;
        match missing.iter().copied().find(absent) {
            None => Ok(()),
            Some(deb) => bail!(
                "`{}` is missing or has another size after the download",
                self.path(deb).display()
            ),
        }
    }
}

/// apt's configuration: everything of ours below `dir`, of the machine's only how to reach sources.
fn configuration(dir: &Path, machine: &str) -> String {
    let dir = dir.display();
    let mut text = format!(
        "Dir::Etc::parts \"{dir}/none\";\nDir::Etc::main \"{dir}/none.conf\";\nDir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"{dir}/parts\";\nDir::Etc::preferences \"{dir}/preferences\";\n\
         Dir::Etc::preferencesparts \"{dir}/none\";\nDir::State \"{dir}/state\";\nDir::State::status \"{dir}/state/status\";\n\
         Dir::Cache \"{dir}/cache\";\nAcquire::Languages \"none\";\nAcquire::Queue-Mode \"access\";\nAcquire::Retries \"3\";\n\
         APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\n"
    );
    let wanted = [
        "Acquire::http",
        "Acquire::ftp",
        "Acquire::ForceIPv",
        "Acquire::Check-",
        "Acquire::socks",
        "Acquire::tor",
    ];
    for line in machine
        .lines()
        .filter(|l| wanted.iter().any(|w| l.starts_with(w)))
    {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The lines `'URI' FILE SIZE HASH` of `--print-uris`.
fn parse_uris(text: &str) -> Vec<Deb> {
    let parse = |line: &str| {
        let mut words = line.strip_prefix('\'')?.split_once("' ")?.1.split(' ');
        let file = words.next()?.to_owned();
        Some(Deb {
            file,
            size: words.next()?.parse().ok()?,
        })
    };
    let mut debs: Vec<Deb> = text.lines().filter_map(parse).collect();
    debs.sort();
    debs
}

/// The stanzas of a control file, without empty ones.
pub(crate) fn stanzas(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n")
        .map(|s| s.trim_matches('\n'))
        .filter(|s| !s.is_empty())
}

/// The first line of a field; continuation lines are not asked for here.
pub(crate) fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// Puts `Status: install ok installed` below each `Package` line.
pub(crate) fn mark_installed(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1024);
    for line in text.lines() {
        out.push_str(line);
        out.push('\n');
        if line.starts_with("Package: ") {
            out.push_str("Status: install ok installed\n");
        }
    }
    out
}

fn left_out_stanza(stanza: &str) -> String {
    let mut out = String::new();
    for name in ["Package", "Architecture", "Multi-Arch", "Provides"] {
        if let Some(value) = field(stanza, name) {
            out.push_str(&format!("{name}: {value}\n"));
        }
    }
    let version = field(stanza, "Version").unwrap_or_default();
    out.push_str(&format!(
        "Status: install ok installed\nMaintainer: none\nVersion: {version}+left.out\nDescription: left out of this image\n"
    ));
    out
}

/// The entries of the machine's apt configuration that are `suite`, its updates or its security fixes, in deb822 form.
fn machine_source(suite: &str, etc: &Path) -> Result<String> {
    let mut entries = Vec::new();
    for path in [
        vec![etc.join("sources.list")],
        files::list(&etc.join("sources.list.d"))?,
    ]
    .concat()
    {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        match path.extension().and_then(|e| e.to_str()) {
            Some("sources") => entries.extend(deb822_entries(&text)),
            Some("list") => entries.extend(text.lines().filter_map(one_line_entry)),
            _ => {}
        }
    }
    let suites = [
        suite.to_owned(),
        format!("{suite}-updates"),
        format!("{suite}-security"),
    ];
    let mut out: Vec<String> = Vec::new();
    let mut complete = false;
    for mut entry in entries {
        let named = |key: &str| {
            entry
                .get(key)
                .map(|v| v.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        let kept: Vec<String> = named("Suites")
            .unwrap_or_default()
            .into_iter()
            .filter(|s| suites.contains(s))
            .collect();
        let binary = named("Types")
            .unwrap_or_default()
            .iter()
            .any(|t| t == "deb");
        let main = named("Components")
            .unwrap_or_default()
            .iter()
            .any(|c| c == "main");
        if kept.is_empty() || !binary || !main || entry.get("Enabled").is_some_and(|e| e == "no") {
            continue;
        }
        complete |= kept.iter().any(|s| s == suite);
        entry.insert("Types".to_owned(), "deb".to_owned());
        entry.insert("Suites".to_owned(), kept.join(" "));
        entry.insert("Components".to_owned(), "main".to_owned());
        let keys = [
            "Types",
            "URIs",
            "Suites",
            "Components",
            "Signed-By",
            "Trusted",
        ];
        let text: String = keys
            .iter()
            .filter_map(|k| entry.get(*k).map(|v| format!("{k}: {v}\n")))
            .collect();
        if !out.contains(&text) {
            out.push(text);
        }
    }
    if !complete {
        bail!(
            "the machine's apt configuration in `{}` has no source for Debian `{suite}`, component `main`",
            etc.display()
        );
    }
    Ok(out.join("\n"))
}

/// The stanzas of a `.sources` file; continuation lines are joined with a line break, comments dropped.
fn deb822_entries(text: &str) -> Vec<BTreeMap<String, String>> {
    let text: String = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .flat_map(|l| [l.trim_end(), "\n"])
        .collect();
    let mut entries = Vec::new();
    for stanza in stanzas(&text) {
        let mut entry: BTreeMap<String, String> = BTreeMap::new();
        let mut last = String::new();
        for line in stanza.lines() {
            if line.starts_with(char::is_whitespace) {
                if let Some(value) = entry.get_mut(&last) {
                    value.push('\n');
                    value.push_str(line);
                }
            } else if let Some((key, value)) = line.split_once(':') {
                last = key.to_owned();
                entry.insert(last.clone(), value.trim().to_owned());
            }
        }
        entries.push(entry);
    }
    entries
}

/// `deb [options] URI SUITE COMPONENTS…`.
fn one_line_entry(line: &str) -> Option<BTreeMap<String, String>> {
    let rest = line
        .trim()
        .strip_prefix("deb")?
        .strip_prefix([' ', '\t'])?
        .trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split('#').next()?.split_whitespace();
    let mut entry = BTreeMap::from([("Types".to_owned(), "deb".to_owned())]);
    entry.insert("URIs".to_owned(), words.next()?.to_owned());
    entry.insert("Suites".to_owned(), words.next()?.to_owned());
    entry.insert("Components".to_owned(), words.collect::<Vec<_>>().join(" "));
    for option in options.split_whitespace() {
        match option.split_once('=') {
            Some(("signed-by", key)) => entry.insert("Signed-By".to_owned(), key.to_owned()),
            Some(("trusted", value)) => entry.insert("Trusted".to_owned(), value.to_owned()),
            _ => None,
        };
    }
    Some(entry)
}

/// The Debian name of this machine's architecture.
pub(crate) fn architecture() -> Result<String> {
    let text = process::output_text(Command::new("dpkg").arg("--print-architecture"));
    Ok(text
        .context("cannot learn the architecture; images are made on Debian")?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_parsed_and_sorted() {
        let text = "Reading…\n'scheme://h/b_1%3a2_all.deb' b_1%3a2_all.deb 12 SHA256:ab\n'scheme://h/a_1_amd64.deb' a_1_amd64.deb 3 \n";
        let debs = parse_uris(text);
        assert_eq!(
            debs[0],
            Deb {
                file: "a_1_amd64.deb".to_owned(),
                size: 3
            }
        );
        assert_eq!(debs[1].with_version(), "b=1:2");
    }

    #[test]
    fn only_the_suite_s_own_entries_are_taken() {
        let text = "Types: deb deb-src\n# note\nURIs: scheme://one/\nSuites: bookworm bookworm-backports\nComponents: main contrib\n\n\
                    Types: deb\nURIs: scheme://two/\nSuites: nodistro\nComponents: main\n";
        let dir = std::env::temp_dir().join(format!("xtask-apt-{}", std::process::id()));
        fs::create_dir_all(dir.join("sources.list.d")).unwrap();
        fs::write(dir.join("sources.list.d/a.sources"), text).unwrap();
        fs::write(
            dir.join("sources.list"),
            "deb [signed-by=/k] scheme://three bookworm-updates main # why\n",
        )
        .unwrap();
        let source = machine_source("bookworm", &dir);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            source.unwrap(),
            "Types: deb\nURIs: scheme://three\nSuites: bookworm-updates\nComponents: main\nSigned-By: /k\n\n\
             Types: deb\nURIs: scheme://one/\nSuites: bookworm\nComponents: main\n"
        );
    }

    #[test]
    fn left_out_packages_have_no_dependencies_and_a_higher_version() {
        let stanza =
            "Package: perl\nVersion: 5\nArchitecture: amd64\nDepends: libc6\nProvides: p5\n";
        let text = left_out_stanza(stanza);
        assert!(
            text.contains("Version: 5+left.out\n")
                && text.contains("Provides: p5\n")
                && !text.contains("Depends")
        );
    }
}
