//! Request heads as typed packets (sections 2.2.1 to 2.2.11, 3.2.5.2.3).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header as http_header, request::Parts};

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
    /// `BITS-Original-Request-URL`, to server applications
    pub const ORIGINAL_REQUEST_URL: HeaderName = HeaderName::from_static("bits-original-request-url");
    /// `BITS-Request-DataFile-Name`, to server applications
    pub const REQUEST_DATAFILE_NAME: HeaderName = HeaderName::from_static("bits-request-datafile-name");
    /// `BITS-Response-DataFile-Name`, to server applications
    pub const RESPONSE_DATAFILE_NAME: HeaderName = HeaderName::from_static("bits-response-datafile-name");
    /// `BITS-Remote-User`, to server applications
    pub const REMOTE_USER: HeaderName = HeaderName::from_static("bits-remote-user");
    /// `BITS-Remote-Address`, to server applications
    pub const REMOTE_ADDRESS: HeaderName = HeaderName::from_static("bits-remote-address");
    /// `BITS-Notification-Id`, to server applications
    pub const NOTIFICATION_ID: HeaderName = HeaderName::from_static("bits-notification-id");
    /// `BITS-Static-Response-URL`, from server applications
    pub const STATIC_RESPONSE_URL: HeaderName = HeaderName::from_static("bits-static-response-url");
    /// `BITS-Copy-File-To-Destination`, from server applications
    pub const COPY_FILE_TO_DESTINATION: HeaderName = HeaderName::from_static("bits-copy-file-to-destination");
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
        if chunked && !is_only_chunked(&head.headers) {
            return Err(Refusal::Malformed("a transfer coding other than chunked"));
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

    /// The session that the head of a Fragment names, however malformed the rest of it is.
    pub fn fragment_of(head: &Parts) -> Option<SessionId> {
        let kind = packet_type(&head.headers).ok()?;
        session_id(&head.headers).ok().filter(|_| kind == PacketType::Fragment)
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

/// Whoever frames requests undoes this coding and no other: what is left of one before it would be
/// stored as the file.
fn is_only_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(http_header::TRANSFER_ENCODING).iter();
    codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) && codings.next().is_none()
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(text) = single(headers, &http_header::CONTENT_LENGTH)? else { return Ok(None) };
    let wrong = Refusal::Malformed("Content-Length is not a number");
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong);
    }
    text.parse().map(Some).map_err(|_| wrong)
}

/// The list may be spread over several lines, as any list of HTTP may.
fn check_protocols(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut left = MAXIMUM_PROTOCOLS;
    let mut lines = headers.get_all(header::SUPPORTED_PROTOCOLS).iter().peekable();
    lines.peek().ok_or(Refusal::Malformed("BITS-Supported-Protocols is missing"))?;
    for line in lines {
        let mut names = ascii(line)?.split([' ', ',', '\t']).filter(|name| !name.is_empty());
        if names.by_ref().take(left).inspect(|_| left -= 1).any(|name| name.eq_ignore_ascii_case(PROTOCOL)) {
            return Ok(());
        }
    }
    Err(Refusal::Malformed("no common protocol"))
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
    ascii(first).map(Some)
}

/// The trimmed value.
fn ascii(value: &HeaderValue) -> Result<&str, Refusal> {
    value.to_str().map(str::trim).map_err(|_| Refusal::Malformed("a header is not ASCII"))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const ID: &str = "{7DF0354D-249B-430F-820D-3D2A9BEF4931}";

    /// The head of a request, written as on the wire.
    fn head(text: &str) -> Parts {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let start: Vec<&str> = lines.next().unwrap().split(' ').collect();
        let version = if start[2] == "HTTP/1.0" { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut request = Request::builder().method(start[0]).uri(start[1]).version(version);
        for line in lines {
            let (name, value) = line.split_once(':').unwrap();
            request = request.header(name, value.trim().as_bytes());
        }
        request.body(()).unwrap().into_parts().0
    }

    /// Reads a head as the server does; a malformed one gives the reason.
    #[track_caller]
    fn check(text: &str, expected: Result<Packet, &'static str>) {
        let head = head(text);
        let form = Form::of(&head).expect("the head says that it is BITS");
        assert_eq!(Packet::parse(&head, form), expected.map_err(Refusal::Malformed), "{text}");
    }

    /// A native head with these headers.
    #[track_caller]
    fn native(headers: &str, expected: Result<Packet, &'static str>) {
        check(&format!("BITS_POST /upload/file HTTP/1.1\n{headers}"), expected);
    }

    /// A head of the override form with these headers.
    #[track_caller]
    fn overriding(headers: &str, expected: Result<Packet, &'static str>) {
        check(&format!("POST /upload/file HTTP/1.1\nX-HTTP-Method-Override: BITS_POST\n{headers}"), expected);
    }

    fn fragment_of(range: &str) -> Result<Packet, &'static str> {
        Ok(Packet::Fragment(FragmentHead { session: ID.parse().unwrap(), range: range.parse().unwrap() }))
    }

    fn id() -> SessionId {
        ID.parse().unwrap()
    }

    #[test]
    fn the_form_is_the_method_or_its_override() {
        for (text, expected) in [
            ("BITS_POST /a HTTP/1.1", Some(Form::Native)),
            ("BITS_POST /a HTTP/1.1\nX-HTTP-Method-Override: PUT", Some(Form::Native)),
            ("POST /a HTTP/1.1\nX-HTTP-Method-Override: BITS_POST", Some(Form::Override)),
            ("POST /a HTTP/1.1\nx-http-method-override: bits_post", Some(Form::Override)),
            ("POST /a HTTP/1.1", None),
            ("POST /a HTTP/1.1\nX-HTTP-Method-Override: PUT", None),
            ("GET /a HTTP/1.1\nX-HTTP-Method-Override: BITS_POST", None),
            ("bits_post /a HTTP/1.1", None),
            ("GET /a HTTP/1.1", None),
        ] {
            assert_eq!(Form::of(&head(text)), expected, "{text}");
        }
    }

    /// Section 2.2.1: the type, compared without regard to case; unknown headers are ignored.
    #[test]
    fn packet_types() {
        for (name, expected) in [
            ("Ping", Ok(Packet::Ping)),
            ("PING", Ok(Packet::Ping)),
            ("Create-Session", Ok(Packet::CreateSession)),
            ("CREATE-SESSION", Ok(Packet::CreateSession)),
            ("close-session", Ok(Packet::CloseSession(id()))),
            ("Cancel-Session", Ok(Packet::CancelSession(id()))),
            ("  Ping  ", Ok(Packet::Ping)),
            ("Ack", Err("unknown BITS-Packet-Type")),
            ("Fragments", Err("unknown BITS-Packet-Type")),
            ("Close Session", Err("unknown BITS-Packet-Type")),
            ("", Err("unknown BITS-Packet-Type")),
            ("Größe", Err("a header is not ASCII")),
        ] {
            let rest = format!(
                "BITS-Packet-Type: {name}\nBITS-Supported-Protocols: {PROTOCOL}\nBITS-Session-Id: {ID}\n\
                 Content-Length: 0\nBITS-Unheard-Of: x\nX-Other: y"
            );
            native(&rest, expected);
            overriding(&rest, expected);
        }
        native("Content-Length: 0", Err("BITS-Packet-Type is missing"));
        native("BITS-Packet-Type: Ping\nBITS-Packet-Type: Ping\nContent-Length: 0", Err("a header stands twice"));
    }

    /// Sections 2.2.1.1 and 3.2.5.2.3.
    #[test]
    fn content_length_is_there_and_is_a_number() {
        for (line, expected) in [
            ("Content-Length: 0", Ok(Packet::Ping)),
            ("Content-Length: 000", Ok(Packet::Ping)),
            ("", Err("Content-Length is missing")),
            ("Content-Length:", Err("Content-Length is not a number")),
            ("Content-Length: -1", Err("Content-Length is not a number")),
            ("Content-Length: +0", Err("Content-Length is not a number")),
            ("Content-Length: 0x0", Err("Content-Length is not a number")),
            ("Content-Length: 0, 0", Err("Content-Length is not a number")),
            ("Content-Length: 99999999999999999999", Err("Content-Length is not a number")),
            ("Content-Length: 0\nContent-Length: 0", Err("a header stands twice")),
            ("Content-Length: 1", Err("only a Fragment has a body")),
            ("Transfer-Encoding: chunked", Err("Transfer-Encoding where a Content-Length belongs")),
            ("Content-Length: 0\nTransfer-Encoding: chunked", Err("Transfer-Encoding where a Content-Length belongs")),
        ] {
            native(&format!("BITS-Packet-Type: Ping\n{line}"), expected);
            overriding(&format!("BITS-Packet-Type: Ping\n{line}"), expected);
        }
        for kind in ["Create-Session", "Close-Session", "Cancel-Session"] {
            let rest = format!("BITS-Supported-Protocols: {PROTOCOL}\nBITS-Session-Id: {ID}\nContent-Length: 7");
            native(&format!("BITS-Packet-Type: {kind}\n{rest}"), Err("only a Fragment has a body"));
        }
    }

    /// Section 2.2.1, and what it leaves to the packet that it names.
    #[test]
    fn the_version_is_1_1() {
        check("BITS_POST /a HTTP/1.0\nBITS-Packet-Type: Ping\nContent-Length: 0", Err("BITS needs HTTP/1.1"));
    }

    /// Section 2.2.1: 4 KiB for what is ours, the general limit for the rest.
    #[test]
    fn long_headers() {
        let long = "a BITS-* or Content-* header is over 4 KiB";
        let ping =
            |line: String, expected| native(&format!("BITS-Packet-Type: Ping\nContent-Length: 0\n{line}"), expected);
        for name in ["Content-Name", "Content-Type", "BITS-Session-Id", "BITS-Anything"] {
            ping(format!("{name}: {}", "x".repeat(4096)), Ok(Packet::Ping));
            ping(format!("{name}: {}", "x".repeat(4097)), Err(long));
        }
        ping(format!("Authorization: Negotiate {}", "x".repeat(40_000)), Ok(Packet::Ping));
    }

    /// Section 2.2.1.1: not used, never parsed, and no reason to refuse.
    #[test]
    fn content_name_is_never_looked_at() {
        for line in ["Content-Name: Größe", "Content-Name:", "Content-Name: a\nContent-Name: ../b"] {
            native(&format!("BITS-Packet-Type: Ping\nContent-Length: 0\n{line}"), Ok(Packet::Ping));
        }
    }

    /// Section 2.2.2.2.
    #[test]
    fn supported_protocols() {
        let other = "{00000000-0000-0000-0000-000000000001}";
        let many = |before| format!("{other} ").repeat(before) + PROTOCOL;
        let none = Err("no common protocol");
        for (line, expected) in [
            (format!("BITS-Supported-Protocols: {PROTOCOL}"), Ok(Packet::CreateSession)),
            (format!("BITS-Supported-Protocols: {}", PROTOCOL.to_uppercase()), Ok(Packet::CreateSession)),
            (format!("BITS-Supported-Protocols: {other} {PROTOCOL}"), Ok(Packet::CreateSession)),
            (format!("BITS-Supported-Protocols: {other},{PROTOCOL}"), Ok(Packet::CreateSession)),
            (format!("BITS-Supported-Protocols: {PROTOCOL} , {other},"), Ok(Packet::CreateSession)),
            (format!("BITS-Supported-Protocols: {}", many(99)), Ok(Packet::CreateSession)),
            (format!("BITS-Supported-Protocols: {}", many(100)), none),
            (format!("BITS-Supported-Protocols: {other}"), none),
            (format!("BITS-Supported-Protocols: {}", &PROTOCOL[1..37]), none),
            (format!("BITS-Supported-Protocols: {PROTOCOL};{other}"), none),
            ("BITS-Supported-Protocols:".to_owned(), none),
            ("BITS-Supported-Protocols: , ,".to_owned(), none),
            ("BITS-Supported-Protocols: Größe".to_owned(), Err("a header is not ASCII")),
            (String::new(), Err("BITS-Supported-Protocols is missing")),
        ] {
            native(&format!("BITS-Packet-Type: Create-Session\nContent-Length: 0\n{line}"), expected);
        }
    }

    /// Section 2.2.1 with RFC 2616, 4.2: a list may be spread over lines, the limits are the list's.
    #[test]
    fn supported_protocols_on_several_lines() {
        let line = |name: &str| format!("\nBITS-Supported-Protocols: {name}");
        let other = line("{00000000-0000-0000-0000-000000000001}");
        for (lines, expected) in [
            (other.clone() + &line(PROTOCOL), Ok(Packet::CreateSession)),
            (line(PROTOCOL) + &other, Ok(Packet::CreateSession)),
            (other.repeat(100) + &line(PROTOCOL), Err("no common protocol")),
        ] {
            native(&format!("BITS-Packet-Type: Create-Session\nContent-Length: 0{lines}"), expected);
        }
    }

    /// Section 2.2.1.2: needed but for Ping and Create-Session, ignored there.
    #[test]
    fn session_ids() {
        let lower = ID.to_lowercase();
        for (line, expected) in [
            (format!("BITS-Session-Id: {ID}"), Ok(())),
            (format!("BITS-Session-Id: {lower}"), Ok(())),
            (String::new(), Err("BITS-Session-Id is missing")),
            ("BITS-Session-Id:".to_owned(), Err("BITS-Session-Id is not a GUID in braces")),
            (format!("BITS-Session-Id: {}", &ID[1..37]), Err("BITS-Session-Id is not a GUID in braces")),
            (format!("BITS-Session-Id: {ID}{ID}"), Err("BITS-Session-Id is not a GUID in braces")),
            (format!("BITS-Session-Id: {ID}\nBITS-Session-Id: {ID}"), Err("a header stands twice")),
            ("BITS-Session-Id: Größe".to_owned(), Err("a header is not ASCII")),
        ] {
            let rest = format!("Content-Length: 0\n{line}\nBITS-Supported-Protocols: {PROTOCOL}");
            native(&format!("BITS-Packet-Type: Close-Session\n{rest}"), expected.map(|()| Packet::CloseSession(id())));
            native(
                &format!("BITS-Packet-Type: Cancel-Session\n{rest}"),
                expected.map(|()| Packet::CancelSession(id())),
            );
            native(&format!("BITS-Packet-Type: Ping\n{rest}"), Ok(Packet::Ping));
            native(&format!("BITS-Packet-Type: Create-Session\n{rest}"), Ok(Packet::CreateSession));
            let fragment = format!("BITS-Packet-Type: Fragment\nContent-Range: bytes */0\n{rest}");
            native(&fragment, expected.and_then(|()| fragment_of("bytes */0")));
        }
    }

    /// Sections 2.2.6 and 3.2.5.2.6, and decision 10.
    #[test]
    fn fragments() {
        let chunked = "Transfer-Encoding where a Content-Length belongs";
        let coded = "a transfer coding other than chunked";
        let differ = "Content-Length and Content-Range differ";
        for (lines, on_native, on_override) in [
            ("Content-Length: 5\nContent-Range: bytes 0-4/10", Ok("bytes 0-4/10"), Ok("bytes 0-4/10")),
            ("Content-Length: 5\nContent-Range: Bytes 5-9/10", Ok("bytes 5-9/10"), Ok("bytes 5-9/10")),
            ("Content-Length: 0\nContent-Range: bytes */0", Ok("bytes */0"), Ok("bytes */0")),
            ("Content-Length: 4\nContent-Range: bytes 0-4/10", Err(differ), Err(differ)),
            ("Content-Length: 6\nContent-Range: bytes 0-4/10", Err(differ), Err(differ)),
            ("Content-Length: 1\nContent-Range: bytes */0", Err(differ), Err(differ)),
            ("Content-Length: 0\nContent-Range: bytes 0-0/1", Err(differ), Err(differ)),
            ("Content-Length: 5", Err("Content-Range is missing"), Err("Content-Range is missing")),
            (
                "Content-Length: 5\nContent-Range: 0-4/10",
                Err("Content-Range is broken"),
                Err("Content-Range is broken"),
            ),
            (
                "Content-Length: 5\nContent-Range: bytes 0-4/10\nContent-Range: bytes 0-4/10",
                Err("a header stands twice"),
                Err("a header stands twice"),
            ),
            ("Content-Range: bytes 0-4/10", Err("Content-Length is missing"), Err("Content-Length is missing")),
            ("Content-Range: bytes 0-4/10\nTransfer-Encoding: chunked", Err(chunked), Ok("bytes 0-4/10")),
            ("Content-Length: 5\nContent-Range: bytes 0-4/10\nTransfer-Encoding: chunked", Err(chunked), Err(chunked)),
            ("Content-Range: bytes 0-4/10\nTransfer-Encoding: Chunked", Err(chunked), Ok("bytes 0-4/10")),
            ("Content-Range: bytes 0-4/10\nTransfer-Encoding: gzip, chunked", Err(chunked), Err(coded)),
            (
                "Content-Range: bytes 0-4/10\nTransfer-Encoding: gzip\nTransfer-Encoding: chunked",
                Err(chunked),
                Err(coded),
            ),
            ("Content-Range: bytes 0-4/10\nTransfer-Encoding: chunked, chunked", Err(chunked), Err(coded)),
            ("Content-Range: bytes 0-4/10\nTransfer-Encoding: ,chunked", Err(chunked), Err(coded)),
            (
                "Content-Length: 5\nContent-Range: bytes 0-4/10\nContent-Encoding: Identity",
                Ok("bytes 0-4/10"),
                Ok("bytes 0-4/10"),
            ),
            (
                "Content-Length: 5\nContent-Range: bytes 0-4/10\nContent-Encoding: gzip",
                Err("Content-Encoding must be identity"),
                Err("Content-Encoding must be identity"),
            ),
        ] {
            let rest = format!("BITS-Packet-Type: Fragment\nBITS-Session-Id: {ID}\n{lines}");
            native(&rest, on_native.and_then(fragment_of));
            overriding(&rest, on_override.and_then(fragment_of));
        }
    }

    /// Only a Fragment's range and coding are looked at.
    #[test]
    fn other_packets_ignore_a_fragments_headers() {
        let rest = "Content-Length: 0\nContent-Range: nonsense\nContent-Encoding: gzip";
        native(&format!("BITS-Packet-Type: Ping\n{rest}"), Ok(Packet::Ping));
        let close = format!("BITS-Packet-Type: Close-Session\nBITS-Session-Id: {ID}\n{rest}");
        native(&close, Ok(Packet::CloseSession(id())));
    }

    #[test]
    fn a_packet_knows_its_kind_and_session() {
        let fragment = fragment_of("bytes */0").unwrap();
        for (packet, kind, session) in [
            (Packet::Ping, PacketType::Ping, None),
            (Packet::CreateSession, PacketType::CreateSession, None),
            (fragment, PacketType::Fragment, Some(id())),
            (Packet::CloseSession(id()), PacketType::CloseSession, Some(id())),
            (Packet::CancelSession(id()), PacketType::CancelSession, Some(id())),
        ] {
            assert_eq!((packet.kind(), packet.session()), (kind, session));
        }
    }
}
