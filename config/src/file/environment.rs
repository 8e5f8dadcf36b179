//! `${NAME}` in the strings of the file.
//!
//! `${NAME}` is the environment variable, which must be set; `${NAME:-text}` is `text` when the
//! variable is unset or empty; `$${` is a literal `${`. Any other `$` is itself. Values are taken
//! as they are: braces from the environment never become placeholders.

use super::literal::{literal, literal_template};

/// Reads an environment variable. Set to what is no Unicode counts as unset.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What is wrong with a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// `${` without `}`.
    Unclosed,
    /// Not a name.
    BadName,
    /// Not set, and no text instead. The name is no secret; the value would be.
    Unset(String),
}

/// What braces in values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Braces {
    /// Nothing.
    Plain,
    /// The string is a template: double them.
    Template,
}

/// The string with all references replaced, or every wrong one; `None` if it has none.
pub(super) fn expand(
    text: &str,
    environment: &Environment<'_>,
    braces: Braces,
) -> Option<Result<String, Vec<Wrong>>> {
    if !text.contains("${") {
        return None;
    }
    let mut out = String::new();
    let mut wrong = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        rest = &reference[2..];
        if let Some(before) = before.strip_suffix('$') {
            out += before;
            out += if braces == Braces::Template { "${{" } else { "${" };
            // The brace that closes it is literal too.
            if let Some((inner, after)) =
                rest.split_once('}').filter(|_| braces == Braces::Template)
            {
                out += inner;
                out += "}}";
                rest = after;
            }
            continue;
        }
        out += before;
        let Some((inner, after)) = rest.split_once('}') else {
            wrong.push(Wrong::Unclosed);
            break;
        };
        rest = after;
        match value(inner, environment) {
            Ok(value) if braces == Braces::Template => {
                out += &value.replace('{', "{{").replace('}', "}}");
            }
            Ok(value) => out += &value,
            Err(error) => wrong.push(error),
        }
    }
    out += rest;
    Some(if wrong.is_empty() { Ok(out) } else { Err(wrong) })
}

/// The string with all references replaced, as it is to be written where there is no environment: what came
/// from there means nothing, and `$${` stays. A wrong reference stays too.
pub(super) fn settled(text: &str, environment: &Environment<'_>, is_template: bool) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out += before;
        rest = after;
        let value = after.split_once('}').filter(|_| !before.ends_with('$'));
        match value.and_then(|(inner, after)| Some((value_of(inner, environment)?, after))) {
            Some((value, after)) => {
                out += &if is_template { literal_template(&value) } else { literal(&value) };
                rest = after;
            }
            None => out += "${",
        }
    }
    out + rest
}

fn value_of(inner: &str, environment: &Environment<'_>) -> Option<String> {
    value(inner, environment).ok()
}

fn value(inner: &str, environment: &Environment<'_>) -> Result<String, Wrong> {
    let (name, instead) = match inner.split_once(":-") {
        Some((name, instead)) => (name, Some(instead)),
        None => (inner, None),
    };
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if !is_name {
        return Err(Wrong::BadName);
    }
    match (environment(name), instead) {
        (Some(value), Some(instead)) if value.is_empty() => Ok(instead.into()),
        (Some(value), _) => Ok(value),
        (None, Some(instead)) => Ok(instead.into()),
        (None, None) => Err(Wrong::Unset(name.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str, braces: Braces) -> Option<Result<String, Vec<Wrong>>> {
        let environment = |name: &str| match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            "BRACES" => Some("a{port}b".to_owned()),
            _ => None,
        };
        expand(text, &environment, braces)
    }

    #[test]
    fn references_are_replaced_and_other_dollars_stay() {
        for (text, expected) in [
            ("${HOST}", "example.com"),
            ("a.${HOST}:${NONE:-80}", "a.example.com:80"),
            ("${EMPTY:-x}${EMPTY}", "x"),
            ("${NONE:-}", ""),
            ("$${HOST} ${HOST}", "${HOST} example.com"),
            ("$$ $5 ${HOST}", "$$ $5 example.com"),
        ] {
            assert_eq!(expanded(text, Braces::Plain), Some(Ok(expected.into())), "{text}");
        }
        assert_eq!(expanded("$HOST $$", Braces::Plain), None);
    }

    #[test]
    fn values_bring_no_placeholders_into_a_template() {
        assert_eq!(expanded("{id}${BRACES}", Braces::Template), Some(Ok("{id}a{{port}}b".into())));
        assert_eq!(expanded("$${port}", Braces::Template), Some(Ok("${{port}}".into())));
    }

    #[test]
    fn every_wrong_reference_is_told() {
        let wrong = vec![Wrong::Unset("A".into()), Wrong::BadName, Wrong::Unclosed];
        assert_eq!(expanded("${A} ${1} ${B", Braces::Plain), Some(Err(wrong)));
    }
}
