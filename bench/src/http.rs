//! A bare HTTP service of the same parts as the server. It stores a body by positional writes on
//! blocking threads while the next bytes are received, or drops it.

use std::{
    convert::Infallible,
    fs::File,
    io,
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, spawn_blocking},
};

use crate::Result;

/// Bytes of one write.
const BATCH: usize = 512 << 10;

pub(crate) async fn serve(listen: SocketAddr, folder: Option<PathBuf>) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let folder = Arc::new(folder);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let folder = folder.clone();
        let service = service_fn(move |request| answer(folder.clone(), request));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BATCH);
        // A connection that breaks is its client's to notice.
        tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await });
    }
}

async fn answer(
    folder: Arc<Option<PathBuf>>,
    request: Request<Incoming>,
) -> std::result::Result<Response<Empty<Bytes>>, Infallible> {
    let stored = match folder.as_deref() {
        Some(folder) => store(folder, request).await,
        None => drop_all(request.into_body()).await,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = match stored {
        Ok(()) => StatusCode::CREATED,
        Err(error) => {
            eprintln!("error: {error}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    Ok(response)
}

async fn drop_all(mut body: Incoming) -> Result<()> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

async fn store(folder: &Path, request: Request<Incoming>) -> Result<()> {
    let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let file = Arc::new(File::create(folder.join(name))?);
    let mut body = request.into_body();
    let mut batch = Batch::default();
    let mut writing: Option<JoinHandle<io::Result<()>>> = None;
    loop {
        let frame = body.frame().await.transpose()?;
        let ended = frame.is_none();
        if let Some(data) = frame.and_then(|frame| frame.into_data().ok()) {
            batch.push(data);
        }
        if batch.held < BATCH && !ended {
            continue;
        }
        if let Some(earlier) = writing.take() {
            earlier.await??;
        }
        let (file, full) = (file.clone(), batch.take());
        let write = spawn_blocking(move || full.write_to(&file));
        if ended {
            return Ok(write.await??);
        }
        writing = Some(write);
    }
}

/// Frames that are written together.
#[derive(Default)]
struct Batch {
    frames: Vec<Bytes>,
    held: usize,
    start: u64,
}

impl Batch {
    fn push(&mut self, frame: Bytes) {
        self.held += frame.len();
        self.frames.push(frame);
    }

    /// What is held; an empty batch that follows it stays.
    fn take(&mut self) -> Self {
        let next = Self { start: self.start + self.held as u64, ..Self::default() };
        std::mem::replace(self, next)
    }

    fn write_to(&self, file: &File) -> io::Result<()> {
        self.frames.iter().try_fold(self.start, |at, frame| {
            file.write_all_at(frame, at)?;
            Ok::<_, io::Error>(at + frame.len() as u64)
        })?;
        Ok(())
    }
}
