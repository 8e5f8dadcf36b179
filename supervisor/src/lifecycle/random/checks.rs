//! What holds after every step.

use super::*;

impl World {
    pub(super) fn check(&self) {
        let awaits = self.life.awaits_needs();
        assert!(self.awaits_needs || !awaits, "nobody knows that it waits: {:?}", self.life);
        if self.terms.is_wanted() && self.terms.needed == Needed::Awake {
            assert_ne!(self.life.state, State::Stopped, "nobody starts what is needed");
        }
        let starting = self.starts.len() + usize::from(self.in_line);
        assert!(starting <= 1, "{starting} starts in flight");
        let known: BTreeSet<_> = self.programs.keys().filter(|g| self.life.knows(**g)).collect();
        assert_eq!(known.len(), self.programs.len(), "lost an instance");
        for leaver in &self.life.leavers {
            let (program, signalled) = self.programs[&leaver.generation];
            let ending = signalled || program == Program::Failed;
            match leaver.phase {
                LeaverPhase::Stopping => assert!(ending, "nobody ends {leaver:?}"),
                LeaverPhase::Draining => {
                    let timer = Timer::Drain(leaver.generation);
                    assert!(self.timers.iter().any(|(t, _)| *t == timer), "drains for ever");
                }
            }
        }
        if let Some(generation) = self.gate.open {
            assert_eq!(self.life.state.name(), crate::message::StateName::Ready);
            assert_eq!(self.life.state.generation(), Some(generation), "open on another instance");
        }
        if self.gate.waiters > 0 {
            assert!(!self.is_disabled(), "waits at a disabled app");
            assert_ne!(self.life.state, State::Stopped, "nobody starts it");
            let lasts =
                matches!(self.life.state, State::Frozen(Frozen { frost: Frost::Lasting, .. }));
            assert!(!lasts, "nobody thaws it");
        }
        for (generation, (program, signalled)) in &self.programs {
            let stands = matches!(program, Program::Frozen | Program::Thawing) && !signalled;
            let is_known = self.life.state.name() == crate::message::StateName::Frozen
                && self.life.state.generation() == Some(*generation);
            assert!(!stands || is_known, "{generation:?} was left frozen");
        }
        self.check_questions();
        self.check_refusal();
        if let State::Starting(Starting { generation }) = self.life.state {
            let timer = Timer::StartDeadline(generation);
            assert!(self.timers.iter().any(|(t, _)| *t == timer), "starts for ever");
        }
    }

    /// Whose upgrade failed does not try again by itself.
    pub(super) fn check_failed(&self, after: &Life, event: Event) {
        let is_decided = match event {
            Event::Start | Event::Stop | Event::StopNow | Event::Restart | Event::Redefined(_) => {
                true
            }
            Event::GoalChanged => self.is_disabled(),
            Event::Wanted
            | Event::Vigils(_)
            | Event::NeedsChanged
            | Event::NeededChanged
            | Event::HoursChanged
            | Event::Admitted(_)
            | Event::Instance(..)
            | Event::Gate(..)
            | Event::Timer(_) => false,
        };
        if self.life.state == State::Failed && !is_decided {
            assert_eq!(after.state, State::Failed, "nobody but an operator ends it: {event:?}");
        }
    }

    /// An app that rests turns nobody away for what is over.
    fn check_refusal(&self) {
        if self.life.state == State::Failed {
            assert_eq!(self.gate.refuses, Some(RefusalReason::Failed), "who answers?");
        }
        let rests = match &self.life.state {
            State::Stopped => true,
            State::Frozen(frozen) => {
                frozen.frost == Frost::Lasting
                    && matches!(self.terms.needs, Needs::Met | Needs::Coming)
            }
            State::Provisioning(_)
            | State::Starting(_)
            | State::Ready(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => false,
        };
        if rests && !self.is_disabled() {
            assert_eq!(self.gate.refuses, None, "refuses for nothing: {:?}", self.life);
        }
    }

    /// What is idle and used all the same is not asked again and again.
    fn check_questions(&self) {
        let State::Ready(Ready { generation, .. }) = &self.life.state else { return };
        let is_idle = self.gate.leases.get(generation).is_none_or(|leases| *leases == 0);
        if is_idle && self.gate.is_used(*generation) {
            let asked = self.timers.iter().find(|(t, _)| *t == Timer::Idle(*generation));
            let soon = self.now + Duration::from_millis(1);
            assert!(asked.is_none_or(|(_, at)| *at <= self.now || *at > soon), "asked at once");
        }
    }
}
