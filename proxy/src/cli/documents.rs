//! The verbs that need no running doorbell.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Command;
use clap_mangen::Man;
use doorbell_config::{
    file::Archive,
    problem::{Colour, Problem, Problems, Severity},
    schema,
    spec::{AppSpec, Backend, Config, ListenAddr},
};

use doorbell_supervisor::{hub::Rehearsed, protocol::TAKES_OVER_FROM};
use serde_json::json;

use super::JsonArg;
use crate::house::House;

/// Where a doorbell listens for its operators unless told.
pub(super) const DEFAULT_SOCKET: &str = "/run/doorbell/admin.sock";

pub(super) fn check(path: &Path, how: JsonArg) -> anyhow::Result<u8> {
    if how.json {
        return check_for_machines(path, how);
    }
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let colour = if colour { Colour::Always } else { Colour::Never };
    match read(path) {
        Ok(config) => {
            for warning in &config.warnings {
                write!(io::stderr(), "{}", warning.render(colour))?;
            }
            for missing in config.apps.iter().filter_map(|app| missing(app)) {
                writeln!(io::stderr(), "warning: {missing}")?;
            }
            let apps = config.apps.len();
            let plural = if apps == 1 { "" } else { "s" };
            writeln!(io::stdout(), "{}: good, {apps} app{plural}", path.display())?;
            Ok(0)
        }
        Err(problems) => {
            write!(io::stderr(), "{}", problems.render(colour))?;
            Ok(1)
        }
    }
}

fn check_for_machines(path: &Path, how: JsonArg) -> anyhow::Result<u8> {
    let told = |problem: &Problem| {
        let is_error = problem.severity == Severity::Error;
        json!({
            "severity": if is_error { "error" } else { "warning" },
            "file": problem.file,
            "line": problem.line,
            "column": problem.column,
            "message": problem.message,
            "note": problem.note,
            "help": problem.help,
        })
    };
    let (apps, problems, missing) = match read(path) {
        Ok(config) => {
            let missing: Vec<_> = config.apps.iter().filter_map(|app| missing(app)).collect();
            (Some(config.apps.len()), config.warnings, missing)
        }
        Err(problems) => (None, problems.0, Vec::new()),
    };
    let told: Vec<_> = problems.iter().map(told).collect();
    let answer = json!({
        "good": apps.is_some(), "apps": apps, "problems": told, "warnings": missing,
    });
    how.tell(&answer, String::new)?;
    Ok(u8::from(apps.is_none()))
}

/// The admin socket that a configuration names. Only that is looked at: a mistake elsewhere in the
/// file must not keep its operator from asking the running doorbell about it.
pub(super) fn admin_socket(path: &Path) -> anyhow::Result<PathBuf> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read {}: name the socket with --socket", path.display())
    })?;
    let (file, is_whole) = as_far_as_it_goes(&text);
    let admin = file.get("server").and_then(|server| server.get("admin"));
    if admin.is_none() && !is_whole {
        // Let the reader say where the mistake is.
        return from_config(&read(path)?);
    }
    let addresses = match admin {
        Some(toml::Value::String(one)) => vec![one.as_str()],
        Some(toml::Value::Array(many)) => many.iter().filter_map(toml::Value::as_str).collect(),
        _ => return Ok(PathBuf::from(DEFAULT_SOCKET)),
    };
    let socket = addresses.iter().find_map(|address| address.strip_prefix("unix:"));
    match socket {
        Some(socket) if !socket.contains('$') => {
            let folder = path.parent().unwrap_or(Path::new("."));
            Ok(folder.join(socket))
        }
        _ => from_config(&read(path)?),
    }
}

/// What stands in front of the first line that is no TOML, and whether that is all.
fn as_far_as_it_goes(text: &str) -> (toml::Table, bool) {
    let mut front = text;
    loop {
        let error = match front.parse() {
            Ok(table) => return (table, front.len() == text.len()),
            Err(error) => error,
        };
        let mistake = error.span().and_then(|span| front.get(..span.start));
        // What is left may end in the midst of something: then that is the next mistake.
        front = mistake.unwrap_or_default().rsplit_once('\n').map_or("", |(before, _)| before);
    }
}

/// What an app needs to start and this machine does not have; it may be meant for another.
fn missing(app: &AppSpec) -> Option<String> {
    let Backend::Process(process) = &app.backend else { return None };
    let id = &app.id;
    if !process.directory.is_dir() {
        return Some(format!(
            "app \"{id}\": folder {} does not exist",
            process.directory.display()
        ));
    }
    let program = process.command.first()?.to_string();
    // Others are looked for in the `PATH` that the app will have.
    let is_missing = program.contains('/') && !process.directory.join(&program).is_file();
    is_missing.then(|| format!("app \"{id}\": command {program} does not exist"))
}

fn read(path: &Path) -> Result<Config, Problems> {
    House::read(path, &mut Archive::default(), &[]).outcome
}

fn from_config(config: &Config) -> anyhow::Result<PathBuf> {
    let socket = config.server.admin.iter().find_map(|address| match address {
        ListenAddr::Unix(path) => Some(path.clone()),
        ListenAddr::Tcp(_) => None,
    });
    socket.context("the configuration names no admin socket")
}

pub(super) fn speaks() -> anyhow::Result<u8> {
    writeln!(io::stdout(), "{}", serde_json::to_string(&TAKES_OVER_FROM)?)?;
    Ok(0)
}

/// What fails is an answer too.
pub(super) fn rehearsed(outcome: anyhow::Result<Rehearsed>) -> anyhow::Result<u8> {
    let told = outcome.unwrap_or_else(|error| Rehearsed::Fails(format!("{error:#}")));
    writeln!(io::stdout(), "{}", serde_json::to_string(&told)?)?;
    Ok(0)
}

pub(super) fn schema() -> anyhow::Result<u8> {
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&schema::json_schema())?)?;
    Ok(0)
}

pub(super) fn completions(
    shell: clap_complete::Shell,
    command: &mut Command,
) -> anyhow::Result<u8> {
    clap_complete::generate(shell, command, "doorbell", &mut io::stdout());
    Ok(0)
}

/// One page: the command, then each verb with its options.
pub(super) fn man(mut command: Command) -> anyhow::Result<u8> {
    write_man(&mut command, &mut io::stdout())?;
    Ok(0)
}

fn write_man(command: &mut Command, out: &mut dyn Write) -> io::Result<()> {
    command.build();
    Man::new(command.clone()).render(out)?;
    let shown = |verb: &&Command| verb.get_name() != "help" && !verb.is_hide_set();
    for verb in command.get_subcommands().filter(shown) {
        writeln!(out, ".SH \"DOORBELL {}\"", verb.get_name().to_uppercase())?;
        let man = Man::new(verb.clone());
        man.render_synopsis_section(out)?;
        man.render_description_section(out)?;
        man.render_options_section(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_in_front_of_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("doorbell.toml");
        let server = "[server]\nadmin = [\n  \"127.0.0.1:1\",\n  \"unix:a.sock\",\n]\n";
        for mistake in ["", "[app.broken\n", "x = [\n1,\n", "[app.a]\nb = \"\n", "\u{7}"] {
            std::fs::write(&path, format!("{server}[app.a]\n{mistake}")).unwrap();
            assert_eq!(admin_socket(&path).unwrap(), folder.path().join("a.sock"), "{mistake}");
        }
        std::fs::write(&path, format!("[broken\n{server}")).unwrap();
        assert!(admin_socket(&path).unwrap_err().to_string().contains("unclosed table"));
    }

    #[test]
    fn the_manual_has_the_options_of_every_verb() {
        let verb = |name: &'static str, option: &'static str| {
            Command::new(name).arg(clap::Arg::new(option).long(option).help("What it does"))
        };
        let mut command =
            Command::new("doorbell").subcommands([verb("logs", "follow"), verb("status", "json")]);
        command = command.subcommand(Command::new("inner").hide(true));
        let mut page = Vec::new();
        write_man(&mut command, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        for text in ["DOORBELL LOGS", "\\-\\-follow", "DOORBELL STATUS", "\\-\\-json"] {
            assert!(page.contains(text), "{text}: {page}");
        }
        assert!(!page.contains("DOORBELL INNER"), "{page}");
    }
}
