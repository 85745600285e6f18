//! The way to the collector: OTLP over HTTP, from a thread of its own.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use tokio::runtime::Handle;

/// What the specification says where the environment does not.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Answers are short; the rest of a longer one is not read.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Sends requests by the server's own HTTP client, on its runtime.
#[derive(Debug)]
pub(super) struct Http {
    client: reqwest::Client,
    runtime: Handle,
    failing: AtomicBool,
}

pub(super) fn exporter(http: Http) -> Result<SpanExporter, String> {
    let exporter = SpanExporter::builder().with_http().with_http_client(http).with_protocol(Protocol::HttpBinary);
    exporter.build().map_err(|error| format!("traces cannot be sent: OTEL_EXPORTER_OTLP_*: {error}"))
}

impl Http {
    /// To be called within the runtime.
    pub(super) fn new() -> Result<Self, String> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(timeout()?).redirect(reqwest::redirect::Policy::none());
        let client = client.build().map_err(|error| format!("traces cannot be sent: {error}"))?;
        Ok(Self { client, runtime: Handle::current(), failing: AtomicBool::new(false) })
    }

    /// Tells once that it begins to fail, and once that it does no more.
    fn tell(&self, outcome: &Result<Response<Bytes>, HttpError>) {
        let failure = match outcome {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        let failed_before = self.failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(reason) if !failed_before => {
                tracing::warn!(reason, "the collector takes no traces; they are dropped until it does");
            }
            None if failed_before => tracing::info!("the collector takes traces again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        // Whoever asks is on no thread of the runtime's.
        let sending = self.runtime.spawn(async move { exchange(&client, request).await });
        let outcome = sending.await.unwrap_or_else(|error| Err(error.into()));
        self.tell(&outcome);
        outcome
    }
}

async fn exchange(client: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let mut response = client.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = response.status();
    *answer.headers_mut() = response.headers().clone();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > LONGEST_ANSWER {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(answer.map(|_| body.into()))
}

/// How long an export may take, by the environment in milliseconds.
fn timeout() -> Result<Duration, String> {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"] {
        if let Some(value) = env::var(name).ok().filter(|value| !value.is_empty()) {
            let millis = value.parse().map_err(|_| format!("{name}: {value:?} is no number of milliseconds"))?;
            return Ok(Duration::from_millis(millis));
        }
    }
    Ok(TIMEOUT)
}
