//! Processes by descriptor, and what the kernel says about ourselves.
#![expect(unsafe_code, reason = "calls that rustix lacks")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::process::{WaitId, WaitIdOptions};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exited(i32),
    /// A signal killed it.
    Signaled(i32),
}

/// Waits for a child and reaps it.
///
/// # Errors
/// `ECHILD` when it is no child of ours or was reaped before.
pub fn wait(pidfd: impl AsFd) -> io::Result<Ended> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return ended(&status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Reaps a child if it has ended already.
///
/// # Errors
/// `ECHILD` when it is no child of ours or was reaped before.
pub fn try_wait(pidfd: impl AsFd) -> io::Result<Option<Ended>> {
    match rustix::process::waitid(
        WaitId::PidFd(pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    ) {
        Ok(Some(status)) => ended(&status).map(Some),
        Ok(None) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn ended(status: &rustix::process::WaitIdStatus) -> io::Result<Ended> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ok(Ended::Exited(code)),
        (None, Some(signal)) => Ok(Ended::Signaled(signal)),
        (None, None) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel reported an end that is none",
        )),
    }
}

/// Sends a signal by number, real-time ones included.
///
/// # Errors
/// `ESRCH` when the process is gone, `EINVAL` for a number that is no signal.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed: the info pointer is null.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes this process impossible to trace, and its memory impossible to read, for processes without `CAP_SYS_PTRACE`;
/// it leaves no core dump either.
///
/// # Errors
/// Never on Linux.
pub fn forbid_dumping() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(Into::into)
}

/// The capabilities of this thread's bounding set, as a bit set.
pub fn bounding_set() -> u64 {
    let mut set = 0;
    for bit in 0..64_i32 {
        // SAFETY: PR_CAPBSET_READ takes a number and touches no memory.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, bit, 0, 0, 0) } {
            0 => {}
            1 => set |= 1 << bit,
            _ => break,
        }
    }
    set
}

/// The highest capability that this kernel knows.
pub fn last_capability() -> u32 {
    // SAFETY: PR_CAPBSET_READ takes a number and touches no memory.
    (0..64_u32)
        .take_while(|bit| unsafe { libc::prctl(libc::PR_CAPBSET_READ, *bit, 0, 0, 0) } >= 0)
        .last()
        .unwrap_or(0)
}

/// Gives the calling thread, and it alone, a copy of its mount namespace and its own root, working directory and umask.
///
/// # Errors
/// `EPERM` without the right to.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the descriptor table stays shared, which is what makes other unsharing unsafe.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .map_err(Into::into)
}

/// This process's soft and hard limit of a resource; `u64::MAX` is none.
///
/// # Errors
/// `EINVAL` for a number that is no resource.
pub fn limits(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = [0_u64; 2];
    // SAFETY: the two numbers are what `prlimit64` writes, and they live across the call; the new limit is null.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<u64>(),
            limit.as_mut_ptr(),
        )
    };
    if ret == 0 {
        Ok((limit[0], limit[1]))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives memory that the allocator keeps for later back to the system. Takes some milliseconds: for quiet moments.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes no pointers and locks the allocator itself.
    #[expect(unsafe_code, reason = "the allocator has no safe interface for this")]
    unsafe {
        libc::malloc_trim(0);
    }
}
