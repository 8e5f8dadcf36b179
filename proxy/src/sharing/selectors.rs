//! How clients of NocoBase say which of the apps of an instance they mean: `X-App`, a parameter of the query, and
//! folders of the path. Who is let in to one app is not to get to another by these, unless the app that has the program
//! allows it (`client_app_headers`): then the request is for the other app, as if it had come to that.
//!
//! One of the folders, `/files/`, is a name that anybody may give: it counts where the instance is asked by the other
//! whether it can answer for an app ([`counts_in`]), which is how NocoBase is known.
//!
//! Cost: requests for apps that share an instance are searched for a word; those that have it, taken apart.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::{head::RequestHead, look::X_APP};

/// The parameter.
const PARAMETER: &str = "__appName";
/// The folder, which has one of an app's name in it.
const FOLDER: &str = "/__app/";
/// The folder of files, which has one of an app's name in it too: at the beginning, or behind `APP_PUBLIC_PATH`.
const FILES: &str = "/files/";

/// What NocoBase calls the app that has the program.
pub const MAIN: &str = "main";

/// Whether a question whether an app can be had names it by the folder, as is done with NocoBase.
#[must_use]
pub fn counts_in(question: &str) -> bool {
    question.contains(FOLDER)
}

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

/// The app that a request says it is for: by its path, or else its query, or else `X-App`. `None` if it names none.
/// `files` says whether those of a NocoBase count.
#[must_use]
pub fn selected(head: &RequestHead, files: bool) -> Option<Cow<'_, str>> {
    let by_path = || {
        let path = head.path();
        let below_folder = path.split_once(FOLDER).map(|(_, rest)| rest);
        let below_files = || below_files(path).filter(|rest| files && !rest.is_empty());
        let rest = below_folder.or_else(below_files)?;
        Some(decoded(rest.split('/').next()?))
    };
    let by_query = || {
        let mut pairs = head.query().strip_prefix('?')?.split('&');
        let (_, value) = pairs.find(|pair| is_selector(pair))?.split_once('=')?;
        Some(decoded(value))
    };
    let by_field = || Some(String::from_utf8_lossy(head.field(X_APP)?));
    let name = by_path().or_else(by_query).or_else(by_field)?;
    (!name.is_empty()).then_some(name)
}

/// Whether a path leads to another app than this.
#[must_use]
pub fn leads_elsewhere(path: &str, app: &str) -> bool {
    let mut parts = path.split(FOLDER);
    parts.next();
    parts.any(|rest| !names(rest, app))
}

/// Whether a path leads to a file of another app than this.
#[must_use]
pub fn leads_to_files_elsewhere(path: &str, app: &str) -> bool {
    below_files(path).is_some_and(|rest| !rest.is_empty() && !names(rest, app))
}

fn below_files(path: &str) -> Option<&str> {
    let below_public_path = || {
        let (_, rest) = path.strip_prefix('/')?.split_once('/')?;
        path[path.len() - rest.len() - 1..].strip_prefix(FILES)
    };
    path.strip_prefix(FILES).or_else(below_public_path)
}

fn names(rest: &str, app: &str) -> bool {
    decoded(rest.split('/').next().unwrap_or_default()) == app
}

/// As parsers of queries see it: escapes, `name[]` and `[name]` are the same name.
fn is_selector(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    // Most have neither.
    if !name.contains(['%', '_']) {
        return false;
    }
    let name = decoded(name);
    let mut parts = name.split(['[', ']']).map(str::trim);
    parts.find(|part| !part.is_empty()) == Some(PARAMETER)
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_selects_an_app_is_left_out_and_nothing_else() {
        for (query, kept) in [
            ("?__appName=shop", ""),
            ("?a=1&__appName=shop&b=%20&c", "?a=1&b=%20&c"),
            ("?%5F_app%4eame=shop&a", "?a"),
            ("?__appName[]=shop&__appName%5B0%5D=shop&__appName&x=__appName", "?x=__appName"),
            ("?[__appName]=shop&[__appName][]=a&%5B__appName%5D=b&[ __appName ]", ""),
            ("?[][__appName]=shop&x[__appName]=1", "?x[__appName]=1"),
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

    #[test]
    fn a_request_names_its_app() {
        for (target, field, name) in [
            ("/", "X-A: shop", None),
            ("/", "X-App:", None),
            ("/", "x-app: shop", Some("shop")),
            ("/ws?a&__appName=b%6cog", "X-App: shop", Some("blog")),
            ("/ws?__appName", "X-App: shop", Some("shop")),
            ("/api/__app/%63rm/x?__appName=blog", "X-App: shop", Some("crm")),
            ("/files/hr/a.png?__appName=blog", "X-App: shop", Some("hr")),
            ("/files/", "X-App: shop", Some("shop")),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n");
            let head = RequestHead::parse(Bytes::from(text), 8192).unwrap();
            assert_eq!(selected(&head, true).as_deref(), name, "{target} {field}");
        }
        let text = "GET /files/hr/a HTTP/1.1\r\nHost: h\r\nX-App: shop\r\n\r\n";
        let head = RequestHead::parse(Bytes::from_static(text.as_bytes()), 8192).unwrap();
        assert_eq!(selected(&head, false).as_deref(), Some("shop"));
    }

    #[test]
    fn files_are_an_apps_own() {
        for path in
            ["/files/", "/files/shop/a.txt", "/nb/files/%73hop/a", "/api/files:list", "/files"]
        {
            assert!(!leads_to_files_elsewhere(path, "shop"), "{path}");
        }
        for path in ["/files/blog/a.txt", "/files/%62log", "/nb/files/blog/a", "/files//shop/a"] {
            assert!(leads_to_files_elsewhere(path, "shop"), "{path}");
        }
        // No folder of files of NocoBase.
        assert!(!leads_to_files_elsewhere("/static/plugins/files/a.js", "shop"));
    }

    #[test]
    fn files_count_where_apps_are_asked_for_as_nocobase_does() {
        assert!(counts_in("/api/__app/shop/__health_check"));
        assert!(!counts_in("/healthz?app=shop"));
    }
}
