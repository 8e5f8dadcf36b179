//! A dump of PostgreSQL, in one transaction.

use std::io::Read;

use doorbell_config::spec::{DatabaseUrl, Secret};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row,
    postgres::PgConnectOptions,
};
use tokio::runtime::Runtime;

use super::{connected, failed, not_empty};
use crate::{
    backup::{
        BackupError,
        sql::postgres::{Script, Statement, with_schema},
    },
    provision,
};

/// What is in a database that is not the server's own, nor comes with an extension.
const THINGS: &str = "
    SELECT count(*) FROM pg_catalog.pg_class thing
    JOIN pg_catalog.pg_namespace place ON place.oid = thing.relnamespace
    WHERE place.nspname NOT IN ('pg_catalog', 'information_schema') AND place.nspname !~ '^pg_'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE objid = thing.oid AND deptype = 'e')";

struct Session {
    runtime: Runtime,
    connection: PgConnection,
    shown: String,
    secret: Secret,
    told: Vec<String>,
}

/// Restores a dump; of schemas, from one into the other.
pub(super) fn restore(
    url: &DatabaseUrl,
    schemas: Option<(&str, &str)>,
    dump: &mut dyn Read,
) -> Result<Vec<String>, BackupError> {
    let options = provision::postgres_options(url);
    let options = options.map_err(|error| BackupError::Database(error.to_string()))?;
    let mut session = Session::open(url, options)?;
    session.is_no_superuser()?;
    session.sees_nothing(schemas.map(|(_, own)| own))?;
    session.run("BEGIN")?;
    let mut script = Script::new(dump);
    while let Some(statement) = script.statement()? {
        let own = |text: String| match schemas {
            Some((from, to)) if from != to => with_schema(&text, from, to),
            _ => text,
        };
        match statement {
            Statement::Plain(text) => session.one(&own(text), schemas)?,
            Statement::Copy(text) => session.copy(&own(text), &mut script)?,
        }
    }
    session.run("COMMIT")?;
    let Session { runtime, connection, told, .. } = session;
    // All is done; the server finds out by itself if this fails.
    let _ = runtime.block_on(connection.close());
    Ok(told)
}

impl Session {
    fn open(url: &DatabaseUrl, options: PgConnectOptions) -> Result<Self, BackupError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(BackupError::io("cannot begin"))?;
        let (shown, secret) = (url.to_string(), Secret::new(url.password().unwrap_or_default()));
        // There are the app's own rows in them.
        let options = options.disable_statement_logging();
        let connection = runtime.block_on(connected(&shown, &secret, options.connect()))?;
        Ok(Self { runtime, connection, shown, secret, told: Vec::new() })
    }

    fn try_run(&mut self, statement: &str) -> Result<(), sqlx::Error> {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()));
        self.runtime.block_on(self.connection.execute(statement)).map(drop)
    }

    fn run(&mut self, statement: &str) -> Result<(), BackupError> {
        self.try_run(statement).map_err(|error| failed(&self.shown, &self.secret, &error))
    }

    /// A superuser's dump could run programs on the server, and read its files.
    fn is_no_superuser(&mut self) -> Result<(), BackupError> {
        const ASK: &str = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
        let rows = self.runtime.block_on(self.connection.fetch_all(sqlx::raw_sql(ASK)));
        let rows = rows.map_err(|error| failed(&self.shown, &self.secret, &error))?;
        match rows.first().map(|row| row.try_get::<bool, _>(0)) {
            Some(Ok(false)) => Ok(()),
            _ => Err(BackupError::Database(format!(
                "{}: its user is a superuser, as whom no dump is restored: give the app one of its own",
                self.shown
            ))),
        }
    }

    /// Nothing of anybody's is in the database, or in this schema.
    fn sees_nothing(&mut self, schema: Option<&str>) -> Result<(), BackupError> {
        let within =
            schema.map(|schema| format!("AND place.nspname = '{}'", schema.replace('\'', "''")));
        let count =
            sqlx::raw_sql(AssertSqlSafe(format!("{THINGS} {}", within.unwrap_or_default())));
        let rows = self.runtime.block_on(self.connection.fetch_all(count));
        let rows = rows.map_err(|error| failed(&self.shown, &self.secret, &error))?;
        match rows.first().map(|row| row.try_get::<i64, _>(0)) {
            Some(Ok(0)) => Ok(()),
            _ => Err(not_empty(&self.shown)),
        }
    }

    /// A statement; one that need not succeed is left out when it does not.
    fn one(&mut self, statement: &str, schemas: Option<(&str, &str)>) -> Result<(), BackupError> {
        // Large objects have transactions of their own in a dump: all of it is one here.
        let is_of_ours = matches!(statement, "BEGIN" | "COMMIT");
        // It is there, and the app could not make another.
        let is_there = schemas.is_some_and(|(_, own)| statement == format!("CREATE SCHEMA {own}"));
        if is_of_ours || is_there {
            return Ok(());
        }
        if !is_dispensable(statement) {
            return self.run(statement);
        }
        self.run("SAVEPOINT before_it")?;
        if let Err(error) = self.try_run(statement) {
            self.told.push(format!(
                "left out of the database: {}",
                failed(statement, &self.secret, &error)
            ));
            self.run("ROLLBACK TO SAVEPOINT before_it")?;
        }
        self.run("RELEASE SAVEPOINT before_it")
    }

    fn copy<R: Read>(
        &mut self,
        statement: &str,
        script: &mut Script<R>,
    ) -> Result<(), BackupError> {
        let Self { runtime, connection, shown, secret, .. } = self;
        let failed = |error: sqlx::Error| failed(shown, secret, &error);
        runtime.block_on(async {
            let mut copy = connection.copy_in_raw(statement).await.map_err(failed)?;
            while let Some(rows) = script.rows()? {
                copy.send(rows).await.map_err(failed)?;
            }
            copy.finish().await.map(drop).map_err(failed)
        })
    }
}

/// Settings that an older server does not know, and what is the server's own rather than the app's.
fn is_dispensable(statement: &str) -> bool {
    let words: Vec<_> = statement.split_ascii_whitespace().take(4).collect();
    matches!(
        *words,
        ["SET", ..]
            | ["COMMENT", "ON", "EXTENSION" | "SCHEMA", ..]
            | ["CREATE", "SCHEMA", "public"]
    )
}
