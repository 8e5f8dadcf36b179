//! Storms: requests that race every edge of an app's way down, again and again, and are all answered.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Setup, eventually, get, may_mount};

use crate::{hardship::PLATFORMS, listening::listener, node};

const CLIENTS: usize = 4;

/// Requests of one storm. Ten thousand are a matter of minutes on a busy machine: `.ci/soak`.
fn rounds(by_default: usize) -> usize {
    let asked = std::env::var("DOORBELL_STORM").ok().and_then(|rounds| rounds.parse().ok());
    asked.unwrap_or(by_default)
}

/// Clients that ask together, a moment apart, each time after another pause of up to this long. Gives the
/// different answers.
fn rage(port: u16, path: &str, rounds: usize, pauses: Duration) -> BTreeSet<String> {
    const APART: u64 = 170;
    let ask = |after: Duration| {
        let since = Instant::now();
        while since.elapsed() < after {
            std::thread::yield_now();
        }
        let response = get(port, "app.test", path);
        assert_eq!(response.status, 200, "{}", response.text());
        response.text()
    };
    let mut answers = BTreeSet::new();
    for round in 0..rounds / CLIENTS {
        // No two rounds in a row are at the same edge.
        let pause = (round * 1637) as u64 % pauses.as_micros() as u64;
        std::thread::scope(|scope| {
            let after = |client| Duration::from_micros(pause + client as u64 * APART);
            let all: Vec<_> =
                (0..CLIENTS).map(|client| scope.spawn(move || ask(after(client)))).collect();
            answers.extend(all.into_iter().map(|client| client.join().expect("it is answered")));
        });
    }
    answers
}

#[test]
fn requests_that_race_every_edge_are_answered_by_one_process() {
    let more = "idle = { freeze_after = \"1ms\", stop_after = \"1h\" }";
    let d = Doorbell::with(&node("app", more));
    let pids = rage(d.port, "/pid", rounds(1000), Duration::from_millis(4));
    assert_eq!((pids.len(), d.starts("app")), (1, 1));
}

/// On the way down from ready to nothing: about to be frozen, frozen, thawed to be ended, ending, gone.
fn races_every_way_down(setup: Setup, name: &str) {
    let d = setup.start();
    let answers = rage(d.port, "/", rounds(400), Duration::from_millis(9));
    assert!(answers.len() > 10, "{name}: only these ran: {answers:?}");
    assert_eq!(d.status("app")["starts"]["failed"], 0, "{name}: a start failed");
    d.wait_for_state("app", "stopped");
    let history = d.ok(&["history", "app"]);
    for state in ["frozen", "stopping", "stopped"] {
        assert!(history.contains(state), "{name}: it was never {state}: {history}");
    }
    eventually("nothing is left of it", || d.app_pids().is_empty());
}

#[test]
fn requests_that_race_every_way_down_are_answered_by_whoever_is_there() {
    let app = format!(
        "[app.app]\nhosts = [\"app.test\"]\ncommand = [\"{}\", \"serve\"]\ndirectory = \"/\"\n\
         idle = {{ freeze_after = \"1ms\", stop_after = \"4ms\" }}\n",
        listener()
    );
    races_every_way_down(Setup::new(&app), "this machine");
    if may_mount() {
        for platform in &PLATFORMS {
            races_every_way_down(Setup::new(&app).mounts(platform.script), platform.name);
        }
    }
}
