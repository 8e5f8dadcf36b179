//! What loading a large configuration costs: 100,000 apps in one file, 10,000 included files.
//! Budget: a few seconds.

use std::{fmt::Write, fs, path::Path};

use divan::Bencher;
use doorbell_config::file::{load, load_text};

fn main() {
    divan::main();
}

fn app(number: usize) -> String {
    format!(
        "[app.app-{number}]\nhosts = [\"app-{number}.example.com\"]\ncommand = [\"node\", \
         \"server.js\", \"--port={{port}}\"]\ndirectory = \"/srv/app-{number}\"\nready = {{ http = \
         \"/healthz\", status = 200 }}\nenv = {{ TOKEN = \"abc\" }}\n\n"
    )
}

#[divan::bench(args = [1_000, 100_000], sample_count = 3)]
fn one_file(bencher: Bencher<'_, '_>, apps: usize) {
    let mut text = String::new();
    for number in 0..apps {
        write!(text, "{}", app(number)).expect("a string takes everything");
    }
    bencher.with_inputs(|| text.clone()).bench_values(|text| {
        let config = load_text(Path::new("/etc/doorbell/doorbell.toml"), text, &|_| None);
        assert_eq!(config.expect("the config is right").apps.len(), apps);
    });
}

#[divan::bench(args = [10_000], sample_count = 3)]
fn included_files(bencher: Bencher<'_, '_>, files: usize) {
    let folder = std::env::temp_dir().join(format!("doorbell-load-{}", std::process::id()));
    fs::create_dir_all(folder.join("apps")).expect("a temporary folder can be made");
    for number in 0..files {
        let file = folder.join(format!("apps/{number:05}.toml"));
        fs::write(file, app(number)).expect("a temporary file can be written");
    }
    let main = folder.join("doorbell.toml");
    fs::write(&main, "include = [\"apps/*.toml\"]\n").expect("a temporary file can be written");
    bencher.bench_local(|| {
        let config = load(&main, &|_| None);
        assert_eq!(config.expect("the config is right").apps.len(), files);
    });
    fs::remove_dir_all(folder).expect("the temporary folder can be removed");
}

/// Every app of a large file is wrong in two places.
#[divan::bench(args = [100_000], sample_count = 1)]
fn one_file_full_of_problems(bencher: Bencher<'_, '_>, apps: usize) {
    let mut text = String::new();
    for number in 0..apps {
        let app =
            app(number).replace("directory", "directry").replace("status = 200", "status = 9");
        write!(text, "{app}").expect("a string takes everything");
    }
    bencher.with_inputs(|| text.clone()).bench_values(|text| {
        let problems = load_text(Path::new("/etc/doorbell/doorbell.toml"), text, &|_| None);
        assert_eq!(problems.expect_err("the config is wrong").0.len(), apps * 2);
    });
}
