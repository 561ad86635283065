//! What no process can be given, found before anything is made for it. Arguments and values may be secrets: they are counted,
//! never shown.

use crate::{StartError, error::shown};

/// Pages that the longest argument of a process takes, as Linux has it.
const ARGUMENT_PAGES: usize = 32;
/// Most bytes of arguments and environment together, whatever the limits of the process.
const TOGETHER_MAX: u64 = 6 << 20;
/// What a process can always be given, in bytes.
const TOGETHER_MIN: u64 = 128 << 10;

/// Refuses what the kernel would refuse, or cut off.
pub(crate) fn process(argv: &[Vec<u8>], env: &[Vec<u8>], cwd: &[u8]) -> Result<(), StartError> {
    let limit = ARGUMENT_PAGES * rustix::param::page_size() - 1;
    if argv.first().is_none_or(Vec::is_empty) {
        return Err(StartError::Spec(
            "no program to run: the first argument, its name, is empty".into(),
        ));
    }
    let problem = |text: &[u8]| {
        if text.contains(&0) {
            Some("contains a NUL byte, which no process can be given".to_owned())
        } else if text.len() > limit {
            Some(format!(
                "has {} bytes, more than the {limit} that Linux takes; longer texts can be given in a file or as stdin",
                text.len()
            ))
        } else {
            None
        }
    };
    for (at, argument) in argv.iter().enumerate() {
        if let Some(problem) = problem(argument) {
            return Err(StartError::Spec(match at {
                0 => format!("the name of the program {problem}"),
                at => format!("argument {at} of the program {problem}"),
            }));
        }
    }
    for pair in env {
        if let Some(problem) = problem(pair) {
            return Err(StartError::Spec(format!(
                "the environment variable `{}` {problem}",
                shown(name_of(pair))
            )));
        }
    }
    if cwd.contains(&0) {
        return Err(StartError::Spec(format!(
            "the working directory `{}` contains a NUL byte, which no path can",
            shown(cwd)
        )));
    }
    Ok(())
}

/// The name in `NAME=value`.
fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|b| *b == b'=').next().unwrap_or_default()
}

/// A program, as messages about its start need it.
#[derive(Debug)]
pub(crate) struct Named {
    /// `argv[0]`.
    pub(crate) name: String,
    /// Bytes of its arguments and environment.
    size: usize,
}

impl Named {
    pub(crate) fn of(argv: &[Vec<u8>], env: &[Vec<u8>]) -> Named {
        Named {
            name: argv.first().map(|n| shown(n)).unwrap_or_default(),
            // Each ends with a NUL and has a pointer to it.
            size: argv
                .iter()
                .chain(env)
                .map(|text| text.len() + 1 + size_of::<usize>())
                .sum(),
        }
    }

    /// One without arguments.
    pub(crate) fn plain(name: &str) -> Named {
        Named {
            name: name.to_owned(),
            size: 0,
        }
    }

    /// The kernel took neither more nor less: all of it was too much.
    pub(crate) fn too_long(&self) -> StartError {
        let (stack, _) = sys::process::limits(libc::RLIMIT_STACK).unwrap_or((u64::MAX, u64::MAX));
        let limit = (stack / 4).clamp(TOGETHER_MIN, TOGETHER_MAX);
        StartError::Spec(format!(
            "the arguments and the environment of `{}` have {} bytes together, more than the {limit} that Linux takes here; \
             longer texts can be given in a file or as stdin",
            self.name, self.size
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(argv: &[&[u8]], env: &[&[u8]], cwd: &[u8]) -> String {
        let own = |list: &[&[u8]]| list.iter().map(|t| t.to_vec()).collect::<Vec<_>>();
        process(&own(argv), &own(env), cwd).map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn what_is_refused_is_named_and_never_shown() {
        assert_eq!(said(&[b"sh"], &[b"A=b"], b"/"), "");
        assert_eq!(
            said(&[b"sh"], &[b"KEY=hunter2\0tail"], b"/"),
            "the environment variable `KEY` contains a NUL byte, which no process can be given"
        );
        assert_eq!(
            said(&[b"sh", b"-c", b"hunter2\0"], &[], b"/"),
            "argument 2 of the program contains a NUL byte, which no process can be given"
        );
        assert_eq!(
            said(&[b"s\0h"], &[], b"/"),
            "the name of the program contains a NUL byte, which no process can be given"
        );
        assert!(said(&[b""], &[], b"/").contains("is empty"));
        assert!(said(&[b"sh"], &[], b"/a\0").starts_with("the working directory `/a"));
    }

    #[test]
    fn a_long_argument_is_told_with_its_size_and_the_limit() {
        let limit = 32 * rustix::param::page_size();
        let (fits, long) = (vec![b'x'; limit - 1], vec![b'x'; limit]);
        assert_eq!(said(&[b"echo", &fits], &[], b"/"), "");
        let text = said(&[b"echo", &long], &[], b"/");
        assert!(
            text.starts_with(&format!(
                "argument 1 of the program has {limit} bytes, more than the {} that Linux takes",
                limit - 1
            )),
            "{text}"
        );
    }
}
