//! What the process may do because of who it is: capabilities(7), and who may look into it.

use std::{fmt, io};

use rustix::{
    io::Errno,
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

use super::SandboxError;

/// Whether capabilities are gone that executing a file could have given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundingSet {
    /// The process was privileged, and emptied it.
    Emptied,
    /// The process was not privileged, so that the kernel did not let it. No new privileges are
    /// given either way (`PR_SET_NO_NEW_PRIVS`).
    Kept,
}

impl fmt::Display for BoundingSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Emptied => "bounding set empty",
            Self::Kept => "bounding set kept, out of reach",
        })
    }
}

/// Makes what is given up final, and us opaque to other processes of the same user: no ptrace(2), no
/// memory through /proc, no core file.
pub(super) fn lock() -> Result<(), SandboxError> {
    set_no_new_privs(true).map_err(failed("gaining privileges"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("being looked into"))
}

/// Empties every set of capabilities.
pub(super) fn drop_capabilities() -> Result<BoundingSet, SandboxError> {
    clear_ambient_capability_set().map_err(failed("ambient capabilities"))?;
    let bounding_set = empty_bounding_set().map_err(failed("the bounding set"))?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).map_err(failed("capabilities"))?;
    Ok(bounding_set)
}

/// One by one, those included that we have no name for, until the kernel knows no more.
fn empty_bounding_set() -> Result<BoundingSet, Errno> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(Errno::PERM) => return Ok(BoundingSet::Kept),
            Err(error) => return Err(error),
        }
    }
    Ok(BoundingSet::Emptied)
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> SandboxError {
    move |error| SandboxError::Privilege { what, source: io::Error::from(error) }
}
