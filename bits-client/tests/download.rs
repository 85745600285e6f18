//! Downloads and replies, each against a server that is told what to answer.
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod support;

use std::{io, sync::Arc, sync::Mutex, time::Duration};

use async_trait::async_trait;
use bits_client::{
    BytesSource, Client, DownloadEvent, DownloadJob, Error, Event, Failure, Fingerprint, FragmentSize, Job,
    RetryPolicy, Source, Target, Uploaded,
};
use bytes::Bytes;
use support::*;

/// Bytes in memory, and whether they are whole.
#[derive(Debug, Default)]
struct Memory(Mutex<(Vec<u8>, bool)>);

impl Memory {
    fn whole(&self) -> Option<String> {
        let (bytes, finished) = self.0.lock().unwrap().clone();
        finished.then(|| String::from_utf8(bytes).unwrap())
    }
}

#[async_trait]
impl Target for Memory {
    async fn held(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().0.len() as u64)
    }

    async fn write(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        let mut held = self.0.lock().unwrap();
        held.0.truncate(offset as usize);
        assert_eq!(held.0.len() as u64, offset, "a gap");
        held.0.extend_from_slice(&bytes);
        Ok(())
    }

    async fn seal(&self, size: u64) -> io::Result<Option<Fingerprint>> {
        assert_eq!(self.0.lock().unwrap().0.len() as u64, size);
        Ok(None)
    }

    async fn finish(&self, _earlier: &[Fingerprint]) -> io::Result<()> {
        self.0.lock().unwrap().1 = true;
        Ok(())
    }
}

fn client() -> Client {
    let pause = Duration::from_millis(1);
    let retry = RetryPolicy { first_pause: pause, longest_pause: pause * 4, give_up: Duration::from_secs(20) };
    Client::builder().retry(retry).fragment_size(FragmentSize::Fixed(5 * 1024)).build().unwrap()
}

fn part(range: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    Reply::Answer(text(206, body.len(), &[&[("Content-Range", range)], headers].concat(), body))
}

fn refuse(status: u16) -> Reply {
    Reply::Answer(text(status, 0, &[], ""))
}

/// Downloads, and returns what came with the requests that were made for it.
async fn download(replies: impl IntoIterator<Item = Reply>) -> (Result<Option<String>, Error>, DownloadJob, Vec<Seen>) {
    let server = Server::scripted(replies).await;
    let mut job = DownloadJob::new(server.url("/up/f"));
    let target = Arc::new(Memory::default());
    let result = client().download(&mut job, target.clone(), |_, _| ()).await;
    (result.map(|()| target.whole()), job, server.seen())
}

fn methods(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.method.as_str()).collect()
}

#[tokio::test]
async fn a_file_is_looked_at_and_fetched() {
    let whole = Reply::Answer(text(200, 5, TAG, "hello"));
    let (result, job, seen) = download([there(5, TAG), whole]).await;
    assert_eq!(result.unwrap().as_deref(), Some("hello"));
    assert!(job.finished && job.received == 5 && job.size() == Some(5));
    assert_eq!(methods(&seen), ["HEAD", "GET"]);
    assert_eq!((seen[1].header("range"), seen[1].header("if-match")), (None, Some("\"one\"")));
    assert_eq!(seen[1].header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn an_empty_file_needs_no_body() {
    let (result, _, seen) = download([there(0, TAG)]).await;
    assert_eq!((result.unwrap().as_deref(), methods(&seen)), (Some(""), vec!["HEAD"]));
}

#[tokio::test]
async fn what_was_cut_off_goes_on_where_it_stood() {
    let (result, _, seen) = download([
        there(10, TAG),
        Reply::Cut(text(200, 10, TAG, "0123")),
        Reply::Close,
        refuse(503),
        Reply::Cut(text(206, 6, &[TAG, &[("Content-Range", "bytes 4-9/10")]].concat(), "45")),
        part("bytes 6-9/10", TAG, "6789"),
    ])
    .await;
    assert_eq!(result.unwrap().as_deref(), Some("0123456789"));
    let ranges: Vec<_> = seen.iter().map(|seen| seen.header("range")).collect();
    assert_eq!(ranges, [None, None, Some("bytes=4-"), Some("bytes=4-"), Some("bytes=4-"), Some("bytes=6-")]);
    assert!(seen[2..].iter().all(|seen| seen.header("if-match") == Some("\"one\"")));
}

#[tokio::test]
async fn without_a_tag_the_date_is_the_condition_and_without_both_it_starts_anew() {
    let date = &TAG[1..];
    let weak = &[("ETag", "W/\"one\""), TAG[1]];
    for headers in [date, weak] {
        let (result, _, seen) =
            download([there(4, headers), Reply::Cut(text(200, 4, headers, "01")), part("bytes 2-3/4", headers, "23")])
                .await;
        assert_eq!(result.unwrap().as_deref(), Some("0123"));
        assert_eq!((seen[2].header("if-unmodified-since"), seen[2].header("if-match")), (Some(TAG[1].1), None));
    }
    let (result, _, seen) =
        download([there(4, &[]), Reply::Cut(text(200, 4, &[], "xx")), Reply::Answer(text(200, 4, &[], "0123"))]).await;
    assert_eq!((result.unwrap().as_deref(), seen[2].header("range")), (Some("0123"), None));
}

#[tokio::test]
async fn a_server_without_ranges_sends_all_again() {
    let all = Reply::Answer(text(200, 4, TAG, "0123"));
    let (result, ..) = download([there(4, TAG), Reply::Cut(text(200, 4, TAG, "01")), all]).await;
    assert_eq!(result.unwrap().as_deref(), Some("0123"));
}

#[tokio::test]
async fn a_file_that_changed_is_refused() {
    let other = &[("ETag", "\"two\""), TAG[1]];
    for last in [
        refuse(412),
        refuse(416),
        part("bytes 2-3/4", other, "23"),
        part("bytes 2-4/5", TAG, "234"),
        Reply::Answer(text(200, 4, other, "abcd")),
        Reply::Answer(text(200, 5, TAG, "abcde")),
    ] {
        let (result, job, _) = download([there(4, TAG), Reply::Cut(text(200, 4, TAG, "01")), last.clone()]).await;
        assert!(matches!(result, Err(Error::DownloadChanged(_))), "{last:?}: {result:?}");
        assert_eq!(job.received, 2);
    }
    // In a later process too.
    let server = Server::scripted([there(4, other)]).await;
    let target = Arc::new(Memory::default());
    target.write(0, Bytes::from_static(b"01")).await.unwrap();
    let mut job = DownloadJob::new(server.url("/up/f"));
    job.found = Some(serde_json::from_str(r#"{"size":4,"etag":"\"one\"","modified":null}"#).unwrap());
    job.received = 2;
    let result = client().download(&mut job, target.clone(), |_, _| ()).await;
    assert!(matches!(result, Err(Error::DownloadChanged(_))), "{result:?}");
    assert_eq!(target.whole(), None);
}

#[tokio::test]
async fn parts_that_were_not_asked_for_are_not_taken() {
    for wrong in [part("bytes 1-3/4", TAG, "123"), part("bytes 2-2/4", TAG, "2"), part("nonsense", TAG, "23")] {
        let (result, ..) =
            download([there(4, TAG), Reply::Cut(text(200, 4, TAG, "01")), wrong, part("bytes 2-3/4", TAG, "23")]).await;
        assert_eq!(result.unwrap().as_deref(), Some("0123"));
    }
}

#[tokio::test]
async fn refusals_are_final_and_troubles_are_not() {
    for status in [400, 401, 403, 404, 405, 410, 501, 505] {
        let (result, _, seen) = download([refuse(status)]).await;
        assert!(matches!(result, Err(Error::DownloadRefused { status: said, .. }) if said == status), "{result:?}");
        assert_eq!(seen.len(), 1);
    }
    for status in [408, 429, 500, 502, 503, 504] {
        let (result, ..) = download([refuse(status), there(0, TAG)]).await;
        assert_eq!(result.unwrap().as_deref(), Some(""), "{status}");
    }
    let (result, ..) =
        download([Reply::Answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned())]).await;
    assert!(matches!(result, Err(Error::NoDownload(_))), "{result:?}");
}

#[tokio::test]
async fn what_is_left_of_the_target_counts() {
    let server = Server::scripted([there(4, TAG), part("bytes 1-3/4", TAG, "123")]).await;
    let target = Arc::new(Memory::default());
    target.write(0, Bytes::from_static(b"0")).await.unwrap();
    let mut job = DownloadJob::new(server.url("/up/f"));
    job.found = Some(serde_json::from_str(r#"{"size":4,"etag":"\"one\"","modified":null}"#).unwrap());
    job.received = 3;
    let mut offsets = Vec::new();
    let observe = |_: &DownloadJob, event: DownloadEvent<'_>| {
        if let DownloadEvent::Received { offset } = event {
            offsets.push(offset);
        }
    };
    client().download(&mut job, target.clone(), observe).await.unwrap();
    assert_eq!((target.whole().as_deref(), offsets), (Some("0123"), vec![4]));
}

#[tokio::test]
async fn redirects_are_followed_without_the_password() {
    let elsewhere = Server::scripted([there(1, TAG), Reply::Answer(text(200, 1, TAG, "x"))]).await;
    let to = elsewhere.url("/there").to_string();
    let moved = Reply::Answer(text(302, 0, &[("Location", &to)], ""));
    let server = Server::scripted([moved]).await;
    let mut url = server.url("/up/f");
    url.set_username("me").unwrap();
    url.set_password(Some("secret")).unwrap();
    let target = Arc::new(Memory::default());
    client().download(&mut DownloadJob::new(url), target.clone(), |_, _| ()).await.unwrap();
    assert_eq!(target.whole().as_deref(), Some("x"));
    assert_eq!(server.seen()[0].header("authorization"), Some("Basic bWU6c2VjcmV0"));
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()));
    let round: Vec<_> = (0..7).map(|_| Reply::Answer(text(302, 0, &[("Location", "/up/f")], ""))).collect();
    let (result, ..) = download(round).await;
    assert!(matches!(result, Err(Error::DownloadRefused { status: 302, .. })), "{result:?}");
}

async fn upload_reply(
    server: &Server,
    job: &mut Job,
    source: Arc<BytesSource>,
    target: Arc<Memory>,
) -> (Result<Uploaded, Error>, Vec<String>) {
    let mut events = Vec::new();
    let observe = |_: &Job, event: Event<'_>| match event {
        Event::ReplyReceived { offset } => events.push(format!("reply {offset}")),
        Event::ReplyFinished => events.push("reply finished".to_owned()),
        _ => {}
    };
    let result = client().upload_reply(job, source, target, observe).await;
    assert!(server.seen().len() > 1);
    (result, events)
}

fn last_ack(url: &str) -> Reply {
    ack(200, &[("BITS-Session-Id", ID), ("BITS-Received-Content-Range", "3"), ("BITS-Reply-URL", url)])
}

/// As in section 4: relative to the destination, with backslashes; fetched before Close-Session.
#[tokio::test]
async fn the_reply_is_fetched_before_the_session_is_closed() {
    for (url, path) in [
        (r"BITS-Sessions\Replies\{1}\responsefile.bin", "/up/BITS-Sessions/Replies/%7B1%7D/responsefile.bin"),
        ("../replies/1", "/replies/1"),
    ] {
        let server = Server::scripted([
            created(),
            last_ack(url),
            there(5, TAG),
            Reply::Cut(text(200, 5, TAG, "he")),
            part("bytes 2-4/5", TAG, "llo"),
            last_ack(url),
            ok(),
        ])
        .await;
        let source = Arc::new(BytesSource::new("abc"));
        let mut job = Job::new(server.url("/up/f"), source.fingerprint().await.unwrap());
        let target = Arc::new(Memory::default());
        let (result, events) = upload_reply(&server, &mut job, source, target.clone()).await;
        assert!(result.unwrap().reply_url.is_some());
        assert_eq!(target.whole().as_deref(), Some("hello"));
        assert_eq!(events, ["reply 2", "reply 5", "reply finished"]);
        let seen = server.seen();
        assert_eq!(methods(&seen), ["BITS_POST", "BITS_POST", "HEAD", "GET", "GET", "BITS_POST", "BITS_POST"]);
        let normal = |target: &str| target.replace('{', "%7B").replace('}', "%7D");
        assert_eq!(normal(&seen[2].target), path);
        // Something failed since the last ack: the server is asked whether it still holds everything.
        assert_eq!((seen[5].kind(), seen[6].kind()), ("Fragment", "Close-Session"));
    }
}

#[tokio::test]
async fn an_upload_without_a_reply_is_closed_all_the_same() {
    let server = Server::scripted([created(), wants(3), ok()]).await;
    let source = Arc::new(BytesSource::new("abc"));
    let mut job = Job::new(server.url("/up/f"), source.fingerprint().await.unwrap());
    let target = Arc::new(Memory::default());
    let (result, events) = upload_reply(&server, &mut job, source, target.clone()).await;
    assert_eq!((result.unwrap().reply_url, events.len(), target.whole()), (None, 0, None));
}

/// The session stays open for as long as its reply is not here, and it is there.
#[tokio::test]
async fn a_reply_that_cannot_be_had_leaves_the_session_open() {
    let server = Server::scripted([created(), last_ack("r"), refuse(404), last_ack("r"), refuse(404)]).await;
    let source = Arc::new(BytesSource::new("abc"));
    let mut job = Job::new(server.url("/up/f"), source.fingerprint().await.unwrap());
    let (result, _) = upload_reply(&server, &mut job, source, Arc::new(Memory::default())).await;
    assert!(matches!(result, Err(Error::DownloadRefused { status: 404, .. })), "{result:?}");
    assert!(job.session.is_some());
}

/// It may have gone with the session: the server knows, and makes another in a new one.
#[tokio::test]
async fn a_reply_that_went_with_its_session_comes_with_the_next() {
    for status in [404, 410] {
        let first = [created(), last_ack("r/1"), there(4, TAG), Reply::Cut(text(200, 4, TAG, "01")), refuse(status)];
        let second = [lost(), created(), last_ack("r/2"), there(3, TAG), whole(TAG, "new"), ok()];
        let server = Server::scripted(first.into_iter().chain(second)).await;
        let source = Arc::new(BytesSource::new("abc"));
        let mut job = Job::new(server.url("/up/f"), source.fingerprint().await.unwrap());
        let target = Arc::new(Memory::default());
        let (result, _) = upload_reply(&server, &mut job, source, target.clone()).await;
        result.unwrap();
        assert_eq!(target.whole().as_deref(), Some("new"));
        assert_eq!(server.seen()[5].kind(), "Fragment");
        assert_eq!(server.seen()[8].target, "/up/r/2");
    }
}

/// Nothing of it was put in its place, so that what stands there now is fetched instead.
#[tokio::test]
async fn a_reply_that_changed_is_fetched_from_its_beginning() {
    let other = &[("ETag", "\"two\"")];
    let begun = || [created(), last_ack("r"), there(4, TAG), Reply::Cut(text(200, 4, TAG, "01"))];
    for (between, refused) in [(vec![refuse(412)], false), (vec![refuse(403), ok(), last_ack("r")], true)] {
        let fetched = [there(3, other), whole(other, "new")];
        let rest = if refused {
            [vec![there(3, other)], fetched.to_vec(), vec![ok()]].concat()
        } else {
            [fetched.to_vec(), vec![last_ack("r"), ok()]].concat()
        };
        let server = Server::scripted(begun().into_iter().chain(between).chain(rest)).await;
        let source = Arc::new(BytesSource::new("abc"));
        let mut job = Job::new(server.url("/up/f"), source.fingerprint().await.unwrap());
        let target = Arc::new(Memory::default());
        let (mut result, _) = upload_reply(&server, &mut job, source.clone(), target.clone()).await;
        if refused {
            // A later process finds it.
            result.unwrap_err();
            (result, _) = upload_reply(&server, &mut job, source, target.clone()).await;
        }
        result.unwrap();
        assert_eq!(target.whole().as_deref(), Some("new"));
    }
}

#[tokio::test]
async fn a_reply_that_changes_each_time_is_given_up() {
    let mut count = 0;
    let server = Server::start(move |request: &Seen| {
        count += 1;
        let tag = [("ETag", if count % 2 == 0 { "\"even\"" } else { "\"odd\"" })];
        match (request.method.as_str(), request.kind()) {
            ("HEAD", _) => there(4, &tag),
            ("GET", _) => Reply::Cut(text(200, 4, &tag, "01")),
            (_, "Create-Session") => created(),
            _ => last_ack("r"),
        }
    })
    .await;
    let source = Arc::new(BytesSource::new("abc"));
    let mut job = Job::new(server.url("/up/f"), source.fingerprint().await.unwrap());
    let (result, _) = upload_reply(&server, &mut job, source, Arc::new(Memory::default())).await;
    assert!(matches!(result, Err(Error::GaveUp { .. })), "{result:?}");
    assert!(server.seen().len() < 300 && !server.briefs().contains(&"Close-Session".to_owned()));
}

/// The next process goes on with the reply, not with the upload.
#[tokio::test]
async fn an_interrupted_reply_is_resumed() {
    let server = Server::scripted([
        created(),
        last_ack("r"),
        there(4, TAG),
        Reply::Cut(text(200, 4, TAG, "01")),
        refuse(403),
        ok(),
        last_ack("r"),
        there(4, TAG),
        part("bytes 2-3/4", TAG, "23"),
        ok(),
    ])
    .await;
    let source = Arc::new(BytesSource::new("abc"));
    let mut job = Job::new(server.url("/up/f"), source.fingerprint().await.unwrap());
    let target = Arc::new(Memory::default());
    let (result, _) = upload_reply(&server, &mut job, source.clone(), target.clone()).await;
    assert!(result.is_err());
    let mut job: Job = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
    assert_eq!(job.reply.as_ref().map(|reply| reply.received), Some(2));
    let (result, _) = upload_reply(&server, &mut job, source, target.clone()).await;
    result.unwrap();
    assert_eq!(target.whole().as_deref(), Some("0123"));
    let kinds: Vec<_> = server.seen()[5..].iter().map(|seen| format!("{} {}", seen.method, seen.kind())).collect();
    assert_eq!(kinds, ["BITS_POST Ping", "BITS_POST Fragment", "HEAD none", "GET none", "BITS_POST Close-Session"]);
}

#[tokio::test]
async fn no_hope_is_given_up() {
    let server = Server::start(|_: &Seen| refuse(503)).await;
    let policy = RetryPolicy { give_up: Duration::ZERO, ..RetryPolicy::default() };
    let client = Client::builder().retry(policy).build().unwrap();
    let mut job = DownloadJob::new(server.url("/f"));
    let result = client.download(&mut job, Arc::new(Memory::default()), |_, _| ()).await;
    assert!(matches!(result, Err(Error::GaveUp { last: Failure::DownloadStatus(503), .. })), "{result:?}");
}

/// The same bytes again are no progress: pauses grow, and the time to give up comes.
#[tokio::test]
async fn what_breaks_and_starts_anew_each_time_is_given_up() {
    let server = Server::start(|request: &Seen| match request.method.as_str() {
        "HEAD" => there(4, &[]),
        _ => Reply::Cut(text(200, 4, &[], "01")),
    })
    .await;
    let pause = Duration::from_millis(20);
    let policy = RetryPolicy { first_pause: pause, longest_pause: pause * 4, give_up: pause * 20 };
    let client = Client::builder().retry(policy).build().unwrap();
    let mut job = DownloadJob::new(server.url("/f"));
    let download = client.download(&mut job, Arc::new(Memory::default()), |_, _| ());
    let result = tokio::time::timeout(Duration::from_secs(20), download).await.unwrap();
    assert!(matches!(result, Err(Error::GaveUp { .. })), "{result:?}");
    assert!(server.seen().len() < 30, "{}", server.seen().len());
}

/// A server that names a user in its reply URL does not get the password of another one sent there.
#[tokio::test]
async fn a_reply_elsewhere_gets_no_password() {
    let elsewhere = Server::scripted([there(1, TAG), Reply::Answer(text(200, 1, TAG, "x"))]).await;
    let reply = elsewhere.url("/r").to_string().replace("http://", "http://me@");
    let server = Server::scripted([created(), last_ack(&reply), ok()]).await;
    let source = Arc::new(BytesSource::new("abc"));
    let mut url = server.url("/up/f");
    url.set_username("me").unwrap();
    let mut job = Job::new(url, source.fingerprint().await.unwrap());
    let target = Arc::new(Memory::default());
    let client = Client::builder().password("secret").build().unwrap();
    client.upload_reply(&mut job, source, target.clone(), |_, _| ()).await.unwrap();
    assert_eq!(target.whole().as_deref(), Some("x"));
    assert!(server.seen().iter().all(|seen| seen.header("authorization").is_some()));
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()));
}
