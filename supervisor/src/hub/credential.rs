//! A credential of systemd (`LoadCredential=`, systemd.exec(5)): only the user that the unit is started as can
//! read it, and the control process may be another. So it is opened here, and given to that one; what is in it
//! is not read.

use std::{env, fs::File, io, path::PathBuf};

/// Where systemd puts credentials.
const FOLDER: &str = "CREDENTIALS_DIRECTORY";
/// The keys that secrets of apps are sealed with.
const KEYS: &str = "doorbell.keys";

/// The keys, if they are a credential.
///
/// # Errors
/// If there is one that cannot be opened.
pub(super) fn keys() -> io::Result<Option<File>> {
    let Some(folder) = env::var_os(FOLDER) else { return Ok(None) };
    match File::open(PathBuf::from(folder).join(KEYS)) {
        Ok(keys) => Ok(Some(keys)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
