//! A server application, and a process that tells it of uploads.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bits_core::{Notification, header};
use bits_engine::{Answer, Notice, Notifier, NotifyError};
use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::fuse::Fuse;

#[derive(Default)]
pub(crate) struct Application {
    /// Whether what it takes is to be published too.
    pub(crate) copies: bool,
    pub(crate) fails: AtomicBool,
    /// What it took.
    pub(crate) took: Mutex<Vec<Vec<u8>>>,
}

pub(crate) struct Teller {
    pub(crate) application: Arc<Application>,
    pub(crate) process: Arc<Fuse>,
}

#[async_trait]
impl Notifier for Teller {
    fn target(&self, notification: &Notification, _upload: &str) -> Result<String, String> {
        Ok(notification.url.clone())
    }

    async fn send(&self, notice: Notice) -> Result<Answer, NotifyError> {
        let broken = || NotifyError::Unreachable("the connection broke".to_owned());
        self.process.pass().await.map_err(|_| broken())?;
        let (_, body) = notice.body.expect("it is told by value");
        let body: Vec<Bytes> = body.try_collect().await.map_err(|_| broken())?;
        let mut answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: Box::pin(stream::empty()) };
        if self.application.fails.load(Ordering::SeqCst) {
            answer.status = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(answer);
        }
        self.application.took.lock().unwrap().push(body.concat());
        self.process.pass().await.map_err(|_| broken())?;
        if self.application.copies {
            answer.headers.insert(header::COPY_FILE_TO_DESTINATION, HeaderValue::from_static(""));
        }
        answer.body = Box::pin(stream::iter([Ok(Bytes::from_static(b"a reply"))]));
        Ok(answer)
    }
}
