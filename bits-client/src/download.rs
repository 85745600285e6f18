//! Downloads (section 3.6): what stands at a URL is looked at, then fetched from where it broke off.

use std::{
    io,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};
use url::Url;

use crate::{
    Client, Error, Failure, Fingerprint, Target,
    answer::Answer,
    job::{now, without_credentials},
    link::{connection, has_credentials, shown_host},
    patience::Patience,
};

/// How many redirects in a row are followed.
const REDIRECTS: u32 = 5;
/// Bytes that are gathered before they are written.
const BATCH: usize = 1 << 20;

/// One download: from where, what was found there, and how much of it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadJob {
    /// The source; user name and password in it are sent as Basic credentials.
    pub url: Url,
    /// When the job was made, in milliseconds since the Unix epoch.
    pub created: u64,
    /// What stood there when it was first looked at.
    pub found: Option<Found>,
    /// Bytes that were given to the target.
    pub received: u64,
    /// Whether the target has put everything in its place.
    pub finished: bool,
    /// What the target sealed, once everything had come: what it then puts in its place.
    #[serde(default)]
    pub sealed: Option<Fingerprint>,
    /// Contents that were sealed before for the same place, and may stand there.
    #[serde(default)]
    pub earlier: Vec<Fingerprint>,
}

/// What tells one content of a URL from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Bytes.
    pub size: u64,
    /// Its strong entity tag.
    pub etag: Option<String>,
    /// Its last modification, as the server spells it.
    pub modified: Option<String>,
}

/// What happens while a download runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownloadEvent<'a> {
    /// It is known what stands at the URL.
    Found,
    /// Bytes up to this offset were given to the target.
    Received {
        /// The offset after the last of them.
        offset: u64,
    },
    /// Everything has come, and the target puts it in its place next.
    Sealed,
    /// The target has everything in its place.
    Finished,
    /// Something failed; the next try comes after a pause.
    Waiting {
        /// How long.
        pause: Duration,
        /// What failed.
        failure: &'a Failure,
    },
}

impl DownloadJob {
    /// A download of what stands at `url`.
    pub fn new(url: Url) -> Self {
        Self { url, created: now(), found: None, received: 0, finished: false, sealed: None, earlier: Vec::new() }
    }

    /// Forgets what came, for another content of the same target.
    pub(crate) fn start_over(&mut self) {
        self.earlier.extend(self.sealed.take());
        (self.found, self.received, self.finished) = (None, 0, false);
    }

    /// The URL without user name and password, fit to be shown.
    pub fn shown_url(&self) -> Url {
        without_credentials(&self.url)
    }

    /// The size, once it is known.
    pub fn size(&self) -> Option<u64> {
        self.found.as_ref().map(|found| found.size)
    }
}

impl Found {
    fn of(answer: &Answer, size: u64) -> Self {
        let text =
            |name| answer.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
        Self {
            size,
            etag: text(header::ETAG).filter(|tag| tag.starts_with('"')),
            modified: text(header::LAST_MODIFIED),
        }
    }

    /// How `now` differs from this one, in words; none when it does not.
    pub fn difference(&self, now: &Self) -> Option<String> {
        if self.size != now.size {
            return Some(format!("it had {} bytes and has {} now", self.size, now.size));
        }
        match (&self.etag, &now.etag) {
            (Some(one), Some(other)) => (one != other).then(|| format!("its entity tag was {one} and is {other} now")),
            (Some(one), None) if self.modified.is_none() && now.modified.is_none() => {
                Some(format!("its entity tag was {one}, and now nothing tells what it is"))
            }
            _ => (self.modified != now.modified).then(|| "it was modified".to_owned()),
        }
    }

    /// Whether a part of it can be told from a part of something else.
    fn is_recognizable(&self) -> bool {
        self.etag.is_some() || self.modified.is_some()
    }
}

/// One download under way.
pub(crate) struct Fetch<'a> {
    client: &'a Client,
    job: &'a mut DownloadJob,
    target: &'a dyn Target,
    observe: &'a mut (dyn FnMut(&DownloadJob, DownloadEvent<'_>) + Send),
    patience: Patience,
    /// The offset after the last byte that has come in this run.
    furthest: u64,
    begun: Instant,
    /// Where a redirect led.
    moved: Option<Url>,
    redirects: u32,
}

/// Why a request led to nothing.
enum Stop {
    Final(Error),
    Later(Failure, Option<Duration>),
    Moved(Url),
}

impl<'a> Fetch<'a> {
    pub(crate) fn new(
        client: &'a Client,
        job: &'a mut DownloadJob,
        target: &'a dyn Target,
        observe: &'a mut (dyn FnMut(&DownloadJob, DownloadEvent<'_>) + Send),
    ) -> Self {
        let patience = Patience::new(client.retry);
        let begun = Instant::now();
        Self { client, job, target, observe, patience, furthest: 0, begun, moved: None, redirects: 0 }
    }

    /// Fetches until the target has everything in its place, or for as long as there is hope.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        if self.job.finished {
            return Ok(());
        }
        if !self.is_placed().await.map_err(Error::Target)? {
            let held = self.target.held().await.map_err(Error::Target)?;
            self.job.received = self.job.received.min(held);
            if self.job.sealed.as_ref().is_none_or(|sealed| self.job.received < sealed.size) {
                self.fetch().await?;
            }
            self.place().await.map_err(Error::Target)?;
        }
        self.job.finished = true;
        self.job.earlier.clear();
        self.tell(DownloadEvent::Finished);
        Ok(())
    }

    /// Whether an earlier run ended after it had put everything in its place.
    async fn is_placed(&self) -> io::Result<bool> {
        match &self.job.sealed {
            Some(sealed) => self.target.is_placed(sealed).await,
            None => Ok(false),
        }
    }

    /// The observer knows what will stand there before it does: the run can end at any point.
    async fn place(&mut self) -> io::Result<()> {
        self.job.sealed = self.target.seal(self.job.size().unwrap_or(0)).await?;
        self.tell(DownloadEvent::Sealed);
        self.target.finish(&self.job.earlier).await
    }

    async fn fetch(&mut self) -> Result<(), Error> {
        self.job.sealed = None;
        let mut is_looked_at = false;
        loop {
            let step = if is_looked_at { self.get().await } else { self.look().await };
            match step {
                Ok(()) if is_looked_at => return Ok(()),
                Ok(()) => is_looked_at = true,
                Err(Stop::Final(error)) => return Err(error),
                Err(Stop::Moved(to)) => self.moved = Some(to),
                Err(Stop::Later(failure, asked)) => self.wait(failure, asked).await?,
            }
        }
    }

    /// Asks what stands there, and whether it is what stood there before.
    async fn look(&mut self) -> Result<(), Stop> {
        let (answer, _) = self.ask(Method::HEAD, HeaderMap::new()).await?;
        let size = answer.length().ok_or(Stop::Final(Error::NoDownload("it does not say how long it is")))?;
        let found = Found::of(&answer, size);
        self.compare(&found)?;
        self.job.found = Some(found);
        self.tell(DownloadEvent::Found);
        Ok(())
    }

    fn compare(&mut self, now: &Found) -> Result<(), Stop> {
        match self.job.found.as_ref().and_then(|found| found.difference(now)) {
            // Nothing of the old one is kept, so there is nothing to be mixed.
            Some(_) if self.job.received == 0 => Ok(()),
            Some(difference) => Err(Stop::Final(Error::DownloadChanged(difference))),
            None => Ok(()),
        }
    }

    /// Fetches what is missing.
    async fn get(&mut self) -> Result<(), Stop> {
        let Some(found) = self.job.found.clone() else {
            return Err(Stop::Final(Error::NoDownload("nothing was found there")));
        };
        if self.job.received > 0 && !found.is_recognizable() {
            self.job.received = 0;
        }
        if self.job.received >= found.size {
            return Ok(());
        }
        let (answer, response) = self.ask(Method::GET, self.conditions(&found)).await?;
        self.check_part(&answer, &found)?;
        self.take(response, found.size).await
    }

    /// One range, of the content that was found.
    fn conditions(&self, found: &Found) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.job.received > 0 {
            headers.insert(header::RANGE, value(&format!("bytes={}-", self.job.received)));
        }
        match (&found.etag, &found.modified) {
            (Some(etag), _) => drop(headers.insert(header::IF_MATCH, value(etag))),
            (None, Some(modified)) => drop(headers.insert(header::IF_UNMODIFIED_SINCE, value(modified))),
            (None, None) => {}
        }
        headers
    }

    /// Whether the answer carries the bytes that are missing; a server that knows no ranges sends
    /// all of them again.
    fn check_part(&mut self, answer: &Answer, found: &Found) -> Result<(), Stop> {
        let start = self.job.received;
        let size = match answer.status.as_u16() {
            206 => {
                let range = answer.content_range().filter(|(first, last, size)| *first == start && last + 1 == *size);
                let wrong = "a part of it came that was not asked for";
                range.ok_or(Stop::Later(Failure::Download(wrong), None))?.2
            }
            _ => answer.length().unwrap_or(found.size),
        };
        self.compare_now(found, &Found::of(answer, size))?;
        if answer.status != http::StatusCode::PARTIAL_CONTENT {
            self.job.received = 0;
        }
        Ok(())
    }

    /// From its beginning on, a download must be of one content.
    fn compare_now(&self, found: &Found, now: &Found) -> Result<(), Stop> {
        let difference = found.difference(now);
        difference.map_or(Ok(()), |difference| Err(Stop::Final(Error::DownloadChanged(difference))))
    }

    /// Gives the body to the target.
    async fn take(&mut self, mut response: reqwest::Response, size: u64) -> Result<(), Stop> {
        let host = shown_host(response.url());
        let mut batch = BytesMut::new();
        let failure = loop {
            let left = size - self.job.received - batch.len() as u64;
            match timeout(self.client.link.response_timeout, response.chunk()).await {
                Ok(Ok(Some(chunk))) if chunk.len() as u64 > left => {
                    break Some(Failure::Download("more of it came than it is long"));
                }
                Ok(Ok(Some(chunk))) => batch.extend_from_slice(&chunk),
                Ok(Ok(None)) => break (left > 0).then_some(Failure::Download("the connection ended before it did")),
                Ok(Err(error)) => break Some(connection(&host, error)),
                Err(_) => break Some(Failure::ResponseTimeout { host, after: self.client.link.response_timeout }),
            }
            if batch.len() >= BATCH {
                self.write(batch.split().freeze()).await?;
            }
        };
        self.write(batch.freeze()).await?;
        failure.map_or(Ok(()), |failure| Err(Stop::Later(failure, None)))
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Stop> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = bytes.len() as u64;
        let written = self.target.write(self.job.received, bytes).await;
        written.map_err(|error| Stop::Final(Error::Target(error)))?;
        self.job.received += length;
        // Where a server sends everything again each time, the same bytes are no progress.
        if self.job.received > self.furthest {
            self.furthest = self.job.received;
            self.patience.progress(self.job.received, self.begun.elapsed());
        }
        self.tell(DownloadEvent::Received { offset: self.job.received });
        Ok(())
    }

    /// Sends one request, and judges the head of its answer.
    async fn ask(&mut self, method: Method, headers: HeaderMap) -> Result<(Answer, reqwest::Response), Stop> {
        let link = &self.client.link;
        let url = self.moved.clone().unwrap_or_else(|| without_credentials(&self.job.url));
        let mut request = link.http.request(method, url.clone()).headers(link.headers.clone()).headers(headers);
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if url.origin() == self.job.url.origin() {
            request = link.authorize(request, &self.job.url);
        }
        let response = link.answered(request.send(), &shown_host(&url)).await;
        let response = response.map_err(|failure| Stop::Later(failure, None))?;
        let answer = Answer { status: response.status(), headers: response.headers().clone() };
        self.judge(&answer, &url)?;
        self.redirects = 0;
        Ok((answer, response))
    }

    fn judge(&mut self, answer: &Answer, at: &Url) -> Result<(), Stop> {
        let status = answer.status.as_u16();
        match status {
            200 | 206 => Ok(()),
            300..=399 => match answer.location(at).filter(|_| self.redirects < REDIRECTS) {
                Some(to) => {
                    self.redirects += 1;
                    Err(Stop::Moved(to))
                }
                None => Err(self.refused(status)),
            },
            412 | 416 if self.job.found.is_some() => {
                Err(Stop::Final(Error::DownloadChanged("the server has another version".to_owned())))
            }
            408 | 425 | 429 | 500 | 502..=504 | 506.. => {
                Err(Stop::Later(Failure::DownloadStatus(status), answer.retry_after(SystemTime::now())))
            }
            _ => Err(self.refused(status)),
        }
    }

    fn refused(&self, status: u16) -> Stop {
        Stop::Final(Error::DownloadRefused { status, authenticated: has_credentials(&self.job.url) })
    }

    async fn wait(&mut self, failure: Failure, asked: Option<Duration>) -> Result<(), Error> {
        self.moved = None;
        self.redirects = 0;
        let Some(pause) = self.patience.failure(asked, self.begun.elapsed()) else {
            let after = self.patience.without_progress(self.begun.elapsed());
            return Err(Error::GaveUp { after, last: failure });
        };
        self.tell(DownloadEvent::Waiting { pause, failure: &failure });
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn tell(&mut self, event: DownloadEvent<'_>) {
        (self.observe)(self.job, event);
    }
}

/// Text that came as a header before, or digits.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_differ_by_size_tag_or_else_by_time() {
        let found = |size, etag: Option<&str>, modified: Option<&str>| Found {
            size,
            etag: etag.map(str::to_owned),
            modified: modified.map(str::to_owned),
        };
        let first = found(5, Some("\"a\""), Some("then"));
        assert_eq!(first.difference(&first), None);
        assert_eq!(first.difference(&found(5, Some("\"a\""), Some("now"))), None, "the tag says that it is the same");
        assert!(first.difference(&found(6, Some("\"a\""), Some("then"))).is_some());
        assert!(first.difference(&found(5, Some("\"b\""), Some("then"))).is_some());
        assert_eq!(first.difference(&found(5, None, Some("then"))), None);
        assert!(first.difference(&found(5, None, Some("now"))).is_some());
        assert!(first.difference(&found(5, None, None)).is_some());
        assert!(found(5, Some("\"a\""), None).difference(&found(5, None, None)).is_some());
    }

    #[test]
    fn a_job_survives_its_file() {
        let mut job = DownloadJob::new("http://me:pw@server/f".parse().unwrap());
        job.found = Some(Found { size: 5, etag: Some("\"a\"".to_owned()), modified: None });
        job.received = 3;
        job.sealed = Some(Fingerprint { size: 5, modified: Some(1), identity: None });
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<DownloadJob>(&text).unwrap(), job);
        assert_eq!(job.shown_url().as_str(), "http://server/f");
        let older = r#"{"url":"http://server/f","created":1,"found":null,"received":0,"finished":false}"#;
        assert_eq!(serde_json::from_str::<DownloadJob>(older).unwrap().sealed, None);
    }
}
