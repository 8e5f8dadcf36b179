//! Starting this program anew, and the small cases.

use std::{
    env,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus},
};

use doorbell_proxy::sandbox::{Plan, SandboxError, confine};

use crate::{CASE, Outcome, Report};

/// A child that plays a case, and our end of the socket that is its standard input.
pub(crate) fn start(
    name: &str,
    variables: &[(&str, String)],
) -> Result<(Child, UnixStream), Box<dyn std::error::Error + Send + Sync>> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(env::current_exe()?);
    command.env(CASE, name).env("RUST_BACKTRACE", "1").stdin(OwnedFd::from(theirs));
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    Ok((command.spawn()?, ours))
}

fn end(name: &str) -> Result<ExitStatus, Box<dyn std::error::Error + Send + Sync>> {
    let (mut child, _socket) = start(name, &[])?;
    Ok(child.wait()?)
}

pub(crate) fn expect_success(name: &str) -> Outcome {
    let status = end(name)?;
    if status.success() { Ok(()) } else { Err(format!("{status}").into()) }
}

pub(crate) fn expect_abort(name: &str) -> Outcome {
    let status = end(name)?;
    match (status.signal(), status.core_dumped()) {
        (Some(libc::SIGABRT), false) => Ok(()),
        _ => Err(format!("{status}").into()),
    }
}

pub(crate) fn abort_confined(_: &mut Report) -> Outcome {
    confine(&Plan::Proxy { read: Vec::new() })?;
    std::process::abort()
}

pub(crate) fn confine_with_a_thread(report: &mut Report) -> Outcome {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || ended.recv());
    let outcome = confine(&Plan::Proxy { read: Vec::new() });
    drop(end);
    thread.join().map_err(|_| "the thread")?.err();
    match outcome {
        Err(SandboxError::Threads(2)) => {}
        other => report.fail(format_args!("two threads: {other:?}")),
    }
    Ok(())
}

pub(crate) fn confine_without_a_path(report: &mut Report) -> Outcome {
    let nowhere = PathBuf::from("/no/such/folder");
    match confine(&Plan::Control { read: Vec::new(), write: vec![nowhere] }) {
        Err(error) if error.to_string() == "cannot grant /no/such/folder: it does not exist" => {}
        other => report.fail(format_args!("a missing path: {other:?}")),
    }
    Ok(())
}
