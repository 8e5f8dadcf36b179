//! What is changed in an app's answer when a prefix was stripped from the request: the app does not
//! know the prefix, so its `Location` and cookie paths are put back under it.

/// A field of an answer as the client must see it; `None` if it stays as it is.
#[must_use]
pub fn field(name: &str, value: &[u8], prefix: &str, authority: &str) -> Option<String> {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let text = || std::str::from_utf8(value).ok();
    match name.len() {
        8 | 16 if is("location") || is("content-location") => location(text()?, prefix, authority),
        10 if is("set-cookie") => set_cookie(text()?, prefix),
        _ => None,
    }
}

/// `Location` or `Content-Location` as the client must see it; `None` if it stays as it is.
///
/// A path gets the prefix, and so does a URL on the same authority. Relative references and other
/// hosts stay, and so does what already has the prefix.
#[must_use]
pub fn location(value: &str, prefix: &str, authority: &str) -> Option<String> {
    let path_at = if value.starts_with('/') && !value.starts_with("//") {
        0
    } else {
        let scheme = value.find("://")?;
        let known = ["http", "https"].iter().any(|s| value[..scheme].eq_ignore_ascii_case(s));
        let rest = &value[scheme + 3..];
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if !known || !rest[..end].eq_ignore_ascii_case(authority) {
            return None;
        }
        scheme + 3 + end
    };
    let (before, path) = value.split_at(path_at);
    if has_prefix(path, prefix) { None } else { Some(format!("{before}{prefix}{path}")) }
}

/// `Set-Cookie` with its `Path` under the prefix; `None` if it stays as it is. A cookie without
/// `Path` is scoped by the browser to the request's path, which is under the prefix already.
#[must_use]
pub fn set_cookie(value: &str, prefix: &str) -> Option<String> {
    let mut changed = false;
    let parts: Vec<_> = value
        .split(';')
        .enumerate()
        .map(|(nth, part)| {
            let path = part.split_once('=').filter(|(name, path)| {
                nth > 0
                    && name.trim().eq_ignore_ascii_case("path")
                    && path.trim().starts_with('/')
                    && !has_prefix(path.trim(), prefix)
            });
            match path {
                Some((name, path)) => {
                    changed = true;
                    format!("{name}={prefix}{}", path.trim())
                }
                None => part.to_owned(),
            }
        })
        .collect();
    changed.then(|| parts.join(";"))
}

/// Whether a path lies under a prefix, on a segment boundary.
fn has_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_go_back_under_the_prefix() {
        let rewritten = |value| location(value, "/blog", "h.example:8080");
        assert_eq!(rewritten("/login?x=1").as_deref(), Some("/blog/login?x=1"));
        assert_eq!(rewritten("/").as_deref(), Some("/blog/"));
        assert_eq!(rewritten("/blogger").as_deref(), Some("/blog/blogger"));
        assert_eq!(
            rewritten("http://h.example:8080/a").as_deref(),
            Some("http://h.example:8080/blog/a")
        );
        assert_eq!(
            rewritten("https://H.example:8080").as_deref(),
            Some("https://H.example:8080/blog")
        );
        for stays in [
            "/blog/login",
            "/blog",
            "/blog?x",
            "next",
            "../up",
            "?q",
            "//other.example/",
            "https://other.example/",
            "mailto:a@b",
            "",
        ] {
            assert_eq!(rewritten(stays), None, "{stays}");
        }
    }

    #[test]
    fn cookie_paths_go_back_under_the_prefix() {
        let rewritten = |value| set_cookie(value, "/blog");
        assert_eq!(
            rewritten("a=b; Path=/; HttpOnly").as_deref(),
            Some("a=b; Path=/blog/; HttpOnly")
        );
        assert_eq!(rewritten("a=b;path=/x").as_deref(), Some("a=b;path=/blog/x"));
        assert_eq!(rewritten("path=/x; Secure"), None);
        assert_eq!(rewritten("a=b; Path=/blog/x"), None);
        assert_eq!(rewritten("a=b"), None);
    }
}
