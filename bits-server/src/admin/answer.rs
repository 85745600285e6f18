//! Answers of the admin listener, with what keeps browsers from doing more with them than they should.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tokio_util::sync::CancellationToken;

/// Something is sent on a stream of events at least as often, so that nobody takes it for dead.
const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(15);
/// What a page may load and do: nothing of another host, no script or style within itself, and no
/// other page around it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const SECURITY: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The body of an answer.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// An answer of the admin listener.
pub(super) type Answer = Response<AnswerBody>;

/// Lines of text.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    whole(status, "text/plain; charset=utf-8", body)
}

/// JSON.
pub(super) fn json(status: StatusCode, value: &Value) -> Answer {
    whole(status, "application/json", value.to_string())
}

/// Why a request to the API failed (RFC 9457).
pub(super) fn problem(status: StatusCode, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    whole(status, "application/problem+json", problem.to_string())
}

/// A body that is there as a whole.
pub(super) fn whole(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    answer(status, kind, Full::new(body.into()))
}

/// Events as they happen, until `end`, or until the client is too far behind.
pub(super) fn events(events: broadcast::Receiver<Bytes>, room: OwnedSemaphorePermit, end: CancellationToken) -> Answer {
    let first = stream::once(async { Bytes::from_static(b"retry: 2000\n\n") });
    let frames = first.chain(live(events, room, end)).map(|bytes| Ok(Frame::data(bytes)));
    answer(StatusCode::OK, "text/event-stream", StreamBody::new(frames))
}

fn live(
    events: broadcast::Receiver<Bytes>,
    room: OwnedSemaphorePermit,
    end: CancellationToken,
) -> impl Stream<Item = Bytes> {
    stream::unfold((events, room, end), |(mut events, room, end)| async move {
        let next = tokio::select! {
            next = tokio::time::timeout(HEARTBEAT, events.recv()) => next,
            () = end.cancelled() => return None,
        };
        let bytes = match next {
            Ok(Ok(bytes)) => bytes,
            // Behind, or nothing will come any more.
            Ok(Err(_)) => return None,
            Err(_) => Bytes::from_static(b":\n\n"),
        };
        Some((bytes, (events, room, end)))
    })
}

fn answer(
    status: StatusCode,
    kind: &'static str,
    body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
) -> Answer {
    let mut response = Response::new(UnsyncBoxBody::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.extend(SECURITY.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn room(of: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        of.clone().try_acquire_owned().expect("there is room")
    }

    #[tokio::test]
    async fn who_is_too_far_behind_is_dropped_and_leaves_room() {
        let (sender, rooms) = (broadcast::Sender::new(4), Arc::new(Semaphore::new(1)));
        let mut events = Box::pin(live(sender.subscribe(), room(&rooms), CancellationToken::new()));
        for _ in 0..4 {
            sender.send(Bytes::from_static(b"event")).unwrap();
        }
        assert_eq!(events.next().await.unwrap(), "event");
        for _ in 0..4 {
            sender.send(Bytes::from_static(b"event")).unwrap();
        }
        assert_eq!(events.next().await, None);
        assert_eq!(rooms.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_by_a_heartbeat_and_ends_with_the_server() {
        let (sender, rooms, end) = (broadcast::Sender::new(4), Arc::new(Semaphore::new(1)), CancellationToken::new());
        let mut events = Box::pin(live(sender.subscribe(), room(&rooms), end.clone()));
        let start = tokio::time::Instant::now();
        assert_eq!(events.next().await.unwrap(), ":\n\n");
        assert_eq!(start.elapsed().as_secs(), HEARTBEAT.as_secs());
        end.cancel();
        assert_eq!(events.next().await, None);
    }
}
