//! Whom an app's processes run as: looked up when they start, so that a user that was made or changed
//! meanwhile is met as it is. Who saves what an app has asks for the same.

use std::{ffi::CString, io, path::PathBuf};

use doorbell_config::spec::UserSpec;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::sys;

/// A user of the machine.
#[derive(Clone, Debug)]
pub struct Account {
    pub(super) who: sys::User,
    pub(super) name: String,
    pub(super) home: PathBuf,
    pub(super) shell: PathBuf,
}

/// Why an app cannot run as its user.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is no such user.
    #[error("there is no user \"{0}\": make it, or change `user`")]
    NoUser(String),
    /// There is no such group.
    #[error("there is no group \"{0}\": make it, or change `group`")]
    NoGroup(String),
    /// We are not who may become others.
    #[error(
        "only root can run an app as user \"{0}\": start Doorbell as root, or leave `user` out"
    )]
    NotRoot(String),
    /// The user database is to blame.
    #[error("cannot look up user \"{0}\": {1}")]
    System(String, io::Error),
}

impl Account {
    /// Looks up whom an app is to become; `None` if that is who we are.
    ///
    /// # Errors
    /// If there is nobody of that name, or we may not become who it is.
    pub fn find(spec: &UserSpec) -> Result<Option<Self>, AccountError> {
        let failed = |error: nix::Error| AccountError::System(spec.name.clone(), error.into());
        let found = match spec.name.parse() {
            Ok(number) => User::from_uid(Uid::from_raw(number)).map_err(failed)?,
            Err(_) => User::from_name(&spec.name).map_err(failed)?,
        };
        let user = found.ok_or_else(|| AccountError::NoUser(spec.name.clone()))?;
        let (own, own_group) = (Uid::effective(), Gid::effective());
        let group = spec.group.as_deref().map(group).transpose()?;
        if own == user.uid && group.is_none_or(|group| group == own_group) {
            return Ok(None);
        }
        if !own.is_root() {
            return Err(AccountError::NotRoot(spec.name.clone()));
        }
        let main = group.unwrap_or(user.gid);
        let name = CString::new(user.name.as_str()).unwrap_or_default();
        let groups = match group {
            // As asked for, and no more.
            Some(group) => vec![group],
            None => getgrouplist(&name, main).map_err(failed)?,
        };
        let groups = groups.into_iter().map(Gid::as_raw).collect();
        let who = sys::User { user: user.uid.as_raw(), group: main.as_raw(), groups };
        Ok(Some(Self { who, name: user.name, home: user.dir, shell: user.shell }))
    }

    /// Its number.
    #[must_use]
    pub fn user(&self) -> u32 {
        self.who.user
    }

    /// The number of its first group.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.who.group
    }

    /// The numbers of all groups that it is in.
    #[must_use]
    pub fn groups(&self) -> &[u32] {
        &self.who.groups
    }
}

fn group(name: &str) -> Result<Gid, AccountError> {
    let failed = |error: nix::Error| AccountError::System(name.to_owned(), error.into());
    let found = match name.parse() {
        Ok(number) => return Ok(Gid::from_raw(number)),
        Err(_) => Group::from_name(name).map_err(failed)?,
    };
    found.map(|group| group.gid).ok_or_else(|| AccountError::NoGroup(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str, group: Option<&str>) -> Result<Option<Account>, AccountError> {
        Account::find(&UserSpec { name: name.to_owned(), group: group.map(str::to_owned) })
    }

    #[test]
    fn accounts_are_found_by_name_and_number() {
        if !Uid::effective().is_root() {
            return;
        }
        let named = find("daemon", None).unwrap().unwrap();
        assert_eq!((named.who.user, named.name.as_str()), (1, "daemon"));
        assert!(named.who.groups.contains(&named.who.group));
        assert_eq!(find("1", None).unwrap().unwrap().who, named.who);
        let grouped = find("daemon", Some("adm")).unwrap().unwrap().who;
        assert_eq!(grouped.groups, [grouped.group]);
        assert!(find("root", None).unwrap().is_none());
    }

    #[test]
    fn who_is_unknown_is_named() {
        let told =
            |outcome: Result<Option<Account>, AccountError>| outcome.unwrap_err().to_string();
        assert!(
            told(find("nobody-of-that-name", None)).contains("no user \"nobody-of-that-name\"")
        );
        assert!(told(find("daemon", Some("no-such-group"))).contains("no group \"no-such-group\""));
    }
}
