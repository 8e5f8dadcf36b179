//! Bodies that the API takes, as its document shows them.

use serde_json::{Value, json};

/// One that is on most machines.
fn program() -> Value {
    json!(["python3", "-m", "http.server", "--bind", "127.0.0.1", "{port}"])
}

/// An app with a good deal of what there is.
pub(super) fn keys() -> Value {
    json!({
        "name": "Company blog",
        "hosts": ["blog.example.com"],
        "command": program(),
        "directory": "/tmp",
        "env": {"APP_KEY": "{secret}", "GREETING": "hello"},
        "secret": "auto",
        "idle": {"stop_after": "15m"},
        "stop": {"grace": "5s"},
        "limits": {"held_requests": 100},
    })
}

pub(super) fn new_app() -> Value {
    let mut app = keys();
    app["id"] = "blog".into();
    app
}

pub(super) fn new_tcp_app() -> Value {
    json!({
        "id": "cache",
        "kind": "tcp",
        "listen": "127.0.0.1:16379",
        "command": program(),
    })
}

pub(super) fn patch() -> Value {
    json!({"name": "The blog", "idle": {"stop_after": "1h"}, "env": {"GREETING": null}})
}

pub(super) fn apply() -> Value {
    json!({
        "add": {"shop": {
            "hosts": ["shop.example.com"], "upstream": "http://127.0.0.1:3000", "secrets": null,
        }},
        "put": {"wiki": {
            "hosts": ["wiki.example.com"], "command": program(), "secrets": ["API_KEY"],
        }},
        "secrets": {"wiki": {"API_KEY": "what nobody else knows"}},
    })
}

pub(super) fn rename() -> Value {
    json!({"to": "news"})
}

pub(super) fn value() -> Value {
    json!({"value": "what nobody else knows"})
}

/// A key that age's own page shows.
pub(super) fn recipient() -> Value {
    let key = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    json!({"recipient": key, "database": false})
}

pub(super) fn imported() -> Value {
    let keys = json!({
        "hosts": ["docs.example.com"], "command": program(), "secrets": ["API_KEY"],
        "secret": "auto",
    });
    json!({
        "id": "docs",
        "keys": keys,
        "secret": "what it knew elsewhere",
        "secrets": {"API_KEY": "what nobody else knows"},
    })
}

pub(super) fn token() -> Value {
    json!({"name": "deploy", "scope": "operate"})
}
