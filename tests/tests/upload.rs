//! A whole upload in both forms, and one that goes on after the server was killed.

use tests::{Form, Server, ServerOptions, assert_clean_log, assert_next, assert_ok, assert_staging_empty, pattern};

#[test]
fn a_file_arrives_whole_in_both_forms() {
    let server = Server::start(ServerOptions::new());
    for form in Form::ALL {
        let (name, bytes) = (format!("{form:?}.bin"), pattern(7, 300_000));
        let path = format!("/upload/{name}");
        let mut raw = server.raw_in(form);
        assert_ok(&raw.ping(&path), 200);
        let session = raw.create(&path);
        for first in (0..bytes.len()).step_by(100_000) {
            let part = &bytes[first..first + 100_000];
            assert_next(&raw.fragment(&path, &session, first as u64, part, 300_000), first as u64 + 100_000);
        }
        assert!(server.file(&format!("upload/{name}")) == Some(bytes), "the file is what was sent");
        assert_ok(&raw.close(&path, &session), 200);
    }
    assert_staging_empty(&server.files());
    assert_clean_log(&server.log_bytes());
}

#[test]
fn an_upload_goes_on_after_the_server_was_killed() {
    let mut server = Server::start(ServerOptions::new());
    let path = "/upload/long.bin";
    let session = server.raw().create(path);
    assert_next(&server.raw().fragment(path, &session, 0, b"hello ", 11), 6);
    server.restart();
    assert_next(&server.raw().fragment(path, &session, 6, b"world", 11), 11);
    assert_eq!(server.file("upload/long.bin").as_deref(), Some(b"hello world".as_slice()));
}
