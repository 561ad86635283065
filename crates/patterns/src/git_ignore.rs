//! `.gitignore` files: which paths below them are left out.

use ignore::{
    Match,
    gitignore::{Gitignore, GitignoreBuilder},
};

/// Name of the files.
pub const GIT_IGNORE: &str = ".gitignore";

/// The `.gitignore` files on the way to where a depth-first walk is. Pure: the walk reads them.
#[derive(Debug, Default)]
pub struct GitIgnore {
    /// Directories that have such a file, relative to the walk's top, from the top down.
    levels: Vec<(Vec<u8>, Gitignore)>,
}

impl GitIgnore {
    /// The walk is about to look into `dir` (empty for the top), whose file says `text`. Lines that mean nothing are passed
    /// over, as git does.
    pub fn enter(&mut self, dir: &[u8], text: &[u8]) {
        self.leave_for(dir);
        let mut builder = GitignoreBuilder::new("");
        for line in String::from_utf8_lossy(text).lines() {
            // A malformed line counts as none.
            let _ = builder.add_line(None, line);
        }
        if let Ok(matcher) = builder.build() {
            self.levels.push((dir.to_vec(), matcher));
        }
    }

    /// Whether a path that the walk came by is left out. What is below a directory that is left out must not be asked for.
    pub fn ignores(&mut self, path: &[u8], is_dir: bool) -> bool {
        self.leave_for(path);
        for (dir, matcher) in self.levels.iter().rev() {
            let rest = below(dir, path).unwrap_or(path);
            match matcher.matched(String::from_utf8_lossy(rest).as_ref(), is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }

    /// Forgets directories that `path` is not in.
    fn leave_for(&mut self, path: &[u8]) {
        while let Some((dir, _)) = self.levels.last() {
            if below(dir, path).is_some() {
                return;
            }
            self.levels.pop();
        }
    }
}

fn below<'a>(dir: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    if dir.is_empty() {
        return Some(path);
    }
    path.strip_prefix(dir)?.strip_prefix(b"/")
}

/// A path as a pattern that matches nothing else.
pub fn literal(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for b in path {
        let first = out.is_empty() && matches!(b, b'!' | b'#');
        if first || matches!(b, b'*' | b'?' | b'[' | b']' | b'\\') {
            out.push(b'\\');
        }
        out.push(*b);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeper_files_come_first_and_may_take_back() {
        let mut ignore = GitIgnore::default();
        ignore.enter(b"", b"*.log\n/build/\n# a comment\nsub/only\n");
        assert!(ignore.ignores(b"a.log", false));
        assert!(ignore.ignores(b"build", true));
        assert!(!ignore.ignores(b"build", false));
        assert!(!ignore.ignores(b"sub", true));
        ignore.enter(b"sub", b"!keep.log\nother\n");
        assert!(!ignore.ignores(b"sub/keep.log", false));
        assert!(ignore.ignores(b"sub/b.log", false));
        assert!(ignore.ignores(b"sub/other", false));
        assert!(ignore.ignores(b"sub/only", false));
        assert!(!ignore.ignores(b"suburb/other", false));
        assert!(!ignore.ignores(b"other", false));
    }

    #[test]
    fn paths_become_patterns_of_themselves() {
        assert_eq!(literal(b"!a*b[1]/c!"), b"\\!a\\*b\\[1\\]/c!");
    }
}
