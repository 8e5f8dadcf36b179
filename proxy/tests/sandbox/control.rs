//! The role that answers operators.

use std::{env, fs, fs::File, net::TcpListener, path::PathBuf, process::Command, thread};

use doorbell_proxy::sandbox::{Landlock, Plan, Seccomp, confine};

use crate::{Outcome, Report, proxy::FOLDER, raw, say, starter};

pub(crate) fn test(name: &str) -> Outcome {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("config"))?;
    fs::create_dir(folder.path().join("state"))?;
    fs::write(folder.path().join("config/doorbell.toml"), "[server]")?;
    let variables = [(FOLDER, folder.path().display().to_string())];
    let (mut child, _socket) = starter::start(name, &variables)?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("{status}").into()) }
}

pub(crate) fn child(report: &mut Report) -> Outcome {
    let folder = PathBuf::from(env::var_os(FOLDER).ok_or("no folder")?);
    let (config, state) = (folder.join("config"), folder.join("state"));
    let held = confine(&Plan::Control { read: vec![config.clone()], write: vec![state.clone()] })?;
    say(format_args!("    confined: {held}"));
    if held.seccomp == Seccomp::Missing {
        report.left_out("refused calls", &held.seccomp);
    }

    report.works("reading the configuration", fs::read(config.join("doorbell.toml")));
    report.works("writing state", fs::write(state.join("new"), "state"));
    report.works("replacing it", fs::rename(state.join("new"), state.join("old")));
    report.works("reading it", fs::read(state.join("old")));
    report.works("removing it", fs::remove_file(state.join("old")));
    report.works("listening", TcpListener::bind("127.0.0.1:0"));
    report.works("a thread", thread::spawn(|| ()).join().map_err(|_| "it panicked"));
    match held.landlock {
        Landlock::Abi(_) => {
            report.fails("changing the configuration", File::create(config.join("doorbell.toml")));
            report.fails("reading /etc/passwd", File::open("/etc/passwd"));
            report.fails("making a file elsewhere", File::create(folder.join("new")));
            report.fails("executing a program", Command::new("/bin/true").status());
        }
        other => report.left_out("what files are closed", &other),
    }
    for (what, number) in [
        ("ptrace", libc::SYS_ptrace),
        ("mount", libc::SYS_mount),
        ("bpf", libc::SYS_bpf),
        ("unshare", libc::SYS_unshare),
        ("io_uring", libc::SYS_io_uring_setup),
        ("keyctl", libc::SYS_keyctl),
        ("a call of another architecture", 0x4000_0000 | libc::SYS_getpid),
    ] {
        report.fails(what, raw::call(number, [0; 6]));
    }
    Ok(())
}
