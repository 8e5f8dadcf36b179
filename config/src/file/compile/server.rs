//! `[server]`.

use std::{collections::BTreeMap, ops::Range};

use super::{Section, pages::Pages, resolve};
use crate::{
    file::{
        check::closest,
        format::FilePath,
        keys::{AccessLogChoice, AccessLogKeys, LogChoice, OneOrMany, ServerKeys},
        source::Finding,
        text::At,
    },
    name::{AppId, ByteSize},
    spec::{
        AccessLogFormat, AccessLogSpec, ListenAddr, LogFormat, LogOutput, LogSpec, ServerLimits,
        ServerSpec, ServerTimeouts,
    },
};

/// A larger head is refused by what reads it, after its app was woken.
const MOST_HEAD: ByteSize = ByteSize(1024 * 1024);

type Addresses = At<OneOrMany<ListenAddr>>;

pub(super) fn compile(
    mut section: Section<'_>,
    keys: &ServerKeys,
    apps: &[&AppId],
    pages: &mut Pages,
) -> ServerSpec {
    let section = &mut section;
    let (listen, admin) = addresses(section, keys);
    limits_agree(section, keys);
    ServerSpec {
        listen,
        admin,
        state_dir: section.resolve(&keys.state_dir.0),
        log_dir: section.resolve(&keys.log_dir.0),
        user: keys.user.clone(),
        trusted_proxies: keys.trusted_proxies.iter().map(|network| network.value.0).collect(),
        path_access: keys.path_access,
        default_app: default_app(section, keys, apps),
        limits: limits(keys),
        timeouts: timeouts(keys),
        access_log: keys.access_log.as_ref().map(|log| access_log(section, log)),
        log: LogSpec {
            level: keys.log.level.0.0.clone(),
            format: match keys.log.format {
                LogChoice::Human => LogFormat::Human,
                LogChoice::Json => LogFormat::Json,
            },
        },
        pages: pages.of_server(section, &keys.pages),
    }
}

fn addresses(section: &mut Section<'_>, keys: &ServerKeys) -> (Vec<ListenAddr>, Vec<ListenAddr>) {
    let mut seen = BTreeMap::new();
    let listen = distinct(section, &keys.listen, &mut seen);
    let admin = distinct(section, &keys.admin, &mut seen);
    let is_told = section.is_broken();
    if listen.is_empty() && !is_told {
        let help = "write an address such as `:8080`, or leave the key out";
        section.wrong(&keys.listen.span, "Doorbell listens nowhere", help);
    }
    if !admin.iter().any(|address| matches!(address, ListenAddr::Unix(_))) && !is_told {
        section.wrong(
            &keys.admin.span,
            "no Unix socket for the `doorbell` commands",
            "add `unix:/run/doorbell/admin.sock` to the list",
        );
    }
    for (address, span) in keys.admin.each() {
        if let ListenAddr::Tcp(address) = address
            && !address.ip().is_loopback()
        {
            let place = section.place(&span);
            let message = "metrics and health can be read from other machines";
            let finding = Finding::warning(place, message);
            let help = "write a loopback address such as `127.0.0.1:9911`, unless a firewall stands \
                        before it";
            section.findings.push(finding.help(help));
        }
    }
    (listen, admin)
}

/// The addresses with paths resolved; each may stand once in `listen` and `admin` together. Port 0
/// is a new port each time.
fn distinct(
    section: &mut Section<'_>,
    addresses: &Addresses,
    seen: &mut BTreeMap<ListenAddr, Range<usize>>,
) -> Vec<ListenAddr> {
    let mut resolved = Vec::new();
    for (address, span) in addresses.each() {
        let address = match address {
            ListenAddr::Unix(path) => ListenAddr::Unix(resolve(section.source.folder(), path)),
            ListenAddr::Tcp(address) => ListenAddr::Tcp(*address),
        };
        let is_any_port = matches!(address, ListenAddr::Tcp(address) if address.port() == 0);
        match seen.get(&address).filter(|_| !is_any_port) {
            Some(first) => {
                let finding = Finding::error(section.place(&span), "this address is taken")
                    .help("each address may stand once in `listen` and `admin` together");
                let first = section.place(first);
                section.findings.push(finding.note("first used at", first));
            }
            None => {
                seen.insert(address.clone(), span);
                resolved.push(address);
            }
        }
    }
    resolved
}

fn limits_agree(section: &mut Section<'_>, keys: &ServerKeys) {
    let (head, uri) = (&keys.limits.head, &keys.limits.uri);
    if section.is_broken() {
        return;
    }
    if head.value.0.0 < 1024 {
        section.wrong(&head.span, "too small for any request", "write 1KiB or more");
    } else if head.value.0.0 > MOST_HEAD.0 {
        let help = format!("write {MOST_HEAD} or less");
        section.wrong(&head.span, "larger than a head can be read", &help);
    } else if uri.value.0.0 < 64 {
        section.wrong(&uri.span, "too small for most requests", "write 64B or more");
    } else if uri.value.0 > head.value.0 {
        let span = if uri.span.is_empty() { &head.span } else { &uri.span };
        let help = format!("`uri` is {}, `head` is {}", uri.value.0, head.value.0);
        // Sizes may come from the environment; then they are not repeated.
        let is_written = !section.source.written(&uri.span).contains('$')
            && !section.source.written(&head.span).contains('$');
        let help = if is_written { help } else { "raise `head`, or lower `uri`".into() };
        section.wrong(span, "`uri` is part of `head`, and cannot be larger", help);
    }
}

fn limits(keys: &ServerKeys) -> ServerLimits {
    let limits = &keys.limits;
    ServerLimits {
        connections: limits.connections,
        head: limits.head.value.0,
        uri: limits.uri.value.0,
        held_requests: limits.held_requests,
        parallel_starts: limits
            .parallel_starts
            .unwrap_or_else(ServerLimits::parallel_starts_of_this_machine),
        memory: limits.memory.as_ref().map(|memory| memory.0),
        body_rate: limits.body_rate.0,
    }
}

fn timeouts(keys: &ServerKeys) -> ServerTimeouts {
    let timeouts = &keys.timeouts;
    ServerTimeouts {
        header: timeouts.header.0.0,
        keep_alive: timeouts.keep_alive.0.0,
        body_idle: timeouts.body_idle.0.0,
        write_idle: timeouts.write_idle.0.0,
        shutdown: timeouts.shutdown.0,
        upgrade: timeouts.upgrade.0,
    }
}

fn access_log(section: &Section<'_>, keys: &AccessLogKeys) -> AccessLogSpec {
    let FilePath(path) = &keys.path.0;
    AccessLogSpec {
        output: if path.as_os_str() == "stdout" {
            LogOutput::Stdout
        } else {
            LogOutput::File(section.resolve(&keys.path.0))
        },
        format: match keys.format {
            AccessLogChoice::Combined => AccessLogFormat::Combined,
            AccessLogChoice::Json => AccessLogFormat::Json,
        },
    }
}

fn default_app(section: &mut Section<'_>, keys: &ServerKeys, apps: &[&AppId]) -> Option<AppId> {
    let wanted = keys.default_app.as_ref()?;
    let id = &wanted.value.0;
    if apps.contains(&id) {
        return Some(id.clone());
    }
    let help = match closest(id.as_str(), apps.iter().map(|app| app.as_str())) {
        Some(known) => format!("did you mean \"{known}\"?"),
        None => "write the id of an app, the part after `app.`".to_owned(),
    };
    section.wrong(&wanted.span, "there is no app of this id", help);
    None
}
