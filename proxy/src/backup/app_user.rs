//! Work in places that an app may change, done with the app's rights: whatever it puts there in the midst of
//! it, a link to somebody else's file for instance, leads no further than the app could go by itself.

use std::{io, thread};

use doorbell_config::spec::UserSpec;
use doorbell_supervisor::{Account, AccountError};
use rustix::{
    fs::{Gid, Uid},
    process::geteuid,
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use serde_json::{Map, Value};

/// Whom an app with these keys runs as; `None` if that is us, or if we are not who may become others.
///
/// # Errors
/// If there is no such user here.
pub fn of(keys: &Map<String, Value>) -> Result<Option<Account>, AccountError> {
    let text = |key: &str| keys.get(key).and_then(Value::as_str).map(str::to_owned);
    match text("user") {
        Some(name) if geteuid().is_root() => {
            Account::find(&UserSpec { name, group: text("group") })
        }
        Some(_) | None => Ok(None),
    }
}

/// Does this as somebody else: on a thread that becomes him for good. Threads that are begun there are his too.
///
/// # Errors
/// If it cannot become him; then nothing is done.
pub fn act_as<T: Send>(
    account: Option<&Account>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let Some(account) = account else { return Ok(work()) };
    let outcome = thread::scope(|scope| {
        let become_him = || -> io::Result<()> {
            let groups: Vec<_> = account.groups().iter().copied().map(Gid::from_raw).collect();
            let (user, group) = (Uid::from_raw(account.user()), Gid::from_raw(account.group()));
            set_thread_groups(&groups)?;
            set_thread_res_gid(group, group, group)?;
            // The last: it takes away what the others need.
            Ok(set_thread_res_uid(user, user, user)?)
        };
        scope.spawn(move || become_him().map(|()| work())).join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use serde_json::json;

    use super::*;

    #[test]
    fn who_acts_as_another_has_his_rights_and_no_others() {
        if !geteuid().is_root() {
            return;
        }
        let keys = json!({"user": "1"});
        let daemon = of(keys.as_object().unwrap()).unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        fs::write(&ours, "secret").unwrap();
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let read = act_as(Some(&daemon), || {
            fs::write(&theirs, "").unwrap();
            // As SQLite does, which reads on a thread of its own.
            thread::scope(|scope| scope.spawn(|| fs::read(&ours)).join().unwrap())
        });
        assert_eq!(read.unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(fs::metadata(&theirs).unwrap().uid(), 1);
        assert!(geteuid().is_root(), "the other threads are who they were");
        assert_eq!(fs::read(&ours).unwrap(), b"secret");
    }
}
