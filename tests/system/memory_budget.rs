//! What happens when memory gets short: apps that nobody uses yield theirs.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use doorbell_tests::{Doorbell, Setup, WebSocket, eventually, eventually_within};

use crate::node;

/// Apps that keep some memory, each as long as it runs.
fn keepers(count: usize, more: &str) -> String {
    let mut text = String::new();
    for number in 0..count {
        writeln!(
            text,
            "[app.app{number}]\nhosts = [\"app{number}.test\"]\ndirectory = \"/\"\n\
             command = [\"python3\", \"{{apps}}/greedy.py\"]\n{more}"
        )
        .expect("a string");
    }
    text
}

fn with_budget(mib: u64, apps: &str) -> Doorbell {
    let limits = format!("[server.limits]\nmemory = \"{mib}MiB\"");
    Setup::new(apps).server(&limits).start()
}

fn keep(d: &Doorbell, app: &str, mib: u64) {
    let answer = d.get(&format!("{app}.test"), &format!("/keep/{mib}"));
    assert_eq!(answer.text(), format!("kept {mib}"));
}

/// Lets an app be there for so long that it may yield.
fn pass(time: Duration) {
    let since = Instant::now();
    eventually("some time has passed", || since.elapsed() > time);
}

/// Longer than an app is left alone behind its start, of which a busy machine makes three seconds, and than
/// two looks at what apps take.
const LEFT_ALONE: Duration = Duration::from_secs(15);

fn yields(d: &Doorbell, app: &str) -> u64 {
    d.status(app)["yields"].as_u64().unwrap_or_default()
}

#[test]
fn the_longest_idle_yields_when_a_budget_is_passed() {
    let d = with_budget(250, &keepers(3, ""));
    keep(&d, "app0", 100);
    keep(&d, "app1", 100);
    pass(LEFT_ALONE);
    // The first was used last.
    assert_eq!(d.get("app0.test", "/").status, 200);
    keep(&d, "app2", 100);
    // However much longer than the other's its start took on a busy machine.
    eventually("the one that nobody uses yields", || {
        d.get("app0.test", "/").status == 200 && d.state("app1") == "stopped"
    });
    assert_eq!((d.state("app0"), d.state("app2")), ("ready".to_owned(), "ready".to_owned()));
    assert_eq!([0, 1, 2].map(|n| yields(&d, &format!("app{n}"))), [0, 1, 0]);
    let reason = d.status("app1")["reason"].to_string();
    assert!(reason.contains("stopped before its time: memory was short"), "{reason}");
    assert_eq!(d.metric("doorbell_app_yields_total{app=\"app1\"}"), Some(1.0));
    // It comes back as ever, and another one makes room for it.
    assert_eq!(d.get("app1.test", "/").status, 200);
}

#[test]
fn nobody_who_is_used_or_works_yields() {
    let apps = keepers(2, "idle = { stop_after = \"1h\" }") + &node("used", "");
    let d = with_budget(60, &apps);
    let mut websocket = WebSocket::open(d.port, "used.test", "/ws").expect("a websocket");
    assert_eq!(d.get("app0.test", "/say/awake+1h").text(), "ok 3600");
    keep(&d, "app0", 100);
    pass(LEFT_ALONE);
    // Nobody can yield, and a visitor is served all the same.
    assert_eq!(d.get("app1.test", "/").status, 200);
    websocket.echo("still here");
    assert_eq!((d.state("used"), d.state("app0")), ("ready".to_owned(), "ready".to_owned()));
    eventually("it is said", || d.log().contains("memory is short, and no app can yield"));
    assert_eq!(d.get("app0.test", "/say/done").text(), "ok");
    d.wait_for_state("app0", "stopped");
    assert_eq!(d.get("used.test", "/").status, 200);
}

#[test]
fn a_start_waits_until_there_is_room() {
    let d = with_budget(200, &keepers(2, ""));
    keep(&d, "app0", 100);
    // Looked at, and so known from here on.
    pass(LEFT_ALONE);
    d.ok(&["stop", "app0"]);
    keep(&d, "app1", 100);
    pass(LEFT_ALONE);
    assert_eq!((d.state("app1"), yields(&d, "app1")), ("ready".to_owned(), 0));
    // Of the first it is known that it takes more than is left.
    assert_eq!(d.get("app0.test", "/").status, 200);
    assert_eq!((d.app_pid("app1"), yields(&d, "app1")), (None, 1));
}

#[test]
fn who_is_used_without_being_kept_awake_stays_and_keeps_nobody_waiting() {
    let rules = "wake = { deny_paths = [\"/ws\"] }\nidle = { stop_after = \"1h\" }";
    let d = with_budget(200, &(keepers(1, "") + &node("used", rules)));
    keep(&d, "app0", 190);
    pass(LEFT_ALONE);
    d.ok(&["stop", "app0"]);
    assert_eq!(d.get("used.test", "/").status, 200);
    let mut websocket = WebSocket::open(d.port, "used.test", "/ws").expect("a websocket");
    pass(LEFT_ALONE);
    // It is known to take more than is left, and the only one who could yield does not.
    let since = Instant::now();
    assert_eq!(d.get("app0.test", "/").status, 200);
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    websocket.echo("still here");
    let tries = d.log().matches("it yields app=used").count();
    assert!((1..10).contains(&tries), "it was asked {tries} times: {}", d.log());
}

#[test]
fn apps_that_compete_do_not_wake_each_other_without_end() {
    let d = with_budget(100, &keepers(2, ""));
    keep(&d, "app0", 80);
    keep(&d, "app1", 80);
    for _ in 0..20 {
        assert_eq!(d.get("app0.test", "/").status, 200);
        assert_eq!(d.get("app1.test", "/").status, 200);
    }
    let starts = d.starts("app0") + d.starts("app1");
    assert!(starts <= 4, "{starts} starts");
}

#[test]
#[ignore = "fills the memory of the machine: .ci/second-kernel"]
fn a_machine_that_is_short_of_memory_puts_idle_apps_to_sleep() {
    let more = "idle = { freeze_after = \"1h\", stop_after = \"2h\" }\ntimeouts = { response_idle = \"2h\" }";
    let d = Doorbell::with(&keepers(3, more));
    for app in ["app0", "app1", "app2"] {
        keep(&d, app, 50);
    }
    // In use all the while.
    let mut used = d.connect();
    used.send_get("app0.test", "/wait/3600");
    pass(LEFT_ALONE);
    // More than there is, touched again and again: everybody waits for the disk.
    let hog = "import mmap\n\
               free = next(int(l.split()[1]) for l in open('/proc/meminfo') if l.startswith('MemAvailable'))\n\
               size = (free << 10) + (200 << 20)\n\
               memory = mmap.mmap(-1, size)\n\
               while True:\n\
               \x20   for at in range(0, size, 4096): memory[at] = at & 255\n";
    let mut hog = std::process::Command::new("python3").args(["-c", hog]).spawn().expect("python3");
    let asleep = |app: &str| yields(&d, app) > 0 && d.state(app) != "ready";
    // An emulated processor takes its time to fill that much.
    let patience = Duration::from_secs(240);
    let yields_one = || asleep("app1") || asleep("app2");
    eventually_within(patience, "those that nobody uses yield", yields_one);
    hog.kill().expect("it runs");
    hog.wait().expect("it ran");
    assert_eq!((yields(&d, "app0"), d.state("app0")), (0, "ready".to_owned()), "it is in use");
    drop(used);
    for app in ["app1", "app2"] {
        assert_eq!(d.get(&format!("{app}.test"), "/").status, 200);
    }
}
