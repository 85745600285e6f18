//! TLS of a listener: made from files, and made anew when they change.

mod files;
mod watch;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::ServerConfig;
use tokio::sync::watch as channel;
use tokio_rustls::TlsAcceptor;

use files::Loaded;
use watch::Watched;

/// The files that TLS is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and those that lead from it to a known one, in that order.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// How clients' certificates are checked; none: they are not asked for.
    pub clients: Option<ClientFiles>,
}

/// The files by which clients' certificates are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// Certificates of the authorities.
    pub ca: PathBuf,
    /// Lists of revoked certificates, one of each authority.
    pub crl: Option<PathBuf>,
    /// Whether a client without a certificate is sent away.
    pub required: bool,
}

/// TLS 1.2 and 1.3 for HTTP/1.1, from files that are reread when they change. Connections that are
/// open keep what they began with.
#[derive(Debug)]
pub struct Tls {
    current: channel::Sender<Arc<ServerConfig>>,
    watched: Mutex<Watched>,
}

/// Files that were read for a [`Tls`], which does not use them yet.
#[derive(Debug)]
pub struct PreparedTls {
    loaded: Loaded,
    watched: Watched,
}

impl PreparedTls {
    /// Reads the files; the error names the one that cannot be used. Blocks for as long as reading takes.
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let watched = Watched::new(files);
        Ok(Self { loaded: files::load(watched.files())?, watched })
    }

    /// What is odd about the files.
    pub fn warnings(&self) -> &[String] {
        &self.loaded.warnings
    }
}

impl Tls {
    /// Reads the files. Returns also what is odd about them but no reason not to serve, such as a
    /// certificate that has expired. Blocks for as long as reading takes.
    pub fn open(files: TlsFiles) -> Result<(Self, Vec<String>), TlsError> {
        let PreparedTls { loaded, watched } = PreparedTls::read(files)?;
        let tls = Self { current: channel::Sender::new(loaded.config), watched: Mutex::new(watched) };
        Ok((tls, loaded.warnings))
    }

    /// Uses these files from now on. Connections that are open keep what they began with.
    pub fn install(&self, prepared: PreparedTls) {
        self.current.send_replace(prepared.loaded.config);
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = prepared.watched;
    }

    /// What takes connections with the files as they were read last.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.current.borrow().clone().into()
    }
}

/// Which file TLS cannot be made from, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

impl std::error::Error for TlsError {}

#[cfg(test)]
mod tests;
