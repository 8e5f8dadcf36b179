//! Who asks, and what they may.
//!
//! Whoever can open the Unix socket may do everything. Over TCP a token says what one may; without one
//! there are only health and metrics. A token is 32 random bytes, of which the registry has the hash:
//! nothing that is stored lets anybody in.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{Extension, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use doorbell_config::registry::{Actor, Registry, Token, TokenHash};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use tokio::time::timeout;

use super::{Admin, Problem, events::ALIVE};
use crate::clock;

/// What every token begins with, so that one that got lost is known for what it is.
const PREFIX: &str = "doorbell_";
/// Random bytes of a token.
const LENGTH: usize = 32;

/// Wrong tokens of one address before it is told to wait, and for how long they count.
const MOST_FAILURES: u32 = 10;
const MEMORY: Duration = Duration::from_secs(60);
/// Addresses that are remembered; beyond, the whole memory is begun anew.
const MOST_ADDRESSES: usize = 4096;

/// What one may; each includes those before it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// See apps, their logs and figures.
    Read,
    /// Start, stop and restart apps, and let the configuration be read again.
    Operate,
    /// Add, change and delete apps, and tokens.
    Admin,
}

impl Scope {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    pub(super) fn named(word: &str) -> Option<Self> {
        [Self::Read, Self::Operate, Self::Admin].into_iter().find(|scope| scope.word() == word)
    }
}

/// At the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) origin: Origin,
    /// Set once a token was good: then nobody waits for the connection's end.
    pub(super) is_trusted: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// A user of this machine, over a Unix socket.
    User(u32),
    Address(IpAddr),
}

/// Who it is, and what they may.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) actor: Actor,
    pub(super) scope: Scope,
    /// What that rests on; `None` for users of this machine.
    proof: Option<Proof>,
}

/// A token that was good.
#[derive(Clone, Copy, Debug)]
struct Proof {
    hash: TokenHash,
    /// In milliseconds since 1970.
    expires_at: Option<u64>,
}

impl Identity {
    /// Comes when who it is may not hear any more what it hears: its token is over, or was removed, here or at another
    /// Doorbell. A registry that does not answer ends nothing.
    pub(super) async fn ends(self, admin: Arc<Admin>) {
        let Some(proof) = self.proof else { return std::future::pending().await };
        let mut changes = admin.house.lists();
        loop {
            changes.borrow_and_update();
            if proof.is_over(&admin).await {
                tracing::info!(by = %self.actor.name, "is told no more: its token is removed or over");
                return;
            }
            let now = clock::unix_millis();
            let left = proof.expires_at.map(|end| Duration::from_millis(end.saturating_sub(now)));
            let wait = left.map_or(ALIVE, |left| left.min(ALIVE));
            // Passing it is no error, and the house is not gone while we are here.
            let _ = timeout(wait, changes.changed()).await;
        }
    }
}

impl Proof {
    async fn is_over(self, admin: &Admin) -> bool {
        if self.expires_at.is_some_and(|end| end <= clock::unix_millis()) {
            return true;
        }
        let Ok(registry) = admin.house.registry() else { return false };
        match registry.find_token(&self.hash).await {
            Ok(found) => found.is_none(),
            Err(error) => {
                tracing::debug!(%error, "whether a token is still good is not known");
                false
            }
        }
    }
}

impl Caller {
    pub(super) fn new(origin: Origin) -> Self {
        Self { origin, is_trusted: Arc::default() }
    }
}

/// A token that nobody has yet.
///
/// # Errors
/// If the system gives no random bytes.
pub(super) fn new_token() -> Result<String, ring::error::Unspecified> {
    let mut bytes = [0; LENGTH];
    SystemRandom::new().fill(&mut bytes)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{PREFIX}{digits}"))
}

pub(super) fn hash(token: &str) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    TokenHash(hash)
}

/// Wrong tokens, by address.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, (u32, Instant)>>);

impl Failures {
    /// Counts one; tells how long to wait, if it was one of too many.
    fn count(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MOST_ADDRESSES {
            failures.clear();
        }
        let (count, first) = failures.entry(address).or_insert((0, now));
        let over = *first + MEMORY;
        if now >= over {
            (*count, *first) = (0, now);
        }
        *count = count.saturating_add(1);
        (*count > MOST_FAILURES).then(|| over.saturating_duration_since(now))
    }
}

/// Lets a request through to what needs a scope, with who it is.
pub(super) async fn authorize(
    State((admin, scope)): State<(Arc<Admin>, Scope)>,
    Extension(caller): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    match identify(&admin, &caller, request.headers()).await {
        Ok(identity) if identity.scope >= scope => {
            request.extensions_mut().insert(identity);
            next.run(request).await
        }
        Ok(identity) => {
            let (name, has, needs) = (&identity.actor.name, identity.scope.word(), scope.word());
            let why = format!("token \"{name}\" has scope `{has}`, and this needs `{needs}`");
            Problem::new(StatusCode::FORBIDDEN, &why).into_response()
        }
        Err(answer) => answer,
    }
}

/// A registry that is locked holds up nobody who asks for something else.
fn note_use(admin: &Admin, registry: &Registry, token: &Token) {
    let Ok(turn) = Arc::clone(&admin.noting_use).try_acquire_owned() else { return };
    let (registry, token) = (registry.clone(), token.clone());
    tokio::spawn(async move {
        if let Err(error) = registry.note_use(&token).await {
            tracing::debug!(%error, "when a token was used is not known");
        }
        drop(turn);
    });
}

async fn identify(
    admin: &Admin,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Identity, Response> {
    let address = match caller.origin {
        Origin::User(uid) => {
            let actor = Actor { name: format!("unix:{uid}"), from: "socket".into() };
            return Ok(Identity { actor, scope: Scope::Admin, proof: None });
        }
        Origin::Address(address) => address,
    };
    let Some(token) = bearer(headers) else {
        return Err(unknown(
            "say who you are: `Authorization: Bearer <token>`; \
                            `doorbell token add` makes one",
        ));
    };
    // What cannot be one is not looked for.
    if !is_token(token) {
        return Err(wrong(admin, address));
    }
    let registry = admin
        .house
        .registry()
        .map_err(|error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, &error).into_response())?;
    let hash = hash(token);
    let found = registry
        .find_token(&hash)
        .await
        .map_err(|error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, &error).into_response())?;
    let known = found.and_then(|token| Some((Scope::named(&token.scope)?, token)));
    let Some((scope, token)) = known else {
        return Err(wrong(admin, address));
    };
    caller.is_trusted.store(true, Ordering::Relaxed);
    note_use(admin, &registry, &token);
    let proof = Some(Proof { hash, expires_at: token.expires_at });
    Ok(Identity { actor: Actor { name: token.name, from: address.to_string() }, scope, proof })
}

fn wrong(admin: &Admin, address: IpAddr) -> Response {
    match admin.failures.count(address, Instant::now()) {
        None => {
            tracing::warn!(%address, "a token that there is not, or that is expired");
            unknown("there is no such token, or it is expired")
        }
        Some(wait) => too_many(wait),
    }
}

fn is_token(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == 2 * LENGTH && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// RFC 6750, section 2.1.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unknown(why: &str) -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"doorbell\"")];
    (challenge, Problem::new(StatusCode::UNAUTHORIZED, &why)).into_response()
}

fn too_many(wait: Duration) -> Response {
    let seconds = wait.as_secs().max(1);
    let wait = [(header::RETRY_AFTER, seconds)];
    let why = "too many wrong tokens from here";
    (wait, Problem::new(StatusCode::TOO_MANY_REQUESTS, &why)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_each_another() {
        let (a, b) = (new_token().unwrap(), new_token().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), PREFIX.len() + 2 * LENGTH);
        assert_ne!(hash(&a), hash(&b));
        assert!(is_token(&a) && !is_token(&a[1..]) && !is_token(&format!("{a}0")));
    }

    #[test]
    fn the_scheme_is_known_in_any_case() {
        let with =
            |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(bearer(&with("bEARER a")), Some("a"));
        assert_eq!(bearer(&with("Basic a")), None);
        assert_eq!(bearer(&with("Bearer")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn who_fails_again_and_again_waits() {
        let failures = Failures::default();
        let (now, address) = (Instant::now(), IpAddr::from([127, 0, 0, 1]));
        for _ in 0..MOST_FAILURES {
            assert_eq!(failures.count(address, now), None);
        }
        assert_eq!(failures.count(address, now), Some(MEMORY));
        assert_eq!(failures.count(IpAddr::from([127, 0, 0, 2]), now), None);
        assert_eq!(failures.count(address, now + MEMORY), None);
    }
}
