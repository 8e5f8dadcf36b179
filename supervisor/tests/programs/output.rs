//! What apps print ends up in files, whole and bounded.

use std::time::Duration;

use doorbell_config::{name::ByteSize, spec::OutputSpec};
use doorbell_supervisor::{
    logs,
    message::{RefusalReason, StateName},
};

use crate::house::{House, python, sh, with};

fn kept(max_size: u64, keep: usize) -> impl FnOnce(&mut doorbell_config::spec::ProcessSpec) {
    move |process| process.logs = OutputSpec { max_size: ByteSize(max_size), keep }.into()
}

fn of_the_app(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| !line.starts_with("[doorbell] ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn numbered_lines_arrive_without_a_gap_across_rotations() {
    const LINES: usize = 200_000;
    let house = House::new();
    let script = format!("for n in range({LINES}): print('line', n)");
    let app = house.define(with(python("loud", &script), kept(100_000, 1000))).await;
    assert!(house.gate.request(&app).await.is_err(), "it only prints");
    house.until_state(&app, StateName::BackingOff).await;
    house.shutdown().await;
    let lines = of_the_app(house.log(&app).await);
    assert_eq!(lines.len(), LINES);
    assert!(lines.iter().enumerate().all(|(n, line)| *line == format!("line {n}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_are_split_and_unfinished_ones_ended() {
    let house = House::new();
    let script = "import sys; sys.stdout.write('x' * 100000 + '\\nlast'); sys.stdout.flush()";
    let app = house.define(python("wide", script)).await;
    assert!(house.gate.request(&app).await.is_err(), "it only prints");
    house.shutdown().await;
    let lines = of_the_app(house.log(&app).await);
    let first = lines[0].strip_suffix(" [doorbell: line continues]").unwrap();
    assert_eq!((first.len(), lines[1].len()), (65536, 100_000 - 65536));
    assert_eq!(lines[2], "last");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_outputs_and_our_own_lines_can_be_followed() {
    let house = House::new();
    let app = house.define(sh("mixed", "echo out; echo err >&2; exit 4")).await;
    let folder = house.folder.path().join("log");
    let mut follow = logs::follow(&folder, &app, 10).await.unwrap();
    assert!(house.gate.request(&app).await.is_err());
    let mut lines = Vec::new();
    for _ in 0..4 {
        lines.push(follow.next_line().await.unwrap());
    }
    lines.sort();
    assert!(lines[0].starts_with("[doorbell] exited with status 4"), "{lines:?}");
    assert!(lines[1].starts_with("[doorbell] started, pid "), "{lines:?}");
    assert_eq!(lines[2..], ["err", "out"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_does_not_stop_the_app() {
    let house = House::new();
    let folder = house.folder.path().join("log/stuck");
    std::fs::create_dir_all(&folder).unwrap();
    let fifo = folder.join("current.log");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // A reader that never reads: the pipe takes 64 KiB and then blocks the writer.
    let reader = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let script = format!("for n in range(400000): print('line', n)\n{}", crate::house::SERVER);
    let app = house.define(python("stuck", &script)).await;
    let lease = house.gate.visit(&app).await;
    assert!(lease.get("/").await.contains("pid "));
    drop(lease);
    // The disk comes back: what was lost is owned up to.
    let (told, owned_up) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || read_for_ever(reader, "lines lost: ", told));
    owned_up.await.unwrap();
    assert_eq!(house.supervisor.shutdown(Duration::from_secs(20)).await.left, 0);
}

fn read_for_ever(mut file: std::fs::File, wanted: &str, told: tokio::sync::oneshot::Sender<()>) {
    let mut told = Some(told);
    let mut seen = Vec::new();
    let mut block = [0; 65536];
    while let Ok(read) = std::io::Read::read(&mut file, &mut block) {
        seen.extend_from_slice(&block[..read]);
        if String::from_utf8_lossy(&seen).contains(wanted)
            && let Some(told) = told.take()
        {
            told.send(()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_does_not_keep_the_end_of_an_app_from_being_seen() {
    let house = House::new();
    let app = house.define(sh("flood", "yes & sleep 0.1; exit 3")).await;
    let refused = house.gate.request(&app).await.err();
    assert_eq!(refused, Some(RefusalReason::StartFailed));
    let reason = house.until(&app, |s| s.reason.is_some()).await.reason.clone().unwrap();
    assert!(reason.starts_with("exited with status 3 "), "{reason}");
}
