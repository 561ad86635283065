//! Pid 1 of a container: starts the program, passes signals on, reaps orphans, and ends as the program ends.
//!
//! It is this very executable, run again inside the container from a sealed copy in memory, already with the container's
//! identity, capabilities and filter: it has nothing to give away.
#![expect(
    unsafe_code,
    reason = "runs before any thread exists: fork, exec and signal masks are plain system calls"
)]

use std::{
    env,
    ffi::{CStr, CString, OsStr},
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    process::exit,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

/// `argv[0]` by which this executable knows that it is to be a container's first process.
pub(crate) const NAME: &CStr = c"/.init";
/// Where the init finds the pipe on which it reports that the program could not be executed.
pub(crate) const STATUS: RawFd = 3;

static CAN_BE_INIT: AtomicBool = AtomicBool::new(false);

/// Becomes the container's first process if that is what this process was started as; returns at once otherwise.
///
/// Must be the first thing that `main` does in an executable that uses [`crate::Native`]: the runtime runs that same
/// executable again inside containers.
pub fn maybe_run() {
    CAN_BE_INIT.store(true, Ordering::Relaxed);
    let mut args = env::args_os();
    if args.next().as_deref() != Some(OsStr::from_bytes(NAME.to_bytes())) || std::process::id() != 1
    {
        return;
    }
    // No allocation can fail usefully here, and the arguments came through execve, so they contain no NUL.
    let argv: Vec<CString> = args
        .filter_map(|a| CString::new(a.into_vec()).ok())
        .collect();
    exit(run(&argv));
}

/// Whether [`maybe_run`] was called, so that this executable can serve as a container's first process.
pub(crate) fn available() -> bool {
    #[cfg(any(test, feature = "testkit"))]
    std::hint::black_box(&BEFORE_MAIN);
    CAN_BE_INIT.load(Ordering::Relaxed)
}

/// Test programs have no `main` of their own: this runs [`maybe_run`] before the one they have.
#[cfg(any(test, feature = "testkit"))]
#[used]
#[unsafe(link_section = ".init_array")]
pub(crate) static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn before_main() {
        maybe_run();
    }
    before_main
};

fn run(argv: &[CString]) -> i32 {
    let _ = rustix::thread::set_name(c".init");
    // SAFETY: the runtime left the status pipe at this number; nothing else in this fresh process owns it.
    let status = unsafe { OwnedFd::from_raw_fd(STATUS) };
    let candidates = candidates(argv);
    let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|a| a.as_ptr()).collect();
    pointers.push(ptr::null());

    // SAFETY: a zeroed set is valid; all signals are blocked so that each is taken by `sigwaitinfo` below, none lost.
    let all = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut());
        all
    };
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    match child {
        // SAFETY: in the child of a process with one thread.
        0 => unsafe { become_program(&candidates, &pointers) },
        -1 => {
            report(last_errno());
            126
        }
        child => {
            drop(status);
            supervise(child, &all)
        }
    }
}

/// Passes signals on and reaps until the program ends.
fn supervise(child: i32, all: &libc::sigset_t) -> i32 {
    loop {
        // SAFETY: a null info pointer asks for the number only; the set lives.
        let signal = unsafe { libc::sigwaitinfo(all, ptr::null_mut()) };
        if signal == libc::SIGCHLD {
            loop {
                let mut status = 0;
                // SAFETY: the status pointer is a live local.
                let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
                if pid <= 0 {
                    break;
                }
                if pid == child {
                    return if libc::WIFEXITED(status) {
                        libc::WEXITSTATUS(status)
                    } else {
                        128 + libc::WTERMSIG(status)
                    };
                }
            }
        } else if signal > 0 {
            // SAFETY: `kill` takes numbers. The program leads its own process group.
            unsafe {
                if libc::kill(-child, signal) != 0 {
                    libc::kill(child, signal);
                }
            }
        }
    }
}

/// # Safety
/// Only in the child of a process with one thread.
unsafe fn become_program(candidates: &[CString], argv: &[*const libc::c_char]) -> ! {
    // SAFETY: plain system calls on live memory; the session is new, so the ioctl can only affect our own terminal.
    unsafe {
        libc::setsid();
        if libc::isatty(0) == 1 {
            libc::ioctl(0, libc::TIOCSCTTY, 0);
        }
        libc::fcntl(STATUS, libc::F_SETFD, libc::FD_CLOEXEC);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        // The Rust runtime ignores SIGPIPE in this process; the program must find the default.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        let mut errno = libc::ENOENT;
        for path in candidates {
            libc::execv(path.as_ptr(), argv.as_ptr());
            // A program that was just written: a child of the engine may still hold the descriptor it was written by.
            let mut tries = 0;
            while last_errno() == libc::ETXTBSY && tries < 100 {
                libc::usleep(2000);
                libc::execv(path.as_ptr(), argv.as_ptr());
                tries += 1;
            }
            match last_errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => errno = libc::EACCES,
                other => {
                    errno = other;
                    break;
                }
            }
        }
        report(errno);
        libc::_exit(127)
    }
}

/// Where the program may be: itself when named with a slash, else one path per directory of `PATH`.
fn candidates(argv: &[CString]) -> Vec<CString> {
    let Some(name) = argv.first() else {
        return Vec::new();
    };
    if name.to_bytes().contains(&b'/') {
        return vec![name.clone()];
    }
    let path =
        env::var_os("PATH").unwrap_or_else(|| OsStr::new(crate::plan::DEFAULT_PATH).to_owned());
    crate::plan::program_paths(path.as_bytes(), name.to_bytes())
        .into_iter()
        .filter_map(|p| CString::new(p).ok())
        .collect()
}

fn report(errno: i32) {
    let bytes = errno.to_ne_bytes();
    // SAFETY: writes live bytes to the runtime's pipe; a failure has nobody left to hear of it.
    unsafe { libc::write(STATUS, bytes.as_ptr().cast(), bytes.len()) };
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}
