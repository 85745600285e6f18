//! What is known of one upload: all that is needed to go on after a crash.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bits_core::SessionId;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{DownloadJob, Fingerprint};

/// One upload: where to, from what, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The destination; user name and password in it are sent as Basic credentials.
    pub url: Url,
    /// What the source held when the job was made.
    pub source: Fingerprint,
    /// When the job was made, in milliseconds since the Unix epoch.
    pub created: u64,
    /// The session on the server; none before the first Create-Session was answered.
    pub session: Option<JobSession>,
    /// The largest fragment that the server has not refused as too large, where it has refused one.
    pub largest_fragment: Option<u64>,
    /// The fetching of the server's reply, once it has begun.
    #[serde(default)]
    pub reply: Option<DownloadJob>,
}

/// A session on the server, as far as the client knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSession {
    /// Its id, spelled as the server spelled it.
    pub id: String,
    /// Where it was created.
    pub url: Url,
    /// The host that the server wants its packets sent to.
    pub host: Option<Host>,
    /// The next byte that the server wants, by its last ack; none before a Fragment was answered.
    pub received: Option<u64>,
    /// Where the server keeps its reply to the upload.
    pub reply_url: Option<Url>,
}

/// A host named by `BITS-Host-Id` (section 2.2.3.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// A host name, or an address; IPv6 in brackets.
    pub name: String,
    /// How many seconds without progress send the client back to the original host; none: never.
    pub fallback: Option<u64>,
    /// Since when packets to it fail, in milliseconds since the Unix epoch.
    pub failing_since: Option<u64>,
    /// Whether the client went back to the original host.
    pub left: bool,
}

impl Job {
    /// A job for a source with this fingerprint.
    pub fn new(url: Url, source: Fingerprint) -> Self {
        Self { url, source, created: now(), session: None, largest_fragment: None, reply: None }
    }

    /// The next byte to send.
    pub fn next_offset(&self) -> u64 {
        self.session.as_ref().and_then(|session| session.received).unwrap_or(0)
    }

    /// Whether the server has said that it holds every byte.
    pub fn is_complete(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.received == Some(self.source.size))
    }

    /// The destination without user name and password, fit to be shown.
    pub fn shown_url(&self) -> Url {
        without_credentials(&self.url)
    }

    /// Where packets go now: the session's URL, on its host.
    pub(crate) fn target(&self) -> Url {
        let Some(session) = &self.session else { return without_credentials(&self.url) };
        let mut url = without_credentials(&session.url);
        if let Some(host) = session.host.as_ref().filter(|host| !host.left) {
            // A name that the server sent was checked when it came; in a tampered job file it is ignored.
            let _ = url.set_host(Some(&host.name));
        }
        url
    }

    /// Whether the credentials of the destination may go to `url`: to its own origin, and to the
    /// host that the server named in its place, never to where a redirect leads.
    pub(crate) fn trusts(&self, url: &Url) -> bool {
        let same_door =
            url.scheme() == self.url.scheme() && url.port_or_known_default() == self.url.port_or_known_default();
        let host = self.session.as_ref().and_then(|session| session.host.as_ref()).map(|host| host.name.as_str());
        let home = self.session.as_ref().is_none_or(|session| session.url.host_str() == self.url.host_str());
        same_door && (url.host_str() == self.url.host_str() || (home && host.is_some() && url.host_str() == host))
    }

    /// Notes that the session's host gave no progress; true when that sends the client back.
    pub(crate) fn host_failed(&mut self, now: u64) -> bool {
        let Some(host) = self.host_in_use() else { return false };
        let since = *host.failing_since.get_or_insert(now);
        host.left = host.fallback.is_some_and(|seconds| now.saturating_sub(since) >= seconds.saturating_mul(1000));
        host.left
    }

    /// How long until the client goes back to the original host, where it may.
    pub(crate) fn until_fallback(&mut self, now: u64) -> Option<Duration> {
        let host = self.host_in_use()?;
        let end = host.failing_since?.saturating_add(host.fallback?.saturating_mul(1000));
        Some(Duration::from_millis(end.saturating_sub(now)))
    }

    /// Notes that a Fragment was answered.
    pub(crate) fn host_answered(&mut self) {
        if let Some(host) = self.host_in_use() {
            host.failing_since = None;
        }
    }

    fn host_in_use(&mut self) -> Option<&mut Host> {
        self.session.as_mut()?.host.as_mut().filter(|host| !host.left)
    }
}

impl JobSession {
    /// A session that nothing was sent in; none when `id` is no session id.
    pub(crate) fn new(id: &str, url: Url, host: Option<Host>) -> Option<Self> {
        id.parse::<SessionId>().ok()?;
        Some(Self { id: id.to_owned(), url, host, received: None, reply_url: None })
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn without_credentials(url: &Url) -> Url {
    let mut url = url.clone();
    // Fails only for URLs that cannot have credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(host: Option<Host>) -> Job {
        let source = Fingerprint { size: 10, modified: None, identity: None };
        let mut job = Job::new("https://ann:secret@origin:8443/up/f?a=b#part".parse().unwrap(), source);
        let id = "{7DF0354D-249B-430F-820D-3D2A9BEF4931}";
        job.session = JobSession::new(id, without_credentials(&job.url), host);
        job
    }

    fn host(name: &str, fallback: Option<u64>) -> Option<Host> {
        Some(Host { name: name.to_owned(), fallback, failing_since: None, left: false })
    }

    #[test]
    fn the_target_keeps_port_path_and_query_and_drops_the_rest() {
        assert_eq!(job(None).target().as_str(), "https://origin:8443/up/f?a=b");
        assert_eq!(job(host("other", None)).target().as_str(), "https://other:8443/up/f?a=b");
        assert_eq!(job(host("[::1]", None)).target().as_str(), "https://[::1]:8443/up/f?a=b");
        assert_eq!(job(None).shown_url().as_str(), "https://origin:8443/up/f?a=b");
    }

    #[test]
    fn credentials_go_to_the_origin_and_its_host_only() {
        let with_host = job(host("other", None));
        for (url, trusted) in [
            ("https://origin:8443/x", true),
            ("https://other:8443/x", true),
            ("http://origin:8443/x", false),
            ("https://origin/x", false),
            ("https://third:8443/x", false),
        ] {
            assert_eq!(with_host.trusts(&url.parse().unwrap()), trusted, "{url}");
        }
        let mut redirected = job(host("other", None));
        redirected.session.as_mut().unwrap().url = "https://elsewhere:8443/up/f".parse().unwrap();
        assert!(!redirected.trusts(&"https://other:8443/x".parse().unwrap()), "a stranger names no trusted host");
    }

    #[test]
    fn the_host_is_left_after_its_fallback_time_without_an_answer() {
        let mut job = job(host("other", Some(60)));
        assert!(!job.host_failed(1_000));
        assert_eq!(job.until_fallback(2_000), Some(Duration::from_secs(59)));
        assert!(!job.host_failed(60_999));
        job.host_answered();
        assert!(!job.host_failed(70_000), "an answer starts the time anew");
        assert!(job.host_failed(130_000));
        assert_eq!(job.target().host_str(), Some("origin"));
        assert!(!job.host_failed(500_000), "there is no other host to leave");
    }

    #[test]
    fn without_a_fallback_time_the_host_is_never_left() {
        let mut job = job(host("other", None));
        assert!(!job.host_failed(0));
        assert!(!job.host_failed(u64::MAX));
        assert_eq!(job.until_fallback(5), None);
    }

    #[test]
    fn a_job_survives_being_written_and_read() {
        let job = job(host("other", Some(60)));
        assert_eq!(serde_json::from_str::<Job>(&serde_json::to_string(&job).unwrap()).unwrap(), job);
    }
}
