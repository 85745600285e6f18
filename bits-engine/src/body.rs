//! The body of a request: bounded in time, cut off when it must be, and dropped politely.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bits_core::BodyError;
use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::rate::{Bandwidth, Pace, Slowness};

/// As much is dropped of any body. A fragment over a small limit must be read to its end, or the
/// client never sees the 413 that asks for smaller ones.
pub(crate) const LEAST_DRAIN: u64 = 64 << 20;
/// How long an unwanted body is read before the answer is sent anyway.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A request's body: a stream of bytes, and whether the client waits to be asked for it.
pub struct Body {
    stream: Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>,
    /// The client asked by `Expect: 100-continue` whether to send it.
    awaits: bool,
    /// Something of it was asked for.
    begun: bool,
    /// Nothing more is read, be it that it ended or that it was given up.
    ended: bool,
    fate: Fate,
    /// Its share of the bandwidth, where that is bounded.
    pace: Option<Pace>,
}

/// Why a body ended early, told also when it is gone. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Fate(Arc<OnceLock<BodyError>>);

impl Fate {
    /// The reason; none where the body did not end early, or has not yet.
    pub fn error(&self) -> Option<BodyError> {
        self.0.get().copied()
    }
}

/// How long a client may be waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// For any byte.
    pub(crate) idle: Duration,
    /// Bytes per second below which it is too slow; none: never.
    pub(crate) least_rate: Option<u64>,
}

impl Body {
    /// A body that the client is sending. Chunks may have any size; the stream ends with the
    /// body, and fails with [`BodyError::Disconnected`] when the connection breaks.
    pub fn new(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Self { stream: Box::pin(stream), awaits: false, begun: false, ended: false, fate: Fate::default(), pace: None }
    }

    /// The same body, which the client sends only when it is asked for by `100 Continue`.
    pub fn awaiting_continue(self, awaiting: bool) -> Self {
        Self { awaits: awaiting, ..self }
    }

    /// Tells why it ended early, when it has.
    pub fn fate(&self) -> Fate {
        self.fate.clone()
    }

    /// The same body, read no faster than its share of the bandwidth.
    pub(crate) fn paced(self, bandwidth: Option<Arc<Bandwidth>>) -> Self {
        Self { pace: bandwidth.map(Pace::new), ..self }
    }

    /// Reads and drops what is in flight, for an answer without an engine: at most 64 MiB and 10 s.
    pub async fn drop_unread(mut self) {
        self.drain(LEAST_DRAIN, &CancellationToken::new()).await;
    }

    /// The part of the body to be written: without its first `skip` bytes, and failing unless
    /// exactly `length` bytes follow.
    pub(crate) fn part(&mut self, skip: u64, length: u64, waiting: Waiting, cut: CancellationToken) -> Part<'_> {
        Part {
            body: self,
            skip,
            left: length,
            idle: waiting.idle,
            slowness: Slowness::new(waiting.least_rate),
            timer: Box::pin(tokio::time::sleep(waiting.idle)),
            waiting_since: None,
            cut: Box::pin(cut.cancelled_owned()),
        }
    }

    /// Whether the connection broke, or the body was given up: no answer will be read.
    pub(crate) fn is_broken(&self) -> bool {
        self.fate.error().is_some()
    }

    /// Whether it was read from, so that no other part of it can be taken.
    pub(crate) fn is_begun(&self) -> bool {
        self.begun
    }

    fn give_up(&mut self, why: BodyError) {
        self.ended = true;
        // The first reason stands.
        let _ = self.fate.0.set(why);
    }

    /// Whether nothing comes because nothing is read.
    fn is_resting(&self) -> bool {
        self.pace.as_ref().is_some_and(Pace::is_resting)
    }

    /// Reads and drops at most `limit` bytes, for as long as they come.
    pub(crate) async fn read_out(&mut self, limit: u64, waiting: Waiting, stop: &CancellationToken) {
        let mut part = self.part(0, limit, waiting, stop.clone());
        while let Some(Ok(_)) = part.next().await {}
    }

    /// Reads and drops what is in flight: a client that is still sending sees a reset instead of
    /// the answer when the connection is closed on it. At most `limit` bytes and 10 s, and not
    /// beyond `stop`.
    pub(crate) async fn drain(&mut self, limit: u64, stop: &CancellationToken) {
        if self.ended || (self.awaits && !self.begun) {
            return;
        }
        // At the pace of the bytes that are kept it could not end in time.
        self.pace = None;
        let drop_all = async {
            let mut dropped = 0;
            while dropped <= limit
                && let Some(Ok(chunk)) = self.next().await
            {
                dropped += chunk.len() as u64;
            }
        };
        let _ = stop.run_until_cancelled(tokio::time::timeout(DRAIN_TIME, drop_all)).await;
    }
}

impl Stream for Body {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.begun = true;
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_rest(context));
        }
        let next = self.stream.as_mut().poll_next(context);
        match &next {
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Err(error))) => self.give_up(*error),
            Poll::Ready(Some(Ok(chunk))) => {
                if let Some(pace) = &mut self.pace {
                    pace.read(chunk.len());
                }
            }
            Poll::Pending => {}
        }
        next
    }
}

/// The bytes of a body that a store is to write.
pub(crate) struct Part<'a> {
    body: &'a mut Body,
    skip: u64,
    left: u64,
    idle: Duration,
    slowness: Slowness,
    timer: Pin<Box<Sleep>>,
    /// The timer runs: the client is waited for, not the store.
    waiting_since: Option<Instant>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Part<'_> {
    /// Drops the bytes that are held already and checks that no more come than were said.
    fn accept(&mut self, mut chunk: Bytes) -> Result<Bytes, BodyError> {
        let skipped = self.skip.min(chunk.len() as u64);
        self.skip -= skipped;
        let chunk = chunk.split_off(usize::try_from(skipped).unwrap_or(usize::MAX));
        self.left = self.left.checked_sub(chunk.len() as u64).ok_or(BodyError::Length)?;
        Ok(chunk)
    }

    /// The client is waited for. Ready when it was for too long.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        use std::future::Future;

        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            self.set_timer(now);
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            let now = Instant::now();
            if self.waiting_since.is_some_and(|since| now - since >= self.idle) {
                return Poll::Ready(BodyError::Idle);
            }
            if self.slowness.came(0, now) {
                return Poll::Ready(BodyError::Slow);
            }
            self.set_timer(now);
        }
    }

    fn set_timer(&mut self, now: Instant) {
        let idle_at = self.waiting_since.unwrap_or(now) + self.idle;
        let judged_at = self.slowness.wait(now).map(|more| now + more);
        self.timer.as_mut().reset(judged_at.map_or(idle_at, |judged_at| judged_at.min(idle_at)));
    }

    /// Notes that the client has sent something; whether it was too slow about it.
    fn note(&mut self, bytes: usize) -> bool {
        match self.waiting_since.take() {
            Some(_) => self.slowness.came(bytes, Instant::now()),
            None => {
                self.slowness.sent(bytes);
                false
            }
        }
    }

    fn give_up(&mut self, why: BodyError) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.body.give_up(why);
        Poll::Ready(Some(Err(why)))
    }

    fn end(&self) -> Option<Result<Bytes, BodyError>> {
        (self.skip > 0 || self.left > 0).then_some(Err(BodyError::Length))
    }
}

impl Stream for Part<'_> {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        use std::future::Future;

        let this = &mut *self;
        if this.cut.as_mut().poll(context).is_ready() {
            return this.give_up(BodyError::Cut);
        }
        loop {
            match Pin::new(&mut *this.body).poll_next(context) {
                Poll::Ready(None) => return Poll::Ready(this.end()),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(chunk))) => {
                    if this.note(chunk.len()) {
                        return this.give_up(BodyError::Slow);
                    }
                    match this.accept(chunk) {
                        Ok(chunk) if chunk.is_empty() => {}
                        accepted => return Poll::Ready(Some(accepted)),
                    }
                }
                Poll::Pending if this.body.is_resting() => return Poll::Pending,
                Poll::Pending => {
                    let why = ready!(this.poll_patience(context));
                    return this.give_up(why);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that takes minutes for a write says nothing about the client.
    #[tokio::test(start_paused = true)]
    async fn only_the_clients_silence_counts() {
        let idle = Duration::from_secs(120);
        let (feed, mut fed) = tokio::sync::mpsc::unbounded_channel();
        let mut body = Body::new(futures_util::stream::poll_fn(move |context| fed.poll_recv(context)));
        let mut part = body.part(0, 2, Waiting { idle, least_rate: None }, CancellationToken::new());
        feed.send(Ok(Bytes::from_static(b"a"))).expect("the body is there");
        assert_eq!(part.next().await, Some(Ok(Bytes::from_static(b"a"))));
        tokio::time::advance(idle * 2).await;
        assert!(tokio::time::timeout(idle / 2, part.next()).await.is_err(), "it was waited for a minute only");
        assert_eq!(part.next().await, Some(Err(BodyError::Idle)));
    }

    fn fed() -> (tokio::sync::mpsc::UnboundedSender<Result<Bytes, BodyError>>, Body) {
        let (feed, mut fed) = tokio::sync::mpsc::unbounded_channel();
        (feed, Body::new(futures_util::stream::poll_fn(move |context| fed.poll_recv(context))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_cut_off_and_what_came_was_handed_on() {
        for (least_rate, expected) in [(None, 600), (Some(2), 30), (Some(1), 600)] {
            let (feed, mut body) = fed();
            let fate = body.fate();
            let waiting = Waiting { idle: Duration::from_secs(120), least_rate };
            let mut part = body.part(0, 600, waiting, CancellationToken::new());
            let sending = tokio::spawn(async move {
                for _ in 0..600 {
                    tokio::time::sleep(Duration::from_millis(999)).await;
                    let _ = feed.send(Ok(Bytes::from_static(b"x")));
                }
            });
            let mut came = 0;
            let ended = loop {
                match part.next().await {
                    Some(Ok(chunk)) => came += chunk.len(),
                    ended => break ended,
                }
            };
            let slow = (came < 600).then_some(BodyError::Slow);
            assert_eq!((ended, fate.error()), (slow.map(Err), slow), "{least_rate:?}");
            assert!(came.abs_diff(expected) <= 1, "{came} came with {least_rate:?}");
            sending.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_slow_before_it_is_idle() {
        for (idle, least_rate, expected) in [
            (20, Some(1), (20, BodyError::Idle)),
            (120, Some(1), (30, BodyError::Slow)),
            (120, None, (120, BodyError::Idle)),
        ] {
            let (_feed, mut body) = fed();
            let waiting = Waiting { idle: Duration::from_secs(idle), least_rate };
            let start = Instant::now();
            let ended = body.part(0, 1, waiting, CancellationToken::new()).next().await;
            assert_eq!((start.elapsed().as_secs(), ended), (expected.0, Some(Err(expected.1))));
        }
    }

    /// Neither the idle timer nor the least rate hold our own limit against the client.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_held_back_is_neither_idle_nor_slow() {
        let (feed, body) = fed();
        let mut body = body.paced(Some(Arc::new(Bandwidth::new(1))));
        let waiting = Waiting { idle: Duration::from_secs(10), least_rate: Some(100) };
        for _ in 0..5 {
            feed.send(Ok(Bytes::from(vec![0; 100]))).expect("the body is there");
        }
        let start = Instant::now();
        let mut part = body.part(0, 500, waiting, CancellationToken::new());
        for _ in 0..5 {
            assert_eq!(part.next().await.map(|chunk| chunk.map(|chunk| chunk.len())), Some(Ok(100)));
        }
        assert!(start.elapsed() > Duration::from_secs(350), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_held_back_can_be_cut() {
        let (feed, body) = fed();
        let mut body = body.paced(Some(Arc::new(Bandwidth::new(1))));
        let cut = CancellationToken::new();
        let waiting = Waiting { idle: Duration::from_secs(10), least_rate: None };
        feed.send(Ok(Bytes::from(vec![0; 1000]))).expect("the body is there");
        let mut part = body.part(0, 2000, waiting, cut.clone());
        part.next().await;
        let later = cut.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            later.cancel();
        });
        assert_eq!(part.next().await, Some(Err(BodyError::Cut)));
    }

    /// A login of several rounds goes on however slow the line is, and no longer than a body that is kept.
    #[tokio::test(start_paused = true)]
    async fn what_is_read_out_may_take_its_time() {
        let waiting = Waiting { idle: Duration::from_secs(120), least_rate: None };
        for (chunks, limit, rest) in [(60, 60, 0), (60, 59, 0), (200, 100, 99)] {
            let (feed, mut body) = fed();
            for _ in 0..chunks {
                feed.send(Ok(Bytes::from_static(b"x"))).expect("the body is there");
            }
            drop(feed);
            let slow = body.stream;
            body.stream = Box::pin(slow.then(async |chunk| {
                tokio::time::sleep(Duration::from_secs(5)).await;
                chunk
            }));
            body.read_out(limit, waiting, &CancellationToken::new()).await;
            assert_eq!(body.count().await, rest, "{chunks} {limit}");
        }
        let (_feed, mut body) = fed();
        body.read_out(1, waiting, &CancellationToken::new()).await;
        assert_eq!(body.fate().error(), Some(BodyError::Idle));
    }

    /// Else a client that sent too much never learns to send less.
    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_is_not_held_back() {
        let (feed, body) = fed();
        let mut body = body.paced(Some(Arc::new(Bandwidth::new(1))));
        for _ in 0..5 {
            feed.send(Ok(Bytes::from(vec![0; 1000]))).expect("the body is there");
        }
        drop(feed);
        body.drain(LEAST_DRAIN, &CancellationToken::new()).await;
        assert_eq!(body.next().await, None);
        assert!(body.ended, "bytes were left");
    }
}
