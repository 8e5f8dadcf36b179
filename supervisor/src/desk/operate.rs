//! What operators ask for.

use doorbell_config::{
    name::AppId,
    spec::{Backend, StartMode},
};
use tokio::sync::oneshot;

use super::{
    Desk,
    app::{Waiter, Want},
    needs::Descent,
};
use crate::{
    lifecycle::{Event, Goal, Off, State},
    message::{Generation, Verb},
    supervisor::{OperateError, Patience},
};

type Outcome = Result<(), OperateError>;

impl Desk {
    /// Does it, and answers when it is accepted and kept, or has its effect.
    pub(super) fn operate(
        &mut self,
        id: &AppId,
        verb: Verb,
        patience: Patience,
        done: oneshot::Sender<Outcome>,
    ) {
        let effects = match self.carry_out_on_all(id, verb, patience) {
            Ok(effects) => effects,
            Err(error) => {
                // The one who asked may have left.
                let _ = done.send(Err(error));
                return;
            }
        };
        let saved = match verb {
            Verb::Enable | Verb::Disable => Some(self.switch_file.save(&self.switches)),
            Verb::Start | Verb::Stop | Verb::StopNow | Verb::Restart => None,
        };
        let app = id.clone();
        self.errands.spawn(async move {
            let kept = match saved {
                Some(saved) => saved.await,
                None => Ok(()),
            };
            let mut effected = Ok(());
            for effect in effects {
                // Without an answer the desk has gone down meanwhile.
                let outcome = effect.await.unwrap_or(Err(OperateError::ShuttingDown));
                effected = effected.and(outcome);
            }
            let outcome = match (effected, kept) {
                (Ok(()), Err(error)) => {
                    tracing::error!(%app, %error, "cannot keep whether the app is disabled");
                    Err(OperateError::NotKept { app, reason: error.to_string() })
                }
                (effected, _) => effected,
            };
            // The one who asked may have left.
            let _ = done.send(outcome);
        });
    }

    /// Does it to each replica that is meant; gives where their effects are told.
    fn carry_out_on_all(
        &mut self,
        id: &AppId,
        verb: Verb,
        patience: Patience,
    ) -> Result<Vec<oneshot::Receiver<Outcome>>, OperateError> {
        let mut effects = Vec::new();
        for id in self.meant(id, verb)? {
            let (effect, effected) = oneshot::channel();
            self.carry_out(&id, verb, patience, effect)?;
            effects.push(effected);
        }
        Ok(effects)
    }

    fn carry_out(
        &mut self,
        id: &AppId,
        verb: Verb,
        patience: Patience,
        effect: oneshot::Sender<Outcome>,
    ) -> Outcome {
        let known = self.apps.get(id).filter(|app| app.goal != Goal::Disabled(Off::Removed));
        let app = known.ok_or_else(|| OperateError::Unknown(id.clone()))?;
        tracing::info!(app = %id, ?verb, "told by an operator");
        let mode = app.start_mode();
        let want = match verb {
            Verb::Start if matches!(app.life.state, State::Frozen(_)) => {
                Want::Awake { failed: app.starts.failed }
            }
            Verb::Start => Want::Ready { after: self.ready_before(id), failed: app.starts.failed },
            Verb::Restart => Want::Ready { after: app.starts.ready, failed: app.starts.failed },
            Verb::Stop | Verb::StopNow | Verb::Disable => Want::Gone(self.last_instance(id)),
            // Enabling has its effect at once.
            Verb::Enable => Want::Gone(Generation(0)),
        };
        match mode {
            Some(mode) => self.tell_process(id, verb, mode)?,
            None => self.tell_upstream(id, verb)?,
        }
        let at_once = patience == Patience::Accepted || mode.is_none();
        self.await_effect(id, if at_once { None } else { Some(want) }, effect);
        Ok(())
    }

    fn await_effect(&mut self, id: &AppId, want: Option<Want>, done: oneshot::Sender<Outcome>) {
        match (want, self.apps.get_mut(id)) {
            (Some(want), Some(app)) => {
                app.waiters.push(Waiter { want, done });
                app.answer_waiters();
            }
            // The one who asked may have left.
            (None, _) | (_, None) => _ = done.send(Ok(())),
        }
    }

    /// Starts that became ready, but for the one that is ready now: it will do.
    fn ready_before(&self, id: &AppId) -> u64 {
        self.apps.get(id).map_or(0, |app| match app.life.state {
            State::Ready(_) => app.starts.ready.saturating_sub(1),
            State::Stopped
            | State::Provisioning(_)
            | State::Starting(_)
            | State::Frozen(_)
            | State::Draining(_)
            | State::Stopping(_)
            | State::BackingOff(_)
            | State::Failed => app.starts.ready,
        })
    }

    fn last_instance(&self, id: &AppId) -> Generation {
        let last = self.apps.get(id).and_then(|app| Some(app.instances.last()?.generation));
        last.unwrap_or_default()
    }

    fn tell_process(&mut self, id: &AppId, verb: Verb, mode: StartMode) -> Outcome {
        match verb {
            Verb::Start | Verb::Restart if self.is_disabled(id) => {
                return Err(OperateError::Disabled(id.clone()));
            }
            Verb::Start => {
                self.set_goal(id, self.goal_by_definition(id, mode));
                self.start_needs(id);
                self.play(id, Event::Start);
            }
            Verb::Restart => {
                self.set_goal(id, self.goal_by_definition(id, mode));
                self.start_needs(id);
                self.play(id, Event::Restart);
            }
            Verb::Stop if self.is_disabled(id) => {}
            Verb::Stop => {
                self.set_goal(id, Goal::Down);
                self.stop(id, Descent::Stop);
            }
            Verb::StopNow => {
                if !self.is_disabled(id) {
                    self.set_goal(id, Goal::Down);
                }
                self.stop(id, Descent::StopNow);
            }
            Verb::Enable => {
                self.switches.enable(id, Some(mode));
                if self.is_disabled(id) {
                    self.set_goal(id, self.goal_by_definition(id, mode));
                    self.call_back(id);
                    self.play(id, Event::GoalChanged);
                }
                if mode == StartMode::WithServer && !id.is_further_replica() {
                    self.play(id, Event::Start);
                }
            }
            Verb::Disable => {
                self.switches.disable(id);
                self.set_goal(id, Goal::Disabled(Off::Operator));
                self.stop_dependants(id, Descent::Stop);
                self.descend(id, Descent::Forbidden);
                self.settle();
            }
        }
        self.publish(id);
        Ok(())
    }

    fn stop(&mut self, id: &AppId, how: Descent) {
        self.stop_dependants(id, how);
        self.descend(id, how);
        self.settle();
    }

    fn tell_upstream(&mut self, id: &AppId, verb: Verb) -> Outcome {
        self.is_its_own(id, verb)?;
        match verb {
            Verb::Start if self.is_disabled(id) => return Err(OperateError::Disabled(id.clone())),
            Verb::Start => {}
            Verb::Stop | Verb::StopNow | Verb::Restart => {
                return Err(OperateError::NoProcess(id.clone()));
            }
            Verb::Enable => {
                self.switches.enable(id, None);
                self.set_up_upstream(id, true);
            }
            Verb::Disable => {
                self.switches.disable(id);
                self.set_up_upstream(id, true);
            }
        }
        self.publish(id);
        Ok(())
    }

    /// Refuses what can only be done to the app whose instance this one shares.
    fn is_its_own(&self, id: &AppId, verb: Verb) -> Outcome {
        let shared = self.apps.get(id).and_then(|app| app.spec.shared());
        match (verb, shared) {
            (Verb::Start | Verb::Stop | Verb::StopNow | Verb::Restart, Some(shared)) => {
                Err(OperateError::Shared { app: id.clone(), with: shared.with.clone() })
            }
            (Verb::Enable | Verb::Disable, Some(_)) | (_, None) => Ok(()),
        }
    }

    fn is_disabled(&self, id: &AppId) -> bool {
        self.apps.get(id).is_some_and(|app| app.is_disabled())
    }

    pub(super) fn set_goal(&mut self, id: &AppId, goal: Goal) {
        if let Some(app) = self.apps.get_mut(id) {
            app.goal = goal;
        }
    }

    /// A visit wakes an app that an operator stopped: one that always runs is to run on.
    pub(super) fn wake_by_visit(&mut self, id: &AppId) {
        let Some(app) = self.apps.get_mut(id) else { return };
        if let (false, Backend::Process(process)) = (app.is_disabled(), &app.spec.backend) {
            app.goal = app.goal_by_definition(process.start);
        }
    }
}
