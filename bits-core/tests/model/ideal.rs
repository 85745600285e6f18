//! An ideal server: it never crashes, and all that it knows of an upload is the bytes that it
//! holds and a few flags. It shares no code with what it judges.

use bits_core::{ContentRange, Ending, Form, Refusal};

use crate::server::{Answer, Application, TIMEOUT};

/// What the next publishing runs into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Before,
    After,
    /// Staged bytes vanish once the intent is committed.
    Loses,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Upload {
    pub(crate) created: bool,
    pub(crate) named: bool,
    pub(crate) total: Option<u64>,
    pub(crate) held: Vec<u8>,
    /// Its client was sent back once, and may not know.
    pub(crate) sent_back: bool,
    /// A publishing of it failed half-way and waits to be finished.
    pub(crate) stuck: bool,
    /// The application is to be told of it, or wants it published.
    pub(crate) notifying: bool,
    /// The application wants it published.
    pub(crate) wanted: bool,
    pub(crate) replied: bool,
    /// The application refused it for good.
    pub(crate) refused: bool,
    pub(crate) published: bool,
    pub(crate) ended: Option<Ending>,
    pub(crate) ended_at: u64,
    pub(crate) progressed_at: u64,
    /// When a stuck publishing is tried again.
    retry_at: u64,
    pub(crate) forgotten: bool,
}

pub(crate) struct Ideal {
    pub(crate) uploads: [Upload; 2],
    /// Whose upload stands at the one destination.
    pub(crate) standing: Option<(usize, Vec<u8>)>,
    pub(crate) at_close: bool,
    /// Whether an application is told of uploads before they are complete.
    pub(crate) notifies: bool,
    pub(crate) application: Application,
    /// How often it was told of anything.
    pub(crate) told: u32,
    pub(crate) publish_fault: Option<Fault>,
    /// From which byte on the upload that was being published is gone.
    pub(crate) lost_from: Option<u64>,
    /// The next write fails after so many bytes.
    pub(crate) write_fault: Option<(usize, Refusal)>,
    /// Seconds.
    pub(crate) now: u64,
}

impl Ideal {
    pub(crate) fn new(at_close: bool, notifies: bool, application: Application) -> Self {
        Self {
            uploads: Default::default(),
            standing: None,
            at_close,
            notifies,
            application,
            told: 0,
            publish_fault: None,
            lost_from: None,
            write_fault: None,
            now: 0,
        }
    }

    pub(crate) fn create(&mut self, who: usize) {
        self.uploads[who].created = true;
        self.uploads[who].progressed_at = self.now;
    }

    pub(crate) fn fragment(&mut self, who: usize, range: ContentRange, body: &[u8], came: Option<usize>) -> Answer {
        let upload = &self.uploads[who];
        if let Some(answer) =
            upload.over(|ending| (ending == Ending::Closed && upload.published).then_some(upload.total))
        {
            return answer;
        }
        if upload.total.is_some_and(|total| total != range.total()) {
            return Answer::Refused(Refusal::Malformed("the total of Content-Range changed"));
        }
        self.uploads[who].named = true;
        let held = upload_len(&self.uploads[who]);
        if self.uploads[who].published {
            return Answer::Ack(self.uploads[who].total);
        }
        if self.uploads[who].stuck || self.uploads[who].notifying {
            return self.publish(who, false);
        }
        if self.uploads[who].refused {
            return Answer::Refused(Application::Refuses.refusal().expect("it is one"));
        }
        if range.start() > held {
            return Answer::Refused(Refusal::Gap { next: held });
        }
        self.fix_total(who, range.total());
        if range.end() > held {
            return self.take(who, &body[(held - range.start()) as usize..], came);
        }
        if held == range.total() && self.completes(who) { self.publish(who, false) } else { Answer::Ack(Some(held)) }
    }

    pub(crate) fn close(&mut self, who: usize, form: Form) -> Answer {
        if let Some(answer) = self.uploads[who].over(|ending| (ending == Ending::Closed).then_some(None)) {
            return answer;
        }
        if form == Form::Override && !self.uploads[who].named {
            self.fix_total(who, 0);
            self.uploads[who].named = true;
        }
        let whole = self.uploads[who].total == Some(upload_len(&self.uploads[who]));
        if !whole && self.uploads[who].sent_back {
            return Answer::Refused(Refusal::StagedDataVanished);
        }
        if whole && !self.uploads[who].published {
            let answer = self.publish(who, true);
            if !matches!(answer, Answer::Ack(_)) {
                return answer;
            }
        }
        self.end(who, Ending::Closed)
    }

    pub(crate) fn cancel(&mut self, who: usize) -> Answer {
        if let Some(answer) = self.uploads[who].over(|ending| (ending == Ending::Cancelled).then_some(None)) {
            return answer;
        }
        if self.uploads[who].stuck || (self.uploads[who].notifying && self.uploads[who].wanted) {
            self.publish(who, false);
        }
        self.end(who, Ending::Cancelled)
    }

    /// Time passes, and what is due is done.
    pub(crate) fn sweep_after(&mut self, seconds: u64) {
        self.now += seconds;
        for who in 0..2 {
            let upload = &self.uploads[who];
            if upload.notifying || (upload.stuck && upload.retry_at <= self.now) {
                self.publish(who, false);
            }
        }
        for who in 0..2 {
            let upload = &mut self.uploads[who];
            if upload.is_live() && upload.progressed_at + TIMEOUT.as_secs() <= self.now {
                self.end(who, Ending::Expired);
            } else if upload.ended.is_some() && upload.ended_at + TIMEOUT.as_secs() <= self.now {
                upload.forgotten = true;
            }
        }
    }

    pub(crate) fn regress(&mut self, who: usize, to: u64) {
        let upload = &mut self.uploads[who];
        if to < upload_len(upload) {
            // What comes instead is something else.
            (upload.wanted, upload.replied, upload.notifying) = (false, false, false);
        }
        upload.held.truncate(to as usize);
    }

    /// Holds the bytes that come, up to a fault of theirs or of the store.
    fn take(&mut self, who: usize, body: &[u8], came: Option<usize>) -> Answer {
        let came = came.filter(|came| *came < body.len());
        let mut kept = came.unwrap_or(body.len());
        let mut answer = came.map(|_| Answer::Silence);
        if let Some((after, refusal)) = self.write_fault.take()
            && after <= kept
            && kept > 0
        {
            kept = after;
            answer = Some(Answer::Refused(refusal));
        }
        let upload = &mut self.uploads[who];
        upload.held.extend(&body[..kept]);
        if kept > 0 {
            upload.progressed_at = self.now;
        }
        let (held, whole) = (upload_len(upload), upload.total == Some(upload_len(upload)));
        match answer {
            Some(answer) => answer,
            None if whole && self.completes(who) => self.publish(who, false),
            None => Answer::Ack(Some(held)),
        }
    }

    fn awaits_application(&self, who: usize) -> bool {
        self.notifies && !self.uploads[who].wanted
    }

    /// Whether the last fragment is more than held.
    fn completes(&self, who: usize) -> bool {
        !self.at_close || self.awaits_application(who)
    }

    /// Tells the application; the answer where that is all, or does not go well.
    fn tell(&mut self, who: usize) -> Option<Answer> {
        let refusal = Application::Refuses.refusal().filter(|_| self.uploads[who].refused);
        if let Some(refusal) = refusal {
            return Some(Answer::Refused(refusal));
        }
        self.told += 1;
        let upload = &mut self.uploads[who];
        upload.notifying = self.application == Application::Interrupted;
        upload.refused = self.application == Application::Refuses;
        if let Application::Takes { copy, replies } = self.application {
            (upload.notifying, upload.wanted, upload.published) = (copy, copy, !copy);
            upload.replied = replies;
            upload.progressed_at = self.now;
            return (!copy).then_some(Answer::Ack(upload.total));
        }
        self.application.refusal().map(Answer::Refused)
    }

    /// The first to publish wins; whoever is stuck on the way is finished first.
    fn publish(&mut self, who: usize, closing: bool) -> Answer {
        let other = 1 - who;
        if !self.uploads[who].stuck {
            if self.awaits_application(who)
                && let Some(answer) = self.tell(who)
            {
                return answer;
            }
            if self.at_close && !closing {
                self.uploads[who].notifying = false;
                return Answer::Ack(self.uploads[who].total);
            }
        }
        if !self.uploads[who].stuck && self.standing.is_none() && self.uploads[other].stuck {
            let Answer::Ack(_) = self.publish(other, closing) else { return Answer::Refused(Refusal::Unavailable) };
        }
        if self.standing.as_ref().is_some_and(|(owner, _)| *owner != who) {
            self.uploads[who].notifying = false;
            return Answer::Refused(Refusal::DestinationExists { status: http::StatusCode::FORBIDDEN });
        }
        let fault = self.publish_fault.take();
        if fault == Some(Fault::Loses)
            && let Some(good) = self.lost_from.take()
        {
            self.regress(who, good);
            (self.uploads[who].stuck, self.uploads[who].sent_back) = (false, true);
            return Answer::Refused(Refusal::Unavailable);
        }
        if fault != Some(Fault::Before) && self.standing.is_none() {
            self.standing = Some((who, self.uploads[who].held.clone()));
        }
        let upload = &mut self.uploads[who];
        upload.notifying = false;
        upload.stuck = matches!(fault, Some(Fault::Before | Fault::After));
        if upload.stuck {
            upload.retry_at = self.now + 30;
            return Answer::Refused(Refusal::Unavailable);
        }
        upload.published = true;
        upload.progressed_at = self.now;
        Answer::Ack(upload.total)
    }

    fn fix_total(&mut self, who: usize, total: u64) {
        if self.uploads[who].total.is_none() {
            self.uploads[who].total = Some(total);
            self.uploads[who].progressed_at = self.now;
        }
    }

    fn end(&mut self, who: usize, ending: Ending) -> Answer {
        self.uploads[who].ended = Some(ending);
        self.uploads[who].ended_at = self.now;
        (self.uploads[who].stuck, self.uploads[who].notifying) = (false, false);
        Answer::Ack(None)
    }
}

impl Upload {
    pub(crate) fn is_live(&self) -> bool {
        self.created && self.ended.is_none()
    }

    /// The answer where there is no live session: what `remembered` says of its end, if anything.
    fn over(&self, remembered: impl Fn(Ending) -> Option<Option<u64>>) -> Option<Answer> {
        if self.is_live() {
            return None;
        }
        let answer = self.ended.filter(|_| !self.forgotten).and_then(remembered);
        Some(answer.map_or(Answer::Refused(Refusal::SessionNotFound), Answer::Ack))
    }
}

fn upload_len(upload: &Upload) -> u64 {
    upload.held.len() as u64
}
