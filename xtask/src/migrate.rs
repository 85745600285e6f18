//! `cargo xtask migrate`: the server's own `migrate`, for a database named by its URL.

use std::env;

use clap::Args;

use crate::shell::{self, Result, cargo};

#[derive(Args)]
pub(crate) struct Options {
    /// The database, such as sqlite:bits-data/state.db or postgres://user:password@host/database
    #[arg(long)]
    url: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    // The environment, not an argument: a URL can hold a password.
    let features = if options.url.starts_with("postgres") { "postgres" } else { "" };
    let mut migrate = cargo(["run", "--quiet", "--package", "bits-server", "--features", features, "--", "migrate"]);
    // From where the caller stands: a relative path in the URL is theirs.
    shell::run(migrate.current_dir(env::current_dir()?).env("BITS__STATE__URL", &options.url))
}
