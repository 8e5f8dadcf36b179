//! MariaDB for tests: a server of its own, in a folder of its own, on a Unix socket there.
//!
//! Its life hangs on a pipe that this process holds, as that of [`Postgres`](crate::Postgres) does.

use std::{
    fs,
    io::Write,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
};

use crate::{
    eventually,
    postgres::{told, unprivileged},
};

/// Runs the server until its input ends; "keep" before that keeps the folder.
const WATCHED: &str = r#"
    # The shell would tell how the server ended.
    exec 2>/dev/null
    "$0" --no-defaults --datadir="$1/data" --socket="$1/socket" --pid-file="$1/pid" --skip-networking \
        --innodb-flush-log-at-trx-commit=2 --innodb-buffer-pool-size=32M --max-connections=200 \
        --skip-log-bin --character-set-server=latin1 </dev/null >>"$1/log" 2>&1 &
    server=$!
    read -r word
    kill -KILL $server 2>/dev/null
    wait $server
    [ "$word" = keep ] || rm -rf "$1"
"#;

/// A server.
pub struct MariaDb {
    folder: PathBuf,
    /// Whose it is, if not ours: it refuses to be run by root.
    user: Option<(u32, u32)>,
    running: Mutex<Option<Child>>,
}

impl MariaDb {
    /// The server that all tests of this binary share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server for a test that does something to it.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("doorbell-my-").tempdir().expect("a folder");
        let folder = folder.keep();
        let user = rustix::process::geteuid().is_root().then(unprivileged);
        if let Some((user, group)) = user {
            chown(&folder, Some(user), Some(group)).expect("to give it away");
        }
        let server = Self { folder, user, running: Mutex::new(None) };
        let mut install = server.command("mariadb-install-db");
        install.args(["--no-defaults", "--auth-root-authentication-method=normal"]);
        install.args(["--skip-test-db", "--skip-name-resolve"]);
        install.arg(format!("--datadir={}", server.folder.join("data").display()));
        told(&install.output().expect("mariadb-install-db"));
        server.resume();
        // Everybody who is nobody; they would come before users from anywhere.
        server.sql("DROP USER IF EXISTS ''@localhost");
        server
    }

    /// The address of the server, for this user of it without a password.
    #[must_use]
    pub fn address(&self, user: &str) -> String {
        format!("mariadb://{user}@localhost/?socket={}", self.folder.join("socket").display())
    }

    /// Runs statements as root, and returns what the client prints.
    pub fn sql(&self, statements: &str) -> String {
        let mut client = self.command("mariadb");
        client.args(["--no-defaults", "--batch", "--skip-column-names", "--user=root"]);
        client.arg(format!("--socket={}", self.folder.join("socket").display()));
        told(&client.args(["-e", statements]).output().expect("mariadb"))
    }

    /// Ends the server at once, without a goodbye.
    pub fn stop(&self) {
        let mut running = self.running.lock().expect("the server");
        if let Some(mut child) = running.take() {
            let mut input = child.stdin.take().expect("its input");
            input.write_all(b"keep\n").expect("to tell it");
            drop(input);
            child.wait().expect("its end");
        }
    }

    /// Starts it again.
    pub fn resume(&self) {
        let mut watched = Command::new("sh");
        watched.arg("-c").arg(WATCHED).arg(program("mariadbd")).arg(&self.folder);
        let child = self.as_user(&mut watched).stdin(Stdio::piped()).spawn().expect("sh");
        *self.running.lock().expect("the server") = Some(child);
        eventually("MariaDB answers", || {
            let mut ready = self.command("mariadb-admin");
            ready.args(["--no-defaults", "--user=root", "ping"]);
            ready.arg(format!("--socket={}", self.folder.join("socket").display()));
            ready.output().is_ok_and(|output| output.status.success())
        });
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        self.as_user(&mut command);
        command
    }

    fn as_user<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.current_dir(&self.folder)
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let running = self.running.get_mut().map(Option::take);
        match running {
            Ok(Some(mut child)) => {
                drop(child.stdin.take());
                let _ = child.wait();
            }
            _ => drop(fs::remove_dir_all(&self.folder)),
        }
    }
}

/// Where Debian has it: the server in a folder that is in the path of root only.
fn program(name: &str) -> PathBuf {
    let found = ["/usr/bin", "/usr/sbin"].map(|folder| Path::new(folder).join(name));
    let found = found.into_iter().find(|path| path.exists());
    found.expect("MariaDB: .ci/test-needs installs it")
}
