//! Pages of the operator's own: files that are read with the config, since who shows them may read
//! none.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use super::Section;
use crate::{
    file::{
        Seen,
        format::FilePath,
        keys::{AppPageKeys, ServerPageKeys},
        text::{At, Text},
    },
    interned::Interned,
    name::ByteSize,
    spec::OwnPages,
};

/// Longest page. Each travels to every proxy.
const MOST: ByteSize = ByteSize(256 << 10);

type Key = Option<At<Text<FilePath>>>;

/// Reads each file once, however many apps show it.
#[derive(Default)]
pub(super) struct Pages {
    read: HashMap<PathBuf, Result<Interned<String>, String>>,
    /// What was looked at, to be watched, with the number of the file that names it.
    pub(super) seen: Vec<(usize, Seen)>,
    known: HashSet<(usize, PathBuf)>,
}

impl Pages {
    pub(super) fn of_server(
        &mut self,
        section: &mut Section<'_>,
        keys: &ServerPageKeys,
    ) -> OwnPages {
        OwnPages {
            waiting: self.page(section, &keys.waiting),
            not_found: self.page(section, &keys.not_found),
            bad_gateway: self.page(section, &keys.bad_gateway),
            unavailable: self.page(section, &keys.unavailable),
            gateway_timeout: self.page(section, &keys.gateway_timeout),
            maintenance: self.page(section, &keys.maintenance),
            asleep: self.page(section, &keys.asleep),
        }
    }

    pub(super) fn of_app(&mut self, section: &mut Section<'_>, keys: &AppPageKeys) -> OwnPages {
        OwnPages {
            waiting: self.page(section, &keys.waiting),
            not_found: None,
            bad_gateway: self.page(section, &keys.bad_gateway),
            unavailable: self.page(section, &keys.unavailable),
            gateway_timeout: self.page(section, &keys.gateway_timeout),
            maintenance: self.page(section, &keys.maintenance),
            asleep: self.page(section, &keys.asleep),
        }
    }

    fn page(&mut self, section: &mut Section<'_>, key: &Key) -> Option<Interned<String>> {
        let key = key.as_ref()?;
        let path = section.resolve(&key.value.0);
        if self.known.insert((section.file, path.clone())) {
            self.seen.push((section.file, Seen::now(path.clone())));
        }
        let text = self.read.entry(path).or_insert_with_key(|path| read(path).map(Into::into));
        match text {
            Ok(text) => Some(text.clone()),
            Err(why) => {
                let help = format!("write the path of an HTML file of at most {MOST}: {why}");
                section.wrong(&key.span, "this page cannot be shown", help);
                None
            }
        }
    }
}

/// The text, or why there is none. What is no plain file is not opened: it might never end.
fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("`{shown}`: {error}");
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("`{shown}` is no file"));
    }
    let mut text = Vec::new();
    let mut file = File::open(path).map_err(failed)?.take(MOST.0 + 1);
    file.read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MOST.0 {
        return Err(format!("`{shown}` is longer"));
    }
    String::from_utf8(text).map_err(|_| format!("`{shown}` is not UTF-8"))
}
