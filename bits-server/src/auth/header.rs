//! The `Authorization` header, taken apart.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{header, request::Parts};
use secrecy::SecretString;

/// The longest name and password, in bytes; hashing longer ones is work for nothing.
const MAXIMUM_NAME: usize = 255;
const MAXIMUM_PASSWORD: usize = 1024;

/// What a request carries for `scheme`, compared without regard to case; none where it carries
/// nothing, something else, or more than one `Authorization`.
pub(crate) fn token<'a>(head: &'a Parts, scheme: &str) -> Option<&'a str> {
    let mut values = head.headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let (sent, token) = value.to_str().ok()?.split_once(' ')?;
    sent.eq_ignore_ascii_case(scheme).then(|| token.trim_matches(' '))
}

/// The name and password of Basic credentials (RFC 7617), in UTF-8; none for anything else.
pub(super) fn basic(token: &str) -> Option<(String, SecretString)> {
    let decoded = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    let bounded = name.len() <= MAXIMUM_NAME && password.len() <= MAXIMUM_PASSWORD;
    let clean = !decoded.contains(char::is_control);
    (bounded && clean).then(|| (name.to_owned(), SecretString::from(password)))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use secrecy::ExposeSecret;

    use super::*;

    fn head(values: &[&str]) -> Parts {
        let mut request = Request::builder();
        for value in values {
            request = request.header(header::AUTHORIZATION, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn one_header_of_the_scheme_counts() {
        for (values, expected) in [
            (&["Basic abc"][..], Some("abc")),
            (&["bAsIc   abc="], Some("abc=")),
            (&["Negotiate abc"], None),
            (&["Basic"], None),
            (&["BasicX abc"], None),
            (&["Basic a", "Basic b"], None),
            (&["Negotiate a", "Basic b"], None),
            (&[], None),
        ] {
            assert_eq!(token(&head(values), "Basic"), expected, "{values:?}");
        }
    }

    #[test]
    fn credentials_are_text_with_a_colon() {
        let decode = |text: &[u8]| {
            let found = basic(&STANDARD.encode(text));
            found.map(|(name, password)| (name, password.expose_secret().to_owned()))
        };
        let pair = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        assert_eq!(decode(b"jo:secret"), pair("jo", "secret"));
        assert_eq!(decode(b"jo:a:b "), pair("jo", "a:b "));
        assert_eq!(decode("jörg:größe".as_bytes()), pair("jörg", "größe"));
        assert_eq!(decode(b":"), pair("", ""));
        for wrong in [&b""[..], b"jo", b"j\xf6:x", b"jo:a\nb", b"jo:a\0"] {
            assert_eq!(decode(wrong), None, "{wrong:?}");
        }
        assert_eq!(decode(&[b"a:".as_slice(), &[b'x'; 1025]].concat()), None);
        assert_eq!(decode(&[[b'x'; 256].as_slice(), b":a"].concat()), None);
        for token in ["", "===", "am86c2VjcmV0 ", "am86c2V jcmV0", "äöü"] {
            assert!(basic(token).is_none(), "{token:?}");
        }
    }
}
