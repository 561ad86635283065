//! `RUN --mount=…`.

use crate::words::{Lookup, expand};

/// What is mounted for one `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where, as written; empty when it follows from the kind.
    pub target: String,
    /// What.
    pub kind: MountKind,
}

/// Kinds of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A directory or file of the context, a stage or an image.
    Bind {
        /// Stage or image; empty is the context.
        from: String,
        /// Path in it.
        source: String,
        /// The process may write; what it writes is dropped.
        writable: bool,
    },
    /// A directory that is kept between builds.
    Cache {
        /// Its name.
        id: String,
        /// How concurrent users share it.
        sharing: Sharing,
        /// Stage or image that fills it at first use; empty is none.
        from: String,
        /// Path there.
        source: String,
        /// Owner of a new one.
        owner: (u32, u32),
        /// Permission bits of a new one.
        mode: u32,
        /// The process may not write.
        readonly: bool,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; `None` is unlimited.
        size: Option<u64>,
    },
    /// A secret.
    Secret {
        /// Its name.
        id: String,
        /// As this variable, too.
        env: Option<String>,
        /// As a file, too.
        file: bool,
        /// The build fails without it.
        required: bool,
        /// Permission bits.
        mode: u32,
        /// Owner.
        owner: (u32, u32),
    },
    /// An SSH agent's socket.
    Ssh {
        /// Its name.
        id: String,
        /// The build fails without it.
        required: bool,
        /// Permission bits.
        mode: u32,
        /// Owner.
        owner: (u32, u32),
    },
}

/// How concurrent users share a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All at once.
    Shared,
    /// Each its own copy.
    Private,
    /// One after another.
    Locked,
}

impl Mount {
    /// Reads the value of one `--mount` flag, variables replaced by `lookup`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Self, String> {
        let mut fields = Fields::read(text, escape, lookup)?;
        let kind = fields.take("type").unwrap_or_else(|| "bind".to_owned());
        let target = ["target", "dst", "destination"]
            .into_iter()
            .find_map(|k| fields.take(k))
            .unwrap_or_default();
        let kind = match kind.as_str() {
            "bind" => {
                let (rw, ro) = (
                    fields.flag("rw")? || fields.flag("readwrite")?,
                    fields.has("ro") || fields.has("readonly"),
                );
                let readonly = fields.flag("ro")? || fields.flag("readonly")?;
                MountKind::Bind {
                    from: fields.take("from").unwrap_or_default(),
                    source: fields.source(),
                    writable: rw || (ro && !readonly),
                }
            }
            "cache" => {
                let sharing = match fields.take("sharing").as_deref() {
                    None | Some("shared") => Sharing::Shared,
                    Some("private") => Sharing::Private,
                    Some("locked") => Sharing::Locked,
                    Some(other) => {
                        return Err(format!(
                            "unsupported sharing value \"{other}\"; there are shared, private, locked"
                        ));
                    }
                };
                MountKind::Cache {
                    id: fields
                        .take("id")
                        .filter(|i| !i.is_empty())
                        .unwrap_or_else(|| target.clone()),
                    sharing,
                    from: fields.take("from").unwrap_or_default(),
                    source: fields.source(),
                    owner: fields.owner()?,
                    mode: fields.mode(0o755)?,
                    readonly: {
                        let written = fields.flag("rw")? || fields.flag("readwrite")?;
                        (fields.flag("ro")? || fields.flag("readonly")?) && !written
                    },
                }
            }
            "tmpfs" => MountKind::Tmpfs {
                size: fields.take("size").map(|s| bytes(&s)).transpose()?,
            },
            "secret" => {
                let env = fields.take("env");
                let id = fields
                    .take("id")
                    .or_else(|| fields.take("source"))
                    .or_else(|| fields.take("src"));
                let id = id
                    .or_else(|| env.clone())
                    .or_else(|| Some(base(&target).to_owned()));
                let id = id
                    .filter(|i| !i.is_empty())
                    .ok_or("a secret mount needs an id")?;
                MountKind::Secret {
                    id,
                    // With a variable the file is made only when its place is given.
                    file: env.is_none() || !target.is_empty(),
                    env,
                    required: fields.flag("required")?,
                    mode: fields.mode(0o400)?,
                    owner: fields.owner()?,
                }
            }
            "ssh" => MountKind::Ssh {
                id: fields
                    .take("id")
                    .filter(|i| !i.is_empty())
                    .unwrap_or_else(|| "default".to_owned()),
                required: fields.flag("required")?,
                mode: fields.mode(0o600)?,
                owner: fields.owner()?,
            },
            other => {
                return Err(format!(
                    "unsupported mount type \"{other}\"; there are bind, cache, tmpfs, secret, ssh"
                ));
            }
        };
        // A misspelt `target` is told as such.
        fields.end()?;
        if target.is_empty() {
            match kind {
                MountKind::Bind { .. } | MountKind::Tmpfs { .. } => {
                    return Err("a mount needs a target".to_owned());
                }
                MountKind::Cache { .. } => return Err("a cache mount needs a target".to_owned()),
                MountKind::Secret { .. } | MountKind::Ssh { .. } => {}
            }
        }
        Ok(Self { target, kind })
    }

    /// The stage or image it reads from.
    pub fn from(&self) -> Option<&str> {
        match &self.kind {
            MountKind::Bind { from, .. } | MountKind::Cache { from, .. } if !from.is_empty() => {
                Some(from)
            }
            _ => None,
        }
    }
}

/// `from` of a `--mount` value, before variables are replaced: which stages are needed does not depend on them.
pub(crate) fn from_of(text: &str) -> Option<String> {
    let fields = csv(text).ok()?;
    let from = fields.iter().find_map(|f| {
        f.split_once('=')
            .filter(|(k, _)| k.trim().eq_ignore_ascii_case("from"))
    });
    from.map(|(_, v)| v.to_owned()).filter(|v| !v.is_empty())
}

fn base(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or("")
}

/// `key=value` pairs, taken as they are understood.
struct Fields(Vec<(String, Option<String>)>);

impl Fields {
    fn read(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Self, String> {
        let mut fields = Vec::new();
        for field in csv(text)? {
            let (key, value) = match field.split_once('=') {
                Some((k, v)) => (k.trim(), Some(v)),
                None => (field.trim(), None),
            };
            let key = key.to_ascii_lowercase();
            let value = match value {
                Some(v) if key == "from" && v.contains('$') => {
                    return Err(
                        "'from' doesn't support variable expansion, define alias stage instead"
                            .to_owned(),
                    );
                }
                Some(v) => Some(expand(v, escape, lookup).map_err(|e| e.to_string())?),
                None => None,
            };
            fields.push((key, value));
        }
        Ok(Self(fields))
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// The value of a key; the last one counts. A key without a value is empty.
    fn take(&mut self, key: &str) -> Option<String> {
        let found = self
            .0
            .iter()
            .rev()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.clone().unwrap_or_default());
        self.0.retain(|(k, _)| k != key);
        found
    }

    fn flag(&mut self, key: &str) -> Result<bool, String> {
        match self.take(key).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(format!(
                "invalid value for {key}: {other}; it is true or false"
            )),
        }
    }

    fn source(&mut self) -> String {
        self.take("source")
            .or_else(|| self.take("src"))
            .unwrap_or_default()
    }

    fn number(&mut self, key: &str) -> Result<u32, String> {
        match self.take(key) {
            None => Ok(0),
            Some(v) => v
                .parse()
                .map_err(|_| format!("invalid value {v} for {key}: a number is needed")),
        }
    }

    fn owner(&mut self) -> Result<(u32, u32), String> {
        Ok((self.number("uid")?, self.number("gid")?))
    }

    fn mode(&mut self, default: u32) -> Result<u32, String> {
        match self.take("mode") {
            None => Ok(default),
            Some(v) => u32::from_str_radix(&v, 8)
                .ok()
                .filter(|m| *m <= 0o7777)
                .ok_or_else(|| format!("invalid value {v} for mode: an octal number is needed")),
        }
    }

    /// Nothing may be left.
    fn end(self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(format!("unexpected key '{key}' for this type of mount")),
        }
    }
}

/// Fields between commas; a field in double quotes may contain them.
fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(field) = fields.last_mut() else {
            break;
        };
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    if quoted {
        return Err("failed to parse the mount: a double quote is not closed".to_owned());
    }
    Ok(fields)
}

/// `10`, `10k`, `10m`, `10g`, with or without a `b`.
fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches('b').trim_end_matches('i');
    let (digits, shift) = match number.char_indices().next_back() {
        Some((at, 'k')) => (&number[..at], 10),
        Some((at, 'm')) => (&number[..at], 20),
        Some((at, 'g')) => (&number[..at], 30),
        _ => (number, 0),
    };
    let n: Option<u64> = digits.trim().parse().ok();
    n.and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| format!("invalid value {text} for size: bytes are needed, as in 64m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mount, String> {
        Mount::read(text, '\\', &|n| (n == "ID").then(|| "me".to_owned()))
    }

    #[test]
    fn kinds_have_their_defaults() {
        let cache =
            read("type=cache,id=$ID,target=/c,sharing=locked,uid=5,mode=0700").expect("a cache");
        assert_eq!(
            cache.kind,
            MountKind::Cache {
                id: "me".into(),
                sharing: Sharing::Locked,
                from: String::new(),
                source: String::new(),
                owner: (5, 0),
                mode: 0o700,
                readonly: false
            }
        );
        assert!(
            matches!(read("type=cache,dst=/c").expect("a cache").kind, MountKind::Cache { id, .. } if id == "/c")
        );
        assert!(matches!(
            read("target=/x,rw").expect("a bind").kind,
            MountKind::Bind { writable: true, .. }
        ));
        assert!(
            matches!(read("type=tmpfs,target=/x,size=64m").expect("a tmpfs").kind, MountKind::Tmpfs { size: Some(s) } if s == 64 << 20)
        );
        assert!(matches!(
            read("type=secret,id=t,env=T").expect("a secret").kind,
            MountKind::Secret { file: false, .. }
        ));
        assert_eq!(from_of("type=bind,from=b,source=/s"), Some("b".to_owned()));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, want) in [
            ("type=x", "unsupported mount type"),
            ("type=cache", "needs a target"),
            ("type=cache,targt=/c", "unexpected key 'targt'"),
            ("targt=/c,source=a", "unexpected key 'targt'"),
            ("type=cache,target=/c,sharing=all", "unsupported sharing"),
            ("type=bind,target=/c,nope=1", "unexpected key 'nope'"),
            ("from=$ID,target=/x", "variable expansion"),
            ("type=cache,target=/c,mode=9", "octal"),
            ("type=secret,id=a,uid=x", "a number"),
            ("target=/a,\"b", "not closed"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
