//! A doorbell that is about to start: its configuration, and how its binary is run.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{Doorbell, app_dir, binary, free_port};

/// A doorbell that is about to start.
pub struct Setup {
    dir: TempDir,
    config: String,
    include: String,
    server: String,
    state_dir: Option<PathBuf>,
    manner: Manner,
}

/// How the binary is run: again and again in the same way.
#[derive(Default)]
pub(crate) struct Manner {
    env: Vec<(String, String)>,
    args: Vec<String>,
    /// User and group, if not ours.
    user: Option<u32>,
    /// What that user may do.
    capability: Option<String>,
    /// A binary of its own, that may be replaced.
    own_binary: bool,
    /// What is done first, by sh, in a mount namespace of its own.
    mounts: Option<String>,
}

impl Setup {
    /// A doorbell with these apps. `{apps}` stands for the folder of test programs, `{dir}` for the
    /// doorbell's own folder.
    #[must_use]
    pub fn new(apps: &str) -> Self {
        Self::new_in(&std::env::temp_dir(), apps)
    }

    /// The same with its folder in this one.
    #[must_use]
    pub fn new_in(folder: &Path, apps: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("doorbell-").tempdir_in(folder);
        let dir = dir.expect("a folder");
        Self {
            dir,
            config: apps.to_owned(),
            include: String::new(),
            server: String::new(),
            state_dir: None,
            manner: Manner::default(),
        }
    }

    /// More lines of `[server]`, tables of it included.
    #[must_use]
    pub fn server(mut self, lines: &str) -> Self {
        self.server.push_str(lines);
        self.server.push('\n');
        self
    }

    /// Further files with apps.
    #[must_use]
    pub fn include(mut self, patterns: &[&str]) -> Self {
        self.include = format!("include = {patterns:?}\n");
        self
    }

    /// A file in its folder, with the same placeholders as the apps.
    #[must_use]
    pub fn file(self, name: &str, text: &str) -> Self {
        write_file(self.dir.path(), name, text);
        self
    }

    /// A variable in doorbell's own environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.manner.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Everything in one process.
    #[must_use]
    pub fn one_process(mut self) -> Self {
        self.manner.args.push("--one-process".to_owned());
        self
    }

    /// Run by another user and its group, whose folder it is.
    #[must_use]
    pub fn user(mut self, number: u32) -> Self {
        self.manner.user = Some(number);
        self
    }

    /// That user may do this, as `net_bind_service`, and so may whatever it executes: capabilities(7).
    #[must_use]
    pub fn capability(mut self, name: &str) -> Self {
        self.manner.capability = Some(name.to_owned());
        self
    }

    /// Its folder can be entered by other users.
    #[must_use]
    pub fn open_to_all(self) -> Self {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.dir.path(), open).expect("its mode");
        self
    }

    /// A binary of its own, for [`Doorbell::replace_binary`].
    #[must_use]
    pub fn own_binary(mut self) -> Self {
        self.manner.own_binary = true;
        self
    }

    /// Run in a mount namespace of its own, in which this script has been run by sh in its folder. See
    /// [`may_mount`].
    #[must_use]
    pub fn mounts(mut self, script: &str) -> Self {
        self.manner.mounts = Some(script.to_owned());
        self
    }

    /// A state folder that outlives this doorbell.
    #[must_use]
    pub fn state_dir(mut self, path: &Path) -> Self {
        self.state_dir = Some(path.to_owned());
        self
    }

    /// Starts it and waits until it is ready.
    #[must_use]
    pub fn start(self) -> Doorbell {
        let (port, metrics_port) = (free_port(), free_port());
        if let Some(state) = &self.state_dir {
            std::os::unix::fs::symlink(state, self.dir.path().join("state")).expect("a link");
        }
        let head = head(&self.include, port, metrics_port, &self.server);
        write_file(self.dir.path(), "doorbell.toml", &(head + &self.config));
        if let Some(user) = self.manner.user {
            let folder = self.dir.path();
            std::os::unix::fs::chown(folder, Some(user), Some(user)).expect("to give it away");
        }
        if self.manner.own_binary {
            copy_binary(&own_binary(self.dir.path()));
        }
        let child = self.manner.spawn(self.dir.path());
        let Self { dir, include, server, manner, .. } = self;
        let mut doorbell = Doorbell { dir, port, metrics_port, child, manner, include, server };
        doorbell.wait_until_ready();
        doorbell
    }

    /// Writes the configuration without starting anything; gives its path, and keeps the folder.
    #[must_use]
    pub fn write(self) -> (TempDir, PathBuf) {
        let head = head(&self.include, free_port(), free_port(), &self.server);
        write_file(self.dir.path(), "doorbell.toml", &(head + &self.config));
        let path = self.dir.path().join("doorbell.toml");
        (self.dir, path)
    }
}

impl Manner {
    /// Runs the binary in a folder; its log goes on where it was.
    pub(crate) fn spawn(&self, folder: &Path) -> Child {
        let binary = if self.own_binary { own_binary(folder) } else { binary() };
        let mut words: Vec<OsString> = Vec::new();
        if let Some(script) = &self.mounts {
            let script = format!("set -e\n{script}\nexec \"$@\"");
            let unshare =
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"];
            words.extend(unshare.map(OsString::from));
        }
        if let Some(user) = self.user {
            let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
            words.extend(["setpriv", &user, &group, "--clear-groups"].map(OsString::from));
            if let Some(name) = &self.capability {
                let passed_on = ["--inh-caps", "--ambient-caps"];
                words.extend(passed_on.map(|option| format!("{option}=+{name}").into()));
            }
        }
        words.push(binary.clone().into());
        let (program, rest) = words.split_first().expect("the binary");
        let mut command = Command::new(program);
        command.args(rest).current_dir(folder);
        let log = folder.join("doorbell.log");
        let log = fs::OpenOptions::new().append(true).create(true).open(log).expect("a log file");
        command.arg("serve").args(&self.args);
        command.arg("--config").arg(folder.join("doorbell.toml")).envs(self.env.clone());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
    }
}

/// Whether this machine lets us make mount namespaces.
#[must_use]
pub fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Copies the binary in another process: who has it open for writing, as a child of another test that
/// is being started may, keeps it from being executed.
pub(crate) fn copy_binary(to: &Path) {
    let status = Command::new("cp").arg(binary()).arg(to).status().expect("cp");
    assert!(status.success(), "{status}");
}

pub(crate) fn own_binary(folder: &Path) -> PathBuf {
    folder.join("doorbell")
}

/// What stands above the apps.
pub(crate) fn head(include: &str, port: u16, metrics_port: u16, server: &str) -> String {
    format!(
        "{include}[server]\nlisten = [\"127.0.0.1:{port}\"]\n\
         admin = [\"unix:admin.sock\", \"127.0.0.1:{metrics_port}\"]\n\
         state_dir = \"state\"\nlog_dir = \"logs\"\n{server}\n"
    )
}

pub(crate) fn write_file(dir: &Path, name: &str, text: &str) {
    let text = text
        .replace("{apps}", &app_dir().to_string_lossy())
        .replace("{dir}", &dir.to_string_lossy());
    let path = dir.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("its folder");
    // Renamed into place, as editors do, so that a watcher never sees half a file.
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).expect("the file");
    fs::rename(fresh, path).expect("the file");
}
