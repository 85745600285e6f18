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
        if let Some(created) = self.created {
            created.write(headers);
        }
        if let Some(refusal) = self.refusal {
            write_refusal(&refusal, headers);
        }
        response
    }

    fn success(session: Option<SessionId>) -> Self {
        Self { status: StatusCode::OK, session, received: None, created: None, refusal: None }
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
