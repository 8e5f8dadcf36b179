//! Finds what may be passed on at the front of a pipe: whole lines, or a piece of one. Plain bytes
//! in, a length out.

/// Longest line that is kept whole.
pub(super) const LONGEST: usize = 64 * 1024;
/// Ends a piece of a longer one.
const CONTINUED: &[u8] = b" [doorbell: line continues]\n";

/// Bytes that may be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) length: usize,
    pub(super) ending: Ending,
}

/// What the bytes are, and what they lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Lines with their ends.
    Whole,
    /// A piece of a line that goes on.
    Continued,
    /// A last line that nobody ended.
    Ended,
}

/// What becomes of the beginning of a line whose end is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It stays where it is.
    Waits,
    /// Its end finds no room before it is taken away.
    Crowds,
    /// There is no end to come.
    Ends,
}

impl Ending {
    /// What is written behind the bytes.
    pub(super) fn words(self) -> &'static [u8] {
        match self {
            Self::Whole => b"",
            Self::Continued => CONTINUED,
            Self::Ended => b"\n",
        }
    }
}

/// The first bytes that may be passed on. The first `known` ones hold no end of a line, and no line
/// is longer than `longest`. What becomes of a beginning is only asked if there is nothing else.
pub(super) fn cut(
    bytes: &[u8],
    known: usize,
    longest: usize,
    rest: impl FnOnce() -> Rest,
) -> Option<Cut> {
    let whole = whole_lines(bytes, known, longest);
    if whole > 0 {
        return Some(Cut { length: whole, ending: Ending::Whole });
    }
    if bytes.len() >= longest {
        return Some(Cut { length: longest, ending: Ending::Continued });
    }
    let ending = match rest() {
        _ if bytes.is_empty() => return None,
        Rest::Waits => return None,
        Rest::Crowds => Ending::Continued,
        Rest::Ends => Ending::Ended,
    };
    Some(Cut { length: bytes.len(), ending })
}

/// Bytes up to where the last cut of several would end.
pub(super) fn cut_all(bytes: &[u8], longest: usize, rest: Rest) -> usize {
    let mut end = 0;
    while let Some(cut) = cut(bytes.get(end..).unwrap_or_default(), 0, longest, || rest) {
        end += cut.length;
    }
    end
}

/// Bytes of the lines before the first that is too long or lacks its end.
fn whole_lines(bytes: &[u8], known: usize, longest: usize) -> usize {
    let (mut end, mut from) = (0, known);
    loop {
        // No line that ends within so many bytes is longer than them.
        let window = bytes.get(from..bytes.len().min(end + longest)).unwrap_or_default();
        match window.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => end = from + at + 1,
            None => return end,
        }
        from = end;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(length: usize) -> Option<Cut> {
        Some(Cut { length, ending: Ending::Whole })
    }

    #[test]
    fn whole_lines_go_first() {
        assert_eq!(cut(b"a\nbc\nd", 0, 10, || panic!("not asked")), whole(5));
        assert_eq!(cut(b"\n", 0, 10, || panic!("not asked")), whole(1));
        assert_eq!(cut(b"abcdef\nx", 6, 10, || panic!("not asked")), whole(7));
    }

    #[test]
    fn a_line_that_is_too_long_goes_in_pieces() {
        assert_eq!(cut(b"123\n567\n", 0, 4, || Rest::Waits), whole(8));
        assert_eq!(cut(b"12\n1234567\n", 0, 4, || Rest::Waits), whole(3));
        let piece = Some(Cut { length: 4, ending: Ending::Continued });
        assert_eq!(cut(b"1234567\n", 0, 4, || Rest::Waits), piece);
        assert_eq!(cut(b"1234\n", 4, 4, || Rest::Waits), piece);
    }

    #[test]
    fn a_beginning_waits_unless_it_cannot() {
        assert_eq!(cut(b"abc", 0, 4, || Rest::Waits), None);
        let piece = |ending| Some(Cut { length: 3, ending });
        assert_eq!(cut(b"abc", 0, 4, || Rest::Crowds), piece(Ending::Continued));
        assert_eq!(cut(b"abc", 0, 4, || Rest::Ends), piece(Ending::Ended));
        assert_eq!(cut(b"", 0, 4, || Rest::Ends), None);
    }

    proptest! {
        #[test]
        fn every_byte_is_passed_on_once_in_lines_that_are_short_enough(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x'), Just(0)], 0..60),
            longest in 1_usize..12,
        ) {
            let mut left = &bytes[..];
            while let Some(cut) = cut(left, 0, longest, || Rest::Ends) {
                let (piece, behind) = left.split_at(cut.length);
                prop_assert!(piece.split_inclusive(|b| *b == b'\n').all(|l| l.len() <= longest));
                prop_assert_eq!(cut.ending == Ending::Whole, piece.ends_with(b"\n"));
                left = behind;
            }
            prop_assert!(left.is_empty());
            prop_assert_eq!(cut_all(&bytes, longest, Rest::Ends), bytes.len());
        }
    }
}
