//! Whether a variable tells a secret: by its name, as people name such variables, or by a password in its value.
//!
//! What is taken for a secret reaches the app as before, only nobody reads it any more: so one too many does no
//! harm, and one too few does.

/// Parts of a name that tell a secret wherever they stand.
const TELLING: &[&str] = &["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "CREDENTIAL"];
/// Words that do so as a whole.
const WHOLE: &[&str] = &["KEY", "KEYS", "PASS", "PWD", "SALT", "TOKEN", "TOKENS"];
/// Words before these that make them everybody's.
const PUBLIC: &[&str] = &["PUBLIC", "PUBLISHABLE", "SITE", "PRIMARY", "FOREIGN", "CACHE", "SORT"];
/// Last words of names that say where a secret is, or something about it.
const ABOUT: &[&str] = &[
    "ALGORITHM",
    "COST",
    "DIR",
    "DIRECTORY",
    "EXPIRY",
    "FILE",
    "ID",
    "LENGTH",
    "NAME",
    "PATH",
    "ROUNDS",
    "TTL",
];

/// Whether a variable of this name and value tells a secret.
pub(super) fn tells_secret(name: &str, value: &str) -> bool {
    !value.is_empty() && (is_telling(name) || has_password(value) || is_private_key(value))
}

fn is_telling(name: &str) -> bool {
    let words = words(name);
    let Some((last, before)) = words.split_last() else { return false };
    if ABOUT.contains(&last.as_str()) {
        return false;
    }
    if words.iter().any(|word| TELLING.iter().any(|telling| word.contains(telling))) {
        return true;
    }
    // The shell's own folder.
    let is_folder = before.is_empty() && last == "PWD";
    // `APIKEY`, `PGPASS`; but no `MONKEY`.
    let joined = ["APIKEY", "AUTHKEY", "AUTHTOKEN", "DBPASS", "PGPASS", "ACCESSTOKEN"];
    let tells = |(at, word): (usize, &String)| {
        let before = at.checked_sub(1).map(|before| words[before].as_str());
        let is_public = before.is_some_and(|before| PUBLIC.contains(&before));
        joined.contains(&word.as_str()) || WHOLE.contains(&word.as_str()) && !is_public
    };
    !is_folder && words.iter().enumerate().any(tells)
}

/// The words of a name, in capitals: parted by what is no letter or digit, and where a capital begins one.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for c in name.chars() {
        let begins = c.is_uppercase() && was_small;
        was_small = c.is_lowercase();
        if begins || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_uppercase());
        }
    }
    // `API_KEY_2` is as secret as the first one.
    words.retain(|word| !word.chars().all(|c| c.is_ascii_digit()));
    words
}

/// Whether a value is an address with a password: `postgres://user:password@host/`, or one that is asked for by
/// `?password=`; or Go's `user:password@tcp(host)/`.
fn has_password(value: &str) -> bool {
    let value = value.trim();
    if let Some((user, _)) = value.split_once("@tcp(").or_else(|| value.split_once("@unix(")) {
        return user.split_once(':').is_some_and(|(_, password)| !password.is_empty());
    }
    let Some((scheme, rest)) = value.split_once("://") else { return false };
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.:".contains(c);
    if scheme.is_empty() || !scheme.chars().all(is_scheme) {
        return false;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let password = user.and_then(|user| user.split_once(':')).map(|(_, password)| password);
    let mut asked = rest.split(['?', '&', ';']).skip(1).filter_map(|pair| pair.split_once('='));
    password.is_some_and(|password| !password.is_empty())
        || asked.any(|(name, value)| !value.is_empty() && is_telling(name))
}

fn is_private_key(value: &str) -> bool {
    value.contains("-----BEGIN ") && value.contains("PRIVATE KEY-----")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known() {
        for name in [
            "DB_PASSWORD",
            "PGPASSWORD",
            "MYSQL_PWD",
            "SMTP_PASS",
            "SECRET_KEY_BASE",
            "APP_KEY",
            "API_KEY_2",
            "API_KEY_PROD",
            "PRIVATE_KEY_BASE64",
            "TOKEN_GITHUB",
            "DB_PASS_MAIN",
            "apiKey",
            "JWT_SECRET",
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "AUTH_SALT",
            "stripe-key",
            "KEY",
            "GOOGLE_CREDENTIALS",
            "APIKEY",
            "mySecretThing",
        ] {
            assert!(tells_secret(name, "x"), "{name}");
        }
    }

    #[test]
    fn other_names_are_not_taken_for_one() {
        for name in [
            "",
            "_",
            "NODE_ENV",
            "PWD",
            "OLDPWD",
            "MONKEY",
            "STRIPE_PUBLISHABLE_KEY",
            "PUBLIC_KEY",
            "DB_PASSWORD_FILE",
            "SSL_KEY_PATH",
            "PASSWORD_MIN_LENGTH",
            "AWS_ACCESS_KEY_ID",
            "TOKEN_TTL",
            "COMPASS",
            "KEYBOARD",
            "TOKENIZERS_PARALLELISM",
            "BYPASS",
        ] {
            assert!(!tells_secret(name, "x"), "{name}");
        }
        assert!(!tells_secret("DB_PASSWORD", ""), "nothing is no secret");
    }

    #[test]
    fn an_address_with_a_password_tells_one_whatever_its_name_is() {
        for value in [
            "postgres://u:p@h/d",
            "redis://:p@h",
            "mongodb+srv://u:p%40@h/?x=1",
            "jdbc:mysql://u:p@h/d",
            "amqp://u:a@b@h",
            "mysql://h/d?user=u&password=p",
            "jdbc:sqlserver://h;databaseName=d;password=p",
            "u:p@tcp(h:3306)/d",
            "-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY-----",
        ] {
            assert!(tells_secret("X", value), "{value}");
        }
        for value in [
            "https://h:80/a:b@c",
            "https://u@h",
            "https://u:@h",
            "https://h/?q=password&password=",
            "u@tcp(h)/d",
            "u:p@h",
            "://u:p@h",
            "a b://u:p@h",
            "-----BEGIN CERTIFICATE-----",
        ] {
            assert!(!tells_secret("X", value), "{value}");
        }
    }
}
