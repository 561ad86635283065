//! The command line: Dagger's commands and flags, and its words for mistakes.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ContextKind,
    error::ErrorKind,
};
use wire::paths::Address;

/// What was asked.
#[derive(Debug, Parser)]
#[command(
    name = "dagger",
    about = "Runs pipelines of containers: an engine with Dagger's API",
    disable_version_flag = true,
    infer_subcommands = false,
    subcommand_required = true
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressFlag {
    /// For a terminal if there is one.
    Auto,
    /// Plain lines.
    Plain,
    /// For a terminal.
    Tty,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Change to this directory first
    #[arg(long, global = true, hide = true, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// Show more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Show less
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,
    /// Show only results
    #[arg(short, long, global = true)]
    pub silent: bool,
    /// Show everything
    #[arg(short, long, global = true)]
    pub debug: bool,
    /// How to show progress
    #[arg(long, global = true, value_enum)]
    pub progress: Option<ProgressFlag>,
    /// Open a terminal when an exec fails
    #[arg(short, long, global = true)]
    pub interactive: bool,
    /// The command of that terminal
    #[arg(long, global = true, default_value = "/bin/sh")]
    pub interactive_command: String,
    /// Open the trace in a browser
    #[arg(short, long, global = true, hide = true)]
    pub web: bool,
    /// Keep the progress on the screen at the end
    #[arg(short = 'E', long, global = true, hide = true)]
    pub no_exit: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send an API query
    #[command(visible_alias = "q")]
    Query(Query),
    /// Run a command in a session
    #[command(alias = "r")]
    Run(Run),
    /// Open a session for an SDK
    #[command(hide = true)]
    Session(Session),
    /// Serve: run the engine in the foreground, or ask a running one
    Engine(Engine),
    /// Show the version
    Version(Version),
    /// Call module functions
    #[command(disable_help_flag = true, hide = true)]
    Call(Later),
    /// Call core functions
    #[command(disable_help_flag = true)]
    Core(Words),
    /// List a module's functions
    #[command(disable_help_flag = true, hide = true)]
    Functions(Later),
    /// Show a module's configuration
    Config(Config),
    /// Make a module
    Init(Init),
    /// Add a dependency to a module
    #[command(alias = "use")]
    Install(Install),
    /// Update a module's generated files
    #[command(disable_help_flag = true, hide = true)]
    Develop(Later),
    /// Serve a session's API
    #[command(hide = true, alias = "l")]
    Listen(Listen),
    /// Dagger Cloud
    #[command(disable_help_flag = true, hide = true)]
    Login(Later),
    /// Dagger Cloud
    #[command(disable_help_flag = true, hide = true)]
    Logout(Later),
    /// An interactive shell
    #[command(disable_help_flag = true, hide = true)]
    Shell(Later),
}

/// `query`.
#[derive(Debug, Args)]
pub struct Query {
    /// The operation to run, when the document has several
    pub operation: Option<String>,
    /// Read the document from this file instead of standard input
    #[arg(long, value_name = "FILE")]
    pub doc: Option<PathBuf>,
    /// A variable, `name=value`; several may be separated by commas
    #[arg(long, value_name = "NAME=VALUE")]
    pub var: Vec<String>,
    /// All variables as a JSON object
    #[arg(long, value_name = "JSON")]
    pub var_json: Option<String>,
    /// The module to load
    #[arg(short, long, value_name = "REF", hide = true)]
    pub r#mod: Option<String>,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// How long the command may take to end after an interrupt
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub cleanup_timeout: Duration,
    /// Only show output of focused commands
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub focus: Option<bool>,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `session`. SDKs of later versions pass flags of their own; see [`tolerate`].
#[derive(Debug, Args)]
pub struct Session {
    /// A label of this client, `name:value`
    #[arg(long)]
    pub label: Vec<String>,
    /// The version of the API the client speaks
    #[arg(long)]
    pub version: Option<String>,
}

/// `engine`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Engine {
    /// A question to a running engine
    #[command(subcommand)]
    pub ask: Option<Ask>,
    /// Where everything is kept
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where to listen: unix:///path or tcp://host:port; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub addr: Vec<Address>,
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Exit when there was no session for so long; 0 stays
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub idle_timeout: Option<Duration>,
    /// Started by a client: apart from its terminal
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// Questions to a running engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Ask {
    /// End all sessions and the engine
    Stop,
    /// Show how the engine is
    Status,
}

/// `version`.
#[derive(Debug, Args)]
pub struct Version {
    /// Ask whether there is a newer one
    #[arg(long)]
    pub check: bool,
}

/// A command whose words are understood later: its functions are those of the API.
#[derive(Debug, Args)]
pub struct Words {
    /// Functions and their flags
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "FUNCTION"
    )]
    pub words: Vec<OsString>,
}

/// `config`.
#[derive(Debug, Args)]
pub struct Config {
    /// Print the configuration file as it is
    #[arg(long)]
    pub json: bool,
    /// The module
    #[arg(short, long, value_name = "PATH")]
    pub r#mod: Option<String>,
}

/// `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Where; the working directory when left out
    pub path: Option<PathBuf>,
    /// The language to write functions in
    #[arg(long, value_name = "SDK")]
    pub sdk: Option<String>,
    /// The module's name; that of its directory when left out
    #[arg(long)]
    pub name: Option<String>,
    /// The directory of the code, below the module's
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// The license of the generated code; there is none without --sdk
    #[arg(long, value_name = "SPDX")]
    pub license: Option<String>,
    /// Keep files that are there
    #[arg(long, hide = true)]
    pub merge: bool,
}

/// `install`.
#[derive(Debug, Args)]
pub struct Install {
    /// What to depend on: a module's directory
    pub module: String,
    /// The name to use it under; its own when left out
    #[arg(short, long)]
    pub name: Option<String>,
    /// The module that depends on it
    #[arg(short, long, value_name = "PATH")]
    pub r#mod: Option<String>,
}

/// `listen`.
#[derive(Debug, Args)]
pub struct Listen {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: String,
    /// Keep the API away from this machine's files
    #[arg(long)]
    pub disable_host_read_write: bool,
    /// Let web pages ask
    #[arg(long)]
    pub allow_cors: bool,
    /// The module to load
    #[arg(short, long, value_name = "REF", hide = true)]
    pub r#mod: Option<String>,
}

/// A command that does not exist yet.
#[derive(Debug, Args)]
pub struct Later {
    /// Whatever it will take
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub rest: Vec<OsString>,
}

/// A duration as Go writes it: `10s`, `1m30s`, `500ms`, `2h`; a bare `0`.
///
/// # Errors
/// Anything else.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no duration such as 90s, 10m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let (number, after) = rest.split_at(digits);
        let letters = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        total += Duration::try_from_secs_f64(number * unit).map_err(|_| bad())?;
        rest = after;
    }
    if text.is_empty() {
        Err(bad())
    } else {
        Ok(total)
    }
}

/// Why there is nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Help was asked for: for standard output, exit 0.
    Help(String),
    /// A mistake, in Dagger's words: exit 1.
    Mistake(String),
}

/// Understands a command line.
///
/// # Errors
/// Help, or a mistake.
pub fn parse(argv: Vec<OsString>) -> Result<Cli, Stop> {
    Cli::try_parse_from(tolerate(hoist(argv))).map_err(|e| {
        let of = |kind| e.get(kind).map(ToString::to_string);
        match e.kind() {
            ErrorKind::DisplayHelp => Stop::Help(e.render().to_string()),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                Stop::Help(Cli::command().render_help().to_string())
            }
            ErrorKind::UnknownArgument => {
                let flag = of(ContextKind::InvalidArg).unwrap_or_default();
                Stop::Mistake(match flag.strip_prefix('-') {
                    Some(long) if long.starts_with('-') => format!("unknown flag: {flag}"),
                    Some(short) => format!(
                        "unknown shorthand flag: '{}' in {flag}",
                        short.chars().next().unwrap_or('-')
                    ),
                    None => format!("unexpected argument \"{flag}\""),
                })
            }
            ErrorKind::InvalidSubcommand => {
                let command = of(ContextKind::InvalidSubcommand).unwrap_or_default();
                Stop::Mistake(format!("unknown command \"{command}\" for \"dagger\""))
            }
            _ => {
                let text = e.render().to_string();
                let text = text.strip_prefix("error: ").unwrap_or(&text);
                Stop::Mistake(
                    text.split("\n\nUsage")
                        .next()
                        .unwrap_or_default()
                        .trim_end()
                        .to_owned(),
                )
            }
        }
    })
}

/// The flags of every command, and of these: names with dashes, and whether a value follows.
pub fn known(commands: &[&str]) -> Vec<(String, bool)> {
    let mut command = Cli::command();
    command.build();
    command
        .get_arguments()
        .chain(
            commands
                .iter()
                .filter_map(|name| command.find_subcommand(name))
                .flat_map(clap::Command::get_arguments),
        )
        .flat_map(|a| {
            let takes = a.get_action().takes_values();
            let long = a.get_long().map(|l| format!("--{l}"));
            let short = a.get_short().map(|s| format!("-{s}"));
            long.into_iter().chain(short).map(move |name| (name, takes))
        })
        .collect()
}

/// Copies the flags of every command that stand behind `core` before it: what follows it is understood when the API is
/// known, and how to show progress must be known before.
pub fn hoist(argv: Vec<OsString>) -> Vec<OsString> {
    let mut known = known(&[]);
    known.retain(|(name, _)| name != "--help" && name != "-h");
    let flag = |word: &OsString| {
        let text = word.to_string_lossy().into_owned();
        let name = text.split('=').next().unwrap_or_default();
        let found = known.iter().find(|(k, _)| k == name)?;
        Some(found.1 && !text.contains('='))
    };
    let mut words = argv.iter().enumerate().skip(1);
    let at = loop {
        let Some((i, word)) = words.next() else {
            return argv;
        };
        match flag(word) {
            Some(true) => drop(words.next()),
            Some(false) => {}
            None if word.as_encoded_bytes().starts_with(b"-") => {}
            None if word == "core" => break i,
            None => return argv,
        }
    };
    let mut found = Vec::new();
    let mut words = argv.iter().skip(at + 1).take_while(|w| *w != "--");
    while let Some(word) = words.next() {
        if let Some(value_follows) = flag(word) {
            found.push(word.clone());
            if value_follows {
                found.extend(words.next().cloned());
            }
        }
    }
    let mut out = argv;
    // Nothing of what follows is clap's.
    out.insert(at + 1, "--".into());
    out.splice(at..at, found);
    out
}

/// Leaves out of a `session` command line the flags that this version does not know: SDKs of other versions pass
/// `--project`, `--workspace`, `--load-workspace-modules` and more. As the command takes no arguments, a word after an unknown
/// flag is its value.
pub fn tolerate(argv: Vec<OsString>) -> Vec<OsString> {
    let is_session = argv
        .iter()
        .skip(1)
        .find(|a| !a.as_encoded_bytes().starts_with(b"-"))
        .is_some_and(|a| a == "session")
        || argv
            .windows(3)
            .any(|w| matches!(w, [flag, _, word] if flag == "--workdir" && word == "session"));
    if !is_session {
        return argv;
    }
    let known = known(&["session"]);
    let mut kept = Vec::with_capacity(argv.len());
    let mut words = argv.into_iter().peekable();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        let name = text.split('=').next().unwrap_or_default();
        // `-vv` is known when `-v` is.
        let short = name.get(..2).filter(|_| !name.starts_with("--"));
        match known
            .iter()
            .find(|(k, _)| k == name || Some(k.as_str()) == short)
        {
            Some((_, takes_value)) => {
                kept.push(word);
                if *takes_value && !text.contains('=') {
                    kept.extend(words.next());
                }
            }
            None if text.starts_with('-') && text != "--help" && text != "-h" => {
                let value_follows = !text.contains('=')
                    && words.peek().is_some_and(|next| {
                        !next.as_encoded_bytes().starts_with(b"-") && next != "session"
                    });
                if value_follows {
                    words.next();
                }
            }
            None => kept.push(word),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(words: &[&str]) -> Vec<OsString> {
        std::iter::once("dagger")
            .chain(words.iter().copied())
            .map(Into::into)
            .collect()
    }

    fn parsed(words: &[&str]) -> Cli {
        parse(os(words)).unwrap()
    }

    fn mistake(words: &[&str]) -> String {
        match parse(os(words)) {
            Err(Stop::Mistake(m)) => m,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_sdk_s_session_is_understood() {
        let lines: &[&[&str]] = &[
            &[
                "session",
                "--label",
                "dagger.io/sdk.name:go",
                "--label",
                "dagger.io/sdk.version:n/a",
            ],
            &[
                "session",
                "--workdir",
                "/w",
                "--project",
                "/p",
                "--label",
                "a:b",
                "--label",
                "c:d",
            ],
            &[
                "session",
                "--label=a:b",
                "--label=c:d",
                "--workdir=/w",
                "--project=/p",
            ],
            &[
                "session",
                "--workdir",
                "/w",
                "--load-workspace-modules",
                "--label",
                "a:b",
                "--workspace",
                "ref",
                "--label",
                "c:d",
            ],
            &[
                "session",
                "-W",
                "ref",
                "--skip-workspace-modules",
                "--label",
                "a:b",
                "--label",
                "c:d",
                "--workdir",
                "/w",
                "-vvv",
            ],
            &[
                "--workdir",
                "/w",
                "session",
                "--label",
                "a:b",
                "--label",
                "c:d",
                "--future=x",
                "--other",
                "value",
            ],
        ];
        for line in lines {
            let cli = parsed(line);
            let Command::Session(session) = &cli.command else {
                panic!("{line:?}")
            };
            assert_eq!(session.label.len(), 2, "{line:?}");
            if line.len() > 5 {
                assert_eq!(cli.global.workdir, Some(PathBuf::from("/w")), "{line:?}");
            }
        }
        let cli = parsed(&["session", "--version", "v0.9.0"]);
        assert!(
            matches!(cli.command, Command::Session(s) if s.version.as_deref() == Some("v0.9.0"))
        );
    }

    #[test]
    fn run_s_own_flags_end_at_the_command() {
        let cli = parsed(&[
            "run",
            "--silent",
            "--cleanup-timeout",
            "1m",
            "sh",
            "-c",
            "exit 7",
            "--silent",
        ]);
        let Command::Run(run) = cli.command else {
            panic!()
        };
        assert!(cli.global.silent);
        assert_eq!(run.command, ["sh", "-c", "exit 7", "--silent"]);
        assert_eq!(run.cleanup_timeout, Duration::from_secs(60));
    }

    #[test]
    fn global_flags_stand_anywhere() {
        assert!(parsed(&["query", "--silent"]).global.silent);
        assert!(parsed(&["-s", "query"]).global.silent);
        assert_eq!(
            parsed(&["query", "-vv", "--progress", "plain"])
                .global
                .verbose,
            2
        );
    }

    #[test]
    fn mistakes_are_told_in_dagger_s_words() {
        assert_eq!(mistake(&["query", "--nope"]), "unknown flag: --nope");
        assert_eq!(
            mistake(&["query", "-z"]),
            "unknown shorthand flag: 'z' in -z"
        );
        assert_eq!(
            mistake(&["frobnicate"]),
            "unknown command \"frobnicate\" for \"dagger\""
        );
        assert!(mistake(&["query", "--progress", "fancy"]).contains("fancy"));
        assert!(
            matches!(parse(os(&["query", "--help"])), Err(Stop::Help(h)) if h.contains("--doc"))
        );
        assert!(matches!(parse(os(&[])), Err(Stop::Help(_))));
    }

    #[test]
    fn commands_to_come_take_anything() {
        let cli = parsed(&["call", "-m", "x", "fn", "--flag", "--help"]);
        assert!(matches!(cli.command, Command::Call(l) if l.rest.len() == 5));
    }

    #[test]
    fn global_flags_stand_behind_functions_too() {
        let cli = parsed(&[
            "core",
            "container",
            "--silent",
            "from",
            "--progress",
            "plain",
            "-h",
        ]);
        assert!(cli.global.silent);
        assert_eq!(cli.global.progress, Some(ProgressFlag::Plain));
        assert!(matches!(cli.command, Command::Core(w) if w.words.len() == 6));
        let cli = parsed(&["-v", "core", "-v", "x", "--", "-s"]);
        assert_eq!((cli.global.verbose, cli.global.silent), (2, false));
        assert!(!parsed(&["run", "core", "-s"]).global.silent);
    }

    #[test]
    fn durations_are_go_s() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "s", "1x", "99999999999999999999h", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
