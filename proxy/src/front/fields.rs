//! What is changed in the fields of a request and its answer, where Pingora carries them.

use http::{HeaderName, HeaderValue, header};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::{exchange::Exchange, forward::Passage, look::X_APP};

/// Tells the app of an HTTP/2 request what its head does not say. HTTP/1 heads came to Pingora with
/// all of it ([`RequestHead::forwarded_bytes`]): adding fields here is dear, for each goes into two
/// maps.
pub(super) fn complete_head(exchange: &Exchange, request: &mut RequestHeader) -> Result<()> {
    let head = &exchange.head;
    let (Some(passage), Some(matched)) = (&exchange.passage, &exchange.matched) else {
        return Ok(());
    };
    for (name, _) in head.fields().filter(|(name, _)| passage.takes_out(name)) {
        if let Ok(name) = HeaderName::from_bytes(name) {
            request.remove_header(&name);
        }
    }
    for (name, value) in passage.set() {
        request.insert_header(name, value)?;
    }
    if request.headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<_> = head.all_fields("cookie").collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            request.insert_header(header::COOKIE, cookie)?;
        }
    }
    if matched.stripped > 0 || head.raw_target() != head.target().as_bytes() {
        request.set_raw_path(matched.sent_target(head).as_bytes())?;
        // It went with the old target.
        request.insert_header(header::HOST, head.authority.as_str())?;
    }
    Ok(())
}

/// Names the app as its definition of now says, in an HTTP/1 head that was made before.
pub(super) fn name_app(exchange: &Exchange, request: &mut RequestHeader) -> Result<()> {
    request.remove_header(X_APP);
    let set = exchange.passage.iter().flat_map(Passage::set);
    for (name, value) in set.filter(|(name, _)| *name == X_APP) {
        request.insert_header(name, value)?;
    }
    Ok(())
}

/// Takes out what concerns the app's connection alone (RFC 9110 section 7.6.1); `Connection` and
/// `Transfer-Encoding` are the framework's.
pub(super) fn remove_hop_by_hop(response: &mut ResponseHeader) {
    let lists: Vec<_> = response.headers.get_all(header::CONNECTION).iter().cloned().collect();
    for list in lists {
        for token in list.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let is_framing = token.eq_ignore_ascii_case(b"transfer-encoding")
                || token.eq_ignore_ascii_case(b"content-length");
            if let (Ok(name), false) = (HeaderName::from_bytes(token), is_framing) {
                response.remove_header(&name);
            }
        }
    }
    for name in ["keep-alive", "proxy-connection", "upgrade"] {
        response.remove_header(name);
    }
}

/// Puts the app's own addresses back under the prefix it does not know.
pub(super) fn rewrite_response(exchange: &Exchange, response: &mut ResponseHeader) -> Result<()> {
    let Some(prefix) = exchange.prefix() else { return Ok(()) };
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let rewritten = response
            .headers
            .get(&name)
            .and_then(|value| prefix.field(name.as_str(), value.as_bytes()));
        if let Some(value) = rewritten.and_then(|new| HeaderValue::from_bytes(&new).ok()) {
            response.insert_header(name, value)?;
        }
    }
    let cookies: Vec<_> = response.headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    let rewritten: Vec<_> =
        cookies.iter().map(|cookie| prefix.field("set-cookie", cookie.as_bytes())).collect();
    if rewritten.iter().any(Option::is_some) {
        response.remove_header(&header::SET_COOKIE);
        for (old, new) in cookies.into_iter().zip(rewritten) {
            let value = new.and_then(|new| HeaderValue::from_bytes(&new).ok()).unwrap_or(old);
            response.append_header(header::SET_COOKIE, value)?;
        }
    }
    Ok(())
}
