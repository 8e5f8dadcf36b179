//! Hours of the week in which an app is kept awake: as people write them, and what they mean at a
//! moment.
//!
//! The time is given, never looked up: [`AwakeSpec::at`] says what holds at that time and until when.
//! A window begins at the first moment at which a clock on the wall shows its beginning or later, and
//! ends at the last at which one shows its end: so an hour that summer time skips belongs to nobody,
//! and one that comes twice belongs to a window as a whole.

use std::{collections::BTreeSet, fmt, sync::LazyLock, time::Duration};

use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, DateTime, Time, Weekday},
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};
use serde::{Deserialize, Serialize};

use crate::name::NameError;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MINUTES_A_DAY: u16 = 24 * 60;
/// Days that are looked at ahead: a week, and one more for windows that a change of clocks empties.
const AHEAD: usize = 15;
/// Days before today whose windows may last until now: its zone may be a day behind, and windows last
/// over midnight.
const BEHIND: usize = 2;

/// When an app is kept awake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AwakeSpec {
    /// At least one.
    pub windows: Vec<Window>,
    /// How long before each beginning it is started, if it is.
    #[serde(default)]
    pub prewarm: Option<Duration>,
}

/// Hours on some days of the week: `Mon-Fri 08:00-18:00 Europe/Berlin`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// The days on which it begins; the lowest bit is Monday.
    days: u8,
    /// Minutes of the day.
    begin: u16,
    /// Minutes of the day, up to 24:00; not behind `begin` is on the next day.
    end: u16,
    /// An IANA name; `None` is the server's own zone.
    zone: Option<String>,
}

/// What an app's hours mean at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoursNow {
    /// Whether it is kept awake, and until or from when.
    pub awake: Awake,
    /// Whether it is to run, by `prewarm`.
    pub runs: bool,
    /// When any of this changes next, if ever.
    pub next: Option<Timestamp>,
    /// The zone of the window that is meant; `None` is the server's own.
    pub zone: Option<String>,
}

/// Whether an app is kept awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awake {
    /// It is, until then; `None` where no end is in sight.
    Until(Option<Timestamp>),
    /// Its hours begin then; `None` if never.
    From(Option<Timestamp>),
}

/// Hours on one day.
#[derive(Clone, Copy, Debug)]
struct Span<'w> {
    begin: Timestamp,
    end: Timestamp,
    window: &'w Window,
}

impl AwakeSpec {
    /// What holds at this moment.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> HoursNow {
        let mut spans: Vec<Span<'_>> =
            self.windows.iter().flat_map(|window| window.spans_around(now)).collect();
        spans.sort_by_key(|span| span.begin);
        let (awake, window) = awake(&spans, now);
        let mut edges = BTreeSet::new();
        edges.extend(match awake {
            Awake::Until(edge) | Awake::From(edge) => edge,
        });
        let runs = self.prewarm.is_some_and(|prewarm| {
            let prewarm = SignedDuration::try_from(prewarm).unwrap_or(SignedDuration::MAX);
            let early: Vec<Span<'_>> = spans.iter().map(|span| span.earlier(prewarm)).collect();
            let (runs, _) = self::awake(&early, now);
            match runs {
                Awake::Until(edge) => {
                    edges.extend(edge);
                    true
                }
                Awake::From(edge) => {
                    edges.extend(edge);
                    false
                }
            }
        });
        let zone = window.and_then(|window| window.zone.clone());
        HoursNow { awake, runs, next: edges.first().copied(), zone }
    }
}

/// Whether one of these lasts, in the order of their beginnings, and the window of the one that does or
/// comes next.
fn awake<'w>(spans: &[Span<'w>], now: Timestamp) -> (Awake, Option<&'w Window>) {
    let mut until: Option<(Timestamp, &Window)> = None;
    let last = spans.last().map(|span| span.begin);
    for span in spans {
        let reached = until.map_or(now, |(end, _)| end);
        if span.begin <= reached && span.end > reached {
            until = Some((span.end, span.window));
        }
    }
    match until {
        // One that leads to the last day that was looked at is not known to end.
        Some((end, window)) if last.is_some_and(|last| end >= last) => {
            (Awake::Until(None), Some(window))
        }
        Some((end, window)) => (Awake::Until(Some(end)), Some(window)),
        None => {
            let next = spans.iter().find(|span| span.begin > now && span.end > span.begin);
            (Awake::From(next.map(|span| span.begin)), next.map(|span| span.window))
        }
    }
}

impl Span<'_> {
    fn earlier(self, by: SignedDuration) -> Self {
        let begin = self.begin.checked_sub(by).unwrap_or(Timestamp::MIN);
        // What summer time leaves nothing of is not prepared for.
        let begin = if self.end > self.begin { begin } else { self.begin };
        Self { begin, ..self }
    }
}

/// Zones that the system has none of.
static BUNDLED: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

fn zone(name: &str) -> Option<TimeZone> {
    let known = jiff::tz::db().get(name).or_else(|_| BUNDLED.get(name));
    known.ok()
}

impl Window {
    /// Parses it.
    ///
    /// # Errors
    /// Says what is wrong. A zone is not looked up: see [`Window::has_known_zone`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let wrong = |words: &str| NameError(words.to_owned());
        let mut words = text.split_ascii_whitespace();
        let (Some(days), Some(hours)) = (words.next(), words.next()) else {
            return Err(wrong(
                "no hours: write days, hours and a zone, such as `Mon-Fri \
                              08:00-18:00 Europe/Berlin`",
            ));
        };
        let zone = words.next().map(str::to_owned);
        if words.next().is_some() {
            return Err(wrong(
                "too many words: write days, hours and a zone; put further hours \
                              into a text of their own",
            ));
        }
        let (begin, end) = hours
            .split_once('-')
            .and_then(|(begin, end)| Some((minutes(begin)?, minutes(end)?)))
            .filter(|(begin, _)| *begin < MINUTES_A_DAY)
            .ok_or_else(|| {
                wrong(
                    "these are no hours: write them as `08:00-18:00`, or over midnight as \
                       `22:00-02:00`",
                )
            })?;
        if begin == end {
            return Err(wrong("hours that end as they begin: write `00:00-24:00` for a whole day"));
        }
        Ok(Self { days: days_of(days)?, begin, end, zone })
    }

    /// The name of its zone; `None` is the server's own.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Whether its zone is known on this machine.
    #[must_use]
    pub fn has_known_zone(&self) -> bool {
        self.zone.as_deref().is_none_or(|name| zone(name).is_some())
    }

    /// Its hours on the days around a moment.
    fn spans_around(&self, now: Timestamp) -> Vec<Span<'_>> {
        let zone = match &self.zone {
            // It was known when it was read; who has taken it away since gets UTC.
            Some(name) => zone(name).unwrap_or(TimeZone::UTC),
            None => TimeZone::system(),
        };
        let mut day = now.to_zoned(zone.clone()).date();
        for _ in 0..BEHIND {
            day = day.yesterday().unwrap_or(day);
        }
        let days = std::iter::successors(Some(day), |day| day.tomorrow().ok());
        let days = days.take(BEHIND + 1 + AHEAD).filter(|day| self.begins_on(day.weekday()));
        days.filter_map(|day| self.span(day, &zone)).collect()
    }

    fn begins_on(&self, day: Weekday) -> bool {
        self.days & 1 << day.to_monday_zero_offset() != 0
    }

    fn span(&self, day: Date, zone: &TimeZone) -> Option<Span<'_>> {
        let last = if self.end <= self.begin { day.tomorrow().ok()? } else { day };
        let begin = moment(moment_of_day(day, self.begin)?, zone, Twice::First)?;
        let end = moment(moment_of_day(last, self.end)?, zone, Twice::Last)?;
        Some(Span { begin, end, window: self })
    }
}

fn moment_of_day(day: Date, minutes: u16) -> Option<DateTime> {
    if minutes == MINUTES_A_DAY {
        return Some(day.tomorrow().ok()?.to_datetime(Time::midnight()));
    }
    let (hour, minute) = (i8::try_from(minutes / 60).ok()?, i8::try_from(minutes % 60).ok()?);
    Some(day.at(hour, minute, 0, 0))
}

/// Which of two moments is meant, of a time that comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twice {
    First,
    Last,
}

/// The moment at which a clock in the zone shows this time, or jumps over it.
fn moment(time: DateTime, zone: &TimeZone, twice: Twice) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(time).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(time).ok(),
        AmbiguousOffset::Fold { before, after } => match twice {
            Twice::First => before.to_timestamp(time).ok(),
            Twice::Last => after.to_timestamp(time).ok(),
        },
        AmbiguousOffset::Gap { before, .. } => {
            let behind = before.to_timestamp(time).ok()?;
            // The one that made the gap, which may be this very moment.
            let from = behind.checked_add(SignedDuration::from_nanos(1)).ok()?;
            let jump = zone.preceding(from).next().map(|jump| jump.timestamp());
            Some(jump.unwrap_or(behind))
        }
    }
}

/// `08:00` in minutes, up to `24:00`.
fn minutes(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let is_plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| text.parse::<u16>().ok())?
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= MINUTES_A_DAY).then_some(minutes)
}

/// `Mon`, `Mon-Fri`, `Sat,Sun`, `Fri-Mon`, `daily`.
fn days_of(text: &str) -> Result<u8, NameError> {
    if text.eq_ignore_ascii_case("daily") {
        return Ok(0b111_1111);
    }
    let wrong = || {
        NameError(format!(
            "these are no days: write `daily`, or of {} one (`Mon`), some (`Sat,Sun`) or a row \
             (`Mon-Fri`, `Fri-Mon`)",
            DAYS.join(", ")
        ))
    };
    let day =
        |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name)).ok_or_else(wrong);
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let count = (last + DAYS.len() - first) % DAYS.len();
        for step in 0..=count {
            days |= 1 << ((first + step) % DAYS.len());
        }
    }
    Ok(days)
}

/// The known zone that was probably meant.
pub(crate) fn nearest_zone(name: &str) -> Option<String> {
    let known = jiff::tz::db().available().map(|zone| zone.as_str().to_owned());
    let bundled = BUNDLED.available().map(|zone| zone.as_str().to_owned());
    let known: BTreeSet<String> = known.chain(bundled).collect();
    let name = name.to_lowercase();
    // Who writes the town alone means its zone.
    let town = known
        .iter()
        .find(|zone| zone.rsplit('/').next().is_some_and(|town| town.to_lowercase() == name));
    let likeness = |zone: &String| strsim::jaro_winkler(&zone.to_lowercase(), &name);
    let near = || {
        let near = known.iter().map(|zone| (likeness(zone), zone));
        near.filter(|(likeness, _)| *likeness > 0.82).max_by(|(a, _), (b, _)| a.total_cmp(b))
    };
    town.or_else(|| near().map(|(_, zone)| zone)).cloned()
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |day: usize| self.days & 1 << day != 0;
        let days: Vec<&str> =
            (0..DAYS.len()).filter(|day| has(*day)).map(|day| DAYS[day]).collect();
        let days = if days.len() == DAYS.len() { "daily".to_owned() } else { days.join(",") };
        let (begin, end) = (self.begin, self.end);
        let (from, to) = ((begin / 60, begin % 60), (end / 60, end % 60));
        write!(f, "{days} {:02}:{:02}-{:02}:{:02}", from.0, from.1, to.0, to.1)?;
        self.zone.iter().try_for_each(|zone| write!(f, " {zone}"))
    }
}

impl TryFrom<String> for Window {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

#[cfg(test)]
#[path = "hours/tests.rs"]
mod tests;
