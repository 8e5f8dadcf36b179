//! `doorbell token` and `doorbell audit`: who may do what over TCP, and who did.

use std::io::{self, Write};

use clap::Subcommand;
use comfy_table::{Table, presets};
use doorbell_config::name::DurationText;
use hyper::Method;
use jiff::Timestamp;
use serde_json::json;

use super::{
    JsonArg, SocketArg,
    client::{Call, call_json},
    control::{block_on, encode},
    screen,
};
use crate::admin::{
    Scope,
    audit::Noted,
    tokens::{Known, Made, Wanted},
};

#[derive(Debug, Subcommand)]
pub(super) enum TokenVerb {
    /// Make a token and print it: it is not shown again
    #[command(after_help = "Examples:
  doorbell token add grafana --scope read
  doorbell token add ci --scope admin --expires 90d
  curl -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:9180/v1/apps")]
    Add {
        /// What it is called, such as who uses it
        name: String,
        /// What it lets its user do
        #[arg(long, value_enum)]
        scope: Scope,
        /// For how long it is good, such as `90d`; for ever unless given
        #[arg(long, value_name = "DURATION", value_parser = super::duration)]
        expires: Option<DurationText>,
        /// For machines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// List every token, but not what it is
    List {
        /// For machines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Remove a token: it is of no use from then on
    Remove {
        /// What it is called
        name: String,
        #[command(flatten)]
        how: JsonArg,
        #[command(flatten)]
        socket: SocketArg,
    },
}

impl TokenVerb {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        match self {
            Self::Add { name, scope, expires, json, socket } => {
                let expires_in = expires.map(|lasts| lasts.to_string());
                let wanted = Wanted { name, scope, expires_in };
                let call = Call::new(Method::POST, "/v1/tokens").json(&wanted)?;
                let made: Made = block_on(call.make(&socket.find()?))?;
                if json {
                    writeln!(io::stdout(), "{}", screen::json(&made)?)?;
                } else {
                    writeln!(io::stdout(), "{}", made.token)?;
                }
            }
            Self::List { json, socket } => {
                let tokens: Vec<Known> =
                    block_on(call_json(&socket.find()?, Method::GET, "/v1/tokens"))?;
                if json {
                    writeln!(io::stdout(), "{}", screen::json(&tokens)?)?;
                } else {
                    write!(io::stdout(), "{}", listed(&tokens))?;
                }
            }
            Self::Remove { name, how, socket } => {
                let path = format!("/v1/tokens/{}", encode(&name));
                block_on(Call::new(Method::DELETE, path).answer(&socket.find()?))?;
                let words = || format!("{}: removed", screen::line(&name));
                how.tell(&json!({ "removed": name }), words)?;
            }
        }
        Ok(0)
    }
}

fn listed(tokens: &[Known]) -> String {
    let rows = tokens.iter().map(|token| {
        let until = match token.expires_at_unix_ms {
            Some(_) if token.is_expired => "expired".into(),
            until => until.map_or_else(|| "for ever".into(), time),
        };
        let used = token.used_at_unix_ms.map_or_else(|| "never".into(), time);
        let name = screen::line(&token.name);
        vec![name, token.scope.clone(), time(token.created_at_unix_ms), until, used]
    });
    rows_under(&["TOKEN", "SCOPE", "MADE", "GOOD UNTIL", "LAST USED"], rows)
}

/// A table as all of them look.
pub(super) fn rows_under(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head.iter().copied());
    rows.for_each(|row| _ = table.add_row(row));
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A time of the local zone, to the second.
pub(super) fn time(unix_ms: u64) -> String {
    let since = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let zone = jiff::tz::TimeZone::system();
    since.map_or_else(
        || "-".to_owned(),
        |at| at.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

pub(super) fn audit(
    socket: &SocketArg,
    app: Option<&str>,
    entries: u32,
    json: bool,
) -> anyhow::Result<u8> {
    let app = app.map(|app| format!("&app={}", encode(app))).unwrap_or_default();
    let path = format!("/v1/audit?limit={entries}{app}");
    let mut noted: Vec<Noted> = block_on(call_json(&socket.find()?, Method::GET, &path))?;
    // The newest stands nearest to the prompt.
    noted.reverse();
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", screen::json(&noted)?)?;
        return Ok(0);
    }
    let rows = noted.into_iter().map(|noted| {
        let whom = [noted.app, noted.subject].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let by = format!("{} ({})", noted.by, noted.from);
        [time(noted.at_unix_ms), by, noted.act, whom].map(|text| screen::line(&text)).to_vec()
    });
    write!(out, "{}", rows_under(&["WHEN", "WHO", "WHAT", "TO WHOM"], rows))?;
    Ok(0)
}
