//! The database of an app, as the variables that NocoBase reads.
//!
//! What the app's row does not say is as NocoBase decides it: the main app's server and user, and a database of the
//! app's own name, or a schema in the main app's.

use doorbell_config::nocobase::Server;
use serde_json::{Map, Value};

use crate::cli::import::intake::{Intake, shown};

/// Keys of an app's database, and their variables.
const VARIABLES: &[(&str, &str)] = &[
    ("dialect", "DB_DIALECT"),
    ("host", "DB_HOST"),
    ("port", "DB_PORT"),
    ("username", "DB_USER"),
    ("password", "DB_PASSWORD"),
    ("database", "DB_DATABASE"),
    ("schema", "DB_SCHEMA"),
    ("storage", "DB_STORAGE"),
    ("tablePrefix", "DB_TABLE_PREFIX"),
    ("underscored", "DB_UNDERSCORED"),
];

/// What apps' databases have in common.
pub(super) struct Databases {
    pub(super) main: Server,
    pub(super) password: Option<String>,
    /// Whether apps have schemas, and no databases.
    pub(super) are_schemas: bool,
}

impl Databases {
    /// The variables of the app of this name: its database, and its secret if it has one.
    pub(super) fn variables(
        &self,
        intake: &mut Intake,
        from: &str,
        name: &str,
        options: &Map<String, Value>,
    ) -> Vec<(String, String)> {
        let said = match options.get("database") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(said)) => said.clone(),
            Some(_) => {
                intake.leave(format!("{from}: database"), "it is no object");
                Map::new()
            }
        };
        let mut variables = self.usual(name, &said);
        for (key, value) in &said {
            let variable = VARIABLES.iter().find(|(known, _)| known == key);
            match (variable, plain(value)) {
                (_, None) if value.is_null() => {}
                (Some((_, variable)), Some(value)) => {
                    variables.retain(|(name, _)| name != variable);
                    variables.push(((*variable).into(), value));
                }
                _ => intake.leave(
                    format!("{from}: database option {}", shown(key)),
                    "NocoBase has no variable for it",
                ),
            }
        }
        let secret = options.get("authManager").and_then(|auth| auth["jwt"]["secret"].as_str());
        variables.extend(secret.map(|secret| ("APP_KEY".to_owned(), secret.to_owned())));
        variables
    }

    /// What holds unless the app says otherwise.
    fn usual(&self, name: &str, said: &Map<String, Value>) -> Vec<(String, String)> {
        let main = &self.main;
        let is_another = said.get("dialect").is_some_and(|dialect| dialect != main.dialect);
        if is_another {
            // Of another kind of server the main app's address says nothing.
            return Vec::new();
        }
        // A password is for its own server and user; it is sent nowhere else.
        let is_elsewhere = ["host", "port", "username"].iter().any(|key| said.contains_key(*key));
        let mut usual = vec![
            ("DB_DIALECT", main.dialect.to_owned()),
            ("DB_HOST", main.host.clone()),
            ("DB_PORT", main.port.to_string()),
            ("DB_USER", main.user.clone()),
        ];
        let (database, schema) = if self.are_schemas {
            (main.database.clone(), Some(name.to_owned()))
        } else {
            (name.to_owned(), None)
        };
        usual.push(("DB_DATABASE", database));
        usual.extend(schema.map(|schema| ("DB_SCHEMA", schema)));
        let password = self.password.clone().filter(|_| !is_elsewhere);
        usual.extend(password.map(|password| ("DB_PASSWORD", password)));
        usual.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn variables(database: &Value) -> Map<String, Value> {
        let main = Server {
            dialect: "postgres",
            host: "db.test".into(),
            port: 5432,
            user: "nb".into(),
            database: "nocobase".into(),
        };
        let all = Databases { main, password: Some("main's".into()), are_schemas: false };
        let Value::Object(options) = json!({ "database": database }) else { panic!("no table") };
        let found = all.variables(&mut Intake::default(), "app", "crm", &options);
        found.into_iter().map(|(name, value)| (name, value.into())).collect()
    }

    #[test]
    fn an_app_that_says_nothing_is_on_the_main_apps_server() {
        assert_eq!(
            Value::Object(variables(&Value::Null)),
            json!({
                "DB_DIALECT": "postgres", "DB_HOST": "db.test", "DB_PORT": "5432", "DB_USER": "nb",
                "DB_DATABASE": "crm", "DB_PASSWORD": "main's",
            })
        );
    }

    #[test]
    fn the_main_apps_password_is_for_its_own_server() {
        let elsewhere = variables(&json!({"host": "other.test", "underscored": true}));
        assert_eq!(elsewhere.get("DB_PASSWORD"), None);
        assert_eq!(elsewhere["DB_HOST"], "other.test");
        assert_eq!(elsewhere["DB_UNDERSCORED"], "true");
        let other = variables(&json!({"dialect": "sqlite", "storage": "/x.db"}));
        assert_eq!(Value::Object(other), json!({"DB_DIALECT": "sqlite", "DB_STORAGE": "/x.db"}));
    }
}
