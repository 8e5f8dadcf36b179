//! Text that an instance's port, socket, id or base path is filled into.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};

use super::Secret;
use crate::name::{AppId, NameError};

/// Text with placeholders, split at load time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Template(pub Vec<TemplatePart>);

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TemplatePart {
    /// Taken as it is.
    Text(String),
    /// Filled in for each instance.
    Placeholder(Placeholder),
}

/// What a [`Template`] may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Placeholder {
    /// `{port}`: the instance's TCP port.
    Port,
    /// `{socket}`: path of the instance's Unix socket.
    Socket,
    /// `{id}`: the app's id.
    Id,
    /// `{base_path}`: the prefix under which clients reach the app, `/` when it has a host of its
    /// own.
    BasePath,
    /// `{version}`: which version of its program the app is.
    Version,
    /// `{secret}`: what was generated for the app and nobody else knows.
    Secret,
    /// `{database_url}` and the like: how the app gets to its database.
    Database(DatabasePart),
}

/// A part of how an app gets to its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DatabasePart {
    /// `{database_url}`: all that it takes to connect.
    Url,
    /// `{database_host}`: name or address of the server, or the path of its socket.
    Host,
    /// `{database_port}`: its port.
    Port,
    /// `{database_name}`: the database's name, for SQLite its file.
    Name,
    /// `{database_user}`: who connects.
    User,
    /// `{database_password}`: what proves it.
    Password,
    /// `{database_schema}`: the schema, where the app has one of its own.
    Schema,
    /// `{database_dialect}`: `postgres`, `mysql`, `mariadb` or `sqlite`.
    Dialect,
}

/// What is filled in.
#[derive(Clone, Copy, Debug)]
pub struct PlaceholderValues<'a> {
    /// For `{port}`; an instance on a socket has none.
    pub port: Option<u16>,
    /// For `{socket}`; an instance on a port has none.
    pub socket: Option<&'a Path>,
    /// For `{id}`.
    pub id: &'a AppId,
    /// For `{base_path}`: [`AppSpec::base_path`](super::AppSpec::base_path).
    pub base_path: &'a str,
    /// For `{version}`; an app without one has none.
    pub version: Option<&'a str>,
    /// For `{secret}`; an app without one has none.
    pub secret: Option<&'a str>,
    /// For `{database_url}` and the like, by what stands between the braces; without a database, nothing.
    pub database: &'a [(String, Secret)],
}

impl Placeholder {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Port,
        Self::Socket,
        Self::Id,
        Self::BasePath,
        Self::Version,
        Self::Secret,
        Self::Database(DatabasePart::Url),
        Self::Database(DatabasePart::Host),
        Self::Database(DatabasePart::Port),
        Self::Database(DatabasePart::Name),
        Self::Database(DatabasePart::User),
        Self::Database(DatabasePart::Password),
        Self::Database(DatabasePart::Schema),
        Self::Database(DatabasePart::Dialect),
    ];

    /// What stands between the braces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Socket => "socket",
            Self::Id => "id",
            Self::BasePath => "base_path",
            Self::Version => "version",
            Self::Secret => "secret",
            Self::Database(DatabasePart::Url) => "database_url",
            Self::Database(DatabasePart::Host) => "database_host",
            Self::Database(DatabasePart::Port) => "database_port",
            Self::Database(DatabasePart::Name) => "database_name",
            Self::Database(DatabasePart::User) => "database_user",
            Self::Database(DatabasePart::Password) => "database_password",
            Self::Database(DatabasePart::Schema) => "database_schema",
            Self::Database(DatabasePart::Dialect) => "database_dialect",
        }
    }
}

impl Template {
    /// Text without placeholders; braces in it are braces.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self(vec![TemplatePart::Text(text.into())])
    }

    /// Splits text at its placeholders. `{{` and `}}` are literal braces.
    ///
    /// # Errors
    /// When a brace stands alone, or a placeholder has no meaning. Only the placeholder is
    /// repeated, never the text around it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            plain.push_str(before);
            rest = &brace[1..];
            if let Some(after) = rest.strip_prefix(&brace[..1]) {
                plain.push_str(&brace[..1]);
                rest = after;
                continue;
            }
            let name = match rest.split_once('}') {
                Some((name, after)) if brace.starts_with('{') && is_name(name) => {
                    rest = after;
                    name
                }
                _ => return Err(lone_brace()),
            };
            if !plain.is_empty() {
                parts.push(TemplatePart::Text(std::mem::take(&mut plain)));
            }
            parts.push(TemplatePart::Placeholder(placeholder(name)?));
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(TemplatePart::Text(plain));
        }
        // There are thousands of apps, most of which sleep: no room to spare.
        parts.shrink_to_fit();
        Ok(Self(parts))
    }

    /// Whether it asks for this.
    #[must_use]
    pub fn asks_for(&self, placeholder: Placeholder) -> bool {
        self.0.contains(&TemplatePart::Placeholder(placeholder))
    }

    /// Whether it asks for something of a database.
    #[must_use]
    pub fn asks_for_database(&self) -> bool {
        let is_part = |part: &TemplatePart| {
            matches!(part, TemplatePart::Placeholder(Placeholder::Database(_)))
        };
        self.0.iter().any(is_part)
    }

    /// The text with every placeholder filled in; one that has no value becomes nothing, which a
    /// config that was read from a file rules out.
    #[must_use]
    pub fn render(&self, values: &PlaceholderValues<'_>) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                TemplatePart::Text(text) => out.push_str(text),
                TemplatePart::Placeholder(Placeholder::Port) => {
                    out.push_str(&values.port.map(|port| port.to_string()).unwrap_or_default());
                }
                TemplatePart::Placeholder(Placeholder::Socket) => {
                    out.push_str(&values.socket.map(Path::to_string_lossy).unwrap_or_default());
                }
                TemplatePart::Placeholder(Placeholder::Id) => out.push_str(values.id.app_str()),
                TemplatePart::Placeholder(Placeholder::BasePath) => out.push_str(values.base_path),
                TemplatePart::Placeholder(Placeholder::Version) => {
                    out.push_str(values.version.unwrap_or_default());
                }
                TemplatePart::Placeholder(Placeholder::Secret) => {
                    out.push_str(values.secret.unwrap_or_default());
                }
                TemplatePart::Placeholder(part @ Placeholder::Database(_)) => {
                    let known = values.database.iter().find(|(name, _)| name == part.name());
                    out.push_str(known.map(|(_, value)| value.reveal()).unwrap_or_default());
                }
            }
        }
        out
    }
}

/// As it was written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            TemplatePart::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}")),
            TemplatePart::Placeholder(placeholder) => write!(f, "{{{}}}", placeholder.name()),
        })
    }
}

/// Whether somebody may have meant a placeholder.
fn is_name(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn lone_brace() -> NameError {
    NameError(format!(
        "a brace without a placeholder: write `{{{{` and `}}}}` for braces, or {}",
        known()
    ))
}

fn placeholder(name: &str) -> Result<Placeholder, NameError> {
    Placeholder::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
        NameError(format!(
            "unknown placeholder `{{{name}}}`: write {}, or `{{{{` and `}}}}` for braces",
            known()
        ))
    })
}

fn known() -> String {
    Placeholder::ALL.map(|known| format!("`{{{}}}`", known.name())).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, port: Option<u16>, socket: Option<&str>) -> String {
        let id = AppId::parse("blog").unwrap();
        let socket = socket.map(Path::new);
        let values = PlaceholderValues {
            port,
            socket,
            id: &id,
            base_path: "/blog",
            version: Some("2.1"),
            secret: None,
            database: &[],
        };
        Template::parse(text).unwrap().render(&values)
    }

    #[test]
    fn placeholders_are_filled_in() {
        assert_eq!(render("--port={port}", Some(8080), None), "--port=8080");
        assert_eq!(render("{socket}", None, Some("/run/a.sock")), "/run/a.sock");
        assert_eq!(render("{id} at {base_path}!", None, None), "blog at /blog!");
        assert_eq!(render("/srv/{version}/run", None, None), "/srv/2.1/run");
        assert_eq!(render("", None, None), "");
    }

    #[test]
    fn doubled_braces_are_braces_and_print_as_written() {
        assert_eq!(render(r#"{{"port": {port}}}"#, Some(1), None), r#"{"port": 1}"#);
        for text in [r#"{{"port": {port}}}"#, "a{id}b", "}}{{", "plain"] {
            assert_eq!(Template::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn lone_braces_and_unknown_placeholders_are_refused() {
        for text in ["{", "}", "a{port", "{}", "{prt}", "{ port }", "{{}", "{port}}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_repeats_only_the_placeholder() {
        let error = Template::parse("hunter2 {prt} hunter2").unwrap_err().to_string();
        assert!(error.contains("{prt}") && !error.contains("hunter2"));
    }
}
