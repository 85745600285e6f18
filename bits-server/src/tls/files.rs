//! From files to a rustls configuration; every error names its file.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_cert::{
    certificate::{CertificateInner, Raw},
    crl::CertificateList,
    der::Decode,
};

use super::{ClientFiles, TlsError, TlsFiles};

/// The only protocol that is spoken within TLS.
const ALPN: &[u8] = b"http/1.1";
/// No file of certificates or revocations is larger.
const LARGEST: u64 = 64 << 20;
/// A certificate that expires within so long is worth a word.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What the files came to.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// What is odd about them.
    pub(super) warnings: Vec<String>,
}

/// Reads all files. Sessions of an earlier configuration cannot be resumed on the new one, so that
/// what was revoked stays out.
pub(super) fn load(files: &TlsFiles) -> Result<Loaded, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut warnings = Vec::new();
    let identity = identity(files, &provider, &mut warnings)?;
    let clients = match &files.clients {
        Some(clients) => verifier(clients, &provider, &mut warnings)?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&files.certificate, error))?;
    let mut config =
        builder.with_client_cert_verifier(clients).with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Loaded { config: Arc::new(config), warnings })
}

fn identity(files: &TlsFiles, provider: &CryptoProvider, warnings: &mut Vec<String>) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(&files.certificate)?;
    warnings.extend(validity_warning(&files.certificate, &chain[0]));
    let key = private_key(&files.key)?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| {
        wrong(&files.key, format!("holds a key that cannot be used ({error}); use RSA of 2048 bits or more, or ECDSA"))
    })?;
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(identity),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let certificate = files.certificate.display();
            Err(wrong(&files.key, format!("is not the key of the first certificate in {certificate}; name a pair")))
        }
        Err(error) => Err(wrong(&files.certificate, format!("holds no usable certificate: {error}"))),
    }
}

fn verifier(
    clients: &ClientFiles,
    provider: &Arc<CryptoProvider>,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&clients.ca)? {
        warnings.extend(validity_warning(&clients.ca, &certificate));
        let added = roots.add(certificate);
        added.map_err(|error| wrong(&clients.ca, format!("holds no usable certificate: {error}")))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if let Some(path) = &clients.crl {
        builder = builder.with_crls(revocations(path, warnings)?);
    }
    if !clients.required {
        builder = builder.allow_unauthenticated();
    }
    let blamed = clients.crl.as_ref().unwrap_or(&clients.ca);
    builder.build().map_err(|error| wrong(blamed, format!("cannot be used: {error}")))
}

/// At least one certificate, in PEM or a single one in DER.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<CertificateDer<'static>> = objects(path)?;
    if found.is_empty() {
        return Err(wrong(path, "holds no certificate; write PEM that begins with -----BEGIN CERTIFICATE-----"));
    }
    Ok(found)
}

fn revocations(
    path: &Path,
    warnings: &mut Vec<String>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let found: Vec<CertificateRevocationListDer<'static>> = objects(path)?;
    if found.is_empty() {
        return Err(wrong(
            path,
            "holds no list of revoked certificates; write PEM that begins with -----BEGIN X509 CRL-----",
        ));
    }
    let stale = |list: &CertificateRevocationListDer<'_>| {
        let next = CertificateList::<Raw>::from_der(list).ok()?.tbs_cert_list.next_update?;
        (next.to_system_time() < SystemTime::now())
            .then(|| format!("{}: a newer list was due on {next}; fetch it", path.display()))
    };
    warnings.extend(found.iter().filter_map(stale));
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if contains(&bytes, b"ENCRYPTED PRIVATE KEY") => {
            wrong(path, "is protected by a passphrase, which nobody is there to type; decrypt it with `openssl pkey`")
        }
        pem::Error::NoItemsFound => {
            wrong(path, "holds no private key; write PEM that begins with -----BEGIN PRIVATE KEY-----")
        }
        error => wrong(path, format!("is no valid PEM: {error}")),
    })
}

/// Everything of one kind in a file of PEM, or the one thing in a file of DER.
fn objects<T: PemObject + From<Vec<u8>>>(path: &Path) -> Result<Vec<T>, TlsError> {
    let bytes = read(path)?;
    // A SEQUENCE with a length of two bytes or more, as every certificate and list is.
    if matches!(bytes[..], [0x30, 0x81..=0x84, ..]) {
        return Ok(vec![T::from(bytes)]);
    }
    let found: Result<_, _> = T::pem_slice_iter(&bytes).collect();
    found.map_err(|error: pem::Error| wrong(path, format!("is no valid PEM: {error}")))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable =
        |error: io::Error| wrong(path, format!("cannot be read: {error}; check the path and its permissions"));
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > LARGEST {
        return Err(wrong(path, format!("is {size} bytes large; name a file of certificates or keys")));
    }
    fs::read(path).map_err(unreadable)
}

fn validity_warning(path: &Path, certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = CertificateInner::<Raw>::from_der(certificate).ok()?;
    let (validity, now) = (parsed.tbs_certificate().validity(), SystemTime::now());
    let (from, until) = (validity.not_before, validity.not_after);
    let text = if until.to_system_time() < now {
        format!("the certificate expired on {until}; clients refuse it, renew it")
    } else if from.to_system_time() > now {
        format!("the certificate is not valid before {from}; check it and this machine's clock")
    } else if until.to_system_time() < now + SOON {
        format!("the certificate expires on {until}; renew it")
    } else {
        return None;
    };
    Some(format!("{}: {text}", path.display()))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn wrong(path: &Path, message: impl ToString) -> TlsError {
    TlsError { path: path.to_owned(), message: message.to_string() }
}
