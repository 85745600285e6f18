//! The body of a download: bytes of the file, and between several ranges the headers of each.

use std::{
    collections::VecDeque,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bits_core::{ByteStream, Opened, StoreError};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tracing::Span;

use crate::sendfile::{self, Sending};

/// The end of a range is read, so that a file that was changed is noticed.
const READ_AT_LEAST: u64 = 64 * 1024;
/// So much is read before a file is looked at again, whether it is in memory by now.
const READ_AT_MOST: u64 = 8 << 20;

/// A piece of a body.
#[derive(Debug)]
pub(super) enum Piece {
    /// These bytes.
    Text(Bytes),
    /// These bytes of the file.
    File(Range<u64>),
}

impl Piece {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File(range) => range.end - range.start,
        }
    }
}

/// Sends pieces one after the other; holds no more than what the connection takes at once.
pub(crate) struct DownloadBody {
    opened: Box<dyn Opened>,
    pieces: VecDeque<Piece>,
    current: Option<ByteStream>,
    /// Where the connection can send from files.
    sending: Option<Arc<Sending>>,
    left: u64,
    /// What is traced lasts as long.
    _trace: Span,
}

impl DownloadBody {
    pub(super) fn new(opened: Box<dyn Opened>, pieces: Vec<Piece>, sending: Option<Arc<Sending>>) -> Self {
        let left = pieces.iter().map(Piece::len).sum();
        Self { opened, pieces: pieces.into(), current: None, sending, left, _trace: Span::current() }
    }

    /// Begins with `range`: returns what stands for bytes that are sent from the file, or has some read.
    fn begin(&mut self, range: Range<u64>) -> Option<Bytes> {
        let Some(sending) = &self.sending else {
            self.current = Some(self.opened.read(range));
            return None;
        };
        let until = |most: u64| range.end.min(range.start.saturating_add(most));
        let sent = range.start..until(sendfile::MOST).min(range.end.saturating_sub(READ_AT_LEAST));
        let file = if sent.is_empty() { None } else { self.opened.file(sent.clone()) };
        let (stand_in, done) = match file {
            Some(file) => (Some(sending.begin(file, sent.clone())), sent.end),
            None => {
                let read = range.start..until(READ_AT_MOST);
                self.current = Some(self.opened.read(read.clone()));
                (None, read.end)
            }
        };
        if done < range.end {
            self.pieces.push_front(Piece::File(done..range.end));
        }
        stand_in
    }

    /// Counts what is sent; more than was announced would be taken for the next answer.
    fn sent(&mut self, bytes: Bytes) -> Result<Frame<Bytes>, StoreError> {
        let length = bytes.len() as u64;
        self.left = self.left.checked_sub(length).ok_or_else(|| {
            StoreError::new(bits_core::StoreErrorKind::Other, "the store gave more bytes than were asked for")
        })?;
        Ok(Frame::data(bytes))
    }
}

impl Body for DownloadBody {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        loop {
            if let Some(sending) = &self.sending {
                // What is read after it, is read when it was sent.
                ready!(sending.poll_sent(context));
            }
            if let Some(stream) = &mut self.current {
                match ready!(stream.as_mut().poll_next(context)) {
                    Some(Ok(bytes)) => return Poll::Ready(Some(self.sent(bytes))),
                    Some(Err(error)) => {
                        // It names the file, and names are the clients'.
                        tracing::error!(error = ?error.to_string(), "a download was cut off");
                        return Poll::Ready(Some(Err(error)));
                    }
                    None => self.current = None,
                }
            }
            match self.pieces.pop_front() {
                Some(Piece::Text(text)) => return Poll::Ready(Some(self.sent(text))),
                Some(Piece::File(range)) => {
                    if let Some(stand_in) = self.begin(range) {
                        return Poll::Ready(Some(self.sent(stand_in)));
                    }
                }
                None => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
