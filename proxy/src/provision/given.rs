//! A database that somebody else has made: the app is told of it, and that is all.

use async_trait::async_trait;
use doorbell_config::spec::{DatabasePlace, DatabaseUrl};

use super::{Adopt, Connection, Marker, ProvisionError, Provisioner, Removed, Secret, Told};

/// A database that somebody else has made.
pub(super) struct Given(pub(super) DatabaseUrl);

#[async_trait]
impl Provisioner for Given {
    /// Does not try it: the app may get there where we do not, as another user of the machine.
    async fn provision(
        &self,
        _owner: &Marker,
        _password: &Secret,
        _adopt: Adopt,
        _told: Told<'_>,
    ) -> Result<Connection, ProvisionError> {
        let url = &self.0;
        if let DatabasePlace::File(path) = &url.place {
            return Ok(Connection::of_file(path));
        }
        let password = Secret::new(url.password().unwrap_or_default());
        let (name, user) = (url.database.as_deref(), url.user.as_deref());
        let parts =
            Connection::of_user(url, name.unwrap_or_default(), user.unwrap_or_default(), &password);
        // As it was written: its reader may know more of it than we do.
        Ok(Connection { url: Secret::new(url.reveal()), ..parts })
    }

    async fn remove(&self, _owner: &Marker, _told: Told<'_>) -> Result<Removed, ProvisionError> {
        Ok(Removed::Nothing)
    }
}
