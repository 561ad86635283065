//! The child: prepared steps, each a few bare system calls, between the clone and the program's first instruction.
//!
//! It runs in the engine's own memory while the thread that started it is suspended. So nothing here allocates, locks,
//! formats, unwinds or calls the C library; all data was prepared before.
#![expect(unsafe_code, reason = "bare system calls on prepared data")]

use std::{
    ffi::{CStr, CString, c_char, c_void},
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

use sys::raw::syscall;

use crate::{caps, seccomp::Instruction, spec::Rlimit};

/// One step of the child.
#[derive(Debug)]
pub(super) enum Op {
    /// Join the namespaces of this descriptor.
    Join { fd: RawFd, kinds: i32 },
    /// Bring the loopback device up.
    Loopback,
    /// Set the hostname.
    Hostname(Vec<u8>),
    /// Mount a new filesystem, remembering its root in a slot.
    Mount {
        fstype: &'static CStr,
        options: Vec<(CString, Option<CString>)>,
        attrs: u32,
        target: Target,
        slot: usize,
    },
    /// Mount what is detached, remembering its root in a slot.
    Attach {
        mount: RawFd,
        target: Target,
        slot: usize,
    },
    /// Cover a path below a slot's mount, if it exists: a directory by `dir`, anything else by `file`.
    Mask {
        slot: usize,
        path: CString,
        dir: RawFd,
        file: RawFd,
    },
    /// Make a path below a slot's mount read-only, if it exists.
    Readonly { slot: usize, path: CString },
    /// Let the kernel choose this process as any other when memory runs out; the slot holds procfs.
    Expendable { slot: usize },
    /// Leave the engine's keys behind.
    Keyring,
    /// Make the directory that `root` is open on the root of this mount namespace and detach the old one.
    Pivot { root: RawFd },
    /// Start a session, with the terminal on descriptor 0 as its own when asked for.
    Session { terminal: bool },
    /// Make these descriptors 0, 1 and 2.
    Stdio([RawFd; 3]),
    /// Set a resource limit; one that cannot be had is let be.
    Limit(Rlimit),
    /// Set the file mode creation mask.
    Umask(u32),
    /// Enter this directory inside the root, never through a link of procfs.
    Directory(CString),
    /// Install a system call filter.
    Filter(&'static [Instruction]),
    /// Become this user with these capabilities.
    Credentials {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
        caps: caps::Sets,
        last_cap: u32,
    },
    /// Die when the engine dies; `engine` is its pidfd.
    DieWithEngine { engine: RawFd },
    /// Close every descriptor on exec but 0, 1, 2; move `status` to the init's place and keep it open there.
    Descriptors { status: Option<RawFd> },
    /// Give all signals their default action and unblock them.
    Signals,
    /// Execute the file that `program` is open on, or the first of `paths` that can be.
    Exec {
        program: Option<RawFd>,
        paths: Vec<CString>,
        argv: Pointers,
        envp: Pointers,
    },
}

/// Where to mount.
#[derive(Debug)]
pub(super) enum Target {
    /// On what is open here.
    At(RawFd),
    /// On this path below a slot's mount, without links.
    Below { slot: usize, path: CString },
}

/// Null-terminated strings behind a null-terminated array, as `execve` wants them.
#[derive(Debug)]
pub(super) struct Pointers {
    strings: Vec<CString>,
    array: Vec<*const c_char>,
}

impl Pointers {
    pub(super) fn new(strings: Vec<CString>) -> Pointers {
        let mut array: Vec<*const c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        array.push(ptr::null());
        Pointers { strings, array }
    }
}

/// What the steps share with the parent.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) ops: Vec<Op>,
    failed: AtomicI32,
    errno: AtomicI32,
    /// Set right before the last step, the execution.
    through: AtomicBool,
}

/// Slots for the mounts that later steps refer to.
pub(super) const SLOTS: usize = 4;
type Slots = [RawFd; SLOTS];

impl Child {
    pub(super) fn new(ops: Vec<Op>) -> Child {
        Child {
            ops,
            failed: AtomicI32::new(-1),
            errno: AtomicI32::new(0),
            through: AtomicBool::new(false),
        }
    }

    /// Whether the execution was reached.
    pub(super) fn is_through(&self) -> bool {
        self.through.load(Ordering::SeqCst)
    }

    /// The step that failed and its errno.
    pub(super) fn failure(&self) -> Option<(&Op, i32)> {
        let index = usize::try_from(self.failed.load(Ordering::SeqCst)).ok()?;
        Some((self.ops.get(index)?, self.errno.load(Ordering::SeqCst)))
    }
}

impl Op {
    /// The step as the object of "cannot".
    pub(super) fn describe(&self) -> String {
        let shown = |s: &CStr| crate::error::shown(s.to_bytes());
        match self {
            Op::Join { .. } => "join the namespaces".into(),
            Op::Loopback => "bring the loopback device up".into(),
            Op::Hostname(name) => format!("set the hostname to `{}`", crate::error::shown(name)),
            Op::Mount { fstype, .. } => format!("mount {}", shown(fstype)),
            Op::Attach {
                target: Target::Below { path, .. },
                ..
            } => format!("mount on `{}`", shown(path)),
            Op::Attach { .. } => "mount a directory".into(),
            Op::Mask { path, .. } => format!("mask `{}`", shown(path)),
            Op::Readonly { path, .. } => format!("make `{}` read-only", shown(path)),
            Op::Expendable { .. } => "set the memory score".into(),
            Op::Keyring => "leave the session's keys".into(),
            Op::Pivot { .. } => "make the container's root the root".into(),
            Op::Session { .. } => "start a session on the terminal".into(),
            Op::Stdio(_) => "set up the standard streams".into(),
            Op::Limit(limit) => format!("set resource limit {}", limit.resource),
            Op::Umask(_) => "set the file creation mask".into(),
            Op::Directory(path) => format!("enter the working directory `{}`", shown(path)),
            Op::Filter(_) => "install the system call filter".into(),
            Op::Credentials { uid, gid, .. } => format!("become user {uid} and group {gid}"),
            Op::DieWithEngine { .. } => "tie the container's life to the engine's".into(),
            Op::Descriptors { .. } => "close the engine's descriptors".into(),
            Op::Signals => "reset the signals".into(),
            Op::Exec { paths, argv, .. } => match paths.first().or(argv.strings.first()) {
                Some(name) => format!("execute `{}`", shown(name)),
                None => "execute the program".into(),
            },
        }
    }
}

/// The child's first and only function.
///
/// # Safety
/// `child` must point to a [`Child`] that outlives the process's stay in this memory.
pub(super) unsafe extern "C" fn enter(child: *mut c_void) -> ! {
    // SAFETY: the caller's promise; the parent is suspended, so nobody else writes it.
    let child = unsafe { &*child.cast::<Child>() };
    let mut slots: Slots = [-1; SLOTS];
    let mut index = 0_i32;
    for op in &child.ops {
        if let Op::Exec { .. } = op {
            child.through.store(true, Ordering::SeqCst);
        }
        if let Err(errno) = run(op, &mut slots) {
            child.errno.store(errno, Ordering::SeqCst);
            child.failed.store(index, Ordering::SeqCst);
            break;
        }
        index = index.wrapping_add(1);
    }
    loop {
        let _ = call(libc::SYS_exit_group, [127, 0, 0, 0, 0, 0]);
    }
}

type Answer = Result<usize, i32>;

fn call(number: i64, args: [usize; 6]) -> Answer {
    // SAFETY: every caller below passes pointers to prepared data or to its own live locals, and sizes that match.
    let ret = unsafe { syscall(number, args) };
    if ret < 0 {
        Err((ret as i32).wrapping_neg())
    } else {
        Ok(ret as usize)
    }
}

fn run(op: &Op, slots: &mut Slots) -> Result<(), i32> {
    match op {
        Op::Join { fd, kinds } => {
            call(libc::SYS_setns, [*fd as usize, *kinds as usize, 0, 0, 0, 0]).map(drop)
        }
        Op::Loopback => loopback(),
        Op::Hostname(name) => call(
            libc::SYS_sethostname,
            [name.as_ptr().addr(), name.len(), 0, 0, 0, 0],
        )
        .map(drop),
        Op::Mount {
            fstype,
            options,
            attrs,
            target,
            slot,
        } => {
            let root = mount(fstype, options, *attrs)?;
            place(root, target, *slot, slots)
        }
        Op::Attach {
            mount,
            target,
            slot,
        } => place(*mount as usize, target, *slot, slots),
        Op::Mask {
            slot,
            path,
            dir,
            file,
        } => mask(slot_of(slots, *slot), path, *dir, *file),
        Op::Readonly { slot, path } => readonly(slot_of(slots, *slot), path),
        Op::Expendable { slot } => expendable(slot_of(slots, *slot)),
        Op::Keyring => {
            // Not every kernel has keys, and there may be too many: nothing depends on it then.
            let join_session_keyring = 1;
            let _ = call(libc::SYS_keyctl, [join_session_keyring, 0, 0, 0, 0, 0]);
            Ok(())
        }
        Op::Pivot { root } => pivot(*root),
        Op::Session { terminal } => {
            call(libc::SYS_setsid, [0; 6])?;
            if *terminal {
                call(libc::SYS_ioctl, [0, libc::TIOCSCTTY as usize, 0, 0, 0, 0])?;
            }
            Ok(())
        }
        Op::Stdio(fds) => {
            let mut to = 0;
            for from in fds {
                call(libc::SYS_dup3, [*from as usize, to, 0, 0, 0, 0])?;
                to = to.wrapping_add(1);
            }
            Ok(())
        }
        Op::Limit(limit) => {
            limit_to(limit);
            Ok(())
        }
        Op::Umask(mask) => call(libc::SYS_umask, [*mask as usize, 0, 0, 0, 0, 0]).map(drop),
        Op::Directory(path) => directory(path),
        Op::Filter(program) => filter(program),
        Op::Credentials {
            uid,
            gid,
            groups,
            caps,
            last_cap,
        } => credentials(*uid, *gid, groups, caps, *last_cap),
        Op::DieWithEngine { engine } => die_with(*engine),
        Op::Descriptors { status } => descriptors(*status),
        Op::Signals => signals(),
        Op::Exec {
            program,
            paths,
            argv,
            envp,
        } => exec(*program, paths, argv, envp),
    }
}

fn slot_of(slots: &Slots, slot: usize) -> RawFd {
    slots.get(slot).copied().unwrap_or(-1)
}

fn close(fd: usize) {
    let _ = call(libc::SYS_close, [fd, 0, 0, 0, 0, 0]);
}

fn loopback() -> Result<(), i32> {
    #[repr(C)]
    struct Ifreq {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }
    let socket = call(
        libc::SYS_socket,
        [
            libc::AF_INET as usize,
            (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize,
            0,
            0,
            0,
            0,
        ],
    )?;
    let mut request = Ifreq {
        name: [0; 16],
        flags: libc::IFF_UP as i16,
        rest: [0; 22],
    };
    request.name[0] = b'l';
    request.name[1] = b'o';
    let done = call(
        libc::SYS_ioctl,
        [
            socket,
            libc::SIOCSIFFLAGS as usize,
            (&raw mut request).addr(),
            0,
            0,
            0,
        ],
    );
    close(socket);
    done.map(drop)
}

const FSCONFIG_SET_FLAG: usize = 0;
const FSCONFIG_SET_STRING: usize = 1;
const FSCONFIG_CMD_CREATE: usize = 6;
const MOVE_EMPTY: usize = 0x4 | 0x40;

/// Makes a new filesystem and returns its detached root.
fn mount(fstype: &CStr, options: &[(CString, Option<CString>)], attrs: u32) -> Answer {
    let context = call(libc::SYS_fsopen, [fstype.as_ptr().addr(), 1, 0, 0, 0, 0])?;
    for (key, value) in options {
        let (command, value) = match value {
            Some(value) => (FSCONFIG_SET_STRING, value.as_ptr().addr()),
            None => (FSCONFIG_SET_FLAG, 0),
        };
        call(
            libc::SYS_fsconfig,
            [context, command, key.as_ptr().addr(), value, 0, 0],
        )?;
    }
    call(
        libc::SYS_fsconfig,
        [context, FSCONFIG_CMD_CREATE, 0, 0, 0, 0],
    )?;
    let root = call(libc::SYS_fsmount, [context, 1, attrs as usize, 0, 0, 0])?;
    close(context);
    Ok(root)
}

fn place(mount: usize, target: &Target, slot: usize, slots: &mut Slots) -> Result<(), i32> {
    match target {
        Target::At(fd) => attach(mount, *fd as usize)?,
        Target::Below { slot, path } => {
            let target = beneath(slot_of(slots, *slot), path)?;
            attach(mount, target)?;
            close(target);
        }
    }
    if let Some(place) = slots.get_mut(slot) {
        *place = mount as RawFd;
    }
    Ok(())
}

fn attach(mount: usize, target: usize) -> Result<(), i32> {
    let empty = c"".as_ptr().addr();
    call(
        libc::SYS_move_mount,
        [mount, empty, target, empty, MOVE_EMPTY, 0],
    )
    .map(drop)
}

fn copy_of(mount: usize) -> Answer {
    let flags = 1 | libc::O_CLOEXEC as usize | libc::AT_EMPTY_PATH as usize;
    call(
        libc::SYS_open_tree,
        [mount, c"".as_ptr().addr(), flags, 0, 0, 0],
    )
}

/// Opens a path below `dir` that must not contain links.
fn beneath(dir: RawFd, path: &CStr) -> Answer {
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    openat2(
        dir,
        path,
        (libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u64,
        resolve,
    )
}

fn openat2(dir: RawFd, path: &CStr, flags: u64, resolve: u64) -> Answer {
    let how: [u64; 3] = [flags, 0, resolve];
    // The kernel does not follow `..` while anything is mounted or renamed anywhere.
    let mut tries = 0_u32;
    loop {
        let fd = call(
            libc::SYS_openat2,
            [
                dir as usize,
                path.as_ptr().addr(),
                (&raw const how).addr(),
                size_of_val(&how),
                0,
                0,
            ],
        );
        if fd != Err(libc::EAGAIN) || tries > 100_000 {
            return fd;
        }
        tries = tries.wrapping_add(1);
    }
}

fn mask(dir_fd: RawFd, path: &CStr, dir: RawFd, file: RawFd) -> Result<(), i32> {
    let target = match beneath(dir_fd, path) {
        Err(libc::ENOENT | libc::ENOTDIR) => return Ok(()),
        other => other?,
    };
    let cover = copy_of(if is_dir(target)? { dir } else { file } as usize)?;
    attach(cover, target)?;
    close(cover);
    close(target);
    Ok(())
}

fn is_dir(fd: usize) -> Result<bool, i32> {
    // `struct statx` is 256 bytes; its mode lies at byte 28.
    let mut statx = [0_u16; 128];
    let empty = c"".as_ptr().addr();
    call(
        libc::SYS_statx,
        [
            fd,
            empty,
            libc::AT_EMPTY_PATH as usize,
            libc::STATX_TYPE as usize,
            (&raw mut statx).addr(),
            0,
        ],
    )?;
    Ok(u32::from(statx[14]) & libc::S_IFMT == libc::S_IFDIR)
}

fn readonly(dir: RawFd, path: &CStr) -> Result<(), i32> {
    let target = match beneath(dir, path) {
        Err(libc::ENOENT | libc::ENOTDIR) => return Ok(()),
        other => other?,
    };
    let copy = copy_of(target)?;
    let attr: [u64; 4] = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0];
    let empty = c"".as_ptr().addr();
    call(
        libc::SYS_mount_setattr,
        [
            copy,
            empty,
            libc::AT_EMPTY_PATH as usize,
            (&raw const attr).addr(),
            size_of_val(&attr),
            0,
        ],
    )?;
    attach(copy, target)?;
    close(copy);
    close(target);
    Ok(())
}

fn expendable(proc: RawFd) -> Result<(), i32> {
    // A new superblock of procfs made by this process: `self` is not a link that anybody else could have put there.
    let path = c"self/oom_score_adj".as_ptr().addr();
    let file = call(
        libc::SYS_openat,
        [
            proc as usize,
            path,
            (libc::O_WRONLY | libc::O_CLOEXEC) as usize,
            0,
            0,
            0,
        ],
    )?;
    let zero = b"0";
    let written = call(
        libc::SYS_write,
        [file, zero.as_ptr().addr(), zero.len(), 0, 0, 0],
    );
    close(file);
    written.map(drop)
}

fn pivot(root: RawFd) -> Result<(), i32> {
    let here = c".".as_ptr().addr();
    call(libc::SYS_fchdir, [root as usize, 0, 0, 0, 0, 0])?;
    call(libc::SYS_pivot_root, [here, here, 0, 0, 0, 0])?;
    // The old root now lies on top of the new one.
    call(
        libc::SYS_umount2,
        [here, libc::MNT_DETACH as usize, 0, 0, 0, 0],
    )?;
    call(libc::SYS_chdir, [c"/".as_ptr().addr(), 0, 0, 0, 0, 0]).map(drop)
}

fn limit_to(limit: &Rlimit) {
    let mut old: [u64; 2] = [0; 2];
    let resource = limit.resource as usize;
    if call(
        libc::SYS_prlimit64,
        [0, resource, 0, (&raw mut old).addr(), 0, 0],
    )
    .is_err()
    {
        return;
    }
    let hard = limit.hard.min(old[1]);
    let wanted = [limit.hard, hard];
    for hard in wanted {
        let new: [u64; 2] = [limit.soft.min(hard), hard];
        if call(
            libc::SYS_prlimit64,
            [0, resource, (&raw const new).addr(), 0, 0, 0],
        )
        .is_ok()
        {
            return;
        }
    }
}

fn directory(path: &CStr) -> Result<(), i32> {
    let flags = (libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64;
    let root = call(
        libc::SYS_openat,
        [
            libc::AT_FDCWD as usize,
            c"/".as_ptr().addr(),
            flags as usize,
            0,
            0,
            0,
        ],
    )?;
    let dir = openat2(
        root as RawFd,
        path,
        flags,
        libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
    )?;
    close(root);
    call(libc::SYS_fchdir, [dir, 0, 0, 0, 0, 0])?;
    close(dir);
    Ok(())
}

fn filter(program: &[Instruction]) -> Result<(), i32> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    let program = Program {
        len: program.len() as u16,
        filter: program.as_ptr(),
    };
    let set_mode_filter = 1;
    call(
        libc::SYS_seccomp,
        [set_mode_filter, 0, (&raw const program).addr(), 0, 0, 0],
    )
    .map(drop)
}

fn credentials(
    uid: u32,
    gid: u32,
    groups: &[u32],
    caps: &caps::Sets,
    last_cap: u32,
) -> Result<(), i32> {
    let prctl =
        |option: i32, a: usize, b: usize| call(libc::SYS_prctl, [option as usize, a, b, 0, 0, 0]);
    let mut cap = 0;
    while cap <= last_cap {
        if caps.bounding & 1_u64.wrapping_shl(cap) == 0 {
            prctl(libc::PR_CAPBSET_DROP, cap as usize, 0)?;
        }
        cap = cap.wrapping_add(1);
    }
    prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
    call(
        libc::SYS_setgroups,
        [groups.len(), groups.as_ptr().addr(), 0, 0, 0, 0],
    )?;
    call(
        libc::SYS_setresgid,
        [gid as usize, gid as usize, gid as usize, 0, 0, 0],
    )?;
    call(
        libc::SYS_setresuid,
        [uid as usize, uid as usize, uid as usize, 0, 0, 0],
    )?;
    prctl(libc::PR_SET_KEEPCAPS, 0, 0)?;
    let header: [u32; 2] = [0x2008_0522, 0];
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data: [u32; 6] = [
        low(caps.effective),
        low(caps.permitted),
        low(caps.inheritable),
        high(caps.effective),
        high(caps.permitted),
        high(caps.inheritable),
    ];
    call(
        libc::SYS_capset,
        [
            (&raw const header).addr(),
            (&raw const data).addr(),
            0,
            0,
            0,
            0,
        ],
    )?;
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as usize,
        0,
    )?;
    let mut cap = 0;
    while cap <= last_cap {
        if caps.ambient & 1_u64.wrapping_shl(cap) != 0 {
            prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE as usize,
                cap as usize,
            )?;
        }
        cap = cap.wrapping_add(1);
    }
    Ok(())
}

fn die_with(engine: RawFd) -> Result<(), i32> {
    call(
        libc::SYS_prctl,
        [
            libc::PR_SET_PDEATHSIG as usize,
            libc::SIGKILL as usize,
            0,
            0,
            0,
            0,
        ],
    )?;
    // The engine may have died before the line above took effect.
    let mut poll = libc::pollfd {
        fd: engine,
        events: libc::POLLIN,
        revents: 0,
    };
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match call(
        libc::SYS_ppoll,
        [(&raw mut poll).addr(), 1, (&raw const now).addr(), 0, 0, 0],
    )? {
        0 => Ok(()),
        _ => Err(libc::ESRCH),
    }
}

fn descriptors(status: Option<RawFd>) -> Result<(), i32> {
    let mut first = 3_usize;
    if let Some(status) = status {
        call(
            libc::SYS_dup3,
            [status as usize, crate::init::STATUS as usize, 0, 0, 0, 0],
        )?;
        first = 4;
    }
    let on_exec = 1 << 2;
    call(
        libc::SYS_close_range,
        [first, u32::MAX as usize, on_exec, 0, 0, 0],
    )
    .map(drop)
}

fn signals() -> Result<(), i32> {
    // handler, flags, restorer, mask: all zero is the default action.
    let default: [usize; 4] = [0; 4];
    let mut signal = 1;
    while signal <= 64 {
        if signal != libc::SIGKILL as usize && signal != libc::SIGSTOP as usize {
            call(
                libc::SYS_rt_sigaction,
                [signal, (&raw const default).addr(), 0, 8, 0, 0],
            )?;
        }
        signal = signal.wrapping_add(1);
    }
    let none = 0_u64;
    call(
        libc::SYS_rt_sigprocmask,
        [
            libc::SIG_SETMASK as usize,
            (&raw const none).addr(),
            0,
            8,
            0,
            0,
        ],
    )
    .map(drop)
}

fn exec(
    program: Option<RawFd>,
    paths: &[CString],
    argv: &Pointers,
    envp: &Pointers,
) -> Result<(), i32> {
    let (argv, envp) = (argv.array.as_ptr().addr(), envp.array.as_ptr().addr());
    if let Some(fd) = program {
        call(
            libc::SYS_execveat,
            [
                fd as usize,
                c"".as_ptr().addr(),
                argv,
                envp,
                libc::AT_EMPTY_PATH as usize,
                0,
            ],
        )?;
    }
    let mut errno = libc::ENOENT;
    for path in paths {
        let execute = || {
            call(
                libc::SYS_execve,
                [path.as_ptr().addr(), argv, envp, 0, 0, 0],
            )
        };
        let mut result = execute();
        let mut tries = 0_u32;
        // A program that was just written: another child may still hold the descriptor it was written by, until its own exec.
        while result == Err(libc::ETXTBSY) && tries < 100 {
            let pause = libc::timespec {
                tv_sec: 0,
                tv_nsec: 2_000_000,
            };
            let _ = call(libc::SYS_ppoll, [0, 0, (&raw const pause).addr(), 0, 0, 0]);
            result = execute();
            tries = tries.wrapping_add(1);
        }
        match result {
            Err(libc::ENOENT | libc::ENOTDIR) => {}
            Err(libc::EACCES) => errno = libc::EACCES,
            Err(other) => return Err(other),
            Ok(_) => return Ok(()),
        }
    }
    Err(errno)
}
