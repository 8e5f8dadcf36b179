//! Apps that another program ran: taken by `doorbell import`, and served.

use std::fs;

use doorbell_tests::{Doorbell, MariaDb, Output, Postgres, Setup, tool};
use serde_json::{Value, json};

use crate::{
    node,
    registry::secrets::{files_with, store},
};

/// A program that tells its arguments and environment to whoever asks.
const TELLS: &str = "
    const { createServer } = require('node:http');
    createServer((request, response) => response.end(
      request.url.includes('health') ? 'ok' : JSON.stringify({
        args: process.argv.slice(2), env: process.env, cwd: process.cwd(),
        app: request.headers['x-app'], url: request.url,
      }))).listen(process.env.APP_PORT || process.env.PORT, '127.0.0.1');
";

/// The table as NocoBase 2 makes it.
const TABLE: &str = r#"CREATE TABLE "applications" (
    "createdAt" timestamptz NOT NULL DEFAULT now(), "updatedAt" timestamptz NOT NULL DEFAULT now(),
    "name" varchar(255) NOT NULL PRIMARY KEY, "displayName" varchar(255), "cname" varchar(255) UNIQUE,
    "pinned" boolean, "icon" varchar(255), "status" varchar(255) DEFAULT 'pending', "options" json,
    "sort" bigint);"#;

/// A text is neither in the registry and its copy nor shown to who may see all of an app.
#[track_caller]
fn stands_nowhere(d: &Doorbell, app: &str, text: &str) {
    assert_eq!(files_with(&d.state_path(), text), [""; 0], "in the clear");
    let api = d.api("admin");
    for path in ["definitions".to_owned(), format!("apps/{app}/definition"), format!("apps/{app}")]
    {
        let answer = api.ask("GET", &format!("/v1/{path}"), &[], &Value::Null);
        assert!(answer.status == 200 && !answer.text().contains(text), "{}", answer.text());
    }
    assert!(!d.ok(&["app", "show", app]).contains(text));
}

/// A Doorbell with an app of its file, and a folder `shop` of another program's apps.
fn with(files: &[(&str, &str)]) -> Doorbell {
    let setup = Setup::new(&node("main", "")).file("shop/tells.js", TELLS);
    files.iter().fold(setup, |setup, (name, text)| setup.file(name, text)).start()
}

fn path(d: &Doorbell, name: &str) -> String {
    d.dir.path().join(name).to_string_lossy().into_owned()
}

/// Imports from a NocoBase; `--` ends what can be said behind.
fn nocobase(d: &Doorbell, database: &str, more: &[&str]) -> Output {
    let config = d.config_path();
    let words =
        ["import", "nocobase", "--config", &config.to_string_lossy(), "--database", database];
    tool(&[&words[..], more].concat())
}

#[test]
fn the_processes_of_a_procfile_that_are_visited_are_served() {
    let d = with(&[
        (
            "shop/Procfile",
            "# ours\nweb: node tells.js --port $PORT 'a {b}'\napi: MODE=api node tells.js $HOME *.js | cat\n\
             worker: sleep 1\n",
        ),
        ("shop/.env", "KEY=\"a ${HOME} {b}\"\nURL=redis://:hunter2@h\nMODE=x{y}\nPORT=5000\n"),
    ]);
    let file = path(&d, "shop/Procfile");
    let words = ["import", "procfile", &file, "--host", "shop.test", "--host", "api=api.test"];
    let tried = d.ok(&[&words[..], &["--dry-run"]].concat());
    assert!(tried.contains("2 apps could be added") && !tried.contains("a ${HOME}"), "{tried}");
    assert_eq!(d.get("shop.test", "/").status, 404);

    let told = d.ok(&words);
    assert!(told.contains("+ shop (process \"web\")") && told.contains("+ shop-api"), "{told}");
    assert!(told.contains("left process \"worker\": nobody visits it"), "{told}");
    let web = d.get("shop.test", "/").json();
    assert_eq!(web["args"], json!(["--port", web["env"]["PORT"], "a {b}"]));
    assert_eq!(web["env"]["KEY"], "a ${HOME} {b}");
    assert_eq!(
        (&web["env"]["URL"], &web["env"]["MODE"]),
        (&json!("redis://:hunter2@h"), &json!("x{y}"))
    );
    assert!(told.contains("    sealed: KEY, URL\n"), "{told}");
    stands_nowhere(&d, "shop", "hunter2");
    assert_ne!(web["env"]["PORT"], "5000");
    assert_eq!(web["cwd"].as_str(), Some(&*path(&d, "shop")));
    let api = d.get("api.test", "/").json();
    assert_eq!(api["env"]["MODE"], "api");
    assert_eq!(api["args"][1], "tells.js");

    let again = d.ok(&words);
    assert!(again.contains("app `shop` is there already") && again.contains("0 apps were added"));
}

#[test]
fn apps_are_printed_as_they_could_stand_in_a_file() {
    let d = with(&[
        ("shop/Procfile", "web: node tells.js ${X} {y}\n"),
        ("shop/.env", "GREETING=${HOME} {b} \"'\nDB_PASSWORD=hunter2\n"),
    ]);
    let file = path(&d, "shop/Procfile");
    let printed = tool(&["import", "procfile", &file, "--host", "shop.test", "--toml"]);
    let command = "doorbell secret set shop DB_PASSWORD";
    let told = format!("secret DB_PASSWORD of shop is not printed: {command}\n");
    assert_eq!((printed.status, &*printed.stderr), (0, &*told), "{printed:?}");
    assert!(!printed.stdout.contains("hunter2"), "{printed:?}");
    d.write_file("apps.toml", &printed.stdout);
    d.ok(&["apply", "-f", &path(&d, "apps.toml")]);
    store(&d, "shop", "DB_PASSWORD", "hunter2");
    let env = &d.get("shop.test", "/").json()["env"];
    assert_eq!(
        (&env["GREETING"], &env["DB_PASSWORD"]),
        (&json!("${HOME} {b} \"'"), &json!("hunter2"))
    );
    assert_eq!(d.get("shop.test", "/").json()["args"], json!(["{y}"]));
}

#[test]
fn the_apps_of_pm2_are_served_and_what_has_no_counterpart_is_told() {
    let ecosystem = json!({"apps": [
        {
            "name": "Shop", "script": "./tells.js", "args": "one 'two three'", "watch": true,
            "instances": 2, "exec_mode": "cluster", "max_memory_restart": "300M", "kill_timeout": 3000,
            "env": {"A": 1, "API_TOKEN": 7}, "env_production": {"A": "${B} {c}", "API_TOKEN": "hunter2 {x}"},
        },
        {"name": "tool", "script": "npm", "args": "start"},
        {"name": 7},
    ]});
    let d = with(&[("shop/ecosystem.config.json", &ecosystem.to_string())]);
    let file = path(&d, "shop/ecosystem.config.json");
    let words = ["import", "pm2", &file, "--host", "Shop=shop.test", "--env", "production"];
    let told: Value = serde_json::from_str(&d.ok(&[&words[..], &["--json"]].concat())).unwrap();
    let ids: Vec<_> = told["took"].as_array().unwrap().iter().map(|app| &app["id"]).collect();
    assert_eq!(ids, ["shop", "tool"]);
    assert_eq!(told["took"][0]["keys"]["env"]["A"], "********");
    assert_eq!(told["took"][0]["sealed"], json!(["API_TOKEN"]));
    stands_nowhere(&d, "shop", "hunter2");
    let left = told["left"].to_string();
    for what in ["`watch`", "it has no `script`", "its host", "name as id"] {
        assert!(left.contains(what), "{what}: {left}");
    }
    let seen = d.get("shop.test", "/").json();
    assert_eq!(seen["args"], json!(["one", "two three"]));
    assert_eq!(seen["env"]["A"], "${B} {c}");
    assert_eq!(seen["env"]["API_TOKEN"], "hunter2 {x}");
    let shown = d.ok(&["app", "show", "shop"]);
    for line in ["instances = 2", "memory = \"300MiB\"", "signal = \"SIGINT\"", "name = \"Shop\""] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn programs_are_not_run_to_be_imported() {
    let d = with(&[(
        "shop/ecosystem.config.js",
        "require('node:fs').writeFileSync(`${__dirname}/ran`, '');\n\
         module.exports = { apps: [{ script: 'tells.js' }] };",
    )]);
    let file = path(&d, "shop/ecosystem.config.js");
    let refused = d.cli(&["import", "pm2", &file]);
    assert_ne!(refused.status, 0);
    let command = format!("node -p 'JSON.stringify(require(\"{file}\"))'");
    assert!(refused.stderr.contains(&command), "{refused:?}");
    assert!(!d.dir.path().join("shop/ran").exists());
    // The command makes what is imported.
    let script = format!("{command} > \"$0\"");
    let made = path(&d, "made.json");
    let status = std::process::Command::new("sh").args(["-c", &script, &made]).status();
    assert!(status.expect("sh").success());
    d.ok(&["import", "pm2", &made, "--directory", &path(&d, "shop"), "--host", "x.test"]);
    assert_eq!(d.get("x.test", "/").status, 200);
}

#[test]
fn an_app_that_cannot_be_is_left_in_the_servers_words_and_the_others_are_added() {
    let apps = json!({"apps": [
        {"name": "main", "script": "tells.js"},
        {"name": "taken", "script": "tells.js"},
        {"name": "bad", "script": "tells.js", "user": "no such user!"},
        {"name": "good", "script": "tells.js"},
    ]});
    let d = with(&[("shop/apps.json", &apps.to_string())]);
    let file = path(&d, "shop/apps.json");
    let hosts = ["--host", "taken=main.test", "--host", "good=good.test"];
    for how in [&["--dry-run"][..], &[]] {
        let output = d.cli(&[&["import", "pm2", &file], &hosts[..], how].concat());
        assert_eq!(output.status, 1, "{output:?}");
        for words in [
            "app `main` is there already",
            "already belongs to app `main`",
            "no name of a user",
            "1 app ",
        ] {
            assert!(output.stdout.contains(words), "{words}: {output:?}");
        }
    }
    assert_eq!(d.get("good.test", "/").status, 200);
    assert!(d.get("main.test", "/pid").text().parse::<u32>().is_ok(), "still the file's");
    assert_eq!(d.cli(&["app", "show", "taken"]).status, 1);
}

#[test]
fn what_is_to_be_added_must_not_be_there() {
    let d = with(&[]);
    let api = d.api("admin");
    let body = json!({"add": {"new": {"hosts": ["new.test"], "upstream": "http://127.0.0.1:1"}}});
    assert_eq!(api.ask("POST", "/v1/apply", &[], &body).status, 200);
    let again = api.ask("POST", "/v1/apply", &[], &body);
    assert!(again.status == 412 && again.text().contains("was there before"), "{}", again.text());
}

#[test]
fn secrets_that_come_with_apps_are_sealed_or_refused_without_a_word_of_them() {
    let d = with(&[]);
    let api = d.api("admin");
    let new = |secrets: Value| {
        let app = json!({
            "hosts": ["new.test"], "directory": path(&d, "shop"), "secrets": ["K"],
            "command": ["node", "tells.js"],
        });
        json!({"add": {"new": app}, "secrets": secrets})
    };
    let wrong = [
        json!({"other": {"K": "hunter2"}}),
        json!({"new": {"A B": "hunter2"}}),
        json!({"new": {"K": "hunter2\u{0}"}}),
        json!({"new": "hunter2"}),
        json!({"new": {"K": ["hunter2"]}}),
    ];
    for secrets in wrong {
        let refused = api.ask("POST", "/v1/apply", &[], &new(secrets));
        assert_eq!(refused.status, 422, "{}", refused.text());
        assert!(!refused.text().contains("hunter2"), "{}", refused.text());
    }
    let good = new(json!({"new": {"K": "hunter2"}}));
    assert_eq!(api.ask("POST", "/v1/apply?dry_run=true", &[], &good).status, 200);
    assert_eq!(api.get("/v1/apps/new/secrets").json(), json!([]));
    let added = api.ask("POST", "/v1/apply", &[], &good);
    let revision = &added.json()[0]["revision"];
    let tag = format!("If-Match: \"{revision}\"");
    let keys = json!({"name": "New"});
    let patched = api.ask("PATCH", "/v1/apps/new/definition", &[&tag], &keys);
    assert_eq!(patched.status, 200, "the revision is the app's: {}", patched.text());
    assert_eq!(d.get("new.test", "/").json()["env"]["K"], "hunter2");
    stands_nowhere(&d, "new", "hunter2");
}

#[test]
fn the_apps_of_a_nocobase_get_programs_of_their_own() {
    let server = Postgres::shared();
    let database = server.database();
    server.sql(&database, TABLE);
    server.sql(
        &database,
        r#"INSERT INTO applications (name, "displayName", cname, pinned, options) VALUES
            ('crm', 'Customers ${X}', 'CRM.test', true,
             '{"autoStart": false, "authManager": {"jwt": {"secret": "s{e}c ${r} et"}},
               "database": {"database": "crm_db", "password": "p\"w", "logging": false}}'),
            ('a_shop', NULL, NULL, NULL, NULL),
            ('Bad Name', E'two\nlines', 'not a host', false, '[]'),
            ('evil', E'\x1b[2J', '*', false, '{"autoStart": "x", "database": 5}'),
            ('huge', 'x', 'huge.test', false, to_json(repeat('x', 100000)));"#,
    );
    let d = with(&[]);
    let shop = path(&d, "shop");
    let more = [
        "--directory",
        &shop,
        "--domain",
        "apps.test",
        "--env",
        "APP_KEY={id}-key",
        "--",
        "node",
        "tells.js",
        "start",
    ];
    let tried = nocobase(&d, &database, &[&["--dry-run"], &more[..]].concat());
    assert!(tried.status == 0 && tried.stdout.contains("3 apps could be added"), "{tried:?}");
    let added = nocobase(&d, &database, &more);
    assert_eq!(added.status, 0, "{added:?}");
    let told = added.stdout + &added.stderr;
    assert!(
        !told.contains('\u{1b}') && !told.contains("s{e}c") && !told.contains("p\\\"w"),
        "{told}"
    );
    for left in ["app \"Bad Name\"", "app \"huge\": its options", "domain \"*\"", "autoStart"] {
        assert!(told.contains(left), "{left}: {told}");
    }

    let seen = d.get("crm.test", "/").json();
    let env = &seen["env"];
    assert_eq!(seen["args"], json!(["start"]));
    for (name, value) in [
        ("APP_HOST", "127.0.0.1"),
        ("APP_PUBLIC_PATH", "/"),
        ("DB_DATABASE", "crm_db"),
        ("DB_PASSWORD", "p\"w"),
        ("APP_KEY", "s{e}c ${r} et"),
        ("APP_AES_SECRET_KEY_PATH", "storage/apps/crm/aes_key.dat"),
        ("DB_USER", "doorbell"),
        ("DB_DIALECT", "postgres"),
        ("API_CLIENT_STORAGE_PREFIX", "NOCOBASE_crm_"),
    ] {
        assert_eq!(env[name], value, "{name}");
    }
    assert_eq!(env["DB_HOST"].as_str(), server.folder().to_str());
    assert!(told.contains("    sealed: APP_KEY, DB_PASSWORD\n"), "{told}");
    stands_nowhere(&d, "crm", "p\\\"w");
    stands_nowhere(&d, "crm", "s{e}c");
    assert!(told.contains("left app \"crm\": --env APP_KEY: it has one of its own"), "{told}");
    assert_eq!(d.status("crm")["name"], "Customers ${X}");
    assert_eq!(
        (&d.status("crm")["pinned"], &d.status("a_shop")["pinned"]),
        (&true.into(), &Value::Null)
    );
    let other = d.get("a_shop.apps.test", "/").json();
    assert_eq!(other["env"]["DB_DATABASE"], "a_shop");
    assert_eq!(other["env"]["APP_KEY"], "a_shop-key");
}

#[test]
fn an_app_of_a_nocobase_with_a_schema_is_in_the_main_apps_database() {
    let server = Postgres::shared();
    let database = server.database();
    server.sql(&database, TABLE);
    server.sql(
        &database,
        r#"INSERT INTO applications (name, cname, options) VALUES ('schem', 'schem.test',
            '{"dbConnType": "new_schema", "database": {"schema": "of_its_own"}}');"#,
    );
    let d = with(&[]);
    let shop = path(&d, "shop");
    let program = ["--directory", &shop, "--env", "APP_KEY=k", "--", "node", "tells.js"];
    let added = nocobase(&d, &database, &program);
    assert!(added.status == 0 && added.stdout.contains("1 app was added"), "{added:?}");
    let seen = d.get("schem.test", "/").json();
    let main = database.split('?').next().and_then(|address| address.rsplit('/').next());
    assert_eq!(seen["env"]["DB_DATABASE"].as_str(), main, "{database}");
    assert_eq!(seen["env"]["DB_SCHEMA"], "of_its_own");
}

#[test]
fn the_apps_of_a_nocobase_share_the_main_apps_program() {
    let server = Postgres::shared();
    let database = server.database();
    server.sql(
        &database,
        r#"CREATE ROLE reader LOGIN; CREATE SCHEMA nb; GRANT USAGE ON SCHEMA nb TO reader;
        CREATE TABLE nb.nb_applications (name varchar PRIMARY KEY, display_name varchar, cname varchar,
            options jsonb);
        GRANT SELECT ON nb.nb_applications TO reader;
        INSERT INTO nb.nb_applications VALUES ('crm', 'Customers', 'crm.test', '{"autoStart": true}'),
            ('two', '', '', NULL), ('No-Id', '', '', NULL);"#,
    );
    let d = with(&[]);
    let tells = format!(
        "directory = {:?}\ncommand = [\"node\", \"tells.js\"]\nhosts = [\"nb.test\"]",
        path(&d, "shop")
    );
    d.rewrite(&format!("{}[app.nb]\n{tells}\n", node("main", "")));
    d.ok(&["reload"]);
    let reader = database.replace("doorbell@", "reader@");
    let lost = nocobase(&d, &reader, &["--shared-with", "nb", "--table-prefix", "nb_"]);
    assert!(lost.status == 1 && lost.stderr.contains("say --schema nb"), "{lost:?}");
    let more = ["--shared-with", "nb", "--table-prefix", "nb_", "--schema", "nb"];
    let added = nocobase(&d, &reader, &more);
    assert!(added.status == 0 && added.stdout.contains("2 apps were added"), "{added:?}");
    assert!(added.stdout.contains("left app \"No-Id\": ids have a-z"), "{added:?}");
    assert_eq!(d.get("crm.test", "/x").json()["app"], "crm");
    assert_eq!(d.get("any.test", "/apps/two/").json()["app"], "two");
    assert_eq!(d.status("crm")["shared_with"], "nb");
}

#[test]
fn a_nocobase_on_mariadb_is_read_too() {
    let server = MariaDb::shared();
    server.sql(
        r#"CREATE DATABASE nocobase CHARACTER SET utf8mb4;
        CREATE USER reader@localhost; GRANT SELECT ON nocobase.* TO reader@localhost;
        CREATE TABLE nocobase.applications (name varchar(255) PRIMARY KEY, displayName varchar(255),
            cname varchar(255), pinned tinyint(1), options json);
        INSERT INTO nocobase.applications VALUES
            ('crm', 'Kundinnen "Ü"', 'crm.test', 1, '{"database": {"password": "p w", "charset": "x"}}'),
            ('shop', NULL, NULL, NULL, NULL);"#,
    );
    let d = with(&[]);
    let shop = path(&d, "shop");
    let address = server.address("reader").replace("/?", "/nocobase?");
    let program = ["--directory", &shop, "--domain", "apps.test"];
    let program = [&program[..], &["--env", "APP_KEY={id}-key", "--", "node", "tells.js"]].concat();
    let refused = nocobase(&d, &address, &[&["--schema-per-app"], &program[..]].concat());
    assert!(refused.stderr.contains("is for PostgreSQL"), "{refused:?}");
    let added = nocobase(&d, &address, &program);
    assert!(added.status == 0 && added.stdout.contains("2 apps were added"), "{added:?}");
    let seen = d.get("crm.test", "/").json();
    let env = &seen["env"];
    for (name, value) in [
        ("DB_DIALECT", MariaDb::dialect()),
        ("DB_DATABASE", "crm"),
        ("DB_PASSWORD", "p w"),
        ("DB_USER", "reader"),
    ] {
        assert_eq!(env[name], value, "{name}");
    }
    assert_eq!(d.status("crm")["name"], "Kundinnen \"Ü\"");
    assert_eq!(d.get("shop.apps.test", "/").json()["env"]["DB_DATABASE"], "shop");
    // Its table stands in the database that the address names.
    let elsewhere = server.address("reader").replace("/?", "/information_schema?");
    let lost = nocobase(&d, &elsewhere, &program);
    assert!(lost.status == 1 && lost.stderr.contains("say --schema nocobase"), "{lost:?}");
}

#[test]
fn what_cannot_be_read_is_told_and_shows_no_password() {
    let server = Postgres::shared();
    let d = with(&[("shop/empty.json", "")]);
    let empty = server.database();
    let nowhere = "postgres://u:hunter2@127.0.0.1:1/d";
    for (address, words) in [
        (&*empty, "has no table `applications`"),
        (nowhere, "cannot read the database of NocoBase"),
        ("mysql://u:hunter2@127.0.0.1:1/d", "cannot read the database of NocoBase"),
        ("mssql://u:hunter2@h/d", "no address of a database"),
        ("sqlite:/hunter2", "is read from PostgreSQL"),
        ("postgres://u:hunter2@h/d?x=hunter2", "unknown"),
    ] {
        let output = nocobase(&d, address, &["--shared-with", "main"]);
        assert!(output.status == 1 && output.stderr.contains(words), "{words}: {output:?}");
        assert!(!output.stderr.contains("hunter2"), "{output:?}");
    }
    for file in ["shop/empty.json", "shop/none.json", "shop"] {
        let output = d.cli(&["import", "pm2", &path(&d, file)]);
        assert_eq!(output.status, 1, "{output:?}");
    }
    let huge = path(&d, "huge.json");
    fs::write(&huge, vec![b' '; 5 << 20]).expect("a file");
    let output = d.cli(&["import", "pm2", &huge]);
    assert!(output.stderr.contains("more than"), "{output:?}");
    let neither = nocobase(&d, &empty, &[]);
    assert!(neither.stderr.contains("--shared-with"), "{neither:?}");
}
