//! How the address of a database is read.
//!
//! `scheme://user:password@host:port/database?option=value`, each part with `%XX` for what has a meaning
//! in an address. Sockets are written as the databases' own programs take them: `?host=/folder` for
//! PostgreSQL, `?socket=/path` for MySQL and MariaDB.

use std::{path::PathBuf, str::FromStr};

use super::{DatabasePlace, DatabaseUrl, Dialect, SEALED};
use crate::name::NameError;

const SCHEMES: [(&str, Dialect); 5] = [
    ("postgres://", Dialect::Postgres),
    ("postgresql://", Dialect::Postgres),
    ("mysql://", Dialect::MySql),
    ("mariadb://", Dialect::MariaDb),
    ("sqlite:", Dialect::Sqlite),
];

/// Never repeats what was written: there may be a password in it.
impl FromStr for DatabaseUrl {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.chars().any(char::is_control) {
            return wrong("a line break or another control character: write it as `%XX`");
        }
        if text.starts_with(SEALED) {
            return wrong(
                "its address is sealed, and cannot be opened here: restore the keys of secrets, or write it anew",
            );
        }
        let known = SCHEMES.into_iter().find(|(scheme, _)| text.starts_with(scheme));
        match known {
            Some((scheme, Dialect::Sqlite)) => sqlite(text, &text[scheme.len()..]),
            Some((scheme, dialect)) => server(text, &text[scheme.len()..], dialect),
            None => wrong(
                "no address of a database: write `postgres://user:password@host/`, `mysql://…`, \
                 `mariadb://…`, or `sqlite:/folder`",
            ),
        }
    }
}

fn sqlite(text: &str, path: &str) -> Result<DatabaseUrl, NameError> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') || path.contains(['?', '%']) {
        return wrong("no folder for SQLite: write its absolute path, `sqlite:/path/to/folder`");
    }
    Ok(DatabaseUrl {
        text: text.into(),
        dialect: Dialect::Sqlite,
        place: DatabasePlace::File(PathBuf::from(path)),
        user: None,
        password: None,
        database: None,
        options: Vec::new(),
    })
}

fn server(text: &str, rest: &str, dialect: Dialect) -> Result<DatabaseUrl, NameError> {
    let (rest, asked) = rest.split_once('?').unwrap_or((rest, ""));
    if rest.contains('#') || asked.contains('#') {
        return wrong("a `#` in the address: write `%23`");
    }
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if database.contains(['/', '@']) {
        return wrong(
            "no name of a database behind the host: write `%2F` for a `/` and `%40` for an `@`",
        );
    }
    let (who, host) = match authority.rsplit_once('@') {
        Some((who, host)) => (Some(who), host),
        None => (None, authority),
    };
    let (user, password) = match who.map(|who| who.split_once(':').ok_or(who)) {
        Some(Ok((user, password))) => (Some(decoded(user)?), Some(decoded(password)?)),
        Some(Err(user)) => (Some(decoded(user)?), None),
        None => (None, None),
    };
    let mut options = Vec::new();
    for pair in asked.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        options.push((decoded(key)?, decoded(value)?));
    }
    let database = decoded(database)?;
    Ok(DatabaseUrl {
        text: text.into(),
        dialect,
        place: place(dialect, host, &mut options)?,
        user: user.filter(|user| !user.is_empty()),
        password,
        database: Some(database).filter(|name| !name.is_empty()),
        options,
    })
}

/// Takes from the options what says where it is.
fn place(
    dialect: Dialect,
    host: &str,
    options: &mut Vec<(String, String)>,
) -> Result<DatabasePlace, NameError> {
    let (host, port) = host_and_port(host)?;
    let mut port = port.or(dialect.port()).unwrap_or_default();
    let key = if dialect == Dialect::Postgres { "host" } else { "socket" };
    let socket = options.iter().position(|(name, _)| name == key);
    let socket = socket.map(|at| options.remove(at).1);
    if let (Dialect::Postgres, Some(at)) =
        (dialect, options.iter().position(|(name, _)| name == "port"))
    {
        port = number(&options.remove(at).1)?;
    }
    match socket {
        Some(path) if path.starts_with('/') => {
            Ok(DatabasePlace::Socket { path: path.into(), port })
        }
        Some(name) if dialect == Dialect::Postgres && !name.is_empty() => {
            Ok(DatabasePlace::Host { host: name, port })
        }
        Some(_) => wrong("no path of a socket: write an absolute one, `?socket=/path`"),
        // PostgreSQL takes the folder of its socket for a host, if the slashes are hidden.
        None if host.starts_with('/') && dialect == Dialect::Postgres => {
            Ok(DatabasePlace::Socket { path: host.into(), port })
        }
        None if host.is_empty() => wrong(&format!(
            "on which host is it: write `{}://user:password@host/`, or `?{key}=/path` behind it for a \
             Unix socket",
            dialect.name()
        )),
        None => Ok(DatabasePlace::Host { host, port }),
    }
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), NameError> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.filter(|port| !port.is_empty()).map(number).transpose()?;
    let host = decoded(host)?;
    if host.contains([' ', ',', '@']) {
        return wrong("no host of a database: write one name or address");
    }
    Ok((host, port))
}

fn number(port: &str) -> Result<u16, NameError> {
    port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        NameError(
            "no port of a database: write a number up to 65535, and in the password `%3A` for a `:`, \
             `%40` for an `@`, `%2F` for a `/`"
                .into(),
        )
    })
}

/// The text with every `%XX` as the byte it stands for.
fn decoded(text: &str) -> Result<String, NameError> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
                _ => return wrong("a `%` that hides nothing: write `%25`"),
            },
            byte => out.push(byte),
        }
    }
    match String::from_utf8(out) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => wrong("a `%XX` that is no text: write the bytes of UTF-8, and none of them zero"),
    }
}

fn wrong<T>(text: &str) -> Result<T, NameError> {
    Err(NameError(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> DatabaseUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn parts_are_what_was_written() {
        let url = read("postgresql://ad%40min:p%3A%2f%23@db.example.com:5433/main?sslmode=require");
        assert_eq!(url.user.as_deref(), Some("ad@min"));
        assert_eq!(url.password(), Some("p:/#"));
        assert_eq!(url.database.as_deref(), Some("main"));
        assert_eq!(url.option("sslmode"), Some("require"));
        assert_eq!(url.place, DatabasePlace::Host { host: "db.example.com".into(), port: 5433 });
        assert_eq!(url.to_string(), "postgres://ad@min@db.example.com:5433/main");
        let v6 = read("mysql://root@[::1]/").place;
        assert_eq!(v6, DatabasePlace::Host { host: "::1".into(), port: 3306 });
    }

    #[test]
    fn sockets_are_written_as_the_databases_own_programs_take_them() {
        let folder = DatabasePlace::Socket { path: "/run/pg".into(), port: 5432 };
        assert_eq!(read("postgres://a@/b?host=/run/pg").place, folder);
        assert_eq!(read("postgres://a@%2Frun%2Fpg/b").place, folder);
        let socket = DatabasePlace::Socket { path: "/run/m.sock".into(), port: 3306 };
        assert_eq!(read("mariadb://a@localhost/?socket=/run/m.sock").place, socket);
    }

    #[test]
    fn mistakes_are_told_without_what_was_written() {
        for text in [
            "hunter2",
            "postgres://",
            "postgres:///b",
            "postgres://a:hunter2#@host/b",
            "postgres://a:hun/ter2@host/b",
            "postgres://a:hunter%2@host/b",
            "postgres://a:%ff@host/b",
            "postgres://a:%00@host/b",
            "postgres://host:hunter2/b",
            "mysql://a@host/?socket=hunter2",
            "sqlite:hunter2",
            "sqlite:/a?hunter2",
            "postgres://a:hun\nter2@host/b",
        ] {
            let error = text.parse::<DatabaseUrl>().expect_err(text).to_string();
            assert!(!error.contains("hunter") && error.contains(": "), "{text}: {error}");
        }
    }

    #[test]
    fn nothing_prints_a_password() {
        let url = read("mysql://root:hunter2@host/x?password=hunter2");
        assert!(!format!("{url} {url:?}").contains("hunter2"));
    }
}
