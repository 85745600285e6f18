//! Whatever goes wrong on the way, the upload ends, and with the right bytes.
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod support;

use std::{
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use bits_client::{BytesSource, Client, FragmentSize, Job, RetryPolicy, Source};
use bits_core::ContentRange;
use proptest::prelude::*;
use support::*;

/// What befalls one request.
#[derive(Clone, Debug)]
enum Fault {
    None,
    LostRequest,
    LostAck,
    CutBody(usize),
    Unavailable,
    NotAnAck,
    SessionLost,
    TakesBack(usize),
    TooLarge,
    Refuses416,
}

/// A small upload server; strict ones answer 416 to everything but the next byte.
#[derive(Default)]
struct Model {
    faults: Vec<Fault>,
    strict: bool,
    sessions: u8,
    open: bool,
    held: Vec<u8>,
    published: Option<Vec<u8>>,
    closed: bool,
    now: Option<Fault>,
}

impl Model {
    fn id(&self) -> String {
        format!("{{00000000-0000-0000-0000-0000000000{:02X}}}", self.sessions)
    }

    fn process(&mut self, seen: &Seen) -> Reply {
        if seen.kind() == "Create-Session" {
            self.sessions += 1;
            self.open = true;
            self.held.clear();
            return ack(200, &[("BITS-Protocol", bits_core::PROTOCOL), ("BITS-Session-Id", &self.id())]);
        }
        if seen.kind() == "Ping" {
            return ok();
        }
        if !self.open || seen.header("bits-session-id") != Some(&self.id()) {
            return lost();
        }
        match seen.kind() {
            "Close-Session" => {
                self.closed = self.published.is_some();
                ok()
            }
            _ => self.fragment(seen),
        }
    }

    fn fragment(&mut self, seen: &Seen) -> Reply {
        let range: ContentRange = seen.header("content-range").unwrap().parse().unwrap();
        assert_eq!(seen.length() as u64, range.length());
        let (start, held) = (range.start() as usize, self.held.len());
        if start > held || (self.strict && start != held) {
            return gap(held as u64);
        }
        self.held.extend(seen.body.iter().skip(held - start));
        if self.held.len() as u64 == range.total() {
            self.published = Some(self.held.clone());
        }
        wants(self.held.len() as u64)
    }
}

struct Shared(Arc<Mutex<Model>>);

impl Handler for Shared {
    fn appetite(&mut self, head: &Seen) -> usize {
        let mut model = self.0.lock().unwrap();
        let fault = model.faults.pop().unwrap_or(Fault::None);
        let appetite = match fault {
            Fault::CutBody(count) => count.min(head.length().saturating_sub(1)),
            _ => usize::MAX,
        };
        model.now = Some(fault);
        appetite
    }

    fn reply(&mut self, seen: &Seen) -> Reply {
        let mut model = self.0.lock().unwrap();
        let of_fragment = seen.kind() == "Fragment";
        match model.now.take().unwrap() {
            Fault::LostRequest => return Reply::Close,
            Fault::LostAck => {
                let _ = model.process(seen);
                return Reply::Close;
            }
            Fault::CutBody(_) => {
                if of_fragment {
                    let _ = model.process(seen);
                }
                return Reply::Close;
            }
            Fault::Unavailable => return error(503, "0x800704D5"),
            Fault::NotAnAck => return Reply::Answer(head(200, &[("BITS-Received-Content-Range", "0")])),
            Fault::SessionLost => model.open = false,
            Fault::TakesBack(to) if model.published.is_none() => model.held.truncate(to),
            Fault::TooLarge if of_fragment && seen.length() > 5 * 1024 => return ack(413, &[]),
            Fault::Refuses416 if of_fragment => return gap(model.held.len() as u64),
            _ => {}
        }
        model.process(seen)
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::LostRequest),
        2 => Just(Fault::LostAck),
        2 => (0..200_000_usize).prop_map(Fault::CutBody),
        1 => Just(Fault::Unavailable),
        1 => Just(Fault::NotAnAck),
        1 => Just(Fault::SessionLost),
        2 => (0..200_000_usize).prop_map(Fault::TakesBack),
        1 => Just(Fault::TooLarge),
        1 => Just(Fault::Refuses416),
    ]
}

fn fragment_size() -> impl Strategy<Value = FragmentSize> {
    prop_oneof![Just(FragmentSize::Adaptive), (4_000..300_000_u64).prop_map(FragmentSize::Fixed)]
}

async fn run(model: Model, size: usize, fragments: FragmentSize) {
    let content: Vec<u8> = (0..size).map(|index| (index * 31 + index / 256) as u8).collect();
    let model = Arc::new(Mutex::new(model));
    let server = Server::start(Shared(model.clone())).await;
    let pause = Duration::from_millis(1);
    let retry = RetryPolicy { first_pause: pause, longest_pause: pause, give_up: Duration::from_secs(20) };
    let client = Client::builder().fragment_size(fragments).retry(retry).build().unwrap();
    let source = Arc::new(BytesSource::new(content.clone()));
    let mut job = Job::new(server.url("/up/f"), source.fingerprint().await.unwrap());
    // Where the client stops in the middle, it goes on from what was saved last. On a slow machine
    // it gets further each time.
    let mut patience = Duration::from_millis(25);
    loop {
        let mut saved = job.clone();
        let upload = client.upload(&mut job, source.clone(), |job, _| {
            saved = job.clone();
        });
        match tokio::time::timeout(patience, upload).await {
            Ok(result) => break drop(result.unwrap()),
            Err(_) => (job, patience) = (saved, patience * 2),
        }
    }
    let model = model.lock().unwrap();
    assert!(model.closed, "closed before everything was there");
    assert!(model.published.as_ref() == Some(&content), "the published bytes are wrong");
}

/// When the first case began.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
/// On a machine with too much to do, the cases that fit into this time must do.
const ENOUGH: Duration = Duration::from_secs(180);

proptest! {
    // A case that hangs would hang each time that it is made smaller.
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_time: 60_000, ..ProptestConfig::default() })]

    #[test]
    fn an_upload_ends_with_the_right_bytes(
        faults in prop::collection::vec(fault(), 0..40),
        strict in any::<bool>(),
        size in prop_oneof![Just(0), 1..20_000_usize, 100_000..400_000_usize],
        fragments in fragment_size(),
    ) {
        if START.elapsed() > ENOUGH {
            return Ok(());
        }
        let model = Model { faults, strict, ..Model::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = async { tokio::time::timeout(Duration::from_secs(30), run(model, size, fragments)).await };
        runtime.block_on(ended).expect("this does not end");
    }
}
