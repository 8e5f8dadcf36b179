//! The filter by which the kernel tells of listen(2), and of nothing else: seccomp(2).
//!
//! It lets every call pass, and has one thread wait that calls listen until whoever holds the filter's
//! descriptor lets it go on. Calls in the manner of another architecture (i386, x32) pass unseen, as do
//! those by io_uring: who waits for them has to look. The kernel remembers which calls always pass, so
//! that they cost next to nothing.

use std::{
    ffi::c_int,
    mem,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
};

// Of `linux/bpf_common.h`: BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
// Of `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// `AUDIT_ARCH_*` of `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_00B7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

/// Room for descriptors in a message, cmsg(3), aligned as its head, and their number.
type Control = [u64; 4];
const MOST: usize = 2;

/// For a program whose calls are of an architecture. The number of x32's listen has a bit that ours has
/// not.
const fn program(architecture: u32) -> [libc::sock_filter; 6] {
    const fn step(code: u16, otherwise: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code, jt: 0, jf: otherwise, k }
    }
    [
        step(LOAD, 0, ARCHITECTURE_AT),
        step(IF_EQUAL, 3, architecture),
        step(LOAD, 0, NUMBER_AT),
        step(IF_EQUAL, 1, libc::SYS_listen as u32),
        step(RETURN, 0, libc::SECCOMP_RET_USER_NOTIF),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Whether the kernel knows such filters.
pub(in crate::driver) fn can_notify() -> bool {
    let (operation, action) = (libc::SECCOMP_GET_ACTION_AVAIL, libc::SECCOMP_RET_USER_NOTIF);
    // SAFETY: the action is on the stack, and read alone.
    let known = unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const action) == 0 };
    known && ARCHITECTURE.is_some()
}

/// Installs the filter for the calling process and its descendants, for ever. Gives its descriptor, or
/// errno(3). Async-signal-safe.
///
/// # Safety
/// Once nobody has the descriptor any more, listen(2) fails in the process.
pub(super) unsafe fn install() -> Result<c_int, c_int> {
    let Some(architecture) = ARCHITECTURE else { return Err(libc::ENOSYS) };
    let mut steps = program(architecture);
    let program = libc::sock_fprog { len: 6, filter: steps.as_mut_ptr() };
    // Without SPEC_ALLOW, kernels before 5.16 slow the program down.
    let least = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // Since 5.19: a signal does not disturb a call that we are about to answer.
    let most = least | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    for flags in [most, least] {
        // SAFETY: the program is on the stack, and the kernel copies it.
        let descriptor = unsafe {
            let operation = libc::SECCOMP_SET_MODE_FILTER;
            libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program)
        };
        if descriptor >= 0 {
            return c_int::try_from(descriptor).map_err(|_| libc::EBADF);
        }
        // SAFETY: of this thread.
        let error = unsafe { *libc::__errno_location() };
        if error != libc::EINVAL {
            return Err(error);
        }
    }
    Err(libc::EINVAL)
}

/// Sends words and at most two descriptors, unix(7), if there is room. Async-signal-safe.
pub(super) fn send(socket: &OwnedFd, words: &[u8], descriptors: &[c_int]) -> bool {
    let mut control: Control = [0; 4];
    let mut part = libc::iovec { iov_base: words.as_ptr().cast_mut().cast(), iov_len: words.len() };
    let count = descriptors.len().min(MOST);
    // SAFETY: the message and its control data are on the stack, its one part is alive and only read. The
    // control data has room for a head and two descriptors, and is aligned.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        let length = (count * size_of::<c_int>()) as u32;
        message.msg_controllen = libc::CMSG_SPACE(length) as _;
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        (*head).cmsg_level = libc::SOL_SOCKET;
        (*head).cmsg_type = libc::SCM_RIGHTS;
        (*head).cmsg_len = libc::CMSG_LEN(length) as _;
        let place = libc::CMSG_DATA(head).cast::<c_int>();
        ptr::copy_nonoverlapping(descriptors.as_ptr(), place, count);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86_64: u32 = 0xC000_003E;
    const I386: u32 = 0x4000_0003;

    /// What the program says of a call, as the kernel would run it.
    fn verdict(architecture: u32, number: u32) -> u32 {
        let steps = program(X86_64);
        let (mut at, mut value) = (0, 0);
        loop {
            let step = steps[at];
            at += 1;
            match step.code {
                LOAD if step.k == NUMBER_AT => value = number,
                LOAD => value = architecture,
                IF_EQUAL if value == step.k => at += usize::from(step.jt),
                IF_EQUAL => at += usize::from(step.jf),
                RETURN => return step.k,
                code => panic!("no such step: {code}"),
            }
        }
    }

    #[test]
    fn only_listen_is_told_of() {
        let listen = u32::try_from(libc::SYS_listen).unwrap();
        assert_eq!(verdict(X86_64, listen), libc::SECCOMP_RET_USER_NOTIF);
        for number in (0..1000).filter(|number| *number != listen) {
            assert_eq!(verdict(X86_64, number), libc::SECCOMP_RET_ALLOW);
        }
        // x32, and another architecture where the number means something else.
        assert_eq!(verdict(X86_64, listen | 0x4000_0000), libc::SECCOMP_RET_ALLOW);
        assert_eq!(verdict(I386, listen), libc::SECCOMP_RET_ALLOW);
    }
}
