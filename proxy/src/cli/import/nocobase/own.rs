//! An app of a NocoBase with a program of its own.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use doorbell_config::{
    file::{literal, literal_template},
    nocobase::{Application, Table},
};
use serde_json::{Map, Value, json};

use super::{
    HOLD, PATIENCE,
    database::{Databases, own_secret},
};
use crate::cli::import::{environment, intake::Intake};

/// Names the file with the key that secrets of an app's are sealed with.
const KEY_FILE: &str = "APP_AES_SECRET_KEY_PATH";

/// What a program is told of its place. Several in one folder are to keep out of each other's way.
const PLACED: [(&str, &str); 7] = [
    ("APP_PORT", "{port}"),
    // Its default listens for everybody.
    ("APP_HOST", "127.0.0.1"),
    ("APP_PUBLIC_PATH", "{base_path}"),
    // What two apps keep in one browser must not be one.
    ("API_CLIENT_STORAGE_PREFIX", "NOCOBASE_{id}_"),
    ("SOCKET_PATH", "storage/gateway-{id}.sock"),
    ("PM2_HOME", "storage/.pm2-{id}"),
    (KEY_FILE, "storage/apps/{id}/aes_key.dat"),
];

/// What the programs of all apps have in common.
pub(super) struct Own {
    /// An absolute path.
    pub(super) directory: String,
    /// With placeholders.
    pub(super) command: Vec<String>,
    /// With placeholders.
    pub(super) env: Vec<(String, String)>,
    pub(super) databases: Databases,
    /// Where the keys are that apps have sealed with, by their names: files below the folder.
    pub(super) key_files: BTreeMap<String, String>,
}

impl Own {
    /// Looks at what there is besides the rows.
    pub(super) fn look_around(&mut self, table: &Table) {
        self.databases.is_underscored = table.is_underscored;
        let folder = Path::new(&self.directory);
        let names = table.applications.iter().map(|row| &row.name);
        self.key_files =
            names.filter_map(|name| Some((name.clone(), key_file(folder, name)?))).collect();
    }

    /// Puts what runs the program into the keys of an app; what it is to find in its environment is returned.
    pub(super) fn put(
        &self,
        intake: &mut Intake,
        from: &str,
        row: &Application,
        options: &Map<String, Value>,
        keys: &mut Map<String, Value>,
    ) -> Map<String, Value> {
        // `/` answers as soon as the port is open, even with the database down.
        let ready = json!({
            "http": "/api/__health_check", "status": 200, "body": "ok", "deadline": PATIENCE
        });
        keys.insert("ready".into(), ready);
        keys.insert("timeouts".into(), json!({ "hold": HOLD }));
        keys.insert("directory".into(), literal(&self.directory).into());
        keys.insert("command".into(), json!(self.command));
        self.variables(intake, from, row, options)
    }

    fn variables(
        &self,
        intake: &mut Intake,
        from: &str,
        row: &Application,
        options: &Map<String, Value>,
    ) -> Map<String, Value> {
        let known = self.databases.variables(intake, from, &row.name, options);
        let mut env = environment::take(intake, from, known);
        env.extend(PLACED.map(|(name, value)| (name.to_owned(), value.into())));
        if let Some(file) = self.key_files.get(&row.name) {
            env.insert(KEY_FILE.into(), literal_template(file).into());
        } else {
            let why = "there is none in `storage` in the folder: one is made when it starts";
            intake.leave(format!("{from}: its key file"), why);
        }
        for (name, value) in &self.env {
            if is_its_own(options, name) {
                let why = "it has one of its own, which it keeps";
                intake.leave(format!("{from}: --env {name}"), why);
            } else {
                env.insert(name.clone(), value.clone().into());
            }
        }
        if !env.contains_key("APP_KEY") {
            let why = "it has the main app's, which Doorbell does not know and cannot make: \
                       say --env APP_KEY, with the key in the environment";
            intake.leave(format!("{from}: its secret"), why);
        }
        let has_password = env.get("DB_PASSWORD").is_some_and(|password| password != "");
        if !has_password && !env.contains_key("DB_STORAGE") {
            let why = "neither the table nor the address has it: say --env DB_PASSWORD, with it in the environment";
            intake.leave(format!("{from}: the password of its database"), why);
        }
        env
    }
}

/// The key file that an app has had as long as the main app served it, below the folder.
fn key_file(folder: &Path, name: &str) -> Option<String> {
    // A name is whatever somebody has written into the table.
    let mut parts = Path::new(name).components();
    let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else { return None };
    ["apps", "environment-variables"]
        .map(|place| format!("storage/{place}/{name}/aes_key.dat"))
        .into_iter()
        .find(|place| folder.join(place).is_file())
}

/// Whether the row itself says this, which nobody else is to have, nor another one in its place.
fn is_its_own(options: &Map<String, Value>, variable: &str) -> bool {
    let said = |key: &str| options.get("database").and_then(|said| said[key].as_str());
    match variable {
        "APP_KEY" => own_secret(options).is_some(),
        "DB_PASSWORD" => said("password").is_some_and(|password| !password.is_empty()),
        _ => false,
    }
}
