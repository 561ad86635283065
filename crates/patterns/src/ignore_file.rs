//! The lines of a `.dockerignore`.

use crate::go::clean;

/// Reads the patterns of an ignore file: comments and empty lines dropped, a leading `/` and spaces after `!` forgiven.
pub fn parse_ignore_file(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(pattern)
        .collect()
}

fn pattern(line: &str) -> Option<String> {
    let line = line.trim();
    let (negated, body) = match line.strip_prefix('!') {
        Some(body) => (true, body.trim()),
        None => (false, line),
    };
    if body.is_empty() {
        return negated.then(|| "!".to_owned());
    }
    let cleaned = clean(body);
    let body = match cleaned.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => &cleaned,
    };
    Some(if negated {
        format!("!{body}")
    } else {
        body.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_reads() {
        let text = "\u{feff}# comment\n\n /a/ \n! b \n#x\n !/c\n./d/../e\r\n/\n";
        assert_eq!(parse_ignore_file(text), ["a", "!b", "!c", "e", "/"]);
        assert_eq!(parse_ignore_file("!"), ["!"]);
    }
}
