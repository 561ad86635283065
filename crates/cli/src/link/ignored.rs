//! What `.gitignore` files leave out of a listing.

use std::{fs::File, io::Read, os::unix::ffi::OsStrExt, path::Path};

use patterns::{GIT_IGNORE, GitIgnore, literal};

/// Largest `.gitignore` that counts, in bytes.
const MAX: u64 = 1 << 20;

/// Patterns for everything below a directory that its `.gitignore` files leave out. Directories that cannot be read say
/// nothing here: the listing itself tells of them.
pub(super) fn patterns(top: &Path) -> Vec<String> {
    let mut ignore = GitIgnore::default();
    let mut ignored = Vec::new();
    // Directories to look into, deepest last: their own paths below the top.
    let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(dir) = pending.pop() {
        let here = top.join(Path::new(std::ffi::OsStr::from_bytes(&dir)));
        if let Some(text) = text(&here.join(GIT_IGNORE)) {
            ignore.enter(&dir, &text);
        }
        let Ok(entries) = std::fs::read_dir(&here) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let mut path = dir.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            if ignore.ignores(&path, kind.is_dir()) {
                ignored.push(String::from_utf8_lossy(&literal(&path)).into_owned());
            } else if kind.is_dir() {
                pending.push(path);
            }
        }
    }
    ignored.sort_unstable();
    ignored
}

fn text(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_deeper_down_count_for_what_is_below_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        };
        write(".gitignore", "*.log\nnode_modules/\n");
        write("a.log", "");
        write("b.txt", "");
        write("node_modules/x/y", "");
        write("sub/.gitignore", "!keep.log\nown\n");
        write("sub/keep.log", "");
        write("sub/drop.log", "");
        write("sub/own", "");
        write("own", "");
        assert_eq!(
            patterns(dir.path()),
            ["a.log", "node_modules", "sub/drop.log", "sub/own"]
        );
    }
}
