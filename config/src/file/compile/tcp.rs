//! `[tcp.<id>]`: what only TCP apps have.

use std::{collections::BTreeSet, path::Path};

use super::{Section, resolve};
use crate::{
    file::keys::{AppKeys, ReadyChoice, TcpEntrance},
    spec::{AppKind, ListenAddr, ProxyProtocol, TcpSpec},
};

pub(super) fn compile(
    section: &mut Section<'_>,
    keys: &AppKeys,
    entrance: &TcpEntrance,
) -> AppKind {
    if let Some(ready) = &keys.ready
        && let ReadyChoice::Table(ready) = &ready.value
        && let Some(path) = &ready.http
    {
        let help = "write `notify = true` if the program says when it is ready, or leave it out";
        section.wrong(&path.span, "a TCP app is not asked over HTTP", help);
    }
    let mut seen = BTreeSet::new();
    let mut listen = Vec::new();
    for (address, span) in entrance.listen.each() {
        let address = resolved(section.source.folder(), address);
        if matches!(address, ListenAddr::Tcp(address) if address.port() == 0) {
            section.wrong(&span, "nobody would know this port", "write a port of 1 or more");
        } else if seen.insert(address.clone()) {
            listen.push(address);
        } else {
            section.wrong(&span, "this address stands here twice", "remove one of them");
        }
    }
    if entrance.listen.each().is_empty() && !section.is_broken() {
        let help = "write an address such as `127.0.0.1:5432`";
        section.wrong(&entrance.listen.span, "nobody can connect to the app", help);
    }
    listen.shrink_to_fit();
    let proxy_protocol =
        if entrance.proxy_protocol { ProxyProtocol::Version1 } else { ProxyProtocol::Off };
    AppKind::Tcp(TcpSpec { listen, proxy_protocol }.into())
}

/// The address, with the path of a socket taken from the folder of its file.
pub(super) fn resolved(folder: &Path, address: &ListenAddr) -> ListenAddr {
    match address {
        ListenAddr::Unix(path) => ListenAddr::Unix(resolve(folder, path)),
        ListenAddr::Tcp(address) => ListenAddr::Tcp(*address),
    }
}
