//! All that operators may ask for.

use axum::http::Method;
use doorbell_supervisor::machine::Ability;

use super::{
    Upgraded,
    apps::{self, Link},
    audit, backup,
    caller::Scope,
    check::{self, Checked},
    databases,
    definitions::{self, Definition, Keys, Patch},
    edits::{self, Apply, Changed, How, NewApp, Rename, With},
    endpoint::Endpoint,
    events, examples, logs, machine, reload,
    secrets::{self, NewValue, Rotated, Stored},
    status::{AppStatus, Status},
    tokens::{self, Known, Made, Wanted},
    upgrade,
};
use crate::{chronicle::Transition, house::ReloadReport};

const IF_MATCH: (&str, &str) =
    ("If-Match", "The ETag of what was read: anything else is left as it is, and answered 412");
const IF_NONE_MATCH: (&str, &str) = ("If-None-Match", "`*`: only if there is no such app yet");
const ACCEPT_EVENTS: (&str, &str) = (
    "Accept",
    "`text/event-stream`: a server-sent event for each line, of the JSON that `json` gives",
);
const LAST_LINE_ID: (&str, &str) =
    ("Last-Event-ID", "The id of the last line that came as an event: goes on behind it");
const LAST_EVENT_ID: (&str, &str) = ("Last-Event-ID", "The id of the last event that was heard");

pub(super) fn all() -> Vec<Endpoint> {
    let mut all = of_apps();
    all.extend(of_definitions());
    all.extend(of_changes());
    all.extend(of_secrets());
    all.extend(of_backups());
    all.extend(of_the_whole());
    all
}

fn of_apps() -> Vec<Endpoint> {
    use Scope::{Operate, Read};
    let get = Method::GET;
    let post = Method::POST;
    let app = "/v1/apps/{id}";
    vec![
        Endpoint::new(get.clone(), "/v1/apps", Read, "Every app, with its state", apps::list)
            .gives::<Status>(),
        Endpoint::new(get.clone(), app, Read, "An app, with its state", apps::show)
            .gives::<AppStatus>(),
        Endpoint::new(
            get.clone(),
            "/v1/apps/{id}/history",
            Read,
            "The last changes of an app's state",
            events::history,
        )
        .gives::<Vec<Transition>>(),
        Endpoint::new(
            get,
            "/v1/apps/{id}/logs",
            Read,
            "An app's output: its last lines, and what comes",
            logs::read,
        )
        .asks::<logs::Wish>()
        .hears(&[ACCEPT_EVENTS, LAST_LINE_ID])
        .gives_other(&["text/plain", "application/jsonl", "text/event-stream"]),
        Endpoint::new(
            post.clone(),
            "/v1/apps/{id}/pass",
            Operate,
            "A link that shows a browser why the app cannot be started",
            apps::pass,
        )
        .gives::<Link>(),
        Endpoint::new(
            post,
            "/v1/apps/{id}/{verb}",
            Operate,
            "start, stop, restart, enable, disable or drain an app; answered when it has its effect",
            apps::operate,
        )
        .asks::<apps::Pace>()
        .gives::<AppStatus>(),
    ]
}

fn of_definitions() -> Vec<Endpoint> {
    use Scope::{Admin, Read};
    let definition = "/v1/apps/{id}/definition";
    vec![
        Endpoint::new(Method::POST, "/v1/apps", Admin, "Add an app", edits::add)
            .asks::<How>()
            .takes::<NewApp>()
            .such_as(examples::new_app())
            .such_as(examples::new_tcp_app())
            .gives::<Changed>()
            .answers_with(201)
            .may_be_tried(),
        Endpoint::new(
            Method::GET,
            "/v1/definitions",
            Read,
            "Every app of the registry as it was written",
            definitions::list,
        )
        .gives::<Vec<Definition>>(),
        Endpoint::new(
            Method::GET,
            definition,
            Read,
            "An app of the registry as it was written",
            definitions::show,
        )
        .gives::<Definition>(),
        Endpoint::new(Method::PUT, definition, Admin, "Make an app be this", edits::put)
            .asks::<How>()
            .takes::<Keys>()
            .such_as(examples::keys())
            .hears(&[IF_MATCH, IF_NONE_MATCH])
            .gives::<Changed>(),
        Endpoint::new(Method::PATCH, definition, Admin, "Change some keys", edits::patch)
            .asks::<How>()
            .takes_as::<Patch>("application/merge-patch+json")
            .such_as(examples::patch())
            .hears(&[IF_MATCH])
            .gives::<Changed>(),
    ]
}

fn of_changes() -> Vec<Endpoint> {
    use Scope::Admin;
    vec![
        Endpoint::new(
            Method::POST,
            "/v1/apply",
            Admin,
            "Change several apps: all of them, or none",
            edits::apply,
        )
        .asks::<How>()
        .takes::<Apply>()
        .such_as(examples::apply())
        .gives::<Vec<Changed>>(),
        Endpoint::new(Method::DELETE, "/v1/apps/{id}", Admin, "Delete an app", edits::delete)
            .asks::<How>()
            .asks::<With>()
            .hears(&[IF_MATCH])
            .gives::<Changed>(),
        Endpoint::new(
            Method::POST,
            "/v1/apps/{id}/database/adopt",
            Admin,
            "Let an app have the database of an earlier app of its id, or what a deletion of its own has left",
            databases::adopt,
        )
        .answers_with(204),
        Endpoint::new(
            Method::PUT,
            "/v1/apps/{id}/id",
            Admin,
            "Give an app another id",
            edits::rename,
        )
        .asks::<How>()
        .takes::<Rename>()
        .such_as(examples::rename())
        .hears(&[IF_MATCH])
        .gives::<Changed>(),
    ]
}

fn of_secrets() -> Vec<Endpoint> {
    use Scope::Admin;
    let secret = "/v1/apps/{id}/secrets/{name}";
    vec![
        Endpoint::new(
            Method::GET,
            "/v1/apps/{id}/secrets",
            Admin,
            "The secrets of an app, by name",
            secrets::list,
        )
        .gives::<Vec<Stored>>(),
        Endpoint::new(Method::PUT, secret, Admin, "Store a secret of an app", secrets::put)
            .takes::<NewValue>()
            .such_as(examples::value())
            .answers_with(204),
        Endpoint::new(Method::DELETE, secret, Admin, "Remove a secret of an app", secrets::remove)
            .answers_with(204),
        Endpoint::new(
            Method::POST,
            "/v1/rotate",
            Admin,
            "Seal all secrets with a new key",
            secrets::rotate,
        )
        .gives::<Rotated>(),
    ]
}

fn of_backups() -> Vec<Endpoint> {
    use Scope::Admin;
    let post = Method::POST;
    vec![
        Endpoint::new(
            post.clone(),
            "/v1/apps/{id}/export",
            Admin,
            "An app's definition, its secrets and how to get to its database, sealed by age for `recipient`",
            backup::export,
        )
        .takes::<backup::For>()
        .such_as(examples::recipient())
        .gives_other(&["application/octet-stream"]),
        Endpoint::new(
            post.clone(),
            "/v1/apps/{id}/database",
            Admin,
            "Make an app's database now, and tell how to get there, sealed by age for `recipient`",
            backup::open_database,
        )
        .asks::<backup::Taking>()
        .takes::<backup::For>()
        .such_as(examples::recipient())
        .gives_other(&["application/octet-stream"]),
        Endpoint::new(
            post,
            "/v1/import",
            Admin,
            "Add an app together with its secrets: all of it, or nothing",
            backup::import,
        )
        .asks::<How>()
        .takes::<backup::Imported>()
        .such_as(examples::imported())
        .gives::<Changed>()
        .answers_with(201)
        .may_be_tried(),
    ]
}

fn of_the_whole() -> Vec<Endpoint> {
    use Scope::{Admin, Operate, Read};
    vec![
        Endpoint::new(
            Method::GET,
            "/v1/events",
            Read,
            "What happens, as server-sent events",
            events::read,
        )
        .asks::<events::Wish>()
        .hears(&[LAST_EVENT_ID])
        .gives_other(&["text/event-stream"]),
        Endpoint::new(Method::GET, "/v1/machine", Read, "What this machine allows", machine)
            .gives::<Vec<Ability>>(),
        Endpoint::new(
            Method::POST,
            "/v1/check",
            Read,
            "Whether the configuration could be loaded as it is on the disk now",
            check::check,
        )
        .gives::<Checked>(),
        Endpoint::new(Method::POST, "/v1/reload", Operate, "Read the configuration again", reload)
            .gives::<ReloadReport>(),
        Endpoint::new(Method::POST, "/v1/upgrade", Admin, "Let a new binary take over", upgrade)
            .gives::<Upgraded>(),
        Endpoint::new(
            Method::GET,
            "/v1/tokens",
            Admin,
            "Every token, but not what it is",
            tokens::list,
        )
        .gives::<Vec<Known>>(),
        Endpoint::new(Method::POST, "/v1/tokens", Admin, "Make a token", tokens::add)
            .takes::<Wanted>()
            .such_as(examples::token())
            .gives::<Made>()
            .answers_with(201),
        Endpoint::new(
            Method::DELETE,
            "/v1/tokens/{name}",
            Admin,
            "Remove a token: it is of no use from then on",
            tokens::remove,
        )
        .answers_with(204),
        Endpoint::new(
            Method::GET,
            "/v1/audit",
            Admin,
            "Who changed what, the newest first",
            audit::read,
        )
        .asks::<audit::Wish>()
        .gives::<Vec<audit::Noted>>(),
    ]
}

#[cfg(test)]
mod tests {
    use super::{super::endpoint::document, *};

    #[test]
    fn whatever_is_taken_has_an_example_that_is_as_the_document_says() {
        let document = document(&all());
        let mut count = 0;
        for (path, method) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in method.as_object().into_iter().flatten() {
                let bodies = operation["requestBody"]["content"].as_object();
                for (_, body) in bodies.into_iter().flatten() {
                    let mut schema = body["schema"].clone();
                    schema["components"] = document["components"].clone();
                    let valid = jsonschema::validator_for(&schema).expect("a schema");
                    let examples = body["examples"].as_object().into_iter().flatten();
                    let examples: Vec<_> = examples.map(|(_, example)| &example["value"]).collect();
                    assert!(!examples.is_empty(), "{method} {path} has no example");
                    for example in examples {
                        let wrong: Vec<_> =
                            valid.iter_errors(example).map(|e| e.to_string()).collect();
                        assert_eq!(wrong, Vec::<String>::new(), "{method} {path}");
                        count += 1;
                    }
                }
            }
        }
        assert!(count >= 10, "{count}");
    }

    #[test]
    fn an_apps_keys_are_told_one_by_one() {
        let schemas = &document(&all())["components"]["schemas"];
        let keys = schemas["AppKeys"]["anyOf"][0]["properties"].as_object().unwrap();
        for key in ["hosts", "command", "idle", "database", "kind"] {
            assert!(keys.contains_key(key), "{key}");
        }
        assert!(schemas["IdleKeys"]["properties"]["stop_after"].is_object());
        assert!(schemas["NewApp"].to_string().contains("\"id\""));
    }
}
