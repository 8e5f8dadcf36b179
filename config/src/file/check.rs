//! Holds a file's tree against the [`Shape`]: every unknown key, wrong type and bad value at once.
//!
//! It fills in the environment on the way, and takes out what is wrong, so that what is left can be
//! read into the types and the rest of the checks see as much as possible.

use std::{borrow::Cow, collections::BTreeSet, num::ParseFloatError, ops::Range};

use toml::{
    Spanned,
    de::{DeArray, DeInteger, DeTable, DeValue},
};

use super::{
    environment::{Braces, Environment, Wrong, expand},
    format::Format,
    shape::{Map, Shape, Table, listed},
    source::{Finding, Findings, Place},
    text::FromText,
};
use crate::{name::NameError, spec::Template};

/// A key that apps of one kind alone have, though others might as well.
const SHARED_WITH: &str = "shared_with";

/// The keys that were taken out, by dotted path from where the check began.
pub(super) type Broken = BTreeSet<String>;

/// One check of one tree.
pub(super) struct Check<'a> {
    pub(super) file: usize,
    pub(super) environment: &'a Environment<'a>,
    pub(super) findings: &'a mut Findings,
    pub(super) broken: Broken,
    /// Where the check began, for words.
    pub(super) inside: Vec<String>,
    /// Keys from there.
    pub(super) path: Vec<String>,
    /// Whether strings here are not to be shown.
    pub(super) is_secret: bool,
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Bad,
}

impl Check<'_> {
    /// Checks a table and takes out of it what is wrong.
    pub(super) fn table(
        &mut self,
        table: &mut DeTable<'_>,
        place: &Range<usize>,
        shape: &Table,
    ) -> Verdict {
        let mut bad = Vec::new();
        for (key, value) in table.iter_mut() {
            let Some(shape) = shape.keys.get(key.get_ref().as_ref()) else {
                self.unknown_key(key, shape);
                if shape.is_secret {
                    self.findings.hide(Place { file: self.file, span: value.span() });
                }
                bad.push(key.get_ref().to_string());
                continue;
            };
            if self.at(key.get_ref(), |check| check.value(value, shape)) == Verdict::Bad {
                bad.push(key.get_ref().to_string());
            }
        }
        self.take_out(table, &bad);
        let is_there = |key: &String| table.contains_key(key.as_str()) || bad.contains(key);
        let missing: Vec<_> = shape.required.iter().filter(|key| !is_there(key)).collect();
        for key in &missing {
            let help = format!("add `{key} = ...` here");
            self.found(place, format!("`{key}` is missing"), Some(help));
        }
        let is_whole = shape.required.iter().all(|key| table.contains_key(key.as_str()));
        if is_whole { Verdict::Good } else { Verdict::Bad }
    }

    /// An app that is no table.
    pub(super) fn expected_app(&mut self, value: &Spanned<DeValue<'_>>, how: &str) -> Verdict {
        let found = type_words(value.get_ref());
        let help = Some(how.to_owned());
        self.found(&value.span(), format!("expected a table, found {found}"), help);
        Verdict::Bad
    }

    fn map(&mut self, table: &mut DeTable<'_>, shape: &Map) -> Verdict {
        let was_secret = self.is_secret;
        self.is_secret |= shape.is_secret;
        let mut bad = Vec::new();
        for (key, value) in table.iter_mut() {
            let name = key.get_ref();
            let checked = shape.key.map_or(Ok(()), |format| (format.check)(name));
            if let Err(error) = &checked {
                self.wrong_text(&key.span(), error);
            }
            let verdict = self.at(name, |check| check.value(value, &shape.value));
            if verdict == Verdict::Bad || checked.is_err() {
                bad.push(name.to_string());
            }
        }
        self.take_out(table, &bad);
        self.is_secret = was_secret;
        Verdict::Good
    }

    fn value(&mut self, value: &mut Spanned<DeValue<'_>>, shape: &Shape) -> Verdict {
        let span = value.span();
        match (shape, value.get_mut()) {
            (Shape::OneOf(shapes), inner) => {
                match shapes.iter().find(|shape| is_of_type(shape, inner)) {
                    Some(shape) => self.value(value, shape),
                    None => self.wrong_type(&span, shape, inner),
                }
            }
            (Shape::Table(shape), DeValue::Table(table)) => self.table(table, &span, shape),
            (Shape::Map(shape), DeValue::Table(table)) => self.map(table, shape),
            (Shape::List(shape), DeValue::Array(list)) => self.list(list, shape),
            (Shape::Text(_) | Shape::Word(_), DeValue::String(text)) => {
                self.text(&span, text, shape)
            }
            (Shape::Integer(min, max), DeValue::Integer(number)) => {
                self.integer(&span, number, *min, *max)
            }
            (Shape::Number(min, max), DeValue::Integer(number)) => {
                self.number(&span, number.as_str().parse(), *min, *max)
            }
            (Shape::Number(min, max), DeValue::Float(number)) => {
                self.number(&span, number.as_str().parse(), *min, *max)
            }
            (Shape::Bool, DeValue::Boolean(_)) => Verdict::Good,
            (shape, inner) => self.wrong_type(&span, shape, inner),
        }
    }

    /// Takes out the items that are wrong, so that the others can still be looked at.
    fn list(&mut self, list: &mut DeArray<'_>, shape: &Shape) -> Verdict {
        let items = std::mem::replace(list, DeArray::new()).into_iter();
        let before = items.len();
        let good = |mut item| (self.value(&mut item, shape) == Verdict::Good).then_some(item);
        *list = items.filter_map(good).collect();
        if list.len() < before {
            self.broken.insert(self.path.join("."));
        }
        Verdict::Good
    }

    fn text(&mut self, span: &Range<usize>, text: &mut Cow<'_, str>, shape: &Shape) -> Verdict {
        let format = match shape {
            Shape::Text(format) => *format,
            _ => None,
        };
        if self.is_secret || format.is_some_and(|format| format.is_secret) {
            self.findings.hide(Place { file: self.file, span: inside_quotes(span) });
        }
        let is_template = format.is_some_and(is_template);
        let braces = if is_template { Braces::Template } else { Braces::Plain };
        match expand(text, self.environment, braces) {
            None => {}
            Some(Ok(expanded)) => *text = Cow::Owned(expanded),
            Some(Err(wrong)) => {
                wrong.iter().for_each(|wrong| self.wrong_reference(span, wrong));
                return Verdict::Bad;
            }
        }
        if let Shape::Word(words) = shape {
            return self.word(span, text, words);
        }
        match format.map_or(Ok(()), |format| (format.check)(text)) {
            Ok(()) => Verdict::Good,
            Err(error) => {
                self.wrong_text(span, &error);
                Verdict::Bad
            }
        }
    }

    fn word(&mut self, span: &Range<usize>, text: &str, words: &[String]) -> Verdict {
        if words.iter().any(|word| word == text) {
            return Verdict::Good;
        }
        let help = match closest(text, words.iter().map(String::as_str)) {
            Some(word) => format!("did you mean \"{word}\"?"),
            None => format!("write {}", listed(words)),
        };
        self.found(span, format!("not one of {}", listed(words)), Some(help));
        Verdict::Bad
    }

    fn integer(
        &mut self,
        span: &Range<usize>,
        number: &DeInteger<'_>,
        min: i64,
        max: i64,
    ) -> Verdict {
        let value = i64::from_str_radix(number.as_str(), number.radix());
        if value.is_ok_and(|value| (min..=max).contains(&value)) {
            return Verdict::Good;
        }
        let range = match (min, max) {
            (min, i64::MAX) => format!("{min} or more"),
            (min, max) => format!("{min} to {max}"),
        };
        self.found(span, "number out of range", Some(format!("write a number of {range}")));
        Verdict::Bad
    }

    fn number(
        &mut self,
        span: &Range<usize>,
        number: Result<f64, ParseFloatError>,
        min: f64,
        max: f64,
    ) -> Verdict {
        if number.is_ok_and(|value| (min..=max).contains(&value)) {
            return Verdict::Good;
        }
        let help = format!("write a number of {min} to {max}, such as 1.5");
        self.found(span, "number out of range", Some(help));
        Verdict::Bad
    }

    fn unknown_key(&mut self, key: &Spanned<Cow<'_, str>>, shape: &Table) {
        let name = shown(key.get_ref());
        let place = match self.section() {
            path if path.is_empty() => "at the top of the file".to_owned(),
            path => format!("in `{path}`"),
        };
        let is_of_http = name == SHARED_WITH && self.section().starts_with("tcp.");
        let help = match closest(key.get_ref(), shape.keys.keys().map(String::as_str)) {
            _ if is_of_http => "only an app that speaks HTTP shares a program: `[app.<id>]`".into(),
            Some(known) => format!("did you mean `{known}`?"),
            None => {
                let keys: Vec<_> = shape.keys.keys().map(|key| format!("`{key}`")).collect();
                format!("known here: {}", keys.join(", "))
            }
        };
        self.found(&key.span(), format!("unknown key `{name}` {place}"), Some(help));
    }

    fn wrong_type(&mut self, span: &Range<usize>, shape: &Shape, value: &DeValue<'_>) -> Verdict {
        let (expected, actual) = (shape.words(), type_words(value));
        let help = self.example(shape, value);
        self.found(span, format!("expected {expected}, found {actual}"), help);
        // Nothing in it is looked at, so nothing else would say that it is secret.
        let is_secret = match shape {
            Shape::Map(map) => map.is_secret,
            Shape::Table(table) => table.is_secret,
            _ => false,
        };
        if self.is_secret || is_secret {
            self.findings.hide(Place { file: self.file, span: span.clone() });
        }
        Verdict::Bad
    }

    /// What to write where the type is wrong, without repeating a value.
    fn example(&self, shape: &Shape, value: &DeValue<'_>) -> Option<String> {
        Some(match (shape, value) {
            (Shape::List(item), DeValue::String(_)) if is_command(item) => {
                "write the program and each argument as a string of its own: `[\"node\", \
                 \"server.js\"]`"
                    .into()
            }
            (Shape::List(_), _) => "write it in brackets: `[\"...\"]`".into(),
            (Shape::OneOf(shapes), _) => {
                return shapes.first().and_then(|shape| self.example(shape, value));
            }
            (Shape::Text(_) | Shape::Word(_), DeValue::Array(_)) => {
                "write one string, without brackets".into()
            }
            (Shape::Text(Some(format)), _) if !is_template(format) => {
                format!("write {} in quotes", format.meaning)
            }
            (Shape::Text(_), _) => "put it into quotes".into(),
            (Shape::Word(words), _) => format!("write {}", listed(words)),
            (Shape::Integer(..) | Shape::Number(..), DeValue::String(_)) => {
                "write it without quotes".into()
            }
            (Shape::Integer(..) | Shape::Number(..), _) => return None,
            (Shape::Bool, _) => "write true or false, without quotes".into(),
            (Shape::Map(_), _) => "write `{ NAME = \"value\" }`".into(),
            (Shape::Table(_), _) => {
                format!("write `[{}]` above the keys that belong to it", self.section())
            }
        })
    }

    fn wrong_text(&mut self, span: &Range<usize>, error: &NameError) {
        let (message, help) = error.parts();
        self.found(span, message, help.map(str::to_owned));
    }

    fn wrong_reference(&mut self, span: &Range<usize>, wrong: &Wrong) {
        let (message, help) = match wrong {
            Wrong::Unset(name) => (
                format!("environment variable `{name}` is not set"),
                format!("set it, or give a text instead: `${{{name}:-text}}`"),
            ),
            Wrong::Unclosed => (
                "`${` without `}`".to_owned(),
                "write `${NAME}`, or `$${` for a literal `${`".to_owned(),
            ),
            Wrong::BadName => (
                "`${...}` without the name of an environment variable".to_owned(),
                "write `${NAME}` with letters, digits and `_`, or `$${` for a literal `${`"
                    .to_owned(),
            ),
        };
        self.found(span, message, Some(help));
    }

    /// The keys down to here, for words.
    fn section(&self) -> String {
        let path: Vec<_> = self.inside.iter().chain(&self.path).map(|key| shown(key)).collect();
        path.join(".")
    }

    fn found(&mut self, span: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        let place = Place { file: self.file, span: span.clone() };
        self.findings.push(Finding { help, ..Finding::error(place, message) });
    }

    fn at(&mut self, key: &str, check: impl FnOnce(&mut Self) -> Verdict) -> Verdict {
        self.path.push(key.to_owned());
        let verdict = check(self);
        self.path.pop();
        verdict
    }

    fn take_out(&mut self, table: &mut DeTable<'_>, bad: &[String]) {
        for key in bad {
            table.remove(key.as_str());
            let path = self.path.iter().chain([key]).cloned().collect::<Vec<_>>();
            self.broken.insert(path.join("."));
        }
    }
}

/// A key that anybody may have written, fit for a message.
fn shown(key: &str) -> String {
    key.chars().filter(|c| !c.is_control()).take(60).collect()
}

/// Whether the format's strings have placeholders.
fn is_template(format: &Format) -> bool {
    format.name == <Template as FromText>::FORMAT
}

fn is_of_type(shape: &Shape, value: &DeValue<'_>) -> bool {
    matches!(
        (shape, value),
        (Shape::Table(_) | Shape::Map(_), DeValue::Table(_))
            | (Shape::List(_), DeValue::Array(_))
            | (Shape::Text(_) | Shape::Word(_), DeValue::String(_))
            | (Shape::Integer(..) | Shape::Number(..), DeValue::Integer(_))
            | (Shape::Number(..), DeValue::Float(_))
            | (Shape::Bool, DeValue::Boolean(_))
    )
}

fn type_words(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn is_command(item: &Shape) -> bool {
    matches!(item, Shape::Text(Some(format)) if is_template(format))
}

/// The known word that was probably meant.
pub(super) fn closest<'k>(text: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let text = text.to_lowercase().replace('-', "_");
    known
        .map(|word| (strsim::jaro_winkler(&text, &word.replace('-', "_")), word))
        .filter(|(likeness, _)| *likeness > 0.82)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

fn inside_quotes(span: &Range<usize>) -> Range<usize> {
    span.start + 1..span.end.saturating_sub(1).max(span.start + 1)
}
