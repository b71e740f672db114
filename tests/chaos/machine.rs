//! What the suite needs of the machine: a folder, free ports, and processes that never outlive it.

use std::cell::RefCell;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rand::RngExt;
use tokio::process::{Child, Command};

/// The folder of one run, and the user that servers run as.
pub struct Machine {
    /// Everything that the run writes is in here; it goes when the run ends.
    pub folder: PathBuf,
    owner: Option<String>,
    keep: Option<PathBuf>,
    /// Small disks, which go with the run.
    disks: RefCell<Vec<PathBuf>>,
}

impl Machine {
    /// Takes the folder that the wrapper made and will remove too, or makes one. PostgreSQL refuses to run as root, so
    /// root hands the folder to another user.
    pub fn new(keep: Option<PathBuf>) -> anyhow::Result<Self> {
        let folder = match std::env::var_os("FINHOOK_CHAOS_FOLDER") {
            Some(folder) => PathBuf::from(folder),
            None => tempfile::Builder::new().prefix("finhook-chaos.").tempdir()?.keep(),
        };
        let mut machine = Self { folder, owner: None, keep, disks: RefCell::default() };
        if output("id", &["-u"])?.trim() == "0" {
            let user = if output("id", &["-u", "postgres"]).is_ok() { "postgres" } else { "nobody" };
            machine.owner = Some(user.to_owned());
            machine.hand_over(&machine.folder)?;
        }
        Ok(machine)
    }

    /// Makes a folder that the servers' user may write.
    pub fn subfolder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        fs::create_dir_all(&path)?;
        self.hand_over(&path)?;
        Ok(path)
    }

    /// Writes a file that the servers' user may read and write.
    pub fn file(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        fs::write(path, text)?;
        self.hand_over(path)
    }

    /// A disk of its own in a folder of this name. The wrapper gave us a mount namespace: it goes with the last process.
    pub fn small_disk(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.subfolder(name)?;
        if !self.disks.borrow().contains(&folder) {
            let at = folder.display().to_string();
            output("mount", &["-t", "tmpfs", "-o", "size=48m,mode=0777", "tmpfs", &at])
                .context("a small disk needs root (or `unshare --map-root-user --mount tests/chaos/run`)")?;
            self.disks.borrow_mut().push(folder.clone());
        }
        Ok(folder)
    }

    fn hand_over(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(owner) = &self.owner {
            output("chown", &[owner, &path.display().to_string()])?;
        }
        Ok(())
    }

    /// A command that runs as the servers' user. It dies with us, however we die.
    pub fn server(&self, program: impl AsRef<Path>) -> anyhow::Result<Command> {
        let mut command = mortal();
        if let Some(owner) = &self.owner {
            let group = output("id", &["-g", owner])?;
            command.args([&format!("--reuid={owner}"), &format!("--regid={}", group.trim()), "--clear-groups"]);
        }
        command.arg("--").arg(program.as_ref());
        Ok(command)
    }

    /// A command that runs as we do. It dies with us, however we die.
    pub fn own(&self, program: impl AsRef<Path>) -> Command {
        let mut command = mortal();
        command.arg("--").arg(program.as_ref());
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(keep) = &self.keep {
            let kept = fs::create_dir_all(keep).and_then(|()| copy_logs(&self.folder, keep));
            eprintln!(
                "chaos: logs and ledgers are in {}{}",
                keep.display(),
                if kept.is_ok() { "" } else { ", in part" }
            );
        }
        for disk in self.disks.borrow().iter() {
            let _ = output("umount", &["--lazy", &disk.display().to_string()]);
        }
        // What was killed a moment ago may still be writing.
        for _ in 0..50 {
            if fs::remove_dir_all(&self.folder).is_ok() || !self.folder.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("chaos: {} could not be removed", self.folder.display());
    }
}

fn copy_logs(folder: &Path, keep: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_log = path.extension().is_some_and(|end| end == "log" || end == "jsonl");
        if let (true, Some(name)) = (is_log && path.is_file(), path.file_name()) {
            fs::copy(&path, keep.join(name))?;
        }
    }
    Ok(())
}

fn mortal() -> Command {
    let mut command = Command::new("setpriv");
    // The kernel sends it when the thread that started the process ends: ours is the main one.
    command.args(["--pdeathsig", "KILL"]).stdin(Stdio::null()).env_clear().kill_on_drop(true);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LANG", "C.UTF-8");
    // A group of its own: Ctrl-C in a terminal is for the suite, which then stops everything in order.
    command.process_group(0);
    command
}

/// A process that the suite started.
pub struct Process {
    child: Child,
    pid: u32,
}

impl Process {
    /// Starts it; what it prints goes to the end of `log`.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = command.stdout(out.try_clone()?).stderr(out).spawn().context("start a process")?;
        let pid = child.id().context("a process that just started has an id")?;
        Ok(Self { child, pid })
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The most memory that it ever had resident, in MiB.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? / 1_024)
    }

    /// Asks it to stop, and again after a moment: then it has to end at once, with the code of the signal, unless it had
    /// ended in order before that. How it ended, or `None` if it had to be killed.
    pub async fn stop_twice(self, between: Duration) -> Option<ExitStatus> {
        signal("TERM", &[self.pid]);
        tokio::time::sleep(between).await;
        self.stop(Duration::from_secs(2)).await
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends it as a power cut would.
    pub async fn kill(mut self) {
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
    }

    /// Asks it to stop; how it ended, or `None` if it had to be killed after `within`.
    pub async fn stop(mut self, within: Duration) -> Option<ExitStatus> {
        signal("TERM", &[self.pid]);
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                self.kill().await;
                None
            }
        }
    }
}

/// Sends a signal to processes that the suite started.
pub fn signal(name: &str, pids: &[u32]) {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    if !pids.is_empty() {
        let kill = std::process::Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status();
        let _ = kill;
    }
}

/// The processes that `parent` started.
pub fn children(parent: u32) -> Vec<u32> {
    let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = listed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name before it is in parentheses and may contain anything.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
        fields.and_then(|fields| fields.get(1)?.parse::<u32>().ok()) == Some(parent)
    })
    .collect()
}

/// What a short command prints; an error if it fails.
pub fn output(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = std::process::Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A port of the loopback interface that nothing listens on, below those that the kernel gives to clients.
pub fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The last `lines` lines of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
