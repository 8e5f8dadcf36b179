//! One normal form of the request path, for routing and for forwarding: what is matched is what is
//! sent.
//!
//! RFC 3986 section 6.2.2, with the choices that a front door has to make:
//!
//! - Dot segments are removed, also when written as `%2e`; a path that climbs above the root is
//!   refused, not clamped.
//! - Escapes of unreserved characters are decoded; other escapes stay, in upper-case hex. `%2F` and
//!   `%5C` therefore never become separators. `%00` is refused.
//! - Characters that RFC 3986 knows in no URI (`"<>^{|}` and the backtick) and raw UTF-8 are
//!   escaped; control characters, spaces, backslashes and broken escapes are refused.
//! - Repeated slashes stay: apps may mean them, and since the same path is matched and sent, they
//!   bypass nothing.
//! - The query is never touched.
//!
//! A refusal is answered with 400. The property tests below guard that the form is stable
//! (normalising twice changes nothing) and free of dot segments.

use std::borrow::Cow;

/// Why a request's path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It does not begin with `/`.
    #[error("a path begins with `/`")]
    NotAbsolute,
    /// `%` without two hex digits.
    #[error("`%` in a path is followed by two hex digits")]
    BrokenEscape,
    /// A control character, NUL (raw or escaped), space, backslash, `?` or `#`.
    #[error("a path has no control characters, spaces, backslashes, `?` or `#`")]
    ForbiddenCharacter,
    /// `..` leads out of the root.
    #[error("a path stays below `/`: too many `..`")]
    AboveRoot,
}

/// A request target in origin form whose path is normal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    text: Cow<'a, str>,
    path_len: usize,
}

impl Target<'_> {
    /// Path and query, as it is forwarded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path, as it is matched.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[..self.path_len]
    }

    /// The query without its `?`, as the client sent it.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_len + 1..)
    }

    /// Whether the target was normal as it came.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        matches!(self.text, Cow::Borrowed(_))
    }
}

/// Normalises the path of a target in origin form (RFC 9112 section 3.2.1); its query stays.
///
/// # Errors
/// [`BadPath`] when the path is refused, or the query has control characters, spaces or `#`.
pub fn normalize_target(target: &str) -> Result<Target<'_>, BadPath> {
    let Some(mark) = target.bytes().position(|b| b == b'?') else {
        let text = normalize(target)?;
        return Ok(Target { path_len: text.len(), text });
    };
    let (path, query) = target.split_at(mark);
    if query.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'#') {
        return Err(BadPath::ForbiddenCharacter);
    }
    Ok(match normalize(path)? {
        Cow::Borrowed(_) => Target { text: Cow::Borrowed(target), path_len: mark },
        Cow::Owned(mut text) => {
            let path_len = text.len();
            text.push_str(query);
            Target { text: Cow::Owned(text), path_len }
        }
    })
}

/// Normalises a path without query. Borrows, without allocating, when it is normal already.
///
/// # Errors
/// [`BadPath`] when the path is refused.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath::NotAbsolute);
    }
    if is_normal(path.as_bytes())? {
        return Ok(Cow::Borrowed(path));
    }
    without_dot_segments(&unescape(path.as_bytes())?).map(Cow::Owned)
}

/// What a byte of a path means to us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stays.
    Plain,
    /// Stays, and may begin or end a dot segment.
    Slash,
    Dot,
    /// Is looked at with the two that follow.
    Percent,
    /// Is escaped.
    Escaped,
    /// Makes the path refused.
    Forbidden,
}

const CLASSES: [Class; 256] = {
    let mut table = [Class::Escaped; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = classify(byte as u8);
        byte += 1;
    }
    table
};

const fn classify(byte: u8) -> Class {
    match byte {
        b'/' => Class::Slash,
        b'.' => Class::Dot,
        b'%' => Class::Percent,
        0..=b' ' | 0x7f | b'\\' | b'?' | b'#' => Class::Forbidden,
        b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Escaped,
        _ => Class::Plain,
    }
}

fn class(byte: u8) -> Class {
    CLASSES[usize::from(byte)]
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// One scan that says whether nothing needs to be done.
fn is_normal(path: &[u8]) -> Result<bool, BadPath> {
    let mut at = 0;
    let mut normal = true;
    while let Some(&byte) = path.get(at) {
        match class(byte) {
            Class::Plain | Class::Dot => {}
            Class::Slash => normal &= !begins_with_dot_segment(&path[at + 1..]),
            Class::Escaped => normal = false,
            Class::Forbidden => return Err(BadPath::ForbiddenCharacter),
            Class::Percent => {
                let decoded = decode(&path[at..])?;
                let hex_is_upper = !path[at + 1..at + 3].iter().any(u8::is_ascii_lowercase);
                normal &= hex_is_upper && !is_unreserved(decoded);
                at += 2;
            }
        }
        at += 1;
    }
    Ok(normal)
}

fn begins_with_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

/// The byte that `%XX` at the start of `escape` stands for.
fn decode(escape: &[u8]) -> Result<u8, BadPath> {
    let digit = |at: usize| {
        escape
            .get(at)
            .and_then(|&b| char::from(b).to_digit(16))
            .and_then(|value| u8::try_from(value).ok())
            .ok_or(BadPath::BrokenEscape)
    };
    match digit(1)? << 4 | digit(2)? {
        0 => Err(BadPath::ForbiddenCharacter),
        byte => Ok(byte),
    }
}

/// Decodes unreserved characters, escapes what must be, in upper-case hex. Pure ASCII comes out.
fn unescape(path: &[u8]) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len() + 16);
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        match class(byte) {
            Class::Plain | Class::Dot | Class::Slash => out.push(char::from(byte)),
            Class::Escaped => push_escape(&mut out, byte),
            Class::Forbidden => return Err(BadPath::ForbiddenCharacter),
            Class::Percent => {
                match decode(&path[at..])? {
                    decoded if is_unreserved(decoded) => out.push(char::from(decoded)),
                    decoded => push_escape(&mut out, decoded),
                }
                at += 2;
            }
        }
        at += 1;
    }
    Ok(out)
}

fn push_escape(out: &mut String, byte: u8) {
    const HEX: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.extend(['%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

/// RFC 3986 section 5.2.4, but a path that climbs above the root is refused.
fn without_dot_segments(path: &str) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.truncate(out.rfind('/').ok_or(BadPath::AboveRoot)?);
                }
                if last {
                    out.push('/');
                }
            }
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    Ok(out)
}
