//! As whom Doorbell runs: the same holds for each, whatever is killed or replaced under load.

use std::{fs, os::unix::net::UnixStream, time::Instant};

use doorbell_tests::{Doorbell, Role, Setup, eventually, free_port, get, kill, may_mount};

use crate::{
    adoption::output::{counting, grows, numbers_of},
    crowd::Crowd,
    node,
    reloading::Load,
    roles::is_root,
};

/// Everybody's user on Debian, and its group.
const NOBODY: u32 = 65534;

/// As whom it runs.
#[derive(Clone, Copy, Debug)]
enum Whose {
    /// Who runs the tests, and all of it.
    Ours,
    /// Root, and what has no need of that as somebody else.
    RootAndNobody,
    /// All of it as somebody who may nothing.
    Nobody,
}

impl Whose {
    /// Only root can be somebody else.
    fn each() -> &'static [Self] {
        let all = &[Self::Ours, Self::RootAndNobody, Self::Nobody];
        if is_root() { all } else { &all[..1] }
    }

    fn start(self, apps: &str) -> Doorbell {
        let setup = Setup::new(apps).own_binary();
        let setup = match self {
            Self::Ours => setup,
            Self::RootAndNobody => setup.open_to_all().server("user = \"nobody\""),
            Self::Nobody => setup.user(NOBODY),
        };
        let d = setup.start();
        let supervisor = if let Self::Nobody = self { NOBODY } else { user(std::process::id()) };
        let others = if let Self::Ours = self { supervisor } else { NOBODY };
        assert_eq!(user(d.pid()), supervisor);
        assert_eq!([d.proxy_pid(), d.control_pid()].map(user), [others; 2]);
        d
    }
}

/// Whose process it is, proc(5).
fn user(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("the line");
    line.split_whitespace().next().and_then(|uid| uid.parse().ok()).expect("a number")
}

/// An app that notes each start.
fn noted() -> String {
    node("app", "env = { STARTS_FILE = \"{dir}/starts\" }")
}

#[track_caller]
fn is_the_only_one(d: &Doorbell, pid: &str) {
    assert_eq!(d.get("app.test", "/pid").text(), pid);
    let starts = fs::read_to_string(d.dir.path().join("starts")).expect("its starts");
    assert_eq!((starts.lines().count(), d.app_pids().len()), (1, 1), "{starts}");
}

#[test]
fn kills_of_each_part_and_of_all_cost_whoever_runs_it_the_same() {
    for whose in Whose::each() {
        let mut d = whose.start(&noted());
        let pid = d.get("app.test", "/pid").text();
        let crowd = Crowd::on(d.port, "app.test", 6);
        crowd.wait_for(50);
        let proxy = d.proxy_pid();
        kill(proxy);
        let killed = [Instant::now()];
        d.wait_for_successor(Role::Proxy, proxy);
        crowd.wait_for(50);
        d.kill_role(Role::Control);
        crowd.wait_for(50);
        d.kill_supervisor();
        crowd.wait_for(50);
        d.start_again();
        crowd.wait_for(50);
        let figures = crowd.end(&killed);
        eprintln!("{whose:?}, a kill of each: {figures}");
        figures.only_held();
        is_the_only_one(&d, &pid);
        let crowd = Crowd::on(d.port, "app.test", 6);
        crowd.wait_for(50);
        d.kill_all();
        let killed = [Instant::now()];
        d.start_again();
        crowd.wait_for(50);
        let figures = crowd.end(&killed);
        eprintln!("{whose:?}, a kill of all: {figures}");
        figures.only_held_or_refused();
        is_the_only_one(&d, &pid);
        d.stop();
    }
}

#[test]
fn upgrades_fail_nobody_whoever_runs_it() {
    for whose in Whose::each() {
        let d = whose.start(&noted());
        let pid = d.get("app.test", "/pid").text();
        let load = Load::on(d.port, "app.test", 4);
        load.wait_for(20);
        let roles = |d: &Doorbell| [d.pid(), d.proxy_pid(), d.control_pid()];
        let before = roles(&d);
        d.replace_binary(Some("#!/bin/sh\nexit 3"));
        let output = d.cli(&["upgrade"]);
        assert!(output.stderr.contains("exited with status 3"), "{whose:?}: {output:?}");
        assert_eq!(roles(&d), before, "{whose:?}: nothing has changed");
        load.wait_for(20);
        d.replace_binary(None);
        d.ok(&["upgrade"]);
        load.wait_for(20);
        load.end_without_failure();
        let now = roles(&d);
        assert_eq!(now[0], before[0], "{whose:?}");
        assert!(now[1] != before[1] && now[2] != before[2], "{whose:?}: {before:?}, {now:?}");
        is_the_only_one(&d, &pid);
        d.stop();
    }
}

#[test]
fn no_line_is_lost_or_written_twice_whoever_runs_it() {
    for whose in Whose::each() {
        let mut d = whose.start(&counting());
        assert_eq!(d.get("app.test", "/").status, 200);
        let pid = d.app_pid("app");
        for _ in 0..2 {
            grows(&d);
            d.kill_supervisor();
            d.start_again();
            grows(&d);
            eventually("it upgrades", || d.cli(&["upgrade"]).status == 0);
            grows(&d);
            d.kill_role(Role::Control);
            d.kill_all();
            d.start_again();
        }
        grows(&d);
        eprintln!("{whose:?}: {} lines", numbers_of(&d));
        assert_eq!(d.app_pid("app"), pid);
        d.stop();
    }
}

#[test]
fn many_listeners_outlive_every_part_whoever_runs_it() {
    for whose in Whose::each() {
        let mut d = whose.start(&node("app", ""));
        let ports: Vec<u16> = (0..34).map(|_| free_port()).collect();
        let more: String = ports.iter().map(|port| format!("\"127.0.0.1:{port}\", ")).collect();
        let text = fs::read_to_string(d.config_path()).expect("the file");
        let listen = format!("listen = [{more}\"unix:http.sock\", ");
        d.write_file("doorbell.toml", &text.replacen("listen = [", &listen, 1));
        d.ok(&["reload"]);
        let all_answer = |d: &Doorbell| {
            for port in ports.iter().chain([&d.port]) {
                assert_eq!(get(*port, "app.test", "/").status, 200, "{whose:?}\n{}", d.log());
            }
            assert!(UnixStream::connect(d.dir.path().join("http.sock")).is_ok(), "{whose:?}");
        };
        all_answer(&d);
        d.kill_role(Role::Proxy);
        all_answer(&d);
        d.kill_supervisor();
        all_answer(&d);
        d.start_again();
        eventually("it upgrades", || d.cli(&["upgrade"]).status == 0);
        all_answer(&d);
        d.kill_all();
        d.start_again();
        all_answer(&d);
        d.stop();
    }
}

/// A line of a process's status, proc(5).
fn status(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("the line").trim().to_owned()
}

#[test]
fn what_doorbell_may_and_is_spared_is_not_for_apps() {
    if !is_root() || !may_mount() {
        return;
    }
    // Not every root may do this.
    let spared = "echo -400 > /proc/self/oom_score_adj || true";
    let setup = Setup::new(&node("app", "")).user(NOBODY).capability("net_bind_service");
    let d = setup.mounts(spared).start();
    let app: u32 = d.get("app.test", "/pid").text().parse().expect("a pid");
    let score = |pid: u32| {
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a process");
        score.trim().parse::<i32>().expect("a number")
    };
    assert_ne!(status(d.pid(), "CapAmb"), "0".repeat(16), "it was passed on to us");
    for kind in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let has = status(app, kind);
        let none = kind == "CapInh" || has == "0".repeat(16);
        assert!(none, "{kind}: {has}");
    }
    assert!(score(d.pid()) <= 0 && score(app) == 0, "{} {}", score(d.pid()), score(app));
}
