//! Words as a shell would read them: quotes, escapes and `$` expansions, with the forms Dockerfiles have.

use std::{iter::Peekable, str::Chars};

use crate::pattern::{Pattern, Take, TooLong};

/// Longest result of one expansion, in bytes.
const RESULT_MAX: usize = 4 << 20;
/// How deep `${a:-${b:-…}}` may go.
const DEPTH_MAX: usize = 32;

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// A quote without its partner.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    Quote(&'static str),
    /// `${` without its end.
    #[error("`${{{0}` is not closed: `}}` is missing")]
    Brace(String),
    /// Something after the name that means nothing.
    #[error(
        "unsupported modifier ({1}) in substitution of `{0}`; there are :- :+ :? - + ? # ## % %% / //"
    )]
    Modifier(String, String),
    /// `${x:?}` and the variable has no value.
    #[error("{0}: {1}")]
    Required(String, String),
    /// More than is sensible.
    #[error("an expansion {0}")]
    TooMuch(&'static str),
}

impl From<TooLong> for ExpandError {
    fn from(_: TooLong) -> Self {
        Self::TooMuch("takes too long: the value and the pattern are too large")
    }
}

/// Gives the value of a variable; `None` when it has none.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands one word: quotes are removed, `$` forms replaced.
///
/// # Errors
/// Quotes or braces that are not closed, forms that mean nothing, `${x:?…}` without a value.
pub fn expand(word: &str, escape: char, lookup: Lookup<'_>) -> Result<String, ExpandError> {
    let mut lexer = Lexer::new(word, escape, lookup);
    lexer.until(None, false, 0)?;
    Ok(lexer.out)
}

/// Expands a heredoc: quotes stand for themselves, an escape counts before `$` and itself only.
///
/// # Errors
/// As [`expand`].
pub(crate) fn expand_heredoc(
    body: &str,
    escape: char,
    lookup: Lookup<'_>,
) -> Result<String, ExpandError> {
    let mut lexer = Lexer::new(body, escape, lookup);
    lexer.heredoc = true;
    lexer.until(None, false, 0)?;
    Ok(lexer.out)
}

/// Expands and splits at blanks that are not quoted, also those that came from a variable.
///
/// # Errors
/// As [`expand`].
pub fn expand_words(
    word: &str,
    escape: char,
    lookup: Lookup<'_>,
) -> Result<Vec<String>, ExpandError> {
    let mut lexer = Lexer::new(word, escape, lookup);
    lexer.until(None, false, 0)?;
    let mut words = Vec::new();
    let mut current: Option<String> = None;
    let mut quoted = lexer.quoted.iter().peekable();
    for (at, c) in lexer.out.char_indices() {
        while quoted.next_if(|r| r.end <= at).is_some() {}
        let in_quotes = quoted.peek().is_some_and(|r| r.contains(&at));
        if c.is_whitespace() && !in_quotes {
            words.extend(current.take());
        } else {
            current.get_or_insert_default().push(c);
        }
    }
    words.extend(current);
    Ok(words)
}

/// Splits at blanks outside quotes; quotes and escapes stay in the words.
pub(crate) fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            // Single quotes know no escapes.
            _ if c == escape && quote != Some('\'') => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    escape: char,
    lookup: Lookup<'a>,
    out: String,
    /// Parts of `out` that were quoted: they are not split.
    quoted: Vec<std::ops::Range<usize>>,
    /// The text is a heredoc: quotes mean nothing.
    heredoc: bool,
}

impl<'a> Lexer<'a> {
    fn new(word: &'a str, escape: char, lookup: Lookup<'a>) -> Self {
        Self {
            chars: word.chars().peekable(),
            escape,
            lookup,
            out: String::with_capacity(word.len()),
            quoted: Vec::new(),
            heredoc: false,
        }
    }

    fn push(&mut self, text: &str) -> Result<(), ExpandError> {
        self.out.push_str(text);
        if self.out.len() > RESULT_MAX {
            return Err(ExpandError::TooMuch("gives more than 4 MiB"));
        }
        Ok(())
    }

    /// Reads up to an unquoted `stop`, or the end. With `raw`, escapes stay for who reads the result as a pattern. Answers
    /// whether `stop` was found.
    fn until(
        &mut self,
        stop: Option<&[char]>,
        raw: bool,
        depth: usize,
    ) -> Result<Option<char>, ExpandError> {
        if depth > DEPTH_MAX {
            return Err(ExpandError::TooMuch("is nested too deeply"));
        }
        while let Some(c) = self.chars.next() {
            if stop.is_some_and(|s| s.contains(&c)) {
                return Ok(Some(c));
            }
            match c {
                '\'' | '"' if self.heredoc => self.out.push(c),
                c if c == self.escape && self.heredoc => {
                    let escape = self.escape;
                    match self.chars.next_if(|n| *n == '$' || *n == escape) {
                        Some(next) => self.out.push(next),
                        None => self.out.push(c),
                    }
                }
                '\'' => {
                    let from = self.out.len();
                    loop {
                        match self.chars.next() {
                            Some('\'') => break,
                            Some(c) => self.out.push(c),
                            None => return Err(ExpandError::Quote("single")),
                        }
                    }
                    self.quoted.push(from..self.out.len());
                }
                '"' => {
                    let from = self.out.len();
                    self.double_quoted(raw, depth)?;
                    self.quoted.push(from..self.out.len());
                }
                '$' => self.dollar(depth)?,
                c if c == self.escape => {
                    if raw {
                        self.out.push(c);
                    }
                    let from = self.out.len();
                    match self.chars.next() {
                        Some(next) => self.out.push(next),
                        // An escape before nothing stands for nothing.
                        None => return Ok(None),
                    }
                    self.quoted.push(from..self.out.len());
                }
                c => self.out.push(c),
            }
        }
        Ok(None)
    }

    fn double_quoted(&mut self, raw: bool, depth: usize) -> Result<(), ExpandError> {
        loop {
            match self.chars.next() {
                Some('"') => return Ok(()),
                None => return Err(ExpandError::Quote("double")),
                Some('$') => self.dollar(depth)?,
                Some(c) if c == self.escape => match self.chars.next() {
                    None => return Err(ExpandError::Quote("double")),
                    Some(next) => {
                        if raw || !(next == '"' || next == '$' || next == self.escape) {
                            self.out.push(c);
                        }
                        self.out.push(next);
                    }
                },
                Some(c) => self.out.push(c),
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.chars.peek() {
            Some(c) if c.is_ascii_alphabetic() || *c == '_' => {
                while let Some(c) = self
                    .chars
                    .next_if(|c| c.is_ascii_alphanumeric() || *c == '_')
                {
                    name.push(c);
                }
            }
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.chars.next_if(char::is_ascii_digit) {
                    name.push(c);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '!' | '$') => name.extend(self.chars.next()),
            _ => {}
        }
        name
    }

    /// A word up to `}` or another stop; the brace must come.
    fn inner(
        &mut self,
        name: &str,
        stop: &[char],
        raw: bool,
        depth: usize,
    ) -> Result<(String, char), ExpandError> {
        let before = std::mem::take(&mut self.out);
        let quoted = std::mem::take(&mut self.quoted);
        let found = self.until(Some(stop), raw, depth + 1)?;
        self.quoted = quoted;
        let word = std::mem::replace(&mut self.out, before);
        match found {
            Some(stop) => Ok((word, stop)),
            None => Err(ExpandError::Brace(name.to_owned())),
        }
    }

    fn dollar(&mut self, depth: usize) -> Result<(), ExpandError> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            return if name.is_empty() {
                self.push("$")
            } else {
                let value = (self.lookup)(&name).unwrap_or_default();
                self.push(&value)
            };
        }
        let name = self.name();
        let modifier = self
            .chars
            .next()
            .ok_or_else(|| ExpandError::Brace(name.clone()))?;
        let unsupported = |m: &str| Err(ExpandError::Modifier(name.clone(), m.to_owned()));
        if name.is_empty() {
            return unsupported(&modifier.to_string());
        }
        let value = (self.lookup)(&name);
        let result = match modifier {
            '}' => value.unwrap_or_default(),
            ':' | '-' | '+' | '?' => {
                let colon = modifier == ':';
                let kind = if colon {
                    self.chars
                        .next()
                        .ok_or_else(|| ExpandError::Brace(name.clone()))?
                } else {
                    modifier
                };
                if !matches!(kind, '-' | '+' | '?') {
                    return unsupported(&format!(":{kind}"));
                }
                let (word, _) = self.inner(&name, &['}'], false, depth)?;
                let empty = value.as_deref().is_some_and(str::is_empty);
                let has = value.is_some() && !(colon && empty);
                match kind {
                    '-' if has => value.unwrap_or_default(),
                    '-' => word,
                    '+' if has => word,
                    '+' => String::new(),
                    _ if has => value.unwrap_or_default(),
                    _ => {
                        let message = match (word.as_str(), value.is_some()) {
                            ("", true) => "is not allowed to be empty".to_owned(),
                            ("", false) => "is not allowed to be unset".to_owned(),
                            _ => word,
                        };
                        return Err(ExpandError::Required(name, message));
                    }
                }
            }
            '#' | '%' => {
                let take = match self.chars.next_if_eq(&modifier) {
                    Some(_) => Take::Longest,
                    None => Take::Shortest,
                };
                let (word, _) = self.inner(&name, &['}'], true, depth)?;
                let pattern = Pattern::new(&word, self.escape);
                let value = value.unwrap_or_default();
                if modifier == '#' {
                    pattern.trim_start(&value, take)?
                } else {
                    pattern.trim_end(&value, take)?
                }
            }
            '/' => {
                let all = self.chars.next_if_eq(&'/').is_some();
                let (pattern, stop) = self.inner(&name, &['/', '}'], true, depth)?;
                let by = match stop {
                    '/' => self.inner(&name, &['}'], false, depth)?.0,
                    _ => String::new(),
                };
                Pattern::new(&pattern, self.escape).replace(&value.unwrap_or_default(), &by, all)?
            }
            other => return unsupported(&other.to_string()),
        };
        self.push(&result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(name: &str) -> Option<String> {
        Some(match name {
            "A" => "a".to_owned(),
            "E" => String::new(),
            "P" => "/usr/local/bin".to_owned(),
            "S" => "one two".to_owned(),
            _ => return None,
        })
    }

    #[test]
    fn all_forms() {
        for (text, want) in [
            ("$A", "a"),
            ("${A}b$A/c", "aba/c"),
            ("'$A'", "$A"),
            ("\"$A x\"", "a x"),
            ("\\$A", "$A"),
            ("\"\\$A \\x \\\"\"", "$A \\x \""),
            ("$", "$"),
            ("$/", "$/"),
            ("${X:-d}${E:-e}${E-e}", "de"),
            ("${X:-${A}${X:-z}}", "az"),
            ("${A:+y}${X:+n}${E:+n}${E+y}", "yy"),
            ("${P#*/}", "usr/local/bin"),
            ("${P##*/}", "bin"),
            ("${P%/*}", "/usr/local"),
            ("${P%%/l*}", "/usr"),
            ("${P/l/L}", "/usr/Local/bin"),
            ("${P//\\//-}", "-usr-local-bin"),
            ("${P//[/x}", "/usr/local/bin"),
            ("${A:?no}", "a"),
            ("$1$@", ""),
            ("a\\", "a"),
        ] {
            assert_eq!(expand(text, '\\', &vars), Ok(want.to_owned()), "{text}");
        }
        assert_eq!(expand("`$A \\", '`', &vars), Ok("$A \\".to_owned()));
    }

    #[test]
    fn bad_words_say_what_is_wrong() {
        for (text, want) in [
            ("'a", "matching single-quote"),
            ("\"a", "matching double-quote"),
            ("${A", "`${A` is not closed"),
            ("${A:-", "not closed"),
            ("${}", "unsupported modifier"),
            ("${A!x}", "unsupported modifier (!)"),
            ("${A:x}", "unsupported modifier (:x)"),
            ("${X:?give X}", "X: give X"),
            ("${E:?}", "E: is not allowed to be empty"),
        ] {
            let error = expand(text, '\\', &vars).expect_err(text).to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        let deep = "${X:-".repeat(100) + &"}".repeat(100);
        assert!(matches!(
            expand(&deep, '\\', &vars),
            Err(ExpandError::TooMuch(_))
        ));
    }

    #[test]
    fn results_are_bounded() {
        let big = |_: &str| Some("x".repeat(1 << 20));
        assert!(matches!(
            expand(&"$A".repeat(10), '\\', &big),
            Err(ExpandError::TooMuch(_))
        ));
    }

    #[test]
    fn words_split_at_unquoted_blanks() {
        let words = |t: &str| expand_words(t, '\\', &vars).expect("words");
        assert_eq!(words("$S"), ["one", "two"]);
        assert_eq!(words("\"$S\" x"), ["one two", "x"]);
        assert_eq!(
            split("a=\"b c\" d\\ e 'f g'", '\\'),
            ["a=\"b c\"", "d\\ e", "'f g'"]
        );
    }
}
