//! Telling server applications: how many at once, what is kept when the database is away, who is
//! not told any more.

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use bits_core::{Notification, NotificationMode, Refusal, State};
use bits_engine::{Answer, Notice, Notifier, NotifyError};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::{sync::Semaphore, time::Instant};
use uuid::Uuid;

use super::*;

/// An application that answers each notification once it is let to.
pub(crate) struct Application {
    answers: Semaphore,
    copies: bool,
    /// How often each was told of, by notification id.
    told: Mutex<HashMap<String, u32>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Application {
    pub(crate) fn new(answers: usize) -> Arc<Self> {
        Self::with(answers, false)
    }

    fn with(answers: usize, copies: bool) -> Arc<Self> {
        let (told, now, most) = (Mutex::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { answers: Semaphore::new(answers), copies, told, now, most })
    }

    /// How many notifications were sent, and of how many uploads.
    fn told(&self) -> (u32, usize) {
        let told = self.told.lock().unwrap();
        (told.values().sum(), told.len())
    }
}

#[async_trait]
impl Notifier for Application {
    fn target(&self, notification: &Notification, _upload: &str) -> Result<String, String> {
        Ok(notification.url.clone())
    }

    async fn send(&self, notice: Notice) -> Result<Answer, NotifyError> {
        let id = notice.headers[&bits_core::header::NOTIFICATION_ID].to_str().unwrap().to_owned();
        *self.told.lock().unwrap().entry(id).or_default() += 1;
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.answers.acquire().await.unwrap().forget();
        self.now.fetch_sub(1, Ordering::SeqCst);
        let copy = self.copies.then(|| (bits_core::header::COPY_FILE_TO_DESTINATION, HeaderValue::from_static("")));
        let (status, headers) = (StatusCode::OK, HeaderMap::from_iter(copy));
        Ok(Answer { status, headers, body: Box::pin(stream::empty()) })
    }
}

pub(crate) fn notifying(limit: Option<u32>) -> impl Fn(&mut Directory) {
    move |directory| {
        let (mode, timeout) = (NotificationMode::ByValue, Duration::from_secs(60));
        directory.notification = Some(Notification { mode, url: "http://app/".to_owned(), timeout, limit });
    }
}

fn rig(application: &Arc<Application>, limit: Option<u32>) -> Arc<Rig> {
    let rig = Rig::new();
    let engine = rig.notified(application, "/upload", notifying(limit));
    Arc::new(Rig { engine, ..rig })
}

impl Rig {
    /// An engine over the same stores, with one directory and an application for it.
    pub(crate) fn notified(
        &self,
        application: &Arc<Application>,
        url_path: &str,
        change: impl Fn(&mut Directory),
    ) -> Engine {
        let mut directory = Directory::new(url_path, "memory", StorageKey::parse("store").unwrap());
        change(&mut directory);
        let directories = Directories::new(vec![directory]).unwrap();
        let builder = Engine::builder(self.sessions.clone(), directories).storage("memory", self.hooks.clone());
        builder.notifier(application.clone()).build().unwrap()
    }
}

/// A whole upload to a name, in a task of its own.
fn upload(rig: &Arc<Rig>, path: &'static str, id: SessionId) -> tokio::task::JoinHandle<Ack> {
    let rig = rig.clone();
    tokio::spawn(async move { rig.fragment(path, id, 0, b"hello", 5).await })
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_cannot_be_committed_is_kept() {
    let application = Application::new(0);
    let rig = rig(&application, None);
    let id = rig.create("/upload/f").await;
    let request = upload(&rig, "/upload/f", id);
    settle().await;
    rig.sessions.fail_next_commits(7);
    let start = Instant::now();
    application.answers.add_permits(1);
    let ack = request.await.unwrap();
    assert_eq!(ack.next_offset(), Some(5), "{ack:?}");
    // 1, 2, 4 and so on to 60 s.
    assert_eq!(start.elapsed().as_secs(), 1 + 2 + 4 + 8 + 16 + 32 + 60);
    assert_eq!(application.told(), (1, 1), "the application was told again");
    assert_eq!(rig.row(id).await.state, State::WaitForClose);
}

/// Who asks meanwhile is told to come back, and the application hears nothing.
#[tokio::test(start_paused = true)]
async fn while_the_database_is_away_nobody_is_told_again() {
    let application = Application::new(0);
    let rig = rig(&application, None);
    let id = rig.create("/upload/f").await;
    let request = upload(&rig, "/upload/f", id);
    settle().await;
    rig.sessions.fail_next_commits(u32::MAX);
    application.answers.add_permits(1);
    assert_eq!(request.await.unwrap().refusal, Some(Refusal::Unavailable));
    rig.engine.tidy().await.unwrap();
    assert_eq!(upload(&rig, "/upload/f", id).await.unwrap().refusal, Some(Refusal::Unavailable));
    assert_eq!(application.told(), (1, 1));
    rig.sessions.fail_next_commits(0);
    assert_eq!(upload(&rig, "/upload/f", id).await.unwrap().next_offset(), Some(5));
    assert_eq!(application.told(), (1, 1));
    rig.engine.stop().await;
}

/// However long that takes, or nobody would publish what it wants.
#[tokio::test(start_paused = true)]
async fn a_session_whose_application_is_being_told_does_not_expire() {
    let application = Application::with(0, true);
    let rig = rig(&application, Some(1));
    let (first, second) = (rig.create("/upload/f").await, rig.create("/upload/g").await);
    let requests = [upload(&rig, "/upload/f", first), upload(&rig, "/upload/g", second)];
    settle().await;
    rig.clock.advance(Duration::from_secs(60 * 24 * 60 * 60));
    assert_eq!(rig.engine.sweep().await.unwrap(), 0);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.engine.sweep().await.unwrap(), 0);
    application.answers.add_permits(2);
    for request in requests {
        let _ = request.await.unwrap();
    }
    settle().await;
    assert_eq!((rig.stored("f").unwrap(), rig.stored("g").unwrap()), (Bytes::from("hello"), Bytes::from("hello")));
    assert_eq!(application.told(), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_application_is_told_of_so_many_at_once_and_the_others_wait() {
    let application = Application::new(0);
    let rig = rig(&application, Some(2));
    let mut requests = Vec::new();
    let mut ids = Vec::new();
    for path in ["/upload/a", "/upload/b", "/upload/c", "/upload/d", "/upload/e"] {
        let id = rig.create(path).await;
        ids.push((path, id));
        requests.push(upload(&rig, path, id));
        settle().await;
    }
    assert_eq!(application.told(), (2, 2));
    // It answers too late for all of them: the clients come back, and what waits has kept its place.
    for request in requests {
        assert_eq!(request.await.unwrap().refusal, Some(Refusal::Unavailable));
    }
    application.answers.add_permits(5);
    for (path, id) in ids {
        assert_eq!(upload(&rig, path, id).await.unwrap().next_offset(), Some(5), "{path}");
    }
    assert_eq!(application.told(), (5, 5));
    assert_eq!(application.most.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_waits_for_who_is_being_told_and_for_nobody_else() {
    let application = Application::new(0);
    let rig = rig(&application, Some(1));
    let (first, second) = (rig.create("/upload/a").await, rig.create("/upload/b").await);
    let told = upload(&rig, "/upload/a", first);
    settle().await;
    let waiting = upload(&rig, "/upload/b", second);
    settle().await;
    assert_eq!(rig.row(second).await.state, State::Notify);
    let start = Instant::now();
    assert_eq!(rig.end("/upload/b", "Cancel-Session", second).await.status(), 200);
    assert_eq!(start.elapsed(), Duration::ZERO, "it waited for somebody else's turn");
    let cancel = tokio::spawn({
        let rig = rig.clone();
        async move { rig.end("/upload/a", "Cancel-Session", first).await }
    });
    settle().await;
    assert!(!cancel.is_finished() && !told.is_finished(), "the running attempt was cut off");
    application.answers.add_permits(1);
    assert_eq!(told.await.unwrap().next_offset(), Some(5));
    assert_eq!(cancel.await.unwrap().status(), 200);
    assert_eq!(code(&waiting.await.unwrap()), Some(Hresult::BG_E_SESSION_NOT_FOUND));
    assert_eq!(application.told(), (1, 1), "an upload that was given up was told of");
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
}

/// What a crash leaves in the notifying state: cancelled, nobody hears of it; closed, they do.
#[tokio::test]
async fn a_session_that_was_to_be_told_of_is_cancelled_untold_and_closed_told() {
    for (kind, told) in [("Cancel-Session", 0), ("Close-Session", 1)] {
        let application = Application::new(2);
        let rig = rig(&application, None);
        let id = interrupted(&rig).await;
        assert_eq!(rig.end("/upload/f", kind, id).await.status(), 200);
        assert_eq!(application.told().0, told, "{kind}");
        assert_eq!((rig.stored("f"), rig.uploads.staged()), (None, Vec::new()));
    }
}

/// What the application took and wants published is published, also when it is cancelled then.
#[tokio::test]
async fn a_cancel_does_not_take_away_what_the_application_wants_published() {
    let application = Application::with(2, true);
    let rig = rig(&application, None);
    let id = interrupted(&rig).await;
    rig.meddle(id, Transition::Delivered { reply: None, copy: true }).await;
    assert_eq!(rig.end("/upload/f", "Cancel-Session", id).await.status(), 200);
    assert_eq!((rig.stored("f").unwrap(), application.told().0), (Bytes::from_static(b"hello"), 0));
}

/// A session as a process leaves it that dies between the intent to notify and its outcome.
async fn interrupted(rig: &Rig) -> SessionId {
    let id = rig.create("/upload/f").await;
    rig.hooks.fail_available.store(true, Ordering::SeqCst);
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.status(), 503);
    rig.hooks.fail_available.store(false, Ordering::SeqCst);
    rig.meddle(id, Transition::Notify { id: Uuid::from_u128(1) }).await;
    id
}

/// Nobody knows any more whom to tell: nothing is published that an application has not seen.
#[tokio::test(start_paused = true)]
async fn a_directory_that_is_not_configured_any_more_publishes_nothing_unseen() {
    let application = Application::new(9);
    for is_notifying in [false, true] {
        let rig = rig(&application, None);
        let id = interrupted(&rig).await;
        if !is_notifying {
            let undelivered = Transition::Undelivered { refused: None, reason: None, at: rig.clock.now() };
            rig.meddle(id, undelivered).await;
        }
        // Its path is another directory's by now, which tells nobody.
        let rig = Rig { engine: rig.notified(&application, "/", |_| {}), ..Arc::into_inner(rig).unwrap() };
        for kind in ["Fragment", "Close-Session"] {
            let packet = Packet::new("/upload/f", kind).session(id);
            let ack = match kind {
                "Fragment" => rig.fragment("/upload/f", id, 0, b"hello", 5).await,
                _ => rig.send(packet, nothing()).await.unwrap(),
            };
            assert_eq!(ack.refusal, Some(Refusal::Unavailable), "{kind}");
        }
        rig.engine.tidy().await.unwrap();
        settle().await;
        assert_eq!((rig.stored("f"), application.told().0), (None, 0));
        // It comes back.
        let rig = Rig { engine: rig.notified(&application, "/upload", notifying(None)), ..rig };
        assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.next_offset(), Some(5));
        assert_eq!(application.told().0, 1);
        application.told.lock().unwrap().clear();
    }
}

/// It never comes back: the session expires like any other.
#[tokio::test(start_paused = true)]
async fn a_session_without_its_directory_expires() {
    let application = Application::new(9);
    let rig = rig(&application, None);
    let id = interrupted(&rig).await;
    let rig = Rig { engine: rig.notified(&application, "/", |_| {}), ..Arc::into_inner(rig).unwrap() };
    rig.clock.advance(Duration::from_secs(15 * 24 * 60 * 60));
    assert_eq!(rig.engine.sweep().await.unwrap(), 1);
    assert!(matches!(rig.sessions.load(id).await.unwrap(), Some(Found::Ended(_))));
    assert_eq!((rig.stored("f"), application.told().0, rig.uploads.staged()), (None, 0, Vec::new()));
}
