//! `doorbell awake`: what an app's own jobs say so that the app is not put to sleep under them.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::ExitStatusExt},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use doorbell_config::name::DurationText;

/// The variable that tells an app where to ask.
pub(super) const SOCKET: &str = "DOORBELL_SOCKET";
/// How long a supervisor that is being restarted is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);
/// What a shell adds to the number of a signal that ended a program.
const SIGNALLED: i32 = 128;

/// What is asked.
pub(super) struct Awake<'a> {
    pub(super) socket: &'a Path,
    pub(super) name: &'a str,
    /// For how long; `None` is not any more.
    pub(super) time: Option<DurationText>,
    /// What is run meanwhile; empty is nothing.
    pub(super) command: &'a [String],
}

impl Awake<'_> {
    /// Asks, and runs the command if there is one; tells the exit status.
    pub(super) fn run(&self) -> anyhow::Result<u8> {
        let Some(time) = self.time else {
            self.say(&format!("done {}", self.name))?;
            return Ok(0);
        };
        let granted = self.say(&format!("awake {time} {}", self.name))?;
        let granted: u64 = granted.parse().context("not an answer of doorbell's")?;
        let granted = DurationText(Duration::from_secs(granted));
        if granted.0 < time.0 {
            eprintln!("kept awake for {granted}, which is all that `idle.awake_at_most` allows");
        }
        let Some((program, arguments)) = self.command.split_first() else { return Ok(0) };
        let ran = Command::new(program).args(arguments).status();
        // Whatever became of it, it is over.
        if let Err(error) = self.say(&format!("done {}", self.name)) {
            eprintln!("the app is kept awake for longer than it need be: {error:#}");
        }
        let status = ran.with_context(|| format!("cannot run {program}"))?;
        let code = status.code().or_else(|| status.signal().map(|signal| SIGNALLED + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    /// Says it until it is answered; gives what stands behind `ok`.
    fn say(&self, line: &str) -> anyhow::Result<String> {
        let until = Instant::now() + PATIENCE;
        let answer = loop {
            match self.try_say(line) {
                Err(_) if Instant::now() < until => thread::park_timeout(PAUSE),
                other => break other.with_context(|| format!("{}", self.socket.display()))?,
            }
        };
        match answer.split_once(' ').unwrap_or((&answer, "")) {
            ("ok", rest) => Ok(rest.to_owned()),
            (_, words) => anyhow::bail!("not kept awake: {words}"),
        }
    }

    fn try_say(&self, line: &str) -> anyhow::Result<String> {
        let mut stream = UnixStream::connect(self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        let read = BufReader::new(stream).read_line(&mut answer)?;
        anyhow::ensure!(read > 0, "closed without an answer");
        Ok(answer.trim_end().to_owned())
    }
}
