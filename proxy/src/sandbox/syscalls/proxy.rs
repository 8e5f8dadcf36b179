//! The calls of the role that faces the internet, and no others.
//!
//! Found by looking on while it ran, and then by thought: older and newer C libraries, the other
//! architecture, the modules that resolve names. Nothing here makes a process, a listening socket, a
//! file, or writable memory executable.

use libc::{c_int, c_long};
use seccompiler::{BackendError, SeccompRule};

use super::{List, Policy, bits, is, when};

/// From `pidfd_send_signal` on, numbers are the same on every architecture, and the C library has an
/// older way for everything (clone for clone3, say).
const ABSENT_FROM: u32 = 424;

const PRESENT: &[c_long] = &[libc::SYS_faccessat2, libc::SYS_epoll_pwait2, libc::SYS_futex_waitv];

const MEMORY: &[c_long] = &[libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise];

const DESCRIPTORS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
];

/// Looking at files; what may be looked into is another matter.
const FILES: &[c_long] = &[
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
];

/// bind is for the netlink socket of getaddrinfo(3). Nobody connects to what it binds, as listen is
/// missing; TCP ports are shut by landlock besides.
const SOCKETS: &[c_long] = &[
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
];

const THREADS: &[c_long] = &[
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
];

const TIME: &[c_long] = &[
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
];

/// Who and where we are.
const FACTS: &[c_long] = &[
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Calls that younger architectures have only in a newer form.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// Of a clone(2): a thread, in the same namespaces.
const CLONE_KINDS: c_int = libc::CLONE_THREAD
    | libc::CLONE_VFORK
    | libc::CLONE_PTRACE
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// What sockets may be made to do: nothing that a listening socket, which outlives us, would keep, such
/// as a filter (SO_ATTACH_FILTER), an interface, or a shorter way (IP_TTL).
const OPTIONS: [(c_int, &[c_int]); 4] = [
    (
        libc::SOL_SOCKET,
        &[
            libc::SO_KEEPALIVE,
            libc::SO_REUSEADDR,
            libc::SO_LINGER,
            libc::SO_RCVBUF,
            libc::SO_SNDBUF,
            libc::SO_RCVTIMEO,
            libc::SO_SNDTIMEO,
        ],
    ),
    (
        libc::IPPROTO_TCP,
        &[
            libc::TCP_NODELAY,
            libc::TCP_KEEPIDLE,
            libc::TCP_KEEPINTVL,
            libc::TCP_KEEPCNT,
            libc::TCP_USER_TIMEOUT,
            libc::TCP_QUICKACK,
            libc::TCP_FASTOPEN_CONNECT,
        ],
    ),
    // Of name resolution.
    (libc::IPPROTO_IP, &[libc::IP_RECVERR, libc::IP_MTU_DISCOVER, libc::IP_BIND_ADDRESS_NO_PORT]),
    (libc::IPPROTO_IPV6, &[libc::IPV6_RECVERR, libc::IPV6_MTU_DISCOVER]),
];

/// Any protocol, TCP, UDP.
const PROTOCOLS: [c_int; 3] = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];

/// Of a socket's type; the other bits are flags.
const SOCKET_TYPES: c_int = 0xf;

/// Of `linux/sockios.h`: which interface a scoped address means.
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFINDEX: u32 = 0x8933;
/// Of `asm-generic/ioctls.h`: isatty(3).
const TCGETS: u32 = 0x5401;
const TCGETS2: u32 = 0x802c_542a;
const TIOCGWINSZ: u32 = 0x5413;
const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const IOCTLS: [u32; 9] =
    [SIOCGIFNAME, SIOCGIFINDEX, TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX];

/// Without `F_SETFL`: a log that was opened for appending stays so.
const FCNTLS: [c_int; 5] =
    [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_DUPFD, libc::F_DUPFD_CLOEXEC];

/// Of `linux/prctl.h`: what memory is for, as seen in /proc.
const PR_SET_VMA: c_int = 0x5356_4d41;
const PRCTLS: [c_int; 3] = [libc::PR_SET_NAME, libc::PR_GET_NAME, PR_SET_VMA];

pub(super) fn policy() -> Result<Policy, BackendError> {
    let free = [MEMORY, DESCRIPTORS, FILES, SOCKETS, THREADS, TIME, FACTS, OLDER];
    let free = free.into_iter().flatten().map(|call| (*call, Vec::new()));
    let mut calls: Vec<_> = free.collect();
    calls.extend([
        (libc::SYS_clone, vec![when([bits(0, CLONE_KINDS, libc::CLONE_THREAD)])?]),
        (libc::SYS_mmap, memory()?),
        (libc::SYS_mprotect, vec![when([bits(2, libc::PROT_EXEC, 0)])?]),
        (libc::SYS_openat, vec![reading()?]),
        (libc::SYS_socket, sockets()?),
        (libc::SYS_setsockopt, options()?),
        (libc::SYS_socketpair, vec![when([is(0, libc::AF_UNIX.cast_unsigned())])?]),
        (libc::SYS_tgkill, vec![when([is(0, std::process::id())])?]),
        // Only our own limits.
        (libc::SYS_prlimit64, vec![when([is(0, 0)])?]),
        (libc::SYS_ioctl, one_of(1, &IOCTLS)?),
        (libc::SYS_fcntl, one_of(1, &FCNTLS.map(c_int::cast_unsigned))?),
        (libc::SYS_prctl, one_of(0, &PRCTLS.map(c_int::cast_unsigned))?),
    ]);
    Ok(Policy { calls, list: List::Allowed, absent_from: ABSENT_FROM, present: PRESENT })
}

/// Plain memory and files; a library's code, from its file and not to be changed.
fn memory() -> Result<Vec<SeccompRule>, BackendError> {
    let from_file = bits(3, libc::MAP_ANONYMOUS, 0);
    let code = bits(2, libc::PROT_EXEC | libc::PROT_WRITE, libc::PROT_EXEC);
    Ok(vec![when([bits(2, libc::PROT_EXEC, 0)])?, when([code, from_file])?])
}

/// Also where landlock is missing: nothing is opened for writing, or made.
fn reading() -> Result<SeccompRule, BackendError> {
    when([bits(2, libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC, 0)])
}

fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let family = |family: c_int| is(0, family.cast_unsigned());
    let mut rules = vec![
        when([family(libc::AF_UNIX)])?,
        when([family(libc::AF_NETLINK), is(2, libc::NETLINK_ROUTE.cast_unsigned())])?,
    ];
    for internet in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            for protocol in PROTOCOLS {
                let protocol = is(2, protocol.cast_unsigned());
                rules.push(when([family(internet), bits(1, SOCKET_TYPES, kind), protocol])?);
            }
        }
    }
    Ok(rules)
}

fn options() -> Result<Vec<SeccompRule>, BackendError> {
    let pairs =
        OPTIONS.iter().flat_map(|(level, names)| names.iter().map(move |name| (level, name)));
    pairs
        .map(|(level, name)| when([is(1, level.cast_unsigned()), is(2, name.cast_unsigned())]))
        .collect()
}

fn one_of(argument: u8, values: &[u32]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| when([is(argument, *value)])).collect()
}
