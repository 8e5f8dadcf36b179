//! Apps whose clients speak anything over TCP or a Unix socket.

use serde::{Deserialize, Serialize};

use super::{AppSpec, ListenAddr};
use crate::interned::Interned;

/// What an app's clients speak.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppKind {
    /// HTTP: requests find it by its routes.
    #[default]
    Http,
    /// Whatever they like, on addresses of its own. It has no routes.
    Tcp(Interned<TcpSpec>),
}

/// How clients reach a TCP app.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TcpSpec {
    /// Where they connect; at least one.
    pub listen: Vec<ListenAddr>,
    /// Whether the app is told who they are.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
}

/// Whether an app is told the client's address before its first byte, in the PROXY protocol
/// (<https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProxyProtocol {
    /// It is not.
    #[default]
    Off,
    /// By a line of text.
    Version1,
}

impl AppSpec {
    /// How clients reach it, if it is a TCP app.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpSpec> {
        match &self.kind {
            AppKind::Http => None,
            AppKind::Tcp(tcp) => Some(tcp),
        }
    }
}
