//! Starting a process the `vfork` way with namespaces: the child borrows the parent's memory until it executes a program.
//!
//! Compared with `fork` nothing is copied, so the time does not grow with the parent's memory, and no lock of another
//! thread can be copied in a taken state, because nothing is copied at all.
#![expect(unsafe_code, reason = "clone3 on a hand-made stack")]

use std::{
    arch::asm,
    ffi::c_void,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

/// What the child runs. It must not return, unwind, allocate, take locks or touch thread-local state.
pub type Entry = unsafe extern "C" fn(*mut c_void) -> !;

/// A child that has executed its program, or ended.
#[derive(Debug)]
pub struct Cloned {
    /// The process id in the caller's pid namespace.
    pub pid: i32,
    /// A descriptor for the process; close-on-exec.
    pub pidfd: OwnedFd,
}

/// A stack for the child with a guard page below.
#[derive(Debug)]
pub struct Stack {
    base: *mut c_void,
}

/// Lets another thread kill a child that does not get to executing its program: a container's processes can stop one that
/// has joined them.
#[derive(Debug)]
pub struct Watch {
    pidfd: AtomicI32,
    /// Held while the descriptor is used, and while its ownership is handed over.
    guard: Mutex<()>,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            pidfd: AtomicI32::new(-1),
            guard: Mutex::new(()),
        }
    }
}

impl Watch {
    /// Kills the child if it has been started and has not yet executed its program. Says whether it was there.
    pub fn kill(&self) -> bool {
        let _guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let pidfd = self.pidfd.load(Ordering::SeqCst);
        if pidfd < 0 {
            return false;
        }
        // SAFETY: the kernel made the descriptor, and its owner waits for the guard before it takes it over.
        let pidfd = unsafe { BorrowedFd::borrow_raw(pidfd) };
        crate::process::signal(pidfd, libc::SIGKILL).is_ok()
    }
}

const STACK: usize = 128 * 1024;
const GUARD: usize = 64 * 1024;

// SAFETY: the memory is plain anonymous memory owned by this value; nothing in it depends on the thread.
unsafe impl Send for Stack {}

impl Stack {
    /// Maps a new stack.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub fn new() -> io::Result<Stack> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                STACK + GUARD,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack { base };
        // SAFETY: the range is the lower part of the mapping made above, which nothing uses yet.
        if unsafe { libc::mprotect(base, GUARD, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no child runs on it, because `vfork` only returns after the child left.
        unsafe { libc::munmap(self.base, STACK + GUARD) };
    }
}

/// `struct clone_args` of `clone3(2)`.
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Clones with `CLONE_VM | CLONE_VFORK | CLONE_PIDFD` and `flags`, running `entry(arg)` in the child on `stack`. Returns
/// when the child has executed a program or has exited. All signals are blocked in the child; it must reset its handlers
/// and unblock them before it executes the program.
///
/// With `cgroup`, a directory of a cgroup2 hierarchy, the child starts as its member. While the caller is suspended, `watch`
/// can end the child.
///
/// # Safety
/// `entry` must uphold what [`Entry`] says, and `arg` must be what it expects. `flags` must not contain `CLONE_THREAD`,
/// `CLONE_SIGHAND`, `CLONE_FS`, `CLONE_FILES` or `CLONE_SETTLS`.
pub unsafe fn vfork(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    stack: &mut Stack,
    watch: &Watch,
    entry: Entry,
    arg: *mut c_void,
) -> io::Result<Cloned> {
    let mut args = CloneArgs {
        flags: flags | (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64,
        pidfd: watch.pidfd.as_ptr().addr() as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.base.addr() as u64 + GUARD as u64,
        stack_size: STACK as u64,
        ..CloneArgs::default()
    };
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    let blocked = SignalsBlocked::new()?;
    // SAFETY: the stack is exclusively borrowed, mapped and 16-byte aligned; `entry` and `arg` are the caller's promise.
    // The parent is suspended until the child executes or exits (CLONE_VFORK), so `args` and `watch` outlive their use.
    let pid = unsafe { clone3(&mut args, entry, arg) };
    drop(blocked);
    let _guard = watch.guard.lock().unwrap_or_else(PoisonError::into_inner);
    let pidfd: RawFd = watch.pidfd.swap(-1, Ordering::SeqCst);
    if pid < 0 {
        return Err(io::Error::from_raw_os_error(-pid as i32));
    }
    // SAFETY: the kernel stored a new descriptor there, as the call succeeded with CLONE_PIDFD.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned {
        pid: pid as i32,
        pidfd,
    })
}

/// The clone itself. The child starts on its own, empty stack and calls `entry` from assembly, so no Rust frame of the
/// parent is ever shared or returned into.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
unsafe fn clone3(args: &mut CloneArgs, entry: Entry, arg: *mut c_void) -> isize {
    let ret: isize;
    // SAFETY: see `vfork`; in the child all registers are the parent's but rax (0) and rsp (the new stack's end).
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => ret,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") arg,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    ret
}

#[cfg(target_arch = "aarch64")]
#[inline(never)]
unsafe fn clone3(args: &mut CloneArgs, entry: Entry, arg: *mut c_void) -> isize {
    let ret: isize;
    // SAFETY: see `vfork`; in the child all registers are the parent's but x0 (0) and sp (the new stack's end).
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk 1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") args as *mut CloneArgs as isize => ret,
            in("x1") size_of::<CloneArgs>(),
            in("x20") arg,
            in("x21") entry,
        );
    }
    ret
}

/// All signals blocked in this thread until dropped, so that no handler runs in a child that borrows this memory.
struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    fn new() -> io::Result<SignalsBlocked> {
        // SAFETY: an all-zero signal set is a valid value, and both sets live across the calls.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) {
                0 => Ok(SignalsBlocked { before }),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: restores the mask that `new` saved.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn exit_with(arg: *mut c_void) -> ! {
        loop {
            // SAFETY: `exit_group` takes a number.
            unsafe { crate::raw::syscall(libc::SYS_exit_group, [arg.addr(), 0, 0, 0, 0, 0]) };
        }
    }

    unsafe extern "C" fn sleep(_: *mut c_void) -> ! {
        loop {
            // SAFETY: `pause` by another name, as not every architecture has it: a poll of nothing without a deadline.
            unsafe { crate::raw::syscall(libc::SYS_ppoll, [0; 6]) };
        }
    }

    #[test]
    fn a_child_that_does_not_get_on_can_be_killed() {
        let watch = std::sync::Arc::new(Watch::default());
        assert!(!watch.kill());
        let killer = std::sync::Arc::clone(&watch);
        let killer = std::thread::spawn(move || while !killer.kill() {});
        // SAFETY: `sleep` does nothing else.
        let child = unsafe {
            vfork(
                0,
                None,
                &mut Stack::new().unwrap(),
                &watch,
                sleep,
                ptr::null_mut(),
            )
        }
        .unwrap();
        killer.join().unwrap();
        assert_eq!(
            crate::process::wait(&child.pidfd).unwrap(),
            crate::process::Ended::Signaled(9)
        );
        assert!(!watch.kill());
    }

    #[test]
    fn a_child_runs_on_its_own_stack_and_reports_by_its_exit() {
        let mut stack = Stack::new().unwrap();
        for code in [0_usize, 3, 250] {
            // SAFETY: `exit_with` only exits.
            let child = unsafe {
                vfork(
                    0,
                    None,
                    &mut stack,
                    &Watch::default(),
                    exit_with,
                    ptr::without_provenance_mut(code),
                )
            }
            .unwrap();
            assert_eq!(
                crate::process::wait(&child.pidfd).unwrap(),
                crate::process::Ended::Exited(code as i32)
            );
        }
    }
}
