//! Passes of operators: what shows a browser why an app could not be started.
//!
//! `doorbell pass` gives a link, which is good for minutes and once; who opens it gets a pass for that
//! app as a cookie, which is good for hours. Both are signed (Ed25519, RFC 8032) by the control process.
//! A proxy, which faces the internet, can tell whether one is genuine and cannot make one; and what an
//! app printed it is told only for a pass, each time anew, and keeps nothing of it.
//!
//! [`desk`] is the proxy's side of the questions, [`office`] the control process's.

use doorbell_config::name::AppId;
use doorbell_supervisor::protocol::Seed;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub mod desk;
pub mod office;

/// What a signature is for, so that none of another program's is taken.
const PURPOSE: &str = "doorbell pass";

/// What something signed is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To get a pass, once.
    Link,
    /// To see why an app could not be started.
    Pass,
}

/// Signs.
pub struct Key(Ed25519KeyPair);

/// Tells whether something was signed by the [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal([u8; 32]);

/// From a proxy to the control process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// A pass for this link.
    Redeem(String),
    /// What the holder of this pass may see.
    Why(String),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// A pass.
    Pass(String),
    /// Why the app could not be started.
    Why(Failure),
    /// Not for this one.
    Refused,
}

/// Why a start failed, for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How far it was.
    pub step: String,
    /// How it ended.
    pub reason: String,
    /// What the app said last.
    pub output: Vec<String>,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Pass => "pass",
        }
    }
}

impl Key {
    /// The key that grows from a seed; `None` if none does.
    #[must_use]
    pub fn of(seed: &Seed) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(&seed.0).ok().map(Self)
    }

    /// What tells its signatures from others.
    #[must_use]
    pub fn seal(&self) -> Seal {
        let mut seal = [0; 32];
        seal.copy_from_slice(self.0.public_key().as_ref());
        Seal(seal)
    }

    /// Signs for an app, good up to a moment in seconds since the Unix epoch.
    #[must_use]
    pub fn sign(&self, kind: Kind, app: &AppId, until: u64) -> String {
        let text = format!("{}.{app}.{until}.{}", kind.word(), Uuid::new_v4().simple());
        let signature = self.0.sign(format!("{PURPOSE} {text}").as_bytes());
        format!("{text}.{}", hex(signature.as_ref()))
    }
}

impl Seal {
    /// The app that this is good for now; `None` if it is forged, of another kind, or too old.
    #[must_use]
    pub fn app_of(&self, kind: Kind, token: &str, now: u64) -> Option<AppId> {
        let (text, signature) = token.rsplit_once('.')?;
        let mut parts = text.split('.');
        let (word, app, until) = (parts.next()?, parts.next()?, parts.next()?);
        if word != kind.word() || until.parse::<u64>().ok()? <= now {
            return None;
        }
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        key.verify(format!("{PURPOSE} {text}").as_bytes(), &unhex(signature)?).ok()?;
        AppId::parse(app).ok()
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Written as [`hex`] writes it and no other way: a link that is opened once is known by its text.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some(digit(&pair[0])? << 4 | digit(&pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_is_good_for_its_app_its_kind_and_its_time() {
        let app = AppId::parse("blog").unwrap();
        let key = Key::of(&Seed([7; 32])).unwrap();
        let seal = key.seal();
        let pass = key.sign(Kind::Pass, &app, 100);
        assert_eq!(seal.app_of(Kind::Pass, &pass, 99), Some(app.clone()));
        assert_eq!(seal.app_of(Kind::Pass, &pass, 100), None, "too old");
        assert_eq!(seal.app_of(Kind::Link, &pass, 99), None, "another kind");
        assert_eq!(seal.app_of(Kind::Pass, &pass.replace("blog", "shop"), 99), None);
        assert_eq!(seal.app_of(Kind::Pass, &pass.replace(".100.", ".900."), 99), None);
        let (text, signature) = pass.rsplit_once('.').unwrap();
        let shouted = format!("{text}.{}", signature.to_uppercase());
        assert_eq!(seal.app_of(Kind::Pass, &shouted, 99), None, "the same in other words");
        let other = Key::of(&Seed([8; 32])).unwrap().sign(Kind::Pass, &app, 100);
        assert_eq!(seal.app_of(Kind::Pass, &other, 99), None, "another key");
        for odd in ["", ".", "pass.blog.100", "pass.blog.100.x.zz", "pass.blog.100.x.é0", "...."] {
            assert_eq!(seal.app_of(Kind::Pass, odd, 99), None, "{odd}");
        }
    }
}
