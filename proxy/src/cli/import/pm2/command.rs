//! `script`, `args` and `interpreter` as the command that pm2 makes of them.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use doorbell_config::file::literal_template;
use serde_json::{Map, Value};

use crate::cli::import::words;

/// What pm2 runs by an interpreter, by the end of its name.
const INTERPRETERS: &[(&str, &str)] = &[
    ("js", "node"),
    ("mjs", "node"),
    ("cjs", "node"),
    ("ts", "bun"),
    ("tsx", "bun"),
    ("sh", "bash"),
    ("py", "python3"),
    ("rb", "ruby"),
    ("php", "php"),
    ("pl", "perl"),
    ("coffee", "coffee"),
    ("ls", "lsc"),
];

/// What a script is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// No file: a program that is looked for in `PATH`, or not there yet.
    Absent,
    /// A text, which an interpreter runs.
    Text,
    /// A program.
    Binary,
}

/// What is run, as texts with placeholders.
#[derive(Debug, Default)]
pub(super) struct Command {
    pub(super) words: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// What was not taken of the interpreter.
    pub(super) left: Option<String>,
}

/// The command of an app that runs in this folder.
///
/// # Errors
/// Why there is none.
pub(super) fn of(
    app: &Map<String, Value>,
    folder: &Path,
    look: &dyn Fn(&Path) -> Script,
) -> Result<Command, String> {
    let script = match app.get("script") {
        Some(Value::String(script)) if !script.trim().is_empty() => script.as_str(),
        Some(_) => return Err("its `script` is no text".into()),
        None => return Err("it has no `script`".into()),
    };
    let arguments = list(app, &["args"])?;
    let kind = look(&folder.join(script));
    if kind == Script::Absent && script.contains(char::is_whitespace) {
        return line(script, &arguments);
    }
    let mut command = Command::default();
    let chosen = ["interpreter", "exec_interpreter"].iter().find_map(|key| app.get(*key));
    let interpreter = match chosen {
        None | Some(Value::Null) => by_file(script, kind),
        Some(Value::String(none)) if none == "none" || none.is_empty() => None,
        Some(Value::String(name)) => Some(match name.split_once('@') {
            Some(("node", _)) => {
                command.left =
                    Some("versions of nvm are its own: `node` is what `PATH` finds".into());
                "node"
            }
            _ => name,
        }),
        Some(_) => return Err("its `interpreter` is no text".into()),
    };
    match interpreter {
        Some(interpreter) => {
            command.words.push(literal_template(interpreter));
            let keys = ["interpreter_args", "node_args", "interpreterArgs", "nodeArgs"];
            command.words.extend(list(app, &keys)?);
            command.words.push(literal_template(script));
        }
        // A name without a slash would be looked for in `PATH`.
        None if kind != Script::Absent && !script.contains('/') => {
            command.words.push(format!("./{}", literal_template(script)));
        }
        None => command.words.push(literal_template(script)),
    }
    command.words.extend(arguments);
    Ok(command)
}

/// A script that is a line for the shell, such as `npm start`.
fn line(script: &str, arguments: &[String]) -> Result<Command, String> {
    let line = words::line(script)?;
    if line.command.first().is_some_and(|program| program == words::SHELL) && !arguments.is_empty()
    {
        return Err("its `script` needs a shell and has `args` too: write one line".into());
    }
    let words = line.command.into_iter().chain(arguments.iter().cloned()).collect();
    Ok(Command { words, env: line.env, left: None })
}

fn by_file(script: &str, kind: Script) -> Option<&'static str> {
    let ext = Path::new(script).extension().and_then(|ext| ext.to_str()).unwrap_or_default();
    let known = INTERPRETERS.iter().find(|(known, _)| *known == ext);
    match (known, kind) {
        (Some((_, interpreter)), _) => Some(interpreter),
        // As `bin/www`.
        (None, Script::Text) => Some("node"),
        (None, Script::Binary | Script::Absent) => None,
    }
}

/// Arguments under the first of these keys that is there: a list, or one text.
fn list(app: &Map<String, Value>, keys: &[&str]) -> Result<Vec<String>, String> {
    let Some((key, value)) = keys.iter().find_map(|key| Some((key, app.get(*key)?))) else {
        return Ok(Vec::new());
    };
    let one = |value: &Value| match value {
        Value::String(text) => Some(literal_template(text)),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    };
    let wrong = || format!("its `{key}` is neither a text nor a list of such");
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => words::split(text).map_err(|why| format!("`{key}`: {why}")),
        Value::Array(list) => list.iter().map(one).collect::<Option<Vec<_>>>().ok_or_else(wrong),
        other => one(other).map(|text| vec![text]).ok_or_else(wrong),
    }
}

/// Looks at a file, as far as tells a program from a text.
pub(super) fn look(path: &Path) -> Script {
    const BEGINNING: u64 = 512;
    let path = PathBuf::from(path);
    if !path.is_file() {
        return Script::Absent;
    }
    let mut start = Vec::new();
    match File::open(path).and_then(|file| file.take(BEGINNING).read_to_end(&mut start)) {
        Ok(_) if start.contains(&0) => Script::Binary,
        // What may only be executed is no text for an interpreter.
        Err(_) => Script::Binary,
        Ok(_) => Script::Text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(app: Value, kind: Script) -> Result<Vec<String>, String> {
        let Value::Object(app) = app else { panic!("no table") };
        of(&app, Path::new("/srv"), &|_| kind).map(|command| command.words)
    }

    #[test]
    fn scripts_are_run_as_pm2_runs_them() {
        use Script::{Absent, Binary, Text};
        for (app, kind, expected) in [
            (json!({"script": "a.js"}), Text, &["node", "a.js"][..]),
            (
                json!({"script": "a.py", "interpreter": "/v/bin/python"}),
                Text,
                &["/v/bin/python", "a.py"],
            ),
            (json!({"script": "a.rb", "interpreter": null}), Text, &["ruby", "a.rb"]),
            (json!({"script": "bin/www"}), Text, &["node", "bin/www"]),
            (json!({"script": "server"}), Binary, &["./server"]),
            (json!({"script": "npm", "args": "run start"}), Absent, &["npm", "run", "start"]),
            (json!({"script": "npm start"}), Absent, &["npm", "start"]),
            (json!({"script": "a.js", "interpreter": "none"}), Text, &["./a.js"]),
            (json!({"script": "a.js", "interpreter": "node@18"}), Text, &["node", "a.js"]),
            (
                json!({"script": "/x/{a}.js", "args": ["$B", 1]}),
                Text,
                &["node", "/x/{{a}}.js", "$B", "1"],
            ),
            (json!({"script": "x $A"}), Absent, &["/bin/sh", "-c", "exec x $A"]),
        ] {
            assert_eq!(words(app.clone(), kind).unwrap(), expected, "{app}");
        }
    }

    #[test]
    fn what_is_no_command_is_told() {
        for app in [
            json!({}),
            json!({"script": 1}),
            json!({"script": " "}),
            json!({"script": "a.js", "args": {}}),
            json!({"script": "a.js", "args": ["a", []]}),
            json!({"script": "a.js", "args": "'"}),
            json!({"script": "a.js", "interpreter": 1}),
            json!({"script": "x $A", "args": "b"}),
        ] {
            assert!(words(app.clone(), Script::Absent).is_err(), "{app}");
        }
    }
}
