//! The built binary, run as people and service managers run it: an environment of its own, a folder of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::app::{PATIENCE, folder};

/// The binary in a folder, with an environment that has nothing of the test's own.
pub struct Finhook {
    folder: TempDir,
    settings: Vec<(String, String)>,
}

/// What a command said.
pub struct Said {
    /// The exit code; `None` = killed.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("what is printed is text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Fails unless it ended with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        self
    }

    /// Standard output as one JSON value per line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        assert!(self.out.is_empty() || self.out.ends_with('\n'), "the last line ends");
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// Standard output as one JSON value over all its lines.
    #[track_caller]
    pub fn json_of_all(&self) -> Value {
        serde_json::from_str(&self.out).expect("one JSON value")
    }

    /// Standard output as the one JSON value on its one line.
    #[track_caller]
    pub fn json(&self) -> Value {
        let [value] = &self.json_lines()[..] else { panic!("one line: {}", self.out) };
        value.clone()
    }
}

impl Finhook {
    /// A new folder, no settings.
    pub fn new() -> Self {
        Self { folder: folder(), settings: Vec::new() }
    }

    /// The same with a setting.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.retain(|(held, _)| held != name);
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// The same with several.
    pub fn with_all(self, settings: &[(String, String)]) -> Self {
        settings.iter().fold(self, |all, (name, value)| all.with(name, value.clone()))
    }

    /// A setting that it has.
    pub fn setting(&self, name: &str) -> String {
        self.settings.iter().find(|(held, _)| held == name).unwrap().1.clone()
    }

    /// The folder that it runs in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in that folder.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The command line, ready to run.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_finhook"));
        command.args(args).current_dir(self.folder()).env_clear();
        let kept = ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"];
        command.envs(kept.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Said {
        Said::of(self.command(args).stdin(Stdio::null()).output().unwrap())
    }

    /// Runs it to its end with something on standard input.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Said {
        let piped = Stdio::piped;
        let mut child = self.command(args).stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
        // A command that does not read all of it says so by its exit code.
        let _ = child.stdin.take().unwrap().write_all(input);
        Said::of(child.wait_with_output().unwrap())
    }

    /// Starts `serve` on free ports and waits until it says that it does.
    pub fn serve(&self, args: &[&str]) -> Served {
        let args = ["serve"].into_iter().chain(args.iter().copied());
        let mut command = self.command(args);
        command.env("FINHOOK_HTTP_BIND", "127.0.0.1:0").env("FINHOOK_OPS_BIND", "127.0.0.1:0");
        command.env("FINHOOK_LOG_FORMAT", "json");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, log, reading) = follow(child.stderr.take().unwrap());
        let mut served = Served { child, log, reading: Some(reading), public: String::new(), ops: String::new() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("it does not serve: {}", served.log())
                }
            };
            let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
            if matches!(line["message"].as_str(), Some("serving" | "working")) {
                let address = |name: &str| line[name].as_str().map(|address| format!("http://{address}"));
                served.public = address("http.address").unwrap_or_default();
                served.ops = address("ops.address").unwrap();
                return served;
            }
        }
    }
}

/// Reads what a process logs, line by line, so that it never waits for us.
fn follow(stderr: impl Read + Send + 'static) -> (Receiver<String>, Arc<Mutex<String>>, JoinHandle<()>) {
    let (log, (sender, lines)) = (Arc::new(Mutex::new(String::new())), channel());
    let kept = log.clone();
    let reading = std::thread::spawn(move || {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            kept.lock().unwrap().push_str(&text);
            // Nobody has to listen.
            let _ = sender.send(text);
            line.clear();
        }
    });
    (lines, log, reading)
}

/// A running `finhook serve`.
pub struct Served {
    child: Child,
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
    /// Where providers post; empty without a receiver.
    pub public: String,
    /// Where operators look.
    pub ops: String,
}

impl Served {
    /// Everything that it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Has it read its configuration again.
    pub fn hang_up(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with -9, at whatever it is doing.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal by its name.
    pub fn signal(&self, name: &str) {
        let (name, id) = (format!("-{name}"), self.child.id().to_string());
        assert!(Command::new("kill").args([name, id]).status().unwrap().success());
    }

    /// Asks it to stop; how it ended, and its whole log.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        self.reading.take().unwrap().join().unwrap();
        let log = self.log();
        (status, log)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended already unless the test failed on the way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until something is so: only for what another process does.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !look().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
