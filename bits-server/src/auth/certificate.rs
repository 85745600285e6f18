//! Certificates: who the owner of a client's certificate is. The handshake has verified it.
//!
//! By its alternative names, the first of the best kind counts: a user principal name, an e-mail
//! address, a DNS name. By its subject, all of it counts, in the order and spelling of RFC 4514.
//! Serial numbers and thumbprints never do: a renewed certificate is the same caller.
//!
//! Names of different kinds are different callers: a DNS name is in the realm `dns`, a subject in
//! the realm `subject`, and no other name can be. A user principal name and an e-mail address of one
//! spelling are one caller, as with all other ways to log in.

use std::fmt::Write;

use bits_core::Principal;
use x509_cert::{
    attr::AttributeTypeAndValue,
    certificate::{CertificateInner, Raw},
    der::{
        Decode, Tag, Tagged,
        asn1::{Any, ObjectIdentifier},
    },
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::{Attempt, Verdict};
use crate::config::CertificatePrincipal;

/// szOID_NT_PRINCIPAL_NAME: the user principal name of Windows.
const USER_PRINCIPAL_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.20.2.3");
const DNS: &str = "dns";
const SUBJECT: &str = "subject";

/// What RFC 4514 and Windows call the parts of a subject.
static ATTRIBUTES: [(ObjectIdentifier, &str); 10] = [
    (ObjectIdentifier::new_unwrap("2.5.4.3"), "cn"),
    (ObjectIdentifier::new_unwrap("2.5.4.6"), "c"),
    (ObjectIdentifier::new_unwrap("2.5.4.7"), "l"),
    (ObjectIdentifier::new_unwrap("2.5.4.8"), "st"),
    (ObjectIdentifier::new_unwrap("2.5.4.9"), "street"),
    (ObjectIdentifier::new_unwrap("2.5.4.10"), "o"),
    (ObjectIdentifier::new_unwrap("2.5.4.11"), "ou"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25"), "dc"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1"), "uid"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1"), "emailaddress"),
];

/// The certificate of the connection; that of a proxy is nobody's who sends requests through it.
pub(super) fn examine(attempt: &Attempt<'_>, by: CertificatePrincipal) -> Verdict {
    let certificate = attempt.peer.certificates.first().filter(|_| !attempt.peer.trusted_proxy);
    let Some(certificate) = certificate else { return Verdict::Absent };
    match principal(certificate, by) {
        Some(principal) => Verdict::Proved(principal, None),
        None => {
            tracing::info!("a client's certificate has no name that could be a user's");
            Verdict::Absent
        }
    }
}

/// Whom a certificate in DER is of.
fn principal(der: &[u8], by: CertificatePrincipal) -> Option<Principal> {
    let certificate = CertificateInner::<Raw>::from_der(der).ok()?;
    match by {
        CertificatePrincipal::San => {
            let (_, SubjectAltName(names)) = certificate.tbs_certificate().get_extension().ok()??;
            by_names(&names)
        }
        CertificatePrincipal::Subject => by_subject(&certificate),
    }
}

fn by_names(names: &[GeneralName]) -> Option<Principal> {
    let user = names.iter().find_map(|name| match name {
        GeneralName::OtherName(other) if other.type_id == USER_PRINCIPAL_NAME => Some(utf8_string(&other.value)),
        _ => None,
    });
    if let Some(user) = user {
        return in_its_realm(user?);
    }
    let mail = names.iter().find_map(|name| match name {
        GeneralName::Rfc822Name(mail) => Some(mail.as_str()),
        _ => None,
    });
    if let Some(mail) = mail {
        return in_its_realm(mail);
    }
    names.iter().find_map(|name| match name {
        GeneralName::DnsName(host) => Some(of_host(host.as_str())),
        _ => None,
    })?
}

/// A name that holds its realm; none in a realm that is for another kind of name.
fn in_its_realm(name: &str) -> Option<Principal> {
    let (name, realm) = name.split_once('@')?;
    let taken = [DNS, SUBJECT].iter().any(|kind| realm.eq_ignore_ascii_case(kind));
    Principal::in_realm(name, realm).ok().filter(|_| !taken)
}

fn of_host(host: &str) -> Option<Principal> {
    let clean = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    Principal::in_realm(host, DNS).ok().filter(|_| host.bytes().all(clean))
}

/// The last part first, as RFC 4514 has it; empty where there is none.
fn by_subject(certificate: &CertificateInner<Raw>) -> Option<Principal> {
    let mut parts = Vec::new();
    for part in certificate.tbs_certificate().subject().iter_rdn() {
        let attributes: Vec<String> = part.iter().map(attribute).collect();
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    Principal::in_realm(&parts.join(","), SUBJECT).ok()
}

fn attribute(attribute: &AttributeTypeAndValue) -> String {
    let (kind, value) = (attribute.oid, &attribute.value);
    let known = ATTRIBUTES.iter().find(|(oid, _)| *oid == kind);
    let mut text = known.map_or_else(|| kind.to_string(), |(_, name)| (*name).to_owned());
    text.push('=');
    match text_of(value) {
        Some(value) => value.chars().for_each(|character| push_escaped(&mut text, character)),
        // Of no kind that is text: its tag and its bytes.
        None => {
            let _ = write!(text, "#{:02x}", value.tag().number().value());
            for byte in value.value() {
                let _ = write!(text, "{byte:02x}");
            }
        }
    }
    text
}

fn text_of(value: &Any) -> Option<&str> {
    let text = matches!(value.tag(), Tag::NumericString | Tag::PrintableString | Tag::Utf8String | Tag::Ia5String);
    text.then(|| std::str::from_utf8(value.value()).ok())?
}

/// What has a meaning between the parts stands as a backslash and its bytes in hexadecimal.
fn push_escaped(text: &mut String, character: char) {
    let special = matches!(character, ',' | '+' | '=' | '\\' | '#' | '@' | '"' | ';' | '<' | '>');
    if special || character.is_control() || character.is_whitespace() && character != ' ' {
        let mut bytes = [0; 4];
        for byte in character.encode_utf8(&mut bytes).bytes() {
            let _ = write!(text, "\\{byte:02x}");
        }
    } else {
        text.push(character);
    }
}

fn utf8_string(value: &Any) -> Option<&str> {
    (value.tag() == Tag::Utf8String).then(|| std::str::from_utf8(value.value()).ok())?
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    use super::*;

    /// A certificate of these alternative names and this subject, in DER; each has a key and a
    /// serial number of its own.
    fn certificate(names: Vec<SanType>, subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn mail(text: &str) -> SanType {
        SanType::Rfc822Name(text.try_into().unwrap())
    }

    fn host(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn user(text: &str) -> SanType {
        let kind = vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3];
        SanType::OtherName((kind, rcgen::OtherNameValue::Utf8String(text.to_owned())))
    }

    #[track_caller]
    fn check_names(names: Vec<SanType>, expected: Option<&str>) {
        let shown = format!("{names:?}");
        let found = principal(&certificate(names, &[(DnType::CommonName, "other")]), CertificatePrincipal::San);
        assert_eq!(found.as_ref().map(Principal::as_str), expected, "{shown}");
    }

    #[test]
    fn the_first_of_the_best_kind_counts() {
        check_names(
            vec![host("pc.corp.example"), mail("M@x.example"), user("Jo@Corp.Example")],
            Some("jo@corp.example"),
        );
        check_names(vec![host("pc.corp.example"), mail("Jo@X.example"), mail("b@x")], Some("jo@x.example"));
        check_names(vec![host("PC.corp.example"), host("b.example")], Some("pc.corp.example@dns"));
        check_names(vec![], None);
        check_names(vec![SanType::IpAddress("192.0.2.1".parse().unwrap())], None);
    }

    /// No name of one kind can be mistaken for one of another.
    #[test]
    fn a_name_of_one_kind_is_none_of_another() {
        check_names(vec![mail("pc.corp.example@dns")], None);
        check_names(vec![user("cn=jo@SUBJECT")], None);
        check_names(vec![mail("jo@a@b")], None);
        check_names(vec![mail("jo")], None);
        check_names(vec![user("")], None);
        check_names(vec![user("\u{212a}im@corp.example")], None);
        check_names(vec![host("*.corp.example")], None);
        check_names(vec![host("jo@corp.example")], None);
        // The best kind decides, also where it is of no use.
        check_names(vec![user("broken"), mail("jo@corp.example")], None);
    }

    #[track_caller]
    fn check_subject(subject: &[(DnType, &str)], expected: Option<&str>) {
        let found = principal(&certificate(vec![mail("x@y")], subject), CertificatePrincipal::Subject);
        assert_eq!(found.as_ref().map(Principal::as_str), expected, "{subject:?}");
    }

    #[test]
    fn a_subject_is_the_whole_name() {
        let (cn, o) = (DnType::CommonName, DnType::OrganizationName);
        check_subject(&[(o.clone(), "Corp"), (cn.clone(), "Jo Doe")], Some("cn=jo doe,o=corp@subject"));
        check_subject(&[(cn.clone(), "jo")], Some("cn=jo@subject"));
        check_subject(&[], None);
        check_subject(&[(cn.clone(), "jo,o=corp")], Some("cn=jo\\2co\\3dcorp@subject"));
        check_subject(&[(cn.clone(), "jo@corp.example")], Some("cn=jo\\40corp.example@subject"));
        check_subject(&[(cn.clone(), "a\\2cb")], Some("cn=a\\5c2cb@subject"));
        check_subject(&[(cn.clone(), "a\nb")], Some("cn=a\\0ab@subject"));
        let custom = DnType::CustomDnType(vec![2, 5, 4, 12]);
        check_subject(&[(custom, "Boss")], Some("2.5.4.12=boss@subject"));
        check_subject(&[(cn.clone(), &"x".repeat(2000))], None);
        // A sign that is a letter of somebody else's name in lowercase.
        check_subject(&[(cn, "\u{212a}im")], None);
    }

    #[test]
    fn a_renewed_certificate_is_the_same_caller() {
        let make = || certificate(vec![mail("jo@corp.example")], &[(DnType::CommonName, "jo")]);
        let (old, new) = (make(), make());
        assert_ne!(old, new);
        for by in [CertificatePrincipal::San, CertificatePrincipal::Subject] {
            assert_eq!(principal(&old, by), principal(&new, by));
        }
    }

    #[test]
    fn what_is_no_certificate_is_nobodys() {
        assert_eq!(principal(b"", CertificatePrincipal::San), None);
        assert_eq!(principal(&[0x30, 0x80, 0xff], CertificatePrincipal::Subject), None);
        let mut broken = CertificateParams::default();
        broken.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0xff]));
        let der = broken.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        assert_eq!(principal(&der, CertificatePrincipal::San), None);
    }
}
