//! `doorbell doctor`: what the machine lets Doorbell do.

use std::{
    io::{self, Write},
    path::Path,
};

use doorbell_supervisor::machine::{self, Ability, Level};
use hyper::Method;

use super::{client::call_json, control::block_on, screen};

pub(super) fn doctor(socket: &Path, json: bool) -> anyhow::Result<u8> {
    let running = block_on(call_json::<Vec<Ability>>(socket, Method::GET, "/v1/machine"));
    let mut out = io::stdout().lock();
    let abilities = match running {
        Ok(abilities) => abilities,
        Err(error) => {
            writeln!(
                io::stderr(),
                "note: {error:#}; this is what would hold for one started here"
            )?;
            machine::look()
        }
    };
    if json {
        writeln!(out, "{}", screen::json(&abilities)?)?;
    } else {
        write!(out, "{}", table(&abilities))?;
    }
    Ok(0)
}

/// One line per ability, and one for what would make it better.
fn table(abilities: &[Ability]) -> String {
    let width = abilities.iter().map(|one| one.what.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Ability { what, level, how, advice } in abilities {
        let level = match level {
            Level::Good => "good",
            Level::Partly => "partly",
            Level::Missing => "missing",
        };
        text += &format!("{what:width$}  {level:7}  {}\n", screen::line(how));
        if let Some(advice) = advice {
            text += &format!("{:width$}           better: {}\n", "", screen::line(advice));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_below_what_it_is_about() {
        let ability = |what: &str, level, advice: Option<&str>| Ability {
            what: what.into(),
            level,
            how: "so".into(),
            advice: advice.map(str::to_owned),
        };
        let abilities =
            [ability("swap", Level::Missing, Some("add some")), ability("user", Level::Good, None)];
        let expected = "swap  missing  so\n               better: add some\nuser  good     so\n";
        assert_eq!(table(&abilities), expected);
    }
}
