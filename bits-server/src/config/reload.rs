//! What a configuration can change while the server runs, and what holds as long as the process.

use super::keys::{Section, dotted};
use super::{Config, ListenerConfig};

/// Of the keys above all tables.
const FIXED: [&str; 3] = ["listen", "data_dir", "confine"];

impl Config {
    /// Takes over from `running` what cannot change before the process ends; returns the keys that
    /// say something else, each once.
    pub fn keep_fixed(&mut self, running: &Self) -> Vec<String> {
        let mut kept: Vec<String> = changed(&self.root(), &running.root());
        kept.retain(|key| FIXED.contains(&key.as_str()));
        self.listen.clone_from(&running.listen);
        self.data_dir.clone_from(&running.data_dir);
        self.confine = running.confine;
        kept.extend(keep(&mut self.admin, &running.admin));
        kept.extend(keep(&mut self.state, &running.state));
        kept.extend(keep(&mut self.storage, &running.storage));
        kept.extend(keep_listeners(&mut self.listeners, &running.listeners));
        kept.extend(keep_all(&mut self.webhooks, &running.webhooks));
        kept
    }
}

fn keep<T: Section + Clone>(new: &mut T, running: &T) -> Vec<String> {
    let kept = changed(new, running);
    new.clone_from(running);
    kept
}

fn changed<T: Section>(new: &T, running: &T) -> Vec<String> {
    let pairs = new.show().into_iter().zip(running.show());
    pairs.filter(|(new, running)| new != running).map(|((name, _), _)| dotted(T::TABLE, name)).collect()
}

fn keep_all<T: Section + Clone + PartialEq>(new: &mut Vec<T>, running: &[T]) -> Option<String> {
    let kept = (new != running).then(|| format!("[[{}]]", T::TABLE));
    *new = running.to_vec();
    kept
}

/// Sockets stay as they are; which files TLS is made from, and how clients are asked for
/// certificates, may change.
fn keep_listeners(new: &mut Vec<ListenerConfig>, running: &[ListenerConfig]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut keep = |name: &str| {
        let key = dotted(ListenerConfig::TABLE, name);
        if !kept.contains(&key) {
            kept.push(key);
        }
    };
    let addresses = |all: &[ListenerConfig]| all.iter().map(|one| one.address).collect::<Vec<_>>();
    let listed = std::mem::take(new);
    let (before, after) = (addresses(running), addresses(&listed));
    if before.iter().any(|address| !after.contains(address)) || after.iter().any(|address| !before.contains(address)) {
        keep("address");
    }
    for old in running {
        let mut one = listed.iter().find(|one| one.address == old.address).unwrap_or(old).clone();
        if one.certificate.is_some() != old.certificate.is_some() {
            keep("certificate");
            one = ListenerConfig {
                proxy_protocol: one.proxy_protocol,
                allow_plain_basic: one.allow_plain_basic,
                ..old.clone()
            };
        }
        if one.proxy_protocol != old.proxy_protocol {
            keep("proxy_protocol");
            one.proxy_protocol = old.proxy_protocol;
        }
        if one.allow_plain_basic != old.allow_plain_basic {
            keep("allow_plain_basic");
            one.allow_plain_basic = old.allow_plain_basic;
        }
        new.push(one);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::Overrides;

    fn config(folder: &Path, toml: &str) -> Config {
        let file = folder.join("bits.toml");
        fs::write(&file, toml).unwrap();
        Config::load(Some(&file), std::iter::empty(), Overrides::default()).unwrap()
    }

    /// What is kept of a change, and what comes of it.
    fn reload(before: &str, after: &str) -> (Vec<String>, Config, Config) {
        let folder = tempfile::tempdir().unwrap();
        let (before, mut after) = (config(folder.path(), before), config(folder.path(), after));
        let kept = after.keep_fixed(&before);
        (kept, before, after)
    }

    #[test]
    fn nothing_changed_is_nothing_kept() {
        let toml = "[[listeners]]\naddress = \"127.0.0.1:9\"\ncertificate = \"c\"\nkey = \"k\"\n[[webhooks]]\nurl = \"http://a/\"\n";
        let (kept, before, after) = reload(toml, toml);
        assert!(kept.is_empty() && before == after, "{kept:?}");
    }

    #[test]
    fn what_may_change_does() {
        let (kept, before, after) = reload(
            "[[listeners]]\naddress = \"127.0.0.1:9\"\ncertificate = \"c\"\nkey = \"k\"\n",
            "log = \"debug\"\nshutdown_grace = \"1s\"\ntrusted_proxies = [\"10.0.0.1\"]\npublic_url = \"https://h\"\n\
             [limits]\nconnections = 5\n[[directories]]\nurl_path = \"/other\"\n\
             [[listeners]]\naddress = \"127.0.0.1:9\"\ncertificate = \"new\"\nkey = \"k\"\n",
        );
        assert_eq!(kept, [""; 0]);
        assert_eq!((after.limits.connections, after.log.to_string().as_str()), (Some(5), "debug"));
        assert_ne!(after.listeners, before.listeners);
        assert_ne!(after.directories, before.directories);
    }

    #[test]
    fn what_holds_as_long_as_the_process_is_kept_and_named() {
        let listener = |port: u16, more: &str| format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\n{more}");
        let plain = "certificate = \"\"\nkey = \"\"\n";
        let tls = "certificate = \"c\"\nkey = \"k\"\n";
        for (before, after, expected) in [
            ("", "listen = [\"127.0.0.1:9\"]", "listen"),
            (
                "",
                "data_dir = \"x\"\n[state]\nurl = \"sqlite:s\"\n[storage]\nurl = \"file:f\"",
                "data_dir,state.url,storage.url",
            ),
            ("", "confine = false", "confine"),
            ("", "[admin]\nlisten = \"\"", "admin.listen"),
            ("", "[storage]\nsync = \"fragment\"", "storage.sync"),
            ("", "[[webhooks]]\nurl = \"http://a/\"", "[[webhooks]]"),
            (&listener(9, tls), &listener(10, tls), "listeners.address"),
            (&listener(9, tls), "", "listeners.address"),
            ("", &listener(9, tls), "listeners.address"),
            (&listener(9, tls), &listener(9, plain), "listeners.certificate"),
            (
                &listener(9, plain),
                &listener(9, &format!("{plain}proxy_protocol = true\nallow_plain_basic = true")),
                "listeners.proxy_protocol,listeners.allow_plain_basic",
            ),
        ] {
            let before = if before.contains("data_dir") {
                before.to_owned()
            } else {
                format!("trusted_proxies = [\"10.0.0.1\"]\n{before}")
            };
            let after = format!("trusted_proxies = [\"10.0.0.1\"]\n{after}");
            let (kept, running, resolved) = reload(&before, &after);
            let expected: Vec<&str> = expected.split(',').collect();
            let named = kept.iter().map(String::as_str).filter(|key| expected.contains(key)).count();
            assert_eq!((named, kept.len()), (expected.len(), kept.len().max(expected.len())), "{after}: {kept:?}");
            assert_eq!(resolved, running, "{after}");
        }
    }
}
