//! The patterns of `${name#pattern}` and its like: `*`, `?` and `\x`.

/// One element of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// This character.
    Char(char),
    /// Any one character.
    One,
    /// Any number of characters.
    Many,
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Part>);

/// How many steps of comparing one expansion may take.
const STEPS_MAX: usize = 20_000_000;

/// Comparing took too long to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Shortest or longest match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    Shortest,
    Longest,
}

impl Pattern {
    /// Reads a pattern; `escape` makes the next character stand for itself.
    pub(crate) fn new(text: &str, escape: char) -> Self {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '*' if parts.last() == Some(&Part::Many) => {}
                '*' => parts.push(Part::Many),
                '?' => parts.push(Part::One),
                c if c == escape => parts.push(Part::Char(chars.next().unwrap_or(escape))),
                c => parts.push(Part::Char(c)),
            }
        }
        Self(parts)
    }

    fn reversed(&self) -> Self {
        Self(self.0.iter().rev().copied().collect())
    }

    /// How many of the first characters it matches; `None` when it matches at no length.
    fn prefix(
        &self,
        chars: &[char],
        take: Take,
        steps: &mut usize,
    ) -> Result<Option<usize>, TooLong> {
        // All places of the pattern that the characters so far may have led to.
        let end = self.0.len();
        let mut at = vec![false; end + 1];
        let mut found = None;
        let close = |at: &mut Vec<bool>| {
            for i in 0..end {
                if at[i] && self.0[i] == Part::Many {
                    at[i + 1] = true;
                }
            }
        };
        at[0] = true;
        close(&mut at);
        for n in 0..=chars.len() {
            if at[end] {
                found = Some(n);
                if take == Take::Shortest {
                    break;
                }
            }
            let Some(c) = chars.get(n) else { break };
            *steps += end + 1;
            if *steps > STEPS_MAX {
                return Err(TooLong);
            }
            let mut next = vec![false; end + 1];
            let mut any = false;
            for i in (0..end).filter(|i| at[*i]) {
                let to = match self.0[i] {
                    Part::Many => i,
                    Part::One => i + 1,
                    Part::Char(want) if want == *c => i + 1,
                    Part::Char(_) => continue,
                };
                next[to] = true;
                any = true;
            }
            if !any {
                break;
            }
            close(&mut next);
            at = next;
        }
        Ok(found)
    }

    /// `value` without what the pattern matches at its beginning.
    pub(crate) fn trim_start(&self, value: &str, take: Take) -> Result<String, TooLong> {
        let chars: Vec<char> = value.chars().collect();
        let n = self.prefix(&chars, take, &mut 0)?.unwrap_or(0);
        Ok(chars[n..].iter().collect())
    }

    /// `value` without what the pattern matches at its end.
    pub(crate) fn trim_end(&self, value: &str, take: Take) -> Result<String, TooLong> {
        let chars: Vec<char> = value.chars().rev().collect();
        let n = self.reversed().prefix(&chars, take, &mut 0)?.unwrap_or(0);
        Ok(chars[n..].iter().rev().collect())
    }

    /// `value` with the first match, or all, replaced. The empty pattern matches nothing.
    pub(crate) fn replace(&self, value: &str, by: &str, all: bool) -> Result<String, TooLong> {
        let chars: Vec<char> = value.chars().collect();
        let (mut out, mut at, mut steps) = (String::with_capacity(value.len()), 0, 0);
        while at < chars.len() {
            match self.prefix(&chars[at..], Take::Longest, &mut steps)? {
                Some(n) if n > 0 => {
                    out.push_str(by);
                    at += n;
                    if !all {
                        break;
                    }
                }
                _ => {
                    out.push(chars[at]);
                    at += 1;
                }
            }
        }
        out.extend(&chars[at..]);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_the_shortest_or_longest_match() {
        let p = |t: &str| Pattern::new(t, '\\');
        for (pattern, take, want) in [
            ("*/", Take::Shortest, "b/c"),
            ("*/", Take::Longest, "c"),
            ("x", Take::Longest, "a/b/c"),
            ("?/", Take::Shortest, "b/c"),
            ("", Take::Longest, "a/b/c"),
        ] {
            assert_eq!(
                p(pattern).trim_start("a/b/c", take),
                Ok(want.to_owned()),
                "{pattern}"
            );
        }
        assert_eq!(
            p("/*").trim_end("a/b/c", Take::Shortest),
            Ok("a/b".to_owned())
        );
        assert_eq!(p("/*").trim_end("a/b/c", Take::Longest), Ok("a".to_owned()));
        assert_eq!(p("\\*").trim_start("*a", Take::Longest), Ok("a".to_owned()));
    }

    #[test]
    fn replaces_one_or_all() {
        let p = Pattern::new("o*l", '\\');
        assert_eq!(p.replace("fool of fool", "-", false), Ok("f-".to_owned()));
        let o = Pattern::new("o", '\\');
        assert_eq!(o.replace("foo", "0", true), Ok("f00".to_owned()));
        assert_eq!(o.replace("foo", "0", false), Ok("f0o".to_owned()));
    }

    #[test]
    fn hostile_patterns_end() {
        let value = "a".repeat(200_000);
        let p = Pattern::new(&"*a".repeat(2000), '\\');
        assert_eq!(p.replace(&(value + "b"), "", true), Err(TooLong));
    }
}
