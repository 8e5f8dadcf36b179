//! What is executed: program, arguments and environment of one instance, with placeholders filled
//! in. Nothing is executed here.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use doorbell_config::spec::{AppSpec, Given, PlaceholderValues, ProcessSpec, Secret};

use super::{
    account::Account,
    endpoint::Place,
    mark::{INSTANCE, STATE_DIR, name_of},
};
use crate::message::Generation;

const APP: &str = "DOORBELL_APP";
/// Which of the app's replicas it is, where there are several.
const REPLICA: &str = "DOORBELL_REPLICA";
const PATH: &str = "PATH";
/// Where programs are looked for if nobody says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What an app inherits from us; all else is ours alone.
const INHERITED: [&str; 9] =
    [PATH, "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// Why there is nothing to execute.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("the command is empty")]
    Empty,
    #[error("folder {0} does not exist")]
    NoFolder(PathBuf),
    #[error("command `{0}` is in no folder of PATH ({1})")]
    NotInPath(String, String),
    #[error("command {0} does not exist")]
    NoProgram(PathBuf),
    #[error("command {0} is not executable")]
    NotExecutable(PathBuf),
}

/// What is executed. Not printable as a whole: the environment holds secrets.
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    /// The first is the program as the operator named it.
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) directory: PathBuf,
}

/// What surrounds an instance and ends up in its environment.
pub(crate) struct Surroundings<'a> {
    /// Whom it runs as, if not who we are.
    pub(crate) account: Option<&'a Account>,
    pub(crate) place: &'a Place,
    pub(crate) notify_socket: Option<&'a Path>,
    /// Where it asks to be kept awake.
    pub(crate) own_socket: Option<&'a Path>,
    /// What it is to use for files that nobody needs for long.
    pub(crate) tmpdir: Option<&'a Path>,
    pub(crate) state_dir: &'a Path,
    /// What nobody else may see.
    pub(crate) given: &'a Given,
}

impl Launch {
    /// Fills in an app's command and environment for one instance.
    pub(crate) fn of(
        app: &AppSpec,
        process: &ProcessSpec,
        generation: Generation,
        around: &Surroundings<'_>,
    ) -> Result<Self, LaunchError> {
        let base_path = app.base_path();
        let values = PlaceholderValues {
            port: around.place.port(),
            socket: around.place.socket_path(),
            id: &app.id,
            base_path: &base_path,
            version: process.version.as_deref(),
            secret: around.given.secret.as_ref().map(Secret::reveal),
            database: &around.given.database,
        };
        let mut environment: BTreeMap<OsString, OsString> = INHERITED
            .iter()
            .filter_map(|name| Some((OsString::from(name), env::var_os(name)?)))
            .collect();
        environment.entry(PATH.into()).or_insert_with(|| DEFAULT_PATH.into());
        if let Some(account) = around.account {
            let own = [
                ("HOME", account.home.as_os_str()),
                ("USER", OsStr::new(&account.name)),
                ("LOGNAME", OsStr::new(&account.name)),
                ("SHELL", account.shell.as_os_str()),
            ];
            environment.extend(own.map(|(name, value)| (name.into(), value.to_owned())));
        }
        if let Some(tmpdir) = around.tmpdir {
            environment.insert("TMPDIR".into(), tmpdir.into());
        }
        for (name, value) in process.env.iter() {
            environment.insert(name.into(), value.render(&values).into());
        }
        for (name, value) in &around.given.env {
            environment.insert(name.into(), value.reveal().into());
        }
        environment.insert(APP.into(), app.id.app_str().into());
        if process.instances > 1 {
            environment.insert(REPLICA.into(), app.id.replica_number().to_string().into());
        }
        environment.insert(INSTANCE.into(), name_of(&app.id, generation).into());
        environment.insert(STATE_DIR.into(), around.state_dir.into());
        if let Some(path) = around.notify_socket {
            environment.insert("NOTIFY_SOCKET".into(), path.into());
        }
        if let Some(path) = around.own_socket {
            environment.insert("DOORBELL_SOCKET".into(), path.into());
        }
        if around.place.listener.is_some() {
            environment.insert("LISTEN_FDS".into(), "1".into());
            environment.insert("LISTEN_FDNAMES".into(), "http".into());
        }
        let arguments: Vec<OsString> =
            process.command.iter().map(|part| part.render(&values).into()).collect();
        let program = arguments.first().ok_or(LaunchError::Empty)?;
        if !process.directory.is_dir() {
            return Err(LaunchError::NoFolder(process.directory.clone()));
        }
        let program = find(program, &process.directory, environment.get(OsStr::new(PATH)))?;
        Ok(Self { program, arguments, environment, directory: process.directory.clone() })
    }
}

/// The program's file: we look in the app's own `PATH`, and with the file in hand the spawn needs
/// no fork.
fn find(
    program: &OsStr,
    directory: &Path,
    path: Option<&OsString>,
) -> Result<PathBuf, LaunchError> {
    if program.is_empty() {
        return Err(LaunchError::Empty);
    }
    if Path::new(program).components().count() > 1 || program.as_encoded_bytes().contains(&b'/') {
        let file = directory.join(program);
        return match is_executable(&file) {
            Some(true) => Ok(file),
            Some(false) => Err(LaunchError::NotExecutable(file)),
            None => Err(LaunchError::NoProgram(file)),
        };
    }
    let path = path.map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    env::split_paths(path)
        .map(|folder| directory.join(folder).join(program))
        .find(|file| is_executable(file) == Some(true))
        .ok_or_else(|| {
            let (program, path) = (program.to_string_lossy(), path.to_string_lossy());
            LaunchError::NotInPath(program.into_owned(), path.into_owned())
        })
}

/// `None` if there is no such file.
fn is_executable(file: &Path) -> Option<bool> {
    let found = file.metadata().ok()?;
    Some(found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(program: &str) -> Result<PathBuf, String> {
        let path = OsString::from("/nowhere:/bin:/usr/bin");
        find(OsStr::new(program), Path::new("/"), Some(&path)).map_err(|error| error.to_string())
    }

    #[test]
    fn finds_programs_by_name_and_by_path() {
        assert_eq!(found("sh"), Ok("/bin/sh".into()));
        assert_eq!(found("bin/sh"), Ok("/bin/sh".into()));
        assert_eq!(found("/bin/sh"), Ok("/bin/sh".into()));
    }

    #[test]
    fn says_what_is_wrong_with_a_command() {
        let problem = found("no-such").unwrap_err();
        assert_eq!(problem, "command `no-such` is in no folder of PATH (/nowhere:/bin:/usr/bin)");
        assert_eq!(found("./no").unwrap_err(), "command /./no does not exist");
        assert_eq!(found("/etc/passwd").unwrap_err(), "command /etc/passwd is not executable");
        assert_eq!(found("").unwrap_err(), "the command is empty");
    }
}
