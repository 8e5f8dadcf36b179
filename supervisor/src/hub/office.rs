//! The control process: it faces operators, and says what is to be.

use std::{
    collections::HashMap,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, Given, ListenAddr},
};
use tokio::time::Instant;

use super::{
    Event, Hub, HubError,
    catalog::Wanted,
    credential,
    launch::{Fate, Image, Runner},
    overdue,
    peer::{Peer, Told},
    sockets,
    switchboard::Number,
};
use crate::protocol::{
    Answer, FromControl, Role, TRUSTED_LIMITS, ToControl, VERSION, Wish, portions,
};
use crate::{
    driver::{Custody, Errand, advance, create_for},
    message::Generation,
};

/// The control process, and what is kept for it.
#[derive(Debug, Default)]
pub(super) struct Office {
    peer: Option<Peer>,
    is_open: bool,
    /// By when it has to have said who it is.
    pub(super) due: Option<Instant>,
    /// It was told to end, for another to take its place.
    is_renewed: bool,
    pub(super) admin: Vec<(ListenAddr, Arc<OwnedFd>)>,
    /// Apps of the wish that comes next.
    put: Vec<Arc<AppSpec>>,
    /// Figures that one asked to keep for the next.
    kept: String,
    /// Starts that wait to be told what they are given.
    asked: HashMap<u64, Errand>,
    /// The number of the last question.
    last_asked: u64,
    /// What is kept open there for instances.
    custody: HashMap<(AppId, Generation), Vec<Arc<OwnedFd>>>,
}

impl Office {
    /// Whether somebody is there who knows all.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether whoever is there knows all, and stays.
    pub(super) fn is_settled(&self) -> bool {
        self.is_open && !self.is_renewed
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

    /// Waits until all that was said is on its way.
    pub(super) async fn flush(&self) {
        if let Some(peer) = &self.peer {
            peer.flush().await;
        }
    }

    /// Asks what an app is given. Without anybody there, the next one is asked.
    pub(super) fn ask(&mut self, errand: Errand) {
        // Those who left are not asked for.
        self.asked.retain(|_, errand| !errand.done.is_closed());
        self.last_asked += 1;
        self.tell(&errand.question(self.last_asked));
        self.asked.insert(self.last_asked, errand);
    }

    /// Asks what nobody has answered.
    fn ask_again(&mut self) {
        self.asked.retain(|_, errand| !errand.done.is_closed());
        let mut numbers: Vec<_> = self.asked.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            if let Some(errand) = self.asked.get(&number) {
                self.tell(&errand.question(number));
            }
        }
    }

    fn answered(&mut self, number: u64, given: Result<Given, String>) {
        if let Some(errand) = self.asked.remove(&number) {
            // Whoever asked may have left.
            let _ = errand.done.send(given);
        }
    }

    /// Has something kept open, or let go.
    pub(super) fn take_into_custody(&mut self, custody: Custody) {
        match custody {
            Custody::Hold(app, generation, descriptors) => {
                let hold = ToControl::Hold { app: app.clone(), generation };
                self.tell_with(&hold, descriptors.clone());
                self.custody.insert((app, generation), descriptors);
            }
            Custody::Release(app, generation) => {
                self.custody.remove(&(app.clone(), generation));
                self.tell(&ToControl::Release { app, generation });
            }
        }
    }

    /// Whoever is new is to keep all that there is.
    fn hand_over_custody(&self) {
        for ((app, generation), descriptors) in &self.custody {
            let hold = ToControl::Hold { app: app.clone(), generation: *generation };
            self.tell_with(&hold, descriptors.clone());
        }
    }

    /// Whoever is there, and its process.
    pub(super) fn known(&self) -> Option<(Number, u32)> {
        let peer = self.peer.as_ref()?;
        Some((peer.number, peer.runner.pid?))
    }

    fn is(&self, number: Number) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.number == number)
    }

    /// Whether this one is there and has not said who it is.
    pub(super) fn is_coming(&self, number: Number) -> bool {
        !self.is_open && self.is(number)
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

impl Errand {
    fn question(&self, number: u64) -> ToControl {
        let (app, question) = (self.app.clone(), self.question.clone());
        ToControl::Prepare { app, generation: self.generation, number, question }
    }
}

impl Hub {
    pub(super) fn start_control(&mut self) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        let (launcher, reception) = (&self.options.launcher, self.reception.as_ref());
        let folder = &self.options.control_dir;
        if let Err(error) = create_for(folder, launcher.user()) {
            // It serves what the files have; why the registry has no place it tells itself.
            tracing::error!(%error, folder = %folder.display(), "cannot make the registry's folder");
        }
        let runner = launcher.start(Role::Control, theirs, reception, Image::Ours)?;
        let number = self.next_role();
        self.attach_control(number, ours, runner)
    }

    /// Takes on a control process at the other end of a connection.
    pub(super) fn attach_control(
        &mut self,
        number: Number,
        connection: UnixStream,
        runner: Runner,
    ) -> io::Result<()> {
        let events = self.events.0.clone();
        let peer = Peer::attach(connection, runner, number, TRUSTED_LIMITS, events, Told::Control)?;
        self.office.peer = Some(peer);
        self.office.due = Some(overdue::soon());
        self.note_roles();
        Ok(())
    }

    /// Opens the admin addresses that nobody brought.
    pub(super) fn open_admin(&mut self) -> Result<(), HubError> {
        for address in self.options.server.admin.clone() {
            if self.office.admin.iter().any(|(known, _)| *known == address) {
                continue;
            }
            let socket = sockets::open_admin(&address)
                .map_err(|error| HubError::Admin(address.clone(), error))?;
            tracing::info!(%address, "admin listening");
            self.office.admin.push((address, socket));
        }
        Ok(())
    }

    pub(super) async fn told_by_control(&mut self, number: Number, told: Told) {
        if !self.office.is(number) {
            // It was given up already.
            return;
        }
        match told {
            Told::Control(told, descriptors) => self.hear_control(number, told, descriptors).await,
            Told::Proxy(..) => {}
            Told::Gone(error) => self.control_gone(error),
        }
    }

    async fn hear_control(&mut self, number: Number, told: FromControl, with: Vec<OwnedFd>) {
        match told {
            FromControl::Hello(hello) => {
                if hello.protocol != VERSION || hello.role != Role::Control {
                    self.expel_control("speaks another protocol");
                }
            }
            FromControl::Held { app, generation } => self.desk.hand_back(app, generation, with),
            FromControl::Admin(address) => self.brought_admin(&address, with),
            FromControl::Introduced if self.office.is_open => {
                self.expel_control("introduced itself twice");
            }
            FromControl::Introduced => {
                self.office.due = None;
                if let Err(error) = self.open_admin() {
                    self.fail_unless_survived(error);
                }
                self.welcome_control(number);
                self.look_who_is_back();
            }
            FromControl::Apps(apps) => self.office.put.extend(apps),
            FromControl::Wish { number: wish, wish: what } => {
                self.wish(number, wish, *what).await;
            }
            FromControl::Keep(figures) => self.office.kept = figures,
            FromControl::Prepared { number, given, .. } => self.office.answered(number, given),
        }
    }

    /// A control process that outlived its supervisor brings the socket of an admin address.
    fn brought_admin(&mut self, address: &ListenAddr, sockets: Vec<OwnedFd>) {
        for socket in sockets.into_iter().filter(|socket| sockets::listens_on(socket, address)) {
            self.office.admin.push((address.clone(), Arc::new(socket)));
        }
    }

    /// Tells it all that there is.
    fn welcome_control(&mut self, number: Number) {
        let Some(peer) = &self.office.peer else { return };
        let server = self.server.clone().map(Box::new);
        let kept = self.office.kept.clone();
        let is_upgraded = self.options.is_upgraded;
        let upgraded_to = is_upgraded.then(|| env!("CARGO_PKG_VERSION").to_owned());
        let (abilities, seed) = (self.desk.abilities(), self.seed.clone());
        let (keys, has_keys) = match credential::keys() {
            Ok(keys) => (keys.map(OwnedFd::from), true),
            Err(error) => {
                tracing::error!(%error, "systemd's credential cannot be read: no secret can be opened");
                (None, false)
            }
        };
        let welcome = ToControl::Welcome {
            number,
            server,
            kept,
            upgraded_to,
            abilities,
            seed,
            lacks_keys: !has_keys,
        };
        peer.tell_with(&welcome, keys.map(Arc::new).into_iter().collect());
        let latest: Vec<_> = self.catalog.latest().cloned().collect();
        for apps in portions(&latest) {
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
        // Whoever asks for figures first is to see all of them.
        for number in self.taking_part() {
            self.introduce(number);
        }
        match advance::pair() {
            Ok((ours, theirs)) => {
                self.office.tell_with(&ToControl::Begin, vec![Arc::new(theirs)]);
                self.desk.put_advances(Some(Arc::new(ours)));
            }
            Err(error) => {
                tracing::error!(%error, "apps that start when doorbell is killed may fail");
                self.office.tell(&ToControl::Begin);
            }
        }
        self.office.hand_over_custody();
        self.office.ask_again();
    }

    async fn wish(&mut self, control: Number, wish: u64, what: Wish) {
        let (desk, events) = (self.desk.clone(), self.events.0.clone());
        let answered = move |answer| async move {
            // An error means that all is over.
            let _ = events.send(Event::Answered { control, wish, answer }).await;
        };
        match what {
            Wish::Configure { server, gone, rejected, is_whole, is_trial, lineage } => {
                let put = std::mem::take(&mut self.office.put);
                let server = *server;
                let wanted = Wanted { server, put, gone, rejected, is_whole, is_trial, lineage };
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
                self.upgrade(Some((control, wish)));
            }
        }
    }

    pub(super) fn answer(&mut self, control: Number, wish: u64, answer: Answer) {
        if self.office.is(control) {
            self.office.tell(&ToControl::Answer { wish, answer: Box::new(answer) });
        }
    }

    /// After an upgrade, the control process is the old version's: it has handed back what it had, and
    /// another takes its place.
    pub(super) fn renew_control(&mut self) {
        if self.options.is_upgraded && self.returning.is_control_back() {
            tracing::info!("the control process makes way for the new version's");
            self.office.tell(&ToControl::End);
            self.office.is_renewed = true;
        }
    }

    /// Ends one that breaks the rules, and hears it no more.
    fn expel_control(&mut self, why: &'static str) {
        self.control_gone(Some(io::Error::other(format!("it {why}"))));
    }

    fn control_gone(&mut self, error: Option<io::Error>) {
        let Some(peer) = self.office.peer.take() else { return };
        self.desk.put_advances(None);
        self.office.is_open = false;
        self.office.due = None;
        self.office.put.clear();
        if let Some(error) = error {
            tracing::error!(%error, "the control process is not understood, and replaced");
            peer.runner.tell(Fate::Die);
        }
        peer.runner.tell(Fate::Leave);
        self.note_roles();
        if self.closing.is_some() {
            return self.look_whether_left();
        }
        if !self.returning.is_over() {
            return self.look_who_is_back();
        }
        if self.is_first_start() && !self.has_survivors {
            return self.fail(HubError::Role(Role::Control));
        }
        if std::mem::take(&mut self.office.is_renewed) {
            return self.restart(Role::Control);
        }
        tracing::warn!(pid = peer.runner.pid, "the control process is gone; starting another");
        self.restart_later(Role::Control, peer.since.elapsed());
    }
}
