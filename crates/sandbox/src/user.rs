//! Who runs the program: `user[:group]` looked up in the container's own `/etc/passwd` and `/etc/group`.

use std::{io::Read, os::fd::BorrowedFd};

use rustix::fs::{FileType, OFlags};

use crate::{StartError, error::shown, rooted, spec::UserSpec};

/// A file of users larger than this is refused rather than read.
const MAX_FILE: u64 = 16 << 20;
/// The largest id: the kernel keeps the one above for "unchanged", and signed readers would see a negative one.
const MAX_ID: u64 = i32::MAX as u64;

/// Numeric identity of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one included as `login` does.
    pub(crate) groups: Vec<u32>,
    /// The home directory, where the user is in `/etc/passwd`.
    pub(crate) home: Option<Vec<u8>>,
}

/// Looks a user up in the container rooted at `root`.
pub(crate) fn identify(root: BorrowedFd<'_>, user: &UserSpec) -> Result<Identity, StartError> {
    let read = |path: &str| {
        read_file(root, path).map_err(|reason| StartError::UnknownUser {
            user: user.name.clone(),
            reason: format!("{path}: {reason}"),
        })
    };
    let passwd = read("/etc/passwd")?;
    let group = read("/etc/group")?;
    identify_in(&user.name, &passwd, &group).map_err(|reason| StartError::UnknownUser {
        user: shown(user.name.as_bytes()),
        reason,
    })
}

/// A file of the image that may be missing; never anything but a regular file.
fn read_file(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>, String> {
    let fd = match rooted::open(
        root,
        path.as_bytes(),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
    ) {
        Ok(fd) => fd,
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e.to_string()),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| e.to_string())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("not a regular file".into());
    }
    let mut contents = Vec::new();
    std::fs::File::from(fd)
        .take(MAX_FILE + 1)
        .read_to_end(&mut contents)
        .map_err(|e| e.to_string())?;
    if contents.len() as u64 > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    Ok(contents)
}

/// The rules: a name is looked up first, then taken as a number. A numeric user that is listed gets its group and
/// memberships too; one that is not listed gets group 0.
fn identify_in(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, String> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = parse_id(user)?;
    let entry = lines(passwd)
        .filter_map(|f| {
            Some((
                *f.first()?,
                id(f.get(2)?)?,
                id(f.get(3)?)?,
                f.get(5).copied(),
            ))
        })
        .find(|(name, uid, ..)| *name == user.as_bytes() || number == Some(*uid));
    let mut identity = match (entry, number) {
        (Some((_, uid, gid, home)), _) => Identity {
            uid,
            gid,
            groups: Vec::new(),
            home: home.map(<[u8]>::to_vec),
        },
        (None, Some(uid)) => Identity {
            uid,
            ..Identity::default()
        },
        (None, None) => return Err("no such user in /etc/passwd".into()),
    };
    match wanted_group {
        Some(name) if !name.is_empty() => {
            let number = parse_id(name)?;
            let listed = lines(group)
                .filter_map(|f| Some((*f.first()?, id(f.get(2)?)?)))
                .find(|(n, gid)| *n == name.as_bytes() || number == Some(*gid))
                .map(|(_, gid)| gid);
            identity.gid = listed
                .or(number)
                .ok_or_else(|| format!("no group `{}` in /etc/group", shown(name.as_bytes())))?;
            identity.groups = vec![identity.gid];
        }
        _ => {
            identity.groups = vec![identity.gid];
            if let Some((name, ..)) = entry {
                let members = lines(group).filter_map(|f| Some((id(f.get(2)?)?, *f.get(3)?)));
                for (gid, members) in members {
                    if members.split(|b| *b == b',').any(|m| m == name)
                        && !identity.groups.contains(&gid)
                    {
                        identity.groups.push(gid);
                    }
                }
            }
        }
    }
    Ok(identity)
}

/// A decimal id; `None` for a name. A number beyond the range is an error rather than a name, and never wraps around.
fn parse_id(text: &str) -> Result<Option<u32>, String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(n) if n <= MAX_ID => Ok(u32::try_from(n).ok()),
        _ => Err(format!("`{text}` is outside 0..={MAX_ID}")),
    }
}

fn id(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field)
        .ok()
        .and_then(|t| parse_id(t).ok().flatten())
}

/// The entries of a colon-separated file.
fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|l| !l.is_empty() && !l.starts_with(b"#"))
        .map(|l| l.split(|b| *b == b':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# note\nbuild:x:1000:100:B:/home/build:/bin/sh\nbroken\nbig:x:4294967296:0::/:\n";
    const GROUP: &[u8] =
        b"root:x:0:\nusers:x:100:\nwheel:x:10:root,build\ndocker:x:999:build\nmany:x:5:builder\n";

    fn check(spec: &str, expected: &str) {
        let found = match identify_in(spec, PASSWD, GROUP) {
            Ok(i) => format!("{}:{} {:?}", i.uid, i.gid, i.groups),
            Err(e) => e,
        };
        assert_eq!(found, expected, "{spec:?}");
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("", "0:0 [0, 10]");
        check("root", "0:0 [0, 10]");
        check("build", "1000:100 [100, 10, 999]");
        check("1000", "1000:100 [100, 10, 999]");
        check("1234", "1234:0 [0]");
        check("build:docker", "1000:999 [999]");
        check("build:77", "1000:77 [77]");
        check(":docker", "0:999 [999]");
        check("build:", "1000:100 [100, 10, 999]");
        check("nobody", "no such user in /etc/passwd");
        check("build:none", "no group `none` in /etc/group");
    }

    #[test]
    fn numbers_beyond_the_range_never_wrap_to_root() {
        check("4294967296", "`4294967296` is outside 0..=2147483647");
        check("4294967295", "`4294967295` is outside 0..=2147483647");
        check("-1", "`-1` is outside 0..=2147483647");
        check(
            "99999999999999999999999",
            "`99999999999999999999999` is outside 0..=2147483647",
        );
        check("0:4294967296", "`4294967296` is outside 0..=2147483647");
        check("big", "no such user in /etc/passwd");
    }
}
