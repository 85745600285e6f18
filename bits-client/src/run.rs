//! The states of section 3.1.5.1: Create-Session, Ping, Fragment, Complete, Cancel, Error.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bits_core::{ContentRange, PacketType};
use tokio::time::Instant;
use url::Url;

use crate::{
    Client, DownloadEvent, DownloadJob, Error, Failure, Job, Refused, Source, Target,
    answer::{Answer, Verdict},
    body::{self, Body},
    download::Fetch,
    job,
    link::{Outgoing, Unanswered, has_credentials},
    pace::Pace,
    patience::Patience,
};

/// How many redirects in a row are followed.
const REDIRECTS: u32 = 5;
/// From this length on it pays to ask where the server stands before a fragment is sent again.
const WORTH_ASKING: u64 = 64 * 1024;

/// What happens while a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The server has made a session, and forgotten any that there was before.
    SessionCreated,
    /// Packets go to the original host again: the one that the server named gave no progress.
    HostLeft,
    /// Bytes up to this offset were given to the connection; nothing is promised.
    Sending {
        /// The offset after the last of them.
        offset: u64,
    },
    /// The server holds everything before this offset. It can be lower than before.
    Acknowledged {
        /// The next byte that it wants.
        offset: u64,
    },
    /// The server refuses fragments of this size; shorter ones follow.
    FragmentRefused {
        /// Its length in bytes.
        length: u64,
    },
    /// Bytes of the server's reply up to this offset have come.
    ReplyReceived {
        /// The offset after the last of them.
        offset: u64,
    },
    /// The whole reply has come, and is put in its place next.
    ReplySealed,
    /// The server's reply is in its place.
    ReplyFinished,
    /// Something failed; the next try comes after a pause.
    Waiting {
        /// How long.
        pause: Duration,
        /// What failed.
        failure: &'a Failure,
    },
}

/// An upload that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uploaded {
    /// Where the server keeps its reply to the upload, if there is one.
    pub reply_url: Option<Url>,
}

/// One upload under way.
pub(crate) struct Run<'a, F> {
    talk: Talk<'a, F>,
    source: Arc<dyn Source>,
    pace: Pace,
    /// Whether the job's offset is what the server holds: its session was made, or a fragment was
    /// answered, and nothing has failed since.
    certain: bool,
    /// Whether the session's reply was not there.
    is_reply_missed: bool,
}

enum Step {
    Create,
    Ping,
    Fragment,
    Reply,
    Close,
    Done,
}

impl<'a, F: FnMut(&Job, Event<'_>) + Send> Run<'a, F> {
    pub(crate) fn new(client: &'a Client, job: &'a mut Job, source: Arc<dyn Source>, observe: F) -> Self {
        let pace = Pace::new(client.fragments, job.largest_fragment);
        Self { talk: Talk::new(client, job, observe), source, pace, certain: false, is_reply_missed: false }
    }

    pub(crate) async fn upload(mut self, reply: Option<Arc<dyn Target>>) -> Result<Uploaded, Error> {
        body::check(&*self.source, &self.talk.job.source).await?;
        let mut step = if self.talk.job.session.is_some() { Step::Ping } else { Step::Create };
        loop {
            step = match step {
                Step::Create => self.create().await?,
                Step::Ping => self.ping().await?,
                Step::Fragment => self.fragment().await?,
                Step::Reply => self.reply(reply.as_deref()).await?,
                Step::Close => self.close().await?,
                Step::Done => break,
            };
        }
        Ok(Uploaded { reply_url: self.talk.job.session.take().and_then(|session| session.reply_url) })
    }

    async fn create(&mut self) -> Result<Step, Error> {
        let Reply::Taken(answer, at) = self.talk.ask(PacketType::CreateSession, None).await? else {
            return Ok(Step::Create);
        };
        self.talk.job.session = answer.session(&at);
        self.talk.moved = None;
        self.talk.known = true;
        self.certain = true;
        self.talk.tell(Event::SessionCreated);
        let has_host = self.talk.job.session.as_ref().is_some_and(|session| session.host.is_some());
        Ok(if has_host { Step::Ping } else { Step::Fragment })
    }

    async fn ping(&mut self) -> Result<Step, Error> {
        Ok(match self.talk.ask(PacketType::Ping, None).await? {
            Reply::Taken(..) => Step::Fragment,
            _ => Step::Ping,
        })
    }

    async fn fragment(&mut self) -> Result<Step, Error> {
        let was_complete = self.talk.job.is_complete();
        if was_complete && self.certain {
            return Ok(Step::Reply);
        }
        let range = self.next_range();
        let content = Body::new(self.source.clone(), self.talk.job.source.clone(), range);
        if range.length() == 0 {
            body::check(&*self.source, &self.talk.job.source).await?;
        }
        let begun = Instant::now();
        match self.talk.ask(PacketType::Fragment, Some((range, content))).await? {
            Reply::Taken(answer, at) => {
                self.pace.sent(range.length(), begun.elapsed());
                self.acknowledged(&answer, &at, range).await
            }
            Reply::TooMuch(answer) => self.too_much(&answer, range.length()),
            // A Close-Session whose ack was lost may have ended it: then a second one is acknowledged.
            Reply::SessionLost if was_complete => Ok(Step::Close),
            Reply::SessionLost => self.start_over().await,
            Reply::DataLost => self.data_lost().await,
            Reply::Again => {
                self.certain = false;
                self.pace.failed();
                Ok(Step::Fragment)
            }
            Reply::Elsewhere => Ok(Step::Fragment),
        }
    }

    /// What to send next. Where something failed, the server may hold more than it said, or less; a
    /// single byte that it already has, or wants anyway, makes it say where it stands. A session is
    /// closed only after that: closing one that lacks bytes deletes them.
    fn next_range(&self) -> ContentRange {
        let total = self.talk.job.source.size;
        let start = self.talk.job.next_offset();
        let length = self.pace.next(total.saturating_sub(start));
        let asking = !self.certain && (length > WORTH_ASKING || self.talk.job.is_complete());
        let (start, length) = if asking { (0, total.min(1)) } else { (start, length) };
        ContentRange::new(start, start + length, total).unwrap_or(ContentRange::EMPTY)
    }

    /// Goes on where the ack says, whatever it says.
    async fn acknowledged(&mut self, answer: &Answer, at: &Url, sent: ContentRange) -> Result<Step, Error> {
        let before = self.talk.job.next_offset();
        let was_complete = self.talk.job.is_complete();
        let total = self.talk.job.source.size;
        let wanted = answer.next_offset(total).unwrap_or(before);
        if was_complete && wanted < total {
            self.forget_reply();
        }
        if let Some(session) = &mut self.talk.job.session {
            session.received = Some(wanted);
            session.reply_url = answer.reply_url(at).or(session.reply_url.take());
        }
        self.talk.job.host_answered();
        let asked = !std::mem::replace(&mut self.certain, true) && sent.length() == 1;
        self.talk.tell(Event::Acknowledged { offset: wanted });
        if wanted > before || (wanted == total && !was_complete) {
            self.talk.progressed(wanted);
        } else if wanted < before {
            let lost = if was_complete { Failure::DataLost } else { Failure::NoProgress { before, wanted } };
            self.talk.set_back(lost).await?;
        } else if !asked && !was_complete {
            self.talk.wait(Failure::NoProgress { before, wanted }, None).await?;
        }
        Ok(Step::Fragment)
    }

    fn too_much(&mut self, answer: &Answer, length: u64) -> Result<Step, Error> {
        if !self.pace.refused(length) {
            return Err(self.talk.refused(answer, PacketType::Fragment).into());
        }
        self.talk.job.largest_fragment = self.pace.limit();
        self.talk.tell(Event::FragmentRefused { length });
        Ok(Step::Fragment)
    }

    /// Fetches the reply, if there is one and somebody wants it.
    async fn reply(&mut self, target: Option<&dyn Target>) -> Result<Step, Error> {
        let url = self.talk.job.session.as_ref().and_then(|session| session.reply_url.clone());
        let (Some(target), Some(url)) = (target, url) else { return Ok(Step::Close) };
        match self.fetch_reply(target, url).await {
            Ok(()) if self.certain => Ok(Step::Close),
            Ok(()) => Ok(Step::Fragment),
            // Nothing of it is in its place.
            Err(Error::DownloadChanged(how)) => {
                self.talk.forget_reply();
                self.talk.set_back(Failure::ReplyChanged(how)).await?;
                Ok(Step::Reply)
            }
            // Perhaps it went with its session, which a fragment brings to light.
            Err(Error::DownloadRefused { status: 404 | 410, .. }) if !self.is_reply_missed => {
                self.is_reply_missed = true;
                self.talk.forget_offset();
                self.certain = false;
                Ok(Step::Fragment)
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch_reply(&mut self, target: &dyn Target, url: Url) -> Result<(), Error> {
        let upload = &mut *self.talk.job;
        // Whom the server names is not whom our password is for.
        let mut url = job::without_credentials(&url);
        if upload.trusts(&url) {
            // They fail only for URLs that cannot have credentials.
            let _ = url.set_username(upload.url.username());
            let _ = url.set_password(upload.url.password());
        }
        let mut fetched = upload.reply.take().unwrap_or_else(|| DownloadJob::new(url.clone()));
        if fetched.url != url {
            fetched.start_over();
            fetched.url = url;
        }
        upload.reply = Some(fetched.clone());
        let (job, tell, certain) = (&mut *self.talk.job, &mut self.talk.observe, &mut self.certain);
        let mut observe = |reply: &DownloadJob, event: DownloadEvent<'_>| {
            job.reply = Some(reply.clone());
            match event {
                DownloadEvent::Found => {}
                DownloadEvent::Received { offset } => tell(job, Event::ReplyReceived { offset }),
                DownloadEvent::Sealed => tell(job, Event::ReplySealed),
                DownloadEvent::Finished => tell(job, Event::ReplyFinished),
                DownloadEvent::Waiting { pause, failure } => {
                    *certain = false;
                    tell(job, Event::Waiting { pause, failure });
                }
            }
        };
        Fetch::new(self.talk.client, &mut fetched, target, &mut observe).run().await
    }

    async fn close(&mut self) -> Result<Step, Error> {
        match self.talk.ask(PacketType::CloseSession, None).await? {
            Reply::Taken(..) => Ok(Step::Done),
            Reply::SessionLost => self.start_over().await,
            Reply::DataLost => self.data_lost().await,
            Reply::Again => {
                self.certain = false;
                Ok(Step::Fragment)
            }
            _ => Ok(Step::Close),
        }
    }

    /// The session is there; the next ack says what is left of its bytes.
    async fn data_lost(&mut self) -> Result<Step, Error> {
        self.talk.forget_offset();
        self.forget_reply();
        self.certain = false;
        self.talk.set_back(Failure::DataLost).await?;
        Ok(Step::Fragment)
    }

    /// What is uploaded again is answered again.
    fn forget_reply(&mut self) {
        self.talk.forget_reply();
        if let Some(session) = &mut self.talk.job.session {
            session.reply_url = None;
        }
    }

    async fn start_over(&mut self) -> Result<Step, Error> {
        self.talk.job.session = None;
        self.talk.forget_reply();
        self.talk.moved = None;
        self.is_reply_missed = false;
        self.talk.set_back(Failure::SessionLost).await?;
        Ok(Step::Create)
    }
}

/// The end of a job that is not wanted any more.
pub(crate) struct Cancellation<'a, F> {
    talk: Talk<'a, F>,
}

impl<'a, F: FnMut(&Job, Event<'_>) + Send> Cancellation<'a, F> {
    pub(crate) fn new(client: &'a Client, job: &'a mut Job, observe: F) -> Self {
        Self { talk: Talk::new(client, job, observe) }
    }

    pub(crate) async fn run(mut self) -> Result<(), Error> {
        while self.talk.job.session.is_some() {
            let reply = self.talk.ask(PacketType::CancelSession, None).await?;
            if matches!(reply, Reply::Taken(..) | Reply::SessionLost) {
                self.talk.job.session = None;
            }
        }
        Ok(())
    }
}

/// Packets and their answers, with waiting and giving up.
struct Talk<'a, F> {
    client: &'a Client,
    job: &'a mut Job,
    observe: F,
    patience: Patience,
    begun: Instant,
    /// Where a redirect led, until something fails there.
    moved: Option<Url>,
    redirects: u32,
    /// Whether the server has given this upload a session at any time.
    known: bool,
}

enum Reply {
    /// Taken, at this URL.
    Taken(Answer, Url),
    TooMuch(Answer),
    SessionLost,
    DataLost,
    /// Failed and waited; the same again.
    Again,
    /// Redirected; the same again, at once.
    Elsewhere,
}

impl<'a, F: FnMut(&Job, Event<'_>) + Send> Talk<'a, F> {
    fn new(client: &'a Client, job: &'a mut Job, observe: F) -> Self {
        let patience = Patience::new(client.retry);
        let known = job.session.is_some();
        Self { client, job, observe, patience, begun: Instant::now(), moved: None, redirects: 0, known }
    }

    /// Sends one packet and judges the answer; waits where that is all that can be done.
    async fn ask(&mut self, kind: PacketType, content: Option<(ContentRange, Body)>) -> Result<Reply, Error> {
        let url = self.moved.clone().unwrap_or_else(|| self.job.target());
        let answer = match self.send(kind, url.clone(), content).await {
            Ok(answer) => answer,
            Err(Unanswered::Source(error)) => return Err(error),
            Err(Unanswered::Network(failure)) => return self.wait(failure, None).await,
        };
        let verdict = answer.verdict(kind, &url, self.job.source.size, self.known);
        if !matches!(verdict, Verdict::Moved(_)) {
            self.redirects = 0;
        }
        match verdict {
            Verdict::Taken => Ok(Reply::Taken(answer, url)),
            Verdict::TooMuch => Ok(Reply::TooMuch(answer)),
            Verdict::SessionLost => Ok(Reply::SessionLost),
            Verdict::DataLost => Ok(Reply::DataLost),
            Verdict::Moved(to) if self.redirects < REDIRECTS => {
                self.redirects += 1;
                self.moved = Some(to);
                Ok(Reply::Elsewhere)
            }
            Verdict::Moved(_) | Verdict::Final => Err(self.refused(&answer, kind).into()),
            Verdict::Later => {
                let asked = answer.retry_after(SystemTime::now());
                self.wait(Failure::of(&answer, kind), asked).await
            }
        }
    }

    async fn send(
        &mut self,
        kind: PacketType,
        url: Url,
        content: Option<(ContentRange, Body)>,
    ) -> Result<Answer, Unanswered> {
        let start = content.as_ref().map_or(0, |(range, _)| range.start());
        let names_session = matches!(kind, PacketType::Fragment | PacketType::CloseSession | PacketType::CancelSession);
        let job = &*self.job;
        let packet = Outgoing {
            kind,
            session: job.session.as_ref().filter(|_| names_session).map(|session| session.id.as_str()),
            credentials: job.trusts(&url).then_some(&job.url),
            url,
            content,
        };
        let observe = &mut self.observe;
        self.client.link.send(packet, |sent| observe(job, Event::Sending { offset: start + sent })).await
    }

    /// Waits after a failure; the error where there is no hope left.
    async fn wait(&mut self, failure: Failure, asked: Option<Duration>) -> Result<Reply, Error> {
        self.moved = None;
        let pause = self.patience.failure(asked, self.begun.elapsed());
        self.leave_host();
        let pause = match (pause, self.job.until_fallback(job::now())) {
            (Some(pause), Some(left)) => Some(pause.min(left)),
            (pause, _) => pause,
        };
        self.pause(pause, failure).await?;
        Ok(Reply::Again)
    }

    /// Bytes were taken back, or the session was lost.
    async fn set_back(&mut self, failure: Failure) -> Result<(), Error> {
        let pause = self.patience.setback(self.begun.elapsed());
        self.pause(pause, failure).await
    }

    async fn pause(&mut self, pause: Option<Duration>, failure: Failure) -> Result<(), Error> {
        let Some(pause) = pause else {
            let after = self.patience.without_progress(self.begun.elapsed());
            return Err(Error::GaveUp { after, last: failure });
        };
        self.tell(Event::Waiting { pause, failure: &failure });
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn progressed(&mut self, offset: u64) {
        self.patience.progress(offset, self.begun.elapsed());
    }

    /// Nothing is claimed of what the server holds.
    fn forget_offset(&mut self) {
        if let Some(session) = &mut self.job.session {
            session.received = None;
        }
    }

    /// What came of a reply is none of the next one.
    fn forget_reply(&mut self) {
        if let Some(reply) = &mut self.job.reply {
            reply.start_over();
        }
    }

    fn leave_host(&mut self) {
        if self.job.host_failed(job::now()) {
            self.tell(Event::HostLeft);
        }
    }

    fn refused(&self, answer: &Answer, packet: PacketType) -> Refused {
        Refused::of(answer, packet, has_credentials(&self.job.url))
    }

    fn tell(&mut self, event: Event<'_>) {
        (self.observe)(self.job, event);
    }
}
