//! Databases of apps: one is made for each that asks for it, and removed when an operator says so.
//!
//! - [`Provisioner`]: what all servers can do; [`provisioner`] chooses one of the four by what the app asks for.
//! - [`Marker`]: what proves that something was made here, and for which app.
//! - [`Connection`]: how the app gets there.
//!
//! Each step is safe to repeat: who is ended between two of them begins again, finds what the marker
//! proves to be his, and goes on. The marker is the first that is made and the last that is removed, so
//! that nothing is ever left that nobody can prove to be his. It stands where the app cannot change it.
//!
//! Only the control process does this. Nothing here knows of HTTP, of programs or of when an app starts.

mod connection;
mod error;
mod given;
mod marker;
mod mysql;
mod name;
mod password;
mod postgres;
mod session;
mod sqlite;
mod step;

use async_trait::async_trait;
use doorbell_config::spec::{DatabasePlace, DatabaseSpec, DatabaseUrl, Dialect};
use sqlx::{mysql::MySqlConnectOptions, postgres::PgConnectOptions};

pub use connection::Connection;
pub use doorbell_config::spec::Secret;
pub use error::ProvisionError;
pub use marker::Marker;
pub use step::{Cost, Step, Told};

use self::{
    given::Given,
    mysql::MySqlServer,
    postgres::{PostgresServer, What},
    sqlite::Folder,
};

/// What makes databases in one place. Connects for each call, and keeps nothing. Every wait has its end:
/// 5 seconds to connect, 30 for each step.
#[async_trait]
pub trait Provisioner: Send + Sync {
    /// Makes what is missing of the database of this app, gives its user this password, and tells how to
    /// connect. `told` hears of each step before it is done.
    ///
    /// # Errors
    /// Says who can mend it, with the server's own words. What was done by then stays, and is found by the
    /// next call.
    async fn provision(
        &self,
        owner: &Marker,
        password: &Secret,
        adopt: Adopt,
        told: Told<'_>,
    ) -> Result<Connection, ProvisionError>;

    /// Ends the app's connections, and removes what carries this marker: its database with all that is in it,
    /// and its user.
    ///
    /// # Errors
    /// The same; also when what is there carries another marker or none.
    async fn remove(&self, owner: &Marker, told: Told<'_>) -> Result<Removed, ProvisionError>;
}

/// What to do with the database of another app that had this id, here or at another Doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// It is left alone, and the app has none: whoever makes an app is not to see another's data.
    No,
    /// It is the new app's from now on. What carries no marker at all is still left alone.
    Yes,
}

/// What was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// All of it.
    All,
    /// There was nothing.
    Nothing,
    /// The database; its user is kept, and locked out, since something else on the server is his. The
    /// server's words say what.
    ButUser(String),
}

/// What makes the database that an app asks for.
#[must_use]
pub fn provisioner(spec: &DatabaseSpec) -> Box<dyn Provisioner> {
    let (url, what) = match spec {
        DatabaseSpec::NewConnection(url) => return Box::new(Given(url.clone())),
        DatabaseSpec::NewDatabase(url) => (url.clone(), What::Database),
        DatabaseSpec::NewSchema(url) => (url.clone(), What::Schema),
    };
    match (url.dialect, &url.place) {
        (Dialect::Sqlite, DatabasePlace::File(path)) => Box::new(Folder(path.clone())),
        (Dialect::Postgres | Dialect::Sqlite, _) => Box::new(PostgresServer { url, what }),
        (Dialect::MySql | Dialect::MariaDb, _) => Box::new(MySqlServer { url }),
    }
}

/// How to connect to a database of PostgreSQL.
///
/// # Errors
/// If the address is of something else.
pub fn postgres_options(url: &DatabaseUrl) -> Result<PgConnectOptions, ProvisionError> {
    PostgresServer { url: url.clone(), what: What::Database }.options()
}

/// How to connect to a server of MariaDB or MySQL.
///
/// # Errors
/// If the address is of something else.
pub fn mysql_options(url: &DatabaseUrl) -> Result<MySqlConnectOptions, ProvisionError> {
    MySqlServer { url: url.clone() }.options()
}
