//! Several servers on one PostgreSQL and one object store, with a proxy of its own between each of
//! them and the store.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{FaultProxy, ObjectStore, Postgres, Server, ServerOptions, psql, wait_until};

/// The servers and what they share.
pub struct Cluster {
    /// The servers.
    pub servers: Vec<Server>,
    /// The proxy between each of them and the store.
    pub proxies: Vec<FaultProxy>,
    /// The store.
    pub store: ObjectStore,
    /// The URL of the database.
    pub database: String,
}

impl Cluster {
    /// Three servers with one directory `/upload` and these lines in its table.
    pub fn start(postgres: &Postgres, store: ObjectStore, directory: &str) -> Self {
        let database = postgres.database();
        let proxies: Vec<_> = (0..3).map(|_| FaultProxy::start(store.address())).collect();
        let options = |proxy: &FaultProxy| {
            let storage = store.clone().through(proxy.address()).lines();
            ServerOptions::new().config(&format!(
                "shutdown_grace = \"1s\"\n[state]\nurl = \"{database}\"\nmigrate = true\n{storage}\
                 [[directories]]\nurl_path = \"/upload\"\ndownload_enabled = true\n{directory}\n"
            ))
        };
        let mut servers: Vec<_> = proxies.iter().map(|proxy| Server::prepare(options(proxy))).collect();
        servers.iter_mut().for_each(Server::spawn);
        servers.iter_mut().for_each(Server::wait_ready);
        Self { servers, proxies, store, database }
    }

    /// What a statement gives on the database.
    pub fn sql(&self, statement: &str) -> String {
        psql(&self.database, statement)
    }

    /// Ends all sessions that there are as expired: has one server, which is restarted for it,
    /// sweep, and waits until nothing of theirs is left.
    pub fn sweep(&mut self, server: usize) {
        let is_swept = |cluster: &Self| cluster.sql("SELECT count(*) FROM session") == "0";
        // A job that is under way is finished or sent back first, which is no end.
        for _ in 0..5 {
            self.sql("UPDATE session SET progressed_at = 0, expires_at = 0, claimed_until = NULL");
            self.servers[server].restart();
            let start = Instant::now();
            while !is_swept(self) && start.elapsed() < Duration::from_secs(3) {
                thread::sleep(Duration::from_millis(10));
            }
            if is_swept(self) {
                break;
            }
        }
        assert!(is_swept(self), "sessions are left");
        let unclean = "SELECT count(*) FROM tombstone WHERE unclean = 1";
        wait_until("the sweep has cleaned up after them", || self.sql(unclean) == "0");
    }
}
