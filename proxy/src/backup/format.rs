//! What an archive has in it: a tar with these files, in this order.
//!
//! | name | what |
//! |---|---|
//! | `doorbell.json` | the [`Manifest`] |
//! | `definition.json` | the app's keys, as in the configuration file |
//! | `secrets.json` | its [`Secrets`] |
//! | `database/000001.sql` … | the dump, in pieces: a tar says how long a file is before it begins |
//! | `folders/0/…` … | folders of the app, in the order of the manifest; each folder behind what is in it |

use std::{collections::BTreeMap, path::PathBuf};

use doorbell_config::spec::{DatabaseSpec, DatabaseUrl, Dialect, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The format that is written, and the newest that is read.
pub const FORMAT: u64 = 1;

pub(super) const MANIFEST: &str = "doorbell.json";
pub(super) const DEFINITION: &str = "definition.json";
pub(super) const SECRETS: &str = "secrets.json";
pub(super) const DATABASE: &str = "database";
pub(super) const FOLDERS: &str = "folders";

/// What an archive is of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Which shape it has.
    pub format: u64,
    /// The Doorbell that wrote it.
    pub doorbell: String,
    /// The app's id there.
    pub id: String,
    /// When, in milliseconds since the Unix epoch.
    pub made_at_unix_ms: u64,
    /// The version that its data is up to date with, if its `upgrade` reached one.
    #[serde(default)]
    pub upgraded_to: Option<String>,
    /// Its database, if it is in the archive.
    #[serde(default)]
    pub database: Option<Dumped>,
    /// Its folders that are.
    #[serde(default)]
    pub folders: Vec<Folder>,
}

/// A folder of the app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// As it was named: relative to the app's `directory`.
    pub path: PathBuf,
    /// What that was.
    pub directory: PathBuf,
}

/// What a dump is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dumped {
    /// The kind of database: the value of `{database_dialect}`.
    pub dialect: String,
    /// Which key made it.
    pub kind: Kind,
    /// The schema, where the app had one of its own.
    #[serde(default)]
    pub schema: Option<String>,
}

/// How an app came by its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One of its own.
    NewDatabase,
    /// A schema of its own.
    NewSchema,
    /// One that was there.
    NewConnection,
}

impl Kind {
    /// The key of `database`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::NewDatabase => "new_database",
            Self::NewSchema => "new_schema",
            Self::NewConnection => "new_connection",
        }
    }

    /// Which one the keys of an app ask for, and where.
    #[must_use]
    pub fn asked_by(keys: &Map<String, Value>) -> Option<DatabaseSpec> {
        let asked = keys.get("database")?.as_object()?;
        [Self::NewDatabase, Self::NewSchema, Self::NewConnection].into_iter().find_map(|kind| {
            let url = asked.get(kind.key())?.as_str()?.parse().ok()?;
            Some(kind.spec(url))
        })
    }

    /// What asks for it, there.
    #[must_use]
    pub fn spec(self, url: DatabaseUrl) -> DatabaseSpec {
        match self {
            Self::NewDatabase => DatabaseSpec::NewDatabase(url),
            Self::NewSchema => DatabaseSpec::NewSchema(url),
            Self::NewConnection => DatabaseSpec::NewConnection(url),
        }
    }

    /// Whether nothing but this app's is in there.
    #[must_use]
    pub fn is_own(self) -> bool {
        self != Self::NewConnection
    }
}

impl From<&DatabaseSpec> for Kind {
    fn from(spec: &DatabaseSpec) -> Self {
        match spec {
            DatabaseSpec::NewDatabase(_) => Self::NewDatabase,
            DatabaseSpec::NewSchema(_) => Self::NewSchema,
            DatabaseSpec::NewConnection(_) => Self::NewConnection,
        }
    }
}

/// What an app knows and nobody else should.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// For `{secret}`.
    #[serde(default)]
    pub own: Option<Secret>,
    /// Environment variables.
    #[serde(default)]
    pub named: BTreeMap<String, Secret>,
}

/// What the control process tells of an app, sealed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Its keys.
    pub keys: Map<String, Value>,
    /// Its secrets.
    pub secrets: Secrets,
    /// Those that its definition names and that are not stored.
    pub missing: Vec<String>,
    /// The folder that its program runs in, if it has one.
    pub directory: Option<PathBuf>,
    /// How to get to its database.
    pub database: Option<Access>,
    /// The version that its data is up to date with, if its `upgrade` reached one.
    #[serde(default)]
    pub upgraded_to: Option<String>,
}

/// How to get to a database. It is for dumping and restoring alone, and in no archive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Access {
    /// How the app came by it.
    pub kind: Kind,
    /// All in one; for SQLite the file.
    pub url: Secret,
    /// The schema, where the app has one of its own.
    pub schema: Option<String>,
}

impl Access {
    /// The address, taken apart.
    ///
    /// # Errors
    /// If it is none; never the address.
    pub fn parsed(&self) -> Result<DatabaseUrl, super::BackupError> {
        let parsed = self.url.reveal().parse();
        parsed.map_err(|_| super::BackupError::Database("doorbell told no address".into()))
    }
}

/// Whether one can take what the other has dumped.
#[must_use]
pub fn is_akin(dialect: &str, other: Dialect) -> bool {
    let family = |name: &str| if name == "mysql" { "mariadb".to_owned() } else { name.to_owned() };
    family(dialect) == family(other.name())
}
