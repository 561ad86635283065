//! Package managers inside containers: that the network, the resolver and the host's certificates reach them.

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::clients::tail;
use super::suite::Suite;
use crate::process;

const LIMIT: Duration = Duration::from_secs(300);

/// A step that installs, one that uses what was installed, and what that prints.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    image: &'static str,
    steps: &'static [&'static [&'static str]],
    prints: &'static str,
}

pub(super) const CHECKS: [Check; 2] = [
    Check {
        name: "pip-in-container",
        image: "python",
        steps: &[
            &[
                "pip",
                "install",
                "--quiet",
                "--no-cache-dir",
                "--root-user-action",
                "ignore",
                "iniconfig",
            ],
            &[
                "python3",
                "-c",
                "import iniconfig; print(iniconfig.__name__)",
            ],
        ],
        prints: "iniconfig\n",
    },
    Check {
        name: "apt-in-container",
        image: "debian",
        steps: &[
            &["apt-get", "update"],
            &[
                "apt-get",
                "install",
                "--yes",
                "--no-install-recommends",
                "hello",
            ],
            &["hello", "--greeting", "installed"],
        ],
        prints: "installed\n",
    },
];

/// Settings of pip that say where packages are, and the variable of each.
const PIP: [(&str, &str); 3] = [
    ("index-url", "PIP_INDEX_URL"),
    ("extra-index-url", "PIP_EXTRA_INDEX_URL"),
    ("trusted-host", "PIP_TRUSTED_HOST"),
];
/// Variables of the host that programs need to get out.
const PROXIES: [&str; 6] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

pub(super) fn run(suite: &Suite, check: &Check) -> Result<()> {
    let file = suite.tmp().join(format!("{}.graphql", check.name));
    let listed =
        process::output_text(Command::new("python3").args(["-m", "pip", "config", "list"]))?;
    let proxies = PROXIES.map(|name| (name.to_owned(), std::env::var(name).ok()));
    let proxies = proxies.into_iter().filter_map(|(n, v)| v.map(|v| (n, v)));
    let variables: Vec<_> = pip_settings(&listed).into_iter().chain(proxies).collect();
    crate::files::write(&file, document(check, &variables).as_bytes())?;
    let log = suite.log(check.name);
    let mut command = suite.command(&suite.shell()?.dagger.to_string_lossy())?;
    command.arg("query").arg("--doc").arg(&file);
    command
        .stderr(File::create(&log).with_context(|| format!("cannot create `{}`", log.display()))?);
    let mut answer = String::new();
    let status = process::lines(&mut command, LIMIT, |line| answer.push_str(line));
    fs::remove_file(&file).ok();
    let status = status?;
    if !status.success() {
        bail!("{status}; log: {}\n{}", suite.shown(&log), tail(&log, 12));
    }
    let answer: serde_json::Value =
        serde_json::from_str(&answer).with_context(|| format!("no JSON: {answer}"))?;
    let printed = leaf(&answer);
    ensure!(
        printed == Some(check.prints),
        "printed {printed:?}, not {:?}",
        check.prints
    );
    Ok(())
}

/// The query that runs the check's steps with these variables set.
fn document(check: &Check, variables: &[(String, String)]) -> String {
    let mut fields = vec![format!("from(address: {:?})", check.image)];
    let variable = |(name, value): &(String, String)| {
        format!(
            "withEnvVariable(name: {}, value: {})",
            quoted(name),
            quoted(value)
        )
    };
    fields.extend(variables.iter().map(variable));
    for step in check.steps {
        let words: Vec<String> = step.iter().map(|w| quoted(w)).collect();
        fields.push(format!("withExec(args: [{}])", words.join(", ")));
    }
    let depth = fields.len();
    format!(
        "{{ container {{ {} {{ stdout {}",
        fields.join(" { "),
        "} ".repeat(depth + 2)
    )
}

/// A string as GraphQL writes it: as JSON does.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The variables for what `pip config list` says of indexes; a later line wins, as it does for pip.
fn pip_settings(listed: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in listed.lines() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let value = value.trim_matches(['\'', '"']).replace("\\n", " ");
        let name = key.rsplit('.').next().unwrap_or(key);
        if let Some((_, variable)) = PIP.iter().find(|(setting, _)| *setting == name) {
            found.retain(|(n, _)| n != variable);
            found.push(((*variable).to_owned(), value.trim().to_owned()));
        }
    }
    found
}

/// The text at the end of an answer of single-key objects.
fn leaf(answer: &serde_json::Value) -> Option<&str> {
    let mut value = answer;
    while let Some(object) = value.as_object() {
        value = object.values().next()?;
    }
    value.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_becomes_one_query() {
        let check = Check {
            name: "x",
            image: "debian",
            steps: &[&["echo", "a\"b"]],
            prints: "",
        };
        assert_eq!(
            document(&check, &[("A".into(), "1".into())]),
            r#"{ container { from(address: "debian") { withEnvVariable(name: "A", value: "1") { withExec(args: ["echo", "a\"b"]) { stdout } } } } } "#
        );
    }

    #[test]
    fn only_settings_of_indexes_travel() {
        let listed = "global.cert='/x.crt'\nglobal.index-url='https://a.test/simple'\n:env:.index-url='https://b.test/simple'\n";
        let expected = (
            "PIP_INDEX_URL".to_owned(),
            "https://b.test/simple".to_owned(),
        );
        assert_eq!(pip_settings(listed), [expected]);
    }

    #[test]
    fn the_leaf_is_found_below_any_nesting() {
        let answer = serde_json::json!({"container": {"from": {"stdout": "x"}}});
        assert_eq!(leaf(&answer), Some("x"));
    }
}
