//! Passwords as servers store them: they are sent as that, so that the password itself stands in no log of
//! statements, and in no list of what a server is doing.

use ring::{digest, hmac, pbkdf2};
use uuid::Uuid;

use super::Secret;

/// As many rounds as the server itself does. Our passwords are random: more would but cost each login.
const ROUNDS: std::num::NonZeroU32 = std::num::NonZeroU32::new(4096).expect("not zero");

/// What PostgreSQL stores of a password: `SCRAM-SHA-256$…`, RFC 5803.
pub(super) fn scram(password: &Secret) -> String {
    scram_with(password, Uuid::new_v4().as_bytes())
}

fn scram_with(password: &Secret, salt: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    // What cannot be prepared is taken as it is, by the server and its programs too.
    let text = password.reveal();
    let prepared = stringprep::saslprep(text).unwrap_or(text.into());
    let mut salted = [0; 32];
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(algorithm, ROUNDS, salt, prepared.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    let [salt, stored_key, server_key] =
        [salt, stored_key.as_ref(), server_key.as_ref()].map(|bytes| STANDARD.encode(bytes));
    format!("SCRAM-SHA-256${ROUNDS}:{salt}${stored_key}:{server_key}")
}

/// What MariaDB stores of a password: `*` and the SHA-1 of its SHA-1. It knows better ways, but none that all
/// programs know, and a random password is not found out by the hash of it.
pub(super) fn native(password: &Secret) -> String {
    let sha1 = |bytes: &[u8]| digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let twice = sha1(sha1(password.reveal().as_bytes()).as_ref());
    twice.as_ref().iter().fold("*".to_owned(), |text, byte| format!("{text}{byte:02X}"))
}

/// Why no server takes this for a password, if none does.
pub(super) fn fault(password: &Secret) -> Option<&'static str> {
    match password.reveal() {
        "" => Some("the password is empty"),
        text if text.contains('\0') => Some("the password has a NUL character"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_what_postgresql_makes_of_it() {
        // Of the pencil of RFC 7677.
        use base64::{Engine, engine::general_purpose::STANDARD};
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let stored = scram_with(&Secret::new("pencil"), &salt);
        let keys = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert_eq!(stored, format!("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${keys}"));
    }

    #[test]
    fn a_password_is_what_mariadb_makes_of_it() {
        let stored = native(&Secret::new("password"));
        assert_eq!(stored, "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19");
    }
}
