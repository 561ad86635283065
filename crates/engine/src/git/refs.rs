//! The references of a repository, and which one a name means.

use std::collections::BTreeMap;

/// What a repository lists.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Refs {
    /// Full name to object.
    all: BTreeMap<String, String>,
    /// Annotated tags: full name to the commit.
    peeled: BTreeMap<String, String>,
    /// The branch that `HEAD` is.
    head: Option<String>,
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Full name, or the commit's hash.
    pub name: String,
    /// The commit.
    pub commit: String,
}

/// What kind of name is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything.
    Any,
    /// Only a branch.
    Branch,
    /// Only a tag.
    Tag,
    /// Only a hash.
    Commit,
}

/// Is it the whole hash of an object?
pub fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Refs {
    /// Reads what `git ls-remote --symref` prints.
    pub fn parse(text: &str) -> Self {
        let mut refs = Self::default();
        for line in text.lines() {
            let Some((value, name)) = line.split_once('\t') else {
                continue;
            };
            if let Some(target) = value.strip_prefix("ref: ") {
                if name == "HEAD" {
                    refs.head = Some(target.to_owned());
                }
            } else if is_hash(value) {
                match name.strip_suffix("^{}") {
                    Some(tag) => refs.peeled.insert(tag.to_owned(), value.to_owned()),
                    None => refs.all.insert(name.to_owned(), value.to_owned()),
                };
            }
        }
        refs
    }

    fn exact(&self, name: &str) -> Option<Resolved> {
        let object = self.all.get(name)?;
        Some(Resolved {
            name: name.to_owned(),
            commit: self.peeled.get(name).unwrap_or(object).clone(),
        })
    }

    /// The tip of the default branch.
    pub fn head(&self) -> Option<Resolved> {
        let found = self.exact("HEAD")?;
        Some(Resolved {
            name: self.head.clone().unwrap_or(found.name),
            ..found
        })
    }

    /// What a name means; a branch wins over a tag of the same name.
    pub fn find(&self, name: &str, kind: Kind) -> Option<Resolved> {
        let short = |folder: &str| {
            let name = name.strip_prefix(folder).unwrap_or(name);
            self.exact(&format!("{folder}{name}"))
        };
        match kind {
            Kind::Branch => short("refs/heads/"),
            Kind::Tag => short("refs/tags/"),
            Kind::Commit => None,
            Kind::Any if name == "HEAD" => self.head(),
            Kind::Any => name
                .starts_with("refs/")
                .then(|| self.exact(name))
                .flatten()
                .or_else(|| self.exact(&format!("refs/heads/{name}")))
                .or_else(|| self.exact(&format!("refs/tags/{name}")))
                .or_else(|| self.exact(&format!("refs/{name}"))),
        }
    }

    /// Short names below `folder` that match one of the patterns, sorted.
    pub fn names(&self, folder: &str, patterns: &[impl AsRef<str>]) -> Vec<String> {
        self.all
            .keys()
            .filter_map(|full| Some((full, full.strip_prefix(folder)?)))
            .filter(|(full, _)| {
                patterns.is_empty() || patterns.iter().any(|p| matches_tail(p.as_ref(), full))
            })
            .map(|(_, short)| short.to_owned())
            .collect()
    }

    /// Tags of a commit: full name and object.
    pub fn tags_of(&self, commit: &str) -> Vec<(String, String)> {
        self.all
            .iter()
            .filter(|(name, object)| {
                name.starts_with("refs/tags/")
                    && self.peeled.get(*name).unwrap_or(object).as_str() == commit
            })
            .map(|(name, object)| (name.clone(), object.clone()))
            .collect()
    }

    /// The tag with the highest version number; a release wins over what came before it.
    pub fn latest_version(&self) -> Option<Resolved> {
        let tags = self.names("refs/tags/", &[] as &[&str]);
        let best = tags
            .iter()
            .filter_map(|tag| Some((version(tag)?, tag)))
            .max()?;
        self.exact(&format!("refs/tags/{}", best.1))
    }
}

type Version = (u64, u64, u64, bool, Vec<(bool, u64, String)>);

/// Orders `v1.2.3-rc.1` as semantic versions are; none for other names.
fn version(tag: &str) -> Option<Version> {
    let text = tag.strip_prefix('v').unwrap_or(tag);
    let text = text.split('+').next()?;
    let (core, pre) = match text.split_once('-') {
        Some((core, pre)) => (core, Some(pre)),
        None => (text, None),
    };
    let mut numbers = core.split('.').map(|p| p.parse::<u64>().ok());
    let (major, minor, patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if numbers.next().is_some() {
        return None;
    }
    let parts = pre
        .unwrap_or_default()
        .split('.')
        .filter(|p| !p.is_empty())
        .map(|p| match p.parse::<u64>() {
            Ok(n) => (false, n, String::new()),
            Err(_) => (true, 0, p.to_owned()),
        })
        .collect();
    Some((major, minor, patch, pre.is_none(), parts))
}

/// As `git ls-remote` matches its patterns: against the end of the full name, from a slash on; `*` crosses slashes.
fn matches_tail(pattern: &str, name: &str) -> bool {
    let name = format!("/{name}");
    glob(format!("*/{pattern}").as_bytes(), name.as_bytes())
}

/// `*`, `?`, `[…]` and `\` over bytes, without recursion: linear in pattern times text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(p + 1),
            Some(b'[') => class(pattern, p, text[t]),
            Some(b'\\') => (pattern.get(p + 1) == Some(&text[t])).then_some(p + 2),
            Some(c) => (*c == text[t]).then_some(p + 1),
            None => None,
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Where the pattern goes on when the class at `at` has the byte.
fn class(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    let mut p = at + 1;
    let negated = matches!(pattern.get(p), Some(b'!' | b'^'));
    p += usize::from(negated);
    let begin = p;
    let mut found = false;
    loop {
        let mut low = *pattern.get(p)?;
        if low == b']' && p > begin {
            return (found != negated).then_some(p + 1);
        }
        if low == b'\\' {
            p += 1;
            low = *pattern.get(p)?;
        }
        let mut high = low;
        if pattern.get(p + 1) == Some(&b'-') && pattern.get(p + 2).is_some_and(|c| *c != b']') {
            high = *pattern.get(p + 2)?;
            p += 2;
        }
        found |= (low..=high).contains(&byte);
        p += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs() -> Refs {
        let a = "a".repeat(40);
        let b = "b".repeat(40);
        let c = "c".repeat(40);
        Refs::parse(&format!(
            "ref: refs/heads/main\tHEAD\n{a}\tHEAD\n{a}\trefs/heads/main\n{b}\trefs/heads/x/y\n{b}\trefs/heads/both\n\
             {a}\trefs/tags/both\n{c}\trefs/tags/v1.2.0\n{a}\trefs/tags/v1.2.0^{{}}\n{a}\trefs/tags/v1.10.0-rc.1\n\
             {b}\trefs/tags/v1.10.0\nnonsense\n"
        ))
    }

    #[test]
    fn names_mean_what_git_means() {
        let refs = refs();
        let commit = |name: &str, kind| refs.find(name, kind).map(|r| r.commit[..1].to_owned());
        assert_eq!(refs.head().expect("head").name, "refs/heads/main");
        for (name, kind, wanted) in [
            ("main", Kind::Any, Some("a")),
            ("x/y", Kind::Any, Some("b")),
            ("refs/heads/x/y", Kind::Any, Some("b")),
            ("heads/main", Kind::Any, Some("a")),
            ("both", Kind::Any, Some("b")),
            ("both", Kind::Tag, Some("a")),
            ("v1.2.0", Kind::Any, Some("a")),
            ("v1.2.0", Kind::Branch, None),
            ("main", Kind::Tag, None),
            ("nope", Kind::Any, None),
            ("HEAD", Kind::Any, Some("a")),
        ] {
            assert_eq!(commit(name, kind).as_deref(), wanted, "{name} {kind:?}");
        }
    }

    #[test]
    fn patterns_match_ends_of_names() {
        let refs = refs();
        assert_eq!(refs.names("refs/tags/", &["v1.2*"]), ["v1.2.0"]);
        assert_eq!(refs.names("refs/tags/", &["zzz*"]), [""; 0]);
        assert_eq!(refs.names("refs/heads/", &["y"]), ["x/y"]);
        assert_eq!(refs.names("refs/heads/", &["x*"]), ["x/y"]);
        assert_eq!(refs.names("refs/tags/", &["v1.[0-2].?"]), ["v1.2.0"]);
        assert_eq!(refs.names("refs/heads/", &[] as &[&str]).len(), 3);
    }

    #[test]
    fn the_latest_version_is_a_number_not_a_word() {
        assert_eq!(
            refs().latest_version().expect("one").name,
            "refs/tags/v1.10.0"
        );
    }

    #[test]
    fn tags_of_a_commit_are_found_peeled() {
        let names: Vec<_> = refs()
            .tags_of(&"a".repeat(40))
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        assert_eq!(
            names,
            [
                "refs/tags/both",
                "refs/tags/v1.10.0-rc.1",
                "refs/tags/v1.2.0"
            ]
        );
    }

    #[test]
    fn patterns_end_in_good_time() {
        let pattern = "*a".repeat(200);
        assert!(!glob(pattern.as_bytes(), "a".repeat(190).as_bytes()));
        assert!(!glob(b"[", b"x"));
        assert!(glob(b"[]a]*", b"]x"));
    }
}
