//! The JSON API; `openapi.json` describes it.

use std::borrow::Cow;

use bits_core::{Ending, Filter, Found, Principal, Session, SessionId, SessionStoreError, State, Timestamp};
use bits_engine::CancelError;
use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    answer::{self, Answer, problem},
    console::{Console, Detail},
    describe,
};
use crate::config::parse_duration;

/// What describes the API.
pub(super) const OPENAPI: &str = include_str!("openapi.json");
/// Sessions of one page where nobody says how many.
const PAGE: u32 = 100;
/// The most that one page can have.
const LARGEST_PAGE: u32 = 1000;

/// `GET /api/sessions`.
pub(super) async fn list(console: &Console, query: &str) -> Answer {
    let filter = match filter(query) {
        Ok(filter) => filter,
        Err(message) => return problem(StatusCode::BAD_REQUEST, &message),
    };
    match console.list(&filter).await {
        Ok((sessions, now)) => {
            let full = sessions.len() == filter.limit as usize;
            let next = sessions.last().filter(|_| full).map(cursor);
            let sessions: Vec<_> = sessions.iter().map(|session| live(console, session, now)).collect();
            answer::json(StatusCode::OK, &json!({ "now": describe::time(now), "sessions": sessions, "next": next }))
        }
        Err(error) => failed(&error),
    }
}

/// `GET /api/sessions/{session}`.
pub(super) async fn show(console: &Console, id: SessionId) -> Answer {
    match console.find(id).await {
        Ok(Some((Detail { found, history }, now))) => {
            let mut session = match &found {
                Found::Live(session) => live(console, session, now),
                Found::Ended(tombstone) => describe::tombstone(tombstone),
            };
            session["history"] = history.iter().map(describe::remembered).collect();
            answer::json(StatusCode::OK, &session)
        }
        Ok(None) => not_found(),
        Err(error) => failed(&error),
    }
}

/// `DELETE /api/sessions/{session}` and `POST /api/sessions/{session}/cancel`.
pub(super) async fn cancel(console: &Console, id: SessionId, who: &str) -> Answer {
    match console.cancel(id, who).await {
        Ok(tombstone) => answer::json(StatusCode::OK, &describe::tombstone(&tombstone)),
        Err(CancelError::NotFound) => not_found(),
        Err(CancelError::Over(ending)) => problem(StatusCode::CONFLICT, &over(ending)),
        Err(CancelError::Refused(refusal)) => {
            problem(StatusCode::SERVICE_UNAVAILABLE, &format!("{refusal}; the session goes on, try again"))
        }
    }
}

/// `GET /api/events`.
pub(super) fn events(console: &Console, end: tokio_util::sync::CancellationToken) -> Answer {
    match console.listen() {
        Some((events, room)) => answer::events(events, room, end),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "too many listen to events already; close some"),
    }
}

/// `GET /api/openapi.json`.
pub(super) fn description() -> Answer {
    answer::whole(StatusCode::OK, "application/json", OPENAPI)
}

/// What is asked for: a query in the address of the API or of the page.
pub(super) fn filter(query: &str) -> Result<Filter, String> {
    let mut filter = Filter { limit: PAGE, ..Filter::default() };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        set(&mut filter, &name, &value)?;
    }
    Ok(filter)
}

/// A session in an address, with or without braces.
pub(super) fn parse_id(text: &str) -> Option<SessionId> {
    let text: Cow<'_, str> = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    format!("{{{}}}", text.trim_start_matches('{').trim_end_matches('}')).parse().ok()
}

/// Where the page after this session begins.
pub(super) fn cursor(session: &Session) -> String {
    format!("{}~{}", session.created_at.as_millis(), session.id.uuid())
}

/// Why a session that is over cannot be cancelled.
pub(super) fn over(ending: Ending) -> String {
    format!("the session is over already: {}", ending.as_str())
}

fn set(filter: &mut Filter, name: &str, value: &str) -> Result<(), String> {
    let wrong = |expected: &str| format!("{name}={value:?}: {expected}");
    match name {
        "idle" => filter.idle = Some(parse_duration(value).map_err(|message| wrong(&message))?),
        "user" => filter.principal = Some(Principal::named(value)),
        "path" => filter.path_prefix = Some(value.to_owned()),
        "state" => {
            let state = State::ALL.into_iter().find(|state| state.as_str() == value);
            filter.state = Some(state.ok_or_else(|| wrong("write receiving, notifying, publishing or complete"))?);
        }
        "order" => {
            filter.newest_first = match value {
                "oldest" => false,
                "newest" => true,
                _ => return Err(wrong("write oldest or newest")),
            }
        }
        "limit" => {
            let limit = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
            filter.limit = limit.ok_or_else(|| wrong("write a number from 1 to 1000"))?;
        }
        "after" => filter.after = Some(parse_cursor(value).ok_or_else(|| wrong("write what `next` said"))?),
        _ => return Err(format!("there is no {name:?}; there are idle, user, path, state, order, limit and after")),
    }
    Ok(())
}

fn parse_cursor(text: &str) -> Option<(Timestamp, SessionId)> {
    let (at, id) = text.split_once('~')?;
    Some((Timestamp::from_millis(at.parse().ok()?), SessionId::new(Uuid::try_parse(id).ok()?)))
}

fn live(console: &Console, session: &Session, now: Timestamp) -> Value {
    let mut value = describe::session(session, now);
    value["bytes_per_second"] = console.rate(session.id).into();
    value
}

fn not_found() -> Answer {
    problem(StatusCode::NOT_FOUND, "there is no such session")
}

fn failed(error: &SessionStoreError) -> Answer {
    tracing::error!(%error, "the session store failed");
    problem(StatusCode::SERVICE_UNAVAILABLE, "the session database does not answer; the log says more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_filters_or_are_told_what_is_wrong() {
        let asked = filter("idle=1d&user=jo%40x&path=%2Fupload%2Fa+b&state=receiving&limit=7&order=newest").unwrap();
        assert_eq!(asked.idle, Some(std::time::Duration::from_secs(86400)));
        assert_eq!(asked.principal, Some(Principal::named("jo@x")));
        assert_eq!(asked.path_prefix.as_deref(), Some("/upload/a b"));
        assert_eq!((asked.state, asked.limit, asked.newest_first), (Some(State::ReceiveFragments), 7, true));
        assert_eq!(filter("").unwrap(), Filter { limit: PAGE, ..Filter::default() });
        for query in
            ["limit=0", "limit=1001", "limit=x", "state=odd", "after=1", "after=1~2", "idle=soon", "order=", "what=1"]
        {
            let message = filter(query).unwrap_err();
            assert!(message.contains(query.split('=').next().unwrap()), "{query}: {message}");
        }
    }

    #[test]
    fn sessions_are_found_with_and_without_braces() {
        let id = SessionId::new(Uuid::from_u128(0x1234));
        for text in [id.to_string(), id.uuid().to_string(), id.to_string().replace('{', "%7B").replace('}', "%7d")] {
            assert_eq!(parse_id(&text), Some(id), "{text}");
        }
        for text in ["", "{}", "1234", "../x", "%ff"] {
            assert_eq!(parse_id(text), None, "{text}");
        }
    }
}
