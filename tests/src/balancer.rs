//! HAProxy before several servers: each request goes to the next of them, on whatever connection.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::{check::wait_until, ports::Port};

/// The proxy, ended when dropped.
#[derive(Debug)]
pub struct Balancer {
    port: Port,
    child: Child,
    _folder: TempDir,
}

impl Balancer {
    /// Starts one before these servers. One that takes no connection is left out within a fifth of
    /// a second; a request to one that does not answer is given up after `patience` seconds.
    pub fn start(servers: &[SocketAddr], patience: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("bits-test-balancer-").tempdir().unwrap();
        let port = Port::reserve();
        let lines: String = servers
            .iter()
            .enumerate()
            .map(|(at, to)| format!("    server s{at} {to} check inter 100ms fall 1 rise 1\n"))
            .collect();
        let text = format!(
            "defaults\n    mode http\n    timeout connect 1s\n    timeout client 60s\n    timeout server {patience}s\n    \
             retries 0\nfrontend uploads\n    bind 127.0.0.1:{}\n    default_backend servers\nbackend servers\n    \
             balance roundrobin\n    option http-no-delay\n{lines}",
            port.number
        );
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, text).unwrap();
        let program = if fs::exists("/usr/sbin/haproxy").unwrap_or(false) { "/usr/sbin/haproxy" } else { "haproxy" };
        let mut command = Command::new(program);
        command.args(["-db", "-q", "-f"]).arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.process_group(0).spawn().expect("HAProxy is installed");
        let balancer = Self { port, child, _folder: folder };
        wait_until("the balancer listens", || TcpStream::connect(balancer.address()).is_ok());
        balancer
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.number).into()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
