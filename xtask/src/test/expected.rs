//! `tests/conformance/expected.toml`: which cases may fail, and what a run says against it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Expected {
    /// The areas that are run.
    pub(super) areas: Vec<String>,
    /// Case → why bodkin answers otherwise on purpose.
    pub(super) deviations: BTreeMap<String, String>,
    /// Missing part → cases that need it.
    pub(super) not_yet: BTreeMap<String, Vec<String>>,
}

/// One case as the runner reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    /// `AREA/NAME`.
    pub(super) name: String,
    pub(super) passed: bool,
    /// What was expected and what came.
    pub(super) details: Vec<String>,
}

/// What a run means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) passed: usize,
    /// Failed, as listed.
    pub(super) excused: usize,
    /// A message per case that is not as listed.
    pub(super) wrong: Vec<String>,
}

impl Expected {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let expected: Expected =
            toml::from_str(text).context("malformed list of expected failures")?;
        let mut seen = BTreeSet::new();
        for name in expected.names() {
            let known = name
                .split_once('/')
                .is_some_and(|(area, _)| expected.areas.iter().any(|a| a == area));
            if !known {
                bail!("`{name}` is in no area that is run");
            }
            if !seen.insert(name) {
                bail!("`{name}` is listed twice");
            }
        }
        Ok(expected)
    }

    /// All cases that may fail.
    fn names(&self) -> impl Iterator<Item = &str> {
        let deviations = self.deviations.keys();
        deviations
            .chain(self.not_yet.values().flatten())
            .map(String::as_str)
    }

    /// Compares a run with the list. `all`: every case of the areas was run, so a listed one that is not there is a mistake.
    pub(super) fn judge(&self, cases: &[Case], all: bool) -> Verdict {
        let listed: BTreeSet<&str> = self.names().collect();
        let ran: BTreeSet<&str> = cases.iter().map(|c| c.name.as_str()).collect();
        let mut verdict = Verdict::default();
        for case in cases {
            match (case.passed, listed.contains(case.name.as_str())) {
                (true, false) => verdict.passed += 1,
                (false, true) => verdict.excused += 1,
                (true, true) => verdict.wrong.push(format!(
                    "{} passes: take it off tests/conformance/expected.toml",
                    case.name
                )),
                (false, false) => {
                    let lines = [format!("{} fails", case.name)];
                    let lines = lines.iter().chain(&case.details);
                    verdict
                        .wrong
                        .push(lines.map(String::as_str).collect::<Vec<_>>().join("\n    "));
                }
            }
        }
        let missing = listed.difference(&ran).filter(|_| all);
        verdict
            .wrong
            .extend(missing.map(|n| format!("{n} is listed, but there is no such case")));
        verdict
    }

    /// Deviations that `document` does not tell of, and cases it tells of that are no deviations.
    pub(super) fn untold(&self, document: &str) -> Vec<String> {
        let told: BTreeSet<&str> = document
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| {
                word.split_once('/').is_some_and(|(area, name)| {
                    !name.contains(char::is_whitespace) && self.areas.iter().any(|a| a == area)
                })
            })
            .collect();
        let ours: BTreeSet<&str> = self.deviations.keys().map(String::as_str).collect();
        let untold = ours.difference(&told);
        let untold = untold.map(|n| format!("`{n}` is not told in docs/deviations.md"));
        let stale = told.difference(&ours);
        let stale =
            stale.map(|n| format!("docs/deviations.md tells of `{n}`, which is no deviation"));
        untold.chain(stale).collect()
    }
}

/// Reads the runner's output line by line.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) cases: Vec<Case>,
}

impl Reader {
    pub(super) fn line(&mut self, line: &str) {
        if let Some(details) = line.strip_prefix("        ") {
            if let Some(case) = self.cases.last_mut() {
                case.details.push(details.to_owned());
            }
            return;
        }
        let mut words = line.split_whitespace();
        if let (Some(verdict @ ("ok" | "differs" | "error")), Some(name)) =
            (words.next(), words.next())
        {
            self.cases.push(Case {
                name: name.to_owned(),
                passed: verdict == "ok",
                details: Vec::new(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "areas = ['exec', 'mounts']\n[deviations]\n'exec/a' = 'better'\n[not-yet]\nservices = ['mounts/b']\n";

    fn case(name: &str, passed: bool) -> Case {
        Case {
            name: name.to_owned(),
            passed,
            details: vec!["got 1".to_owned()],
        }
    }

    #[test]
    fn listed_cases_may_fail_and_nothing_else() {
        let expected = Expected::parse(LIST).unwrap();
        let cases = [
            case("exec/a", false),
            case("mounts/b", false),
            case("exec/c", true),
        ];
        let verdict = expected.judge(&cases, true);
        assert_eq!(
            (verdict.passed, verdict.excused, verdict.wrong),
            (1, 2, vec![])
        );
        let verdict = expected.judge(&[case("exec/c", false)], false);
        assert_eq!(verdict.wrong, ["exec/c fails\n    got 1"]);
    }

    #[test]
    fn a_listed_case_that_passes_or_is_gone_is_wrong() {
        let verdict = Expected::parse(LIST)
            .unwrap()
            .judge(&[case("exec/a", true)], true);
        assert_eq!(
            verdict.wrong,
            [
                "exec/a passes: take it off tests/conformance/expected.toml",
                "mounts/b is listed, but there is no such case"
            ]
        );
    }

    #[test]
    fn a_list_that_contradicts_itself_is_refused() {
        let twice = LIST.replace("mounts/b", "exec/a");
        assert!(
            Expected::parse(&twice)
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
        let elsewhere = LIST.replace("mounts/b", "git/b");
        assert!(
            Expected::parse(&elsewhere)
                .unwrap_err()
                .to_string()
                .contains("no area")
        );
    }

    #[test]
    fn deviations_and_document_mirror_each_other() {
        let expected = Expected::parse(LIST).unwrap();
        assert!(expected.untold("text `exec/a` and `a/b`").is_empty());
        assert_eq!(
            expected.untold("see `mounts/x`"),
            [
                "`exec/a` is not told in docs/deviations.md",
                "docs/deviations.md tells of `mounts/x`, which is no deviation"
            ]
        );
    }

    #[test]
    fn the_runners_lines_become_cases() {
        let mut reader = Reader::default();
        for line in [
            "ok      exec/a  0.1s",
            "differs exec/b  1.0s",
            "        got 1",
            "1 passed, 1 failed",
        ] {
            reader.line(line);
        }
        let mut first = case("exec/a", true);
        first.details.clear();
        assert_eq!(reader.cases, [first, case("exec/b", false)]);
    }

    #[test]
    fn the_list_in_the_tree_is_sound() {
        let root = crate::workspace::root();
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        let expected = Expected::parse(&read("tests/conformance/expected.toml")).unwrap();
        let untold = expected.untold(&read("docs/deviations.md"));
        assert!(untold.is_empty(), "{untold:?}");
    }
}
