//! The whole server within another program, by the server's configuration: what happens to uploads is
//! this program's to see, and when to end is its to say, here at the end of its input.
//!
//! `cargo run -p bits-server --example embedded`, then
//! `bits upload FILE http://127.0.0.1:8080/upload/FILE`.

use std::{error::Error, io::Read, path::PathBuf};

use bits_engine::{Directories, Engine};
use bits_server::{
    Authentication, Listeners, ServeOptions,
    config::{Config, Overrides, process_environment},
    stores,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let config = Config::load(file.as_deref(), process_environment(), Overrides::default())?;
    stores::make_folders(&config)?;
    let stores = stores::open(&config).await?;

    let directories = config.directories.iter().map(|one| one.directory(&stores::storage_of(one))).collect();
    let mut engine = Engine::builder(stores.sessions(), Directories::new(directories)?)
        .on_event(|event| println!("{}: {:?}", event.session.destination, event.kind));
    for (name, store) in stores.uploads() {
        engine = engine.storage(name, store);
    }
    let engine = engine.build()?;

    let mut uploads = Vec::new();
    for address in &config.listen {
        let listener = TcpListener::bind(address).await?;
        println!("listening on {}", listener.local_addr()?);
        uploads.push(listener.into());
    }
    let listeners = Listeners { uploads, trusted_proxies: config.trusted_proxies.clone(), admin: None };

    let shutdown = CancellationToken::new();
    let end = shutdown.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        end.cancel();
    });
    let authentication = Authentication::open(&config)?;
    bits_server::run(listeners, engine, authentication, ServeOptions::from(&config), shutdown).await?;
    stores.close().await;
    Ok(())
}
