//! A headless Chromium, driven by WebDriver and Chromium's own protocol.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{Raw, binary::profile_folder, ports::Port, wait_until};

/// The key under which WebDriver names elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// How long the browser may take for one thing.
const PATIENCE: Duration = Duration::from_secs(60);

/// One browser with one window. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    port: Port,
    session: String,
}

impl Browser {
    /// Starts Debian's Chromium by its driver.
    pub fn start() -> Self {
        let port = Port::reserve();
        let mut driver = Command::new("chromedriver");
        driver.arg(format!("--port={}", port.number)).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = driver.spawn().expect("chromedriver is installed (Debian's chromium-driver)");
        let mut browser = Self { driver, port, session: String::new() };
        wait_until("the driver listens", || TcpStream::connect(browser.address()).is_ok());
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let options = json!({ "args": arguments });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let made = browser.post("/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = made["sessionId"].as_str().expect("a session has an id").to_owned();
        browser.size(1280, 900, false);
        browser
    }

    /// Goes to a page and waits until it is there.
    pub fn open(&self, url: &str) {
        self.ask("/url", &json!({ "url": url }));
    }

    /// What a function's body returns in the page.
    pub fn run(&self, script: &str) -> Value {
        self.ask("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    pub fn wait_for(&self, expression: &str) {
        wait_until(expression, || self.run(&format!("return !!({expression})")) == true);
    }

    /// The text of an element as people see it.
    pub fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({})?.innerText ?? ''", json!(selector));
        self.run(&script).as_str().unwrap_or_default().to_owned()
    }

    /// Clicks an element as people do; fails where something lies over it.
    pub fn click(&self, selector: &str) {
        let found = self.ask("/element", &json!({ "using": "css selector", "value": selector }));
        let element = found[ELEMENT].as_str().unwrap_or_else(|| panic!("{selector}: {found}"));
        self.ask(&format!("/element/{element}/click"), &json!({}));
    }

    /// Presses keys one after the other, wherever the focus is. `\u{E004}` is Tab, `\u{E007}` Enter,
    /// `\u{E00C}` Escape.
    pub fn press(&self, keys: &str) {
        let strokes: Vec<_> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() })))
            .collect();
        self.ask("/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] }));
    }

    /// The window's size in CSS pixels.
    pub fn size(&self, width: u32, height: u32, mobile: bool) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.command("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// `light` or `dark`, as the system would say it.
    pub fn colors(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.command("Emulation.setEmulatedMedia", &features);
    }

    /// Turns scripts off for the next pages.
    pub fn without_scripts(&self) {
        self.command("Emulation.setScriptExecutionDisabled", &json!({ "value": true }));
    }

    /// Every node of the tree that screen readers get: its role and name.
    pub fn accessible(&self) -> Vec<(String, String)> {
        let tree = self.command("Accessibility.getFullAXTree", &json!({}));
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().expect("a tree has nodes").iter();
        nodes.filter(|node| node["ignored"] != true).map(|node| (text(&node["role"]), text(&node["name"]))).collect()
    }

    /// Keeps a picture of the whole page as `<target>/screenshots/NAME.png`.
    pub fn keep(&self, name: &str) -> PathBuf {
        let picture = self.command("Page.captureScreenshot", &json!({ "captureBeyondViewport": true }));
        let folder = profile_folder().parent().expect("the profile lies in the target folder").join("screenshots");
        fs::create_dir_all(&folder).expect("the target folder is writable");
        let path = folder.join(format!("{name}.png"));
        let bytes = STANDARD.decode(picture["data"].as_str().unwrap_or_default()).expect("a picture is base64");
        assert!(bytes.len() > 1000, "{name}: the picture is empty");
        fs::write(&path, bytes).expect("the target folder is writable");
        path
    }

    /// What the page has complained about since the last time: errors, and what its policy refused.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.ask("/se/log", &json!({ "type": "browser" }));
        let lines = log.as_array().into_iter().flatten();
        lines.filter_map(|line| line["message"].as_str().map(str::to_owned)).collect()
    }

    fn command(&self, name: &str, parameters: &Value) -> Value {
        self.ask("/goog/cdp/execute", &json!({ "cmd": name, "params": parameters }))
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        self.post(&format!("/session/{}{path}", self.session), body)
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        let mut raw = Raw::connect(self.address());
        raw.patience(PATIENCE);
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        raw.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        let response = raw.receive();
        let mut answer: Value = serde_json::from_slice(&response.body).expect("the driver answers with JSON");
        assert_eq!(response.status, 200, "{path} {body}: {answer}");
        answer["value"].take()
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port.number).into()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty()
            && let Ok(stream) = TcpStream::connect(self.address())
        {
            drop(stream);
            let mut raw = Raw::connect(self.address());
            let head = format!("DELETE /session/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.session);
            let _ = raw.try_send(head.as_bytes());
            let _ = raw.try_receive();
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
