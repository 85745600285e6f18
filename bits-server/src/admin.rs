//! The admin listener: `/healthz`, `/readyz` and `/metrics`.

use std::{convert::Infallible, time::Duration};

use bits_engine::Engine;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics,
    serve::{Phase, Stopping},
};

/// Connections at once; probes need few.
const CONNECTIONS: usize = 64;
/// How long a store may take to answer a probe.
const CHECK_TIME: Duration = Duration::from_secs(5);
/// The type of what Prometheus reads.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The longest that one connection is kept.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// Answers probes until `end`: also while the server is stopping.
pub(crate) async fn serve(listener: TcpListener, engine: Engine, stopping: Stopping, end: CancellationToken) {
    let room = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let (engine, stopping, end) = (engine.clone(), stopping.clone(), end.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| answer(request, &engine, &stopping));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10)).max_buf_size(16 * 1024);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = tokio::time::timeout(CONNECTION_TIME, connection) => {}
                () = end.cancelled() => {}
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    engine: &Engine,
    stopping: &Stopping,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"));
    }
    Ok(match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => ready(engine, stopping).await,
        "/metrics" => counts(),
        _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n"),
    })
}

async fn ready(engine: &Engine, stopping: &Stopping) -> Response<Full<Bytes>> {
    if stopping.phase() != Phase::Serving {
        return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match tokio::time::timeout(CHECK_TIME, engine.check()).await {
        Ok(failures) if failures.is_empty() => text(StatusCode::OK, "ready\n"),
        Ok(failures) => {
            let lines: String = failures.iter().map(|(store, reason)| format!("{store}: {reason}\n")).collect();
            text(StatusCode::SERVICE_UNAVAILABLE, lines)
        }
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "a store did not answer within 5 s\n"),
    }
}

fn counts() -> Response<Full<Bytes>> {
    match metrics::render() {
        Some(counted) => {
            let mut response = text(StatusCode::OK, counted);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROMETHEUS));
            response
        }
        None => text(StatusCode::NOT_FOUND, "nothing is counted by this server\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
