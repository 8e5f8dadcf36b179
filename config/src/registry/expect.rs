//! What a writer knows of an app, held against what there is, in the transaction of the change.

use super::{
    error::{RegistryError, WriteError},
    row::Revision,
    store::{Row, Transaction, Value},
};
use crate::name::AppId;

/// What a writer expects of an app. Where it is not so, nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is none.
    Absent,
    /// There is one, at this revision.
    Revision(Revision),
    /// There is one.
    Present,
    /// There is one, whose deletion was begun.
    Ending,
    /// Nothing.
    Anything,
}

/// An app that is there.
pub(super) struct Found {
    revision: Revision,
    /// Since when it is being deleted with its database, in milliseconds since 1970; if it is.
    pub(super) ending_since: Option<u64>,
}

impl Expect {
    /// The app, if it is as expected.
    pub(super) async fn check(
        self,
        transaction: &mut Transaction,
        app: &AppId,
    ) -> Result<Option<Found>, WriteError> {
        let found = find(transaction, app).await?;
        let revision = found.as_ref().map(|found| found.revision);
        let as_expected = match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Ending => found.as_ref().is_some_and(|found| found.ending_since.is_some()),
            Self::Revision(expected) => revision == Some(expected),
            Self::Anything => true,
        };
        if as_expected {
            Ok(found)
        } else {
            Err(WriteError::Conflict { app: app.clone(), found: revision })
        }
    }
}

async fn find(transaction: &mut Transaction, app: &AppId) -> Result<Option<Found>, WriteError> {
    const FIND: &str =
        "SELECT revision, ending_since FROM app WHERE id = $1 AND definition IS NOT NULL";
    let rows = transaction.rows(FIND, &[Value::Text(app.as_str())]).await?;
    let found = |row: &Row| {
        let (revision, ending_since) = (Revision::new(row.number(0)?), row.maybe_number(1)?);
        Ok::<_, RegistryError>(Found { revision, ending_since })
    };
    Ok(rows.first().map(found).transpose()?)
}
