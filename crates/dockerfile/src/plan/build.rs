//! One stage, instruction by instruction: variables replaced, configuration changed, steps written down.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Outline, Placed, Shared};
use crate::{
    Error, Settings,
    instruction::{Command, CopyArgs, Healthcheck, Instruction, RunArgs},
    mount::Mount,
    parse::Heredoc,
    settings::set,
    stage::{Copy, From, Network, Op, Run, Stage, Step},
    words::{expand, expand_heredoc, expand_words},
};

/// Variables that reach processes without being declared, when they are given.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];
/// Where scripts of heredocs are mounted.
const SCRIPTS: &str = "/dev/pipes";
/// Most ports one `EXPOSE` may name.
const PORTS_MAX: usize = 65_536;

/// A planned stage, and what stages based on it inherit beside its configuration.
pub(crate) struct Built {
    pub(crate) stage: Stage,
    args: Vec<(String, Option<String>)>,
}

struct Builder<'a> {
    shared: &'a Shared<'a>,
    index: usize,
    placed: &'a Placed,
    settings: Settings,
    args: Vec<(String, Option<String>)>,
    cmd_set: bool,
    steps: Vec<Step>,
}

impl Shared<'_> {
    pub(crate) fn build(
        &self,
        index: usize,
        done: &BTreeMap<usize, Built>,
    ) -> Result<Built, Error> {
        let outline: &Outline = &self.outlines[index];
        let (mut settings, args, platform) = match &outline.base {
            From::Stage(i) => match done.get(i) {
                Some(b) => (
                    b.stage.settings.clone(),
                    b.args.clone(),
                    b.stage.platform.clone(),
                ),
                None => (Settings::scratch(), Vec::new(), String::new()),
            },
            From::Image(key) => (
                self.images.get(key).cloned().unwrap_or_default(),
                Vec::new(),
                key.platform.clone(),
            ),
            From::Scratch | From::Context => {
                (Settings::scratch(), Vec::new(), outline.platform.clone())
            }
        };
        settings.onbuild.clear();
        if settings.var("PATH").is_none() {
            settings.env.insert(
                0,
                ("PATH".to_owned(), crate::settings::DEFAULT_PATH.to_owned()),
            );
        }
        let triggers = self.triggers(index)?.unwrap_or_default();
        let mut builder = Builder {
            shared: self,
            index,
            placed: &outline.from,
            settings,
            args,
            cmd_set: false,
            steps: Vec::new(),
        };
        for placed in triggers.iter().chain(&outline.body) {
            builder.placed = placed;
            builder
                .instruction()
                .map_err(|message| self.error(placed, message))?;
        }
        let (steps, settings, args) = (builder.steps, builder.settings, builder.args);
        let stage = Stage {
            index,
            name: outline.name.clone().unwrap_or_else(|| index.to_string()),
            base: outline.base.clone(),
            steps,
            settings,
            platform,
        };
        Ok(Built { stage, args })
    }
}

/// `path` against `base`, cleaned; never leaves the root.
fn join(base: &str, path: &str) -> String {
    let base = if path.starts_with('/') { "" } else { base };
    let mut parts = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn is_url(text: &str) -> bool {
    let git = |p: &str| text.starts_with(p);
    ["http://", "https://", "git://", "ssh://", "git@"]
        .into_iter()
        .any(git)
}

type Done<T> = Result<T, String>;

impl Builder<'_> {
    fn var(&self, name: &str) -> Option<String> {
        let arg = || {
            self.args
                .iter()
                .rev()
                .find(|(n, _)| n == name)
                .and_then(|(_, v)| v.clone())
        };
        self.settings.var(name).map(str::to_owned).or_else(arg)
    }

    fn text(&self, text: &str) -> Done<String> {
        expand(text, self.shared.source.escape, &|n| self.var(n)).map_err(|e| e.to_string())
    }

    fn texts(&self, texts: &[String]) -> Done<Vec<String>> {
        texts.iter().map(|t| self.text(t)).collect()
    }

    fn pairs(&self, pairs: &[(String, String)]) -> Done<Vec<(String, String)>> {
        // All see the values from before the instruction.
        pairs
            .iter()
            .map(|(k, v)| Ok((self.text(k)?, self.text(v)?)))
            .collect()
    }

    fn step(&mut self, op: Op) {
        self.steps.push(Step {
            line: self.placed.line,
            text: self.placed.text.clone(),
            op,
        });
    }

    fn cwd(&self) -> String {
        join("/", &self.settings.workdir)
    }

    /// Shell forms become a shell's arguments.
    fn argv(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let mut argv = self.settings.shell();
                argv.push(text.clone());
                argv
            }
        }
    }

    fn instruction(&mut self) -> Done<()> {
        match &self.placed.instruction {
            Instruction::From { .. } => {}
            Instruction::Maintainer(who) => self.settings.author = Some(who.clone()),
            Instruction::Arg(args) => {
                for (name, default) in args {
                    let name = self.text(name)?;
                    let value = match (self.shared.options.arg(&name), default) {
                        (Some(given), _) => Some(given.to_owned()),
                        (None, Some(default)) => Some(self.text(default)?),
                        (None, None) => self.shared.global(&name),
                    };
                    self.args.push((name, value));
                }
            }
            Instruction::Env(pairs) => {
                for (name, value) in self.pairs(pairs)? {
                    set(&mut self.settings.env, &name, &value);
                }
            }
            Instruction::Label(pairs) => {
                for (name, value) in self.pairs(pairs)? {
                    set(&mut self.settings.labels, &name, &value);
                }
            }
            Instruction::Run(run) => {
                let run = self.run(run)?;
                self.step(Op::Run(run));
            }
            Instruction::Copy(copy) => {
                let copy = self.copy(copy)?;
                self.step(Op::Copy(copy));
            }
            Instruction::Cmd(command) => {
                self.settings.cmd = self.argv(command);
                self.cmd_set = true;
            }
            Instruction::Entrypoint(command) => {
                self.settings.entrypoint = self.argv(command);
                if !self.cmd_set {
                    self.settings.cmd.clear();
                }
            }
            Instruction::Healthcheck(check) => {
                self.settings.healthcheck = Some(self.healthcheck(check))
            }
            Instruction::Expose(ports) => {
                for word in ports {
                    let words = expand_words(word, self.shared.source.escape, &|n| self.var(n))
                        .map_err(|e| e.to_string())?;
                    for port in words {
                        self.expose(&port)?;
                    }
                }
            }
            Instruction::Volume(volumes) => {
                for volume in self.texts(volumes)? {
                    if volume.is_empty() {
                        return Err("VOLUME specified can not be an empty string".to_owned());
                    }
                    if !self.settings.volumes.contains(&volume) {
                        self.settings.volumes.push(volume);
                    }
                }
            }
            Instruction::User(user) => self.settings.user = self.text(user)?,
            Instruction::Workdir(path) => {
                let path = self.text(path)?;
                if path.is_empty() {
                    return Err("WORKDIR is empty once its variables are replaced".to_owned());
                }
                let path = join(&self.cwd(), &path);
                if path != "/" {
                    self.step(Op::MakeDir {
                        path: path.clone(),
                        owner: self.settings.user.clone(),
                    });
                }
                self.settings.workdir = path;
            }
            Instruction::Stopsignal(signal) => {
                let signal = self.text(signal)?;
                let number = signal.parse::<u8>().is_ok_and(|n| (1..=64).contains(&n));
                let name = signal
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-'))
                    && signal.starts_with(|c: char| c.is_ascii_alphabetic());
                if !number && !name {
                    return Err(format!(
                        "`{signal}` is no signal: it is a name as SIGTERM or a number from 1 to 64"
                    ));
                }
                self.settings.stop_signal = signal;
            }
            Instruction::Shell(words) => self.settings.shell.clone_from(words),
            Instruction::Onbuild(text) => self.settings.onbuild.push(text.clone()),
        }
        Ok(())
    }

    fn run(&self, args: &RunArgs) -> Done<Run> {
        let network = match args
            .network
            .as_deref()
            .map(|n| self.text(n))
            .transpose()?
            .as_deref()
        {
            None | Some("default") => Network::Default,
            Some("none") => Network::None,
            Some("host") => {
                return Err(
                    "network.host is not allowed: containers never see the machine's network"
                        .to_owned(),
                );
            }
            Some(other) => {
                return Err(format!(
                    "unsupported network mode {other:?}; there are default, none, host"
                ));
            }
        };
        let privileged = match args
            .security
            .as_deref()
            .map(|s| self.text(s))
            .transpose()?
            .as_deref()
        {
            None | Some("sandbox") => false,
            Some("insecure") => true,
            Some(other) => {
                return Err(format!(
                    "security {other:?} is not supported; there are sandbox, insecure"
                ));
            }
        };
        let mut mounts = Vec::new();
        for text in &args.mounts {
            let mut mount = Mount::read(text, self.shared.source.escape, &|n| self.var(n))?;
            if !mount.target.is_empty() {
                mount.target = join(&self.cwd(), &mount.target);
                if mount.target == "/" {
                    return Err("a mount cannot be at /".to_owned());
                }
            }
            let from = match mount.from() {
                Some(from) => Some(
                    self.shared
                        .reference(self.index, self.placed, from)
                        .map_err(|e| e.message)?,
                ),
                None => None,
            };
            mounts.push((mount, from));
        }
        let (argv, script) = self.command(args);
        let mut env = self.settings.env.clone();
        for (name, value) in &self.args {
            if let (Some(value), None) = (value, self.settings.var(name)) {
                set(&mut env, name, value);
            }
        }
        for name in PROXIES {
            if let (Some(value), false) = (
                self.shared.options.arg(name),
                env.iter().any(|(n, _)| n == name),
            ) {
                env.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok(Run {
            argv,
            env,
            cwd: self.cwd(),
            user: self.settings.user.clone(),
            mounts,
            script,
            network,
            privileged,
        })
    }

    /// The process of a `RUN`, and the script it runs if that is one of its own.
    fn command(&self, args: &RunArgs) -> (Vec<String>, Option<(String, String)>) {
        let Command::Shell(text) = &args.command else {
            return (self.argv(&args.command), None);
        };
        let [first, ..] = args.heredocs.as_slice() else {
            return (self.argv(&args.command), None);
        };
        let only = args.heredocs.len() == 1 && announces(text, first);
        if only && first.body.starts_with("#!") {
            let name: String = first
                .name
                .chars()
                .map(|c| if c == '/' { '_' } else { c })
                .collect();
            let path = format!("{SCRIPTS}/{name}");
            return (vec![path.clone()], Some((path, first.body.clone())));
        }
        let whole = if only {
            first.body.clone()
        } else {
            // The shell reads them itself.
            let mut whole = format!("{text}\n");
            for h in &args.heredocs {
                whole.push_str(&h.body);
                whole.push_str(&h.name);
                whole.push('\n');
            }
            whole
        };
        (self.argv(&Command::Shell(whole)), None)
    }

    fn copy(&self, args: &CopyArgs) -> Done<Copy> {
        let from = match &args.from {
            Some(from) => self
                .shared
                .reference(self.index, self.placed, from)
                .map_err(|e| e.message)?,
            None => From::Context,
        };
        let (urls, sources): (Vec<String>, Vec<String>) = self
            .texts(&args.sources)?
            .into_iter()
            .partition(|s| is_url(s));
        if let (Some(url), false) = (urls.first(), args.add) {
            return Err(format!(
                "source can't be a URL for COPY: {url}; ADD takes it"
            ));
        }
        if let Some(empty) = sources.iter().find(|s| s.is_empty()) {
            return Err(format!(
                "a source is empty once its variables are replaced: {empty:?}"
            ));
        }
        if args.checksum.is_some()
            && (urls.len() != 1 || !sources.is_empty() || !args.inline.is_empty())
        {
            return Err("checksum can't be specified for multiple or local sources: it needs exactly one URL".to_owned());
        }
        let escape = self.shared.source.escape;
        let inline: Done<Vec<Heredoc>> = args
            .inline
            .iter()
            .map(|h| {
                let body = match h.expand {
                    true => expand_heredoc(&h.body, escape, &|n| self.var(n))
                        .map_err(|e| e.to_string())?,
                    false => h.body.clone(),
                };
                Ok(Heredoc { body, ..h.clone() })
            })
            .collect();
        let written = self.text(&args.dest)?;
        if written.is_empty() {
            return Err("the destination is empty once its variables are replaced".to_owned());
        }
        let mut dest = join(&self.cwd(), &written);
        let is_dir = written.ends_with('/') || written == "." || written.ends_with("/.");
        if is_dir && dest != "/" {
            dest.push('/');
        }
        let optional = |t: &Option<String>| t.as_deref().map(|t| self.text(t)).transpose();
        let chmod = optional(&args.chmod)?.filter(|c| !c.is_empty());
        if let Some(mode) = &chmod {
            check_mode(mode)?;
        }
        Ok(Copy {
            from,
            sources,
            urls,
            inline: inline?,
            dest,
            chown: optional(&args.chown)?.filter(|c| !c.is_empty()),
            chmod,
            parents: args.parents,
            exclude: self.texts(&args.exclude)?,
            unpack: args.add && args.unpack.unwrap_or(true),
            unpack_urls: args.add && args.unpack.unwrap_or(false),
            checksum: optional(&args.checksum)?,
            keep_git_dir: args.keep_git_dir,
        })
    }

    fn healthcheck(&self, check: &Healthcheck) -> serde_json::Value {
        let test = match &check.command {
            None => vec!["NONE".to_owned()],
            Some(Command::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.clone()],
            Some(Command::Exec(words)) => {
                let mut test = vec!["CMD".to_owned()];
                test.extend(words.iter().cloned());
                test
            }
        };
        let mut value = json!({ "Test": test });
        for (key, number) in &check.options {
            value[*key] = (*number).into();
        }
        value
    }

    /// `80`, `80/udp`, `8000-8010/tcp`.
    fn expose(&mut self, text: &str) -> Done<()> {
        let bad = || {
            format!(
                "invalid port `{text}`: it is as in 80, 53/udp or 8000-8010, each from 0 to 65535"
            )
        };
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(format!(
                "invalid protocol `{protocol}` of port `{text}`: it is tcp, udp or sctp"
            ));
        }
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |t: &str| t.parse::<u16>().map_err(|_| bad());
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(bad());
        }
        for port in first..=last {
            let port = format!("{port}/{protocol}");
            if !self.settings.exposed.contains(&port) && self.settings.exposed.len() < PORTS_MAX {
                self.settings.exposed.push(port);
            }
        }
        Ok(())
    }
}

/// Whether a command line is nothing but the announcement of this heredoc.
fn announces(text: &str, heredoc: &Heredoc) -> bool {
    let Some(rest) = text.trim().strip_prefix("<<") else {
        return false;
    };
    let name = if heredoc.chomp {
        rest.strip_prefix('-').unwrap_or(rest)
    } else {
        rest
    };
    let bare = name
        .strip_prefix(['"', '\''])
        .and_then(|n| n.strip_suffix(['"', '\'']))
        .unwrap_or(name);
    bare == heredoc.name
}

/// Octal, or as `chmod` takes it: `u=rwX,go-w`.
fn check_mode(mode: &str) -> Done<()> {
    let octal = u32::from_str_radix(mode, 8).is_ok_and(|m| m <= 0o7777);
    let clause = |c: &str| {
        let rest = c.trim_start_matches(['u', 'g', 'o', 'a']);
        rest.starts_with(['+', '-', '='])
            && rest.chars().all(|c| {
                matches!(
                    c,
                    '+' | '-' | '=' | 'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o'
                )
            })
    };
    if octal || mode.split(',').all(clause) {
        return Ok(());
    }
    Err(format!(
        "invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777, or as in u=rwX,go=rX"
    ))
}
