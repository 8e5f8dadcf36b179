//! The database of an app, as the variables that NocoBase reads.
//!
//! What the app's row does not say is as NocoBase decides it: the main app's server, user, schema and names of
//! columns, without its prefix of tables; and a database of the app's own name, or a schema in the main app's.

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
    /// What the main app says of its tables (`DB_SCHEMA`, `DB_TABLE_PREFIX`, `DB_UNDERSCORED`).
    pub(super) schema: Option<String>,
    pub(super) has_prefix: bool,
    pub(super) is_underscored: bool,
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
        let connection = options.get("dbConnType").and_then(Value::as_str);
        let is_schema = self.are_schemas || connection == Some("new_schema");
        let mut variables = self.usual(name, &said, is_schema);
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
                    "it is not taken: the program may have a variable for it (--env)",
                ),
            }
        }
        let secret = own_secret(options).map(|secret| ("APP_KEY".to_owned(), secret.to_owned()));
        variables.extend(secret);
        variables
    }

    /// What holds unless the app says otherwise.
    fn usual(
        &self,
        name: &str,
        said: &Map<String, Value>,
        is_schema: bool,
    ) -> Vec<(String, String)> {
        let main = &self.main;
        // Which the main app's file `.env` would give them else.
        let mut usual: Vec<(&str, String)> = Vec::new();
        usual.extend(self.has_prefix.then(|| ("DB_TABLE_PREFIX", String::new())));
        usual.extend(self.is_underscored.then(|| ("DB_UNDERSCORED", true.to_string())));
        let differs = |key: &str, from: &str| {
            said.get(key).and_then(plain).is_some_and(|value| value != from)
        };
        let port = main.port.to_string();
        // A password is for its own server and user; it is sent nowhere else.
        let is_elsewhere = differs("host", &main.host)
            || differs("port", &port)
            || differs("username", &main.user);
        let is_another = differs("dialect", main.dialect);
        if is_elsewhere || is_another {
            usual.push(("DB_PASSWORD", String::new()));
        } else if let Some(password) = &self.password {
            usual.push(("DB_PASSWORD", password.clone()));
        }
        if is_another {
            // Of another kind of server the main app's address says nothing.
            return usual.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        }
        usual.extend([
            ("DB_DIALECT", main.dialect.to_owned()),
            ("DB_HOST", main.host.clone()),
            ("DB_PORT", port),
            ("DB_USER", main.user.clone()),
        ]);
        let own = || name.to_owned();
        let database = if is_schema { main.database.clone() } else { own() };
        let schema = if self.are_schemas { Some(own()) } else { self.schema.clone() };
        let schema = schema.filter(|_| main.dialect == "postgres");
        usual.push(("DB_DATABASE", database));
        usual.extend(schema.map(|schema| ("DB_SCHEMA", schema)));
        usual.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// The app's own secret: an empty one is none to NocoBase either.
pub(super) fn own_secret(options: &Map<String, Value>) -> Option<&str> {
    let secret = options.get("authManager").and_then(|auth| auth["jwt"]["secret"].as_str());
    secret.filter(|secret| !secret.is_empty())
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
impl Databases {
    /// Those of a main app on PostgreSQL that says nothing of its tables.
    pub(super) fn example(password: &str) -> Self {
        let main = Server {
            dialect: "postgres",
            host: "db.test".into(),
            port: 5432,
            user: "nb".into(),
            database: "nocobase".into(),
        };
        let (schema, has_prefix, is_underscored) = (None, false, false);
        let password = Some(password.to_owned());
        Self { main, password, are_schemas: false, schema, has_prefix, is_underscored }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(all: &Databases, options: &Value) -> Map<String, Value> {
        let Value::Object(options) = options else { panic!("no table") };
        let found = all.variables(&mut Intake::default(), "app", "crm", options);
        found.into_iter().map(|(name, value)| (name, value.into())).collect()
    }

    fn variables(database: &Value) -> Map<String, Value> {
        of(&Databases::example("main's"), &json!({ "database": database }))
    }

    #[test]
    fn a_new_schema_is_in_the_main_apps_database() {
        let said = json!({"dbConnType": "new_schema", "database": {"schema": "schem"}});
        let variables = of(&Databases::example("main's"), &said);
        assert_eq!(
            (&variables["DB_DATABASE"], &variables["DB_SCHEMA"]),
            (&json!("nocobase"), &json!("schem"))
        );
        let said = json!({"dbConnType": "new_connection", "database": {"database": "elsewhere"}});
        assert_eq!(of(&Databases::example("main's"), &said)["DB_DATABASE"], "elsewhere");
    }

    #[test]
    fn an_app_has_the_main_apps_schema_and_columns_and_not_its_prefix() {
        let schema = Some("nbs".to_owned());
        let main = Databases {
            schema,
            has_prefix: true,
            is_underscored: true,
            ..Databases::example("main's")
        };
        let variables = of(&main, &json!({}));
        assert_eq!(variables["DB_DATABASE"], "crm");
        assert_eq!(variables["DB_SCHEMA"], "nbs");
        assert_eq!(variables["DB_TABLE_PREFIX"], "");
        assert_eq!(variables["DB_UNDERSCORED"], "true");
    }

    #[test]
    fn an_empty_secret_is_none() {
        let options = json!({"authManager": {"jwt": {"secret": ""}}});
        assert_eq!(of(&Databases::example("main's"), &options).get("APP_KEY"), None);
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
        // Empty, lest the program takes it from the folder.
        assert_eq!(elsewhere["DB_PASSWORD"], "");
        assert_eq!(elsewhere["DB_HOST"], "other.test");
        assert_eq!(elsewhere["DB_UNDERSCORED"], "true");
        let other = variables(&json!({"dialect": "sqlite", "storage": "/x.db"}));
        let all = json!({"DB_DIALECT": "sqlite", "DB_STORAGE": "/x.db", "DB_PASSWORD": ""});
        assert_eq!(Value::Object(other), all);
        let same = variables(&json!({"host": "db.test", "port": 5432, "username": null}));
        assert_eq!(same["DB_PASSWORD"], "main's");
    }
}
