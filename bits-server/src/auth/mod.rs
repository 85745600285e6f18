//! Who sends a request: the ways to prove it that a directory offers, in their order.
//!
//! A request goes through the schemes of its directory until one has an answer. Without any,
//! the refusal offers all of them at once, and says nothing of what was wrong.

mod basic;
mod certificate;
mod header;
mod htpasswd;
#[cfg(feature = "negotiate")]
mod negotiate;
#[cfg(all(feature = "fs", feature = "sqlite"))]
pub(crate) mod password;
mod proxy;
mod reread;
mod throttle;

use std::{collections::HashMap, fmt, net::IpAddr, path::Path, sync::Arc, time::Duration};

use bits_core::{Access, Directory, Principal, Refusal};
use http::{HeaderName, HeaderValue, Response, header as http_header, request::Parts};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Admin, AuthScheme, CertificatePrincipal, Config, DirectoryConfig},
    metrics,
    peer::Peer,
};

use basic::Basic;
use reread::Users;
use throttle::Throttle;

/// How often files of users are looked at for changes.
const REREAD_PERIOD: Duration = Duration::from_secs(2);

/// What logs call the admin listener.
const ADMIN: &str = "[admin]";

/// How the callers of each directory prove who they are. Cheap to clone; all clones are one.
///
/// The default asks nobody: all callers are anonymous, and see only directories that anyone may use.
#[derive(Clone, Default)]
pub struct Authentication {
    inner: Arc<Inner>,
}

struct Inner {
    /// By `url_path`, as it is configured.
    directories: HashMap<String, Vec<Scheme>>,
    admin: Vec<Scheme>,
    /// Who may use the admin listener beyond health and metrics.
    admin_access: Access,
    files: Vec<Arc<Users>>,
    throttle: Arc<Throttle>,
}

/// Files of users, each read once.
struct Files<'a> {
    /// Those of an earlier configuration.
    known: &'a [Arc<Users>],
    opened: HashMap<&'a Path, Arc<Users>>,
}

impl<'a> Files<'a> {
    fn users(&mut self, path: &'a Path) -> Result<Arc<Users>, String> {
        if let Some(users) = self.opened.get(path) {
            return Ok(users.clone());
        }
        let users = match self.known.iter().find(|users| users.path() == path) {
            Some(users) => {
                users.reread()?;
                users.clone()
            }
            None => Arc::new(Users::open(path)?),
        };
        self.opened.insert(path, users.clone());
        Ok(users)
    }
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            directories: HashMap::new(),
            admin: Vec::new(),
            admin_access: Access::Anyone,
            files: Vec::new(),
            throttle: Arc::default(),
        }
    }
}

/// One way to prove who a caller is.
enum Scheme {
    Basic(Basic),
    Certificate(CertificatePrincipal),
    Proxy(HeaderName),
    #[cfg(feature = "negotiate")]
    Negotiate(negotiate::Negotiate),
}

/// What a scheme makes of a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The request holds nothing for this scheme.
    Absent,
    /// The caller is proved to be this one; the value goes into the answer's `WWW-Authenticate`.
    Proved(Principal, Option<HeaderValue>),
    /// The exchange goes on: the 401 has this `WWW-Authenticate` and no other.
    #[cfg_attr(not(feature = "negotiate"), allow(dead_code, reason = "other schemes take one round"))]
    Continue(HeaderValue),
    /// The proof is wrong. It counts as a failed login; the user is named in the log, if known.
    Wrong(Option<Principal>),
    /// The same, and the scheme has counted it already.
    WrongAndCounted(Option<Principal>),
    /// Too many logins failed from this address while this one waited for its turn.
    Locked,
    /// Whether it is right cannot be told now.
    Unavailable,
}

/// What a scheme gets to see.
pub(crate) struct Attempt<'a> {
    /// The request's head.
    pub(crate) head: &'a Parts,
    /// Who sent it.
    pub(crate) peer: &'a Peer,
    throttle: &'a Arc<Throttle>,
}

impl Attempt<'_> {
    /// The failed logins of the caller's address, for a scheme that makes callers wait: while they
    /// do, others may fail.
    pub(crate) fn tally(&self) -> Tally {
        Tally { throttle: self.throttle.clone(), address: self.peer.address }
    }
}

/// The failed logins of one address.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    throttle: Arc<Throttle>,
    address: IpAddr,
}

impl Tally {
    /// Whether too many logins have failed.
    pub(crate) fn is_locked(&self) -> bool {
        self.throttle.is_locked(self.address)
    }

    /// Counts one more.
    pub(crate) fn count(&self) {
        metrics::login_failed();
        if self.throttle.failed(self.address) {
            metrics::address_locked_out();
            tracing::warn!(address = %self.address, "too many logins failed: the address is refused for a minute");
        }
    }
}

/// A caller who is known.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) principal: Principal,
    header: Option<HeaderValue>,
}

/// A caller who is not, and how they may be.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) refusal: Refusal,
    /// What the next request has to do with this one's connection.
    pub(crate) bond: Bond,
    challenges: Vec<HeaderValue>,
}

/// What a login that is not over has to do with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bond {
    /// Nothing.
    None,
    /// It may go on by a scheme that is bound to the connection.
    Offered,
    /// It goes on by this connection or not at all.
    Needed,
}

impl Proof {
    /// Everyone, where nobody is asked.
    pub(crate) const fn anonymous() -> Self {
        Self { principal: Principal::ANONYMOUS, header: None }
    }

    /// Adds to the answer what the scheme has to say.
    pub(crate) fn complete<T>(self, response: &mut Response<T>) {
        if let Some(value) = self.header {
            response.headers_mut().append(http_header::WWW_AUTHENTICATE, value);
        }
    }
}

impl Denial {
    /// Adds to the answer how to log in.
    pub(crate) fn complete<T>(self, response: &mut Response<T>) {
        for value in self.challenges {
            response.headers_mut().append(http_header::WWW_AUTHENTICATE, value);
        }
    }
}

impl Authentication {
    /// What the configuration asks for; reads the files that it names, and says what is wrong
    /// with them.
    pub fn open(config: &Config) -> Result<Self, String> {
        let throttle = Arc::new(Throttle::new(config.limits.failed_logins_per_minute));
        Self::opened(config, &[], throttle)
    }

    /// The same for a configuration that takes the place of this one's. Failed logins stay counted,
    /// and passwords that were right are remembered while their file stays the same; the limit of
    /// failed logins is set by [`Self::take_over`].
    pub fn reopen(&self, config: &Config) -> Result<Self, String> {
        #[cfg(feature = "negotiate")]
        if let Some(variable) = negotiate::Environment::of(config).missing() {
            return Err(format!(
                "negotiate_keytab, negotiate_ntlm_users or negotiate_ntlm_domains: the library for Kerberos and NTLM \
                 takes {variable} at the start of the process alone; restart the server"
            ));
        }
        Self::opened(config, &self.inner.files, self.inner.throttle.clone())
    }

    /// Counts failed logins by this configuration's limit from now on.
    pub fn take_over(&self, config: &Config) {
        self.inner.throttle.set_limit(config.limits.failed_logins_per_minute);
    }

    fn opened(config: &Config, known: &[Arc<Users>], throttle: Arc<Throttle>) -> Result<Self, String> {
        let mut files = Files { known, opened: HashMap::new() };
        let mut directories = HashMap::new();
        for directory in &config.directories {
            let schemes = schemes(config, directory, &mut files)?;
            directories.insert(directory.url_path.as_str().to_owned(), schemes);
        }
        let admin = admin_schemes(&config.admin, &mut files)?;
        let admin_access = config.admin.access();
        let files = files.opened.into_values().collect();
        Ok(Self { inner: Arc::new(Inner { directories, admin, admin_access, files, throttle }) })
    }

    /// Rereads files of users when they change, until `stop`.
    pub(crate) async fn keep_fresh(self, stop: CancellationToken) {
        if self.inner.files.is_empty() {
            return;
        }
        while stop.run_until_cancelled(tokio::time::sleep(REREAD_PERIOD)).await.is_some() {
            let inner = self.inner.clone();
            // It fails only where the runtime stops.
            let _ = tokio::task::spawn_blocking(move || inner.files.iter().for_each(|file| file.refresh())).await;
        }
    }

    /// Gives the process what the schemes need of its environment, which may start the program anew
    /// in the same process: to be called before anything else is done.
    pub fn prepare(config: &Config) -> Result<(), String> {
        #[cfg(feature = "negotiate")]
        negotiate::Environment::of(config).enter().map_err(|error| format!("negotiate: {error}"))?;
        let _ = config;
        Ok(())
    }

    /// Who sends a request to `directory`; every caller of one without authentication is anonymous.
    pub(crate) async fn identify(&self, directory: &Directory, head: &Parts, peer: &Peer) -> Result<Proof, Denial> {
        #[cfg(feature = "negotiate")]
        negotiate::forget_if_replaced(peer, head);
        let schemes = self.inner.directories.get(&directory.url_path).map_or(&[][..], Vec::as_slice);
        self.identify_by(schemes, &directory.url_path, head, peer).await
    }

    /// Whether callers of the admin listener are asked who they are.
    pub(crate) fn asks_admins(&self) -> bool {
        !self.inner.admin.is_empty()
    }

    /// Who sends a request to the admin listener, if that caller may use it.
    pub(crate) async fn identify_admin(&self, head: &Parts, peer: &Peer) -> Result<Proof, Denial> {
        let proof = self.identify_by(&self.inner.admin, ADMIN, head, peer).await?;
        match self.inner.admin_access.admits(&proof.principal) {
            true => Ok(proof),
            false => Err(refused(Refusal::AccessDenied)),
        }
    }

    /// `place` is named in the log.
    async fn identify_by(&self, schemes: &[Scheme], place: &str, head: &Parts, peer: &Peer) -> Result<Proof, Denial> {
        if schemes.is_empty() {
            return Ok(Proof::anonymous());
        }
        let attempt = Attempt { head, peer, throttle: &self.inner.throttle };
        if head.headers.contains_key(http_header::AUTHORIZATION) && attempt.tally().is_locked() {
            return Err(refused(Refusal::TooManyLogins));
        }
        for scheme in schemes {
            match scheme.examine(&attempt).await {
                Verdict::Absent => {}
                Verdict::Proved(principal, header) => return Ok(Proof { principal, header }),
                Verdict::Continue(challenge) => {
                    let (refusal, bond) = (Refusal::Unauthenticated, Bond::Needed);
                    return Err(Denial { refusal, bond, challenges: vec![challenge] });
                }
                Verdict::Wrong(user) => {
                    attempt.tally().count();
                    log_failure(place, user.as_ref());
                    break;
                }
                Verdict::WrongAndCounted(user) => {
                    log_failure(place, user.as_ref());
                    break;
                }
                Verdict::Locked => return Err(refused(Refusal::TooManyLogins)),
                Verdict::Unavailable => return Err(refused(Refusal::Unavailable)),
            }
        }
        Err(offer(schemes, head, peer))
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authentication").finish_non_exhaustive()
    }
}

impl Scheme {
    async fn examine(&self, attempt: &Attempt<'_>) -> Verdict {
        match self {
            Self::Basic(basic) => basic.examine(attempt).await,
            Self::Certificate(by) => certificate::examine(attempt, *by),
            Self::Proxy(header) => proxy::examine(attempt, header),
            #[cfg(feature = "negotiate")]
            Self::Negotiate(negotiate) => negotiate.examine(attempt).await,
        }
    }

    /// What it offers to a caller who is not known; none where the caller can do nothing about it.
    #[cfg_attr(not(feature = "negotiate"), allow(unused_variables, reason = "some schemes look at the head"))]
    fn challenges(&self, head: &Parts, peer: &Peer) -> Vec<HeaderValue> {
        match self {
            Self::Basic(_) => Basic::challenge(peer).into_iter().collect(),
            Self::Certificate(_) | Self::Proxy(_) => Vec::new(),
            #[cfg(feature = "negotiate")]
            Self::Negotiate(negotiate) => negotiate.challenges(head, peer),
        }
    }

    /// Whether the rounds of a login must come by one connection.
    #[cfg_attr(not(feature = "negotiate"), allow(unused_variables, reason = "some schemes look at the head"))]
    fn is_bound_to_connections(&self, head: &Parts, peer: &Peer) -> bool {
        match self {
            Self::Basic(_) | Self::Certificate(_) | Self::Proxy(_) => false,
            #[cfg(feature = "negotiate")]
            Self::Negotiate(_) => !negotiate::is_shared(head, peer),
        }
    }
}

#[cfg_attr(not(feature = "negotiate"), allow(unused_variables, reason = "some schemes need all of it"))]
fn schemes<'a>(config: &Config, directory: &'a DirectoryConfig, files: &mut Files<'a>) -> Result<Vec<Scheme>, String> {
    let mut schemes = Vec::new();
    for scheme in &directory.authentication {
        schemes.push(match (scheme, &directory.htpasswd) {
            (AuthScheme::Basic, Some(path)) => Scheme::Basic(Basic::new(files.users(path)?)),
            (AuthScheme::Certificate, _) => Scheme::Certificate(directory.certificate_principal),
            (AuthScheme::Proxy, _) => Scheme::Proxy(directory.proxy_user_header.name().clone()),
            (AuthScheme::Basic, None) => return Err("directories.htpasswd: is missing".to_owned()),
            #[cfg(feature = "negotiate")]
            (AuthScheme::Negotiate, _) => Scheme::Negotiate(negotiate::Negotiate::open(config, directory)?),
            #[cfg(not(feature = "negotiate"))]
            (AuthScheme::Negotiate, _) => return Err("this server was built without \"negotiate\"".to_owned()),
        });
    }
    Ok(schemes)
}

fn admin_schemes<'a>(admin: &'a Admin, files: &mut Files<'a>) -> Result<Vec<Scheme>, String> {
    let scheme = |scheme: &AuthScheme| match (scheme, &admin.htpasswd) {
        (AuthScheme::Basic, Some(path)) => Ok(Scheme::Basic(Basic::new(files.users(path)?))),
        (AuthScheme::Basic, None) => Err("admin.htpasswd: is missing".to_owned()),
        (AuthScheme::Certificate, _) => Ok(Scheme::Certificate(admin.certificate_principal)),
        (AuthScheme::Proxy, _) => Ok(Scheme::Proxy(admin.proxy_user_header.name().clone())),
        (AuthScheme::Negotiate, _) => {
            Err("admin.authentication: \"negotiate\" is not for the admin listener".to_owned())
        }
    };
    admin.authentication.iter().map(scheme).collect()
}

fn log_failure(directory: &str, user: Option<&Principal>) {
    match user {
        Some(user) => tracing::info!(?directory, user = ?user.as_str(), "a login failed"),
        // Nobody's name may be somebody's password.
        None => tracing::info!(?directory, "a login of an unknown user failed"),
    }
}

fn refused(refusal: Refusal) -> Denial {
    Denial { refusal, bond: Bond::None, challenges: Vec::new() }
}

/// All schemes at once; 403 where none of them can be asked for by a challenge.
fn offer(schemes: &[Scheme], head: &Parts, peer: &Peer) -> Denial {
    let challenges: Vec<_> = schemes.iter().flat_map(|scheme| scheme.challenges(head, peer)).collect();
    let refusal = if challenges.is_empty() { Refusal::AccessDenied } else { Refusal::Unauthenticated };
    let bound = schemes.iter().any(|scheme| scheme.is_bound_to_connections(head, peer));
    Denial { refusal, bond: if bound { Bond::Offered } else { Bond::None }, challenges }
}
