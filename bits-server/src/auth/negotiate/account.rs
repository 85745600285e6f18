//! Which principal a name of Kerberos or NTLM is, and whether it may come in at all.

use bits_core::Principal;

use crate::config::NtlmDomain;

/// A name that was proved, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// A Kerberos principal, and the realm of the key that it was proved with.
    Kerberos {
        /// `name@REALM` as the library writes it.
        name: String,
        /// The server's own realm.
        service_realm: String,
    },
    /// `DOMAIN\name`, proved by NTLM.
    Ntlm {
        /// As the library writes it.
        name: String,
    },
}

/// Whose users a directory takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Realms {
    /// Kerberos realms; empty: the server's own.
    pub(crate) kerberos: Vec<String>,
    /// NTLM domains with their realms; empty: nobody comes by NTLM.
    pub(crate) ntlm: Vec<NtlmDomain>,
}

impl Realms {
    /// The principal of an account, or why it may not come in.
    pub(crate) fn admit(&self, account: &Account) -> Result<Principal, String> {
        match account {
            Account::Kerberos { name, service_realm } => self.admit_kerberos(name, service_realm),
            Account::Ntlm { name } => self.admit_ntlm(name),
        }
    }

    fn admit_kerberos(&self, name: &str, service_realm: &str) -> Result<Principal, String> {
        let (user, realm) = split_principal(name).ok_or_else(|| format!("{name:?} is no name with a realm"))?;
        let own = [service_realm.to_owned()];
        let taken = if self.kerberos.is_empty() { &own[..] } else { &self.kerberos };
        if taken.iter().any(|taken| taken.eq_ignore_ascii_case(realm)) {
            return named(user, realm);
        }
        Err(format!("{name:?} is of a realm that is not taken; negotiate_realms names those that are"))
    }

    fn admit_ntlm(&self, name: &str) -> Result<Principal, String> {
        let unknown =
            || format!("{name:?} is of a domain that is not taken; negotiate_ntlm_domains names those that are");
        let (domain, user) = name.split_once('\\').ok_or_else(unknown)?;
        let known = self.ntlm.iter().find(|known| known.domain.eq_ignore_ascii_case(domain)).ok_or_else(unknown)?;
        if user.contains('\\') {
            return Err(format!("{name:?} is not a plain name of a domain"));
        }
        named(user, &known.realm)
    }
}

fn named(user: &str, realm: &str) -> Result<Principal, String> {
    Principal::in_realm(user, realm).map_err(|wrong| format!("{user:?} of {realm:?}: {wrong}"))
}

/// A principal's name and realm. A `@` of the name itself is written `\@` (RFC 1964, 2.1.1).
fn split_principal(name: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, character) in name.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '@' => return Some((&name[..at], &name[at + 1..])).filter(|(_, realm)| !realm.is_empty()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kerberos(name: &str) -> Account {
        Account::Kerberos { name: name.to_owned(), service_realm: "CORP.EXAMPLE".to_owned() }
    }

    fn ntlm(name: &str) -> Account {
        Account::Ntlm { name: name.to_owned() }
    }

    #[test]
    fn principals_are_named_alike_whichever_way_they_came() {
        let realms = Realms { kerberos: Vec::new(), ntlm: vec!["CORP=corp.example".parse().unwrap()] };
        let jo = Principal::named("jo@corp.example");
        for account in [kerberos("Jo@CORP.EXAMPLE"), ntlm("corp\\JO"), ntlm("CORP\\jo")] {
            assert_eq!(realms.admit(&account).as_ref(), Ok(&jo), "{account:?}");
        }
    }

    #[test]
    fn realms_that_are_not_named_stay_out() {
        let own = Realms::default();
        let two = Realms { kerberos: vec!["one.example".to_owned(), "TWO.EXAMPLE".to_owned()], ntlm: Vec::new() };
        for (account, by_own, by_two) in [
            (kerberos("jo@CORP.EXAMPLE"), true, false),
            (kerberos("jo@ONE.EXAMPLE"), false, true),
            (kerberos("jo@TWO.EXAMPLE"), false, true),
            (kerberos("jo@SUB.TWO.EXAMPLE"), false, false),
            (kerberos("host/pc.corp.example@CORP.EXAMPLE"), true, false),
            (kerberos("pc$@CORP.EXAMPLE"), true, false),
            // The @ belongs to the name, and the realm is another one.
            (kerberos("jo\\@CORP.EXAMPLE@EVIL.EXAMPLE"), false, false),
            (kerberos("jo\\@CORP.EXAMPLE"), false, false),
            (kerberos("jo\\\\@CORP.EXAMPLE"), true, false),
            (kerberos("jo@EVIL.EXAMPLE@CORP.EXAMPLE"), false, false),
            (kerberos("@CORP.EXAMPLE"), false, false),
            (kerberos("jo@"), false, false),
            (kerberos("jo"), false, false),
            (kerberos("\u{212A}im@CORP.EXAMPLE"), false, false),
            (kerberos("jörg@CORP.EXAMPLE"), true, false),
            (kerberos("jo\n@CORP.EXAMPLE"), false, false),
            (ntlm("CORP\\jo"), false, false),
        ] {
            assert_eq!(own.admit(&account).is_ok(), by_own, "{account:?}");
            assert_eq!(two.admit(&account).is_ok(), by_two, "{account:?}");
        }
    }

    #[test]
    fn ntlm_takes_plain_names_of_domains_that_are_mapped() {
        let realms = Realms { kerberos: Vec::new(), ntlm: vec!["CORP=corp.example".parse().unwrap()] };
        for name in ["OTHER\\jo", "\\jo", "jo", "CORP\\", "CORP\\jo@other", "CORP\\OTHER\\jo", "CORP\\jo\0"] {
            assert!(realms.admit(&ntlm(name)).is_err(), "{name:?}");
        }
    }
}
