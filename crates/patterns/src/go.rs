//! Go's `filepath.Match` and `filepath.Clean`, whose rules patterns and API paths follow.

use crate::PatternError;

/// One element of a pattern in Go's grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Glyph {
    /// This character; `escaped` when it was written with a backslash.
    Literal { ch: char, escaped: bool },
    /// `?`
    One,
    /// `*`
    Star,
    /// `[…]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Whether a class holds a character.
pub(crate) fn in_class(negated: bool, ranges: &[(char, char)], ch: char) -> bool {
    ranges.iter().any(|&(low, high)| low <= ch && ch <= high) != negated
}

/// Splits a pattern into its elements.
pub(crate) fn parse(pattern: &str) -> Result<Vec<Glyph>, PatternError> {
    let bad = || PatternError::Syntax {
        pattern: pattern.to_owned(),
    };
    let mut glyphs = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    while let Some(ch) = chars.next() {
        glyphs.push(match ch {
            '*' => Glyph::Star,
            '?' => Glyph::One,
            '\\' => Glyph::Literal {
                ch: chars.next().ok_or_else(bad)?,
                escaped: true,
            },
            '[' => parse_class(&mut chars).ok_or_else(bad)?,
            ch => Glyph::Literal { ch, escaped: false },
        });
    }
    Ok(glyphs)
}

fn parse_class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Glyph> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Glyph::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() {
            class_char(chars)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        ch => Some(ch),
    }
}

/// The first character of some bytes and its length; a byte that is no UTF-8 counts as one replacement character.
pub(crate) fn first_char(bytes: &[u8]) -> (char, usize) {
    let Some(&first) = bytes.first() else {
        return (char::REPLACEMENT_CHARACTER, 1);
    };
    if first < 0x80 {
        return (char::from(first), 1);
    }
    let len = match first {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return (char::REPLACEMENT_CHARACTER, 1),
    };
    let ch = bytes
        .get(..len)
        .and_then(|b| std::str::from_utf8(b).ok())
        .and_then(|s| s.chars().next());
    ch.map_or((char::REPLACEMENT_CHARACTER, 1), |ch| (ch, len))
}

/// The characters of a path.
pub(crate) fn chars(mut bytes: &[u8]) -> impl Iterator<Item = char> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (ch, len) = first_char(bytes);
        bytes = bytes.get(len..).unwrap_or_default();
        Some(ch)
    })
}

/// Go's `filepath.Match`: whether `name` as a whole matches, where `*` and `?` do not match `/` and `**` is only `*`.
///
/// # Errors
/// [`PatternError::Syntax`].
pub fn go_match(pattern: &str, name: &[u8]) -> Result<bool, PatternError> {
    let glyphs = parse(pattern)?;
    let name: Vec<char> = chars(name).collect();
    let (mut at, mut pos) = (0, 0);
    // Where to go on when the elements after the last star did not fit: the star, and where its match ends.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let fits = match (glyphs.get(at), name.get(pos)) {
            (None, None) => return Ok(true),
            (Some(Glyph::Star), _) => {
                star = Some((at, pos));
                at += 1;
                continue;
            }
            (Some(Glyph::One), Some(&ch)) => ch != '/',
            (Some(Glyph::Literal { ch, .. }), Some(have)) => ch == have,
            (Some(Glyph::Class { negated, ranges }), Some(&ch)) => in_class(*negated, ranges, ch),
            (Some(_), None) | (None, Some(_)) => false,
        };
        if fits {
            (at, pos) = (at + 1, pos + 1);
            continue;
        }
        match star {
            Some((index, end)) if name.get(end).is_some_and(|&ch| ch != '/') => {
                star = Some((index, end + 1));
                (at, pos) = (index + 1, end + 1);
            }
            _ => return Ok(false),
        }
    }
}

/// Whether a path has an unescaped `*`, `?` or `[`, so that it is a pattern rather than a name.
pub fn has_wildcards(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(ch) = chars.next() {
        match ch {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// Go's `filepath.Clean`: the shortest path that means the same, without looking at any file system. `""` becomes `"."`.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_as_go_does() {
        for (path, clean_path) in [
            ("", "."),
            ("abc", "abc"),
            ("abc/", "abc"),
            ("/abc//def/", "/abc/def"),
            ("abc/./../def", "def"),
            ("abc/../../././../def", "../../def"),
            ("/../abc", "/abc"),
            ("..", ".."),
            ("./docs", "docs"),
            ("**/", "**"),
            ("!../x", "!../x"),
            ("/", "/"),
        ] {
            assert_eq!(clean(path), clean_path, "{path}");
        }
    }

    #[test]
    fn matches_as_go_does() {
        // From the documentation of filepath.Match and its observable behaviour.
        for (pattern, name, answer) in [
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[e-g]", "abf", Some(true)),
            ("[!a]*", "a.txt", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("a?b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[x\\-]", "-", Some(true)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[-x]", "x", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^bc", "a", None),
            ("a[", "ab", None),
            ("\\", "a", None),
            ("**/*.txt", "a.txt", Some(false)),
            ("**/*.txt", "sub/c.txt", Some(true)),
            ("**/*.txt", "sub/deep/d.txt", Some(false)),
            ("*[^a]*", "b/ca", Some(false)),
            ("*[^a]*", "ab/ca", Some(false)),
            ("*[^a]c*", "b/ca", Some(true)),
            ("", "", Some(true)),
        ] {
            assert_eq!(
                go_match(pattern, name.as_bytes()).ok(),
                answer,
                "{pattern} on {name}"
            );
        }
    }

    #[test]
    fn sees_wildcards() {
        for (path, wild) in [
            ("a*", true),
            ("a\\*", false),
            ("[a", true),
            ("{a,b}", false),
            ("a?", true),
            ("", false),
            ("\\", false),
        ] {
            assert_eq!(has_wildcards(path), wild, "{path}");
        }
    }
}
