//! Seals what apps are given and nobody else may see, so that who reads the registry has nothing.
//!
//! The keys stand in a file of their own (0600), or in a credential of systemd
//! (`LoadCredential=doorbell.keys:...`, systemd.exec(5)), which the supervisor opens for us; a line each: a number and 32 bytes in
//! hexadecimal digits. Numbers are random, so that a key that is missing is told from one that is another. The
//! last line seals; all of them open, so that a key is replaced by adding a line and
//! sealing anew. What is sealed with them is bound to its name: AEAD with ChaCha20-Poly1305 (RFC 8439),
//! and a nonce of its own each time. Several Doorbells that share a registry need the same keys.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use doorbell_config::spec::Secret;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

/// The file in the control process's folder, and the credential's name.
const FILE: &str = "secret.keys";
const CREDENTIAL: &str = "doorbell.keys";
/// Most bytes of a credential: systemd allows no more.
const MOST: usize = 1024 * 1024;

/// Bytes of a key.
const KEY: usize = 32;
/// What everything sealed begins with: how it is sealed. The key's number and the nonce follow.
const VERSION: u8 = 1;
const NUMBER: usize = size_of::<u32>();

/// Keys, and where they are.
pub struct Vault {
    path: PathBuf,
    keys: Vec<(u32, LessSafeKey)>,
    random: SystemRandom,
    /// The file, where it is a credential, which is not ours to change.
    credential: Option<Arc<fs::File>>,
}

/// Why nothing can be sealed or opened. Nothing of a key or a secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The keys cannot be read or written.
    #[error("the keys of secrets in {}: {error}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others could read the keys.
    #[error("the keys of secrets in {} can be read by others: chmod 600 it", .0.display())]
    Open(PathBuf),
    /// A line is no key.
    #[error("{}:{line} is no key of secrets: a number, a blank, and 64 hexadecimal digits", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// There is a key missing.
    #[error("it was sealed with key {number}, which is not in {}: restore that file", path.display())]
    NoKey {
        /// The key's number.
        number: u32,
        /// Where it should be.
        path: PathBuf,
    },
    /// It is not what was sealed, under this name.
    #[error("it was changed, or sealed by another key or for another name")]
    Damaged,
    /// The keys are not ours to change, and nobody has.
    #[error(
        "nothing is sealed with an older key: add a line to the credential {CREDENTIAL}, restart doorbell, \
         and try again"
    )]
    Credential,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

impl Vault {
    /// The keys in this folder; makes the first one where there is none.
    ///
    /// # Errors
    /// Why there are none.
    pub fn open(folder: &Path) -> Result<Self, VaultError> {
        let path = folder.join(FILE);
        let failed = |error| VaultError::Keys { path: path.clone(), error };
        if !path.exists() {
            create(&path, &new_line(&SystemRandom::new(), &[])?).map_err(failed)?;
        }
        Self::read(path)
    }

    /// The keys of a credential.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn of_credential(file: fs::File) -> Result<Self, VaultError> {
        let path = PathBuf::from(CREDENTIAL);
        let failed = |error| VaultError::Keys { path: path.clone(), error };
        let mut text = vec![0; MOST];
        let length = file.read_at(&mut text, 0).map_err(failed)?;
        text.truncate(length);
        let text = String::from_utf8(text).map_err(io::Error::other).map_err(failed)?;
        let keys = read(&text).map_err(|line| VaultError::Line { path: path.clone(), line })?;
        Ok(Self { path, keys, random: SystemRandom::new(), credential: Some(Arc::new(file)) })
    }

    /// The keys as they are now.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn read_again(&self) -> Result<Self, VaultError> {
        let failed = |error| VaultError::Keys { path: self.path.clone(), error };
        match &self.credential {
            Some(file) => Self::of_credential(file.try_clone().map_err(failed)?),
            None => Self::read(self.path.clone()),
        }
    }

    /// The keys in a file, which nobody else can read.
    fn read(path: PathBuf) -> Result<Self, VaultError> {
        let failed = |error| VaultError::Keys { path: path.clone(), error };
        let text = fs::read_to_string(&path).map_err(failed)?;
        if fs::metadata(&path).map_err(failed)?.mode() & 0o077 != 0 {
            return Err(VaultError::Open(path));
        }
        let keys = read(&text).map_err(|line| VaultError::Line { path: path.clone(), line })?;
        Ok(Self { path, keys, random: SystemRandom::new(), credential: None })
    }

    /// Seals a text under a name.
    ///
    /// # Errors
    /// If there is no randomness to be had.
    pub fn seal(&self, name: &str, text: &Secret) -> Result<Vec<u8>, VaultError> {
        // Invariant: `read` lets no file through without a key.
        let (number, key) = self.keys.last().ok_or(VaultError::Random)?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| VaultError::Random)?;
        let mut sealed = text.reveal().as_bytes().to_vec();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_of, Aad::from(name.as_bytes()), &mut sealed)
            .map_err(|_| VaultError::Random)?;
        let mut all = Vec::with_capacity(1 + NUMBER + NONCE_LEN + sealed.len());
        all.push(VERSION);
        all.extend(number.to_be_bytes());
        all.extend(nonce);
        all.extend(sealed);
        Ok(all)
    }

    /// Opens what was sealed under this name.
    ///
    /// # Errors
    /// If the key is missing, or it is not that.
    pub fn open_sealed(&self, name: &str, sealed: &[u8]) -> Result<Secret, VaultError> {
        let rest = sealed.strip_prefix(&[VERSION]).ok_or(VaultError::Damaged)?;
        let (number, rest) = rest.split_first_chunk::<NUMBER>().ok_or(VaultError::Damaged)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(VaultError::Damaged)?;
        let number = u32::from_be_bytes(*number);
        let key = self.keys.iter().find(|(known, _)| *known == number);
        let missing = || VaultError::NoKey { number, path: self.path.clone() };
        let (_, key) = key.ok_or_else(missing)?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let text = key
            .open_in_place(nonce, Aad::from(name.as_bytes()), &mut text)
            .map_err(|_| VaultError::Damaged)?;
        let text = String::from_utf8(text.to_vec()).map_err(|_| VaultError::Damaged)?;
        Ok(Secret::new(text))
    }

    /// Whether the keys are somebody else's to change.
    #[must_use]
    pub fn is_credential(&self) -> bool {
        self.credential.is_some()
    }

    /// Whether something is sealed with the newest key.
    #[must_use]
    pub fn is_newest(&self, sealed: &[u8]) -> bool {
        let newest = self.keys.last().map(|(number, _)| number.to_be_bytes());
        newest.is_some_and(|number| sealed.get(1..=NUMBER) == Some(&number))
    }

    /// A vault with one more key, which seals from here on. It is in the file when this returns. To a credential
    /// its owner adds the key.
    ///
    /// # Errors
    /// If it cannot be written: the vault stays as it was.
    pub fn with_new_key(&self) -> Result<Self, VaultError> {
        if self.credential.is_some() {
            return self.read_again();
        }
        let failed = |error| VaultError::Keys { path: self.path.clone(), error };
        let text = fs::read_to_string(&self.path).map_err(failed)?;
        let known =
            read(&text).map_err(|line| VaultError::Line { path: self.path.clone(), line })?;
        let newest = |keys: &[(u32, LessSafeKey)]| keys.last().map(|(number, _)| *number);
        if newest(&known) != newest(&self.keys) {
            // Somebody has added one, here and where else it is needed.
            return self.read_again();
        }
        let text = format!("{}\n{}", text.trim_end(), new_line(&self.random, &known)?);
        let new = self.path.with_extension("new");
        let _ = fs::remove_file(&new);
        let moved = || {
            fs::rename(&new, &self.path)?;
            self.path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
        };
        create(&new, &text).and_then(|()| moved()).map_err(failed)?;
        let path = self.path.clone();
        let keys = read(&text).map_err(|line| VaultError::Line { path: path.clone(), line })?;
        Ok(Self { path, keys, random: SystemRandom::new(), credential: None })
    }

    /// A text that nobody knows: 64 random digits.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn random_text(&self) -> Result<Secret, VaultError> {
        Ok(Secret::new(digits(&self.random)?))
    }
}

/// A new key, with a number that none of these has.
fn new_line(random: &SystemRandom, known: &[(u32, LessSafeKey)]) -> Result<String, VaultError> {
    loop {
        let mut number = [0; NUMBER];
        random.fill(&mut number).map_err(|_| VaultError::Random)?;
        let number = u32::from_be_bytes(number);
        if known.iter().all(|(other, _)| *other != number) {
            return Ok(format!("{number} {}\n", digits(random)?));
        }
    }
}

fn digits(random: &SystemRandom) -> Result<String, VaultError> {
    let mut bytes = [0; KEY];
    random.fill(&mut bytes).map_err(|_| VaultError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    // What it seals is of no use without it.
    file.sync_all()?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// The keys, or the line that is none.
fn read(text: &str) -> Result<Vec<(u32, LessSafeKey)>, usize> {
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let keys: Vec<_> = lines.map(|(line, at)| key(line).ok_or(at)).collect::<Result<_, usize>>()?;
    let is_double = |at: usize| keys[..at].iter().any(|(number, _)| *number == keys[at].0);
    match (0..keys.len()).find(|at| is_double(*at)) {
        Some(at) => Err(at + 1),
        None if keys.is_empty() => Err(1),
        None => Ok(keys),
    }
}

fn key(line: &str) -> Option<(u32, LessSafeKey)> {
    let (number, digits) = line.trim().split_once(' ')?;
    let digits = digits.trim().as_bytes();
    let mut bytes = [0; KEY];
    if digits.len() != 2 * KEY {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok()?;
    Some((number.parse().ok()?, LessSafeKey::new(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(vault: &Vault, name: &str) -> Vec<u8> {
        vault.seal(name, &Secret::new("hunter2")).unwrap()
    }

    #[test]
    fn what_is_sealed_is_opened_under_its_name_alone() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(folder.path()).unwrap();
        let (first, second) = (sealed(&vault, "KEY"), sealed(&vault, "KEY"));
        assert_ne!(first, second);
        assert!(!first.windows(7).any(|part| part == b"hunter2"));
        let again = Vault::open(folder.path()).unwrap();
        assert_eq!(again.open_sealed("KEY", &first).unwrap().reveal(), "hunter2");
        assert!(matches!(again.open_sealed("OTHER", &first), Err(VaultError::Damaged)));
        for at in [0, 5, 17, first.len() - 1] {
            let mut bent = first.clone();
            bent[at] ^= 1;
            assert!(again.open_sealed("KEY", &bent).is_err(), "byte {at}");
        }
        assert!(again.open_sealed("KEY", &first[..8]).is_err());
        assert!(again.open_sealed("KEY", b"").is_err());
    }

    #[test]
    fn a_new_key_seals_and_old_ones_open() {
        let folder = tempfile::tempdir().unwrap();
        let old = Vault::open(folder.path()).unwrap();
        let before = sealed(&old, "KEY");
        let new = old.with_new_key().unwrap();
        assert!(old.is_newest(&before) && !new.is_newest(&before));
        assert!(new.is_newest(&sealed(&new, "KEY")));
        let again = Vault::open(folder.path()).unwrap();
        assert_eq!(again.open_sealed("KEY", &before).unwrap().reveal(), "hunter2");
        let other = tempfile::tempdir().unwrap();
        let stranger = Vault::open(other.path()).unwrap();
        assert!(stranger.open_sealed("KEY", &before).is_err());
        let missing = stranger.open_sealed("KEY", &sealed(&new, "KEY"));
        assert!(matches!(missing, Err(VaultError::NoKey { .. })));
        assert!(matches!(stranger.open_sealed("KEY", &before), Err(VaultError::NoKey { .. })));
        let copied = fs::read(folder.path().join(FILE)).unwrap();
        fs::write(other.path().join(FILE), &copied).unwrap();
        // One that was added is used, rather than another one made.
        let added = stranger.with_new_key().unwrap();
        assert!(added.is_newest(&sealed(&new, "KEY")));
        assert_eq!(fs::read(other.path().join(FILE)).unwrap(), copied);
        let stranger = stranger.read_again().unwrap();
        assert_eq!(stranger.open_sealed("KEY", &before).unwrap().reveal(), "hunter2");
    }

    #[test]
    fn a_credential_is_its_owners_to_change() {
        let folder = tempfile::tempdir().unwrap();
        drop(Vault::open(folder.path()).unwrap());
        let path = folder.path().join(FILE);
        let old = Vault::of_credential(fs::File::open(&path).unwrap()).unwrap();
        let before = sealed(&old, "KEY");
        assert!(old.with_new_key().unwrap().is_newest(&before));
        let line = new_line(&SystemRandom::new(), &[]).unwrap();
        let text = fs::read_to_string(&path).unwrap() + &line;
        fs::write(&path, text).unwrap();
        let new = old.with_new_key().unwrap();
        assert!(!new.is_newest(&before));
        assert_eq!(new.open_sealed("KEY", &before).unwrap().reveal(), "hunter2");
        fs::write(&path, "").unwrap();
        assert!(matches!(old.read_again(), Err(VaultError::Line { line: 1, .. })));
    }

    #[test]
    fn keys_are_for_us_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        drop(Vault::open(folder.path()).unwrap());
        let path = folder.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Vault::open(folder.path()), Err(VaultError::Open(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "1 abc\n").unwrap();
        assert!(matches!(Vault::open(folder.path()), Err(VaultError::Line { line: 1, .. })));
    }
}
