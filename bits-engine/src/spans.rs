//! What traces are made of: spans with a target of their own, which nobody sees who does not ask.

use bits_core::{Refusal, Session, SessionId};
use tracing::{Instrument, Span, field};

use crate::publish::{Next, Outcome};

/// Their target.
const SPANS: &str = "spans";

/// Makes bytes durable, looks at the destination, and commits what is intended.
pub(crate) fn prepare(session: &Session) -> Span {
    tracing::trace_span!(target: SPANS, "prepare", session = number(session.id), error = field::Empty)
}

/// Tells a server application, its queue included.
pub(crate) fn notify(session: &Session) -> Span {
    tracing::trace_span!(target: SPANS, "notify", session = number(session.id), error = field::Empty)
}

/// Puts the bytes at their destination.
pub(crate) fn publish(session: &Session) -> Span {
    tracing::trace_span!(target: SPANS, "publish", session = number(session.id), error = field::Empty)
}

/// Ends a session that no packet ends.
pub(crate) fn end(session: SessionId) -> Span {
    tracing::trace_span!(target: SPANS, "end", session = number(session))
}

/// Deletes what an ended session has left.
pub(crate) fn clean(session: SessionId) -> Span {
    tracing::trace_span!(target: SPANS, "clean", session = number(session))
}

/// The session of the packet that is being answered, once it is the caller's.
pub(crate) fn found(session: SessionId) {
    Span::current().record("session", number(session));
}

/// Takes a step of a job within `span`.
pub(crate) async fn step<T: Into<Next>>(
    span: Span,
    step: impl Future<Output = Result<T, Refusal>>,
) -> Result<Next, Refusal> {
    let done = step.instrument(span.clone()).await.map(T::into);
    if let Err(refusal) | Ok(Next::Over(Outcome::Refused(refusal))) = &done {
        span.record("error", field::display(refusal));
    }
    done
}

fn number(session: SessionId) -> u128 {
    session.uuid().as_u128()
}
