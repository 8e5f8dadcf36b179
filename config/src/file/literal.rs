//! Text from elsewhere, written so that a file means it as it is: no `${NAME}` in it asks for the
//! environment, and no brace for a placeholder.

use super::environment::{Braces, expand};
use crate::{
    name::AppId,
    spec::{Placeholder, Template, TemplatePart},
};

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

/// What a string that takes placeholders says for the app of this id; `None` where more than that is filled in.
#[must_use]
pub fn plain(text: &str, id: &AppId) -> Option<String> {
    let text = match expand(text, &|_| None, Braces::Template) {
        Some(expanded) => expanded.ok()?,
        None => text.to_owned(),
    };
    let template = Template::parse(&text).ok()?;
    let part = |part: &TemplatePart| match part {
        TemplatePart::Text(text) => Some(text.clone()),
        TemplatePart::Placeholder(Placeholder::Id) => Some(id.app_str().to_owned()),
        TemplatePart::Placeholder(_) => None,
    };
    template.0.iter().map(part).collect()
}

fn doubled(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            let id = AppId::parse("blog").unwrap();
            prop_assert_eq!(plain(&literal_template(&text), &id), Some(text));
        }
    }

    #[test]
    fn what_is_filled_in_later_is_not_plain() {
        let id = AppId::parse("blog").unwrap();
        assert_eq!(plain("{id}-{{x}}", &id).as_deref(), Some("blog-{x}"));
        for filled_in in ["a{port}", "{secret}", "${HOME}", "{", "{what}"] {
            assert_eq!(plain(filled_in, &id), None, "{filled_in}");
        }
    }

    #[test]
    fn what_means_nothing_stays_as_it_is() {
        for text in ["", "plain $5 $$ $HOME", "ä\n"] {
            assert_eq!((literal(text), literal_template(text)), (text.into(), text.into()));
        }
    }
}
