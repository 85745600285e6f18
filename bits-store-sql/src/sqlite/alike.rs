//! Changes of many sessions that are alike, in one statement: their values are the elements of a JSON
//! array. And statements one after the other in one go: the way to SQLite's thread and back costs more
//! than what a statement does there.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    sync::LazyLock,
};

use bits_core::SessionId;
use futures_util::StreamExt;
use sqlx::{AssertSqlSafe, Connection as _, Either, Executor, SqliteConnection, query::Query, sqlite::SqliteRow};

use super::{
    statements::{BEGIN, COMMIT, SQL},
    writer::{Failure, Job},
};
use crate::{
    connection::{Connection, Sql, Statement, Value},
    rows,
};

/// The statements that can be for many, and what they are then.
pub(super) static FOR_MANY: LazyLock<HashMap<&'static str, String>> = LazyLock::new(|| {
    let of_sessions = [SQL.create, SQL.begin_upload, SQL.advance, SQL.intend, SQL.published, SQL.end, SQL.bury];
    let mut for_many: HashMap<_, _> = of_sessions.into_iter().map(|sql| (sql, for_many(sql, 1))).collect();
    for_many.insert(SQL.tell, self::for_many(SQL.tell, 4));
    // All look for who is publishing there before one of them does. Who is second then is left out, and told
    // when it is run by itself.
    for_many.entry(SQL.intend).and_modify(|sql| *sql = sql.replacen("UPDATE", "UPDATE OR IGNORE", 1));
    for_many
});

/// In which order one transaction makes them: what gives back a claim comes before what wants one. One
/// order only, so that few of all possible sequences are prepared.
const ORDER: [&str; 6] = [SQL.published, SQL.end, SQL.create, SQL.begin_upload, SQL.advance, SQL.intend];

/// Jobs that one statement does.
pub(super) struct Group<'a> {
    sql: &'static str,
    jobs: Vec<(&'a mut dyn Job, Statement)>,
}

/// What is done together, and what is done one by one afterwards: that holds whatever comes second
/// for a session.
pub(super) fn split(batch: &mut [Box<dyn Job>]) -> (Vec<Group<'_>>, Vec<&mut dyn Job>) {
    let (mut groups, mut others): (Vec<Group<'_>>, Vec<&mut dyn Job>) = Default::default();
    let mut seen = HashSet::new();
    for job in batch {
        let statement = job.statement().filter(is_for_many);
        match statement.and_then(|statement| Some((sql_of(&statement)?, id_of(&statement)?, statement))) {
            Some((sql, id, statement)) if seen.insert(id) => match groups.iter_mut().find(|group| group.sql == sql) {
                Some(group) => group.jobs.push((&mut **job, statement)),
                None => groups.push(Group { sql, jobs: vec![(&mut **job, statement)] }),
            },
            _ => others.push(&mut **job),
        }
    }
    groups.sort_by_key(|group| ORDER.iter().position(|sql| *sql == group.sql));
    (groups, others)
}

/// What groups leave to be done.
#[derive(Default)]
pub(super) struct Rest<'a> {
    /// What their jobs execute besides.
    pub(super) statements: Vec<Statement>,
    /// Those that no statement did anything for. Running them tells why.
    pub(super) jobs: Vec<&'a mut dyn Job>,
}

impl<'a> Group<'a> {
    /// Whether it needs no transaction around it: by itself it is committed.
    pub(super) fn is_single(&self) -> bool {
        self.jobs.iter().all(|(job, _)| job.is_single())
    }

    /// Runs the statement, to its end: that commits it.
    pub(super) async fn run_alone(self, connection: &mut SqliteConnection) -> Result<Rest<'a>, Failure> {
        let mut sequence = Sequence::default();
        sequence.push(self.sql, self.jobs.iter().map(|(_, statement)| statement));
        let rows = sequence.run(connection).await.map_err(|(_, error)| error)?;
        self.take(rows.iter().flatten(), true)
    }

    fn take<'r>(self, rows: impl Iterator<Item = &'r SqliteRow>, committed: bool) -> Result<Rest<'a>, Failure> {
        // A row without an id is nobody's.
        let mut rows: HashMap<SessionId, &SqliteRow> =
            rows.filter_map(|row| Some((rows::id(row, "id").ok()?, row))).collect();
        let mut rest = Rest::default();
        for (job, statement) in self.jobs {
            match id_of(&statement).and_then(|id| rows.remove(&id)) {
                Some(row) => rest.statements.extend(job.take(row, committed).map_err(Failure::Operation)?),
                None => rest.jobs.push(job),
            }
        }
        Ok(rest)
    }
}

/// Begins a transaction and runs the statements of all groups.
pub(super) async fn begin<'a>(groups: Vec<Group<'a>>, connection: &mut SqliteConnection) -> Result<Rest<'a>, Failure> {
    let mut sequence = Sequence::default();
    sequence.push_plain(BEGIN);
    for group in &groups {
        sequence.push(group.sql, group.jobs.iter().map(|(_, statement)| statement));
    }
    let rows = sequence.run(connection).await.map_err(|(done, error)| {
        let failure = Failure::from(error);
        if done == 0 { failure } else { failure.of_operation() }
    })?;
    let mut all = Rest::default();
    for (group, rows) in groups.into_iter().zip(rows.iter().skip(1)) {
        let rest = group.take(rows.iter(), false)?;
        all.statements.extend(rest.statements);
        all.jobs.extend(rest.jobs);
    }
    Ok(all)
}

/// Executes statements, those that are alike as one, and commits the transaction if told so: a
/// [`Failure::Transaction`] then is that of the commit.
pub(super) async fn execute(
    statements: Vec<Statement>,
    commit: bool,
    connection: &mut SqliteConnection,
) -> Result<(), Failure> {
    let mut groups: Vec<(&'static str, Vec<Statement>)> = Vec::new();
    for statement in statements {
        match sql_of(&statement).filter(|sql| FOR_MANY.contains_key(sql) && is_for_many(&statement)) {
            None => drop(Connection::execute(connection, statement).await.map_err(Failure::Operation)?),
            Some(sql) => match groups.iter_mut().find(|(other, _)| *other == sql) {
                Some((_, group)) => group.push(statement),
                None => groups.push((sql, vec![statement])),
            },
        }
    }
    let mut sequence = Sequence::default();
    for (sql, group) in &groups {
        sequence.push(sql, group.iter());
    }
    if commit {
        sequence.push_plain(COMMIT);
    }
    sequence.run(connection).await.map(drop).map_err(|(done, error)| {
        let failure = Failure::from(error);
        if done == groups.len() { failure } else { failure.of_operation() }
    })
}

/// Statements that are run one after the other, in one go: SQLite's driver takes several at once, and
/// counts their values on.
#[derive(Default)]
struct Sequence {
    sql: String,
    values: Vec<String>,
    length: usize,
}

impl Sequence {
    fn push_plain(&mut self, sql: &str) {
        self.sql += sql;
        self.sql += ";";
        self.length += 1;
    }

    fn push<'a>(&mut self, sql: &'static str, statements: impl ExactSizeIterator<Item = &'a Statement>) {
        self.push_plain(FOR_MANY.get(sql).map_or(sql, String::as_str));
        self.values.push(json(statements));
    }

    /// The rows of each; after a failure, how many were done before.
    async fn run(self, connection: &mut SqliteConnection) -> Result<Vec<Vec<SqliteRow>>, (usize, sqlx::Error)> {
        if self.length == 0 {
            return Ok(Vec::new());
        }
        let length = self.length;
        let (rows, failed) = self.take_steps(connection).await;
        let done = rows.len() - 1;
        let Some(error) = failed.or((done < length).then_some(sqlx::Error::WorkerCrashed)) else { return Ok(rows) };
        // The driver keeps a sequence of which it could not prepare all, and its thread dies of it the next time.
        let _ = connection.clear_cached_statements().await;
        Err((done, error))
    }

    /// The rows of each that was done, and of the next one; and what failed.
    async fn take_steps(self, connection: &mut SqliteConnection) -> (Vec<Vec<SqliteRow>>, Option<sqlx::Error>) {
        let query = self.values.into_iter().fold(sqlx::query(AssertSqlSafe(self.sql)), Query::bind);
        let (mut rows, mut of_next) = (Vec::with_capacity(self.length + 1), Vec::new());
        let mut steps = connection.fetch_many(query);
        let failed = loop {
            match steps.next().await {
                Some(Ok(Either::Left(_))) => rows.push(std::mem::take(&mut of_next)),
                Some(Ok(Either::Right(row))) => of_next.push(row),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        rows.push(of_next);
        (rows, failed)
    }
}

fn sql_of(statement: &Statement) -> Option<&'static str> {
    match statement.sql {
        Sql::Static(sql) => Some(sql),
        Sql::Listing(_) => None,
    }
}

fn id_of(statement: &Statement) -> Option<SessionId> {
    match statement.values.first() {
        Some(Value::Id(id)) => Some(*id),
        _ => None,
    }
}

/// JSON's text ends at a NUL for SQLite.
fn is_for_many(statement: &Statement) -> bool {
    let is_cut = |value: &Value| matches!(value, Value::Text(Some(text)) if text.contains('\0'));
    !statement.values.iter().any(is_cut)
}

/// The values of each statement: `[["id", 1, "text", null, …], …]`.
fn json<'a>(statements: impl ExactSizeIterator<Item = &'a Statement>) -> String {
    let mut json = Vec::with_capacity(256 * statements.len());
    for (number, statement) in statements.enumerate() {
        json.push(if number == 0 { b'[' } else { b',' });
        for (number, value) in statement.values.iter().enumerate() {
            json.push(if number == 0 { b'[' } else { b',' });
            // Writing to memory cannot fail, nor can text fail to be JSON.
            let _ = match value {
                Value::Id(id) => write!(json, "\"{}\"", id.uuid().simple()),
                Value::Integer(Some(integer)) => write!(json, "{integer}"),
                Value::Text(Some(text)) => serde_json::to_writer(&mut json, text).map_err(Into::into),
                Value::Integer(None) | Value::Text(None) => json.write_all(b"null"),
            };
        }
        json.push(b']');
    }
    json.push(b']');
    String::from_utf8(json).unwrap_or_default()
}

/// A statement for the values of many: `?` is a JSON array of arrays of them, of which one is an id.
fn for_many(sql: &str, id: usize) -> String {
    let values = (1..).take_while(|number| sql.contains(&format!("${number}"))).count();
    let column = |number| match number == id {
        true => format!("unhex(value ->> {}) AS v{number}", number - 1),
        false => format!("value ->> {} AS v{number}", number - 1),
    };
    let columns = (1..=values).map(column).collect::<Vec<_>>().join(", ");
    let job = format!("(SELECT {columns} FROM json_each(?)) AS job");
    // The highest number first: `$1` is also how `$10` begins.
    let name = |sql: String, number| sql.replace(&format!("${number}"), &format!("job.v{number}"));
    let sql = (1..=values).rev().fold(sql.to_owned(), name);
    if let Some((change, columns)) = sql.split_once(" RETURNING ")
        && let Some(condition) = change.strip_prefix("DELETE FROM session WHERE ")
    {
        let these = format!("SELECT number FROM {job} CROSS JOIN session WHERE {condition}");
        format!("DELETE FROM session WHERE number IN ({these}) RETURNING {columns}")
    } else if let Some((insert, values)) = sql.split_once(" VALUES (") {
        format!("{insert} SELECT {} FROM {job}", values.trim_end_matches(')'))
    } else if let Some((insert, condition)) = sql.split_once(" AS clock WHERE ") {
        format!("{insert} AS clock CROSS JOIN {job} WHERE {condition}")
    } else {
        sql.replacen(" WHERE ", &format!(" FROM {job} WHERE "), 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bits_core::{
        Commit, Ending, Found, NewSession, Outbox, OutboxEvent, Principal, PublishIntent, Quota, Session, SessionStore,
        SessionStoreError, StorageKey, Timestamp, Tombstone, Transition, VirtualPath, conformance::outbox_subscribers,
    };
    use futures_util::future::join_all;
    use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
    use uuid::Uuid;

    use super::*;
    use crate::{Options, SqliteSessions};

    fn new(number: u128) -> NewSession {
        NewSession {
            id: SessionId::new(Uuid::from_u128(number)),
            principal: Principal::named("CORP\\Zoë \"O'Neil\"\n$1"),
            // JSON cannot carry a NUL to SQLite: such a session goes by itself.
            address: if number.is_multiple_of(7) { "::\0one" } else { "::1" }.to_owned(),
            directory: "/upload".to_owned(),
            destination: VirtualPath::from_decoded(&format!("/upload/{number} \"$2\" é")).unwrap(),
            storage: "default".to_owned(),
            folder: StorageKey::ROOT,
            key: StorageKey::parse(&format!("upload/{number}")).unwrap(),
            timeout: Duration::from_secs(60),
            url: number.is_multiple_of(2).then(|| "http://localhost/?a=[\"1\"]".to_owned()),
            limit: None,
        }
    }

    /// What a row holds, but for times.
    async fn timeless(store: &SqliteSessions, id: SessionId) -> Option<Found> {
        let zero = Timestamp::from_millis(0);
        Some(match store.load(id).await.unwrap()? {
            Found::Live(session) => Found::Live(Session { created_at: zero, progressed_at: zero, ..session }),
            Found::Ended(tombstone) => Found::Ended(Tombstone { ended_at: zero, keep_until: zero, ..tombstone }),
        })
    }

    async fn told(store: &SqliteSessions) -> Vec<OutboxEvent> {
        let mut events = store.recent("all", None, 100_000).await.unwrap();
        events.iter_mut().for_each(|event| event.at = Timestamp::from_millis(0));
        // One transaction tells in the order of its statements.
        events.sort_by_key(|event| (event.session, event.kind.as_str(), event.received));
        events
    }

    /// Whatever is done to many sessions at once gives what it gives when it is done to one after the other.
    #[tokio::test]
    async fn together_is_as_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let options = || Options { subscribers: outbox_subscribers(), ..Options::default() };
        let together = SqliteSessions::open(folder.path().join("together.db"), options()).await.unwrap();
        let alone = SqliteSessions::open(folder.path().join("alone.db"), options()).await.unwrap();
        let sessions: Vec<NewSession> = (0..40).map(new).collect();
        let created = join_all(sessions.iter().map(|new| together.create(new))).await;
        let mut known: Vec<Session> = created.into_iter().map(Result::unwrap).collect();
        let mut before = known.clone();
        for new in &sessions {
            alone.create(new).await.unwrap();
        }
        let mut seed = 7_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut committed = [0; 2];
        for _ in 0..60 {
            let changes: Vec<(Session, Transition)> = (0..known.len())
                .filter_map(|at| {
                    // Some do not know of the last change.
                    let from = if random(8) == 0 { &before[at] } else { &known[at] };
                    let to = from.received + 1 + random(4);
                    let transition = match random(8) {
                        0 => Transition::Begin { total: 10, quota: Quota::default() },
                        1..4 => advance(to.min(10), random(to), "the \"boot\""),
                        4 if to >= 10 || random(8) == 0 => {
                            Transition::Intend { intent: PublishIntent("inode=\"1\"".to_owned()), total: 10 }
                        }
                        5 => Transition::Published,
                        6 => Transition::Withdraw,
                        _ if random(6) == 0 => Transition::End(Ending::Closed),
                        _ => Transition::Regress { to: from.received / 2 },
                    };
                    from.apply(&transition, from.progressed_at).is_ok().then(|| (from.clone(), transition))
                })
                .collect();
            let commits = join_all(changes.iter().map(|(from, transition)| together.commit(from, transition))).await;
            for ((from, transition), commit) in changes.iter().zip(commits) {
                let (commit, expected) = (commit.unwrap(), alone.commit(from, transition).await.unwrap());
                assert_eq!(
                    std::mem::discriminant(&commit),
                    std::mem::discriminant(&expected),
                    "{from:?} {transition:?}"
                );
                committed[usize::from(commit == Commit::Moved)] += 1;
                if let Commit::Live(session) = commit {
                    let at = known.iter().position(|known| known.id == session.id).unwrap();
                    before[at] = std::mem::replace(&mut known[at], session);
                }
            }
            for session in &known {
                assert_eq!(timeless(&together, session.id).await, timeless(&alone, session.id).await);
            }
        }
        assert!(committed[0] > 500 && committed[1] > 20, "too little happened: {committed:?}");
        assert_eq!(told(&together).await, told(&alone).await);
        together.close().await;
        alone.close().await;
    }

    /// At one destination, one publishes at a time: the others are told who.
    #[tokio::test]
    async fn of_many_that_intend_the_same_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteSessions::open(folder.path().join("state.db"), Options::default()).await.unwrap();
        let mut sessions = Vec::new();
        for _ in 0..5 {
            let session = begin(&store, 10).await;
            sessions.push(live(store.commit(&session, &advance(10, 0, "boot")).await.unwrap()).unwrap());
        }
        let intend = Transition::Intend { intent: PublishIntent(String::new()), total: 10 };
        let commits = join_all(sessions.iter().map(|session| store.commit(session, &intend))).await;
        let commits: Vec<_> = commits.into_iter().map(Result::unwrap).collect();
        let winner = commits.iter().find_map(|commit| live(commit.clone())).unwrap().id;
        assert_eq!(commits.iter().filter(|commit| **commit == Commit::Claimed(winner)).count(), 4, "{commits:?}");
        store.close().await;
    }

    async fn begin(store: &SqliteSessions, total: u64) -> Session {
        let new = NewSession {
            id: SessionId::new(Uuid::new_v4()),
            principal: Principal::named(""),
            address: String::new(),
            directory: "/upload".to_owned(),
            destination: VirtualPath::from_decoded("/upload/file").unwrap(),
            storage: "default".to_owned(),
            folder: StorageKey::ROOT,
            key: StorageKey::parse("upload/file").unwrap(),
            timeout: Duration::from_secs(60),
            url: None,
            limit: None,
        };
        let session = store.create(&new).await.unwrap();
        let begin = Transition::Begin { total, quota: Quota::default() };
        live(store.commit(&session, &begin).await.unwrap()).unwrap()
    }

    fn advance(to: u64, synced: u64, incarnation: &str) -> Transition {
        let incarnation = incarnation.to_owned();
        Transition::Advance { to, synced, incarnation, pieces: Vec::new(), handle: None, durable: false }
    }

    fn live(commit: Commit) -> Option<Session> {
        if let Commit::Live(session) = commit { Some(session) } else { None }
    }

    /// Everything is queued before the writer has its turn: one transaction.
    async fn together(store: &SqliteSessions, changes: &[(&Session, Transition)]) -> Vec<Option<Session>> {
        let commits = changes.iter().map(|(from, transition)| store.commit(from, transition));
        join_all(commits).await.into_iter().map(|commit| live(commit.unwrap())).collect()
    }

    #[tokio::test]
    async fn each_session_advances_from_where_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteSessions::open(folder.path().join("state.db"), Options::default()).await.unwrap();
        let mut sessions = Vec::new();
        for number in 0..100 {
            sessions.push(begin(&store, 1000 + number).await);
        }
        let stale = Session { received: 7, ..sessions[3].clone() };
        let mut changes: Vec<_> =
            sessions.iter().zip(1..).map(|(session, to)| (session, advance(to, to / 2, "boot"))).collect();
        changes[3] = (&stale, advance(9, 0, "boot"));
        let after = together(&store, &changes).await;
        for (number, session) in after.iter().enumerate().filter(|(number, _)| *number != 3) {
            let session = session.as_ref().unwrap();
            let to = number as u64 + 1;
            assert_eq!((session.id, session.received, session.synced), (sessions[number].id, to, to / 2));
            assert_eq!((session.total, session.incarnation.as_str()), (sessions[number].total, "boot"));
            assert_eq!(store.load(session.id).await.unwrap(), Some(Found::Live(session.clone())));
        }
        assert_eq!(after[3], None, "it stands elsewhere");
        store.close().await;
    }

    #[tokio::test]
    async fn of_two_that_go_on_from_one_place_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteSessions::open(folder.path().join("state.db"), Options::default()).await.unwrap();
        let (one, other) = (begin(&store, 10).await, begin(&store, 10).await);
        let changes = [
            (&one, advance(4, 0, "boot")),
            (&one, advance(5, 0, "boot")),
            (&other, advance(6, 6, "other boot")),
            (&other, Transition::Regress { to: 0 }),
        ];
        let after = together(&store, &changes).await;
        let received: Vec<_> = after.iter().flatten().map(|session| (session.id, session.received)).collect();
        assert_eq!(received, [(one.id, 4), (other.id, 6)]);
        store.close().await;
    }

    #[tokio::test]
    async fn what_cannot_be_prepared_fails_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        // With them no change is a transaction of its own, after whose failure all is opened anew.
        let options = Options { subscribers: outbox_subscribers(), ..Options::default() };
        let store = SqliteSessions::open(&path, options).await.unwrap();
        let (one, other) = (begin(&store, 10).await, begin(&store, 10).await);
        let (advance, end) = (advance(4, 0, "boot"), Transition::End(Ending::Closed));
        let mut meddling = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        let mut rename = async |sql| sqlx::query(sql).execute(&mut meddling).await.unwrap();
        rename("ALTER TABLE session RENAME TO lost").await;
        for together in [false, false, true, true] {
            let alone = store.commit(&other, &end).await;
            assert!(matches!(alone, Err(SessionStoreError::Other(_))), "{alone:?}");
            let created = store.create(&new(2)).await;
            assert!(matches!(created, Err(SessionStoreError::Other(_))), "{created:?}");
            if together {
                let (advanced, ended) = tokio::join!(store.commit(&one, &advance), store.commit(&other, &end));
                assert!(matches!(advanced, Err(SessionStoreError::Other(_))), "{advanced:?}");
                assert!(matches!(ended, Err(SessionStoreError::Other(_))), "{ended:?}");
            }
        }
        rename("ALTER TABLE lost RENAME TO session").await;
        let (advanced, ended) = tokio::join!(store.commit(&one, &advance), store.commit(&other, &end));
        assert_eq!(live(advanced.unwrap()).unwrap().received, 4);
        assert!(matches!(ended.unwrap(), Commit::Ended(_)));
        store.close().await;
    }

    #[tokio::test]
    async fn one_that_its_row_does_not_take_fails_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let store = SqliteSessions::open(&path, Options::default()).await.unwrap();
        let (one, other) = (begin(&store, 10).await, begin(&store, 10).await);
        let mut meddling = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        let shorter = sqlx::query("UPDATE session SET total = 3 WHERE id = ?1").bind(one.id.uuid().as_bytes().to_vec());
        assert_eq!(shorter.execute(&mut meddling).await.unwrap().rows_affected(), 1);
        let (refused, taken, advance) = (&advance(4, 0, "boot"), &advance(6, 6, "boot"), &advance(3, 0, "boot"));
        let (failed, done) = tokio::join!(store.commit(&one, refused), store.commit(&other, taken));
        assert!(matches!(failed, Err(SessionStoreError::Other(_))), "{failed:?}");
        assert_eq!(live(done.unwrap()).unwrap().received, 6);
        let before = store.load(one.id).await.unwrap();
        assert!(matches!(before, Some(Found::Live(session)) if session.received == 0));
        assert_eq!(live(store.commit(&one, advance).await.unwrap()).unwrap().received, 3, "the writer goes on");
        store.close().await;
    }
}
