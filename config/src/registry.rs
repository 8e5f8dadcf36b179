//! Apps that are made at run time: where they are stored, and how others learn of it.
//!
//! A registry is a file of SQLite, or a database of PostgreSQL that several Doorbells share. It stores: what
//! a definition means, who may change it and how a secret is sealed is for others to know. Nothing here keeps
//! what it has read. Who serves from a registry keeps the last table that it made, and goes on with it while
//! the registry is lost, locked or full: every question then fails within seconds, and works again when the
//! database does, without being opened anew.
//!
//! - [`Edit`]: a change of an app or its secrets; several in one transaction, each with what the writer
//!   expected to find.
//! - [`Changes`]: what a reader has missed since a [`Revision`]. [`Watch`] tells when to ask.
//! - [`Turn`]: which Doorbell brings the data of an app up to date.
//! - [`Entrance`]: which of the apps that have had an id an app of a file is.
//! - [`Token`], [`Entry`] of the audit log: beside the apps, in the same transactions.
//!
//! All statements are written once, for both databases: `store` says how. Two programs may use one registry
//! at once, whichever database it is.

mod audit;
mod edit;
mod ending;
mod error;
mod expect;
mod location;
mod migration;
mod owner;
mod row;
mod secret;
mod stay;
mod store;
mod token;
mod upgrade;
mod watch;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

pub use audit::{Act, Actor, Entry};
pub use edit::{Edit, MOST_DEFINITION_BYTES, What};
pub use ending::Ending;
pub use error::{OpenError, RegistryError, WriteError, printable};
pub use expect::Expect;
pub use location::{Location, LocationError, PostgresUrl};
pub use owner::Owner;
pub use row::{AppRow, Changes, Revision, Unreadable};
pub use secret::{MOST_SECRET_BYTES, SealedSecret};
pub use stay::Entrance;
pub use token::{MOST_SCOPE_BYTES, NewToken, Token, TokenHash};
pub use upgrade::{Ended, Turn};
pub use watch::Watch;

use store::{Store, Transaction, Value};

/// A registry that is open. Clones are the same one.
#[derive(Clone)]
pub struct Registry {
    store: Arc<Store>,
}

impl Registry {
    /// Opens a registry. Makes it where there is none, and brings an older one up to date; of several that
    /// open it at once, one does. Takes a minute at most, when the database answers nothing at all.
    ///
    /// # Errors
    /// Says where it should be, and why it cannot be opened. What was not reachable may be so later.
    pub async fn open(location: &Location) -> Result<Self, OpenError> {
        match Store::open(location).await {
            Ok(store) => Ok(Self { store: Arc::new(store) }),
            Err(error) => Err(OpenError { location: location.clone(), error }),
        }
    }

    /// Looks whether a registry has a shape that is known here; one that is not there has. Changes nothing.
    ///
    /// # Errors
    /// [`OpenError::is_too_new`], or why it cannot be looked at.
    pub async fn is_known(location: &Location) -> Result<(), OpenError> {
        let known = Store::is_known(location).await;
        known.map_err(|error| OpenError { location: location.clone(), error })
    }

    /// Makes all of some work in a transaction, or none.
    async fn transact<T, E: From<RegistryError>>(
        &self,
        work: impl AsyncFnOnce(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut transaction = self.store.begin().await?;
        match work(&mut transaction).await {
            Ok(done) => {
                transaction.commit().await?;
                Ok(done)
            }
            Err(error) => {
                transaction.roll_back().await;
                Err(error)
            }
        }
    }

    /// Sees that what was overwritten is in no file any more; says whether that could be done now. PostgreSQL does
    /// so in its own time.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn forget_overwritten(&self) -> Result<bool, RegistryError> {
        self.store.forget_overwritten().await
    }

    /// Ends all connections, those of its clones too, after what is under way. A file of SQLite is then whole by
    /// itself. Without this the same happens at some time after the last clone is dropped.
    pub async fn close(self) {
        self.store.close().await;
    }
}

/// The lock that all changes are made under, and as many revisions as are asked for, up to the one that is
/// returned. PostgreSQL holds the row, SQLite the file, until the transaction ends.
async fn advance(transaction: &mut Transaction, by: u64) -> Result<Revision, RegistryError> {
    const ADVANCE: &str =
        "UPDATE registry SET revision = revision + $1 RETURNING revision, version";
    let rows = transaction.rows(ADVANCE, &[Value::Number(store::stored(by))]).await?;
    rows.first().map_or_else(|| Err(row::no_revision()), row::now)
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Refuses a name that cannot be stored, or that nobody could mean.
fn storable(what: &str, name: &str) -> Result<(), WriteError> {
    const MOST: usize = 255;
    let why = match name {
        "" => "it is empty".to_owned(),
        // PostgreSQL has no such character in a text.
        name if name.contains('\0') => "it has a NUL character".to_owned(),
        name if name.len() > MOST => format!("it has more than {MOST} bytes"),
        _ => return Ok(()),
    };
    Err(WriteError::Refused { what: format!("{what} {name:.80?}"), why })
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}
