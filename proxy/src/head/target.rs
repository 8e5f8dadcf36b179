//! Request targets in their forms (RFC 9112 section 3.2).

use http::Method;

use super::HeadError;

/// Splits a request target (RFC 9112 section 3.2) into authority, if it names one, and path with
/// query.
pub(super) fn split_target<'a>(
    target: &'a str,
    method: &Method,
) -> Result<(Option<&'a str>, &'a str), HeadError> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        return Err(HeadError::MethodNotAllowed);
    }
    if target.bytes().any(|b| b == b'#' || b <= b' ' || b == 0x7f) {
        return Err(HeadError::Malformed("request target"));
    }
    if target.starts_with('/') {
        return Ok((None, target));
    }
    if target == "*" {
        return if *method == Method::OPTIONS {
            Ok((None, target))
        } else {
            Err(HeadError::Malformed("asterisk target for a method other than OPTIONS"))
        };
    }
    let rest = ["http://", "https://"]
        .iter()
        .find(|scheme| {
            target.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme))
        })
        .map(|scheme| &target[scheme.len()..])
        .ok_or(HeadError::Malformed("request target"))?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || authority.contains('@') {
        return Err(HeadError::Malformed("authority in request target"));
    }
    match path {
        "" => Ok((Some(authority), "/")),
        path if path.starts_with('/') => Ok((Some(authority), path)),
        _ => Err(HeadError::Malformed("request target without path")),
    }
}
