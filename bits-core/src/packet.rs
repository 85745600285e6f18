//! Request heads as typed packets (sections 2.2.1 to 2.2.11, 3.2.5.2.3).

use http::{HeaderMap, HeaderName, Method, Version, header as http_header, request::Parts};

use crate::{ContentRange, Refusal, SessionId};

/// The only protocol there is.
pub const PROTOCOL: &str = "{7df0354d-249b-430f-820d-3d2a9bef4931}";

/// How many protocols of `BITS-Supported-Protocols` are looked at.
const MAXIMUM_PROTOCOLS: usize = 100;
/// The longest value of a `BITS-*` or `Content-*` header, in bytes.
const MAXIMUM_VALUE: usize = 4 * 1024;

/// Names of the headers that the protocol adds to HTTP (section 2.2.1.2).
pub mod header {
    use http::HeaderName;

    /// `BITS-Packet-Type`
    pub const PACKET_TYPE: HeaderName = HeaderName::from_static("bits-packet-type");
    /// `BITS-Supported-Protocols`
    pub const SUPPORTED_PROTOCOLS: HeaderName = HeaderName::from_static("bits-supported-protocols");
    /// `BITS-Session-Id`
    pub const SESSION_ID: HeaderName = HeaderName::from_static("bits-session-id");
    /// `BITS-Protocol`
    pub const PROTOCOL: HeaderName = HeaderName::from_static("bits-protocol");
    /// `BITS-Host-Id`
    pub const HOST_ID: HeaderName = HeaderName::from_static("bits-host-id");
    /// `BITS-Host-Id-Fallback-Timeout`, in seconds
    pub const HOST_ID_FALLBACK_TIMEOUT: HeaderName = HeaderName::from_static("bits-host-id-fallback-timeout");
    /// `BITS-Received-Content-Range`
    pub const RECEIVED_CONTENT_RANGE: HeaderName = HeaderName::from_static("bits-received-content-range");
    /// `BITS-Reply-URL`
    pub const REPLY_URL: HeaderName = HeaderName::from_static("bits-reply-url");
    /// `BITS-Error-Code`, which clients read
    pub const ERROR_CODE: HeaderName = HeaderName::from_static("bits-error-code");
    /// `BITS-Error`, the specification's name for the same
    pub const ERROR: HeaderName = HeaderName::from_static("bits-error");
    /// `BITS-Error-Context`
    pub const ERROR_CONTEXT: HeaderName = HeaderName::from_static("bits-error-context");
    /// `X-HTTP-Method-Override`
    pub const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");
}

/// How a request says that it is BITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The method is `BITS_POST`.
    Native,
    /// `POST` with `X-HTTP-Method-Override: BITS_POST`.
    Override,
}

impl Form {
    /// The form of a request; none when it is not BITS.
    pub fn of(head: &Parts) -> Option<Self> {
        if head.method.as_str() == "BITS_POST" {
            return Some(Self::Native);
        }
        let wanted = head.headers.get(header::METHOD_OVERRIDE)?;
        (head.method == Method::POST && wanted.as_bytes().eq_ignore_ascii_case(b"BITS_POST")).then_some(Self::Override)
    }
}

/// The kind of a packet, as `BITS-Packet-Type` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// `Ping`
    Ping,
    /// `Create-Session`
    CreateSession,
    /// `Fragment`
    Fragment,
    /// `Close-Session`
    CloseSession,
    /// `Cancel-Session`
    CancelSession,
}

impl PacketType {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Ping, Self::CreateSession, Self::Fragment, Self::CloseSession, Self::CancelSession];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "Ping",
            Self::CreateSession => "Create-Session",
            Self::Fragment => "Fragment",
            Self::CloseSession => "Close-Session",
            Self::CancelSession => "Cancel-Session",
        }
    }
}

/// What a Fragment's head says about its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHead {
    /// The session it belongs to.
    pub session: SessionId,
    /// Which bytes the body holds; the body has as many.
    pub range: ContentRange,
}

/// One of the five packets, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Opens the connection and asks nothing.
    Ping,
    /// Asks for a session.
    CreateSession,
    /// Carries bytes.
    Fragment(FragmentHead),
    /// Ends a session that is done.
    CloseSession(SessionId),
    /// Ends a session that is given up.
    CancelSession(SessionId),
}

impl Packet {
    /// Reads the head of a request in the given form; the path is not looked at.
    pub fn parse(head: &Parts, form: Form) -> Result<Self, Refusal> {
        check_lengths(&head.headers)?;
        if head.version < Version::HTTP_11 {
            return Err(Refusal::Malformed("BITS needs HTTP/1.1"));
        }
        let kind = packet_type(&head.headers)?;
        let length = content_length(&head.headers)?;
        let chunked = head.headers.contains_key(http_header::TRANSFER_ENCODING);
        if chunked && (form == Form::Native || kind != PacketType::Fragment || length.is_some()) {
            return Err(Refusal::Malformed("Transfer-Encoding where a Content-Length belongs"));
        }
        if length.is_none() && !chunked {
            return Err(Refusal::Malformed("Content-Length is missing"));
        }
        if kind != PacketType::Fragment && length != Some(0) {
            return Err(Refusal::Malformed("only a Fragment has a body"));
        }
        Ok(match kind {
            PacketType::Ping => Self::Ping,
            PacketType::CreateSession => check_protocols(&head.headers).map(|()| Self::CreateSession)?,
            PacketType::Fragment => Self::Fragment(fragment(&head.headers, length)?),
            PacketType::CloseSession => Self::CloseSession(session_id(&head.headers)?),
            PacketType::CancelSession => Self::CancelSession(session_id(&head.headers)?),
        })
    }

    /// The kind of this packet.
    pub const fn kind(&self) -> PacketType {
        match self {
            Self::Ping => PacketType::Ping,
            Self::CreateSession => PacketType::CreateSession,
            Self::Fragment(_) => PacketType::Fragment,
            Self::CloseSession(_) => PacketType::CloseSession,
            Self::CancelSession(_) => PacketType::CancelSession,
        }
    }

    /// The session that the packet names.
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Ping | Self::CreateSession => None,
            Self::Fragment(fragment) => Some(fragment.session),
            Self::CloseSession(session) | Self::CancelSession(session) => Some(*session),
        }
    }
}

fn check_lengths(headers: &HeaderMap) -> Result<(), Refusal> {
    let long = headers.iter().any(|(name, value)| {
        let name = name.as_str();
        (name.starts_with("bits-") || name.starts_with("content-")) && value.len() > MAXIMUM_VALUE
    });
    if long { Err(Refusal::Malformed("a BITS-* or Content-* header is over 4 KiB")) } else { Ok(()) }
}

fn packet_type(headers: &HeaderMap) -> Result<PacketType, Refusal> {
    let name = single(headers, &header::PACKET_TYPE)?.ok_or(Refusal::Malformed("BITS-Packet-Type is missing"))?;
    PacketType::ALL
        .into_iter()
        .find(|kind| kind.as_str().eq_ignore_ascii_case(name))
        .ok_or(Refusal::Malformed("unknown BITS-Packet-Type"))
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(text) = single(headers, &http_header::CONTENT_LENGTH)? else { return Ok(None) };
    let wrong = Refusal::Malformed("Content-Length is not a number");
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong);
    }
    text.parse().map(Some).map_err(|_| wrong)
}

fn check_protocols(headers: &HeaderMap) -> Result<(), Refusal> {
    let listed = single(headers, &header::SUPPORTED_PROTOCOLS)?
        .ok_or(Refusal::Malformed("BITS-Supported-Protocols is missing"))?;
    let common = listed
        .split([' ', ',', '\t'])
        .filter(|name| !name.is_empty())
        .take(MAXIMUM_PROTOCOLS)
        .any(|name| name.eq_ignore_ascii_case(PROTOCOL));
    if common { Ok(()) } else { Err(Refusal::Malformed("no common protocol")) }
}

fn fragment(headers: &HeaderMap, length: Option<u64>) -> Result<FragmentHead, Refusal> {
    let session = session_id(headers)?;
    if let Some(coding) = single(headers, &http_header::CONTENT_ENCODING)?
        && !coding.eq_ignore_ascii_case("identity")
    {
        return Err(Refusal::Malformed("Content-Encoding must be identity"));
    }
    let range: ContentRange = single(headers, &http_header::CONTENT_RANGE)?
        .ok_or(Refusal::Malformed("Content-Range is missing"))?
        .parse()
        .map_err(|_| Refusal::Malformed("Content-Range is broken"))?;
    if length.is_some_and(|length| length != range.length()) {
        return Err(Refusal::Malformed("Content-Length and Content-Range differ"));
    }
    Ok(FragmentHead { session, range })
}

fn session_id(headers: &HeaderMap) -> Result<SessionId, Refusal> {
    single(headers, &header::SESSION_ID)?
        .ok_or(Refusal::Malformed("BITS-Session-Id is missing"))?
        .parse()
        .map_err(|_| Refusal::Malformed("BITS-Session-Id is not a GUID in braces"))
}

/// The trimmed value of a header that may stand once only.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::Malformed("a header stands twice"));
    }
    first.to_str().map(|text| Some(text.trim())).map_err(|_| Refusal::Malformed("a header is not ASCII"))
}
