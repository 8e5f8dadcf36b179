//! What the world does as it is told, and what it may be told.

use super::*;

impl World {
    pub(super) fn perform(&mut self, effect: Effect, answers: &mut Vec<Event>) {
        match effect {
            Effect::Enqueue => self.joins(),
            Effect::Withdraw | Effect::StepBack => {
                assert!(std::mem::take(&mut self.in_line), "left a line it was not in");
            }
            Effect::AwaitNeeds => {
                assert_eq!(self.terms.needs_at(self.now), Needs::Coming);
                self.awaits_needs = true;
            }
            Effect::ForgoNeeds => assert!(std::mem::take(&mut self.awaits_needs)),
            Effect::BlameNeeds => {
                self.awaits_needs = false;
                let needs = self.terms.needs_at(self.now);
                assert!(matches!(needs, Needs::Failed(_) | Needs::Off), "blames {needs:?}");
            }
            Effect::Spawn(generation) => self.spawn(generation),
            Effect::EndStart(generation, _) => {
                assert!(self.starts.remove(&generation), "ended a start twice");
            }
            Effect::Signal(generation) | Effect::Kill(generation) => {
                let program = self.programs.get_mut(&generation).expect("signalled a stranger");
                program.1 = true;
            }
            Effect::Check(generation) => assert!(self.programs.contains_key(&generation)),
            Effect::Freeze(generation) => self.freeze(generation),
            Effect::Thaw(generation) => self.thaw(generation),
            Effect::OpenGate(generation)
            | Effect::ReopenGate(generation)
            | Effect::OpenGateAgain(generation) => {
                assert_eq!(
                    self.programs.get(&generation),
                    Some(&(Program::Ready, false)),
                    "opened the gate of an instance that is not ready"
                );
                self.gate.open = Some(generation);
                self.answer_waiters();
                self.gate.refuses = None;
                *self.gate.leases.entry(generation).or_default() += 1;
            }
            Effect::ShutGate(generation) => {
                if self.gate.open == Some(generation) {
                    self.gate.open = None;
                }
                self.gate.shut.insert(generation);
                if !self.gate.is_used(generation) {
                    answers.push(Event::Gate(generation, GateEvent::Drained));
                }
            }
            Effect::AskRetire(generation) => {
                assert!(!self.is_awake(generation), "asked what is kept awake");
                assert_ne!(self.terms.needed, Needed::Awake, "may what is needed retire?");
                assert_eq!(self.terms.hours, Hours::Free, "may it retire within its hours?");
                answers.push(self.ask_retire(generation));
            }
            Effect::Refuse(refusal) => {
                self.answer_waiters();
                self.gate.refuses = Some(refusal.reason);
            }
            Effect::Hold => self.gate.refuses = None,
            Effect::SetTimer(timer, at) => {
                self.timers.retain(|(other, _)| *other != timer);
                self.timers.push((timer, at));
            }
            Effect::CancelTimer(timer) => self.timers.retain(|(other, _)| *other != timer),
            Effect::Publish => {}
        }
    }

    pub(super) fn is_awake(&self, generation: Generation) -> bool {
        self.awake.is_some_and(|(awake, until)| awake == generation && until > self.now)
    }

    fn joins(&mut self) {
        assert!(!self.in_line, "joined the line twice");
        assert_eq!(self.terms.needs, Needs::Met, "takes a place from what it needs");
        (self.in_line, self.awaits_needs) = (true, false);
    }

    fn spawn(&mut self, generation: Generation) {
        assert_eq!(self.terms.needs, Needs::Met, "starts before what it needs");
        assert!(self.starts.contains(&generation), "spawned without admission");
        if self.terms.tenancy == Tenancy::Exclusive {
            assert!(self.port.insert(generation));
            assert_eq!(self.port.len(), 1, "two instances want one port");
        }
        self.programs.insert(generation, (Program::Starting, false));
    }

    fn freeze(&mut self, generation: Generation) {
        assert_eq!(self.programs.get(&generation), Some(&(Program::Ready, false)));
        assert_ne!(self.gate.open, Some(generation), "froze what is open");
        assert!(!self.gate.is_used(generation), "in use");
        assert_ne!(self.terms.needed, Needed::Awake, "froze what is needed");
        assert!(!self.is_awake(generation), "froze what is kept awake");
        self.set_program(generation, Program::Frozen);
    }

    fn thaw(&mut self, generation: Generation) {
        assert_eq!(self.programs.get(&generation), Some(&(Program::Frozen, false)));
        assert_eq!(self.terms.needs, Needs::Met, "thawed before what it needs");
        self.awaits_needs = false;
        self.set_program(generation, Program::Thawing);
    }

    pub(super) fn ask_retire(&mut self, generation: Generation) -> Event {
        if std::mem::take(&mut self.is_to_ask_meanwhile) {
            self.awake = Some((generation, self.now + Duration::from_secs(50)));
        }
        if !self.gate.is_used(generation) && self.gate.open == Some(generation) {
            self.gate.open = None;
            return Event::Gate(generation, GateEvent::Retired);
        }
        let is_idle = self.gate.leases.get(&generation).is_none_or(|leases| *leases == 0);
        let idle_for = if is_idle { Duration::from_secs(1000) } else { Duration::ZERO };
        Event::Gate(generation, GateEvent::Busy(idle_for))
    }
}
