//! What archives and answers are sealed with: age, <https://age-encryption.org/v1>.
//!
//! An archive is sealed with a passphrase, from which scrypt makes the key. What the control process tells is
//! sealed for a key that is made for one question and never leaves the process that asks: the passphrase of an
//! archive is nobody else's business. The program `age` opens both.

use std::io::{self, Read, Write};

use age::{
    DecryptError, Decryptor, Encryptor, Identity,
    secrecy::SecretString,
    stream::{StreamReader, StreamWriter},
};
use doorbell_config::spec::Secret;

use super::BackupError;

/// The work of making a key from a passphrase: 2^17 rounds take 128 MiB and some tenths of a second, for us
/// and for whoever tries passphrases. A machine that is busy must not make it less.
const WORK: u8 = if cfg!(test) { 8 } else { 17 };
/// The most that is done for an archive: 1 GiB.
const MOST_WORK: u8 = 20;

/// Bytes of a passphrase that is no joke.
pub const LEAST_BYTES: usize = 12;

/// Seals all that is written with a passphrase, until `finish` is called: without that it cannot be opened.
///
/// # Errors
/// What the writer says.
pub fn seal<W: Write>(out: W, passphrase: &Secret) -> io::Result<StreamWriter<W>> {
    let mut recipient = age::scrypt::Recipient::new(SecretString::from(passphrase.reveal()));
    recipient.set_work_factor(WORK);
    let recipients = std::iter::once(&recipient as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
    encryptor.wrap_output(out)
}

/// Opens what was sealed with a passphrase. Each piece is known to be genuine before any of it is read.
///
/// # Errors
/// If it is something else, or the passphrase is.
pub fn open<R: Read>(input: R, passphrase: &Secret) -> Result<StreamReader<R>, BackupError> {
    let decryptor = Decryptor::new(input).map_err(no_archive)?;
    if !decryptor.is_scrypt() {
        return Err(BackupError::NoArchive);
    }
    let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase.reveal()));
    identity.set_max_work_factor(MOST_WORK);
    decryptor.decrypt(std::iter::once(&identity as &dyn Identity)).map_err(|error| match error {
        DecryptError::DecryptionFailed
        | DecryptError::KeyDecryptionFailed
        | DecryptError::NoMatchingKeys => BackupError::WrongPassphrase,
        DecryptError::InvalidMac => BackupError::Damaged("its head was altered".into()),
        DecryptError::ExcessiveWork { .. } => {
            BackupError::Refused("to open it would take more than 1 GiB of memory".into())
        }
        other => no_archive(other),
    })
}

fn no_archive(error: DecryptError) -> BackupError {
    match error {
        DecryptError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            BackupError::NoArchive
        }
        DecryptError::Io(error) => BackupError::Damaged(error.to_string()),
        _ => BackupError::NoArchive,
    }
}

/// A key for one question.
pub struct Key(age::x25519::Identity);

impl Key {
    /// A key that nobody else has.
    #[must_use]
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// What to seal for it with: no secret.
    #[must_use]
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    /// Opens what was sealed for it.
    ///
    /// # Errors
    /// If that is something else.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, BackupError> {
        let decryptor = Decryptor::new(sealed).map_err(no_archive)?;
        let opened = decryptor.decrypt(std::iter::once(&self.0 as &dyn Identity));
        let mut bytes = Vec::new();
        opened.map_err(no_archive)?.read_to_end(&mut bytes).map_err(BackupError::reading)?;
        Ok(bytes)
    }
}

/// Seals bytes for somebody: `age1…`.
///
/// # Errors
/// If that is nobody.
pub fn seal_for(recipient: &str, bytes: &[u8]) -> Result<Vec<u8>, BackupError> {
    let nobody = || BackupError::Refused("`recipient` is a public key of age, `age1...`".into());
    let recipient: age::x25519::Recipient = recipient.parse().map_err(|_| nobody())?;
    let recipients = std::iter::once(&recipient as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(recipients).map_err(|_| nobody())?;
    let mut sealed = Vec::new();
    let write = || -> io::Result<()> {
        let mut writer = encryptor.wrap_output(&mut sealed)?;
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    };
    write().map_err(BackupError::io("cannot seal"))?;
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = seal(&mut out, &Secret::new("a long passphrase")).unwrap();
        writer.write_all(text).unwrap();
        writer.finish().unwrap();
        out
    }

    fn opened(bytes: &[u8], passphrase: &str) -> Result<Vec<u8>, BackupError> {
        let mut text = Vec::new();
        let mut reader = open(bytes, &Secret::new(passphrase))?;
        reader.read_to_end(&mut text).map_err(BackupError::reading)?;
        Ok(text)
    }

    #[test]
    fn what_is_sealed_is_opened_by_its_passphrase_alone() {
        let text = vec![7; 200_000];
        let bytes = sealed(&text);
        assert_eq!(opened(&bytes, "a long passphrase").unwrap(), text);
        assert!(matches!(opened(&bytes, "another"), Err(BackupError::WrongPassphrase)));
        for at in [bytes.len() - 1, bytes.len() / 2, 250] {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            assert!(opened(&bent, "a long passphrase").is_err(), "byte {at}");
        }
        for end in [bytes.len() - 1, 65_536 + 300, 100, 10, 0] {
            assert!(opened(&bytes[..end], "a long passphrase").is_err(), "to {end}");
        }
        assert!(matches!(opened(b"nothing of the kind", "x"), Err(BackupError::NoArchive)));
    }

    #[test]
    fn an_answer_is_for_who_asked() {
        let (key, other) = (Key::generate(), Key::generate());
        let sealed = seal_for(&key.recipient(), b"hunter2").unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        assert_eq!(key.open(&sealed).unwrap(), b"hunter2");
        assert!(other.open(&sealed).is_err());
        assert!(seal_for("age1nobody", b"x").is_err());
    }
}
