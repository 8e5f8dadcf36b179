//! PostgreSQL for tests: a server of its own, in a folder of its own, on a Unix socket there.
//!
//! The server's life hangs on a pipe that this process holds: a shell reads it, and ends the server and its
//! folder when the pipe does, however this process came to its end.

use std::{
    fs,
    io::Write,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::eventually;

/// Runs the server until its input ends; "keep" before that keeps the folder.
const WATCHED: &str = r#"
    "$0/postgres" -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off -c max_connections=200 \
        -c log_min_messages=fatal </dev/null >>"$1/log" 2>&1 &
    server=$!
    read -r word
    kill -QUIT $server 2>/dev/null
    wait $server
    [ "$word" = keep ] || rm -rf "$1"
"#;

/// A server.
pub struct Postgres {
    folder: PathBuf,
    /// Whose it is, if not ours: it refuses to be run by root.
    user: Option<(u32, u32)>,
    running: Mutex<Option<Child>>,
    databases: AtomicU32,
}

impl Postgres {
    /// The server that all tests of this binary share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server for a test that does something to it.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("doorbell-pg-").tempdir().expect("a folder");
        Self::start_in(folder.keep())
    }

    /// The same in this folder, which is its own.
    #[must_use]
    pub fn start_in(folder: PathBuf) -> Self {
        let user = rustix::process::geteuid().is_root().then(unprivileged);
        if let Some((user, group)) = user {
            chown(&folder, Some(user), Some(group)).expect("to give it away");
        }
        let server = Self { folder, user, running: Mutex::new(None), databases: AtomicU32::new(0) };
        let mut initdb = server.command("initdb");
        initdb.args(["-N", "-U", "doorbell", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"]);
        told(&initdb.arg(server.folder.join("data")).output().expect("initdb"));
        server.resume();
        server
    }

    /// The address of a new, empty database.
    #[must_use]
    pub fn database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        self.run("postgres", &format!("CREATE DATABASE test_{number}"));
        self.address(&format!("test_{number}"))
    }

    /// The address of a database.
    #[must_use]
    pub fn address(&self, database: &str) -> String {
        format!("postgres://doorbell@/{database}?host={}", self.folder.display())
    }

    /// Runs statements in the database of an address, and returns what psql prints.
    pub fn sql(&self, address: &str, statements: &str) -> String {
        let database = address.split_once("@/").and_then(|(_, rest)| rest.split_once('?'));
        self.run(database.expect("an address of ours").0, statements)
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
        watched.arg("-c").arg(WATCHED).arg(programs()).arg(&self.folder);
        let child = self.as_user(&mut watched).stdin(Stdio::piped()).spawn().expect("sh");
        *self.running.lock().expect("the server") = Some(child);
        eventually("PostgreSQL answers", || {
            let mut ready = self.command("pg_isready");
            ready.args(["-q", "-U", "doorbell", "-d", "postgres", "-h"]).arg(&self.folder);
            ready.status().is_ok_and(|status| status.success())
        });
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn run(&self, database: &str, statements: &str) -> String {
        let mut psql = self.command("psql");
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "doorbell",
            "-d",
            database,
        ]);
        psql.arg("-h").arg(&self.folder).args(["-c", statements]);
        told(&psql.output().expect("psql"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(programs().join(program));
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

impl Drop for Postgres {
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

/// Where Debian has them: not in the path.
fn programs() -> PathBuf {
    let found = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = found
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .max();
    newest.expect("PostgreSQL in /usr/lib/postgresql: .ci/test-needs installs it")
}

/// The number and group of a user who is not root.
pub(crate) fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let number_of = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    number_of("postgres").or_else(|| number_of("nobody")).expect("a user beside root")
}

pub(crate) fn told(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
