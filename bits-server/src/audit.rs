//! The audit log: one line per ended session, with fixed fields that nobody outside can forge.

use bits_core::{Ending, Session, SessionEvent, SessionEventKind, State};

/// Writes the line for `event`, if a session ended by it, and a line for people otherwise.
pub(crate) fn log(event: &SessionEvent) {
    let session = &event.session;
    match &event.kind {
        SessionEventKind::Ended(ending) => {
            let duration = event.at.since(session.created_at);
            tracing::info!(
                target: "audit",
                session = %session.id,
                principal = ?session.principal.to_string(),
                address = %session.address,
                directory = ?session.directory,
                name = ?session.key.as_str(),
                size = session.total.unwrap_or(session.received),
                outcome = outcome(*ending, session),
                duration = duration.as_secs_f64(),
                "session ended"
            );
        }
        SessionEventKind::Created => {
            tracing::debug!(session = %session.id, destination = ?session.destination.as_str(), "session created");
        }
        SessionEventKind::Published => {
            tracing::info!(session = %session.id, name = ?session.key.as_str(), size = session.received, "upload published");
        }
        _ => {}
    }
}

fn outcome(ending: Ending, session: &Session) -> &'static str {
    let is_delivered = session.notification.is_some() && !session.copy;
    match (ending, session.state) {
        (Ending::Closed, State::WaitForClose) if is_delivered => "delivered",
        (Ending::Cancelled, State::WaitForClose) if is_delivered => "cancelled after delivery",
        (Ending::Expired, State::WaitForClose) if is_delivered => "expired after delivery",
        (Ending::Closed, State::WaitForClose) => "published",
        (Ending::Closed, _) => "closed before completion",
        (Ending::Cancelled, State::WaitForClose) => "cancelled after publishing",
        (Ending::Cancelled, _) => "cancelled",
        (Ending::Expired, State::WaitForClose) => "expired after publishing",
        (Ending::Expired, _) => "expired",
    }
}
