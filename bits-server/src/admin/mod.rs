//! The admin listener: `/healthz`, `/readyz` and `/metrics` for everyone, the page and the API for
//! whom `access` lets in.

mod access;
mod answer;
mod api;
mod console;
pub(crate) mod describe;
mod page;
mod plot;
mod tally;
mod watch;
mod words;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use self::{
    access::{Gate, Refused},
    answer::{Answer, problem, text},
};
pub use self::{
    console::{Console, History},
    watch::Watch,
};
use crate::{
    forwarded::TrustedProxies,
    metrics,
    peer::Peer,
    serve::{Live, Phase, Stopping},
    socket::{Activity, Socket, Transport},
    tls::Tls,
};

/// Connections at once; probes, scrapers and people need few.
const CONNECTIONS: usize = 128;
/// How long a store may take to answer a probe.
const CHECK_TIME: Duration = Duration::from_secs(5);
/// How long a head may take, a connection be idle, and TLS begin.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a client may take nothing of an answer.
const STALLED_TIME: Duration = Duration::from_secs(30);
/// The longest that one connection is kept.
const CONNECTION_TIME: Duration = Duration::from_secs(60 * 60);
/// The type of what Prometheus reads.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The listener for health, metrics, and what operators see and do.
#[derive(Debug)]
pub struct AdminListener {
    /// Where connections come from.
    pub socket: TcpListener,
    /// TLS; none is plain HTTP/1.1.
    pub tls: Option<Arc<Tls>>,
    /// What there is besides health and metrics.
    pub console: Option<Console>,
}

impl From<TcpListener> for AdminListener {
    /// Health and metrics in plain HTTP/1.1.
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None, console: None }
    }
}

/// Answers until `end`: also while the server is stopping.
pub(crate) async fn serve(
    listener: AdminListener,
    live: Live,
    proxies: TrustedProxies,
    stopping: Stopping,
    end: CancellationToken,
) {
    let AdminListener { socket, tls, console } = listener;
    let Ok(address) = socket.local_addr() else { return };
    let gate = Gate { proxies, address: address.ip() };
    let service = Arc::new(Service { live, console: console.clone(), gate, stopping, end: end.clone() });
    if let Some(console) = console {
        tokio::spawn(console.keep_short(end.clone()));
    }
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = end.cancelled() => return,
        };
        let Ok((stream, address)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let (service, tls, end) = (service.clone(), tls.clone(), end.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let connection = service.connection(stream, Peer::plain(address), tls);
            let _ = end.run_until_cancelled(tokio::time::timeout(CONNECTION_TIME, connection)).await;
        });
    }
}

/// What answers requests.
struct Service {
    live: Live,
    console: Option<Console>,
    gate: Gate,
    stopping: Stopping,
    end: CancellationToken,
}

impl Service {
    async fn connection(self: Arc<Self>, stream: TcpStream, mut peer: Peer, tls: Option<Arc<Tls>>) {
        let _ = stream.set_nodelay(true);
        peer.trusted_proxy = self.gate.proxies.contains(peer.address);
        let transport = match tls {
            None => Transport::Plain(stream),
            Some(tls) => {
                let accepted = tokio::time::timeout(HEAD_TIME, tls.acceptor().accept(stream)).await;
                let Ok(Ok(stream)) = accepted else { return };
                let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
                peer.certificates = shown.iter().map(|certificate| certificate.to_vec()).collect();
                peer.secure = true;
                Transport::Tls(Box::new(stream))
            }
        };
        let socket = Socket::new(transport, bytes::Bytes::new(), Arc::new(Activity::default()), STALLED_TIME);
        let answer = service_fn(|request| self.answer(request, peer.clone()));
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(16 * 1024);
        let _ = builder.serve_connection(TokioIo::new(socket), answer).await;
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Result<Answer, Infallible> {
        let (head, _) = request.into_parts();
        let Some(route) = Route::of(head.uri.path()) else { return Ok(nothing()) };
        if !route.takes(&head.method) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {}\n", route.methods()));
            if let Ok(methods) = HeaderValue::from_str(route.methods()) {
                refused.headers_mut().insert(header::ALLOW, methods);
            }
            return Ok(refused);
        }
        Ok(match (&route, &self.console) {
            (Route::Health, _) => text(StatusCode::OK, "ok\n"),
            (Route::Ready, _) => self.ready().await,
            (Route::Metrics, console) => {
                if let Some(console) = console {
                    console.measure().await;
                }
                counts()
            }
            (_, None) => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n"),
            (_, Some(console)) => self.console(route, console, &head, peer).await,
        })
    }

    async fn console(&self, route: Route<'_>, console: &Console, head: &Parts, peer: Peer) -> Answer {
        let settings = self.live.now();
        let proof = match self.gate.admit(&settings.authentication, head, peer).await {
            Ok(proof) => proof,
            Err(refused) => return refuse(&route, refused),
        };
        let who = proof.principal.to_string();
        let console = &console.at(&settings.engine);
        let mut answer = match route {
            Route::Page => page::overview(console, head.uri.query().unwrap_or_default()).await,
            Route::Detail(id) => page::detail(console, id).await,
            Route::CancelPage(id) if head.method == Method::POST => page::cancel(console, id, &who).await,
            Route::CancelPage(id) => page::confirm(console, id).await,
            Route::Asset(name) => page::asset(name).unwrap_or_else(nothing),
            Route::Sessions => api::list(console, head.uri.query().unwrap_or_default()).await,
            Route::Session(Some(id)) if head.method == Method::DELETE => api::cancel(console, id, &who).await,
            Route::Session(Some(id)) => api::show(console, id).await,
            Route::Cancel(Some(id)) => api::cancel(console, id, &who).await,
            Route::Events => api::events(console, self.end.clone()),
            Route::Description => api::description(),
            Route::Session(None) | Route::Cancel(None) => problem(StatusCode::NOT_FOUND, "that is no session's id"),
            Route::Health | Route::Ready | Route::Metrics => text(StatusCode::NOT_FOUND, ""),
        };
        proof.complete(&mut answer);
        answer
    }

    async fn ready(&self) -> Answer {
        if self.stopping.phase() != Phase::Serving {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
        }
        let settings = self.live.now();
        let failures = settings.engine.check(CHECK_TIME).await;
        if failures.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        let lines: String = failures.iter().map(|(store, reason)| format!("{store}: {reason}\n")).collect();
        text(StatusCode::SERVICE_UNAVAILABLE, lines)
    }
}

/// What a path stands for.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Health,
    Ready,
    Metrics,
    Page,
    /// None: no id of a session.
    Detail(Option<bits_core::SessionId>),
    CancelPage(Option<bits_core::SessionId>),
    Asset(&'a str),
    Sessions,
    Session(Option<bits_core::SessionId>),
    Cancel(Option<bits_core::SessionId>),
    Events,
    Description,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        Some(match path.split('/').skip(1).collect::<Vec<_>>()[..] {
            ["healthz"] => Self::Health,
            ["readyz"] => Self::Ready,
            ["metrics"] => Self::Metrics,
            [""] => Self::Page,
            ["sessions", id] => Self::Detail(api::parse_id(id)),
            ["sessions", id, "cancel"] => Self::CancelPage(api::parse_id(id)),
            ["assets", name] => Self::Asset(name),
            ["api", "sessions"] => Self::Sessions,
            ["api", "sessions", id] => Self::Session(api::parse_id(id)),
            ["api", "sessions", id, "cancel"] => Self::Cancel(api::parse_id(id)),
            ["api", "events"] => Self::Events,
            ["api", "openapi.json"] => Self::Description,
            _ => return None,
        })
    }

    fn methods(&self) -> &'static str {
        match self {
            Self::Session(_) => "GET, HEAD, DELETE",
            Self::Cancel(_) => "POST",
            Self::CancelPage(_) => "GET, HEAD, POST",
            _ => "GET, HEAD",
        }
    }

    /// Whether people read the answer.
    fn is_page(&self) -> bool {
        matches!(self, Self::Page | Self::Detail(_) | Self::CancelPage(_))
    }

    fn takes(&self, method: &Method) -> bool {
        self.methods().split(", ").any(|name| name == method.as_str())
    }
}

fn nothing() -> Answer {
    text(StatusCode::NOT_FOUND, "there is nothing here; / is the page\n")
}

fn refuse(route: &Route<'_>, refused: Refused) -> Answer {
    let (status, reason) = (refused.status(), refused.reason());
    let mut answer = match route.is_page() {
        true => text(status, format!("{reason}\n")),
        false => problem(status, &reason),
    };
    if let Refused::Login(denial) = refused {
        denial.complete(&mut answer);
    }
    answer
}

fn counts() -> Answer {
    match metrics::render() {
        Some(counted) => answer::whole(StatusCode::OK, PROMETHEUS, counted),
        None => text(StatusCode::NOT_FOUND, "nothing is counted by this server\n"),
    }
}
