//! The control process from its start to its end: it faces operators, and says what is to be.
//!
//! It reads the configuration, watches it, and answers on the admin sockets, which the supervisor
//! opened. It starts nothing itself: what it wants of apps it tells the supervisor, and figures it
//! asks of the proxies.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use doorbell_config::{
    file::Archive,
    spec::{ListenAddr, ServerSpec},
};
use doorbell_supervisor::{
    protocol::{FromControl, Hello, Role, TRUSTED_LIMITS, ToControl, VERSION},
    wire::{self, Receiver},
};

use crate::{
    admin::{self, Admin},
    house::{Before, House},
    logging,
    server::Household,
    watch,
};

/// Time for answers that are under way at the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What the supervisor tells at the beginning.
#[derive(Default)]
struct Beginning {
    server: Option<ServerSpec>,
    kept: String,
    before: Before,
    sockets: Vec<(ListenAddr, OwnedFd)>,
    listening: Vec<ListenAddr>,
}

/// Answers operators until it is told to end, or nobody is left to tell it.
///
/// # Errors
/// Why it cannot start, or does not understand what it is told.
pub async fn run(
    connection: UnixStream,
    config_path: PathBuf,
    household: Household,
) -> anyhow::Result<()> {
    let (sender, mut receiver) = wire::open::<ToControl>(connection, TRUSTED_LIMITS)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let hello = Hello { role: Role::Control, number: None, protocol: VERSION, version };
    sender.send(&FromControl::Hello(hello))?;
    sender.send(&FromControl::Introduced)?;
    let house = Arc::new(House::new(config_path));
    house.link.connect(sender);
    let beginning = hear_out(&mut receiver, &house).await?;
    let mut archive = Archive::default();
    let loaded = {
        let path = house.config_path.clone();
        tokio::task::spawn_blocking(move || {
            let loaded = House::read(&path, &mut archive);
            (loaded, archive)
        })
    };
    let (loaded, archive) = loaded.await.context("reading the configuration")?;
    if household == Household::Own {
        let now = loaded.outcome.as_ref().ok().map(|config| &config.server);
        if let Some(server) = beginning.server.as_ref().or(now) {
            logging::start(&server.log)?;
        }
    }
    let admin = Arc::new(Admin::new(Arc::clone(&house)));
    let is_first = beginning.server.is_none();
    house.begin(beginning.server, beginning.kept, beginning.before, beginning.listening).await;
    let listening = tokio::spawn(listen(receiver, Arc::clone(&house), Arc::clone(&admin)));
    admin::serve(&admin, beginning.sockets)?;
    match house.take_over_first(loaded, archive).await {
        Err(error) if is_first => return Err(error.into()),
        // What held before holds on; the outcome is logged where it happens.
        Ok(_) | Err(_) => {}
    }
    let watcher = tokio::spawn(watch::reload_on_change(Arc::clone(&house)));
    admin.ready.store(true, Ordering::Relaxed);
    let outcome = listening.await;
    admin.ready.store(false, Ordering::Relaxed);
    watcher.abort();
    tokio::time::timeout(LAST_ANSWERS, admin.answered()).await.ok();
    outcome.context("listening to the supervisor")?
}

/// Takes in the beginning.
async fn hear_out(receiver: &mut Receiver<ToControl>, house: &House) -> anyhow::Result<Beginning> {
    let mut beginning = Beginning::default();
    while let Some((message, with)) = receiver.next().await? {
        match message {
            ToControl::Welcome { server, kept, .. } => {
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
            ToControl::Snapshot(snapshot) => house.link.learn(*snapshot),
            ToControl::Begin => return Ok(beginning),
            other => bail!("the supervisor began with {other:?}"),
        }
    }
    bail!("the supervisor left before it had begun")
}

/// Hears what the supervisor says until it says the end.
async fn listen(
    mut receiver: Receiver<ToControl>,
    house: Arc<House>,
    admin: Arc<Admin>,
) -> anyhow::Result<()> {
    while let Some((message, with)) = receiver.next().await? {
        match message {
            ToControl::Snapshot(snapshot) => house.link.learn(*snapshot),
            ToControl::Forgotten(app) => house.link.forget(&app),
            ToControl::Answer { wish, answer } => house.link.answered(wish, *answer),
            ToControl::Proxy { number } => {
                let connection = with.into_iter().next().context("no connection came")?;
                house.scraper.connect(number, UnixStream::from(connection))?;
            }
            ToControl::ProxyGone { number } => keep(&house, number),
            ToControl::Listening(addresses) => house.listens_on(addresses),
            ToControl::Reload => {
                let house = Arc::clone(&house);
                // The outcome is logged and counted where it happens.
                tokio::spawn(async move { drop(house.reload().await) });
            }
            ToControl::Closing => admin.ready.store(false, Ordering::Relaxed),
            ToControl::End => return Ok(()),
            other => bail!("the supervisor said {other:?} in the midst of things"),
        }
    }
    Ok(())
}

/// What a proxy counted is kept, also for a control process that comes after this one.
fn keep(house: &Arc<House>, number: u32) {
    let house = Arc::clone(house);
    tokio::spawn(async move {
        // Its last words may be on their way.
        house.scraper.heard_out(number).await;
        if let Some(figures) = house.scraper.disconnect(number) {
            match serde_json::to_string(&figures) {
                // Without a supervisor there is nobody to keep it; we have it ourselves.
                Ok(text) => drop(house.link.say(&FromControl::Keep(text))),
                Err(error) => tracing::error!(%error, "figures cannot be kept"),
            }
        }
    });
}
