//! Paths inside a container: lexical cleaning as clients expect it, and `$NAME` expansion.

/// Joins and cleans: `join("/a", "../b")` is `/b`. Never leaves the root.
pub fn join(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { base };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            p => parts.push(p),
        }
    }
    let mut out = String::with_capacity(base.len() + path.len() + 1);
    for p in parts {
        out.push('/');
        out.push_str(p);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

/// `path` below `dir`, without a leading slash; `None` when it is elsewhere. `dir` itself gives the empty string.
pub fn below<'a>(dir: &str, path: &'a str) -> Option<&'a str> {
    if dir == "/" {
        return Some(path.trim_start_matches('/'));
    }
    let rest = path.strip_prefix(dir)?;
    if rest.is_empty() {
        Some("")
    } else {
        rest.strip_prefix('/')
    }
}

/// The last element of a path; `/` for the root.
pub fn base_name(path: &str) -> &str {
    let p = path.trim_end_matches('/');
    if p.is_empty() {
        "/"
    } else {
        p.rsplit('/').next().unwrap_or(p)
    }
}

/// Replaces `$NAME` and `${NAME}` with the rules of Go's `os.Expand`: a name is one special character or letters, digits and
/// underscores; `${}` and a lone `$` before something else vanish or stay as there.
///
/// # Errors
/// Whatever `lookup` answers.
pub fn expand<E>(
    text: &str,
    mut lookup: impl FnMut(&str) -> Result<String, E>,
) -> Result<String, E> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let (mut at, mut from) = (0, 0);
    while at < bytes.len() {
        if bytes[at] != b'$' || at + 1 >= bytes.len() {
            at += 1;
            continue;
        }
        out.push_str(&text[from..at]);
        let (name, width) = shell_name(&text[at + 1..]);
        match name {
            Some(name) => out.push_str(&lookup(name)?),
            // `${` without an end, or `$` before what is no name: the former is eaten, the latter keeps its dollar.
            None if width == 0 => out.push('$'),
            None => {}
        }
        at += 1 + width;
        from = at;
    }
    out.push_str(&text[from..]);
    Ok(out)
}

fn is_special(b: u8) -> bool {
    matches!(
        b,
        b'*' | b'#' | b'$' | b'@' | b'!' | b'?' | b'-' | b'0'..=b'9'
    )
}

fn is_name(b: u8) -> bool {
    b == b'_' || b.is_ascii_alphanumeric()
}

/// The name at the beginning of `s` and how many bytes it takes.
fn shell_name(s: &str) -> (Option<&str>, usize) {
    let b = s.as_bytes();
    match b.first() {
        Some(b'{') => {
            if b.len() > 2 && is_special(b[1]) && b[2] == b'}' {
                return (Some(&s[1..2]), 3);
            }
            for (i, c) in b.iter().enumerate().skip(1) {
                if *c == b'}' {
                    return if i == 1 {
                        (None, 2)
                    } else {
                        (Some(&s[1..i]), i + 1)
                    };
                }
            }
            (None, 1)
        }
        Some(c) if is_special(*c) => (Some(&s[..1]), 1),
        _ => {
            let n = b.iter().take_while(|c| is_name(**c)).count();
            if n == 0 {
                (None, 0)
            } else {
                (Some(&s[..n]), n)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_inside_the_root() {
        assert_eq!(join("/a", "b/../c"), "/a/c");
        assert_eq!(join("/a", "../../.."), "/");
        assert_eq!(join("/a", "/b//c/"), "/b/c");
        assert_eq!(below("/m", "/m/x"), Some("x"));
        assert_eq!(below("/m", "/m"), Some(""));
        assert_eq!(below("/m", "/mx"), None);
        assert_eq!(below("/", "/mx"), Some("mx"));
        assert_eq!(base_name("/a/b/"), "b");
    }

    #[test]
    fn expansion_follows_os_expand() {
        let env = |n: &str| Ok::<_, ()>(if n == "A" { "1".into() } else { String::new() });
        for (text, want) in [
            ("$A", "1"),
            ("${A}x", "1x"),
            ("$MISSING.", "."),
            ("$$A", "A"),
            ("\\$A", "\\1"),
            ("a$", "a$"),
            ("$ b", "$ b"),
            ("${", ""),
            ("é$A", "é1"),
        ] {
            assert_eq!(expand(text, env), Ok(want.to_owned()), "{text}");
        }
    }
}
