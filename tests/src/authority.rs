//! Certificates for tests, from an authority that only the test knows.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A certificate authority.
pub struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// Without OpenSSL.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it starts a program")]
    pub fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().expect("a folder") };
        let subject = "/CN=an authority of a test";
        authority
            .openssl(&["req", "-x509", "-subj", subject, "-keyout", "ca.key", "-out", "ca.pem"]);
        authority
    }

    /// A certificate for a name as `DNS:localhost`: its key, and itself.
    #[must_use]
    pub fn certify(&self, name: &str) -> (PathBuf, PathBuf) {
        let extension = format!("subjectAltName={name}");
        let issuer = ["-CA", "ca.pem", "-CAkey", "ca.key"];
        let more = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", &extension];
        let leaf = ["req", "-x509", "-subj", "/CN=leaf", "-keyout", "leaf.key", "-out", "leaf.pem"];
        self.openssl(&[&leaf[..], &issuer, &more].concat());
        (self.path("leaf.key"), self.path("leaf.pem"))
    }

    /// Its own certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path("ca.pem")
    }

    fn path(&self, name: &str) -> PathBuf {
        let folder: &Path = self.folder.path();
        folder.join(name)
    }

    fn openssl(&self, args: &[&str]) {
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let mut command = Command::new("openssl");
        command.args(args).args(key).args(["-days", "2"]).current_dir(&self.folder);
        let output = command.output().expect("openssl: run ./test, which installs it");
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
}
