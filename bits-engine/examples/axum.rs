//! Uploads inside an axum program, next to its other routes: no `bits-server` needed.
//!
//! `cargo run -p bits-engine --example axum`, then
//! `bits upload FILE http://127.0.0.1:3000/upload/FILE`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body as AxumBody,
    extract::{ConnectInfo, Request, State},
    response::Response,
    routing::{any, get},
};
use bits_core::{BodyError, Directory, Form, Principal, StorageKey};
use bits_engine::{Body, Caller, Directories, Engine};
use bits_store_fs::LocalStore;
use bits_store_sql::SqliteSessions;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = std::path::Path::new("axum-data");
    std::fs::create_dir_all(data)?;
    let sessions = SqliteSessions::open(&data.join("state.db"), bits_store_sql::Options::default()).await?;
    let uploads = LocalStore::open(&data.join("files"), bits_store_fs::Options::default())?;
    let directories = Directories::new(vec![Directory::new("/upload", "disk", StorageKey::parse("upload")?)])?;
    let engine = Engine::builder(Arc::new(sessions), directories)
        .storage("disk", Arc::new(uploads))
        .on_event(|event| println!("{}: {:?}", event.session.destination, event.kind))
        .build()?;

    // Interrupted publishing is finished at start; what expired is swept twice a day.
    let maintained = engine.clone();
    let stop = CancellationToken::new();
    tokio::spawn(async move { maintained.maintain(Duration::from_secs(12 * 60 * 60), stop).await });

    let app = Router::new()
        .route("/hello", get(async || "not an upload\n"))
        .route("/upload/{*path}", any(upload))
        .with_state(engine);
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

async fn upload(
    State(engine): State<Engine>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    if Form::of(&head).is_none() {
        return Response::builder()
            .status(405)
            .header("Allow", "BITS_POST")
            .body(AxumBody::empty())
            .unwrap_or_default();
    }
    let chunks = body.into_data_stream().map(|chunk| chunk.map_err(|_| BodyError::Disconnected));
    let caller = Caller { principal: Principal::ANONYMOUS, address: Some(address.ip()), secure: false };
    match engine.handle(&head, caller, Body::new(chunks)).await {
        Some(ack) => ack.into_response().map(|()| AxumBody::empty()),
        None => Response::builder().status(408).body(AxumBody::empty()).unwrap_or_default(),
    }
}
