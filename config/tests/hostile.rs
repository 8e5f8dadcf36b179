//! Whatever stands in the file: problems, never a panic, and each problem points into the file.

use std::path::Path;

use doorbell_config::{file::load_text, problem::Colour};
use proptest::prelude::*;

const FIXTURES: [&str; 4] = [
    include_str!("good/full.toml"),
    include_str!("../src/schema/example.toml"),
    include_str!("bad/wrong_types.toml"),
    include_str!("bad/secrets_are_not_shown.toml"),
];

fn check(text: &str) -> Result<(), TestCaseError> {
    let environment = |name: &str| (name != "MISSING").then(|| "{${x}\u{0}é".to_owned());
    let path = Path::new("/nowhere/doorbell.toml");
    if let Err(problems) = load_text(path, text.to_owned(), &environment) {
        prop_assert!(!problems.0.is_empty());
        let lines = text.split('\n').count();
        for problem in &problems.0 {
            prop_assert!(problem.line <= lines, "{}", problem);
            prop_assert!(problem.excerpt.chars().count() <= 120);
            prop_assert!(!problem.message.contains('\n'));
        }
        prop_assert!(!problems.render(Colour::Always).is_empty());
    }
    Ok(())
}

/// Pieces that lead deep into the reading.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[\\[\\]{}=\"',.#\n$\\\\ é]",
        "\\[(app|server)(\\.[a-z\"]{1,3}){0,2}\\]\n",
        "(hosts|paths|command|env|ready|upstream|listen|include|limits) = ",
        "\"(/|\\*|\\$\\{|\\{|[a-z0-9:.]){0,8}\"",
        "\\$\\{[A-Z]{0,3}(:-)?\\}?",
        "(0x)?[0-9]{1,25}|true|1\\.5|2026-01-01|\"\"\"\n",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn any_mixture_of_pieces_is_answered(pieces in prop::collection::vec(piece(), 0..40)) {
        check(&pieces.concat())?;
    }

    #[test]
    fn a_damaged_file_is_answered(
        which in 0..FIXTURES.len(),
        from in any::<prop::sample::Index>(),
        length in 0..12_usize,
        instead in prop_oneof![Just(String::new()), piece(), any::<char>().prop_map(String::from)],
    ) {
        let mut characters: Vec<char> = FIXTURES[which].chars().collect();
        let from = from.index(characters.len());
        let to = (from + length).min(characters.len());
        characters.splice(from..to, instead.chars());
        check(&characters.into_iter().collect::<String>())?;
    }
}

#[test]
fn deep_nesting_is_answered() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("[app.a]\nhosts = {}1{}", open.repeat(5_000), close.repeat(5_000));
        assert!(load_text(Path::new("/nowhere/d.toml"), text, &|_| None).is_err());
    }
    let dotted = format!("[app.a{}]\nx = 1", ".b".repeat(5_000));
    assert!(load_text(Path::new("/nowhere/d.toml"), dotted, &|_| None).is_err());
}
