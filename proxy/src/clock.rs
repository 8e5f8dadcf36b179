//! Text of the current second, made once a second: HTTP dates and log times.

use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::{Timestamp, tz::TimeZone};

/// The current second in the forms that answers and logs need.
#[derive(Clone, Debug, Default)]
pub struct Second {
    unix: u64,
    /// `Sat, 21 Nov 2026 08:00:00 GMT`, RFC 9110 section 5.6.7.
    pub http_date: String,
    /// `21/Nov/2026:08:00:00 +0000`, as in Nginx's `$time_local`.
    pub log_local: String,
}

thread_local! {
    static NOW: RefCell<Second> = RefCell::default();
}

/// Calls `with` with the current second; the text is made anew only when the second has changed.
pub fn with_second<T>(with: impl FnOnce(&Second) -> T) -> T {
    let unix = unix_seconds();
    NOW.with_borrow_mut(|second| {
        if second.unix != unix {
            *second = Second::of(unix);
        }
        with(second)
    })
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Second {
    fn of(unix: u64) -> Self {
        let timestamp = Timestamp::from_second(i64::try_from(unix).unwrap_or(i64::MAX))
            .unwrap_or(Timestamp::MAX);
        let local = timestamp.to_zoned(TimeZone::system());
        Self {
            unix,
            http_date: timestamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(),
            log_local: local.strftime("%d/%b/%Y:%H:%M:%S %z").to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_form_of_their_standards() {
        let second = Second::of(784_111_777);
        assert_eq!(second.http_date, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(second.log_local.contains("/Nov/1994:"), "{}", second.log_local);
    }
}
