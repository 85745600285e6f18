//! The client's rules (section 3.1.5), each against a server that is told what to answer.
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod support;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bits_client::{
    BytesSource, Client, ClientBuilder, Error, Event, Failure, Fingerprint, Form, FragmentSize, Job, RetryPolicy,
    Source, Uploaded,
};
use bytes::Bytes;
use support::*;
use url::Url;

const KIB: usize = 1024;

fn builder() -> ClientBuilder {
    let pause = Duration::from_millis(1);
    let retry = RetryPolicy { first_pause: pause, longest_pause: pause * 4, give_up: Duration::from_secs(20) };
    Client::builder().retry(retry).fragment_size(FragmentSize::Fixed(5 * KIB as u64))
}

fn client() -> Client {
    builder().build().unwrap()
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index * 7 + index / 251) as u8).collect()
}

async fn job_for(url: Url, source: &dyn Source) -> Job {
    Job::new(url, source.fingerprint().await.unwrap())
}

/// Uploads this many bytes with a job that is new, and returns the job as well.
async fn upload_with(client: &Client, url: Url, count: usize) -> (Job, Result<Uploaded, Error>) {
    let source = Arc::new(BytesSource::new(bytes(count)));
    let mut job = job_for(url, &*source).await;
    let result = client.upload(&mut job, source, |_, _| ()).await;
    (job, result)
}

async fn upload(server: &Server, count: usize) -> (Job, Result<Uploaded, Error>) {
    upload_with(&client(), server.url("/up/f"), count).await
}

fn fragment(start: usize, end: usize, total: usize) -> String {
    format!("Fragment bytes {start}-{}/{total}", end - 1)
}

#[tokio::test]
async fn a_whole_upload_byte_by_byte_on_one_connection() {
    let server = Server::scripted([created(), wants(5120), wants(10_240), wants(12_000), ok()]).await;
    let url = server.url("/up/a%20file.bin?key=1#part");
    let (job, result) = upload_with(&client(), url, 12_000).await;
    assert_eq!(result.unwrap().reply_url, None);
    assert_eq!(job.session, None, "nothing is left to be closed");

    let seen = server.seen();
    assert_eq!(
        server.briefs(),
        [
            "Create-Session".to_owned(),
            fragment(0, 5120, 12_000),
            fragment(5120, 10_240, 12_000),
            fragment(10_240, 12_000, 12_000),
            "Close-Session".to_owned()
        ]
    );
    for request in &seen {
        assert_eq!((request.method.as_str(), request.connection), ("BITS_POST", 0));
        assert_eq!(request.target, "/up/a%20file.bin?key=1");
        assert_eq!(request.header("host").unwrap(), server.address.to_string());
        assert_eq!(request.length(), request.body.len());
        assert!(request.header("content-length").is_some(), "{request:?}");
        assert!(request.header("transfer-encoding").is_none());
        assert!(request.header("authorization").is_none());
    }
    assert_eq!(seen[0].header("bits-supported-protocols"), Some(bits_core::PROTOCOL));
    assert_eq!(seen[0].header("bits-session-id"), None);
    assert!(seen[1..].iter().all(|request| request.header("bits-session-id") == Some(ID)), "the id as it came");
    let sent: Vec<u8> = seen.iter().flat_map(|request| request.body.clone()).collect();
    assert_eq!(sent, bytes(12_000));
}

#[tokio::test]
async fn the_override_form_says_so_and_takes_201() {
    let created = ack(201, &[("BITS-Protocol", bits_core::PROTOCOL), ("BITS-Session-Id", ID)]);
    let server = Server::scripted([created, wants(3), ok()]).await;
    let client = builder().form(Form::Override).build().unwrap();
    upload_with(&client, server.url("/up/f"), 3).await.1.unwrap();
    for request in server.seen() {
        assert_eq!(request.method, "POST");
        assert_eq!(request.header("x-http-method-override"), Some("BITS_POST"));
    }
}

#[tokio::test]
async fn an_empty_file_is_one_fragment_without_bytes() {
    let server = Server::scripted([created(), wants(0), ok()]).await;
    upload(&server, 0).await.1.unwrap();
    assert_eq!(server.briefs(), ["Create-Session", "Fragment bytes */0", "Close-Session"]);
    assert_eq!(server.seen()[1].header("content-length"), Some("0"));
}

#[tokio::test]
async fn goes_on_wherever_the_ack_says() {
    let server = Server::scripted([
        created(),
        wants(5120),
        wants(3000), // taken back
        wants(9000), // more than was sent
        gap(100),    // told by 416
        gap(19_000),
        wants(20_000),
        ok(),
    ])
    .await;
    upload(&server, 20_000).await.1.unwrap();
    let starts = [(0, 5120), (5120, 10_240), (3000, 8120), (9000, 14_120), (100, 5220), (19_000, 20_000)];
    let fragments: Vec<_> = starts.iter().map(|(start, end)| fragment(*start, *end, 20_000)).collect();
    assert_eq!(server.briefs()[1..7], fragments);
    let everything = bytes(20_000);
    for (request, (start, end)) in server.seen()[1..7].iter().zip(starts) {
        assert_eq!(request.body, everything[start..end]);
    }
}

#[tokio::test]
async fn a_416_that_says_all_is_there_completes() {
    let server = Server::scripted([created(), gap(7), ok()]).await;
    upload(&server, 7).await.1.unwrap();
    assert_eq!(server.briefs().last().unwrap(), "Close-Session");
}

#[tokio::test]
async fn sends_less_when_told_and_remembers_it() {
    let server =
        Server::scripted([created(), ack(413, &[]), ack(413, &[]), wants(8 * KIB as u64), wants(9000), ok()]).await;
    let client = builder().fragment_size(FragmentSize::Fixed(32 * KIB as u64)).build().unwrap();
    let source = Arc::new(BytesSource::new(bytes(40 * KIB)));
    let mut job = job_for(server.url("/up/f"), &*source).await;
    let mut limit = None;
    let mut upload = Box::pin(client.upload(&mut job, source, |job, event| {
        if matches!(event, Event::Acknowledged { .. }) {
            limit = job.largest_fragment;
        }
    }));
    let _ = tokio::time::timeout(Duration::from_secs(1), &mut upload).await;
    drop(upload);
    let lengths: Vec<usize> = server.seen()[1..5].iter().map(Seen::length).collect();
    assert_eq!(lengths, [32 * KIB, 16 * KIB, 8 * KIB, 8 * KIB]);
    assert_eq!(limit, Some(8 * KIB as u64));
}

#[tokio::test]
async fn gives_up_when_the_smallest_fragment_is_too_large() {
    let refuse = |seen: &Seen| match seen.kind() {
        "Create-Session" => created(),
        _ => ack(413, &[]),
    };
    let server = Server::start(refuse).await;
    let client = builder().fragment_size(FragmentSize::Fixed(18 * KIB as u64)).build().unwrap();
    let (job, result) = upload_with(&client, server.url("/up/f"), 40 * KIB).await;
    let text = result.unwrap_err().to_string();
    assert!(text.contains("refuses even the smallest fragment"), "{text}");
    let lengths: Vec<usize> = server.seen()[1..].iter().map(Seen::length).collect();
    assert_eq!(lengths, [18 * KIB, 9 * KIB, 5 * KIB]);
    assert!(job.session.is_some(), "the job can go on when the limit is raised");
}

#[tokio::test]
async fn a_413_before_the_body_is_read_is_understood() {
    let total = 30 << 20;
    struct Impatient;
    impl Handler for Impatient {
        fn appetite(&mut self, head: &Seen) -> usize {
            if head.length() > 1 << 20 { 1000 } else { usize::MAX }
        }
        fn reply(&mut self, seen: &Seen) -> Reply {
            match seen.kind() {
                "Create-Session" => created(),
                "Fragment" if seen.length() > 1 << 20 => ack(413, &[]),
                "Fragment" => wants(30 << 20),
                _ => ok(),
            }
        }
    }
    let server = Server::start(Impatient).await;
    let client = builder().fragment_size(FragmentSize::Fixed(16 << 20)).build().unwrap();
    upload_with(&client, server.url("/up/f"), total).await.1.unwrap();
    let lengths: Vec<usize> = server.seen().iter().filter(|seen| seen.kind() == "Fragment").map(Seen::length).collect();
    assert_eq!(lengths, [16 << 20, 8 << 20, 4 << 20, 2 << 20, 1 << 20]);
}

#[tokio::test]
async fn a_server_that_hangs_up_on_long_fragments_gets_shorter_ones() {
    struct HangsUp;
    impl Handler for HangsUp {
        fn appetite(&mut self, head: &Seen) -> usize {
            if head.length() > 10 * KIB { 1000 } else { usize::MAX }
        }
        fn reply(&mut self, seen: &Seen) -> Reply {
            match seen.header("content-range") {
                None if seen.kind() == "Create-Session" => created(),
                None => ok(),
                Some(_) if seen.length() > 10 * KIB => Reply::Close,
                Some(range) => wants(range.split(['-', '/']).nth(1).unwrap().parse::<u64>().unwrap() + 1),
            }
        }
    }
    let server = Server::start(HangsUp).await;
    let client = builder().fragment_size(FragmentSize::Fixed(40 * KIB as u64)).build().unwrap();
    upload_with(&client, server.url("/up/f"), 50 * KIB).await.1.unwrap();
    assert_eq!(server.briefs().last().unwrap(), "Close-Session");
}

#[tokio::test]
async fn starts_over_when_the_session_is_lost() {
    let again = ack(200, &[("BITS-Session-Id", OTHER_ID)]);
    let server = Server::scripted([
        created(),
        wants(5120),
        lost(),
        again,
        wants(5120),
        wants(6000),
        lost(),
        created(),
        wants(6000),
        ok(),
    ])
    .await;
    upload(&server, 6000).await.1.unwrap();
    let seen = server.seen();
    assert_eq!(seen[3].brief(), "Create-Session");
    assert_eq!(seen[4].brief(), fragment(0, 5120, 6000), "from the first byte");
    assert_eq!(seen[4].header("bits-session-id"), Some(OTHER_ID));
    assert_eq!((seen[6].kind(), seen[7].kind()), ("Close-Session", "Create-Session"));
}

#[tokio::test]
async fn does_not_start_over_for_ever() {
    let server = Server::start(|seen: &Seen| match seen.kind() {
        "Create-Session" => created(),
        _ if seen.brief().contains(" 0-") => wants(5120),
        _ => lost(),
    })
    .await;
    let (_, result) = upload(&server, 6000).await;
    assert!(matches!(result, Err(Error::GaveUp { last: Failure::SessionLost, .. })), "{result:?}");
    let created = server.briefs().iter().filter(|brief| *brief == "Create-Session").count();
    assert!((10..=60).contains(&created), "{created}");
}

#[tokio::test]
async fn does_not_go_to_and_fro_for_ever() {
    let mut there = false;
    let server = Server::start(move |seen: &Seen| {
        there = !there;
        match seen.kind() {
            "Create-Session" => created(),
            _ => wants(if there { 0 } else { 5120 }),
        }
    })
    .await;
    let (_, result) = upload(&server, 6000).await;
    assert!(matches!(result, Err(Error::GaveUp { last: Failure::NoProgress { .. }, .. })), "{result:?}");
    assert!(server.seen().len() < 200);
}

#[tokio::test]
async fn gives_up_on_a_server_that_takes_nothing() {
    let server = Server::start(|seen: &Seen| if seen.kind() == "Create-Session" { created() } else { wants(0) }).await;
    let pause = Duration::from_millis(20);
    let retry = RetryPolicy { first_pause: pause, longest_pause: pause, give_up: pause * 10 };
    let (job, result) = upload_with(&builder().retry(retry).build().unwrap(), server.url("/up/f"), 6000).await;
    let Err(error @ Error::GaveUp { .. }) = result else { panic!("{result:?}") };
    assert!(error.may_pass());
    assert!(server.seen().len() < 40, "pauses between tries: {}", server.seen().len());
    assert!(job.session.is_some());
}

#[tokio::test]
async fn final_answers_end_it_at_once() {
    for (reply, words) in [
        (error(403, "0x80070005"), "access denied, or the destination exists"),
        (error(500, "0x80200020"), "larger than the server takes"),
        (error(503, "0x80070057"), "malformed"),
        (error(501, "0x80070005"), "E_ACCESSDENIED"),
        (error(404, "0x80070003"), "takes no uploads at this URL"),
        (error(400, "0x8007007B"), "cannot use the file's name"),
        (ack(401, &[]), "wants a user name and password"),
        (ack(407, &[]), "proxy"),
        (ack(505, &[]), "HTTP 505"),
        (ack(304, &[]), "HTTP 304"),
        (Reply::Answer(head(404, &[])), "nothing at this URL"),
        (Reply::Answer(head(405, &[])), "does not take BITS uploads"),
    ] {
        let server = Server::scripted([reply]).await;
        let (job, result) = upload(&server, 10).await;
        let error = result.unwrap_err();
        assert!(!error.may_pass());
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(server.seen().len(), 1);
        assert_eq!(job.session, None);
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let not_an_ack = || Reply::Answer(head(200, &[("BITS-Received-Content-Range", "10"), ("BITS-Session-Id", ID)]));
    let server = Server::scripted([
        Reply::Close,
        not_an_ack(),
        error(500, "0x80004005"),
        ack(408, &[]),
        ack(409, &[]),
        ack(200, &[("BITS-Session-Id", "no guid")]),
        created(),
        error(500, "0x80070070"),
        error(503, "0x800704D5"),
        Reply::Answer(head(502, &[])),
        Reply::Answer(head(404, &[])), // a proxy whose server is down
        not_an_ack(),
        ack(200, &[]),
        wants(11), // past the end
        ack(416, &[]),
        Reply::Close,
        wants(10),
        error(500, "0x80004005"),
        wants(10),
        Reply::Close,
        wants(10),
        ok(),
    ])
    .await;
    upload(&server, 10).await.1.unwrap();
    assert_eq!(server.seen().len(), 22);
    let kinds: Vec<String> = server.seen().iter().map(|seen| seen.kind().to_owned()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "Create-Session").count(), 7, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "Close-Session").count(), 3, "{kinds:?}");
}

#[tokio::test]
async fn waits_as_long_as_the_server_asks() {
    let server = Server::scripted([ack(503, &[("Retry-After", "1")]), created(), wants(10), ok()]).await;
    let begun = Instant::now();
    upload(&server, 10).await.1.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn an_unreachable_server_is_given_up_after_the_time_for_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url: Url = format!("http://me:secret@{}/up/f", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let pause = Duration::from_millis(10);
    let retry = RetryPolicy { first_pause: pause, longest_pause: pause, give_up: pause * 10 };
    let error = upload_with(&builder().retry(retry).build().unwrap(), url, 10).await.1.unwrap_err();
    assert!(error.may_pass());
    let text = error.to_string();
    assert!(text.contains("no connection to 127.0.0.1:") && text.contains("refused"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_job_goes_on_where_it_was_left() {
    let source = Arc::new(BytesSource::new(bytes(12_000)));
    let server = Server::scripted([created(), wants(5120), Reply::Silence]).await;
    let mut job = job_for(server.url("/up/f"), &*source).await;
    let client = client();
    let mut saved = None;
    let upload = client.upload(&mut job, source.clone(), |job, event| {
        if matches!(event, Event::Acknowledged { .. }) {
            saved = Some(serde_json::to_string(job).unwrap());
        }
    });
    tokio::time::timeout(Duration::from_secs(1), upload).await.unwrap_err();
    let mut job: Job = serde_json::from_str(&saved.unwrap()).unwrap();
    assert_eq!(job.next_offset(), 5120);

    let later = Server::start_at(&server.address.ip().to_string().replace("127.0.0.1", "127.0.0.1:0"), {
        let mut replies = vec![ok(), wants(12_000), ok()].into_iter();
        move |_: &Seen| replies.next().unwrap()
    })
    .await;
    job.url = later.url("/up/f");
    job.session.as_mut().unwrap().url = later.url("/up/f");
    client.upload(&mut job, source, |_, _| ()).await.unwrap();
    assert_eq!(later.briefs(), ["Ping".to_owned(), fragment(5120, 10_240, 12_000), "Close-Session".to_owned()]);
    assert_eq!(later.seen()[0].header("bits-session-id"), None);
    assert_eq!(later.seen()[1].header("bits-session-id"), Some(ID));
}

/// A job that was left with every byte acknowledged: the server refused its Close-Session.
async fn left_complete(server: &Server, source: &BytesSource) -> Job {
    let mut job = job_for(server.url("/up/f"), source).await;
    client().upload(&mut job, Arc::new(source.clone()), |_, _| ()).await.unwrap_err();
    assert!(job.is_complete());
    job
}

#[tokio::test]
async fn a_complete_job_asks_before_it_closes() {
    for (size, asked) in [(10, fragment(0, 1, 10)), (0, "Fragment bytes */0".to_owned())] {
        let replies = [created(), wants(size as u64), ack(505, &[]), ok(), wants(size as u64), ok()];
        let (server, source) = (Server::scripted(replies).await, BytesSource::new(bytes(size)));
        let mut job = left_complete(&server, &source).await;
        client().upload(&mut job, Arc::new(source), |_, _| ()).await.unwrap();
        assert_eq!(server.briefs()[3..], ["Ping", &asked, "Close-Session"]);
    }
}

/// A server that fell back to an older state of the session would delete it when it is closed.
#[tokio::test]
async fn what_a_server_forgot_of_a_complete_job_is_sent_again() {
    for (size, forgot, rest) in [
        (6000, wants(5120), [fragment(0, 1, 6000), fragment(5120, 6000, 6000)]),
        (6000, gap(5120), [fragment(0, 1, 6000), fragment(5120, 6000, 6000)]),
        (5000, wants(1), [fragment(0, 1, 5000), fragment(1, 5000, 5000)]),
    ] {
        let first = [created(), wants(5120), wants(6000), ack(505, &[])];
        let first = if size == 6000 { first.to_vec() } else { vec![created(), wants(5000), ack(505, &[])] };
        let later = [ok(), forgot, wants(size as u64), ok()];
        let count = first.len();
        let server = Server::scripted(first.into_iter().chain(later)).await;
        let source = BytesSource::new(bytes(size));
        let mut job = left_complete(&server, &source).await;
        client().upload(&mut job, Arc::new(source), |_, _| ()).await.unwrap();
        assert_eq!(server.briefs()[count..], ["Ping", &rest[0], &rest[1], "Close-Session"]);
    }
}

/// After the server failed it may be another one, which knows less.
#[tokio::test]
async fn a_close_that_failed_is_not_repeated_without_asking() {
    for failed in [Reply::Close, error(503, "0x800704D5"), Reply::Answer(head(502, &[]))] {
        let server = Server::scripted([created(), wants(10), failed, wants(4), wants(10), ok()]).await;
        upload(&server, 10).await.1.unwrap();
        assert_eq!(server.briefs()[2..], ["Close-Session", &fragment(0, 1, 10), &fragment(4, 10, 10), "Close-Session"]);
    }
}

/// The first Close-Session ended the session, and its ack was lost: the second one is acknowledged.
#[tokio::test]
async fn a_session_that_its_close_has_ended_is_not_begun_anew() {
    let server = Server::scripted([created(), wants(10), Reply::Close, lost(), Reply::Close, lost(), ok()]).await;
    upload(&server, 10).await.1.unwrap();
    let asked = fragment(0, 1, 10);
    assert_eq!(server.briefs()[2..], ["Close-Session", &asked, "Close-Session", &asked, "Close-Session"]);

    // Whatever else ended it, everything is sent anew.
    let server =
        Server::scripted([created(), wants(10), Reply::Close, lost(), lost(), created(), wants(10), ok()]).await;
    upload(&server, 10).await.1.unwrap();
    assert_eq!(server.briefs()[5..], ["Create-Session", &fragment(0, 10, 10), "Close-Session"]);
}

/// That every byte is there is heard again before each Close-Session, and is no progress.
#[tokio::test]
async fn a_server_that_never_closes_is_given_up() {
    let server = Server::start(|seen: &Seen| match seen.kind() {
        "Create-Session" => created(),
        "Fragment" => wants(10),
        _ => error(500, "0x80004005"),
    })
    .await;
    let pause = Duration::from_millis(20);
    let retry = RetryPolicy { first_pause: pause, longest_pause: pause, give_up: pause * 10 };
    let (job, result) = upload_with(&builder().retry(retry).build().unwrap(), server.url("/up/f"), 10).await;
    assert!(matches!(result, Err(Error::GaveUp { .. })), "{result:?}");
    assert!(job.is_complete() && server.seen().len() < 60, "{}", server.seen().len());
}

/// The server keeps the session, and wants from it what it lost.
#[tokio::test]
async fn what_the_server_lost_before_closing_is_sent_again() {
    let gone = || error(404, "0x80070002");
    let server = Server::scripted([created(), wants(5120), wants(6000), gone(), wants(5120), wants(6000), ok()]).await;
    let (_, result) = upload(&server, 6000).await;
    result.unwrap();
    let again = [fragment(0, 5120, 6000), fragment(5120, 6000, 6000), "Close-Session".to_owned()];
    assert_eq!(server.briefs()[4..], again);
    assert!(server.seen()[1..].iter().all(|seen| seen.header("bits-session-id") == Some(ID)));

    // In a later process too; whatever was kept is not sent twice, and an empty file is a fragment again.
    let then = |size, rest: Vec<Reply>| {
        [vec![created(), wants(size), ack(505, &[]), ok(), wants(size), gone()], rest, vec![ok()]].concat()
    };
    let (all_lost, part_lost) = (then(0, vec![wants(0)]), then(100_000, vec![wants(60_000), wants(100_000)]));
    for (size, replies, last) in [
        (0, all_lost, vec!["Fragment bytes */0".to_owned()]),
        (100_000, part_lost, vec![fragment(0, 1, 100_000), fragment(60_000, 100_000, 100_000)]),
    ] {
        let server = Server::scripted(replies).await;
        let source = Arc::new(BytesSource::new(bytes(size)));
        let mut job = job_for(server.url("/up/f"), &*source).await;
        let client = builder().fragment_size(FragmentSize::Fixed(100_000)).build().unwrap();
        client.upload(&mut job, source.clone(), |_, _| ()).await.unwrap_err();
        let mut told = Vec::new();
        let observe = |job: &Job, event: Event<'_>| {
            if matches!(event, Event::Waiting { failure: Failure::DataLost, .. }) {
                told.push(job.is_complete());
            }
        };
        client.upload(&mut job, source, observe).await.unwrap();
        assert_eq!(told, [false], "nothing is claimed of what was lost");
        assert_eq!((server.briefs()[3].as_str(), server.briefs()[5].as_str()), ("Ping", "Close-Session"));
        assert_eq!(server.briefs()[6..], [last, vec!["Close-Session".to_owned()]].concat());
    }
}

#[tokio::test]
async fn a_server_that_loses_everything_each_time_is_given_up() {
    let server = Server::start(|seen: &Seen| match seen.kind() {
        "Create-Session" => created(),
        "Fragment" => wants(5),
        _ => error(404, "0x80070002"),
    })
    .await;
    let (job, result) = upload(&server, 5).await;
    assert!(matches!(result, Err(Error::GaveUp { last: Failure::DataLost, .. })), "{result:?}");
    assert!((10..=60).contains(&server.briefs().iter().filter(|brief| *brief == "Close-Session").count()));
    assert!(!job.is_complete());
}

#[tokio::test]
async fn asks_where_the_server_stands_after_a_long_fragment_broke() {
    let total = 1 << 20;
    struct Breaks(usize);
    impl Handler for Breaks {
        fn appetite(&mut self, head: &Seen) -> usize {
            if head.length() == 1 << 20 { 600_000 } else { usize::MAX }
        }
        fn reply(&mut self, seen: &Seen) -> Reply {
            self.0 += 1;
            match (seen.kind(), self.0) {
                ("Create-Session", _) => created(),
                ("Fragment", 2) => Reply::Close,
                ("Fragment", 3) => wants(600_000),
                ("Fragment", 4) => wants(1 << 20),
                _ => ok(),
            }
        }
    }
    let server = Server::start(Breaks(0)).await;
    let client = builder().fragment_size(FragmentSize::Fixed(64 << 20)).build().unwrap();
    upload_with(&client, server.url("/up/f"), total).await.1.unwrap();
    let wanted = [fragment(0, total, total), fragment(0, 1, total), fragment(600_000, total, total)];
    assert_eq!(server.briefs()[1..4], wanted);
    assert_eq!(server.seen()[3].body, bytes(total)[600_000..]);
}

#[tokio::test]
async fn the_reply_url_is_part_of_the_result() {
    let last = [("BITS-Received-Content-Range", "10"), ("BITS-Reply-URL", r"BITS-Sessions\Replies\r.bin")];
    let server = Server::scripted([created(), ack(200, &last), ok()]).await;
    let uploaded = upload(&server, 10).await.1.unwrap();
    assert_eq!(uploaded.reply_url, Some(server.url("/up/BITS-Sessions/Replies/r.bin")));
}

#[tokio::test]
async fn packets_go_to_the_host_that_the_server_names() {
    for (origin, host_id, swapped) in [("localhost", "127.0.0.1", "127.0.0.1"), ("localhost", "::1", "[::1]")] {
        let any = if host_id == "::1" { "[::]:0" } else { "127.0.0.1:0" };
        let named = [("BITS-Session-Id", ID), ("BITS-Host-Id", host_id), ("BITS-Host-Id-Fallback-Timeout", "60")];
        let mut replies = vec![ack(200, &named), ok(), wants(10), ok()].into_iter();
        let server = Server::start_at(any, move |_: &Seen| replies.next().unwrap()).await;
        let port = server.address.port();
        let url = format!("http://me:pw@{origin}:{port}/up/f").parse().unwrap();
        upload_with(&client(), url, 10).await.1.unwrap();
        assert_eq!(server.briefs(), ["Create-Session", "Ping", "Fragment bytes 0-9/10", "Close-Session"]);
        let hosts: Vec<_> = server.seen().iter().map(|seen| seen.header("host").unwrap().to_owned()).collect();
        assert_eq!(hosts[0], format!("{origin}:{port}"));
        assert!(hosts[1..].iter().all(|host| *host == format!("{swapped}:{port}")), "{hosts:?}");
        assert!(server.seen().iter().all(|seen| seen.header("authorization") == Some("Basic bWU6cHc=")));
    }
}

#[tokio::test]
async fn goes_back_to_the_original_host_after_the_fallback_time() {
    // The named host is another loopback address, where nothing listens on this port.
    let named = [("BITS-Session-Id", ID), ("BITS-Host-Id", "127.0.0.9"), ("BITS-Host-Id-Fallback-Timeout", "1")];
    let server = Server::scripted([ack(200, &named), ok(), wants(10), ok()]).await;
    let source = Arc::new(BytesSource::new(bytes(10)));
    let mut job = job_for(server.url("/up/f"), &*source).await;
    let mut left = 0;
    let begun = Instant::now();
    let observe = |_: &Job, event: Event<'_>| left += usize::from(event == Event::HostLeft);
    client().upload(&mut job, source, observe).await.unwrap();
    assert_eq!(left, 1);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.briefs(), ["Create-Session", "Ping", "Fragment bytes 0-9/10", "Close-Session"]);
    assert_eq!(server.seen()[2].header("bits-session-id"), Some(ID), "the session id is kept");
}

#[tokio::test]
async fn without_a_fallback_time_the_named_host_is_kept() {
    let named = [("BITS-Session-Id", ID), ("BITS-Host-Id", "127.0.0.9")];
    let server = Server::scripted([ack(200, &named)]).await;
    let pause = Duration::from_millis(10);
    let retry = RetryPolicy { first_pause: pause, longest_pause: pause, give_up: Duration::from_secs(1) };
    let (job, result) = upload_with(&builder().retry(retry).build().unwrap(), server.url("/up/f"), 10).await;
    assert!(matches!(result, Err(Error::GaveUp { .. })), "{result:?}");
    assert_eq!(server.seen().len(), 1);
    assert!(!job.session.unwrap().host.unwrap().left);
}

#[tokio::test]
async fn credentials_of_the_url_are_sent_but_not_to_strangers() {
    let stranger = Server::scripted([created(), wants(10), ok()]).await;
    let to = stranger.url("/elsewhere/f");
    let server = Server::scripted([ack(307, &[("Location", to.as_str())])]).await;
    let url: Url = format!("http://me:p%40ss%20word@{}/up/f", server.address).parse().unwrap();
    upload_with(&client(), url, 10).await.1.unwrap();
    assert_eq!(server.seen()[0].header("authorization"), Some("Basic bWU6cEBzcyB3b3Jk"));
    assert_eq!(stranger.briefs(), ["Create-Session", "Fragment bytes 0-9/10", "Close-Session"]);
    assert!(stranger.seen().iter().all(|seen| seen.header("authorization").is_none() && seen.method == "BITS_POST"));
    assert!(stranger.seen().iter().all(|seen| seen.target == "/elsewhere/f"));
}

#[tokio::test]
async fn wrong_credentials_are_final() {
    let server = Server::scripted([ack(401, &[("WWW-Authenticate", "Basic realm=x")])]).await;
    let url: Url = format!("http://me:pw@{}/up/f", server.address).parse().unwrap();
    let text = upload_with(&client(), url, 10).await.1.unwrap_err().to_string();
    assert!(text.contains("does not accept this user name and password"), "{text}");
}

#[tokio::test]
async fn redirects_are_followed_a_few_times_only() {
    let server = Server::start(|_: &Seen| ack(302, &[("Location", "/round")])).await;
    let (_, result) = upload(&server, 10).await;
    assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
    assert_eq!(server.seen().len(), 6);
}

#[tokio::test]
async fn a_fragment_is_sent_again_where_it_is_redirected_to() {
    let server =
        Server::scripted([created(), ack(307, &[("Location", "/new/f")]), wants(5120), wants(6000), ok()]).await;
    upload(&server, 6000).await.1.unwrap();
    let seen = server.seen();
    assert_eq!((seen[1].brief(), seen[2].brief()), (fragment(0, 5120, 6000), fragment(0, 5120, 6000)));
    assert_eq!(seen[2].body, bytes(5120));
    assert!(seen[2..].iter().all(|seen| seen.target == "/new/f"));
}

#[tokio::test]
async fn cancelling_ends_the_session() {
    let source = BytesSource::new(bytes(10));
    for replies in
        [vec![ok()], vec![lost()], vec![Reply::Close, error(500, "0x80004005"), Reply::Answer(head(200, &[])), ok()]]
    {
        let count = replies.len();
        let server = Server::scripted([created(), ack(505, &[])].into_iter().chain(replies)).await;
        let mut job = job_for(server.url("/up/f"), &source).await;
        client().upload(&mut job, Arc::new(source.clone()), |_, _| ()).await.unwrap_err();
        client().cancel(&mut job, |_, _| ()).await.unwrap();
        assert_eq!(job.session, None);
        let seen = server.seen();
        assert_eq!(seen.len(), 2 + count);
        assert!(
            seen[2..].iter().all(|seen| seen.kind() == "Cancel-Session" && seen.header("bits-session-id") == Some(ID))
        );
    }
}

#[tokio::test]
async fn cancelling_what_never_began_asks_nobody() {
    let server = Server::scripted([]).await;
    let mut job = job_for(server.url("/up/f"), &BytesSource::new("x")).await;
    client().cancel(&mut job, |_, _| ()).await.unwrap();
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn silence_and_a_full_pipe_time_out() {
    let server = Server::scripted([created(), Reply::Silence, wants(10), ok()]).await;
    let client = builder().response_timeout(Duration::from_millis(200)).build().unwrap();
    upload_with(&client, server.url("/up/f"), 10).await.1.unwrap();

    struct Stuck(bool);
    impl Handler for Stuck {
        fn appetite(&mut self, head: &Seen) -> usize {
            if head.kind() == "Fragment" && !self.0 { 0 } else { usize::MAX }
        }
        fn reply(&mut self, seen: &Seen) -> Reply {
            match seen.kind() {
                "Create-Session" => created(),
                "Fragment" if !std::mem::replace(&mut self.0, true) => Reply::Silence,
                "Fragment" => wants(20 << 20),
                _ => ok(),
            }
        }
    }
    let server = Server::start(Stuck(false)).await;
    let client = builder()
        .fragment_size(FragmentSize::Fixed(20 << 20))
        .send_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let source = Arc::new(BytesSource::new(bytes(20 << 20)));
    let mut job = job_for(server.url("/up/f"), &*source).await;
    let mut failures = Vec::new();
    let observe = |_: &Job, event: Event<'_>| {
        if let Event::Waiting { failure, .. } = event {
            failures.push(failure.clone());
        }
    };
    client.upload(&mut job, source, observe).await.unwrap();
    assert!(matches!(failures[..], [Failure::SendTimeout { .. }]), "{failures:?}");
}

#[tokio::test]
async fn progress_is_told_while_a_fragment_is_sent() {
    let total = 32 << 20;
    let server = Server::scripted([created(), wants(total as u64), ok()]).await;
    let client = builder().fragment_size(FragmentSize::Fixed(total as u64)).build().unwrap();
    let source = Arc::new(BytesSource::new(bytes(total)));
    let mut job = job_for(server.url("/up/f"), &*source).await;
    let mut offsets = Vec::new();
    let observe = |_: &Job, event: Event<'_>| {
        if let Event::Sending { offset } = event {
            offsets.push(offset);
        }
    };
    client.upload(&mut job, source, observe).await.unwrap();
    assert!(offsets.is_sorted() && offsets.last() == Some(&(total as u64)), "{offsets:?}");
    assert!(offsets.len() > 2, "{offsets:?}");
}

/// A source that changes once a number of reads was made.
struct Changing {
    inner: BytesSource,
    reads: AtomicUsize,
    changes_after: usize,
    short: bool,
}

#[async_trait]
impl Source for Changing {
    async fn fingerprint(&self) -> io::Result<Fingerprint> {
        let mut fingerprint = self.inner.fingerprint().await?;
        if !self.short && self.reads.load(Ordering::SeqCst) >= self.changes_after {
            fingerprint.modified = Some(1);
        }
        Ok(fingerprint)
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let before = self.reads.fetch_add(1, Ordering::SeqCst);
        let short = self.short && before >= self.changes_after;
        self.inner.read_at(offset, if short { length / 2 } else { length }).await
    }
}

#[tokio::test]
async fn a_source_that_changes_is_noticed_before_a_fragment_of_it_is_whole() {
    for (changes_after, short, complete) in [(0, false, 0), (0, true, 0), (2, true, 2), (1, false, 0), (3, false, 2)] {
        let server = Server::start(|seen: &Seen| match seen.header("content-range") {
            None => created(),
            Some(_) if seen.body.len() < seen.length() => Reply::Close,
            Some(_) => wants(seen.brief().split(['-', '/']).nth(1).unwrap().parse::<u64>().unwrap() + 1),
        })
        .await;
        let inner = BytesSource::new(bytes(20_000));
        let mut job = job_for(server.url("/up/f"), &inner).await;
        let source = Arc::new(Changing { inner, reads: AtomicUsize::new(0), changes_after, short });
        let result = client().upload(&mut job, source, |_, _| ()).await;
        assert!(matches!(result, Err(Error::SourceChanged(_))), "{result:?}");
        let seen = server.seen();
        let whole = seen.iter().filter(|seen| seen.kind() == "Fragment" && seen.body.len() == seen.length());
        assert_eq!(whole.count(), complete, "{changes_after} {short}");
    }
}
