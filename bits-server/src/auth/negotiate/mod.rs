//! Kerberos by a key table, and NTLM where the system's library has it: `Negotiate` of RFC 4559 and
//! `NTLM` of [MS-NTHT].
//!
//! What a client proves holds for its connection, as it does with IIS: the client then sends its
//! fragments without another token. Where a proxy stands between, one connection can carry many
//! clients; then every request needs its own token, and NTLM, which takes several, does not work.

mod acceptor;
mod account;
mod environment;

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderValue, header as http_header, request::Parts};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{Attempt, Tally, Verdict, header};
use crate::{
    config::{Config, DirectoryConfig},
    peer::Peer,
};
use acceptor::{Acceptor, Exchange, Proof, Step};
use account::{Account, Realms};
pub(super) use environment::Environment;

/// How long a connection's proof holds at most; a client can log in again on the same connection.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// How long the library may take over a token; it may ask a domain controller.
const PATIENCE: Duration = Duration::from_secs(30);
/// Calls into the library at once: each keeps a thread, which uploads need too.
const AT_ONCE: u32 = 32;
static ROOM: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// Checks who sends requests to one directory.
#[derive(Debug)]
pub(super) struct Negotiate {
    acceptor: Acceptor,
    realms: Realms,
}

/// What a connection remembers.
#[derive(Debug)]
enum Bound {
    Pending(Scheme, Exchange),
    Proved(Account, Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Negotiate,
    Ntlm,
}

impl Negotiate {
    /// What a directory is configured with; says what is wrong with its files.
    pub(super) fn open(config: &Config, directory: &DirectoryConfig) -> Result<Self, String> {
        let place = |message: String| format!("directory {:?}: {message}", directory.url_path.as_str());
        if let Some(variable) = Environment::of(config).missing() {
            return Err(place(format!(
                "the GSS library reads {variable}; call Authentication::prepare first, or set it"
            )));
        }
        let ntlm = !directory.negotiate_ntlm_domains.is_empty();
        let acceptor = Acceptor::open(directory.negotiate_keytab.as_deref(), ntlm);
        Ok(Self {
            acceptor: acceptor.map_err(|error| place(error.to_string()))?,
            realms: Realms {
                kerberos: directory.negotiate_realms.clone(),
                ntlm: directory.negotiate_ntlm_domains.clone(),
            },
        })
    }

    /// How a client is told that it may log in so.
    pub(super) fn challenges(&self, head: &Parts, peer: &Peer) -> Vec<HeaderValue> {
        let ntlm = !self.realms.ntlm.is_empty() && !is_shared(head, peer);
        let schemes = [Some(Scheme::Negotiate), ntlm.then_some(Scheme::Ntlm)];
        schemes.into_iter().flatten().map(|scheme| HeaderValue::from_static(scheme.as_str())).collect()
    }

    /// Who sends a request, by its token or by what its connection remembers.
    pub(super) async fn examine(&self, attempt: &Attempt<'_>) -> Verdict {
        let (head, peer) = (attempt.head, attempt.peer);
        let shared = is_shared(head, peer);
        let bound = peer.memory.take::<Bound>().filter(|_| !shared);
        let Some((scheme, token)) = Scheme::token(head) else {
            return self.recall(peer, bound);
        };
        let Ok(token) = BASE64_STANDARD.decode(token) else {
            return wrong("the token is not base64");
        };
        let exchange = match bound {
            Some(Bound::Pending(begun, exchange)) if begun == scheme => exchange,
            _ => self.acceptor.begin(),
        };
        let stepped = match in_turn(attempt.tally(), move || exchange.step(&token)).await {
            Turn::Taken(step) => step,
            Turn::Locked => return Verdict::Locked,
            Turn::Unavailable => return Verdict::Unavailable,
        };
        match stepped {
            Step::Failed(reason) => {
                log_failure(&reason);
                Verdict::WrongAndCounted(None)
            }
            // Its requests may come by other connections than they need; nobody has tried a password.
            Step::Continue(..) if shared => Verdict::Absent,
            Step::Continue(token, exchange) => {
                peer.memory.put(Bound::Pending(scheme, exchange));
                Verdict::Continue(scheme.answer(&token))
            }
            Step::Done(proof) => self.admit(proof, scheme, (!shared).then_some(peer)),
        }
    }

    fn admit(&self, proof: Proof, scheme: Scheme, remember: Option<&Peer>) -> Verdict {
        let principal = match self.realms.admit(&proof.account) {
            Ok(principal) => principal,
            Err(reason) => return wrong(&reason),
        };
        if let Some(peer) = remember {
            let until = Instant::now() + proof.lifetime.map_or(LONGEST, |lifetime| lifetime.min(LONGEST));
            peer.memory.put(Bound::Proved(proof.account, until));
        }
        Verdict::Proved(principal, proof.token.map(|token| scheme.answer(&token)))
    }

    /// An account was proved for the connection; whether it may come in is each directory's affair.
    fn recall(&self, peer: &Peer, bound: Option<Bound>) -> Verdict {
        match bound {
            Some(Bound::Proved(account, until)) if until > Instant::now() => {
                let admitted = self.realms.admit(&account);
                peer.memory.put(Bound::Proved(account, until));
                admitted.map_or(Verdict::Absent, |principal| Verdict::Proved(principal, None))
            }
            _ => Verdict::Absent,
        }
    }
}

/// Forgets who the connection's client proved to be where the request says that it is another, by
/// another scheme.
pub(super) fn forget_if_replaced(peer: &Peer, head: &Parts) {
    if head.headers.contains_key(http_header::AUTHORIZATION) && Scheme::token(head).is_none() {
        peer.memory.take::<Bound>();
    }
}

impl Scheme {
    /// What a request carries for one of them.
    fn token(head: &Parts) -> Option<(Self, &str)> {
        let known = [Self::Negotiate, Self::Ntlm].into_iter();
        known.filter_map(|scheme| Some((scheme, header::token(head, scheme.as_str())?))).next()
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Negotiate => "Negotiate",
            Self::Ntlm => "NTLM",
        }
    }

    fn answer(self, token: &[u8]) -> HeaderValue {
        let value = format!("{} {}", self.as_str(), BASE64_STANDARD.encode(token));
        HeaderValue::try_from(value).expect("base64 has no characters that a header must not have")
    }
}

/// What came of waiting for a turn at the library.
enum Turn {
    Taken(Step),
    /// Too many logins have failed meanwhile.
    Locked,
    /// There is no answer in time. The thread stays taken until there is one.
    Unavailable,
}

/// A step, when there is room for it. The turn ends after a failure was counted: guesses at once are
/// worth no more than one after the other.
async fn in_turn(tally: Tally, step: impl FnOnce() -> Step + Send + 'static) -> Turn {
    let turn = async {
        let permit = ROOM.acquire().await.ok()?;
        let taken = spawn_blocking(move || {
            let turn = if tally.is_locked() { Turn::Locked } else { Turn::Taken(step()) };
            if let Turn::Taken(Step::Failed(_)) = &turn {
                tally.count();
            }
            drop(permit);
            turn
        });
        taken.await.ok()
    };
    timeout(PATIENCE, turn).await.ok().flatten().unwrap_or(Turn::Unavailable)
}

/// Whether more than one client may use this connection, as far as can be seen.
pub(super) fn is_shared(head: &Parts, peer: &Peer) -> bool {
    let signs = ["via", "forwarded", "x-forwarded-for"];
    peer.trusted_proxy || signs.iter().any(|sign| head.headers.contains_key(*sign))
}

fn wrong(reason: &str) -> Verdict {
    log_failure(reason);
    Verdict::Wrong(None)
}

fn log_failure(reason: &str) {
    tracing::info!(reason, "Negotiate failed");
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, poll_fn},
        sync::Arc,
        task::Poll,
    };

    use super::{super::throttle::Throttle, *};

    /// Heads of a thousand requests can come before the first of their tokens fails.
    #[tokio::test]
    async fn who_waits_for_a_turn_is_locked_out_by_failures_meanwhile() {
        let tally = Tally { throttle: Arc::new(Throttle::new(Some(1))), address: [192, 0, 2, 1].into() };
        let all = ROOM.acquire_many(AT_ONCE).await.unwrap();
        let mut waiting = std::pin::pin!(in_turn(tally.clone(), || panic!("it is looked at")));
        let begun = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context)));
        assert!(begun.await.is_pending());
        let failing = std::pin::pin!(in_turn(tally.clone(), || Step::Failed(String::new())));
        assert!(!tally.is_locked());
        drop(all);
        assert!(matches!(failing.await, Turn::Taken(Step::Failed(_))));
        assert!(tally.is_locked(), "a failure is counted with its turn");
        assert!(matches!(waiting.await, Turn::Locked));
    }
}
