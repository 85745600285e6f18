//! The system's GSS library: credentials, and the steps of one exchange. Its calls block.

use std::{
    fmt, io,
    path::Path,
    time::{Duration, Instant},
};

use libgssapi::{
    context::{CtxFlags, SecurityContext, ServerCtx},
    credential::{Cred, CredUsage},
    error::Error,
    name::Name,
    oid::{GSS_MECH_KRB5, GSS_MECH_SPNEGO, GSS_NT_HOSTBASED_SERVICE, Oid, OidSet},
};

use super::account::Account;

/// NTLM ([MS-NLMP]), where a plugin of the library has it.
static NTLM: Oid<'static> = Oid::from_slice(b"\x2b\x06\x01\x04\x01\x82\x37\x02\x02\x0a");
/// Tokens that one exchange may take; NTLM within SPNEGO takes three.
const MOST_ROUNDS: u32 = 6;
/// How long a client may take over one exchange; a fragment may come with each token.
const MOST_TIME: Duration = Duration::from_secs(5 * 60);

/// What the server proves itself with, and checks others by.
#[derive(Clone)]
pub(crate) struct Acceptor {
    credentials: Cred,
}

/// An exchange of tokens that is not over.
pub(crate) struct Exchange {
    context: ServerCtx,
    rounds: u32,
    begun: Instant,
}

/// What a token leads to.
pub(crate) enum Step {
    /// The client is to answer this token on the same connection.
    Continue(Vec<u8>, Exchange),
    /// The client has proved who it is.
    Done(Proof),
    /// The client has not, for this reason.
    Failed(String),
}

/// Who a client has proved to be.
pub(crate) struct Proof {
    /// The name.
    pub(crate) account: Account,
    /// What the client proves the server by, if it wants to.
    pub(crate) token: Option<Vec<u8>>,
    /// How long a ticket is valid; NTLM has none.
    pub(crate) lifetime: Option<Duration>,
}

/// Why credentials cannot be had.
#[derive(Debug)]
pub(crate) enum AcceptorError {
    /// The file of keys cannot be read.
    Keytab(String, io::Error),
    /// The file is no key table.
    NoKeytab(String),
    /// It has no key for HTTP.
    NoKey(String, Error),
    /// The library has no NTLM.
    NoNtlm(Error),
}

impl Acceptor {
    /// Credentials for HTTP: those of the library's default keytab, which must be `keytab`, and with
    /// `ntlm` those of its plugin.
    pub(crate) fn open(keytab: Option<&Path>, ntlm: bool) -> Result<Self, AcceptorError> {
        let mut mechanisms = vec![GSS_MECH_SPNEGO];
        if let Some(keytab) = keytab {
            check_keytab(keytab)?;
            acquire(&[GSS_MECH_KRB5]).map_err(|error| AcceptorError::NoKey(keytab.display().to_string(), error))?;
            mechanisms.push(GSS_MECH_KRB5);
        }
        if ntlm {
            acquire(&[NTLM]).map_err(AcceptorError::NoNtlm)?;
            mechanisms.push(NTLM);
        }
        acquire(&mechanisms).map(|credentials| Self { credentials }).map_err(AcceptorError::NoNtlm)
    }

    /// Begins an exchange.
    pub(crate) fn begin(&self) -> Exchange {
        Exchange { context: ServerCtx::new(Some(self.credentials.clone())), rounds: 0, begun: Instant::now() }
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Exchange {
    /// Takes the client's next token.
    pub(crate) fn step(mut self, token: &[u8]) -> Step {
        self.rounds += 1;
        if self.rounds > MOST_ROUNDS || self.begun.elapsed() > MOST_TIME {
            return Step::Failed("the exchange takes too long".to_owned());
        }
        match self.context.step(token, None) {
            Err(error) => Step::Failed(one_line(&error)),
            Ok(answer) => self.go_on(answer.map(|answer| answer.to_vec())),
        }
    }

    fn go_on(self, answer: Option<Vec<u8>>) -> Step {
        match (self.context.is_complete(), answer) {
            (true, token) => match self.proof(token) {
                Ok(proof) => Step::Done(proof),
                Err(reason) => Step::Failed(reason),
            },
            (false, Some(answer)) => Step::Continue(answer, self),
            (false, None) => Step::Failed("the library has no answer".to_owned()),
        }
    }

    fn proof(&self, token: Option<Vec<u8>>) -> Result<Proof, String> {
        let flags = self.context.flags().map_err(|error| one_line(&error))?;
        if flags.contains(CtxFlags::GSS_C_ANON_FLAG) {
            return Err("the client did not say who it is".to_owned());
        }
        let account = self.account()?;
        let lifetime = match account {
            Account::Kerberos { .. } => Some(self.context.lifetime().map_err(|error| one_line(&error))?),
            Account::Ntlm { .. } => None,
        };
        Ok(Proof { account, token, lifetime })
    }

    fn account(&self) -> Result<Account, String> {
        let mechanism = self.context.mechanism().map_err(|error| one_line(&error))?;
        let name = text(self.context.source_name())?;
        if mechanism == GSS_MECH_KRB5 {
            let service = text(self.context.target_name())?;
            let service_realm = service.rsplit_once('@').map(|(_, realm)| realm.to_owned()).unwrap_or_default();
            return Ok(Account::Kerberos { name, service_realm });
        }
        if mechanism == NTLM {
            Ok(Account::Ntlm { name })
        } else {
            Err(format!("the mechanism {mechanism} is not taken"))
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

impl fmt::Display for AcceptorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keytab(path, error) => {
                write!(f, "the key table {path} cannot be read: {error}; check the path and its permissions")
            }
            Self::NoKeytab(path) => write!(f, "{path} is no key table; make one as README says"),
            Self::NoKey(path, error) => write!(
                f,
                "the key table {path} has no key of HTTP/ and this server's name: {}; `klist -k {path}` lists what it has",
                one_line(error)
            ),
            Self::NoNtlm(error) => {
                write!(f, "the GSS library has no NTLM: {}; install gss-ntlmssp", one_line(error))
            }
        }
    }
}

impl std::error::Error for AcceptorError {}

/// Credentials for whatever name of HTTP there are keys of.
fn acquire(mechanisms: &[Oid<'_>]) -> Result<Cred, Error> {
    let service = Name::new(b"HTTP", Some(GSS_NT_HOSTBASED_SERVICE))?;
    let mut set = OidSet::new();
    mechanisms.iter().try_for_each(|mechanism| set.add(*mechanism))?;
    Cred::acquire(Some(&service), None, CredUsage::Accept, Some(&set))
}

/// The library's own words for these are of no help.
fn check_keytab(keytab: &Path) -> Result<(), AcceptorError> {
    let shown = keytab.display().to_string();
    let mut start = [0; 1];
    let read = std::fs::File::open(keytab).and_then(|mut file| io::Read::read(&mut file, &mut start));
    match read {
        Err(error) => Err(AcceptorError::Keytab(shown, error)),
        // The first byte of every format of key tables.
        Ok(_) if start != [5] => Err(AcceptorError::NoKeytab(shown)),
        Ok(_) => Ok(()),
    }
}

/// Some mechanisms count the end of a C string as part of a name.
fn text(name: Result<Name, Error>) -> Result<String, String> {
    let name = name.and_then(|name| name.display_name()).map_err(|error| one_line(&error))?;
    let name = name.strip_suffix(b"\0").unwrap_or(&name);
    String::from_utf8(name.to_vec()).map_err(|_| "the name is not UTF-8".to_owned())
}

fn one_line(error: &Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
