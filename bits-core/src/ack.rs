//! The answer to a packet (sections 2.2.3, 2.2.5, 2.2.7, 2.2.9, 2.2.11).

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header as http_header};

use crate::{Form, PROTOCOL, Refusal, SessionId, header};

/// An ack: every answer to BITS_POST, errors included.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Ack {
    status: StatusCode,
    /// The session that the packet belongs to, where it is known.
    pub session: Option<SessionId>,
    received: Option<u64>,
    created: Option<Created>,
    reply_url: Option<String>,
    /// Why the packet was refused; none on success.
    pub refusal: Option<Refusal>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Created {
    host_id: Option<(String, Duration)>,
}

impl Ack {
    /// Success for Ping.
    pub fn ping() -> Self {
        Self::success(None)
    }

    /// Success for Create-Session: 201 in the override form, 200 else. `host_id` comes with the
    /// time after which a client that cannot reach it goes back to the original host.
    pub fn created(session: SessionId, form: Form, host_id: Option<(String, Duration)>) -> Self {
        let status = if form == Form::Override { StatusCode::CREATED } else { StatusCode::OK };
        Self { status, created: Some(Created { host_id }), ..Self::success(Some(session)) }
    }

    /// Success for Fragment; `next` is the offset of the byte that the server wants next.
    pub fn fragment(session: SessionId, next: u64) -> Self {
        Self { received: Some(next), ..Self::success(Some(session)) }
    }

    /// The same with the URL of the reply to the upload, which is visible ASCII.
    pub fn with_reply(self, url: String) -> Self {
        Self { reply_url: Some(url), ..self }
    }

    /// Success for Close-Session and Cancel-Session.
    pub fn ended(session: SessionId) -> Self {
        Self::success(Some(session))
    }

    /// A refusal, with the session where it is known.
    pub fn refused(refusal: Refusal, session: Option<SessionId>) -> Self {
        Self {
            status: refusal.status(),
            received: refusal.next_offset(),
            refusal: Some(refusal),
            ..Self::success(session)
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// `BITS-Received-Content-Range`, where the ack has one.
    pub fn next_offset(&self) -> Option<u64> {
        self.received
    }

    /// The head of the answer, which has no body.
    pub fn into_response(self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::PACKET_TYPE, HeaderValue::from_static("Ack"));
        headers.insert(http_header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        headers.insert(http_header::PRAGMA, HeaderValue::from_static("no-cache"));
        headers.insert(http_header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(session) = self.session {
            headers.insert(header::SESSION_ID, text(&session));
        }
        if let Some(next) = self.received {
            headers.insert(header::RECEIVED_CONTENT_RANGE, HeaderValue::from(next));
        }
        if let Some(url) = self.reply_url {
            headers.insert(header::REPLY_URL, text(&url));
        }
        if let Some(created) = self.created {
            created.write(headers);
        }
        if let Some(refusal) = self.refusal {
            write_refusal(&refusal, headers);
        }
        response
    }

    fn success(session: Option<SessionId>) -> Self {
        Self { status: StatusCode::OK, session, received: None, created: None, reply_url: None, refusal: None }
    }
}

impl Created {
    fn write(self, headers: &mut http::HeaderMap) {
        headers.insert(header::PROTOCOL, HeaderValue::from_static(PROTOCOL));
        headers.insert(http_header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some((host, fallback)) = self.host_id
            && let Ok(host) = HeaderValue::from_str(&host)
        {
            headers.insert(header::HOST_ID, host);
            headers.insert(header::HOST_ID_FALLBACK_TIMEOUT, HeaderValue::from(fallback.as_secs()));
        }
    }
}

fn write_refusal(refusal: &Refusal, headers: &mut http::HeaderMap) {
    if let Some(code) = refusal.hresult() {
        headers.insert(header::ERROR_CODE, text(&code));
        headers.insert(header::ERROR, text(&code));
    }
    if let Some(context) = refusal.context() {
        headers.insert(header::ERROR_CONTEXT, HeaderValue::from_static(context));
    }
    if let Some(wait) = refusal.retry_after() {
        headers.insert(http_header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    }
}

/// Only for ids and codes, which show as visible ASCII.
fn text(value: &impl ToString) -> HeaderValue {
    HeaderValue::try_from(value.to_string()).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InvalidPath;

    const ID: &str = "{7DF0354D-249B-430F-820D-3D2A9BEF4931}";
    const ALWAYS: [&str; 4] =
        ["bits-packet-type: Ack", "cache-control: no-store", "content-length: 0", "pragma: no-cache"];

    /// The whole head of the answer: its status, what every ack has, and `more`.
    #[track_caller]
    fn check(ack: Ack, status: u16, more: &[&str]) {
        assert_eq!(ack.status().as_u16(), status, "{ack:?}");
        let response = ack.into_response();
        assert_eq!(response.status().as_u16(), status);
        let mut shown: Vec<String> =
            response.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        shown.sort();
        let mut expected = [ALWAYS.as_slice(), more].concat();
        expected.sort_unstable();
        assert_eq!(shown, expected);
    }

    fn id() -> SessionId {
        ID.parse().unwrap()
    }

    /// Sections 2.2.3, 2.2.5, 2.2.7, 2.2.9 and 2.2.11.
    #[test]
    fn success() {
        let session = format!("bits-session-id: {ID}");
        let session = session.as_str();
        let created = [session, "accept-encoding: identity", "bits-protocol: {7df0354d-249b-430f-820d-3d2a9bef4931}"];
        check(Ack::ping(), 200, &[]);
        check(Ack::created(id(), Form::Native, None), 200, &created);
        check(Ack::created(id(), Form::Override, None), 201, &created);
        check(Ack::fragment(id(), 0), 200, &[session, "bits-received-content-range: 0"]);
        check(
            Ack::fragment(id(), i64::MAX as u64),
            200,
            &[session, "bits-received-content-range: 9223372036854775807"],
        );
        check(
            Ack::fragment(id(), 7).with_reply("http://a.example/{r}".to_owned()),
            200,
            &[session, "bits-received-content-range: 7", "bits-reply-url: http://a.example/{r}"],
        );
        check(Ack::ended(id()), 200, &[session]);
    }

    /// Section 2.2.3.2.
    #[test]
    fn a_host_id_comes_with_its_fallback_timeout() {
        let session = format!("bits-session-id: {ID}");
        let created =
            [session.as_str(), "accept-encoding: identity", "bits-protocol: {7df0354d-249b-430f-820d-3d2a9bef4931}"];
        let day = Duration::from_secs(86_400);
        for host in ["near.example", "[2001:db8::1]"] {
            let ack = Ack::created(id(), Form::Native, Some((host.to_owned(), day)));
            let host = format!("bits-host-id: {host}");
            check(ack, 200, &[created.as_slice(), &[&host, "bits-host-id-fallback-timeout: 86400"]].concat());
        }
        check(Ack::created(id(), Form::Native, Some(("not a\nheader".to_owned(), day))), 200, &created);
    }

    /// The error table on the wire: one code twice, its context, and nothing that says more.
    #[test]
    fn refusals() {
        let coded: [(Refusal, u16, &str); 17] = [
            (Refusal::TooManyLogins, 429, "0x800704D5"),
            (Refusal::SessionNotFound, 500, "0x8020001F"),
            (Refusal::AccessDenied, 403, "0x80070005"),
            (Refusal::DestinationExists { status: StatusCode::FORBIDDEN }, 403, "0x80070005"),
            (Refusal::DestinationExists { status: StatusCode::CONFLICT }, 409, "0x80070005"),
            (Refusal::UploadsDisabled, 501, "0x80070005"),
            (Refusal::PathNotFound, 404, "0x80070003"),
            (Refusal::ParentMissing, 404, "0x80070003"),
            (Refusal::Malformed("why"), 400, "0x80070057"),
            (Refusal::DestinationIsFolder, 400, "0x80070057"),
            (Refusal::InvalidName(InvalidPath::Dot), 400, "0x8007007B"),
            (Refusal::TooLarge, 500, "0x80200020"),
            (Refusal::DiskFull, 500, "0x80070070"),
            (Refusal::SessionLimit, 503, "0x801901F7"),
            (Refusal::Unavailable, 503, "0x800704D5"),
            (Refusal::StagedDataVanished, 404, "0x80070002"),
            (Refusal::Internal, 500, "0x80004005"),
        ];
        let session = format!("bits-session-id: {ID}");
        for (refusal, status, code) in coded {
            let (code, error) = (format!("bits-error-code: {code}"), format!("bits-error: {code}"));
            let mut more = vec![code.as_str(), &error, "bits-error-context: 0x5"];
            match status {
                429 => more.push("retry-after: 60"),
                503 => more.push("retry-after: 30"),
                _ => {}
            }
            check(Ack::refused(refusal.clone(), None), status, &more);
            more.push(&session);
            check(Ack::refused(refusal, Some(id())), status, &more);
        }
    }

    /// 401, 416 and 413: an HRESULT would end a job that can go on.
    #[test]
    fn refusals_without_an_hresult() {
        check(Ack::refused(Refusal::Unauthenticated, None), 401, &[]);
        let session = format!("bits-session-id: {ID}");
        let gap = Ack::refused(Refusal::Gap { next: 77 }, Some(id()));
        assert_eq!(gap.next_offset(), Some(77));
        check(gap, 416, &[&session, "bits-received-content-range: 77"]);
        check(Ack::refused(Refusal::FragmentTooLarge, Some(id())), 413, &[&session]);
    }
}
