//! What a BITS server would answer: reads request heads from standard input, one after the other
//! with an empty line between them, and prints the ack of each. Nothing is stored; every Fragment
//! is taken to bring the bytes that its head announces.
//!
//! ```text
//! cargo run -p bits-core --example dry_run < bits-core/examples/upload.txt
//! ```
//!
//! Uses bits-core alone, without an engine or stores: [`Packet`] reads the head, [`Session`] says
//! what to do and keeps the outcome, [`Ack`] is the answer.

use std::{collections::HashMap, error::Error, io::Read, time::Duration};

use bits_core::{
    Ack, After, CloseDecision, Directory, Ending, Form, FragmentDecision, FragmentHead, NewSession, Packet, Principal,
    PublishAt, PublishIntent, Quota, Refusal, Session, SessionId, StorageKey, Timestamp, Tombstone, Transition,
    VirtualPath,
};
use http::request::Parts;
use uuid::Uuid;

fn main() -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let mut server = DryRun::new();
    for request in text.replace("\r\n", "\n").split("\n\n").map(str::trim).filter(|request| !request.is_empty()) {
        let head = parse_head(request).map_err(|error| format!("{error} in this request:\n{request}"))?;
        println!("> {} {}", head.method, head.uri);
        match Form::of(&head) {
            Some(form) => print_ack(server.answer(&head, form)),
            None => println!("not BITS: the method is neither BITS_POST nor overridden to it\n"),
        }
    }
    Ok(())
}

/// One directory, `/upload`, and the sessions in it.
struct DryRun {
    directory: Directory,
    sessions: HashMap<SessionId, After>,
    /// Stands still: nothing expires in a dry run.
    now: Timestamp,
}

impl DryRun {
    fn new() -> Self {
        Self {
            directory: Directory::new("/upload", "nowhere", StorageKey::ROOT),
            sessions: HashMap::new(),
            now: Timestamp::from_millis(0),
        }
    }

    fn answer(&mut self, head: &Parts, form: Form) -> Ack {
        match Packet::parse(head, form) {
            Ok(packet) => self
                .handle(&packet, head.uri.path(), form)
                .unwrap_or_else(|refusal| Ack::refused(refusal, packet.session())),
            Err(refusal) => Ack::refused(refusal, None),
        }
    }

    fn handle(&mut self, packet: &Packet, path: &str, form: Form) -> Result<Ack, Refusal> {
        let path = VirtualPath::decode(path)?;
        let below = self.directory.below(&path).ok_or(Refusal::PathNotFound)?;
        match packet {
            Packet::Ping => Ok(Ack::ping()),
            Packet::CreateSession => Ok(self.create(self.directory.destination(&below)?, below, form)),
            Packet::Fragment(fragment) => self.fragment(*fragment, &self.directory.destination(&below)?),
            Packet::CloseSession(id) | Packet::CancelSession(id) => {
                self.end(*id, &self.directory.destination(&below)?, form, packet)
            }
        }
    }

    fn create(&mut self, destination: VirtualPath, key: StorageKey, form: Form) -> Ack {
        // A server picks a random one; here the ids are the same in every run.
        let id = SessionId::new(Uuid::from_u128(1 + self.sessions.len() as u128));
        let new = NewSession {
            id,
            principal: Principal::ANONYMOUS,
            address: "standard input".to_owned(),
            directory: self.directory.url_path.clone(),
            destination,
            storage: self.directory.storage.clone(),
            folder: self.directory.storage_path.clone(),
            key,
            timeout: Duration::from_secs(3600),
            url: None,
            limit: None,
        };
        self.sessions.insert(id, After::Live(Session::create(&new, self.now)));
        Ack::created(id, form, self.directory.host_id.clone())
    }

    fn fragment(&mut self, head: FragmentHead, destination: &VirtualPath) -> Result<Ack, Refusal> {
        let session = match self.find(head.session, destination)? {
            After::Live(session) => session,
            After::Ended(tombstone) => return repeated(&tombstone, &Packet::Fragment(head)),
        };
        let session = match session.on_fragment(head.range, &self.directory) {
            FragmentDecision::Refuse(refusal) => {
                if session.total.is_none() {
                    self.change(&session, &Transition::Name)?;
                }
                return Err(refusal);
            }
            FragmentDecision::Held { next } => return Ok(Ack::fragment(session.id, next)),
            FragmentDecision::Published { total } => return Ok(Ack::fragment(session.id, total)),
            FragmentDecision::Publish => self.publish(&session, head.range.total())?,
            FragmentDecision::Write { skip, length } => {
                println!("  skip {skip}, write {length} at {}", session.received);
                let session = self.write(&session, head.range.total(), length)?;
                let last = session.is_received() && self.directory.publish == PublishAt::LastFragment;
                if last { self.publish(&session, head.range.total())? } else { session }
            }
        };
        Ok(Ack::fragment(session.id, session.received))
    }

    fn end(&mut self, id: SessionId, destination: &VirtualPath, form: Form, packet: &Packet) -> Result<Ack, Refusal> {
        let session = match self.find(id, destination)? {
            After::Live(session) => session,
            After::Ended(tombstone) => return repeated(&tombstone, packet),
        };
        let cancelled = matches!(packet, Packet::CancelSession(_));
        let (session, ending) = match session.on_close(form) {
            _ if cancelled => (session, Ending::Cancelled),
            CloseDecision::Discard | CloseDecision::End => (session, Ending::Closed),
            CloseDecision::Refuse(refusal) => return Err(refusal),
            CloseDecision::Publish | CloseDecision::PublishEmpty => {
                (self.publish(&session, session.received)?, Ending::Closed)
            }
        };
        println!("  {} with {} bytes", ending.as_str(), session.received);
        self.change(&session, &Transition::End(ending))?;
        Ok(Ack::ended(id))
    }

    /// The session, if this path may know of it.
    fn find(&self, id: SessionId, destination: &VirtualPath) -> Result<After, Refusal> {
        let mine = match self.sessions.get(&id) {
            Some(After::Live(session)) => session.belongs_to(&Principal::ANONYMOUS, destination),
            Some(After::Ended(tombstone)) => tombstone.belongs_to(&Principal::ANONYMOUS, destination),
            None => false,
        };
        self.sessions.get(&id).filter(|_| mine).cloned().ok_or(Refusal::SessionNotFound)
    }

    fn write(&mut self, session: &Session, total: u64, length: u64) -> Result<Session, Refusal> {
        let session = self.change(session, &Transition::Begin { total, quota: Quota::NONE })?;
        let to = session.received + length;
        let advance = Transition::Advance {
            to,
            synced: to,
            incarnation: String::new(),
            pieces: Vec::new(),
            handle: None,
            durable: true,
        };
        self.change(&session, &advance)
    }

    fn publish(&mut self, session: &Session, total: u64) -> Result<Session, Refusal> {
        println!("  publish {} bytes as {}", session.received, session.key);
        let session = self.change(session, &Transition::Begin { total, quota: Quota::NONE })?;
        let session = self
            .change(&session, &Transition::Intend { intent: PublishIntent(String::new()), total: session.received })?;
        self.change(&session, &Transition::Published)
    }

    /// Keeps what the change makes of the session; a database would do it by compare-and-swap.
    fn change(&mut self, session: &Session, transition: &Transition) -> Result<Session, Refusal> {
        let after = session.apply(transition, self.now).map_err(|_| Refusal::Internal)?;
        self.sessions.insert(session.id, after.clone());
        Ok(match after {
            After::Live(session) => session,
            After::Ended(_) => session.clone(),
        })
    }
}

/// The answer to a packet that comes after the end.
fn repeated(tombstone: &Tombstone, packet: &Packet) -> Result<Ack, Refusal> {
    match tombstone.answer(packet).ok_or(Refusal::SessionNotFound)? {
        Some(total) => Ok(Ack::fragment(tombstone.id, total)),
        None => Ok(Ack::ended(tombstone.id)),
    }
}

fn print_ack(ack: Ack) {
    if let Some(refusal) = &ack.refusal {
        println!("  refused: {refusal}");
    }
    let response = ack.into_response();
    println!("< {}", response.status());
    for (name, value) in response.headers() {
        println!("< {name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    println!();
}

fn parse_head(text: &str) -> Result<Parts, Box<dyn Error>> {
    let mut lines = text.lines();
    let mut start = lines.next().unwrap_or_default().split_whitespace();
    let (Some(method), Some(target), Some(version)) = (start.next(), start.next(), start.next()) else {
        return Err("the first line is not `METHOD path HTTP/1.1`".into());
    };
    let version = if version == "HTTP/1.1" { http::Version::HTTP_11 } else { http::Version::HTTP_10 };
    let mut request = http::Request::builder().method(method).uri(target).version(version);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in the header line `{line}`"))?;
        request = request.header(name.trim(), value.trim());
    }
    Ok(request.body(())?.into_parts().0)
}
