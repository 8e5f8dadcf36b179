//! The files that were read, what was found in them, and how a finding becomes a [`Problem`].
//!
//! Findings point by byte range; lines, columns and excerpts are made at the end, when every secret
//! place is known.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::problem::{Problem, Problems, Severity};

/// Characters of an excerpt.
const EXCERPT: usize = 120;
/// Characters kept before the caret of a line that is shortened.
const BEFORE: usize = 40;

/// One file's text.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// What paths in it are relative to.
    pub(super) folder: PathBuf,
}

impl Source {
    pub(super) fn of_file(path: PathBuf, text: String) -> Self {
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        Self { path, text, folder }
    }

    /// What stands at this place, as written: never the value of an environment variable.
    pub(super) fn written(&self, span: &Range<usize>) -> &str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// The folder that paths in this file are relative to.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// A place in one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) span: Range<usize>,
}

/// What is wrong or odd at a place.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) place: Place,
    pub(super) message: String,
    /// Words about another place.
    pub(super) note: Option<(String, Place)>,
    pub(super) help: Option<String>,
}

impl Finding {
    pub(super) fn error(place: Place, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { severity: Severity::Error, place, message, note: None, help: None }
    }

    pub(super) fn warning(place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, message) }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn note(mut self, words: impl Into<String>, place: Place) -> Self {
        self.note = Some((words.into(), place));
        self
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<Finding>,
    /// Problems of files as a whole.
    of_files: Vec<Problem>,
    /// Texts that excerpts must not show.
    secrets: Vec<Place>,
}

impl Findings {
    pub(super) fn push(&mut self, finding: Finding) {
        self.found.push(finding);
    }

    pub(super) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.found.extend(findings);
    }

    pub(super) fn push_of_file(&mut self, problem: Problem) {
        self.of_files.push(problem);
    }

    pub(super) fn hide(&mut self, place: Place) {
        self.secrets.push(place);
    }

    /// Lines that the findings so far stand on; a broken line makes others stumble.
    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// Keeps of the findings from the `first` on those that `keep` wants.
    pub(super) fn retain_from(&mut self, first: usize, keep: impl Fn(&Finding) -> bool) {
        let later: Vec<_> = self.found.drain(first..).filter(keep).collect();
        self.found.extend(later);
    }

    /// The files that they are about.
    pub(super) fn files(&self) -> BTreeSet<usize> {
        let places = self.found.iter().map(|found| found.place.file);
        let notes = self.found.iter().filter_map(|found| Some(found.note.as_ref()?.1.file));
        places.chain(notes).collect()
    }

    /// All of them in the order of the files, errors and warnings apart.
    pub(super) fn into_problems(mut self, sources: &[Source]) -> (Problems, Vec<Problem>) {
        self.found.sort_by_key(|found| (found.place.file, found.place.span.start));
        self.secrets.sort_by_key(|place| (place.file, place.span.start));
        let lines: Vec<_> = self.files_with_findings(sources.len());
        let lines: Vec<_> = lines
            .into_iter()
            .zip(sources)
            .map(|(is_needed, source)| Lines::of(if is_needed { &source.text } else { "" }))
            .collect();
        let shown = self.found.iter().map(|found| {
            let at = found.place.file;
            let (source, lines_of) = (&sources[at], &lines[at]);
            let (line, column) = lines_of.locate(&source.text, found.place.span.start);
            let (excerpt, caret, length) = self.excerpt(found, source, lines_of);
            let note = found.note.as_ref().map(|(words, place)| {
                let other = &sources[place.file];
                let (line, column) = lines[place.file].locate(&other.text, place.span.start);
                format!("{words} {}:{line}:{column}", other.path.display())
            });
            Problem {
                severity: found.severity,
                file: source.path.clone(),
                line,
                column,
                length,
                excerpt,
                caret,
                message: found.message.clone(),
                note,
                help: found.help.clone(),
            }
        });
        let (errors, warnings): (Vec<_>, Vec<_>) = shown
            .chain(self.of_files.iter().cloned())
            .partition(|problem| problem.severity == Severity::Error);
        (Problems(errors), warnings)
    }

    fn files_with_findings(&self, files: usize) -> Vec<bool> {
        let needed = self.files();
        (0..files).map(|file| needed.contains(&file)).collect()
    }

    /// The finding's first line with secrets blotted out, where in it the caret begins, and its
    /// length; all in characters.
    fn excerpt(&self, found: &Finding, source: &Source, lines: &Lines) -> (String, usize, usize) {
        let span = &found.place.span;
        let line = lines.around(&source.text, span.start);
        let text = &source.text[line.clone()];
        let characters: Vec<(usize, char)> =
            text.char_indices().map(|(at, c)| (line.start + at, c)).collect();
        let caret = characters.iter().take_while(|(at, _)| *at < span.start).count();
        let length = characters[caret..].iter().take_while(|(at, _)| *at < span.end).count();
        let from = if characters.len() > EXCERPT { caret.saturating_sub(BEFORE) } else { 0 };
        let blots = self.blots(found.place.file, &line);
        let shown = characters.iter().skip(from).take(EXCERPT).map(|&(at, c)| {
            if blots.iter().any(|blot| blot.contains(&at)) {
                '*'
            } else if c.is_control() {
                ' '
            } else {
                c
            }
        });
        (shown.collect(), caret - from, length.min(EXCERPT - (caret - from).min(EXCERPT)))
    }

    /// The secret ranges that touch this line.
    fn blots(&self, file: usize, line: &Range<usize>) -> Vec<Range<usize>> {
        // Secrets do not overlap: those before the line end before it too, but for the last.
        let after = self
            .secrets
            .partition_point(|place| (place.file, place.span.end) <= (file, line.start));
        self.secrets[after..]
            .iter()
            .take_while(|place| place.file == file && place.span.start < line.end)
            .map(|place| place.span.clone())
            .collect()
    }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self([0].into_iter().chain(breaks.map(|(at, _)| at + 1)).collect())
    }

    /// Line and column in characters, from 1.
    fn locate(&self, text: &str, at: usize) -> (usize, usize) {
        let line = self.0.partition_point(|&start| start <= at).max(1);
        let before = text.get(self.0[line - 1]..at).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// The line around a place, without its break.
    fn around(&self, text: &str, at: usize) -> Range<usize> {
        let line = self.0.partition_point(|&start| start <= at).max(1);
        let start = self.0[line - 1];
        let end = self.0.get(line).map_or(text.len(), |next| next - 1);
        let end = if text[start..end].ends_with('\r') { end - 1 } else { end };
        start..end
    }
}
