//! `include`: which files, and which folders a watcher needs to see.

use std::{
    collections::HashSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::{
    Raw,
    format::IncludePattern,
    seen::{Seen, Stamp},
    source::{Finding, Place},
    text::{At, Text},
};

/// What makes a path a pattern.
const WILD: [char; 3] = ['*', '?', '['];
/// As a shell does: `*` neither crosses folders nor finds hidden files.
const MATCHING: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

impl Raw {
    /// The included files, each once, in the order of the patterns and inside one by name. The
    /// main file is never among them.
    pub(super) fn find_included(&mut self, patterns: &[At<Text<IncludePattern>>]) -> Vec<Seen> {
        let mut found: Vec<Seen> = Vec::new();
        let mut known: HashSet<_> =
            Stamp::of(&self.sources[0].path).map(Stamp::identity).into_iter().collect();
        for pattern in patterns {
            let text = &pattern.value.0.0;
            let is_pattern = text.contains(WILD);
            let full = self.full_pattern(text);
            if is_pattern {
                self.watched.extend(folders_of(&full).into_iter().map(Seen::now));
            }
            let mut files = self.matching(pattern, &full);
            // What cannot be looked at is kept: it fails when it is read, and is not taken for gone.
            let is_folder = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_dir());
            files.retain(|path| !is_pattern || !is_folder(path));
            files.sort();
            if files.is_empty() {
                self.nothing_included(pattern, is_pattern);
                if !is_pattern {
                    // It may come.
                    self.watched.push(Seen::now(PathBuf::from(&full)));
                }
            }
            let files = files.into_iter().map(Seen::now);
            found.extend(files.filter(|file| file.is_first(&mut known)));
        }
        found
    }

    /// What matches. A folder that cannot be read is a mistake, not an empty folder: the apps in it
    /// would be taken for removed.
    fn matching(&mut self, pattern: &At<Text<IncludePattern>>, full: &str) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for found in glob::glob_with(full, MATCHING).into_iter().flatten() {
            match found {
                Ok(path) => paths.push(path),
                Err(error) if error.error().kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let place = Place { file: 0, span: pattern.span.clone() };
                    let what = format!("cannot read `{}`", error.path().display());
                    self.findings.push(Finding::error(place, what).help(error.error().to_string()));
                }
            }
        }
        paths
    }

    /// The pattern with its folder; the folder's own brackets and stars are no pattern.
    fn full_pattern(&self, text: &str) -> String {
        if Path::new(text).is_absolute() {
            return text.to_owned();
        }
        let folder = glob::Pattern::escape(&self.sources[0].folder().to_string_lossy());
        format!("{}/{text}", folder.trim_end_matches('/'))
    }

    fn nothing_included(&mut self, pattern: &At<Text<IncludePattern>>, is_pattern: bool) {
        let place = Place { file: 0, span: pattern.span.clone() };
        let folder = self.sources[0].folder().display();
        self.findings.push(if is_pattern {
            Finding::warning(place, "no file matches this pattern")
                .help(format!("patterns are relative to `{folder}`"))
        } else {
            Finding::error(place, "this file does not exist")
                .help(format!("paths are relative to `{folder}`"))
        });
    }
}

/// The folders in which a file or folder would have to appear to match the pattern one day: those
/// that all matches have in common, and every one that matches the pattern's own folders so far.
fn folders_of(pattern: &str) -> Vec<PathBuf> {
    let parts: Vec<_> = Path::new(pattern).components().collect();
    let is_wild = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains(WILD);
    let fixed = parts.iter().take_while(|part| !is_wild(part)).count();
    let prefix = |length: usize| parts[..length].iter().collect::<PathBuf>();
    let mut folders = vec![if fixed == 0 { PathBuf::from("/") } else { prefix(fixed) }];
    for length in fixed + 1..parts.len() {
        let matching = glob::glob_with(&prefix(length).to_string_lossy(), MATCHING);
        let found = matching.into_iter().flatten().filter_map(Result::ok);
        folders.extend(found.filter(|path| path.is_dir()));
    }
    folders
}
