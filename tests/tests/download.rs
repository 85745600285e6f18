//! Downloads (section 3.5): what is sent, under which conditions, and to whom nothing is.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};

use tests::{Form, Response, Server, ServerOptions, assert_next, fetch_resumed, pattern, run, wait_until};

const SIZE: usize = 10_000;
/// More than fits into the buffers of two sockets.
const LARGE: usize = 24 << 20;

/// A file of [`LARGE`] bytes.
fn large() -> Vec<u8> {
    let mut data = pattern(1, (1 << 20) + 7).repeat(LARGE >> 20);
    data.truncate(LARGE);
    data
}

fn server() -> Server {
    Server::start(ServerOptions::directory("download_enabled = true"))
}

/// A file that stands below the directory, however it came there.
fn put(server: &Server, name: &str, data: &[u8]) -> PathBuf {
    let path = server.files().join("upload").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, data).unwrap();
    path
}

/// Makes a file one that was last changed so long ago.
fn age(path: &Path, by: Duration) {
    fs::File::open(path).unwrap().set_modified(SystemTime::now() - by).unwrap();
}

fn request(server: &Server, method: &str, path: &str, headers: &str) -> Response {
    let mut raw = server.raw();
    raw.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes());
    raw.receive()
}

fn get(server: &Server, headers: &str) -> Response {
    request(server, "GET", "/upload/file", headers)
}

#[track_caller]
fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", response.headers))
}

#[test]
fn an_upload_is_downloaded_whole() {
    let server = server();
    let data = pattern(1, SIZE);
    let mut raw = server.raw_in(Form::Native);
    let session = raw.create("/upload/file");
    assert_next(&raw.fragment("/upload/file", &session, 0, &data, SIZE as u64), SIZE as u64);
    for path in ["/upload/file", "/UPLOAD/file", "/upload/fil%65", "/upload/file?query"] {
        let response = request(&server, "GET", path, "Accept-Encoding: identity\r\n");
        assert_eq!((response.status, response.body == data), (200, true), "{path}");
        let head = request(&server, "HEAD", path, "");
        assert_eq!((head.status, head.body.len()), (200, 0));
        for (name, value) in [
            ("Content-Length", "10000"),
            ("Accept-Ranges", "bytes"),
            ("Content-Type", "application/octet-stream"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Disposition", "attachment"),
        ] {
            assert_eq!((header(&response, name), header(&head, name)), (value, value));
        }
        for name in ["ETag", "Last-Modified"] {
            assert_eq!(header(&response, name), header(&head, name));
        }
        let etag = header(&head, "ETag");
        assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2, "{etag} is not strong");
        assert!(head.header("Content-Range").is_none() && head.header("BITS-Packet-Type").is_none());
    }
    assert!(request(&server, "GET", "/upload/FILE", "").status == 404, "case of names is kept");
}

#[test]
fn empty_files_and_http_1_0() {
    let server = server();
    put(&server, "file", b"hello");
    put(&server, "empty", b"");
    let response = request(&server, "GET", "/upload/empty", "");
    assert_eq!((response.status, header(&response, "Content-Length"), response.body.len()), (200, "0", 0));
    let response = request(&server, "GET", "/upload/empty", "Range: bytes=0-\r\n");
    assert_eq!((response.status, header(&response, "Content-Range")), (416, "bytes */0"));
    for (headers, status, body) in [("", 200, "hello"), ("Range: bytes=1-2\r\n", 206, "el")] {
        let mut raw = server.raw();
        raw.send(format!("GET /upload/file HTTP/1.0\r\n{headers}\r\n").as_bytes());
        let response = raw.receive();
        assert_eq!((response.status, response.body.as_slice()), (status, body.as_bytes()));
        assert!(raw.is_closed());
    }
}

#[test]
fn one_range() {
    let server = server();
    let data = pattern(1, SIZE);
    put(&server, "file", &data);
    for (range, first, last) in [
        ("bytes=0-9976", 0, 9976),
        ("bytes=0-0", 0, 0),
        ("bytes=9999-", 9999, 9999),
        ("bytes=5000-99999", 5000, 9999),
        ("bytes=-1", 9999, 9999),
        ("bytes=-20000", 0, 9999),
        ("bytes=20000-30000,7-8", 7, 8),
    ] {
        let response = get(&server, &format!("Range: {range}\r\n"));
        assert_eq!(response.status, 206, "{range}");
        assert_eq!(header(&response, "Content-Range"), format!("bytes {first}-{last}/10000"));
        assert_eq!(header(&response, "Content-Length"), (last - first + 1).to_string());
        assert!(response.body == data[first..=last], "{range}");
    }
    for range in ["bytes=10000-", "bytes=-0", "bytes=20000-30000,40000-"] {
        let response = get(&server, &format!("Range: {range}\r\n"));
        assert_eq!((response.status, header(&response, "Content-Range")), (416, "bytes */10000"), "{range}");
        assert_eq!(header(&response, "Content-Length"), "0");
    }
    for headers in ["Range: lines=0-5\r\n", "Range: bytes=5-4\r\n", "Range: bytes=0-1\r\nRange: bytes=2-3\r\n"] {
        let response = get(&server, headers);
        assert_eq!((response.status, response.body == data), (200, true), "{headers}");
    }
    let head = request(&server, "HEAD", "/upload/file", "Range: bytes=0-5\r\n");
    assert_eq!((head.status, header(&head, "Content-Length")), (200, "10000"), "ranges are for GET");
}

/// In the order asked for, not merged, and with headers as short as clients want them.
#[test]
fn several_ranges() {
    let server = server();
    let data = pattern(1, SIZE);
    put(&server, "file", &data);
    for ranges in [
        &[(0, 0), (9999, 9999)][..],
        &[(500, 999), (0, 99)],
        &[(0, 99), (100, 199)],
        &[(0, 9999), (0, 9999)],
        &[(10, 20), (15, 25), (10, 20)],
        &[(7, 7); 300],
    ] {
        let list: Vec<_> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        let response = get(&server, &format!("Range: bytes={}\r\n", list.join(", ")));
        assert_eq!(response.status, 206, "{list:?}");
        assert_eq!(header(&response, "Content-Length"), response.body.len().to_string());
        check_parts(&response, ranges, &data);
    }
    let many = vec!["0-0"; 501].join(",");
    assert_eq!(get(&server, &format!("Range: bytes={many}\r\n")).status, 200, "too many are ignored");
    assert_eq!(get(&server, "Range: bytes=0-,0-,0-\r\n").status, 200, "so is what multiplies the file");
}

#[track_caller]
fn check_parts(response: &Response, ranges: &[(usize, usize)], data: &[u8]) {
    let boundary = header(response, "Content-Type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut rest = response.body.as_slice();
    let before = rest.windows(boundary.len() + 2).position(|window| window == format!("--{boundary}").as_bytes());
    assert!(before.is_some_and(|before| before <= 4 && rest[..before].iter().all(|byte| b"\r\n".contains(byte))));
    for (first, last) in ranges {
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = std::str::from_utf8(&rest[..end]).unwrap();
        let lines: Vec<_> = head.trim().split("\r\n").collect();
        assert_eq!(lines[0], format!("--{boundary}"));
        let content_range = format!("Content-Range: bytes {first}-{last}/{}", data.len());
        assert!(lines.contains(&content_range.as_str()), "{lines:?}");
        let known = |line: &&&str| line.starts_with("Content-Range:") || line.starts_with("Content-Type:");
        let overhead = end - lines.iter().filter(known).map(|line| line.len() + 2).sum::<usize>();
        assert!(overhead <= 180, "{overhead} bytes besides: {head}");
        assert!(rest[end..].starts_with(&data[*first..=*last]), "{first}-{last}");
        rest = &rest[end + last - first + 1..];
    }
    assert_eq!(rest, format!("\r\n--{boundary}--\r\n").as_bytes());
}

#[test]
fn conditions() {
    let server = server();
    let data = pattern(1, SIZE);
    let path = put(&server, "file", &data);
    age(&path, Duration::from_secs(10));
    let first = get(&server, "");
    let (etag, modified) = (header(&first, "ETag").to_owned(), header(&first, "Last-Modified").to_owned());
    for (headers, status) in [
        (format!("If-None-Match: {etag}\r\n"), 304),
        (format!("If-Modified-Since: {modified}\r\n"), 304),
        (format!("If-None-Match: {etag}\r\nRange: bytes=0-1\r\n"), 304),
        (format!("If-Match: {etag}\r\n"), 200),
        (format!("If-Unmodified-Since: {modified}\r\nRange: bytes=0-1\r\n"), 206),
        ("If-Match: \"x\"\r\n".to_owned(), 412),
        ("If-Unmodified-Since: Sat, 29 Oct 1994 19:43:31 GMT\r\n".to_owned(), 412),
        ("If-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT\r\n".to_owned(), 200),
        (format!("If-Range: {etag}\r\nRange: bytes=0-1\r\n"), 206),
        (format!("If-Range: {modified}\r\nRange: bytes=0-1\r\n"), 206),
        ("If-Range: \"x\"\r\nRange: bytes=0-1\r\n".to_owned(), 200),
        ("If-Range: \"x\"\r\nRange: bytes=99999-\r\n".to_owned(), 200),
    ] {
        let response = get(&server, &headers);
        assert_eq!(response.status, status, "{headers}");
        assert_eq!(header(&response, "ETag"), etag);
        let length = match status {
            200 => SIZE,
            206 => 2,
            _ => 0,
        };
        assert_eq!(response.body.len(), length, "{headers}");
        assert_eq!(request(&server, "HEAD", "/upload/file", &headers).status, if status == 206 { 200 } else { status });
    }
    // The same size, in the same moment: another file all the same.
    for round in 0..3 {
        fs::write(&path, &pattern(1, SIZE + round + 1)[round + 1..]).unwrap();
        assert_eq!(get(&server, &format!("If-Match: {etag}\r\n")).status, 412);
        let response = get(&server, &format!("If-Range: {etag}\r\nRange: bytes=0-1\r\n"));
        assert_eq!((response.status, response.body.len()), (200, SIZE));
    }
}

/// A date is as good as a tag only once its second is over.
#[test]
fn a_date_of_this_second_permits_no_range() {
    let server = server();
    let path = put(&server, "file", &pattern(1, SIZE));
    // A file from the future is as old as each answer.
    fs::File::open(&path).unwrap().set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    let ranged = |date: &str| get(&server, &format!("If-Range: {date}\r\nRange: bytes=0-1\r\n"));
    for _ in 0..20 {
        let response = ranged(header(&get(&server, ""), "Date"));
        assert_eq!(header(&response, "Date"), header(&response, "Last-Modified"));
        assert_eq!(response.status, 200);
    }
    age(&path, Duration::from_secs(2));
    let first = get(&server, "");
    assert_ne!(header(&first, "Date"), header(&first, "Last-Modified"));
    assert_eq!(ranged(header(&first, "Last-Modified")).status, 206);
}

/// An upload that took long and replaces a file is newer than that, also for who compares dates.
#[test]
fn a_date_tells_what_was_replaced() {
    let rules = "download_enabled = true\nallow_overwrites = true\npublish = \"close-session\"";
    let server = Server::start(ServerOptions::directory(rules));
    let mut raw = server.raw();
    let uploads = [b"one", b"two", b"thr", b"fou"].map(|data| (raw.create("/upload/file"), data));
    for (session, data) in &uploads {
        assert_next(&raw.fragment("/upload/file", session, 0, *data, 3), 3);
    }
    let mut dates = Vec::new();
    for (session, data) in &uploads {
        assert_eq!(raw.close("/upload/file", session).status, 200);
        // What the client of the one before has, it does not have any more.
        for date in &dates {
            let response = get(&server, &format!("If-Modified-Since: {date}\r\n"));
            assert_eq!((response.status, response.body.as_slice()), (200, &data[..]), "{date}");
        }
        thread::sleep(Duration::from_millis(1100));
        dates.push(header(&get(&server, ""), "Last-Modified").to_owned());
    }
    let mut distinct = dates.clone();
    distinct.dedup();
    assert_eq!(distinct, dates);
}

#[test]
fn where_there_is_nothing_to_download() {
    let config = "[[directories]]\nurl_path = \"/upload\"\ndownload_enabled = true\n\
        [[directories]]\nurl_path = \"/closed\"\n";
    let server = Server::start(ServerOptions::new().config(config));
    put(&server, "folder/file", b"content");
    fs::create_dir_all(server.files().join("closed")).unwrap();
    fs::write(server.files().join("closed/file"), "content").unwrap();
    let secret = server.folder().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, server.files().join("upload/link")).unwrap();
    symlink(server.folder(), server.files().join("upload/out")).unwrap();
    let mut raw = server.raw();
    let session = raw.create("/upload/staged");
    assert_next(&raw.fragment("/upload/staged", &session, 0, b"hello", 10), 5);
    let staged = format!("/upload/BITS-Sessions/{}", session.trim_matches(['{', '}']).to_lowercase());
    for (path, status) in [
        ("/", 404),
        ("/upload", 404),
        ("/upload/", 404),
        ("/upload/folder", 404),
        ("/upload/folder/", 404),
        ("/upload/none", 404),
        ("/upload/folder/file/x", 404),
        ("/closed/file", 404),
        ("/other/file", 404),
        ("/upload/link", 403),
        ("/upload/out/secret", 403),
        ("/upload/../state.db", 404),
        ("/upload/%2e%2e/state.db", 404),
        ("/upload/..%2fstate.db", 404),
        ("/upload/folder%5cfile", 404),
        ("/upload/folder//file", 404),
        (&staged, 404),
        (&staged.to_uppercase(), 404),
    ] {
        for method in ["GET", "HEAD"] {
            let response = request(&server, method, path, "");
            assert_eq!(response.status, status, "{path}");
            let body = String::from_utf8_lossy(&response.body).into_owned();
            assert!(
                !body.contains("secret") && !body.contains("content") && !body.contains("file\n"),
                "{path}: {body}"
            );
        }
    }
    for method in ["PUT", "DELETE", "OPTIONS", "POST", "PROPFIND"] {
        assert_eq!(request(&server, method, "/upload/folder/file", "Content-Length: 0\r\n").status, 405, "{method}");
    }
    assert_eq!(server.file("upload/folder/file").as_deref(), Some(b"content".as_slice()));
}

/// Idle connections are put aside; one whose client reads slowly is not idle.
#[test]
fn one_connection_reads_slowly_pauses_and_goes_on() {
    let server = server();
    let data = large();
    put(&server, "file", &data);
    let mut stream = begin(&server);
    thread::sleep(Duration::from_millis(400));
    let mut half = read_body(&mut stream, LARGE / 2);
    thread::sleep(Duration::from_millis(400));
    half.extend(read_exact(&mut stream, LARGE / 2));
    assert!(half == data);
    thread::sleep(Duration::from_millis(400));
    stream.write_all(b"GET /upload/file HTTP/1.1\r\nHost: localhost\r\nRange: bytes=5-9\r\n\r\n").unwrap();
    assert_eq!(read_body(&mut stream, 5), data[5..10]);
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let options = ServerOptions::new()
        .config("[limits]\nidle_timeout = \"1s\"\n[[directories]]\nurl_path = \"/upload\"\ndownload_enabled = true\n");
    let server = Server::start(options);
    put(&server, "file", &large());
    let mut stream = begin(&server);
    thread::sleep(Duration::from_millis(2500));
    let mut came = Vec::new();
    let start = Instant::now();
    // What was on its way arrives, then the connection ends.
    let _ = stream.read_to_end(&mut came);
    assert!(came.len() < LARGE && start.elapsed() < Duration::from_secs(10), "{} bytes came", came.len());
}

#[test]
fn a_download_under_way_is_finished_before_the_server_ends() {
    let config = "shutdown_grace = \"5m\"\n[[directories]]\nurl_path = \"/upload\"\ndownload_enabled = true\n";
    let mut server = Server::start(ServerOptions::new().config(config));
    let data = large();
    put(&server, "file", &data);
    let mut stream = begin(&server);
    server.signal(rustix::process::Signal::TERM);
    wait_until("it no longer listens", || TcpStream::connect(server.address()).is_err());
    assert!(read_body(&mut stream, LARGE) == data);
    assert!(server.wait().success());
}

#[test]
fn a_file_that_is_replaced_meanwhile_is_sent_as_it_was() {
    let server = Server::start(ServerOptions::directory("download_enabled = true\nallow_overwrites = true"));
    let data = large();
    put(&server, "file", &data);
    let mut stream = begin(&server);
    let mut raw = server.raw();
    let session = raw.create("/upload/file");
    assert_next(&raw.fragment("/upload/file", &session, 0, b"new", 3), 3);
    assert_eq!(get(&server, "").body, b"new");
    assert!(read_body(&mut stream, LARGE) == data);
}

/// The client must not take a mixture for the file.
#[test]
fn a_file_that_is_changed_in_place_is_not_sent_to_its_end() {
    let server = server();
    let path = put(&server, "file", &large());
    let mut stream = begin(&server);
    fs::File::options().write(true).open(path).unwrap().write_all(b"changed").unwrap();
    let mut came = Vec::new();
    let _ = stream.read_to_end(&mut came);
    assert!(came.len() < LARGE, "the download looks whole");
}

/// Most of a file is sent by the system, and read where a disk must be waited for.
#[test]
fn large_ranges_of_files_in_memory_and_on_disk() {
    let server = server();
    let data = large();
    let path = put(&server, "file", &data);
    for is_in_memory in [true, false, true] {
        if !is_in_memory {
            let file = fs::File::open(&path).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        let ranges = [(1, 20_000_000), (LARGE - 700_000, LARGE - 1), (5, 5), (100_000, 165_536)];
        let list: Vec<_> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        let mut raw = server.raw();
        for _ in 0..2 {
            let head = format!("GET /upload/file HTTP/1.1\r\nHost: x\r\nRange: bytes={}\r\n\r\n", list.join(","));
            raw.send(head.as_bytes());
            check_parts(&raw.receive(), &ranges, &data);
        }
    }
}

#[test]
fn curl_and_wget_download_and_resume() {
    let mut server = server();
    let data = large();
    put(&server, "file", &data);
    let url = server.url("/upload/file");
    fetch_resumed(&mut server, &url, &data);
    let output = run(Command::new("curl").args(["--silent", "--range", "0-4,10-14"]).arg(&url));
    let text = output.stdout.windows(5).filter(|window| *window == &data[..5] || *window == &data[10..15]).count();
    assert!(text >= 2, "not both ranges came");
    let output = run(Command::new("curl").args(["--silent", "--range", "-10"]).arg(&url));
    assert_eq!(output.stdout, data[LARGE - 10..]);
    let output = run(Command::new("curl").args(["--silent", "--head", "--write-out", "%{http_code}"]).arg(&url));
    assert!(output.stdout.ends_with(b"200"));
}

#[test]
fn downloads_want_files_under_the_names_they_were_uploaded_to() {
    let mut server = Server::prepare(ServerOptions::directory("download_enabled = true\nstore_as = \"{date}/{path}\""));
    server.spawn();
    assert_eq!(server.wait().code(), Some(2));
    assert!(server.log().contains("download_enabled") && server.log().contains("bits.toml:3"), "{}", server.log());
}

/// Asks for the whole file, and reads nothing.
fn begin(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /upload/file HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut first = [0];
    while stream.peek(&mut first).unwrap() == 0 {}
    stream
}

/// Reads the head of an answer, and so many bytes of its body.
fn read_body(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(read_exact(stream, 1));
    }
    read_exact(stream, length)
}

fn read_exact(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("the download goes on");
    bytes
}

/// Whoever may upload may download, and from no folder but their own.
#[test]
fn downloads_ask_who_the_caller_is() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    fs::write(&users, "jo:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n").unwrap();
    let server = Server::start(ServerOptions::directory(&format!(
        "download_enabled = true\nauthentication = [\"basic\"]\nhtpasswd = \"{}\"\nper_user_folder = true",
        users.display()
    )));
    put(&server, "jo/file", b"of jo");
    put(&server, "ann/file", b"of ann");
    // jo:myPassword, jo:wrong
    let (right, wrong) = ("Authorization: Basic am86bXlQYXNzd29yZA==\r\n", "Authorization: Basic am86d3Jvbmc=\r\n");
    for headers in ["", wrong] {
        let response = get(&server, headers);
        assert_eq!((response.status, response.body.len()), (401, 0));
        assert!(header(&response, "WWW-Authenticate").starts_with("Basic"));
    }
    let response = get(&server, right);
    assert_eq!((response.status, response.body.as_slice()), (200, &b"of jo"[..]));
    for path in ["/upload/jo/file", "/upload/ann/file", "/upload/%2e%2e/ann/file"] {
        assert_eq!(request(&server, "GET", path, right).status, 404, "{path}");
    }
}
