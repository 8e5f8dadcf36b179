//! `doorbell app export` and `doorbell app import`: what is asked for, and what is told of it.

use std::path::PathBuf;

use clap::Args;

use super::{SocketArg, keys::FilesArg};

mod export;
mod import;
mod passphrase;
mod plan;
mod source;

pub(super) const EXPORT_EXAMPLES: &str = "Examples:
  doorbell app export blog blog.doorbell --folder uploads
  doorbell app export blog /backup/blog.doorbell --passphrase-file /etc/doorbell/backup.key --json
  doorbell app export blog - --passphrase-file key | ssh elsewhere 'cat > blog.doorbell'
  age -d blog.doorbell | tar tv                     what is in it, without doorbell";

pub(super) const IMPORT_EXAMPLES: &str = "Examples:
  doorbell app import blog.doorbell --dry-run
  doorbell app import blog.doorbell --set-file database.new_database=/etc/doorbell/address
  doorbell app import blog.doorbell --as blog2 --set hosts=blog2.example.com \\
      --set directory=/srv/blog2";

/// `doorbell app export`.
#[derive(Debug, Args)]
pub(super) struct ExportArg {
    /// The app's id
    app: String,
    /// Where the archive is written; `-` is standard output
    file: PathBuf,
    /// A folder to save with it, relative to the app's `directory`; `.` is all of that
    #[arg(long, value_name = "PATH")]
    folder: Vec<PathBuf>,
    /// Its database too where that is a `new_connection`: it may be others' as well
    #[arg(long)]
    with_connection: bool,
    /// Not its database
    #[arg(long, conflicts_with = "with_connection")]
    without_database: bool,
    #[command(flatten)]
    passphrase: PassphraseArg,
    /// For machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

/// `doorbell app import`.
#[derive(Debug, Args)]
pub(super) struct ImportArg {
    /// The archive; `-` is standard input
    file: PathBuf,
    /// Another id than it had
    #[arg(long = "as", value_name = "ID")]
    new_id: Option<String>,
    /// A key that is to be another, as for `app set`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    files: FilesArg,
    /// A key to take away
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Where a folder of the archive is put, else where it was in the app's `directory`
    #[arg(long, value_name = "FROM=TO")]
    folder_to: Vec<String>,
    /// Replace files of the same names where a folder has something in it
    #[arg(long)]
    replace_files: bool,
    /// Put the database of the archive into that of a `new_connection` too, if that is empty
    #[arg(long)]
    with_connection: bool,
    /// Take over the empty database of an earlier app of the id
    #[arg(long)]
    adopt: bool,
    #[command(flatten)]
    passphrase: PassphraseArg,
    /// Check the archive, and only tell what would be done and whether it could
    #[arg(long)]
    dry_run: bool,
    /// For machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

/// Where the passphrase comes from. It is no argument: those can be read by everybody.
#[derive(Debug, Args)]
struct PassphraseArg {
    /// The file whose first line is the passphrase, `-` is standard input; else it is asked for
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl ExportArg {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        export::export(&self)
    }
}

impl ImportArg {
    pub(super) fn run(self: Box<Self>) -> anyhow::Result<u8> {
        import::import(&self)
    }
}
