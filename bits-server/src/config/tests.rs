//! The configuration, from listing to resolved type.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::keys::Section;
use super::setting::{Raw, Setting};
use super::*;

const LISTING: &str = include_str!("tests/listing.toml");
const LISTENERS: &str = include_str!("tests/listeners.toml");
const WEBHOOKS: &str = include_str!("tests/webhooks.toml");

/// Loads `text` as the file `bits.toml`, which is read from a folder of its own but named alone in messages.
fn load_with(text: &str, env: &[(&str, &str)], overrides: Overrides) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bits.toml");
    std::fs::write(&path, text).unwrap();
    let result = Config::load(Some(&path), variables(env), overrides);
    let prefix = format!("{}/", folder.path().display());
    result.map_err(|error| error.to_string().replace(&prefix, ""))
}

fn load(text: &str) -> Result<Config, String> {
    load_with(text, &[], Overrides::default())
}

fn load_env(env: &[(&str, &str)]) -> Result<Config, String> {
    Config::load(None, variables(env), Overrides::default()).map_err(|error| error.to_string())
}

fn variables(env: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let owned: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    owned.into_iter()
}

fn defaults() -> Config {
    load_env(&[]).unwrap()
}

/// `config` with the paths and source of `other`.
fn placed_as(config: Config, other: &Config) -> Config {
    Config {
        data_dir: other.data_dir.clone(),
        source: other.source.clone(),
        state: StateConfig { url: other.state.url.clone(), ..config.state },
        storage: StorageConfig { url: other.storage.url.clone(), ..config.storage },
        ..config
    }
}

#[test]
fn no_file_gives_the_defaults() {
    let config = defaults();
    assert_eq!(config.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(config.data_dir, Path::new("./bits-data"));
    assert_eq!(config.state.url, StateUrl::Sqlite("./bits-data/state.db".into()));
    assert_eq!(config.storage.url, StorageUrl::File("./bits-data/files".into()));
    assert_eq!(config.source, Source::Defaults);
    assert_eq!(config.directories.len(), 1);
    assert_eq!(config.directories[0].url_path.as_str(), "/upload");
    assert_eq!(config.directories[0].storage_path.as_str(), "upload");
}

#[test]
fn the_documented_listing_states_the_defaults() {
    let listed = load(LISTING).unwrap();
    let defaults = defaults();
    assert_eq!(placed_as(listed, &defaults), defaults);
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let defaults = defaults();
    assert_eq!(placed_as(load("").unwrap(), &defaults), defaults);
}

#[test]
fn every_key_is_listed_and_every_listed_key_is_declared() {
    let declared: BTreeSet<String> = keys().map(Key::path).collect();
    assert_eq!(declared, listed_keys());
}

#[test]
fn every_declared_default_is_the_listed_one() {
    let shown: toml::Table = defaults().to_string().parse().unwrap();
    let mut listed: toml::Table = LISTING.parse().unwrap();
    listed["state"]["url"] = shown["state"]["url"].clone();
    listed["storage"]["url"] = shown["storage"]["url"].clone();
    listed["directories"][0]["storage_path"] = "upload".into();
    assert_eq!(shown, listed);
}

fn listed_keys() -> BTreeSet<String> {
    let listing: toml::Table = format!("{LISTING}\n{LISTENERS}\n{WEBHOOKS}").parse().unwrap();
    let mut names = BTreeSet::new();
    for (name, value) in &listing {
        let table = value.get(0).unwrap_or(value);
        match table.as_table() {
            Some(table) => names.extend(table.keys().map(|key| format!("{name}.{key}"))),
            None => drop(names.insert(name.clone())),
        }
    }
    names
}

#[test]
fn every_key_has_a_sentence() {
    for key in keys() {
        assert!(key.about.ends_with('.') && key.about.len() > 10, "{key:?}");
    }
}

#[test]
fn the_documented_listener_states_the_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bits.toml");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), std::iter::empty(), Overrides::default()).unwrap().listeners
    };
    assert_eq!(load(LISTENERS), load("[[listeners]]"));
}

#[test]
fn a_listener_can_stand_alone() {
    let config = load("listen = []\n[[listeners]]\ncertificate = \"\"\naddress = \":0\"").unwrap();
    assert!(config.listen.is_empty());
    assert_eq!((&config.listeners[0].certificate, &config.listeners[0].key), (&None, &None));
    load("listen = []\nlisteners = []").unwrap_err();
}

#[test]
fn proxies_are_addresses_or_networks() {
    let read = |text: &str| load(&format!("trusted_proxies = [{text}]")).map(|config| config.trusted_proxies);
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
    let text = "\"192.0.2.1\", \"10.0.0.0/8\", \"2001:db8::/32\", \"::ffff:192.0.2.2\"";
    let expected = networks(&["192.0.2.1/32", "10.0.0.0/8", "2001:db8::/32", "192.0.2.2/32"]);
    assert_eq!(read(text).unwrap(), expected);
    for wrong in ["\"\"", "\"proxy.example\"", "\"10.0.0.0/33\"", "\"*\"", "\"10.0.0.1:80\"", "7"] {
        assert!(read(wrong).unwrap_err().starts_with("bits.toml:1: trusted_proxies: "), "{wrong}");
    }
}

#[test]
fn the_documented_webhook_states_the_defaults() {
    let webhooks = |text: &str| load(text).unwrap().webhooks;
    assert_eq!(webhooks(WEBHOOKS), webhooks("[[webhooks]]\nurl = \"https://hooks.example/bits\""));
    assert_eq!(defaults().webhooks, []);
}

#[test]
fn webhooks_arrive() {
    let text = "[[directories]]\nurl_path = \"/Team/in\"\n[[webhooks]]\nurl = \"http://h/?q\"\nname = \"one\"\n\
        events = [\"upload.completed\"]\ndirectories = [\"/team/IN\"]\nmaximum_age = \"1d\"\nmaximum_pending = 5\n\
        secret = \"planted-planted-planted\"";
    let config = load(text).unwrap();
    let subscriber = config.webhooks[0].subscriber();
    assert_eq!((subscriber.name.as_str(), &subscriber.kinds[..]), ("one", &[EventKind::UploadCompleted][..]));
    assert_eq!(subscriber.directories, ["/team/IN"]);
    let webhook = config.webhooks[0].webhook().unwrap();
    assert_eq!((webhook.keep.age, webhook.keep.count), (Duration::from_secs(86400), 5));
    assert_eq!((webhook.url.as_str(), webhook.signer.is_some()), ("http://h/?q", true));
    for shown in [config.to_string(), format!("{config:?}"), format!("{webhook:?}")] {
        assert!(!shown.contains("planted") && !shown.contains("?q"), "{shown}");
    }
    assert!(config.to_string().contains("secret = \"<hidden>\""), "{config}");
}

/// One mistake, and the whole message about it.
const MISTAKES: &[(&str, &str)] = &[
    ("listen = []", "bits.toml:1: listen: is empty; write at least one address, such as \"127.0.0.1:8080\""),
    (
        "listen = [\"localhost:80\"]",
        "bits.toml:1: listen: \"localhost:80\" is no address; write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"",
    ),
    ("listen = 8080", "bits.toml:1: listen: found a number; write a list in brackets"),
    ("listen = [8080]", "bits.toml:1: listen: found a number; write an address in quotes, such as \"127.0.0.1:8080\""),
    ("listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "bits.toml:1: listen: names 127.0.0.1:1 twice; remove one"),
    (
        "\n[admin]\nlisten = \"127.0.0.1:8080\"",
        "bits.toml:3: admin.listen: 127.0.0.1:8080 is in listen too; give one of them another port",
    ),
    ("data_dir = \"\"", "bits.toml:1: data_dir: is empty; write a path"),
    ("data_dir = 5", "bits.toml:1: data_dir: found a number; write a path in quotes"),
    ("shutdown_grace = 30", "bits.toml:1: shutdown_grace: found a number; write a time with its unit, such as \"30s\""),
    (
        "shutdown_grace = \"30\"",
        "bits.toml:1: shutdown_grace: \"30\" is no time; write numbers with d, h, m or s, the larger unit first, such as \"4m30s\"",
    ),
    ("shutdown_grace = \"0s\"", "bits.toml:1: shutdown_grace: must be longer than 0s"),
    ("shutdown_grace = \"36501d\"", "bits.toml:1: shutdown_grace: \"36501d\" is too long; write at most \"36500d\""),
    ("\n\nlisten_on = 1", "bits.toml:3: listen_on: there is no such key; did you mean listen?"),
    ("[limit]\nconnections = 1", "bits.toml:1: limit: there is no such key; did you mean limits?"),
    ("url_path = \"/x\"", "bits.toml:1: url_path: there is no such key; did you mean directories.url_path?"),
    ("[admin]\nlisten_ = 1", "bits.toml:2: admin.listen_: there is no such key; did you mean admin.listen?"),
    ("[state]\nmigrat = 1", "bits.toml:2: state.migrat: there is no such key; did you mean state.migrate?"),
    ("[storage]\nsynch = 1", "bits.toml:2: storage.synch: there is no such key; did you mean storage.sync?"),
    ("[limits]\nbandwidth = 0", "bits.toml:2: limits.bandwidth: must be more than 0 bytes"),
    (
        "[limits]\nbandwidth = 65535",
        "bits.toml:2: limits.bandwidth: is under 64KiB, with which uploads would stand still; write at least \"64KiB\"",
    ),
    (
        "[limits]\nminimum_rate = 1023",
        "bits.toml:2: limits.minimum_rate: is under 1KiB, with which a body could last for days; write at least \"1KiB\"",
    ),
    (
        "[limits]\nconections = 5",
        "bits.toml:2: limits.conections: there is no such key; did you mean limits.connections?",
    ),
    (
        "[[directories]]\n[[directories]]\nurl_path = \"/b\"\nstore_path = 1",
        "bits.toml:4: directories.store_path: there is no such key; did you mean directories.storage_path?",
    ),
    ("state = 5", "bits.toml:1: state: found a number; write a table [state]"),
    ("[[state]]", "bits.toml:1: state: found a list; write a table [state]"),
    ("[directories]", "bits.toml:1: directories: found a table; write a table [[directories]]"),
    ("directories = []", "bits.toml:1: directories: is empty; write at least one [[directories]]"),
    ("directories = [5]", "bits.toml:1: directories: found a number; write a table [[directories]]"),
    ("[state]\nmigrate = 1", "bits.toml:2: state.migrate: found a number; write true or false"),
    ("[state]\nmigrate = \"yes\"", "bits.toml:2: state.migrate: \"yes\" is neither true nor false; write one of them"),
    (
        "[state]\nurl = \"mysql://user:secret@host/db\"",
        "bits.toml:2: state.url: names no known database; write \"sqlite:PATH\" or \"postgres://…\"",
    ),
    (
        "[state]\nurl = \"sqlite::memory:\"",
        "bits.toml:2: state.url: a database in memory would forget every upload; write \"sqlite:PATH\"",
    ),
    (
        "[state]\nurl = \"sqlite://state.db\"",
        "bits.toml:2: state.url: names a host; write \"sqlite:PATH\" without slashes before a relative path",
    ),
    (
        "[storage]\nurl = \"s3://key:secret@bucket\"",
        if cfg!(feature = "s3") {
            "bits.toml:2: storage.url: is no bucket with a prefix; write \"s3://BUCKET\" or \"s3://BUCKET/PREFIX\", and credentials as [storage.options]"
        } else {
            "bits.toml:2: storage.url: s3: needs a server that was built with the feature \"s3\"; write \"file:\" or \"file:PATH\""
        },
    ),
    (
        "[state]\nurl = \"sqlite:/x.db\"",
        "bits.toml:2: state.url: lies in the folder \"/\", to all of which the process would have to be let in; give it a folder of its own, or write confine = false",
    ),
    (
        "[storage]\nurl = \"/var/files\"",
        "bits.toml:2: storage.url: names no known storage; write \"file:\" or \"file:PATH\"",
    ),
    (
        "[storage]\nsync = \"never\"",
        "bits.toml:2: storage.sync: \"never\" is not known; write \"checkpoint\" or \"fragment\"",
    ),
    (
        "[storage]\nreserve_free = \"1GB\"",
        "bits.toml:2: storage.reserve_free: \"1GB\" is no size; write bytes, or a number with KiB, MiB, GiB or TiB, such as \"64MiB\"",
    ),
    ("[storage]\nreserve_free = 0", "bits.toml:2: storage.reserve_free: must be more than 0 bytes"),
    ("[storage]\nreserve_free = -1", "bits.toml:2: storage.reserve_free: must be more than 0 bytes"),
    (
        "[storage]\nreserve_free = 1.5",
        "bits.toml:2: storage.reserve_free: found a fraction; write a size, such as \"64MiB\"",
    ),
    (
        "[storage]\nreserve_free = \"8388608TiB\"",
        "bits.toml:2: storage.reserve_free: 8388608TiB is too large; write at most 9223372036854775807 bytes",
    ),
    (
        "[storage]\nreserve_free = \"unlimited\"",
        "bits.toml:2: storage.reserve_free: \"unlimited\" is no size; write bytes, or a number with KiB, MiB, GiB or TiB, such as \"64MiB\"",
    ),
    (
        "[storage.options]\nsecret_access_key = \"<hidden>\"",
        "bits.toml:1: storage.options: secret_access_key is only what check prints in its place; write the secret",
    ),
    (
        "[limits]\nconnections = 0",
        "bits.toml:2: limits.connections: 0 is out of range; write a whole number from 1 to 4294967295",
    ),
    (
        "[limits]\nconnections = \"many\"",
        "bits.toml:2: limits.connections: \"many\" is out of range; write a whole number from 1 to 4294967295",
    ),
    (
        "[[listeners]]\nkey = \"\"",
        "bits.toml:2: listeners.key: is empty, but there is a certificate; name the file of its private key",
    ),
    (
        "[[listeners]]\ncertificate = \"\"\nclient_ca = \"ca.pem\"\nclient_certificate = \"optional\"",
        "bits.toml:4: listeners.client_certificate: needs TLS; name a certificate and its key",
    ),
    (
        "[[listeners]]\nclient_certificate = \"required\"",
        "bits.toml:2: listeners.client_certificate: needs client_ca, the authorities that clients' certificates come from",
    ),
    (
        "[[listeners]]\nclient_ca = \"ca.pem\"",
        "bits.toml:2: listeners.client_ca: is not used while client_certificate is \"none\"; write \"optional\" or \"required\" there",
    ),
    (
        "[[listeners]]\nclient_crl = \"crl.pem\"",
        "bits.toml:2: listeners.client_crl: is not used without client_ca; name the authorities there",
    ),
    (
        "[[listeners]]\nclient_certificate = \"maybe\"",
        "bits.toml:2: listeners.client_certificate: \"maybe\" is not known; write \"none\" or \"optional\" or \"required\"",
    ),
    (
        "[[listeners]]\nproxy_protocol = true",
        "bits.toml:2: listeners.proxy_protocol: takes nobody's connections without trusted_proxies; name the proxies there",
    ),
    (
        "[[listeners]]\nallow_plain_basic = true",
        "bits.toml:2: listeners.allow_plain_basic: makes no sense with TLS; remove it",
    ),
    (
        "[[listeners]]\naddress = \"127.0.0.1:8080\"",
        "bits.toml:2: listeners.address: 127.0.0.1:8080 is that of listen too; give one of them another port",
    ),
    (
        "[[listeners]]\naddress = \"127.0.0.1:8081\"",
        "bits.toml:2: listeners.address: 127.0.0.1:8081 is that of admin.listen too; give one of them another port",
    ),
    (
        "[[listeners]]\n[[listeners]]",
        "bits.toml:2: listeners.address: 0.0.0.0:443 is that of another listener too; give one of them another port",
    ),
    ("[[listeners]]\ncert = 1", "bits.toml:2: listeners.cert: there is no such key; did you mean listeners.key?"),
    ("[listeners]", "bits.toml:1: listeners: found a table; write a table [[listeners]]"),
    (
        "[[directories]]\nurl_path = \"upload\"",
        "bits.toml:2: directories.url_path: the path must start with a slash; write one such as \"/upload\"",
    ),
    (
        "[[directories]]\nurl_path = \"/upload/\"",
        "bits.toml:2: directories.url_path: the path has an empty segment; write one such as \"/upload\"",
    ),
    (
        "[[directories]]\nurl_path = \"/bits-SESSIONS\"",
        "bits.toml:2: directories.url_path: BITS-Sessions is the server's own name; write one such as \"/upload\"",
    ),
    (
        "[[directories]]\n[[directories]]\nurl_path = \"/UPLOAD\"",
        "bits.toml:3: directories.url_path: \"/UPLOAD\" stands at bits.toml:1 already, and case makes no difference; write another path",
    ),
    (
        "[[directories]]\nstorage_path = \"../x\"",
        "bits.toml:2: directories.storage_path: the path has a dot segment; write names joined by slashes, such as \"team/upload\"",
    ),
    (
        "[[directories]]\nstorage_path = \"/etc\"",
        "bits.toml:2: directories.storage_path: the path has an empty segment; write names joined by slashes, such as \"team/upload\"",
    ),
    (
        "[[directories]]\nstorage_path = \"a/BITS-Sessions\"",
        "bits.toml:2: directories.storage_path: BITS-Sessions is the server's own name; write names joined by slashes, such as \"team/upload\"",
    ),
    (
        "[[directories]]\nstore_as = \"{user}/{path}\"",
        "bits.toml:2: directories.store_as: {user} is nobody here: every caller is anonymous; add a way to log in to authentication",
    ),
    (
        "[[directories]]\nauthentication = [\"basic\"]",
        "bits.toml:2: directories.authentication: \"basic\" needs htpasswd, a file of users; `bits-server password USER --file FILE` makes one",
    ),
    (
        "[[directories]]\nhtpasswd = \"users\"",
        "bits.toml:2: directories.htpasswd: has no effect; add \"basic\" to authentication, or remove it",
    ),
    (
        "[[directories]]\nhtpasswd = \"users\"\nauthentication = [\"basic\", \"basic\"]",
        "bits.toml:3: directories.authentication: names a scheme twice; remove one",
    ),
    (
        "[[directories]]\nauthentication = [\"digest\"]",
        "bits.toml:2: directories.authentication: \"digest\" is not known; write \"basic\" or \"certificate\" or \"negotiate\" or \"proxy\"",
    ),
    (
        "[[directories]]\nauthentication = [\"certificate\"]",
        "bits.toml:2: directories.authentication: \"certificate\" needs a listener that asks for one; set its client_certificate and client_ca",
    ),
    (
        "[[directories]]\nauthentication = [\"proxy\"]",
        "bits.toml:2: directories.authentication: \"proxy\" needs trusted_proxies; name the proxies there",
    ),
    (
        "listen = [\"0.0.0.0:80\"]\n[[directories]]\nauthentication = [\"basic\"]\nhtpasswd = \"users\"",
        "bits.toml:3: directories.authentication: \"basic\" would show passwords to everyone on the way: nothing listens with TLS; give a listener a certificate, or write allow_plain_basic = true there",
    ),
    (
        "[[directories]]\nproxy_user_header = \"X User\"",
        "bits.toml:2: directories.proxy_user_header: \"X User\" cannot be the header of a user; write one such as \"X-Remote-User\"",
    ),
    (
        "[[directories]]\nproxy_user_header = \"Authorization\"",
        "bits.toml:2: directories.proxy_user_header: \"Authorization\" cannot be the header of a user; write one such as \"X-Remote-User\"",
    ),
    (
        "[[directories]]\ncertificate_principal = \"serial\"",
        "bits.toml:2: directories.certificate_principal: \"serial\" is not known; write \"san\" or \"subject\"",
    ),
    (
        "[[directories]]\nallow_users = [\"*\"]",
        "bits.toml:2: directories.allow_users: every caller is anonymous here; add a way to log in to authentication, or remove it",
    ),
    (
        "[[directories]]\nallow_users = [\"\"]",
        "bits.toml:2: directories.allow_users: is empty; write a user, or a pattern such as \"*@corp.example\"",
    ),
    (
        "[[directories]]\nper_user_folder = true",
        "bits.toml:2: directories.per_user_folder: every caller is anonymous here; add a way to log in to authentication, or remove it",
    ),
    (
        "[[directories]]\nurl_path = \"/a\"\nauthentication = [\"basic\"]\nhtpasswd = \"u\"\nper_user_folder = true\n[[directories]]\nurl_path = \"/b\"\nstorage_path = \"A/jo\"",
        "bits.toml:5: directories.per_user_folder: uploads to \"/b\" (bits.toml:7) could lead into the folders of users here; give one of the two a storage_path apart from the other's",
    ),
    (
        "[[directories]]\nurl_path = \"/a\"\nauthentication = [\"basic\"]\nhtpasswd = \"u\"\nper_user_folder = true\n[[directories]]\nurl_path = \"/b\"\nstorage_path = \"a\"\nauthentication = [\"basic\"]\nhtpasswd = \"v\"\nper_user_folder = true",
        "bits.toml:10: directories.htpasswd: users of \"/a\" (bits.toml:4) have their folders in the same place, by another file: whoever is named alike in both would share one; name one file, or give one of the two a storage_path apart from the other's",
    ),
    (
        "[[directories]]\nstore_as = \"{date}\"",
        "bits.toml:2: directories.store_as: must hold {path} or {session}, may hold {date} and, as a whole name before {path}, {user}, and be names joined by slashes",
    ),
    (
        "[[directories]]\nmaximum_fragment_size = \"4KiB\"",
        "bits.toml:2: directories.maximum_fragment_size: is under 5KiB, the least that clients can go down to; write at least \"5KiB\"",
    ),
    (
        "[[directories]]\nfile_mode = 640",
        "bits.toml:2: directories.file_mode: found a number; write octal digits in quotes, such as \"0640\"",
    ),
    (
        "[[directories]]\nfile_mode = \"0680\"",
        "bits.toml:2: directories.file_mode: \"0680\" is no mode; write octal digits, such as \"0640\"",
    ),
    (
        "[[directories]]\nfile_mode = \"0440\"",
        "bits.toml:2: directories.file_mode: shuts the server itself out; add at least \"0600\"",
    ),
    (
        "[[directories]]\nfolder_mode = \"0644\"",
        "bits.toml:2: directories.folder_mode: shuts the server itself out; add at least \"0700\"",
    ),
    (
        "[[directories]]\npublish = \"now\"",
        "bits.toml:2: directories.publish: \"now\" is not known; write \"last-fragment\" or \"close-session\"",
    ),
    ("[[directories]]\nconflict_status = 404", "bits.toml:2: directories.conflict_status: must be 403 or 409"),
    (
        "[[directories]]\nhost_id = \"node1:80\"",
        "bits.toml:2: directories.host_id: \"node1:80\" is no host; write a name or an address, without port or brackets, such as \"node1.example\"",
    ),
    ("[[webhooks]]\nname = \"x\"", "bits.toml:1: webhooks.url: is missing; write where events are to be sent"),
    ("[webhooks]", "bits.toml:1: webhooks: found a table; write a table [[webhooks]]"),
    (
        "[[webhooks]]\nurl = \"hooks.example/planted\"",
        "bits.toml:2: webhooks.url: is no URL: relative URL without a base; write one such as \"https://hooks.example/bits\"",
    ),
    (
        "[[webhooks]]\nurl = \"ftp://hooks.example/planted\"",
        "bits.toml:2: webhooks.url: is neither HTTP nor HTTPS; write one such as \"https://hooks.example/bits\"",
    ),
    (
        "[[webhooks]]\nurl = \"https://user:planted@hooks.example/\"",
        "bits.toml:2: webhooks.url: holds a user name or password; sign the events with secret instead",
    ),
    (
        "[[webhooks]]\nurl = \"https://hooks.example/#planted\"",
        "bits.toml:2: webhooks.url: has a fragment, which is never sent; remove it with its #",
    ),
    (
        "[[webhooks]]\nurl = \"https://hooks.example/\"\nevents = [\"upload.complete\"]",
        "bits.toml:3: webhooks.events: \"upload.complete\" is no event; there are \"session.created\", \"upload.completed\", \"session.cancelled\", \"session.expired\", \"notification.failed\"",
    ),
    (
        "[[webhooks]]\nurl = \"https://hooks.example/\"\ndirectories = [\"/Upload\", \"/uploads\"]",
        "bits.toml:3: webhooks.directories: \"/uploads\" is no directory's url_path; write one that there is",
    ),
    (
        "[[webhooks]]\nurl = \"https://hooks.example/\"\nsecret = \"too short\"",
        "bits.toml:3: webhooks.secret: is 9 bytes long and could be guessed; write at least 16, such as `openssl rand -hex 32` prints",
    ),
    (
        "[[webhooks]]\nurl = \"https://hooks.example/\"\nsecret_file = \"missing\"",
        "bits.toml:3: webhooks.secret_file: missing cannot be read: No such file or directory (os error 2); check the path and its permissions",
    ),
    (
        "[[webhooks]]\nurl = \"https://hooks.example/\"\nname = \"a b\"",
        "bits.toml:3: webhooks.name: \"a b\" is no name; write at most 100 letters, digits, dots, dashes and underscores",
    ),
    (
        "[[webhooks]]\nurl = \"https://a.example/\"\nname = \"a\"\n[[webhooks]]\nurl = \"https://b.example/\"\nname = \"a\"",
        "bits.toml:6: webhooks.name: the webhook at bits.toml:3 has this name too; give each a name of its own",
    ),
    (
        "[[webhooks]]\nurl = \"https://a.example/\"\n[[webhooks]]\nurl = \"https://a.example/\"",
        "bits.toml:4: webhooks.name: the webhook at bits.toml:2 has this name too; give each a name of its own",
    ),
    ("listen = [", "bits.toml:1: no valid TOML: unclosed array, expected `]`"),
    ("listen = []\nlisten = []", "bits.toml:2: no valid TOML: duplicate key"),
];

#[test]
fn each_mistake_is_told_exactly() {
    for (text, expected) in MISTAKES {
        assert_eq!(load(text).expect_err(text), *expected, "of {text}");
    }
}

#[test]
fn a_long_host_id_is_refused() {
    let host = format!("{}.example", ["abcdefghi"; 30].join("."));
    let error = load(&format!("[[directories]]\nhost_id = \"{host}\"")).unwrap_err();
    assert_eq!(error, "bits.toml:2: directories.host_id: is 307 characters long; write at most 300");
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_lines() {
    let text =
        "[limits]\nidle_timeout = 1\nfoo = 1\n[admin]\nlisten = 1\n[[directories]]\npublish = 1\nfile_mode = 1\n";
    let error = load_with(text, &[("BITS__STATE__URL", "x"), ("BITS__FOO", "1")], Overrides::default()).unwrap_err();
    let places: Vec<&str> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
    let expected = [
        "bits.toml:2",
        "bits.toml:3",
        "bits.toml:5",
        "bits.toml:7",
        "bits.toml:8",
        "environment variable BITS__FOO",
        "environment variable BITS__STATE__URL",
    ];
    assert_eq!(places, expected);
}

#[test]
fn a_missing_file_is_named() {
    let path = Path::new("/nowhere/bits.toml");
    let error = Config::load(Some(path), std::iter::empty(), Overrides::default()).unwrap_err();
    let expected = "/nowhere/bits.toml: cannot be read: No such file or directory (os error 2); check the path and its permissions";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.problems()[0].location, Location::File(path.to_owned()));
}

#[test]
fn a_file_that_is_not_utf8_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bits.toml");
    std::fs::write(&path, b"data_dir = \"\xff\"").unwrap();
    let error = Config::load(Some(&path), std::iter::empty(), Overrides::default()).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: is not UTF-8; save it as UTF-8", path.display()));
}

#[test]
fn the_environment_stands_over_the_file_and_flags_over_both() {
    let text =
        "listen = [\"127.0.0.1:1\"]\nshutdown_grace = \"1s\"\n[limits]\nconnections = 7\nidle_timeout = \"7s\"\n";
    let env = [
        ("BITS__LISTEN", "127.0.0.1:2, [::1]:3"),
        ("BITS__LIMITS__CONNECTIONS", "unlimited"),
        ("BITS__STATE__MIGRATE", "false"),
        ("BITS__STORAGE__RESERVE_FREE", "4096"),
        ("BITS_LISTEN", "no key of ours"),
    ];
    let config = load_with(text, &env, Overrides::default()).unwrap();
    assert_eq!(config.listen, ["127.0.0.1:2".parse().unwrap(), "[::1]:3".parse().unwrap()]);
    assert_eq!(config.limits.connections, None);
    assert_eq!(config.limits.idle_timeout, Duration::from_secs(7));
    assert_eq!(config.shutdown_grace, Duration::from_secs(1));
    assert_eq!(config.state.migrate, Some(false));
    assert_eq!(config.storage.reserve_free, Size(4096));

    let flags = Overrides { listen: vec![":0".to_owned()], data_dir: Some("here".into()) };
    let config = load_with(text, &env, flags).unwrap();
    assert_eq!(config.listen, ["127.0.0.1:0".parse().unwrap()]);
    assert_eq!(config.data_dir, Path::new("here"));
    assert_eq!(config.state.url, StateUrl::Sqlite("here/state.db".into()));
}

#[test]
fn every_key_outside_repeated_tables_can_come_from_the_environment() {
    let shown: toml::Table = LISTING.parse().unwrap();
    for key in keys().filter(|key| key.variable().is_some() && key.name != "options") {
        let listed = if key.table.is_empty() { &shown[key.name] } else { &shown[key.table][key.name] };
        let text = match listed {
            toml::Value::Array(items) => items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(","),
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let config = load_env(&[(&key.variable().unwrap(), &text)]).unwrap();
        assert_eq!(config, defaults(), "{key:?}");
    }
}

#[test]
fn wrong_variables_are_named() {
    let only = "repeated tables come from the file only; remove the variable and write a [[...]] table there";
    let cases = [
        ("BITS__STATE__ULR", "", "state.ulr: there is no such key; did you mean BITS__STATE__URL?"),
        ("BITS__state__url", "", "state.url: there is no such key; did you mean BITS__STATE__URL?"),
        ("BITS__", "", ": there is no such key; did you mean BITS__LOG?"),
        ("BITS__LISTEN", "", "listen: is empty; write at least one address, such as \"127.0.0.1:8080\""),
        ("BITS__DIRECTORIES__URL_PATH", "/x", &format!("directories.url_path: {only}")),
        ("BITS__LISTENERS", "", &format!("listeners: {only}")),
        ("BITS__STORAGE__OPTIONS__REGION", "", "storage.options: region is empty; write the secret"),
        (
            "BITS__PUBLIC_URL",
            "files.example",
            "public_url: \"files.example\" is no scheme and host alone; write one such as \"https://files.example\"",
        ),
    ];
    for (name, value, expected) in cases {
        let expected = format!("environment variable {name}: {expected}");
        assert_eq!(load_env(&[(name, value)]).expect_err(name), expected);
    }
}

#[test]
fn a_wrong_flag_is_named() {
    let flags = Overrides { listen: vec!["here".to_owned()], data_dir: None };
    let error = Config::load(None, std::iter::empty(), flags).unwrap_err().to_string();
    assert!(error.starts_with("flag --listen: listen: \"here\" is no address"), "{error}");
}

#[test]
fn an_empty_data_dir_flag_is_refused() {
    let flags = Overrides { listen: Vec::new(), data_dir: Some(PathBuf::new()) };
    let error = Config::load(None, std::iter::empty(), flags).unwrap_err().to_string();
    assert_eq!(error, "flag --data-dir: data_dir: is empty; write a path");
}

#[test]
fn files_of_windows_editors_load() {
    let config = load("\u{feff}[limits]\r\nconnections = 5\r\n").unwrap();
    assert_eq!(config.limits.connections, Some(5));
}

#[test]
fn relative_paths_start_at_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bits.toml");
    std::fs::write(
        &path,
        "data_dir = \"data\"\n[state]\nurl = \"sqlite:db/s.db\"\n[storage]\nurl = \"file:///srv/files\"\n",
    )
    .unwrap();
    let config = Config::load(Some(&path), std::iter::empty(), Overrides::default()).unwrap();
    assert_eq!(config.data_dir, folder.path().join("data"));
    assert_eq!(config.state.url, StateUrl::Sqlite(folder.path().join("db/s.db")));
    assert_eq!(config.storage.url, StorageUrl::File("/srv/files".into()));
    assert_eq!(config.source, Source::File(path));
}

const CHANGED: &str = r#"
listen = ["[::1]:80", ":0"]
shutdown_grace = "1h30s"
data_dir = "/srv/b\"its\u000a"
admin.listen = ""
state.migrate = false
storage = { sync = "fragment", reserve_free = 1000 }
trusted_proxies = ["10.0.0.0/8", "::1"]
[limits]
connections = "unlimited"
header_timeout = "36h"
[[listeners]]
address = "[::]:443"
key = "other/key.pem"
client_ca = "tls/ca.pem"
client_crl = "/srv/crl.pem"
client_certificate = "required"
proxy_protocol = true
[[listeners]]
address = ":81"
certificate = ""
allow_plain_basic = true
[[directories]]
url_path = "/"
store_as = "{date}/{session}"
maximum_upload_size = "2TiB"
maximum_fragment_size = "unlimited"
upload_enabled = false
allow_overwrites = true
create_directories = false
file_mode = "0664"
folder_mode = "0775"
session_timeout = "1d"
session_limit_per_user = "unlimited"
cleanup_interval = "1m1s"
publish = "close-session"
conflict_status = 409
host_id = "fe80::1"
host_id_fallback_timeout = "2d"
[[directories]]
url_path = "/Team/in"
storage_path = "shared"
[[directories]]
url_path = "/team/out"
storage_path = "shared"
host_id = "node-1.example"
[[directories]]
url_path = "/users"
authentication = ["basic"]
htpasswd = "/etc/users"
allow_users = ["Jo", "*@corp.example"]
per_user_folder = true
store_as = "{user}/{path}"
[[directories]]
url_path = "/users/again"
storage_path = "users"
authentication = ["basic"]
htpasswd = "/etc/users"
per_user_folder = true
store_as = "{user}/{path}"
[[webhooks]]
url = "http://[::1]:9/a%20b"
events = ["session.expired", "session.created"]
directories = ["/team/IN"]
timeout = "1m"
maximum_age = "1h"
maximum_pending = 7
"#;

#[test]
fn what_is_shown_loads_to_the_same() {
    for text in ["", CHANGED] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bits.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Config::load(Some(&path), std::iter::empty(), Overrides::default()).unwrap()
        };
        let config = load(text);
        assert_eq!(load(&config.to_string()), config);
    }
}

#[test]
fn values_other_than_the_defaults_arrive() {
    let config = load(CHANGED).unwrap();
    assert_eq!(config.admin.listen, None);
    assert_eq!(config.storage.sync, Sync::Fragment);
    assert_eq!(config.limits.header_timeout, Duration::from_secs(36 * 60 * 60));
    assert_eq!(config.directories[0].storage_path, StorageKey::ROOT);
    assert_eq!(config.directories[1].storage_path, config.directories[2].storage_path);

    let personal = config.directories[3].directory("disk");
    let patterns = ["jo", "*@corp.example"].map(|pattern| UserPattern::parse(pattern).unwrap());
    assert_eq!(personal.access, Access::Users(patterns.to_vec()));
    assert!(personal.per_user_folder);
    assert_eq!(config.directories[4].directory("disk").access, Access::Authenticated);
    assert_eq!(config.directories[4].htpasswd.as_deref(), Some(Path::new("/etc/users")));

    let directory = config.directories[0].directory("disk");
    let mut expected = Directory::new("/", "disk", StorageKey::ROOT);
    expected.store_as = StoreAs::parse("{date}/{session}").unwrap();
    expected.maximum_upload_size = 2 << 40;
    expected.maximum_fragment_size = u64::MAX;
    expected.upload_enabled = false;
    expected.allow_overwrites = true;
    expected.create_directories = false;
    expected.file_mode = 0o664;
    expected.folder_mode = 0o775;
    expected.session_timeout = Duration::from_secs(24 * 60 * 60);
    expected.session_limit_per_user = None;
    expected.publish = PublishAt::CloseSession;
    expected.conflict_status = StatusCode::CONFLICT;
    expected.host_id = Some(("fe80::1".to_owned(), Duration::from_secs(2 * 24 * 60 * 60)));
    assert_eq!(directory, expected);
}

#[test]
fn the_default_directory_is_the_protocols_default() {
    let expected = Directory::new("/upload", "disk", StorageKey::parse("upload").unwrap());
    assert_eq!(defaults().directories[0].directory("disk"), expected);
}

#[test]
fn hosts_are_names_or_addresses_without_port() {
    for host in ["a", "node_1.example", "10.0.0.1", "fe80::1"] {
        assert!(HostName::read(&Raw::Text(host.to_owned())).is_ok(), "{host}");
    }
    let long = "a".repeat(64);
    for host in ["a:80", "[fe80::1]", "[fe80::1]:80", "a..b", "a.", "ä", "a b", "a\r\nX: y", "http://a", &long] {
        assert!(HostName::read(&Raw::Text(host.to_owned())).is_err(), "{host}");
    }
}

#[test]
fn sizes_read_and_show() {
    for (text, bytes, shown) in [
        ("1", 1, "1"),
        ("1024", 1024, "1KiB"),
        ("5KiB", 5 << 10, "5KiB"),
        ("64MiB", 64 << 20, "64MiB"),
        ("1536MiB", 1536 << 20, "1536MiB"),
        ("1024MiB", 1 << 30, "1GiB"),
        ("3TiB", 3 << 40, "3TiB"),
    ] {
        let size = units::parse_size(text).unwrap();
        assert_eq!((size, units::show_size(size).as_str()), (Size(bytes), shown));
    }
    for text in ["", "KiB", "1 KiB", "1kib", "1KB", "-1", "1.5GiB", "1KiB1KiB", "+1"] {
        assert!(units::parse_size(text).is_err(), "{text}");
    }
}

#[test]
fn times_read_and_show() {
    for (text, seconds, shown) in [
        ("1s", 1, "1s"),
        ("4m30s", 270, "4m30s"),
        ("270s", 270, "4m30s"),
        ("1d12h", 36 * 3600, "36h"),
        ("14d", 14 * 86400, "14d"),
        ("1d1h1m1s", 90061, "25h1m1s"),
    ] {
        let time = units::parse_duration(text).unwrap();
        assert_eq!((time.as_secs(), units::show_time(time).as_str()), (seconds, shown));
    }
    for text in ["", "s", "1", "30s4m", "1s1s", "1ms", "1.5h", " 1s", "-1s", "99999999999999999999s"] {
        assert!(units::parse_duration(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn any_size_survives_being_shown(bytes in 1..=i64::MAX as u64, shift in 0..40_u32) {
        let size = Size(((bytes >> shift) << shift).max(1));
        prop_assert_eq!(units::parse_size(&units::show_size(size)), Ok(size));
    }

    #[test]
    fn any_time_survives_being_shown(seconds in 1..=100 * 365 * 86400_u64) {
        let time = Duration::from_secs(seconds);
        prop_assert_eq!(units::parse_duration(&units::show_time(time)), Ok(time));
    }

    #[test]
    fn a_time_is_the_sum_of_its_parts(d in 0..1000_u64, h in 0..1000_u64, m in 0..1000_u64, s in 1..1000_u64) {
        let time = units::parse_duration(&format!("{d}d{h}h{m}m{s}s")).unwrap();
        prop_assert_eq!(time.as_secs(), ((d * 24 + h) * 60 + m) * 60 + s);
    }

    #[test]
    fn any_mode_survives_being_shown(bits in 0..=0o7777_u32) {
        prop_assert_eq!(units::parse_mode(&units::show_mode(Mode(bits))), Ok(Mode(bits)));
    }

    #[test]
    fn any_file_is_read_or_refused(text in "(listen|[a-z_.\\[\\]= \"0-9\n{}#-]){0,60}", value in ".{0,20}") {
        let mut layers = layers::Layers::empty();
        let mut problems = error::Problems::default();
        layers.add_file(Path::new("bits.toml"), &text, &mut problems);
        layers.add_environment(variables(&[("BITS__LIMITS__IDLE_TIMEOUT", &value)]), &mut problems);
        let limits = Limits::read(layers.table::<Limits>(), &mut problems);
        let read = units::parse_duration(&value);
        prop_assert_eq!(limits.idle_timeout, read.clone().unwrap_or(Duration::from_secs(120)));
        prop_assert_eq!(problems.finish(()).is_err(), read.is_err() || !text_is_fine(&text));
    }
}

/// Whether a file loads that has nothing else wrong with it.
fn text_is_fine(text: &str) -> bool {
    let mut problems = error::Problems::default();
    layers::Layers::empty().add_file(Path::new("bits.toml"), text, &mut problems);
    problems.finish(()).is_ok()
}

#[test]
fn a_secret_can_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("url"), "sqlite:other.db\n").unwrap();
    let config = folder.path().join("bits.toml");
    std::fs::write(&config, "[state]\nurl_file = \"url\"\n").unwrap();
    let loaded = |env| Config::load(Some(&config), variables(env), Overrides::default());
    let expected = StateUrl::Sqlite(folder.path().join("other.db"));
    assert_eq!(loaded(&[]).unwrap().state.url, expected);
    assert_eq!(loaded(&[]).unwrap().secret_files, [folder.path().join("url")]);
    assert_eq!(loaded(&[("BITS__STATE__URL_FILE", "url")]).unwrap().state.url, expected);
    let over = loaded(&[("BITS__STATE__URL", "sqlite:third.db")]).unwrap();
    assert_eq!(over.state.url, StateUrl::Sqlite(folder.path().join("third.db")));
    let twice = loaded(&[("BITS__STATE__URL", "sqlite:"), ("BITS__STATE__URL_FILE", "url")]).unwrap_err().to_string();
    assert!(twice.contains("given both as it is and as a file; remove one"), "{twice}");
}

#[test]
fn a_secret_given_twice_is_refused() {
    let message = load("[state]\nurl = \"sqlite:\"\nurl_file = \"/dev/null\"\n").unwrap_err();
    assert!(message.contains("bits.toml:3: state.url_file: "), "{message}");
}

#[test]
fn only_secrets_can_stand_in_files() {
    for (key, expected) in [
        ("data_dir_file = \"x\"", "data_dir_file: there is no such key"),
        ("[state]\nmigrate_file = \"x\"", "state.migrate_file: there is no such key"),
    ] {
        let message = load(key).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    let message = load_env(&[("BITS__DATA_DIR_FILE", "x")]).unwrap_err();
    assert!(message.contains("there is no such key"), "{message}");
}

#[test]
fn a_password_in_a_url_is_in_no_message() {
    for url in ["postgres://u:plan?planted@h/db", "sqlite://u:planted@h/db", "mysql://u:planted@h/db", "planted"] {
        let message = load(&format!("[state]\nurl = \"{url}\"\n")).unwrap_err();
        assert!(!message.contains("planted"), "{message}");
        let message = load_env(&[("BITS__STATE__URL", url)]).unwrap_err();
        assert!(!message.contains("planted"), "{message}");
    }
    for url in ["s3://planted@h/db", "https://u:planted@h", "file://u:planted@h"] {
        let message = load(&format!("[storage]\nurl = \"{url}\"\n")).unwrap_err();
        assert!(!message.contains("planted"), "{message}");
    }
    for option in [
        "[storage.options]\nsecret_access_key = \"planted\"",
        "[storage]\noptions = { endpoint = \"http://u:planted@h\" }",
    ] {
        let config = load(option).unwrap();
        assert!(!config.to_string().contains("planted") && !format!("{config:?}").contains("planted"), "{config}");
        assert_eq!(config.storage.options.iter().filter(|(_, value)| value.contains("planted")).count(), 1);
    }
    let config = load_env(&[("BITS__STORAGE__OPTIONS__SECRET_ACCESS_KEY", "planted")]).unwrap();
    assert!(!config.to_string().contains("planted") && !format!("{config:?}").contains("planted"), "{config}");
    let message = load("[storage.options]\ntoken = [\"planted\"]").unwrap_err();
    assert!(!message.contains("planted"), "{message}");
    let message = load("[state]\nurl = \"postgres://u:planted@h/db").unwrap_err();
    assert!(!message.contains("planted"), "{message}");
}

#[test]
fn server_applications() {
    let directory = |lines: &str| format!("[[directories]]\nnotification_type = \"by-value\"\n{lines}");
    let url = |url: &str| directory(&format!("notification_url = \"{url}\""));
    let loaded =
        load(&(directory("notification_url = \"http://127.0.0.1:9000/x?y\"\nnotification_timeout = \"5s\""))).unwrap();
    let notification = loaded.directories[0].directory("default").notification.unwrap();
    assert_eq!(
        (notification.mode, notification.timeout),
        (bits_core::NotificationMode::ByValue, Duration::from_secs(5))
    );
    assert_eq!(notification.url, "http://127.0.0.1:9000/x?y");
    let shown = loaded.to_string();
    assert!(shown.contains("notification_url = \"http://127.0.0.1:9000/x?<hidden>\""), "{shown}");
    assert!(!format!("{loaded:?}").contains("x?y"));
    assert_eq!(load("").unwrap().directories[0].directory("default").notification, None);
    let public = load(&format!("public_url = \"https://files.example/\"\n{}", url("app"))).unwrap();
    assert_eq!(public.public_url.as_ref().map(PublicUrl::as_str), Some("https://files.example"));
    for (wrong, expected) in [
        ("", "is empty; write the URL of the server application, or notification_type = \"none\""),
        ("/app", "is relative, and the host in a request is whatever its sender writes; set public_url too"),
        ("ftp://x/", "is no http or https URL without a user; write one such as \"http://127.0.0.1:9000/\""),
        ("http://u:p@x/", "is no http or https URL without a user; write one such as \"http://127.0.0.1:9000/\""),
        ("http://x/#y", "holds a # or a space; write a URL without"),
    ] {
        let message = format!("bits.toml:3: directories.notification_url: {expected}");
        assert_eq!(load(&url(wrong)).unwrap_err(), message);
    }
    let copied = load(&url("http://x/?<hidden>")).unwrap_err();
    assert!(copied.contains("holds what check prints in place of a query; write the query"), "{copied}");
    let long = load(&url(&format!("http://x/{}", "a".repeat(2192)))).unwrap_err();
    assert!(long.ends_with("is 2201 characters long; write at most 2200"), "{long}");
    for wrong in ["files.example", "https://files.example/path", "https://a@b", "ftp://files.example", "https://"] {
        let error = load(&format!("public_url = \"{wrong}\"")).unwrap_err();
        assert!(error.contains("is no scheme and host alone"), "{error}");
    }
}

#[cfg(feature = "postgres")]
#[test]
fn a_postgres_url_shows_no_password() {
    let load = |url: &str| load_with(&format!("[state]\nurl = \"{url}\""), &[], Overrides::default());
    for (url, shown) in [
        ("postgres://jo:s3cret@db.example/bits", "postgres://jo:hidden@db.example/bits"),
        ("postgresql://jo@db.example:6432/bits", "postgresql://jo@db.example:6432/bits"),
        ("postgres://jo@db.example/bits?password=s3cret&sslmode=require", "postgres://jo@db.example/bits?hidden"),
        ("postgres:///bits?host=/run/postgresql&password=s3cret", "postgres:///bits?hidden"),
    ] {
        let config = load(url).unwrap();
        let StateUrl::Postgres(kept) = &config.state.url else { panic!("{url} is something else") };
        assert_eq!((kept.expose(), config.state.migrate), (url, Some(false)));
        let text = config.to_string();
        assert!(text.contains(&format!("url = \"{shown}\"")), "{text}");
        assert!(!text.contains("s3cret") && !format!("{config:?}").contains("s3cret"), "{text}");
    }
    for url in
        ["postgres:", "postgres://jo:s3?cret@host/db", "postgres://jo:s3/cret@host/db", "postgres://jo:s3#cret@h/d"]
    {
        let message = load(url).unwrap_err().to_string();
        assert!(message.contains("state.url: is no URL") && !message.contains("cret"), "{message}");
    }
}

#[test]
fn keys_of_the_admin_listener_go_together() {
    let admin = |lines: &str| load(&format!("[admin]\n{lines}"));
    for (lines, key, advice) in [
        ("authentication = [\"basic\"]", "admin.authentication", "htpasswd"),
        ("htpasswd = \"users\"", "admin.htpasswd", "no effect"),
        ("authentication = [\"certificate\"]", "admin.authentication", "client_certificate"),
        ("authentication = [\"proxy\"]", "admin.authentication", "trusted_proxies"),
        ("allow_users = [\"jo\"]", "admin.allow_users", "authentication"),
        ("certificate = \"cert.pem\"", "admin.key", "private key"),
        ("key = \"key.pem\"", "admin.key", "certificate"),
        ("client_ca = \"ca.pem\"", "admin.client_ca", "client_certificate"),
        (
            "listen = \"0.0.0.0:81\"\nauthentication = [\"basic\"]\nhtpasswd = \"users\"",
            "admin.authentication",
            "plain HTTP",
        ),
        ("authentication = [\"proxy\", \"proxy\"]", "admin.authentication", "twice"),
    ] {
        let message = admin(lines).unwrap_err();
        assert!(message.contains(key) && message.contains(advice), "{lines}: {message}");
    }
    let config = admin(
        "listen = \"0.0.0.0:81\"\nauthentication = [\"basic\", \"certificate\"]\nhtpasswd = \"users\"\n\
         certificate = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"ca.pem\"\nclient_certificate = \"optional\"",
    );
    let listener = config.unwrap().admin.listener().unwrap();
    assert!(listener.certificate.unwrap().is_absolute(), "paths start at the file's folder");
}
