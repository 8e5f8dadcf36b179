//! What holds where the operator says nothing, and short ways to make specs.
//!
//! The file's defaults are these very values: `config/src/file` builds its own from them, and the
//! reference in `docs/configuration.md` prints them.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use super::{
    AppKind, AppLimits, AppSpec, AppTimeouts, BackOffSpec, Backend, EndpointSpec, HttpProbe,
    ListenAddr, ListenNotice, LogFormat, LogSpec, OutputSpec, OwnPages, PrefixRule, Probe,
    ProcessSpec, ReadySpec, RouteSpec, ServerLimits, ServerSpec, ServerTimeouts, SharedSpec,
    StartMode, StopSpec, Template, TemplatePart, UpstreamServer, UpstreamSpec,
};
use crate::interned::Interned;
use crate::name::{AppId, ByteSize, HostPattern, PathPrefix};

const SIGTERM: i32 = 15;

impl AppSpec {
    /// An app of these routes and this backend; all else as by default.
    #[must_use]
    pub fn new(id: AppId, routes: RouteSpec, backend: Backend) -> Self {
        Self {
            name: id.to_string(),
            id,
            routes: Arc::new(routes),
            backend,
            limits: Interned::default(),
            timeouts: Interned::default(),
            http2: false,
            client_app_headers: false,
            pinned: false,
            maintenance: false,
            pages: Interned::default(),
            wake: None,
            kind: AppKind::Http,
        }
    }

    /// The share in another app's instance, for one that has no instance of its own.
    #[must_use]
    pub fn shared(&self) -> Option<&Interned<SharedSpec>> {
        match &self.backend {
            Backend::Shared(shared) => Some(shared),
            Backend::Process(_) | Backend::Upstream(_) => None,
        }
    }

    /// What brings its data up to date with its version, if something is to.
    #[must_use]
    pub fn upgrade(&self) -> Option<&super::UpgradeSpec> {
        match &self.backend {
            Backend::Process(process) => process.upgrade.as_deref(),
            Backend::Shared(_) | Backend::Upstream(_) => None,
        }
    }

    /// What the app is asked for where nobody says otherwise: its first host that is one, or `localhost`.
    #[must_use]
    pub fn default_host(&self) -> &str {
        let exact = self.routes.hosts.iter().find_map(|host| match host {
            HostPattern::Exact(name) => Some(name.as_str()),
            HostPattern::Wildcard(_) | HostPattern::Any => None,
        });
        exact.unwrap_or("localhost")
    }

    /// The path under which clients reach the app: its first path prefix, `/` when it has a host
    /// of its own, else `/apps/<id>`. No slash at the end but for `/`.
    #[must_use]
    pub fn base_path(&self) -> String {
        match (self.routes.paths.first(), self.routes.hosts.is_empty()) {
            (Some(path), _) => path.to_string(),
            (None, false) => "/".into(),
            (None, true) => format!("/apps/{}", self.id.app_str()),
        }
    }

    /// How many of it run side by side, at least one.
    #[must_use]
    pub fn instances(&self) -> u8 {
        match &self.backend {
            Backend::Process(process) => process.instances.max(1),
            Backend::Upstream(_) | Backend::Shared(_) => 1,
        }
    }

    /// The ids of its further replicas.
    pub fn further_replicas(&self) -> impl Iterator<Item = AppId> + use<> {
        let (id, instances) = (self.id.first(), self.instances());
        (2..=instances).map(move |number| id.replica(number))
    }
}

impl ProcessSpec {
    /// An on-demand program on any free port; all else as by default.
    #[must_use]
    pub fn new(command: Vec<Template>, directory: PathBuf) -> Self {
        let mut spec = Self::bare(command, directory);
        spec.set_port_by_convention();
        spec
    }

    /// The same without `PORT` and `HOST`.
    pub(crate) fn bare(command: Vec<Template>, directory: PathBuf) -> Self {
        Self {
            start: StartMode::OnDemand,
            instances: 1,
            command: command.into(),
            directory,
            env: Interned::default(),
            version: None,
            upgrade: None,
            endpoint: EndpointSpec::AnyPort,
            ready: Interned::default(),
            no_new_privs: false,
            needs: Interned::default(),
            awake: None,
            idle_freeze_after: None,
            idle_stop_after: Some(Self::IDLE_STOP_AFTER),
            awake_at_most: Self::AWAKE_AT_MOST,
            stop: Interned::default(),
            back_off: Interned::default(),
            logs: Interned::default(),
            enclosure: Interned::default(),
            resources: Interned::default(),
            user: None,
            given: None,
            database: None,
        }
    }

    /// How long an app may go unvisited before it is stopped.
    pub const IDLE_STOP_AFTER: Duration = Duration::from_secs(15 * 60);

    /// How long an app's own work may keep it awake at once.
    pub const AWAKE_AT_MOST: Duration = Duration::from_secs(24 * 3600);

    /// The same, for definitions of earlier versions.
    pub(super) fn awake_at_most() -> Duration {
        Self::AWAKE_AT_MOST
    }

    /// `PORT` and `HOST`, which most frameworks read, for an app on a port that sets neither.
    pub(crate) fn set_port_by_convention(&mut self) {
        if self.endpoint == EndpointSpec::Socket {
            return;
        }
        let port = Template(vec![TemplatePart::Placeholder(super::Placeholder::Port)]);
        let mut env = BTreeMap::clone(&self.env);
        env.entry("PORT".into()).or_insert(port);
        env.entry("HOST".into()).or_insert_with(|| Template::text("127.0.0.1"));
        self.env = env.into();
    }
}

impl UpstreamSpec {
    /// These servers, without an active check.
    #[must_use]
    pub fn new(servers: Vec<UpstreamServer>) -> Self {
        Self { servers, max_fails: 3, fail_timeout: Duration::from_secs(10), health: None }
    }
}

impl RouteSpec {
    /// Routes by host and path; the rest as by default.
    #[must_use]
    pub fn new(hosts: Vec<HostPattern>, paths: Vec<PathPrefix>) -> Self {
        Self {
            hosts,
            paths,
            prefix: PrefixRule::Keep,
            path_access: PrefixRule::Strip,
            scope_cookies: false,
        }
    }

    /// Every pair of host and path prefix that this claims.
    pub fn claims(&self) -> impl Iterator<Item = (HostPattern, PathPrefix)> {
        let any = if self.paths.is_empty() { None } else { Some(HostPattern::Any) };
        let root = if self.paths.is_empty() { Some(PathPrefix::root()) } else { None };
        let any = any.filter(|_| self.hosts.is_empty());
        let hosts = self.hosts.iter().cloned().chain(any);
        hosts.flat_map(move |host| {
            self.paths.iter().cloned().chain(root.clone()).map(move |path| (host.clone(), path))
        })
    }
}

impl Default for ServerSpec {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddr::Tcp(([127, 0, 0, 1], 8080).into())],
            admin: vec![ListenAddr::Unix("/run/doorbell/admin.sock".into())],
            state_dir: "/var/lib/doorbell".into(),
            log_dir: "/var/log/doorbell".into(),
            user: None,
            trusted_proxies: Vec::new(),
            path_access: true,
            default_app: None,
            limits: ServerLimits::default(),
            timeouts: ServerTimeouts::default(),
            access_log: None,
            log: LogSpec::default(),
            pages: OwnPages::default(),
        }
    }
}

impl ServerLimits {
    /// Twice the processors: starting is mostly waiting for disk and interpreter.
    #[must_use]
    pub fn parallel_starts_of_this_machine() -> usize {
        std::thread::available_parallelism().map_or(2, usize::from) * 2
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head: ByteSize(32 << 10),
            uri: ByteSize(8 << 10),
            held_requests: 10_000,
            parallel_starts: Self::parallel_starts_of_this_machine(),
            memory: None,
            body_rate: ByteSize(128),
        }
    }
}

impl Default for ServerTimeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            body_idle: Duration::from_secs(60),
            write_idle: Duration::from_secs(60),
            shutdown: Duration::from_secs(30),
            upgrade: Duration::from_secs(3600),
        }
    }
}

impl Default for LogSpec {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Human }
    }
}

impl Default for ReadySpec {
    fn default() -> Self {
        Self {
            probe: Probe::Connect,
            listen: ListenNotice::Auto,
            deadline: Duration::from_secs(60),
        }
    }
}

impl HttpProbe {
    /// A GET of this path that accepts any of 200-399.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), status: None, body: None, host: None }
    }
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: SIGTERM, grace: Duration::from_secs(10), drain: Duration::from_secs(30) }
    }
}

impl Default for BackOffSpec {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(60),
            reset_after: Duration::from_secs(60),
        }
    }
}

impl Default for OutputSpec {
    fn default() -> Self {
        Self { max_size: ByteSize(10 << 20), keep: 5 }
    }
}

impl Default for AppLimits {
    fn default() -> Self {
        Self { held_requests: 1_000, body: None }
    }
}

impl Default for AppTimeouts {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            response_idle: Some(Duration::from_secs(60)),
            upgraded_idle: Some(Duration::from_secs(3600)),
            write_idle: Duration::from_secs(60),
            // Below the 5 s after which Node.js closes an unused connection: a request never meets
            // a connection that is being closed.
            keep_alive: Duration::from_secs(4),
        }
    }
}
