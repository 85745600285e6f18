//! A client that follows the protocol through whatever happens to its server, and holds the
//! server to what it acknowledged.

use std::{io, net::SocketAddr};

use crate::{Form, Packet, Raw, Response, assert_invariants, assert_ok, pattern};

/// An upload under way.
#[derive(Debug)]
pub struct Upload {
    /// Where the server is.
    pub address: SocketAddr,
    /// The form in which packets are sent.
    pub form: Form,
    /// The path of the destination.
    pub path: String,
    /// What is uploaded.
    pub content: Vec<u8>,
    /// The session, once there is one.
    pub session: Option<String>,
    /// Bytes acknowledged: an answer below it loses data, unless the test has cut the power.
    pub acknowledged: u64,
    connection: Option<Raw>,
}

/// What came of sending a packet.
pub type Sent<T> = io::Result<T>;

impl Upload {
    /// An upload of `length` bytes that differ from those of every other `seed`.
    pub fn new(address: SocketAddr, path: &str, seed: u64, length: usize) -> Self {
        Self {
            address,
            form: Form::Native,
            path: path.to_owned(),
            content: pattern(seed, length),
            session: None,
            acknowledged: 0,
            connection: None,
        }
    }

    /// Size of the upload.
    pub fn total(&self) -> u64 {
        self.content.len() as u64
    }

    /// Whether every byte is acknowledged.
    pub fn is_whole(&self) -> bool {
        self.acknowledged == self.total()
    }

    /// The session, which must have been created.
    pub fn session(&self) -> &str {
        self.session.as_deref().expect("a session was created")
    }

    /// The connection, opened if there is none.
    pub fn connection(&mut self) -> Sent<&mut Raw> {
        if self.connection.is_none() {
            std::net::TcpStream::connect(self.address)?;
            self.connection = Some(Raw::connect(self.address).speaking(self.form));
        }
        self.connection.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Lets go of the connection, whatever is on its way there.
    pub fn disconnect(&mut self) -> Option<Raw> {
        self.connection.take()
    }

    /// Creates the session unless there is one.
    pub fn create(&mut self) -> Sent<()> {
        if self.session.is_some() {
            return Ok(());
        }
        let response = self.ask(&Packet::create(self.form, &self.path))?;
        assert_ok(&response, self.form.created());
        self.session = response.header("BITS-Session-Id").map(str::to_owned);
        assert!(self.session.is_some(), "the ack names no session: {response:?}");
        Ok(())
    }

    /// The next fragment, of at most `size` bytes.
    pub fn next_fragment(&self, size: u64) -> Packet {
        let end = self.total().min(self.acknowledged + size);
        let bytes = &self.content[self.acknowledged as usize..end as usize];
        Packet::fragment(self.form, &self.path, self.session(), self.acknowledged, bytes, self.total())
    }

    /// Sends the next fragment, of at most `size` bytes, and holds the server to its ack: nothing
    /// that was acknowledged before is asked for again.
    pub fn fragment(&mut self, size: u64) -> Sent<()> {
        let response = self.ask(&self.next_fragment(size))?;
        let end = self.total().min(self.acknowledged + size);
        self.acknowledge(&response, end);
        Ok(())
    }

    /// Sends the part of the next fragment that `sent` says, in bytes of its body, and leaves it
    /// at that.
    pub fn begin_fragment(&mut self, size: u64, sent: usize) -> Sent<()> {
        let packet = self.next_fragment(size);
        let connection = self.connection()?;
        connection.try_send(&packet.head())?;
        connection.try_send(&packet.body[..sent.min(packet.body.len())])
    }

    /// Sends all fragments that are left.
    pub fn fragments(&mut self, size: u64) -> Sent<()> {
        while !self.is_whole() {
            self.fragment(size)?;
        }
        Ok(())
    }

    /// Asks which byte is wanted next, by a fragment of one byte that is held if any is. The
    /// answer becomes what is acknowledged, be it more or less than before.
    pub fn ask_next(&mut self) -> Sent<u64> {
        let packet = Packet::fragment(self.form, &self.path, self.session(), 0, &self.content[..1], self.total());
        let response = self.ask(&packet)?;
        assert_ok(&response, 200);
        self.acknowledged = response.next_offset().expect("an ack of a fragment has an offset");
        Ok(self.acknowledged)
    }

    /// Sends the next fragment where the server may ask for older bytes, and goes where it says.
    pub fn fragment_or_regress(&mut self, size: u64) -> Sent<u64> {
        let response = self.ask(&self.next_fragment(size))?;
        assert!(matches!(response.status, 200 | 416), "{response:#?}");
        assert_eq!(response.hresult(), None, "{response:#?}");
        self.acknowledged = response.next_offset().expect("200 and 416 have an offset");
        Ok(self.acknowledged)
    }

    /// Fetches the reply that the ack of the last fragment names, which comes again for that; from
    /// the directory `/upload`, or somewhere else where nothing is fetched.
    pub fn reply(&mut self) -> Sent<Vec<u8>> {
        let last = &self.content[self.content.len() - 1..];
        let packet = Packet::fragment(self.form, &self.path, self.session(), self.total() - 1, last, self.total());
        let response = self.ask(&packet)?;
        assert_ok(&response, 200);
        let url = response.header("BITS-Reply-URL").expect("the last ack names the reply");
        let Some(at) = url.find("BITS-Sessions/") else { return Ok(url.as_bytes().to_vec()) };
        let request = format!("GET /upload/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", &url[at..]);
        let connection = self.connection()?;
        connection.try_send(request.as_bytes())?;
        let answer = connection.try_receive()?;
        assert_eq!(answer.status, 200, "the reply is not there: {answer:#?}");
        Ok(answer.body)
    }

    /// Sends a Close-Session, which must succeed.
    pub fn close(&mut self) -> Sent<()> {
        let response = self.ask(&Packet::close(self.form, &self.path, self.session()))?;
        assert_ok(&response, 200);
        Ok(())
    }

    /// Sends a Cancel-Session, which must succeed.
    pub fn cancel(&mut self) -> Sent<()> {
        let response = self.ask(&Packet::cancel(self.form, &self.path, self.session()))?;
        assert_ok(&response, 200);
        Ok(())
    }

    /// The whole upload, on one connection.
    pub fn run(&mut self, size: u64) -> Sent<()> {
        self.create()?;
        self.fragments(size)?;
        self.close()
    }

    /// Sends a packet and reads the answer, which is an ack. A connection that fails is given up.
    pub fn ask(&mut self, packet: &Packet) -> Sent<Response> {
        let bytes = packet.encode();
        let answered = self.connection().and_then(|connection| {
            connection.try_send(&bytes)?;
            connection.try_receive()
        });
        match &answered {
            Ok(response) => {
                assert_invariants(response);
                if response.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                    self.connection = None;
                }
            }
            Err(_) => self.connection = None,
        }
        answered
    }

    fn acknowledge(&mut self, response: &Response, end: u64) {
        assert_ok(response, 200);
        let next = response.next_offset().expect("an ack of a fragment has an offset");
        assert!(next >= end, "{next} is wanted after bytes up to {end} were taken");
        assert!(next <= self.total(), "{next} of {} bytes", self.total());
        self.acknowledged = next;
    }
}
