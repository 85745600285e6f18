//! Why an upload ended without success, and why it has to wait.

use std::{fmt, io, time::Duration};

use bits_core::{Hresult, PacketType};
use http::StatusCode;

use crate::{Meaning, answer::Answer};

/// Why an upload or a cancellation ended without success.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused for good.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The source no longer holds what it held when the job was made.
    #[error("the source has changed since the upload began: {0}")]
    SourceChanged(String),
    /// The source cannot be read.
    #[error("the source cannot be read: {0}")]
    Source(#[source] io::Error),
    /// What stands at the URL is no longer what stood there when the download began.
    #[error("what is downloaded has changed since the download began: {0}")]
    DownloadChanged(String),
    /// The server does not give what was asked for.
    #[error("the server refused the download with HTTP {status}: {}", refused_download(*.status, *.authenticated))]
    DownloadRefused {
        /// The status of the answer.
        status: u16,
        /// Whether user name and password were sent.
        authenticated: bool,
    },
    /// What stands at the URL cannot be downloaded.
    #[error("what stands at the URL cannot be downloaded: {0}; check the URL")]
    NoDownload(&'static str),
    /// The target takes no bytes.
    #[error("the file cannot be written: {0}")]
    Target(#[source] io::Error),
    /// Nothing got better for as long as the policy allows; the job can go on later.
    #[error("gave up after {} without progress: {last}", Seconds(*.after))]
    GaveUp {
        /// The time without progress.
        after: Duration,
        /// What failed last.
        last: Failure,
    },
}

impl Error {
    /// Whether the same job may succeed later without anything being changed.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::GaveUp { .. })
    }
}

/// Why a packet has to be sent again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The connection could not be made, or broke.
    #[error("no connection to {host}: {cause}")]
    Connection {
        /// The host, with its port.
        host: String,
        /// What the system says.
        cause: String,
    },
    /// The server stopped taking bytes.
    #[error("{host} took no more bytes for {}", Seconds(*.after))]
    SendTimeout {
        /// The host, with its port.
        host: String,
        /// How long.
        after: Duration,
    },
    /// The server took the packet and did not answer.
    #[error("{host} did not answer for {}", Seconds(*.after))]
    ResponseTimeout {
        /// The host, with its port.
        host: String,
        /// How long.
        after: Duration,
    },
    /// The answer is not one of the protocol.
    #[error("{packet} was answered with HTTP {status} and no valid ack; is this a BITS upload server?", packet = .packet.as_str())]
    NoAck {
        /// What was sent.
        packet: PacketType,
        /// The status of the answer.
        status: u16,
    },
    /// The server cannot give what is downloaded at the moment.
    #[error("the download was answered with HTTP {0}")]
    DownloadStatus(u16),
    /// A download ended otherwise than it should.
    #[error("the download was cut off: {0}")]
    Download(&'static str),
    /// The server cannot at the moment.
    #[error("{0}")]
    Temporary(Refused),
    /// The server lost the session.
    #[error("the server does not know the upload session any more; starting over")]
    SessionLost,
    /// The server lost bytes that it had acknowledged.
    #[error("the server has lost the uploaded data; sending again what it misses")]
    DataLost,
    /// The reply is no longer the one of which a part has come.
    #[error("the server's reply has changed since it began to come: {0}; fetching it from its beginning")]
    ReplyChanged(String),
    /// The server acknowledged a fragment without taking a byte, or took bytes back.
    #[error("the server wants to go on at byte {wanted} after byte {before}")]
    NoProgress {
        /// The offset that it wanted before.
        before: u64,
        /// The offset that it wants now.
        wanted: u64,
    },
}

impl Failure {
    pub(crate) fn of(answer: &Answer, packet: PacketType) -> Self {
        if answer.is_ack() && !answer.status.is_success() && answer.status != StatusCode::RANGE_NOT_SATISFIABLE {
            return Self::Temporary(Refused::of(answer, packet, false));
        }
        Self::NoAck { packet, status: answer.status.as_u16() }
    }
}

/// An answer that refuses a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// What was refused.
    pub packet: PacketType,
    /// The status of the answer.
    pub status: u16,
    /// The error code, where the server gave one.
    pub hresult: Option<Hresult>,
    /// Whether the application behind the server refused, not the server.
    pub by_application: bool,
    /// Whether user name and password were sent.
    pub authenticated: bool,
}

impl Refused {
    pub(crate) fn of(answer: &Answer, packet: PacketType, authenticated: bool) -> Self {
        Self {
            packet,
            status: answer.status.as_u16(),
            hresult: answer.hresult(),
            by_application: answer.is_of_application(),
            authenticated,
        }
    }

    /// What was wrong.
    pub fn words(&self) -> &'static str {
        if let Some(meaning) = self.hresult.and_then(Meaning::of) {
            return meaning.words;
        }
        match self.status {
            401 if self.authenticated => "the server does not accept this user name and password",
            401 => "the server wants a user name and password",
            407 => "a proxy wants a user name and password",
            403 => "access denied",
            404 | 410 => "there is nothing at this URL",
            405 | 501 => "the server does not take BITS uploads at this URL",
            413 => "the server refuses even the smallest fragment",
            300..=399 => "the server redirects the upload to where it cannot follow",
            _ => StatusCode::from_u16(self.status)
                .ok()
                .and_then(|status| status.canonical_reason())
                .unwrap_or("the server gave no reason"),
        }
    }

    /// What to do.
    pub fn advice(&self) -> &'static str {
        if let Some(meaning) = self.hresult.and_then(Meaning::of) {
            return meaning.advice;
        }
        match self.status {
            401 if self.authenticated => "check them",
            401 => {
                "name the user in the URL, https://user@server/path, and give the password when you are asked or in BITS_PASSWORD"
            }
            407 => "give them in the proxy's URL, in the environment variable HTTPS_PROXY or HTTP_PROXY",
            413 => "have the maximum size of requests raised, on the server or on a proxy before it",
            403 => "ask the server's operator for access",
            501 | 505 => "check the URL, and whether the server is one for BITS",
            500.. => "resume later",
            _ => "check the URL",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.by_application { "the application behind the server" } else { "the server" };
        write!(f, "{who} refused {} with HTTP {}", self.packet.as_str(), self.status)?;
        if let Some(code) = self.hresult {
            write!(f, " and error {code}")?;
            if let Some(meaning) = Meaning::of(code) {
                write!(f, " ({})", meaning.name)?;
            }
        }
        write!(f, ": {}; {}", self.words(), self.advice())
    }
}

impl std::error::Error for Refused {}

/// What was wrong, and what to do.
fn refused_download(status: u16, authenticated: bool) -> &'static str {
    match status {
        401 if authenticated => "it does not accept this user name and password; check them",
        401 => "it wants a user name and password; give them in the URL: https://user:password@server/path",
        403 => "access denied; ask the server's operator for access",
        404 | 410 => "there is nothing at this URL; check it, and whether the server offers downloads",
        407 => "a proxy wants a user name and password; give them in HTTPS_PROXY or HTTP_PROXY",
        300..=399 => "it redirects to where it cannot be followed; check the URL",
        _ => "check the URL",
    }
}

/// Shows a time in whole seconds, or as it is where it is short.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            return write!(f, "{} ms", self.0.as_millis());
        }
        write!(f, "{} s", self.0.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: Option<u32>) -> Refused {
        let packet = PacketType::CreateSession;
        Refused { packet, status, hresult: code.map(Hresult), by_application: false, authenticated: false }
    }

    #[test]
    fn errors_name_the_code_in_words_and_say_what_to_do() {
        let text = refused(403, Some(0x8007_0005)).to_string();
        assert_eq!(
            text,
            "the server refused Create-Session with HTTP 403 and error 0x80070005 (E_ACCESSDENIED): access denied, \
             or the destination exists and may not be overwritten; pick another name, check user and password, \
             or ask the server's operator for access"
        );
        let unknown = refused(400, Some(0x8123_4567)).to_string();
        assert!(unknown.contains("0x81234567: Bad Request; check the URL"), "{unknown}");
        let application = Refused { by_application: true, ..refused(400, None) }.to_string();
        assert!(application.starts_with("the application behind the server refused"), "{application}");
        let login = Refused { authenticated: true, ..refused(401, None) }.to_string();
        assert!(login.contains("does not accept this user name and password"), "{login}");
    }

    #[test]
    fn times_show_in_seconds() {
        let last = Failure::SessionLost;
        let text = Error::GaveUp { after: Duration::from_millis(62_900), last: last.clone() }.to_string();
        assert!(text.starts_with("gave up after 62 s without progress: "), "{text}");
        assert!(Error::GaveUp { after: Duration::from_millis(7), last }.to_string().contains("after 7 ms"));
    }
}
