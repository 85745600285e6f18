//! What systemd asks of the services that it starts: to use the sockets that it opened for them, to
//! say when they serve and when they stop, and to show that they are alive.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::mpsc::{SyncSender, sync_channel},
    time::Duration,
};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::TcpListener;

use crate::cli::Failure;

/// How much may be said while the service manager does not listen.
const UNTOLD: usize = 4;

/// Sockets that were opened for this process. Whatever is not taken is closed when this is dropped.
pub(crate) struct Sockets(Vec<(SocketAddr, StdListener)>);

impl Sockets {
    /// Takes them from the environment; to be called once.
    pub(crate) fn inherited() -> Result<Self, Failure> {
        let unusable = |error| Failure::Failed(format!("a socket that was handed over cannot be used: {error}"));
        let mut inherited = ListenFd::from_env();
        let taken = (0..inherited.len()).filter_map(|at| inherited.take_tcp_listener(at).transpose());
        let named = taken.map(|socket| socket.and_then(|socket| Ok((socket.local_addr()?, socket))));
        Ok(Self(named.collect::<Result<_, _>>().map_err(unusable)?))
    }

    /// The socket that listens on just this address, if there is one.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Option<std::io::Result<TcpListener>> {
        let at = self.0.iter().position(|(own, _)| *own == address)?;
        let (_, socket) = self.0.swap_remove(at);
        Some(socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket)))
    }

    /// Warns of those that nobody took: who connects to them waits for nothing.
    pub(crate) fn warn_of_rest(self) {
        for (address, _) in &self.0 {
            tracing::warn!(
                "a socket on {address} was handed over, which no key of the configuration names, and nobody answers there: \
                 write the address into listen, listeners.address or admin.listen, or take it out of the socket unit"
            );
        }
    }
}

/// The service manager that started the process, if one did. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Manager(Option<SyncSender<NotifyState<'static>>>);

impl Manager {
    /// Finds it by the environment.
    pub(crate) fn of_this_process() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self(None);
        }
        let (sender, states) = sync_channel(UNTOLD);
        // Not the runtime's: it waits as long as the manager does not listen, and ends with the process.
        std::thread::spawn(move || states.iter().for_each(|state| tell(&state)));
        Self(Some(sender))
    }

    /// Says that the server serves, and from now on that it is alive, as often as was asked for,
    /// until this is dropped: a process whose runtime stands still is started anew.
    pub(crate) async fn serving(self) {
        self.say(NotifyState::Ready);
        let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
            return;
        };
        let mut beat = tokio::time::interval(limit.div_f32(2.0).max(Duration::from_millis(1)));
        loop {
            beat.tick().await;
            self.say(NotifyState::Watchdog);
        }
    }

    /// Says that the server stops.
    pub(crate) fn stopping(&self) {
        self.say(NotifyState::Stopping);
    }

    fn say(&self, state: NotifyState<'static>) {
        if let Some(sender) = &self.0 {
            // A manager that does not listen misses something.
            let _ = sender.try_send(state);
        }
    }
}

fn tell(state: &NotifyState<'static>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "the service manager cannot be told: it does not listen where NOTIFY_SOCKET says");
    }
}
