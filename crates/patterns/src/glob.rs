//! One pattern that lists paths.

use crate::{PatternError, pattern::Pattern};

/// A single pattern that selects exactly the paths it matches, not what is below them: `Directory.glob`.
#[derive(Debug, Clone)]
pub struct Glob {
    pattern: Option<Pattern>,
}

impl Glob {
    /// Compiles a pattern. An empty one, or one with a leading `!`, matches nothing.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn new(pattern: &str) -> Result<Glob, PatternError> {
        Ok(Glob {
            pattern: Pattern::compile(pattern)?.filter(|pattern| !pattern.negated),
        })
    }

    /// Whether a path, relative and clean, matches.
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        self.pattern
            .as_ref()
            .is_some_and(|pattern| pattern.matches(path.as_ref()))
    }

    /// Whether some path below this directory may match.
    pub fn may_match_below(&self, dir: impl AsRef<[u8]>) -> bool {
        self.pattern
            .as_ref()
            .is_some_and(|pattern| pattern.may_match_below(dir.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &[&str] = &[
        ".hidden",
        "a.txt",
        "b.md",
        "empty",
        "sub",
        "sub/c.txt",
        "sub/deep",
        "sub/deep/d.txt",
    ];

    #[test]
    fn answers_as_recorded() {
        for (pattern, expect) in [
            ("**", TREE),
            ("*.txt", &["a.txt"]),
            ("**/*.txt", &["a.txt", "sub/c.txt", "sub/deep/d.txt"]),
            ("sub", &["sub"]),
            ("sub/", &["sub"]),
            ("sub/*", &["sub/c.txt", "sub/deep"]),
            ("sub/**", &["sub/c.txt", "sub/deep", "sub/deep/d.txt"]),
            ("*/", &[".hidden", "a.txt", "b.md", "empty", "sub"]),
            ("**/", TREE),
            ("a.???", &["a.txt"]),
            ("[!a]*", &["a.txt"]),
            ("*.{txt,md}", &[]),
            ("**/deep/**", &["sub/deep/d.txt"]),
            ("**/d*", &["sub/deep", "sub/deep/d.txt"]),
            (".*", &[".hidden"]),
            ("*.TXT", &[]),
            ("", &[]),
            ("nope", &[]),
            ("**/.hidden", &[".hidden"]),
            ("a.txt/*", &[]),
            ("\\*", &[]),
            ("!a.txt", &[]),
        ] {
            let glob = Glob::new(pattern).unwrap();
            let got: Vec<&str> = TREE
                .iter()
                .copied()
                .filter(|path| glob.matches(path))
                .collect();
            assert_eq!(got, expect, "{pattern}");
        }
        assert_eq!(
            Glob::new("[a").unwrap_err().to_string(),
            "syntax error in pattern `[a`"
        );
    }
}
