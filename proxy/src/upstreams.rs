//! Servers that somebody else runs: which one a request goes to.
//!
//! Round robin over those that are well. A server is unwell after `max_fails` failures in a row, for
//! `fail_timeout` (passive), or while its health check fails (active, [`crate::health`]). When none
//! is well all are tried: a wrong guess must not take an app down.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use doorbell_config::spec::{UpstreamServer, UpstreamSpec};

/// How long a resolved name is used before it is looked up again.
const NAME_LIFE: Duration = Duration::from_secs(10);

/// The servers of one app.
#[derive(Debug)]
pub struct Upstreams {
    spec: UpstreamSpec,
    servers: Vec<Server>,
    turn: AtomicUsize,
    epoch: Instant,
}

/// One server and what is known of its health.
#[derive(Debug)]
pub struct Server {
    /// Where it is.
    pub address: UpstreamServer,
    fails: AtomicU32,
    /// Milliseconds since `epoch` until which it is left out.
    out_until: AtomicU64,
    failing_checks: AtomicBool,
    resolved: Mutex<Resolved>,
}

/// The addresses of a server's name.
#[derive(Debug, Default)]
struct Resolved {
    /// When they were looked up; `None` if they never were.
    at: Option<Instant>,
    addresses: Vec<SocketAddr>,
    /// The one in use.
    current: usize,
}

impl Upstreams {
    /// Servers of which nothing is known yet: all are taken to be well.
    #[must_use]
    pub fn new(spec: &UpstreamSpec) -> Self {
        let servers = spec.servers.iter().map(|address| Server {
            address: address.clone(),
            fails: AtomicU32::new(0),
            out_until: AtomicU64::new(0),
            failing_checks: AtomicBool::new(false),
            resolved: Mutex::default(),
        });
        Self {
            spec: spec.clone(),
            servers: servers.collect(),
            turn: AtomicUsize::new(0),
            epoch: Instant::now(),
        }
    }

    /// The definition these were made from.
    #[must_use]
    pub fn spec(&self) -> &UpstreamSpec {
        &self.spec
    }

    /// All servers.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Picks the next server that is well and was not tried yet by this request (bit by index, the
    /// first 64 servers); `None` when all were tried.
    #[must_use]
    pub fn pick(&self, tried: u64) -> Option<usize> {
        let count = self.servers.len();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let now = self.now();
        let untried = (0..count)
            .map(|step| (start + step) % count)
            .filter(|index| *index >= 64 || tried & (1 << index) == 0);
        let mut fallback = None;
        for index in untried {
            if self.servers[index].is_well(now) {
                return Some(index);
            }
            fallback = fallback.or(Some(index));
        }
        fallback
    }

    /// A request could not be sent to this server, or it did not answer.
    pub fn failed(&self, index: usize) {
        let Some(server) = self.servers.get(index) else { return };
        let fails = server.fails.fetch_add(1, Ordering::Relaxed) + 1;
        if self.spec.max_fails > 0 && fails >= self.spec.max_fails {
            let out = u64::try_from(self.spec.fail_timeout.as_millis()).unwrap_or(u64::MAX);
            server.out_until.store(self.now().saturating_add(out), Ordering::Relaxed);
            server.fails.store(0, Ordering::Relaxed);
        }
    }

    /// This server answered.
    pub fn succeeded(&self, index: usize) {
        let Some(Server { fails, .. }) = self.servers.get(index) else { return };
        if fails.load(Ordering::Relaxed) > 0 {
            fails.store(0, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Server {
    fn is_well(&self, now: u64) -> bool {
        !self.failing_checks.load(Ordering::Relaxed)
            && self.out_until.load(Ordering::Relaxed) <= now
    }

    /// Takes the result of an active check; tells whether it changed.
    pub fn checked(&self, well: bool) -> bool {
        self.failing_checks.swap(!well, Ordering::Relaxed) == well
    }

    /// The address to connect to: looked up anew when what is known is older than ten seconds, and
    /// kept when the look-up fails. Meanwhile everybody else goes on with what is known.
    ///
    /// # Errors
    /// When the name never resolved.
    pub async fn resolve(&self, host: &str, port: u16) -> std::io::Result<SocketAddr> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse() {
            return Ok(SocketAddr::new(ip, port));
        }
        if let Some(address) = self.known() {
            return Ok(address);
        }
        let found = tokio::net::lookup_host((bare, port)).await.map(Vec::from_iter);
        let mut resolved = self.resolved();
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                let current = resolved
                    .current()
                    .and_then(|old| addresses.iter().position(|address| *address == old));
                *resolved =
                    Resolved { at: Some(Instant::now()), addresses, current: current.unwrap_or(0) };
            }
            Ok(_) if resolved.addresses.is_empty() => {
                return Err(std::io::Error::other("the name has no address"));
            }
            Err(error) if resolved.addresses.is_empty() => return Err(error),
            Ok(_) | Err(_) => {}
        }
        resolved.current().ok_or_else(|| std::io::Error::other("the name has no address"))
    }

    /// What is known and not too old. Who finds it too old is the one to look it up.
    fn known(&self) -> Option<SocketAddr> {
        let mut resolved = self.resolved();
        let at = resolved.at?;
        if at.elapsed() >= NAME_LIFE {
            resolved.at = Some(Instant::now());
            return None;
        }
        resolved.current()
    }

    /// How many addresses the name has, as far as is known.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.resolved().addresses.len()
    }

    /// Turns to the next address of the name; false if there is no other.
    pub fn turn_away(&self) -> bool {
        let mut resolved = self.resolved();
        let count = resolved.addresses.len();
        if count > 1 {
            resolved.current = (resolved.current + 1) % count;
        }
        count > 1
    }

    fn resolved(&self) -> std::sync::MutexGuard<'_, Resolved> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolved {
    fn current(&self) -> Option<SocketAddr> {
        self.addresses.get(self.current).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(count: u16, max_fails: u32, fail_timeout: Duration) -> Upstreams {
        let servers = (0..count)
            .map(|port| UpstreamServer::Http { host: "127.0.0.1".into(), port: port + 1 })
            .collect();
        Upstreams::new(&UpstreamSpec { servers, max_fails, fail_timeout, health: None })
    }

    #[test]
    fn servers_take_turns() {
        let all = upstreams(3, 1, Duration::from_secs(10));
        let picks: Vec<_> = (0..6).filter_map(|_| all.pick(0)).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_failing_server_is_left_out_for_a_while() {
        let all = upstreams(2, 2, Duration::from_secs(10));
        all.failed(0);
        assert!((0..4).any(|_| all.pick(0) == Some(0)), "one failure is not enough");
        all.failed(0);
        assert!((0..8).all(|_| all.pick(0) == Some(1)));
        let all = upstreams(2, 1, Duration::ZERO);
        all.failed(0);
        assert!((0..4).any(|_| all.pick(0) == Some(0)), "back after the time-out");
    }

    #[test]
    fn success_forgives() {
        let all = upstreams(2, 2, Duration::from_secs(10));
        all.failed(0);
        all.succeeded(0);
        all.failed(0);
        assert!((0..4).any(|_| all.pick(0) == Some(0)));
    }

    #[test]
    fn when_none_is_well_all_are_tried() {
        let all = upstreams(2, 1, Duration::from_secs(10));
        assert!(all.servers()[0].checked(false));
        assert!(!all.servers()[0].checked(false));
        all.failed(1);
        let first = all.pick(0).unwrap();
        let second = all.pick(1 << first).unwrap();
        assert_ne!(first, second);
        assert_eq!(all.pick(0b11), None);
    }
}
