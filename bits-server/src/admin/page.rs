//! The page: plain HTML that stands on its own, kept fresh by a script where there is one.

use std::time::Duration;

use bits_core::{
    EventKind, Found, OutboxEvent, Principal, Session, SessionId, SessionStoreError, State, Tally, Timestamp, Tombstone,
};
use bits_engine::CancelError;
use http::{HeaderValue, StatusCode, header};
use maud::{DOCTYPE, Markup, html};

use super::{
    answer::{self, Answer},
    api,
    console::{Console, Detail},
    describe,
    plot::Plot,
    tally::{Minute, Refused},
    words::{ago, bytes, percent, span, split, visible},
};

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = include_str!("assets/page.css");
const SCRIPT: &str = include_str!("assets/page.js");
const ICON: &str = include_str!("assets/icon.svg");
/// Sessions of one page.
const PAGE: u32 = 50;
/// Events that are looked through for what ended.
const EVENTS: u32 = 300;
/// Rows of what ended, and of what failed.
const ROWS: usize = 15;
/// Idleness that is told of.
const IDLE: [Duration; 3] =
    [Duration::from_secs(3600), Duration::from_secs(24 * 3600), Duration::from_secs(3 * 24 * 3600)];

/// A file that the page loads; none of that name is [`None`].
pub(super) fn asset(name: &str) -> Option<Answer> {
    let (kind, content) = match name {
        "page.css" => ("text/css; charset=utf-8", STYLE),
        "page.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "icon.svg" => ("image/svg+xml", ICON),
        _ => return None,
    };
    let mut answer = answer::whole(StatusCode::OK, kind, content);
    // Another version has another page soon enough.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=300"));
    Some(answer)
}

/// `GET /`.
pub(super) async fn overview(console: &Console, query: &str) -> Answer {
    let asked: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&asked).finish();
    let (filter, mistake) = match api::filter(&query) {
        Ok(filter) => (filter, None),
        Err(message) => (api::filter("").unwrap_or_default(), Some(message)),
    };
    let filter = bits_core::Filter { limit: PAGE, newest_first: true, ..filter };
    let seen = match look(console, &filter).await {
        Ok(seen) => seen,
        Err(error) => return failed(&error),
    };
    let status = if mistake.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let body = html! {
        @if let Some(mistake) = mistake { p.notice role="alert" { (mistake) } }
        #live {
            (hour(console))
            (under_way(console, &seen, &Asked(&asked)))
            (finished(&seen))
            (failures(console, &seen))
        }
    };
    page(status, "Uploads", health(&console.health().await), body)
}

/// `GET /sessions/{session}`.
pub(super) async fn detail(console: &Console, id: Option<SessionId>) -> Answer {
    let found = match id {
        Some(id) => console.find(id).await,
        None => Ok(None),
    };
    match found {
        Ok(Some((detail, now))) => {
            let name = match &detail.found {
                Found::Live(session) => last_name(session.destination.as_str()),
                Found::Ended(tombstone) => last_name(tombstone.destination.as_str()),
            };
            let body = html! { #live { (session(console, &detail, now)) } };
            page(StatusCode::OK, &name, health(&console.health().await), body)
        }
        Ok(None) => message(
            StatusCode::NOT_FOUND,
            "There is no such session",
            "It may be long over: ended sessions are remembered for their session_timeout.",
        ),
        Err(error) => failed(&error),
    }
}

/// `GET /sessions/{session}/cancel`: asks first.
pub(super) async fn confirm(console: &Console, id: Option<SessionId>) -> Answer {
    let found = match id {
        Some(id) => console.find(id).await,
        None => Ok(None),
    };
    let session = match found {
        Ok(Some((Detail { found: Found::Live(session), .. }, _))) => session,
        Ok(_) => return message(StatusCode::NOT_FOUND, "There is nothing to cancel", "The session is over already."),
        Err(error) => return failed(&error),
    };
    let name = last_name(session.destination.as_str());
    let body = html! {
        section {
            div.head { h2 { "Cancel the upload of " bdi { (name) } "?" } }
            p { (consequence(session.state)) }
            form.actions method="post" action=(cancel_path(session.id)) {
                button.danger type="submit" { "Cancel the upload" }
                a.button href=(path(session.id)) { "Keep it" }
            }
        }
    };
    page(StatusCode::OK, "Cancel", html! {}, body)
}

/// `POST /sessions/{session}/cancel`.
pub(super) async fn cancel(console: &Console, id: Option<SessionId>, who: &str) -> Answer {
    let Some(id) = id else { return message(StatusCode::NOT_FOUND, "There is no such session", "") };
    match console.cancel(id, who).await {
        Ok(_) => {
            let mut answer = answer::whole(StatusCode::SEE_OTHER, HTML, "");
            if let Ok(location) = HeaderValue::from_str(&path(id)) {
                answer.headers_mut().insert(header::LOCATION, location);
            }
            answer
        }
        Err(CancelError::NotFound) => message(StatusCode::NOT_FOUND, "There is no such session", ""),
        Err(CancelError::Over(ending)) => message(StatusCode::CONFLICT, "Nothing was cancelled", &api::over(ending)),
        Err(CancelError::Refused(refusal)) => {
            let text = format!("{refusal}. The session goes on; try again.");
            message(StatusCode::SERVICE_UNAVAILABLE, "The session was not cancelled", &text)
        }
    }
}

/// A page that says one thing.
pub(super) fn message(status: StatusCode, title: &str, text: &str) -> Answer {
    let body =
        html! { section { div.head { h2 { (title) } } p { (text) } p.actions { a href="/" { "All uploads" } } } };
    page(status, title, html! {}, body)
}

/// What is in the session database.
struct Seen {
    sessions: Vec<Session>,
    more: bool,
    tallies: Vec<Tally>,
    events: Vec<OutboxEvent>,
    now: Timestamp,
}

async fn look(console: &Console, filter: &bits_core::Filter) -> Result<Seen, SessionStoreError> {
    let (sessions, now) = console.list(filter).await?;
    let more = sessions.len() == filter.limit as usize;
    let tallies = console.tally(IDLE).await?;
    Ok(Seen { sessions, more, tallies, events: console.recent(None, EVENTS).await?, now })
}

/// What the filter's form said.
struct Asked<'a>(&'a [(String, String)]);

impl Asked<'_> {
    fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(asked, _)| asked == name).map_or("", |(_, value)| value)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|(name, _)| name == "after")
    }

    fn with_after(&self, after: &str) -> String {
        let kept = self.0.iter().filter(|(name, _)| name != "after");
        let mut query = form_urlencoded::Serializer::new("/?".to_owned());
        kept.for_each(|(name, value)| {
            query.append_pair(name, value);
        });
        query.append_pair("after", after).finish().replacen("/?&", "/?", 1)
    }
}

fn page(status: StatusCode, title: &str, health: Markup, body: Markup) -> Answer {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · bits-server" }
                link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/assets/page.css";
                script src="/assets/page.js" defer {}
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                header {
                    h1 { a href="/" { "bits-server" } }
                    small { (env!("CARGO_PKG_VERSION")) }
                    p #health { (health) }
                }
                p.skip #status role="status" {}
                main #content { (body) }
                footer { small { "Times are those of the session database, in UTC. Rates and refusals are this server's own; uploads are those of all servers on its database. " a href="/metrics" { "Metrics" } " · " a href="/api/openapi.json" { "API" } } }
                (dialog())
            }
        }
    };
    answer::whole(status, HTML, page.into_string())
}

fn dialog() -> Markup {
    html! {
        dialog #confirm aria-labelledby="confirm-title" {
            form method="post" {
                h2 #confirm-title { "Cancel the upload of " bdi {} "?" }
                p { "What has come of an unfinished upload is deleted, and its client is told that the session is gone. A complete upload stays." }
                div.actions {
                    button.danger type="submit" { "Cancel the upload" }
                    button type="button" value="no" { "Keep it" }
                }
            }
        }
    }
}

fn health(failures: &[(String, String)]) -> Markup {
    html! {
        @if failures.is_empty() { span.state.good { "All stores answer" } }
        @for (store, reason) in failures { span.state.bad { (store) ": " (reason) } " " }
    }
}

fn hour(console: &Console) -> Markup {
    let (minutes, under_way) = console.last_hour();
    let of = |value: fn(&Minute) -> u64| minutes.iter().map(|minute| value(minute) as f64).collect::<Vec<_>>();
    let sum = |values: &[f64]| values.iter().sum::<f64>() as u64;
    let (came, completed, refused) = (of(|it| it.bytes), of(|it| it.completed), of(|it| it.refused));
    // The minute under way alone says little in its first seconds.
    let recent = (came[came.len() - 2] + came[came.len() - 1]) / (60.0 + under_way.as_secs_f64());
    let busiest = came.iter().copied().fold(0.0, f64::max) / 60.0;
    let plots = [
        Plot {
            title: "Received",
            class: "good",
            now: format!("{}/s", bytes(recent as u64)),
            about: format!(
                "Received in the last hour: {}, at most {} a second",
                bytes(sum(&came)),
                bytes(busiest as u64)
            ),
            values: &came,
        },
        Plot {
            title: "Completed in the last hour",
            class: "good",
            now: sum(&completed).to_string(),
            about: format!("Uploads completed in the last hour: {}", sum(&completed)),
            values: &completed,
        },
        Plot {
            title: "Refused in the last hour",
            class: "bad",
            now: sum(&refused).to_string(),
            about: format!("Packets refused in the last hour: {}", sum(&refused)),
            values: &refused,
        },
    ];
    html! {
        section #hour aria-labelledby="hour-title" {
            div.head { h2 #hour-title { "The last hour" } span.soft { "as this server alone has seen it" } }
            div.plots { @for plot in &plots { (plot.draw()) } }
        }
    }
}

fn under_way(console: &Console, seen: &Seen, asked: &Asked<'_>) -> Markup {
    html! {
        section #sessions aria-labelledby="sessions-title" {
            div.head { h2 #sessions-title { "Uploads" } span.soft { (summary(&seen.tallies)) } }
            (filter_form(asked))
            @if seen.sessions.is_empty() {
                p.empty { @if asked.is_empty() { "Nothing is under way." } @else { "Nothing under way fits the filter. " a href="/" { "Show all" } } }
            } @else {
                table {
                    caption { "Live sessions, the newest first" }
                    thead { tr {
                        th scope="col" { "Destination" } th scope="col" { "Progress" } th.number scope="col" { "Rate" }
                        th scope="col" { "Client" } th.number scope="col" { "Age" } th scope="col" { "State" } th scope="col" { span.soft { "Action" } }
                    } }
                    tbody { @for session in &seen.sessions { (row(console, session, seen.now)) } }
                }
            }
            @if let Some(last) = seen.sessions.last().filter(|_| seen.more) {
                p.actions { a.button href=(asked.with_after(&api::cursor(last))) rel="next" { "Older sessions" } }
            }
        }
    }
}

fn summary(tallies: &[Tally]) -> String {
    let of = |is: fn(State) -> bool| tallies.iter().filter(move |tally| is(tally.state));
    let unfinished: u64 = of(|state| state != State::WaitForClose).map(|tally| tally.sessions).sum();
    let complete: u64 = of(|state| state == State::WaitForClose).map(|tally| tally.sessions).sum();
    let idle = |at: usize| of(|state| state != State::WaitForClose).map(|tally| tally.idle[at]).sum::<u64>();
    let mut parts = vec![format!("{unfinished} under way")];
    let idle = [(idle(2), "3 days"), (idle(1), "a day"), (idle(0), "an hour")];
    if let Some((count, time)) = idle.into_iter().find(|(count, _)| *count > 0) {
        parts.push(format!("{count} idle for over {time}"));
    }
    if complete > 0 {
        parts.push(format!("{complete} complete and not closed yet"));
    }
    parts.join(" · ")
}

fn filter_form(asked: &Asked<'_>) -> Markup {
    let choice = |name: &str, options: &[(&str, &str)]| {
        html! {
            select name=(name) id=(format!("filter-{name}")) {
                @for (value, text) in options { option value=(value) selected[asked.value(name) == *value] { (text) } }
            }
        }
    };
    html! {
        form.filter #filter method="get" action="/" role="search" {
            label.wide for="filter-path" { "Path starts with" input #filter-path name="path" value=(asked.value("path")) placeholder="/upload/" autocomplete="off"; }
            label for="filter-user" { "User" input #filter-user name="user" value=(asked.value("user")) autocomplete="off"; }
            label for="filter-state" { "State" (choice("state", &[("", "any"), ("receiving", "receiving"), ("notifying", "notifying"), ("publishing", "publishing"), ("complete", "complete")])) }
            label for="filter-idle" { "Idle for" (choice("idle", &[("", "any time"), ("1h", "over 1 hour"), ("1d", "over 1 day"), ("3d", "over 3 days")])) }
            button type="submit" { "Filter" }
            @if !asked.is_empty() { a.button href="/" { "Show all" } }
        }
    }
}

fn row(console: &Console, session: &Session, now: Timestamp) -> Markup {
    let name = last_name(session.destination.as_str());
    html! {
        tr id=(format!("s-{}", session.id.uuid())) {
            td.full { (link(session.id, session.destination.as_str())) }
            td.full { (progress(session)) }
            td.number data-label="Rate" { (rate(console, session, now)) }
            td data-label="Client" { (user(&session.principal)) span.soft { bdi { (visible(&session.address)) } } }
            td.number data-label="Age" { (when(session.created_at, span(now.since(session.created_at)))) }
            td data-label="State" { (state(session, now)) }
            td.act.full { a.button.danger href=(cancel_path(session.id)) data-cancel=(name) id=(format!("cancel-{}", session.id.uuid())) aria-label=(format!("Cancel {name}")) { "Cancel" } }
        }
    }
}

fn progress(session: &Session) -> Markup {
    let Some(total) = session.total else { return html! { span.soft { "size not known yet" } } };
    let percent = percent(session.received, total);
    html! {
        progress max="100" value=(percent) aria-label="Progress" { (percent) " %" }
        span.number { (percent) " %" } " " small { (bytes(session.received)) " of " (bytes(total)) }
    }
}

fn rate(console: &Console, session: &Session, now: Timestamp) -> Markup {
    let idle = now.since(session.progressed_at);
    let rate = console.rate(session.id).filter(|rate| *rate > 0);
    html! {
        @if session.state != State::ReceiveFragments { span.soft { "–" } }
        @else if idle > Duration::from_secs(60) { span.soft { "idle for " (span(idle)) } }
        @else if let Some(rate) = rate {
            (bytes(rate)) "/s"
            @if let Some(left) = session.total.map(|total| (total - session.received) / rate).filter(|left| *left > 0) {
                span.soft { (span(Duration::from_secs(left))) " left" }
            }
        } @else { span.soft { "–" } }
    }
}

fn state(session: &Session, now: Timestamp) -> Markup {
    let (class, text) = match session.state {
        State::ReceiveFragments if session.refused.is_some() => ("bad", "refused by its application"),
        State::ReceiveFragments => ("receiving", "receiving"),
        State::Notify => ("work", "notifying"),
        State::Publish => ("work", "publishing"),
        State::WaitForClose => ("good", "complete"),
    };
    html! {
        span class=(format!("state {class}")) { (text) }
        @if let Some(at) = session.retry_at { span.soft { "failed; again in " (span(at.since(now))) } }
    }
}

fn finished(seen: &Seen) -> Markup {
    let over = |event: &&OutboxEvent| {
        matches!(event.kind, EventKind::UploadCompleted | EventKind::SessionCancelled | EventKind::SessionExpired)
    };
    let events: Vec<_> = seen.events.iter().filter(over).take(ROWS).collect();
    html! {
        section #finished aria-labelledby="finished-title" {
            div.head { h2 #finished-title { "Finished" } }
            @if events.is_empty() { p.empty { "Nothing yet." } }
            @else {
                table {
                    caption { "What ended, the newest first" }
                    thead { tr { th scope="col" { "Destination" } th scope="col" { "Outcome" } th.number scope="col" { "Size" } th scope="col" { "Client" } th.number scope="col" { "When" } } }
                    tbody { @for event in events {
                        tr {
                            td.full { (link(event.session, event.destination.as_str())) }
                            td data-label="Outcome" { (outcome(event)) }
                            td.number data-label="Size" { (bytes(event.size.unwrap_or(event.received))) }
                            td data-label="Client" { (user(&event.principal)) span.soft { bdi { (visible(&event.address)) } } }
                            td.number data-label="When" { (when(event.at, ago(event.at, seen.now))) }
                        }
                    } }
                }
            }
        }
    }
}

fn outcome(event: &OutboxEvent) -> Markup {
    let (class, text) = match (event.kind, event.complete) {
        (EventKind::UploadCompleted, _) => ("good", "complete"),
        (EventKind::SessionCancelled, true) => ("good", "cancelled when it was complete"),
        (EventKind::SessionCancelled, false) => ("bad", "cancelled"),
        (EventKind::SessionExpired, true) => ("good", "never closed, complete"),
        (EventKind::SessionExpired, false) => ("bad", "expired"),
        (EventKind::NotificationFailed, _) => ("bad", "not taken by its application"),
        _ => ("receiving", "created"),
    };
    html! { span class=(format!("state {class}")) { (text) } }
}

fn failures(console: &Console, seen: &Seen) -> Markup {
    let failed: Vec<_> =
        seen.events.iter().filter(|event| event.kind == EventKind::NotificationFailed).take(ROWS).collect();
    let (refused, publishing) = (console.refusals(), console.failed_publishing());
    let nothing = failed.is_empty() && refused.is_empty() && publishing.is_empty();
    html! {
        section #failures aria-labelledby="failures-title" {
            div.head { h2 #failures-title { "Failures" } }
            @if nothing { p.empty { "None." } }
            @else {
                table {
                    caption { "What failed and why, the latest of each" }
                    thead { tr { th scope="col" { "What" } th scope="col" { "Why" } th.number scope="col" { "When" } } }
                    tbody {
                        @for event in failed {
                            tr {
                                td.full { (link(event.session, event.destination.as_str())) }
                                td.full { "The server application did not take it: " (visible(event.reason.as_deref().unwrap_or("no reason was given"))) }
                                td.number data-label="When" { (when(event.at, ago(event.at, seen.now))) }
                            }
                        }
                        @for failure in &publishing {
                            tr {
                                td.full { (link(failure.session, &failure.destination)) }
                                td.full { "It could not be put at its destination: " (visible(&failure.reason)) }
                                td.number data-label="When" { (when(failure.at, ago(failure.at, seen.now))) }
                            }
                        }
                        @for refusal in &refused { (refusal_row(refusal, seen.now)) }
                    }
                }
            }
        }
    }
}

fn refusal_row(refused: &Refused, now: Timestamp) -> Markup {
    let times = if refused.count == 1 { "once".to_owned() } else { format!("{} times", refused.count) };
    html! {
        tr {
            td.full { span.name { "Packets refused " (times) } span.soft { "last: " bdi { (visible(&refused.path)) } " from " bdi { (refused.address) } } }
            td.full { (visible(&refused.reason)) }
            td.number data-label="When" { (when(refused.at, ago(refused.at, now))) }
        }
    }
}

fn session(console: &Console, detail: &Detail, now: Timestamp) -> Markup {
    html! {
        @match &detail.found {
            Found::Live(session) => (live_session(console, session, now)),
            Found::Ended(tombstone) => (ended_session(tombstone, now)),
        }
        section #history aria-labelledby="history-title" {
            div.head { h2 #history-title { "History" } }
            @if detail.history.is_empty() { p.empty { "Nothing is remembered of it." } }
            @else { ol.history { @for event in &detail.history { (moment(event, now)) } } }
        }
    }
}

fn live_session(console: &Console, session: &Session, now: Timestamp) -> Markup {
    let name = last_name(session.destination.as_str());
    html! {
        section #session {
            div.head { h2 { bdi { (name) } } (state(session, now)) }
            (progress(session))
            dl {
                dt { "Destination" } dd { bdi { (visible(session.destination.as_str())) } }
                dt { "Rate" } dd { (rate(console, session, now)) }
                dt { "User" } dd { (user(&session.principal)) }
                dt { "Address" } dd { bdi { (visible(&session.address)) } }
                dt { "Created" } dd { (both(session.created_at, now)) }
                dt { "Last progress" } dd { (both(session.progressed_at, now)) }
                dt { "Expires" } dd { "in " (span(session.expires_at().since(now))) " without more progress" }
                dt { "On disk for sure" } dd { (bytes(session.synced)) }
                dt { "Stored as" } dd { bdi { (visible(session.key.as_str())) } }
                dt { "Session" } dd { code { (session.id.to_string()) } }
            }
            p.actions { a.button.danger #cancel href=(cancel_path(session.id)) data-cancel=(name) { "Cancel the upload…" } }
        }
    }
}

fn ended_session(tombstone: &Tombstone, now: Timestamp) -> Markup {
    let (class, text) = match tombstone.published {
        Some(_) => ("good", "complete"),
        None => ("bad", tombstone.ending.as_str()),
    };
    html! {
        section #session {
            div.head { h2 { bdi { (last_name(tombstone.destination.as_str())) } } span class=(format!("state {class}")) { (text) } }
            dl {
                dt { "Destination" } dd { bdi { (visible(tombstone.destination.as_str())) } }
                dt { "Ended" } dd { (both(tombstone.ended_at, now)) ", " (tombstone.ending.as_str()) }
                @if let Some(size) = tombstone.published { dt { "Size" } dd { (bytes(size)) } }
                dt { "User" } dd { (user(&tombstone.principal)) }
                dt { "Stored as" } dd { bdi { (visible(tombstone.key.as_str())) } }
                dt { "Session" } dd { code { (tombstone.id.to_string()) } }
            }
        }
    }
}

fn moment(event: &OutboxEvent, now: Timestamp) -> Markup {
    let bad = !event.complete && !matches!(event.kind, EventKind::SessionCreated);
    html! {
        li class=(if bad { "bad" } else { "" }) {
            (outcome_words(event)) " " span.soft { (both(event.at, now)) }
            @if let Some(reason) = &event.reason { p { (visible(reason)) } }
        }
    }
}

fn outcome_words(event: &OutboxEvent) -> String {
    let had = bytes(event.received);
    match (event.kind, event.complete) {
        (EventKind::SessionCreated, _) => format!("Created from {}", visible(&event.address)),
        (EventKind::UploadCompleted, _) => format!("Complete, {had}"),
        (EventKind::SessionCancelled, true) => "Cancelled when the upload was complete; it stays".to_owned(),
        (EventKind::SessionCancelled, false) => format!("Cancelled; {had} had come"),
        (EventKind::SessionExpired, true) => "Expired without a Close-Session; the upload stays".to_owned(),
        (EventKind::SessionExpired, false) => format!("Expired; {had} had come"),
        (EventKind::NotificationFailed, _) => "The server application did not take it".to_owned(),
        _ => event.kind.as_str().to_owned(),
    }
}

fn consequence(state: State) -> &'static str {
    match state {
        State::WaitForClose => "The upload is complete and stays; only its session ends.",
        State::Notify | State::Publish => "What is under way is waited for; an upload that gets complete by it stays.",
        State::ReceiveFragments => {
            "What has come of it is deleted, and its client is told that the session is gone. It may start over."
        }
    }
}

fn failed(error: &SessionStoreError) -> Answer {
    tracing::error!(%error, "the session store failed");
    message(StatusCode::SERVICE_UNAVAILABLE, "The session database does not answer", "The log says more.")
}

fn link(id: SessionId, destination: &str) -> Markup {
    let (folder, name) = split(destination);
    html! { a.name href=(path(id)) { bdi { (visible(name)) } } span.soft { bdi { (visible(folder)) } } }
}

fn user(principal: &Principal) -> Markup {
    html! { @if principal.is_anonymous() { span.soft { "anonymous" } } @else { bdi { (visible(principal.as_str())) } } }
}

fn when(at: Timestamp, text: String) -> Markup {
    let exact = describe::time(at);
    html! { time datetime=(exact) title=(exact) { (text) } }
}

fn both(at: Timestamp, now: Timestamp) -> Markup {
    let exact = describe::time(at);
    html! { (ago(at, now)) " " time.soft datetime=(exact) { (exact) } }
}

fn last_name(destination: &str) -> String {
    visible(split(destination).1)
}

fn path(id: SessionId) -> String {
    format!("/sessions/{}", id.uuid())
}

fn cancel_path(id: SessionId) -> String {
    format!("{}/cancel", path(id))
}
