//! A program's start: what the child does from its making until it executes.
//!
//! It borrows our memory until then (clone(2) with `CLONE_VM | CLONE_VFORK`), as posix_spawn(3) does, so
//! that nothing is copied however large we are. Everything is complete before it begins: there, nothing
//! may be allocated. posix_spawn itself cannot say `LISTEN_PID`, which `sd_listen_fds(3)` wants to be the
//! child's own pid, nor enter control groups, nor install filters.

use std::{
    ffi::{CString, c_char, c_int, c_uint, c_void},
    fs::File,
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
};

use super::{
    LISTEN_FDS_START, c_string, clone_into, filter, keep_descriptors,
    mounts::{self, Mount},
    signals::forget_handlers,
};
use crate::driver::{
    advance::Advance,
    cgroup::Entrance,
    launch::Launch,
    procfs::Pid,
    rank::{NICER, Rank},
};

/// Room for any pid.
const LISTEN_PID: &[u8] = b"LISTEN_PID=0000000000";
const DIGITS_AT: usize = 11;
/// Stack of the child until it executes: far more than its few calls need.
const STACK: usize = 64 * 1024;

/// What the program inherits from us.
pub(in crate::driver) struct Legacy {
    /// Standard output and standard error.
    pub(in crate::driver) output: OwnedFd,
    /// Becomes descriptor 3, in the way of `sd_listen_fds(3)`.
    pub(in crate::driver) listener: Option<OwnedFd>,
    /// Limits of its own, setrlimit(2).
    pub(in crate::driver) limits: Vec<Limit>,
    /// What is mounted for it otherwise than for us, if anything.
    pub(in crate::driver) mounts: Vec<Mount>,
    /// What keeps it from changing files, landlock(7). It takes `no_new_privs`.
    pub(in crate::driver) wall: Option<OwnedFd>,
    /// Control groups that it is to be in.
    pub(in crate::driver) groups: Entrance,
    /// What puts it behind us where the processor is short.
    pub(in crate::driver) rank: Rank,
    /// Whom it becomes, if not who we are.
    pub(in crate::driver) user: Option<User>,
    /// Whether it can gain no privileges.
    pub(in crate::driver) no_new_privs: bool,
    /// If there is to be a filter that tells of listen(2).
    pub(in crate::driver) ear: Option<Ear>,
}

/// Where the descriptor of a filter is sent to.
pub(in crate::driver) struct Ear {
    /// To us.
    pub(in crate::driver) socket: OwnedFd,
    /// What goes with it to whoever keeps it besides us.
    pub(in crate::driver) letter: OwnedFd,
    pub(in crate::driver) advance: Advance,
}

/// A program that was started.
#[derive(Debug)]
pub(in crate::driver) struct Started {
    pub(in crate::driver) pid: Pid,
    /// Why there is no filter, if there was to be one.
    pub(in crate::driver) deaf: Option<io::Error>,
}

/// One limit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) struct Limit {
    pub(in crate::driver) resource: c_uint,
    pub(in crate::driver) soft: u64,
    /// What it cannot be raised beyond; `None` leaves it.
    pub(in crate::driver) hard: Option<u64>,
}

/// A user and all groups it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::driver) struct User {
    pub(in crate::driver) user: u32,
    pub(in crate::driver) group: u32,
    pub(in crate::driver) groups: Vec<u32>,
}

/// What a child is about when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Groups,
    Mounts,
    Descriptors,
    Limits,
    User,
    Directory,
    Wall,
    Execute,
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Self::Groups => "cannot enter its control group",
            Self::Mounts => "cannot have mounts of its own",
            Self::Descriptors => "cannot take its descriptors",
            Self::Limits => "cannot be limited",
            Self::User => "cannot become its user",
            Self::Directory => "cannot enter its folder",
            Self::Wall => "cannot be kept from changing what is read-only",
            Self::Execute => "cannot be executed",
        }
    }
}

/// What is executed in the child, complete before it begins: there, nothing may be allocated.
struct Image {
    program: CString,
    directory: CString,
    _arguments: Vec<CString>,
    _variables: Vec<CString>,
    listen_pid: Vec<u8>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    input: File,
    legacy: Legacy,
    /// Doors of control groups that the kernel has put it through already.
    doors_passed: usize,
    /// Whether it has left handlers of signals behind.
    has_no_handlers: bool,
    step: Step,
    /// Why the program was not executed, errno(3); 0 if it was.
    error: c_int,
    /// Why there is no filter, likewise.
    deaf: c_int,
}

/// Starts the program in a session of its own, with standard input from nowhere and no
/// descriptor of ours but those of `legacy`. Returns when it is executed, or failed to be.
pub(in crate::driver) fn spawn(launch: &Launch, legacy: Legacy) -> io::Result<Started> {
    let mut image = Image::build(launch, legacy)?;
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let image_at: *mut Image = &raw mut image;
    // SAFETY: the child runs `begin` on a stack of its own, which grows down from its aligned end,
    // and touches nothing of ours but `image`. `CLONE_VFORK` stops this thread until the child has
    // executed or exited, so that both outlive its use. All signals are blocked meanwhile, so that
    // none of our handlers runs in the child. The mask is restored to what it was.
    let pid = unsafe {
        let (mut all, mut before) = (mem::zeroed(), mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let pid = clone(&mut stack, image_at);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        pid?
    };
    // SAFETY: `image` is alive. The child wrote through the pointer, unseen by the compiler.
    let (error, step, deaf) = unsafe {
        let image = image_at.cast_const();
        (
            ptr::read_volatile(&raw const (*image).error),
            ptr::read_volatile(&raw const (*image).step),
            ptr::read_volatile(&raw const (*image).deaf),
        )
    };
    if error == 0 {
        let deaf = (deaf != 0).then(|| io::Error::from_raw_os_error(deaf));
        return Ok(Started { pid: Pid::try_from(pid).map_err(io::Error::other)?, deaf });
    }
    // SAFETY: waitpid takes a null status. The child is ours, and nobody else knows of it.
    unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
    let error = io::Error::from_raw_os_error(error);
    Err(io::Error::new(error.kind(), format!("{}: {error}", step.words())))
}

/// Makes the child: in its control group of version 2 at once, where the kernel can do that, as entering
/// one takes milliseconds now and then.
///
/// # Safety
/// As in [`spawn`], whose part this is.
unsafe fn clone(stack: &mut [u128], image: *mut Image) -> io::Result<c_int> {
    // SAFETY: by the caller.
    unsafe {
        if let Some(folder) = &(*image).legacy.groups.folder {
            ((*image).doors_passed, (*image).has_no_handlers) = (1, true);
            match clone_into::clone(folder, stack, begin, image.cast()) {
                Ok(pid) => return Ok(pid),
                // An old kernel, or a filter around us that does not know the call. If the group is to
                // blame, its door says so.
                Err(_) => ((*image).doors_passed, (*image).has_no_handlers) = (0, false),
            }
        }
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        let pid = libc::clone(begin, top, flags, image.cast::<c_void>());
        if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
    }
}

/// Where the child begins.
extern "C" fn begin(image: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes an `Image` that nobody else uses until we have executed or exited.
    // _exit runs none of our exit handlers.
    unsafe {
        let image = image.cast::<Image>();
        (*image).error = (*image).execute();
        libc::_exit(127)
    }
}

impl Image {
    fn build(launch: &Launch, legacy: Legacy) -> io::Result<Self> {
        let arguments = launch
            .arguments
            .iter()
            .map(|argument| c_string(argument))
            .collect::<Result<Vec<_>, _>>()?;
        let variables = launch
            .environment
            .iter()
            .map(|(name, value)| {
                let mut entry = name.clone();
                entry.push("=");
                entry.push(value);
                c_string(&entry)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut listen_pid = LISTEN_PID.to_vec();
        listen_pid.push(0);
        let end = [ptr::null()];
        // The first place is for `listen_pid`, where a listener is handed over.
        let first = legacy.listener.as_ref().map(|_| ptr::null());
        let variables_at = variables.iter().map(|v| v.as_ptr());
        Ok(Self {
            program: c_string(launch.program.as_os_str())?,
            directory: c_string(launch.directory.as_os_str())?,
            argv: arguments.iter().map(|a| a.as_ptr()).chain(end).collect(),
            envp: first.into_iter().chain(variables_at).chain(end).collect(),
            _arguments: arguments,
            _variables: variables,
            listen_pid,
            input: File::open("/dev/null")?,
            legacy,
            doors_passed: 0,
            has_no_handlers: false,
            step: Step::Groups,
            error: 0,
            deaf: 0,
        })
    }

    /// Becomes the program; returns only if that fails, and says why. Called in the child: only
    /// async-signal-safe functions (signal-safety(7)), no allocation, no panic.
    fn execute(&mut self) -> c_int {
        if self.legacy.listener.is_some() {
            self.write_pid(std::process::id());
            if let Some(first) = self.envp.first_mut() {
                *first = self.listen_pid.as_ptr().cast();
            }
        }
        // SAFETY: the descriptors are open, the paths NUL-terminated, both arrays null-terminated
        // arrays of such strings, all alive as long as `self`. What is changed is the child's own:
        // it shares our memory, but neither handlers nor descriptors nor limits.
        unsafe {
            if self.has_no_handlers {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            } else {
                forget_handlers();
            }
            // What we were started with ourselves is no business of an app's.
            keep_descriptors();
            // A session of its own, and so a group: no app shares one with another, or with us.
            if libc::setsid() >= 0
                && self.step_back()
                && self.be_dispensable()
                && self.enter_groups()
                && self.at(Step::Mounts)
                && mounts::enter(&self.legacy.mounts)
                && self.at(Step::Descriptors)
                && self.take_descriptors()
                && self.give_up_privileges()
                // Before the limits, which may leave no room for its descriptor, and the rights to it.
                && self.offer_ear()
                && self.at(Step::Limits)
                && self.take_limits()
                && self.at(Step::User)
                && self.take_user()
                // Where its user may go.
                && self.at(Step::Directory)
                && libc::chdir(self.directory.as_ptr()) == 0
                && self.at(Step::Wall)
                && self.go_behind_wall()
                && self.at(Step::Execute)
            {
                let mut none = mem::zeroed();
                libc::sigemptyset(&raw mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
                libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
            }
            *libc::__errno_location()
        }
    }

    /// # Safety
    /// Changes the calling process's standard descriptors, and the third.
    unsafe fn take_descriptors(&self) -> bool {
        let output = self.legacy.output.as_raw_fd();
        let pairs = [(self.input.as_raw_fd(), 0), (output, 1), (output, 2)];
        let listener = self.legacy.listener.as_ref().map(|fd| (fd.as_raw_fd(), LISTEN_FDS_START));
        pairs.into_iter().chain(listener).all(|(from, to)| {
            // SAFETY: both are descriptors. dup2 clears close-on-exec on the new one, but does
            // nothing for equal ones, hence fcntl.
            unsafe {
                if from == to {
                    libc::fcntl(from, libc::F_SETFD, 0) >= 0
                } else {
                    libc::dup2(from, to) >= 0
                }
            }
        })
    }

    /// Says what comes next, for whoever reads why it failed.
    fn at(&mut self, step: Step) -> bool {
        self.step = step;
        true
    }

    /// # Safety
    /// For the calling process and its descendants, for ever.
    unsafe fn give_up_privileges(&self) -> bool {
        // What we may do beside being who we are is not for apps, capabilities(7). A kernel that refuses
        // (before 4.3) knows of none that would be passed on.
        // SAFETY: numbers alone.
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
        // SAFETY: as above.
        !self.legacy.no_new_privs
            || unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0
    }

    /// Has the kernel tell of listen(2) where it can; where it cannot, the start goes on without.
    ///
    /// # Safety
    /// As for [`filter::install`].
    unsafe fn offer_ear(&mut self) -> bool {
        let Some(Ear { socket, letter, advance }) = &self.legacy.ear else { return true };
        // SAFETY: whoever gets the descriptor keeps it.
        match unsafe { filter::install() } {
            Ok(descriptor) => {
                if let Some(keeper) = &advance.socket {
                    // Where that is full or gone, it is told later.
                    filter::send(keeper, &advance.words, &[descriptor, letter.as_raw_fd()]);
                }
                filter::send(socket, b".", &[descriptor])
            }
            Err(error) => {
                self.deaf = error;
                true
            }
        }
    }

    /// Goes behind us, where no group sees to it. Where the kernel refuses (it takes ten sessions a second
    /// from those who are not root), the app is one among others.
    ///
    /// # Safety
    /// Changes the niceness of the calling process, or of its session.
    unsafe fn step_back(&self) -> bool {
        // SAFETY: a path that ends with NUL, a descriptor that is open and a buffer on the stack.
        unsafe {
            match self.legacy.rank {
                Rank::Group => {}
                Rank::Session => {
                    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
                    let file = libc::open(c"/proc/self/autogroup".as_ptr(), flags);
                    let digits = [b'0' + NICER / 10, b'0' + NICER % 10];
                    if file >= 0 {
                        libc::write(file, digits.as_ptr().cast(), digits.len());
                        libc::close(file);
                    }
                }
                Rank::Process => _ = libc::nice(NICER.into()),
            }
        }
        true
    }

    /// Where we are spared when memory is short (proc(5), `oom_score_adj`), apps are not.
    ///
    /// # Safety
    /// Changes what the kernel thinks of the calling process.
    unsafe fn be_dispensable(&self) -> bool {
        let path = c"/proc/self/oom_score_adj".as_ptr();
        let mut first = 0_u8;
        // SAFETY: a path that ends with NUL, a descriptor that is open, and a byte on the stack.
        unsafe {
            let file = libc::open(path, libc::O_RDWR | libc::O_CLOEXEC);
            if file >= 0 {
                if libc::read(file, (&raw mut first).cast(), 1) == 1 && first == b'-' {
                    libc::pwrite(file, c"0".as_ptr().cast(), 1, 0);
                }
                libc::close(file);
            }
        }
        true
    }

    /// # Safety
    /// Moves the calling process.
    unsafe fn enter_groups(&self) -> bool {
        let doors = self.legacy.groups.doors.iter().skip(self.doors_passed);
        // Zero is who writes, cgroups(7).
        doors.into_iter().all(|door| {
            // SAFETY: a descriptor that is open, and one byte of a constant.
            unsafe { libc::write(door.as_raw_fd(), c"0".as_ptr().cast(), 1) == 1 }
        })
    }

    /// # Safety
    /// Changes the calling process's limits.
    unsafe fn take_limits(&self) -> bool {
        self.legacy.limits.iter().all(|own| {
            // SAFETY: both calls take a pointer to a limit on the stack.
            unsafe {
                let mut limit: libc::rlimit = mem::zeroed();
                if libc::getrlimit(own.resource, &raw mut limit) != 0 {
                    return false;
                }
                limit.rlim_max = own.hard.map_or(limit.rlim_max, |hard| hard.min(limit.rlim_max));
                limit.rlim_cur = own.soft.min(limit.rlim_max);
                libc::setrlimit(own.resource, &raw const limit) == 0
            }
        })
    }

    /// # Safety
    /// Changes whom the calling process acts for. The system calls are made directly: those of the C
    /// library change all threads of a process, and would take ours for the child's.
    unsafe fn take_user(&self) -> bool {
        let Some(User { user, group, groups }) = &self.legacy.user else { return true };
        // SAFETY: an array of as many groups as said.
        unsafe {
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0
                && libc::syscall(libc::SYS_setresgid, *group, *group, *group) == 0
                && libc::syscall(libc::SYS_setresuid, *user, *user, *user) == 0
        }
    }

    /// # Safety
    /// For the calling process and its descendants, for ever.
    unsafe fn go_behind_wall(&self) -> bool {
        // SAFETY: a descriptor that is open, and a number.
        self.legacy.wall.as_ref().is_none_or(|wall| unsafe {
            libc::syscall(libc::SYS_landlock_restrict_self, wall.as_raw_fd(), 0) == 0
        })
    }

    /// `sd_listen_fds(3)` parses with leading zeros forbidden by nobody but some imitators, so the
    /// digits stand left and the string ends after them.
    fn write_pid(&mut self, pid: u32) {
        let mut digits = [0_u8; 10];
        let mut left = pid;
        let mut count = 0;
        loop {
            // A remainder of ten is a digit.
            digits[count] = b'0' + u8::try_from(left % 10).unwrap_or(0);
            count += 1;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        for (place, digit) in digits[..count].iter().rev().enumerate() {
            self.listen_pid[DIGITS_AT + place] = *digit;
        }
        self.listen_pid[DIGITS_AT + count] = 0;
    }
}
