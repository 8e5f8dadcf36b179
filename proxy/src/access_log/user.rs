//! Who a request says it is from, as Nginx's `$remote_user` has it: the user of Basic
//! authentication (RFC 7617), which only the app can vouch for.

/// The user in an `Authorization` field; `None` where there is none, or it cannot be read.
pub(super) fn of(authorization: &[u8]) -> Option<Vec<u8>> {
    const SCHEME: &[u8] = b"basic ";
    let (scheme, credentials) = authorization.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    let mut text = decode(credentials.trim_ascii())?;
    let colon = text.iter().position(|byte| *byte == b':')?;
    text.truncate(colon);
    Some(text).filter(|user| !user.is_empty())
}

/// Base64 (RFC 4648 section 4), with or without padding.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let mut out = Vec::with_capacity(end / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in &text[..end] {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            // Only the lowest eight are left of the shift.
            out.push((bits >> count & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_basic_authentication_is_read() {
        let user = |text: &str| of(text.as_bytes()).map(|user| String::from_utf8(user).unwrap());
        // RFC 7617 section 2.
        assert_eq!(user("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), Some("Aladdin".into()));
        assert_eq!(user("bASIC QWxhZGRpbjpvcGVuIHNlc2FtZQ"), Some("Aladdin".into()));
        assert_eq!(user("Basic YTpi"), Some("a".into()));
        for none in
            ["Bearer QWxhZGRpbjpv", "Basic", "Basic !!!", "Basic QWxhZGRpbg==", "Basic OmE="]
        {
            assert_eq!(user(none), None, "{none}");
        }
    }
}
