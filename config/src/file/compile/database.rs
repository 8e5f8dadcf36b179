//! `[app.<id>.database]`.

use std::sync::Arc;

use super::Section;
use crate::{
    file::{
        keys::DatabaseKeys,
        text::{At, Text},
    },
    spec::{DatabaseSpec, DatabaseUrl},
};

type Choice<'k> = (&'static str, &'k At<Text<DatabaseUrl>>, fn(DatabaseUrl) -> DatabaseSpec);

/// The one that was chosen.
pub(super) fn compile(
    section: &mut Section<'_>,
    keys: &At<DatabaseKeys>,
) -> Option<Arc<DatabaseSpec>> {
    let given = &keys.value;
    let choices: [Option<Choice<'_>>; 3] = [
        given
            .new_database
            .as_ref()
            .map(|url| ("new_database", url, DatabaseSpec::NewDatabase as _)),
        given.new_schema.as_ref().map(|url| ("new_schema", url, DatabaseSpec::NewSchema as _)),
        given
            .new_connection
            .as_ref()
            .map(|url| ("new_connection", url, DatabaseSpec::NewConnection as _)),
    ];
    let mut chosen = choices.into_iter().flatten();
    let Some((key, url, spec)) = chosen.next() else {
        if !section.is_broken() {
            let help = "write `new_database`, `new_schema` or `new_connection`, or remove it";
            section.wrong(&keys.span, "no database is chosen", help);
        }
        return None;
    };
    if let Some((other, second, _)) = chosen.next() {
        let both = [(key, &url.span), (other, &second.span)];
        section.exclude(both, "an app has one database: keep one of the two");
        return None;
    }
    let spec = spec(url.value.0.clone());
    if let Err(error) = spec.check() {
        let (message, help) = error.parts();
        section.wrong(&url.span, message, help.unwrap_or_default());
        return None;
    }
    Some(Arc::new(spec))
}
