//! What is said of files, and what a change of them changes.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;

use super::*;

struct Pair {
    certificate: Certificate,
    key: KeyPair,
}

fn pair(change: impl FnOnce(&mut CertificateParams)) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    change(&mut params);
    Pair { certificate: params.self_signed(&key).unwrap(), key }
}

fn authority(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
}

/// An authority's certificate, and its list of nobody that was due to be renewed in `due`.
fn authority_with_list(due: i32) -> (Pair, String) {
    let made = pair(authority);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    authority(&mut params);
    let issuer = Issuer::from_params(&params, &made.key);
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(due, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&issuer).unwrap().pem().unwrap();
    (made, list)
}

fn files(folder: &Path) -> TlsFiles {
    TlsFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem"), clients: None }
}

fn write(folder: &Path, pair: &Pair) {
    fs::write(folder.join("cert.pem"), pair.certificate.pem()).unwrap();
    fs::write(folder.join("key.pem"), pair.key.serialize_pem()).unwrap();
}

/// What is said where `name` holds `content`.
fn refusal(name: &str, content: Option<&[u8]>) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &pair(|_| {}));
    let (ca, list) = authority_with_list(2100);
    fs::write(folder.path().join("ca.pem"), ca.certificate.pem()).unwrap();
    fs::write(folder.path().join("crl.pem"), list).unwrap();
    match content {
        Some(content) => fs::write(folder.path().join(name), content).unwrap(),
        None => fs::remove_file(folder.path().join(name)).unwrap(),
    }
    let clients =
        ClientFiles { ca: folder.path().join("ca.pem"), crl: Some(folder.path().join("crl.pem")), required: true };
    let error = Tls::open(TlsFiles { clients: Some(clients), ..files(folder.path()) }).unwrap_err();
    assert_eq!(error.path, folder.path().join(name));
    error.message.replace(folder.path().to_str().unwrap(), "")
}

#[test]
fn every_unusable_file_is_told_with_what_to_do() {
    for name in ["cert.pem", "key.pem", "ca.pem", "crl.pem"] {
        let missing = refusal(name, None);
        assert!(missing.starts_with("cannot be read: No such file") && missing.ends_with("permissions"), "{missing}");
    }
    for name in ["cert.pem", "ca.pem"] {
        let expected = "holds no certificate; write PEM that begins with -----BEGIN CERTIFICATE-----";
        assert_eq!(refusal(name, Some(b"")), expected);
        assert_eq!(refusal(name, Some(b"no certificate")), expected);
        let cut = refusal(name, Some(b"-----BEGIN CERTIFICATE-----\nMIIB"));
        assert!(cut.starts_with("is no valid PEM: "), "{cut}");
        let wrong = refusal(name, Some(b"-----BEGIN CERTIFICATE-----\nMIIBMIIB\n-----END CERTIFICATE-----\n"));
        assert!(wrong.starts_with("holds no usable certificate: "), "{wrong}");
    }
    assert_eq!(
        refusal("crl.pem", Some(b"x")),
        "holds no list of revoked certificates; write PEM that begins with -----BEGIN X509 CRL-----"
    );
    assert!(refusal("key.pem", Some(b"x")).starts_with("holds no private key; "));
    let protected = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(refusal("key.pem", Some(protected)).contains("`openssl pkey`"));
    let other = pair(|_| {}).key.serialize_pem();
    assert_eq!(
        refusal("key.pem", Some(other.as_bytes())),
        "is not the key of the first certificate in /cert.pem; name a pair"
    );
}

#[test]
fn what_is_odd_is_told_and_served() {
    let warnings = |change: fn(&mut CertificateParams)| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &pair(change));
        let warnings = Tls::open(files(folder.path())).unwrap().1.join("\n");
        warnings.replace(folder.path().to_str().unwrap(), "")
    };
    assert_eq!(warnings(|_| {}), "");
    let expired = warnings(|params| params.not_after = date_time_ymd(2020, 1, 1));
    assert!(expired.starts_with("/cert.pem: the certificate expired on 2020-01-01T00:00:00Z"), "{expired}");
    let early = warnings(|params| params.not_before = date_time_ymd(2090, 1, 1));
    assert!(early.contains("is not valid before 2090-01-01T00:00:00Z"), "{early}");
}

#[test]
fn an_old_list_of_revocations_is_told() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &pair(|_| {}));
    let (ca, list) = authority_with_list(2021);
    fs::write(folder.path().join("ca.pem"), ca.certificate.pem()).unwrap();
    fs::write(folder.path().join("crl.pem"), list).unwrap();
    let (ca, crl) = (folder.path().join("ca.pem"), Some(folder.path().join("crl.pem")));
    let clients = Some(ClientFiles { ca, crl, required: false });
    let warnings = Tls::open(TlsFiles { clients, ..files(folder.path()) }).unwrap().1.join("\n");
    assert!(warnings.contains("/crl.pem: a newer list was due on 2021-01-01T00:00:00Z"), "{warnings}");
}

/// Files of Windows' certificate services are DER.
#[test]
fn der_is_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let made = pair(|_| {});
    write(folder.path(), &made);
    fs::write(folder.path().join("cert.pem"), made.certificate.der()).unwrap();
    Tls::open(files(folder.path())).unwrap();
}

/// The certificate that a new connection sees.
async fn shown(tls: &Tls) -> CertificateDer<'static> {
    use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};

    let (near, far) = tokio::io::duplex(64 << 10);
    let mut client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    client.dangerous().set_certificate_verifier(Arc::new(AnyCertificate));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("localhost").unwrap();
    let (near, _far) = tokio::join!(connector.connect(name, near), tls.acceptor().accept(far));
    near.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// As often as it takes until a change is believed.
fn look_twice(tls: &Tls) {
    tls.look();
    tls.look();
}

#[tokio::test]
async fn a_change_is_taken_if_it_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (pair(|_| {}), pair(|_| {}));
    write(folder.path(), &first);
    let tls = Tls::open(files(folder.path())).unwrap().0;
    assert_eq!(shown(&tls).await, *first.certificate.der());

    fs::write(folder.path().join("cert.pem"), second.certificate.pem()).unwrap();
    look_twice(&tls);
    assert_eq!(shown(&tls).await, *first.certificate.der(), "the key is not the new certificate's yet");

    fs::write(folder.path().join("key.pem"), second.key.serialize_pem()).unwrap();
    look_twice(&tls);
    assert_eq!(shown(&tls).await, *second.certificate.der());
}

#[tokio::test]
async fn changes_are_noticed_also_behind_a_link() {
    use tokio_util::sync::CancellationToken;

    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (pair(|_| {}), pair(|_| {}));
    for (name, made) in [("one", &first), ("two", &second)] {
        fs::create_dir(folder.path().join(name)).unwrap();
        write(&folder.path().join(name), made);
    }
    let live = folder.path().join("live");
    std::os::unix::fs::symlink("one", &live).unwrap();
    let tls = Arc::new(Tls::open(files(&live)).unwrap().0);
    let end = CancellationToken::new();
    let watching = tokio::spawn(tls.clone().keep_fresh(end.clone()));
    std::os::unix::fs::symlink("two", folder.path().join("next")).unwrap();
    fs::rename(folder.path().join("next"), &live).unwrap();
    let noticed = async {
        while shown(&tls).await != *second.certificate.der() {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), noticed).await.unwrap();
    end.cancel();
    watching.await.unwrap();
}

#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
