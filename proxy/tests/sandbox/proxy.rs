//! The role that faces the internet, from both sides.

use std::{
    env, fs,
    io::{IoSlice, Read, Write},
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use doorbell_proxy::sandbox::{Landlock, Plan, Seccomp, confine};
use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::{Pid, Signal, kill_process},
};

use crate::{Outcome, Report, forbidden, needed, say, starter};

/// Names the folder that the test made.
pub(crate) const FOLDER: &str = "DOORBELL_SANDBOX_FOLDER";
/// Port of a server.
pub(crate) const PORT: &str = "DOORBELL_SANDBOX_PORT";
/// What is known before confinement, and should be afterwards.
pub(crate) const PROCESSORS: &str = "DOORBELL_SANDBOX_PROCESSORS";
pub(crate) const CERTIFICATES: &str = "DOORBELL_SANDBOX_CERTIFICATES";
/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Of the parent: surroundings for the child, and a look at it from outside.
pub(crate) fn test(name: &str) -> Outcome {
    let folder = tempfile::tempdir()?;
    let (child_is_given, log) = (folder.path().join("granted"), folder.path().join("log"));
    fs::create_dir(&child_is_given)?;
    fs::write(child_is_given.join("page"), "sorry")?;
    fs::write(folder.path().join("secret"), "secret")?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let variables = [
        (FOLDER, folder.path().display().to_string()),
        (PORT, server.local_addr()?.port().to_string()),
        (PROCESSORS, thread::available_parallelism()?.to_string()),
        (CERTIFICATES, needed::certificates().to_string()),
    ];
    echo(move || Ok(server.accept()?.0));
    let by_path = UnixListener::bind(folder.path().join("app.sock"))?;
    echo(move || Ok(by_path.accept()?.0));
    let by_name = UnixListener::bind_addr(&abstract_address(folder.path())?)?;
    echo(move || Ok(by_name.accept()?.0));

    let (mut child, mut socket) = starter::start(name, &variables)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let pid = child.id();
    expect(&mut socket, b"c").map_err(|error| format!("not confined: {error}"))?;
    look_at(pid)?;
    let log_file = fs::File::options().create(true).append(true).open(&log)?;
    send(&socket, &[TcpListener::bind("127.0.0.1:0")?.as_fd(), log_file.as_fd()])?;
    expect(&mut socket, b"s").map_err(|error| format!("it waits for no signal: {error}"))?;
    let child_pid = Pid::from_raw(i32::try_from(pid)?).ok_or("a pid")?;
    kill_process(child_pid, Signal::USR1)?;
    let status = child.wait()?;
    let written = fs::read_to_string(&log)?;
    if written != "a line\n" {
        return Err(format!("the log is {written:?}").into());
    }
    if status.success() { Ok(()) } else { Err(format!("{status}").into()) }
}

/// What the kernel says of a confined process.
fn look_at(pid: u32) -> Outcome {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map_or_else(|| format!("{name}?"), |value| value.trim().to_owned())
    };
    let root = rustix::process::geteuid().is_root();
    let mut expected = vec![("NoNewPrivs", "1"), ("Seccomp", "2"), ("Threads", "1")];
    let none = "0000000000000000";
    expected.extend(["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|set| (set, none)));
    if root {
        expected.push(("CapBnd", none));
        say("    LEFT OUT: its environment is closed to its own user: we are root");
    } else {
        say("    LEFT OUT: an empty bounding set: we are not root");
        if fs::read(format!("/proc/{pid}/environ")).is_ok() {
            return Err("its environment is open to its own user".into());
        }
    }
    for (name, right) in expected {
        if value(name) != right {
            return Err(format!("{name} of the child is {}, not {right}", value(name)).into());
        }
    }
    Ok(())
}

/// Of the child.
pub(crate) fn child(report: &mut Report) -> Outcome {
    let folder = PathBuf::from(env::var_os(FOLDER).ok_or("no folder")?);
    let before = Instant::now();
    let held = confine(&Plan::Proxy { read: vec![folder.join("granted")] })?;
    let took = before.elapsed();
    say(format_args!("    confined in {took:?}: {held}"));
    if held.seccomp == Seccomp::Missing {
        return Err("a kernel without seccomp shows too little".into());
    }
    // What a role does next.
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.write_all(b"c")?;
    let descriptors = needed::receive(&socket)?;
    doorbell_proxy::allocator::purge_in_background();
    forbidden::try_all(report, &folder, held.landlock);
    needed::try_all(report, &folder, descriptors, &mut socket);
    if !matches!(held.landlock, Landlock::Abi(6..)) {
        report.left_out("a part of landlock", &held.landlock);
    }
    Ok(())
}

/// The name of a socket that is in no folder.
pub(crate) fn abstract_address(folder: &Path) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(folder.as_os_str().as_encoded_bytes())
}

/// Answers one client with what it says.
fn echo<S>(accept: impl FnOnce() -> std::io::Result<S> + Send + 'static)
where
    S: Read + Write,
{
    thread::spawn(move || {
        let mut said = [0; 4];
        let mut client = accept()?;
        client.read_exact(&mut said)?;
        client.write_all(&said)
    });
}

fn expect(socket: &mut UnixStream, byte: &[u8; 1]) -> Outcome {
    let mut said = [0];
    socket.read_exact(&mut said)?;
    if said == *byte { Ok(()) } else { Err(format!("it said {said:?}").into()) }
}

fn send(socket: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> Outcome {
    let mut space = [const { std::mem::MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    sendmsg(socket, &[IoSlice::new(b"d")], &mut ancillary, SendFlags::empty())?;
    Ok(())
}
