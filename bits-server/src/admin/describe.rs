//! Sessions and what happened to them as JSON: for the API, its events and `bits-server sessions`.

use bits_core::{OutboxEvent, Session, SessionEvent, SessionEventKind, Timestamp, Tombstone};
use serde_json::{Value, json};

/// A live session.
pub(crate) fn session(session: &Session, now: Timestamp) -> Value {
    json!({
        "session": session.id.to_string(),
        "state": session.state.as_str(),
        "destination": session.destination.as_str(),
        "user": session.principal.as_str(),
        "address": session.address,
        "directory": session.directory,
        "key": session.key.as_str(),
        "received": session.received,
        "total": session.total,
        "synced": session.synced,
        "epoch": session.epoch,
        "created_at": time(session.created_at),
        "progressed_at": time(session.progressed_at),
        "expires_at": time(session.expires_at()),
        "idle_seconds": now.since(session.progressed_at).as_secs(),
        "retry_at": session.retry_at.map(time),
    })
}

/// An ended session.
pub(crate) fn tombstone(tombstone: &Tombstone) -> Value {
    json!({
        "session": tombstone.id.to_string(),
        "state": tombstone.ending.as_str(),
        "destination": tombstone.destination.as_str(),
        "user": tombstone.principal.as_str(),
        "published_bytes": tombstone.published,
        "ended_at": time(tombstone.ended_at),
        "kept_until": time(tombstone.keep_until),
    })
}

/// Something that is remembered of a session.
pub(super) fn remembered(event: &OutboxEvent) -> Value {
    json!({
        "type": event.kind.as_str(),
        "at": time(event.at),
        "received": event.received,
        "size": event.size,
        "complete": event.complete,
        "reason": event.reason,
    })
}

/// Something that has just happened.
pub(super) fn happened(event: &SessionEvent) -> Value {
    let (from, reason, ending) = match &event.kind {
        SessionEventKind::Advanced { from } | SessionEventKind::Regressed { from } => (Some(*from), None, None),
        SessionEventKind::PublishFailed { reason } | SessionEventKind::NotificationFailed { reason } => {
            (None, Some(reason.as_str()), None)
        }
        SessionEventKind::Ended(ending) => (None, None, Some(ending.as_str())),
        _ => (None, None, None),
    };
    json!({
        "type": name(&event.kind),
        "at": time(event.at),
        "session": session(&event.session, event.at),
        "from": from,
        "reason": reason,
        "ending": ending,
    })
}

/// What events are called.
pub(super) fn name(kind: &SessionEventKind) -> &'static str {
    match kind {
        SessionEventKind::Created => "session.created",
        SessionEventKind::Advanced { .. } => "session.advanced",
        SessionEventKind::Regressed { .. } => "session.regressed",
        SessionEventKind::Published => "upload.published",
        SessionEventKind::PublishFailed { .. } => "publish.failed",
        SessionEventKind::Delivered => "upload.delivered",
        SessionEventKind::NotificationFailed { .. } => "notification.failed",
        SessionEventKind::Ended(_) => "session.ended",
        _ => "other",
    }
}

/// A time as RFC 3339 has it, in UTC.
pub(crate) fn time(timestamp: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(timestamp.as_millis()).map(|time| time.to_string()).unwrap_or_default()
}
