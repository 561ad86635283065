//! A program for the inside of a container: this very test program, bind mounted, which answers questions that busybox
//! cannot, such as what a system call returns.
#![expect(unsafe_code, reason = "raw system calls are what is looked at")]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::exit,
};

use sandbox::{
    Native, Runtime,
    spec::{Mount, Net, Root, Source, Spec, Stdio, UserSpec},
};

const PATH: &str = "/probe";

/// The name by which this program knows that it is to be a small engine of its own.
pub(crate) const ENGINE: &str = "/engine";

/// Runs a script in a container whose root is this directory, with our own output; says how it ended.
fn engine(root: &str, script: &str) -> i32 {
    let out = || Some(rustix::io::dup(rustix::stdio::stdout()).unwrap());
    let spec = Spec {
        root: Root::Dir(root.into()),
        mounts: Vec::new(),
        argv: ["sh", "-c", script].map(|a| a.as_bytes().to_vec()).to_vec(),
        env: vec![b"PATH=/bin".to_vec()],
        cwd: b"/".to_vec(),
        user: UserSpec::default(),
        hostname: "inner".into(),
        stdio: Stdio {
            stdin: None,
            stdout: out(),
            stderr: out(),
            terminal: false,
        },
        net: Net::None,
        hosts: None,
        resolv_conf: None,
        privileged: false,
        init: true,
        ca_bundle: None,
        rlimits: Vec::new(),
    };
    let started = Native::new().and_then(|runtime| Ok((runtime.start(spec)?, runtime)));
    match started {
        Ok((mut child, _runtime)) => child.wait_blocking().unwrap().code(),
        Err(e) => {
            println!("{e}: {:?}", e.errno());
            1
        }
    }
}

/// Makes the probe available in a container.
pub(crate) fn install(spec: &mut Spec) {
    let source = Source::Bind(env::current_exe().unwrap());
    spec.mounts.push(Mount {
        target: PATH.into(),
        source,
        readonly: true,
    });
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn before_main() {
        sandbox::init::maybe_run();
        if let Some(channel) = sandbox::agent::channel() {
            agent(channel);
            exit(0);
        }
        let args: Vec<String> = env::args().collect();
        if args.first().map(String::as_str) == Some(ENGINE) {
            exit(engine(&args[1], &args[2]));
        }
        if args.first().map(String::as_str) == Some(PATH) {
            let answers: Vec<String> = args[1..].iter().map(|question| answer(question)).collect();
            println!("{}", answers.join(" "));
            exit(0);
        }
    }
    before_main
};

/// An agent that says what is in files, line by line.
fn agent(channel: OwnedFd) {
    let channel = UnixStream::from(channel);
    for line in BufReader::new(&channel).lines().map_while(Result::ok) {
        let said = std::fs::read_to_string(line).unwrap_or_else(|e| e.kind().to_string());
        let _ = writeln!(&channel, "{}", said.trim_end());
    }
}

fn answer(question: &str) -> String {
    let (what, number) = question.split_once('=').unwrap_or((question, "0"));
    let number: i64 = number.parse().unwrap();
    let result = match what {
        "socket" => call(
            libc::SYS_socket,
            [number, i64::from(libc::SOCK_SEQPACKET), 0],
        ),
        "unshare" => call(libc::SYS_unshare, [number, 0, 0]),
        "clone" => call(libc::SYS_clone, [number, 0, 0]),
        "clone3" => call(libc::SYS_clone3, [0, 0, 0]),
        "personality" => call(libc::SYS_personality, [number, 0, 0]),
        "call" => call(number, [0, 0, 0]),
        "x32" => call(number | 0x4000_0000, [0, 0, 0]),
        "i386" => call_i386(number, 0),
        "i386-socket" => call_i386(359, number),
        "nofile" => {
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: the struct lives across the call.
            unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
            return format!("{}/{}", limit.rlim_cur, limit.rlim_max);
        }
        "parent-death" => {
            let mut signal = 0;
            // SAFETY: the number lives across the call.
            unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
            i64::from(signal)
        }
        "ignored" => ignored(),
        other => panic!("{other}"),
    };
    if result < 0 {
        std::io::Error::from_raw_os_error(-result as i32)
            .kind()
            .to_string()
            .replace(' ', "-")
    } else {
        "ok".into()
    }
}

fn call(number: i64, args: [i64; 3]) -> i64 {
    // SAFETY: the calls asked for take numbers or null pointers, and fail rather than harm this short-lived process.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2]) };
    if result < 0 {
        -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap())
    } else {
        result
    }
}

#[cfg(target_arch = "x86_64")]
fn call_i386(number: i64, argument: i64) -> i64 {
    let result: i32;
    // SAFETY: the old way into the kernel, with numbers only; rbx cannot be named and is put back.
    unsafe {
        std::arch::asm!("xchg rbx, {argument}", "int 0x80", "xchg rbx, {argument}", argument = inout(reg) argument => _,
             inlateout("eax") number as i32 => result, in("ecx") 2, in("edx") 0, lateout("r8") _, lateout("r9") _,
             lateout("r10") _, lateout("r11") _);
    }
    i64::from(result)
}

#[cfg(not(target_arch = "x86_64"))]
fn call_i386(_: i64, _: i64) -> i64 {
    -i64::from(libc::ENOSYS)
}

/// How many signals are ignored or blocked.
fn ignored() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bits = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        u64::from_str_radix(line.split_ascii_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    // The Rust runtime of this probe has not run yet, so nothing is ignored but what was inherited.
    if bits("SigIgn:") | bits("SigBlk:") == 0 {
        0
    } else {
        -i64::from(libc::EINVAL)
    }
}
