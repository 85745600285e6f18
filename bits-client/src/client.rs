//! The client and what can be set about it.

use std::{sync::Arc, time::Duration};

use bits_core::Form;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    DownloadEvent, DownloadJob, Error, Event, Job, Source, Target, Uploaded,
    download::Fetch,
    link::{Link, Password},
    run::{Cancellation, Run},
};

/// Uploads sources to BITS servers; cheap to clone, and good for any number of uploads at once.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) link: Link,
    pub(crate) fragments: FragmentSize,
    pub(crate) retry: RetryPolicy,
}

impl Client {
    /// A client with its defaults, to be changed.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Uploads `source` until the server has it all, or for as long as there is hope. `observe` is
    /// called on every step with the job as it then stands; whoever keeps jobs on disk writes them
    /// there. Dropping the future stops at once and leaves a job that can go on.
    pub async fn upload<F>(&self, job: &mut Job, source: Arc<dyn Source>, observe: F) -> Result<Uploaded, Error>
    where
        F: FnMut(&Job, Event<'_>) + Send,
    {
        Run::new(self, job, source, observe).upload(None).await
    }

    /// Uploads like [`upload`](Self::upload), and fetches the server's reply into `reply` before the
    /// session is closed; [`Uploaded::reply_url`] is none where there was no reply.
    pub async fn upload_reply<F>(
        &self,
        job: &mut Job,
        source: Arc<dyn Source>,
        reply: Arc<dyn Target>,
        observe: F,
    ) -> Result<Uploaded, Error>
    where
        F: FnMut(&Job, Event<'_>) + Send,
    {
        Run::new(self, job, source, observe).upload(Some(reply)).await
    }

    /// Downloads into `target` until it has everything, or for as long as there is hope. What has
    /// come is kept when the connection breaks or the future is dropped, and the rest is fetched only
    /// of the same content. Before it writes a job down, the caller makes the target's bytes last; at [`DownloadEvent::Sealed`]
    /// it must, so that a later run knows its own file.
    pub async fn download<F>(&self, job: &mut DownloadJob, target: Arc<dyn Target>, mut observe: F) -> Result<(), Error>
    where
        F: FnMut(&DownloadJob, DownloadEvent<'_>) + Send,
    {
        Fetch::new(self, job, &*target, &mut observe).run().await
    }

    /// Ends the job's session on the server, which forgets what it holds of an unfinished upload. A
    /// file that is already in its place stays.
    pub async fn cancel<F>(&self, job: &mut Job, observe: F) -> Result<(), Error>
    where
        F: FnMut(&Job, Event<'_>) + Send,
    {
        Cancellation::new(self, job, observe).run().await
    }
}

/// How many bytes a fragment carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FragmentSize {
    /// 5 KiB to 13 MiB, so that a fragment takes some seconds on the line that there is.
    #[default]
    Adaptive,
    /// As many bytes; less where the server finds that too much, or while nothing so long goes through.
    Fixed(u64),
}

/// How often and how long to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The pause after the first failure; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// The time without progress after which an upload is given up; zero: on the first failure.
    pub give_up: Duration,
}

impl RetryPolicy {
    /// The longest wait that a server can ask for with `Retry-After`.
    pub const LONGEST_ASKED: Duration = Duration::from_secs(60 * 60);
}

impl Default for RetryPolicy {
    /// 1 s, doubling up to 1 minute, for 14 days.
    fn default() -> Self {
        Self {
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            give_up: Duration::from_secs(14 * 24 * 60 * 60),
        }
    }
}

/// Makes a [`Client`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    form: Form,
    fragments: FragmentSize,
    retry: RetryPolicy,
    headers: HeaderMap,
    password: Option<Password>,
    send_timeout: Duration,
    response_timeout: Duration,
    authorities: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
}

impl ClientBuilder {
    /// Sends `BITS_POST`, or the override form for proxies that stop it. Default: `BITS_POST`.
    pub fn form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// How much a fragment carries. Default: adaptive.
    pub fn fragment_size(mut self, size: FragmentSize) -> Self {
        self.fragments = size;
        self
    }

    /// How often and how long to try again.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// A header for every packet, such as `Authorization`. It goes to whatever host a server
    /// redirects to as well; the credentials of a URL do not.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Certificates of authorities in PEM, of which one must vouch for the server's. Default: the
    /// system's, or those that `SSL_CERT_FILE` names.
    pub fn authorities(mut self, pem: Vec<u8>) -> Self {
        self.authorities = Some(pem);
        self
    }

    /// A certificate with its key, both in PEM, for servers that ask for one. Default: none.
    pub fn identity(mut self, pem: Vec<u8>) -> Self {
        self.identity = Some(pem);
        self
    }

    /// The password of a user whom a destination's URL names without one. It goes where the
    /// credentials of a URL would go, and is part of no job.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(Password(password.to_owned()));
        self
    }

    /// How long a connection may take no bytes. Default: 2 minutes.
    pub fn send_timeout(mut self, time: Duration) -> Self {
        self.send_timeout = time;
        self
    }

    /// How long to wait for an answer once a packet is sent. Default: 5 minutes.
    pub fn response_timeout(mut self, time: Duration) -> Self {
        self.response_timeout = time;
        self
    }

    /// The client. Where the process has no default provider of cryptography for rustls yet, ring
    /// becomes it. Proxies are taken from the environment.
    pub fn build(self) -> Result<Client, BuildError> {
        // Fails where there is one already, which then serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("bits-client/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(self.send_timeout)
            .http1_only();
        if let Some(pem) = &self.authorities {
            let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(BuildError::Authorities)?;
            if authorities.is_empty() {
                return Err(BuildError::NoAuthorities);
            }
            http = http.tls_certs_only(authorities);
        }
        if let Some(pem) = &self.identity {
            http = http.identity(reqwest::Identity::from_pem(pem).map_err(BuildError::Identity)?);
        }
        let http = http.build().map_err(BuildError::Http)?;
        let link = Link {
            http,
            form: self.form,
            headers: self.headers,
            password: self.password,
            send_timeout: self.send_timeout,
            response_timeout: self.response_timeout,
        };
        Ok(Client { link, fragments: self.fragments, retry: self.retry })
    }
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            form: Form::Native,
            fragments: FragmentSize::default(),
            retry: RetryPolicy::default(),
            headers: HeaderMap::new(),
            password: None,
            send_timeout: Duration::from_secs(2 * 60),
            response_timeout: Duration::from_secs(5 * 60),
            authorities: None,
            identity: None,
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The system's certificates, or a proxy that the environment names, cannot be used.
    #[error("cannot set up HTTP: {0}; check the system's certificates and the proxy variables of the environment")]
    Http(#[source] reqwest::Error),
    /// What was given as authorities cannot be read.
    #[error("the authorities' certificates cannot be used: {0}; give them in PEM")]
    Authorities(#[source] reqwest::Error),
    /// What was given as authorities holds none.
    #[error("there is no certificate among the authorities'; give them in PEM, as -----BEGIN CERTIFICATE-----")]
    NoAuthorities,
    /// What was given as the client's own certificate cannot be used.
    #[error("the client's certificate or its key cannot be used: {0}; give both in PEM, the key without a passphrase")]
    Identity(#[source] reqwest::Error),
}
