//! What is changed in an app's answer because of the path's prefix: where the app does not see the prefix, its
//! `Location` and cookie paths are put back under it; where it sees it, and its cookies are not for other apps
//! of the host, these are kept to it.

/// The prefix of a request's path that matters for the answer.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    /// The prefix, without a slash at its end, and never empty.
    pub text: &'a str,
    /// Whether the app sees it.
    pub is_seen: bool,
    /// The path that the client asked for.
    pub path: &'a str,
    /// The authority that the client asked.
    pub authority: &'a str,
}

impl Prefix<'_> {
    /// A field of an answer as the client must see it; `None` if it stays as it is.
    #[must_use]
    pub fn field(&self, name: &str, value: &[u8]) -> Option<Vec<u8>> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let change = match name.len() {
            8 | 16 if is("location") || is("content-location") => Self::location,
            10 if is("set-cookie") => Self::set_cookie,
            _ => return None,
        };
        if let Ok(text) = std::str::from_utf8(value) {
            return change(self, text).map(String::into_bytes);
        }
        // Whatever its bytes mean: what is looked at in it, and put there, is ASCII.
        let text: String = value.iter().map(|byte| char::from(*byte)).collect();
        let changed = change(self, &text)?;
        Some(changed.chars().filter_map(|c| u8::try_from(c).ok()).collect())
    }

    /// `Location` or `Content-Location` as the client must see it; `None` if it stays as it is.
    ///
    /// A path gets a prefix that the app does not see, and so does a URL on the same authority. Relative
    /// references and other hosts stay, and so does what already has the prefix.
    #[must_use]
    pub fn location(&self, value: &str) -> Option<String> {
        if self.is_seen {
            return None;
        }
        let path_at = if value.starts_with('/') && !value.starts_with("//") {
            0
        } else {
            let scheme = value.find("://")?;
            let known = ["http", "https"].iter().any(|s| value[..scheme].eq_ignore_ascii_case(s));
            let rest = &value[scheme + 3..];
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            if !known || !rest[..end].eq_ignore_ascii_case(self.authority) {
                return None;
            }
            scheme + 3 + end
        };
        let (before, path) = value.split_at(path_at);
        if self.covers(path) { None } else { Some(format!("{before}{}{path}", self.text)) }
    }

    /// `Set-Cookie` with its `Path` under the prefix; `None` if it stays as it is.
    ///
    /// Without `Path` the browser goes by the folder of the request's path (RFC 6265 section 5.1.4): only that
    /// of the prefix itself is not under it. A cookie that says by its name that it is for the whole host
    /// (`__Host-`, RFC 6265bis section 4.1.3.2) stays, as browsers would throw it away.
    #[must_use]
    pub fn set_cookie(&self, value: &str) -> Option<String> {
        let mut parts = value.split(';');
        let pair = parts.next().unwrap_or_default().trim_start();
        if pair.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("__host-")) {
            return None;
        }
        let is_path = |part: &&str| {
            let name = part.split_once('=').map_or(*part, |(name, _)| name);
            name.trim().eq_ignore_ascii_case("path")
        };
        // The last one counts (RFC 6265 section 5.3).
        let path =
            parts.rfind(is_path).and_then(|part| part.split_once('=')).map(|(_, path)| path.trim());
        let path = match path.filter(|path| path.starts_with('/')) {
            Some(path) if self.covers(path) => return None,
            Some(path) if !self.is_seen && path != "/" => format!("{}{path}", self.text),
            None if self.path != self.text => return None,
            Some(_) | None => self.text.to_owned(),
        };
        let kept = value.split(';').enumerate().filter(|(nth, part)| *nth == 0 || !is_path(part));
        let kept: Vec<_> = kept.map(|(_, part)| part).collect();
        Some(format!("{}; Path={path}", kept.join(";")))
    }

    /// Whether a path lies under the prefix, on a segment boundary.
    fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.text)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSEEN: Prefix<'_> =
        Prefix { text: "/blog", is_seen: false, path: "/blog/here", authority: "h.example:8080" };

    #[test]
    fn locations_go_back_under_the_prefix() {
        let rewritten = |value| UNSEEN.location(value);
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
        assert_eq!(Prefix { is_seen: true, ..UNSEEN }.location("/login"), None);
    }

    fn cookie(prefix: Prefix<'_>, value: &str) -> String {
        prefix.set_cookie(value).unwrap_or_else(|| value.to_owned())
    }

    #[test]
    fn cookie_paths_go_back_under_a_prefix_that_the_app_does_not_see() {
        for (set, seen) in [
            ("a=b; Path=/; HttpOnly", "a=b; HttpOnly; Path=/blog"),
            ("a=b;path=/x", "a=b; Path=/blog/x"),
            ("a=b; Path=/blogger", "a=b; Path=/blog/blogger"),
            ("a=b; Path=/blog/x; Path=/y; Secure", "a=b; Secure; Path=/blog/y"),
            ("a=b; Path=/y; Path=/blog/x", "a=b; Path=/y; Path=/blog/x"),
            ("path=/x; Secure", "path=/x; Secure"),
            ("a=b; Path=/blog/x", "a=b; Path=/blog/x"),
            ("__Host-a=b; Path=/; Secure", "__Host-a=b; Path=/; Secure"),
        ] {
            assert_eq!(cookie(UNSEEN, set), seen);
        }
    }

    #[test]
    fn cookies_are_kept_to_a_prefix_that_the_app_sees() {
        let prefix = Prefix { is_seen: true, ..UNSEEN };
        for (set, seen) in [
            ("a=b; Path=/", "a=b; Path=/blog"),
            ("a=b; Path=/other; Secure", "a=b; Secure; Path=/blog"),
            ("a=b; Path=/blogger", "a=b; Path=/blog"),
            ("a=b; Path=/blog/", "a=b; Path=/blog/"),
            ("__HOST-a=b; Path=/; Secure", "__HOST-a=b; Path=/; Secure"),
            ("ü", "ü"),
        ] {
            assert_eq!(cookie(prefix, set), seen);
        }
    }

    #[test]
    fn bytes_that_are_no_text_keep_no_cookie_from_its_prefix() {
        let changed = UNSEEN.field("Set-Cookie", b"a=\xff\xc3\xa9; Path=/");
        assert_eq!(changed.as_deref(), Some(&b"a=\xff\xc3\xa9; Path=/blog"[..]));
        assert_eq!(UNSEEN.field("X-Other", b"/\xff"), None);
    }

    #[test]
    fn a_cookie_without_a_path_is_for_the_folder_of_the_request_or_for_the_prefix() {
        for is_seen in [true, false] {
            let below = Prefix { is_seen, ..UNSEEN };
            let itself = Prefix { path: "/blog", ..below };
            for set in ["a=b", "a=b; Path", "a=b; Path=", "a=b; Path=x"] {
                assert_eq!(cookie(below, set), set);
                assert_eq!(cookie(itself, set), "a=b; Path=/blog");
            }
            assert_eq!(cookie(Prefix { path: "/blog/", ..below }, "a=b"), "a=b");
        }
    }
}
