use doorbell_config::nocobase::Table;

use super::*;

/// Whose apps have programs of their own.
fn own(are_schemas: bool) -> Own {
    Own {
        directory: "/srv/nocobase".into(),
        command: vec!["node".into(), "index.js".into(), "start".into()],
        env: vec![("LOGGER_LEVEL".into(), "{id}".into())],
        databases: Databases { are_schemas, ..Databases::example("s{c}ret") },
        key_files: BTreeMap::new(),
    }
}

fn intake(own: Own, rows: &[Application]) -> Intake {
    Source { program: Program::Own(own.into()), domain: None }.intake(rows)
}

fn row(name: &str, cname: &str, options: &str) -> Application {
    Application {
        name: name.into(),
        display_name: format!("The {name}"),
        cname: cname.into(),
        options: options.into(),
        ..Application::default()
    }
}

fn whats(intake: &Intake) -> Vec<&str> {
    intake.left.iter().map(|left| left.what.as_str()).collect()
}

#[test]
fn a_variable_without_a_value_has_ours() {
    let own = |name: &str| (name == "APP_KEY").then(|| "k{e}y$$${x}=".to_owned());
    let variable = |text| variable(text, own).map_err(|error| error.to_string());
    let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
    assert_eq!(variable("A={id}=x"), pair("A", "{id}=x"));
    assert_eq!(variable("APP_KEY="), pair("APP_KEY", ""));
    assert_eq!(variable("APP_KEY"), pair("APP_KEY", &literal_template("k{e}y$$${x}=")));
    assert!(variable("OTHER").unwrap_err().contains("OTHER"));
    assert!(variable("").is_err() && variable("=x").is_err());
}

#[test]
fn an_app_gets_a_program_with_its_database_and_secret() {
    let options = r#"{"autoStart": true, "authManager": {"jwt": {"secret": "k$${y}"}},
        "database": {"database": "crm_db", "password": "own", "logging": true}}"#;
    let intake = intake(own(false), &[row("crm", "CRM.test", options)]);
    assert_eq!(
        Value::Object(intake.apps[0].keys.clone()),
        json!({
            "name": "The crm", "hosts": ["crm.test"], "start": "with-server",
            "directory": "/srv/nocobase", "command": ["node", "index.js", "start"],
            "ready": {
                "http": "/api/__health_check", "status": 200, "body": "ok", "deadline": "5m",
            },
            "timeouts": {"hold": "10m"},
            "env": {
                "SOCKET_PATH": "storage/gateway-{id}.sock", "PM2_HOME": "storage/.pm2-{id}",
                "APP_AES_SECRET_KEY_PATH": "storage/apps/{id}/aes_key.dat",
                "APP_PORT": "{port}", "APP_HOST": "127.0.0.1", "APP_PUBLIC_PATH": "{base_path}",
                "API_CLIENT_STORAGE_PREFIX": "NOCOBASE_{id}_", "LOGGER_LEVEL": "{id}",
                "DB_DIALECT": "postgres", "DB_HOST": "db.test", "DB_PORT": "5432",
                "DB_USER": "nb", "DB_DATABASE": "crm_db",
            },
            "secrets": ["APP_KEY", "DB_PASSWORD"],
        })
    );
    let secrets = &intake.apps[0].secrets;
    let secrets = ["APP_KEY", "DB_PASSWORD"].map(|name| secrets[name].reveal());
    assert_eq!(secrets, ["k$${y}", "own"]);
    let left =
        ["app \"crm\": database option \"logging\"", "app \"crm\": its key file", "databases"];
    assert_eq!(whats(&intake), left);
}

#[test]
fn what_is_given_to_all_is_nothing_that_an_app_has_itself() {
    let mut program = own(false);
    program.env.extend(["APP_KEY", "DB_PASSWORD"].map(|name| (name.into(), "of all".into())));
    let own = r#"{"authManager": {"jwt": {"secret": "mine"}}, "database": {"password": "mine"}}"#;
    let none = r#"{"authManager": {"jwt": {"secret": ""}}, "database": {"password": ""}}"#;
    let intake = intake(program, &[row("a", "a.test", own), row("b", "b.test", none)]);
    for (app, value) in intake.apps.iter().zip(["mine", "of all"]) {
        for name in ["APP_KEY", "DB_PASSWORD"] {
            assert_eq!(app.secrets[name].reveal(), value, "{}", app.id);
        }
    }
    for told in ["app \"a\": --env APP_KEY", "app \"a\": --env DB_PASSWORD"] {
        assert!(whats(&intake).contains(&told), "{told}: {:?}", whats(&intake));
    }
    assert!(!whats(&intake).iter().any(|what| what.starts_with("app \"b\": --env")));
}

#[test]
fn an_app_shares_the_main_apps_program() {
    let source = Source {
        program: Program::Shared(AppId::parse("main").unwrap()),
        domain: Some("example.com".into()),
    };
    let rows = [
        row("crm", "", r#"{"autoStart": true, "database": {}}"#),
        row("a_B", "", ""),
        row("main", "", ""),
    ];
    let intake = source.intake(&rows);
    assert_eq!(
        Value::Object(intake.apps[0].keys.clone()),
        json!({
            "name": "The crm", "hosts": ["crm.example.com"], "shared_with": "main",
            "ready": {
                "http": "/api/__app/crm/__health_check", "status": 200, "deadline": "5m",
            },
            "timeouts": {"hold": "10m"},
        })
    );
    assert_eq!(intake.apps.len(), 1);
    assert_eq!(whats(&intake), ["app \"crm\": autoStart", "app \"a_B\"", "app \"main\""]);
}

#[test]
fn rows_that_mean_nothing_are_left_one_by_one() {
    let long = format!("\"{}\"", "x".repeat(MOST_CHARACTERS));
    let rows = [
        row("a", "a.test", "[1]"),
        row("b", "b.test", "{"),
        row("c", "c.test", &long),
        row("", "d.test", "{}"),
        row("e", "*", "null"),
        row("f", "f.test", r#"{"autoStart": "yes", "database": [], "x": {}}"#),
        row("F", "g.test", "{}"),
        row("h", "f.test", "{}"),
    ];
    let intake = intake(own(true), &rows);
    let ids: Vec<_> = intake.apps.iter().map(|app| app.id.as_str()).collect();
    assert_eq!(ids, ["f"]);
    assert_eq!(intake.apps[0].keys["env"]["DB_SCHEMA"], "f");
    for left in [
        "app \"a\"",
        "app \"b\"",
        "app \"c\"",
        "app \"\"",
        "app \"e\"",
        "app \"e\": its domain \"*\"",
        "app \"F\"",
        "app \"f\": autoStart",
        "app \"f\": database",
        "app \"f\": option \"x\"",
        "app \"f\": its secret",
        "app \"h\"",
    ] {
        assert!(whats(&intake).contains(&left), "{left}: {:?}", whats(&intake));
    }
}

#[test]
fn an_app_keeps_the_key_file_that_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let own_key = folder.path().join("storage/environment-variables/a");
    std::fs::create_dir_all(&own_key).unwrap();
    std::fs::write(own_key.join("aes_key.dat"), "key").unwrap();
    let mut program = own(false);
    folder.path().to_str().unwrap().clone_into(&mut program.directory);
    std::fs::create_dir(folder.path().join("storage/apps")).unwrap();
    let outside = row("../environment-variables/a", "c.test", "{}");
    let applications = [row("a", "a.test", "{}"), row("b", "b.test", "{}"), outside];
    program.look_around(&Table { applications: applications.to_vec(), is_underscored: true });
    assert_eq!(program.key_files.len(), 1, "{:?}", program.key_files);
    let intake = intake(program, &applications[..2]);
    let files = intake.apps.iter().map(|app| &app.keys["env"]["APP_AES_SECRET_KEY_PATH"]);
    let expected = ["storage/environment-variables/a/aes_key.dat", "storage/apps/{id}/aes_key.dat"];
    assert_eq!(files.collect::<Vec<_>>(), expected);
    let left: Vec<_> =
        whats(&intake).into_iter().filter(|what| what.contains("key file")).collect();
    assert_eq!(left, ["app \"b\": its key file"]);
}
