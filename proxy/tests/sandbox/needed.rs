//! What a proxy does all day.

use std::{
    env,
    fmt::Display,
    fs::{self, File},
    io::{self, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::net::{SocketAddr, UnixStream},
    },
    path::Path,
    thread,
    time::SystemTime,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::{
    Report,
    proxy::{CERTIFICATES, DEADLINE, PORT, PROCESSORS},
    raw,
};

/// How many certificate authorities this machine trusts.
pub(crate) fn certificates() -> usize {
    pingora_core::tls::load_native_certs().map_or(0, |found| found.len())
}

/// A listening socket and a log file, from the parent.
pub(crate) fn receive(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

pub(crate) fn try_all(
    report: &mut Report,
    folder: &Path,
    descriptors: Vec<OwnedFd>,
    socket: &mut UnixStream,
) {
    let Ok([listener, log]) = <[OwnedFd; 2]>::try_from(descriptors) else {
        return report.fail("receiving descriptors");
    };
    report.works("writing to a log that was sent", File::from(log).write_all(b"a line\n"));
    report.works("reading what was granted", fs::read(folder.join("granted/page")));
    threads(report);
    facts(report);
    modules(report);
    unix(report, folder);
    match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime.block_on(network(report, listener, socket)),
        Err(error) => report.fail(format_args!("a runtime: {error}")),
    }
}

fn threads(report: &mut Report) {
    let name = |name: &str| thread::Builder::new().name(name.to_owned());
    let started = (0..8).map(|_| name("worker").spawn(|| vec![1_u8; 1 << 20].len()));
    let started: io::Result<Vec<_>> = started.collect();
    report.works("threads", started.map(|all| all.into_iter().for_each(|t| drop(t.join()))));
    let large = (0..64).map(|n| vec![n; 1 << 20]).collect::<Vec<Vec<u8>>>();
    report.works("memory", check(large.len() == 64, "too little"));
    drop(large);
    let purges = tikv_jemalloc_ctl::background_thread::read().is_ok_and(|is| is);
    report.works("the allocator's thread", check(purges, "none"));
    let panic = name("panics").spawn(|| panic!("as it should, with a backtrace"));
    let message = panic.map(|thread| thread.join().err().and_then(|panic| panic.downcast().ok()));
    let message: Option<Box<&str>> = message.ok().flatten();
    report.works("a panic", message.ok_or("it has no message"));
}

fn facts(report: &mut Report) {
    let known = |name| env::var(name).ok().and_then(|known| known.parse::<usize>().ok());
    // A quota of a control group is not seen any more, so there may be more.
    let processors = thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let enough = known(PROCESSORS).is_some_and(|before| processors >= before);
    report.works("counting processors", check(enough, processors));
    report.works("the time", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH));
    report.works("the time zone", jiff::tz::TimeZone::try_system());
    let random = rustls::crypto::ring::default_provider().secure_random;
    let filled = random.fill(&mut [0; 32]).map_err(|_| "none");
    report.works("randomness", filled);
    match known(CERTIFICATES) {
        Some(0) | None => report.left_out("certificates", &"this machine has none"),
        Some(all) => {
            let found = certificates();
            report.works("reading all certificates", check(found == all, found));
        }
    }
}

fn modules(report: &mut Report) {
    // Part of the C library, but loaded only where nsswitch.conf(5) names it.
    let modules = [c"libnss_compat.so.2", c"libnss_hesiod.so.2", c"libnss_myhostname.so.2"];
    if modules.iter().any(|name| raw::load_library(name)) {
        report.works("loading a module for names", Ok::<_, &str>(()));
    } else {
        report.left_out("loading a module for names", &"this machine has none");
    }
}

fn unix(report: &mut Report, folder: &Path) {
    let path = SocketAddr::from_pathname(folder.join("app.sock"));
    report.works("a Unix socket in a folder", path.and_then(|address| speak(&address)));
}

fn speak(address: &SocketAddr) -> io::Result<()> {
    let mut stream = UnixStream::connect_addr(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"ring")?;
    stream.read_exact(&mut [0; 4])
}

async fn network(report: &mut Report, listener: OwnedFd, socket: &mut UnixStream) {
    report.works("connecting", within(connect()).await);
    report.works("accepting from a socket that was sent", within(accept(listener)).await);
    let names = within(async { Ok(tokio::net::lookup_host(("localhost", 80)).await?.count()) });
    report.works("resolving a name", names.await);
    let numbers = within(async { Ok(tokio::fs::metadata("/etc/hosts").await?.len()) });
    report.works("looking at a file", numbers.await);
    report.works("a signal from the parent", within(signalled(socket)).await);
}

async fn within<T>(what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, what).await?
}

async fn connect() -> io::Result<()> {
    let port = env::var(PORT).ok().and_then(|port| port.parse().ok()).unwrap_or(0_u16);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    stream.write_all(b"ring").await?;
    stream.read_exact(&mut [0; 4]).await?;
    stream.shutdown().await
}

async fn accept(listener: OwnedFd) -> io::Result<()> {
    let listener = std::net::TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (client, served) =
        tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (mut client, mut served) = (client?, served?.0);
    client.write_all(b"ring").await?;
    served.read_exact(&mut [0; 4]).await.map(drop)
}

async fn signalled(socket: &mut UnixStream) -> io::Result<()> {
    let mut asked = signal(SignalKind::user_defined1())?;
    socket.write_all(b"s")?;
    asked.recv().await.ok_or(io::ErrorKind::BrokenPipe.into())
}

fn check<E: Display>(right: bool, found: E) -> Result<(), E> {
    if right { Ok(()) } else { Err(found) }
}
