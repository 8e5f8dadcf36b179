//! The path of a request: its normal form is stable, plain ASCII, and free of dot segments.
#![no_main]

use doorbell_config::path::{normalize, normalize_target};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(path) = normalize(text) {
        assert!(path.starts_with('/') && path.is_ascii(), "{path:?}");
        assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{path:?}");
        assert_eq!(normalize(&path).as_deref(), Ok(&*path));
    }
    if let Ok(target) = normalize_target(text) {
        let again = normalize_target(target.as_str()).expect("a normal form is a target");
        assert_eq!(again.as_str(), target.as_str());
        assert!(again.is_unchanged());
        assert_eq!(again.path(), target.path());
    }
});
