//! The shape of a registry, and how one of an earlier shape gets it.
//!
//! Forward only, each in one transaction with the number that says so. A registry that is newer than the binary
//! is refused when it is opened, and at each change and question after that: another Doorbell may migrate it
//! while this one runs.

use super::{error::RegistryError, row::no_revision, store::Transaction};

/// A step from the version before.
struct Migration {
    sqlite: &'static str,
    postgres: &'static str,
}

/// In their order; a registry's version is how many of them it has seen. None of these texts is ever changed.
const MIGRATIONS: &[Migration] = &[
    Migration {
        sqlite: include_str!("migration/1.sqlite.sql"),
        postgres: include_str!("migration/1.postgres.sql"),
    },
    Migration {
        sqlite: include_str!("migration/2.sqlite.sql"),
        postgres: include_str!("migration/2.postgres.sql"),
    },
    Migration {
        sqlite: include_str!("migration/3.sqlite.sql"),
        postgres: include_str!("migration/3.postgres.sql"),
    },
    Migration {
        sqlite: include_str!("migration/4.sqlite.sql"),
        postgres: include_str!("migration/4.postgres.sql"),
    },
    Migration {
        sqlite: include_str!("migration/5.sqlite.sql"),
        postgres: include_str!("migration/5.postgres.sql"),
    },
    Migration {
        sqlite: include_str!("migration/6.sqlite.sql"),
        postgres: include_str!("migration/6.postgres.sql"),
    },
];

/// Asks for a registry's version.
pub(super) const VERSION: &str = "SELECT version FROM registry";

const HAS_TABLES: (&str, &str) = (
    "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'registry'",
    "SELECT count(*) FROM pg_catalog.pg_tables
     WHERE schemaname = 'doorbell' AND tablename = 'registry'",
);

/// Runs what is missing. The caller sees that nobody else does so meanwhile, and commits.
pub(super) async fn bring_up_to_date(transaction: &mut Transaction) -> Result<(), RegistryError> {
    let version = version(transaction).await?;
    known(version)?;
    let seen = usize::try_from(version).unwrap_or(usize::MAX);
    for migration in MIGRATIONS.iter().skip(seen) {
        let script = match transaction {
            Transaction::Sqlite(_) => migration.sqlite,
            Transaction::Postgres(_) => migration.postgres,
        };
        transaction.script(script).await?;
        transaction.script("UPDATE registry SET version = version + 1").await?;
    }
    Ok(())
}

/// Refuses a version that is newer than we are.
pub(super) fn known(version: u64) -> Result<(), RegistryError> {
    let known = MIGRATIONS.len() as u64;
    if version > known {
        return Err(RegistryError::TooNew { found: version, known });
    }
    Ok(())
}

/// The registry's version; zero where there is none yet.
async fn version(transaction: &mut Transaction) -> Result<u64, RegistryError> {
    let has_tables = match transaction {
        Transaction::Sqlite(_) => HAS_TABLES.0,
        Transaction::Postgres(_) => HAS_TABLES.1,
    };
    let tables = transaction.rows(has_tables, &[]).await?;
    if tables.first().map_or(Ok(0), |row| row.number(0))? == 0 {
        return Ok(0);
    }
    let rows = transaction.rows(VERSION, &[]).await?;
    rows.first().map_or_else(|| Err(no_revision()), |row| row.number(0))
}
