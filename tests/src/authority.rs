//! Certificates, made for one test each.

use std::{fs, path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// Who certificates come from.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate in DER.
    pub certificate: CertificateDer<'static>,
    /// The certificate in PEM.
    pub pem: String,
    /// Its key in PEM.
    pub key_pem: String,
    key: Vec<u8>,
    serial: u64,
}

impl Authority {
    /// A new one of this name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), certificate: der, pem }
    }

    /// Its own certificate in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for localhost, 127.0.0.1 and a common name.
    pub fn issue(&self, serial: u64, name: &str) -> Identity {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: key.serialize_der(),
            serial,
        }
    }

    /// The list of revoked certificates in PEM.
    pub fn revoke(&self, revoked: &[&Identity]) -> String {
        let revoked = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: SerialNumber::from(identity.serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A client that trusts this authority alone.
    pub fn client(&self) -> TlsClient<'_> {
        TlsClient { authority: self, identity: None, versions: rustls::ALL_VERSIONS, protocols: Vec::new(), kept: None }
    }
}

impl Identity {
    /// A server that shows it.
    pub(crate) fn server_config(&self) -> ServerConfig {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap()
    }

    /// Writes `cert.pem` and `key.pem`.
    pub fn write(&self, folder: &Path) {
        fs::write(folder.join("cert.pem"), &self.pem).unwrap();
        fs::write(folder.join("key.pem"), &self.key_pem).unwrap();
    }
}

/// How a client begins TLS.
#[derive(Debug)]
pub struct TlsClient<'a> {
    authority: &'a Authority,
    identity: Option<&'a Identity>,
    versions: &'a [&'static SupportedProtocolVersion],
    protocols: Vec<Vec<u8>>,
    /// What it remembers sessions by; none: each connection begins anew.
    kept: Option<Arc<ClientConfig>>,
}

impl<'a> TlsClient<'a> {
    /// Shows a certificate where it is asked for one.
    #[must_use]
    pub fn identity(self, identity: &'a Identity) -> Self {
        Self { identity: Some(identity), ..self }
    }

    /// Offers these versions of TLS only.
    #[must_use]
    pub fn versions(self, versions: &'a [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self }
    }

    /// Offers these protocols by ALPN.
    #[must_use]
    pub fn protocols(self, protocols: &[&str]) -> Self {
        Self { protocols: protocols.iter().map(|name| name.as_bytes().to_vec()).collect(), ..self }
    }

    /// Goes on with sessions of its earlier connections where the server lets it; the last to be said.
    #[must_use]
    pub fn resuming(self) -> Self {
        Self { kept: Some(self.config()), ..self }
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.kept.clone().unwrap_or_else(|| Arc::new(self.make_config()))
    }

    fn make_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.identity {
            Some(identity) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(identity.key.clone()));
                builder.with_client_auth_cert(vec![identity.certificate.clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.protocols);
        config
    }
}
