//! Free ports that stay one test's own, also while its server is down.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    time::SystemTime,
};

/// Below the ports that the kernel gives to outgoing connections, so that a server that restarts
/// finds its port free.
const LOWEST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A loopback port, reserved among all test processes of this machine until dropped.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: File,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let folder = env::temp_dir().join("bits-test-ports");
        fs::create_dir_all(&folder).unwrap();
        let start = SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        (0..COUNT)
            .map(|step| LOWEST + ((start % u32::from(COUNT)) as u16 + step) % COUNT)
            .find_map(|number| {
                let lock = File::create(folder.join(number.to_string())).ok()?;
                lock.try_lock().ok()?;
                TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
                Some(Self { number, _lock: lock })
            })
            .expect("a port is free")
    }
}
