//! The other keys of a pm2 app: what each becomes, or why it is left.

use doorbell_config::name::{ByteSize, DurationText};
use serde_json::{Map, Value, json};

use crate::cli::import::intake::{Intake, shown};

/// Most replicas of an app.
const MOST_INSTANCES: u64 = 64;

/// Read elsewhere, or the same in Doorbell.
const SILENT: &[&str] = &[
    "name",
    "script",
    "args",
    "cwd",
    "env",
    "interpreter",
    "exec_interpreter",
    "interpreter_args",
    "node_args",
    "interpreterArgs",
    "nodeArgs",
];

/// What becomes of a key.
enum Outcome {
    /// These keys.
    Taken(Vec<(&'static [&'static str], Value)>),
    /// Nothing, and nobody misses it.
    Same,
    /// Nothing, for this reason.
    Left(String),
}

use Outcome::{Left, Same, Taken};

/// Maps all keys that no other part reads.
pub(super) fn map(
    intake: &mut Intake,
    from: &str,
    app: &Map<String, Value>,
    env: Option<&str>,
    keys: &mut Map<String, Value>,
) {
    // pm2 asks programs to end by this signal, and they are written for that.
    put(keys, &["stop", "signal"], json!("SIGINT"));
    for (key, value) in app.iter().filter(|(key, _)| !SILENT.contains(&key.as_str())) {
        match outcome(key, value, env) {
            Taken(taken) => taken.into_iter().for_each(|(path, value)| put(keys, path, value)),
            Same => {}
            Left(why) => intake.leave(format!("{from}: `{}`", plain(key)), why),
        }
    }
}

/// A key without what quotes do not need.
fn plain(key: &str) -> String {
    shown(key).trim_matches('"').to_owned()
}

fn put(keys: &mut Map<String, Value>, path: &[&str], value: Value) {
    // The tables on the way are our own.
    let _ = crate::cli::keys::put(keys, path, value);
}

fn outcome(key: &str, value: &Value, env: Option<&str>) -> Outcome {
    if value.is_null() || value == &Value::Bool(false) && key != "autorestart" {
        return Same;
    }
    if let Some(name) = key.strip_prefix("env_") {
        return match env {
            Some(chosen) if chosen == name => Same,
            _ => Left(format!("say --env {} to take it", shown(name).trim_matches('"'))),
        };
    }
    match key {
        "instances" => instances(value),
        "max_memory_restart" => memory(value),
        "kill_timeout" => match milliseconds(value) {
            Some(grace) => Taken(vec![(&["stop", "grace"], grace.into())]),
            None => wrong("milliseconds"),
        },
        "uid" | "user" => account("user", value),
        "gid" => account("group", value),
        _ => told(key, value),
    }
}

fn wrong(what: &str) -> Outcome {
    Left(format!("it is no {what}"))
}

fn instances(value: &Value) -> Outcome {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_i64(),
    };
    match number {
        Some(1) => Same,
        Some(number @ 2..) if number.unsigned_abs() <= MOST_INSTANCES => {
            Taken(vec![(&["instances"], number.into())])
        }
        _ => Left(format!(
            "it is no number from 1 to {MOST_INSTANCES}: one is run; `doorbell app set` takes `instances`"
        )),
    }
}

/// `300M`, `1G`, `512K`, or bytes.
fn memory(value: &Value) -> Outcome {
    let text = match value {
        Value::String(text) => text.trim().to_uppercase(),
        other => other.to_string(),
    };
    let (number, unit) = match text.strip_suffix('B').unwrap_or(&text) {
        text if text.ends_with('G') => (&text[..text.len() - 1], "GiB"),
        text if text.ends_with('M') => (&text[..text.len() - 1], "MiB"),
        text if text.ends_with('K') => (&text[..text.len() - 1], "KiB"),
        text => (text, "B"),
    };
    match ByteSize::parse(&format!("{}{unit}", number.trim())) {
        Ok(size) if size.0 > 0 => Taken(vec![(&["limits", "memory"], size.to_string().into())]),
        _ => wrong("size such as `300M`"),
    }
}

fn milliseconds(value: &Value) -> Option<String> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_u64(),
    };
    let text = format!("{}ms", number.filter(|number| *number > 0)?);
    DurationText::parse(&text).ok().map(|duration| duration.to_string())
}

fn account(key: &'static str, value: &Value) -> Outcome {
    let name = match value {
        Value::String(name) => name.clone(),
        Value::Number(number) => number.to_string(),
        _ => return wrong("name"),
    };
    // Its form is for the server to judge.
    Taken(vec![(if key == "user" { &["user"] } else { &["group"] }, name.into())])
}

/// Why a key without a counterpart is left.
fn told(key: &str, value: &Value) -> Outcome {
    let why = match key {
        "autorestart" if value == &Value::Bool(true) => return Same,
        "exec_mode" if value.as_str().is_some_and(|mode| mode.starts_with("fork")) => return Same,
        // Not about how it is run.
        "pmx" | "vizion" | "trace" | "disable_trace" | "automation" | "treekill" | "force" => {
            return Same;
        }
        "autorestart" => "what ended is started again by its next request",
        "exec_mode" => "instances have a port each, given as `PORT`, and share none",
        "instance_var" | "increment_var" => {
            "an instance finds its number, from 1, in `DOORBELL_REPLICA`"
        }
        "watch" | "ignore_watch" | "watch_delay" | "watch_options" => {
            "Doorbell watches no files of apps: `doorbell restart` after a change"
        }
        "cron_restart" => "Doorbell restarts nothing by the clock: `doorbell restart` from cron",
        "max_restarts"
        | "min_uptime"
        | "restart_delay"
        | "exp_backoff_restart_delay"
        | "stop_exit_codes" => "Doorbell waits longer after each crash by itself: see `back_off`",
        "wait_ready" | "listen_timeout" => "Doorbell sees when the program listens: see `ready`",
        "shutdown_with_message" => "Doorbell asks programs to end by a signal: see `stop.signal`",
        "out_file" | "error_file" | "log_file" | "output" | "error" | "log" | "log_type"
        | "log_date_format" | "time" | "combine_logs" | "merge_logs" | "disable_logs" => {
            "Doorbell keeps output itself: `doorbell logs`, `logs` for how much"
        }
        "port" => "Doorbell picks a free port for each start and gives it as `PORT`",
        "filter_env" => "Doorbell gives an app nothing of its own environment",
        "namespace" => "apps have no groups",
        "source_map_support" => {
            "it is pm2's own: `node_args` with `--enable-source-maps` does that"
        }
        "post_update" | "pre_deploy_local" | "post_deploy" => "Doorbell does not deploy",
        _ => "Doorbell knows nothing like it",
    };
    Left(why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(key: &str, value: &Value) -> Option<Value> {
        match outcome(key, value, None) {
            Taken(taken) => taken.into_iter().next().map(|(_, value)| value),
            Same | Left(_) => None,
        }
    }

    #[test]
    fn sizes_and_times_are_what_they_are_in_pm2() {
        for (value, size) in [
            (json!("300M"), "300MiB"),
            (json!("1g"), "1GiB"),
            (json!("512K"), "512KiB"),
            (json!("1.5G"), ""),
            (json!(1024), "1KiB"),
            (json!(0), ""),
            (json!("MB"), ""),
            (json!([]), ""),
            (json!("99999999999999999999G"), ""),
        ] {
            let expected = Some(size).filter(|size| !size.is_empty()).map(Value::from);
            assert_eq!(taken("max_memory_restart", &value), expected, "{value}");
        }
        assert_eq!(taken("kill_timeout", &json!(5000)), Some("5s".into()));
        for wrong in [json!("soon"), json!(0), json!(-1), json!(1e300), json!({})] {
            assert_eq!(taken("kill_timeout", &wrong), None);
        }
    }

    #[test]
    fn only_a_number_of_instances_is_taken() {
        assert_eq!(taken("instances", &json!("4")), Some(json!(4)));
        for other in [json!("max"), json!(0), json!(-1), json!(65), json!(i64::MIN), json!(1)] {
            assert_eq!(taken("instances", &other), None);
        }
    }

    #[test]
    fn what_is_off_is_not_told() {
        for (key, value) in [("watch", json!(false)), ("cron_restart", Value::Null)] {
            assert!(matches!(outcome(key, &value, None), Same), "{key}");
        }
        assert!(matches!(outcome("autorestart", &json!(false), None), Left(_)));
        assert!(matches!(outcome("env_x", &json!({}), Some("x")), Same));
    }
}
