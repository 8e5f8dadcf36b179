//! What of an address of a database is not for everybody: its password, and options that may be one.

use super::{DatabaseUrl, Dialect};

/// What is shown in the place of what is hidden.
pub const HIDDEN: &str = "********";
/// What an address begins with that stands sealed where it is stored.
pub const SEALED: &str = "sealed:";

/// What an address may say of where its server is.
const PLACES: [&str; 3] = ["host", "port", "socket"];

impl DatabaseUrl {
    /// Whether there is something in it that is not for everybody.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.hidden() != self.text
    }

    /// As it was written, but for what is not for everybody.
    #[must_use]
    pub fn hidden(&self) -> String {
        if self.dialect == Dialect::Sqlite {
            return self.text.clone();
        }
        let (address, asked) = match self.text.split_once('?') {
            Some((address, asked)) => (address, Some(asked)),
            None => (self.text.as_str(), None),
        };
        let mut shown = without_password(address);
        if let Some(asked) = asked {
            let pairs = asked.split('&').map(|pair| self.shown_pair(pair));
            shown.push('?');
            shown += &pairs.collect::<Vec<_>>().join("&");
        }
        shown
    }

    fn shown_pair(&self, pair: &str) -> String {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_known = PLACES.contains(&name) || self.dialect.options().contains(&name);
        if is_known || value.is_empty() { pair.to_owned() } else { format!("{name}={HIDDEN}") }
    }
}

/// `scheme://user:password@host/database` without the password.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((who, host)) = authority.rsplit_once('@') else { return address.to_owned() };
    match who.split_once(':') {
        Some((user, password)) if !password.is_empty() => {
            format!("{scheme}://{user}:{HIDDEN}@{host}{path}")
        }
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> DatabaseUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn an_address_is_shown_without_what_proves_who_connects() {
        for (text, shown) in [
            (
                "postgres://me:hunter2@h:5/d?sslmode=require",
                "postgres://me:********@h:5/d?sslmode=require",
            ),
            ("mysql://me:a:b%40@h", "mysql://me:********@h"),
            ("postgres://:hunter2@h/", "postgres://:********@h/"),
            (
                "postgres://me@h/d?host=/run/pg&password=hunter2",
                "postgres://me@h/d?host=/run/pg&password=********",
            ),
        ] {
            assert!(url(text).is_secret(), "{text}");
            assert_eq!(url(text).hidden(), shown);
        }
    }

    #[test]
    fn an_address_that_tells_no_secret_is_shown_as_it_is() {
        for text in [
            "postgres://me@h/d",
            "postgres://me:@h/d",
            "mariadb://root@localhost/?socket=/run/m.sock",
            "sqlite:/srv/x:y@z",
            "postgres://h/d?sslmode=require&",
        ] {
            assert!(!url(text).is_secret(), "{text}");
            assert_eq!(url(text).hidden(), text);
        }
    }

    #[test]
    fn what_stands_sealed_is_told_so() {
        let error = "sealed:AAAA".parse::<DatabaseUrl>().unwrap_err().to_string();
        assert!(error.contains("sealed") && !error.contains("AAAA"), "{error}");
    }
}
