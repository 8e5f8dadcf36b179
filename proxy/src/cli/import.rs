//! `doorbell import`: apps that another program runs become apps of the registry.
//!
//! Each source turns its input into an [`Intake`]: apps as the keys of `[app.<id>]`, and what was left, with the
//! reason. From there on all go one way ([`deliver`]): they are added, tried, or printed as they could stand in a
//! file. Nothing that is there already is changed.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use doorbell_config::name::HostPattern;

use super::SocketArg;

mod deliver;
mod dotenv;
mod environment;
mod intake;
mod nocobase;
mod pm2;
mod procfile;
mod secrecy;
mod words;

use intake::Intake;

/// Bytes of a file that are read at most.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum ImportVerb {
    /// Add the apps of a NocoBase, as its plugin for several apps knows them
    ///
    /// Reads the table `applications` of the main app's database and changes nothing there. Each app becomes a
    /// program of its own (--directory and a command), or shares the main app's (--shared-with), which is in
    /// Doorbell already.
    #[command(after_help = "Examples:
  . ./nocobase.env                  exports DOORBELL_IMPORT_DATABASE and APP_KEY
  doorbell import nocobase --shared-with main --dry-run
  doorbell import nocobase --domain example.com --directory /srv/nocobase \\
      --env APP_KEY -- node node_modules/.bin/nocobase-v1 start --launch-mode=node")]
    Nocobase(Box<nocobase::NocobaseArg>),
    /// Add the apps of an ecosystem file of pm2, in JSON
    #[command(after_help = "Examples:
  doorbell import pm2 ecosystem.config.json --host shop=shop.example.com --dry-run
  node -p 'JSON.stringify(require(\"./ecosystem.config.js\"))' > apps.json
  doorbell import pm2 apps.json --env production --toml")]
    Pm2(pm2::Pm2Arg),
    /// Add the processes of a Procfile that answer requests
    ///
    /// That is `web`, and each that gets a host as PROCESS=HOST. Others are told and left.
    #[command(after_help = "Examples:
  doorbell import procfile --host shop.example.com --dry-run
  doorbell import procfile /srv/shop/Procfile --host example.com --host api=api.example.com
  doorbell import procfile --host shop.example.com --toml >> apps.toml")]
    Procfile(procfile::ProcfileArg),
}

/// What becomes of what was taken.
#[derive(Clone, Copy, Debug, Args)]
struct OutArg {
    /// Only tell what would be taken, and whether it could be
    #[arg(long)]
    dry_run: bool,
    /// Print the apps as they could stand in the configuration file, and add none
    #[arg(long, conflicts_with_all = ["dry_run", "json"])]
    toml: bool,
    /// For machines
    #[arg(long)]
    json: bool,
}

/// A host for an app: `HOST`, or `NAME=HOST` where there are several.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostArg {
    name: Option<String>,
    host: String,
}

impl ImportVerb {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        match self {
            Self::Nocobase(arg) => arg.run(),
            Self::Pm2(arg) => arg.run(),
            Self::Procfile(arg) => arg.run(),
        }
    }
}

impl OutArg {
    fn deliver(self, intake: Intake, socket: &SocketArg) -> anyhow::Result<u8> {
        if self.toml {
            return deliver::print(&intake);
        }
        deliver::add(intake, &socket.find()?, self)
    }
}

impl std::str::FromStr for HostArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, host) = match text.rsplit_once('=') {
            Some((name, host)) => (Some(name.to_owned()), host),
            None => (None, text),
        };
        HostPattern::parse(host).map_err(|error| error.to_string())?;
        Ok(Self { name, host: host.to_owned() })
    }
}

/// The text of a file, or of standard input.
pub(super) fn text_of(path: &Path) -> anyhow::Result<String> {
    let name = path.display();
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(MOST_BYTES + 1).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {name}"))?;
    ensure!(text.len() as u64 <= MOST_BYTES, "{name} has more than {MOST_BYTES} bytes");
    // As some editors begin a file.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// The folder that a file is in, or that we are in where it is standard input.
fn folder_of(path: &Path) -> anyhow::Result<PathBuf> {
    let path = if path == Path::new("-") { Path::new("./-") } else { path };
    let path = absolute(path)?;
    Ok(path.parent().unwrap_or(Path::new("/")).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_name_whose_it_is() {
        let named = |name: &str, host: &str| HostArg { name: Some(name.into()), host: host.into() };
        assert_eq!("api=a.test".parse(), Ok(named("api", "a.test")));
        assert_eq!("x=y=a.test".parse(), Ok(named("x=y", "a.test")));
        assert_eq!("a.test".parse(), Ok(HostArg { name: None, host: "a.test".into() }));
        for wrong in ["", "api=", "http://a.test", "a.test:80", "a b"] {
            assert!(wrong.parse::<HostArg>().is_err(), "{wrong}");
        }
    }
}
