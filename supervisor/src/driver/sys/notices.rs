//! The descriptor of a filter ([`super::filter`]): who waits, and letting it go on (seccomp_unotify(2)).
//!
//! Who was told of a call and is killed before it answers would leave the caller waiting for ever: nobody
//! else is told of it again. So the kernel writes what it tells into a page of memory that outlives us,
//! the [`Letter`]: whoever comes next finds there what may not have been answered.

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
};

use rustix::fs::{
    FlockOperation, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_lock, fstat, ftruncate,
    memfd_create,
};

/// Bytes of a letter: far more than what the kernel writes, however much that grows.
const PAGE: usize = 4096;
/// Numbers of 64 bits in an answer, likewise.
const ANSWER: usize = 32;

/// A page that we share with whoever serves the same descriptor after us.
#[derive(Debug)]
pub(crate) struct Letter {
    memory: OwnedFd,
    page: NonNull<libc::seccomp_notif>,
}

/// While it exists, no other process is told.
#[derive(Debug)]
pub(crate) struct Turn<'l>(&'l mut Letter);

/// Somebody who waits in listen(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) id: u64,
    /// The thread, as our namespace of pids knows it; 0 if it does not.
    pub(crate) thread: u32,
    /// What it passed for a socket.
    pub(crate) socket: i32,
}

// SAFETY: the page is shared memory that is written by the kernel, and read and written by us through
// `&mut` alone; it stays mapped as long as the letter lives.
unsafe impl Send for Letter {}

impl Letter {
    /// An empty one.
    pub(crate) fn create() -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create("doorbell-letter", flags)?;
        ftruncate(&memory, PAGE as u64)?;
        // Whoever else has it cannot cut it off below our feet.
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(memory)
    }

    /// Opens one.
    pub(crate) fn open(memory: OwnedFd) -> io::Result<Self> {
        if fstat(&memory)?.st_size < PAGE as i64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, nowhere in particular.
        let page = unsafe {
            libc::mmap(ptr::null_mut(), PAGE, access, libc::MAP_SHARED, memory.as_raw_fd(), 0)
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { memory, page })
    }

    /// Waits for nobody: `None` while it is another process's turn. Ends with the process at the latest
    /// (fcntl(2), `F_SETLK`).
    pub(crate) fn turn(&mut self) -> io::Result<Option<Turn<'_>>> {
        match fcntl_lock(&self.memory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Turn(self))),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&self) -> libc::seccomp_notif {
        // SAFETY: the page is mapped, aligned, and larger; any bytes are such a notice.
        unsafe { ptr::read_volatile(self.page.as_ptr()) }
    }

    fn clear(&mut self) {
        // SAFETY: as above, and nobody but the holder of the turn uses it.
        unsafe { ptr::write_bytes(self.page.as_ptr().cast::<u8>(), 0, PAGE) };
    }
}

impl AsFd for Letter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`, and not used any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE) };
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // It cannot fail for a lock that is held; and would end with us.
        let _ = fcntl_lock(&self.0.memory, FlockOperation::Unlock);
    }
}

/// Whether a descriptor is that of a filter.
pub(crate) fn is_of_filter(descriptor: BorrowedFd<'_>) -> bool {
    let nobody = 0_u64;
    let asked =
        ioctl(descriptor, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw const nobody).cast_mut());
    // Others know no such request.
    asked.is_ok() || asked.is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT))
}

/// Whether this one still waits, whom we were told of.
pub(crate) fn waits(filter: BorrowedFd<'_>, id: u64) -> bool {
    ioctl(filter, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw const id).cast_mut()).is_ok()
}

/// Who waits. Blocks if nobody does: to be asked only if the descriptor is readable, and in our turn.
/// `None` if the one who waited has gone.
pub(crate) fn receive(filter: BorrowedFd<'_>, turn: &mut Turn<'_>) -> io::Result<Option<Notice>> {
    let letter = &mut *turn.0;
    // The kernel insists on zeros.
    letter.clear();
    loop {
        match ioctl(filter, libc::SECCOMP_IOCTL_NOTIF_RECV, letter.page.as_ptr()) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let notice = letter.read();
    let socket = notice.data.args.first().copied().unwrap_or(u64::MAX);
    // The kernel, too, takes the lower half (listen(2) has an int).
    #[allow(clippy::cast_possible_truncation, reason = "as the kernel does")]
    let socket = socket as c_int;
    Ok(Some(Notice { id: notice.id, thread: notice.pid, socket }))
}

/// Lets go on who waits, as if there were no filter. Returns whether it still waited.
pub(crate) fn let_go_on(filter: BorrowedFd<'_>, id: u64) -> io::Result<bool> {
    let mut answer = [0_u64; ANSWER];
    let answer_at: *mut libc::seccomp_notif_resp = answer.as_mut_ptr().cast();
    // SAFETY: there is more room than the answer needs, and it is aligned.
    unsafe {
        (*answer_at).id = id;
        (*answer_at).flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    }
    match ioctl(filter, libc::SECCOMP_IOCTL_NOTIF_SEND, answer_at) {
        Ok(()) => Ok(true),
        // Gone, or answered already.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINPROGRESS)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Nobody waits any more for an answer of ours.
pub(crate) fn forget(turn: &mut Turn<'_>) {
    turn.0.clear();
}

/// Lets go on who was told to somebody before us that did not live to answer.
pub(crate) fn settle(filter: BorrowedFd<'_>, turn: &mut Turn<'_>) -> io::Result<()> {
    let letter = &mut *turn.0;
    let id = letter.read().id;
    if id != 0 {
        let_go_on(filter, id)?;
        letter.clear();
    }
    Ok(())
}

fn ioctl<T>(descriptor: BorrowedFd<'_>, request: libc::Ioctl, argument: *mut T) -> io::Result<()> {
    const { assert!(size_of::<T>() <= PAGE) };
    // SAFETY: each request that is made here comes with what it reads and writes.
    match unsafe { libc::ioctl(descriptor.as_raw_fd(), request, argument.cast::<c_void>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
