//! The text of a Dockerfile as instructions: directives, comments, continued lines, flags and heredocs.

use crate::{Error, INSTRUCTIONS_MAX, TEXT_MAX, shown};

/// A Dockerfile as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name, for messages.
    pub file: String,
    /// What escapes: a backslash unless a directive says otherwise.
    pub escape: char,
    /// Its instructions.
    pub lines: Vec<Line>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it begins, from 1.
    pub number: usize,
    /// The instruction in upper case.
    pub keyword: String,
    /// `--name=value`, in order, quotes removed.
    pub flags: Vec<String>,
    /// What follows, continued lines joined.
    pub rest: String,
    /// Heredocs in order.
    pub heredocs: Vec<Heredoc>,
}

/// A heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// What ends it, and the name of the file that `COPY` makes.
    pub name: String,
    /// Variables in it are replaced: the name was not quoted.
    pub expand: bool,
    /// Leading tabs are not part of it.
    pub chomp: bool,
    /// What is in it.
    pub body: String,
}

impl Line {
    /// The instruction, shortened for messages.
    pub fn shown(&self) -> String {
        let mut text = self.keyword.clone();
        for part in self.flags.iter().chain([&self.rest]) {
            text.push(' ');
            text.push_str(part);
        }
        shown(&text)
    }
}

const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads a Dockerfile. Files of Windows, with a byte order mark or carriage returns, are read as any other.
///
/// # Errors
/// Unknown instructions, heredocs without an end, more than [`TEXT_MAX`] bytes or [`INSTRUCTIONS_MAX`] instructions.
pub fn parse(file: &str, text: &str) -> Result<Source, Error> {
    let whole = |message: String| Error {
        file: file.to_owned(),
        line: 0,
        instruction: String::new(),
        message,
    };
    if text.len() > TEXT_MAX {
        return Err(whole(format!(
            "is {} bytes long; at most {TEXT_MAX} are read",
            text.len()
        )));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let physical: Vec<&str> = text
        .lines()
        .map(|l| l.strip_suffix('\r').unwrap_or(l))
        .collect();
    let mut reader = Reader {
        file,
        escape: '\\',
        physical,
        at: 0,
    };
    reader.directives()?;
    let mut lines = Vec::new();
    while let Some(line) = reader.line()? {
        if lines.len() == INSTRUCTIONS_MAX {
            return Err(whole(format!(
                "has more than {INSTRUCTIONS_MAX} instructions; join `RUN` lines or split the file"
            )));
        }
        lines.push(line);
    }
    Ok(Source {
        file: file.to_owned(),
        escape: reader.escape,
        lines,
    })
}

struct Reader<'a> {
    file: &'a str,
    escape: char,
    physical: Vec<&'a str>,
    at: usize,
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

impl Reader<'_> {
    fn error(&self, number: usize, instruction: &str, message: String) -> Error {
        Error {
            file: self.file.to_owned(),
            line: number,
            instruction: shown(instruction),
            message,
        }
    }

    /// `# name=value` lines at the very beginning. Other frontends than this one cannot be chosen: `syntax` is read over.
    fn directives(&mut self) -> Result<(), Error> {
        let mut seen = Vec::new();
        while let Some(line) = self.physical.get(self.at) {
            // A script's first line.
            if self.at == 0 && line.starts_with("#!") {
                self.at += 1;
                continue;
            }
            let Some((name, value)) = line
                .trim()
                .strip_prefix('#')
                .and_then(|l| l.split_once('='))
            else {
                break;
            };
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            if !matches!(name.as_str(), "syntax" | "escape" | "check") {
                break;
            }
            self.at += 1;
            if seen.contains(&name) {
                return Err(self.error(
                    self.at,
                    line,
                    format!("only one {name} parser directive can be used"),
                ));
            }
            if name == "escape" {
                self.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => {
                        return Err(self.error(
                            self.at,
                            line,
                            format!("invalid escape token `{value}` does not match ` or \\"),
                        ));
                    }
                };
            }
            seen.push(name);
        }
        Ok(())
    }

    /// The part of a line before an escape at its end; `None` when it does not go on.
    fn continued<'l>(&self, line: &'l str) -> Option<&'l str> {
        let before = line
            .trim_end_matches([' ', '\t'])
            .strip_suffix(self.escape)?;
        // An escaped escape.
        (!before.ends_with(self.escape)).then_some(before)
    }

    fn line(&mut self) -> Result<Option<Line>, Error> {
        while self
            .physical
            .get(self.at)
            .is_some_and(|l| l.trim().is_empty() || is_comment(l))
        {
            self.at += 1;
        }
        let number = self.at + 1;
        let Some(first) = self.physical.get(self.at) else {
            return Ok(None);
        };
        self.at += 1;
        let mut text = String::new();
        let mut part = first.trim_start();
        while let Some(before) = self.continued(part) {
            text.push_str(before);
            part = "";
            // Comments and empty lines within an instruction are not part of it.
            while let Some(next) = self.physical.get(self.at) {
                self.at += 1;
                if !next.trim().is_empty() && !is_comment(next) {
                    part = next;
                    break;
                }
            }
        }
        text.push_str(part);
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let keyword = word.to_ascii_uppercase();
        if !KEYWORDS.contains(&keyword.as_str()) {
            return Err(self.error(
                number,
                text,
                format!(
                    "unknown instruction: {}; there are {}",
                    shown(&keyword),
                    KEYWORDS.join(", ")
                ),
            ));
        }
        let has_flags = matches!(
            keyword.as_str(),
            "ADD" | "COPY" | "FROM" | "HEALTHCHECK" | "RUN"
        );
        let (flags, rest) = if has_flags {
            flags(rest.trim(), self.escape)
        } else {
            (Vec::new(), rest.trim())
        };
        let mut line = Line {
            number,
            keyword,
            flags,
            rest: rest.to_owned(),
            heredocs: Vec::new(),
        };
        let inner = match line.keyword.as_str() {
            "ONBUILD" => rest
                .split_whitespace()
                .next()
                .unwrap_or("")
                .to_ascii_uppercase(),
            other => other.to_owned(),
        };
        if matches!(inner.as_str(), "ADD" | "COPY" | "RUN") && !rest.starts_with('[') {
            for (name, expand, chomp) in heredoc_words(rest, self.escape) {
                let body = self.heredoc(&line, &name, chomp)?;
                line.heredocs.push(Heredoc {
                    name,
                    expand,
                    chomp,
                    body,
                });
            }
        }
        Ok(Some(line))
    }

    fn heredoc(&mut self, line: &Line, name: &str, chomp: bool) -> Result<String, Error> {
        let mut body = String::new();
        while let Some(next) = self.physical.get(self.at) {
            self.at += 1;
            let next = if chomp {
                next.trim_start_matches('\t')
            } else {
                next
            };
            if next == name {
                return Ok(body);
            }
            body.push_str(next);
            body.push('\n');
        }
        Err(self.error(
            line.number,
            &line.shown(),
            format!("unterminated heredoc: no line is `{name}` alone up to the end of the file"),
        ))
    }
}

/// `--flags` at the beginning, and what follows them. A lone `--` ends them.
fn flags(mut rest: &str, escape: char) -> (Vec<String>, &str) {
    let mut found = Vec::new();
    while rest.starts_with("--") {
        let (mut flag, mut quote, mut end) = (String::new(), None, rest.len());
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    end = at;
                    break;
                }
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(q) if c == q => quote = None,
                _ if c == escape => match chars.next() {
                    Some((_, next)) => flag.push(next),
                    None => flag.push(c),
                },
                _ => flag.push(c),
            }
        }
        rest = rest[end..].trim_start();
        if flag == "--" {
            break;
        }
        found.push(flag);
    }
    (found, rest)
}

/// The heredocs a line announces: name, whether variables in it are replaced, whether leading tabs go.
fn heredoc_words(rest: &str, escape: char) -> Vec<(String, bool, bool)> {
    let mut found = Vec::new();
    let chars: Vec<char> = rest.chars().collect();
    let (mut at, mut word_start, mut quote) = (0, true, None);
    while at < chars.len() {
        let c = chars[at];
        if word_start && quote.is_none() {
            // A descriptor's number may come first.
            let digits = chars[at..]
                .iter()
                .take_while(|c| c.is_ascii_digit())
                .count();
            let begin = at + digits;
            if chars[begin..].starts_with(&['<', '<']) && chars.get(begin + 2) != Some(&'<') {
                let chomp = chars.get(begin + 2) == Some(&'-');
                let (name, quoted, end) = heredoc_name(&chars, begin + 2 + usize::from(chomp));
                if !name.is_empty() {
                    found.push((name, !quoted, chomp));
                    (at, word_start) = (end, true);
                    continue;
                }
            }
        }
        word_start = false;
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            None if c.is_whitespace() => word_start = true,
            _ if c == escape && quote != Some('\'') => at += 1,
            _ => {}
        }
        at += 1;
    }
    found
}

/// The name from `at` on, whether it was quoted, and where it ends.
fn heredoc_name(chars: &[char], mut at: usize) -> (String, bool, usize) {
    let mut name = String::new();
    let quote = chars.get(at).copied().filter(|c| *c == '\'' || *c == '"');
    if let Some(q) = quote {
        for (i, c) in chars.iter().enumerate().skip(at + 1) {
            if *c == q {
                return (name, true, i + 1);
            }
            name.push(*c);
        }
        return (String::new(), true, chars.len());
    }
    // A shift, not a heredoc.
    if chars.get(at).is_some_and(char::is_ascii_digit) {
        return (name, false, at);
    }
    while let Some(c) = chars.get(at) {
        if c.is_whitespace() || matches!(c, '<' | '>' | '|' | '&' | ';' | '(' | ')' | '\'' | '"') {
            break;
        }
        name.push(*c);
        at += 1;
    }
    (name, false, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        parse("Dockerfile", text).expect("a Dockerfile").lines
    }

    #[test]
    fn lines_are_joined_and_comments_dropped() {
        let l = lines(
            "\u{feff}# c\n\nFROM a\r\nRUN x \\\n  # no\n\n  y \\\\\nrun --a=\"b c\" --x -- --z\n  cmd [\"a\"]",
        );
        assert_eq!(l[1].rest, "x   y \\\\");
        assert_eq!(l[1].number, 4);
        assert_eq!(l[2].flags, ["--a=b c", "--x"]);
        assert_eq!(l[2].rest, "--z");
        assert_eq!(
            (l[3].keyword.as_str(), l[3].rest.as_str()),
            ("CMD", "[\"a\"]")
        );
    }

    #[test]
    fn heredocs_are_found_where_a_shell_finds_them() {
        let l = lines(
            "RUN cat <<A 3<<-'B' > /f && echo '<<C' $((1<<2)) <<<w\n a\nA\n\tb\n\tB\nCOPY <<\"x y\" /f\nz\nx y\nCMD a <<b\n",
        );
        assert_eq!(l[0].heredocs.len(), 2);
        assert_eq!(
            (l[0].heredocs[0].body.as_str(), l[0].heredocs[0].expand),
            (" a\n", true)
        );
        assert_eq!(
            (l[0].heredocs[1].body.as_str(), l[0].heredocs[1].expand),
            ("b\n", false)
        );
        assert_eq!(l[1].heredocs[0].name, "x y");
        assert!(l[2].heredocs.is_empty());
    }

    #[test]
    fn directives_count_only_at_the_beginning() {
        assert_eq!(
            parse("D", "# syntax=x\n# escape=`\nFROM a")
                .expect("fine")
                .escape,
            '`'
        );
        assert_eq!(
            parse("D", "# a\n# escape=`\nFROM a").expect("fine").escape,
            '\\'
        );
        let twice = parse("D", "# escape=`\n# escape=`\n")
            .expect_err("twice")
            .to_string();
        assert!(
            twice.contains("D:2") && twice.contains("only one escape"),
            "{twice}"
        );
        assert!(parse("D", "# escape=x\n").is_err());
    }

    #[test]
    fn bad_files_say_where() {
        let e = parse("x/D", "FROM a\n\nFORM b\n")
            .expect_err("unknown")
            .to_string();
        assert!(
            e.starts_with("x/D:3: `FORM b`: unknown instruction: FORM"),
            "{e}"
        );
        let e = parse("D", "RUN <<EOF\na\n")
            .expect_err("no end")
            .to_string();
        assert!(e.contains("unterminated heredoc"), "{e}");
        assert!(parse("D", &"RUN a\n".repeat(100_000)).is_err());
        assert!(parse("D", &"x".repeat(TEXT_MAX + 1)).is_err());
    }
}
