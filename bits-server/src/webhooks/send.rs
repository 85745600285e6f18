//! One try of one delivery over HTTP.

use std::time::{Duration, SystemTime};

use bits_core::Delivery;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Client, Response, Url, redirect};

use super::{Signer, Webhook, cloud_event};

/// Headers of the Standard Webhooks specification.
const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

/// How much of an answer is read so that its connection can be used again.
const MOST_READ: usize = 64 * 1024;
const READ_TIME: Duration = Duration::from_secs(2);
/// How long a connection without use is kept.
const IDLE_TIME: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("bits-server/", env!("CARGO_PKG_VERSION"));

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The receiver has it.
    Arrived,
    /// It is to be tried again.
    Failed {
        /// What went wrong, for people; without secrets.
        reason: String,
        /// When the receiver wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The receiver wants nothing any more: 410.
    Gone,
}

/// Sends deliveries to one webhook.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    http: Client,
    url: Url,
    signer: Option<Signer>,
}

impl Sender {
    /// The error names the webhook.
    pub(super) fn new(webhook: &Webhook) -> Result<Self, String> {
        // Another part of the process may have chosen the same one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder()
            .redirect(redirect::Policy::none())
            .timeout(webhook.timeout)
            .pool_idle_timeout(IDLE_TIME)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| format!("webhook {}: {}", webhook.name, chain(error)))?;
        Ok(Self { http, url: webhook.url.clone(), signer: webhook.signer.clone() })
    }

    pub(super) async fn send(&self, delivery: &Delivery) -> Outcome {
        let (id, body) = (delivery.event_id(), cloud_event::body(delivery));
        let request = self.http.post(self.url.clone()).headers(self.headers(&id, now(), &body)).body(body);
        match request.send().await {
            Ok(response) => {
                let outcome = judge(response.status(), response.headers());
                finish(response).await;
                outcome
            }
            Err(error) => Outcome::Failed { reason: chain(error), retry_after: None },
        }
    }

    fn headers(&self, id: &str, now: u64, body: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(cloud_event::MEDIA_TYPE));
        headers.insert(TIMESTAMP, now.into());
        // Ids are of plain letters.
        if let Ok(id) = HeaderValue::from_str(id) {
            headers.insert(ID, id);
        }
        let signature = self.signer.as_ref().and_then(|signer| signer.sign(id, now, body).parse().ok());
        if let Some(signature) = signature {
            headers.insert(SIGNATURE, signature);
        }
        headers
    }
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Outcome {
    if status.is_success() {
        return Outcome::Arrived;
    }
    if status == StatusCode::GONE {
        return Outcome::Gone;
    }
    let advice =
        if status.is_redirection() { "; redirects are not followed: configure the URL that it names" } else { "" };
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Outcome::Failed { reason: format!("answered {status}{advice}"), retry_after: seconds.map(Duration::from_secs) }
}

/// Reads an answer to its end where that is cheap.
async fn finish(mut response: Response) {
    let read = async {
        let mut length = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            length += chunk.len();
            if length > MOST_READ {
                return;
            }
        }
    };
    // What is not read costs a connection and nothing else.
    let _ = tokio::time::timeout(READ_TIME, read).await;
}

/// The error and its causes on one line, without the URL.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.escape_debug().to_string()
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_their_status() {
        let none = HeaderMap::new();
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(judge(StatusCode::from_u16(status).unwrap(), &none), Outcome::Arrived, "{status}");
        }
        assert_eq!(judge(StatusCode::GONE, &none), Outcome::Gone);
        for status in [300, 301, 302, 307, 308, 400, 401, 404, 405, 408, 413, 429, 500, 501, 503, 599] {
            let outcome = judge(StatusCode::from_u16(status).unwrap(), &none);
            let Outcome::Failed { reason, retry_after: None } = outcome else { panic!("{status}: {outcome:?}") };
            assert!(reason.contains(&status.to_string()), "{reason}");
            assert_eq!(reason.contains("redirects"), status < 400, "{reason}");
        }
    }

    #[test]
    fn receivers_may_say_when() {
        for (value, expected) in [
            ("7", Some(Duration::from_secs(7))),
            (" 0 ", Some(Duration::ZERO)),
            ("-1", None),
            ("99999999999999999999999", None),
            ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ] {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(value))]);
            let outcome = judge(StatusCode::SERVICE_UNAVAILABLE, &headers);
            assert!(matches!(&outcome, Outcome::Failed { retry_after, .. } if *retry_after == expected), "{outcome:?}");
        }
    }
}
