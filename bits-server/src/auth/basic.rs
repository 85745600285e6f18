//! Basic: a name and a password in every request (RFC 7617), checked by a file of users.

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bits_core::Principal;
use http::HeaderValue;
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;

use super::{
    Attempt, Tally, Verdict, header,
    reread::{Table, Users},
};
use crate::{peer::Peer, quiet::Quiet};

/// How long a request waits for its turn at hashing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whoever is not let in can send as many as they like.
static PLAIN: Quiet = Quiet::new();

/// Hashing takes a core and megabytes of memory: as many at once as there are cores.
static HASHING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores))
});

/// The scheme, for the users of one file.
pub(super) struct Basic {
    users: Arc<Users>,
}

impl Basic {
    pub(super) fn new(users: Arc<Users>) -> Self {
        Self { users }
    }

    /// Nothing where a password could be read on its way.
    pub(super) fn challenge(peer: &Peer) -> Option<HeaderValue> {
        peer.may_send_passwords().then(|| HeaderValue::from_static("Basic realm=\"BITS\", charset=\"UTF-8\""))
    }

    pub(super) async fn examine(&self, attempt: &Attempt<'_>) -> Verdict {
        let Some(token) = header::token(attempt.head, "Basic") else { return Verdict::Absent };
        if !attempt.peer.may_send_passwords() {
            if let Some(left_out) = PLAIN.pass() {
                tracing::warn!(left_out, "a password came in plain HTTP; it is not looked at");
            }
            return Verdict::Absent;
        }
        let Some((name, password)) = header::basic(token) else { return Verdict::Wrong(None) };
        let table = self.users.table();
        let user = table.user(&name).cloned();
        if table.remembers(user.as_ref(), password.expose_secret())
            && let Some(user) = user
        {
            return Verdict::Proved(user, None);
        }
        let turn = tokio::time::timeout(PATIENCE, HASHING.clone().acquire_owned());
        let Ok(Ok(turn)) = turn.await else { return Verdict::Unavailable };
        let tally = attempt.tally();
        // The turn ends with the work, also when nobody waits for it any more, and after a failure
        // was counted: guesses at once are worth no more than one after the other.
        let checked = tokio::task::spawn_blocking(move || {
            let checked = check(&table, user, &name, password.expose_secret(), &tally);
            drop(turn);
            checked
        });
        checked.await.unwrap_or(Verdict::Unavailable)
    }
}

fn check(table: &Table, user: Option<Principal>, name: &str, password: &str, tally: &Tally) -> Verdict {
    if tally.is_locked() {
        return Verdict::Locked;
    }
    match (table.verify(name, password), user) {
        (true, Some(user)) => Verdict::Proved(user, None),
        (_, user) => {
            tally.count();
            Verdict::WrongAndCounted(user)
        }
    }
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Basic").finish_non_exhaustive()
    }
}
