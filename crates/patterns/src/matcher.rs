//! A list of patterns, the last match winning.

use crate::{PatternError, pattern::Pattern};

/// Lists longer than this are refused.
const MAX_PATTERNS: usize = 16 * 1024;

/// A list of patterns as in a `.dockerignore`: which paths does it match?
///
/// The answers are those of a walk from the root that hands each directory's matches down, as BuildKit's does. In rare lists
/// that differs from "last match wins" over the path and its parents: after `foo/bar`, `!foo` does not bring `foo/bar` back.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
}

/// Which patterns matched a directory: what deciding about its children needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// Whether the list as a whole matched the directory.
    pub matched: bool,
    each: Vec<bool>,
}

impl Matcher {
    /// Compiles a list. Empty patterns are skipped.
    ///
    /// # Errors
    /// The first pattern that is malformed.
    pub fn new<S: AsRef<str>>(
        patterns: impl IntoIterator<Item = S>,
    ) -> Result<Matcher, PatternError> {
        let mut compiled = Vec::new();
        for pattern in patterns {
            compiled.extend(Pattern::compile(pattern.as_ref())?);
            if compiled.len() > MAX_PATTERNS {
                return Err(PatternError::TooMuch {
                    what: "the number of patterns".into(),
                    limit: MAX_PATTERNS,
                });
            }
        }
        Ok(Matcher { patterns: compiled })
    }

    /// Whether a path, relative and clean, is matched, directly or by one of its parents.
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        self.walk_down(path.as_ref()).matched
    }

    /// What the patterns say of `path`, given what they said of its parent; the root's is `Matched::default()`.
    pub fn step(&self, parent: &Matched, path: &[u8]) -> Matched {
        let mut each = Vec::with_capacity(self.patterns.len());
        let mut matched = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            // One that cannot change the answer is not looked at, and so not handed down either.
            let hit = parent.each.get(index).copied().unwrap_or(false)
                || (pattern.negated == matched && pattern.matches(path));
            each.push(hit);
            if hit {
                matched = !pattern.negated;
            }
        }
        Matched { matched, each }
    }

    /// Whether something below `dir` may be answered differently than `dir` itself, as `here` answers.
    pub fn may_change_below(&self, here: &Matched, dir: &[u8]) -> bool {
        self.patterns.iter().enumerate().any(|(index, pattern)| {
            pattern.negated == here.matched
                && !here.each.get(index).copied().unwrap_or(false)
                && pattern.may_match_below(dir)
        })
    }

    pub(crate) fn walk_down(&self, path: &[u8]) -> Matched {
        let mut state = Matched::default();
        if path.is_empty() {
            return state;
        }
        let ends = path
            .iter()
            .enumerate()
            .filter(|&(_, &byte)| byte == b'/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        for end in ends {
            state = self.step(&state, path.get(..end).unwrap_or(path));
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_match_wins_and_parents_count() {
        for (patterns, path, answer) in [
            (&["docs"][..], "docs/img/p.png", true),
            (&["docs", "!docs/readme.md"], "docs/readme.md", false),
            (&["docs", "!docs/readme.md"], "docs/img", true),
            (&["!docs/readme.md", "docs"], "docs/readme.md", true),
            (&["*", "!src"], "src/lib/data.json", false),
            (&["*", "!src", "src/lib"], "src/lib/data.json", true),
            (&["**", "!src/main.go"], "src", true),
            (&["**", "!src/main.go"], "src/main.go", false),
            (&["foo/bar", "!foo"], "foo/bar", true),
            (&["", "  "], "x", false),
            (&[" docs "], "docs", true),
            (&["docs/"], "docs", true),
            (&["./docs"], "docs", true),
            (&["../docs"], "docs", false),
            (&["."], "docs", false),
        ] {
            assert_eq!(
                Matcher::new(patterns).unwrap().matches(path),
                answer,
                "{patterns:?} on {path}"
            );
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        assert_eq!(
            Matcher::new(["[a"]).unwrap_err().to_string(),
            "syntax error in pattern `[a`"
        );
        assert_eq!(
            Matcher::new(["!"]).unwrap_err().to_string(),
            "illegal exclusion pattern: \"!\""
        );
        assert!(Matcher::new(["x".repeat(20_000)]).is_err());
        assert!(Matcher::new(vec!["x"; 20_000]).is_err());
    }
}
