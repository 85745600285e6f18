//! Server applications that are told of finished uploads: what they are told of, and what comes
//! of their answers (sections 2.2.12, 2.2.13 and 3.3).

use std::time::Duration;

use http::{HeaderMap, StatusCode, Uri};

use crate::{Hresult, Refusal, packet::header};

/// The longest URL of a notification or a reply, in characters.
pub const MAXIMUM_URL: usize = 2200;

/// How a directory tells its server application of uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Whether the upload itself is sent.
    pub mode: NotificationMode,
    /// Where the application is; a relative URL resolves against the upload's.
    pub url: String,
    /// Bounds sending, the answer's head and its body, each by itself.
    pub timeout: Duration,
    /// How many uploads it is told of at once; the others wait in their order. None: all of them.
    pub limit: Option<u32>,
}

/// How an application gets at an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationMode {
    /// NOTIFICATION_BY_REFERENCE: by the names of two files.
    ByReference,
    /// NOTIFICATION_BY_VALUE: as the body of the request; its answer's body is the reply.
    ByValue,
}

/// What a client is given for its upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A URL of the application's, which is not ours to delete.
    Static(String),
    /// What the application answered, kept with the session.
    Kept {
        /// Its size in bytes, at least one.
        length: u64,
    },
}

/// The head of an application's answer, understood (section 3.3.5.2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The application's own URL for the reply, which overrides whatever else it gave.
    pub static_url: Option<String>,
    /// Whether the upload is to be published.
    pub copy: bool,
}

impl Accepted {
    /// Reads the head of an answer: only 200 is success.
    pub fn read(status: StatusCode, headers: &HeaderMap) -> Result<Self, Refusal> {
        if status != StatusCode::OK {
            let sent = headers.get(header::ERROR_CODE).and_then(|code| code.to_str().ok());
            return Err(Refusal::Application { status, code: application_code(status, sent) });
        }
        let copy = headers.contains_key(header::COPY_FILE_TO_DESTINATION);
        let static_url = match headers.get(header::STATIC_RESPONSE_URL) {
            None => None,
            Some(value) if value.is_empty() => None,
            Some(value) => Some(value.to_str().ok().and_then(absolute).ok_or(Refusal::ReplyUrl)?),
        };
        Ok(Self { static_url, copy })
    }
}

/// The status that a client gets for an application's: those that would make it authenticate to
/// us, send otherwise, or take a failure for success, become others.
pub(crate) fn status_for_client(status: StatusCode) -> StatusCode {
    match status.as_u16() {
        401 | 407 | 413 | 416 => StatusCode::BAD_REQUEST,
        100..=299 | 304 => StatusCode::INTERNAL_SERVER_ERROR,
        _ => status,
    }
}

/// The application's own code, but for those that would send the client to another session or
/// end its job for the server's sake; else its status in the shape of one.
fn application_code(status: StatusCode, sent: Option<&str>) -> Hresult {
    let own = [Hresult::BG_E_SESSION_NOT_FOUND, Hresult::BG_E_TOO_LARGE];
    let sent = sent.and_then(parse_code).filter(|code| !own.contains(code));
    sent.unwrap_or(Hresult(0x8019_0000 + u32::from(status.as_u16())))
}

/// A failure as `0x` and at most eight hexadecimal digits.
fn parse_code(text: &str) -> Option<Hresult> {
    let digits = text.trim().strip_prefix("0x").or_else(|| text.trim().strip_prefix("0X"))?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok().filter(|code| code >> 31 == 1).map(Hresult)
}

fn absolute(url: &str) -> Option<String> {
    let parsed: Uri = url.parse().ok()?;
    let has_host = parsed.host().is_some_and(|host| !host.is_empty());
    (url.len() <= MAXIMUM_URL && parsed.scheme().is_some() && has_host).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(status: u16, headers: &[(http::HeaderName, &str)]) -> Result<Accepted, Refusal> {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        Accepted::read(StatusCode::from_u16(status).unwrap(), &headers)
    }

    /// What the client gets for an application's status and code.
    #[track_caller]
    fn check(status: u16, sent: Option<&str>, expected: u16, code: u32) {
        let headers: Vec<_> = sent.map(|code| (header::ERROR_CODE, code)).into_iter().collect();
        let refusal = read(status, &headers).unwrap_err();
        assert_eq!(refusal.status().as_u16(), expected, "{status}");
        assert_eq!(refusal.hresult(), Some(Hresult(code)), "{status} {sent:?}");
        assert_eq!(refusal.context(), Some("0x7"));
        assert!(!refusal.is_ours());
    }

    #[test]
    fn an_error_is_the_applications_own() {
        for status in [300, 301, 302, 307, 308, 400, 402, 403, 404, 408, 409, 411, 418, 499, 500, 501, 503, 599] {
            check(status, None, status, 0x8019_0000 + u32::from(status));
        }
        for status in [401, 407, 413, 416] {
            check(status, None, 400, 0x8019_0000 + u32::from(status));
        }
        for status in [100, 101, 199, 201, 202, 204, 206, 299, 304] {
            check(status, None, 500, 0x8019_0000 + u32::from(status));
        }
    }

    #[test]
    fn a_code_is_the_applications_own() {
        check(403, Some("0x80070005"), 403, 0x8007_0005);
        check(500, Some("0X8000ffff"), 500, 0x8000_FFFF);
        check(401, Some("0x80070005"), 400, 0x8007_0005);
        // The client would start over, or give up for the server's sake.
        check(500, Some("0x8020001F"), 500, 0x8019_01F4);
        check(500, Some("0x80200020"), 500, 0x8019_01F4);
        for nonsense in ["", "0x", "0x0", "0x00000001", "0x7FFFFFFF", "80070005", "0x180070005", "0x8007000G", "0x+8"] {
            check(500, Some(nonsense), 500, 0x8019_01F4);
        }
    }

    #[test]
    fn success_may_ask_for_more() {
        let none = Accepted { static_url: None, copy: false };
        assert_eq!(read(200, &[]), Ok(none.clone()));
        assert_eq!(read(200, &[(header::STATIC_RESPONSE_URL, "")]), Ok(none.clone()));
        // Only the status says whether it succeeded.
        assert_eq!(read(200, &[(header::ERROR_CODE, "0x80070005")]), Ok(none.clone()));
        for value in ["", "0", "true", "no"] {
            let copy = read(200, &[(header::COPY_FILE_TO_DESTINATION, value)]);
            assert_eq!(copy, Ok(Accepted { copy: true, ..none.clone() }));
        }
        for url in ["http://app.example/r", "HTTPS://app.example:8443/{7D}/r?x=1", "http://[::1]/r"] {
            let taken = read(200, &[(header::STATIC_RESPONSE_URL, url)]);
            assert_eq!(taken, Ok(Accepted { static_url: Some(url.to_owned()), copy: false }));
        }
        for url in ["/r", "r", "//app.example/r", "app.example/r", "http://", "http://a b/", "http:/r", "x:y"] {
            assert_eq!(read(200, &[(header::STATIC_RESPONSE_URL, url)]), Err(Refusal::ReplyUrl), "{url}");
        }
    }

    #[test]
    fn a_reply_url_has_at_most_2200_characters() {
        let url = |length: usize| format!("http://app.example/{}", "r".repeat(length - 19));
        assert!(read(200, &[(header::STATIC_RESPONSE_URL, &url(2200))]).is_ok());
        assert_eq!(read(200, &[(header::STATIC_RESPONSE_URL, &url(2201))]), Err(Refusal::ReplyUrl));
    }
}
