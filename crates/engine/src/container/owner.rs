//! `owner` arguments: `user[:group]`, by number or by the container's own names.

use graph::error::Error;

use super::Container;
use crate::{Ctx, directory::Tree};

/// Largest `/etc/passwd` or `/etc/group` read.
const ACCOUNTS_MAX: u64 = 4 << 20;
/// Where users are listed.
const PASSWD: &str = "/etc/passwd";
/// Where groups are listed.
const GROUP: &str = "/etc/group";

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
    let (user, group) = parts(owner);
    let mut accounts = Accounts::default();
    if number(user)?.is_none() {
        accounts.users = read_accounts(ctx, &container.rootfs, PASSWD).await?;
    }
    if let Some(group) = group
        && number(group)?.is_none()
    {
        accounts.groups = read_accounts(ctx, &container.rootfs, GROUP).await?;
    }
    let (uid, gid) = accounts.ids((user, group), ("find uid: ", "find gid: "))?;
    Ok(Some((uid, gid.unwrap_or(uid))))
}

/// An owner by numbers alone, where there are no names to look up. Empty is `None`.
///
/// # Errors
/// A name, or a number out of range.
pub(crate) fn by_number(owner: &str) -> Result<Option<(u32, u32)>, Error> {
    if owner.is_empty() {
        return Ok(None);
    }
    let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
    let known = |text: &str| {
        number(text)?.ok_or_else(|| {
            Error::user(format!(
                "owner `{owner}`: `{text}` is no number, and there are no names to look up here"
            ))
        })
    };
    let uid = known(user)?;
    let gid = if group.is_empty() { uid } else { known(group)? };
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
    if user.is_empty() || user.starts_with(':') {
        return Ok((0, 0));
    }
    let accounts = Accounts {
        users: read(PASSWD),
        groups: read(GROUP),
    };
    let (uid, gid) = accounts.ids(parts(user), ("", ""))?;
    Ok((uid, gid.unwrap_or(0)))
}

/// User and group. A group that is empty is none.
fn parts(owner: &str) -> (&str, Option<&str>) {
    match owner.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (owner, None),
    }
}

/// The text of a root's account files, as far as they are needed.
#[derive(Default)]
struct Accounts {
    users: String,
    groups: String,
}

impl Accounts {
    /// The numbers of a user and a group; errors begin as told.
    fn ids(
        &self,
        (user, group): (&str, Option<&str>),
        (no_user, no_group): (&str, &str),
    ) -> Result<(u32, Option<u32>), Error> {
        let find = |text: &str, accounts: &str, missing: String| match number(text)? {
            Some(n) => Ok(n),
            None => lookup(accounts, text).ok_or_else(|| Error::user(missing)),
        };
        let uid = find(user, &self.users, format!("{no_user}no such user: {user}"))?;
        let gid = group
            .map(|g| find(g, &self.groups, format!("{no_group}no such group: {g}")))
            .transpose()?;
        Ok((uid, gid))
    }
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
    fn users_and_groups_are_looked_up_one_way() {
        let accounts = Accounts {
            users: "app:x:7:8::/:/x\n".to_owned(),
            groups: "web:x:9:\n".to_owned(),
        };
        let ids = |owner| accounts.ids(parts(owner), ("find uid: ", "find gid: "));
        assert_eq!(ids("app").ok(), Some((7, None)));
        assert_eq!(ids("app:").ok(), Some((7, None)));
        assert_eq!(ids("5:web").ok(), Some((5, Some(9))));
        let said = |owner| ids(owner).expect_err("an error").message().to_owned();
        assert_eq!(said("web"), "find uid: no such user: web");
        assert_eq!(said("app:app"), "find gid: no such group: app");
    }

    #[test]
    fn numbers_are_checked() {
        assert_eq!(number("12").ok(), Some(Some(12)));
        assert_eq!(number("a1").ok(), Some(None));
        assert!(number("4294967296").is_err());
        assert!(number("4294967295").is_err());
    }
}
