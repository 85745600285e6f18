//! A machine like this one, on which a test may change what it likes: this one's files under an
//! overlay that is kept in memory, with its own network, in namespaces that end with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{require_root, wait_until};

const SCRIPT: &str = "set -e
mount -t tmpfs tmpfs \"$1\"
mkdir \"$1/upper\" \"$1/work\" \"$1/root\"
mount -t overlay overlay -o lowerdir=/,upperdir=\"$1/upper\",workdir=\"$1/work\" \"$1/root\"
mount -t proc proc \"$1/root/proc\"
mount --rbind /dev \"$1/root/dev\"
mount -t tmpfs tmpfs \"$1/root/tmp\"
mount -t tmpfs tmpfs \"$1/root/run\"
ip link set lo up
touch \"$1/root/run/ready\"
exec sleep infinity";

/// The machine; its processes end when it is dropped.
#[derive(Debug)]
pub struct Machine {
    keeper: Child,
    folder: TempDir,
}

impl Machine {
    /// A machine on which nothing runs.
    pub fn new() -> Self {
        require_root();
        let folder = tempfile::tempdir().unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", SCRIPT, "sh"]);
        let keeper = unshare.arg(folder.path()).stdin(Stdio::null()).spawn().expect("unshare runs");
        let machine = Self { keeper, folder };
        wait_until("the machine is there", || machine.path("run/ready").exists());
        machine
    }

    /// Where a file of the machine is seen from here.
    pub fn path(&self, file: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.shell_pid());
        Path::new(&root).join(self.folder.path().strip_prefix("/").unwrap()).join("root").join(file)
    }

    /// Copies a file of this machine there.
    pub fn put(&self, from: &Path, to: &str) {
        fs::copy(from, self.path(to)).unwrap();
    }

    /// A command that runs there.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--pid", &format!("--target={}", self.shell_pid()), "chroot"]);
        command.arg(self.folder.path().join("root")).args(words);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    /// Runs a shell's line there.
    pub fn shell(&self, line: &str) -> Output {
        self.command(&["sh", "-c", line]).output().expect("nsenter runs")
    }

    /// What a line prints that must succeed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let output = self.shell(line);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {said}");
        said
    }

    /// The first process of the namespaces: unshare's child.
    fn shell_pid(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.keeper.id());
        let first = |text: String| text.split_whitespace().next().and_then(|pid| pid.parse().ok());
        fs::read_to_string(children).ok().and_then(first).unwrap_or_else(|| self.keeper.id())
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
