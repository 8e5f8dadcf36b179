//! What the allocator does beside serving us.
//!
//! jemalloc could start its thread by itself, before `main`. But a process that confines itself
//! ([`crate::sandbox`]) must have one thread then, so the thread waits for our word.

/// Gives unused memory back to the system from a thread of its own, and not on the time of whoever
/// frees or allocates next.
pub fn purge_in_background() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!(%error, "unused memory is given back late: the allocator has no thread");
    }
}
