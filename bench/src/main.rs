//! What the server is measured against: the least that HTTP, files and rows cost. Started by
//! `cargo xtask bench`.

mod fill;
mod floor;
mod http;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A bare HTTP service that stores what is PUT
    Http {
        #[arg(long)]
        listen: SocketAddr,
        /// Where to store it; it is dropped without
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// What a small upload costs without HTTP: a run for each line of standard input
    Floor(floor::Options),
    /// Copies a session of a database
    Fill(fill::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match command {
        Command::Http { listen, folder } => runtime.block_on(http::serve(listen, folder)),
        Command::Floor(options) => floor::run(&options),
        Command::Fill(options) => runtime.block_on(fill::run(&options)),
    }
}
