//! Keys for `negotiate`: Kerberos and NTLM.

use std::{fmt, path::Path, str::FromStr};

use super::DirectoryConfig;
use super::access::AuthScheme;
use super::error::Problems;
use super::layers::Table;
use super::setting::{Raw, Setting, quoted};

/// An NTLM domain and the realm that its users belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NtlmDomain {
    /// The short name, such as `CORP`.
    pub domain: String,
    /// The realm, such as `corp.example`.
    pub realm: String,
}

impl FromStr for NtlmDomain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').map(|(domain, realm)| (domain.trim(), realm.trim()));
        match parts.filter(|(domain, realm)| is_name(domain) && is_name(realm)) {
            Some((domain, realm)) => Ok(Self { domain: domain.to_owned(), realm: realm.to_owned() }),
            None => Err(format!("{text:?} is no domain with its realm; write \"CORP=corp.example\"")),
        }
    }
}

impl fmt::Display for NtlmDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.domain, self.realm)
    }
}

impl Setting for NtlmDomain {
    fn read(raw: &Raw) -> Result<Self, String> {
        raw.text("a domain and its realm in quotes, such as \"CORP=corp.example\"")?.parse()
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// Makes paths start at the configuration's folder, and finds what is wrong within one directory.
pub(super) fn resolve(table: &Table, directory: &mut DirectoryConfig, base: &Path, problems: &mut Problems) {
    for path in [&mut directory.negotiate_keytab, &mut directory.negotiate_ntlm_users].into_iter().flatten() {
        *path = std::path::absolute(base.join(&*path)).unwrap_or_else(|_| base.join(&*path));
    }
    let mut wrong = |name: &str, message: &str| {
        problems.add(table.location(name), format!("directories.{name}"), message);
    };
    if !directory.authentication.contains(&AuthScheme::Negotiate) {
        for (name, given) in keys(directory) {
            if given {
                wrong(name, "has no effect; add \"negotiate\" to authentication, or remove it");
            }
        }
        return;
    }
    if directory.negotiate_keytab.is_none() && directory.negotiate_ntlm_domains.is_empty() {
        wrong("authentication", "\"negotiate\" needs negotiate_keytab, a file with the server's keys from the KDC");
    }
    if directory.negotiate_keytab.is_none() && !directory.negotiate_realms.is_empty() {
        wrong("negotiate_realms", "has no effect without negotiate_keytab");
    }
    if directory.negotiate_ntlm_users.is_some() && directory.negotiate_ntlm_domains.is_empty() {
        wrong("negotiate_ntlm_users", "has no effect without negotiate_ntlm_domains");
    }
    if directory.negotiate_realms.iter().any(|realm| !is_name(realm)) {
        wrong("negotiate_realms", "names no realm; write such as \"CORP.EXAMPLE\"");
    }
}

/// One process has one key table and one file of NTLM users: the system's library takes no more.
pub(super) fn check_one(tables: &[Table], directories: &[DirectoryConfig], problems: &mut Problems) {
    let with_negotiate =
        || tables.iter().zip(directories).filter(|(_, directory)| keys(directory).iter().any(|key| key.1));
    let keytabs = with_negotiate().filter(|(_, directory)| directory.negotiate_keytab.is_some());
    check_same(keytabs, "negotiate_keytab", |directory| directory.negotiate_keytab.as_deref(), problems);
    let ntlm = with_negotiate().filter(|(_, directory)| !directory.negotiate_ntlm_domains.is_empty());
    check_same(ntlm, "negotiate_ntlm_users", |directory| directory.negotiate_ntlm_users.as_deref(), problems);
}

fn check_same<'a>(
    mut directories: impl Iterator<Item = (&'a Table, &'a DirectoryConfig)>,
    name: &str,
    value: impl Fn(&'a DirectoryConfig) -> Option<&'a Path>,
    problems: &mut Problems,
) {
    let Some((first_table, first)) = directories.next() else { return };
    for (table, _) in directories.filter(|(_, directory)| value(directory) != value(first)) {
        let first = first_table.location(name);
        let message = format!("is another file than at {first}; a server can use one only, so put all of it into one");
        problems.add(table.location(name), format!("directories.{name}"), message);
    }
}

fn keys(directory: &DirectoryConfig) -> [(&'static str, bool); 4] {
    [
        ("negotiate_keytab", directory.negotiate_keytab.is_some()),
        ("negotiate_realms", !directory.negotiate_realms.is_empty()),
        ("negotiate_ntlm_domains", !directory.negotiate_ntlm_domains.is_empty()),
        ("negotiate_ntlm_users", directory.negotiate_ntlm_users.is_some()),
    ]
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| "\\@=".contains(c) || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    #[test]
    fn domains_come_with_their_realms() {
        let parsed: NtlmDomain = "CORP = corp.example".parse().unwrap();
        assert_eq!(parsed.to_string(), "CORP=corp.example");
        for wrong in ["CORP", "CORP=", "=corp.example", "A=B=C", "CORP\\x=y", "a b=c", ""] {
            assert!(wrong.parse::<NtlmDomain>().is_err(), "{wrong}");
        }
    }

    fn load(directories: &[&str]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bits.toml");
        let tables = directories
            .iter()
            .enumerate()
            .map(|(at, lines)| format!("[[directories]]\nurl_path = \"/{at}\"\n{lines}\n"));
        std::fs::write(&file, tables.collect::<String>()).unwrap();
        let loaded = Config::load(Some(&file), std::iter::empty(), Overrides::default());
        loaded.map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn keys_without_the_scheme_are_refused() {
        for (line, key) in [
            ("negotiate_keytab = \"k\"", "negotiate_keytab"),
            ("negotiate_realms = [\"R\"]", "negotiate_realms"),
            ("negotiate_ntlm_domains = [\"A=b\"]", "negotiate_ntlm_domains"),
            ("negotiate_ntlm_users = \"u\"", "negotiate_ntlm_users"),
        ] {
            let expected = format!(
                "bits.toml:3: directories.{key}: has no effect; add \"negotiate\" to authentication, or remove it"
            );
            assert_eq!(load(&[line]).unwrap_err(), expected);
        }
    }

    #[test]
    #[cfg(not(feature = "negotiate"))]
    fn a_server_that_was_built_without_it_says_so() {
        let error = load(&["authentication = [\"negotiate\"]\nnegotiate_keytab = \"k\""]).unwrap_err();
        assert!(error.starts_with("bits.toml:3: directories.authentication: this server was built without"), "{error}");
    }

    #[test]
    #[cfg(feature = "negotiate")]
    fn what_the_scheme_needs_and_what_has_no_effect() {
        let with = |lines: &str| load(&[&format!("authentication = [\"negotiate\"]\n{lines}")]).unwrap_err();
        for (lines, expected) in [
            ("", "bits.toml:3: directories.authentication: \"negotiate\" needs negotiate_keytab"),
            (
                "negotiate_ntlm_domains = [\"A=b\"]\nnegotiate_realms = [\"R\"]",
                "bits.toml:5: directories.negotiate_realms: has no effect without negotiate_keytab",
            ),
            (
                "negotiate_keytab = \"k\"\nnegotiate_ntlm_users = \"u\"",
                "bits.toml:5: directories.negotiate_ntlm_users: has no effect without negotiate_ntlm_domains",
            ),
            (
                "negotiate_keytab = \"k\"\nnegotiate_realms = [\"a@b\"]",
                "bits.toml:5: directories.negotiate_realms: names no realm",
            ),
            (
                "negotiate_ntlm_domains = [\"CORP\"]",
                "bits.toml:4: directories.negotiate_ntlm_domains: \"CORP\" is no domain with its realm",
            ),
        ] {
            let error = with(lines);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    #[cfg(feature = "negotiate")]
    fn a_server_has_one_key_table_and_one_file_of_users() {
        let keytab = |path: &str| format!("authentication = [\"negotiate\"]\nnegotiate_keytab = \"{path}\"");
        let ntlm =
            |users: &str| format!("authentication = [\"negotiate\"]\nnegotiate_ntlm_domains = [\"A=b\"]\n{users}");
        let config = load(&[&keytab("k"), &keytab("./k"), &ntlm(""), "upload_enabled = false"]).unwrap();
        assert!(config.directories[0].negotiate_keytab.as_ref().is_some_and(|path| path.is_absolute()));
        let error = load(&[&keytab("k"), &keytab("other")]).unwrap_err();
        assert!(
            error.starts_with("bits.toml:8: directories.negotiate_keytab: is another file than at bits.toml:4; "),
            "{error}"
        );
        let error = load(&[&ntlm("negotiate_ntlm_users = \"u\""), &keytab("k"), &ntlm("")]).unwrap_err();
        assert!(error.contains("directories.negotiate_ntlm_users: is another file than at bits.toml:5; "), "{error}");
    }
}
