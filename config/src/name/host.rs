//! Host names as they are compared: lower case, punycode, no port, no trailing dot.
//!
//! [`Hostname::normalize`] serves the request path: an ASCII name that is normal already costs one
//! scan and no allocation. [`HostPattern`] is what an operator writes.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use smol_str::SmolStr;

use super::NameError;

/// Longest host name, RFC 1035 section 2.3.4 without the root's dot.
const MAX_HOST: usize = 253;
/// Longest label, RFC 1035 section 2.3.4.
const MAX_LABEL: usize = 63;
/// Longest text that is tried at all: an international name before punycode.
const MAX_RAW: usize = 1024;

/// A host name or IP address: lower case, punycode, no port, no trailing dot. IPv6 addresses keep
/// their brackets, as in a `Host` header.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(SmolStr);

impl Hostname {
    /// Parses a host as it stands in a `Host` header, a URL or a config file.
    ///
    /// # Errors
    /// When the text can be no host. The text itself is not repeated in the error.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bracketed = text.parse::<Ipv6Addr>().ok().map(|address| format!("[{address}]"));
        Self::normalize(bracketed.as_deref().unwrap_or(text))
            .map(|host| Self(host.as_ref().into()))
            .ok_or_else(|| {
                NameError(
                    "not a host name: use labels of letters, digits, `-` and `_`, joined by dots, \
                     or an IP address"
                        .into(),
                )
            })
    }

    /// The normal form of a request's host: what [`crate::route::RouteTable::lookup`] takes.
    /// `None` means that the request is malformed (RFC 9112 section 3.2: answer 400).
    ///
    /// Strips a port and one trailing dot, lowers the case, turns international names into
    /// punycode. Borrows when the text is normal already, port and dot aside.
    #[must_use]
    pub fn normalize(text: &str) -> Option<Cow<'_, str>> {
        if text.len() > MAX_RAW {
            return None;
        }
        if let Some(rest) = text.strip_prefix('[') {
            return normalize_ipv6(rest);
        }
        let host = match text.split_once(':') {
            Some((host, port)) if is_port(port) => host,
            Some(_) => return None,
            None => text,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_ascii() {
            return normalize_ascii(Cow::Borrowed(host));
        }
        let ascii = idna::domain_to_ascii(host).ok()?;
        normalize_ascii(Cow::Owned(ascii))
    }

    /// The host as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is an IPv4 or (bracketed) IPv6 address rather than a name.
    #[must_use]
    pub fn is_ip(&self) -> bool {
        self.0.starts_with('[') || self.0.parse::<Ipv4Addr>().is_ok()
    }
}

/// RFC 3986 section 3.2.3: digits, possibly none.
fn is_port(text: &str) -> bool {
    text.is_empty() || (text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok())
}

fn normalize_ipv6(after_bracket: &str) -> Option<Cow<'_, str>> {
    let (address, after) = after_bracket.split_once(']')?;
    if !after.is_empty() && !after.strip_prefix(':').is_some_and(is_port) {
        return None;
    }
    let address: Ipv6Addr = address.parse().ok()?;
    Some(Cow::Owned(format!("[{address}]")))
}

fn normalize_ascii(host: Cow<'_, str>) -> Option<Cow<'_, str>> {
    if host.is_empty() || host.len() > MAX_HOST {
        return None;
    }
    let (mut upper, mut label, mut numeric) = (false, 0_usize, true);
    for byte in host.bytes() {
        match byte {
            b'.' if label == 0 => return None,
            b'.' => {
                label = 0;
                numeric = true;
                continue;
            }
            b'0'..=b'9' => {}
            b'a'..=b'z' | b'-' | b'_' => numeric = false,
            b'A'..=b'Z' => {
                upper = true;
                numeric = false;
            }
            _ => return None,
        }
        label += 1;
        if label > MAX_LABEL {
            return None;
        }
    }
    // A last label of digits makes it an address (WHATWG URL, "ends in a number"); half an address
    // or one with leading zeros is read differently by different software.
    if label == 0 || (numeric && host.parse::<Ipv4Addr>().is_err()) {
        return None;
    }
    if upper { Some(Cow::Owned(host.to_ascii_lowercase())) } else { Some(host) }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Hostname {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Hostname {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Hostname> for String {
    fn from(host: Hostname) -> Self {
        host.0.as_str().into()
    }
}

/// Which hosts a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HostPattern {
    /// `blog.example.com`: this host.
    Exact(Hostname),
    /// `*.example.com`: one or more labels to the left of the suffix, never the suffix itself.
    Wildcard(Hostname),
    /// `*`: every host.
    Any,
}

impl HostPattern {
    /// Parses a host as an operator writes it: `blog.example.com`, `*.example.com` or `*`.
    ///
    /// # Errors
    /// Says which rule the text breaks, without repeating the text. A port is refused rather than
    /// ignored: routes do not look at it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.contains("://") || text.contains('/') {
            return Err(NameError(
                "a host has no scheme and no path: write only the name, and put paths into `paths`"
                    .into(),
            ));
        }
        let bare_ipv6 = text.parse::<Ipv6Addr>().is_ok();
        if !bare_ipv6 && text.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']')) {
            return Err(NameError(
                "a host has no port: write only the name, for every port that Doorbell listens on"
                    .into(),
            ));
        }
        let Some(suffix) = text.strip_prefix("*.") else {
            if text.contains('*') {
                return Err(NameError(
                    "a wildcard stands alone or first: write `*` or `*.example.com`".into(),
                ));
            }
            return Hostname::parse(text).map(Self::Exact);
        };
        let suffix = Hostname::parse(suffix)?;
        if suffix.is_ip() {
            return Err(NameError("an IP address has no subdomains: write it without `*.`".into()));
        }
        Ok(Self::Wildcard(suffix))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => write!(f, "{host}"),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> Option<String> {
        Hostname::normalize(text).map(Cow::into_owned)
    }

    #[test]
    fn a_normal_ascii_host_is_borrowed_even_with_port_and_dot() {
        for text in ["example.com", "a-b.c_d.example", "localhost:8080", "example.com.:1", "h:"] {
            assert!(matches!(Hostname::normalize(text), Some(Cow::Borrowed(_))), "{text}");
        }
    }

    #[test]
    fn case_port_dot_and_unicode_do_not_matter() {
        for (text, expected) in [
            ("ExAmple.COM:443", "example.com"),
            ("example.com.", "example.com"),
            ("Bücher.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example.", "xn--bcher-kva.example"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ] {
            assert_eq!(normal(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_malformed_host_is_refused() {
        for text in [
            "",
            ".",
            ":80",
            "a..b",
            ".a",
            "a b",
            "a/b",
            "a@b",
            "a%41",
            "a:b",
            "a:80:80",
            "a:99999",
            "a:+1",
            "[::1",
            "[::1]x",
            "[fe80::1%eth0]",
            "::1",
            "1.2.3",
            "1.2.3.04",
            "1.2.3.256",
            "a\0",
            "example.com..",
            "a*b",
            "a,b",
        ] {
            assert_eq!(normal(text), None, "{text:?}");
        }
        assert_eq!(normal(&format!("{}.com", "a".repeat(64))), None);
        assert_eq!(normal(&"a.".repeat(200)), None);
    }

    #[test]
    fn patterns_are_exact_wildcard_or_any_and_print_as_written() {
        for text in ["example.com", "*.example.com", "*", "[::1]"] {
            assert_eq!(HostPattern::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(HostPattern::parse("::1").unwrap().to_string(), "[::1]");
    }

    #[test]
    fn patterns_with_ports_schemes_or_inner_wildcards_are_refused() {
        for text in
            ["a.com:80", "[::1]:80", "http://a.com", "a.*.com", "a*", "*.", "*.10.0.0.1", "a.com/b"]
        {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }
}
