//! What the driver of MySQL and MariaDB is told of an address.

use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};

use super::{DatabasePlace, DatabaseUrl};
use crate::name::NameError;

impl DatabaseUrl {
    /// How to connect, if it is the address of such a server.
    ///
    /// # Errors
    /// If it is not, or asks for something unknown; never the address.
    pub fn mysql_options(&self) -> Result<MySqlConnectOptions, NameError> {
        // The driver's own settings would be the apps' problem; ours come in their place.
        let options = MySqlConnectOptions::new()
            .username(self.user.as_deref().unwrap_or("root"))
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None);
        let options = match self.password() {
            Some(password) => options.password(password),
            None => options,
        };
        let options = match &self.place {
            DatabasePlace::Host { host, port } => options.host(host).port(*port),
            // There is no TLS on a socket, and the driver would ask for it.
            DatabasePlace::Socket { path, .. } => options.socket(path),
            DatabasePlace::File(_) => return Err(NameError("it is no server".into())),
        };
        let mode = self.option("ssl-mode").map(str::parse).transpose();
        let mode = mode.map_err(|_| NameError("unknown `ssl-mode`".into()))?;
        let options = options.ssl_mode(mode.unwrap_or(MySqlSslMode::Preferred));
        Ok(match self.option("ssl-ca") {
            Some(file) => options.ssl_ca(file),
            None => options,
        })
    }
}
