//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};
use url::Url;

/// Uploads files to BITS servers, downloads from them, and goes on with what was interrupted.
#[derive(Debug, Parser)]
#[command(name = "bits", version, after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Exit status: 0 done; 1 failed; 2 wrong usage; 3 interrupted, or given up after retrying: the job is kept and `bits resume` goes on.

Jobs are kept in the user's state folder, or in the one that BITS_JOBS_DIR names. A password in a URL is kept there too, readable by the user alone.
The password of a user whom --user or a URL names comes from BITS_PASSWORD, from the file that BITS_PASSWORD_FILE names, or from the terminal; it is not kept.
Proxies are taken from HTTP_PROXY, HTTPS_PROXY and NO_PROXY.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Upload a file.
    Upload(Upload),
    /// Upload a file, and fetch the server's reply to it.
    UploadReply(UploadReply),
    /// Download a file.
    Download(Download),
    /// Go on with uploads and downloads that were interrupted.
    Resume(Resume),
    /// List the uploads and downloads that are not done.
    Jobs {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give an upload or a download up, here and on the server.
    Cancel(Cancel),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Upload {
    /// The file.
    pub(crate) file: PathBuf,
    /// Where to: an http or https URL. One that ends in `/` gets the file's name appended. User and password can stand in it.
    #[arg(value_parser = url)]
    pub(crate) url: Url,
    /// Log in as this user.
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Send fragments of this size, such as 8MiB, instead of what suits the line; at least 5KiB.
    #[arg(long, value_name = "SIZE", value_parser = fragment_size)]
    pub(crate) fragment_size: Option<u64>,
    /// Send POST with X-HTTP-Method-Override, for proxies that do not pass BITS_POST.
    #[arg(long = "override")]
    pub(crate) override_form: bool,
    #[command(flatten)]
    pub(crate) tls: Tls,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

/// Files of TLS, which a job remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
pub(crate) struct Tls {
    /// Trust the authorities in this file (PEM), instead of the system's or those that SSL_CERT_FILE names.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Show this certificate (PEM) to a server that asks for one; its key may stand in the same file.
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// The key of that certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UploadReply {
    #[command(flatten)]
    pub(crate) upload: Upload,
    /// The file for the reply, which must not exist. It is not made where the server has no reply.
    #[arg(short = 'o', long = "output", value_name = "REPLY")]
    pub(crate) reply: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Download {
    /// From where: an http or https URL. User and password can stand in it.
    #[arg(value_parser = url)]
    pub(crate) url: Url,
    /// The file, which must not exist. It appears when it is whole.
    pub(crate) file: PathBuf,
    /// Log in as this user.
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) tls: Tls,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    /// The job, or the beginning of its name; without it, all that are unfinished and have not failed.
    pub(crate) job: Option<String>,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cancel {
    /// The job, or the beginning of its name.
    pub(crate) job: String,
    /// Forget the job even if the server cannot be told; it drops the data when its session times out.
    #[arg(long)]
    pub(crate) forget: bool,
    /// How long to try, such as 30s or 10m.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) retry_for: Duration,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Retry {
    /// Give up after this time without progress, such as 30s, 10m, 2h, 14d or unlimited; 0s: on the first failure.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub(crate) retry_for: Duration,
}

fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; write it as http://server/path/name"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{}: is not supported; use http: or https:", url.scheme()));
    }
    Ok(url)
}

fn fragment_size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
    let bytes = number(text, &units).ok_or("write a size as 512KiB, 8MiB or 1GiB")?;
    if bytes < 5 * 1024 { Err("fragments have at least 5KiB".to_owned()) } else { Ok(bytes) }
}

fn duration(text: &str) -> Result<Duration, String> {
    if text == "unlimited" {
        return Ok(Duration::MAX);
    }
    let units = [("s", 1), ("m", 60), ("h", 60 * 60), ("d", 24 * 60 * 60)];
    let seconds = number(text, &units).ok_or("write a time as 30s, 10m, 2h, 14d or unlimited")?;
    Ok(Duration::from_secs(seconds))
}

/// Digits and one of the units; the first unit that fits counts.
fn number(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, factor) = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
    let digits = digits.trim_end();
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(fragment_size("8MiB"), Ok(8 << 20));
        assert_eq!(fragment_size("5 KiB"), Ok(5 << 10));
        assert_eq!(fragment_size("6000"), Ok(6000));
        for text in ["", "MiB", "-8MiB", "+8MiB", "8MB", "8 MiBs", "1.5MiB", "99999999999999999GiB", "4KiB"] {
            assert!(fragment_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("14d"), Ok(Duration::from_secs(14 * 86_400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("unlimited"), Ok(Duration::MAX));
        for text in ["", "10", "1.5h", "-1s", "1w"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_web_urls_are_taken() {
        assert!(url("https://me:pw@server:8443/up/").is_ok());
        for text in ["server/up", "/up", "ftp://server/up", "http://", "http://ser ver/"] {
            assert!(url(text).is_err(), "{text:?}");
        }
    }
}
