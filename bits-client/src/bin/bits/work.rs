//! What the subcommands do.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bits_client::{
    BuildError, Client, Error, Event, FileSource, Form, FragmentSize, Job, RetryPolicy, Source, Uploaded,
};
use indicatif::HumanBytes;
use serde_json::json;
use url::Url;

use crate::{
    Exit,
    args::{self, Tls},
    jobs::{Entry, Held, JobError, Jobs},
    password::{self, PasswordError},
    show::{self, Show},
};

/// How often an upload that gets on is written down.
const SAVE_PERIOD: Duration = Duration::from_secs(1);

/// Why a subcommand could not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Client(#[from] BuildError),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("cannot open {}: {cause}", path.display())]
    Open { path: PathBuf, cause: io::Error },
    #[error("the path {} is not valid UTF-8; rename the file, or link to it under another name", .0.display())]
    NotUtf8(PathBuf),
}

/// `bits upload`.
pub(crate) async fn upload(jobs: &Jobs, args: args::Upload) -> Result<Exit, Problem> {
    let open = |cause| Problem::Open { path: args.file.clone(), cause };
    let file = std::path::absolute(&args.file).map_err(open)?;
    let name = file_name(&file)?;
    let source = FileSource::open(&file).await.map_err(open)?;
    let fingerprint = source.fingerprint().await.map_err(open)?;
    let mut url = destination(args.url, &name);
    if let Some(user) = &args.user {
        password::log_in_as(&mut url, user)?;
    }
    mention_unfinished(jobs, &file, &url)?;
    let tls = absolute(args.tls)?;
    let mut held = jobs.create(file, args.override_form, args.fragment_size, Job::new(url, fingerprint))?;
    if tls != Tls::default() {
        held.entry.tls = tls;
        held.save()?;
    }
    run(held, source, args.retry.retry_for).await
}

/// `bits resume`.
pub(crate) async fn resume(jobs: &Jobs, args: args::Resume) -> Result<Exit, Problem> {
    if let Some(beginning) = &args.job {
        return go_on(jobs, &jobs.find(beginning)?, args.retry.retry_for).await;
    }
    let mut all = Exit::Done;
    for entry in jobs.list()? {
        let exit = match entry {
            Ok(Entry { failed: Some(reason), id, .. }) => {
                eprintln!("bits: job {id} failed: {reason}; `bits resume {id}` tries it again");
                Exit::Failed
            }
            Ok(entry) => go_on(jobs, &entry.id, args.retry.retry_for).await.unwrap_or_else(report),
            Err(error) => report(error.into()),
        };
        all = all.and(exit);
    }
    Ok(all)
}

/// `bits jobs`.
pub(crate) fn list(jobs: &Jobs, as_json: bool) -> Result<Exit, Problem> {
    let mut entries = Vec::new();
    let mut exit = Exit::Done;
    for entry in jobs.list()? {
        match entry {
            Ok(entry) => entries.push(entry),
            Err(error) => exit = report(error.into()),
        }
    }
    if as_json {
        let entries: Vec<_> = entries.iter().map(|entry| as_value(jobs, entry)).collect();
        println!("{:#}", serde_json::Value::from(entries));
        return Ok(exit);
    }
    if !entries.is_empty() {
        println!("{:8}  {:10}  {:>10}  {:>10}  FILE -> URL", "JOB", "STATE", "DONE", "SIZE");
    }
    for entry in &entries {
        let Entry { id, job, file, .. } = entry;
        let (done, size) = (HumanBytes(job.next_offset()).to_string(), HumanBytes(job.source.size).to_string());
        let state = state(jobs, entry);
        println!("{id:8}  {state:10}  {done:>10}  {size:>10}  {} -> {}", file.display(), job.shown_url());
    }
    Ok(exit)
}

/// `bits cancel`.
pub(crate) async fn cancel(jobs: &Jobs, args: args::Cancel) -> Result<Exit, Problem> {
    let mut held = jobs.hold(&jobs.find(&args.job)?)?;
    let id = held.entry.id.clone();
    let client = client(&held.entry, args.retry_for)?;
    let mut show = Show::new(&id, &held.entry.job);
    let cancelled = tokio::select! {
        result = client.cancel(&mut held.entry.job, |job, event| show.event(job, event)) => result.map_err(Some),
        () = interrupted() => Err(None),
    };
    show.end();
    match cancelled {
        Ok(()) => {}
        Err(reason) if args.forget => {
            let reason = reason.map_or("interrupted".to_owned(), |error| error.to_string());
            eprintln!("bits: the server was not told: {reason}");
        }
        Err(None) => {
            eprintln!("bits: interrupted; job {id} is kept");
            return Ok(Exit::GaveUp);
        }
        Err(Some(error)) => {
            eprintln!("bits: {error}\nJob {id} is kept; `bits cancel --forget {id}` drops it without the server.");
            return Ok(if error.may_pass() { Exit::GaveUp } else { Exit::Failed });
        }
    }
    held.remove()?;
    println!("cancelled {id}");
    Ok(Exit::Done)
}

async fn go_on(jobs: &Jobs, id: &str, retry_for: Duration) -> Result<Exit, Problem> {
    let mut held = jobs.hold(id)?;
    let path = held.entry.file.clone();
    match FileSource::open(&path).await {
        Ok(source) => {
            held.entry.failed = None;
            run(held, source, retry_for).await
        }
        Err(cause) => Ok(keep_failed(held, &Problem::Open { path, cause }.to_string())),
    }
}

/// Uploads, and writes down how far it has come.
async fn run(mut held: Held, source: FileSource, retry_for: Duration) -> Result<Exit, Problem> {
    let client = client(&held.entry, retry_for)?;
    let mut job = held.entry.job.clone();
    let mut show = Show::new(&file_name(&held.entry.file)?, &job);
    let mut saved = Instant::now();
    let (begun, from) = (Instant::now(), job.next_offset());
    let observe = |job: &Job, event: Event<'_>| {
        show.event(job, event);
        if is_due(event, saved) {
            held.entry.job.clone_from(job);
            saved = Instant::now();
            if let Err(error) = held.save() {
                show.say(&format!("{error}; the upload goes on"));
            }
        }
    };
    let result = tokio::select! {
        result = client.upload(&mut job, Arc::new(source), observe) => Some(result),
        () = interrupted() => None,
    };
    show.end();
    held.entry.job = job;
    Ok(match result {
        Some(Ok(uploaded)) => finish(held, &uploaded, from, begun.elapsed())?,
        Some(Err(error)) => stop(held, &error),
        None => keep(held, "interrupted"),
    })
}

/// What must not be lost is saved at once; offsets, which the server knows better, from time to time.
fn is_due(event: Event<'_>, saved: Instant) -> bool {
    match event {
        Event::Sending { .. } => false,
        Event::Acknowledged { .. } | Event::Waiting { .. } => saved.elapsed() >= SAVE_PERIOD,
        _ => true,
    }
}

fn finish(held: Held, uploaded: &Uploaded, from: u64, time: Duration) -> Result<Exit, Problem> {
    let Entry { file, job, .. } = &held.entry;
    let sent = job.source.size.saturating_sub(from);
    let rate = HumanBytes(show::rate(sent, time));
    println!("uploaded {} to {} ({}, {rate}/s)", file.display(), job.shown_url(), HumanBytes(job.source.size));
    if let Some(url) = &uploaded.reply_url {
        println!("the server's reply: {url}");
    }
    held.remove()?;
    Ok(Exit::Done)
}

fn stop(held: Held, error: &Error) -> Exit {
    match error {
        _ if error.may_pass() => keep(held, &error.to_string()),
        Error::SourceChanged(_) => {
            let Entry { id, file, job, .. } = &held.entry;
            let (file, url) = (file.display(), job.shown_url());
            let advice = format!("to start anew: `bits cancel {id}`, then `bits upload {file} {url}`");
            keep_failed(held, &format!("{error}; {advice}"))
        }
        _ if held.entry.job.session.is_none() => {
            eprintln!("bits: {error}");
            // The error is what counts; the server knows nothing of the job.
            held.remove().map_or_else(|error| report(error.into()), |()| Exit::Failed)
        }
        _ => {
            let id = held.entry.id.clone();
            let advice = format!("`bits resume {id}` tries again, `bits cancel {id}` gives it up");
            keep_failed(held, &format!("{error}\nJob {id} is kept: {advice}."))
        }
    }
}

/// Keeps a job that can go on.
fn keep(held: Held, reason: &str) -> Exit {
    let id = &held.entry.id;
    eprintln!("bits: {reason}\nJob {id} is kept: `bits resume {id}` goes on.");
    held.save().map_or_else(|error| report(error.into()), |()| Exit::GaveUp)
}

/// Keeps a job that needs somebody to look at it.
fn keep_failed(mut held: Held, reason: &str) -> Exit {
    eprintln!("bits: {reason}");
    held.entry.failed = reason.lines().next().map(str::to_owned);
    held.save().map_or_else(|error| report(error.into()), |()| Exit::Failed)
}

fn report(problem: Problem) -> Exit {
    eprintln!("bits: {problem}");
    Exit::Failed
}

/// The same files, wherever the job is resumed.
fn absolute(tls: Tls) -> Result<Tls, Problem> {
    let absolute = |path: Option<PathBuf>| {
        path.map(|path| std::path::absolute(&path).map_err(|cause| Problem::Open { path, cause })).transpose()
    };
    Ok(Tls { ca_file: absolute(tls.ca_file)?, cert: absolute(tls.cert)?, key: absolute(tls.key)? })
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path).map_err(|cause| Problem::Open { path: path.to_owned(), cause })
}

fn client(entry: &Entry, give_up: Duration) -> Result<Client, Problem> {
    let form = if entry.override_form { Form::Override } else { Form::Native };
    let size = entry.fragment_size.map_or(FragmentSize::Adaptive, FragmentSize::Fixed);
    let retry = RetryPolicy { give_up, ..RetryPolicy::default() };
    let mut builder = Client::builder().form(form).fragment_size(size).retry(retry);
    let Tls { ca_file, cert, key } = &entry.tls;
    if let Some(path) = ca_file {
        builder = builder.authorities(read(path)?);
    }
    if let Some(cert) = cert {
        let mut pem = read(cert)?;
        if let Some(key) = key {
            pem.push(b'\n');
            pem.extend(read(key)?);
        }
        builder = builder.identity(pem);
    }
    if let Some(password) = password::wanted_by(&entry.job.url)? {
        builder = builder.password(&password);
    }
    Ok(builder.build()?)
}

fn state(jobs: &Jobs, entry: &Entry) -> &'static str {
    match entry {
        _ if jobs.is_busy(&entry.id) => "running",
        Entry { failed: Some(_), .. } => "failed",
        _ => "unfinished",
    }
}

fn as_value(jobs: &Jobs, entry: &Entry) -> serde_json::Value {
    json!({
        "job": entry.id,
        "state": state(jobs, entry),
        "file": entry.file,
        "url": entry.job.shown_url(),
        "size": entry.job.source.size,
        "acknowledged": entry.job.next_offset(),
        "created": entry.job.created,
        "error": entry.failed,
    })
}

/// Says where an upload of the same file to the same place waits to be resumed.
fn mention_unfinished(jobs: &Jobs, file: &Path, url: &Url) -> Result<(), JobError> {
    for entry in jobs.list()?.into_iter().flatten().filter(|entry| entry.file == file && entry.job.url == *url) {
        let id = &entry.id;
        eprintln!(
            "bits: job {id} uploads the same file to the same place, and is {}; see `bits jobs`",
            state(jobs, &entry)
        );
    }
    Ok(())
}

/// The name of a file, which becomes part of a URL or is shown.
fn file_name(file: &Path) -> Result<String, Problem> {
    // The whole path is written to the job file, as text.
    let valid = file.to_str().and(file.file_name()).and_then(|name| name.to_str());
    valid.map(str::to_owned).ok_or_else(|| Problem::NotUtf8(file.to_owned()))
}

/// Appends the name where the URL names a folder.
fn destination(mut url: Url, name: &str) -> Url {
    if url.path().ends_with('/')
        && let Ok(mut segments) = url.path_segments_mut()
    {
        segments.pop_if_empty().push(name);
    }
    url
}

/// Waits for Ctrl-C or, on Unix, SIGTERM.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return,
                _ = terminate.recv() => return,
            }
        }
    }
    // Without a handler the default action ends the process, and the job file has what was saved.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gets_the_name_of_the_file() {
        let to = |url: &str, name| destination(url.parse().unwrap(), name).to_string();
        assert_eq!(to("http://s/up/", "a b%20ü#?.bin"), "http://s/up/a%20b%2520%C3%BC%23%3F.bin");
        assert_eq!(to("http://s", "f"), "http://s/f");
        assert_eq!(to("http://s/up/?key=1", r"a\b"), "http://s/up/a%5Cb?key=1");
        assert_eq!(to("http://s/up/name", "f"), "http://s/up/name");
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/\xFF/f"));
        assert!(matches!(file_name(path), Err(Problem::NotUtf8(_))));
        assert!(matches!(file_name(Path::new("/")), Err(Problem::NotUtf8(_))));
    }
}
