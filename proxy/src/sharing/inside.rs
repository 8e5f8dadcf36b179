//! Who is who inside of a program that answers for several apps.

use std::{borrow::Cow, sync::Arc};

use doorbell_config::name::AppId;

use super::selectors::{self, Certain, MAIN};
use crate::{
    app::{App, Table},
    gate::Gate,
};

impl App {
    /// Whether its instance answers for other apps too.
    #[must_use]
    pub fn shares_instance(&self) -> bool {
        self.sharing.is_some() || self.gate.sharers.are_there()
    }

    /// Whether other apps are answered for by its own instance.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.sharing.is_none() && self.gate.sharers.are_there()
    }

    /// Whose instance answers for it: its own, or that of another app.
    fn program(&self) -> (&AppId, &Gate) {
        match &self.sharing {
            Some(sharing) => (sharing.with(), &sharing.gate),
            None => (&self.spec.id, &self.gate),
        }
    }

    /// Whether apps of the program that answers for it are told apart as those of a NocoBase are.
    #[must_use]
    pub fn is_told_by_folders(&self) -> bool {
        self.program().1.sharers.are_told_by_folders()
    }

    /// What an instance that serves several apps calls this one, for `X-App`.
    ///
    /// The app that has it is told only to a NocoBase, which knows it by one name, and chooses by the domain else.
    #[must_use]
    pub fn name_inside(&self) -> Option<&str> {
        match &self.sharing {
            Some(_) => Some(self.spec.id.as_str()),
            None => self.is_told_by_folders().then_some(MAIN),
        }
    }
}

impl Table {
    /// The app that the program which answers for this one knows by a name, if it is among ours.
    #[must_use]
    pub fn inside(&self, app: &App, name: &str) -> Option<&Arc<App>> {
        let program = app.program().0;
        let is_program = name == MAIN && app.is_told_by_folders();
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
        if !app.is_told_by_folders() {
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
