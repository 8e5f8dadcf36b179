//! Random lives against a model of the world around the lifecycle: gate, line, timers, instances.
//! The model checks the invariants of the module's page after every step.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{table::terms, *};
use crate::{
    memory::Demotion,
    message::{Generation, RefusalReason},
};

mod acts;
mod checks;
mod effects;

use acts::{Act, acts};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Starting,
    Ready,
    Frozen,
    /// Told to go on, and has not said that it does.
    Thawing,
    /// Ended by itself; its tree is being cleared away.
    Failed,
}

#[derive(Debug, Default)]
struct Gate {
    open: Option<Generation>,
    leases: BTreeMap<Generation, u32>,
    /// Leases that do not keep awake.
    aside: BTreeMap<Generation, u32>,
    shut: BTreeSet<Generation>,
    waiters: u32,
    wanted_sent: bool,
    refuses: Option<RefusalReason>,
}

impl Gate {
    fn is_used(&self, generation: Generation) -> bool {
        let has = |leases: &BTreeMap<_, _>| leases.get(&generation).is_some_and(|n| *n > 0);
        has(&self.leases) || has(&self.aside)
    }
}

struct World {
    life: Life,
    terms: Terms,
    now: Instant,
    gate: Gate,
    in_line: bool,
    awaits_needs: bool,
    starts: BTreeSet<Generation>,
    timers: Vec<(Timer, Instant)>,
    programs: BTreeMap<Generation, (Program, bool)>,
    last: u64,
    gone: Vec<Generation>,
    /// Instances that hold the fixed port.
    port: BTreeSet<Generation>,
    /// The instance whose own work keeps it awake, and until when.
    awake: Option<(Generation, Instant)>,
    is_to_ask_meanwhile: bool,
}

impl World {
    fn new(tenancy: Tenancy) -> Self {
        Self {
            life: Life::default(),
            terms: terms(Goal::Down, tenancy),
            now: Instant::now(),
            gate: Gate::default(),
            in_line: false,
            awaits_needs: false,
            starts: BTreeSet::new(),
            timers: Vec::new(),
            programs: BTreeMap::new(),
            last: 0,
            gone: Vec::new(),
            port: BTreeSet::new(),
            awake: None,
            is_to_ask_meanwhile: false,
        }
    }

    fn send(&mut self, event: Event) {
        let current = self.life.state.generation();
        let awake = self.awake.filter(|(generation, _)| current == Some(*generation));
        self.terms.awake_until = awake.map(|(_, until)| until);
        let (life, effects) = step(self.life.clone(), &self.terms, event, self.now);
        self.check_failed(&life, event);
        self.life = life;
        let mut answers = Vec::new();
        for effect in effects {
            self.perform(effect, &mut answers);
        }
        self.check();
        for answer in answers {
            self.send(answer);
        }
    }

    fn answer_waiters(&mut self) {
        self.gate.waiters = 0;
        self.gate.wanted_sent = false;
    }

    fn request(&mut self) {
        match (self.gate.open, self.gate.refuses) {
            (Some(generation), _) => *self.gate.leases.entry(generation).or_default() += 1,
            (None, Some(_)) => {}
            (None, None) => {
                self.gate.waiters += 1;
                if !std::mem::replace(&mut self.gate.wanted_sent, true) {
                    self.send(Event::Wanted);
                }
            }
        }
    }

    /// It waits with others, if somebody has woken the app.
    fn request_aside(&mut self) {
        match (self.gate.open, self.gate.refuses) {
            (Some(generation), _) => *self.gate.aside.entry(generation).or_default() += 1,
            (None, None) if self.gate.wanted_sent => self.gate.waiters += 1,
            (None, Some(_) | None) => {}
        }
    }

    fn lease_ends(&mut self) {
        self.one_ends(|gate| &mut gate.leases);
    }

    fn aside_ends(&mut self) {
        self.one_ends(|gate| &mut gate.aside);
    }

    fn one_ends(&mut self, of: fn(&mut Gate) -> &mut BTreeMap<Generation, u32>) {
        let Some((&generation, leases)) = of(&mut self.gate).iter_mut().find(|(_, n)| **n > 0)
        else {
            return;
        };
        *leases -= 1;
        if !self.gate.is_used(generation) && self.gate.shut.contains(&generation) {
            self.send(Event::Gate(generation, GateEvent::Drained));
        }
    }

    fn pick(&self, n: u8, fits: impl Fn(Program, bool) -> bool) -> Option<Generation> {
        let fitting: Vec<_> =
            self.programs.iter().filter(|(_, (p, s))| fits(*p, *s)).map(|(g, _)| *g).collect();
        fitting.get(usize::from(n) % fitting.len().max(1)).copied()
    }

    fn set_program(&mut self, generation: Generation, program: Program) {
        if let Some(entry) = self.programs.get_mut(&generation) {
            entry.0 = program;
        }
    }

    fn instance_fails(&mut self, n: u8, how: Failure, fits: impl Fn(Program, bool) -> bool) {
        if let Some(generation) = self.pick(n, fits) {
            self.set_program(generation, Program::Failed);
            self.send(Event::Instance(generation, InstanceEvent::Failed(how)));
        }
    }

    fn instance_gone(&mut self, n: u8) {
        let ended = |program, signalled| signalled || program == Program::Failed;
        if let Some(generation) = self.pick(n, ended) {
            self.programs.remove(&generation);
            self.port.remove(&generation);
            self.gone.push(generation);
            self.send(Event::Instance(generation, InstanceEvent::Gone));
        }
    }

    fn thaws(&mut self, n: u8, well: bool) {
        let Some(generation) = self.pick(n, |p, s| p == Program::Thawing && !s) else { return };
        let (program, event) = if well {
            (Program::Ready, InstanceEvent::Thawed)
        } else {
            (Program::Failed, InstanceEvent::Failed(Failure::Crashed))
        };
        self.set_program(generation, program);
        self.send(Event::Instance(generation, event));
    }

    fn timer_fires(&mut self) {
        let Some(&(timer, at)) = self.timers.iter().min_by_key(|(_, at)| *at) else {
            return;
        };
        self.timers.retain(|(other, _)| *other != timer);
        self.now = self.now.max(at);
        self.send(Event::Timer(timer));
    }

    fn admit(&mut self) {
        if std::mem::take(&mut self.in_line) {
            self.last += 1;
            self.starts.insert(Generation(self.last));
            self.send(Event::Admitted(Generation(self.last)));
        }
    }

    fn set_goal(&mut self, goal: Goal) {
        self.terms.goal = goal;
        self.send(Event::GoalChanged);
    }

    fn set_needs(&mut self, needs: Needs) {
        self.terms.needs = needs;
        self.send(Event::NeedsChanged);
    }

    fn set_needed(&mut self, needed: Needed) {
        self.terms.needed = needed;
        self.send(Event::NeededChanged);
    }

    fn is_disabled(&self) -> bool {
        matches!(self.terms.goal, Goal::Disabled(_))
    }

    fn stop_now(&mut self) {
        self.send(Event::StopNow);
        let is_killed = |leaver: &Leaver| leaver.phase == LeaverPhase::Stopping;
        assert!(self.life.leavers.iter().all(is_killed), "what is waited for?");
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Request => self.request(),
            Act::LeaseEnds => self.lease_ends(),
            Act::RequestAside => self.request_aside(),
            Act::AsideEnds => self.aside_ends(),
            Act::InstanceReady(n) => {
                if let Some(generation) = self.pick(n, |p, s| p == Program::Starting && !s) {
                    self.set_program(generation, Program::Ready);
                    self.send(Event::Instance(generation, InstanceEvent::Ready));
                }
            }
            Act::InstanceFails(n, clean) => {
                let failure = if clean { Failure::Finished } else { Failure::Crashed };
                self.instance_fails(n, failure, |p, s| p != Program::Failed && !s);
            }
            Act::UpgradeFails(n) => {
                self.instance_fails(n, Failure::Upgrade, |p, s| p == Program::Starting && !s);
            }
            Act::InstanceGone(n) => self.instance_gone(n),
            Act::TimerFires => self.timer_fires(),
            Act::Admit => self.admit(),
            // The desk refuses to start what is disabled.
            Act::Start if self.is_disabled() => {}
            Act::Start => self.send(Event::Start),
            Act::Stop => self.send(Event::Stop),
            Act::StopNow => self.stop_now(),
            Act::Restart if self.is_disabled() => {}
            Act::Restart => self.send(Event::Restart),
            Act::Redefine(changed, exclusive) => {
                let tenancy = if exclusive { Tenancy::Exclusive } else { Tenancy::Shared };
                let changed = changed || tenancy != self.terms.tenancy;
                self.terms.tenancy = tenancy;
                let launch = if changed { Launch::Changed } else { Launch::Same };
                self.send(Event::Redefined(launch));
            }
            Act::Disable(removed) => {
                let off = if removed { Off::Removed } else { Off::Operator };
                self.set_goal(Goal::Disabled(off));
            }
            Act::Enable(up) => self.set_goal(if up { Goal::Up } else { Goal::Down }),
            Act::Shutdown => self.set_goal(Goal::Disabled(Off::Shutdown)),
            Act::Stale(n) => self.stale(n),
            Act::Unreachable => {
                if let Some(generation) = self.gate.open {
                    self.send(Event::Gate(generation, GateEvent::Unreachable));
                    self.send(Event::Instance(generation, InstanceEvent::Accepts));
                }
            }
            Act::Thaws(n, well) => self.thaws(n, well),
            Act::KeepAwake(seconds) => {
                let Some(generation) = self.pick(0, |p, s| p == Program::Ready && !s) else {
                    return;
                };
                let until = self.now + Duration::from_secs(u64::from(seconds));
                self.awake = (seconds > 50).then_some((generation, until));
                self.send(Event::Vigils(generation));
            }
            Act::Yield(stops) => self.demand(stops),
            Act::KeepAwakeMeanwhile => self.is_to_ask_meanwhile = true,
            Act::Needs(needs) => {
                let soon = Needs::Failed(self.now + Duration::from_secs(5));
                self.set_needs(needs.unwrap_or(soon));
            }
            Act::Needed(needed) => self.set_needed(needed),
            Act::Hours(hours) => {
                self.terms.hours = hours;
                self.send(Event::HoursChanged);
            }
            Act::Pass(seconds) => self.now += Duration::from_secs(u64::from(seconds)),
        }
    }

    /// What the desk does about an instance when memory is short.
    fn demand(&mut self, stops: bool) {
        let demotion = if stops { Demotion::Stop } else { Demotion::Freeze };
        let Some(generation) = self.life.state.generation() else { return };
        if self.terms.needed == Needed::Awake {
            return;
        }
        self.terms.demotion = Some(demotion);
        match self.life.state {
            State::Ready(_) if !self.is_awake(generation) => {
                let answer = self.ask_retire(generation);
                self.send(answer);
            }
            State::Frozen(_) if stops => self.send(Event::Timer(Timer::Idle(generation))),
            _ => {}
        }
        self.terms.demotion = None;
    }

    /// Events of an instance that is long gone change nothing.
    fn stale(&mut self, n: u8) {
        let Some(&generation) = self.gone.get(usize::from(n) % self.gone.len().max(1)) else {
            return;
        };
        let before = self.life.clone();
        for event in [
            Event::Instance(generation, InstanceEvent::Ready),
            Event::Instance(generation, InstanceEvent::Thawed),
            Event::Instance(generation, InstanceEvent::Accepts),
            Event::Instance(generation, InstanceEvent::Failed(Failure::Crashed)),
            Event::Instance(generation, InstanceEvent::Gone),
            Event::Gate(generation, GateEvent::Retired),
            Event::Gate(generation, GateEvent::Drained),
            Event::Timer(Timer::StartDeadline(generation)),
            Event::Timer(Timer::Idle(generation)),
            Event::Timer(Timer::Vigil(generation)),
            Event::Vigils(generation),
        ] {
            self.send(event);
            assert_eq!(self.life, before, "a stale event changed something");
        }
    }

    /// The world goes on without surprises until nothing is left to happen but idleness.
    fn settle(&mut self) {
        self.set_needs(Needs::Met);
        self.set_needed(Needed::No);
        for round in 0..400u16 {
            self.admit();
            let n = u8::try_from(round % 251).unwrap_or(0);
            self.act(&Act::InstanceReady(n));
            self.thaws(n, true);
            self.instance_gone(n);
            self.lease_ends();
            self.aside_ends();
            if round > 200 {
                self.timer_fires();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_invariants_hold(
        acts in acts(),
        exclusive in any::<bool>(),
        freezes in any::<bool>(),
    ) {
        let mut world = World::new(if exclusive { Tenancy::Exclusive } else { Tenancy::Shared });
        world.terms.idle_freeze_after = freezes.then(|| Duration::from_secs(10));
        for act in &acts {
            world.act(act);
        }
        world.settle();
        prop_assert_eq!(world.gate.waiters, 0, "somebody waits for ever");
        world.set_goal(Goal::Disabled(Off::Shutdown));
        world.settle();
        prop_assert!(world.life.is_over(), "not over: {:?}", world.life);
        prop_assert!(world.programs.is_empty(), "orphans: {:?}", world.programs);
        prop_assert!(world.starts.is_empty() && !world.in_line);
    }
}

/// Visitors at each edge of as many light sleeps, in the world's own time.
#[test]
fn ten_thousand_light_sleeps_lose_nobody() {
    let mut world = World::new(Tenancy::Shared);
    world.terms.idle_freeze_after = Some(Duration::from_secs(10));
    let (mut state, mut sleeps) = (1_u64, 0);
    while sleeps < 10_000 {
        // Knuth's MMIX generator: the same rounds each time, and at no edge in particular.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let was_frozen = world.life.state.name() == crate::message::StateName::Frozen;
        match (state >> 33) % 8 {
            0 | 1 => world.request(),
            2..=4 => world.lease_ends(),
            5 => world.timer_fires(),
            6 => world.thaws(0, true),
            _ => {
                world.admit();
                world.act(&Act::InstanceReady(0));
                world.instance_gone(0);
            }
        }
        sleeps +=
            u32::from(!was_frozen && world.life.state.name() == crate::message::StateName::Frozen);
    }
    assert_eq!(world.life.failures, 0);
    world.settle();
    assert_eq!(world.gate.waiters, 0, "somebody waits for ever");
}
