//! Several sessions for one destination, and several requests for one session.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{sync::Barrier, thread};

use tests::{
    Packet, Response, Server, ServerOptions, Upload, assert_error, assert_next, assert_ok, assert_staging_empty,
    list_files, wait_until,
};

const FRAGMENT: u64 = 64 * 1024;
const LENGTH: usize = 5 * FRAGMENT as usize / 2;
const ACCESS_DENIED: u32 = 0x8007_0005;

fn uploads(server: &Server, path: &str, count: u64) -> Vec<Upload> {
    let upload = |seed| {
        let mut upload = Upload::new(server.address(), path, seed, LENGTH);
        upload.create().unwrap();
        upload
    };
    (0..count).map(upload).collect()
}

fn all_but_last(upload: &mut Upload) {
    while upload.acknowledged + FRAGMENT < upload.total() {
        upload.fragment(FRAGMENT).unwrap();
    }
}

/// Sends all at the same moment, and gives the answers in order.
fn at_once(uploads: &mut [Upload], packet: impl Fn(&Upload) -> Packet + Sync) -> Vec<Response> {
    let barrier = Barrier::new(uploads.len());
    let send = |upload: &mut Upload| {
        let packet = packet(upload);
        upload.connection().unwrap();
        barrier.wait();
        upload.ask(&packet).unwrap()
    };
    thread::scope(|scope| {
        let senders: Vec<_> = uploads.iter_mut().map(|upload| scope.spawn(|| send(upload))).collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    })
}

#[test]
fn the_first_to_finish_has_the_name_and_the_other_is_refused() {
    let server = Server::start(ServerOptions::new());
    let [mut first, mut second] = <[Upload; 2]>::try_from(uploads(&server, "/upload/file.bin", 2)).unwrap();
    // The second is ahead until the end.
    all_but_last(&mut second);
    first.fragments(FRAGMENT).unwrap();
    assert_error(&second.ask(&second.next_fragment(FRAGMENT)).unwrap(), 403, ACCESS_DENIED);
    assert_error(&second.ask(&second.next_fragment(FRAGMENT)).unwrap(), 403, ACCESS_DENIED);
    first.close().unwrap();
    assert!(server.file("upload/file.bin").unwrap() == first.content, "the file is not the first one's");
    // Its owner takes the file away: now the other may have the name.
    std::fs::remove_file(server.files().join("upload/file.bin")).unwrap();
    assert_next(&second.ask(&second.next_fragment(FRAGMENT)).unwrap(), LENGTH as u64);
    second.close().unwrap();
    assert!(server.file("upload/file.bin").unwrap() == second.content, "the file is not the second one's");
    assert_staging_empty(&server.files());
}

#[test]
fn with_overwrites_both_succeed_and_the_last_to_finish_stays() {
    let server = Server::start(ServerOptions::directory("allow_overwrites = true"));
    let [mut first, mut second] = <[Upload; 2]>::try_from(uploads(&server, "/upload/file.bin", 2)).unwrap();
    all_but_last(&mut second);
    first.fragments(FRAGMENT).unwrap();
    assert!(server.file("upload/file.bin").unwrap() == first.content, "the file is not the first one's");
    second.fragments(FRAGMENT).unwrap();
    first.close().unwrap();
    second.close().unwrap();
    assert!(server.file("upload/file.bin").unwrap() == second.content, "the file is not the second one's");
    assert_eq!(list_files(&server.files()), ["upload/file.bin"]);
}

#[test]
fn of_racing_last_fragments_one_wins() {
    let server = Server::start(ServerOptions::new());
    for round in 0..6 {
        let path = format!("/upload/{round}/file.bin");
        let mut racers = uploads(&server, &path, 6);
        racers.iter_mut().for_each(all_but_last);
        let answers = at_once(&mut racers, |upload| upload.next_fragment(FRAGMENT));
        let winners: Vec<usize> = (0..racers.len()).filter(|number| answers[*number].status == 200).collect();
        assert_eq!(winners.len(), 1, "{answers:#?}");
        for (number, answer) in answers.iter().enumerate() {
            if number == winners[0] {
                assert_next(answer, LENGTH as u64);
            } else {
                assert_error(answer, 403, ACCESS_DENIED);
            }
        }
        assert!(server.file(&path[1..]).unwrap() == racers[winners[0]].content, "the file is not the winner's");
        for (number, racer) in racers.iter_mut().enumerate() {
            if number == winners[0] { racer.close().unwrap() } else { racer.cancel().unwrap() }
        }
        assert!(server.file(&path[1..]).unwrap() == racers[winners[0]].content, "ending the others changed the file");
    }
    wait_until("nothing is left over", || list_files(&server.files()).len() == 6);
    assert_staging_empty(&server.files());
}

#[test]
fn of_racing_last_fragments_with_overwrites_all_succeed_and_one_whole_file_stays() {
    let server = Server::start(ServerOptions::directory("allow_overwrites = true"));
    for round in 0..6 {
        let path = format!("/upload/{round}/file.bin");
        let mut racers = uploads(&server, &path, 6);
        racers.iter_mut().for_each(all_but_last);
        for answer in at_once(&mut racers, |upload| upload.next_fragment(FRAGMENT)) {
            assert_next(&answer, LENGTH as u64);
        }
        let file = server.file(&path[1..]).unwrap();
        assert!(racers.iter().any(|racer| racer.content == file), "the file is nobody's");
        racers.iter_mut().for_each(|racer| racer.close().unwrap());
    }
    assert_eq!(list_files(&server.files()).len(), 6);
}

#[test]
fn of_racing_closes_that_publish_one_wins() {
    let server = Server::start(ServerOptions::directory("publish = \"close-session\""));
    let mut racers = uploads(&server, "/upload/file.bin", 6);
    racers.iter_mut().for_each(|racer| racer.fragments(FRAGMENT).unwrap());
    let answers = at_once(&mut racers, |upload| Packet::close(upload.form, &upload.path, upload.session()));
    let winner = answers.iter().position(|answer| answer.status == 200).expect("one wins");
    for (number, answer) in answers.iter().enumerate() {
        if number == winner { assert_ok(answer, 200) } else { assert_error(answer, 403, ACCESS_DENIED) }
    }
    assert!(server.file("upload/file.bin").unwrap() == racers[winner].content, "the file is not the winner's");
}

/// The same last fragment on several connections, as from a client that gave the first ones up:
/// the file is published once, and whoever gets an ack gets a true one.
#[test]
fn one_last_fragment_on_several_connections_is_published_once() {
    let server = Server::start(ServerOptions::new());
    for round in 0..10 {
        let path = format!("/upload/{round}.bin");
        let mut upload = uploads(&server, &path, 1).remove(0);
        all_but_last(&mut upload);
        let packet = upload.next_fragment(FRAGMENT);
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut raw = server.raw();
                    barrier.wait();
                    // An older request may be cut off by a newer one.
                    let sent = raw.try_send(&packet.encode());
                    if let Ok(answer) = sent.and_then(|()| raw.try_receive())
                        && answer.status != 503
                    {
                        assert_next(&answer, LENGTH as u64);
                    }
                });
            }
        });
        upload.fragment(FRAGMENT).unwrap();
        assert!(upload.is_whole());
        upload.close().unwrap();
        assert!(server.file(&path[1..]).unwrap() == upload.content, "the file has other bytes");
    }
    assert_eq!(server.log().matches("upload published").count(), 10);
    assert_staging_empty(&server.files());
}
