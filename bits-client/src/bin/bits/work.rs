//! What the subcommands do.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bits_client::{
    BuildError, Client, Error, Event, FileSource, FileTarget, Form, FragmentSize, Job, RetryPolicy, Source, Uploaded,
};
use indicatif::HumanBytes;
use serde_json::json;
use url::Url;

use crate::{
    Exit,
    args::{self, Tls},
    download,
    jobs::{Entry, Held, JobError, Jobs, Work},
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
    #[error("the file for the bytes of {} cannot be removed: {cause}", path.display())]
    Remove { path: PathBuf, cause: io::Error },
    #[error("{} exists; remove it, or name another file", .0.display())]
    Exists(PathBuf),
    #[error("the path {} is not valid UTF-8; rename the file, or link to it under another name", .0.display())]
    NotUtf8(PathBuf),
}

/// `bits upload`.
pub(crate) async fn upload(jobs: &Jobs, args: args::Upload) -> Result<Exit, Problem> {
    begin(jobs, args, None).await
}

/// `bits upload-reply`.
pub(crate) async fn upload_reply(jobs: &Jobs, args: args::UploadReply) -> Result<Exit, Problem> {
    let reply = download::new_file(&args.reply)?;
    begin(jobs, args.upload, Some(reply)).await
}

async fn begin(jobs: &Jobs, args: args::Upload, reply: Option<PathBuf>) -> Result<Exit, Problem> {
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
    let job = Job::new(url, fingerprint);
    let mut held = jobs.create(file, args.override_form, args.fragment_size, reply, Work::Upload(job.clone()))?;
    if tls != Tls::default() {
        held.entry.tls = tls;
        held.save()?;
    }
    run(held, job, source, args.retry.retry_for).await
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
        let done = HumanBytes(job.done()).to_string();
        let size = job.size().map_or_else(|| "?".to_owned(), |size| HumanBytes(size).to_string());
        let state = state(jobs, entry);
        let (file, url) = (file.display(), job.shown_url());
        let way = match job {
            Work::Upload(_) => format!("{file} -> {url}"),
            Work::Download(_) => format!("{file} <- {url}"),
        };
        println!("{id:8}  {state:10}  {done:>10}  {size:>10}  {way}");
    }
    Ok(exit)
}

/// `bits cancel`.
pub(crate) async fn cancel(jobs: &Jobs, args: args::Cancel) -> Result<Exit, Problem> {
    let mut held = jobs.hold(&jobs.find(&args.job)?)?;
    let id = held.entry.id.clone();
    let client = client(&held.entry, args.retry_for)?;
    let cancelled = match &mut held.entry.job {
        // The server knows nothing of it.
        Work::Download(_) => Ok(()),
        Work::Upload(job) => {
            let mut show = Show::new(&id, job.source.size, job.next_offset());
            let cancelled = tokio::select! {
                result = client.cancel(job, |job, event| show.event(job, event)) => result.map_err(Some),
                () = interrupted() => Err(None),
            };
            show.end();
            cancelled
        }
    };
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
    discard(&held).await?;
    held.remove()?;
    println!("cancelled {id}");
    Ok(Exit::Done)
}

/// Removes what came of a download or a reply.
async fn discard(held: &Held) -> Result<(), Problem> {
    let made = match &held.entry.job {
        Work::Download(_) => Some(&held.entry.file),
        Work::Upload(_) => held.entry.reply.as_ref(),
    };
    match made {
        Some(path) => {
            let removed = FileTarget::discard(path, &held.entry.id).await;
            removed.map_err(|cause| Problem::Remove { path: path.clone(), cause })
        }
        None => Ok(()),
    }
}

async fn go_on(jobs: &Jobs, id: &str, retry_for: Duration) -> Result<Exit, Problem> {
    let mut held = jobs.hold(id)?;
    let path = held.entry.file.clone();
    let Work::Upload(job) = held.entry.job.clone() else { return download::run(held, retry_for).await };
    match FileSource::open(&path).await {
        Ok(source) => {
            held.entry.failed = None;
            run(held, job, source, retry_for).await
        }
        Err(cause) => Ok(keep_failed(held, &Problem::Open { path, cause }.to_string())),
    }
}

/// Uploads, and writes down how far it has come.
async fn run(mut held: Held, job: Job, source: FileSource, retry_for: Duration) -> Result<Exit, Problem> {
    let client = client(&held.entry, retry_for)?;
    let mut job = job;
    let reply = match &held.entry.reply {
        Some(path) => match FileTarget::open(path, &held.entry.id).await {
            Ok(target) => Some(target),
            Err(cause) => {
                let problem = Problem::Open { path: path.clone(), cause };
                return Ok(keep_failed(held, &problem.to_string()));
            }
        },
        None => None,
    };
    let mut show = Show::new(&file_name(&held.entry.file)?, job.source.size, job.next_offset());
    let mut saved = Instant::now();
    let (begun, from) = (Instant::now(), job.next_offset());
    let observe = |job: &Job, event: Event<'_>| {
        show.event(job, event);
        if is_due(event, saved) {
            held.entry.job = Work::Upload(claimed(job, reply.as_ref()));
            saved = Instant::now();
            if let Err(error) = held.save() {
                show.say(&format!("{error}; the upload goes on"));
            }
        }
    };
    let result = tokio::select! {
        result = upload_with(&client, &mut job, source, reply.clone(), observe) => Some(result),
        () = interrupted() => None,
    };
    show.end();
    held.entry.job = Work::Upload(claimed(&job, reply.as_ref()));
    Ok(match result {
        Some(Ok(uploaded)) => finish(held, &job, &uploaded, from, begun.elapsed()).await?,
        Some(Err(error)) => stop(held, &job, &error).await,
        None => keep(held, "interrupted"),
    })
}

/// The job as it is written down: no more of a reply is claimed than will be there.
fn claimed(job: &Job, target: Option<&FileTarget>) -> Job {
    let mut job = job.clone();
    if let (Some(reply), Some(target)) = (&mut job.reply, target)
        && target.sync().is_err()
    {
        reply.received = 0;
    }
    job
}

async fn upload_with(
    client: &Client,
    job: &mut Job,
    source: FileSource,
    reply: Option<FileTarget>,
    observe: impl FnMut(&Job, Event<'_>) + Send,
) -> Result<Uploaded, Error> {
    match reply {
        Some(reply) => client.upload_reply(job, Arc::new(source), Arc::new(reply), observe).await,
        None => client.upload(job, Arc::new(source), observe).await,
    }
}

/// What must not be lost is saved at once; offsets, which the server knows better, from time to time.
fn is_due(event: Event<'_>, saved: Instant) -> bool {
    match event {
        Event::Sending { .. } => false,
        Event::Acknowledged { .. } | Event::ReplyReceived { .. } => saved.elapsed() >= SAVE_PERIOD,
        _ => true,
    }
}

async fn finish(held: Held, job: &Job, uploaded: &Uploaded, from: u64, time: Duration) -> Result<Exit, Problem> {
    let Entry { file, reply, .. } = &held.entry;
    let sent = job.source.size.saturating_sub(from);
    let rate = HumanBytes(show::rate(sent, time));
    println!("uploaded {} to {} ({}, {rate}/s)", file.display(), job.shown_url(), HumanBytes(job.source.size));
    match (&uploaded.reply_url, reply) {
        (Some(_), Some(reply)) => {
            println!("the server's reply: {}", reply.display());
        }
        (Some(url), None) if is_of_session(url) => {
            println!("the server had a reply, which went with the session; `bits upload-reply` fetches such");
        }
        (Some(url), None) => println!("the server's reply: {url}"),
        (None, Some(_)) => println!("the server has no reply"),
        (None, None) => {}
    }
    // The file for a reply is left where none came, or where it was in its place before.
    if let Err(problem) = discard(&held).await {
        eprintln!("bits: {problem}");
    }
    held.remove()?;
    Ok(Exit::Done)
}

/// Whether a reply stands where servers keep those that go with their sessions.
fn is_of_session(url: &Url) -> bool {
    url.path_segments().is_some_and(|mut names| names.any(|name| name.eq_ignore_ascii_case("BITS-Sessions")))
}

async fn stop(held: Held, job: &Job, error: &Error) -> Exit {
    match error {
        _ if error.may_pass() => keep(held, &error.to_string()),
        Error::SourceChanged(_) => {
            let Entry { id, file, .. } = &held.entry;
            let (file, url) = (file.display(), job.shown_url());
            let advice = format!("to start anew: `bits cancel {id}`, then `bits upload {file} {url}`");
            keep_failed(held, &format!("{error}; {advice}"))
        }
        _ if job.session.is_none() => {
            eprintln!("bits: {error}");
            let _ = discard(&held).await;
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
pub(crate) fn keep(held: Held, reason: &str) -> Exit {
    let id = &held.entry.id;
    eprintln!("bits: {reason}\nJob {id} is kept: `bits resume {id}` goes on.");
    held.save().map_or_else(|error| report(error.into()), |()| Exit::GaveUp)
}

/// Keeps a job that needs somebody to look at it.
pub(crate) fn keep_failed(mut held: Held, reason: &str) -> Exit {
    eprintln!("bits: {reason}");
    held.entry.failed = reason.lines().next().map(str::to_owned);
    held.save().map_or_else(|error| report(error.into()), |()| Exit::Failed)
}

pub(crate) fn report(problem: Problem) -> Exit {
    eprintln!("bits: {problem}");
    Exit::Failed
}

/// The same files, wherever the job is resumed.
pub(crate) fn absolute(tls: Tls) -> Result<Tls, Problem> {
    let absolute = |path: Option<PathBuf>| {
        path.map(|path| std::path::absolute(&path).map_err(|cause| Problem::Open { path, cause })).transpose()
    };
    Ok(Tls { ca_file: absolute(tls.ca_file)?, cert: absolute(tls.cert)?, key: absolute(tls.key)? })
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path).map_err(|cause| Problem::Open { path: path.to_owned(), cause })
}

pub(crate) fn client(entry: &Entry, give_up: Duration) -> Result<Client, Problem> {
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
    if let Some(password) = password::wanted_by(entry.job.url())? {
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
        "direction": if matches!(entry.job, Work::Upload(_)) { "upload" } else { "download" },
        "url": entry.job.shown_url(),
        "size": entry.job.size(),
        "acknowledged": entry.job.done(),
        "created": entry.job.created(),
        "error": entry.failed,
    })
}

/// Says where an upload of the same file to the same place waits to be resumed.
fn mention_unfinished(jobs: &Jobs, file: &Path, url: &Url) -> Result<(), JobError> {
    let is_same = |entry: &Entry| entry.file == file && matches!(&entry.job, Work::Upload(job) if job.url == *url);
    for entry in jobs.list()?.into_iter().flatten().filter(is_same) {
        let id = &entry.id;
        eprintln!(
            "bits: job {id} uploads the same file to the same place, and is {}; see `bits jobs`",
            state(jobs, &entry)
        );
    }
    Ok(())
}

/// The name of a file, which becomes part of a URL or is shown.
pub(crate) fn file_name(file: &Path) -> Result<String, Problem> {
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
pub(crate) async fn interrupted() {
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
