//! Environment variables on their way into an app's `env`: taken as they are, but for those that are Doorbell's.

use std::net::IpAddr;

use doorbell_config::file::literal_template;
use serde_json::{Map, Value};

use super::intake::{Intake, shown};

/// Takes these variables. `whose` says where they stand.
pub(super) fn take(
    intake: &mut Intake,
    whose: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Map<String, Value> {
    let mut env = Map::new();
    for (name, value) in variables {
        if !is_left(intake, whose, &name, &value) {
            env.insert(name, literal_template(&value).into());
        }
    }
    env
}

/// Takes variables whose values are as they stand in a file already.
pub(super) fn take_templates(
    intake: &mut Intake,
    whose: &str,
    env: &mut Map<String, Value>,
    variables: impl IntoIterator<Item = (String, String)>,
) {
    for (name, value) in variables {
        if !is_left(intake, whose, &name, &value) {
            env.insert(name, value.into());
        }
    }
}

fn is_left(intake: &mut Intake, whose: &str, name: &str, value: &str) -> bool {
    let reason = reason(name, value);
    if let Some(why) = reason {
        intake.leave(format!("{whose}: {}", shown(name)), why);
    }
    reason.is_some()
}

/// Why a variable is left.
fn reason(name: &str, value: &str) -> Option<&'static str> {
    match name {
        "PORT" => Some("Doorbell picks a free port for each start and gives it as `PORT`"),
        // An address, and not the name that some apps are told by it.
        "HOST" if value == "localhost" || value.parse::<IpAddr>().is_ok() => {
            Some("Doorbell gives the address to listen on as `HOST`")
        }
        "LISTEN_FDS" | "LISTEN_PID" | "LISTEN_FDNAMES" | "NOTIFY_SOCKET" => {
            Some("this variable is Doorbell's to set: choose `ready` instead")
        }
        _ if name.is_empty()
            || name.chars().any(|c| c == '=' || c.is_control() || c.is_whitespace()) =>
        {
            Some("this is no name of a variable")
        }
        _ if value.contains('\0') => Some("a NUL character cannot be passed to a program"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_are_taken_as_they_are_but_for_our_own() {
        let variables = [
            ("A", "{x} ${Y} $Z"),
            ("PORT", "3000"),
            ("HOST", "0.0.0.0"),
            ("NOTIFY_SOCKET", "/x"),
            ("B C", "1"),
            ("", "1"),
            ("N", "\0"),
        ];
        let mut intake = Intake::default();
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env = take(&mut intake, "app", variables);
        assert_eq!(Value::Object(env), json!({"A": "{{x}} $${Y} $Z"}));
        assert_eq!(intake.left.len(), 6);
        let names_it = [("HOST".to_owned(), "shop.example.com".to_owned())];
        assert_eq!(take(&mut intake, "app", names_it).len(), 1);
    }
}
