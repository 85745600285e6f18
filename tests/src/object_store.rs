//! Object stores of a test's own: Ceph's gateway and a small server for S3, Azurite for Azure.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;

use crate::ports::Port;

const BUCKET: &str = "bucket";
const ACCESS_KEY: &str = "ACCESSKEY";
const SECRET_KEY: &str = "SECRETKEY";
/// The account that Azurite knows, with its published key.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// s3s-fs keeps an object's metadata in a file whose name holds the object's in base64, and forgets
/// it where that is too long.
const LONGEST_FILE_KEY: usize = 129;

/// An object store, with a prefix that no other test has.
#[derive(Clone, Debug)]
pub struct ObjectStore {
    /// Which program it is.
    pub name: &'static str,
    /// The URL for `storage.url`.
    pub url: String,
    /// The options for `[storage.options]`.
    pub options: Vec<(&'static str, String)>,
    /// Bytes of the longest name, where that is less than what stores of its kind take.
    pub longest_key: Option<usize>,
    address: SocketAddr,
    folder: Option<Arc<tempfile::TempDir>>,
}

impl ObjectStore {
    /// Ceph's gateway, one for all tests of the process.
    pub fn ceph() -> Self {
        static CEPH: LazyLock<Process> = LazyLock::new(Process::ceph);
        Self::s3("Ceph", CEPH.address())
    }

    /// A small S3 server within the process, whose files go with this and its clones.
    pub fn small() -> Self {
        Self::files(true)
    }

    /// The same, which asks nobody for credentials.
    pub fn open_to_all() -> Self {
        let mut store = Self::files(false);
        store.options.retain(|(name, _)| !name.contains("key"));
        store.set("skip_signature", "true");
        store
    }

    /// Azurite, one for all tests of the process.
    pub fn azurite() -> Self {
        static AZURITE: LazyLock<Process> = LazyLock::new(Process::azurite);
        let address = AZURITE.address();
        let options = vec![
            ("endpoint", format!("http://{address}/{AZURE_ACCOUNT}")),
            ("account_name", AZURE_ACCOUNT.to_owned()),
            ("account_key", AZURE_KEY.to_owned()),
            ("allow_http", "true".to_owned()),
        ];
        Self {
            name: "Azurite",
            url: format!("az://{BUCKET}/{}", fresh_prefix()),
            options,
            longest_key: None,
            address,
            folder: None,
        }
    }

    fn files(with_keys: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("bits-test-s3-").tempdir().expect("there is a folder");
        let mut store = Self::s3("s3s-fs", serve_files(folder.path(), with_keys));
        store.folder = Some(Arc::new(folder));
        store.longest_key = Some(LONGEST_FILE_KEY);
        store
    }

    fn s3(name: &'static str, address: SocketAddr) -> Self {
        let options = vec![
            ("endpoint", format!("http://{address}")),
            ("region", "us-east-1".to_owned()),
            ("access_key_id", ACCESS_KEY.to_owned()),
            ("secret_access_key", SECRET_KEY.to_owned()),
            ("allow_http", "true".to_owned()),
        ];
        Self {
            name,
            url: format!("s3://{BUCKET}/{}", fresh_prefix()),
            options,
            longest_key: None,
            address,
            folder: None,
        }
    }

    /// Where the store listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same store reached by another address, such as a proxy's.
    #[must_use]
    pub fn through(mut self, address: SocketAddr) -> Self {
        let old = self.address.to_string();
        for (_, value) in self.options.iter_mut().filter(|(name, _)| *name == "endpoint") {
            *value = value.replace(&old, &address.to_string());
        }
        self
    }

    /// Sets an option.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.options.retain(|(other, _)| *other != name);
        self.options.push((name, value.to_owned()));
    }

    /// The lines of a configuration that name it.
    pub fn lines(&self) -> String {
        let options: String = self.options.iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
        format!("[storage]\nurl = {:?}\n[storage.options]\n{options}\n", self.url)
    }
}

fn fresh_prefix() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A server that ends when its input does, which is when this process ends, however that does.
struct Process {
    port: Port,
    _input: ChildStdin,
    _child: Child,
}

impl Process {
    fn ceph() -> Self {
        let port = Port::reserve();
        let folder = std::env::temp_dir().join(format!("bits-test-ceph-{}", port.number));
        let mut script = Command::new("bash");
        script.arg("-c").arg(include_str!("ceph.sh")).arg("ceph.sh").arg(folder).arg(port.number.to_string());
        Self::start(script, port)
    }

    fn azurite() -> Self {
        let port = Port::reserve();
        let folder = std::env::temp_dir().join(format!("bits-test-azurite-{}", port.number));
        let mut script = Command::new("bash");
        script.arg("-c").arg(include_str!("azurite.sh")).arg("azurite.sh").arg(folder).arg(port.number.to_string());
        script.env("AZURITE", azurite());
        script.env("ACCOUNT", AZURE_ACCOUNT).env("KEY", AZURE_KEY).env("CONTAINER", BUCKET);
        Self::start(script, port)
    }

    fn start(mut script: Command, port: Port) -> Self {
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash runs");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output is read");
        BufReader::new(output).read_line(&mut line).expect("it says something");
        assert_eq!(line.trim(), "ready", "an object store does not start");
        let _input = child.stdin.take().expect("its input is held");
        Self { port, _input, _child: child }
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.number).into()
    }
}

fn azurite() -> PathBuf {
    let path = std::env::var_os("BITS_AZURITE").expect("BITS_AZURITE names the program; `cargo xtask test` sets it");
    PathBuf::from(path)
}

/// Serves a folder as a bucket, on a thread that ends with the process, one request at a time: s3s-fs
/// decides no races, and lists nothing while it is changed.
fn serve_files(folder: &std::path::Path, with_keys: bool) -> SocketAddr {
    std::fs::create_dir(folder.join(BUCKET)).expect("the bucket is new");
    let mut builder = S3ServiceBuilder::new(FileSystem::new(folder).expect("the folder is there"));
    if with_keys {
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    }
    let files = Files { service: builder.build(), turns: Arc::default() };
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("there are threads").block_on(async move {
            let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
            tell.send(listener.local_addr().expect("it listens")).expect("somebody waits");
            while let Ok((stream, _)) = listener.accept().await {
                let files = files.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| files.clone().answer(request));
                    let connection = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    let _ = connection.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
                });
            }
        });
    });
    told.recv().expect("it listens")
}

#[derive(Clone)]
struct Files {
    service: S3Service,
    turns: Arc<tokio::sync::Mutex<()>>,
}

impl Files {
    async fn answer(
        self,
        request: hyper::Request<hyper::body::Incoming>,
    ) -> Result<hyper::Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let is_head = request.method() == hyper::Method::HEAD;
        let wanted = request.headers().get(hyper::header::IF_MATCH).cloned();
        let is_read = request.method() == hyper::Method::GET;
        let is_of_parts = request.uri().query().is_some_and(|query| query.contains("uploadId="));
        // A client that is slow or cut off holds up nobody.
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let _turn = self.turns.lock().await;
        let answer = self.service.call(hyper::Request::from_parts(head, s3s::Body::from(body))).await;
        let (mut head, body) = answer.map_err(|error| format!("{error:?}"))?.into_parts();
        // It takes the folders that it keeps objects in for objects that are broken.
        if is_head && head.status.is_server_error() {
            head.status = hyper::StatusCode::NOT_FOUND;
        }
        let mut body = body.collect().await?.to_bytes();
        // It refuses access to a multipart upload that it does not know.
        if is_of_parts && head.status == hyper::StatusCode::FORBIDDEN {
            head.status = hyper::StatusCode::NOT_FOUND;
            head.headers.clear();
            body = Bytes::from_static(b"<Error><Code>NoSuchUpload</Code></Error>");
        }
        // It reads whatever stands there, also where a tag is asked for.
        let tag = head.headers.get(hyper::header::ETAG);
        if is_read && head.status.is_success() && wanted.is_some_and(|wanted| tag != Some(&wanted)) {
            head.status = hyper::StatusCode::PRECONDITION_FAILED;
            head.headers.clear();
            body = Bytes::new();
        }
        Ok(hyper::Response::from_parts(head, Full::new(body)))
    }
}
