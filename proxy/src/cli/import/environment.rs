//! Environment variables on their way into an app's `env`: taken as they are, but for those that are Doorbell's;
//! and those that tell a secret, which become `secrets` of the app.

use std::{collections::BTreeMap, net::IpAddr};

use doorbell_config::{
    file::{literal_template, plain},
    name::AppId,
    spec::Secret,
};
use serde_json::{Map, Value};

use super::{
    intake::{Intake, shown},
    secrecy::tells_secret,
};
use crate::admin::secrets::{check_name, check_value};

/// What an app is given sealed, by the variable.
pub(super) type Secrets = BTreeMap<String, Secret>;

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

/// Gives an app these variables: those that tell a secret as `secrets`, whose values are returned and stand in no key.
pub(super) fn give(
    intake: &mut Intake,
    whose: &str,
    id: &AppId,
    env: Map<String, Value>,
    keys: &mut Map<String, Value>,
) -> Secrets {
    let (mut open, mut secrets) = (Map::new(), Secrets::new());
    for (name, value) in env {
        match sealed(&name, &value, id) {
            Fate::Sealed(secret) => _ = secrets.insert(name, secret),
            Fate::Open => _ = open.insert(name, value),
            Fate::Unsealed(why) => {
                intake.leave(format!("{whose}: {} as a secret", shown(&name)), why);
                open.insert(name, value);
            }
        }
    }
    if !open.is_empty() {
        keys.insert("env".into(), Value::Object(open));
    }
    if !secrets.is_empty() {
        keys.insert("secrets".into(), secrets.keys().cloned().collect());
    }
    secrets
}

/// Where a variable comes to stand.
enum Fate {
    /// In `env`.
    Open,
    /// Among the app's secrets.
    Sealed(Secret),
    /// In `env`, though it should not, for this reason.
    Unsealed(&'static str),
}

fn sealed(name: &str, value: &Value, id: &AppId) -> Fate {
    let template = value.as_str().unwrap_or_default();
    let Some(text) = plain(template, id) else {
        return match tells_secret(name, template) && has_words(template) {
            true => Fate::Unsealed("placeholders are filled into it: it stands in `env`"),
            false => Fate::Open,
        };
    };
    if !tells_secret(name, &text) {
        return Fate::Open;
    }
    if check_name(name).is_err() {
        return Fate::Unsealed("secrets have names of letters, digits and `_`: it stands in `env`");
    }
    if check_value(&text).is_err() {
        return Fate::Unsealed("a secret has 32 KiB at most: it stands in `env`");
    }
    Fate::Sealed(Secret::new(text))
}

/// Whether there is more to a template than one placeholder.
fn has_words(template: &str) -> bool {
    let inner = template.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    inner.is_none_or(|inner| !inner.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
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

    #[test]
    fn what_tells_a_secret_is_given_sealed_and_stands_in_no_key() {
        let long = "x".repeat(40 * 1024);
        let env = json!({
            "MODE": "production", "API_KEY": "k$${y}", "APP_KEY": "{id}-key", "DB_URL": "db://u:pw@h/",
            "DB_PASSWORD": "{database_password}", "SESSION_SECRET": "a{port}", "A-TOKEN": "x",
            "BIG_TOKEN": long,
        });
        let Value::Object(env) = env else { panic!("no table") };
        let id = AppId::parse("shop").unwrap();
        let (mut intake, mut keys) = (Intake::default(), Map::new());
        let secrets = give(&mut intake, "app", &id, env, &mut keys);
        let secrets: Vec<_> =
            secrets.iter().map(|(name, secret)| (name.as_str(), secret.reveal())).collect();
        assert_eq!(
            secrets,
            [("API_KEY", "k${y}"), ("APP_KEY", "shop-key"), ("DB_URL", "db://u:pw@h/")]
        );
        assert_eq!(keys["secrets"], json!(["API_KEY", "APP_KEY", "DB_URL"]));
        let Value::Object(open) = &keys["env"] else { panic!("no table") };
        let open: Vec<_> = open.keys().map(String::as_str).collect();
        assert_eq!(open, ["MODE", "DB_PASSWORD", "SESSION_SECRET", "A-TOKEN", "BIG_TOKEN"]);
        let told: Vec<_> = intake.left.iter().map(|left| left.what.as_str()).collect();
        assert_eq!(
            told,
            [
                "app: \"SESSION_SECRET\" as a secret",
                "app: \"A-TOKEN\" as a secret",
                "app: \"BIG_TOKEN\" as a secret"
            ]
        );
    }
}
