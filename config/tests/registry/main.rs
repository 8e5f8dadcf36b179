//! Registries on real databases: files of SQLite, and a PostgreSQL that this binary starts for itself.

#![allow(clippy::unwrap_used, reason = "a failed one is the failure of its test, and says where")]

mod contract;
mod crowd;
mod earlier;
mod harm;
mod hostile;
mod location;
mod place;
mod schema;
mod secrets;
mod sharing;
mod stay;
mod upgrade;
