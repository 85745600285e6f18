//! The command `bits`, run as its users run it.
#![allow(clippy::unwrap_used, reason = "all of this is a test")]
#![cfg(feature = "cli")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use support::*;
use tempfile::TempDir;

/// A folder with a file to upload, and one for the jobs.
struct Home {
    folder: TempDir,
    file: PathBuf,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("my file.bin");
        std::fs::write(&file, content()).unwrap();
        Self { folder, file }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bits"));
        command.args(args).env("BITS_JOBS_DIR", self.jobs_folder()).current_dir(self.folder.path());
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
    }

    fn jobs_folder(&self) -> PathBuf {
        self.folder.path().join("jobs")
    }

    fn run(&self, args: &[&str]) -> Ended {
        Ended::from(self.command(args).output().unwrap())
    }

    fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The jobs, as `bits jobs --json` shows them.
    fn jobs(&self) -> Vec<serde_json::Value> {
        let ended = self.run(&["jobs", "--json"]);
        assert_eq!(ended.status, 0);
        serde_json::from_str(&ended.out).unwrap()
    }

    /// Starts an upload and kills it once the server has seen this many requests.
    async fn kill_after(&self, server: &Server, requests: usize, args: &[&str]) {
        let mut child = self.spawn(args);
        until(|| server.seen().len() >= requests).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[derive(Debug)]
struct Ended {
    status: i32,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn content() -> Vec<u8> {
    (0..20_000_u32).map(|index| (index * 7 + index / 251) as u8).collect()
}

async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain");
}

/// Takes what it is given; silent on the given request.
async fn taking(silent_on: usize) -> Server {
    let mut count = 0;
    Server::start(move |seen: &Seen| {
        count += 1;
        if count == silent_on {
            return Reply::Silence;
        }
        match seen.header("content-range") {
            Some(range) => wants(range.split(['-', '/']).nth(1).unwrap().parse::<u64>().unwrap() + 1),
            None if seen.kind() == "Create-Session" => created(),
            None => ok(),
        }
    })
    .await
}

/// The ack of the whole upload, with a reply.
fn replied(url: &str) -> Reply {
    ack(200, &[("BITS-Received-Content-Range", "20000"), ("BITS-Reply-URL", url)])
}

/// The files of unfinished downloads and replies.
fn parts(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "part")).collect()
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_into_a_folder_and_leaves_nothing_behind() {
    let (home, server) = (Home::new(), taking(0).await);
    let ended = home.run(&["upload", "my file.bin", server.url("/up/").as_str()]);
    assert_eq!((ended.status, ended.err.as_str()), (0, ""), "{ended:?}");
    let url = server.url("/up/my%20file.bin");
    assert!(ended.out.starts_with(&format!("uploaded {} to {url} (19.53 KiB, ", home.file.display())), "{ended:?}");
    assert!(!ended.out.contains('\x1B'), "no bar where there is no terminal");
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.target == "/up/my%20file.bin" && seen.method == "BITS_POST"));
    assert_eq!(seen.iter().flat_map(|seen| seen.body.clone()).collect::<Vec<_>>(), content());
    assert!(is_empty(&home.jobs_folder()));
    assert_eq!(home.run(&["jobs"]).out, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_followed_and_the_reply_is_named() {
    let home = Home::new();
    let reply = [("BITS-Received-Content-Range", "20000"), ("BITS-Reply-URL", "replies/1")];
    let server = Server::scripted([created(), wants(6000), wants(12_000), wants(18_000), ack(200, &reply), ok()]).await;
    let url = server.url("/up/f");
    let ended = home.run(&["upload", "my file.bin", url.as_str(), "--override", "--fragment-size", "6000"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.out.contains(&format!("reply: {}", server.url("/up/replies/1"))), "{ended:?}");
    assert!(server.seen().iter().all(|seen| seen.method == "POST" && seen.target == "/up/f"));
    assert_eq!(server.seen()[1].length(), 6000);
}

/// A reply that the server keeps goes with its session.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_gone_is_not_named() {
    let home = Home::new();
    let server = Server::scripted([created(), replied(r"BITS-Sessions\Replies\{1}\responsefile.bin"), ok()]).await;
    let ended = home.run(&["upload", "my file.bin", server.url("/up/f").as_str()]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.out.contains("`bits upload-reply`") && !ended.out.contains("responsefile"), "{ended:?}");
}

/// The upload is done, whatever cannot be tidied up.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_removed_does_not_keep_a_job_that_is_done() {
    let home = Home::new();
    let folder = home.folder.path().to_owned();
    let server = Server::start(move |seen: &Seen| match seen.kind() {
        "Create-Session" => created(),
        "Fragment" => wants(20_000),
        _ => {
            let part = parts(&folder).pop().unwrap();
            std::fs::remove_file(&part).unwrap();
            std::fs::create_dir(&part).unwrap();
            ok()
        }
    })
    .await;
    let ended = home.run(&["upload-reply", "my file.bin", server.url("/up/f").as_str(), "-o", "reply"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.out.contains("the server has no reply") && ended.err.contains("cannot be removed"), "{ended:?}");
    assert!(home.jobs().is_empty());
}

/// Wherever a download ended while it was put in its place, the next run sees how far it came.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_ended_in_its_last_step_needs_nothing_more() {
    for step in ["none", "linked", "moved"] {
        let home = Home::new();
        let file = home.folder.path().join("made");
        let in_the_way = file.clone();
        let server = Server::start(move |seen: &Seen| {
            if seen.method == "HEAD" {
                return there(5, TAG);
            }
            std::fs::write(&in_the_way, "in the way").unwrap();
            whole(TAG, "hello")
        })
        .await;
        let ended = home.run(&["download", server.url("/f").as_str(), "made"]);
        assert_eq!(ended.status, 1, "{ended:?}");
        assert_eq!(std::fs::read(&file).unwrap(), b"in the way");
        std::fs::remove_file(&file).unwrap();
        let part = parts(home.folder.path()).pop().unwrap();
        match step {
            "linked" => std::fs::hard_link(part, &file).unwrap(),
            "moved" => std::fs::rename(part, &file).unwrap(),
            _ => {}
        }
        let ended = home.run(&["resume", home.jobs()[0]["job"].as_str().unwrap()]);
        assert_eq!(ended.status, 0, "{step}: {ended:?}");
        assert_eq!(std::fs::read(&file).unwrap(), b"hello");
        assert_eq!(server.seen().len(), 2, "{step}: the server has nothing to do with it");
        assert!(parts(home.folder.path()).is_empty() && home.jobs().is_empty());
    }
}

/// The reply is in its place, the client dies, the session ends, and another one has another reply.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_replaced_by_that_of_the_next_session_and_nothing_else_is() {
    for is_users in [false, true] {
        let home = Home::new();
        let reply = home.folder.path().join("reply");
        let first = [created(), replied("r/1"), there(5, TAG), whole(TAG, "first"), Reply::Silence];
        let second = [ok(), lost(), lost(), created(), replied("r/2"), there(3, TAG), whole(TAG, "2nd"), ok()];
        let server = Server::scripted(first.into_iter().chain(second)).await;
        let url = server.url("/up/f");
        home.kill_after(&server, 5, &["upload-reply", "my file.bin", url.as_str(), "-o", "reply"]).await;
        assert_eq!(std::fs::read(&reply).unwrap(), b"first");
        if is_users {
            std::fs::write(&reply, "the user's").unwrap();
        }
        let ended = home.run(&["resume"]);
        assert_eq!(ended.status, i32::from(is_users), "{ended:?}");
        let expected: &[u8] = if is_users { b"the user's" } else { b"2nd" };
        assert_eq!(std::fs::read(&reply).unwrap(), expected);
        assert_eq!(home.jobs().len(), usize::from(is_users));
        assert!(is_users || parts(home.folder.path()).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_in_words() {
    let home = Home::new();
    let server = Server::scripted([error(403, "0x80070005")]).await;
    let ended = home.run(&["upload", "my file.bin", server.url("/up/").as_str()]);
    assert_eq!((ended.status, ended.out.as_str()), (1, ""), "{ended:?}");
    assert!(ended.err.contains("0x80070005 (E_ACCESSDENIED): access denied, or the destination exists"), "{ended:?}");
    assert!(home.jobs().is_empty(), "there is nothing to go on with");
}

#[tokio::test(flavor = "multi_thread")]
async fn given_up_is_kept_and_resumed() {
    let home = Home::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://me:secret@{free}/up/");
    let ended = home.run(&["upload", "my file.bin", &url, "--retry-for", "0s"]);
    assert_eq!(ended.status, 3, "{ended:?}");
    let jobs = home.jobs();
    let id = jobs[0]["job"].as_str().unwrap();
    assert!(ended.err.contains(&format!("`bits resume {id}` goes on")), "{ended:?}");
    assert_eq!(jobs[0]["state"], "unfinished");
    assert_eq!(jobs[0]["url"], format!("http://{free}/up/my%20file.bin"), "the password is not shown");
    let table = home.run(&["jobs"]).out;
    assert!(table.contains(id) && table.contains("unfinished") && !table.contains("secret"), "{table}");

    let again = home.run(&["upload", "my file.bin", &url, "--retry-for", "0s"]);
    assert!(again.err.contains(&format!("job {id} uploads the same file")), "{again:?}");
    assert_eq!(home.run(&["cancel", home.jobs()[1]["job"].as_str().unwrap()]).status, 0);

    let server = Server::start_at(&free.to_string(), {
        let mut replies = vec![created(), wants(20_000), ok()].into_iter();
        move |_: &Seen| replies.next().unwrap()
    })
    .await;
    let ended = home.run(&["resume", &id[..6]]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(server.seen()[0].header("authorization"), Some("Basic bWU6c2VjcmV0"));
    assert!(is_empty(&home.jobs_folder()));
}

/// The password comes from the environment or a file, goes into every packet, and into no job.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_with_a_password_that_is_not_kept() {
    let home = Home::new();
    let file = home.folder.path().join("password");
    std::fs::write(&file, "secret\r\nmore\n").unwrap();
    for (variable, value) in [("BITS_PASSWORD", "secret"), ("BITS_PASSWORD_FILE", file.to_str().unwrap())] {
        let server = Server::scripted([created(), ack(500, &[])]).await;
        let url = server.url("/up/f").to_string();
        let run = |args: &[&str]| Ended::from(home.command(args).env(variable, value).output().unwrap());
        let ended = run(&["upload", "my file.bin", &url, "--user", "me", "--retry-for", "0s"]);
        assert_eq!(ended.status, 3, "{ended:?}");
        let jobs = std::fs::read_dir(home.jobs_folder()).unwrap().map(|entry| entry.unwrap().path());
        assert!(jobs.into_iter().all(|path| !std::fs::read_to_string(path).unwrap().contains("secret")));
        assert_eq!(
            run(&["cancel", "--forget", "--retry-for", "0s", home.jobs()[0]["job"].as_str().unwrap()]).status,
            0
        );
        let seen = server.seen();
        assert!(seen.len() >= 2 && seen.iter().all(|seen| seen.header("authorization") == Some("Basic bWU6c2VjcmV0")));
    }
    let missing = home.folder.path().join("none");
    let mut command = home.command(&["upload", "my file.bin", "https://127.0.0.1:1/f", "--user", "me"]);
    let ended = Ended::from(command.env("BITS_PASSWORD_FILE", &missing).output().unwrap());
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.err.contains("none, which BITS_PASSWORD_FILE names: No such file"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_sent_in_plain_http_beyond_this_machine() {
    let home = Home::new();
    let mut command = home.command(&["upload", "my file.bin", "http://192.0.2.1/f", "--user", "me"]);
    let ended = Ended::from(command.env("BITS_PASSWORD", "secret").output().unwrap());
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.err.contains("everyone on the way to 192.0.2.1 could read the password; use https"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_being_killed() {
    let (home, server) = (Home::new(), taking(3).await);
    let url = server.url("/up/");
    home.kill_after(&server, 3, &["upload", "my file.bin", url.as_str(), "--fragment-size", "6000"]).await;
    assert_eq!(home.jobs()[0]["state"], "unfinished");

    let ended = home.run(&["resume"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    let briefs = server.briefs();
    assert_eq!(briefs[3], "Ping");
    assert!(!briefs[3..].contains(&"Create-Session".to_owned()), "{briefs:?}");
    assert!(is_empty(&home.jobs_folder()));
    assert_eq!(home.run(&["resume"]).status, 0, "nothing to do is done");
}

/// Whenever the client dies, its job claims nothing that the server has said it lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_lost_is_written_down_at_once() {
    let home = Home::new();
    let first = [created(), wants(20_000), ack(505, &[])];
    let second = [ok(), wants(20_000), error(404, "0x80070002"), Reply::Silence];
    let third = [ok(), wants(20_000), ok()];
    let server = Server::scripted(first.into_iter().chain(second).chain(third)).await;
    assert_eq!(home.run(&["upload", "my file.bin", server.url("/up/").as_str()]).status, 1);
    let jobs = home.jobs();
    let id = jobs[0]["job"].as_str().unwrap();
    assert_eq!(jobs[0]["acknowledged"], 20_000);
    home.kill_after(&server, 7, &["resume", id]).await;
    assert_eq!(home.jobs()[0]["acknowledged"], 0);
    assert_eq!(home.run(&["resume", id]).status, 0);
    assert_eq!(server.briefs()[7..], ["Ping", "Fragment bytes 0-19999/20000", "Close-Session"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_work_on_one_job() {
    let (home, server) = (Home::new(), taking(3).await);
    let url = server.url("/up/");
    let mut first = home.spawn(&["upload", "my file.bin", url.as_str(), "--fragment-size", "6000"]);
    until(|| server.seen().len() >= 3).await;
    let jobs = home.jobs();
    assert_eq!(jobs[0]["state"], "running");
    let id = jobs[0]["job"].as_str().unwrap();
    for command in ["resume", "cancel"] {
        let ended = home.run(&[command, id]);
        assert_eq!(ended.status, 1, "{ended:?}");
        assert!(ended.err.contains(&format!("another process works on job {id}")), "{ended:?}");
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(home.run(&["resume", id]).status, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_source_is_noticed_and_the_job_can_be_cancelled() {
    let (home, server) = (Home::new(), taking(3).await);
    home.kill_after(&server, 3, &["upload", "my file.bin", server.url("/up/").as_str(), "--fragment-size", "6000"])
        .await;
    std::fs::write(&home.file, "something else").unwrap();

    let ended = home.run(&["resume"]);
    let jobs = home.jobs();
    let id = jobs[0]["job"].as_str().unwrap();
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.err.contains("it had 20000 bytes and has 14 now"), "{ended:?}");
    assert!(ended.err.contains(&format!("to start anew: `bits cancel {id}`, then `bits upload ")), "{ended:?}");
    assert_eq!(jobs[0]["state"], "failed");
    assert_eq!(server.seen().len(), 3, "nothing is asked for it");

    let ended = home.run(&["resume"]);
    assert_eq!(ended.status, 1);
    assert!(ended.err.contains(&format!("job {id} failed: ")), "a failed job is left to who names it: {ended:?}");

    let ended = home.run(&["cancel", id]);
    assert_eq!((ended.status, ended.out), (0, format!("cancelled {id}\n")));
    assert_eq!(server.seen()[3].kind(), "Cancel-Session");
    assert_eq!(server.seen()[3].header("bits-session-id"), Some(ID));
    assert!(is_empty(&home.jobs_folder()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_source_fails_and_goes_on_when_it_is_back() {
    let (home, server) = (Home::new(), taking(3).await);
    home.kill_after(&server, 3, &["upload", "my file.bin", server.url("/up/").as_str(), "--fragment-size", "6000"])
        .await;
    let aside = home.folder.path().join("aside");
    std::fs::rename(&home.file, &aside).unwrap();
    let ended = home.run(&["resume"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.err.contains("cannot open ") && ended.err.contains("my file.bin"), "{ended:?}");
    std::fs::rename(&aside, &home.file).unwrap();
    let jobs = home.jobs();
    assert_eq!(home.run(&["resume", jobs[0]["job"].as_str().unwrap()]).status, 0);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_keeps_the_job_and_says_how_to_go_on() {
    for signal in ["-INT", "-TERM"] {
        let (home, server) = (Home::new(), taking(3).await);
        let child = home.spawn(&["upload", "my file.bin", server.url("/up/").as_str(), "--fragment-size", "6000"]);
        until(|| server.seen().len() >= 3).await;
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let ended = Ended::from(child.wait_with_output().unwrap());
        assert_eq!(ended.status, 3, "{ended:?}");
        let jobs = home.jobs();
        let id = jobs[0]["job"].as_str().unwrap();
        assert!(
            ended.err.contains(&format!("interrupted\nJob {id} is kept: `bits resume {id}` goes on.")),
            "{ended:?}"
        );
        assert_eq!(jobs[0]["acknowledged"], 6000);
        assert_eq!(home.run(&["resume", id]).status, 0);
        assert!(server.briefs().contains(&"Fragment bytes 6000-11999/20000".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_cannot_reach_the_server_keeps_the_job_unless_told_to_forget() {
    let home = Home::new();
    let server = Server::scripted([created(), ack(505, &[]), ack(501, &[]), ack(501, &[])]).await;
    let ended = home.run(&["upload", "my file.bin", server.url("/up/").as_str()]);
    assert_eq!(ended.status, 1, "{ended:?}");
    let jobs = home.jobs();
    let id = jobs[0]["job"].as_str().unwrap();
    let ended = home.run(&["cancel", id]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.err.contains("--forget"), "{ended:?}");
    let ended = home.run(&["cancel", id, "--forget"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.err.contains("the server was not told"), "{ended:?}");
    assert!(home.jobs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_is_told_in_plain_lines() {
    let home = Home::new();
    let server = Server::scripted([error(503, "0x800704D5"), created(), wants(20_000), ok()]).await;
    let ended = home.run(&["upload", "my file.bin", server.url("/up/").as_str()]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.err.starts_with("my file.bin: the server refused Create-Session with HTTP 503"), "{ended:?}");
    assert!(ended.err.contains("ERROR_RETRY") && ended.err.contains("trying again in "), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
}

#[test]
fn wrong_usage_is_2_and_a_missing_file_is_1() {
    let home = Home::new();
    for args in [
        &["upload", "my file.bin"][..],
        &["upload", "my file.bin", "server/up/"],
        &["upload", "my file.bin", "ftp://server/up/"],
        &["upload", "my file.bin", "http://server/", "--fragment-size", "1KiB"],
        &["upload", "my file.bin", "http://server/", "--retry-for", "soon"],
        &["cancel"],
        &["frobnicate"],
        &[],
    ] {
        assert_eq!(home.run(args).status, 2, "{args:?}");
    }
    for (args, words) in [
        (&["upload", "missing", "http://server/"][..], "cannot open missing: "),
        (&["upload", ".", "http://server/"], "not a regular file"),
        (&["resume", "abc"], "there is no job abc"),
        (&["cancel", "abc"], "there is no job abc"),
    ] {
        let ended = home.run(args);
        assert_eq!(ended.status, 1, "{args:?}");
        assert!(ended.err.contains(words), "{ended:?}");
    }
}
