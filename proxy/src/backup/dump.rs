//! Databases on their way into an archive, by the databases' own programs.
//!
//! Each dump is of one moment, whatever is written meanwhile: a snapshot of PostgreSQL, a transaction of MariaDB
//! and MySQL, a copy that SQLite makes itself. Passwords are in nobody's arguments and in no file: `pg_dump`
//! finds its own in its environment, and `mysqldump` reads its from a pipe.

mod program;
mod sqlite;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use doorbell_config::spec::{DatabasePlace, DatabaseUrl, Dialect, Secret};
use doorbell_supervisor::Account;

use self::program::Program;
use super::{BackupError, format::Access};

/// How long `pg_dump` waits for a table that somebody changes.
const LOCK_MS: u32 = 60_000;
/// How long to wait for a connection, in seconds.
const CONNECT: &str = "10";

/// Where certificates of public authorities are, on most systems.
const AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// What a dump's files end with.
#[must_use]
pub fn extension(dialect: Dialect) -> &'static str {
    if dialect == Dialect::Sqlite { "sqlite" } else { "sql" }
}

/// Writes a dump of a database, which is the app's of this user.
///
/// # Errors
/// In the words of the program that makes it. What was written by then is of no use.
pub fn dump(
    access: &Access,
    user: Option<&Account>,
    out: &mut dyn Write,
) -> Result<(), BackupError> {
    let url = access.parsed()?;
    match (url.dialect, &url.place) {
        (Dialect::Sqlite, DatabasePlace::File(path)) => sqlite::dump(path, user, out),
        (Dialect::Postgres | Dialect::Sqlite, _) => postgres(access, &url).run(out),
        (Dialect::MySql | Dialect::MariaDb, _) => mysql(&url)?.run(out),
    }
}

fn postgres(access: &Access, url: &DatabaseUrl) -> Program {
    let mut command = Command::new(newest_pg_dump());
    command.env_clear().envs(inherited());
    command.args(["--no-owner", "--no-privileges", "--no-tablespaces", "--no-subscriptions"]);
    command.args(["--no-password", "--encoding=UTF8"]);
    command.arg(format!("--lock-wait-timeout={LOCK_MS}"));
    if let Some(schema) = &access.schema {
        command.arg(format!("--schema=\"{}\"", schema.replace('"', "\"\"")));
    }
    let (host, port) = match &url.place {
        DatabasePlace::Host { host, port } => (host.clone(), *port),
        DatabasePlace::Socket { path, port } => (path.display().to_string(), *port),
        DatabasePlace::File(path) => (path.display().to_string(), 0),
    };
    command.env("PGHOST", host).env("PGPORT", port.to_string());
    command.env("PGCONNECT_TIMEOUT", CONNECT).env("PGAPPNAME", "doorbell");
    let said = [("PGUSER", url.user.as_deref()), ("PGDATABASE", url.database.as_deref())];
    for (name, value) in said.into_iter().chain([("PGSSLMODE", url.option("sslmode"))]) {
        command.envs(value.map(|value| (name, value)));
    }
    let is_to_verify = url.option("sslmode").is_some_and(|mode| mode.starts_with("verify"));
    let authorities = url.option("sslrootcert").map(PathBuf::from);
    let authorities = authorities.or_else(|| authorities_of_the_system().filter(|_| is_to_verify));
    command.envs(authorities.map(|file| ("PGSSLROOTCERT", file)));
    command.envs(url.password().map(|password| ("PGPASSWORD", password)));
    Program { command, input: None, secret: secret(url) }
}

/// Debian has one for each version, and one in the path that chooses among them by rules of its own. The
/// newest dumps from servers of all versions.
fn newest_pg_dump() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let there = versions
        .filter_map(|entry| Some((version(&entry.path())?, entry.path().join("bin/pg_dump"))))
        .filter(|(_, program)| program.exists());
    there.max().map_or_else(|| "pg_dump".into(), |(_, program)| program)
}

fn mysql(url: &DatabaseUrl) -> Result<Program, BackupError> {
    let own = if url.dialect == Dialect::MySql { "mysqldump" } else { "mariadb-dump" };
    let other = if url.dialect == Dialect::MySql { "mariadb-dump" } else { "mysqldump" };
    let program = if program::is_there(own) || !program::is_there(other) { own } else { other };
    let is_mariadb = program::version(program).contains("MariaDB");
    let mut command = Command::new(program);
    command.env_clear().envs(inherited());
    // MySQL's would read whom to ask from a file of the operator's, whatever else it is told.
    command.env("MYSQL_TEST_LOGIN_FILE", "/dev/null");
    // The first of all, or it is taken for something else.
    command.arg("--defaults-file=/dev/stdin");
    command.args(["--single-transaction", "--quick", "--routines", "--triggers", "--events"]);
    command.args(["--no-tablespaces", "--hex-blob", "--skip-add-drop-table", "--skip-add-locks"]);
    command.args(["--default-character-set=utf8mb4", "--max-allowed-packet=1G"]);
    // What only one of the two knows, the other passes over.
    command.args(["--loose-set-gtid-purged=OFF", "--loose-column-statistics=0", "--"]);
    let database = url.database.as_deref();
    command.arg(
        database.ok_or_else(|| BackupError::Database("its address names no database".into()))?,
    );
    Ok(Program {
        command,
        input: Some(Secret::new(settings(url, is_mariadb))),
        secret: secret(url),
    })
}

/// How to connect, as an option file: <https://mariadb.com/kb/en/configuring-mariadb-with-option-files/>.
fn settings(url: &DatabaseUrl, is_mariadb: bool) -> String {
    let mut settings = "[client]\n".to_owned();
    let mut put = |key: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        settings += &format!("{key}=\"{value}\"\n");
    };
    match &url.place {
        DatabasePlace::Host { host, port } => {
            put("host", host);
            put("port", &port.to_string());
            put("protocol", "tcp");
        }
        DatabasePlace::Socket { path, .. } | DatabasePlace::File(path) => {
            put("socket", &path.display().to_string());
            put("protocol", "socket");
        }
    }
    put("user", url.user.as_deref().unwrap_or("root"));
    put("password", url.password().unwrap_or_default());
    let mode = url.option("ssl-mode").unwrap_or("preferred").to_ascii_lowercase();
    let is_to_verify = mode.starts_with("verify");
    let authorities = url.option("ssl-ca").map(PathBuf::from);
    let authorities = authorities.or_else(|| authorities_of_the_system().filter(|_| is_to_verify));
    if let Some(file) = authorities {
        put("ssl-ca", &file.display().to_string());
    }
    if !is_mariadb {
        put("ssl-mode", &mode.to_ascii_uppercase());
        return settings;
    }
    settings
        + match &*mode {
            "disabled" => "skip-ssl\n",
            "preferred" => "disable-ssl-verify-server-cert\n",
            "required" => "ssl\ndisable-ssl-verify-server-cert\n",
            _ => "ssl\nssl-verify-server-cert\n",
        }
}

fn secret(url: &DatabaseUrl) -> Secret {
    Secret::new(url.password().unwrap_or_default())
}

fn authorities_of_the_system() -> Option<PathBuf> {
    AUTHORITIES.into_iter().map(PathBuf::from).find(|path| path.exists())
}

/// What a program is given of our environment: nothing that could change what it does.
fn inherited() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    let kept = ["PATH", "HOME", "TMPDIR"].into_iter();
    let kept = kept.filter_map(|name| Some((name, std::env::var_os(name)?)));
    kept.chain([("LC_ALL", "C.UTF-8".into())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_say_what_the_address_says_and_nothing_breaks_out() {
        let url = "mariadb://a:p%22%5C%23%20x@db:3307/n?ssl-mode=verify_identity&ssl-ca=/ca.pem";
        let url = url.parse().unwrap();
        assert_eq!(
            settings(&url, true),
            "[client]\nhost=\"db\"\nport=\"3307\"\nprotocol=\"tcp\"\nuser=\"a\"\npassword=\"p\\\"\\\\# x\"\n\
             ssl-ca=\"/ca.pem\"\nssl\nssl-verify-server-cert\n"
        );
        assert!(settings(&url, false).ends_with("ssl-mode=\"VERIFY_IDENTITY\"\n"));
        let near = "mysql://a@localhost/n?socket=/run/m.sock".parse().unwrap();
        assert!(settings(&near, true).contains("socket=\"/run/m.sock\"\nprotocol=\"socket\""));
    }

    #[test]
    fn no_password_is_an_argument() {
        let url = "postgres://a:hunter2@db/n".parse().unwrap();
        let access = Access {
            kind: super::super::format::Kind::NewSchema,
            url: Secret::new(""),
            schema: Some("app_a".into()),
        };
        let program = postgres(&access, &url);
        let arguments: Vec<_> = program.command.get_args().collect();
        assert!(!format!("{arguments:?}").contains("hunter2"));
        assert!(arguments.iter().any(|argument| *argument == "--schema=\"app_a\""));
    }
}
