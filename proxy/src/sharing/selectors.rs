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

/// The parameter.
const PARAMETER: &str = "__appName";
/// The folder, which has one of an app's name in it.
const FOLDER: &str = "/__app/";
/// The folder of files, which has one of an app's name in it too: at the beginning, or behind `APP_PUBLIC_PATH`, which
/// nobody here knows. Behind other folders it is one like any other (`/api/files/1`).
const FILES: &str = "/files/";

/// Whether what a path says is about an app, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certain {
    /// It is, of whatever name.
    Yes,
    /// It is if there is an app of that name.
    No,
}

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

/// The app that a query names, with its `?`.
#[must_use]
pub fn in_query(query: &str) -> Option<Cow<'_, str>> {
    let mut pairs = query.strip_prefix('?')?.split('&');
    let (_, value) = pairs.find(|pair| is_selector(pair))?.split_once('=')?;
    Some(decoded(value))
}

/// The app that a path names by its folder.
#[must_use]
pub fn in_path(path: &str) -> Option<Cow<'_, str>> {
    path.split_once(FOLDER).map(|(_, rest)| first(rest))
}

/// The apps whose files a path may lead to: by the first folder for certain, and by others if there are such apps.
pub fn files_in(path: &str) -> impl Iterator<Item = (Certain, Cow<'_, str>)> {
    let parts = path.match_indices(FILES).map(|(at, _)| {
        (if at == 0 { Certain::Yes } else { Certain::No }, first(&path[at + FILES.len()..]))
    });
    parts.filter(|(_, name)| !name.is_empty())
}

/// Whether a path leads to another app than this.
#[must_use]
pub fn leads_elsewhere(path: &str, app: &str) -> bool {
    let mut parts = path.split(FOLDER);
    parts.next();
    parts.any(|rest| first(rest) != app)
}

/// The first folder of a path that has lost its `/`.
fn first(rest: &str) -> Cow<'_, str> {
    decoded(rest.split('/').next().unwrap_or_default())
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
    fn an_app_is_named_by_query_and_path() {
        assert_eq!(in_query("?a&__appName=b%6cog").as_deref(), Some("blog"));
        assert_eq!(in_query("?__appName&a"), None);
        assert_eq!(in_path("/api/__app/%63rm/x").as_deref(), Some("crm"));
        assert_eq!(in_path("/api/app/crm"), None);
    }

    #[test]
    fn files_are_of_an_app_at_the_beginning_and_perhaps_elsewhere() {
        let found = |path| {
            files_in(path).map(|(certain, name)| (certain, name.into_owned())).collect::<Vec<_>>()
        };
        assert_eq!(found("/files/%73hop/a"), [(Certain::Yes, "shop".to_owned())]);
        assert_eq!(found("/a/b/files/shop/a"), [(Certain::No, "shop".to_owned())]);
        let both = [(Certain::Yes, "x".to_owned()), (Certain::No, "blog".to_owned())];
        assert_eq!(found("/files/x/files/blog"), both);
        for path in ["/files/", "/files", "/api/files:list", "/files//shop/a"] {
            assert_eq!(found(path), [], "{path}");
        }
    }

    #[test]
    fn files_count_where_apps_are_asked_for_as_nocobase_does() {
        assert!(counts_in("/api/__app/shop/__health_check"));
        assert!(!counts_in("/healthz?app=shop"));
    }
}
