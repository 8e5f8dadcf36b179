use super::*;

fn spec(windows: &[&str], prewarm: Option<u64>) -> AwakeSpec {
    let windows = windows.iter().map(|text| Window::parse(text).unwrap()).collect();
    AwakeSpec { windows, prewarm: prewarm.map(|minutes| Duration::from_secs(60 * minutes)) }
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The beginnings and ends that follow a moment, as an alarm would meet them: with what is true then.
fn course(spec: &AwakeSpec, from: &str, count: usize) -> Vec<(String, bool, bool)> {
    let mut at = time(from);
    let step = |_| {
        let next = spec.at(at).next.unwrap();
        assert!(next > at, "time goes on");
        at = next;
        let now = spec.at(at);
        (at.to_string(), matches!(now.awake, Awake::Until(_)), now.runs)
    };
    (0..count).map(step).collect()
}

/// The course of an app without `prewarm`, with beginnings marked.
#[track_caller]
fn follows(windows: &[&str], from: &str, expected: &[&str]) {
    let told: Vec<String> = course(&spec(windows, None), from, expected.len())
        .into_iter()
        .map(|(at, is_awake, _)| format!("{}{at}", if is_awake { "+" } else { "-" }))
        .collect();
    assert_eq!(told, expected);
}

#[test]
fn days_and_hours_are_read_and_printed() {
    for (text, printed) in [
        ("Mon 08:00-18:00 UTC", "Mon 08:00-18:00 UTC"),
        ("mon-FRI 08:00-18:00", "Mon,Tue,Wed,Thu,Fri 08:00-18:00"),
        ("Sat,Sun 00:00-24:00 Europe/Berlin", "Sat,Sun 00:00-24:00 Europe/Berlin"),
        ("Fri-Mon 22:00-02:00 UTC", "Mon,Fri,Sat,Sun 22:00-02:00 UTC"),
        ("Mon-Tue,Thu 09:30-09:31", "Mon,Tue,Thu 09:30-09:31"),
        ("daily   00:00-24:00   UTC", "daily 00:00-24:00 UTC"),
        ("Mon-Sun 07:00-08:00 UTC", "daily 07:00-08:00 UTC"),
    ] {
        let window = Window::parse(text).unwrap();
        assert_eq!(window.to_string(), printed);
        assert_eq!(Window::parse(printed).unwrap(), window);
        assert_eq!(serde_json::to_value(&window).unwrap(), printed);
    }
}

#[test]
fn what_are_no_hours_is_refused() {
    for text in [
        "",
        "Mon",
        "08:00-18:00",
        "Mon-Fri 8:00-18:00",
        "Mon-Fri 08:00",
        "Mon-Fri 08:60-18:00",
        "Mon-Fri 08:00-24:01",
        "Mon-Fri 24:00-02:00",
        "Mon-Fri 08:00-08:00",
        "Mon-Fri 08:00-18:00 Europe Berlin",
        "Monday 08:00-18:00",
        "Mon- 08:00-18:00",
        "Mon,,Tue 08:00-18:00",
        "Mon-Tue-Wed 08:00-18:00",
        "daily,Mon 08:00-18:00",
        "Mon-Fri +8:00-18:00",
        "Mon-Fri \u{ff10}8:00-18:00",
    ] {
        assert!(Window::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn hours_on_working_days() {
    // 2026-11-27 is a Friday.
    follows(
        &["Mon-Fri 08:00-18:00 Europe/Berlin"],
        "2026-11-27T00:00:00Z",
        &["+2026-11-27T07:00:00Z", "-2026-11-27T17:00:00Z", "+2026-11-30T07:00:00Z"],
    );
}

#[test]
fn hours_over_midnight_belong_to_the_day_they_begin() {
    follows(
        &["Sat 22:00-02:00 UTC"],
        "2026-11-27T00:00:00Z",
        &["+2026-11-28T22:00:00Z", "-2026-11-29T02:00:00Z", "+2026-12-05T22:00:00Z"],
    );
    let now = spec(&["Sat 22:00-02:00 UTC"], None).at(time("2026-11-29T01:59:59Z"));
    assert_eq!(now.awake, Awake::Until(Some(time("2026-11-29T02:00:00Z"))));
    let now = spec(&["Sat 22:00-02:00 UTC"], None).at(time("2026-11-28T01:00:00Z"));
    assert_eq!(now.awake, Awake::From(Some(time("2026-11-28T22:00:00Z"))), "not on Friday night");
}

#[test]
fn hours_that_touch_or_overlap_are_one() {
    follows(
        &[
            "Mon 08:00-12:00 UTC",
            "Mon 12:00-14:00 UTC",
            "Mon 13:00-18:00 UTC",
            "Mon 09:00-10:00 UTC",
        ],
        "2026-11-29T00:00:00Z",
        &["+2026-11-30T08:00:00Z", "-2026-11-30T18:00:00Z", "+2026-12-07T08:00:00Z"],
    );
    follows(
        &["Fri-Sun 00:00-24:00 UTC"],
        "2026-11-26T00:00:00Z",
        &["+2026-11-27T00:00:00Z", "-2026-11-30T00:00:00Z", "+2026-12-04T00:00:00Z"],
    );
}

#[test]
fn hours_without_end_have_none() {
    for windows in
        [vec!["daily 00:00-24:00 UTC"], vec!["daily 08:00-20:00 UTC", "daily 20:00-08:00 UTC"]]
    {
        let now = spec(&windows, Some(5)).at(time("2026-11-27T12:00:00Z"));
        assert_eq!((now.awake, now.runs, now.next), (Awake::Until(None), true, None));
    }
}

#[test]
fn zones_may_be_far_from_each_other() {
    follows(
        &["Mon 00:00-01:00 Pacific/Kiritimati", "Sun 23:00-24:00 Pacific/Pago_Pago"],
        "2026-11-28T00:00:00Z",
        &[
            "+2026-11-29T10:00:00Z",
            "-2026-11-29T11:00:00Z",
            "+2026-11-30T10:00:00Z",
            "-2026-11-30T11:00:00Z",
        ],
    );
}

#[test]
fn an_hour_that_is_skipped_belongs_to_nobody() {
    // 2027-03-28, 02:00 to 03:00 does not exist in Berlin: 01:00Z.
    let from = "2027-03-27T12:00:00Z";
    let moments = |begin_end: &str| {
        let spec = spec(&[&format!("Sun {begin_end} Europe/Berlin")], None);
        let told = course(&spec, from, 2);
        told.into_iter().map(|(at, is_awake, _)| format!("{at} {is_awake}")).collect::<Vec<_>>()
    };
    assert_eq!(moments("02:30-05:00"), ["2027-03-28T01:00:00Z true", "2027-03-28T03:00:00Z false"]);
    assert_eq!(moments("00:30-02:30"), ["2027-03-27T23:30:00Z true", "2027-03-28T01:00:00Z false"]);
    // At the very minute of the jump.
    assert_eq!(moments("02:00-05:00"), ["2027-03-28T01:00:00Z true", "2027-03-28T03:00:00Z false"]);
    assert_eq!(moments("00:30-02:00"), ["2027-03-27T23:30:00Z true", "2027-03-28T01:00:00Z false"]);
    // Nothing is left of it on that day.
    assert_eq!(moments("02:10-02:50"), ["2027-04-04T00:10:00Z true", "2027-04-04T00:50:00Z false"]);
}

#[test]
fn an_hour_that_comes_twice_belongs_as_a_whole() {
    // 2026-10-25, 02:00 to 03:00 comes twice in Berlin, from 00:00Z on.
    follows(
        &["Sun 02:30-04:00 Europe/Berlin"],
        "2026-10-24T12:00:00Z",
        &["+2026-10-25T00:30:00Z", "-2026-10-25T03:00:00Z"],
    );
    follows(
        &["Sun 01:00-02:30 Europe/Berlin"],
        "2026-10-24T12:00:00Z",
        &["+2026-10-24T23:00:00Z", "-2026-10-25T01:30:00Z"],
    );
}

#[test]
fn a_day_that_does_not_exist_has_no_hours() {
    // Samoa had no 2011-12-30, a Friday.
    follows(
        &["Fri 08:00-18:00 Pacific/Apia"],
        "2011-12-27T00:00:00Z",
        &["+2012-01-05T18:00:00Z", "-2012-01-06T04:00:00Z"],
    );
}

#[test]
fn an_app_runs_a_while_before_its_hours() {
    let spec = spec(&["Mon-Fri 08:00-18:00 UTC"], Some(10));
    let told = course(&spec, "2026-11-27T00:00:00Z", 4);
    let expected = [
        ("2026-11-27T07:50:00Z", false, true),
        ("2026-11-27T08:00:00Z", true, true),
        ("2026-11-27T18:00:00Z", false, false),
        ("2026-11-30T07:50:00Z", false, true),
    ];
    assert_eq!(told, expected.map(|(at, awake, runs)| (at.to_owned(), awake, runs)));
    let hours = self::spec(&["Mon 08:00-09:00 UTC"], Some(0));
    let told = course(&hours, "2026-11-27T00:00:00Z", 2);
    assert_eq!(told[0], ("2026-11-30T08:00:00Z".to_owned(), true, true));
    assert_eq!(told[1], ("2026-11-30T09:00:00Z".to_owned(), false, false));
}

#[test]
fn an_app_that_is_prepared_within_earlier_hours_runs_through() {
    let spec = spec(&["Mon 08:00-09:00 UTC", "Mon 09:05-10:00 UTC"], Some(10));
    let told = course(&spec, "2026-11-30T08:30:00Z", 3);
    let expected = [
        ("2026-11-30T09:00:00Z", false, true),
        ("2026-11-30T09:05:00Z", true, true),
        ("2026-11-30T10:00:00Z", false, false),
    ];
    assert_eq!(told, expected.map(|(at, awake, runs)| (at.to_owned(), awake, runs)));
}

#[test]
fn the_nearest_zone_is_the_one_that_was_meant() {
    for (written, meant) in [
        ("Europe/Berln", "Europe/Berlin"),
        ("berlin", "Europe/Berlin"),
        ("america/newyork", "America/New_York"),
        ("New_York", "America/New_York"),
    ] {
        assert_eq!(nearest_zone(written).as_deref(), Some(meant), "{written}");
    }
    assert_eq!(nearest_zone("xyzzy"), None);
    assert!(!Window::parse("Mon 08:00-18:00 Europe/Berln").unwrap().has_known_zone());
    for zone in ["UTC", "Europe/Berlin", "America/Argentina/Ushuaia"] {
        assert!(Window::parse(&format!("Mon 08:00-18:00 {zone}")).unwrap().has_known_zone());
    }
}
