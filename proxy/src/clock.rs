//! Text of the current second, made once a second: HTTP dates and log times.

use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

use doorbell_supervisor::message::{HoursName, HoursSnapshot};
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

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Hours of an app as people read them: `awake until Fri 2026-11-27 18:00 Europe/Berlin`.
#[must_use]
pub fn hours(hours: &HoursSnapshot) -> String {
    let at = hours.until_unix_seconds.and_then(|at| i64::try_from(at).ok());
    let at = at.and_then(|at| Timestamp::from_second(at).ok()).map(|at| {
        let named = hours.zone.as_deref().and_then(|name| TimeZone::get(name).ok());
        let zone = hours.zone.as_deref().filter(|_| named.is_some()).unwrap_or("%Z");
        at.to_zoned(named.unwrap_or_else(TimeZone::system))
            .strftime(&format!("%a %Y-%m-%d %H:%M {zone}"))
            .to_string()
    });
    match (hours.is, at) {
        (HoursName::Inside, Some(at)) => format!("awake until {at}"),
        (HoursName::Inside, None) => "awake at all hours".to_owned(),
        (HoursName::Outside, Some(at)) => format!("awake from {at}"),
        (HoursName::Outside, None) => "never begin".to_owned(),
    }
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
    fn hours_are_told_in_their_own_zone() {
        let told = |is, at, zone: Option<&str>| {
            let zone = zone.map(str::to_owned);
            hours(&HoursSnapshot { is, until_unix_seconds: at, zone })
        };
        let (at, berlin) = (Some(1_795_798_800), Some("Europe/Berlin"));
        let expected = "awake until Fri 2026-11-27 18:00 Europe/Berlin";
        assert_eq!(told(HoursName::Inside, at, berlin), expected);
        assert_eq!(
            told(HoursName::Outside, at, Some("UTC")),
            "awake from Fri 2026-11-27 17:00 UTC"
        );
        assert!(told(HoursName::Outside, at, None).starts_with("awake from "));
        assert_eq!(told(HoursName::Inside, None, berlin), "awake at all hours");
    }

    #[test]
    fn dates_have_the_form_of_their_standards() {
        let second = Second::of(784_111_777);
        assert_eq!(second.http_date, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(second.log_local.contains("/Nov/1994:"), "{}", second.log_local);
    }
}
