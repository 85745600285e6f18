//! The body of a download: bytes of the file, and between several ranges the headers of each.

use std::{
    collections::VecDeque,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bits_core::{ByteStream, Opened, StoreError};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

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
    left: u64,
}

impl DownloadBody {
    pub(super) fn new(opened: Box<dyn Opened>, pieces: Vec<Piece>) -> Self {
        let left = pieces.iter().map(Piece::len).sum();
        Self { opened, pieces: pieces.into(), current: None, left }
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
                Some(Piece::File(range)) => self.current = Some(self.opened.read(range)),
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
