//! Bytes of files that the system sends by itself: they need not be copied here and back.
//!
//! hyper never looks at the bytes of a body, it only counts them. So a body hands out a stand-in of
//! the same length, whose place in memory tells it from everything else, and the socket sends the
//! file's bytes when it is to write that. One stand-in is under way on a connection at a time.

use std::{
    fs::File,
    io,
    ops::Range,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use tokio::{io::Interest, net::TcpStream};

use crate::sys;

/// Most bytes of one stand-in.
pub(crate) const MOST: u64 = 512 * 1024;

/// Never read, and so never more than a range of addresses.
static STAND_IN: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; MOST as usize]));

/// Whether bytes are not themselves to be sent.
pub(crate) fn is_stand_in(bytes: &[u8]) -> bool {
    STAND_IN.as_ptr_range().contains(&bytes.as_ptr())
}

/// What is sent from files on one connection.
#[derive(Debug, Default)]
pub(crate) struct Sending(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What is left of a file's piece.
    piece: Option<(Arc<File>, Range<u64>)>,
    /// The body that goes on afterwards.
    body: Option<Waker>,
}

impl Sending {
    /// What stands for these bytes of a file, of which there must be no more than [`MOST`], once
    /// those before are sent.
    pub(crate) fn begin(&self, file: Arc<File>, range: Range<u64>) -> Bytes {
        let stand_in = STAND_IN.slice(..(range.end - range.start) as usize);
        self.state().piece = Some((file, range));
        stand_in
    }

    /// Ready when nothing is left to be sent from a file.
    pub(crate) fn poll_sent(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.piece.is_none() {
            return Poll::Ready(());
        }
        state.body = Some(context.waker().clone());
        Poll::Pending
    }

    /// Sends to `stream` what the last `length` bytes of a stand-in stand for; how much of it went.
    pub(crate) fn poll_send(
        &self,
        context: &mut Context<'_>,
        stream: &TcpStream,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(stream.poll_write_ready(context))?;
            match stream.try_io(Interest::WRITABLE, || self.send(stream, length)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn send(&self, stream: &TcpStream, length: usize) -> io::Result<usize> {
        let mut state = self.state();
        let Some((file, range)) = &mut state.piece else { return Err(out_of_step()) };
        if range.end - range.start != length as u64 {
            return Err(out_of_step());
        }
        let sent = sys::send_file(stream, file, range.start, length)?;
        range.start += sent as u64;
        if range.is_empty() {
            state.piece = None;
            state.body.take().into_iter().for_each(Waker::wake);
        }
        Ok(sent)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rather no connection than other bytes than the file's.
fn out_of_step() -> io::Error {
    io::Error::other("the body is not where the connection is")
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write};

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (ours, listener.accept().await.unwrap().0)
    }

    fn file(data: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(data).unwrap();
        Arc::new(file)
    }

    async fn send_all(sending: &Sending, stream: &TcpStream, mut stand_in: Bytes) -> io::Result<()> {
        while !stand_in.is_empty() {
            assert!(is_stand_in(&stand_in));
            let sent = poll_fn(|context| sending.poll_send(context, stream, stand_in.len())).await?;
            let _ = stand_in.split_to(sent);
        }
        Ok(())
    }

    #[tokio::test]
    async fn the_bytes_of_the_file_come() {
        let data: Vec<u8> = (0..3 * MOST).map(|at| (at ^ (at >> 8)) as u8).collect();
        let (file, sending, (ours, mut theirs)) = (file(&data), Sending::default(), pair().await);
        let sent = async {
            for start in [5, 5 + MOST, 7] {
                let stand_in = sending.begin(file.clone(), start..start + MOST);
                assert_eq!(stand_in.len() as u64, MOST);
                assert!(poll_fn(|context| Poll::Ready(sending.poll_sent(context).is_pending())).await);
                send_all(&sending, &ours, stand_in).await.unwrap();
                poll_fn(|context| sending.poll_sent(context)).await;
            }
        };
        let mut came = vec![0; 3 * MOST as usize];
        let (_, read) = tokio::join!(sent, theirs.read_exact(&mut came));
        read.unwrap();
        let most = MOST as usize;
        assert!(came[..2 * most] == data[5..5 + 2 * most] && came[2 * most..] == data[7..7 + most]);
    }

    #[tokio::test]
    async fn what_is_not_in_step_is_not_sent() {
        let (file, sending, (ours, theirs)) = (file(&[1; 100]), Sending::default(), pair().await);
        let (sending, ours) = (&sending, &ours);
        let send = |length| poll_fn(move |context| sending.poll_send(context, ours, length));
        assert!(send(10).await.is_err(), "nothing is to be sent");
        sending.begin(file.clone(), 0..100);
        assert!(send(99).await.is_err(), "another length");
        assert_eq!(send(100).await.unwrap(), 100);
        sending.begin(file, 90..110);
        assert_eq!(send(20).await.unwrap(), 10);
        let error = send(10).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        drop(theirs);
    }

    #[test]
    fn a_stand_in_is_told_from_everything_else() {
        let stand_in = Sending::default().begin(file(b""), 0..MOST);
        assert!(is_stand_in(&stand_in) && is_stand_in(&stand_in[MOST as usize - 1..]));
        assert!(!is_stand_in(&vec![0; MOST as usize]) && !is_stand_in(&[0]));
    }
}
