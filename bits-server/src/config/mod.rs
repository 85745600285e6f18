//! The configuration: which keys there are, what they resolve to, and what is wrong with them.
//!
//! A TOML file, then the environment (`BITS__STATE__URL` for `state.url`), then flags. Nothing
//! here opens a database or binds an address.

mod access;
mod admin;
mod error;
mod keys;
mod layers;
mod listeners;
mod load;
mod log;
mod negotiate;
mod notification;
mod object;
mod reload;
mod secret;
mod setting;
mod show;
#[cfg(test)]
mod tests;
mod units;
mod webhooks;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bits_core::{Access, Directory, EventKind, Notification, PublishAt, Quota, StorageKey, StoreAs, UserPattern};
use http::StatusCode;
use ipnet::IpNet;

pub use access::{AuthScheme, CertificatePrincipal, UserHeader};
pub use error::{ConfigError, Location, Problem};
pub use keys::{Key, keys};
pub use load::{Overrides, process_environment};
pub use log::LogFilter;
pub use negotiate::NtlmDomain;
pub use notification::{NotificationType, NotificationUrl, PublicUrl};
pub use object::{ObjectUrl, StorageOptions};
pub use secret::Secret;
pub use setting::{ClientCertificate, HostName, PostgresUrl, StateUrl, StorageUrl, Sync, UrlPath};
pub use units::{Mode, Size, parse_duration};
pub use webhooks::WebhookUrl;

use keys::section;

/// What the server runs with. [`Config::load`] makes it; its `Display` is valid TOML without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses that take uploads; at least one, or one of `listeners`.
    pub listen: Vec<SocketAddr>,
    /// The root of the embedded defaults.
    pub data_dir: PathBuf,
    /// How long uploads under way may go on when the server is told to stop.
    pub shutdown_grace: Duration,
    /// What is logged, where `RUST_LOG` does not say it.
    pub log: LogFilter,
    /// Whether the kernel is asked to keep the process to the paths named here.
    pub confine: bool,
    /// Addresses and networks whose forwarded headers, user header and PROXY protocol are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Scheme and host that clients see.
    pub public_url: Option<PublicUrl>,
    /// More addresses that take uploads.
    pub listeners: Vec<ListenerConfig>,
    /// The admin listener.
    pub admin: Admin,
    /// Where sessions are kept.
    pub state: StateConfig,
    /// Where bytes are kept.
    pub storage: StorageConfig,
    /// What is allowed at once.
    pub limits: Limits,
    /// The virtual directories, at least one, no two of one `url_path`.
    pub directories: Vec<DirectoryConfig>,
    /// Who is told of what happens to sessions.
    pub webhooks: Vec<WebhookConfig>,
    /// Files that keys ending in `_file` were read from.
    pub secret_files: Vec<PathBuf>,
    /// Where it came from.
    pub source: Source,
}

/// Where a configuration came from, besides environment and flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// No file was named.
    Defaults,
    /// This file.
    File(PathBuf),
}

section! {
    /// The keys above all tables.
    struct Root in "";
    now {
        /// Addresses that take uploads in plain HTTP/1.1; `:0` picks a port of 127.0.0.1 and logs it.
        listen: Vec<SocketAddr> = "127.0.0.1:8080";
        /// The root of the embedded defaults.
        data_dir: PathBuf = "./bits-data";
        /// How long uploads under way may go on when the server is told to stop.
        shutdown_grace: Duration = "30s";
        /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or `target=level` pairs joined by commas. `RUST_LOG` in the environment stands above it.
        log: LogFilter = "info";
        /// Whether the kernel keeps the process to the paths named here, where it can (Linux, Landlock).
        confine: bool = "true";
        /// Addresses and networks whose forwarded headers, user header and PROXY protocol are believed.
        trusted_proxies: Vec<IpNet> = "";
        /// Scheme and host that clients see, where a proxy changes them.
        public_url: Option<PublicUrl> = "";
    }
}

section! {
    /// `[[listeners]]`: one more address that takes uploads, with TLS or rules of its own.
    pub struct ListenerConfig in "listeners";
    now {
        /// Where it listens.
        address: SocketAddr = "0.0.0.0:443";
        /// The certificate and those that lead from it to a known one, in PEM; empty is plain HTTP/1.1. Reread when it changes.
        certificate: Option<PathBuf> = "tls/cert.pem";
        /// The certificate's private key in PEM. Reread when it changes.
        key: Option<PathBuf> = "tls/key.pem";
        /// Authorities whose certificates clients may show. Reread when it changes.
        client_ca: Option<PathBuf> = "";
        /// What these authorities have revoked. Reread when it changes.
        client_crl: Option<PathBuf> = "";
        /// Whether clients are asked for a certificate: `none`, `optional` or `required`.
        client_certificate: ClientCertificate = "none";
        /// Whether every connection starts with a PROXY protocol header, of a trusted proxy only.
        proxy_protocol: bool = "false";
        /// Whether passwords are taken though anybody on the way can read them.
        allow_plain_basic: bool = "false";
    }
}

section! {
    /// `[admin]`: health, metrics, the page and its API, never on an upload listener.
    pub struct Admin in "admin";
    now {
        /// The address of the admin listener; empty turns it off. Beyond loopback it wants `authentication` for anything but `/healthz`, `/readyz` and `/metrics`.
        listen: Option<SocketAddr> = "127.0.0.1:8081";
        /// The certificate and those that lead from it to a known one, in PEM; empty is plain HTTP/1.1. Reread when it changes.
        certificate: Option<PathBuf> = "";
        /// The certificate's private key in PEM. Reread when it changes.
        key: Option<PathBuf> = "";
        /// Authorities whose certificates clients may show. Reread when it changes.
        client_ca: Option<PathBuf> = "";
        /// What these authorities have revoked. Reread when it changes.
        client_crl: Option<PathBuf> = "";
        /// Whether clients are asked for a certificate: `none`, `optional` or `required`.
        client_certificate: ClientCertificate = "none";
        /// Ways to log in, in the order offered: `basic`, `certificate`, `proxy`; none: nobody is asked.
        authentication: Vec<AuthScheme> = "";
        /// The file of users and passwords for `basic`, with hashes by argon2id or bcrypt.
        htpasswd: Option<PathBuf> = "";
        /// What names the user of a certificate: `san`, its first user principal name, e-mail address or DNS name, or `subject`.
        certificate_principal: CertificatePrincipal = "san";
        /// The header in which one of `trusted_proxies` names the user.
        proxy_user_header: UserHeader = "X-Remote-User";
        /// Patterns of users who may see and cancel, with `*`; none: everyone who is logged in.
        allow_users: Vec<UserPattern> = "";
        /// How many events the page remembers, the newest of the last 30 days.
        history: u32 = "10000";
    }
}

section! {
    /// `[state]`: where sessions are kept.
    pub struct StateConfig in "state";
    now {
        /// The database: `sqlite:` is `data_dir/state.db`, or `sqlite:PATH`, or
        /// `postgres://USER:PASSWORD@HOST/DATABASE`. A password in it is hidden as a secret is.
        url: StateUrl = "sqlite:";
        /// Whether `serve` brings an old database up to date; by default with SQLite, not with PostgreSQL.
        migrate: Option<bool> = "";
    }
}

section! {
    /// `[storage]`: where bytes are kept.
    pub struct StorageConfig in "storage";
    now {
        /// The storage: `file:` is `data_dir/files`, or `file:PATH`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`.
        url: StorageUrl = "file:";
        /// When bytes are forced to stable storage: `checkpoint`, or `fragment` before every ack.
        sync: Sync = "checkpoint";
        /// Space that is kept free on the local disk; below it uploads are refused as disk full.
        reserve_free: Size = "1GiB";
        /// What uploads to an object store may hold in memory together; a quarter of it bounds a part.
        memory: Size = "256MiB";
        /// Options of object stores, such as `endpoint`, `region` and credentials; `NAME_file` reads one from a file.
        options: StorageOptions = "";
    }
}

section! {
    /// `[limits]`: what is allowed at once.
    pub struct Limits in "limits";
    now {
        /// Connections open at once; above, the answer is 503.
        connections: Option<u32> = "10000";
        /// Connections open at once from one address or IPv6 network of 64 bits; above, the answer is 503.
        connections_per_address: Option<u32> = "unlimited";
        /// How long a request's head may take.
        header_timeout: Duration = "30s";
        /// How long a body may send no byte before its connection is closed, the bytes kept.
        idle_timeout: Duration = "2m";
        /// Failed logins from one address before it is answered 429 for a minute.
        failed_logins_per_minute: Option<u32> = "30";
        /// Bytes per second below which a body is cut off after 30 s, at least 1 KiB.
        minimum_rate: Option<Size> = "unlimited";
        /// Bytes per second of all uploads together, at least 64 KiB.
        bandwidth: Option<Size> = "unlimited";
    }
}

section! {
    /// `[[directories]]`: a virtual directory. The longest `url_path` wins.
    pub struct DirectoryConfig in "directories";
    now {
        /// The path that it answers for, compared without regard to ASCII case.
        url_path: UrlPath = "/upload";
        /// The folder below the storage; empty is `url_path` without its slashes.
        storage_path: StorageKey = "";
        /// The name of a published upload, from `{path}`, `{user}`, `{date}` and `{session}`.
        store_as: StoreAs = "{path}";
        /// Whether uploads are taken.
        upload_enabled: bool = "true";
        /// Whether published files can be fetched; only where `store_as` is `{path}`.
        download_enabled: bool = "false";
        /// The largest upload.
        maximum_upload_size: Option<Size> = "unlimited";
        /// The largest fragment, at least 5 KiB.
        maximum_fragment_size: Option<Size> = "64MiB";
        /// Whether an upload may replace what stands at its destination.
        allow_overwrites: bool = "false";
        /// Whether missing folders are made.
        create_directories: bool = "true";
        /// Permissions of published files.
        file_mode: Mode = "0640";
        /// Permissions of folders that are made.
        folder_mode: Mode = "2750";
        /// How long a session without progress is kept.
        session_timeout: Duration = "14d";
        /// Unfinished sessions of an authenticated user in this directory; anonymous callers have no limit.
        session_limit_per_user: Option<u32> = "50";
        /// Bytes of an authenticated user's unfinished uploads here, by their full sizes.
        unfinished_bytes_per_user: Option<Size> = "unlimited";
        /// Bytes of all unfinished uploads here, by their full sizes.
        unfinished_bytes: Option<Size> = "unlimited";
        /// How often what has expired is removed.
        cleanup_interval: Duration = "12h";
        /// When an upload appears at its destination: `last-fragment` or `close-session`.
        publish: PublishAt = "last-fragment";
        /// The answer where the destination exists: 403 or 409.
        conflict_status: StatusCode = "403";
        /// How the server application is told of an upload: `none`, `by-reference` or `by-value`.
        notification_type: NotificationType = "none";
        /// Where the server application is; a relative URL resolves against the upload's. Its query is hidden as a secret is.
        notification_url: NotificationUrl = "";
        /// How long the server application may take: for the request, its answer's head and its body, each.
        notification_timeout: Duration = "4m30s";
        /// How many uploads the server application is told of at once; the others wait in their order.
        notification_limit: Option<u32> = "100";
        /// The host that clients should go on with, a name or address without port.
        host_id: Option<HostName> = "";
        /// When clients should stop trying that host.
        host_id_fallback_timeout: Duration = "1d";
        /// Ways to log in, in the order offered: `basic`, `negotiate`, `certificate`, `proxy`;
        /// none: every caller is anonymous.
        authentication: Vec<AuthScheme> = "";
        /// The file of users and passwords for `basic`, with hashes by argon2id or bcrypt.
        htpasswd: Option<PathBuf> = "";
        /// What names the user of a certificate: `san`, its first user principal name, e-mail address or DNS name, or `subject`.
        certificate_principal: CertificatePrincipal = "san";
        /// The header in which one of `trusted_proxies` names the user.
        proxy_user_header: UserHeader = "X-Remote-User";
        /// The key table for `negotiate`, one for the whole server.
        negotiate_keytab: Option<PathBuf> = "";
        /// Kerberos realms that `negotiate` takes users from; none: the server's own.
        negotiate_realms: Vec<String> = "";
        /// NTLM domains that `negotiate` takes users from, each with its realm: `CORP=corp.example`;
        /// none: no NTLM.
        negotiate_ntlm_domains: Vec<NtlmDomain> = "";
        /// The file of NTLM users, one for the whole server; empty: winbind knows them.
        negotiate_ntlm_users: Option<PathBuf> = "";
        /// Patterns of users who may use the directory, with `*`; none: everyone who is logged in.
        allow_users: Vec<UserPattern> = "";
        /// Whether each user has a folder below `storage_path`.
        per_user_folder: bool = "false";
        /// Another storage for this directory.
        storage_url: Option<StorageUrl> = "";
    }
}

section! {
    /// `[[webhooks]]`: somebody who is told of what happens to sessions.
    pub struct WebhookConfig in "webhooks";
    now {
        /// Where events are sent, over HTTP or HTTPS. Its query is hidden as a secret is.
        url: Option<WebhookUrl> = "";
        /// What logs call it and its pending events are kept under; empty is made from the URL, and changes with it.
        name: String = "";
        /// What is told: `session.created`, `upload.completed`, `session.cancelled`, `session.expired`, `notification.failed`; none: all.
        events: Vec<EventKind> = "";
        /// The `url_path`s of the directories that are told of; none: all.
        directories: Vec<UrlPath> = "";
        /// The key of the HMAC-SHA256 that signs each request; empty: not signed.
        secret: Option<Secret> = "";
        /// How long one try may take.
        timeout: Duration = "30s";
        /// How long an event that is not taken is kept.
        maximum_age: Duration = "7d";
        /// How many events that are not taken are kept, the newest.
        maximum_pending: u32 = "100000";
    }
}

impl DirectoryConfig {
    /// The directory as the protocol sees it, with its files in the storage of that name.
    pub fn directory(&self, storage: &str) -> Directory {
        let bytes = |size: Option<Size>| size.map_or(u64::MAX, |size| size.0);
        let host = |host: &HostName| (host.as_str().to_owned(), self.host_id_fallback_timeout);
        Directory {
            url_path: self.url_path.as_str().to_owned(),
            storage: storage.to_owned(),
            storage_path: self.storage_path.clone(),
            store_as: self.store_as.clone(),
            upload_enabled: self.upload_enabled,
            download_enabled: self.download_enabled,
            maximum_upload_size: bytes(self.maximum_upload_size),
            maximum_fragment_size: bytes(self.maximum_fragment_size),
            allow_overwrites: self.allow_overwrites,
            create_directories: self.create_directories,
            file_mode: self.file_mode.0,
            folder_mode: self.folder_mode.0,
            session_timeout: self.session_timeout,
            session_limit_per_user: self.session_limit_per_user,
            quota: Quota {
                per_user: self.unfinished_bytes_per_user.map(|size| size.0),
                directory: self.unfinished_bytes.map(|size| size.0),
            },
            publish: self.publish,
            conflict_status: self.conflict_status,
            host_id: self.host_id.as_ref().map(host),
            notification: self.notification_type.0.map(|mode| Notification {
                mode,
                url: self.notification_url.as_str().to_owned(),
                timeout: self.notification_timeout,
                limit: self.notification_limit,
            }),
            public_url: None,
            access: self.access(),
            per_user_folder: self.per_user_folder,
        }
    }

    fn access(&self) -> Access {
        access::admitted(&self.authentication, &self.allow_users)
    }
}
