//! What a killed process and a failing disk leave, seen from outside the process.
//!
//! The store runs in a child: this same test binary, called for the one test `child`.
#![cfg(all(feature = "sqlite", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
};

use bits_core::{
    Commit, Content, Ending, EventKind, Filter, Found, Outbox, Quota, Session, SessionId, SessionStore, State,
    Transition,
};
use bits_store_sql::SqliteSessions;
use common::{HOUR, advance, begun, intend, live, load_live, new_session, open, open_telling};
use uuid::Uuid;

const DATABASE: &str = "BITS_TEST_DATABASE";
const TASK: &str = "BITS_TEST_TASK";

#[test]
#[ignore = "the child process of the other tests"]
fn child() {
    let path = PathBuf::from(std::env::var_os(DATABASE).expect("only the other tests call this one"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open_telling(&path).await;
        match std::env::var(TASK).unwrap().as_str() {
            "many" => advance_many(store).await,
            "steps" => step_by_step(&store).await,
            "lives" => live_many(store).await,
            other => panic!("unknown task {other}"),
        }
    });
}

/// Tells of every commit after it is acknowledged, until the process is killed.
async fn advance_many(store: SqliteSessions) {
    let store = Arc::new(store);
    let tasks: Vec<_> = (0..20).map(|_| tokio::spawn(advance_one(store.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn advance_one(store: Arc<SqliteSessions>) {
    let mut session = begun(&store, &new_session()).await;
    for to in 1.. {
        let Commit::Live(next) = store.commit(&session, &advance(to, &[], to % 10 == 0)).await.unwrap() else {
            panic!("somebody else moved the session");
        };
        session = next;
        println!("at {} {}", session.id.uuid(), session.received);
    }
}

/// Whole lives of sessions, until the process is killed.
async fn live_many(store: SqliteSessions) {
    let store = Arc::new(store);
    let tasks: Vec<_> = (0..20).map(|_| tokio::spawn(live_on(store.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn live_on(store: Arc<SqliteSessions>) {
    loop {
        let mut session = store.create(&new_session()).await.unwrap();
        for step in [Transition::Begin { total: 0, quota: Quota::NONE }, intend(0), Transition::Published] {
            session = live(store.commit(&session, &step).await);
            println!("step");
        }
        assert!(matches!(store.commit(&session, &Transition::End(Ending::Cancelled)).await, Ok(Commit::Ended(_))));
    }
}

/// Says before each commit what it is, and after it whether it succeeded.
async fn step_by_step(store: &SqliteSessions) {
    let session = store.create(&new_session()).await.unwrap();
    println!("created {}", session.id.uuid());
    let session = tell("unsynced", store, &session, &Transition::Begin { total: 1000, quota: Quota::NONE }).await;
    let session = tell("unsynced", store, &session, &advance(1, &[], false)).await;
    let session = tell("unsynced", store, &session, &advance(2, &[], false)).await;
    let session = tell("durable", store, &session, &advance(3, &[], true)).await;
    let session = tell("unsynced", store, &session, &advance(4, &[], false)).await;
    let session = tell("durable", store, &session, &Transition::Regress { to: 1 }).await;
    let session = tell("durable", store, &session, &advance(2, &[], true)).await;
    tell("unsynced", store, &session, &advance(3, &[], false)).await;
    println!("end");
}

async fn tell(what: &str, store: &SqliteSessions, from: &Session, transition: &Transition) -> Session {
    println!("begin {what}");
    let result = store.commit(from, transition).await;
    println!("{} {what}", if result.is_ok() { "done" } else { "failed" });
    match result {
        Ok(Commit::Live(session)) => session,
        Ok(other) => panic!("not committed: {other:?}"),
        // What was not committed is tried again.
        Err(_) => Box::pin(tell(what, store, from, transition)).await,
    }
}

fn child_command(tracer: &[&str], path: &Path, task: &str) -> Command {
    let itself = std::env::current_exe().unwrap();
    let mut command = match tracer.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(itself);
            command
        }
        None => Command::new(itself),
    };
    command.args(["--exact", "child", "--ignored", "--nocapture"]).env(DATABASE, path).env(TASK, task);
    command.stdout(Stdio::piped());
    command
}

fn spawn(mut command: Command) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = command.spawn().unwrap();
    let output = child.stdout.take().unwrap();
    (child, BufReader::new(output).lines())
}

/// Killed ten times in the middle of its commits: all that it told of is there.
#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    for round in 0..10 {
        let (mut child, lines) = spawn(child_command(&[], &path, "many"));
        let mut acknowledged = HashMap::new();
        let mut count = 0;
        for line in lines {
            // The last line may have been cut.
            let Some((id, received)) = acknowledgement(&line.unwrap()) else { continue };
            acknowledged.insert(id, received);
            count += 1;
            if count == 300 + 100 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count >= 300 && acknowledged.len() == 20, "{count} commits of {} sessions", acknowledged.len());
        let store = open(&path).await;
        for (id, received) in acknowledged {
            let session = load_live(&store, id).await;
            // The one commit that was not told of may be there too.
            assert!((received..=received + 1).contains(&session.received), "{received} of {session:?}");
        }
        store.close().await;
    }
}

/// Killed ten times: what was committed is told, and what is told was committed.
#[tokio::test]
async fn a_change_and_what_it_tells_are_one_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    for round in 0..10 {
        let (mut child, mut lines) = spawn(child_command(&[], &path, "lives"));
        assert_eq!(lines.by_ref().take(300 + 37 * round).count(), 300 + 37 * round);
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open_telling(&path).await;
        let mut told: HashMap<SessionId, Vec<EventKind>> = HashMap::new();
        loop {
            let claimed = store.claim("all", 10_000, HOUR).await.unwrap();
            for delivery in &claimed {
                let Content::Event(event) = &delivery.content else { panic!("nothing was dropped") };
                told.entry(event.session).or_default().push(event.kind);
                store.delivered(delivery).await.unwrap();
            }
            if claimed.is_empty() {
                break;
            }
        }
        for session in store.list(&Filter { limit: u32::MAX, ..Filter::default() }).await.unwrap() {
            let completed = (session.state == State::WaitForClose).then_some(EventKind::UploadCompleted);
            let expected: Vec<_> = [EventKind::SessionCreated].into_iter().chain(completed).collect();
            assert_eq!(told.remove(&session.id), Some(expected), "{session:?}");
            assert!(matches!(store.commit(&session, &Transition::End(Ending::Closed)).await, Ok(Commit::Ended(_))));
        }
        store.forget_others(&[]).await.unwrap();
        assert!(told.len() > 20, "{} sessions ended", told.len());
        let all = [EventKind::SessionCreated, EventKind::UploadCompleted, EventKind::SessionCancelled];
        for (id, kinds) in told {
            assert_eq!(kinds, all, "{id}");
            assert!(matches!(store.load(id).await.unwrap(), Some(Found::Ended(_))), "{id}");
        }
        store.close().await;
    }
}

fn acknowledgement(line: &str) -> Option<(SessionId, u64)> {
    let (id, received) = line.strip_prefix("at ")?.split_once(' ')?;
    Some((SessionId::new(Uuid::parse_str(id).ok()?), received.parse().ok()?))
}

/// The trace of the child's writes and syncs, one whole call a line, where it ended.
fn trace(path: &Path, task: &str, fault: Option<&str>) -> Vec<String> {
    let log = path.with_extension("trace");
    let mut tracer = vec!["strace", "-f", "-y", "-qq", "-s", "200", "-e", "trace=write,fsync,fdatasync", "-o"];
    tracer.push(log.to_str().unwrap());
    tracer.extend(fault);
    let output = child_command(&tracer, path, task).output().expect("strace is installed");
    assert!(output.status.success(), "{output:?}");
    whole_calls(&std::fs::read_to_string(&log).unwrap())
}

/// Joins what strace writes as two lines where a call of another thread came in between.
fn whole_calls(trace: &str) -> Vec<String> {
    let mut begun = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        if let Some(call) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, call);
        } else if let Some((_, rest)) = call.split_once(" resumed>") {
            calls.push(format!("{thread} {}{rest}", begun.remove(thread).expect("it was begun")));
        } else {
            calls.push(line.to_owned());
        }
    }
    calls
}

/// Every sync of the log that ended well between the lines `begin` and `done` of the child.
fn syncs_of_steps(calls: &[String]) -> Vec<(String, usize)> {
    let mut steps = Vec::new();
    let mut syncs = 0;
    for call in calls {
        syncs += usize::from(call.contains("sync(") && call.contains("state.db-wal>") && call.ends_with("= 0"));
        if call.contains("\"begin ") {
            syncs = 0;
        } else if let Some((_, what)) = call.split_once("\"done ") {
            steps.push((what.split(['\\', '"']).next().unwrap().to_owned(), syncs));
        }
    }
    steps
}

#[test]
fn a_call_that_another_thread_interrupts_is_one() {
    let calls = whole_calls(
        "7 fsync(10</tmp/state.db-wal> <unfinished ...>\n8 write(4, \"\", 8) = 8\n7 <... fsync resumed>) = -1 EIO (INJECTED)",
    );
    assert_eq!(calls, ["8 write(4, \"\", 8) = 8", "7 fsync(10</tmp/state.db-wal>) = -1 EIO (INJECTED)"]);
}

#[test]
fn durable_commits_sync_the_log_and_others_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let calls = trace(&folder.path().join("state.db"), "steps", None);
    let steps = syncs_of_steps(&calls);
    assert_eq!(steps.len(), 8, "{calls:#?}");
    for (what, syncs) in &steps {
        assert_eq!(*syncs > 0, what == "durable", "{steps:?} in {calls:#?}");
    }
    let created = calls.iter().position(|call| call.contains("\"created ")).unwrap();
    let synced = |name: &str| calls[..created].iter().any(|call| call.contains("sync(") && call.contains(name));
    assert!(synced("state.db-wal>"), "the log, before the session is told of: {calls:#?}");
    let folder = folder.path().file_name().unwrap().to_str().unwrap();
    assert!(synced(&format!("{folder}>")), "the folder, before the session is told of: {calls:#?}");
}

/// After a sync that failed, pages may be gone that the system takes for written. The log is not
/// built upon any more: its contents go into the database file, synced, before the next commit.
#[tokio::test]
async fn after_a_failed_sync_the_log_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    SqliteSessions::migrate(&path).await.unwrap();
    // The writer's thread syncs the new log, its folder and the creation; the fourth time is the
    // first durable step.
    let calls = trace(&path, "steps", Some("--inject=fsync,fdatasync:error=EIO:when=4"));
    let position = |what: &str| calls.iter().position(|call| call.contains(what)).expect("both are told of");
    let failed = position("\"failed durable");
    assert!(calls[..failed].iter().any(|call| call.contains("state.db-wal>") && call.contains("EIO")), "{calls:#?}");
    let done = position("\"done durable");
    let rewritten = |call: &String| call.contains("sync(") && call.contains("state.db>") && call.ends_with("= 0");
    assert!(calls[failed..done].iter().any(rewritten), "{calls:#?}");
    assert_eq!(syncs_of_steps(&calls).len(), 8, "every step was done in the end: {calls:#?}");
}
