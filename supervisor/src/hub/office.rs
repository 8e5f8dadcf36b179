//! The control process: it faces operators, and says what is to be.

use std::{io, os::fd::OwnedFd, sync::Arc};

use doorbell_config::spec::{AppSpec, ListenAddr};

use super::{
    Event, Hub, HubError,
    configure::Wanted,
    launch::Fate,
    peer::{Peer, Told},
    switchboard::Number,
};
use crate::protocol::{
    APPS_AT_ONCE, Answer, FromControl, Role, TRUSTED_LIMITS, ToControl, VERSION, Wish,
};

/// The control process, and what is kept for it.
#[derive(Debug, Default)]
pub(super) struct Office {
    peer: Option<Peer>,
    is_open: bool,
    pub(super) admin: Vec<(ListenAddr, Arc<OwnedFd>)>,
    /// Apps of the wish that comes next.
    put: Vec<Arc<AppSpec>>,
    /// Figures that one asked to keep for the next.
    kept: String,
}

impl Office {
    /// Whether somebody is there who knows all.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn tell(&self, message: &ToControl) {
        if let Some(peer) = self.peer.as_ref().filter(|_| self.is_open) {
            peer.tell(message);
        }
    }

    pub(super) fn tell_with(&self, message: &ToControl, descriptors: Vec<Arc<OwnedFd>>) {
        if let Some(peer) = self.peer.as_ref().filter(|_| self.is_open) {
            peer.tell_with(message, descriptors);
        }
    }

    fn is(&self, number: Number) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.number == number)
    }

    /// Whether nobody is there.
    pub(super) fn is_empty(&self) -> bool {
        self.peer.is_none()
    }

    /// Ends whoever is there.
    pub(super) fn end(&self, fate: Fate) {
        if let Some(peer) = &self.peer {
            peer.runner.tell(fate);
        }
    }
}

impl Hub {
    pub(super) fn start_control(&mut self) -> io::Result<()> {
        let (number, events) = (self.next_role(), self.events.0.clone());
        let launcher = &self.options.launcher;
        let peer =
            Peer::start(launcher, Role::Control, number, TRUSTED_LIMITS, events, Told::Control)?;
        self.office.peer = Some(peer);
        Ok(())
    }

    pub(super) async fn told_by_control(&mut self, number: Number, told: Told) {
        if !self.office.is(number) {
            // It was given up already.
            return;
        }
        match told {
            Told::Control(told, _) => self.hear_control(number, told).await,
            Told::Proxy(..) => {}
            Told::Gone(error) => self.control_gone(error),
        }
    }

    async fn hear_control(&mut self, number: Number, told: FromControl) {
        match told {
            FromControl::Hello(hello) => {
                if hello.protocol != VERSION || hello.role != Role::Control {
                    tracing::error!("the control process speaks another protocol, and is replaced");
                    self.office.end(Fate::Die);
                }
            }
            FromControl::Held { .. } | FromControl::Admin(_) => {
                tracing::warn!("the control process brought what it never had");
            }
            FromControl::Introduced => self.welcome_control(number),
            FromControl::Apps(apps) => self.office.put.extend(apps),
            FromControl::Wish { number: wish, wish: what } => {
                self.wish(number, wish, *what).await;
            }
            FromControl::Keep(figures) => self.office.kept = figures,
        }
    }

    /// Tells it all that there is.
    fn welcome_control(&mut self, number: Number) {
        let Some(peer) = &self.office.peer else { return };
        let server = self.server.clone().map(Box::new);
        peer.tell(&ToControl::Welcome { number, server, kept: self.office.kept.clone() });
        let latest: Vec<_> = self.catalog.latest().cloned().collect();
        for apps in latest.chunks(APPS_AT_ONCE) {
            peer.tell(&ToControl::Apps(apps.to_vec()));
        }
        let rejected = self.catalog.rejected();
        if !rejected.is_empty() {
            peer.tell(&ToControl::Rejected(rejected));
            peer.tell(&ToControl::ServedInstead(self.catalog.served_instead()));
        }
        for (address, socket) in &self.office.admin {
            peer.tell_with(&ToControl::Admin(address.clone()), vec![Arc::clone(socket)]);
        }
        peer.tell(&ToControl::Listening(self.addresses()));
        self.office.is_open = true;
        self.tell_snapshots();
        self.office.tell(&ToControl::Begin);
        for number in self.taking_part() {
            self.introduce(number);
        }
    }

    async fn wish(&mut self, control: Number, wish: u64, what: Wish) {
        let (desk, events) = (self.desk.clone(), self.events.0.clone());
        let answered = move |answer| async move {
            // An error means that all is over.
            let _ = events.send(Event::Answered { control, wish, answer }).await;
        };
        match what {
            Wish::Configure { server, gone, rejected } => {
                let put = std::mem::take(&mut self.office.put);
                let wanted = Wanted { server: *server, put, gone, rejected };
                self.configure((control, wish), wanted).await;
            }
            Wish::Operate(app, verb) => {
                tokio::spawn(async move {
                    let outcome = desk.operate_and_wait(app, verb).await;
                    answered(Answer::Operated(outcome.map(drop))).await;
                });
            }
            Wish::Usages => {
                tokio::spawn(async move { answered(Answer::Usages(desk.usages().await)).await });
            }
            Wish::Upgrade => {
                let answer = Answer::Upgraded(Err("not there yet".into()));
                self.answer(control, wish, answer);
            }
        }
    }

    pub(super) fn answer(&mut self, control: Number, wish: u64, answer: Answer) {
        if self.office.is(control) {
            self.office.tell(&ToControl::Answer { wish, answer: Box::new(answer) });
        }
    }

    fn control_gone(&mut self, error: Option<io::Error>) {
        let Some(peer) = self.office.peer.take() else { return };
        self.office.is_open = false;
        self.office.put.clear();
        if let Some(error) = error {
            tracing::error!(%error, "the control process is not understood, and replaced");
            peer.runner.tell(Fate::Die);
        }
        peer.runner.tell(Fate::Leave);
        if self.closing.is_some() {
            return self.look_whether_left();
        }
        if self.is_first_start() {
            return self.fail(HubError::Role(Role::Control));
        }
        tracing::warn!(pid = peer.runner.pid, "the control process is gone; starting another");
        self.restart_later(Role::Control, peer.since.elapsed());
    }
}
