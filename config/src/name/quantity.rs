//! Sizes and durations as people write them: `10MiB`, `1m30s`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::NameError;

/// Units of a size, largest first, as printed; decimal ones are understood too.
const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const DECIMAL_UNITS: [(&str, u64); 4] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
/// Units of a duration in milliseconds, largest first.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Parses `10MiB`, `512KiB`, `1GiB`, `100B`; `kB`, `MB`, `GB` and `TB` are powers of 1000.
    ///
    /// # Errors
    /// When it is not a whole number followed by one of these units, or exceeds 64 bits.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let wrong = || {
            NameError("not a size: write a whole number and a unit of B, KiB, MiB, GiB, TiB".into())
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (_, factor) = SIZE_UNITS
            .iter()
            .chain(&DECIMAL_UNITS)
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        number
            .checked_mul(*factor)
            .map(Self)
            .ok_or_else(|| NameError("this size is larger than any computer can count".into()))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE_UNITS
            .into_iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// A duration as text: `250ms`, `30s`, `1m30s`, `12h`, `1d`. Millisecond grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

impl DurationText {
    /// Parses numbers with units, largest unit first, each at most once.
    ///
    /// # Errors
    /// When it is none, or longer than a hundred years.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let wrong = || {
            NameError(
                "not a duration: write numbers with units ms, s, m, h, d such as `1m30s`".into(),
            )
        };
        let (mut rest, mut total, mut units) = (text, 0_u64, TIME_UNITS.iter());
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let letters = rest.bytes().skip(digits).take_while(u8::is_ascii_lowercase).count();
            let (number, unit) = rest.split_at(digits);
            let (unit, after) = unit.split_at(letters);
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let (_, millis) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            total = number
                .checked_mul(*millis)
                .and_then(|part| total.checked_add(part))
                .filter(|total| *total <= 100 * 366 * 86_400_000)
                .ok_or_else(|| NameError("this duration is longer than a hundred years".into()))?;
            rest = after;
        }
        if text.is_empty() { Err(wrong()) } else { Ok(Self(Duration::from_millis(total))) }
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in TIME_UNITS {
            if rest >= millis {
                write!(f, "{}{unit}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed_as_people_write_them() {
        for (text, bytes) in
            [("0B", 0), ("100B", 100), ("32KiB", 32 << 10), ("10MiB", 10 << 20), ("3TiB", 3 << 40)]
        {
            assert_eq!(ByteSize::parse(text).unwrap(), ByteSize(bytes));
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!(ByteSize::parse("2MB").unwrap(), ByteSize(2_000_000));
        assert_eq!(ByteSize(1536).to_string(), "1536B");
    }

    #[test]
    fn sizes_without_unit_or_out_of_range_are_refused() {
        for text in ["", "10", "MiB", "1.5MiB", "-1B", "10 MiB", "10mib", "18446744073709551615KiB"]
        {
            assert!(ByteSize::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_and_printed_as_people_write_them() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("12h", 43_200_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("0s", 0),
        ] {
            assert_eq!(DurationText::parse(text).unwrap().0, Duration::from_millis(millis));
            assert_eq!(DurationText(Duration::from_millis(millis)).to_string(), text);
        }
    }

    #[test]
    fn durations_without_unit_disordered_or_endless_are_refused() {
        for text in ["", "30", "s", "1.5s", "-1s", "30s1m", "1s1s", "1w", "1 s", "99999999999d"] {
            assert!(DurationText::parse(text).is_err(), "{text}");
        }
    }
}
