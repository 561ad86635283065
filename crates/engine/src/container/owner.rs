//! `owner` arguments: `user[:group]`, by number or by the container's own names.

use graph::error::Error;

use super::Container;
use crate::{Ctx, directory::Tree};

/// Largest `/etc/passwd` or `/etc/group` read.
const ACCOUNTS_MAX: u64 = 4 << 20;

/// Resolves an owner. Empty is `None`. Without a group part the group is the user's number.
///
/// # Errors
/// `find uid: no such user: x`, a number out of range, or a failure to make the container's root.
pub async fn resolve(
    ctx: &Ctx,
    container: &Container,
    owner: &str,
) -> Result<Option<(u32, u32)>, Error> {
    if owner.is_empty() {
        return Ok(None);
    }
    let (user, group) = match owner.split_once(':') {
        Some((u, g)) => (u, Some(g)),
        None => (owner, None),
    };
    let uid = match number(user)? {
        Some(n) => n,
        None => {
            let passwd = read_accounts(ctx, &container.rootfs, "/etc/passwd").await?;
            lookup(&passwd, user)
                .ok_or_else(|| Error::user(format!("find uid: no such user: {user}")))?
        }
    };
    let gid = match group {
        None | Some("") => uid,
        Some(g) => match number(g)? {
            Some(n) => n,
            None => {
                let groups = read_accounts(ctx, &container.rootfs, "/etc/group").await?;
                lookup(&groups, g)
                    .ok_or_else(|| Error::user(format!("find gid: no such group: {g}")))?
            }
        },
    };
    Ok(Some((uid, gid)))
}

/// The ids a process of `user[:group]` runs with, looked up in its root.
///
/// # Errors
/// `no such user`, a number out of range.
pub(super) fn of_user(root: &store::Tree, user: &str) -> Result<(u32, u32), Error> {
    let read = |path: &str| match root.read_file(path, ACCOUNTS_MAX) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    };
    let (name, group) = match user.split_once(':') {
        Some((n, g)) => (n, Some(g)),
        None => (user, None),
    };
    if name.is_empty() {
        return Ok((0, 0));
    }
    let uid = match number(name)? {
        Some(n) => n,
        None => lookup(&read("/etc/passwd"), name)
            .ok_or_else(|| Error::user(format!("no such user: {name}")))?,
    };
    let gid = match group {
        None => 0,
        Some(g) => match number(g)? {
            Some(n) => n,
            None => lookup(&read("/etc/group"), g)
                .ok_or_else(|| Error::user(format!("no such group: {g}")))?,
        },
    };
    Ok((uid, gid))
}

/// A decimal number; `None` when it is a name.
fn number(text: &str) -> Result<Option<u32>, Error> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(n) if n < u32::MAX => Ok(Some(n)),
        _ => Err(Error::user(format!(
            "owner `{text}` is out of range: ids go from 0 to {}",
            u32::MAX - 1
        ))),
    }
}

async fn read_accounts(ctx: &Ctx, root: &Tree, path: &'static str) -> Result<String, Error> {
    root.at(path)
        .read(ctx, |tree, path| match tree.read_file(path, ACCOUNTS_MAX) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(e) if e.is_not_found() => Ok(String::new()),
            Err(e) => Err(e),
        })
        .await
}

/// The number in the third column of the line that begins with `name:`.
fn lookup(accounts: &str, name: &str) -> Option<u32> {
    accounts.lines().find_map(|line| {
        let mut parts = line.split(':');
        (parts.next() == Some(name)).then(|| parts.nth(1)?.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_the_first_column_only() {
        let passwd = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534:root:/:/x\nbroken\n";
        assert_eq!(lookup(passwd, "nobody"), Some(65534));
        assert_eq!(lookup(passwd, "x"), None);
        assert_eq!(lookup(passwd, "broken"), None);
    }

    #[test]
    fn numbers_are_checked() {
        assert_eq!(number("12").ok(), Some(Some(12)));
        assert_eq!(number("a1").ok(), Some(None));
        assert!(number("4294967296").is_err());
        assert!(number("4294967295").is_err());
    }
}
