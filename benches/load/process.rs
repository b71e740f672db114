//! Processes that are measured: what they used of the processor and the memory, as the system counts it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;

/// The longest that anything may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// The kernel counts processor time in these (`USER_HZ`, which is 100 on every Linux).
const TICK: Duration = Duration::from_millis(10);

/// A running finhook.
pub struct Finhook {
    child: Child,
    /// `HOST:PORT` of the webhooks.
    pub public: String,
    /// `HOST:PORT` of the operators.
    pub ops: String,
    /// When it was started.
    pub started: Instant,
    /// From then until it was ready.
    pub ready_after: Duration,
    client: reqwest::Client,
}

impl Finhook {
    /// Starts `finhook serve` with these settings and no others, and waits until it is ready.
    pub async fn serve(arguments: &[&str], settings: &[(String, String)]) -> anyhow::Result<Self> {
        let (public, ops) = (free_port()?, free_port()?);
        let mut command = finhook();
        command.arg("serve").args(arguments).envs(settings.iter().map(|(name, value)| (name, value)));
        command.env("FINHOOK_HTTP_BIND", &public).env("FINHOOK_OPS_BIND", &ops).env("FINHOOK_LOG", "warn");
        let began = Instant::now();
        let child = command.stdout(Stdio::null()).spawn().context("start finhook")?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let mut started = Self { child, public, ops, started: began, ready_after: Duration::ZERO, client };
        loop {
            let answer = started.client.get(format!("http://{}/readyz", started.ops)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            ensure!(began.elapsed() < PATIENCE, "finhook is not ready");
            ensure!(started.child.try_wait()?.is_none(), "finhook ended at its start");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        started.ready_after = began.elapsed();
        Ok(started)
    }

    /// What it used so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.child.id())
    }

    /// Its metrics, in Prometheus' text format.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.client.get(format!("http://{}/metrics", self.ops)).send().await?.text().await?)
    }

    /// The sum of a metric's series whose labels contain `label`.
    pub async fn sum(&self, metric: &str, label: &str) -> anyhow::Result<f64> {
        let text = self.metrics().await?;
        let values = text.lines().filter(|line| line.starts_with(metric) && line.contains(label));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Stops it and waits for its end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let stopped = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        ensure!(stopped.success(), "finhook could not be told to stop");
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(began.elapsed() < PATIENCE, "finhook does not stop");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Finhook {
    fn drop(&mut self) {
        // Nothing is left running, however the measurement ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary that was built with this driver, in an environment without settings.
pub fn finhook() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_finhook"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("FINHOOK_") || name == "DATABASE_URL" || name == "AMQP_URL" {
            command.env_remove(&*name);
        }
    }
    command
}

fn free_port() -> anyhow::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// What a process used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Processor time, user and system.
    pub processor: Duration,
    /// Resident now, in MiB.
    pub resident: f64,
    /// Resident at most, in MiB.
    pub peak: f64,
}

impl Usage {
    /// Of a process by its number.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let stat = std::fs::read_to_string(folder.join("stat")).context("this needs Linux's /proc")?;
        // Behind the name, which may contain anything but ends with the last parenthesis: fields 3 and on.
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()).unwrap_or_default();
        let ticks = |place: usize| fields.get(place - 3).and_then(|field| field.parse::<u32>().ok());
        let (Some(user), Some(system)) = (ticks(14), ticks(15)) else { bail!("/proc/{pid}/stat is odd") };
        let status = std::fs::read_to_string(folder.join("status"))?;
        let mebibytes = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
        };
        Ok(Self { processor: TICK * (user + system), resident: mebibytes("VmRSS:"), peak: mebibytes("VmHWM:") })
    }
}

/// Runs this driver in another role, and reads what it found.
pub async fn role<T: DeserializeOwned>(name: &str, arguments: &[String]) -> anyhow::Result<T> {
    let driver = std::env::current_exe()?;
    let mut command = tokio::process::Command::new(driver);
    command.arg("--role").arg(name).args(arguments).stdout(Stdio::piped()).kill_on_drop(true);
    let output = command.spawn()?.wait_with_output().await?;
    ensure!(output.status.success(), "the {name} of the benches failed");
    serde_json::from_slice(&output.stdout).with_context(|| format!("what the {name} of the benches found"))
}
