//! What the GSS library takes from the environment alone.
//!
//! A process cannot change its own environment safely once it may have threads, so the program
//! starts itself anew where something is missing: the process stays the same.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    path::{self, Path},
    process::Command,
};

use crate::config::{AuthScheme, Config, DirectoryConfig};

/// Variables that the library must find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment(Vec<(&'static str, OsString)>);

impl Environment {
    /// What a configuration asks for: nothing where no directory has `negotiate`.
    pub(crate) fn of(config: &Config) -> Self {
        let asks = |directory: &&DirectoryConfig| directory.authentication.contains(&AuthScheme::Negotiate);
        let directories = || config.directories.iter().filter(asks);
        let mut variables = Vec::new();
        if let Some(keytab) = directories().find_map(|directory| directory.negotiate_keytab.as_deref()) {
            variables.push(("KRB5_KTNAME", prefixed("FILE:", keytab)));
            // Tokens that were taken, so that none is taken twice.
            if env::var_os("KRB5RCACHENAME").is_none() {
                let data_dir = path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
                variables.push(("KRB5RCACHENAME", prefixed("file2:", &data_dir.join("krb5.rcache2"))));
            }
        }
        if let Some(users) = directories().find_map(|directory| directory.negotiate_ntlm_users.as_deref()) {
            variables.push(("NTLM_USER_FILE", users.as_os_str().to_owned()));
        }
        if directories().any(|directory| !directory.negotiate_ntlm_domains.is_empty()) {
            // Nothing older than NTLMv2 is taken.
            variables.push(("LM_COMPAT_LEVEL", OsString::from("5")));
        }
        Self(variables)
    }

    /// The first variable that the process lacks or has otherwise.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let found = self.0.iter().find(|(name, value)| env::var_os(name).as_deref() != Some(value.as_os_str()));
        found.map(|(name, _)| *name)
    }

    /// Starts the program anew with them if the process lacks any. Returns only when there is
    /// nothing to do, or when it fails.
    pub(crate) fn enter(&self) -> io::Result<()> {
        if self.missing().is_none() {
            return Ok(());
        }
        let program = env::current_exe()?;
        let variables = self.0.iter().map(|(name, value)| (OsStr::new(name), value));
        Err(Command::new(program).args(env::args_os().skip(1)).envs(variables).exec())
    }
}

fn prefixed(kind: &str, path: &Path) -> OsString {
    let mut name = OsString::from(kind);
    name.push(path);
    name
}
