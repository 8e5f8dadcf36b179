//! Databases of apps on real servers: a PostgreSQL and a MariaDB that this binary starts for itself, and
//! files of SQLite.

#![allow(clippy::unwrap_used, reason = "a failed one is the failure of its test, and says where")]

mod client;
mod contract;
mod hostile;
mod interrupted;
mod mariadb;
mod postgres;
mod rig;
mod rights;
mod sqlite;
