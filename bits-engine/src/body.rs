//! The body of a request: bounded in time, cut off when it must be, and dropped politely.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bits_core::BodyError;
use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

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
    broken: bool,
}

impl Body {
    /// A body that the client is sending. Chunks may have any size; the stream ends with the
    /// body, and fails with [`BodyError::Disconnected`] when the connection breaks.
    pub fn new(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Self { stream: Box::pin(stream), awaits: false, begun: false, ended: false, broken: false }
    }

    /// The same body, which the client sends only when it is asked for by `100 Continue`.
    pub fn awaiting_continue(self, awaiting: bool) -> Self {
        Self { awaits: awaiting, ..self }
    }

    /// Reads and drops what is in flight, for an answer without an engine: at most 64 MiB and 10 s.
    pub async fn drop_unread(mut self) {
        self.drain(LEAST_DRAIN, &CancellationToken::new()).await;
    }

    /// The part of the body to be written: without its first `skip` bytes, and failing unless
    /// exactly `length` bytes follow.
    pub(crate) fn part(&mut self, skip: u64, length: u64, idle: Duration, cut: CancellationToken) -> Part<'_> {
        Part {
            body: self,
            skip,
            left: length,
            idle,
            timer: Box::pin(tokio::time::sleep(idle)),
            waiting: false,
            cut: Box::pin(cut.cancelled_owned()),
        }
    }

    /// Whether the connection broke, or the body was given up: no answer will be read.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether it was read from, so that no other part of it can be taken.
    pub(crate) fn is_begun(&self) -> bool {
        self.begun
    }

    fn give_up(&mut self) {
        self.ended = true;
        self.broken = true;
    }

    /// Reads and drops what is in flight: a client that is still sending sees a reset instead of
    /// the answer when the connection is closed on it. At most `limit` bytes and 10 s, and not
    /// beyond `stop`.
    pub(crate) async fn drain(&mut self, limit: u64, stop: &CancellationToken) {
        if self.awaits && !self.begun {
            return;
        }
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
        let next = self.stream.as_mut().poll_next(context);
        match &next {
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Err(_))) => self.give_up(),
            _ => {}
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
    timer: Pin<Box<Sleep>>,
    /// The timer runs: the client is waited for, not the store.
    waiting: bool,
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
            this.body.give_up();
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        loop {
            match Pin::new(&mut *this.body).poll_next(context) {
                Poll::Ready(None) => return Poll::Ready(this.end()),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(chunk))) => {
                    this.waiting = false;
                    match this.accept(chunk) {
                        Ok(chunk) if chunk.is_empty() => {}
                        accepted => return Poll::Ready(Some(accepted)),
                    }
                }
                Poll::Pending => {
                    if !std::mem::replace(&mut this.waiting, true) {
                        this.timer.as_mut().reset(Instant::now() + this.idle);
                    }
                    if this.timer.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    this.body.give_up();
                    return Poll::Ready(Some(Err(BodyError::Idle)));
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
        let mut part = body.part(0, 2, idle, CancellationToken::new());
        feed.send(Ok(Bytes::from_static(b"a"))).expect("the body is there");
        assert_eq!(part.next().await, Some(Ok(Bytes::from_static(b"a"))));
        tokio::time::advance(idle * 2).await;
        assert!(tokio::time::timeout(idle / 2, part.next()).await.is_err(), "it was waited for a minute only");
        assert_eq!(part.next().await, Some(Err(BodyError::Idle)));
    }
}
