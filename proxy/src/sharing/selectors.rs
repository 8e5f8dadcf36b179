//! How clients of NocoBase say which of the apps of an instance they mean, beside `X-App`: a parameter of the query,
//! and a folder of the path. Who is let in to one app is not to get to another by these.
//!
//! Cost: requests for apps that share an instance are searched for a word; those that have it, taken apart.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The parameter.
const PARAMETER: &str = "__appName";
/// The folder, which has one of an app's name in it.
const FOLDER: &str = "/__app/";

/// A query, with its `?`, without what selects an app; `None` if there is nothing to be left out.
#[must_use]
pub fn without_selector(query: &str) -> Option<String> {
    let pairs = query.strip_prefix('?')?;
    if !pairs.split('&').any(is_selector) {
        return None;
    }
    let kept: Vec<_> = pairs.split('&').filter(|pair| !is_selector(pair)).collect();
    Some(if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) })
}

/// Whether a path leads to another app than this.
#[must_use]
pub fn leads_elsewhere(path: &str, app: &str) -> bool {
    let mut parts = path.split(FOLDER);
    parts.next();
    parts.any(|rest| decoded(rest.split('/').next().unwrap_or_default()) != app)
}

/// As parsers of queries see it: escapes, and `name[]`, are the same name.
fn is_selector(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    // Most have neither.
    if !name.contains(['%', '_']) {
        return false;
    }
    decoded(name).split('[').next().is_some_and(|name| name.trim() == PARAMETER)
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_selects_an_app_is_left_out_and_nothing_else() {
        for (query, kept) in [
            ("?__appName=shop", ""),
            ("?a=1&__appName=shop&b=%20&c", "?a=1&b=%20&c"),
            ("?%5F_app%4eame=shop&a", "?a"),
            ("?__appName[]=shop&__appName%5B0%5D=shop&__appName&x=__appName", "?x=__appName"),
        ] {
            assert_eq!(without_selector(query).as_deref(), Some(kept), "{query}");
        }
        for query in ["", "?", "?a=1&&b", "?appName=shop", "?__appname=shop", "?x__appName=1"] {
            assert_eq!(without_selector(query), None, "{query}");
        }
    }

    #[test]
    fn a_path_leads_to_its_own_app_or_elsewhere() {
        for path in ["/", "/api/__app/shop", "/api/__app/shop/users:list", "/api/app/x", "/__ap"] {
            assert!(!leads_elsewhere(path, "shop"), "{path}");
        }
        for path in ["/api/__app/blog", "/nb/api/__app/blog/x", "/__app/shop/__app/blog", "/__app/"]
        {
            assert!(leads_elsewhere(path, "shop"), "{path}");
        }
        assert!(!leads_elsewhere("/api/__app/%73hop/x", "shop"));
    }
}
