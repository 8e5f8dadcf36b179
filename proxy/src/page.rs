//! What people see of Doorbell: one look for all its pages, and pages of the operator's own.
//!
//! A page needs nothing from elsewhere, runs no script but its own, and is stored by nobody. Whatever
//! comes from a configuration or a client is escaped. Which status goes with which words says
//! [`crate::answer`].

use std::{borrow::Cow, fmt::Write as _};

use uuid::Uuid;

use crate::{pass::Failure, steering::steers};

pub mod waiting;

const STYLE: &str = include_str!("page/style.css");
const FAILURE_STYLE: &str = include_str!("page/failure.css");
const BELL: &str = "<svg class=\"bell\" viewBox=\"0 0 40 40\" fill=\"none\" stroke=\"currentColor\" \
    stroke-width=\"2.5\" stroke-linecap=\"round\" stroke-linejoin=\"round\" aria-hidden=\"true\">\
    <path d=\"M20 4v3M9 28V18a11 11 0 0 1 22 0v10l3 4H6z\"/><path d=\"M16 36h8\"/></svg>";

/// A page as header fields and text.
#[derive(Clone, Debug)]
pub struct Page {
    /// Beyond those that every answer of ours has.
    pub fields: Vec<(&'static str, String)>,
    /// The document.
    pub html: String,
}

/// What stands on a page.
#[derive(Clone, Debug, Default)]
struct Parts<'a> {
    /// Of the window, and the heading.
    title: &'a str,
    /// Attributes of the root, beyond its language.
    root: String,
    /// Into the head.
    head: String,
    /// Further style.
    style: Cow<'a, str>,
    /// Class of the main part.
    class: &'a str,
    /// Below the heading.
    content: String,
    script: &'a str,
    /// The last line.
    small: String,
}

/// What the placeholders of an operator's page stand for.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The app's name; empty if there is none.
    pub app: &'a str,
    /// Status.
    pub status: u16,
    /// Seconds; none if there is no hurry.
    pub retry_after: Option<u64>,
    /// The request's id.
    pub request_id: &'a str,
    /// How long a start takes, in words; empty if none is under way.
    pub estimate: &'a str,
}

/// The page of an error.
#[must_use]
pub fn of_error(title: &str, detail: &str, small: &str, may_try_again: bool) -> Page {
    let mut content = format!("<p>{}</p>", escape(detail));
    if may_try_again {
        content.push_str("<p><a href=\"\">Try again</a></p>");
    }
    let small = escape(small).into_owned();
    Parts { title, content, small, ..Parts::default() }.page()
}

/// Why an app could not be started, for operators. Nothing in it steers a browser or a terminal.
#[must_use]
pub fn of_failure(app: &str, failure: &Failure, request_id: &str) -> Page {
    let plain = |text: &str| {
        let unfit = |c: char| steers(c) && c != '\t';
        escape(&text.replace(unfit, "\u{fffd}")).into_owned()
    };
    let output: Vec<_> = failure.output.iter().map(|line| plain(line)).collect();
    let mut content = format!("<dl><dt>Step</dt><dd>{}</dd>\n", plain(&failure.step))
        + &format!("<dt>Reason</dt><dd>{}</dd></dl>\n", plain(&failure.reason));
    if !output.is_empty() {
        let output = output.join("\n");
        // It may be scrolled, by the keyboard too.
        content.push_str("<h2 id=\"output\">Last output</h2>\n");
        let _ = writeln!(
            content,
            "<pre tabindex=\"0\" aria-labelledby=\"output\" role=\"region\">{output}</pre>"
        );
    }
    content.push_str("<p><a href=\"\">Try again</a></p>");
    let small =
        escape(&format!("Only you see this: you hold a pass · request {request_id}")).into_owned();
    let title = &format!("{app} could not be started");
    let (style, class) = (FAILURE_STYLE.into(), "wide");
    Parts { title, content, small, style, class, ..Parts::default() }.page()
}

/// An operator's own page. What else stands between braces there, stays.
#[must_use]
pub fn own(text: &str, values: &Values<'_>) -> Page {
    let mut html = String::with_capacity(text.len() + 256);
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        html.push_str(before);
        let placeholder = from.find('}').and_then(|end| from.get(..=end));
        match placeholder.and_then(|name| Some((name, values.of(name)?))) {
            Some((name, value)) => {
                html.push_str(&escape(&value));
                rest = from.get(name.len()..).unwrap_or_default();
            }
            None => {
                html.push('{');
                rest = from.get(1..).unwrap_or_default();
            }
        }
    }
    html.push_str(rest);
    Page { fields: fields(), html }
}

impl Values<'_> {
    fn of(&self, placeholder: &str) -> Option<Cow<'_, str>> {
        Some(match placeholder {
            "{app}" => self.app.into(),
            "{status}" => self.status.to_string().into(),
            "{retry_after}" => self.retry_after.map(|s| s.to_string()).unwrap_or_default().into(),
            "{request_id}" => self.request_id.into(),
            "{estimate}" => self.estimate.into(),
            _ => return None,
        })
    }
}

impl Parts<'_> {
    fn page(&self) -> Page {
        let nonce = Uuid::new_v4().simple().to_string();
        let title = escape(self.title);
        let Self { root, head, style, class, content, small, .. } = self;
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\"{root}>\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n{head}\
             <style nonce=\"{nonce}\">{STYLE}{style}</style>\n</head>\n<body>\n\
             <main class=\"{class}\">\n{BELL}\n<h1 id=\"title\">{title}</h1>\n{content}\n\
             <small>{small}</small>\n</main>\n"
        );
        let mut fields = fields();
        let mut policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; base-uri 'none'; \
             form-action 'none'"
        );
        if !self.script.is_empty() {
            // Writing to a String cannot fail, here and below.
            let _ = write!(policy, "; script-src 'nonce-{nonce}'; connect-src 'self'");
            let _ = writeln!(html, "<script nonce=\"{nonce}\">{}</script>", self.script);
        }
        html.push_str("</body>\n</html>\n");
        fields.push(("content-security-policy", policy));
        Page { fields, html }
    }
}

/// What every page has.
fn fields() -> Vec<(&'static str, String)> {
    let fields = [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("x-robots-tag", "noindex"),
        ("vary", "accept, sec-fetch-dest, sec-fetch-mode"),
    ];
    fields.map(|(name, value)| (name, value.to_owned())).into()
}

/// Text that is safe between tags and in quoted attributes.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['<', '>', '&', '"', '\'']) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 32);
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_and_other_braces_stay() {
        let values = Values {
            app: "<b>",
            status: 503,
            retry_after: Some(7),
            request_id: "{app}",
            estimate: "",
        };
        let text =
            "a{color:red} {app} {status}/{retry_after}/{request_id}{estimate} {no} {{app}} {";
        let page = own(text, &values);
        let wanted = "a{color:red} &lt;b&gt; 503/7/{app} {no} {&lt;b&gt;} {";
        assert_eq!(page.html, wanted);
    }

    #[test]
    fn a_page_allows_no_more_than_itself() {
        let page = of_error("<h>", "d", "s", true);
        let field = |name| page.fields.iter().find(|(have, _)| *have == name).unwrap().1.as_str();
        assert!(field("content-security-policy").starts_with("default-src 'none'; style-src"));
        assert!(!field("content-security-policy").contains("script"));
        assert!(page.html.contains("<title>&lt;h&gt;</title>") && !page.html.contains("<script"));
    }
}
