//! Which names an upload may have (the error table's row of unusable names), and where they lead.

use std::{fs, os::unix::fs::symlink};

use tests::{
    Form, Packet, Server, ServerOptions, assert_clean_log, assert_error, assert_invariants, assert_next, assert_ok,
    assert_staging_empty, list_files,
};

const INVALID_NAME: u32 = 0x8007_007B;

/// Paths that no upload can have, as they stand in the request line.
const UNUSABLE: &[&str] = &[
    // Empty segments.
    "/upload//a",
    "/upload/a/",
    "/upload/a//b",
    "//upload/a",
    // Dot segments.
    "/upload/.",
    "/upload/..",
    "/upload/./a",
    "/upload/../a",
    "/upload/../../../../etc/passwd",
    "/upload/%2e/a",
    "/upload/%2E%2e/a",
    "/upload/.%2e/a",
    "/../upload/a",
    // Separators.
    "/upload/a%2fb",
    "/upload/a%2Fb",
    "/upload/..%2f..%2fetc%2fpasswd",
    "/upload/a%5cb",
    "/upload/..%5C..%5Ca",
    "/upload/a:b",
    "/upload/a%3ab",
    "/upload/C:%5Cwindows",
    "/upload/a::$DATA",
    // Control characters.
    "/upload/a%00",
    "/upload/a%00.txt",
    "/upload/a%0d%0ab",
    "/upload/%1b%5b31ma",
    "/upload/a%09b",
    "/upload/a%7fb",
    "/upload/a%c2%85b",
    // Not UTF-8.
    "/upload/%ff",
    "/upload/a%c0%afb",
    "/upload/%ed%a0%80",
    "/upload/%c3",
    "/upload/%f5%80%80%80",
    // Broken percent-encoding.
    "/upload/%",
    "/upload/a%4",
    "/upload/a%zz",
    "/upload/%u0041",
    "/upload/a%%41",
    // Names that Windows reserves.
    "/upload/CON",
    "/upload/con",
    "/upload/nul.txt",
    "/upload/Aux.tar.gz",
    "/upload/prn/a",
    "/upload/com1",
    "/upload/LPT9.log",
    "/upload/COM%C2%B9",
    "/upload/%41UX",
    "/upload/conin$",
    // What Windows drops at the end.
    "/upload/a.",
    "/upload/a...",
    "/upload/a%20",
    "/upload/a%2e",
    "/upload/folder./a",
    "/upload/folder%20/a",
    // The server's own name.
    "/upload/BITS-Sessions",
    "/upload/bits-sessions/a",
    "/upload/x/Bits-Sessions/a",
    "/upload/BITS%2dSessions/a",
    "/BITS-Sessions/a",
];

/// Paths whose names are unlike most, and just names.
const USABLE: &[(&str, &str)] = &[
    ("/upload/.hidden", ".hidden"),
    ("/upload/..a", "..a"),
    ("/upload/a..b", "a..b"),
    ("/upload/%20a", " a"),
    ("/upload/a%20b", "a b"),
    ("/upload/a%25b", "a%b"),
    ("/upload/a%252fb", "a%2fb"),
    ("/upload/a%3Fb", "a?b"),
    ("/upload/a%23b", "a#b"),
    ("/upload/a+b&c;d=e,f", "a+b&c;d=e,f"),
    ("/upload/~$a", "~$a"),
    ("/upload/%F0%9F%98%80", "😀"),
    ("/upload/%C3%BC", "ü"),
    ("/upload/u%CC%88", "u\u{308}"),
    ("/upload/%E2%80%AEtxt.exe", "\u{202e}txt.exe"),
    ("/upload/a%E2%80%A8b", "a\u{2028}b"),
    ("/upload/CONSOLE", "CONSOLE"),
    ("/upload/COM10", "COM10"),
    ("/upload/xCON", "xCON"),
    ("/upload/BITS-Sessions2", "BITS-Sessions2"),
    ("/upload/-rf", "-rf"),
    ("/upload/{session}", "{session}"),
    ("/upload/state.db", "state.db"),
];

#[test]
fn unusable_names_are_refused_by_every_packet() {
    let server = Server::start(ServerOptions::new());
    let nobody = "{00000000-1111-2222-3333-444444444444}";
    for form in Form::ALL {
        let mut raw = server.raw_in(form);
        for path in UNUSABLE {
            for packet in [
                Packet::create(form, path),
                Packet::ping(form, path),
                Packet::fragment(form, path, nobody, 0, b"hello", 5),
                Packet::close(form, path, nobody),
                Packet::cancel(form, path, nobody),
            ] {
                println!("{form:?} {path}");
                assert_error(&raw.ask(&packet), 400, INVALID_NAME);
            }
        }
    }
    assert_eq!(list_files(&server.files()), Vec::<String>::new());
    assert_clean_log(&server.log_bytes());
}

#[test]
fn unlike_names_are_names() {
    let server = Server::start(ServerOptions::new());
    for form in Form::ALL {
        let mut raw = server.raw_in(form);
        for (path, name) in USABLE {
            println!("{form:?} {path}");
            let session = raw.create(path);
            assert_next(&raw.fragment(path, &session, 0, name.as_bytes(), name.len() as u64), name.len() as u64);
            assert_ok(&raw.close(path, &session), 200);
            let file = format!("upload/{name}");
            assert_eq!(server.file(&file).as_deref(), Some(name.as_bytes()), "{path}");
            fs::remove_file(server.files().join(file)).unwrap();
        }
    }
    assert_staging_empty(&server.files());
    assert_clean_log(&server.log_bytes());
}

#[test]
fn names_are_as_long_as_file_systems_take_them() {
    let server = Server::start(ServerOptions::new());
    let mut raw = server.raw();
    for (segment, fits) in [("x".repeat(255), true), ("x".repeat(256), false), ("%C3%BC".repeat(128), false)] {
        let path = format!("/upload/{segment}");
        if fits {
            let session = raw.create(&path);
            assert_next(&raw.fragment(&path, &session, 0, b"hello", 5), 5);
        } else {
            assert_error(&raw.ask(&Packet::create(Form::Native, &path)), 400, INVALID_NAME);
        }
    }
    let deep = format!("/upload{}", "/x".repeat(1000));
    let session = raw.create(&deep);
    assert_next(&raw.fragment(&deep, &session, 0, b"hello", 5), 5);
    let too_deep = format!("/upload{}", "/x".repeat(20_000));
    assert_error(&raw.ask(&Packet::create(Form::Native, &too_deep)), 400, INVALID_NAME);
    assert_eq!(list_files(&server.files()).len(), 2);
}

#[test]
fn a_name_in_plain_utf_8_is_a_name() {
    let server = Server::start(ServerOptions::new());
    let mut raw = server.raw();
    let session = raw.create("/upload/grün");
    assert_next(&raw.fragment("/upload/gr%C3%BCn", &session, 0, b"hello", 5), 5);
    assert_eq!(server.file("upload/grün").as_deref(), Some(b"hello".as_slice()));
}

#[test]
fn planted_symbolic_links_lead_nowhere() {
    for overwrite in [false, true] {
        let server = Server::start(ServerOptions::directory(&format!("allow_overwrites = {overwrite}")));
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("victim"), "old").unwrap();
        let folder = server.files().join("upload");
        fs::create_dir_all(&folder).unwrap();
        symlink(outside.path(), folder.join("folder")).unwrap();
        symlink(outside.path().join("victim"), folder.join("file")).unwrap();
        symlink(outside.path().join("new"), folder.join("dangling")).unwrap();
        symlink("../../../../../../../../tmp", folder.join("up")).unwrap();
        for path in ["/upload/folder/a", "/upload/folder/victim", "/upload/file", "/upload/dangling", "/upload/up/a"] {
            let mut raw = server.raw();
            let created = raw.ask(&Packet::create(Form::Native, path));
            assert_invariants(&created);
            if created.status == 200 {
                let session = created.header("BITS-Session-Id").unwrap().to_owned();
                assert_invariants(&raw.fragment(path, &session, 0, b"hello", 5));
                assert_ok(&raw.cancel(path, &session), 200);
            }
        }
        assert_eq!(list_files(outside.path()), ["victim"]);
        assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"old");
        assert_staging_empty(&server.files());
    }
}
