//! `[app.<id>.database]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    file::text::{At, Text},
    spec::DatabaseUrl,
};

/// The database of the program: one of the three. What is made for an app has a name, a user and a password
/// of the app's own; it is kept when the app is deleted, unless `--with-database` asks for its end.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-secret" = true))]
pub struct DatabaseKeys {
    /// A new database on this server, made by the user of the address, who may create databases and users;
    /// for SQLite, a file in this folder.
    #[schemars(extend("x-default" = "none"))]
    pub new_database: Option<At<Text<DatabaseUrl>>>,
    /// A new schema in this database of PostgreSQL, made by the user of the address, who may create users,
    /// and schemas in it. MySQL and MariaDB call a database a schema: there it is the same as
    /// `new_database`.
    #[schemars(extend("x-default" = "none"))]
    pub new_schema: Option<At<Text<DatabaseUrl>>>,
    /// A database that is there: the program is given this address. Nothing is made or deleted.
    #[schemars(extend("x-default" = "none"))]
    pub new_connection: Option<At<Text<DatabaseUrl>>>,
}
