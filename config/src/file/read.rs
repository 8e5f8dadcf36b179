//! One file: text to tree, tree to keys.

use std::{borrow::Cow, fs, path::Path};

use serde::de::{Deserialize, DeserializeOwned};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    Raw, RawApp,
    check::{Broken, Check, Verdict},
    environment::Environment,
    format::IncludePattern,
    keys::{AppKeys, ServerKeys, TcpKeys},
    shape::{FILE, Shape, Table},
    source::{Finding, Place},
    text::{At, FromText, Text},
    unreadable,
};
use crate::{name::AppId, problem::Problem};

/// The file as text.
pub(super) fn text_of(path: &Path) -> Result<String, Box<Problem>> {
    let bytes = fs::read(path)
        .map_err(|error| -> Box<Problem> { unreadable(path, &error.to_string()).into() })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
        unreadable(path, &format!("line {line} is not UTF-8")).into()
    })
}

/// An app in the tree: its id and its keys.
type Entry<'t> = (Spanned<Cow<'t, str>>, Spanned<DeValue<'t>>);

/// The two kinds of tables that are apps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    App,
    Tcp,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Tcp => "tcp",
        }
    }

    /// How one is written.
    fn how(self) -> &'static str {
        match self {
            Self::App => "write `[app.<id>]` above the keys of an app",
            Self::Tcp => "write `[tcp.<id>]` above the keys of a TCP app",
        }
    }

    fn shape(self) -> Option<&'static Table> {
        let Shape::Table(file) = &*FILE else { return None };
        let Some(Shape::Map(apps)) = file.keys.get(self.name()) else { return None };
        let Shape::Table(shape) = &*apps.value else { return None };
        Some(shape)
    }
}

/// Where in the sources the file that is being read stands, and what its strings may refer to.
struct Reader<'a> {
    file: usize,
    environment: &'a Environment<'a>,
}

impl Raw {
    /// Reads the main file; returns what it includes.
    pub(super) fn read_main(
        &mut self,
        environment: &Environment<'_>,
    ) -> Vec<At<Text<IncludePattern>>> {
        let text = std::mem::take(&mut self.sources[0].text);
        let reader = Reader { file: 0, environment };
        let patterns = self.with_tree(&reader, &text, |raw, mut tree| {
            raw.take_apps(&reader, tree.get_mut());
            raw.read_main_tables(&reader, tree)
        });
        self.sources[0].text = text;
        patterns
    }

    fn read_main_tables(
        &mut self,
        reader: &Reader<'_>,
        mut tree: Spanned<DeTable<'_>>,
    ) -> Vec<At<Text<IncludePattern>>> {
        let span = tree.span();
        let mut check = self.check(reader, Vec::new());
        if let Shape::Table(shape) = &*FILE {
            check.table(tree.get_mut(), &span, shape);
        }
        let strip = |key: &String| key.strip_prefix("server.").map(str::to_owned);
        self.server_broken = check.broken.iter().filter_map(strip).collect();
        if let Some(server) = tree.get_mut().remove("server") {
            self.server = self.keys::<ServerKeys>(reader, server).unwrap_or_default();
        }
        let include = tree.get_mut().remove("include");
        include.and_then(|include| self.keys(reader, include)).unwrap_or_default()
    }

    /// Reads the last of the sources, an included file.
    pub(super) fn read_included(&mut self, environment: &Environment<'_>) {
        let file = self.sources.len() - 1;
        let text = std::mem::take(&mut self.sources[file].text);
        let reader = Reader { file, environment };
        self.with_tree(&reader, &text, |raw, mut tree| {
            raw.take_apps(&reader, tree.get_mut());
            for (key, _) in tree.get_ref() {
                let place = Place { file, span: key.span() };
                let finding = Finding::error(
                    place,
                    "an included file holds `[app.<id>]` and `[tcp.<id>]` only",
                );
                raw.findings.push(finding.help("move this to the main file"));
            }
        });
        self.sources[file].text = text;
    }

    /// Parses, and reports what is no TOML. Then `read` sees what could be made out; of what it
    /// finds, lines that are no TOML are left out: they have been told, and mislead.
    fn with_tree<T>(
        &mut self,
        reader: &Reader<'_>,
        text: &str,
        read: impl FnOnce(&mut Self, Spanned<DeTable<'_>>) -> T,
    ) -> T {
        let (tree, errors) = DeTable::parse_recoverable(text);
        let broken = BrokenText::of(reader.file, text, &errors);
        broken.told.iter().cloned().for_each(|error| self.findings.push(error));
        let first = self.findings.len();
        let apps = self.apps.len();
        let out = read(self, tree);
        if !errors.is_empty() {
            self.findings.retain_from(first, |found| broken.is_readable(text, found));
            // What is missing may be what could not be read.
            for app in &mut self.apps[apps..] {
                app.broken.insert(String::new());
            }
            self.server_broken.insert(String::new());
        }
        out
    }

    /// Reads the apps out of a file's tree, in the order they stand in.
    fn take_apps(&mut self, reader: &Reader<'_>, tree: &mut DeTable<'_>) {
        let mut apps = Vec::new();
        for family in [Family::App, Family::Tcp] {
            let found = self.take_family(reader, tree, family);
            apps.extend(found.into_iter().map(|(key, value)| (family, key, value)));
        }
        apps.sort_by_key(|(_, key, _)| key.span().start);
        for (family, key, value) in apps {
            if let Some(shape) = family.shape() {
                self.read_app(reader, family, &key, value, shape);
            }
        }
    }

    fn take_family<'t>(
        &mut self,
        reader: &Reader<'_>,
        tree: &mut DeTable<'t>,
        family: Family,
    ) -> Vec<Entry<'t>> {
        let name = family.name();
        let Some((_, value)) = tree.remove_entry(name) else { return Vec::new() };
        let span = value.span();
        let DeValue::Table(apps) = value.into_inner() else {
            let place = Place { file: reader.file, span };
            let finding = Finding::error(place, "expected a table for each app");
            self.findings.push(finding.help(family.how()));
            return Vec::new();
        };
        apps.into_iter().collect()
    }

    fn read_app(
        &mut self,
        reader: &Reader<'_>,
        family: Family,
        key: &Spanned<Cow<'_, str>>,
        mut value: Spanned<DeValue<'_>>,
        shape: &Table,
    ) {
        let place = Place { file: reader.file, span: key.span() };
        let id = <AppId as FromText>::from_text(key.get_ref());
        if let Err(error) = &id {
            let (message, help) = error.parts();
            let finding = Finding::error(place.clone(), message);
            self.findings.push(finding.help(help.unwrap_or_default()));
        }
        let mut check = self.check(reader, vec![family.name().into(), key.get_ref().to_string()]);
        let span = key.span();
        let verdict = match value.get_mut() {
            DeValue::Table(table) => check.table(table, &span, shape),
            _ => check.expected_app(&value, family.how()),
        };
        let broken = std::mem::take(&mut check.broken);
        if verdict == Verdict::Bad {
            return;
        }
        let keys = match family {
            Family::App => self.keys::<AppKeys>(reader, value).map(|keys| (keys, None)),
            Family::Tcp => self.keys::<TcpKeys>(reader, value).map(|keys| {
                let (keys, entrance) = keys.split();
                (keys, Some(entrance))
            }),
        };
        if let (Ok(id), Some((keys, tcp))) = (id, keys) {
            self.apps.push(RawApp { id, place, keys, tcp, broken });
        }
    }

    fn check<'a>(&'a mut self, reader: &Reader<'a>, inside: Vec<String>) -> Check<'a> {
        Check {
            file: reader.file,
            environment: reader.environment,
            findings: &mut self.findings,
            broken: Broken::new(),
            inside,
            path: Vec::new(),
            is_secret: false,
        }
    }

    /// Reads a checked value into its type. The check lets nothing through that serde refuses; if
    /// it ever does, the author of the file is told all the same.
    fn keys<T: DeserializeOwned>(
        &mut self,
        reader: &Reader<'_>,
        value: Spanned<DeValue<'_>>,
    ) -> Option<T> {
        let span = value.span();
        match <T as Deserialize>::deserialize(ValueDeserializer::from(value)) {
            Ok(keys) => Some(keys),
            Err(error) => {
                let place = Place { file: reader.file, span: error.span().unwrap_or(span) };
                self.findings.push(Finding::error(place, "this cannot be understood"));
                None
            }
        }
    }
}

/// What of a text is no TOML.
struct BrokenText {
    /// The errors worth telling: the first of each line, and of a list that is not closed none
    /// behind the first.
    told: Vec<Finding>,
    /// Where such a list swallows what follows.
    end: usize,
}

impl BrokenText {
    fn of(file: usize, text: &str, errors: &[toml::de::Error]) -> Self {
        let is_unclosed = errors.iter().any(|error| error.message().starts_with("unclosed array"));
        let mut errors: Vec<_> =
            errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
        errors.sort_by_key(|(span, _)| span.start);
        let mut told: Vec<Finding> = Vec::new();
        for (span, message) in errors {
            let start = span.start;
            let last = told.last().map(|last| line_at(text, last.place.span.start));
            if last != Some(line_at(text, start)) {
                let place = Place { file, span };
                told.push(Finding::error(place, format!("not TOML: {message}")));
            }
            if let Some(last) = told.last_mut().filter(|_| is_unclosed && message.contains("array"))
            {
                last.help = Some("is a `]` missing, here or above?".into());
                return Self { told, end: start };
            }
        }
        Self { told, end: text.len() }
    }

    /// Whether the finding is about text that could be read as it was meant.
    fn is_readable(&self, text: &str, found: &Finding) -> bool {
        let line = |found: &Finding| line_at(text, found.place.span.start);
        found.place.span.start <= self.end && self.told.iter().all(|told| line(told) != line(found))
    }
}

/// Where the line of a place begins.
fn line_at(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())]
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |line_break| line_break + 1)
}
