//! Secrets that a command prints: `exec:COMMAND` as the value of a secret, for whoever keeps keys in a vault, a key
//! management service or an encrypted file.
//!
//! The command is split into words as a shell does and run without one: no variables, no pipes. Its standard output is the
//! secret, without a newline at the end. What it writes to standard error is counted and never shown, because nobody knows
//! what stands there. A command runs once for all that is asked of one set of sources.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::SecretString;
use zeroize::Zeroizing;

/// What a value starts with that is to be had from a command.
const PREFIX: &str = "exec:";
/// How long a command may take. Start waits for it, and so does whoever waits for the start.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most that it may print: a list of a thousand keys.
const MOST: usize = 64 << 10;
/// How often it is asked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A secret, and what printed it; or what went wrong.
type Outcome = Result<(SecretString, String), String>;

/// What commands printed, so that each runs once.
#[derive(Default)]
pub(super) struct Executed(Mutex<BTreeMap<String, Outcome>>);

/// The command line of a value that asks for one.
pub(super) fn command_of(value: &str) -> Option<&str> {
    value.trim_start().strip_prefix(PREFIX)
}

impl Executed {
    /// Runs a command line, or gives what it gave before. `hidden` are variables that it does not get to see.
    pub(super) fn run<'n>(&self, line: &str, hidden: impl Iterator<Item = &'n str>) -> Outcome {
        // Held over the run: whoever asks for the same meanwhile waits for it.
        let mut outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.entry(line.to_owned()).or_insert_with(|| run(line, hidden, PATIENCE)).clone()
    }
}

fn run<'n>(line: &str, hidden: impl Iterator<Item = &'n str>, patience: Duration) -> Outcome {
    // The error would quote nothing, but says no more than this.
    let words = shell_words::split(line).map_err(|_| "exec: has a quote that is not closed".to_owned())?;
    let [program, arguments @ ..] = words.as_slice() else { return Err("exec: names no command".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that what it started ends with it.
    command.process_group(0);
    for name in hidden {
        command.env_remove(name);
    }
    let child = command.spawn().map_err(|error| format!("exec: {program} cannot be run: {}", error.kind()))?;
    let (status, printed, complaints) = wait(child, patience).map_err(|what| format!("exec: {program} {what}"))?;
    if !status.success() {
        let code = status.code().map_or("a signal".to_owned(), |code| format!("exit code {code}"));
        return Err(format!(
            "exec: {program} ended with {code}; {complaints} byte(s) on its standard error are not shown here: run it by hand"
        ));
    }
    let text = std::str::from_utf8(&printed).map_err(|_| format!("exec: {program} printed what is not UTF-8"))?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.trim().is_empty() {
        return Err(format!("exec: {program} printed nothing"));
    }
    Ok((SecretString::from(text), format!("exec {program}")))
}

/// Waits for a command; what it printed, and how much it complained.
fn wait(mut child: Child, patience: Duration) -> Result<(ExitStatus, Zeroizing<Vec<u8>>, u64), String> {
    let deadline = Instant::now() + patience;
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("has no output".to_owned());
    };
    let printed = beside(move || whole(stdout));
    let complaints = beside(move || io::copy(&mut stderr, &mut io::sink()));
    let outcome = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(LOOK_EVERY),
            Ok(None) => break Err(format!("did not end within {} s", patience.as_secs())),
            Err(error) => break Err(format!("cannot be waited for: {}", error.kind())),
        }
    };
    // What it left behind would keep its output open.
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let left = Duration::from_millis(200).max(deadline.saturating_duration_since(Instant::now()));
    let ended = outcome.and_then(|status| {
        let printed = printed.recv_timeout(left).map_err(|_| "ended and something it started did not".to_owned())?;
        let printed = printed.map_err(|error| format!("printed what cannot be read: {}", error.kind()))?;
        Ok((status, printed, complaints.recv_timeout(left).ok().and_then(Result::ok).unwrap_or(0)))
    });
    if ended.is_err() {
        if let Some(group) = group {
            // It may be gone by now; then there is nothing to end.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }
    ended
}

/// Reads on a thread of its own, which ends with what it reads.
fn beside<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // Nobody waits any more once the command was given up.
        let _ = sender.send(read());
    });
    receiver
}

/// All of a command's output, in a buffer that never moves and so leaves no copy behind.
fn whole(mut output: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; MOST + 1]);
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match output.read(room) {
            Ok(0) => {
                bytes.truncate(filled);
                return Ok(bytes);
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn ran(line: &str) -> Result<(String, String), String> {
        let outcome = run(line, ["FINHOOK_TEST_HIDDEN"].into_iter(), Duration::from_secs(10));
        outcome.map(|(secret, origin)| (secret.expose_secret().to_owned(), origin))
    }

    #[test]
    fn what_a_command_prints_is_the_secret_without_its_last_newline() {
        for line in ["printf 'a b'", "echo 'a b'", r#"printf 'a b\r\n'"#, "sh -c 'echo complaint >&2; echo \"a b\"'"] {
            let (secret, origin) = ran(line).unwrap();
            assert_eq!(secret, "a b", "{line}");
            assert!(origin == "exec printf" || origin == "exec echo" || origin == "exec sh", "{origin}");
        }
        assert_eq!(ran(r"printf 'a\n\n'").unwrap().0, "a\n");
    }

    #[test]
    fn there_is_no_shell() {
        assert_eq!(ran("echo $HOME; true | cat").unwrap().0, "$HOME; true | cat");
    }

    #[test]
    fn what_goes_wrong_is_said_without_what_was_printed() {
        let cases = [
            ("", "names no command"),
            ("'unclosed hunter2", "a quote that is not closed"),
            ("/nowhere/at-all", "cannot be run: entity not found"),
            ("sh -c 'echo hunter2; echo hunter22 >&2; exit 3'", "ended with exit code 3; 9 byte(s)"),
            ("sh -c 'kill -9 $$'", "ended with a signal"),
            ("true", "printed nothing"),
            ("echo", "printed nothing"),
            (r"printf '\377hunter2'", "is not UTF-8"),
            ("head -c 70000 /dev/zero", "cannot be read"),
        ];
        for (line, says) in cases {
            let problem = ran(line).unwrap_err();
            assert!(problem.contains(says) && !problem.contains("hunter2"), "{line}: {problem}");
        }
    }

    #[test]
    fn a_command_that_does_not_end_is_ended_with_all_that_it_started() {
        for line in ["sleep 60", "sh -c 'sleep 60 & sleep 60'", "sh -c 'sleep 60 &'"] {
            let started = Instant::now();
            let problem = run(line, std::iter::empty(), Duration::from_millis(300)).err().unwrap();
            assert!(problem.contains("did not"), "{line}: {problem}");
            assert!(started.elapsed() < Duration::from_secs(20), "{line}");
        }
    }

    #[test]
    fn a_command_runs_once_however_often_it_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let line = format!("sh -c 'echo x >> {0}/ran; cat {0}/ran'", folder.path().display());
        let executed = Executed::default();
        for _ in 0..3 {
            assert_eq!(executed.run(&line, std::iter::empty()).unwrap().0.expose_secret(), "x");
        }
    }
}
