//! Characters that steer whatever shows them, and are no letters.
//!
//! Control characters are those of Unicode: a terminal obeys U+009B as it obeys ESC `[`. Those of UAX #9 that turn the
//! direction of what follows make a line read as another one: <https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing>.
//! Line separators end a line where nobody sees to it.

/// What stands in the place of such a character.
pub const INSTEAD: char = char::REPLACEMENT_CHARACTER;

/// Whether a character steers. A tab and the end of a line do too; who wants them asks for them first.
#[must_use]
pub fn steers(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_told_from_letters() {
        for c in "\u{1b}\u{9b}\u{7f}\u{0}\n\u{202e}\u{2066}\u{200f}\u{2028}".chars() {
            assert!(steers(c), "{c:?}");
        }
        // What joins and colours letters, and what is written from right to left.
        for c in "a é 日 🚪\u{200d}\u{fe0f} שלום مرحبا".chars() {
            assert!(!steers(c), "{c:?}");
        }
    }
}
