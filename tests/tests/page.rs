//! The page in a real browser: what it shows, that it stays fresh, and that everybody can use it.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use serde_json::{Value, json};
use tests::{Browser, Server, ServerOptions, Upload, wait_until};

/// A name that would do something if it were not escaped, and what the page shows of it.
const HOSTILE: &str = "/upload/reports/%3Cimg%20src=x%20onerror=document.title=1%3E%E2%80%AEgpj.exe";
const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";

fn upload(server: &Server, path: &str, length: usize, come: u64) -> Upload {
    let mut upload = Upload::new(server.address(), path, length as u64, length);
    upload.create().unwrap();
    if come > 0 {
        upload.fragment(come).unwrap();
    }
    upload
}

/// Some of everything.
fn busy_server() -> (Server, Vec<Upload>) {
    let config = "[[directories]]\nurl_path = \"/upload\"\nmaximum_upload_size = \"100MiB\"\n";
    let server = Server::start(ServerOptions::new().config(config));
    let mut uploads = vec![
        upload(&server, "/upload/backups/db-2026-11-25.tar.zst", 64_000_000, 23_000_000),
        upload(&server, "/upload/reports/quarter.pdf", 8_400_000, 1_400_000),
        upload(&server, HOSTILE, 1_000_000, 999_999),
        upload(&server, "/upload/not-begun.bin", 1000, 0),
        upload(&server, "/upload/complete.iso", 5_000_000, 5_000_000),
    ];
    for (name, length) in
        [("invoices/0815.pdf", 120_000), ("photos/holiday.jpg", 3_100_000), ("logs/host-17.gz", 48_000)]
    {
        Upload::new(server.address(), &format!("/upload/{name}"), 7, length).run(1 << 20).unwrap();
    }
    let mut cancelled = upload(&server, "/upload/scratch/unwanted.bin", 9000, 4000);
    cancelled.cancel().unwrap();
    // Refused, since something stands there.
    let again = server.raw().ask(&tests::Packet::create(tests::Form::Native, "/upload/invoices/0815.pdf"));
    assert_eq!(again.status, 403);
    let nowhere = server.raw().ask(&tests::Packet::create(tests::Form::Native, "/elsewhere/x"));
    assert_eq!(nowhere.status, 404);
    uploads.retain(|upload| !upload.session().is_empty());
    (server, uploads)
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.admin_address())
}

fn bare(session: &str) -> &str {
    session.trim_matches(['{', '}'])
}

fn detail(upload: &Upload) -> String {
    format!("/sessions/{}", bare(upload.session()).to_lowercase())
}

fn state(server: &Server, upload: &Upload) -> Value {
    let found = server.admin("GET", &format!("/api/sessions/{}", bare(upload.session())), &[]);
    serde_json::from_slice::<Value>(&found.body).unwrap()["state"].clone()
}

#[track_caller]
fn assert_fits(browser: &Browser, what: &str) {
    let overflow = browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
    assert_eq!(overflow, 0, "{what}: it scrolls sideways");
}

#[test]
fn the_page_shows_what_there_is_and_obeys_its_own_policy() {
    let (server, uploads) = busy_server();
    let browser = Browser::start();
    browser.open(&url(&server, "/"));
    let sessions = browser.text("#sessions");
    for text in [
        "db-2026-11-25.tar.zst",
        "35 %",
        "22 MiB of 61 MiB",
        "receiving",
        "complete",
        "anonymous",
        "127.0.0.1",
        "size not known yet",
    ] {
        assert!(sessions.contains(text), "{text}: {sessions}");
    }
    assert!(sessions.contains("<img src=x onerror=document.title=1>\\u{202e}gpj.exe"), "{sessions}");
    let finished = browser.text("#finished");
    for text in ["holiday.jpg", "complete", "unwanted.bin", "cancelled", "3.0 MiB"] {
        assert!(finished.contains(text), "{text}: {finished}");
    }
    let failures = browser.text("#failures");
    assert!(failures.contains("the destination exists") && failures.contains("/elsewhere/x"), "{failures}");
    assert!(browser.text("#health").contains("All stores answer"));
    assert_eq!(
        browser.run("return document.images.length + document.querySelectorAll('[style],style,[onclick]').length"),
        0
    );
    let foreign = "return performance.getEntriesByType('resource').map(it => it.name).filter(it => !it.startsWith(location.origin))";
    assert_eq!(browser.run(foreign), json!([]));
    assert_eq!(browser.complaints(), [""; 0]);
    browser.keep("overview-light");
    browser.colors("dark");
    browser.keep("overview-dark");
    browser.open(&url(&server, &detail(&uploads[0])));
    assert!(browser.text("#history").contains("Created from 127.0.0.1"));
    browser.keep("session-dark");
    browser.colors("light");
    browser.keep("session-light");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn it_fits_a_phone() {
    let (server, uploads) = busy_server();
    let browser = Browser::start();
    browser.size(360, 740, true);
    for (path, name) in [
        ("/".to_owned(), "overview"),
        (detail(&uploads[2]), "session"),
        (format!("{}/cancel", detail(&uploads[0])), "confirm"),
    ] {
        browser.open(&url(&server, &path));
        assert_fits(&browser, name);
        browser.keep(&format!("{name}-phone"));
    }
    browser.colors("dark");
    browser.open(&url(&server, "/"));
    browser.keep("overview-phone-dark");
}

#[test]
fn it_stays_fresh_by_itself_and_leaves_people_alone() {
    let (server, mut uploads) = busy_server();
    let browser = Browser::start();
    browser.open(&url(&server, "/"));
    browser.run("window.same = true; document.querySelector('#filter-path').focus(); document.querySelector('#filter-path').value = '/up'");
    let row = format!("s-{}", bare(uploads[1].session()).to_lowercase());
    let percent = format!("document.getElementById('{row}')?.querySelector('progress').value");
    assert_eq!(browser.run(&format!("return {percent}")), 16);
    uploads[1].fragment(2_800_000).unwrap();
    browser.wait_for(&format!("{percent} == 50"));
    let mut new = upload(&server, "/upload/just-now.bin", 1000, 500);
    browser.wait_for("document.querySelector('#sessions').innerText.includes('just-now.bin')");
    new.fragments(500).unwrap();
    new.close().unwrap();
    browser.wait_for("document.querySelector('#finished').innerText.includes('just-now.bin')");
    browser.wait_for("!document.querySelector('#sessions').innerText.includes('just-now.bin')");
    let kept = "return [window.same, document.activeElement.id, document.querySelector('#filter-path').value]";
    assert_eq!(browser.run(kept), json!([true, "filter-path", "/up"]), "neither reloaded nor disturbed");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn it_says_that_it_is_not_up_to_date() {
    let (mut server, _uploads) = busy_server();
    let browser = Browser::start();
    browser.open(&url(&server, "/"));
    let shown = "document.getElementById('status').getBoundingClientRect().left >= 0";
    assert_eq!(browser.run(&format!("return {shown}")), false);
    server.kill();
    browser.wait_for(&format!("{shown} && document.getElementById('status').innerText.includes('not up to date')"));
    browser.keep("stale-light");
    server.launch();
    browser.wait_for(&format!("!({shown})"));
}

#[test]
fn an_upload_is_cancelled_after_asking() {
    let (server, uploads) = busy_server();
    let browser = Browser::start();
    browser.open(&url(&server, "/"));
    let button = format!("#cancel-{}", bare(uploads[1].session()).to_lowercase());
    browser.click(&button);
    assert!(browser.text("#confirm").contains("quarter.pdf"));
    browser.keep("confirm-light");
    browser.click("#confirm button[value=no]");
    assert_eq!(browser.run("return document.getElementById('confirm').open"), false);
    assert_eq!(state(&server, &uploads[1]), "receiving");
    browser.click(&button);
    browser.click("#confirm button.danger");
    browser.wait_for("location.pathname.startsWith('/sessions/') && document.body.innerText.includes('cancelled')");
    assert_eq!(state(&server, &uploads[1]), "cancelled");
    assert!(browser.text("#history").contains("Cancelled; 1.3 MiB had come"));
}

#[test]
fn it_works_without_scripts() {
    let (server, uploads) = busy_server();
    let browser = Browser::start();
    browser.without_scripts();
    browser.open(&url(&server, "/?state=receiving&path=%2Fupload%2Fre&user="));
    browser.keep("without-scripts");
    browser.click(&format!("#cancel-{}", bare(uploads[1].session()).to_lowercase()));
    browser.click("form.actions button");
    wait_until("it is cancelled", || state(&server, &uploads[1]) == "cancelled");
    assert_eq!(state(&server, &uploads[0]), "receiving");
}

#[test]
fn it_is_used_by_keyboard_and_read_aloud() {
    let (server, uploads) = busy_server();
    let browser = Browser::start();
    browser.open(&url(&server, "/"));
    let nodes = browser.accessible();
    let unnamed: Vec<_> = nodes
        .iter()
        .filter(|(role, name)| {
            name.trim().is_empty()
                && ["link", "button", "textbox", "combobox", "progressbar", "image", "img", "table", "region"]
                    .contains(&role.as_str())
        })
        .collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
    for (role, name) in [
        ("heading", "Uploads"),
        ("heading", "Finished"),
        ("heading", "Failures"),
        ("columnheader", "Progress"),
        ("textbox", "Path starts with"),
        ("button", "Filter"),
        ("link", "Cancel quarter.pdf"),
        ("link", "Skip to the content"),
    ] {
        assert!(nodes.iter().any(|node| node.0 == role && node.1.starts_with(name)), "no {role} {name}");
    }
    browser.press(TAB);
    assert_eq!(browser.run("return document.activeElement.className"), "skip");
    // Tabs reach the button that cancels, Enter asks, Escape goes back to where one was.
    let wanted = format!("cancel-{}", bare(uploads[1].session()).to_lowercase());
    let reached = (0..60).any(|_| {
        browser.press(TAB);
        browser.run("return document.activeElement.id") == wanted.as_str()
    });
    assert!(reached, "no Tab reaches it");
    let outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, "solid", "the focus is seen");
    browser.press(ENTER);
    browser.wait_for("document.getElementById('confirm').open");
    browser.press(ESCAPE);
    browser.wait_for("!document.getElementById('confirm').open");
    assert_eq!(browser.run("return document.activeElement.id"), wanted.as_str());
    assert_eq!(state(&server, &uploads[1]), "receiving");
}
