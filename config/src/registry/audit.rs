//! The audit log: who did what, and when. Changes of the registry are noted in the transaction that makes them;
//! other acts by who performs them. It holds no definitions: they may have secrets in their environments.

use std::borrow::Cow;

use super::{
    Registry, advance,
    error::RegistryError,
    now_ms,
    row::Revision,
    store::{Row, Transaction, Value, stored},
};
use crate::name::AppId;

/// Most bytes of one text in the log.
const MOST_TEXT: usize = 1024;

/// Who does something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The name of a token, or `unix:` and a user's number.
    pub name: String,
    /// Where they came from: an address, or a socket.
    pub from: String,
}

/// What somebody did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// What it was, in a few words: `put app`.
    pub what: String,
    /// To which app, if to one.
    pub app: Option<AppId>,
    /// To what else, or with what: the name of a secret or a token, another id.
    pub subject: Option<String>,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, which rises. To ask for those before it.
    pub number: u64,
    /// When it was, in milliseconds since 1970.
    pub at: u64,
    /// Who it was.
    pub by: Actor,
    /// What they did.
    pub act: Act,
    /// The revision that came of it, if it was a change of the registry.
    pub revision: Option<Revision>,
}

impl Registry {
    /// Notes what is no change of the registry.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn note(&self, act: &Act, by: &Actor) -> Result<(), RegistryError> {
        self.transact(async |transaction| {
            advance(transaction, 0).await?;
            note(transaction, act, by, None, now_ms()).await
        })
        .await
    }

    /// The newest entries, of one app or of all, before an entry that is known or all, and at most so many.
    /// An app that was renamed is found by each of its ids.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn audit(
        &self,
        app: Option<&AppId>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, RegistryError> {
        const ALL: &str = "
            SELECT number, at, actor, origin, act, app, subject, revision FROM audit
            WHERE number < $1 ORDER BY number DESC LIMIT $2";
        const OF_APP: &str = "
            SELECT number, at, actor, origin, act, app, subject, revision FROM audit
            WHERE number < $1 AND (app = $3 OR (act = 'rename app' AND subject = $3))
            ORDER BY number DESC LIMIT $2";
        let before = Value::Number(before.map_or(i64::MAX, stored));
        let limit = Value::Number(limit.into());
        let rows = match app {
            None => self.store.rows(ALL, &[before, limit]).await?,
            Some(app) => {
                self.store.rows(OF_APP, &[before, limit, Value::Text(app.as_str())]).await?
            }
        };
        rows.iter().map(entry).collect()
    }

    /// Forgets all but the newest entries, and says how many they were.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn trim_audit(&self, keep: u32) -> Result<u64, RegistryError> {
        const TRIM: &str = "
            DELETE FROM audit WHERE number <=
                (SELECT number FROM audit ORDER BY number DESC LIMIT 1 OFFSET $1)
            RETURNING number";
        let keep = [Value::Number(keep.into())];
        let trimmed = self.transact(async |transaction| {
            advance(transaction, 0).await?;
            transaction.rows(TRIM, &keep).await
        });
        let gone = trimmed.await?;
        Ok(gone.len() as u64)
    }
}

/// Notes an act in the transaction that it is part of.
pub(super) async fn note(
    transaction: &mut Transaction,
    act: &Act,
    by: &Actor,
    revision: Option<Revision>,
    at: u64,
) -> Result<(), RegistryError> {
    const NOTE: &str = "
        INSERT INTO audit (at, actor, origin, act, app, subject, revision)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let (actor, origin, what) = (text(&by.name), text(&by.from), text(&act.what));
    let subject = act.subject.as_deref().map(text);
    let values = [
        Value::Number(stored(at)),
        Value::Text(&actor),
        Value::Text(&origin),
        Value::Text(&what),
        Value::MaybeText(act.app.as_ref().map(AppId::as_str)),
        Value::MaybeText(subject.as_deref()),
        Value::MaybeNumber(revision.map(Revision::stored)),
    ];
    transaction.rows(NOTE, &values).await.map(drop)
}

/// A text as the log has it. Nobody gets past the log with a text that it could not hold.
fn text(text: &str) -> Cow<'_, str> {
    let text = &text[..text.floor_char_boundary(MOST_TEXT)];
    if text.contains('\0') { text.replace('\0', "\u{2400}").into() } else { text.into() }
}

fn entry(row: &Row) -> Result<Entry, RegistryError> {
    let app: Option<String> = row.column(5)?;
    Ok(Entry {
        number: row.number(0)?,
        at: row.number(1)?,
        by: Actor { name: row.column(2)?, from: row.column(3)? },
        act: Act {
            what: row.column(4)?,
            app: app.and_then(|app| AppId::parse_replica(&app).ok()),
            subject: row.column(6)?,
        },
        revision: row.maybe_number(7)?.map(Revision::new),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_the_log_is_cut_between_characters_and_has_no_nul() {
        assert_eq!(text("a\0b"), "a\u{2400}b");
        let long = "é".repeat(MOST_TEXT);
        assert_eq!(text(&long).len(), MOST_TEXT);
        let odd = format!("a{long}");
        assert_eq!(text(&odd).len(), MOST_TEXT - 1);
    }
}
