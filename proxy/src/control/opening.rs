//! How the control process comes by the registry: where it is, how it is opened however long that takes, and what is
//! known of its apps until then.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use doorbell_config::{
    file::Loaded,
    registry::{Location, Registry},
};
use tokio::task::JoinHandle;

use crate::{
    house::House,
    ledger::{self, Ledger, copy},
};

/// How long a registry is waited for before apps of the files are served without it.
pub(super) const FIRST_OPENING: Duration = Duration::from_secs(3);

/// The file in the control process's folder, where no other registry is named.
const DATABASE: &str = "registry.db";
/// The folder in it for a copy of the registry.
pub(crate) const COPY: &str = "copy";
/// Pause before a registry that cannot be opened is tried again: doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where the registry is; what the files say of that is remembered.
pub(super) fn location(folder: &Path, loaded: &Loaded) -> anyhow::Result<Location> {
    if let Ok(config) = &loaded.outcome
        && let Err(error) = ledger::place::remember(folder, config.registry.as_ref())
    {
        tracing::warn!(%error, "where the registry is cannot be written to the state folder");
    }
    location_now(folder, loaded)
}

/// Where the registry is: where the files say, or said when they were good.
pub(crate) fn location_now(folder: &Path, loaded: &Loaded) -> anyhow::Result<Location> {
    let named = match &loaded.outcome {
        Ok(config) => config.registry.clone(),
        Err(_) => ledger::place::remembered(folder).context("where the registry is")?,
    };
    Ok(named.unwrap_or_else(|| Location::Sqlite(folder.join(DATABASE))))
}

/// Opens the registry, however long that takes. What cannot be waited for is told and tried again.
pub(super) async fn open(house: Arc<House>, location: Location, copy: PathBuf) -> Registry {
    let mut pause = FIRST_PAUSE;
    loop {
        if is_lost(&location, &copy) {
            // A new one in its place would be taken for the word that there are no apps any more.
            let why = format!(
                "{location} is gone: restore it; or, to begin anew without its apps, delete {}",
                copy.display()
            );
            house.registry_fails(&why);
            tokio::time::sleep(LONGEST_PAUSE).await;
            continue;
        }
        match Registry::open(&location).await {
            Ok(registry) => return registry,
            Err(error) => house.registry_fails(&error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether a file is not there of which there is a copy.
fn is_lost(location: &Location, copy: &Path) -> bool {
    let Location::Sqlite(path) = location else { return false };
    !path.exists() && std::fs::read_dir(copy).is_ok_and(|mut files| files.next().is_some())
}

/// What is known of the registry's apps at first: what it says, or if it does not answer soon, the copy.
pub(super) async fn first_list(
    house: &House,
    registry: Option<&Registry>,
    folder: &Path,
) -> Ledger {
    let mut ledger = Ledger::default();
    let changes = match registry {
        Some(registry) => registry.changes_since(ledger.known).await.ok(),
        None => None,
    };
    match changes {
        Some(mut changes) => {
            house.open_addresses(&mut changes).await;
            ledger.take(&changes);
        }
        None => match copy::read(&folder.join(COPY), house.vault().as_deref()) {
            Ok(list) => ledger.list = Arc::new(list),
            Err(error) => tracing::error!(%error, "the copy of the registry's apps is of no use"),
        },
    }
    ledger
}

/// Takes in what becomes of the registry, as soon as it is open.
pub(super) async fn follow(
    house: Arc<House>,
    registry: Option<Registry>,
    opening: JoinHandle<Registry>,
) {
    let registry = match registry {
        Some(registry) => registry,
        None => match opening.await {
            Ok(registry) => registry,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        },
    };
    house.follow_registry(registry).await;
}
