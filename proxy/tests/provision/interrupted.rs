//! Killed between any two steps, and at any moment: what comes after finds its way, and nothing is left.
//!
//! Who is killed is this binary again, with one test of it, which is told by variables what to do.

use std::{
    env,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use doorbell_config::{name::AppId, spec::DatabaseSpec};
use doorbell_proxy::provision::{Adopt, Removed, Step, provisioner};
use rustix::process::{Signal, getpid, kill_process};

use crate::{
    client::{read, write},
    rig::{Kind, Rig, app, owner, secret, url},
};

/// More steps than there are.
const NEVER: usize = 99;

/// What is killed.
#[tokio::test]
#[ignore = "run by others, with what it is to do in its environment"]
async fn child() {
    let variable = |name: &str| env::var(format!("PROVISION_{name}")).unwrap();
    let server = url(&variable("URL"));
    let spec = match &*variable("KIND") {
        "PostgresSchema" => DatabaseSpec::NewSchema(server),
        _ => DatabaseSpec::NewDatabase(server),
    };
    let owner = owner(&AppId::parse(&variable("APP")).unwrap());
    let until: usize = variable("UNTIL").parse().unwrap();
    let steps = AtomicUsize::new(0);
    let told = |_: Step| {
        if steps.fetch_add(1, Ordering::Relaxed) == until {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    };
    let provisioner = provisioner(&spec);
    match &*variable("DO") {
        "provision" => {
            drop(provisioner.provision(&owner, &secret(), Adopt::No, &told).await.unwrap());
        }
        _ => drop(provisioner.remove(&owner, &told).await.unwrap()),
    }
}

/// The child, before it is started.
fn doing(what: &str, rig: &Rig, app: &AppId, until: usize) -> Command {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "interrupted::child", "--ignored"]);
    child.stdout(Stdio::null()).stderr(Stdio::null());
    child.env("PROVISION_URL", rig.spec.url().reveal());
    child.env("PROVISION_KIND", format!("{:?}", rig.kind));
    child.env("PROVISION_APP", app.as_str());
    child.env("PROVISION_UNTIL", until.to_string());
    child.env("PROVISION_DO", what);
    child
}

/// Whether it was killed before this step, rather than done.
fn is_killed(what: &str, rig: &Rig, app: &AppId, until: usize) -> bool {
    let status = doing(what, rig, app, until).status().unwrap();
    assert!(status.success() || status.code().is_none(), "{what}, step {until}: {status}");
    !status.success()
}

async fn making_is_taken_up(rig: Rig) {
    for until in 0.. {
        let (first, second) = (owner(&app("killed")), owner(&app("killed")));
        let was_killed = is_killed("provision", &rig, &first.app, until);
        let connection = rig.provision(&first).await.unwrap();
        write(&connection, "whole").await;
        assert_eq!(rig.remove(&first).await.unwrap(), Removed::All);
        assert_eq!(rig.left_of(&first.app), "", "after step {until}");
        // Or it is not wanted any more.
        is_killed("provision", &rig, &second.app, until);
        rig.remove(&second).await.unwrap();
        assert_eq!(rig.left_of(&second.app), "", "after step {until}");
        if !was_killed {
            assert!(until >= 2, "there were steps");
            return;
        }
    }
}

async fn removing_is_taken_up(rig: Rig) {
    for until in 0.. {
        let owner = owner(&app("unmade"));
        write(&rig.provision(&owner).await.unwrap(), "old").await;
        let was_killed = is_killed("remove", &rig, &owner.app, until);
        let removed = rig.remove(&owner).await.unwrap();
        assert_eq!(removed == Removed::Nothing, !was_killed, "after step {until}");
        assert_eq!(rig.left_of(&owner.app), "", "after step {until}");
        // Or the app is made after all: whole, or what was there.
        let connection = rig.provision(&owner).await.unwrap();
        write(&connection, "kept").await;
        is_killed("remove", &rig, &owner.app, until);
        let connection = rig.provision(&owner).await.unwrap();
        if until == 0 {
            assert_eq!(read(&connection).await, ["kept"]);
        }
        rig.remove(&owner).await.unwrap();
        assert_eq!(rig.left_of(&owner.app), "", "after step {until}");
        if !was_killed {
            assert!(until >= 2, "there were steps");
            return;
        }
    }
}

async fn any_moment_is_as_good(rig: Rig) {
    for round in 0..8 {
        let owner = owner(&app("moment"));
        for what in ["provision", "remove"] {
            let mut child = doing(what, &rig, &owner.app, NEVER).spawn().unwrap();
            tokio::time::sleep(Duration::from_millis(10 + 12 * round)).await;
            child.kill().unwrap();
            child.wait().unwrap();
            if what == "provision" {
                rig.provision(&owner).await.unwrap();
            }
        }
        rig.remove(&owner).await.unwrap();
        assert_eq!(rig.left_of(&owner.app), "", "round {round}");
    }
}

macro_rules! on_each {
    ($($name:ident)*) => {
        mod postgres_database { $(#[tokio::test] async fn $name() { super::$name(super::Rig::new(super::Kind::PostgresDatabase)).await })* }
        mod postgres_schema { $(#[tokio::test] async fn $name() { super::$name(super::Rig::new(super::Kind::PostgresSchema)).await })* }
        mod mariadb { $(#[tokio::test] async fn $name() { super::$name(super::Rig::new(super::Kind::MariaDb)).await })* }
        mod sqlite { $(#[tokio::test] async fn $name() { super::$name(super::Rig::new(super::Kind::Sqlite)).await })* }
    };
}

on_each! { making_is_taken_up removing_is_taken_up any_moment_is_as_good }
