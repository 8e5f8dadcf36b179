//! A path that leads into a folder and never out of it.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

/// Folders in each other, at most.
pub const MOST_DEPTH: usize = 128;

/// A path below a folder: names alone, no `..`, not absolute. Empty is the folder itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InnerPath(Vec<u8>);

impl InnerPath {
    /// Reads a path; a `/` at its end means nothing. `None` if it could lead anywhere else.
    #[must_use]
    pub fn parse(path: &[u8]) -> Option<Self> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let names: Vec<_> = path.split(|byte| *byte == b'/').collect();
        let is_name = |name: &[u8]| {
            !matches!(name, b"" | b"." | b"..") && !name.contains(&0) && name.len() <= 255
        };
        let is_good = names.iter().all(|name| is_name(name)) && names.len() <= MOST_DEPTH;
        is_good.then(|| Self(path.to_owned()))
    }

    /// One name further.
    #[must_use]
    pub fn join(&self, name: &OsStr) -> Self {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        Self(path)
    }

    /// The names on the way.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &OsStr> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(OsStr::from_bytes)
    }

    /// How many these are.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.names().count()
    }

    /// As a path.
    #[must_use]
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0.clone()))
    }

    /// Whether a link that stands here leads out of the folder. Only its text is looked at: what it meets on
    /// its way is not.
    #[must_use]
    pub fn leads_out(&self, target: &Path) -> bool {
        let mut depth = self.depth().saturating_sub(1);
        for component in target.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(_) => depth += 1,
                Component::ParentDir if depth > 0 => depth -= 1,
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
            }
        }
        false
    }
}

impl fmt::Display for InnerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0).escape_debug())
    }
}

impl fmt::Debug for InnerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_lead_out_is_no_inner_path() {
        for good in ["a", "a/b/c", "a/", "..a/b..", "a b/\u{e4}\n"] {
            assert!(InnerPath::parse(good.as_bytes()).is_some(), "{good}");
        }
        let deep = "a/".repeat(MOST_DEPTH + 1);
        for bad in ["", "/", "/a", "../a", "a/../b", "a//b", "./a", "a/.", "a\0b", &deep] {
            assert!(InnerPath::parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn links_are_known_to_lead_out_by_their_text() {
        let at = |path: &str| InnerPath::parse(path.as_bytes()).unwrap();
        for (path, target, out) in [
            ("a", "b", false),
            ("a/b", "../c", false),
            ("a/b", "../../c", true),
            ("a", "..", true),
            ("a", "/etc/passwd", true),
            ("a/b/c", "../../d/../e", false),
            ("a", "b/../../c", true),
        ] {
            assert_eq!(at(path).leads_out(Path::new(target)), out, "{path} -> {target}");
        }
    }
}
