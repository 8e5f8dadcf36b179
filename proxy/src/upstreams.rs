//! Servers that somebody else runs: which one a request goes to.
//!
//! Round robin over those that are well. A server is unwell after `max_fails` failures in a row, for
//! `fail_timeout` (passive), or while its health check fails (active, [`crate::health`]). When none
//! is well all are tried: a wrong guess must not take an app down.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use doorbell_config::{
    interned::Interned,
    spec::{UpstreamServer, UpstreamSpec},
};

/// How long a resolved name is used before it is looked up again.
const NAME_LIFE: Duration = Duration::from_secs(10);

/// The servers of one app.
#[derive(Debug)]
pub struct Upstreams {
    spec: Interned<UpstreamSpec>,
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
    /// The address, where no name is to be looked up.
    fixed: Option<SocketAddr>,
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
    pub fn new(spec: &Interned<UpstreamSpec>) -> Self {
        let servers = spec.servers.iter().map(|address| Server {
            address: address.clone(),
            fixed: fixed(address),
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
    pub fn spec(&self) -> &Interned<UpstreamSpec> {
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

    /// The address of a server, for one that has host and port. A name is looked up again when what
    /// is known is older than ten seconds, beside the requests, which go on with what is known.
    ///
    /// # Errors
    /// When the name never resolved.
    pub async fn resolve(self: &Arc<Self>, index: usize) -> std::io::Result<SocketAddr> {
        let server = self.servers.get(index).ok_or(std::io::ErrorKind::NotFound)?;
        let (host, port) = match &server.address {
            UpstreamServer::Http { host, port } | UpstreamServer::Https { host, port } => {
                (host.trim_start_matches('[').trim_end_matches(']'), *port)
            }
            UpstreamServer::Unix(_) => return Err(std::io::ErrorKind::Unsupported.into()),
        };
        if let Some(address) = server.fixed {
            return Ok(address);
        }
        match server.known() {
            (Some(address), false) => Ok(address),
            (Some(address), true) => {
                let (all, host) = (Arc::clone(self), host.to_owned());
                tokio::spawn(async move {
                    if let Err(error) = all.servers[index].look_up(&host, port).await {
                        tracing::warn!(host, %error, "a name is not found any more; its last address is kept");
                    }
                });
                Ok(address)
            }
            (None, _) => server.look_up(host, port).await,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn fixed(address: &UpstreamServer) -> Option<SocketAddr> {
    match address {
        UpstreamServer::Http { host, port } | UpstreamServer::Https { host, port } => {
            let ip = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
            Some(SocketAddr::new(ip, *port))
        }
        UpstreamServer::Unix(_) => None,
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

    /// What is known of the address, and whether it should be looked up: by whoever is told so first.
    fn known(&self) -> (Option<SocketAddr>, bool) {
        let mut resolved = self.resolved();
        let is_due = resolved.at.is_none_or(|at| at.elapsed() >= NAME_LIFE);
        if is_due && resolved.current().is_some() {
            resolved.at = Some(Instant::now());
        }
        (resolved.current(), is_due)
    }

    async fn look_up(&self, host: &str, port: u16) -> std::io::Result<SocketAddr> {
        let addresses = Vec::from_iter(tokio::net::lookup_host((host, port)).await?);
        let mut resolved = self.resolved();
        let nobody = || std::io::Error::other("the name has no address");
        if addresses.is_empty() {
            return resolved.current().ok_or_else(nobody);
        }
        let kept = |old| addresses.iter().position(|address| *address == old);
        let current = resolved.current().and_then(kept).unwrap_or(0);
        *resolved = Resolved { at: Some(Instant::now()), addresses, current };
        resolved.current().ok_or_else(nobody)
    }

    /// How many addresses the name has, as far as is known.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.resolved().addresses.len()
    }

    /// Turns to the next address of the name, unless somebody did already; false if there is no
    /// other.
    pub fn turn_away(&self, failed: SocketAddr) -> bool {
        let mut resolved = self.resolved();
        let count = resolved.addresses.len();
        if count > 1 && resolved.current() == Some(failed) {
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
        Upstreams::new(&UpstreamSpec { servers, max_fails, fail_timeout, health: None }.into())
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
    fn who_fails_on_an_address_that_others_left_does_not_bring_it_back() {
        let all = upstreams(1, 1, Duration::from_secs(10));
        let server = &all.servers()[0];
        let [a, b] = ["192.0.2.1:80", "192.0.2.2:80"].map(|text| text.parse().unwrap());
        *server.resolved() = Resolved { at: None, addresses: vec![a, b], current: 0 };
        assert!(server.turn_away(a));
        assert!(server.turn_away(a));
        assert_eq!(server.resolved().current(), Some(b));
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
