//! An app's end together with its database. The database goes first, so that whoever is ended in between leaves
//! somebody who can prove it to be his; that it is to go is noted in the registry before, and holds until the app is
//! gone.

use std::sync::{Arc, PoisonError};

use doorbell_config::{
    name::AppId,
    registry::{Actor, Edit, Expect, What, WriteError},
};
use doorbell_supervisor::message::Verb;

use super::{DatabaseError, EditError, Edited, House, Trial, finished};
use crate::provision::Removed;

/// An app that is about to be deleted: nobody starts it here as long as this lives.
pub(super) struct Ending<'h> {
    house: &'h House,
    app: AppId,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut ending = self.house.ending.lock().unwrap_or_else(PoisonError::into_inner);
        // Two may delete one app.
        if let Some(count) = ending.get_mut(&self.app) {
            *count -= 1;
            if *count == 0 {
                ending.remove(&self.app);
            }
        }
    }
}

/// Why an app is still there.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// It may not go, or that cannot be noted. Nothing has changed.
    #[error(transparent)]
    Refused(EditError),
    /// It cannot be stopped, or its database cannot be removed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Its database is removed, and the app could not be deleted after it.
    #[error("its database is removed, and the app is not yet, delete it again: {0}")]
    Unfinished(EditError),
}

impl House {
    /// Deletes an app with its database; tells what an operator should know of that beside the rest. Whoever asks may
    /// leave: it is done to the end.
    ///
    /// # Errors
    /// Why the app is still there. As long as its database is not whole any more it is not started.
    pub async fn delete_with_database(
        self: &Arc<Self>,
        app: &AppId,
        expect: Expect,
        by: Actor,
    ) -> Result<Edited, EndError> {
        let (house, app) = (Arc::clone(self), app.clone());
        finished(tokio::spawn(async move { house.end(&app, expect, by).await })).await
    }

    async fn end(
        self: &Arc<Self>,
        app: &AppId,
        expect: Expect,
        by: Actor,
    ) -> Result<Edited, EndError> {
        let delete =
            |expect| vec![Edit { app: app.clone(), expect, what: What::Delete, is_of_file: false }];
        // Whether it may go is known before anything of it does.
        let tried = self.edit(delete(expect), by.clone(), Trial::Yes).await;
        tried.map_err(EndError::Refused)?;
        let _ending = self.ends(app);
        let warning = self.remove_for_good(app, expect).await?;
        // What was expected holds since it was noted: nobody has changed it, but for the words it is in.
        let edited = self.edit(delete(Expect::Ending), by, Trial::No).await;
        let mut edited = edited.map_err(EndError::Unfinished)?;
        edited.report.warnings.extend(warning);
        Ok(edited)
    }

    /// Notes that an app is being deleted, stops it and removes its database. The note stays where anything of that
    /// may be gone.
    async fn remove_for_good(
        &self,
        app: &AppId,
        expect: Expect,
    ) -> Result<Option<String>, EndError> {
        let failed = |error: WriteError| EndError::Refused(error.into());
        let registry = self.registry().map_err(EndError::Refused)?;
        let ending = registry.begin_ending(app, expect).await.map_err(failed)?;
        let error = match self.stop_and_remove(app).await {
            Ok(warning) => return Ok(warning),
            Err(error) => error,
        };
        let is_whole = !ending.is_again && !matches!(error, DatabaseError::Broken(_));
        if is_whole && let Err(error) = registry.give_up_ending(app, ending).await {
            tracing::warn!(%app, %error, "it is not started before it is deleted or adopted");
        }
        Err(error.into())
    }

    async fn stop_and_remove(&self, app: &AppId) -> Result<Option<String>, DatabaseError> {
        let failed = |error: &dyn std::fmt::Display| DatabaseError::Unknown(error.to_string());
        let stopped = self.link.operate(app.clone(), Verb::Stop).await;
        stopped.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        Ok(match self.remove_database(app).await? {
            Removed::ButUser(words) => {
                Some(format!("its user is kept, locked out, since it has something else: {words}"))
            }
            Removed::All | Removed::Nothing => None,
        })
    }

    /// From here on an app is not started, until what is returned is dropped.
    fn ends(&self, app: &AppId) -> Ending<'_> {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        *ending.entry(app.clone()).or_default() += 1;
        Ending { house: self, app: app.clone() }
    }

    /// Whether an app is about to be deleted.
    pub(super) fn is_ending(&self, app: &AppId) -> bool {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).contains_key(app)
    }
}
