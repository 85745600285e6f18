//! The answer to a packet, and what the client makes of it (section 3.1.5.2).

use std::{
    net::Ipv6Addr,
    time::{Duration, SystemTime},
};

use bits_core::{ContentRange, Hresult, PROTOCOL, PacketType, header};
use http::{HeaderMap, HeaderName, StatusCode, header as http_header};
use url::Url;

use crate::job::{Host, JobSession};

/// The longest `BITS-Host-Id`, in characters.
const LONGEST_HOST: usize = 300;
/// The longest URL that is taken from an answer.
const LONGEST_URL: usize = 2_200;

/// The head of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

/// What to do after an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The packet was taken; a Fragment's ack says where to go on.
    Taken,
    /// The same packet belongs to another URL.
    Moved(Url),
    /// Send less.
    TooMuch,
    /// Start over with Create-Session.
    SessionLost,
    /// The session is there, and what it held is not.
    DataLost,
    /// The same again, later.
    Later,
    /// There is no use in trying again.
    Final,
}

impl Answer {
    /// What to do. `known`: the server has given this upload a session before, so an error without
    /// an ack comes from something on the way, and passes.
    pub(crate) fn verdict(&self, asked: PacketType, at: &Url, total: u64, known: bool) -> Verdict {
        if let Some(verdict) = self.by_hresult(asked) {
            return verdict;
        }
        match self.status.as_u16() {
            413 if asked == PacketType::Fragment => Verdict::TooMuch,
            // Refusing the one fragment of an empty upload does not complete it.
            416 if asked == PacketType::Fragment => self.taken_if(total > 0 && self.next_offset(total).is_some()),
            200..=299 => self.taken_if(self.succeeded(asked, at, total)),
            300..=399 => self.redirected(at),
            401 | 407 => Verdict::Final,
            _ if known && !self.is_ack() => Verdict::Later,
            408 | 409 => Verdict::Later,
            400..=499 | 501 | 505 => Verdict::Final,
            _ => Verdict::Later,
        }
    }

    /// Whether this is an answer of the protocol at all.
    pub(crate) fn is_ack(&self) -> bool {
        self.text(&header::PACKET_TYPE).is_some_and(|kind| kind.eq_ignore_ascii_case("Ack"))
    }

    /// The error code, where the ack has one.
    pub(crate) fn hresult(&self) -> Option<Hresult> {
        let text = self.text(&header::ERROR_CODE).or_else(|| self.text(&header::ERROR))?;
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).or_else(|| text.strip_prefix('x'));
        let digits = digits.unwrap_or(text);
        let plain = self.is_ack() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        u32::from_str_radix(digits, 16).ok().filter(|_| plain).map(Hresult)
    }

    /// Whether the error comes from the application behind the server.
    pub(crate) fn is_of_application(&self) -> bool {
        self.text(&header::ERROR_CONTEXT).is_some_and(|context| context.eq_ignore_ascii_case("0x7"))
    }

    /// `BITS-Received-Content-Range`; none where it is past the end.
    pub(crate) fn next_offset(&self, total: u64) -> Option<u64> {
        self.number(&header::RECEIVED_CONTENT_RANGE).filter(|offset| *offset <= total)
    }

    /// The session that a Create-Session made at `at`.
    pub(crate) fn session(&self, at: &Url) -> Option<JobSession> {
        let protocol = self.text(&header::PROTOCOL);
        if protocol.is_some_and(|protocol| !protocol.eq_ignore_ascii_case(PROTOCOL)) {
            return None;
        }
        JobSession::new(self.text(&header::SESSION_ID)?, at.clone(), self.host())
    }

    /// `BITS-Reply-URL`, resolved against the destination; backslashes are slashes.
    pub(crate) fn reply_url(&self, at: &Url) -> Option<Url> {
        let text = self.text(&header::REPLY_URL).filter(|text| !text.is_empty() && text.len() <= LONGEST_URL)?;
        at.join(&text.replace('\\', "/")).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
    }

    /// How long the server asks to wait.
    pub(crate) fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        let text = self.text(&http_header::RETRY_AFTER)?;
        if let Some(seconds) = self.number(&http_header::RETRY_AFTER) {
            return Some(Duration::from_secs(seconds));
        }
        httpdate::parse_http_date(text).ok()?.duration_since(now).ok()
    }

    fn by_hresult(&self, asked: PacketType) -> Option<Verdict> {
        let makes_sessions = matches!(asked, PacketType::CreateSession | PacketType::Ping);
        match self.hresult()? {
            Hresult::BG_E_SESSION_NOT_FOUND if !makes_sessions => Some(Verdict::SessionLost),
            Hresult::BG_E_SESSION_NOT_FOUND => Some(Verdict::Later),
            Hresult::ERROR_FILE_NOT_FOUND if asked == PacketType::CloseSession && !self.is_of_application() => {
                Some(Verdict::DataLost)
            }
            Hresult::E_ACCESSDENIED | Hresult::E_INVALIDARG | Hresult::BG_E_TOO_LARGE => Some(Verdict::Final),
            _ => None,
        }
    }

    fn succeeded(&self, asked: PacketType, at: &Url, total: u64) -> bool {
        match asked {
            PacketType::CreateSession => matches!(self.status.as_u16(), 200 | 201) && self.session(at).is_some(),
            PacketType::Fragment => self.status == StatusCode::OK && self.next_offset(total).is_some(),
            _ => self.status == StatusCode::OK,
        }
    }

    fn taken_if(&self, sound: bool) -> Verdict {
        if sound && self.is_ack() { Verdict::Taken } else { Verdict::Later }
    }

    fn redirected(&self, at: &Url) -> Verdict {
        let status = self.status.as_u16();
        match (status, self.location(at)) {
            (301 | 302 | 307 | 308, Some(to)) => Verdict::Moved(to),
            (300..=305 | 307, _) => Verdict::Final,
            _ => Verdict::Later,
        }
    }

    /// Where a redirect leads; never from https to http.
    pub(crate) fn location(&self, at: &Url) -> Option<Url> {
        let text = self.text(&http_header::LOCATION).filter(|text| text.len() <= LONGEST_URL)?;
        let to = crate::job::without_credentials(&at.join(text).ok()?);
        (to.scheme() == "https" || (to.scheme() == "http" && at.scheme() == "http")).then_some(to)
    }

    /// `Content-Length`.
    pub(crate) fn length(&self) -> Option<u64> {
        self.number(&http_header::CONTENT_LENGTH)
    }

    /// The first and the last byte of a `Content-Range`, and the size.
    pub(crate) fn content_range(&self) -> Option<(u64, u64, u64)> {
        let range: ContentRange = self.text(&http_header::CONTENT_RANGE)?.parse().ok()?;
        Some((range.start(), range.end().checked_sub(1)?, range.total()))
    }

    fn host(&self) -> Option<Host> {
        let name = host_name(self.text(&header::HOST_ID)?)?;
        // The specification's "infinite" (section 3.1.2.3).
        let fallback = self.number(&header::HOST_ID_FALLBACK_TIMEOUT).filter(|seconds| *seconds != 0xFFFF_FFFF);
        Some(Host { name, fallback, failing_since: None, left: false })
    }

    fn number(&self, name: &HeaderName) -> Option<u64> {
        let text = self.text(name)?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    }

    fn text(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }
}

/// A host or IPv6 address as a URL spells it; none for anything else, a port included.
fn host_name(text: &str) -> Option<String> {
    if text.is_empty() || text.chars().count() > LONGEST_HOST {
        return None;
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<Ipv6Addr>() {
        return Some(format!("[{address}]"));
    }
    url::Host::parse(text).ok().map(|host| host.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "{7df0354d-249b-430f-820d-3d2a9bef4931}";

    fn at() -> Url {
        "http://server/up/f".parse().unwrap()
    }

    fn answer(status: u16, headers: &[(&str, &str)]) -> Answer {
        let pairs = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Answer { status: StatusCode::from_u16(status).unwrap(), headers: pairs.collect() }
    }

    fn ack(status: u16, headers: &[(&str, &str)]) -> Answer {
        answer(status, &[&[("BITS-Packet-Type", "Ack")], headers].concat())
    }

    fn verdict(answer: &Answer, asked: PacketType) -> Verdict {
        answer.verdict(asked, &at(), 100, false)
    }

    #[test]
    fn statuses_are_final_or_pass() {
        let final_ones = [400, 402, 403, 404, 405, 406, 410, 411, 412, 414, 415, 429, 451, 501, 505, 401, 407];
        let final_redirects = [300, 301, 302, 303, 304, 305, 307];
        let passing = [306, 308, 399, 408, 409, 500, 502, 503, 504, 506, 511, 599, 600, 999, 201, 202, 204, 206];
        for asked in [PacketType::Ping, PacketType::Fragment, PacketType::CloseSession, PacketType::CancelSession] {
            for status in final_ones.into_iter().chain(final_redirects) {
                assert_eq!(verdict(&ack(status, &[]), asked), Verdict::Final, "{status} to {asked:?}");
            }
            for status in passing {
                assert_eq!(verdict(&ack(status, &[]), asked), Verdict::Later, "{status} to {asked:?}");
            }
        }
        for status in [413, 416] {
            assert_eq!(verdict(&ack(status, &[]), PacketType::Ping), Verdict::Final, "{status}");
        }
    }

    #[test]
    fn three_codes_are_final_whatever_the_status() {
        for code in ["0x80070005", "0x80070057", "0x80200020"] {
            for status in [200, 302, 403, 408, 409, 413, 416, 500, 503] {
                for name in ["BITS-Error-Code", "BITS-Error"] {
                    let answer = ack(status, &[(name, code), ("BITS-Received-Content-Range", "1")]);
                    assert_eq!(verdict(&answer, PacketType::Fragment), Verdict::Final, "{status} {code}");
                }
            }
            let not_an_ack = answer(503, &[("BITS-Error-Code", code)]);
            assert_eq!(verdict(&not_an_ack, PacketType::Fragment), Verdict::Later);
        }
    }

    #[test]
    fn other_codes_leave_it_to_the_status() {
        for code in ["0x80070070", "0x800704D5", "0x801901F7", "0x80004005", "0x12345678", "nonsense", "0x+8070005"] {
            assert_eq!(
                verdict(&ack(500, &[("BITS-Error-Code", code)]), PacketType::Fragment),
                Verdict::Later,
                "{code}"
            );
            assert_eq!(
                verdict(&ack(404, &[("BITS-Error-Code", code)]), PacketType::Fragment),
                Verdict::Final,
                "{code}"
            );
        }
    }

    #[test]
    fn a_lost_session_starts_over_whatever_the_status() {
        for status in [200, 400, 404, 413, 416, 500] {
            for spelling in ["0x8020001F", "0x8020001f", "x8020001F"] {
                let answer = ack(status, &[("BITS-Error-Code", spelling)]);
                for asked in [PacketType::Fragment, PacketType::CloseSession, PacketType::CancelSession] {
                    assert_eq!(verdict(&answer, asked), Verdict::SessionLost, "{status}");
                }
                assert_eq!(verdict(&answer, PacketType::CreateSession), Verdict::Later);
                assert_eq!(verdict(&answer, PacketType::Ping), Verdict::Later);
            }
        }
    }

    #[test]
    fn no_ack_is_tried_later_once_the_server_is_known() {
        for status in [200, 400, 403, 404, 405, 410, 416, 501] {
            assert_eq!(answer(status, &[]).verdict(PacketType::Fragment, &at(), 100, true), Verdict::Later, "{status}");
        }
        assert_eq!(verdict(&answer(200, &[]), PacketType::Ping), Verdict::Later);
        assert_eq!(verdict(&answer(404, &[]), PacketType::CreateSession), Verdict::Final);
        for status in [401, 407] {
            assert_eq!(answer(status, &[]).verdict(PacketType::Ping, &at(), 100, true), Verdict::Final);
        }
    }

    #[test]
    fn a_fragment_is_taken_with_a_valid_offset_only() {
        for status in [200, 416] {
            for offset in ["0", "57", "100"] {
                let answer = ack(status, &[("BITS-Received-Content-Range", offset)]);
                assert_eq!(verdict(&answer, PacketType::Fragment), Verdict::Taken, "{status} {offset}");
            }
            for offset in ["", "-1", "+1", "1.5", "x", "101", "99999999999999999999999"] {
                let answer = ack(status, &[("BITS-Received-Content-Range", offset)]);
                assert_eq!(verdict(&answer, PacketType::Fragment), Verdict::Later, "{status} {offset}");
            }
            assert_eq!(verdict(&ack(status, &[]), PacketType::Fragment), Verdict::Later, "{status}");
        }
        let empty = ack(416, &[("BITS-Received-Content-Range", "0")]);
        assert_eq!(empty.verdict(PacketType::Fragment, &at(), 0, true), Verdict::Later, "nothing was taken");
        let foreign = answer(200, &[("BITS-Received-Content-Range", "5")]);
        assert_eq!(verdict(&foreign, PacketType::Fragment), Verdict::Later);
    }

    #[test]
    fn too_much_is_said_by_413_with_or_without_an_ack() {
        assert_eq!(verdict(&ack(413, &[]), PacketType::Fragment), Verdict::TooMuch);
        assert_eq!(verdict(&answer(413, &[]), PacketType::Fragment), Verdict::TooMuch);
    }

    #[test]
    fn a_session_needs_a_guid_and_our_protocol() {
        let taken = |headers: &[(&str, &str)], status| verdict(&ack(status, headers), PacketType::CreateSession);
        assert_eq!(taken(&[("BITS-Session-Id", ID)], 200), Verdict::Taken);
        assert_eq!(taken(&[("BITS-Session-Id", ID), ("BITS-Protocol", &PROTOCOL.to_uppercase())], 201), Verdict::Taken);
        assert_eq!(taken(&[("BITS-Session-Id", ID), ("BITS-Protocol", ID.trim_matches('}'))], 200), Verdict::Later);
        assert_eq!(taken(&[("BITS-Session-Id", "{1}")], 200), Verdict::Later);
        assert_eq!(taken(&[], 200), Verdict::Later);
        assert_eq!(taken(&[("BITS-Session-Id", ID)], 202), Verdict::Later);
        let spelled = ack(200, &[("BITS-Session-Id", ID)]).session(&at()).unwrap();
        assert_eq!(spelled.id, ID, "the id goes back as it came");
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_nothing_else() {
        let longest = "a.".repeat(126) + "b";
        for (text, name) in [
            ("other", Some("other")),
            ("other.example", Some("other.example")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("::1", Some("[::1]")),
            ("[fe80::2]", Some("[fe80::2]")),
            ("2001:DB8::1", Some("[2001:db8::1]")),
            ("other:80", None),
            ("[::1]:80", None),
            ("user@other", None),
            ("other/path", None),
            ("http://other", None),
            ("two words", None),
            ("", None),
            (&longest, Some(longest.as_str())),
            (&"a.".repeat(151), None),
        ] {
            assert_eq!(host_name(text).as_deref(), name, "{text:?}");
        }
        let host = |headers: &[(&str, &str)]| {
            ack(200, &[&[("BITS-Session-Id", ID)], headers].concat()).session(&at()).unwrap().host
        };
        assert_eq!(host(&[]), None);
        assert_eq!(host(&[("BITS-Host-Id", "other:80")]), None);
        assert_eq!(host(&[("BITS-Host-Id", "other")]).unwrap().fallback, None);
        let timed = |seconds| host(&[("BITS-Host-Id", "other"), ("BITS-Host-Id-Fallback-Timeout", seconds)]);
        assert_eq!(timed("60").unwrap().fallback, Some(60));
        assert_eq!(timed("4294967295").unwrap().fallback, None);
    }

    #[test]
    fn redirects_keep_to_http_and_never_leave_tls() {
        let moved = |from: &str, to: &str| {
            ack(307, &[("Location", to)]).verdict(PacketType::Ping, &from.parse().unwrap(), 0, true)
        };
        assert_eq!(moved("http://a/x", "/y"), Verdict::Moved("http://a/y".parse().unwrap()));
        assert_eq!(moved("http://a/x", "https://b/y"), Verdict::Moved("https://b/y".parse().unwrap()));
        assert_eq!(moved("http://a/x", "http://me:pw@b/y"), Verdict::Moved("http://b/y".parse().unwrap()));
        assert_eq!(moved("https://a/x", "http://a/y"), Verdict::Final);
        assert_eq!(moved("http://a/x", "ftp://a/y"), Verdict::Final);
        assert_eq!(moved("http://a/x", &format!("/{}", "y".repeat(2_200))), Verdict::Final);
    }

    #[test]
    fn reply_urls_resolve_against_the_destination() {
        let reply = |text: &str| ack(200, &[("BITS-Reply-URL", text)]).reply_url(&at()).map(String::from);
        assert_eq!(
            reply(r"BITS-Sessions\Replies\{1}\r.bin").unwrap(),
            "http://server/up/BITS-Sessions/Replies/%7B1%7D/r.bin"
        );
        assert_eq!(reply("https://other/r").unwrap(), "https://other/r");
        assert_eq!(reply("file:///etc/passwd"), None);
        assert_eq!(reply(""), None);
    }

    #[test]
    fn retry_after_comes_in_seconds_or_as_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let wait = |text| ack(503, &[("Retry-After", text)]).retry_after(now);
        assert_eq!(wait("30"), Some(Duration::from_secs(30)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:48:37 GMT"), None);
        assert_eq!(wait("soon"), None);
    }
}
