//! A configuration as TOML, every key with what it resolved to.

use std::fmt;

use super::keys::Section;
use super::{Config, Root, Source};

/// Valid TOML that loads to the same configuration. Holds no secrets.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Defaults => writeln!(f, "# no configuration file")?,
            Source::File(path) => writeln!(f, "# from {:?}", path)?,
        }
        section(f, "", &self.root())?;
        section(f, "[admin]", &self.admin)?;
        section(f, "[state]", &self.state)?;
        section(f, "[storage]", &self.storage)?;
        section(f, "[limits]", &self.limits)?;
        self.listeners.iter().try_for_each(|listener| section(f, "[[listeners]]", listener))?;
        self.directories.iter().try_for_each(|directory| section(f, "[[directories]]", directory))?;
        self.webhooks.iter().try_for_each(|webhook| section(f, "[[webhooks]]", webhook))
    }
}

impl Config {
    pub(super) fn root(&self) -> Root {
        Root {
            listen: self.listen.clone(),
            data_dir: self.data_dir.clone(),
            shutdown_grace: self.shutdown_grace,
            log: self.log.clone(),
            confine: self.confine,
            trusted_proxies: self.trusted_proxies.clone(),
            public_url: self.public_url.clone(),
        }
    }
}

fn section<T: Section>(f: &mut fmt::Formatter<'_>, header: &str, values: &T) -> fmt::Result {
    if !header.is_empty() {
        writeln!(f, "\n{header}")?;
    }
    for (name, value) in values.show() {
        writeln!(f, "{name} = {value}")?;
    }
    Ok(())
}
