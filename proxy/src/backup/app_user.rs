//! Work in places that an app may change, done with the app's rights: whatever it puts there in the midst of
//! it, a link to somebody else's file for instance, leads no further than the app could go by itself.
//!
//! It is done by a thread of this process, which is no wall: the app's user may stop or end that thread, and with it
//! the process. It cannot read its memory, as the kernel lets nobody look into a process that has changed its user.

use std::{
    io,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    thread,
};

use doorbell_config::spec::UserSpec;
use doorbell_supervisor::{Account, AccountError};
use rustix::{
    fs::{Gid, Uid},
    net::sockopt::socket_peercred,
    process::geteuid,
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use serde_json::{Map, Value};

/// Whom an app with these keys runs as, started by the Doorbell behind this socket; `None` if that is us, or if we
/// are not who may become others.
///
/// # Errors
/// If there is no such user here.
pub fn of(keys: &Map<String, Value>, socket: &Path) -> Result<Option<Account>, AccountError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let text = |key: &str| keys.get(key).and_then(Value::as_str).map(str::to_owned);
    match text("user").or_else(|| starter(socket)) {
        Some(name) => Account::find(&UserSpec { name, group: text("group") }),
        None => Ok(None),
    }
}

/// Who runs the Doorbell that listens there, by number; nobody where that is root, or cannot be told.
fn starter(socket: &Path) -> Option<String> {
    let peer = UnixStream::connect(socket).and_then(|peer| Ok(socket_peercred(&peer)?));
    // Where nobody answers, its socket is its own.
    let user = match peer {
        Ok(peer) => peer.uid.as_raw(),
        Err(_) => std::fs::metadata(socket).ok()?.uid(),
    };
    (user != 0).then(|| user.to_string())
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
    use std::{fs, os::unix::fs::PermissionsExt};

    use serde_json::json;

    use super::*;

    #[test]
    fn who_acts_as_another_has_his_rights_and_no_others() {
        if !geteuid().is_root() {
            return;
        }
        let keys = json!({"user": "1"});
        let socket = Path::new("/no/socket");
        let daemon = of(keys.as_object().unwrap(), socket).unwrap().unwrap();
        assert!(of(&Map::new(), socket).unwrap().is_none());
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
