//! clone3(2) into a control group, which the C library has no function for.

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{AsRawFd, OwnedFd},
};

/// Where a child begins.
type Begin = extern "C" fn(*mut c_void) -> c_int;

/// Makes a child that borrows our memory until it executes, in this group of version 2 and without handlers of
/// signals. Returns when it has executed or exited.
///
/// # Safety
/// `begin` executes or exits, and touches nothing of ours but `argument`, which nobody else uses until
/// then. All signals are blocked.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn clone(
    group: &OwnedFd,
    stack: &mut [u128],
    begin: Begin,
    argument: *mut c_void,
) -> io::Result<c_int> {
    /// `struct clone_args`, linux/sched.h, as of Linux 5.7.
    #[derive(Default)]
    #[repr(C)]
    struct Arguments {
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
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

    let number = |number: c_int| u64::try_from(number).unwrap_or_default();
    let arguments = Arguments {
        flags: number(libc::CLONE_VM | libc::CLONE_VFORK) | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP,
        exit_signal: number(libc::SIGCHLD),
        stack: stack.as_mut_ptr().addr() as u64,
        stack_size: size_of_val(stack) as u64,
        cgroup: number(group.as_raw_fd()),
        ..Arguments::default()
    };
    let mut outcome: i64 = libc::SYS_clone3;
    // SAFETY: the kernel reads `arguments`, which are complete. The parent goes on behind the call with
    // what the operands say is changed. The child goes on there too, on the stack it was given, which
    // is empty and aligned: it calls `begin` as the System V ABI asks for, and never comes back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") outcome,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<Arguments>(),
            in("r12") begin,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    let failed = |outcome: i64| i32::try_from(-outcome).unwrap_or(libc::EINVAL);
    match c_int::try_from(outcome) {
        Ok(pid) if pid > 0 => Ok(pid),
        Ok(_) | Err(_) => Err(io::Error::from_raw_os_error(failed(outcome))),
    }
}

/// On other machines the child enters by itself.
///
/// # Safety
/// Does nothing.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn clone(
    _group: &OwnedFd,
    _stack: &mut [u128],
    _begin: Begin,
    _argument: *mut c_void,
) -> io::Result<c_int> {
    Err(io::ErrorKind::Unsupported.into())
}
