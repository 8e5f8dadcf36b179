//! What is special in SQLite: folders.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use doorbell_config::spec::DatabaseSpec;
use doorbell_proxy::provision::{Adopt, ProvisionError, Removed, provisioner};

use crate::rig::{Kind, Rig, app, owner, secret, url};

#[tokio::test]
async fn the_folder_is_private_and_the_marker_beside_it() {
    let rig = Rig::new(Kind::Sqlite);
    let owner = owner(&app("private"));
    let connection = rig.provision(&owner).await.unwrap();
    let folder = Path::new(&connection.name).parent().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder), 0o700);
    let marker = folder.with_extension("marker");
    assert_eq!(mode(&marker), 0o600);
    assert_eq!(fs::read_to_string(marker).unwrap(), format!("{owner}\n"));
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_not_made() {
    let rig = Rig::new(Kind::Sqlite);
    let folder = rig.folder().join("not-mounted");
    let address = url(&format!("sqlite:{}", folder.display()));
    let (server, owner) = (provisioner(&DatabaseSpec::NewDatabase(address)), owner(&app("gone")));
    let error = server.provision(&owner, &secret(), Adopt::No, &|_| {}).await.unwrap_err();
    assert!(matches!(error, ProvisionError::Unreachable { .. }), "{error}");
    assert!(server.remove(&owner, &|_| {}).await.is_err());
    assert!(!folder.exists());
}

#[tokio::test]
async fn links_lead_nowhere() {
    let rig = Rig::new(Kind::Sqlite);
    let outside = tempfile::tempdir().unwrap();
    let precious = outside.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let owner = owner(&app("link"));
    let name = format!("app_{}", owner.app);
    std::os::unix::fs::symlink(outside.path(), rig.folder().join(&name)).unwrap();
    let error = rig.adopt(&owner).await.unwrap_err();
    assert!(matches!(error, ProvisionError::NameTaken { .. }), "{error}");
    fs::remove_file(rig.folder().join(&name)).unwrap();
    // One that the app has put into its own folder.
    let connection = rig.provision(&owner).await.unwrap();
    let own = Path::new(&connection.name).with_file_name("out");
    std::os::unix::fs::symlink(outside.path(), own).unwrap();
    assert_eq!(rig.remove(&owner).await.unwrap(), Removed::All);
    assert!(precious.exists());
}
