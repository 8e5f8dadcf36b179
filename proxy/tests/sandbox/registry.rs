//! The registry, as the proxy finds it that is really run: it has the control process's user, so that no mode
//! of a file keeps it out.

use std::{env, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use doorbell_proxy::{
    control::Place,
    sandbox::{Landlock, confine},
    serve,
};
use doorbell_supervisor::protocol::Role;

use crate::{Outcome, Report, proxy::FOLDER, say, starter};

/// What is in it: apps, their copy, addresses of databases, keys.
const FILES: [&str; 4] = ["registry.db", "copy/apps.json", "databases.json", "keys"];

pub(crate) fn test(name: &str) -> Outcome {
    let folder = tempfile::tempdir()?;
    let registry = folder.path().join("state/registry");
    fs::create_dir_all(registry.join("copy"))?;
    for file in FILES {
        fs::write(registry.join(file), "secret")?;
        fs::set_permissions(registry.join(file), fs::Permissions::from_mode(0o600))?;
    }
    fs::set_permissions(&registry, fs::Permissions::from_mode(0o700))?;
    let variables = [(FOLDER, folder.path().display().to_string())];
    let (mut child, _socket) = starter::start(name, &variables)?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("{status}").into()) }
}

pub(crate) fn child(report: &mut Report) -> Outcome {
    let state = PathBuf::from(env::var_os(FOLDER).ok_or("no folder")?).join("state");
    let registry = state.join("registry");
    for file in FILES {
        report.works("reading it before", fs::read(registry.join(file)));
    }
    let place = Place { config_path: state.join("doorbell.toml"), folder: registry.clone() };
    let held = confine(&serve::plan(Role::Proxy, Some(&place)))?;
    say(format_args!("    confined: {held}"));
    match held.landlock {
        Landlock::Abi(_) => {
            for file in FILES {
                report.fails(file, fs::read(registry.join(file)));
                report.fails(
                    "writing it",
                    fs::File::options().append(true).open(registry.join(file)),
                );
            }
            for folder in [&state, &registry] {
                report.fails("listing its folder", fs::read_dir(folder));
            }
        }
        other => report.left_out("whether it can read the registry", &other),
    }
    Ok(())
}
