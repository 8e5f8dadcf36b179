//! The JSON Schema, as an editor applies it: what loads is valid by it, and mistakes of form are not.
//! What a value means, such as a host or a second route to the same place, is beyond it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use doorbell_config::schema::{app, json_schema};
use serde_json::{Value, json};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The names of a folder's TOML files.
fn fixtures(name: &str) -> Vec<String> {
    let names = fs::read_dir(folder(name)).expect("the fixtures are there").filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.strip_suffix(".toml").map(str::to_owned)
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// The file as JSON; `None` if it is no TOML.
fn read(path: &Path) -> Option<Value> {
    let text = String::from_utf8(fs::read(path).expect("a file")).ok()?;
    let table: toml::Table = text.parse().ok()?;
    Some(serde_json::to_value(table).expect("TOML is JSON"))
}

/// What the schema says against a document.
fn objections(document: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(&json_schema()).expect("a schema");
    let say =
        |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    validator.iter_errors(document).map(say).collect()
}

#[test]
fn it_is_a_schema() {
    jsonschema::meta::validate(&json_schema()).expect("valid by the schema of schemas");
}

#[test]
fn whatever_loads_is_valid() {
    let good = ["tests/good", "tests/good/apps", "../examples"];
    let files = good.iter().flat_map(|place| {
        fixtures(place).into_iter().map(move |name| folder(place).join(name + ".toml"))
    });
    for path in files {
        let document = read(&path).expect("TOML");
        assert_eq!(objections(&document), Vec::<String>::new(), "{}", path.display());
    }
}

#[test]
fn mistakes_of_form_are_not_valid() {
    let bad = fixtures("tests/bad").into_iter();
    let refused: Vec<_> = bad
        .filter(|name| {
            let document = read(&folder("tests/bad").join(format!("{name}.toml")));
            document.is_some_and(|document| !objections(&document).is_empty())
        })
        .collect();
    let of_form = [
        "app_is_no_table",
        "app_without_id",
        "database",
        "hours",
        "ids",
        "instances",
        "long_line",
        "missing_keys",
        "needs",
        "odd_keys",
        "pages",
        "secrets_are_not_shown",
        "shared_with",
        "tcp",
        "unknown_keys",
        "upgrade",
        "users",
        "wake",
        "words",
        "wrong_types",
    ];
    assert_eq!(refused, of_form);
}

#[test]
fn objections_name_the_place_and_what_is_wrong() {
    let told = |text: &str| {
        let table: toml::Table = text.parse().expect("TOML");
        objections(&serde_json::to_value(table).expect("TOML is JSON")).join("\n")
    };
    let cases = [
        ("[server.limits]\nconnections = 0", "/server/limits/connections: 0 is less than"),
        ("[app.a]\nport = 70000", "/app/a/port: 70000 is greater than"),
        ("[app.a]\nupstream = { servers = \"http://a\", max_fails = 0 }", "/app/a/upstream"),
        ("[app.a]\ncomand = [\"node\"]", "/app/a: Additional properties are not allowed ('comand'"),
        ("[server]\nlisten = 80", "/server/listen"),
    ];
    for (text, expected) in cases {
        assert!(told(text).contains(expected), "{text}: {}", told(text));
    }
}

/// What the schema of an app of the registry says against its keys.
fn objections_to_app(keys: &Value) -> Vec<String> {
    let mut generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    let mut schema = app(&mut generator, &[]).to_value();
    schema["$defs"] = generator.take_definitions(true).into();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    validator.iter_errors(keys).map(|error| error.to_string()).collect()
}

#[test]
fn an_app_of_the_registry_has_the_keys_of_one_of_a_file() {
    for name in fixtures("tests/good") {
        let document = read(&folder("tests/good").join(name + ".toml")).expect("TOML");
        for (family, kind) in [("app", "http"), ("tcp", "tcp")] {
            for (id, keys) in document[family].as_object().into_iter().flatten() {
                let mut keys = keys.clone();
                keys["kind"] = kind.into();
                assert_eq!(objections_to_app(&keys), Vec::<String>::new(), "{id}");
            }
        }
    }
    for wrong in [
        json!({"kind": "tcp", "hosts": ["a.test"]}),
        json!({"kind": "udp"}),
        json!({"hots": ["a.test"]}),
        json!({"instances": 0}),
        json!({"idle": {"stop": "1m"}}),
    ] {
        assert_ne!(objections_to_app(&wrong), Vec::<String>::new(), "{wrong}");
    }
    assert_eq!(objections_to_app(&json!({})), Vec::<String>::new(), "of kind http");
}
