//! Text from elsewhere, written so that a file means it as it is: no `${NAME}` in it asks for the
//! environment, and no brace for a placeholder.

/// A string that takes no placeholders.
#[must_use]
pub fn literal(text: &str) -> String {
    text.replace("${", "$${")
}

/// A string that takes placeholders, such as an argument of `command` or a value of `env`.
#[must_use]
pub fn literal_template(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out += &doubled(before);
        out += "$${";
        // `$${` makes the brace that closes it literal by itself.
        match after.split_once('}') {
            Some((inner, after)) => {
                out += &inner.replace('{', "{{");
                out.push('}');
                rest = after;
            }
            None => rest = after,
        }
    }
    out + &doubled(rest)
}

fn doubled(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::environment::{Braces, expand},
        *,
    };
    use crate::spec::Template;

    fn read(text: &str, braces: Braces) -> String {
        match expand(text, &|_| None, braces) {
            Some(expanded) => expanded.unwrap_or_else(|wrong| panic!("{text}: {wrong:?}")),
            None => text.to_owned(),
        }
    }

    proptest! {
        #[test]
        fn every_text_is_read_back_as_it_was(text in "[${}a:-]{0,12}") {
            prop_assert_eq!(&read(&literal(&text), Braces::Plain), &text);
            let template = Template::parse(&read(&literal_template(&text), Braces::Template));
            prop_assert_eq!(template.unwrap(), Template::text(&text));
        }
    }

    #[test]
    fn what_means_nothing_stays_as_it_is() {
        for text in ["", "plain $5 $$ $HOME", "ä\n"] {
            assert_eq!((literal(text), literal_template(text)), (text.into(), text.into()));
        }
    }
}
