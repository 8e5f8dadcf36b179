//! The normal form of paths: each rule once, and what holds for every path.

use std::borrow::Cow;

use doorbell_config::path::{BadPath, normalize, normalize_target};
use proptest::prelude::*;

#[test]
fn a_normal_path_is_borrowed() {
    for path in ["/", "/a/b.c/..d/.e/f..", "/a//b/", "/%2F%5C%C3%A9", "/;a=1:@!$&'()*+,=[x]~-_"] {
        assert!(matches!(normalize(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
    }
}

#[test]
fn different_spellings_of_one_path_become_one() {
    for (path, normal) in [
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/.", "/"),
        ("/a/..", "/"),
        ("/%2e/a", "/a"),
        ("/a/%2E%2e/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a//../b", "/a/b"),
        ("/%61%7E%2d", "/a~-"),
        ("/%2f%5c%e9", "/%2F%5C%E9"),
        ("/a%252e%252e/b", "/a%252e%252e/b"),
        ("/é", "/%C3%A9"),
        ("/{x}|\"<>^`", "/%7Bx%7D%7C%22%3C%3E%5E%60"),
    ] {
        assert_eq!(normalize(path).unwrap(), normal, "{path}");
    }
}

#[test]
fn what_software_reads_differently_is_refused() {
    for (path, why) in [
        ("", BadPath::NotAbsolute),
        ("a", BadPath::NotAbsolute),
        ("*", BadPath::NotAbsolute),
        ("/%", BadPath::BrokenEscape),
        ("/%4", BadPath::BrokenEscape),
        ("/%zz", BadPath::BrokenEscape),
        ("/%+1", BadPath::BrokenEscape),
        ("/%00", BadPath::ForbiddenCharacter),
        ("/\0", BadPath::ForbiddenCharacter),
        ("/a b", BadPath::ForbiddenCharacter),
        ("/a\\b", BadPath::ForbiddenCharacter),
        ("/a\r\n", BadPath::ForbiddenCharacter),
        ("/\x7f", BadPath::ForbiddenCharacter),
        ("/a#b", BadPath::ForbiddenCharacter),
        ("/a?b", BadPath::ForbiddenCharacter),
        ("/..", BadPath::AboveRoot),
        ("/a/../../b", BadPath::AboveRoot),
        ("/%2e%2e/b", BadPath::AboveRoot),
    ] {
        assert_eq!(normalize(path), Err(why), "{path:?}");
    }
}

#[test]
fn a_query_is_never_touched() {
    for (target, path, query) in [
        ("/a?b=%2e/../c", "/a", Some("b=%2e/../c")),
        ("/a/../b?x=%7e", "/b", Some("x=%7e")),
        ("/a?", "/a", Some("")),
        ("/a??", "/a", Some("?")),
        ("/./a", "/a", None),
    ] {
        let normal = normalize_target(target).unwrap();
        assert_eq!((normal.path(), normal.query()), (path, query), "{target}");
        assert_eq!(normal.as_str().len(), path.len() + query.map_or(0, |query| query.len() + 1));
    }
    for target in ["/a?b c", "/a?\r", "/a?b#c", "?a", "/..?a"] {
        assert!(normalize_target(target).is_err(), "{target:?}");
    }
}

/// Paths that are rich in what matters: slashes, dots, escapes.
fn paths() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => Just("/".to_owned()),
        2 => Just(".".to_owned()),
        1 => "%2[eEfF]|%5[cC]|%[0-9a-fA-F]{2}|%25",
        1 => "[a-z]",
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4096, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_normal_form_is_stable_ascii_and_free_of_dot_segments(path in paths()) {
        if let Ok(normal) = normalize(&path) {
            prop_assert!(matches!(normalize(&normal), Ok(Cow::Borrowed(_))), "{}", normal);
            prop_assert!(normal.starts_with('/'));
            prop_assert!(normal.bytes().all(|b| b.is_ascii_graphic() && b != b'\\'));
            prop_assert!(normal.split('/').all(|segment| segment != "." && segment != ".."));
            prop_assert!(!normal.to_ascii_lowercase().contains("%2e"));
        }
    }

    #[test]
    fn escaping_an_unreserved_character_changes_nothing(path in "(/[a-z.~_-]{0,4}){1,6}", at in 1_usize..20) {
        let mut escaped = path.clone();
        if let Some(byte) = path.as_bytes().get(at).filter(|b| **b != b'/') {
            escaped.replace_range(at..=at, &format!("%{byte:02x}"));
        }
        prop_assert_eq!(normalize(&escaped).ok(), normalize(&path).ok());
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = normalize_target(&text);
    }
}
