//! What an app is told beyond the client's own words: the forwarding headers, and what is taken out.
//!
//! From anyone but a trusted proxy, forwarding headers are replaced by what we know ourselves; a
//! trusted proxy's are kept and continued. Fields that an app could mistake for them (`_` for `-`)
//! go, whoever sent them. Hop-by-hop fields (RFC 9110 section 7.6.1) and those that `Connection`
//! nominates are taken out by the sender of the request.
//!
//! Pure: facts in, [`Passage`] out. [`RequestHead::forwarded_bytes`] applies it, and for HTTP/2
//! [`crate::front`].

use std::{net::IpAddr, ops::Range};

use ipnet::IpNet;
use uuid::Uuid;

use crate::{
    head::{RequestHead, same_name},
    look::X_APP,
    transport::ConnFacts,
};

/// Longest request id taken over from a trusted proxy.
const MAX_REQUEST_ID: usize = 128;
/// Room for the values of a usual request.
const USUAL: usize = 256;

/// Fields that are ours to set; what a client sends under these names, or under spellings that an
/// app could take for them, goes.
const OURS: [&str; 12] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
    "x-request-id",
    X_APP,
    "x-hostname",
    "forwarded",
];
/// Read as `HTTP_PROXY` by CGI-like apps: CVE-2016-5385.
const PROXY: &str = "proxy";

/// What is known of a request's way to us, and what the app is told of it.
#[derive(Clone, Debug)]
pub struct Passage {
    /// The client, behind trusted proxies; `None` on a Unix socket that named none.
    pub client: Option<IpAddr>,
    /// All values, one behind the other.
    text: String,
    set: Vec<(&'static str, Range<usize>)>,
    request_id: Range<usize>,
    client_app_headers: bool,
    /// Whether the app is told which of several it is.
    names_app: bool,
}

/// What the app's definition says about forwarding.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Peers whose word is taken.
    pub trusted_proxies: &'a [IpNet],
    /// The prefix that was stripped from the path; empty if none was.
    pub stripped_prefix: &'a str,
    /// Whether `X-App` and `X-Hostname` of clients reach the app.
    pub client_app_headers: bool,
    /// Which of several apps an instance is to be, for `X-App`; `None` where it serves one.
    pub app: Option<&'a str>,
}

impl Passage {
    /// Works out what the app is told of this request.
    #[must_use]
    pub fn of(head: &RequestHead, facts: &ConnFacts, rules: Rules<'_>) -> Self {
        let peer = facts.peer_ip();
        let client = if facts.trusted {
            client_behind_proxies(head, peer, rules.trusted_proxies)
        } else {
            peer
        };
        let mut passage = Self {
            client,
            text: String::with_capacity(USUAL),
            // The eight that every request has, and `X-App`.
            set: Vec::with_capacity(9),
            request_id: 0..0,
            client_app_headers: rules.client_app_headers,
            names_app: rules.app.is_some(),
        };
        if let Some(app) = rules.app {
            passage.put(X_APP, app);
        }
        passage.tell_way(head, facts);
        passage.tell_front(head, facts);
        let kept = |name: &str| kept(head, facts, name);
        let outer = kept("x-forwarded-prefix").unwrap_or_default();
        if rules.stripped_prefix.is_empty() {
            passage.put("x-forwarded-prefix", outer);
        } else {
            let outer = outer.trim_end_matches('/');
            passage.add("x-forwarded-prefix", &[outer, rules.stripped_prefix]);
        }
        let id = kept("x-request-id").filter(|id| id.len() <= MAX_REQUEST_ID);
        let mut fresh = Uuid::encode_buffer();
        let id = match id {
            Some(id) => id,
            None => Uuid::now_v7().hyphenated().encode_lower(&mut fresh),
        };
        passage.put("x-request-id", id);
        passage.request_id = passage.text.len() - id.len()..passage.text.len();
        passage
    }

    /// What the client connected to: `X-Forwarded-Proto`, `X-Forwarded-Host`, `X-Forwarded-Port`.
    fn tell_front(&mut self, head: &RequestHead, facts: &ConnFacts) {
        let kept = |name: &str| kept(head, facts, name);
        let (proto, host) = (kept("x-forwarded-proto"), kept("x-forwarded-host"));
        let scheme = proto.unwrap_or(if facts.tls { "https" } else { "http" });
        self.put("x-forwarded-proto", scheme);
        self.put("x-forwarded-host", host.unwrap_or(&head.authority));
        let theirs = host.and_then(port_of).or_else(|| proto.map(|_| default_port(scheme)));
        if let Some(port) = kept("x-forwarded-port") {
            self.put("x-forwarded-port", port);
        } else if let Some(port) = theirs {
            // A proxy that ends TLS has a port of its own: ours would make redirects go astray.
            self.put("x-forwarded-port", port);
        } else if facts.port_text.is_empty() {
            let port = head.authority_port().map(|port| port.to_string());
            self.put("x-forwarded-port", port.as_deref().unwrap_or(default_port(scheme)));
        } else {
            self.put("x-forwarded-port", &facts.port_text);
        }
    }

    /// `X-Forwarded-For`, `X-Real-IP` and `Forwarded` (RFC 7239).
    fn tell_way(&mut self, head: &RequestHead, facts: &ConnFacts) {
        let earlier = |name| -> Vec<&str> {
            if !facts.trusted {
                return Vec::new();
            }
            let values = head.all_fields(name).filter_map(|value| std::str::from_utf8(value).ok());
            values.flat_map(|value| [value, ", "]).collect()
        };
        let client = self.client.filter(|client| Some(*client) != facts.peer_ip());
        let client = client.map(|client| client.to_string());
        let mut list = earlier("x-forwarded-for");
        if let Some(client) = client.as_deref().filter(|_| list.is_empty()) {
            list.extend([client, ", "]);
        }
        if facts.peer_text.is_empty() {
            list.pop();
        }
        list.push(&facts.peer_text);
        self.add("x-forwarded-for", &list);
        self.put("x-real-ip", client.as_deref().unwrap_or(&facts.peer_text));
        let scheme = if facts.tls { ";proto=https" } else { ";proto=http" };
        let mut list = earlier("forwarded");
        list.extend(["for=", &facts.peer_node]);
        if !head.authority.is_empty() {
            list.extend([";host=\"", &head.authority, "\""]);
        }
        list.push(scheme);
        self.add("forwarded", &list);
    }

    fn put(&mut self, name: &'static str, value: &str) {
        self.add(name, &[value]);
    }

    fn add(&mut self, name: &'static str, parts: &[&str]) {
        let start = self.text.len();
        parts.iter().for_each(|part| self.text.push_str(part));
        if self.text.len() > start {
            self.set.push((name, start..self.text.len()));
        }
    }

    /// The request goes to another app than it was made for, whose definition has changed meanwhile.
    pub fn is_for(&mut self, rules: Rules<'_>) {
        self.set.retain(|(name, _)| *name != X_APP);
        self.client_app_headers = rules.client_app_headers;
        self.names_app = rules.app.is_some();
        if let Some(app) = rules.app {
            self.put(X_APP, app);
        }
    }

    /// Fields to set, each replacing what was there.
    pub fn set(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.set.iter().map(|(name, range)| (*name, &self.text[range.clone()]))
    }

    /// Whether a field of the client's must not reach the app: it is set anew, or could be taken for
    /// one that is.
    #[must_use]
    pub fn takes_out(&self, name: &[u8]) -> bool {
        if !is_ours(name) {
            return false;
        }
        let may_be = |field: &str| name.eq_ignore_ascii_case(field.as_bytes());
        let allowed =
            self.client_app_headers && (may_be("x-hostname") || (may_be(X_APP) && !self.names_app));
        !allowed
    }

    /// The request's id.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.text[self.request_id.clone()]
    }
}

/// Whether an app could take a field for one that only we may set.
#[must_use]
pub fn is_ours(name: &[u8]) -> bool {
    let first = name.first().map(u8::to_ascii_lowercase);
    matches!(first, Some(b'x' | b'f' | b'p'))
        && (OURS.iter().any(|ours| same_name(name, ours)) || same_name(name, PROXY))
}

/// A trusted proxy's field, if it is text.
fn kept<'h>(head: &'h RequestHead, facts: &ConnFacts, name: &str) -> Option<&'h str> {
    let value = facts.trusted.then(|| head.field(name)).flatten()?;
    let is_text = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|text| is_text && !text.is_empty())
}

/// A fresh request id: a UUID that sorts by time (RFC 9562 section 5.7).
#[must_use]
pub fn new_request_id() -> String {
    Uuid::now_v7().to_string()
}

/// The port at the end of an authority, in digits.
fn port_of(host: &str) -> Option<&str> {
    let (name, port) = host.rsplit_once(':')?;
    // The colons of a bare IPv6 address lead to no port.
    let is_port = port.parse::<u16>().is_ok() && (!name.contains(':') || name.ends_with(']'));
    is_port.then_some(port)
}

/// The port that clients leave out; of several schemes one behind the other the first counts.
fn default_port(scheme: &str) -> &'static str {
    let first = scheme.split(',').next().unwrap_or_default().trim();
    let is_tls = first.eq_ignore_ascii_case("https") || first.eq_ignore_ascii_case("wss");
    if is_tls { "443" } else { "80" }
}

/// The client as trusted proxies tell it: by `X-Forwarded-For`, else `Forwarded`, else `X-Real-IP`.
fn client_behind_proxies(
    head: &RequestHead,
    peer: Option<IpAddr>,
    trusted: &[IpNet],
) -> Option<IpAddr> {
    if head.field("x-forwarded-for").is_some() {
        let lists = head.all_fields("x-forwarded-for").rev();
        return outermost(lists.flat_map(|list| list.rsplit(|b| *b == b',')), peer, trusted);
    }
    if head.field("forwarded").is_some() {
        let lists = head.all_fields("forwarded").rev();
        return outermost(lists.flat_map(|list| forwarded_for(list).into_iter()), peer, trusted);
    }
    head.field("x-real-ip").and_then(|text| address(text.trim_ascii())).or(peer)
}

/// Of hops from the nearest on, the first address that is not one of the trusted proxies'. What is
/// no address ends the way.
fn outermost<'h>(
    hops: impl Iterator<Item = &'h [u8]>,
    peer: Option<IpAddr>,
    trusted: &[IpNet],
) -> Option<IpAddr> {
    let mut client = peer;
    for hop in hops {
        let Some(ip) = address(hop.trim_ascii()) else { return client };
        client = Some(ip);
        if !trusted.iter().any(|net| net.contains(&ip)) {
            return client;
        }
    }
    client
}

/// The `for` of each element of a `Forwarded` field (RFC 7239 section 4), the last one first, and
/// empty where an element has none. Quotes hold addresses, which need no escapes.
fn forwarded_for(list: &[u8]) -> Vec<&[u8]> {
    let mut quoted = false;
    let elements = list.split(|byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    let mut found: Vec<&[u8]> = elements
        .map(|element| {
            let pairs = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let node = pairs.filter(|pair| pair.len() > 4).find_map(|pair| {
                let (name, value) = pair.split_at(4);
                name.eq_ignore_ascii_case(b"for=").then_some(value)
            });
            let node = node.unwrap_or_default();
            node.strip_prefix(b"\"").and_then(|node| node.strip_suffix(b"\"")).unwrap_or(node)
        })
        .collect();
    found.reverse();
    found
}

/// An address as proxies write it: with or without port, IPv6 with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let ip = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|addr| addr.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    ip.or_else(with_port).or_else(bracketed).map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests;
