//! Where an app's own work keeps it awake: `DOORBELL_SOCKET`, a Unix stream socket of each instance.
//!
//! The app sends one request a line and gets one answer a line:
//!
//! ```text
//! awake 10m import   ->  ok 600          kept awake for ten minutes from now, for "import"
//! done import        ->  ok              not needed any more
//! anything else      ->  error WORDS
//! ```
//!
//! A wish has a name, so that several jobs of an app do not end each other's; without one it is `-`.
//! Asking again for the same name sets a new end. None is granted beyond the app's `idle.awake_at_most`,
//! and the answer says what was. A job that dies without a word keeps the app awake until that end, and
//! no longer.
//!
//! Only processes of the instance are heard: the kernel says who connects (`SO_PEERCRED`, unix(7)).
//! The listening socket is kept elsewhere too, so that a wish that comes while there is no supervisor
//! waits for the next one.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use doorbell_config::name::DurationText;
use rustix::{
    net::sockopt::{socket_acceptconn, socket_peercred},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{Witness, procfs::Pid};

/// Wishes that one instance may have at a time.
const MOST: usize = 64;
/// Connections that are read at a time; others wait in the backlog.
const CONNECTIONS: usize = 16;
/// Bytes of a line.
const LINE: u64 = 256;
/// Bytes of a name.
const NAME: usize = 64;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// What a wish without a name is called.
const NAMELESS: &str = "-";
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// One wish to be kept awake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vigil {
    pub(crate) name: String,
    /// When it ends, by [`now`]: the clock outlives us, and nobody sets it.
    pub(crate) until: Duration,
}

/// What an app asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Awake { name: String, time: Duration },
    Done { name: String },
}

/// A wish, and where it is answered.
pub(super) struct Asked {
    pub(super) wish: Wish,
    pub(super) answer: oneshot::Sender<String>,
}

/// The socket of an instance, listening.
#[derive(Debug)]
pub(super) struct VigilSocket {
    socket: StdListener,
    file: SocketFile,
}

/// Where it is; removed when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

/// The reading of it; ends when dropped.
#[derive(Debug)]
pub(super) struct Door {
    _file: SocketFile,
    asked: tokio::sync::Mutex<mpsc::Receiver<Asked>>,
    reading: JoinHandle<()>,
}

/// The time since boot without that in suspension: CLOCK_MONOTONIC, which [`std::time::Instant`] is, too.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl Vigil {
    /// Time that is left of it.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_sub(now())
    }
}

/// Carries a wish out on the list of an instance, and gives the answer.
pub(super) fn grant(vigils: &mut Vec<Vigil>, wish: &Wish, at_most: Duration) -> String {
    vigils.retain(|vigil| !vigil.left().is_zero());
    match wish {
        Wish::Done { name } => {
            vigils.retain(|vigil| vigil.name != *name);
            "ok".to_owned()
        }
        Wish::Awake { name, time } => {
            let time = (*time).min(at_most);
            let others = vigils.iter().filter(|vigil| vigil.name != *name).count();
            if others >= MOST {
                return format!("error {MOST} others keep it awake already");
            }
            vigils.retain(|vigil| vigil.name != *name);
            if !time.is_zero() {
                vigils.push(Vigil { name: name.clone(), until: now() + time });
            }
            format!("ok {}", time.as_secs())
        }
    }
}

impl Wish {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, in words for whoever wrote it.
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let verb = words.next().unwrap_or_default();
        let time = match verb {
            "awake" => {
                let word = words.next().ok_or("say for how long: `awake 10m`")?;
                Some(DurationText::parse(word).map_err(|error| error.to_string())?.0)
            }
            "done" => None,
            _ => return Err("write `awake DURATION [NAME]` or `done [NAME]`".to_owned()),
        };
        let name = words.next().unwrap_or(NAMELESS).to_owned();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        if name.len() > NAME || !name.bytes().all(is_plain) || words.next().is_some() {
            return Err(format!("a name is one word of at most {NAME} of a-z, 0-9 and -_.:/"));
        }
        Ok(time.map_or_else(
            || Self::Done { name: name.clone() },
            |time| Self::Awake { name: name.clone(), time },
        ))
    }
}

impl VigilSocket {
    /// Listens at a path.
    pub(super) fn bind(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = StdListener::bind(&path)?;
        let file = SocketFile(path);
        // Again, with room for less: nobody needs thousands.
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self { socket, file })
    }

    /// The one that another process kept open, among all that it kept.
    pub(super) fn among(held: &mut Vec<OwnedFd>, path: PathBuf) -> Option<Self> {
        let listens = |one: &OwnedFd| socket_acceptconn(one).unwrap_or(false);
        let at = held.iter().position(listens)?;
        Some(Self { socket: held.remove(at).into(), file: SocketFile(path) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.0
    }

    /// Begins to read what processes of the instance ask.
    pub(super) fn open(self, witness: Arc<Witness>) -> io::Result<Door> {
        self.socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(self.socket)?;
        let (to, asked) = mpsc::channel(CONNECTIONS);
        let reading = tokio::spawn(accept(listener, witness, to));
        Ok(Door { _file: self.file, asked: tokio::sync::Mutex::new(asked), reading })
    }
}

impl AsFd for VigilSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Door {
    /// The next wish. Dropping this future loses none.
    pub(super) async fn next(&self) -> Asked {
        match self.asked.lock().await.recv().await {
            Some(asked) => asked,
            // Whoever reads has failed, and said so.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a socket file stays behind");
        }
    }
}

async fn accept(listener: UnixListener, witness: Arc<Witness>, to: mpsc::Sender<Asked>) {
    let rooms = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Invariant: the semaphore is never closed.
        let Ok(room) = Arc::clone(&rooms).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "nobody can ask to be kept awake for now");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (witness, to) = (Arc::clone(&witness), to.clone());
        // Ends by itself: with the silence that is allowed, or with the instance.
        tokio::spawn(async move {
            // Errors are the client's leaving.
            let _ = converse(stream, &witness, &to).await;
            drop(room);
        });
    }
}

/// Answers one connection.
async fn converse(
    mut stream: UnixStream,
    witness: &Witness,
    to: &mpsc::Sender<Asked>,
) -> io::Result<()> {
    let pid = Pid::try_from(socket_peercred(&stream)?.pid.as_raw_pid()).unwrap_or_default();
    if witness.with_tree(|tree| tree.includes(pid)) != Some(true) {
        tracing::warn!(pid, "a stranger asked for an app to be kept awake");
        return stream.write_all(b"error you are no process of this app\n").await;
    }
    let (reading, mut writing) = stream.split();
    let mut reading = BufReader::new(reading);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut rest = (&mut reading).take(LINE);
        let read = rest.read_until(b'\n', &mut line);
        if timeout(SILENCE, read).await.map_err(io::Error::from)?? == 0 {
            return Ok(());
        }
        let is_whole = line.ends_with(b"\n") || line.len() < LINE as usize;
        let wish = str::from_utf8(&line).map_err(|_| "not text".to_owned());
        let answer = match wish.and_then(Wish::parse) {
            Ok(wish) if is_whole => ask(wish, to).await?,
            Ok(_) => "error the line is too long".to_owned(),
            Err(words) => format!("error {words}"),
        };
        writing.write_all(format!("{answer}\n").as_bytes()).await?;
        if !is_whole {
            return Ok(());
        }
    }
}

/// Has the wish granted. Granting twice does no harm: it is asked again where the answer was lost because
/// the instance went from one phase to the next.
async fn ask(wish: Wish, to: &mpsc::Sender<Asked>) -> io::Result<String> {
    loop {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { wish: wish.clone(), answer };
        // The instance is about to end.
        to.send(asked).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        if let Ok(answer) = answered.await {
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn said(line: &str) -> Result<Wish, String> {
        Wish::parse(line)
    }

    #[test]
    fn wishes_are_read_as_they_are_documented() {
        let awake = |seconds, name: &str| {
            Ok(Wish::Awake { name: name.into(), time: Duration::from_secs(seconds) })
        };
        assert_eq!(said("awake 10m import\n"), awake(600, "import"));
        assert_eq!(said("awake 90s"), awake(90, "-"));
        assert_eq!(said("done import"), Ok(Wish::Done { name: "import".into() }));
        assert_eq!(said(" done \r\n"), Ok(Wish::Done { name: "-".into() }));
        for wrong in
            ["", "hold", "awake", "awake soon", "awake 1h a b", "done a\u{1b}[2J", "AWAKE 1h"]
        {
            assert!(said(wrong).is_err(), "{wrong:?}");
        }
        assert!(said(&format!("done {}", "x".repeat(65))).is_err());
    }

    #[test]
    fn a_wish_ends_by_itself_by_a_word_or_with_another_of_its_name() {
        let mut vigils = Vec::new();
        let mut ask = |line: &str| grant(&mut vigils, &said(line).unwrap(), DAY);
        assert_eq!(ask("awake 1h a"), "ok 3600");
        assert_eq!(ask("awake 100d b"), "ok 86400");
        assert_eq!(ask("awake 10s a"), "ok 10");
        assert_eq!(ask("done c"), "ok");
        assert_eq!(ask("done b"), "ok");
        assert_eq!(ask("awake 0s d"), "ok 0");
        assert_eq!(vigils.len(), 1);
        assert!(vigils[0].name == "a" && vigils[0].left() <= Duration::from_secs(10));
        vigils[0].until = now();
        assert_eq!(grant(&mut vigils, &said("done x").unwrap(), DAY), "ok");
        assert!(vigils.is_empty());
    }

    #[test]
    fn there_are_no_more_wishes_than_a_few() {
        let mut vigils = Vec::new();
        for number in 0..MOST {
            grant(&mut vigils, &said(&format!("awake 1h n{number}")).unwrap(), DAY);
        }
        let one_more = said("awake 1h more").unwrap();
        assert!(grant(&mut vigils, &one_more, DAY).starts_with("error "));
        assert_eq!(grant(&mut vigils, &said("awake 2h n3").unwrap(), DAY), "ok 7200");
        assert_eq!(vigils.len(), MOST);
    }
}
