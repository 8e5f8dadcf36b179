//! The proxies that are compared, each with one thread or process on one core, and what they are in
//! front of.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    doorbell::{self, Doorbell},
    load::Load,
    machine::Core,
    server::{Server, free_address},
};

const NGINX: &str = "/usr/sbin/nginx";
const HAPROXY: &str = "/usr/sbin/haproxy";
/// The name that clients ask for.
pub const HOST: &str = "bench.localhost";

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nginx, one worker.
    Nginx,
    /// HAProxy, one thread.
    HaProxy,
    /// Pingora with its own listeners and nothing but `upstream_peer`.
    BarePingora,
    /// The real binary, one worker.
    Doorbell,
    /// Another build of it, to be compared with.
    OtherDoorbell,
}

impl Kind {
    /// Doorbell and those that it is measured against.
    pub const PEERS: [Self; 4] = [Self::Nginx, Self::HaProxy, Self::BarePingora, Self::Doorbell];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "Nginx",
            Self::HaProxy => "HAProxy",
            Self::BarePingora => "bare Pingora",
            Self::Doorbell => "Doorbell",
            Self::OtherDoorbell => "other Doorbell",
        }
    }
}

/// Programs that come with this bench, or are named to it.
pub struct Binaries<'a> {
    /// Our own bare Pingora.
    pub bare_pingora: &'a Path,
    /// Another build of Doorbell.
    pub other: &'a Path,
}

/// A running proxy.
pub struct Proxy {
    /// Which one.
    pub kind: Kind,
    /// Where clients connect.
    pub address: SocketAddr,
    running: Running,
}

enum Running {
    Peer(Server),
    Ours(Doorbell),
}

impl Proxy {
    /// Starts a proxy in front of a server. Its files go into a folder of its own.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn start(
        kind: Kind,
        folder: &Path,
        binaries: &Binaries<'_>,
        upstream: SocketAddr,
    ) -> anyhow::Result<Self> {
        let folder = folder.join(kind.name());
        fs::create_dir_all(&folder)?;
        let address = free_address()?;
        let apps =
            || format!("[app.bench]\nhosts = [\"{HOST}\"]\nupstream = \"http://{upstream}\"\n");
        let command = match kind {
            Kind::Doorbell => {
                return Ok(Self::ours(kind, Doorbell::start(&apps(), Core::Measured)?));
            }
            Kind::OtherDoorbell => {
                let other = Doorbell::start_other(binaries.other, &apps(), Core::Measured)?;
                return Ok(Self::ours(kind, other));
            }
            Kind::Nginx => nginx(&folder, &nginx_proxy(address, upstream))?,
            Kind::HaProxy => haproxy(&folder, address, upstream)?,
            Kind::BarePingora => {
                let mut command = Command::new(binaries.bare_pingora);
                command.args([address.to_string(), upstream.to_string()]);
                command
            }
        };
        let mut server = Server::spawn(command, Core::Measured, &folder.join("output"))?;
        server.listens(address)?;
        Ok(Self { kind, address, running: Running::Peer(server) })
    }

    fn ours(kind: Kind, doorbell: Doorbell) -> Self {
        Self { kind, address: doorbell.address, running: Running::Ours(doorbell) }
    }

    /// Its first process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match &self.running {
            Running::Peer(server) => server.pid(),
            Running::Ours(doorbell) => doorbell.pid(),
        }
    }
}

/// Starts what the proxies are in front of: Nginx with an answer from memory and one from a file.
///
/// # Errors
/// If it does not listen.
pub fn start_upstream(folder: &Path) -> anyhow::Result<(Server, SocketAddr)> {
    let folder = folder.join("upstream");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("large"), vec![b'x'; Load::Large.content_bytes()])?;
    let address = free_address()?;
    let small = "x".repeat(Load::KeepAlive.content_bytes());
    let config = format!(
        "server {{ listen {address} backlog=4096; root {};\n\
         location = /small {{ default_type text/plain; return 200 \"{small}\"; }}\n\
         location = /large {{ default_type application/octet-stream; open_file_cache max=8; }} }}",
        folder.display()
    );
    let mut server = Server::spawn(nginx(&folder, &config)?, Core::Load, &folder.join("output"))?;
    server.listens(address)?;
    Ok((server, address))
}

fn nginx(folder: &Path, http: &str) -> anyhow::Result<Command> {
    let mut config = String::new();
    if rustix::process::getuid().is_root() {
        // Its worker must be able to open the folder, which is ours alone.
        config.push_str("user root;\n");
    }
    write!(
        config,
        "daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 16384; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;\n\
         keepalive_timeout 300s; keepalive_requests 100000000;\n\
         client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
         fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n{http}\n}}\n",
        dir = folder.display()
    )?;
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new(NGINX);
    command.arg("-c").arg(&file).arg("-e").arg(folder.join("error.log"));
    Ok(command)
}

fn nginx_proxy(address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "upstream app {{ server {upstream}; keepalive 128; keepalive_requests 100000000; }}\n\
         server {{ listen {address} backlog=4096;\n\
         location / {{ proxy_pass http://app; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
         proxy_max_temp_file_size 0; }} }}"
    )
}

fn haproxy(folder: &Path, address: SocketAddr, upstream: SocketAddr) -> anyhow::Result<Command> {
    let config = format!(
        "global\n  nbthread 1\n  maxconn 8192\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 300s\n  timeout server 60s\n\
         \x20 timeout http-keep-alive 300s\n  option http-keep-alive\n  http-reuse always\n\
         frontend clients\n  bind {address} backlog 4096\n  default_backend apps\n\
         backend apps\n  server app {upstream} pool-max-conn 128\n"
    );
    haproxy_by(folder, &config)
}

/// HAProxy that joins connections to a server, with this line among its defaults.
///
/// # Errors
/// If its file cannot be written.
pub fn haproxy_tcp(
    folder: &Path,
    address: SocketAddr,
    upstream: SocketAddr,
    line: &str,
) -> anyhow::Result<Command> {
    let config = format!(
        "global\n  nbthread 1\n  maxconn 1024\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n\
         \x20 {line}\n\
         frontend clients\n  bind {address} backlog 4096\n  default_backend apps\n\
         backend apps\n  server app {upstream}\n"
    );
    haproxy_by(folder, &config)
}

fn haproxy_by(folder: &Path, config: &str) -> anyhow::Result<Command> {
    fs::create_dir_all(folder)?;
    let file = folder.join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut command = Command::new(HAPROXY);
    command.arg("-db").arg("-f").arg(&file);
    Ok(command)
}

/// Versions of all that take part.
#[must_use]
pub fn versions(doorbell: &Path) -> Vec<String> {
    use crate::machine::version;
    vec![
        version(NGINX, "-v"),
        version(HAPROXY, "-v"),
        format!("pingora {}", pingora_version()),
        version(&doorbell.to_string_lossy(), "--version"),
        version("wrk", "-v"),
    ]
}

/// As it stands in the lock file, which both proxies are built from.
fn pingora_version() -> String {
    let lock = doorbell::repository().join("Cargo.lock");
    let text = fs::read_to_string(lock).unwrap_or_default();
    let mut lines = text.lines().skip_while(|line| *line != "name = \"pingora-proxy\"");
    lines.nth(1).unwrap_or_default().trim_start_matches("version = ").trim_matches('"').to_owned()
}

/// A temporary folder for a bench.
///
/// # Errors
/// If none can be made.
pub fn folder() -> anyhow::Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::Builder::new().prefix("doorbell-bench-").tempdir()?;
    let path = folder.path().to_owned();
    Ok((folder, path))
}
