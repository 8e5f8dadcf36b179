//! Tokens: who may use the admin interface. The registry keeps a hash of each; the token itself is shown once,
//! by who made it, and is not stored. What a scope means is for others to know.

use std::{fmt, time::Duration};

use super::{
    Registry, advance,
    audit::{self, Act, Actor},
    error::{RegistryError, WriteError},
    migration, now_ms, storable,
    store::{Row, Transaction, Value, stored},
};

/// Most bytes that a scope has.
pub const MOST_SCOPE_BYTES: usize = 4096;

/// How exact the note of a token's last use is: a token that is used all the time causes a write per minute.
const USE: Duration = Duration::from_secs(60);

/// The hash of a token. It cannot be printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// A token that is to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Its name, which no other has.
    pub name: String,
    /// What it allows.
    pub scope: String,
    /// The hash that it is found by.
    pub hash: TokenHash,
    /// When it ends to be valid, in milliseconds since 1970; if ever.
    pub expires_at: Option<u64>,
}

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub scope: String,
    /// When it was made, in milliseconds since 1970.
    pub created_at: u64,
    /// When it ends to be valid, in milliseconds since 1970; if ever.
    pub expires_at: Option<u64>,
    /// When it was used last, to the minute; if it was.
    pub used_at: Option<u64>,
}

impl Token {
    /// Whether it is not valid any more at a time, in milliseconds since 1970.
    #[must_use]
    pub fn is_expired(&self, at: u64) -> bool {
        self.expires_at.is_some_and(|end| end <= at)
    }
}

impl Registry {
    /// Adds a token.
    ///
    /// # Errors
    /// When its name is taken or cannot be stored, or when the registry fails.
    pub async fn add_token(&self, token: &NewToken, by: &Actor) -> Result<(), WriteError> {
        storable("token", &token.name)?;
        if token.scope.len() > MOST_SCOPE_BYTES || token.scope.contains('\0') {
            let why =
                format!("its scope has a NUL character, or more than {MOST_SCOPE_BYTES} bytes");
            return Err(WriteError::Refused { what: format!("token {:?}", token.name), why });
        }
        self.transact(async |transaction| {
            let is_free = add(transaction, token, by).await?;
            if is_free { Ok(()) } else { Err(WriteError::TokenTaken(token.name.clone())) }
        })
        .await
    }

    /// Removes a token; says whether there was one. It is not found any more when this returns, by no Doorbell.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn remove_token(&self, name: &str, by: &Actor) -> Result<bool, WriteError> {
        storable("token", name)?;
        let known = self.store.rows(KNOWN, &[Value::Text(name)]).await?;
        if known.is_empty() {
            return Ok(false);
        }
        Ok(self.transact(async |transaction| remove(transaction, name, by).await).await?)
    }

    /// All tokens, by name, expired ones too.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn tokens(&self) -> Result<Vec<Token>, RegistryError> {
        const LIST: &str = "SELECT name, scope, created_at, expires_at, used_at FROM token";
        let rows = self.store.rows(LIST, &[]).await?;
        let mut tokens = rows.iter().map(token).collect::<Result<Vec<_>, _>>()?;
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tokens)
    }

    /// The token with this hash, unless it is expired.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn find_token(&self, hash: &TokenHash) -> Result<Option<Token>, RegistryError> {
        // Whoever does not know the tables' shape lets nobody in by what it finds in them.
        const FIND: &str = "
            SELECT name, scope, created_at, expires_at, used_at, (SELECT version FROM registry)
            FROM token WHERE hash = $1";
        let rows = self.store.rows(FIND, &[Value::Bytes(&hash.0)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        migration::known(row.number(5)?)?;
        let found = Some(token(row)?);
        Ok(found.filter(|token| !token.is_expired(now_ms())))
    }

    /// Notes that a token is used, if it was not noted within the last minute. It is no change of the registry:
    /// nobody is told.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn note_use(&self, token: &Token) -> Result<(), RegistryError> {
        const NOTE: &str = "UPDATE token SET used_at = $2 WHERE name = $1";
        let now = now_ms();
        let minute_ms = USE.as_secs() * 1000;
        if token.used_at.is_some_and(|used| now.saturating_sub(used) < minute_ms) {
            return Ok(());
        }
        let values = [Value::Text(&token.name), Value::Number(stored(now))];
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            transaction.rows(NOTE, &values).await.map(drop)
        })
        .await
    }
}

const KNOWN: &str = "SELECT name FROM token WHERE name = $1";

/// Whether its name was free.
async fn add(
    transaction: &mut Transaction,
    token: &NewToken,
    by: &Actor,
) -> Result<bool, RegistryError> {
    const ADD: &str = "
        INSERT INTO token (name, scope, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (name) DO NOTHING RETURNING name";
    let revision = advance(transaction, 1).await?;
    let now = now_ms();
    let values = [
        Value::Text(&token.name),
        Value::Text(&token.scope),
        Value::Bytes(&token.hash.0),
        Value::Number(stored(now)),
        Value::MaybeNumber(token.expires_at.map(stored)),
    ];
    if transaction.rows(ADD, &values).await?.is_empty() {
        return Ok(false);
    }
    let act = Act { what: "add token".into(), app: None, subject: Some(token.name.clone()) };
    audit::note(transaction, &act, by, Some(revision), now).await?;
    transaction.tell().await?;
    Ok(true)
}

/// Whether there was one.
async fn remove(
    transaction: &mut Transaction,
    name: &str,
    by: &Actor,
) -> Result<bool, RegistryError> {
    const REMOVE: &str = "DELETE FROM token WHERE name = $1 RETURNING name";
    let revision = advance(transaction, 1).await?;
    if transaction.rows(REMOVE, &[Value::Text(name)]).await?.is_empty() {
        return Ok(false);
    }
    let act = Act { what: "remove token".into(), app: None, subject: Some(name.into()) };
    audit::note(transaction, &act, by, Some(revision), now_ms()).await?;
    transaction.tell().await?;
    Ok(true)
}

fn token(row: &Row) -> Result<Token, RegistryError> {
    Ok(Token {
        name: row.column(0)?,
        scope: row.column(1)?,
        created_at: row.number(2)?,
        expires_at: row.maybe_number(3)?,
        used_at: row.maybe_number(4)?,
    })
}
