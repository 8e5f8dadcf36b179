//! What is written down for a supervisor that comes after this one: files of JSON.

use std::{fs, io, path::Path};

use serde::de::DeserializeOwned;

/// What a file says; `None` where there is none.
///
/// # Errors
/// Which file it is, and what is wrong with it.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let wrong =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| wrong(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(error)),
    }
}
