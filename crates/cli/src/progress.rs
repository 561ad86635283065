//! Progress as plain lines.
//!
//! ```text
//! ● withExec go test
//!   | ok   example/pkg
//! ✔ withExec go test 2.1s
//! ✔ from alpine CACHED
//! ✘ withExec go vet 0.4s
//!   ! process "go vet" did not complete successfully: exit code: 1
//! ```
//! Output of several steps at once is told apart by repeating a step's `●` line whenever the speaker changes.

use std::collections::{HashMap, VecDeque};

use wire::ProgressEvent;

/// Most steps remembered; the oldest are forgotten first.
const STEPS: usize = 10_000;
/// Longest line of output; longer ones are broken.
const LINE: usize = 4096;
/// Lines kept of a quiet step, to be shown when it fails.
const KEPT: usize = 40;

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Nothing.
    Silent,
    /// Failures, with the end of their output.
    Failures,
    /// Every finished step, and output as it comes.
    Steps,
    /// Also when a step begins.
    Everything,
}

/// Turns events into lines.
#[derive(Debug)]
pub struct Plain {
    detail: Detail,
    colour: bool,
    steps: HashMap<u64, Step>,
    order: VecDeque<u64>,
    speaker: u64,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    /// Incomplete lines: standard output, standard error.
    partial: [String; 2],
    kept: VecDeque<String>,
}

impl Plain {
    /// With this much detail, with colours or without.
    pub fn new(detail: Detail, colour: bool) -> Self {
        Self {
            detail,
            colour,
            steps: HashMap::new(),
            order: VecDeque::new(),
            speaker: 0,
        }
    }

    /// What to print for an event.
    pub fn lines(&mut self, event: &ProgressEvent) -> Vec<String> {
        let mut out = Vec::new();
        if self.detail == Detail::Silent {
            return out;
        }
        match event {
            ProgressEvent::StepStarted { id, name, .. } => self.started(&mut out, *id, name),
            ProgressEvent::StepCached { name, .. } => {
                if self.detail >= Detail::Steps {
                    self.speaker = 0;
                    out.push(format!(
                        "{} {} {}",
                        self.paint("✔", GREEN),
                        clean(name),
                        self.paint("CACHED", BLUE)
                    ));
                }
            }
            ProgressEvent::StepOutput { id, stderr, text } => {
                self.output(&mut out, *id, *stderr, text)
            }
            ProgressEvent::StepEnded {
                id,
                millis,
                cancelled,
                error,
            } => {
                self.ended(&mut out, *id, *millis, *cancelled, error.as_deref());
            }
            ProgressEvent::Note { text } => out.extend(
                text.lines()
                    .map(|l| format!("{} {}", self.paint("!", YELLOW), clean(l))),
            ),
            ProgressEvent::Unknown => {}
        }
        out
    }

    fn paint(&self, text: &str, colour: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn started(&mut self, out: &mut Vec<String>, id: u64, name: &str) {
        if self.steps.len() >= STEPS
            && let Some(oldest) = self.order.pop_front()
        {
            self.steps.remove(&oldest);
        }
        let name = clean(name);
        if self.detail >= Detail::Everything {
            self.speaker = id;
            out.push(format!("{} {name}", self.paint("●", BLUE)));
        }
        if self
            .steps
            .insert(
                id,
                Step {
                    name,
                    ..Step::default()
                },
            )
            .is_none()
        {
            self.order.push_back(id);
        }
    }

    fn output(&mut self, out: &mut Vec<String>, id: u64, stderr: bool, text: &str) {
        let Some(step) = self.steps.get_mut(&id) else {
            return;
        };
        let mut ready = Vec::new();
        let partial = &mut step.partial[usize::from(stderr)];
        for piece in text.split_inclusive('\n') {
            partial.push_str(piece);
            if partial.ends_with('\n') || partial.len() > LINE {
                ready.push(clean(&std::mem::take(partial)));
            }
        }
        self.say(out, id, ready);
    }

    /// Shows lines of a step, or keeps them.
    fn say(&mut self, out: &mut Vec<String>, id: u64, lines: Vec<String>) {
        let quiet = self.detail < Detail::Steps;
        let mark = self.paint("●", BLUE);
        let Some(step) = self.steps.get_mut(&id) else {
            return;
        };
        for line in lines {
            if quiet {
                if step.kept.len() >= KEPT {
                    step.kept.pop_front();
                }
                step.kept.push_back(line);
                continue;
            }
            if self.speaker != id {
                self.speaker = id;
                out.push(format!("{mark} {}", step.name));
            }
            out.push(format!("  | {line}"));
        }
    }

    fn ended(
        &mut self,
        out: &mut Vec<String>,
        id: u64,
        millis: u64,
        cancelled: bool,
        error: Option<&str>,
    ) {
        let Some(step) = self.steps.get_mut(&id) else {
            return;
        };
        let rest: Vec<_> = step
            .partial
            .iter_mut()
            .map(std::mem::take)
            .filter(|p| !p.is_empty())
            .map(|p| clean(&p))
            .collect();
        self.say(out, id, rest);
        let Some(step) = self.steps.remove(&id) else {
            return;
        };
        if let Some(at) = self.order.iter().position(|o| *o == id) {
            self.order.remove(at);
        }
        self.speaker = 0;
        let took = duration(millis);
        match error {
            Some(error) => {
                out.push(format!("{} {} {took}", self.paint("✘", RED), step.name));
                out.extend(step.kept.iter().map(|l| format!("  | {l}")));
                let first = error.lines().next().unwrap_or_default();
                out.push(format!("  {} {}", self.paint("!", RED), clean(first)));
            }
            None if self.detail < Detail::Steps => {}
            None if cancelled => {
                out.push(format!("{} {} {took}", self.paint("∅", YELLOW), step.name))
            }
            None => out.push(format!("{} {} {took}", self.paint("✔", GREEN), step.name)),
        }
    }
}

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "34";

/// `0.2s`, `2.1s`, `3m7s`, `2h5m`.
fn duration(millis: u64) -> String {
    let secs = millis / 1000;
    match secs {
        0..60 => format!("{secs}.{}s", millis % 1000 / 100),
        60..3600 => format!("{}m{}s", secs / 60, secs % 60),
        _ => format!("{}h{}m", secs / 3600, secs % 3600 / 60),
    }
}

/// One line that cannot steer a terminal: what a carriage return overwrote is gone, escape sequences and control characters
/// are left out.
fn clean(text: &str) -> String {
    let text = text.trim_end_matches(['\n', '\r']);
    let text = text.rsplit('\r').next().unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            match chars.peek() {
                // A control sequence ends at its first letter or `@`, `~`.
                Some('[') => {
                    chars.next();
                    while chars
                        .next()
                        .is_some_and(|c| !('\x40'..='\x7e').contains(&c))
                    {}
                }
                // An operating system command ends at BEL or ESC `\`.
                Some(']') => {
                    while chars.next().is_some_and(|c| c != '\x07' && c != '\x1b') {}
                    chars.next_if_eq(&'\\');
                }
                _ => {
                    chars.next();
                }
            }
        } else if c == '\t' || c == '\n' || !c.is_control() {
            out.push(if c == '\n' { ' ' } else { c });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(id: u64, name: &str) -> ProgressEvent {
        ProgressEvent::StepStarted {
            id,
            parent: 0,
            name: name.into(),
        }
    }

    fn said(id: u64, text: &str) -> ProgressEvent {
        ProgressEvent::StepOutput {
            id,
            stderr: false,
            text: text.into(),
        }
    }

    fn end(id: u64, millis: u64, error: Option<&str>) -> ProgressEvent {
        ProgressEvent::StepEnded {
            id,
            millis,
            cancelled: false,
            error: error.map(Into::into),
        }
    }

    fn shown(detail: Detail, events: &[ProgressEvent]) -> String {
        let mut plain = Plain::new(detail, false);
        events
            .iter()
            .flat_map(|e| plain.lines(e))
            .map(|l| l + "\n")
            .collect()
    }

    fn sample() -> Vec<ProgressEvent> {
        vec![
            ProgressEvent::StepCached {
                id: 1,
                parent: 0,
                name: "from alpine".into(),
            },
            start(2, "withExec go test"),
            start(3, "withExec go vet"),
            said(2, "ok one\nok "),
            said(3, "bad\n"),
            said(2, "two\n"),
            end(2, 2149, None),
            said(3, "last words"),
            end(3, 187_000, Some("exit code: 1\nmore")),
            ProgressEvent::StepEnded {
                id: 9,
                millis: 1,
                cancelled: true,
                error: None,
            },
            ProgressEvent::Note {
                text: "no network".into(),
            },
        ]
    }

    #[test]
    fn steps_and_their_output_are_told_apart() {
        expect_test::expect![[r#"
            ✔ from alpine CACHED
            ● withExec go test
              | ok one
            ● withExec go vet
              | bad
            ● withExec go test
              | ok two
            ✔ withExec go test 2.1s
            ● withExec go vet
              | last words
            ✘ withExec go vet 3m7s
              ! exit code: 1
            ! no network
        "#]]
        .assert_eq(&shown(Detail::Steps, &sample()));
    }

    #[test]
    fn quiet_shows_failures_with_their_output_and_silent_nothing() {
        expect_test::expect![[r#"
            ✘ withExec go vet 3m7s
              | bad
              | last words
              ! exit code: 1
            ! no network
        "#]]
        .assert_eq(&shown(Detail::Failures, &sample()));
        assert_eq!(shown(Detail::Silent, &sample()), "");
    }

    #[test]
    fn output_cannot_steer_the_terminal() {
        assert_eq!(
            clean("\x1b[2J\x1b]0;title\x07a\x1b[31mb\x1b[0m\x08c\x1b(Bd\tend\r\n"),
            "abcBd\tend"
        );
        assert_eq!(clean("10%\r50%\r100%\n"), "100%");
    }

    #[test]
    fn long_lines_and_many_steps_stay_bounded() {
        let mut plain = Plain::new(Detail::Steps, false);
        for id in 1..=(STEPS as u64 + 5) {
            plain.lines(&start(id, "x"));
        }
        assert_eq!((plain.steps.len(), plain.order.len()), (STEPS, STEPS));
        assert!(
            plain.lines(&end(1, 0, None)).is_empty(),
            "the oldest was forgotten"
        );
        assert_eq!(plain.lines(&said(100, &"y".repeat(LINE + 1))).len(), 2);
    }
}
