//! The bare system call instruction: no `errno`, no cancellation point, no thread state.
//!
//! Needed by code that runs between a `CLONE_VM` clone and `execve`, where the C library's thread state belongs to the
//! suspended parent.
#![expect(unsafe_code, reason = "the system call instruction is inline assembly")]

use std::arch::asm;

/// Makes a system call and returns the kernel's answer: a negative errno on failure.
///
/// # Safety
/// The call with these arguments must be sound: pointers must be valid for what the kernel does with them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn syscall(number: i64, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let ret: isize;
    // SAFETY: the kernel's calling convention; it clobbers rcx and r11 only. The caller vouches for the call itself.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => ret, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    ret
}

/// Makes a system call and returns the kernel's answer: a negative errno on failure.
///
/// # Safety
/// The call with these arguments must be sound: pointers must be valid for what the kernel does with them.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub unsafe fn syscall(number: i64, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let ret: isize;
    // SAFETY: the kernel's calling convention; it keeps all registers but x0. The caller vouches for the call itself.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => ret, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
             in("x5") f, options(nostack));
    }
    ret
}
