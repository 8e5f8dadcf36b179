//! Text of apps on its way to people: nothing in it steers their terminal.

use std::{borrow::Cow, fmt::Write as _, io::IsTerminal};

use crate::steering::{INSTEAD, steers};

/// One line of text.
pub(super) fn line(text: &str) -> String {
    text.chars().map(|c| if steers(c) && c != '\t' { INSTEAD } else { c }).collect()
}

/// Text that may have several lines.
pub(super) fn lines(text: &str) -> String {
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// An error, with what led to it: there may be words of others in it.
#[must_use]
pub fn told(error: &anyhow::Error) -> String {
    lines(&format!("{error:#}"))
}

/// `1 app`, `2 apps`.
pub(super) fn count(many: impl Into<u128>, what: &str) -> String {
    let many = many.into();
    format!("{many} {what}{}", if many == 1 { "" } else { "s" })
}

/// JSON, in which every character that steers is escaped, and not only those that must be.
pub(super) fn json(value: &impl serde::Serialize) -> serde_json::Result<String> {
    let mut text = String::new();
    for c in serde_json::to_string_pretty(value)?.chars() {
        if steers(c) && c != '\n' {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    Ok(text)
}

/// Output of apps in pieces that end anywhere: as it is into a file or pipe, as [`lines`] on a
/// terminal.
pub(super) struct Output {
    is_terminal: bool,
    /// The beginning of a character whose end is in the next piece; fewer than four bytes. Nobody
    /// misses it if there is none.
    begun: Vec<u8>,
}

impl Output {
    /// Output for our standard output.
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stdout().is_terminal(), begun: Vec::new() }
    }

    /// The next piece, as it may be written.
    pub(super) fn pass<'a>(&mut self, piece: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.is_terminal {
            return Cow::Borrowed(piece);
        }
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(piece);
        let whole = bytes.len() - begun_at_the_end(&bytes);
        self.begun = bytes.split_off(whole);
        Cow::Owned(lines(&String::from_utf8_lossy(&bytes)).into_bytes())
    }
}

/// Bytes at the end that more bytes may make a character.
fn begun_at_the_end(bytes: &[u8]) -> usize {
    let invalid = bytes.utf8_chunks().last().map(|chunk| chunk.invalid()).unwrap_or_default();
    match std::str::from_utf8(invalid) {
        Err(error) if error.error_len().is_none() => invalid.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&[u8]]) -> String {
        let mut output = Output { is_terminal: true, begun: Vec::new() };
        let bytes = pieces.iter().flat_map(|piece| output.pass(piece).into_owned()).collect();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn control_characters_of_apps_do_not_reach_a_terminal() {
        assert_eq!(
            shown(&[b"a\x1b[2Jb\r\x07\x7f\tc\n"]),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}\tc\n"
        );
        assert_eq!(shown(&["a\u{9b}2Jb\u{85}".as_bytes()]), "a\u{fffd}2Jb\u{fffd}");
        assert_eq!(shown(&[b"a\x9b2Jb"]), "a\u{fffd}2Jb");
        assert_eq!(line("a\u{202e}txt.exe\u{2066}"), "a\u{fffd}txt.exe\u{fffd}");
        assert_eq!(line("a\nb\u{9d}c"), "a\u{fffd}b\u{fffd}c");
        assert_eq!(lines("a\nb\u{9d}c\n"), "a\nb\u{fffd}c\n");
    }

    #[test]
    fn json_on_a_terminal_does_not_steer_it_either() {
        let text = json(&["a\u{9b}2J\x7f\x1b\n\u{202e}"]).unwrap();
        assert!(!text.contains(|c: char| steers(c) && c != '\n'), "{text:?}");
        let back: [String; 1] = serde_json::from_str(&text).unwrap();
        assert_eq!(back, ["a\u{9b}2J\x7f\x1b\n\u{202e}"]);
    }

    #[test]
    fn characters_that_are_split_over_pieces_are_judged_whole() {
        assert_eq!(shown(&[b"a\xc2", b"\x9b2J"]), "a\u{fffd}2J");
        assert_eq!(shown(&[b"gr\xc3", b"\xbcn \xf0\x9f", b"\x94", b"\x94"]), "gr\u{fc}n \u{1f514}");
        // What looked like a beginning was none.
        assert_eq!(shown(&[b"a\xc2", b"b"]), "a\u{fffd}b");
    }

    #[test]
    fn a_file_gets_the_output_as_it_is() {
        let mut output = Output { is_terminal: false, begun: Vec::new() };
        assert_eq!(output.pass(b"\x1b[2J\xc2").as_ref(), b"\x1b[2J\xc2");
    }
}
