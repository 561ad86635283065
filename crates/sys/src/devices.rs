//! Which devices the members of a cgroup may use, on the unified hierarchy: a small program in the kernel.
#![expect(unsafe_code, reason = "`bpf(2)` has no safe wrapper")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// Allows the members of this cgroup, and of those below it, to use only character devices of these numbers (`None` is every
/// minor), and to make, but not open, nodes of all others. Holds as long as the cgroup exists.
///
/// # Errors
/// When the kernel lacks the means, or the caller the right.
pub fn restrict(cgroup: BorrowedFd<'_>, allowed: &[(u32, Option<u32>)]) -> io::Result<()> {
    let program = load(&compile(allowed))?;
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let attr = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the attribute is a live struct that begins as `union bpf_attr` does for BPF_PROG_ATTACH.
    unsafe { bpf(8, (&raw const attr).cast(), size_of::<Attach>()) }.map(drop)
}

/// One instruction: code, registers (source in the upper half), jump offset, immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The decision as a program: 1 allows, 0 denies.
fn compile(allowed: &[(u32, Option<u32>)]) -> Vec<Instruction> {
    let op = |code, registers, offset, immediate| Instruction {
        code,
        registers,
        offset,
        immediate,
    };
    let load = |to: u8, offset| op(0x61, 0x10 | to, offset, 0); // to = *(u32 *)(r1 + offset)
    let if_not = |register: u8, offset, value: u32| op(0x55, register, offset, value as i32);
    let answer = |value| [op(0xb7, 0, 0, value), op(0x95, 0, 0, 0)];
    // r2: kind, r3: access, r4: major, r5: minor
    let mut program = vec![
        load(2, 0),
        load(3, 0),
        op(0x57, 2, 0, 0xffff),
        op(0x77, 3, 0, 16),
        load(4, 4),
        load(5, 8),
    ];
    const MKNOD: u32 = 1;
    const CHARACTER: u32 = 2;
    program.push(if_not(3, 2, MKNOD));
    program.extend(answer(1));
    program.push(op(0x15, 2, 2, CHARACTER as i32));
    program.extend(answer(0));
    for (major, minor) in allowed {
        match minor {
            Some(minor) => program.extend([if_not(4, 3, *major), if_not(5, 2, *minor)]),
            None => program.push(if_not(4, 2, *major)),
        }
        program.extend(answer(1));
    }
    program.extend(answer(0));
    program
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
    }
    const CGROUP_DEVICE: u32 = 15;
    let attr = Load {
        kind: CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attribute and what it points to live across the call, and it begins as `union bpf_attr` for BPF_PROG_LOAD.
    let fd = unsafe { bpf(5, (&raw const attr).cast(), size_of::<Load>()) }?;
    // SAFETY: the kernel returned a new descriptor, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attr` must be readable for `size` bytes and sound for `command`.
unsafe fn bpf(command: i32, attr: *const libc::c_void, size: usize) -> io::Result<RawFd> {
    // SAFETY: the caller's promise.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret as RawFd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's side: runs the program on one access.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [(access << 16) | kind, major, minor];
        let mut registers = [0_u64; 6];
        let mut at = 0;
        loop {
            let i = program[at];
            at += 1;
            let to = usize::from(i.registers & 0xf);
            let immediate = i.immediate as u64;
            match i.code {
                0x61 => registers[to] = u64::from(context[i.offset as usize / 4]),
                0x57 => registers[to] &= immediate,
                0x77 => registers[to] >>= immediate,
                0x55 if registers[to] != immediate => at += i.offset as usize,
                0x15 if registers[to] == immediate => at += i.offset as usize,
                0x55 | 0x15 => {}
                0xb7 => registers[to] = immediate,
                0x95 => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn only_the_listed_devices_can_be_opened_but_all_can_be_made() {
        let program = compile(&[(1, Some(3)), (136, None)]);
        let (block, character, mknod, read) = (1, 2, 1, 2);
        assert!(run(&program, character, read, 1, 3));
        assert!(run(&program, character, read, 136, 77));
        assert!(run(&program, block, mknod, 8, 0));
        assert!(!run(&program, block, mknod | read, 8, 0));
        assert!(!run(&program, character, read, 1, 1));
        assert!(!run(&program, block, read, 1, 3));
    }
}
