//! What is generated from the code for people: man pages, completions for shells, and the parts of
//! the book that must not differ from it. `cargo xtask dist` and `cargo xtask book` run it.

mod book;
mod commands;
mod errors;
mod examples;
mod keys;

use std::{io, path::PathBuf};

use clap::Parser;

#[derive(Parser)]
enum Cli {
    /// Writes man pages and completions into folders `man`, `bash`, `zsh` and `fish`.
    Commands {
        /// The folder that holds them.
        folder: PathBuf,
        /// The day that the pages are of, such as 2026-11-26.
        date: String,
    },
    /// Brings the generated parts of the book up to date.
    Book,
}

fn main() -> io::Result<()> {
    match Cli::parse() {
        Cli::Commands { folder, date } => commands::write(&folder, &date),
        Cli::Book => book::write(),
    }
}
