use std::{path::Path, sync::Arc};

use doorbell_config::spec::{AppSpec, Backend, ProcessSpec, RouteSpec, Template};
use tokio::{sync::mpsc, time::advance};

use super::*;
use crate::{
    desk::Channels,
    driver::{Job, Note, Report, Work},
    lifecycle::Life,
    mailbox::Mailbox,
    message::{Endpoint, GateReport, Instruction, StartTimes, Usage},
    snapshots::Snapshots,
    supervisor::SupervisorOptions,
};

const G: Generation = Generation(7);

fn id() -> AppId {
    AppId::parse("blog").unwrap()
}

/// One that may be frozen and stopped, if not soon.
fn spec() -> Arc<AppSpec> {
    let mut process = ProcessSpec::new(vec![Template::parse("true").unwrap()], "/".into());
    process.idle_freeze_after = Some(Duration::from_secs(3600));
    process.idle_stop_after = Some(Duration::from_secs(7200));
    let routes = RouteSpec::new(Vec::new(), Vec::new());
    Arc::new(AppSpec::new(id(), routes, Backend::Process(process.into())))
}

fn empty(folder: &Path) -> Desk {
    let options = SupervisorOptions {
        state_dir: folder.join("state"),
        log_dir: folder.join("log"),
        parallel_starts: 1,
        memory: None,
        open_files: None,
        group: None,
        has_custodian: false,
        lock: None,
    };
    let channels = Channels {
        requests: mpsc::channel(1).1,
        orders: mpsc::channel(1).0,
        mailbox: Arc::<Mailbox>::default(),
        snapshots: Snapshots::new(),
        custodian: mpsc::channel(1).0,
        errands: mpsc::channel(1).0,
    };
    Desk::new(options, channels).unwrap()
}

/// A desk with one app, which has just become ready.
fn desk(folder: &Path) -> Desk {
    let mut desk = empty(folder);
    desk.instruct(Instruction::Define(spec()));
    let (queued, admitted, work) = (Duration::ZERO, Instant::now(), Work::Serve);
    let job = Job { app: spec(), generation: G, fingerprint: 0, queued, admitted, work };
    // Nothing of it runs: what it would tell is told below.
    let (handle, _) = desk.driver.instance(job, desk.reports.0.clone());
    let endpoint = Endpoint::Tcp(([127, 0, 0, 1], 3000).into());
    let ready = Some((endpoint, StartTimes::default()));
    let app = desk.apps.get_mut(&id()).unwrap();
    app.instances.push(Instance { ready, ..Instance::new(G, handle) });
    let since = Instant::now().into_std();
    let ready = Ready { generation: G, since, successor: Successor::None };
    app.life = Life { state: State::Ready(ready), ..Life::default() };
    desk
}

/// The machine is short of memory.
fn look(desk: &mut Desk) {
    let usage = Usage { memory_bytes: 100, cpu_seconds: 0.0, processes: 1 };
    desk.looked_at_memory(&Shortage { machine: 50, has_swap: true, apps: vec![(id(), usage)] });
}

fn is_asked(desk: &Desk) -> bool {
    desk.round.as_ref().is_some_and(|round| round.asked.contains_key(&id()))
}

fn tell(desk: &mut Desk, note: Note) {
    desk.report(Report { app: id(), generation: G, note });
}

fn state(desk: &Desk) -> &State {
    &desk.apps[&id()].life.state
}

/// It is chosen, and frozen.
fn freeze(desk: &mut Desk) {
    look(desk);
    let idle_for = Duration::from_secs(60);
    desk.gate(GateReport::Busy { app: id(), generation: G, idle_for });
    desk.gate(GateReport::Retired { app: id(), generation: G });
    assert!(matches!(state(desk), State::Frozen(_)), "{:?}", state(desk));
}

#[tokio::test(start_paused = true)]
async fn who_is_frozen_is_not_stopped_while_its_memory_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = desk(folder.path());
    advance(LEAST_STAY).await;
    freeze(&mut desk);
    assert!(desk.round.is_some(), "none of its memory has left");
    // The round takes too long, and another one begins.
    desk.memory_is_late();
    look(&mut desk);
    assert!(matches!(state(&desk), State::Frozen(_)), "{:?}", state(&desk));
    assert!(desk.round.is_none(), "nobody can yield");
    tell(&mut desk, Note::GaveBack);
    look(&mut desk);
    assert!(matches!(state(&desk), State::Stopping(_)), "{:?}", state(&desk));
}

#[tokio::test(start_paused = true)]
async fn who_is_frozen_has_yielded_when_its_memory_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = desk(folder.path());
    advance(LEAST_STAY).await;
    freeze(&mut desk);
    tell(&mut desk, Note::GaveBack);
    assert!(desk.round.is_none());
    let past = desk.apps[&id()].past.as_ref().unwrap();
    assert_eq!(past.yields, 1);
    assert!(past.reason.as_ref().unwrap().contains("frozen before its time"));
}

#[tokio::test(start_paused = true)]
async fn who_has_just_been_thawed_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = desk(folder.path());
    look(&mut desk);
    assert!(!is_asked(&desk), "it has just become ready");
    advance(LEAST_STAY).await;
    freeze(&mut desk);
    tell(&mut desk, Note::GaveBack);
    desk.gate(GateReport::Wanted { app: id() });
    tell(&mut desk, Note::Thawed);
    assert!(matches!(state(&desk), State::Ready(_)), "{:?}", state(&desk));
    look(&mut desk);
    assert!(!is_asked(&desk), "it has just been thawed");
    advance(LEAST_STAY).await;
    look(&mut desk);
    assert!(is_asked(&desk));
}
