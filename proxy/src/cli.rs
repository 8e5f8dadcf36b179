//! The command line: `doorbell` and its verbs.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory, Parser, Subcommand};

mod access;
mod apply;
mod apps;
mod awake;
mod backup;
mod client;
mod control;
mod doctor;
mod documents;
mod history;
mod import;
mod keys;
mod live;
mod logs;
mod screen;
mod secrets;
mod stream;
mod table;

use access::TokenVerb;
use apps::{AppVerb, ApplyArg};
use doorbell_config::name::DurationText;
use doorbell_supervisor::{hub::SPEAKS, protocol::Role};
pub use screen::told;
use secrets::SecretVerb;

use crate::{
    control::Place,
    rehearsal,
    serve::{self, Beginning, Split},
};

/// Where the configuration is looked for unless told.
const CONFIG: &str = "/etc/doorbell/doorbell.toml";

/// An edge reverse proxy that starts apps on their first request.
#[derive(Debug, Parser)]
#[command(name = "doorbell", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  doorbell check --config doorbell.toml      tell every mistake in the file
  doorbell serve --config doorbell.toml      serve until SIGTERM
  doorbell status                            what runs, since when, at what cost
  doorbell logs blog -f                      follow an app's output
  doorbell history blog                      when it was started and stopped, and why
  curl --unix-socket /run/doorbell/admin.sock http://localhost/metrics")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve until SIGTERM or SIGINT; SIGHUP reloads
    Serve {
        #[command(flatten)]
        config: ConfigArg,
        /// Everything in this process, for tiny machines: no part survives another
        #[arg(long)]
        one_process: bool,
        /// Take up what an earlier version of this process left
        #[arg(long, hide = true, value_name = "STATE_DIR")]
        upgraded: Option<PathBuf>,
        /// Only tell how that would go
        #[arg(long, hide = true, requires = "upgraded")]
        rehearse: bool,
    },
    /// The process that operators talk to; started by `serve`
    #[command(hide = true)]
    Control {
        #[command(flatten)]
        config: ConfigArg,
        /// Its own folder
        #[arg(long)]
        registry: PathBuf,
        /// Where a new supervisor is found
        #[arg(long)]
        reception: PathBuf,
        /// Only tell how it would come up
        #[arg(long)]
        rehearse: bool,
    },
    /// The process that clients talk to; started by `serve`
    #[command(hide = true)]
    Proxy {
        /// Where a new supervisor is found
        #[arg(long)]
        reception: PathBuf,
    },
    /// Read the configuration, tell every mistake in it, and change nothing
    ///
    /// Exits with 0 if the file is good and 1 if not.
    Check {
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Make the running doorbell read its configuration again
    ///
    /// A wrong file changes nothing; its mistakes are told here.
    Reload {
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Let the binary that was put in this one's place take over, without losing a request
    ///
    /// Apps go on, new connections are the new version's, and the old one finishes what it has within
    /// `timeouts.upgrade`. If the new version does not come up, nothing changes. SIGUSR2 does the same.
    Upgrade {
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Let systemd start the next supervisor where this one died: for `ExecStopPost=`, before version 254
    #[command(hide = true)]
    MakeWay,
    /// Print which versions of the protocol between doorbell's processes this binary takes over from
    #[command(hide = true, name = SPEAKS)]
    Speaks,
    /// Show every app: state, since when, process, memory, CPU, requests, last cold start
    Status {
        /// Only this app, with the reason of its state, warnings and last output
        app: Option<String>,
        /// For machines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Start an app now and wait until it is ready
    Start(AppArg),
    /// Stop an app; the next request starts it again
    Stop {
        /// Kill it: its requests are not waited for, and it gets no time to end by itself
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        app: AppArg,
    },
    /// Start a new instance, then drain and stop the old one
    Restart(AppArg),
    /// Let a disabled app run again
    Enable(AppArg),
    /// Stop an app and refuse its requests until `enable`; outlives restarts
    Disable(AppArg),
    /// Give an app no new requests until `enable`, and wait until it has finished what it has
    ///
    /// The same as `disable`, by the name that it has elsewhere.
    Drain(AppArg),
    /// Keep the app that this is run by awake, for its own work
    ///
    /// For jobs that an app starts and no request waits for: without this it may be put to sleep under
    /// them. With a command, that is run meanwhile and its exit status given; the app is kept awake until
    /// it ends, and for DURATION at most. Without, the app is kept awake for DURATION, or until `--done`.
    #[command(after_help = "Examples:
  doorbell awake 2h -- ./import.sh        until the import ends, and two hours at most
  doorbell awake 10m --name mail          for ten minutes
  doorbell awake --name mail --done       no longer")]
    Awake {
        /// For how long at most, such as `10m`
        #[arg(value_parser = duration, required_unless_present = "done", conflicts_with = "done")]
        duration: Option<DurationText>,
        /// What it is for: several jobs of an app do not end each other's
        #[arg(long, default_value = "-")]
        name: String,
        /// Not needed any more
        #[arg(long, conflicts_with = "command")]
        done: bool,
        /// What to run meanwhile
        #[arg(last = true)]
        command: Vec<String>,
        /// The app's socket; in an app's environment it is there
        #[arg(long, value_name = "PATH", env = awake::SOCKET)]
        socket: PathBuf,
    },
    /// Print a link that shows your browser why an app cannot be started
    ///
    /// It works once, within ten minutes, and leaves a cookie for that app and eight hours. Visitors
    /// without it see only that the app cannot be started.
    Pass {
        /// The app's id
        app: String,
        /// Scheme, host and port as your browser reaches the app, such as `https://blog.example.com`
        #[arg(long, value_name = "URL")]
        origin: Option<String>,
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Tell what this machine lets doorbell do, how it is done, and what would do better
    ///
    /// Asks the running doorbell; without one, tells what would hold for one that is started here.
    Doctor {
        /// For machines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Add, change and delete apps at run time
    ///
    /// Such apps stand in the registry, beside those of the configuration file.
    #[command(subcommand)]
    App(AppVerb),
    /// Make the registry's apps be those of a file
    ///
    /// Tells what differs, and changes all of it or nothing.
    #[command(after_help = "Examples:
  doorbell apply -f apps.toml --dry-run      what would change, and whether it could
  doorbell apply -f apps.toml --prune        these apps, and no others; asks before it deletes")]
    Apply(ApplyArg),
    /// Add the apps that another program runs: NocoBase, pm2, or a Procfile
    ///
    /// Tells what was taken, what was left and why. Apps that are there already are left as they are.
    #[command(subcommand)]
    Import(import::ImportVerb),
    /// Make, list and remove tokens for the admin API over TCP
    #[command(subcommand)]
    Token(TokenVerb),
    /// Store what apps are given and nobody else may see
    #[command(subcommand)]
    Secret(SecretVerb),
    /// Show who changed what
    Audit {
        /// Only what was done to this app
        #[arg(long)]
        app: Option<String>,
        /// Entries to show
        #[arg(short = 'n', long, default_value_t = 50)]
        entries: u32,
        /// For machines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Show the last changes of an app's state, with when and why
    ///
    /// The last hundred, the newest at the end; they outlive restarts.
    #[command(after_help = "Examples:
  doorbell history blog
  doorbell history blog --json      as GET /v1/apps/blog/history")]
    History(AppArg),
    /// Follow what happens to apps
    Events {
        /// Only to this one
        #[arg(long)]
        app: Option<String>,
        /// For machines: a line of JSON each
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Watch what apps use: CPU, memory and requests, the pinned ones first, then the busiest
    ///
    /// Without a terminal, and with `--json`, one picture is printed.
    Top {
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Show an app's output
    Logs(logs::Logs),
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = CONFIG, env = "DOORBELL_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct SocketArg {
    /// The running doorbell's admin socket; found through the configuration unless given
    #[arg(short, long, value_name = "PATH", env = "DOORBELL_ADMIN")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
}

/// How an answer is told.
#[derive(Clone, Copy, Debug, Args)]
struct JsonArg {
    /// For machines
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct AppArg {
    /// The app's id
    app: String,
    #[command(flatten)]
    how: JsonArg,
    #[command(flatten)]
    socket: SocketArg,
}

/// Runs the command line; tells the exit status.
///
/// # Errors
/// What to tell the user.
pub fn run() -> anyhow::Result<u8> {
    match Cli::parse().verb {
        Verb::Serve { config, upgraded: Some(state_dir), rehearse: true, one_process: _ } => {
            documents::rehearsed(rehearsal::serve(config.config, &state_dir))
        }
        Verb::Serve { config, one_process, upgraded, rehearse: _ } => {
            let split = if one_process { Split::OneProcess } else { Split::Processes };
            let beginning = upgraded.map_or(Beginning::Fresh, Beginning::Upgraded);
            serve::serve(config.config, split, &beginning)?;
            Ok(0)
        }
        Verb::Control { config, registry, reception, rehearse } => {
            let place = Place { config_path: config.config, folder: registry };
            if rehearse {
                return documents::rehearsed(rehearsal::control(&place));
            }
            serve::role(Role::Control, reception, Some(place))?;
            Ok(0)
        }
        Verb::Proxy { reception } => {
            serve::role(Role::Proxy, reception, None)?;
            Ok(0)
        }
        Verb::Check { how, config } => documents::check(&config.config, how),
        Verb::Upgrade { how, socket } => control::upgrade(&socket.find()?, how),
        Verb::MakeWay => {
            doorbell_supervisor::make_way().context("cannot make way")?;
            Ok(0)
        }
        Verb::Speaks => documents::speaks(),
        Verb::Reload { how, socket } => control::reload(&socket.find()?, how),
        Verb::Status { app, json, socket } => {
            control::status(&socket.find()?, app.as_deref(), json)
        }
        Verb::Start(app) => app.operate("start"),
        Verb::Stop { now: true, app } => app.operate("stop?now=true"),
        Verb::Stop { now: false, app } => app.operate("stop"),
        Verb::Restart(app) => app.operate("restart"),
        Verb::Enable(app) => app.operate("enable"),
        Verb::Disable(app) => app.operate("disable"),
        Verb::Drain(app) => app.operate("drain"),
        Verb::Awake { duration, name, done: _, command, socket } => {
            let time = duration;
            awake::Awake { socket: &socket, name: &name, time, command: &command }.run()
        }
        Verb::Doctor { json, socket } => doctor::doctor(&socket.find()?, json),
        Verb::Pass { app, origin, how, socket } => {
            control::pass(&socket.find()?, &app, origin.as_deref(), how)
        }
        Verb::Logs(logs) => logs.run(),
        Verb::App(verb) => verb.run(),
        Verb::Apply(apply) => apply.run(),
        Verb::Import(verb) => verb.run(),
        Verb::Token(verb) => verb.run(),
        Verb::Secret(verb) => verb.run(),
        Verb::Audit { app, entries, json, socket } => {
            access::audit(&socket, app.as_deref(), entries, json)
        }
        Verb::History(AppArg { app, how, socket }) => {
            history::history(&socket.find()?, &app, how.json)
        }
        Verb::Events { app, json, socket } => live::events(&socket.find()?, app.as_deref(), json),
        Verb::Top { how, socket } => live::top(&socket.find()?, how),
        Verb::Schema => documents::schema(),
        Verb::Completions { shell } => documents::completions(shell, &mut Cli::command()),
        Verb::Man => documents::man(Cli::command()),
    }
}

fn duration(text: &str) -> Result<DurationText, String> {
    DurationText::parse(text).map_err(|error| error.to_string())
}

impl AppArg {
    fn operate(&self, verb: &str) -> anyhow::Result<u8> {
        control::operate(&self.socket.find()?, &self.app, verb, self.how)
    }
}

impl JsonArg {
    /// Tells an answer: to machines as it is, to people in these words.
    fn tell(
        self,
        answer: &impl serde::Serialize,
        words: impl FnOnce() -> String,
    ) -> anyhow::Result<u8> {
        let text = if self.json { screen::json(answer)? } else { words() };
        writeln!(io::stdout(), "{}", text.trim_end())?;
        Ok(0)
    }
}

impl SocketArg {
    /// The admin socket: as told, or as the configuration says, or the default.
    fn find(&self) -> anyhow::Result<PathBuf> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let told = std::env::var_os("DOORBELL_CONFIG").is_some();
        let config = &self.config.config;
        if !told && config == std::path::Path::new(CONFIG) && !config.exists() {
            return Ok(PathBuf::from(documents::DEFAULT_SOCKET));
        }
        documents::admin_socket(config)
    }
}
