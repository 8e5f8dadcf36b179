//! The control process from its start to its end: it faces operators, and says what is to be.
//!
//! It reads the configuration, watches it, and answers on the admin sockets, which the supervisor
//! opened. It starts nothing itself: what it wants of apps it tells the supervisor, and figures it
//! asks of the proxies.

use std::{
    io::ErrorKind,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use doorbell_config::{
    file::Archive,
    name::AppId,
    spec::{ListenAddr, ServerSpec},
};
use doorbell_supervisor::{
    message::Generation,
    protocol::{
        FromControl, Hello, Question as StartQuestion, Role, TRUSTED_LIMITS, ToControl, VERSION,
    },
    wire::{self, Frame, Receiver},
};
use tokio::time::timeout;

use crate::{
    admin::{self, Admin},
    house::{Before, House},
    ledger::copy,
    metrics::figures::Figures,
    pass::Question,
    scrape::Passes,
    server::Household,
    watch,
};

pub(crate) mod opening;

use opening::{COPY, FIRST_OPENING, first_list, follow, location, open};

/// Time for answers that are under way at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The folder in it for the history of apps.
const HISTORY: &str = "history";
/// Where the control process finds things.
#[derive(Clone, Debug)]
pub struct Place {
    /// The configuration file.
    pub config_path: PathBuf,
    /// The folder that is its own.
    pub folder: PathBuf,
}

/// What the supervisor tells at the beginning.
#[derive(Default)]
struct Beginning {
    number: u32,
    upgraded_to: Option<String>,
    server: Option<ServerSpec>,
    /// The keys of secrets, where they are not ours to keep.
    keys: Option<OwnedFd>,
    /// Whether there are such keys, which nobody can read.
    lacks_keys: bool,
    kept: String,
    before: Before,
    sockets: Vec<(ListenAddr, OwnedFd)>,
    listening: Vec<ListenAddr>,
    proxies: Vec<ProxyLine>,
}

/// A connection to a proxy.
struct ProxyLine {
    number: u32,
    pid: Option<u32>,
    connection: UnixStream,
}

/// Answers operators until it is told to end, or nobody is left to tell it.
///
/// # Errors
/// Why it cannot start, or does not understand what it is told.
pub async fn run(connection: UnixStream, place: Place, household: Household) -> anyhow::Result<()> {
    let house = Arc::new(House::new(place.config_path));
    house.keeps_history_in(place.folder.join(HISTORY));
    house.is_called_as_in(&place.folder);
    let mut receiver = introduce(&house, connection, None)?;
    let beginning = hear_out(&mut receiver, &house).await?;
    let beginning = beginning.context("the supervisor left before it had begun")?;
    if !beginning.lacks_keys {
        house.opens_vault(&place.folder, beginning.keys);
    }
    house.recalls_file_apps(&place.folder);
    let path = house.config_path.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let mut archive = Archive::default();
        (House::read(&path, &mut archive, &[]), archive)
    });
    let (loaded, archive) = reading.await.context("reading the configuration")?;
    let location = location(&place.folder, &loaded)?;
    let now = loaded.outcome.as_ref().ok().map(|config| &config.server);
    if let Some(server) = beginning.server.as_ref().or(now) {
        household.start_logging(Role::Control, &server.log)?;
    }
    let admin = Arc::new(Admin::new(Arc::clone(&house)));
    let is_first = beginning.server.is_none();
    house.begin(beginning.server, beginning.kept, beginning.before, beginning.listening).await;
    house.is_called(beginning.number);
    for proxy in beginning.proxies {
        meet(proxy, &house, &admin)?;
    }
    let listening = tokio::spawn(listen_to_whoever(
        receiver,
        household,
        Arc::clone(&house),
        Arc::clone(&admin),
    ));
    admin::serve(&admin, beginning.sockets)?;
    let mut opening = tokio::spawn(open(Arc::clone(&house), location, place.folder.join(COPY)));
    let registry = timeout(FIRST_OPENING, &mut opening).await.ok().transpose()?;
    if let Some(registry) = &registry {
        house.has_registry(registry);
    }
    let mut ledger = first_list(&house, registry.as_ref(), &place.folder).await;
    ledger.archive = archive;
    let (loaded, ledger) = house.read_with(loaded, ledger).await;
    let outcome = house.take_over_first(loaded, ledger).await;
    house.begins();
    match outcome {
        Err(error) if is_first => return Err(error.into()),
        // What held before holds on; the outcome is logged where it happens.
        Ok(_) | Err(_) => {}
    }
    let watcher = tokio::spawn(watch::reload_on_change(Arc::clone(&house)));
    let copier = tokio::spawn(copy::keep(Arc::clone(&house), place.folder.join(COPY)));
    let memory = tokio::spawn(Arc::clone(&house).remembers_file_apps(place.folder.clone()));
    let noter = tokio::spawn(Arc::clone(&house).notes_file_apps());
    let follower = tokio::spawn(follow(Arc::clone(&house), registry, opening));
    admin.ready.store(true, Ordering::Relaxed);
    let outcome = listening.await;
    admin.ready.store(false, Ordering::Relaxed);
    for task in [watcher, copier, memory, noter, follower] {
        task.abort();
    }
    // The supervisor sees the end also where this process goes on.
    house.link.disconnect();
    outcome.context("listening to the supervisor")?
}

/// Tells a supervisor who we are, and what we have from an earlier one.
fn introduce(
    house: &House,
    connection: UnixStream,
    admin: Option<&Admin>,
) -> anyhow::Result<Receiver<ToControl>> {
    let (sender, receiver) = wire::open::<ToControl>(connection, TRUSTED_LIMITS)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let (role, number, is_draining, protocol) = (Role::Control, house.number(), false, VERSION);
    sender.send(&FromControl::Hello(Hello { role, number, is_draining, protocol, version }))?;
    for (address, socket) in admin.map(Admin::sockets).unwrap_or_default() {
        sender.send_frame(Frame::with(&FromControl::Admin(address), vec![socket])?)?;
    }
    for ((app, generation), held) in house.custody.all() {
        sender.send_frame(Frame::with(&FromControl::Held { app, generation }, held)?)?;
    }
    sender.send(&FromControl::Introduced)?;
    house.link.connect(sender);
    Ok(receiver)
}

/// Hears what supervisors say, one after the other, until one says the end or none will come.
async fn listen_to_whoever(
    mut receiver: Receiver<ToControl>,
    household: Household,
    house: Arc<House>,
    admin: Arc<Admin>,
) -> anyhow::Result<()> {
    while listen(&mut receiver, &house, &admin).await? == End::Orphaned {
        house.custody.take_over();
        house.link.disconnect();
        tracing::warn!("the supervisor is gone; waiting for the next");
        let next = next_supervisor(&household, &house, &admin).await?;
        let Some((beginning, next)) = next else { return Ok(()) };
        receiver = next;
        house.is_called(beginning.number);
        for proxy in beginning.proxies {
            meet(proxy, &house, &admin)?;
        }
        keep(&house, &house.scraper.gone());
        let (house, upgraded_to) = (Arc::clone(&house), beginning.upgraded_to);
        // It is answered through what is heard next.
        tokio::spawn(async move {
            house.restate().await;
            house.is_supervised(upgraded_to);
            house.catch_up().await;
        });
    }
    Ok(())
}

/// The next supervisor that begins with us, and what it says; `None` if none will come.
async fn next_supervisor(
    household: &Household,
    house: &House,
    admin: &Admin,
) -> anyhow::Result<Option<(Beginning, Receiver<ToControl>)>> {
    while let Some(connection) = household.next_supervisor().await {
        house.expect_stranger().await;
        // One that is being killed may seem to be there, and the next may be killed too.
        let Ok(mut receiver) = introduce(house, connection, Some(admin)) else { continue };
        house.link.forget_all();
        if let Some(beginning) = hear_out(&mut receiver, house).await? {
            return Ok(Some((beginning, receiver)));
        }
        // It may have taken up some before it was gone too.
        house.custody.take_over();
        house.link.disconnect();
    }
    Ok(None)
}

impl ProxyLine {
    fn of(number: u32, pid: Option<u32>, with: Vec<OwnedFd>) -> anyhow::Result<Self> {
        let connection = with.into_iter().next().context("no connection came")?;
        Ok(Self { number, pid, connection: connection.into() })
    }
}

/// Asks a proxy for figures from here on.
fn meet(proxy: ProxyLine, house: &Arc<House>, admin: &Admin) -> anyhow::Result<()> {
    admin.strangers.know(proxy.pid);
    let asked = Arc::clone(house);
    let snapshot =
        move |app: &AppId| asked.link.lifecycle(asked.routes.load().app(app.as_str())?, app);
    let offices = Arc::clone(house);
    let answer = Box::new(move |question: &Question| offices.passes.answer(question, &snapshot));
    let passes = Passes { seal: house.passes.seal(), answer };
    let over = house.scraper.connect(proxy.number, proxy.connection, passes)?;
    tokio::spawn(settle(Arc::clone(house), proxy.number, over));
    Ok(())
}

/// Why there is nothing more to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The supervisor said so.
    Said,
    /// The supervisor is gone.
    Orphaned,
}

/// Takes in the beginning; `None` if the supervisor is gone before it is complete.
async fn hear_out(
    receiver: &mut Receiver<ToControl>,
    house: &House,
) -> anyhow::Result<Option<Beginning>> {
    let mut beginning = Beginning::default();
    while let Some((message, with)) = next(receiver).await? {
        match message {
            ToControl::Welcome {
                number,
                server,
                kept,
                upgraded_to,
                abilities,
                seed,
                lacks_keys,
            } => {
                beginning.keys = with.into_iter().next();
                beginning.lacks_keys = lacks_keys;
                house.link.learn_abilities(abilities);
                seed.iter().for_each(|seed| house.passes.is_given(seed));
                if upgraded_to.is_some() {
                    house.link.is_counted_on();
                }
                beginning.upgraded_to = upgraded_to;
                beginning.number = number;
                beginning.server = server.map(|server| *server);
                beginning.kept = kept;
            }
            ToControl::Apps(apps) => beginning.before.apps.extend(apps),
            ToControl::Rejected(apps) => beginning.before.rejected = apps,
            ToControl::ServedInstead(apps) => beginning.before.instead = apps,
            ToControl::Admin(address) => {
                let socket = with.into_iter().next().context("no socket came")?;
                beginning.sockets.push((address, socket));
            }
            ToControl::Listening(addresses) => beginning.listening = addresses,
            ToControl::Snapshot(snapshot) => drop(house.link.learn(*snapshot)),
            ToControl::Proxy { number, pid } => {
                beginning.proxies.push(ProxyLine::of(number, pid, with)?);
            }
            ToControl::Begin => {
                house.custody.take_advances(with.into_iter().next());
                return Ok(Some(beginning));
            }
            other => bail!("the supervisor began with {other:?}"),
        }
    }
    Ok(None)
}

/// The next message; `None` if the supervisor is gone, perhaps in the midst of a word.
async fn next(
    receiver: &mut Receiver<ToControl>,
) -> anyhow::Result<Option<(ToControl, Vec<OwnedFd>)>> {
    match receiver.next().await {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        other => Ok(other?),
    }
}

/// Hears what a supervisor says until it says the end, or is gone.
async fn listen(
    receiver: &mut Receiver<ToControl>,
    house: &Arc<House>,
    admin: &Arc<Admin>,
) -> anyhow::Result<End> {
    while let Some((message, with)) = next(receiver).await? {
        match message {
            ToControl::Snapshot(snapshot) => house.learns(&snapshot),
            ToControl::Forgotten(app) => {
                house.link.forget(&app);
                house.chronicle.forget(&app);
            }
            ToControl::Answer { wish, answer } => house.link.answered(wish, *answer),
            ToControl::Proxy { number, pid } => {
                meet(ProxyLine::of(number, pid, with)?, house, admin)?;
            }
            ToControl::Listening(addresses) => house.listens_on(addresses),
            ToControl::Reload => {
                let house = Arc::clone(house);
                // The outcome is logged and counted where it happens.
                tokio::spawn(async move { drop(house.reload().await) });
            }
            ToControl::Prepare { app, generation, number, question } => {
                prepare(house, app, generation, number, question);
            }
            ToControl::Closing => admin.ready.store(false, Ordering::Relaxed),
            ToControl::Hold { app, generation } => house.custody.hold(app, generation, with),
            ToControl::Release { app, generation } => house.custody.release(&app, generation),
            ToControl::End => return last_answers(receiver, house, admin).await,
            other => bail!("the supervisor said {other:?} in the midst of things"),
        }
    }
    Ok(End::Orphaned)
}

/// Takes no more requests, and answers those that are under way, for which the supervisor is still heard: for a while,
/// as whoever takes an archive may take long.
async fn last_answers(
    receiver: &mut Receiver<ToControl>,
    house: &House,
    admin: &Admin,
) -> anyhow::Result<End> {
    admin.ready.store(false, Ordering::Relaxed);
    let mut answered = std::pin::pin!(timeout(LAST_ANSWERS, admin.answered()));
    loop {
        let said = tokio::select! {
            // Who is not answered by then is cut off.
            _ = &mut answered => return Ok(End::Said),
            said = next(receiver) => said?,
        };
        match said {
            Some((ToControl::Answer { wish, answer }, _)) => house.link.answered(wish, *answer),
            // It concerns who comes next.
            Some(_) => {}
            None => {
                // Nobody answers any more, and nobody is to wait for it.
                house.link.disconnect();
                let _ = answered.await;
                return Ok(End::Said);
            }
        }
    }
}

/// Tells a start what it is given.
fn prepare(
    house: &Arc<House>,
    app: AppId,
    generation: Generation,
    number: u64,
    question: StartQuestion,
) {
    // Questions about upgrades of one app are answered one after the other.
    let is_of_upgrade = question.version.is_some() || question.upgraded.is_some();
    let before = is_of_upgrade.then(|| house.answering(&app)).flatten();
    let (shared, whose) = (Arc::clone(house), app.clone());
    let answering = tokio::spawn(async move {
        if let Some(before) = before {
            // However it ended, it has.
            let _ = before.await;
        }
        let given = shared.given(&app, question).await;
        // Without a supervisor nobody waits for it; the next one asks again.
        let _ = shared.link.say(&FromControl::Prepared { app, generation, number, given });
    });
    if is_of_upgrade {
        house.answers(&whose, answering);
    }
}

/// What a proxy counted is kept, also for a control process that comes after this one.
async fn settle(house: Arc<House>, number: u32, over: impl Future<Output = ()>) {
    over.await;
    // A proxy may have spoken of apps that there are not.
    let is_known = |app: &AppId| house.link.snapshot(app).is_some();
    if let Some(figures) = house.scraper.settle(number, is_known) {
        keep(&house, &figures);
    }
}

fn keep(house: &House, figures: &Figures) {
    match serde_json::to_string(figures) {
        // Without a supervisor there is nobody to keep it; the next one is told.
        Ok(text) => drop(house.link.say(&FromControl::Keep(text))),
        Err(error) => tracing::error!(%error, "figures cannot be kept"),
    }
}
