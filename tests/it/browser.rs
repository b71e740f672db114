//! A real headless Chromium for one test, driven over WebDriver: its screen, its colours, its keyboard, its console.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use http::Method;
use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::app::{PATIENCE, folder};

/// The rules of accessibility, as a dev file (see its folder for the licence).
const AXE: &str = include_str!("../axe/axe.min.js");

/// What an address is refused with.
type ParseError = <Url as std::str::FromStr>::Err;

/// The driver's process; asked to end, it ends its browsers too.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A browser with one page.
pub struct Browser {
    /// The page.
    pub page: Client,
    _driver: Driver,
    _profile: TempDir,
}

/// The driver, or a word on what is left out.
fn driver(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("chromedriver")).find(|file| file.is_file());
    if found.is_none() {
        let required = std::env::var("FINHOOK_TEST_REQUIRED").is_ok_and(|value| value == "1");
        assert!(!required, "{test} needs chromium and chromedriver, and nothing may be left out");
        let _ = writeln!(std::io::stderr(), "left out: {test}: there is no chromedriver");
    }
    found
}

impl Browser {
    /// Starts one, or says what is left out.
    pub async fn start(test: &str) -> Option<Self> {
        let mut command = Command::new(driver(test)?);
        let mut child = command
            .args(["--port=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let driver = Driver(child);
        let started = "started successfully on port ";
        let port = lines
            .find_map(|line| line.unwrap().split_once(started).map(|(_, port)| port.trim_end_matches('.').to_owned()));
        // Whatever else it says is read, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = folder();
        let user_data = format!("--user-data-dir={}", profile.path().display());
        let options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage", user_data,
        ] });
        let capabilities: Capabilities =
            [("goog:chromeOptions".to_owned(), options), ("goog:loggingPrefs".to_owned(), json!({ "browser": "ALL" }))]
                .into_iter()
                .collect();
        let port = port.expect("the driver says its port");
        let mut builder = ClientBuilder::rustls().unwrap();
        let page = builder.capabilities(capabilities).connect(&format!("http://127.0.0.1:{port}")).await.unwrap();
        Some(Self { page, _driver: driver, _profile: profile })
    }

    /// Ends it.
    pub async fn close(self) {
        self.page.close().await.unwrap();
    }

    /// A screen so wide, by day or by night; at night for somebody who wants things to keep still.
    pub async fn look(&self, width: u32, night: bool) {
        let height = if width < 600 { 844 } else { 900 };
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", screen).await;
        let scheme = if night { "dark" } else { "light" };
        let motion = if night { "reduce" } else { "no-preference" };
        let media = json!({ "features": [
            { "name": "prefers-color-scheme", "value": scheme }, { "name": "prefers-reduced-motion", "value": motion },
        ] });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    /// Goes to an address.
    pub async fn go(&self, url: &str) {
        self.page.goto(url).await.unwrap();
    }

    /// What a script returns.
    pub async fn run(&self, script: &str) -> Value {
        self.page.execute(script, vec![]).await.unwrap()
    }

    /// The text of the first element that a selector finds; empty if there is none.
    pub async fn text(&self, selector: &str) -> String {
        let found = "const found = document.querySelector(arguments[0]); return found ? found.innerText : ''";
        let text = self.page.execute(found, vec![json!(selector)]).await;
        // Between two pages there is no document.
        text.ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Clicks on what a selector finds, once it is there.
    pub async fn click(&self, selector: &str) {
        self.page.wait().at_most(PATIENCE).for_element(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    /// Writes into what a selector finds, once it is there.
    pub async fn write(&self, selector: &str, text: &str) {
        let field = self.page.wait().at_most(PATIENCE).for_element(Locator::Css(selector)).await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Presses keys wherever the focus is.
    pub async fn press(&self, keys: &str) {
        self.page.active_element().await.unwrap().send_keys(keys).await.unwrap();
    }

    /// Waits until an element's text is as wanted; how long that took.
    pub async fn until(&self, selector: &str, wanted: impl Fn(&str) -> bool) -> Duration {
        let from = Instant::now();
        loop {
            let text = self.text(selector).await;
            if wanted(&text) {
                return from.elapsed();
            }
            assert!(from.elapsed() < PATIENCE, "{selector} says {text:?} after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Writes a picture of the page to `target/screenshots`.
    pub async fn shoot(&self, name: &str) {
        let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&pictures).unwrap();
        let picture = self.page.screenshot().await.unwrap();
        std::fs::write(pictures.join(format!("{name}.png")), picture).unwrap();
    }

    /// Fails if a rule of accessibility is broken seriously, or if the page is wider than the screen.
    #[track_caller]
    pub fn is_usable<'a>(&'a self, view: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            self.page.execute(AXE, vec![]).await.unwrap();
            let check = "const done = arguments[arguments.length - 1]; axe.run().then((found) => done(found.violations.map(\
                (rule) => `${rule.impact} ${rule.id}: ${rule.nodes.map((node) => node.target.join(' ') + ' ' + \
                node.failureSummary).join('; ')}`)), (error) => done([`critical ${error}`]))";
            let found = self.page.execute_async(check, vec![]).await.unwrap();
            let found: Vec<&str> = found.as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let bad: Vec<_> =
                found.iter().filter(|rule| rule.starts_with("serious") || rule.starts_with("critical")).collect();
            assert!(bad.is_empty(), "{caller}: {view}: {bad:#?}");
            let wide = self.run("return document.documentElement.scrollWidth - innerWidth").await;
            assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "{caller}: {view} is {wide} px too wide");
        }
    }

    /// What the console complained about since it was asked last: a policy that was broken, a script that failed.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.page.issue_cmd(ConsoleLog).await.unwrap();
        let entries = entries.as_array().cloned().unwrap_or_default();
        let severe = entries.iter().filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        severe.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn devtools(&self, command: &'static str, params: Value) {
        self.page.issue_cmd(DevTools(command, params)).await.unwrap();
    }
}

/// A command of Chromium's own protocol, passed on by the driver.
#[derive(Debug)]
struct DevTools(&'static str, Value);

/// The console's entries since the last time.
#[derive(Debug)]
struct ConsoleLog;

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "cmd": self.0, "params": self.1 }).to_string()))
    }
}

impl WebDriverCompatibleCommand for ConsoleLog {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}
