//! `EnvFile`: lines of `NAME=value`.

use std::sync::Arc;

use graph::{
    error::Error,
    resolve::{Invocation, Memo},
    value::Value,
};

use crate::{
    Ctx,
    container::{Pair, paths},
    directory::{File, Tree},
    dispatch::Binder,
    node::Edit,
};

type Answer = Result<Value, Error>;

/// Name of the file that an `EnvFile` becomes.
const NAME: &str = "/.env";

/// Variables in order, as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EnvFile {
    variables: Arc<Vec<(String, String)>>,
}

impl EnvFile {
    /// Reads the text of a file. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// A line without `=`, or without a name.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let mut variables = Vec::new();
        let mut lines = text.lines().enumerate();
        while let Some((nth, line)) = lines.next() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line
                .split_once('=')
                .map(|(n, v)| (n.trim(), v.trim()))
                .filter(|(n, _)| !n.is_empty())
                .ok_or_else(|| {
                    Error::user(format!(
                        "line {}: expected `NAME=value`, found `{line}`",
                        nth + 1
                    ))
                })?;
            let mut value = value.to_owned();
            // A quoted value may go on over lines.
            if let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) {
                while end_of_quote(&value, quote).is_none() {
                    let Some((_, more)) = lines.next() else {
                        return Err(Error::user(format!(
                            "line {}: the quote has no end",
                            nth + 1
                        )));
                    };
                    value.push('\n');
                    value.push_str(more);
                }
                let end = end_of_quote(&value, quote).unwrap_or(value.len());
                value.truncate(end + 1);
            } else if let Some(at) = value.find(" #") {
                value.truncate(at);
                value = value.trim_end().to_owned();
            }
            variables.push((name.to_owned(), value));
        }
        Ok(Self {
            variables: Arc::new(variables),
        })
    }

    /// The last value a name is given, as it is written.
    fn raw(&self, name: &str) -> Option<&str> {
        let mut all = self.variables.iter().rev();
        all.find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All names with their values, without quotes and with `${NAME}` replaced by what earlier lines set.
    pub(crate) fn expanded(&self) -> Vec<(String, String)> {
        let mut done: Vec<(String, String)> = Vec::new();
        for (name, raw) in self.variables.iter() {
            let value = expand(raw, &done);
            match done.iter_mut().find(|(n, _)| n == name) {
                Some((_, v)) => *v = value,
                None => done.push((name.clone(), value)),
            }
        }
        done
    }

    /// All names with their values as they are written.
    fn unexpanded(&self) -> Vec<(String, String)> {
        let mut done: Vec<(String, String)> = Vec::new();
        for (name, raw) in self.variables.iter() {
            match done.iter_mut().find(|(n, _)| n == name) {
                Some((_, v)) => v.clone_from(raw),
                None => done.push((name.clone(), raw.clone())),
            }
        }
        done
    }

    fn changed(&self, change: impl FnOnce(&mut Vec<(String, String)>)) -> Self {
        let mut variables = (*self.variables).clone();
        change(&mut variables);
        Self {
            variables: Arc::new(variables),
        }
    }

    fn text(&self) -> String {
        self.variables
            .iter()
            .map(|(n, v)| format!("{n}={v}\n"))
            .collect()
    }
}

/// Where the closing quote of a value that begins with one is.
fn end_of_quote(value: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    value.char_indices().skip(1).find_map(|(at, c)| {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote == '"' {
            escaped = true;
        } else if c == quote {
            return Some(at);
        }
        None
    })
}

/// A value without its quotes, `$NAME` and `${NAME}` replaced unless it is in single ones.
fn expand(raw: &str, known: &[(String, String)]) -> String {
    let inside = |quote: char| {
        let end = end_of_quote(raw, quote)?;
        raw.strip_prefix(quote)?.get(..end - 1)
    };
    if let Some(inner) = inside('\'') {
        return inner.to_owned();
    }
    let text = match inside('"') {
        Some(inner) => unescaped(inner),
        None => raw.to_owned(),
    };
    let lookup = |name: &str| {
        let (name, default) = match name.split_once(":-") {
            Some((n, d)) => (n, d),
            None => (name, ""),
        };
        let found = known
            .iter()
            .find(|(n, v)| n == name && (default.is_empty() || !v.is_empty()));
        Ok::<_, std::convert::Infallible>(found.map_or(default, |(_, v)| v).to_owned())
    };
    match paths::expand(&text, lookup) {
        Ok(text) => text,
        Err(never) => match never {},
    }
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

/// A value as it is written so that it is read again as it is.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,${}".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    let escaped = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// Binds all fields.
pub(crate) fn bind(b: &mut Binder) {
    b.bind("Query.envFile", Memo::Session, |inv| async move {
        Ok(inv.object(EnvFile::default()))
    });
    b.bind("EnvFile.asFile", Memo::Session, |inv| async move {
        let edit = Edit::WriteFile {
            path: NAME.to_owned(),
            contents: inv.this::<EnvFile>()?.text().into_bytes().into(),
            mode: 0o644,
            owner: None,
        };
        Ok(inv.object(File {
            tree: Tree {
                output: Tree::empty().edited(edit, vec![]).output,
                path: NAME.into(),
            },
        }))
    });
    b.bind("EnvFile.exists", Memo::Never, |inv| async move {
        let file = inv.this::<EnvFile>()?;
        Ok(Value::Bool(file.raw(inv.args.str("name")).is_some()))
    });
    b.bind("EnvFile.get", Memo::Never, get);
    b.bind("EnvFile.variables", Memo::Session, |inv| async move {
        let file = inv.this::<EnvFile>()?;
        let all = if inv.args.bool("raw") {
            file.unexpanded()
        } else {
            file.expanded()
        };
        Ok(inv.objects(all.into_iter().map(|(name, value)| Pair {
            name: name.into(),
            value: value.into(),
        })))
    });
    b.bind("EnvFile.namespace", Memo::Session, |inv| async move {
        let file = inv.this::<EnvFile>()?;
        let prefix = inv.args.str("prefix");
        // `MY_APP` and `MY_APP_` name the same variables; upper and lower case are not told apart.
        let prefix = prefix.trim_end_matches('_').to_owned() + "_";
        let below = |name: &str| {
            let head = name.get(..prefix.len())?;
            head.eq_ignore_ascii_case(&prefix)
                .then(|| name[prefix.len()..].to_owned())
        };
        let variables = file
            .expanded()
            .iter()
            .filter_map(|(n, v)| Some((below(n)?, quoted(v))))
            .collect();
        Ok(inv.object(EnvFile {
            variables: Arc::new(variables),
        }))
    });
    b.bind("EnvFile.withVariable", Memo::Session, |inv| async move {
        let name = inv.args.str("name");
        if name.is_empty() || name.contains(|c: char| c == '=' || c.is_whitespace()) {
            return Err(Error::user(format!("{name:?} is no name of a variable")));
        }
        let value = quoted(inv.args.str("value"));
        Ok(inv.object(inv.this::<EnvFile>()?.changed(|all| {
            all.retain(|(n, _)| n != name);
            all.push((name.to_owned(), value));
        })))
    });
    b.bind("EnvFile.withoutVariable", Memo::Session, |inv| async move {
        let name = inv.args.str("name");
        Ok(inv.object(
            inv.this::<EnvFile>()?
                .changed(|all| all.retain(|(n, _)| n != name)),
        ))
    });
}

async fn get(inv: Invocation<Ctx>) -> Answer {
    let file = inv.this::<EnvFile>()?;
    let name = inv.args.str("name");
    if inv.args.bool("raw") {
        return Ok(Value::string(file.raw(name).unwrap_or_default()));
    }
    let all = file.expanded();
    let found = all.into_iter().find(|(n, _)| n == name);
    Ok(Value::string(found.map(|(_, v)| v).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_comments_and_earlier_lines_count() {
        let text = "# head\nA=1\nexport B=\"x ${A} \\\"q\\\"\" # tail\nC='${A}'\nD=${A}/$B # tail\nE=\nA=2\nF=\"one\ntwo\"\nG=${NONE:-d}\n";
        let file = EnvFile::parse(text).expect("a file");
        let all = file.expanded();
        let get = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(get("A"), Some("2"));
        assert_eq!(get("B"), Some("x 1 \"q\""));
        assert_eq!(get("C"), Some("${A}"));
        assert_eq!(get("D"), Some("1/x 1 \"q\""));
        assert_eq!(get("E"), Some(""));
        assert_eq!(get("F"), Some("one\ntwo"));
        assert_eq!(get("G"), Some("d"));
        assert_eq!(file.raw("B"), Some("\"x ${A} \\\"q\\\"\""));
        assert!(
            EnvFile::parse("A=1\nnothing\n")
                .expect_err("bad")
                .message()
                .contains("line 2")
        );
        assert!(
            EnvFile::parse("A=\"x\n")
                .expect_err("bad")
                .message()
                .contains("no end")
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        for value in ["plain", "two words", "a\"b\\c\nd", "it's", ""] {
            let file = EnvFile::default().changed(|all| all.push(("A".into(), quoted(value))));
            let again = EnvFile::parse(&file.text()).expect("a file");
            assert_eq!(again.expanded(), [("A".to_owned(), value.to_owned())]);
        }
    }
}
