//! The command `bits`: uploads files to BITS servers, downloads from them, and goes on with what
//! was interrupted.

mod args;
mod download;
mod jobs;
mod password;
mod show;
mod work;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use jobs::Jobs;

/// How the command ends: the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Everything was done.
    Done = 0,
    /// Something failed for good.
    Failed = 1,
    /// Something is not done yet, and its job is kept.
    GaveUp = 3,
}

impl Exit {
    /// What to end with after both: a failure weighs most.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Failed, _) | (_, Self::Failed) => Self::Failed,
            (Self::GaveUp, _) | (_, Self::GaveUp) => Self::GaveUp,
            (Self::Done, Self::Done) => Self::Done,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let exit = match runtime {
        Ok(runtime) => runtime.block_on(run(args.command)).unwrap_or_else(|problem| {
            eprintln!("bits: {problem}");
            Exit::Failed
        }),
        Err(error) => {
            eprintln!("bits: cannot start: {error}");
            Exit::Failed
        }
    };
    ExitCode::from(exit as u8)
}

async fn run(command: Command) -> Result<Exit, work::Problem> {
    let jobs = Jobs::open()?;
    match command {
        Command::Upload(args) => work::upload(&jobs, args).await,
        Command::UploadReply(args) => work::upload_reply(&jobs, args).await,
        Command::Download(args) => download::download(&jobs, args).await,
        Command::Resume(args) => work::resume(&jobs, args).await,
        Command::Jobs { json } => work::list(&jobs, json),
        Command::Cancel(args) => work::cancel(&jobs, args).await,
    }
}
