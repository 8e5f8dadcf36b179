//! How an app gets to its database.

use doorbell_config::spec::{DatabasePlace, DatabaseUrl, Dialect};

use super::Secret;

/// How an app gets to its database: what is filled in for `{database_url}` and the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// All of it in one.
    pub url: Secret,
    /// Name or address of the server, or the path of its socket; empty for SQLite.
    pub host: String,
    /// Its port, where it has one.
    pub port: Option<u16>,
    /// The database; for SQLite its file.
    pub name: String,
    /// Who connects; empty for SQLite.
    pub user: String,
    /// What proves it; empty for SQLite.
    pub password: Secret,
    /// The schema, where the app has one of its own.
    pub schema: Option<String>,
    /// Which kind of database it is.
    pub dialect: Dialect,
}

impl Connection {
    /// What an app's user connects with to a database of this server.
    pub(super) fn of_user(server: &DatabaseUrl, name: &str, user: &str, password: &Secret) -> Self {
        let dialect = server.dialect;
        let mut options: Vec<(&str, String)> = Vec::new();
        let (host, port, authority) = match &server.place {
            DatabasePlace::Host { host, port } => {
                let shown = if host.contains(':') { format!("[{host}]") } else { encoded(host) };
                (host.clone(), Some(*port), format!("{shown}:{port}"))
            }
            DatabasePlace::Socket { path, port } => {
                let path = path.display().to_string();
                let key = if dialect == Dialect::Postgres { "host" } else { "socket" };
                options.push((key, path.clone()));
                // Programs want a host in an address, even where they do not ask it.
                (path, Some(*port), format!("localhost:{port}"))
            }
            DatabasePlace::File(path) => (path.display().to_string(), None, String::new()),
        };
        options.extend(server.options().iter().map(|(key, value)| (key.as_str(), value.clone())));
        let asked: Vec<_> =
            options.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
        let asked = if asked.is_empty() { String::new() } else { format!("?{}", asked.join("&")) };
        let (scheme, secret) = (dialect.name(), encoded(password.reveal()));
        let url =
            format!("{scheme}://{}:{secret}@{authority}/{}{asked}", encoded(user), encoded(name));
        Self {
            url: Secret::new(url),
            host,
            port,
            name: name.into(),
            user: user.into(),
            password: password.clone(),
            schema: None,
            dialect,
        }
    }

    /// A file of SQLite.
    pub(super) fn of_file(path: &std::path::Path) -> Self {
        let name = path.display().to_string();
        Self {
            url: Secret::new(format!("sqlite:{name}")),
            host: String::new(),
            port: None,
            name,
            user: String::new(),
            password: Secret::new(""),
            schema: None,
            dialect: Dialect::Sqlite,
        }
    }

    /// The values of all placeholders, by their names. What has no value is empty.
    #[must_use]
    pub fn values(&self) -> [(&'static str, Secret); 8] {
        let port = self.port.map(|port| port.to_string()).unwrap_or_default();
        [
            ("database_url", self.url.clone()),
            ("database_host", Secret::new(&*self.host)),
            ("database_port", Secret::new(port)),
            ("database_name", Secret::new(&*self.name)),
            ("database_user", Secret::new(&*self.user)),
            ("database_password", self.password.clone()),
            ("database_schema", Secret::new(self.schema.as_deref().unwrap_or_default())),
            ("database_dialect", Secret::new(self.dialect.name())),
        ]
    }
}

/// The text with `%XX` for all that could have a meaning in an address.
fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(server: &str) -> Connection {
        let server = server.parse().unwrap();
        Connection::of_user(&server, "app_a", "app_a", &Secret::new("p@ss/w:rd?'#%é"))
    }

    #[test]
    fn an_address_is_read_as_what_it_was_made_of() {
        for server in [
            "postgres://admin@db:5433/?sslmode=require",
            "postgres://admin:secret@[::1]/",
            "postgres://admin@/?host=/run/a b",
            "mysql://root@db/?ssl-mode=required",
            "mariadb://root@localhost/?socket=/run/m.sock",
        ] {
            let made = of(server);
            let read: DatabaseUrl = made.url.reveal().parse().unwrap();
            let given: DatabaseUrl = server.parse().unwrap();
            assert_eq!((&read.place, read.options()), (&given.place, given.options()), "{server}");
            assert_eq!(read.user.as_deref(), Some("app_a"));
            assert_eq!(read.password(), Some("p@ss/w:rd?'#%é"));
            assert_eq!(read.database.as_deref(), Some("app_a"));
            assert_eq!(read.dialect, given.dialect);
        }
    }

    #[test]
    fn nothing_of_it_prints_the_password() {
        assert!(!format!("{:?}", of("postgres://admin@db/")).contains("p@ss"));
    }
}
