//! PostgreSQL for tests: a server of its own, on a Unix socket in its folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{
    Authority, eventually, free_port,
    watched::{Watched, told},
};

/// Runs the server until its input ends; "keep" before that keeps the folder.
const WATCHED: &str = r#"
    "$0/postgres" -D "$1/data" -k "$1" $(cat "$1/listens") -c fsync=off -c max_connections=200 \
        -c log_min_messages=fatal </dev/null >>"$1/log" 2>&1 &
    server=$!
    read -r word
    kill -QUIT $server 2>/dev/null
    wait $server
    [ "$word" = keep ] || rm -rf "$1"
"#;

/// A server.
pub struct Postgres {
    server: Watched,
    databases: AtomicU32,
    port: u16,
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
        Self::start_in(Watched::folder("doorbell-pg-"))
    }

    /// The same in this folder, which is its own.
    #[must_use]
    pub fn start_in(folder: PathBuf) -> Self {
        Self::start_so(folder, None)
    }

    /// One that lets in nobody from the network but by TLS, with a certificate of this authority for
    /// `localhost`.
    #[must_use]
    pub fn start_with_tls(authority: &Authority) -> Self {
        Self::start_so(Watched::folder("doorbell-pg-"), Some(authority))
    }

    fn start_so(folder: PathBuf, authority: Option<&Authority>) -> Self {
        let port = if authority.is_some() { free_port() } else { 5432 };
        let server =
            Self { server: Watched::in_folder(folder), databases: AtomicU32::new(0), port };
        let mut initdb = server.command("initdb");
        initdb.args(["-N", "-U", "doorbell", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"]);
        told(&initdb.arg(server.server.folder.join("data")).output().expect("initdb"));
        let mut listens = "-c listen_addresses=".to_owned();
        if let Some(authority) = authority {
            let [key, certificate] = server.server.put_certificate(authority);
            listens = format!(
                "-c listen_addresses=localhost -c port={port} -c ssl=on -c ssl_key_file={key} -c ssl_cert_file={certificate}"
            );
            let rules = "local all all trust\nhostssl all doorbell all trust\nhostssl all all all scram-sha-256\n";
            server.server.put("data/pg_hba.conf", rules.as_bytes());
        }
        server.server.put("listens", listens.as_bytes());
        server.resume();
        server
    }

    /// The address of the server for its superuser, over the network, and of an authority to believe.
    #[must_use]
    pub fn tls_address(&self, authority: &Authority) -> String {
        let (port, authority) = (self.port, authority.certificate());
        let authority = authority.display();
        format!("postgres://doorbell@localhost:{port}/?sslmode=verify-full&sslrootcert={authority}")
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
        format!("postgres://doorbell@/{database}?host={}", self.server.folder.display())
    }

    /// Runs statements in the database of an address, and returns what psql prints.
    pub fn sql(&self, address: &str, statements: &str) -> String {
        let database = address.split_once("@/").and_then(|(_, rest)| rest.split_once('?'));
        self.run(database.expect("an address of ours").0, statements)
    }

    /// Ends the server at once, without a goodbye.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Starts it again.
    pub fn resume(&self) {
        self.server.run(WATCHED, &programs());
        eventually("PostgreSQL answers", || {
            let mut ready = self.command("pg_isready");
            ready.args(["-q", "-U", "doorbell", "-d", "postgres", "-h"]).arg(&self.server.folder);
            ready.status().is_ok_and(|status| status.success())
        });
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.server.folder
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
        psql.arg("-h").arg(&self.server.folder).args(["-c", statements]);
        told(&psql.output().expect("psql"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.server.command(&programs().join(program));
        command.env("PGPORT", self.port.to_string());
        command
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
