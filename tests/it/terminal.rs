//! A replay at a terminal: asked for, drawn, interrupted by Ctrl-C and gone on with.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use finhook::cli::posting::{Answer, Post};
use serde_json::json;

use crate::app::{SECRETS, TestApp};
use crate::process::{Finhook, eventually};

/// What Ctrl-C sends: the terminal makes a SIGINT of it.
const CTRL_C: &str = "\u{3}";

/// A command at a pseudo-terminal of its own, which `script` of util-linux makes.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
}

impl Terminal {
    fn run(finhook: &Finhook, args: &[&str]) -> Self {
        let inner = finhook.command(args);
        let words = [inner.get_program()].into_iter().chain(inner.get_args()).map(|word| word.to_str().unwrap());
        // Itself and no shell in between, which would answer to Ctrl-C in its own way.
        let line = format!("exec {}", shell_words::join(words));
        // Whoever runs the tests may have them ignore Ctrl-C, as a shell does with what it puts into the background.
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", "script"]);
        command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        command.current_dir(finhook.folder()).env_clear().env("TERM", "xterm");
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let piped = Stdio::piped;
        let mut child =
            command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().expect("script(1) of util-linux");
        let (keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let shown = Arc::new(Mutex::new(String::new()));
        let kept = shown.clone();
        let reading = std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        Self { child, keys, shown, reading }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    async fn until(&self, what: &str, holds: impl Fn(&str) -> bool) {
        eventually(what, || async { holds(&self.shown.lock().unwrap()) }).await;
    }

    /// How it ended, and everything that was on the screen.
    fn ended(mut self) -> (i32, String) {
        let code = self.child.wait().unwrap().code().unwrap();
        self.reading.join().unwrap();
        (code, self.shown.lock().unwrap().clone())
    }
}

/// A finhook with so many events, of which nothing is left to be done.
async fn with_events(count: usize) -> Finhook {
    let finhook = SECRETS.iter().fold(Finhook::new(), |all, (name, value)| all.with(name, *value));
    let serving = finhook.serve(&[]);
    let signer = TestApp::embedded_in(&finhook.folder().join("finhook-data"), &SECRETS).await;
    let numbers: Vec<usize> = (0..count).collect();
    for numbers in numbers.chunks(64) {
        let event = |number: &usize| {
            let related = json!({ "customer": { "data": { "id": "c1" } } });
            let attributes = json!({ "createdAt": "2026-11-20T10:00:00.000Z", "tags": { "userId": "u1" } });
            json!({ "id": format!("e{number}"), "type": "customer.created", "attributes": attributes, "relationships": related })
        };
        let data: Vec<_> = numbers.iter().map(event).collect();
        let signed = signer.signed("unit", json!({ "data": data }).to_string());
        assert_eq!(Post::new(&serving.public).unwrap().send(&signed).await, Answer::Accepted);
    }
    eventually("every event has its row", || async {
        finhook.run(&["events", "replay", "--all", "--dry-run", "--json"]).exits(0).json()["selected"] == json!(count)
    })
    .await;
    assert!(serving.terminate().0.success());
    finhook
}

/// How far the bar says it is: the largest `N/count` on the screen.
fn drawn(screen: &str, count: usize) -> usize {
    let total = format!("/{count}");
    let number = |(at, _): (usize, &str)| {
        let before = &screen[..at];
        let digits = before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        before[digits..].parse().unwrap_or(0)
    };
    screen.match_indices(&total).map(number).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_not_agreed_to_does_nothing() {
    let finhook = with_events(3).await;
    for answer in ["n\n", "\n", "no\n"] {
        let mut terminal = Terminal::run(&finhook, &["events", "replay", "--all"]);
        terminal.until("it asks", |screen| screen.contains("replay 3 event(s)? [y/N]")).await;
        terminal.press(answer);
        let (code, screen) = terminal.ended();
        assert_eq!(code, 1, "{screen}");
        assert!(!screen.contains("taken through again"), "{screen}");
    }
    let mut terminal = Terminal::run(&finhook, &["events", "replay", "--all"]);
    terminal.until("it asks", |screen| screen.contains("[y/N]")).await;
    terminal.press(CTRL_C);
    assert_eq!(terminal.ended().0, 130);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_draws_how_far_it_is_stops_at_ctrl_c_and_goes_on_where_it_was() {
    const COUNT: usize = 3_200;
    let finhook = with_events(COUNT).await;
    let mut terminal = Terminal::run(&finhook, &["events", "replay", "--all"]);
    terminal.until("it asks", |screen| screen.contains("[y/N]")).await;
    terminal.press("y\n");
    terminal.until("the bar moves", |screen| drawn(screen, COUNT) > 0).await;
    terminal.press(CTRL_C);
    let (code, screen) = terminal.ended();
    assert_eq!(code, 1, "{screen}");
    let done = screen.split(" event(s) taken through again").next().unwrap();
    let done: usize = done.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    assert!((1..COUNT).contains(&done), "{screen}");
    let after = screen.split("go on with --after ").nth(1).expect("it says where to go on").trim();

    let rest = ["events", "replay", "--all", "--after", after, "--yes", "--json"];
    let rest = finhook.run(&rest).exits(0).json();
    assert_eq!((&rest["replayed"], &rest["after"]), (&json!(COUNT - done), &json!(null)));
}
