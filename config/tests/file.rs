//! Config text in, problems or a config out.
//!
//! Each `bad/*.toml` has beside it the text of its problems. `BLESS=1 cargo test -p
//! doorbell-config --test file` writes these texts anew: read the difference before committing it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use doorbell_config::{
    file::load,
    problem::{Colour, Problems},
};

/// The environment that fixtures may refer to.
fn environment(name: &str) -> Option<String> {
    match name {
        "DOMAIN" => Some("example.com".into()),
        "TOKEN" => Some("hunter2{port}".into()),
        "SECRET_HOST" => Some("hunter2 hunter2".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn fixtures(name: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder(name))
        .expect("the fixtures are there")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// What is told of a fixture, with paths relative to its folder.
fn told(path: &Path) -> String {
    let result = load(path, &environment);
    let (mut problems, config) = match result {
        Ok(config) => (Problems(config.warnings.clone()), Some(config)),
        Err(problems) => (problems, None),
    };
    let root = folder("");
    let short = |text: &str| text.replace(&format!("{}", root.display()), "");
    for problem in &mut problems.0 {
        problem.file = short(&problem.file.display().to_string()).into();
        problem.note = problem.note.as_deref().map(short);
        problem.help = problem.help.as_deref().map(short);
    }
    let text = problems.render(Colour::Never);
    assert!(config.is_none() || !path.starts_with(folder("bad")), "{}: no problem", path.display());
    text
}

#[test]
fn every_bad_fixture_tells_what_its_text_says() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut different = Vec::new();
    for path in fixtures("bad") {
        let text = told(&path);
        let expected = path.with_extension("txt");
        if bless {
            fs::write(&expected, &text).expect("the fixtures can be written");
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            different.push(format!("{}:\n{text}", path.display()));
        }
        assert!(!text.contains("hunter2"), "a secret is told: {text}");
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn every_good_fixture_loads_without_a_word() {
    for path in fixtures("good") {
        let config = load(&path, &environment).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(config.warnings, [], "{}", path.display());
    }
}
