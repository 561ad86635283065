//! Part `census`: that nothing is left behind.
//!
//! A count of what the kernel holds and of temporary files is taken before anything runs and after the engine has ended;
//! whatever is there only the second time is a leak.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::kill;
use super::suite::{Outcome, Suite};
use crate::process;

/// The kernel takes namespaces and mounts apart after the last process is gone.
const SETTLING: Duration = Duration::from_secs(10);

/// What there is, by kind: key → what a person wants to know of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    kinds: BTreeMap<&'static str, BTreeMap<String, String>>,
}

impl Census {
    /// Counts now. `folders`: where nothing of any name may be left.
    pub(super) fn take(folders: &[PathBuf]) -> Self {
        let mut census = Census::default();
        census.processes();
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        for line in read("/proc/self/mountinfo").lines() {
            census.add("mount", mount(line));
        }
        for line in read("/proc/net/dev").lines() {
            let name = line.split_once(':').map(|(name, _)| name.trim().to_owned());
            census.add("network link", name.map(plain));
        }
        for (table, listening) in [
            ("tcp", Some("0A")),
            ("tcp6", Some("0A")),
            ("udp", None),
            ("udp6", None),
        ] {
            for line in read(&format!("/proc/net/{table}")).lines().skip(1) {
                let port = port(line, listening);
                census.add("port", port.map(|p| plain(format!("{table} {p}"))));
            }
        }
        let mut nft = Command::new("nft");
        let rules = process::output_text(nft.args(["list", "ruleset"])).unwrap_or_default();
        for rule in rules_of(&rules) {
            census.add("firewall rule", Some(plain(rule)));
        }
        census.cgroups(Path::new("/sys/fs/cgroup"));
        for folder in folders {
            census.files(folder, |_| true);
        }
        for folder in ["/run", "/tmp", "/dev/shm", "/var/lib", "/var/tmp"] {
            let named = |name: &str| {
                ["bodkin", "dagger", "conf-"]
                    .iter()
                    .any(|n| name.starts_with(n))
            };
            census.files(Path::new(folder), named);
        }
        census.files(Path::new("/run/netns"), |_| true);
        census
    }

    fn add(&mut self, kind: &'static str, found: Option<(String, String)>) {
        let known = self.kinds.entry(kind).or_default();
        known.extend(found);
    }

    /// Processes of ours or in another pid namespace, and every namespace that a process is in or holds open.
    fn processes(&mut self) {
        let own = fs::read_link("/proc/self/ns/pid").ok();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<u32>().ok())
            else {
                continue;
            };
            let dir = entry.path();
            let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
            let name = stat.split(['(', ')']).nth(1).unwrap_or_default().to_owned();
            let holder = format!("of process {pid} ({name})");
            let exe = fs::read_link(dir.join("exe")).unwrap_or_default();
            let ours = exe
                .file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("bodkin"));
            let space = fs::read_link(dir.join("ns/pid")).ok();
            if ours || (space.is_some() && space != own) {
                // Fields after the name: the 20th is the start time, which tells a later process of the same number.
                let start = stat
                    .rsplit(')')
                    .next()
                    .and_then(|s| s.split_whitespace().nth(19));
                let key = format!("{pid} {name} (started at tick {})", start.unwrap_or("?"));
                self.add("process", Some((key, exe.display().to_string())));
            }
            for folder in ["ns", "fd"] {
                for entry in fs::read_dir(dir.join(folder))
                    .into_iter()
                    .flatten()
                    .flatten()
                {
                    let link = fs::read_link(entry.path()).unwrap_or_default();
                    let space = namespace(&link.to_string_lossy());
                    self.add("namespace", space.map(|s| (s, holder.clone())));
                }
            }
        }
    }

    fn cgroups(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().contains("bodkin") {
                self.add("cgroup", Some(plain(entry.path().display().to_string())));
            }
            self.cgroups(&entry.path());
        }
    }

    fn files(&mut self, folder: &Path, counts: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if counts(&entry.file_name().to_string_lossy()) {
                self.add("file", Some(plain(entry.path().display().to_string())));
            }
        }
    }

    /// What is here and was not in `before`, one line each.
    pub(super) fn since(&self, before: &Census) -> Vec<String> {
        let mut new = Vec::new();
        let none = BTreeMap::new();
        for (kind, found) in &self.kinds {
            let known = before.kinds.get(kind).unwrap_or(&none);
            let fresh = found.iter().filter(|(key, _)| !known.contains_key(*key));
            new.extend(
                fresh.map(|(key, more)| format!("{kind} {key} {more}").trim_end().to_owned()),
            );
        }
        new
    }
}

/// Counts until nothing of the kinds that `matters` is left, or `SETTLING` is over.
fn check(before: &Census, folders: &[PathBuf], matters: impl Fn(&str) -> bool) -> Result<()> {
    let start = Instant::now();
    loop {
        let mut now = Census::take(folders);
        now.kinds.retain(|kind, _| matters(kind));
        let left = now.since(before);
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > SETTLING {
            bail!("left behind:\n    {}", left.join("\n    "));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub(super) fn run(suite: &Suite, before: &Census) -> Result<Outcome> {
    let folders = [suite.tmp().to_owned()];
    let mut outcome = Outcome::default();
    let stopped = suite
        .stop()
        .and_then(|()| check(before, &folders, |_| true));
    outcome.count("nothing is left after the engine was stopped", stopped);
    // A leak that is known already would be found again; the registry outlives the engines that use it.
    let served = suite.serve();
    let before = Census::take(&folders);
    let killed = served.and_then(|()| kill::engine_in_mid_exec(suite));
    // The names that the dead engine gave to files and control groups are for its successor to remove.
    let held = |kind: &str| !matches!(kind, "file" | "cgroup");
    let killed = killed.and_then(|()| check(&before, &folders, held));
    outcome.count(
        "no process outlives an engine that was killed in the middle of an exec",
        killed,
    );
    let next = kill::next_engine(suite).and_then(|()| suite.stop());
    let next = next.and_then(|()| check(&before, &folders, |_| true));
    outcome.count("nothing is left after the next engine was stopped", next);
    Ok(outcome)
}

fn plain(key: String) -> (String, String) {
    (key, String::new())
}

/// A line of mountinfo as what is mounted where; numbers of mounts are given anew each time.
fn mount(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(" - ")?;
    let point = left.split(' ').nth(4)?;
    let mut right = right.split(' ');
    let (kind, source) = (right.next()?, right.next()?);
    Some((format!("{point} ({kind} {source})"), String::new()))
}

/// The local port of a line of /proc/net/tcp or udp, if the socket's state is the wanted one.
fn port(line: &str, state: Option<&str>) -> Option<u16> {
    let mut words = line.split_whitespace();
    let local = words.nth(1)?;
    let found = words.nth(1)?;
    if state.is_some_and(|s| s != found) {
        return None;
    }
    u16::from_str_radix(local.rsplit(':').next()?, 16).ok()
}

/// `net:[4026531840]`, if that is what a link says.
fn namespace(link: &str) -> Option<String> {
    let (kind, rest) = link.split_once(":[")?;
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    (kinds.contains(&kind) && rest.ends_with(']')).then(|| link.to_owned())
}

/// Each rule with the table and chain that it is in, without counters.
fn rules_of(ruleset: &str) -> BTreeSet<String> {
    let (mut inside, mut rules) = (Vec::new(), BTreeSet::new());
    for line in ruleset.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if line == "}" {
            inside.pop();
            continue;
        }
        let mut words: Vec<&str> = line.split(' ').collect();
        // `counter packets 1 bytes 2`
        while let Some(at) = words.iter().position(|w| *w == "packets") {
            words.drain(at..words.len().min(at + 4));
        }
        let rule = words.join(" ");
        match rule.strip_suffix(" {") {
            Some(heading) => {
                inside.push(heading.to_owned());
                rules.insert(inside.join(", "));
            }
            None => {
                rules.insert(format!("{}: {rule}", inside.join(", ")));
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(kind: &'static str, keys: &[&str]) -> Census {
        let keys = keys.iter().map(|k| ((*k).to_owned(), "there".to_owned()));
        Census {
            kinds: [(kind, keys.collect())].into(),
        }
    }

    #[test]
    fn only_what_is_new_is_left_behind() {
        let before = census("port", &["tcp 22"]);
        assert!(before.since(&before).is_empty() && Census::default().since(&before).is_empty());
        let after = census("port", &["tcp 22", "tcp 80"]);
        assert_eq!(after.since(&before), ["port tcp 80 there"]);
        assert_eq!(census("mount", &["/x"]).since(&before), ["mount /x there"]);
    }

    #[test]
    fn mounts_are_known_by_place_and_source() {
        let line = "36 25 0:31 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(mount(line).unwrap().0, "/sys/fs/cgroup (cgroup2 cgroup2)");
        assert_eq!(mount("nonsense"), None);
    }

    #[test]
    fn ports_are_read_from_hexadecimal() {
        let line =
            "   0: 0100007F:13BF 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0";
        assert_eq!(port(line, Some("0A")), Some(5055));
        assert_eq!(port(line, Some("01")), None);
        assert_eq!(port("sl local", None), None);
    }

    #[test]
    fn only_links_to_namespaces_count() {
        assert_eq!(
            namespace("net:[4026531840]").as_deref(),
            Some("net:[4026531840]")
        );
        assert_eq!(namespace("socket:[123]"), None);
        assert_eq!(namespace("/dev/null"), None);
    }

    #[test]
    fn rules_are_compared_without_counters() {
        let text = "table ip nat {\n\tchain post {\n\t\toifname \"e\" counter packets 3 bytes 180 masquerade\n\t}\n}\n";
        let rules = rules_of(text);
        assert!(
            rules.contains("table ip nat, chain post: oifname \"e\" counter masquerade"),
            "{rules:?}"
        );
        assert_eq!(rules.len(), 3);
    }

    #[test]
    fn this_very_process_lives_in_counted_namespaces() {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let census = Census::take(&[]);
        assert!(census.kinds["namespace"].contains_key(&*own.to_string_lossy()));
    }
}
