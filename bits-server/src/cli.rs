//! The command line: `serve`, `check`, `migrate`, `sessions` and `password`.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage or configuration.

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use bits_core::State;
use clap::{Args, Parser, Subcommand};

use crate::{
    Authentication, auth, check,
    config::{Config, ConfigError, LogFilter, Overrides},
    confine,
    log::LogControl,
    reload::{Beginning, Origin},
    sessions, start, stores,
};

/// Serves uploads by Microsoft's BITS Upload Protocol: resumable, and held through crashes.
#[derive(Debug, Parser)]
#[command(name = "bits-server", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve uploads (what is done without a command, too).
    Serve(ServeArgs),
    /// Read the configuration and print what it resolves to, without secrets.
    Check(ConfigArgs),
    /// Bring the session database up to date.
    Migrate(ConfigArgs),
    /// Add a user to a file of users, or give one another password; it is read from the terminal,
    /// or a line of standard input where that is none.
    Password {
        /// The user's name.
        user: String,
        /// The file, as `htpasswd` in a directory's configuration names it.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Look into the session database, whether the server runs or not.
    Sessions {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(subcommand)]
        command: SessionsCommand,
    },
}

#[derive(Debug, Default, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Listen here instead of at the configured addresses; may be given more than once.
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Keep sessions and files below this folder.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Default, Args)]
struct ConfigArgs {
    /// The configuration, a TOML file.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// List live sessions, oldest first.
    List {
        /// Only those without progress for this long, such as `1d` or `90m`.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        idle: Option<Duration>,
        /// Only those of this user, `name@realm`.
        #[arg(long, value_name = "U")]
        user: Option<String>,
        /// Only those whose destination starts with this path.
        #[arg(long, value_name = "P")]
        path: Option<String>,
        /// Only those in this state: receiving, notifying, publishing or complete.
        #[arg(long, value_name = "S", value_parser = parse_state)]
        state: Option<State>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one session.
    Show {
        /// Its id, with or without braces.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// End a session. A running server deletes its data within seconds, another one when it starts; a
    /// client that still works on it starts over.
    Cancel {
        /// Its id, with or without braces.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Try a stuck publishing again, within seconds or when the server starts.
    Retry {
        /// Its id, with or without braces.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// End all sessions that have expired, even where the server refuses because they are many.
    Sweep {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Why a command failed, and with which exit status.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Wrong configuration or usage.
    Usage(String),
    /// Anything else.
    Failed(String),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => fail(&message, 2),
        Err(Failure::Failed(message)) => fail(&message, 1),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(args)) => serve(args),
        Some(Command::Check(args)) => {
            let config = load(&args, Overrides::default())?;
            Authentication::prepare(&config).map_err(Failure::Failed)?;
            for warning in check::run(&config)? {
                eprintln!("bits-server: warning: {warning}");
            }
            print(&config.to_string())
        }
        Some(Command::Migrate(args)) => {
            let config = load(&args, Overrides::default())?;
            log_to_stderr(&config.log)?;
            block_on(async { stores::migrate(&config).await.map_err(Failure::Failed) })?
        }
        Some(Command::Password { user, file }) => print(&auth::password::set(&user, &file).map_err(Failure::Failed)?),
        Some(Command::Sessions { config, command }) => {
            let config = load(&config, Overrides::default())?;
            log_to_stderr(&config.log)?;
            let output = block_on(sessions::run(&config, command))??;
            print(&output)
        }
    }
}

fn serve(args: ServeArgs) -> Result<(), Failure> {
    let overrides = Overrides { listen: args.listen, data_dir: args.data_dir };
    let origin = Origin { file: args.config.config, overrides };
    let config = origin.load()?;
    Authentication::prepare(&config).map_err(Failure::Failed)?;
    let log = log_to_stderr(&config.log)?;
    stores::make_folders(&config).map_err(Failure::Failed)?;
    // Threads inherit what holds when they start, and the runtime starts some.
    let allowed = confine::confine(&config).map_err(Failure::Failed)?;
    block_on(start::serve(config, Beginning { origin, allowed, log }))?
}

fn load(args: &ConfigArgs, overrides: Overrides) -> Result<Config, ConfigError> {
    Origin { file: args.config.clone(), overrides }.load()
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::Failed(format!("the runtime does not start: {error}")))?.block_on(future))
}

fn log_to_stderr(filter: &LogFilter) -> Result<LogControl, Failure> {
    LogControl::install(filter).map_err(Failure::Usage)
}

/// A reader that closes its end early has what it wanted.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

fn fail(message: &str, status: u8) -> ExitCode {
    for line in message.lines() {
        eprintln!("bits-server: {line}");
    }
    ExitCode::from(status)
}

fn parse_state(text: &str) -> Result<State, String> {
    let known = State::ALL.into_iter().find(|state| state.as_str() == text);
    known.ok_or_else(|| "write receiving, notifying, publishing or complete".to_owned())
}

fn parse_time(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
}
