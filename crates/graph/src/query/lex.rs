//! Text to tokens. One pass, no allocation; strings are decoded only when the parser asks.

use std::borrow::Cow;

/// Most bytes a document may have.
pub(crate) const MAX_DOCUMENT: usize = 32 << 20;
/// Most tokens a document may have.
pub(crate) const MAX_TOKENS: usize = 4_000_000;

/// Where and why a text is no GraphQL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (line {line}, column {column})")]
pub struct SyntaxError {
    /// What was found and what was expected.
    pub message: String,
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
}

impl SyntaxError {
    /// An error at byte `at` of `text`.
    pub(crate) fn at(text: &str, at: usize, message: impl Into<String>) -> Self {
        let (line, column) = position(text, at);
        Self {
            message: message.into(),
            line,
            column,
        }
    }
}

/// Line and column (both 1-based) of byte `at`.
pub(crate) fn position(text: &str, at: usize) -> (usize, usize) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    (line, before[start..].chars().count() + 1)
}

/// One token; texts borrow from the document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'a> {
    /// One of `! $ & ( ) : = @ [ ] { | }`.
    Punct(u8),
    /// `...`
    Spread,
    /// A name or keyword.
    Name(&'a str),
    /// An integer literal.
    Int(&'a str),
    /// A float literal.
    Float(&'a str),
    /// The inside of `"…"`, escapes not decoded yet.
    Str(&'a str),
    /// The inside of `"""…"""`, not dedented yet.
    Block(&'a str),
    /// The end of the document.
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Punct(b) => write!(f, "`{}`", char::from(*b)),
            Token::Spread => f.write_str("`...`"),
            Token::Name(t) | Token::Int(t) | Token::Float(t) => {
                let short: String = t.chars().take(40).collect();
                write!(f, "`{short}`")
            }
            Token::Str(_) | Token::Block(_) => f.write_str("a string"),
            Token::End => f.write_str("the end of the document"),
        }
    }
}

/// The tokens of one document.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    count: usize,
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning, behind a byte order mark.
    pub(crate) fn new(text: &'a str) -> Result<Self, SyntaxError> {
        if text.len() > MAX_DOCUMENT {
            return Err(SyntaxError::at(
                "",
                0,
                format!(
                    "the document has {} bytes, more than {MAX_DOCUMENT}",
                    text.len()
                ),
            ));
        }
        let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
        Ok(Self { text, at, count: 0 })
    }

    /// The document.
    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    fn error(&self, at: usize, message: impl Into<String>) -> SyntaxError {
        SyntaxError::at(self.text, at, message)
    }

    /// The next token and where it begins.
    pub(crate) fn next(&mut self) -> Result<(Token<'a>, usize), SyntaxError> {
        let bytes = self.text.as_bytes();
        // White space, commas, comments; a byte order mark may also stand between tokens.
        loop {
            match bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r' | b',') => self.at += 1,
                Some(b'#') => {
                    while !matches!(bytes.get(self.at), None | Some(b'\n' | b'\r')) {
                        self.at += 1;
                    }
                }
                Some(0xef) if self.text[self.at..].starts_with('\u{feff}') => self.at += 3,
                _ => break,
            }
        }
        self.count += 1;
        if self.count > MAX_TOKENS {
            return Err(self.error(
                self.at,
                format!("the document has more than {MAX_TOKENS} tokens"),
            ));
        }
        let start = self.at;
        let Some(&b) = bytes.get(start) else {
            return Ok((Token::End, start));
        };
        let token = match b {
            b'!' | b'$' | b'&' | b'(' | b')' | b':' | b'=' | b'@' | b'[' | b']' | b'{' | b'|'
            | b'}' => {
                self.at += 1;
                Token::Punct(b)
            }
            b'.' => {
                if bytes[start..].starts_with(b"...") {
                    self.at += 3;
                    Token::Spread
                } else {
                    return Err(self.error(start, "expected `...`, found `.`"));
                }
            }
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                while bytes
                    .get(self.at)
                    .is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
                {
                    self.at += 1;
                }
                Token::Name(&self.text[start..self.at])
            }
            b'-' | b'0'..=b'9' => self.number(start)?,
            b'"' => self.string(start)?,
            _ => {
                let c = self.text[start..].chars().next().unwrap_or('?');
                return Err(self.error(start, format!("unexpected character {c:?}")));
            }
        };
        Ok((token, start))
    }

    fn digits(&mut self) -> Result<(), SyntaxError> {
        let from = self.at;
        while self
            .text
            .as_bytes()
            .get(self.at)
            .is_some_and(u8::is_ascii_digit)
        {
            self.at += 1;
        }
        if self.at == from {
            Err(self.error(from, "expected a digit in the number"))
        } else {
            Ok(())
        }
    }

    fn number(&mut self, start: usize) -> Result<Token<'a>, SyntaxError> {
        let bytes = self.text.as_bytes();
        if bytes[start] == b'-' {
            self.at += 1;
        }
        if bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
            if bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
                return Err(self.error(self.at, "a number may not begin with 0"));
            }
        } else {
            self.digits()?;
        }
        let mut float = false;
        if bytes.get(self.at) == Some(&b'.') {
            float = true;
            self.at += 1;
            self.digits()?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            float = true;
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        if bytes
            .get(self.at)
            .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_' || *b == b'.')
        {
            return Err(self.error(self.at, "a number may not be followed by a name or a dot"));
        }
        let text = &self.text[start..self.at];
        Ok(if float {
            Token::Float(text)
        } else {
            Token::Int(text)
        })
    }

    fn string(&mut self, start: usize) -> Result<Token<'a>, SyntaxError> {
        let bytes = self.text.as_bytes();
        if bytes[start..].starts_with(b"\"\"\"") {
            let from = start + 3;
            let mut at = from;
            loop {
                match bytes.get(at) {
                    None => return Err(self.error(start, "the block string has no end")),
                    Some(b'\\') if bytes[at..].starts_with(b"\\\"\"\"") => at += 4,
                    Some(b'"') if bytes[at..].starts_with(b"\"\"\"") => break,
                    Some(_) => at += 1,
                }
            }
            self.at = at + 3;
            return Ok(Token::Block(&self.text[from..at]));
        }
        let from = start + 1;
        let mut at = from;
        loop {
            match bytes.get(at) {
                None | Some(b'\n' | b'\r') => {
                    return Err(self.error(start, "the string has no end"));
                }
                Some(b'"') => break,
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
            }
        }
        self.at = at + 1;
        Ok(Token::Str(&self.text[from..at]))
    }

    /// The text a string token `raw`, beginning at `start`, stands for.
    pub(crate) fn decode(&self, raw: &'a str, start: usize) -> Result<Cow<'a, str>, SyntaxError> {
        if !raw.contains('\\') {
            return Ok(Cow::Borrowed(raw));
        }
        let bytes = raw.as_bytes();
        let mut out = String::with_capacity(raw.len());
        let mut at = 0;
        while at < bytes.len() {
            let next = bytes[at..]
                .iter()
                .position(|b| *b == b'\\')
                .map_or(bytes.len(), |i| at + i);
            out.push_str(&raw[at..next]);
            at = next;
            if at == bytes.len() {
                break;
            }
            let bad =
                |what: &str| self.error(start + 1 + at, format!("bad escape in a string: {what}"));
            let c = match bytes.get(at + 1) {
                Some(b'"') => '"',
                Some(b'\\') => '\\',
                Some(b'/') => '/',
                Some(b'b') => '\u{8}',
                Some(b'f') => '\u{c}',
                Some(b'n') => '\n',
                Some(b'r') => '\r',
                Some(b't') => '\t',
                Some(b'u') => {
                    let (c, len) =
                        unicode(&raw[at..]).ok_or_else(|| bad("not a Unicode character"))?;
                    at += len;
                    out.push(c);
                    continue;
                }
                Some(other) => return Err(bad(&format!("`\\{}`", char::from(*other)))),
                None => return Err(bad("it ends with `\\`")),
            };
            out.push(c);
            at += 2;
        }
        Ok(Cow::Owned(out))
    }
}

/// Reads `\uXXXX`, `\uD8XX\uDCXX` or `\u{X…}` at the beginning; the character and how many bytes it took.
fn unicode(text: &str) -> Option<(char, usize)> {
    let rest = text.strip_prefix("\\u")?;
    if let Some(rest) = rest.strip_prefix('{') {
        let end = rest.find('}')?;
        let hex = &rest[..end];
        if hex.is_empty() || hex.len() > 8 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        return Some((char::from_u32(u32::from_str_radix(hex, 16).ok()?)?, end + 4));
    }
    let unit = |t: &str| {
        let hex = t.get(..4)?;
        hex.bytes()
            .all(|b| b.is_ascii_hexdigit())
            .then(|| u32::from_str_radix(hex, 16).ok())?
    };
    let high = unit(rest)?;
    if (0xd800..0xdc00).contains(&high) {
        let low = unit(rest.get(4..)?.strip_prefix("\\u")?)?;
        if !(0xdc00..0xe000).contains(&low) {
            return None;
        }
        return Some((
            char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))?,
            12,
        ));
    }
    Some((char::from_u32(high)?, 6))
}

/// What the inside of a block string stands for: common indentation and blank first and last lines removed.
pub(crate) fn block(raw: &str) -> String {
    let text = raw
        .replace("\\\"\"\"", "\"\"\"")
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let lines: Vec<&str> = text.split('\n').collect();
    let blank = |l: &str| l.bytes().all(|b| b == b' ' || b == b'\t');
    let indent = |l: &str| l.bytes().take_while(|b| *b == b' ' || *b == b'\t').count();
    let common = lines
        .iter()
        .skip(1)
        .filter(|l| !blank(l))
        .map(|l| indent(l))
        .min()
        .unwrap_or(0);
    let Some(first) = lines.iter().position(|l| !blank(l)) else {
        return String::new();
    };
    let last = lines.iter().rposition(|l| !blank(l)).unwrap_or(first);
    let mut out = String::with_capacity(text.len());
    for (i, line) in lines.iter().enumerate().take(last + 1).skip(first) {
        if i > first {
            out.push('\n');
        }
        out.push_str(if i == 0 {
            line
        } else {
            line.get(common..).unwrap_or("")
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Token<'_>>, SyntaxError> {
        let mut lexer = Lexer::new(text)?;
        let mut out = Vec::new();
        loop {
            match lexer.next()?.0 {
                Token::End => return Ok(out),
                t => out.push(t),
            }
        }
    }

    fn string(text: &str) -> Result<String, SyntaxError> {
        let mut lexer = Lexer::new(text)?;
        match lexer.next()? {
            (Token::Str(raw), at) => Ok(lexer.decode(raw, at)?.into_owned()),
            (Token::Block(raw), _) => Ok(block(raw)),
            (other, at) => Err(SyntaxError::at(text, at, other.to_string())),
        }
    }

    #[test]
    fn tokens_of_all_kinds() {
        let got = all("\u{feff}{ a:b(c:$d) # comment }\n ... -1 0 1.5e-3,,@x }").expect("tokens");
        assert_eq!(got.len(), 17);
        assert_eq!(got[10], Token::Spread);
        assert_eq!(got[11], Token::Int("-1"));
        assert_eq!(got[13], Token::Float("1.5e-3"));
    }

    #[test]
    fn strings_are_decoded() {
        assert_eq!(
            string(r#""a\n\u00e9\uD83D\uDE00\u{1F600}\/""#).expect("a string"),
            "a\né😀😀/"
        );
        assert_eq!(
            string("\"\"\"\n    one\n      two \\\"\"\" \\n\n    \"\"\"").expect("a string"),
            "one\n  two \"\"\" \\n"
        );
        assert_eq!(string("\"\"\"\"\"\"").expect("a string"), "");
        assert_eq!(string("\"\"").expect("a string"), "");
        assert_eq!(
            string("\"\"\"a\r\n  b\r\n  c\"\"\"").expect("a string"),
            "a\nb\nc"
        );
    }

    #[test]
    fn bad_tokens_say_where() {
        for (text, part) in [
            ("\"a", "no end"),
            ("\"a\nb\"", "no end"),
            ("\"\"\"a\"\"", "no end"),
            (r#""\x""#, "bad escape"),
            (r#""\uD83D""#, "not a Unicode"),
            (r#""\uDE00""#, "not a Unicode"),
            (r#""\u{110000}""#, "not a Unicode"),
            (r#""\u00é""#, "not a Unicode"),
            ("01", "begin with 0"),
            ("1.", "digit"),
            ("-", "digit"),
            ("1e", "digit"),
            ("1a", "followed"),
            ("1.2.3", "followed"),
            ("..", "expected `...`"),
            ("%", "unexpected character"),
            ("é", "unexpected character"),
        ] {
            let e = string(text).expect_err(text);
            assert!(e.message.contains(part), "{text}: {e}");
        }
        let e = all("{\n é%").expect_err("a bad character");
        assert_eq!((e.line, e.column), (2, 2));
    }
}
