//! Who is who inside of a program that answers for several apps.

use std::{borrow::Cow, sync::Arc};

use super::selectors::{self, Certain, MAIN};
use crate::app::{App, Table};

impl Table {
    /// The app that the program which answers for this one knows by a name, if it is among ours.
    #[must_use]
    pub fn inside(&self, app: &App, name: &str) -> Option<&Arc<App>> {
        let (program, gate) = app.program();
        let is_program = name == MAIN && gate.tells_by_folders();
        let found = self.routes.app(if is_program { program.as_str() } else { name })?;
        (found.program().0 == program).then_some(found)
    }

    /// Whether a path leads to another app of the program which answers for this one.
    #[must_use]
    pub fn leads_elsewhere(&self, app: &App, path: &str) -> bool {
        let name = app.name_inside().unwrap_or(app.spec.id.as_str());
        if selectors::leads_elsewhere(path, name) {
            return true;
        }
        if !app.program().1.tells_by_folders() {
            return false;
        }
        let is_elsewhere = |(certain, other): (Certain, Cow<'_, str>)| match certain {
            _ if other == name => false,
            Certain::Yes => true,
            Certain::No => self.inside(app, &other).is_some(),
        };
        // Behind two slashes it reads a host first, and then a path that we have not seen.
        path.starts_with("//") || selectors::files_in(path).any(is_elsewhere)
    }
}
