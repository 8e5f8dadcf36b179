//! What another binary has to show before anything is left to it.
//!
//! It is started as what it is to become, the supervisor and the control process, by the same words and one more
//! ([`REHEARSE`]): then it goes as far as it can without taking anything over, says what it found, and ends. Its
//! proxy need not: that is started for good beside the old one, and must serve before anything else happens.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::launch::{self, Image, Processes};
use crate::{
    desk,
    driver::{RUN, Record},
    protocol::{Role, VERSION},
    reception::Reception,
    supervisor::Supervisor,
};

/// The verb by which a binary tells what it takes over from, as a list of numbers in JSON.
pub const SPEAKS: &str = "takes-over-from";

/// The option by which it only tells how it would come up: a [`Rehearsed`] in JSON.
pub const REHEARSE: &str = "--rehearse";

/// How this process becomes another version of itself.
#[derive(Clone, Debug)]
pub struct Successor {
    /// The program.
    pub binary: PathBuf,
    /// Its arguments, which make it take up what this one leaves.
    pub arguments: Vec<OsString>,
}

/// How a process would come up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rehearsed {
    /// It serves.
    Serves {
        /// What it refuses, so that something else holds in its place, and why.
        refuses: BTreeMap<String, String>,
    },
    /// It ends with these words.
    Fails(String),
}

/// A rehearsal to be held.
pub(super) struct Rehearsal {
    pub(super) successor: Successor,
    pub(super) processes: Processes,
    pub(super) reception: Option<Reception>,
    pub(super) desk: Supervisor,
}

impl Rehearsal {
    /// Holds it until a moment; the error says why the new binary is not to take over.
    pub(super) async fn hold(self, until: Instant) -> Result<(), String> {
        self.speaks(until).await?;
        let serve = self.serves(until).await;
        self.desk.forget_carried();
        accepted(serve, "supervisor")?;
        let mut refused =
            accepted(self.controls(Image::Successor, until).await, "control process")?;
        if !refused.is_empty() {
            let ours = accepted(self.controls(Image::Ours, until).await, "control process");
            // What is no better with this version is no reason to stay with it.
            ours.unwrap_or_default().keys().for_each(|what| drop(refused.remove(what)));
        }
        match refused.first_key_value() {
            Some((what, why)) => Err(format!("it refuses {what}: {why}")),
            None => Ok(()),
        }
    }

    async fn speaks(&self, until: Instant) -> Result<(), String> {
        let mut command = self.command();
        command.arg(SPEAKS);
        let spoken = launch::ask::<Vec<u32>>(command, until).await;
        let versions = spoken.map_err(|error| error.to_string())?;
        if versions.contains(&VERSION) {
            return Ok(());
        }
        Err(format!("it takes over from {versions:?}, and this is {VERSION}"))
    }

    /// As the supervisor, with all that is written down for it.
    async fn serves(&self, until: Instant) -> io::Result<Rehearsed> {
        // The lock is not for a process beside us.
        drop(self.desk.carry().await?);
        let mut command = self.command();
        command.args(&self.successor.arguments).arg(REHEARSE);
        launch::ask(command, until).await
    }

    /// As the control process.
    async fn controls(&self, image: Image, until: Instant) -> io::Result<Rehearsed> {
        let mut command = self.processes.command(Role::Control, self.reception.as_ref(), image);
        command.arg(REHEARSE);
        launch::ask(command, until).await
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.successor.binary);
        command.process_group(0);
        command
    }
}

/// What a process that would come up refuses.
fn accepted(
    rehearsed: io::Result<Rehearsed>,
    role: &str,
) -> Result<BTreeMap<String, String>, String> {
    match rehearsed {
        Ok(Rehearsed::Serves { refuses }) => Ok(refuses),
        Ok(Rehearsed::Fails(why)) => Err(format!("its {role} would end: {why}")),
        Err(error) => Err(format!("its {role} cannot be tried: {error}")),
    }
}

/// Whether all is understood that another supervisor has written down in its state folder.
///
/// # Errors
/// What is not, and why.
pub fn understand(state_dir: &Path) -> io::Result<()> {
    let run_dir = state_dir.join(RUN);
    desk::understand(state_dir, &run_dir)?;
    Record::understand_all(&run_dir)?;
    Reception::new(&run_dir).understand()
}
