//! Addresses: where Doorbell listens, and where upstream servers do.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::text::FromText;
use crate::{
    name::{Hostname, NameError},
    spec::{ListenAddr, UpstreamServer},
};

fn wrong<T>(text: &str) -> Result<T, NameError> {
    Err(NameError(text.into()))
}

/// Longest path of a Unix socket, unix(7), without its NUL.
const MAX_SOCKET_PATH: usize = 107;

fn socket_path(path: &str) -> Result<PathBuf, NameError> {
    if path.is_empty() || path.chars().any(char::is_control) {
        return wrong("`unix:` needs a path: write `unix:/run/doorbell/http.sock`");
    }
    if path.len() > MAX_SOCKET_PATH {
        return wrong("the path of a Unix socket has at most 107 bytes: choose a shorter one");
    }
    Ok(path.into())
}

impl FromText for ListenAddr {
    const FORMAT: &'static str = "listen";
    const MEANING: &'static str =
        "`127.0.0.1:8080`, `[::1]:8080`, `:8080` (every address) or `unix:/path/to/socket`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(Self::Unix);
        }
        if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()) {
            return Ok(Self::Tcp((Ipv6Addr::UNSPECIFIED, port).into()));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp(address));
        }
        if text.parse::<IpAddr>().is_ok() {
            return wrong(
                "an address to listen on has a port: write `127.0.0.1:8080` or `[::1]:8080`",
            );
        }
        if text.parse::<u16>().is_ok() {
            return wrong("a port alone is no address: write `:8080` for every address");
        }
        if text.starts_with('/') {
            return wrong("a path alone is no address: write `unix:/path/to/socket`");
        }
        wrong(
            "not an address to listen on: write an IP address and a port such as `127.0.0.1:8080`, \
             `:8080`, or `unix:/path/to/socket`",
        )
    }
    fn to_text(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

impl FromText for UpstreamServer {
    const FORMAT: &'static str = "server";
    const MEANING: &'static str =
        "`http://10.0.0.5:3000`, `https://app.internal` or `unix:/path/to/socket`";
    fn from_text(text: &str) -> Result<Self, NameError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).and_then(absolute).map(Self::Unix);
        }
        let (rest, default_port, is_tls) = match text.split_once("://") {
            Some(("http", rest)) => (rest, 80, false),
            Some(("https", rest)) => (rest, 443, true),
            _ => {
                return wrong(
                    "not a server: write `http://host:port`, `https://host:port` or \
                     `unix:/path/to/socket`",
                );
            }
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return wrong(
                "a server has no path: requests keep their own; write `http://host:port`",
            );
        }
        if rest.contains('@') {
            return wrong("a server has no user or password: write `http://host:port`");
        }
        let host = Hostname::parse(rest)?.to_string();
        let port = match rest.rsplit_once(':') {
            Some((_, port)) if !port.contains(']') && !port.is_empty() => port.parse().ok(),
            _ => Some(default_port),
        };
        match port {
            None | Some(0) => wrong("a server's port is 1 to 65535: write `http://host:port`"),
            Some(port) if is_tls => Ok(Self::Https { host, port }),
            Some(port) => Ok(Self::Http { host, port }),
        }
    }
    fn to_text(&self) -> String {
        match self {
            Self::Http { host, port } => format!("http://{host}:{port}"),
            Self::Https { host, port } => format!("https://{host}:{port}"),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, NameError> {
    if Path::new(&path).is_absolute() {
        return Ok(path);
    }
    wrong("a server's socket is an absolute path: write `unix:/path/to/socket`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_tcp_or_unix() {
        for (text, same) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            (":80", "[::]:80"),
            ("[::1]:80", "[::1]:80"),
            ("unix:/a", "unix:/a"),
            ("unix:run/a.sock", "unix:run/a.sock"),
        ] {
            assert_eq!(ListenAddr::from_text(text).unwrap().to_text(), same);
        }
        for text in ["", "80", "127.0.0.1", "::1", "localhost:80", ":99999", "unix:", "/a", "a:b"] {
            assert!(ListenAddr::from_text(text).is_err(), "{text}");
        }
        assert!(ListenAddr::from_text(&format!("unix:/{}", "a".repeat(107))).is_err());
    }

    #[test]
    fn servers_have_a_scheme_and_no_path() {
        for (text, same) in [
            ("http://10.0.0.5:3000", "http://10.0.0.5:3000"),
            ("http://App.internal/", "http://app.internal:80"),
            ("https://[::1]", "https://[::1]:443"),
            ("https://[::1]:8443", "https://[::1]:8443"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(UpstreamServer::from_text(text).unwrap().to_text(), same);
        }
        for text in [
            "",
            "10.0.0.5:3000",
            "ftp://a",
            "http://",
            "http://a/b",
            "http://u:p@a",
            "http://a:0",
            "http://a:99999",
            "http://a b",
            "unix:a",
            "http://a?x",
        ] {
            assert!(UpstreamServer::from_text(text).is_err(), "{text}");
        }
    }
}
