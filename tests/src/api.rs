//! The admin API over TCP, as a program asks it.

use serde_json::Value;

use crate::{Connection, Doorbell, Response};

/// One who asks, with a token or without.
#[derive(Clone, Debug)]
pub struct Api {
    port: u16,
    token: Option<String>,
}

impl Doorbell {
    /// The API for whoever has a new token of this scope.
    #[must_use]
    pub fn api(&self, scope: &str) -> Api {
        let name = format!("test-{scope}-{:x}", rand_u64());
        let token = self.ok(&["token", "add", &name, "--scope", scope]);
        self.api_with(token.trim())
    }

    /// The API for whoever has this token.
    #[must_use]
    pub fn api_with(&self, token: &str) -> Api {
        Api { port: self.metrics_port, token: Some(token.to_owned()) }
    }

    /// The API for a stranger.
    #[must_use]
    pub fn api_of_stranger(&self) -> Api {
        Api { port: self.metrics_port, token: None }
    }
}

fn rand_u64() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

impl Api {
    /// Asks; `fields` are further lines of the head.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, fields: &[&str], body: &Value) -> Response {
        let mut connection = Connection::open(self.port);
        connection.send(self.request(method, path, fields, body));
        connection.read()
    }

    /// Asks, and leaves the answer to be read.
    #[must_use]
    pub fn begin(&self, path: &str, fields: &[&str]) -> Connection {
        let mut connection = Connection::open(self.port);
        connection.send(self.request("GET", path, fields, &Value::Null));
        connection
    }

    /// Asks without a body.
    #[must_use]
    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[], &Value::Null)
    }

    fn request(&self, method: &str, path: &str, fields: &[&str], body: &Value) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        for field in fields {
            head += &format!("{field}\r\n");
        }
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
    }
}
