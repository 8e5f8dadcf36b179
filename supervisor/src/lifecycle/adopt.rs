//! What becomes of instances that outlived an earlier supervisor.

use std::time::Duration;

use super::Turn;
use crate::{
    lifecycle::{Effect, Frost, Frozen, Life, Ready, Starting, State, Successor, Timer},
    message::Generation,
};

/// Instances of one app that still run, each list ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Adoption {
    /// They were ready.
    pub(crate) ready: Vec<Generation>,
    /// They were frozen.
    pub(crate) frozen: Vec<Generation>,
    /// They were starting.
    pub(crate) starting: Vec<Generation>,
    /// They are ready, and are an earlier app's of this id: they finish what they have.
    pub(crate) strange: Vec<Generation>,
    /// They were told to end.
    pub(crate) leaving: Vec<Generation>,
    /// Crashes and failed starts in a row.
    pub(crate) failures: u32,
    /// Until the next try, if it failed.
    pub(crate) back_off: Option<Duration>,
}

impl Turn<'_> {
    /// The newest ready instance serves, older ones finish what they have; a start goes on unless it
    /// was overtaken, and a light sleep unless there is something newer.
    pub(in crate::lifecycle) fn adopt(mut self, adoption: Adoption) -> (Life, Vec<Effect>) {
        let Adoption { mut ready, mut frozen, mut starting, strange, leaving, failures, .. } =
            adoption;
        self.failures = failures;
        strange.into_iter().for_each(|generation| self.leave(generation));
        leaving.into_iter().for_each(|generation| self.signal(generation));
        let main = ready.pop();
        ready.into_iter().for_each(|generation| self.leave(generation));
        let asleep = frozen.pop().filter(|asleep| {
            let is_overtaken = main.is_some_and(|main| main > *asleep);
            if is_overtaken {
                self.signal(*asleep);
            }
            !is_overtaken
        });
        frozen.into_iter().for_each(|generation| self.signal(generation));
        let start = starting.pop().filter(|start| {
            let is_overtaken = main.is_some_and(|main| main > *start);
            if is_overtaken {
                self.signal(*start);
            }
            !is_overtaken
        });
        starting.into_iter().for_each(|generation| self.signal(generation));
        if let (Some(_), Some(generation)) = (start, asleep) {
            self.signal(generation);
        }
        if let Some(generation) = start {
            let deadline = self.after(self.terms.start_deadline);
            self.emit(Effect::SetTimer(Timer::StartDeadline(generation), deadline));
        }
        let successor = start.map_or(Successor::None, Successor::Starting);
        let state = match (main, start, asleep) {
            (Some(generation), _, _) => {
                self.emit(Effect::OpenGate(generation));
                self.serve(generation);
                State::Ready(Ready { generation, since: self.now, successor })
            }
            (None, Some(generation), _) => State::Starting(Starting { generation }),
            (None, None, Some(generation)) => {
                self.set_idle_timer(generation, self.terms.stays_frozen());
                State::Frozen(Frozen { generation, since: self.now, frost: Frost::Lasting })
            }
            (None, None, None) => match adoption.back_off {
                Some(left) => self.back_off(left),
                None => State::Stopped,
            },
        };
        self.emit(Effect::Publish);
        (Life { state, leavers: self.leavers, failures: self.failures }, self.effects)
    }
}
