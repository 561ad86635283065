//! One pattern, compiled.

use crate::{
    PatternError,
    go::{self, Glyph, chars, in_class},
};

/// Patterns longer than this are refused: matching costs time proportional to the length.
const MAX_LENGTH: usize = 16 * 1024;

/// A compiled pattern. `negated` is its leading `!`.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub(crate) negated: bool,
    kind: Kind,
}

/// How to match. Most patterns are plain strings and never reach the automaton.
#[derive(Debug, Clone)]
enum Kind {
    /// The path is exactly this.
    Exact(Vec<u8>),
    /// `name**`: the path starts with this.
    Prefix(Vec<u8>),
    /// `**name`: the path ends with this, or, when it starts with `/`, is the rest.
    Suffix(Vec<u8>),
    /// Everything else. `literal` is what every match starts with.
    Tokens {
        literal: Vec<u8>,
        tokens: Vec<Token>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// Any character but `/`.
    One,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// Any number of characters but `/`.
    Star,
    /// Nothing, or anything that ends in `/`: a `**` with something behind it.
    Directories,
    /// Anything: a `**` at the end.
    Rest,
}

impl Pattern {
    /// Compiles one line. `None` for an empty one.
    pub(crate) fn compile(text: &str) -> Result<Option<Pattern>, PatternError> {
        if text.len() > MAX_LENGTH {
            return Err(PatternError::TooMuch {
                what: format!("a pattern of {} bytes", text.len()),
                limit: MAX_LENGTH,
            });
        }
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let cleaned = go::clean(text);
        let (negated, body) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::LoneExclamation),
            Some(body) => (true, body),
            None => (false, cleaned.as_str()),
        };
        let glyphs = go::parse(body).map_err(|_| PatternError::Syntax {
            pattern: text.to_owned(),
        })?;
        Ok(Some(Pattern {
            negated,
            kind: Kind::of(&glyphs, body),
        }))
    }

    /// Whether the pattern matches this very path.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        match &self.kind {
            Kind::Exact(want) => path == want,
            Kind::Prefix(prefix) => path.starts_with(prefix),
            Kind::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path)
            }
            Kind::Tokens { literal, tokens } => {
                path.starts_with(literal) && run(tokens, chars(path)).contains(&tokens.len())
            }
        }
    }

    /// Whether some path below directory `dir` could match.
    pub(crate) fn may_match_below(&self, dir: &[u8]) -> bool {
        if dir.is_empty() {
            return true;
        }
        let below = |literal: &[u8]| match literal.get(dir.len()) {
            Some(next) => literal.starts_with(dir) && *next == b'/',
            None => dir.starts_with(literal),
        };
        match &self.kind {
            Kind::Exact(want) => want.len() > dir.len() + 1 && below(want),
            Kind::Prefix(prefix) => below(prefix),
            Kind::Suffix(_) => true,
            Kind::Tokens { literal, tokens } => {
                below(literal)
                    && run(tokens, chars(dir).chain(['/']))
                        .iter()
                        .any(|&state| state < tokens.len())
            }
        }
    }
}

impl Kind {
    /// The special cases are moby's, quirks included: `**.txt` crosses directories, `**.t?t` matches names only.
    fn of(glyphs: &[Glyph], body: &str) -> Kind {
        let plain = |glyphs: &[Glyph]| {
            // A `]` makes moby take the general way, which treats it as itself: no difference.
            glyphs
                .iter()
                .all(|g| matches!(g, Glyph::Literal { escaped: false, .. }))
        };
        match glyphs {
            [Glyph::Star, Glyph::Star, rest @ ..] if plain(rest) => {
                Kind::Suffix(body.get(2..).unwrap_or_default().as_bytes().to_vec())
            }
            [rest @ .., Glyph::Star, Glyph::Star] if plain(rest) => Kind::Prefix(
                body.get(..body.len() - 2)
                    .unwrap_or_default()
                    .as_bytes()
                    .to_vec(),
            ),
            glyphs if plain(glyphs) => Kind::Exact(body.as_bytes().to_vec()),
            glyphs => {
                let tokens = tokens(glyphs);
                let literal: String = tokens
                    .iter()
                    .map_while(|t| {
                        if let Token::Char(ch) = t {
                            Some(*ch)
                        } else {
                            None
                        }
                    })
                    .collect();
                Kind::Tokens {
                    literal: literal.into_bytes(),
                    tokens,
                }
            }
        }
    }
}

fn tokens(glyphs: &[Glyph]) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(glyphs.len());
    let mut rest = glyphs;
    loop {
        rest = match rest {
            [] => return tokens,
            [Glyph::Star, Glyph::Star, after @ ..] => {
                // The slash behind `**` belongs to it: `a/**/b` matches `a/b`.
                let after = match after {
                    [Glyph::Literal { ch: '/', .. }, after @ ..] => after,
                    after => after,
                };
                tokens.push(if after.is_empty() {
                    Token::Rest
                } else {
                    Token::Directories
                });
                after
            }
            [glyph, after @ ..] => {
                tokens.push(match glyph {
                    Glyph::Star => Token::Star,
                    Glyph::One => Token::One,
                    Glyph::Literal { ch, .. } => Token::Char(*ch),
                    Glyph::Class { negated, ranges } => Token::Class {
                        negated: *negated,
                        ranges: ranges.clone(),
                    },
                });
                after
            }
        };
    }
}

/// Runs the automaton over all characters and returns the states it may be in; `tokens.len()` is the accepting one.
///
/// All states are followed at once, so no pattern takes more than its length times the path's.
fn run(tokens: &[Token], path: impl Iterator<Item = char>) -> Vec<usize> {
    let mut now = Vec::with_capacity(8);
    let mut next = Vec::with_capacity(8);
    enter(tokens, 0, &mut now);
    for ch in path {
        next.clear();
        for &state in &now {
            match tokens.get(state) {
                None => {}
                Some(Token::Char(want)) if *want == ch => enter(tokens, state + 1, &mut next),
                Some(Token::One) if ch != '/' => enter(tokens, state + 1, &mut next),
                Some(Token::Class { negated, ranges }) if in_class(*negated, ranges, ch) => {
                    enter(tokens, state + 1, &mut next)
                }
                Some(Token::Star) if ch != '/' => enter(tokens, state, &mut next),
                Some(Token::Rest) => enter(tokens, state, &mut next),
                Some(Token::Directories) => {
                    // Inside the `**`; only a slash leaves it.
                    add(state, &mut next);
                    if ch == '/' {
                        enter(tokens, state + 1, &mut next);
                    }
                }
                Some(_) => {}
            }
        }
        std::mem::swap(&mut now, &mut next);
        if now.is_empty() {
            break;
        }
    }
    now
}

/// Adds a state and those reached from it without a character.
fn enter(tokens: &[Token], mut state: usize, states: &mut Vec<usize>) {
    loop {
        add(state, states);
        match tokens.get(state) {
            Some(Token::Star | Token::Rest | Token::Directories) => state += 1,
            _ => return,
        }
    }
}

fn add(state: usize, states: &mut Vec<usize>) {
    if !states.contains(&state) {
        states.push(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> Pattern {
        Pattern::compile(text).unwrap().unwrap()
    }

    #[test]
    fn matches_as_moby_does() {
        for (pattern, path, answer) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir", false),
            ("dir/**", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**/deep/**", "sub/deep", false),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file", "dirfile", false),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/file/a.txt", true),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a[b-d]e", "ace", true),
            ("abc.def", "abcZdef", false),
            ("a\\*", "a*", true),
            ("a\\b", "ab", true),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/foo/bar", true),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", "bar/.foo", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("**.txt", "a/b.txt", true),
            ("**.t?t", "a/b.txt", false),
            ("*.md", "docs/a.md", false),
            ("/docs", "docs", false),
            ("a**b", "ab", true),
            ("a**b", "ax/b", true),
            ("a**b", "axb", false),
            ("x*y**b", "xyqyb", true),
            ("{a,b}", "a", false),
            ("[*]", "*", true),
            ("*[^a]*", "b/ca", true),
            ("**[^a]**", "b/ca", true),
            ("\\d", "d", true),
            ("\\d", "1", false),
        ] {
            assert_eq!(
                compile(pattern).matches(path.as_bytes()),
                answer,
                "{pattern} on {path}"
            );
        }
    }

    #[test]
    fn knows_what_may_be_below() {
        for (pattern, dir, answer) in [
            ("docs/readme.md", "docs", true),
            ("docs/readme.md", "doc", false),
            ("docs/readme.md", "docs/readme.md", false),
            ("docs", "docs", false),
            ("docs/**", "docs/img", true),
            ("docs/**", "src", false),
            ("src/*/x", "src/a", true),
            ("src/*/x", "src/a/b", false),
            ("src/**/x", "src/a/b", true),
            ("*.md", "docs", false),
            ("**/*.md", "docs", true),
            ("s*", "docs", false),
            ("s?c/x", "src", true),
            ("s?c/x", "sc", false),
            ("anything", "", true),
        ] {
            assert_eq!(
                compile(pattern).may_match_below(dir.as_bytes()),
                answer,
                "{pattern} below {dir}"
            );
        }
    }

    #[test]
    fn a_hostile_pattern_is_not_slow() {
        let pattern = compile(&"*a".repeat(2000));
        assert!(!pattern.matches(&[b'a'; 1000]));
        let pattern = compile(&"**/a*b".repeat(200));
        assert!(!pattern.matches("a/".repeat(1000).as_bytes()));
    }
}
