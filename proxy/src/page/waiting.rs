//! The page that a browser shows while an app starts, and what it is told meanwhile.
//!
//! It says how far the start is and how long such starts took before, and no more: an estimate without
//! anything to go by would be a guess. With scripts it follows a [`crate::bulletin`]; without, it asks
//! again every few seconds.

use std::{fmt::Write as _, time::Duration};

use doorbell_supervisor::message::{StartPhase, StartProgress, UsualStart, WaitsFor};

use super::{Page, Parts, escape};

const STYLE: &str = include_str!("waiting.css");
const SCRIPT: &str = include_str!("waiting.js");
/// What people see of the phases, in order.
const STEPS: [&str; 3] = ["In line", "Starting", "Checking"];
/// Seconds between two looks of a browser without scripts.
const SELDOM: u64 = 5;
const UNKNOWN: u64 = 3;

/// A start, as a visitor may know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How far it is, if that was said.
    pub progress: Option<StartProgress>,
}

impl Waiting {
    /// When to look again, in seconds.
    #[must_use]
    pub fn look_again(&self) -> u64 {
        let Some((usual, elapsed)) = self.usual() else { return UNKNOWN };
        if elapsed > usual.most {
            return UNKNOWN;
        }
        let left = usual.median.saturating_sub(elapsed);
        (left.as_secs() + u64::from(left.subsec_nanos() > 0)).clamp(1, SELDOM)
    }

    /// What was usual, and how long it takes by now; only once it is the app's own time.
    fn usual(&self) -> Option<(UsualStart, Duration)> {
        let progress = self.progress?;
        let elapsed = match progress.phase {
            StartPhase::Queued | StartPhase::Upgrade => Duration::ZERO,
            StartPhase::Spawn | StartPhase::Listen | StartPhase::Ready => progress.elapsed,
        };
        Some((progress.usual?, elapsed))
    }

    /// Which of the steps it is at.
    fn step(&self) -> usize {
        match self.progress.map(|progress| progress.phase) {
            Some(StartPhase::Queued) => 0,
            None | Some(StartPhase::Upgrade | StartPhase::Spawn | StartPhase::Listen) => 1,
            Some(StartPhase::Ready) => 2,
        }
    }

    /// For what it is queued, if it is.
    fn waits_for(&self) -> WaitsFor {
        self.progress.map(|progress| progress.waits_for).unwrap_or_default()
    }

    /// What happens.
    fn words(&self) -> &'static str {
        match self.progress.map(|progress| progress.phase) {
            Some(StartPhase::Queued) => match self.waits_for() {
                WaitsFor::Turn => "Other applications are starting. It is in line behind them.",
                WaitsFor::Needs => "What it needs is started first.",
            },
            Some(StartPhase::Upgrade) => "It has a new version, and is brought up to date first.",
            None | Some(StartPhase::Spawn | StartPhase::Listen) => {
                "It was asleep, and is being started."
            }
            Some(StartPhase::Ready) => "It is running, and makes itself ready.",
        }
    }

    /// How long it takes, in words.
    #[must_use]
    pub fn estimate(&self) -> String {
        let Some((usual, elapsed)) = self.usual() else {
            return "How long that takes is not known yet.".to_owned();
        };
        let about = about(&usual);
        if elapsed > usual.most + Duration::from_millis(500) {
            return format!("That usually takes {about}; this time it takes longer.");
        }
        match (self.step(), self.waits_for()) {
            (0, WaitsFor::Turn) => format!("Once it is its turn, that usually takes {about}."),
            (0, WaitsFor::Needs) => format!("Once that is ready, it usually takes {about}."),
            _ => format!("That usually takes {about}."),
        }
    }

    /// The data of an event, for the page's script.
    #[must_use]
    pub fn event(&self) -> String {
        serde_json::json!({
            "step": self.step(), "words": self.words(), "estimate": self.estimate(),
        })
        .to_string()
    }

    /// The page. `news` is where its script listens.
    #[must_use]
    pub fn page(&self, app: &str, news: &str) -> Page {
        let look_again = self.look_again();
        let mut steps = String::new();
        for (at, step) in STEPS.iter().enumerate() {
            let mark = match at.cmp(&self.step()) {
                std::cmp::Ordering::Less => " class=\"done\"",
                std::cmp::Ordering::Equal => " aria-current=\"step\"",
                std::cmp::Ordering::Greater => "",
            };
            // Writing to a String cannot fail.
            let _ = write!(steps, "<li{mark}>{step}</li>");
        }
        let (words, estimate) = (self.words(), escape_owned(&self.estimate()));
        let plural = if look_again == 1 { "second" } else { "seconds" };
        Parts {
            title: &format!("{app} is waking up"),
            root: format!(" data-news=\"{}\"", escape(news)),
            head: format!(
                "<noscript><meta http-equiv=\"refresh\" content=\"{look_again}\"></noscript>\n"
            ),
            style: self.style().into(),
            class: if self.usual().is_some() { "known" } else { "unknown" },
            content: format!(
                "<p id=\"words\" role=\"status\">{words}</p>\n\
                 <div class=\"bar\" aria-hidden=\"true\"><i></i></div>\n\
                 <ol class=\"steps\">{steps}</ol>\n\
                 <p id=\"estimate\">{estimate}</p>\n\
                 <p id=\"again\" hidden><a href=\"\">Try again</a></p>"
            ),
            script: SCRIPT,
            small: format!(
                "You need not do anything: this page opens by itself.\
                 <noscript> It looks again in {look_again} {plural}.</noscript>"
            ),
        }
        .page()
    }

    /// The style, with the times of the bar.
    fn style(&self) -> String {
        let Some((usual, elapsed)) = self.usual() else { return STYLE.to_owned() };
        let whole = usual.median.max(Duration::from_millis(500)).as_secs_f64();
        let since = elapsed.as_secs_f64().min(whole);
        format!(":root{{--usual:{whole:.2}s;--since:-{since:.2}s}}{STYLE}")
    }
}

fn escape_owned(text: &str) -> String {
    escape(text).into_owned()
}

/// `about 3 seconds`, or a range where starts differ much.
fn about(usual: &UsualStart) -> String {
    let (median, most) = (usual.median.as_secs_f64().round(), usual.most.as_secs_f64().round());
    if most < 1.5 {
        return "about a second".to_owned();
    }
    if most >= 120.0 {
        let minutes = |seconds: f64| (seconds / 60.0).round().max(1.0);
        return range(minutes(median), minutes(most), "minute");
    }
    range(median.max(1.0), most, "second")
}

fn range(low: f64, high: f64, unit: &str) -> String {
    let plural = if high > 1.0 { "s" } else { "" };
    if high > low * 1.5 {
        return format!("{low} to {high} {unit}s");
    }
    format!("about {low} {unit}{}", if low > 1.0 { plural } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(phase: StartPhase, elapsed: u64, usual: Option<(u64, u64)>) -> Waiting {
        let seconds = Duration::from_secs;
        let usual =
            usual.map(|(median, most)| UsualStart { median: seconds(median), most: seconds(most) });
        let waits_for = WaitsFor::Turn;
        let elapsed = seconds(elapsed);
        Waiting { progress: Some(StartProgress { phase, waits_for, elapsed, usual }) }
    }

    #[test]
    fn an_estimate_says_what_is_known() {
        let says = |phase, elapsed, usual| waiting(phase, elapsed, usual).estimate();
        let listen = StartPhase::Listen;
        assert_eq!(Waiting::default().estimate(), "How long that takes is not known yet.");
        assert_eq!(says(listen, 1, None), "How long that takes is not known yet.");
        assert_eq!(says(listen, 1, Some((0, 1))), "That usually takes about a second.");
        assert_eq!(says(listen, 1, Some((3, 4))), "That usually takes about 3 seconds.");
        assert_eq!(says(listen, 1, Some((3, 8))), "That usually takes 3 to 8 seconds.");
        assert_eq!(says(listen, 1, Some((60, 180))), "That usually takes 1 to 3 minutes.");
        let longer = "That usually takes about 3 seconds; this time it takes longer.";
        assert_eq!(says(listen, 5, Some((3, 4))), longer);
        let queued = "Once it is its turn, that usually takes about 3 seconds.";
        assert_eq!(says(StartPhase::Queued, 99, Some((3, 4))), queued);
        let mut needing = waiting(StartPhase::Queued, 99, Some((3, 4)));
        needing.progress.as_mut().unwrap().waits_for = WaitsFor::Needs;
        let told = "Once that is ready, it usually takes about 3 seconds.";
        assert_eq!(
            (needing.words(), needing.estimate().as_str()),
            ("What it needs is started first.", told)
        );
    }

    #[test]
    fn a_browser_looks_again_soon_and_not_too_often() {
        assert_eq!(Waiting::default().look_again(), 3);
        assert_eq!(waiting(StartPhase::Listen, 1, Some((3, 4))).look_again(), 2);
        assert_eq!(waiting(StartPhase::Listen, 9, Some((3, 4))).look_again(), 3);
        assert_eq!(waiting(StartPhase::Listen, 0, Some((300, 400))).look_again(), 5);
    }

    #[test]
    fn what_is_configured_is_escaped() {
        let page = Waiting::default().page("<script>alert(1)</script>", "/\"onload=\"x");
        assert!(!page.html.contains("<script>alert"), "{}", page.html);
        assert!(!page.html.contains("\"onload"), "{}", page.html);
    }
}
