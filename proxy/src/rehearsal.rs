//! How this version would come up in place of another: all that can fail then, and nothing that anybody would
//! notice. What is asked of it, and what comes of the answer, is the supervisor's
//! (`doorbell_supervisor::hub`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use doorbell_config::{
    file::Archive,
    registry::{Location, Registry},
};
use doorbell_supervisor::{
    hub::{self, Rehearsed},
    protocol::Role,
};
use tokio::time::timeout;

use crate::{
    control::{
        Place,
        opening::{self, COPY},
    },
    house::House,
    ledger::{Ledger, copy},
    logging, sandbox,
    serve::{self, Beginning, Split},
};

/// How long a registry may take to say how new it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// The supervisor, which would take up what another one leaves in its state folder.
///
/// # Errors
/// Why it would end.
pub fn serve(config_path: PathBuf, state_dir: &Path) -> anyhow::Result<Rehearsed> {
    let server = serve::settings(&config_path, &Beginning::Upgraded(state_dir.to_owned()))?;
    let log = server.log.clone();
    // What it warns of is told when it is meant.
    serve::options(config_path, server, Split::Processes, None)?;
    logging::start(&log)?;
    hub::understand(state_dir).context("what is written down for this version")?;
    serve::runtime()?;
    Ok(Rehearsed::Serves { refuses: BTreeMap::new() })
}

/// The control process.
///
/// # Errors
/// Why it would end.
pub fn control(place: &Place) -> anyhow::Result<Rehearsed> {
    sandbox::confine(&serve::plan(Role::Control, Some(place)))?;
    // The keys may be a credential, which is not for somebody who only rehearses.
    let list = copy::read_unopened(&place.folder.join(COPY)).unwrap_or_default();
    let loaded = House::read(&place.config_path, &mut Archive::default(), &Ledger::entries(&list));
    let location = opening::location_now(&place.folder, &loaded)?;
    let mut refuses = BTreeMap::new();
    if let Err(problems) = &loaded.outcome {
        refuses.insert("the configuration".to_owned(), problems.to_string());
    }
    for app in &loaded.refused {
        refuses.insert(format!("app {} of the registry", app.app), app.problems.to_string());
    }
    if let Err(error) = serve::runtime()?.block_on(knows(&location)) {
        refuses.insert("the registry".to_owned(), error);
    }
    Ok(Rehearsed::Serves { refuses })
}

/// Whether the registry is not newer than this version. One that does not answer has to be waited for anyhow.
async fn knows(location: &Location) -> Result<(), String> {
    match timeout(PATIENCE, Registry::is_known(location)).await {
        Ok(Err(error)) if error.is_too_new() => Err(error.to_string()),
        Ok(Ok(()) | Err(_)) | Err(_) => Ok(()),
    }
}
