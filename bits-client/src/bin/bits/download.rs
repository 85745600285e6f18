//! `bits download`: begun, and gone on with.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bits_client::{DownloadEvent, DownloadJob, Error, FileTarget};
use indicatif::HumanBytes;

use crate::{
    Exit,
    args::{self, Tls},
    jobs::{Held, Jobs, Work},
    password,
    show::{self, Show},
    work::{Problem, absolute, client, file_name, interrupted, keep, keep_failed, report},
};

/// How often a download that gets on is written down; its bytes are made to last before.
const SAVE_PERIOD: Duration = Duration::from_secs(2);

/// `bits download`.
pub(crate) async fn download(jobs: &Jobs, args: args::Download) -> Result<Exit, Problem> {
    let file = new_file(&args.file)?;
    let tls = absolute(args.tls)?;
    let mut url = args.url;
    if let Some(user) = &args.user {
        password::log_in_as(&mut url, user)?;
    }
    let mut held = jobs.create(file, false, None, None, Work::Download(DownloadJob::new(url)))?;
    if tls != Tls::default() {
        held.entry.tls = tls;
        held.save()?;
    }
    run(held, args.retry.retry_for).await
}

/// The path of a file that is to be made: absolute, and free.
pub(crate) fn new_file(path: &Path) -> Result<PathBuf, Problem> {
    let file = std::path::absolute(path).map_err(|cause| Problem::Open { path: path.to_owned(), cause })?;
    file_name(&file)?;
    if file.symlink_metadata().is_ok() {
        return Err(Problem::Exists(file));
    }
    Ok(file)
}

/// Downloads, and writes down how far it has come.
pub(crate) async fn run(mut held: Held, retry_for: Duration) -> Result<Exit, Problem> {
    let Work::Download(mut job) = held.entry.job.clone() else { unreachable!("the caller looks what it is") };
    let path = held.entry.file.clone();
    let client = client(&held.entry, retry_for)?;
    let target = match FileTarget::open(&path, &held.entry.id).await {
        Ok(target) => target,
        Err(cause) => return Ok(keep_failed(held, &Problem::Open { path, cause }.to_string())),
    };
    held.entry.failed = None;
    let mut show = Show::new(&file_name(&path)?, job.size().unwrap_or(0), job.received);
    let (begun, from, mut saved) = (Instant::now(), job.received, Instant::now());
    let partial = target.clone();
    let observe = |job: &DownloadJob, event: DownloadEvent<'_>| {
        show.download(job, event);
        let is_due = !matches!(event, DownloadEvent::Received { .. }) || saved.elapsed() >= SAVE_PERIOD;
        if is_due {
            saved = Instant::now();
            // Not more is claimed than will be there. After this the target takes no more, which ends
            // the download.
            if partial.sync().is_err() {
                return;
            }
            held.entry.job = Work::Download(job.clone());
            if let Err(error) = held.save() {
                show.say(&format!("{error}; the download goes on"));
            }
        }
    };
    let result = tokio::select! {
        result = client.download(&mut job, Arc::new(target.clone()), observe) => Some(result),
        () = interrupted() => None,
    };
    show.end();
    if target.sync().is_ok() {
        held.entry.job = Work::Download(job.clone());
    }
    Ok(match result {
        Some(Ok(())) => {
            // Where the file was in its place before the job was resumed, one for its bytes is left.
            let _ = FileTarget::discard(&held.entry.file, &held.entry.id).await;
            finish(held, &job, from, begun.elapsed())?
        }
        Some(Err(error)) => stop(held, &job, &error).await,
        None => keep(held, "interrupted"),
    })
}

fn finish(held: Held, job: &DownloadJob, from: u64, time: Duration) -> Result<Exit, Problem> {
    let rate = HumanBytes(show::rate(job.received.saturating_sub(from), time));
    let (file, url) = (held.entry.file.display(), job.shown_url());
    println!("downloaded {url} to {file} ({}, {rate}/s)", HumanBytes(job.received));
    held.remove()?;
    Ok(Exit::Done)
}

async fn stop(held: Held, job: &DownloadJob, error: &Error) -> Exit {
    if error.may_pass() {
        return keep(held, &error.to_string());
    }
    if job.received == 0 {
        eprintln!("bits: {error}");
        // The error is what counts; nothing is lost.
        let _ = FileTarget::discard(&held.entry.file, &held.entry.id).await;
        return held.remove().map_or_else(|error| report(error.into()), |()| Exit::Failed);
    }
    let (id, file, url) = (held.entry.id.clone(), held.entry.file.display(), job.shown_url());
    let advice = match error {
        Error::DownloadChanged(_) => format!("to start anew: `bits cancel {id}`, then `bits download {url} {file}`"),
        _ => format!("`bits resume {id}` tries again, `bits cancel {id}` gives it up"),
    };
    let reason = format!("{error}; {advice}");
    keep_failed(held, &reason)
}
