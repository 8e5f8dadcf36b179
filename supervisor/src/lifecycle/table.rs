//! Every state against every event: the outcome stands in `table.txt`, to be read as a whole.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use doorbell_config::spec::BackOffSpec;

use super::*;
use crate::{memory::Demotion, message::Generation};

/// The instance that the state is about.
const MAIN: Generation = Generation(10);
/// The instance that is to take over, where there is one.
const NEXT: Generation = Generation(20);
/// An instance on its way down.
const OLD: Generation = Generation(5);

pub(super) fn terms(goal: Goal, tenancy: Tenancy) -> Terms {
    Terms {
        goal,
        tenancy,
        needs: Needs::Met,
        needed: Needed::No,
        hours: Hours::Free,
        idle_freeze_after: None,
        idle_stop_after: Some(Duration::from_secs(100)),
        awake_until: None,
        demotion: None,
        start_deadline: Duration::from_secs(60),
        drain: Duration::from_secs(30),
        back_off: BackOffSpec {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(64),
            reset_after: Duration::from_secs(600),
        },
    }
}

fn leaver(generation: Generation, phase: LeaverPhase) -> Leaver {
    Leaver { generation, phase }
}

fn life(state: State, leavers: Vec<Leaver>) -> Life {
    Life { state, leavers, failures: 1 }
}

fn lives(now: Instant) -> Vec<(&'static str, Life)> {
    let line = |line| State::Provisioning(Provisioning { line });
    let ready = |successor| State::Ready(Ready { generation: MAIN, since: now, successor });
    let frozen = |frost| State::Frozen(Frozen { generation: MAIN, since: now, frost });
    let draining = |next| {
        let state = State::Draining(Draining { generation: MAIN, next });
        life(state, vec![leaver(MAIN, LeaverPhase::Draining)])
    };
    let stopping = |next| {
        let state = State::Stopping(Stopping { generation: MAIN, next });
        life(state, vec![leaver(MAIN, LeaverPhase::Stopping)])
    };
    let backing_off = |because| {
        let until = now + Duration::from_secs(3);
        life(State::BackingOff(BackingOff { until, because }), vec![])
    };
    let old = |phase| vec![leaver(OLD, phase)];
    vec![
        ("stopped", life(State::Stopped, vec![])),
        ("in line", life(line(Line::Joined), vec![])),
        ("after leavers", life(line(Line::AfterLeavers), old(LeaverPhase::Stopping))),
        ("starting", life(State::Starting(Starting { generation: MAIN }), vec![])),
        ("ready", life(ready(Successor::None), vec![])),
        ("ready, old drains", life(ready(Successor::None), old(LeaverPhase::Draining))),
        ("ready, next in line", life(ready(Successor::InLine), vec![])),
        ("ready, next starts", life(ready(Successor::Starting(NEXT)), vec![])),
        ("frozen", life(frozen(Frost::Lasting), vec![])),
        ("thawing", life(frozen(Frost::Thawing(Then::Serve)), vec![])),
        ("thawing to replace", life(frozen(Frost::Thawing(Then::Replace)), vec![])),
        ("draining to rest", draining(Next::Rest)),
        ("draining to start", draining(Next::Start)),
        ("stopping to rest", stopping(Next::Rest)),
        ("stopping to start", stopping(Next::Start)),
        ("backing off", backing_off(Because::Itself)),
        ("awaits needs", life(line(Line::AwaitsNeeds), vec![])),
        ("ready, next awaits needs", life(ready(Successor::AwaitsNeeds), vec![])),
        ("frozen, awaits needs", life(frozen(Frost::AwaitsNeeds(Then::Serve)), vec![])),
        ("backing off for needs", backing_off(Because::Needs)),
        ("failed", life(State::Failed, vec![])),
    ]
}

fn events() -> Vec<Event> {
    let mut events = vec![
        Event::Wanted,
        Event::Start,
        Event::Stop,
        Event::StopNow,
        Event::Restart,
        Event::Redefined(Launch::Same),
        Event::Redefined(Launch::Changed),
        Event::GoalChanged,
        Event::NeedsChanged,
        Event::NeededChanged,
        Event::HoursChanged,
        Event::Admitted(NEXT),
        Event::Timer(Timer::BackOff),
    ];
    for generation in [OLD, MAIN, NEXT] {
        events.extend([
            Event::Instance(generation, InstanceEvent::Ready),
            Event::Instance(generation, InstanceEvent::Thawed),
            Event::Instance(generation, InstanceEvent::Accepts),
            Event::Instance(generation, InstanceEvent::Failed(Failure::Crashed)),
            Event::Instance(generation, InstanceEvent::Failed(Failure::Finished)),
            Event::Instance(generation, InstanceEvent::Failed(Failure::Upgrade)),
            Event::Instance(generation, InstanceEvent::Gone),
            Event::Gate(generation, GateEvent::Retired),
            Event::Gate(generation, GateEvent::Busy(Duration::from_secs(40))),
            Event::Gate(generation, GateEvent::Busy(Duration::from_secs(400))),
            Event::Gate(generation, GateEvent::Drained),
            Event::Gate(generation, GateEvent::Unreachable),
            Event::Timer(Timer::StartDeadline(generation)),
            Event::Timer(Timer::Idle(generation)),
            Event::Timer(Timer::Drain(generation)),
            Event::Timer(Timer::Vigil(generation)),
            Event::Vigils(generation),
        ]);
    }
    events
}

/// Numbers as the table writes them: names for instances, times after now.
fn written(effect: &Effect, now: Instant) -> String {
    match effect {
        Effect::SetTimer(timer, at) => {
            format!("SetTimer({timer:?}, {:?})", at.duration_since(now))
        }
        Effect::Refuse(refusal) => format!("Refuse({:?})", refusal.reason),
        other => format!("{other:?}"),
    }
    .replace("Generation(10)", "main")
    .replace("Generation(20)", "next")
    .replace("Generation(5)", "old")
}

fn table() -> String {
    let now = Instant::now();
    let freezes = Terms {
        idle_freeze_after: Some(Duration::from_secs(10)),
        ..terms(Goal::Down, Tenancy::Shared)
    };
    let awake = Terms { awake_until: Some(now + Duration::from_secs(20)), ..freezes };
    let demotion = Some(Demotion::Stop);
    let freeze = Some(Demotion::Freeze);
    let sleepers = Terms { needed: Needed::Asleep, demotion, ..freezes };
    let failed = Needs::Failed(now + Duration::from_secs(7));
    let exclusive = terms(Goal::Down, Tenancy::Exclusive);
    let kinds = [
        ("may sleep", terms(Goal::Down, Tenancy::Shared)),
        ("may be frozen", freezes),
        ("may be frozen, its needs start", Terms { needs: Needs::Coming, ..freezes }),
        ("may be frozen, its needs failed", Terms { needs: failed, ..freezes }),
        ("one at a time, its needs are off", Terms { needs: Needs::Off, ..exclusive }),
        ("kept awake for 20 s", awake),
        ("may be frozen, is to stop", Terms { demotion: Some(Demotion::Stop), ..freezes }),
        ("may be frozen, within its hours", Terms { hours: Hours::Kept, ..freezes }),
        (
            "within its hours, is to freeze",
            Terms { hours: Hours::Kept, demotion: freeze, ..freezes },
        ),
        ("needed by frozen ones", Terms { needed: Needed::Asleep, ..freezes }),
        ("needed by one that runs", Terms { needed: Needed::Awake, ..freezes }),
        ("needed by frozen ones, is to stop", sleepers),
        ("should run, one at a time", terms(Goal::Up, Tenancy::Exclusive)),
        ("disabled", terms(Goal::Disabled(Off::Operator), Tenancy::Shared)),
    ];
    let mut table = String::new();
    for (kind, terms) in kinds {
        for (title, life) in lives(now) {
            writeln!(table, "\n## {title} ({kind})").unwrap();
            for event in events() {
                let label = written(&Effect::Hold, now).replace("Hold", &format!("{event:?}"));
                let label = label
                    .replace("Generation(10)", "main")
                    .replace("Generation(20)", "next")
                    .replace("Generation(5)", "old");
                let (after, effects) = step(life.clone(), &terms, event, now);
                if after == life && effects.is_empty() {
                    continue;
                }
                let effects: Vec<_> = effects.iter().map(|e| written(e, now)).collect();
                writeln!(table, "{label} -> {:?}: {}", after.state.name(), effects.join(", "))
                    .unwrap();
            }
        }
    }
    table
}

#[test]
fn every_state_meets_every_event() {
    let table = table();
    let expected = include_str!("table.txt");
    if table != expected {
        let path = std::env::temp_dir().join("doorbell-lifecycle-table.txt");
        std::fs::write(&path, &table).unwrap();
        let line = table.lines().zip(expected.lines()).find(|(new, old)| new != old);
        panic!("the table changed, first at {line:?}; the new one is {}", path.display());
    }
}
