//! The program and its working directory, looked up in the container.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use crate::{
    StartError,
    error::{Step as _, shown},
    plan,
    rooted::{self, Walk},
    user::Identity,
};

/// Makes the working directory, owned by the user, if it does not exist. `elsewhere` says of a path that it leads to where
/// nothing can be made; the program's start will show whether it exists then.
pub(crate) fn working_directory(
    root: BorrowedFd<'_>,
    cwd: &[u8],
    identity: &Identity,
    elsewhere: impl Fn(&Walk) -> bool,
) -> Result<(), StartError> {
    if !cwd.starts_with(b"/") {
        return Err(StartError::Spec(format!(
            "the working directory `{}` is not an absolute path",
            shown(cwd)
        )));
    }
    let what = || format!("make the working directory `{}`", shown(cwd));
    let walk = rooted::walk(root, cwd).step(what)?;
    if walk.file.is_some() {
        return Err(rustix::io::Errno::NOTDIR).step(what);
    }
    let Some(last) = walk
        .last()
        .filter(|_| !walk.missing.is_empty() && !elsewhere(&walk))
    else {
        return Ok(());
    };
    let mut here = last.fd.try_clone().step(what)?;
    for name in &walk.missing {
        rustix::fs::mkdirat(&here, name.as_slice(), Mode::from_raw_mode(0o755)).step(what)?;
        let dir = rooted::child(here.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY).step(what)?;
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        rustix::fs::chownat(
            &here,
            name.as_slice(),
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .step(what)?;
        here = dir;
    }
    Ok(())
}

/// The paths at which a program can be executed in the container rooted at `root`.
pub(crate) fn find(
    root: BorrowedFd<'_>,
    argv: &[Vec<u8>],
    env: &[Vec<u8>],
    cwd: &[u8],
) -> Result<Vec<Vec<u8>>, StartError> {
    let Some(name) = argv.first().filter(|n| !n.is_empty()) else {
        return Err(StartError::Spec("no program to run".into()));
    };
    let absolute = |path: &[u8]| {
        if path.starts_with(b"/") {
            path.to_vec()
        } else {
            [cwd, b"/", path].concat()
        }
    };
    if name.contains(&b'/') {
        let unknown = |looked_in: &str| StartError::UnknownProgram {
            name: shown(name),
            looked_in: looked_in.into(),
        };
        let unfit = |errno| StartError::NotExecutable {
            name: shown(name),
            source: std::io::Error::from_raw_os_error(errno),
        };
        return match rooted::open(root, &absolute(name), OFlags::PATH) {
            Ok(fd) if rooted::is_dir(&fd).unwrap_or(false) => Err(unfit(libc::EISDIR)),
            // Links of procfs are for the kernel to follow at execution.
            Ok(_) => Ok(vec![name.clone()]),
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::ENOENT))
                    && !name.starts_with(b"/proc/") =>
            {
                Err(unknown("no such file"))
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTDIR)) => Err(unfit(libc::ENOTDIR)),
            Err(_) => Ok(vec![name.clone()]),
        };
    }
    let path = plan::variable(env, "PATH").unwrap_or(plan::DEFAULT_PATH.as_bytes());
    let found: Vec<_> = plan::program_paths(path, name)
        .into_iter()
        .filter(|p| is_program(root, &absolute(p)))
        .collect();
    if found.is_empty() {
        return Err(StartError::UnknownProgram {
            name: shown(name),
            looked_in: format!("not found in `{}`", shown(path)),
        });
    }
    Ok(found)
}

fn is_program(root: BorrowedFd<'_>, path: &[u8]) -> bool {
    let Ok(fd) = rooted::open(root, path, OFlags::PATH) else {
        return false;
    };
    rustix::fs::fstat(fd).is_ok_and(|s| {
        FileType::from_raw_mode(s.st_mode) == FileType::RegularFile && s.st_mode & 0o111 != 0
    })
}
