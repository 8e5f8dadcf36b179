//! MariaDB for tests: a server of its own, on a Unix socket in its folder. Or MySQL, where `DOORBELL_TEST_MYSQL`
//! is a folder with its programs, which `.ci/mysql` makes.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::{
    Authority, eventually, free_port,
    watched::{Watched, told},
};

/// Runs the server until its input ends; "keep" before that keeps the folder.
const WATCHED: &str = r#"
    # The shell would tell how the server ended.
    exec 2>/dev/null
    "$0" --no-defaults --datadir="$1/data" --socket="$1/socket" --pid-file="$1/pid" $(cat "$1/listens") \
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
    server: Watched,
    port: u16,
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
        Self::start_so(None)
    }

    /// One that lets in nobody from the network but by TLS, with a certificate of this authority for
    /// `localhost`, and has a user `admin` there without a password.
    #[must_use]
    pub fn start_with_tls(authority: &Authority) -> Self {
        let server = Self::start_so(Some(authority));
        server.sql("CREATE USER admin@'%'; GRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION");
        server
    }

    fn start_so(authority: Option<&Authority>) -> Self {
        let port = if authority.is_some() { free_port() } else { 3306 };
        let server = Self { server: Watched::in_folder(Watched::folder("doorbell-my-")), port };
        let mut listens = "--skip-networking".to_owned();
        if let Some(authority) = authority {
            let [key, certificate] = server.server.put_certificate(authority);
            listens = format!(
                "--bind-address=127.0.0.1 --port={port} --ssl-key={key} --ssl-cert={certificate} \
                 --require-secure-transport=ON"
            );
        }
        server.server.put("listens", listens.as_bytes());
        let mut install = match mysql() {
            Some(_) => server.command("mysqld"),
            None => server.command("mariadb-install-db"),
        };
        install.arg("--no-defaults").args(match mysql() {
            Some(_) => &["--initialize-insecure"][..],
            None => &[
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
        });
        install.arg(format!("--datadir={}", server.server.folder.join("data").display()));
        told(&install.output().expect("a database"));
        server.resume();
        // Everybody who is nobody; they would come before users from anywhere.
        server.sql("DROP USER IF EXISTS ''@localhost");
        server
    }

    /// The address of the server, for this user of it without a password.
    #[must_use]
    pub fn address(&self, user: &str) -> String {
        format!(
            "{}://{user}@localhost/?socket={}",
            Self::dialect(),
            self.server.folder.join("socket").display()
        )
    }

    /// The address of the server for its `admin`, over the network, and of an authority to believe.
    #[must_use]
    pub fn tls_address(&self, authority: &Authority) -> String {
        let (dialect, port, authority) = (Self::dialect(), self.port, authority.certificate());
        let authority = authority.display();
        format!("{dialect}://admin@localhost:{port}/?ssl-mode=verify_identity&ssl-ca={authority}")
    }

    /// How it is called in addresses.
    #[must_use]
    pub fn dialect() -> &'static str {
        if mysql().is_some() { "mysql" } else { "mariadb" }
    }

    /// Runs statements as root, and returns what the client prints.
    pub fn sql(&self, statements: &(impl AsRef<[u8]> + ?Sized)) -> String {
        let mut client = self.command(if mysql().is_some() { "mysql" } else { "mariadb" });
        client.args(["--no-defaults", "--batch", "--skip-column-names", "--user=root"]);
        client.arg(format!("--socket={}", self.server.folder.join("socket").display()));
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = client.spawn().expect("a client");
        let mut input = client.stdin.take().expect("its input");
        // Who ends before it has read all says why.
        let _ = input.write_all(statements.as_ref());
        drop(input);
        told(&client.wait_with_output().expect("a client"))
    }

    /// Ends the server at once, without a goodbye.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Starts it again.
    pub fn resume(&self) {
        let (server, admin) = match mysql() {
            Some(_) => ("mysqld", "mysqladmin"),
            None => ("mariadbd", "mariadb-admin"),
        };
        self.server.run(WATCHED, &program(server));
        eventually("MariaDB answers", || {
            let mut ready = self.command(admin);
            ready.args(["--no-defaults", "--user=root", "ping"]);
            ready.arg(format!("--socket={}", self.server.folder.join("socket").display()));
            ready.output().is_ok_and(|output| output.status.success())
        });
    }

    /// The program that dumps a database of it.
    #[must_use]
    pub fn dump_program() -> PathBuf {
        program(if mysql().is_some() { "mysqldump" } else { "mariadb-dump" })
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.server.folder
    }

    fn command(&self, name: &str) -> Command {
        self.server.command(&program(name))
    }
}

/// Where Debian has it: the server in a folder that is in the path of root only.
fn program(name: &str) -> PathBuf {
    if let Some(folder) = mysql() {
        return folder.join(name);
    }
    let found = ["/usr/bin", "/usr/sbin"].map(|folder| Path::new(folder).join(name));
    let found = found.into_iter().find(|path| path.exists());
    found.expect("MariaDB: .ci/test-needs installs it")
}

/// Where MySQL is, if the tests are to run against that.
fn mysql() -> Option<PathBuf> {
    std::env::var_os("DOORBELL_TEST_MYSQL").map(PathBuf::from)
}
