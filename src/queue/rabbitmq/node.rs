//! A broker node of a test's own, for what must never be done to a shared one: alarms and kill -9.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rand::RngExt;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a node may take to start.
const START: Duration = Duration::from_secs(60);

pub(super) struct Node {
    home: TempDir,
    programs: PathBuf,
    port: u16,
    management_port: u16,
    mapper_port: u16,
    server: Option<Child>,
    _mapper: Child,
}

impl Node {
    /// Starts one; `None`, with a word, where no server is installed.
    pub(super) async fn start(test: &str) -> Option<Self> {
        Self::start_with(test, false).await
    }

    /// The same with the management plugin.
    pub(super) async fn with_management(test: &str) -> Option<Self> {
        Self::start_with(test, true).await
    }

    async fn start_with(test: &str, managed: bool) -> Option<Self> {
        let Some(programs) = programs() else {
            let required = std::env::var("FINHOOK_TEST_REQUIRED").is_ok_and(|value| value == "1");
            assert!(!required, "{test} needs RabbitMQ's own programs in /usr/lib/rabbitmq");
            let _ = writeln!(std::io::stderr(), "left out: {test}: there is no /usr/lib/rabbitmq");
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        let management_port = free_port();
        let configuration = format!(
            "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management_port}\ncollect_statistics_interval = 1000\n"
        );
        let (plugins, configuration) =
            if managed { ("[rabbitmq_management].\n", configuration.as_str()) } else { ("[].\n", "") };
        for (file, text) in [("empty", ""), ("rabbitmq.conf", configuration), ("plugins", plugins)] {
            std::fs::write(home.path().join(file), text).unwrap();
        }
        let mapper_port = free_port();
        // A port mapper of its own: one that a node starts by itself stays behind.
        let mapper = Command::new("epmd")
            .args(["-port", &mapper_port.to_string(), "-address", "127.0.0.1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut node =
            Self { home, programs, port: free_port(), management_port, mapper_port, server: None, _mapper: mapper };
        node.restart().await;
        Some(node)
    }

    pub(super) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// What `rabbitmqctl list_queues` says of one queue: messages that wait or are held.
    pub(super) async fn messages(&self, queue: &str) -> u64 {
        let mut control = self.command("rabbitmqctl");
        control.args(["-q", "list_queues", "--no-table-headers", "name", "messages"]).stdout(Stdio::piped());
        let said = control.output().await.unwrap();
        assert!(said.status.success());
        let said = String::from_utf8(said.stdout).unwrap();
        let line = said.lines().find_map(|line| line.strip_prefix(queue)?.trim().parse().ok());
        line.unwrap_or_else(|| panic!("{queue} is not in {said}"))
    }

    /// Where its management API is, without user and password.
    pub(super) fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.management_port)
    }

    /// Starts it on the folder that it had, and waits until it speaks.
    pub(super) async fn restart(&mut self) {
        self.server = Some(self.command("rabbitmq-server").kill_on_drop(true).spawn().unwrap());
        let speaks = async { while !self.speaks().await {} };
        if timeout(START, speaks).await.is_err() {
            let log = std::fs::read_to_string(self.home.path().join("output")).unwrap_or_default();
            panic!("the node does not start:\n{log}");
        }
    }

    /// kill -9.
    pub(super) async fn kill(&mut self) {
        self.server.take().unwrap().kill().await.unwrap();
    }

    /// Raises or ends the memory alarm.
    pub(super) async fn memory_alarm(&self, raised: bool) {
        let mark: &[&str] = if raised { &["absolute", "1"] } else { &["0.9"] };
        self.control(&[&["set_vm_memory_high_watermark"], mark].concat()).await;
    }

    /// Runs `rabbitmqctl` on it.
    pub(super) async fn control(&self, arguments: &[&str]) {
        assert!(self.command("rabbitmqctl").args(arguments).status().await.unwrap().success());
    }

    fn command(&self, program: &str) -> Command {
        let at = |name: &str| self.home.path().join(name);
        let output = std::fs::File::options().create(true).append(true).open(at("output")).unwrap();
        let mut command = Command::new(self.programs.join(program));
        command
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("RABBITMQ_NODENAME", format!("finhook-{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", (self.port.wrapping_add(1)).to_string())
            .env("RABBITMQ_MNESIA_BASE", at("data"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", at("empty"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_FEATURE_FLAGS_FILE", at("feature_flags"))
            // The script then becomes the server, so that one process is all of it.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env("ERL_EPMD_PORT", self.mapper_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        command
    }

    /// Whether a protocol header is answered.
    async fn speaks(&self) -> bool {
        let hello = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await.ok()?;
            stream.read_u8().await.ok().filter(|frame| *frame == 1)
        };
        let speaks = matches!(timeout(Duration::from_secs(2), hello).await, Ok(Some(_)));
        tokio::task::yield_now().await;
        speaks
    }
}

fn programs() -> Option<PathBuf> {
    let servers = std::fs::read_dir("/usr/lib/rabbitmq/lib").ok()?.flatten().map(|entry| entry.path().join("sbin"));
    servers.filter(|folder| folder.join("rabbitmq-server").exists()).max()
}

/// A port that nothing listens on, below those that the kernel gives to clients: one of those could be taken by a
/// connection of another test before the node gets to it.
fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
