//! Sessions in PostgreSQL, bytes on the local disk: the server dies, the database dies, a pooler
//! stands in between, a failover loses commits. Nothing acknowledged is lost but what the database
//! itself has lost, and every upload ends right.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{fs, thread, time::Duration};

use tests::{
    Packet, PgBouncer, Postgres, Server, ServerOptions, Upload, assert_staging_empty, list_files, psql, wait_until,
};

const FRAGMENT: u64 = 32 * 1024;

fn on(url: &str) -> ServerOptions {
    ServerOptions::new().config(&format!(
        "shutdown_grace = \"1s\"\n[state]\nurl = \"{url}\"\nmigrate = true\n[storage]\nreserve_free = \"1MiB\"\n\
         [[directories]]\nurl_path = \"/upload\"\n"
    ))
}

fn assert_published(server: &Server, upload: &Upload) {
    let file = upload.path.trim_start_matches('/');
    assert!(server.file(file).is_some_and(|content| content == upload.content), "{file} has other bytes");
}

#[test]
fn kills_lose_nothing_acknowledged() {
    let url = Postgres::shared().database();
    let mut server = Server::start(on(&url));
    let mut upload = Upload::new(server.address(), "/upload/new/file.bin", 1, FRAGMENT as usize * 12);
    upload.create().unwrap();
    for kill in 0..5 {
        upload.fragment(FRAGMENT).unwrap();
        upload.fragment(FRAGMENT).unwrap();
        upload.begin_fragment(FRAGMENT, FRAGMENT as usize * kill / 4).unwrap();
        thread::sleep(Duration::from_millis(kill as u64 * 3));
        server.kill();
        upload.disconnect();
        server.launch();
        let acknowledged = upload.acknowledged;
        let next = upload.ask_next().unwrap();
        assert!(next >= acknowledged, "kill {kill}: {next} is wanted, {acknowledged} was acknowledged");
    }
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert_published(&server, &upload);
    assert_staging_empty(&server.files());
    assert_eq!(psql(&url, "SELECT count(*) FROM session"), "0");
    assert_eq!(psql(&url, "SELECT ending, unclean FROM tombstone"), "closed|0");
}

/// A crash of the database in the middle of many uploads: each waits, and goes on.
#[test]
fn a_database_that_restarts_is_waited_for() {
    let postgres = Postgres::start("");
    let server = Server::start(on(&postgres.database()));
    let uploads: Vec<_> = (0..6)
        .map(|seed| {
            let mut upload =
                Upload::new(server.address(), &format!("/upload/{seed}.bin"), seed, FRAGMENT as usize * 40);
            thread::spawn(move || {
                // No answer is an error: what the database lost of an answer is found in its rows.
                upload.run(FRAGMENT).unwrap();
                upload
            })
        })
        .collect();
    for mode in ["immediate", "fast"] {
        thread::sleep(Duration::from_millis(200));
        postgres.down(mode);
        thread::sleep(Duration::from_millis(300));
        postgres.up();
        thread::sleep(Duration::from_millis(200));
        postgres.terminate_connections();
    }
    for upload in uploads {
        assert_published(&server, &upload.join().unwrap());
    }
    assert_eq!(list_files(&server.files()).len(), 6);
}

#[test]
fn a_database_that_stays_away_is_told() {
    let postgres = Postgres::start("fsync = off");
    let server = Server::start(on(&postgres.database()));
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 1, FRAGMENT as usize * 3);
    upload.create().unwrap();
    upload.fragment(FRAGMENT).unwrap();
    postgres.down("fast");
    wait_until("the server is not ready", || !server.is_ready());
    let said = String::from_utf8(server.admin("GET", "/readyz", &[]).body).unwrap();
    assert!(said.contains("sessions"), "{said}");
    let answer = upload.ask(&upload.next_fragment(FRAGMENT)).unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("Retry-After").is_some(), "{answer:?}");
    postgres.up();
    wait_until("the server is ready again", || server.is_ready());
    upload.disconnect();
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert_published(&server, &upload);
}

#[test]
fn a_pooler_stands_in_between() {
    let postgres = Postgres::shared();
    let direct = postgres.database();
    let pooler = PgBouncer::start(postgres, 2);
    let server = Server::start(on(&pooler.url(&direct)));
    let uploads: Vec<_> = (0..8)
        .map(|seed| {
            let mut upload = Upload::new(server.address(), &format!("/upload/{seed}.bin"), seed, FRAGMENT as usize * 5);
            thread::spawn(move || {
                upload.run(FRAGMENT).unwrap();
                upload
            })
        })
        .collect();
    for upload in uploads {
        assert_published(&server, &upload.join().unwrap());
    }
    assert_eq!(psql(&direct, "SELECT count(*) FROM pg_prepared_statements"), "0");
    assert!(server.log().contains("there is a pooler"), "{}", server.log());
}

/// A failover that lost commits: the rows are older than the bytes. And bytes that are older than
/// the rows, as a restored disk has them.
#[test]
fn a_failover_that_lost_commits_sends_the_client_back() {
    for bytes_are_older in [false, true] {
        let url = Postgres::shared().database();
        let mut server = Server::start(on(&url));
        let mut upload = Upload::new(server.address(), "/upload/file.bin", 1, FRAGMENT as usize * 6);
        upload.create().unwrap();
        upload.fragment(FRAGMENT).unwrap();
        upload.fragment(FRAGMENT).unwrap();
        psql(&url, "CREATE TABLE saved AS SELECT * FROM session");
        upload.fragment(FRAGMENT).unwrap();
        upload.fragment(FRAGMENT).unwrap();
        upload.disconnect();
        server.kill();
        let expected = if bytes_are_older {
            let staged = server.files().join("upload/BITS-Sessions");
            let [file] = &fs::read_dir(&staged).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()[..]
            else {
                panic!("not one file in {}", staged.display());
            };
            fs::File::options().write(true).open(file).unwrap().set_len(FRAGMENT + 5).unwrap();
            FRAGMENT + 5
        } else {
            psql(&url, "BEGIN; DELETE FROM session; INSERT INTO session SELECT * FROM saved; COMMIT");
            2 * FRAGMENT
        };
        server.launch();
        // The client goes on from what it knows.
        assert_eq!(upload.acknowledged, 4 * FRAGMENT);
        let next = upload.fragment_or_regress(FRAGMENT).unwrap();
        // Bytes that are missing may take others with them, which nobody has vouched for.
        assert!(next == expected || bytes_are_older && next < expected, "{next} of {expected}, {bytes_are_older}");
        upload.fragments(FRAGMENT).unwrap();
        upload.close().unwrap();
        assert_published(&server, &upload);
        assert_staging_empty(&server.files());
    }
}

/// A failover that lost the commits around publishing: the file stands there, the row knows less.
#[test]
fn a_failover_that_lost_the_publishing_ends_well() {
    let url = Postgres::shared().database();
    let mut server = Server::start(on(&url));
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 1, FRAGMENT as usize * 2);
    upload.create().unwrap();
    upload.fragment(FRAGMENT).unwrap();
    psql(&url, "CREATE TABLE saved AS SELECT * FROM session");
    upload.fragment(FRAGMENT).unwrap();
    upload.disconnect();
    assert_published(&server, &upload);
    server.kill();
    psql(&url, "BEGIN; DELETE FROM session; INSERT INTO session SELECT * FROM saved; COMMIT");
    server.launch();
    let fragment = Packet::fragment(
        upload.form,
        &upload.path,
        upload.session(),
        FRAGMENT,
        &upload.content[FRAGMENT as usize..],
        upload.total(),
    );
    let first = upload.ask(&fragment).unwrap();
    // The bytes have gone with the file that was published: the client begins again, and finds the
    // destination taken by its own first try, or published anew.
    assert!(matches!(first.status, 200 | 403 | 416), "{first:?}");
    assert_published(&server, &upload);
}

/// Starts that must fail, each with one message that says why, and no password in it.
#[test]
fn what_is_wrong_with_the_database_is_said() {
    let postgres = Postgres::shared();
    let (empty, ready, newer) = (postgres.database(), postgres.database(), postgres.database());
    for url in [&ready, &newer] {
        let mut server = Server::start(on(url));
        server.terminate();
    }
    postgres.execute("postgres", "CREATE ROLE weak LOGIN PASSWORD 'correct horse'");
    psql(&newer, "INSERT INTO bits_schema (version, name, oldest) VALUES (99, 'of the future', 99)");
    let other = |from: &str, to: &str| ready.replace(from, to);
    for (url, words) in [
        (
            other(&postgres.address().to_string(), "127.0.0.1:1"),
            ["does not answer", "bits@127.0.0.1:1/", "check the host"],
        ),
        (other("127.0.0.1", "no-such-host.invalid"), ["does not answer", "no-such-host.invalid", "check the host"]),
        (other("correct%20horse", "wrong"), ["refuses the login", "bits@127.0.0.1", "check user and password"]),
        (format!("{ready}_not"), ["there is no such database", "_not", "createdb"]),
        (other("bits:", "weak:"), ["lacks rights", "weak@127.0.0.1", "grant them"]),
        (empty, ["schema version 0", "needs 6", "bits-server migrate"]),
        (newer, ["schema version 99", "none above 6", "newer"]),
    ] {
        let config = format!("[state]\nurl = \"{url}\"\n");
        let mut server = Server::prepare(ServerOptions::new().config(&config));
        server.spawn();
        let status = server.wait();
        let log = server.log();
        let said: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("bits-server: ")).collect();
        assert_eq!((status.code(), said.len()), (Some(1), 1), "{log}");
        assert!(said[0].starts_with("state.url: "), "{log}");
        for word in words {
            assert!(said[0].contains(word), "{word:?} is missing in {said:?}");
        }
        assert!(!log.contains("correct") && !log.contains("wrong"), "a password is told: {log}");
    }
}
