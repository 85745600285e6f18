//! `bits-server sessions`: a look into the session database from outside the server.

use std::{fmt::Write, time::Duration};

use bits_core::{
    Commit, Ending, Filter, Found, Outbox, Principal, Session, SessionEvent, SessionEventKind, SessionId, SessionStore,
    SessionStoreError, State, Timestamp, Transition,
};
use serde_json::{Value, json};

#[cfg(feature = "otlp")]
use crate::otlp;
use crate::{
    admin::describe,
    audit,
    cli::{Failure, SessionsCommand},
    config::{Config, WebhookConfig},
    stores,
};

/// Sessions read from the database in one go.
const PAGE: u32 = 1000;

/// Runs the command and returns what it prints.
pub(crate) async fn run(config: &Config, command: SessionsCommand) -> Result<String, Failure> {
    #[cfg(feature = "otlp")]
    otlp::start().map_err(Failure::Usage)?;
    let store = stores::open_sessions(config, false).await.map_err(Failure::Failed)?;
    let output = dispatch(&*store.store(), &*store.outbox(), config, command).await;
    store.close().await;
    #[cfg(feature = "otlp")]
    let _ = tokio::task::spawn_blocking(otlp::stop).await;
    output
}

async fn dispatch(
    store: &dyn SessionStore,
    outbox: &dyn Outbox,
    config: &Config,
    command: SessionsCommand,
) -> Result<String, Failure> {
    match command {
        SessionsCommand::List { idle, user, path, state, json } => {
            let principal = user.as_deref().map(Principal::named);
            let path_prefix = path.map(|path| as_kept(config, path));
            let filter = Filter { idle, principal, path_prefix, state, limit: PAGE, ..Filter::default() };
            list(store, filter, json).await
        }
        SessionsCommand::Show { id, json } => show(store, outbox, &config.webhooks, parse(&id)?, json).await,
        SessionsCommand::Cancel { id, json } => {
            let session = live(store, parse(&id)?).await?;
            change(store, &session, &Transition::End(Ending::Cancelled)).await?;
            Ok(report(json, "cancelled", &session))
        }
        SessionsCommand::Retry { id, json } => {
            let session = live(store, parse(&id)?).await?;
            let again = retry(&session, store.now().await?).ok_or_else(|| {
                let state = session.state.as_str();
                Failure::Failed(format!("{} is {state}: there is nothing to retry", session.id))
            })?;
            change(store, &session, &again).await?;
            Ok(report(json, "will be tried again", &session))
        }
        SessionsCommand::Sweep { json } => sweep(store, json).await,
    }
}

/// The path in the spelling of sessions, which keep the part that is their directory's in lower case.
fn as_kept(config: &Config, mut path: String) -> String {
    let own = config.directories.iter().map(|directory| directory.url_path.as_str().trim_end_matches('/'));
    let is_start = |own: &&str| {
        let rest = path.get(own.len()..);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && path[..own.len()].eq_ignore_ascii_case(own)
    };
    if let Some(length) = own.filter(is_start).map(str::len).max() {
        path[..length].make_ascii_lowercase();
    }
    path
}

/// What makes the server try again: a job at once, or a notification that the application did not
/// take, also where it refused it for good.
fn retry(session: &Session, now: Timestamp) -> Option<Transition> {
    let is_durable = session.is_received() && session.synced == session.received;
    match session.notification {
        _ if session.state.is_job() => Some(Transition::Postpone { until: now }),
        Some(id) if session.state == State::ReceiveFragments && is_durable && !session.copy => {
            Some(Transition::Notify { id })
        }
        _ => None,
    }
}

async fn list(store: &dyn SessionStore, mut filter: Filter, json: bool) -> Result<String, Failure> {
    let now = store.now().await?;
    let mut sessions = Vec::new();
    loop {
        let page = store.list(&filter).await?;
        let Some(last) = page.last() else { break };
        filter.after = Some((last.created_at, last.id));
        sessions.extend(page);
    }
    if json {
        return Ok(pretty(&Value::Array(sessions.iter().map(|session| describe::session(session, now)).collect())));
    }
    let mut text =
        format!("{:38} {:10} {:>25} {:>8}  {:16} {}\n", "SESSION", "STATE", "BYTES", "IDLE", "USER", "DESTINATION");
    for session in &sessions {
        let bytes = match session.total {
            Some(total) => format!("{}/{total}", session.received),
            None => session.received.to_string(),
        };
        let idle = short(now.since(session.progressed_at));
        let destination = session.destination.as_str().escape_debug();
        let user = session.principal.to_string();
        let _ = writeln!(
            text,
            "{:38} {:10} {bytes:>25} {idle:>8}  {:16} {destination}",
            session.id,
            session.state.as_str(),
            user.escape_debug().to_string(),
        );
    }
    let _ = match sessions.len() {
        1 => write!(text, "1 live session"),
        count => write!(text, "{count} live sessions"),
    };
    Ok(text)
}

async fn show(
    store: &dyn SessionStore,
    outbox: &dyn Outbox,
    webhooks: &[WebhookConfig],
    id: SessionId,
    json: bool,
) -> Result<String, Failure> {
    let now = store.now().await?;
    let mut value = match store.load(id).await? {
        Some(Found::Live(session)) => describe::session(&session, now),
        Some(Found::Ended(tombstone)) => describe::tombstone(&tombstone),
        None => return Err(unknown(id)),
    };
    for webhook in webhooks {
        value["pending_events"][&webhook.name] = outbox.pending(&webhook.name, Some(id)).await?.into();
    }
    if json {
        return Ok(pretty(&value));
    }
    let Value::Object(fields) = value else { return Ok(String::new()) };
    Ok(fields.iter().map(|(name, value)| format!("{name:15} {}\n", plain(name, value))).collect())
}

/// A value for people, on one line.
fn plain(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(user) if name == "user" && user.is_empty() => Principal::ANONYMOUS.to_string(),
        Value::String(text) => text.escape_debug().to_string(),
        other => other.to_string(),
    }
}

async fn sweep(store: &dyn SessionStore, json: bool) -> Result<String, Failure> {
    let mut ended = 0_u64;
    loop {
        let expired = store.expired(PAGE).await?;
        let mut moved = true;
        for session in expired.iter().filter(|session| !session.state.is_job()) {
            if let Commit::Ended(_) = commit(store, session, &Transition::End(Ending::Expired)).await? {
                ended += 1;
                moved = false;
            }
        }
        if moved {
            break;
        }
    }
    Ok(if json { pretty(&json!({ "expired": ended })) } else { format!("{ended} expired sessions ended") })
}

async fn live(store: &dyn SessionStore, id: SessionId) -> Result<Session, Failure> {
    match store.load(id).await? {
        Some(Found::Live(session)) => Ok(session),
        Some(Found::Ended(tombstone)) => {
            Err(Failure::Failed(format!("{id} is over already: {}", tombstone.ending.as_str())))
        }
        None => Err(unknown(id)),
    }
}

/// Commits against whatever the session has moved to; it may be receiving.
async fn change(store: &dyn SessionStore, session: &Session, transition: &Transition) -> Result<(), Failure> {
    let mut session = session.clone();
    for _ in 0..100 {
        match commit(store, &session, transition).await? {
            Commit::Live(_) | Commit::Ended(_) => return Ok(()),
            Commit::Moved | Commit::Claimed(_) | Commit::Exceeds(_) => session = live(store, session.id).await?,
        }
    }
    Err(Failure::Failed(format!("{} moves too fast; try again", session.id)))
}

/// Commits, and tells the audit log and the trace of a session that ends by it: no server does.
async fn commit(store: &dyn SessionStore, session: &Session, transition: &Transition) -> Result<Commit, Failure> {
    let commit = store.commit(session, transition).await?;
    if let (Commit::Ended(tombstone), Transition::End(ending)) = (&commit, transition) {
        let kind = SessionEventKind::Ended(*ending);
        let event = SessionEvent { at: tombstone.ended_at, session: session.clone(), kind };
        audit::log(&event);
        #[cfg(feature = "otlp")]
        otlp::event(&event);
    }
    Ok(commit)
}

fn report(json: bool, outcome: &str, session: &Session) -> String {
    if json {
        return pretty(&json!({ "session": session.id.to_string(), "outcome": outcome }));
    }
    format!("{}: {outcome}", session.id)
}

/// With or without braces, which shells make awkward.
fn parse(text: &str) -> Result<SessionId, Failure> {
    let braced = format!("{{{}}}", text.trim().trim_start_matches('{').trim_end_matches('}'));
    braced.parse().map_err(|error| Failure::Usage(format!("{text:?}: {error}")))
}

fn unknown(id: SessionId) -> Failure {
    Failure::Failed(format!("there is no session {id}; `bits-server sessions list` shows those there are"))
}

fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

impl From<SessionStoreError> for Failure {
    fn from(error: SessionStoreError) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::Failed(format!("{error}{cause}"))
    }
}
