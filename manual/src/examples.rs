//! Examples of the configuration's keys: whole configurations that the server takes, so that no
//! example is one that it would refuse.

use std::sync::OnceLock;

use toml::{Table, Value};

/// What shows every table and says next to nothing.
pub(crate) const SMALLEST: &str = "
[[listeners]]
[[webhooks]]
url = 'http://localhost/'
";

/// The first that has a key has its example.
const CONFIGURATIONS: &[&str] = &[
    "
listen = ['192.0.2.10:80', '[2001:db8::10]:80']
data_dir = '/var/lib/bits-server'
shutdown_grace = '2m'
log = 'info,bits_engine=debug'
confine = false
trusted_proxies = ['10.0.0.5', '192.0.2.0/24']
public_url = 'https://upload.example'
[[listeners]]
address = '0.0.0.0:8443'
certificate = '/etc/bits-server/cert.pem'
key = '/etc/bits-server/key.pem'
client_ca = '/etc/bits-server/clients.pem'
client_crl = '/etc/bits-server/revoked.pem'
client_certificate = 'required'
proxy_protocol = true
[admin]
listen = '192.0.2.10:9081'
certificate = '/etc/bits-server/admin-cert.pem'
key = '/etc/bits-server/admin-key.pem'
client_ca = '/etc/bits-server/admins.pem'
client_crl = '/etc/bits-server/admins-revoked.pem'
client_certificate = 'optional'
authentication = ['certificate', 'basic']
htpasswd = '/etc/bits-server/admins'
certificate_principal = 'subject'
proxy_user_header = 'X-Authenticated-User'
allow_users = ['ops', '*@ops.example']
history = 50000
[state]
url = 'sqlite:/var/lib/bits-server/state.db'
migrate = false
[storage]
url = 'file:/srv/uploads'
sync = 'fragment'
reserve_free = '20GiB'
memory = '1GiB'
[limits]
connections = 50000
connections_per_address = 200
header_timeout = '10s'
idle_timeout = '5m'
failed_logins_per_minute = 10
minimum_rate = '4KiB'
bandwidth = '50MiB'
[[directories]]
url_path = '/reports'
storage_path = 'incoming/reports'
upload_enabled = false
download_enabled = true
maximum_upload_size = '20GiB'
maximum_fragment_size = '16MiB'
allow_overwrites = true
create_directories = false
file_mode = '0644'
folder_mode = '0755'
session_timeout = '30d'
session_limit_per_user = 10
unfinished_bytes_per_user = '100GiB'
unfinished_bytes = '1024GiB'
cleanup_interval = '1h'
publish = 'close-session'
conflict_status = 409
notification_type = 'by-reference'
notification_url = 'http://127.0.0.1:9000/arrived'
notification_timeout = '1m'
notification_limit = 10
host_id = 'node1.upload.example'
host_id_fallback_timeout = '1h'
authentication = ['basic', 'certificate']
htpasswd = '/etc/bits-server/users'
certificate_principal = 'subject'
proxy_user_header = 'X-Authenticated-User'
allow_users = ['jo', '*@corp.example', '*$@corp.example']
per_user_folder = true
[[webhooks]]
url = 'https://hooks.example/bits'
name = 'billing'
events = ['upload.completed', 'session.expired']
directories = ['/reports']
secret = '0123456789abcdef0123456789abcdef'
timeout = '10s'
maximum_age = '1d'
maximum_pending = 5000
",
    "
[[listeners]]
address = '10.0.0.7:8080'
certificate = ''
allow_plain_basic = true
[[directories]]
url_path = '/upload'
store_as = '{user}/{date}/{session}-{path}'
storage_url = 'file:/srv/reports'
authentication = ['basic']
htpasswd = 'users'
",
];

/// One that wants Kerberos, which the server was perhaps built without.
const NEGOTIATE: &str = "
[[directories]]
url_path = '/upload'
authentication = ['negotiate']
negotiate_keytab = '/etc/bits-server/http.keytab'
negotiate_realms = ['CORP.EXAMPLE']
negotiate_ntlm_domains = ['CORP=corp.example']
negotiate_ntlm_users = '/etc/bits-server/ntlm-users'
";

/// One that wants a bucket, likewise.
const BUCKET: &str = "
[storage]
url = 's3://uploads'
[storage.options]
region = 'eu-central-1'
secret_access_key = '...'
";

/// The example of the key with this path, in TOML.
pub(crate) fn of(path: &str) -> Option<&'static str> {
    static EXAMPLES: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let examples = EXAMPLES.get_or_init(|| {
        let texts = CONFIGURATIONS.iter().chain([&NEGOTIATE, &BUCKET]);
        texts.flat_map(|text| keys_of(&parse(text))).collect()
    });
    examples.iter().find(|(name, _)| name == path).map(|(_, value)| value.as_str())
}

fn parse(text: &str) -> Table {
    text.parse().unwrap_or_else(|error| panic!("an example is no TOML: {error}\n{text}"))
}

fn keys_of(table: &Table) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) => found.extend(below(name, inner)),
            Value::Array(values) if values.first().is_some_and(Value::is_table) => {
                found.extend(values.iter().filter_map(Value::as_table).flat_map(|inner| below(name, inner)));
            }
            _ => found.push((name.clone(), value.to_string())),
        }
    }
    found
}

fn below(name: &str, table: &Table) -> Vec<(String, String)> {
    table.iter().map(|(key, value)| (format!("{name}.{key}"), value.to_string())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]
mod tests {
    use super::*;
    use crate::keys;

    #[test]
    fn the_server_takes_every_example() {
        CONFIGURATIONS.iter().chain([&SMALLEST]).for_each(|text| drop(keys::load(text)));
        #[cfg(feature = "negotiate")]
        drop(keys::load(NEGOTIATE));
        #[cfg(feature = "s3")]
        drop(keys::load(BUCKET));
    }

    /// What follows the default is no example.
    #[test]
    fn every_key_has_an_example_of_its_own() {
        let without: Vec<_> = bits_server::config::keys().filter(|key| of(&key.path()).is_none()).collect();
        assert!(without.is_empty(), "{without:?}");
    }
}
