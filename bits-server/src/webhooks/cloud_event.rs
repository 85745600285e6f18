//! A delivery as a CloudEvent 1.0 in JSON, in the structured mode of its HTTP binding.

use bits_core::{Content, Delivery, Gap, OutboxEvent, Timestamp};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

/// The `Content-Type` of the body.
pub(super) const MEDIA_TYPE: &str = "application/cloudevents+json; charset=UTF-8";

/// Before the names of events, since receivers may get events of many programs.
const PREFIX: &str = "bits.";
/// What a gap is called.
const GAP: &str = "events.dropped";
/// What cannot stand in the path of a URI as it is.
const RESERVED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The body of the request.
pub(super) fn body(delivery: &Delivery) -> Vec<u8> {
    let mut event = match &delivery.content {
        Content::Event(event) => describe(event),
        Content::Gap(gap) => describe_gap(gap),
    };
    event["specversion"] = "1.0".into();
    event["id"] = delivery.event_id().into();
    event["datacontenttype"] = "application/json".into();
    event.to_string().into_bytes()
}

fn describe(event: &OutboxEvent) -> Value {
    let principal = (!event.principal.is_anonymous()).then(|| event.principal.as_str());
    json!({
        "type": format!("{PREFIX}{}", event.kind.as_str()),
        "source": source(&event.directory),
        "subject": event.key.as_str(),
        "time": time(event.at),
        "data": {
            "session": event.session.to_string(),
            "directory": event.directory,
            "destination": event.destination.as_str(),
            "storage": event.storage,
            "key": event.key.as_str(),
            "size": event.size,
            "received": event.received,
            "complete": event.complete,
            "principal": principal,
            "address": event.address,
            "reason": event.reason,
        },
    })
}

fn describe_gap(gap: &Gap) -> Value {
    json!({
        "type": format!("{PREFIX}{GAP}"),
        "source": "/",
        "time": time(gap.at),
        "data": { "dropped": gap.dropped, "oldest": time(gap.from), "newest": time(gap.until) },
    })
}

/// The directory as a relative reference.
fn source(directory: &str) -> String {
    utf8_percent_encode(directory, RESERVED).to_string()
}

/// RFC 3339, in UTC.
fn time(at: Timestamp) -> Option<String> {
    jiff::Timestamp::from_millisecond(at.as_millis()).ok().map(|time| time.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bits_core::{NewSession, Principal, Session, SessionId, StorageKey, VirtualPath};

    use super::*;

    fn parsed(content: Content) -> Value {
        serde_json::from_slice(&body(&Delivery { number: 3, attempt: 2, content })).unwrap()
    }

    fn created(principal: &str, directory: &str) -> OutboxEvent {
        let id: SessionId = "{7DF0354D-249B-430F-820D-3D2A9BEF4931}".parse().unwrap();
        let new = NewSession {
            id,
            principal: Principal::named(principal),
            address: "2001:db8::7".to_owned(),
            directory: directory.to_owned(),
            destination: VirtualPath::from_decoded("/up load/ü\"%41/x").unwrap(),
            storage: "default".to_owned(),
            folder: StorageKey::parse("in").unwrap(),
            key: StorageKey::parse("in/ü\"%41/x").unwrap(),
            timeout: Duration::from_secs(1),
            url: None,
            limit: None,
        };
        OutboxEvent::created(&Session::create(&new, Timestamp::from_millis(1_700_000_000_123)))
    }

    #[test]
    fn an_event_of_a_session() {
        let event = OutboxEvent { size: Some(1 << 53), ..created("jo@x", "/up load") };
        let expected = json!({
            "specversion": "1.0",
            "id": "7df0354d-249b-430f-820d-3d2a9bef4931/session.created",
            "type": "bits.session.created",
            "source": "/up%20load",
            "subject": "in/ü\"%41/x",
            "time": "2023-11-14T22:13:20.123Z",
            "datacontenttype": "application/json",
            "data": {
                "session": "{7DF0354D-249B-430F-820D-3D2A9BEF4931}",
                "directory": "/up load",
                "destination": "/up load/ü\"%41/x",
                "storage": "default",
                "key": "in/ü\"%41/x",
                "size": 9_007_199_254_740_992_u64,
                "received": 0,
                "complete": false,
                "principal": "jo@x",
                "address": "2001:db8::7",
                "reason": null,
            },
        });
        assert_eq!(parsed(Content::Event(event)), expected);
    }

    #[test]
    fn nobody_is_null() {
        assert_eq!(parsed(Content::Event(created("", "/")))["data"]["principal"], Value::Null);
    }

    #[test]
    fn a_gap() {
        let at = Timestamp::from_millis;
        let gap = Gap { dropped: 7, from: at(0), until: at(1_000), at: at(2_000) };
        let expected = json!({
            "specversion": "1.0",
            "id": "gap/3/2000",
            "type": "bits.events.dropped",
            "source": "/",
            "time": "1970-01-01T00:00:02Z",
            "datacontenttype": "application/json",
            "data": { "dropped": 7, "oldest": "1970-01-01T00:00:00Z", "newest": "1970-01-01T00:00:01Z" },
        });
        assert_eq!(parsed(Content::Gap(gap)), expected);
    }
}
