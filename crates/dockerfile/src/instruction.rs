//! Instructions with their arguments, variables not yet replaced.

use crate::{
    Error,
    parse::{Heredoc, Line},
    words::split,
};

/// A command line in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// For a shell.
    Shell(String),
    /// Program and arguments.
    Exec(Vec<String>),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunArgs {
    /// What to run.
    pub command: Command,
    /// Its heredocs.
    pub heredocs: Vec<Heredoc>,
    /// Values of `--mount`.
    pub mounts: Vec<String>,
    /// `--network`.
    pub network: Option<String>,
    /// `--security`.
    pub security: Option<String>,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyArgs {
    /// It is `ADD`.
    pub add: bool,
    /// Paths and, for `ADD`, URLs.
    pub sources: Vec<String>,
    /// Files in the Dockerfile itself.
    pub inline: Vec<Heredoc>,
    /// Where to.
    pub dest: String,
    /// `--from`: stage or image.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// `--unpack`; `None` means by what it is.
    pub unpack: Option<bool>,
}

/// An instruction.
#[derive(Debug, Clone, PartialEq)]
pub enum Instruction {
    /// `FROM`.
    From {
        /// `--platform`.
        platform: Option<String>,
        /// Stage or image.
        image: String,
        /// `AS`.
        name: Option<String>,
    },
    /// `ARG`: names and defaults.
    Arg(Vec<(String, Option<String>)>),
    /// `ENV`.
    Env(Vec<(String, String)>),
    /// `LABEL`.
    Label(Vec<(String, String)>),
    /// `RUN`.
    Run(RunArgs),
    /// `COPY` or `ADD`.
    Copy(CopyArgs),
    /// `CMD`.
    Cmd(Command),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `HEALTHCHECK`, as image configurations have it.
    Healthcheck(Healthcheck),
    /// `EXPOSE`.
    Expose(Vec<String>),
    /// `VOLUME`.
    Volume(Vec<String>),
    /// `USER`.
    User(String),
    /// `WORKDIR`.
    Workdir(String),
    /// `STOPSIGNAL`.
    Stopsignal(String),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `ONBUILD`: the instruction as text.
    Onbuild(String),
    /// `MAINTAINER`.
    Maintainer(String),
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// `None` turns checks off.
    pub command: Option<Command>,
    /// Key of the image configuration and nanoseconds, or a count.
    pub options: Vec<(&'static str, i64)>,
}

impl Instruction {
    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with its arguments.
    pub fn read(line: &Line, file: &str, escape: char) -> Result<Self, Error> {
        Reader { line, escape }.read().map_err(|message| Error {
            file: file.to_owned(),
            line: line.number,
            instruction: line.shown(),
            message,
        })
    }
}

type Read<T> = Result<T, String>;

struct Reader<'a> {
    line: &'a Line,
    escape: char,
}

/// The value of `--name=value`; `Some("")` for a bare `--name`.
fn flag<'f>(flag: &'f str, name: &str) -> Option<&'f str> {
    let rest = flag.strip_prefix("--")?.strip_prefix(name)?;
    match rest.strip_prefix('=') {
        Some(value) => Some(value),
        None => rest.is_empty().then_some(""),
    }
}

fn boolean(flag: &str, value: &str) -> Read<bool> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!(
            "invalid value `{other}` of {flag}: it is true or false"
        )),
    }
}

fn needed(flag: &str, value: &str) -> Read<String> {
    if value.is_empty() {
        return Err(format!("{flag} needs a value, as in {flag}=…"));
    }
    Ok(value.to_owned())
}

impl Reader<'_> {
    fn read(&self) -> Read<Instruction> {
        let rest = self.line.rest.as_str();
        let keyword = self.line.keyword.as_str();
        if rest.is_empty() && keyword != "CMD" && keyword != "ENTRYPOINT" {
            return Err(match keyword {
                "FROM" => {
                    "FROM requires either one or three arguments: FROM image [AS name]".to_owned()
                }
                "WORKDIR" | "USER" | "STOPSIGNAL" | "MAINTAINER" => {
                    format!("{keyword} requires exactly one argument")
                }
                _ => format!("{keyword} requires at least one argument"),
            });
        }
        Ok(match keyword {
            "FROM" => self.from()?,
            "ARG" => Instruction::Arg(self.args()?),
            "ENV" => Instruction::Env(self.pairs()?),
            "LABEL" => Instruction::Label(self.pairs()?),
            "RUN" => Instruction::Run(self.run()?),
            "COPY" | "ADD" => Instruction::Copy(self.copy()?),
            "CMD" => Instruction::Cmd(self.command(rest)),
            "ENTRYPOINT" => Instruction::Entrypoint(self.command(rest)),
            "HEALTHCHECK" => Instruction::Healthcheck(self.healthcheck()?),
            "EXPOSE" => Instruction::Expose(rest.split_whitespace().map(str::to_owned).collect()),
            "VOLUME" => {
                let volumes = self.list();
                if volumes.iter().any(String::is_empty) {
                    return Err("VOLUME specified can not be an empty string".to_owned());
                }
                Instruction::Volume(volumes)
            }
            "USER" => Instruction::User(rest.to_owned()),
            "WORKDIR" => Instruction::Workdir(rest.to_owned()),
            "STOPSIGNAL" => Instruction::Stopsignal(rest.to_owned()),
            "SHELL" => match json(rest) {
                Some(words) if !words.is_empty() => Instruction::Shell(words),
                _ => return Err("SHELL requires the arguments to be in JSON form, as in SHELL [\"/bin/sh\", \"-c\"]".to_owned()),
            },
            "ONBUILD" => self.onbuild()?,
            "MAINTAINER" => Instruction::Maintainer(rest.to_owned()),
            other => return Err(format!("unknown instruction: {other}")),
        })
    }

    fn unknown(&self, flag: &str) -> String {
        let name = flag.split('=').next().unwrap_or(flag);
        format!(
            "unknown flag: {} for {}",
            name.trim_start_matches('-'),
            self.line.keyword
        )
    }

    fn from(&self) -> Read<Instruction> {
        let mut platform = None;
        for f in &self.line.flags {
            match flag(f, "platform") {
                Some(v) => platform = Some(needed("--platform", v)?),
                None => return Err(self.unknown(f)),
            }
        }
        let words: Vec<&str> = self.line.rest.split_whitespace().collect();
        let (image, name) = match words.as_slice() {
            [image] => (*image, None),
            [image, as_, name] if as_.eq_ignore_ascii_case("as") => {
                let lower = name.to_ascii_lowercase();
                let mut chars = lower.chars();
                let valid = chars.next().is_some_and(|c| c.is_ascii_lowercase())
                    && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
                if !valid {
                    return Err(format!(
                        "invalid name for build stage: \"{name}\", name can't start with a number or contain symbols"
                    ));
                }
                (*image, Some(lower))
            }
            _ => {
                return Err(
                    "FROM requires either one or three arguments: FROM image [AS name]".to_owned(),
                );
            }
        };
        Ok(Instruction::From {
            platform,
            image: image.to_owned(),
            name,
        })
    }

    fn args(&self) -> Read<Vec<(String, Option<String>)>> {
        split(&self.line.rest, self.escape)
            .into_iter()
            .map(|word| {
                let (name, value) = match word.split_once('=') {
                    Some((n, v)) => (n, Some(v.to_owned())),
                    None => (word.as_str(), None),
                };
                if name.is_empty() {
                    return Err("ARG names can not be blank".to_owned());
                }
                Ok((name.to_owned(), value))
            })
            .collect()
    }

    /// `a=b c="d e"`, or `a the rest` of old.
    fn pairs(&self) -> Read<Vec<(String, String)>> {
        let words = split(&self.line.rest, self.escape);
        let keyword = &self.line.keyword;
        let blank = || format!("{keyword} names can not be blank");
        if words.first().is_some_and(|w| !w.contains('=')) {
            let Some((name, value)) = self.line.rest.split_once(char::is_whitespace) else {
                return Err(format!("{keyword} must have two arguments"));
            };
            return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
        }
        words
            .into_iter()
            .map(|word| match word.split_once('=') {
                Some(("", _)) => Err(blank()),
                Some((n, v)) => Ok((n.to_owned(), v.to_owned())),
                None => Err(format!(
                    "Syntax error - can't find = in \"{word}\". Must be of the form: name=value; quote values with blanks"
                )),
            })
            .collect()
    }

    fn command(&self, text: &str) -> Command {
        match json(text) {
            Some(words) => Command::Exec(words),
            None if text.is_empty() => Command::Exec(Vec::new()),
            None => Command::Shell(text.to_owned()),
        }
    }

    fn list(&self) -> Vec<String> {
        json(&self.line.rest).unwrap_or_else(|| {
            self.line
                .rest
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        })
    }

    fn run(&self) -> Read<RunArgs> {
        let mut run = RunArgs {
            command: self.command(&self.line.rest),
            heredocs: self.line.heredocs.clone(),
            mounts: Vec::new(),
            network: None,
            security: None,
        };
        if run.command == Command::Exec(Vec::new()) {
            return Err("RUN requires at least one argument".to_owned());
        }
        for f in &self.line.flags {
            if let Some(v) = flag(f, "mount") {
                run.mounts.push(needed("--mount", v)?);
            } else if let Some(v) = flag(f, "network") {
                run.network = Some(needed("--network", v)?);
            } else if let Some(v) = flag(f, "security") {
                run.security = Some(needed("--security", v)?);
            } else {
                return Err(self.unknown(f));
            }
        }
        Ok(run)
    }

    fn copy(&self) -> Read<CopyArgs> {
        let add = self.line.keyword == "ADD";
        let mut copy = CopyArgs {
            add,
            ..CopyArgs::default()
        };
        for f in &self.line.flags {
            if let Some(v) = flag(f, "chown") {
                copy.chown = Some(needed("--chown", v)?);
            } else if let Some(v) = flag(f, "chmod") {
                copy.chmod = Some(needed("--chmod", v)?);
            } else if let Some(v) = flag(f, "link") {
                copy.link = boolean("--link", v)?;
            } else if let Some(v) = flag(f, "exclude") {
                copy.exclude.push(needed("--exclude", v)?);
            } else if let (Some(v), false) = (flag(f, "from"), add) {
                copy.from = Some(needed("--from", v)?);
            } else if let (Some(v), false) = (flag(f, "parents"), add) {
                copy.parents = boolean("--parents", v)?;
            } else if let (Some(v), true) = (flag(f, "checksum"), add) {
                copy.checksum = Some(needed("--checksum", v)?);
            } else if let (Some(v), true) = (flag(f, "keep-git-dir"), add) {
                copy.keep_git_dir = boolean("--keep-git-dir", v)?;
            } else if let (Some(v), true) = (flag(f, "unpack"), add) {
                copy.unpack = Some(boolean("--unpack", v)?);
            } else {
                return Err(self.unknown(f));
            }
        }
        let mut words = self.list();
        let Some(dest) = words.pop() else {
            return Err(format!(
                "{} requires at least two arguments",
                self.line.keyword
            ));
        };
        copy.dest = dest;
        copy.inline.clone_from(&self.line.heredocs);
        // The words that announce heredocs are no paths.
        let mut announced = copy.inline.len();
        words.retain(|w| {
            let is = announced > 0 && w.starts_with("<<");
            announced -= usize::from(is);
            !is
        });
        // A quoted name with blanks is several words.
        if announced == 0
            && copy
                .inline
                .iter()
                .any(|h| h.name.contains(char::is_whitespace))
        {
            words.retain(|w| !w.ends_with('"') && !w.ends_with('\''));
        }
        copy.sources = words;
        if copy.sources.is_empty() && copy.inline.is_empty() {
            return Err(format!(
                "{} requires at least two arguments, but only one was provided. Destination could not be determined",
                self.line.keyword
            ));
        }
        Ok(copy)
    }

    fn healthcheck(&self) -> Read<Healthcheck> {
        let rest = self.line.rest.as_str();
        let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if kind.eq_ignore_ascii_case("none") {
            if !command.trim().is_empty() || !self.line.flags.is_empty() {
                return Err("HEALTHCHECK NONE takes no arguments".to_owned());
            }
            return Ok(Healthcheck {
                command: None,
                options: Vec::new(),
            });
        }
        if !kind.eq_ignore_ascii_case("cmd") {
            return Err(format!("Unknown type \"{kind}\" in HEALTHCHECK (try CMD)"));
        }
        let command = command.trim();
        if command.is_empty() {
            return Err("Missing command after HEALTHCHECK CMD".to_owned());
        }
        let mut options = Vec::new();
        for f in &self.line.flags {
            let timed = [
                ("interval", "Interval"),
                ("timeout", "Timeout"),
                ("start-period", "StartPeriod"),
                ("start-interval", "StartInterval"),
            ];
            let found = timed
                .into_iter()
                .find_map(|(name, key)| flag(f, name).map(|v| (name, key, v)));
            if let Some((name, key, value)) = found {
                let ns = duration(value).ok_or_else(|| {
                    format!("invalid duration `{value}` of --{name}: it is as in 30s or 1m30s")
                })?;
                if ns != 0 && ns < 1_000_000 {
                    return Err(format!("--{name} cannot be less than 1ms"));
                }
                options.push((key, ns));
            } else if let Some(value) = flag(f, "retries") {
                let n: i64 = value
                    .parse()
                    .map_err(|_| format!("invalid number `{value}` of --retries"))?;
                if n < 0 {
                    return Err(format!("--retries cannot be negative ({n})"));
                }
                options.push(("Retries", n));
            } else {
                return Err(self.unknown(f));
            }
        }
        options.retain(|(_, n)| *n != 0);
        Ok(Healthcheck {
            command: Some(self.command(command)),
            options,
        })
    }

    fn onbuild(&self) -> Read<Instruction> {
        let rest = &self.line.rest;
        let keyword = rest
            .split_whitespace()
            .next()
            .unwrap_or("")
            .to_ascii_uppercase();
        match keyword.as_str() {
            "ONBUILD" => {
                return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned());
            }
            "FROM" | "MAINTAINER" => {
                return Err(format!("{keyword} isn't allowed as an ONBUILD trigger"));
            }
            _ => {}
        }
        let mut text = rest.clone();
        for h in &self.line.heredocs {
            text.push('\n');
            text.push_str(&h.body);
            text.push_str(&h.name);
        }
        // Read now, so that a mistake is found where it was made.
        let source = crate::parse("ONBUILD", &text).map_err(|e| e.message)?;
        for line in &source.lines {
            Instruction::read(line, "ONBUILD", self.escape).map_err(|e| e.message)?;
        }
        Ok(Instruction::Onbuild(text))
    }
}

/// A JSON array of strings; `None` when it is something else.
fn json(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Nanoseconds of `1h30m`, `1.5s`, `100ms`. `None` when it is no duration.
fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut total) = (text, 0f64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let n: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |n| digits + n);
        total += n * match &rest[digits..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        rest = &rest[unit_end..];
    }
    (total <= i64::MAX as f64).then_some(total as i64)
}
