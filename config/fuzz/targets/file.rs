//! A config file: whatever stands in it, it loads or its problems are told.
#![no_main]

use std::path::Path;

use doorbell_config::{file::load_text, problem::Colour};

libfuzzer_sys::fuzz_target!(|text: String| {
    // Files of the machine are not for a fuzzer to read.
    if text.contains("include") {
        return;
    }
    let environment = |name: &str| (name == "NAME").then(|| "value".to_owned());
    match load_text(Path::new("/nowhere/doorbell.toml"), text, &environment) {
        Ok(config) => assert!(config.sources.len() == 1),
        Err(problems) => assert!(!problems.render(Colour::Never).is_empty()),
    }
});
