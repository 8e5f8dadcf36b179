//! Which system calls may be made: seccomp(2).
//!
//! A call that is refused fails like one without permission (`EPERM`), or, where it is so new that
//! programs must do without it, like one that the kernel does not have (`ENOSYS`): the C library then
//! takes the old way. Calls in the manner of another architecture end the process.

use std::{env::consts::ARCH, fmt, io};

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

use super::{Plan, SandboxError};

mod control;
mod proxy;

/// What is refused, and how.
struct Policy {
    /// Calls and the conditions on them; any of a call's rules is enough, no rules are no condition.
    calls: Vec<(libc::c_long, Vec<SeccompRule>)>,
    /// What the list is of.
    list: List,
    /// Calls from here on do not exist.
    absent_from: u32,
    /// But these do.
    present: &'static [libc::c_long],
}

#[derive(Clone, Copy)]
enum List {
    /// Nothing else is.
    Allowed,
    /// Everything else is allowed.
    Refused,
}

/// What seccomp(2) holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// Only so many different calls may be made, some of them only in part.
    Allows(usize),
    /// All but so many calls may be made.
    Refuses(usize),
    /// The kernel was made without.
    Missing,
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allows(count) => write!(f, "seccomp allows {count} calls"),
            Self::Refuses(count) => write!(f, "seccomp refuses {count} calls"),
            Self::Missing => f.write_str("no seccomp: the kernel has none"),
        }
    }
}

/// Applies the plan's filter to this thread and those it starts.
pub(super) fn filter(plan: &Plan) -> Result<Seccomp, SandboxError> {
    let policy = match plan {
        Plan::Proxy { .. } => proxy::policy()?,
        Plan::Control { .. } => control::policy(),
    };
    let held = policy.held();
    match seccompiler::apply_filter(&policy.program()?) {
        Ok(()) => Ok(held),
        Err(seccompiler::Error::Seccomp(error)) if is_missing(&error) => Ok(Seccomp::Missing),
        Err(error) => Err(error.into()),
    }
}

/// Without seccomp there is no such call, without its filters no such operation.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

impl Policy {
    fn held(&self) -> Seccomp {
        match self.list {
            List::Allowed => Seccomp::Allows(self.calls.len()),
            List::Refused => Seccomp::Refuses(self.calls.len()),
        }
    }

    fn program(self) -> Result<BpfProgram, BackendError> {
        let mut program = absent(self.absent_from, self.present);
        let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let (listed, others) = match self.list {
            List::Allowed => (SeccompAction::Allow, refuse),
            List::Refused => (refuse, SeccompAction::Allow),
        };
        let calls = self.calls.into_iter().collect();
        let filter = SeccompFilter::new(calls, others, listed, ARCH.try_into()?)?;
        let filter: BpfProgram = filter.try_into()?;
        program.extend(filter);
        Ok(program)
    }
}

/// The beginning of a program: calls from a number on do not exist, but for some. Such numbers are
/// the same on every architecture, so it may come before the check for ours.
fn absent(first: u32, present: &[libc::c_long]) -> BpfProgram {
    // Of `linux/bpf_common.h`: BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JGE | BPF_K,
    // BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K.
    const LOAD: u16 = 0x20;
    const IF_AT_LEAST: u16 = 0x35;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // Of the call's number, in `struct seccomp_data`.
    const NUMBER_AT: u32 = 0;

    let left = |done: usize| u8::try_from(present.len() - done).expect("a short list");
    let mut program = vec![sock_filter { code: LOAD, jt: 0, jf: 0, k: NUMBER_AT }];
    program.push(sock_filter { code: IF_AT_LEAST, jt: 0, jf: left(0) + 1, k: first });
    for (place, call) in present.iter().enumerate() {
        let call = u32::try_from(*call).expect("a number of a call");
        program.push(sock_filter { code: IF_EQUAL, jt: left(place), jf: 0, k: call });
    }
    let no_such_call = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    program.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: no_such_call });
    program
}

/// A rule of conditions, all of which must hold.
fn when<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// An argument, counted from 0, has a value. The kernel takes it for 32 bits.
fn is(argument: u8, value: u32) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(value);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// Of an argument's bits in the mask, just these are set.
fn bits(argument: u8, mask: i32, set: i32) -> Result<SeccompCondition, BackendError> {
    let [mask, set] = [mask, set].map(|bits| u64::from(bits.cast_unsigned()));
    let operator = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, set)
}
