//! Private RabbitMQ nodes: started, killed, alarmed and asked, never the machine's own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::machine::{Machine, Process, free_port, tail};

/// How long the broker lets a delivery be unacked before it closes the channel: 30 minutes where nobody set it.
pub const ACK_LIMIT: Duration = Duration::from_secs(10);
/// How often it looks for those.
const ACK_TICK: Duration = Duration::from_secs(2);

/// Nodes that share a folder, a cookie and a port mapper.
pub struct Brokers {
    /// One, or three that form a cluster.
    pub nodes: Vec<Node>,
    _port_mapper: Process,
}

/// For what a node takes no messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// It has no memory left.
    Memory,
    /// Its disk is nearly full.
    Disk,
}

/// One node.
pub struct Node {
    /// Where it takes AMQP.
    pub port: u16,
    name: String,
    sbin: PathBuf,
    folder: PathBuf,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Brokers {
    /// Starts `count` nodes; more than one form a cluster.
    pub async fn start(machine: &Machine, label: &str, count: usize) -> anyhow::Result<Self> {
        let sbin = newest("/usr/lib/rabbitmq/lib", "rabbitmq_server-", "sbin/rabbitmq-server")
            .context("RabbitMQ is not installed (Debian: apt-get install rabbitmq-server)")?;
        let sbin = sbin.parent().context("a program is in a folder")?.to_owned();
        let home = machine.subfolder(label)?;
        let mapper_port = free_port();
        // A port mapper of our own: one that the node starts by itself would stay behind.
        let mut mapper = machine.server("epmd")?;
        mapper.args(["-address", "127.0.0.1", "-port", &mapper_port.to_string()]);
        let port_mapper = Process::start(mapper, &machine.folder.join("epmd.log"))?;
        let mut brokers = Self { nodes: Vec::new(), _port_mapper: port_mapper };
        for number in 1..=count {
            let mut node = Node::new(machine, &sbin, &home, &format!("{label}{number}"), mapper_port)?;
            node.start(machine)?;
            node.answers(Duration::from_secs(60)).await?;
            brokers.nodes.push(node);
        }
        let first = brokers.nodes.first().map(|node| node.name.clone()).unwrap_or_default();
        for node in brokers.nodes.iter().skip(1) {
            for words in [&["stop_app"][..], &["reset"], &["join_cluster", &first], &["start_app"]] {
                node.control(machine, words).await?;
            }
        }
        Ok(brokers)
    }

    /// The first node: the only one, outside the cluster scenario.
    pub fn only(&mut self) -> anyhow::Result<&mut Node> {
        self.nodes.first_mut().context("there is a node")
    }

    /// The number of the node that leads a queue.
    pub async fn leader_of(&self, machine: &Machine, queue: &str) -> anyhow::Result<usize> {
        let node = self.nodes.first().context("there is a node")?;
        let listed = node.control(machine, &["list_queues", "--quiet", "name", "leader"]).await?;
        let line = listed.lines().find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
        let leader = line.with_context(|| format!("{queue} has no leader"))?.trim();
        self.nodes.iter().position(|node| node.name == leader).with_context(|| format!("{leader} is no node"))
    }
}

impl Node {
    fn new(
        machine: &Machine,
        sbin: &std::path::Path,
        home: &std::path::Path,
        label: &str,
        mapper_port: u16,
    ) -> anyhow::Result<Self> {
        let folder = machine.subfolder(&format!("{}/{label}", home.file_name().unwrap_or_default().display()))?;
        let at = |name: &str| folder.join(name).display().to_string();
        machine.file(&folder.join("empty"), "")?;
        machine.file(&folder.join("rabbitmq.conf"), "")?;
        machine.file(&folder.join("enabled_plugins"), "[].\n")?;
        let (port, name) = (free_port(), format!("{label}-{}@localhost", std::process::id()));
        let arguments = format!(
            "-rabbit consumer_timeout {} -rabbit channel_tick_interval {} -kernel inet_dist_use_interface {{127,0,0,1}}",
            ACK_LIMIT.as_millis(),
            ACK_TICK.as_millis()
        );
        let environment = [
            ("HOME", home.display().to_string()),
            ("RABBITMQ_NODENAME", name.clone()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", free_port().to_string()),
            ("RABBITMQ_MNESIA_BASE", at("data")),
            ("RABBITMQ_LOG_BASE", at("log")),
            ("RABBITMQ_PID_FILE", at("pid")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins")),
            ("RABBITMQ_CONF_ENV_FILE", at("empty")),
            ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
            ("RABBITMQ_FEATURE_FLAGS_FILE", at("feature_flags")),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", arguments),
            // The script then becomes the server, so that one process is all of it.
            ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
            ("ERL_EPMD_PORT", mapper_port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Ok(Self { port, name, sbin: sbin.to_owned(), folder, environment, process: None })
    }

    /// Starts it on the folder that it had.
    pub fn start(&mut self, machine: &Machine) -> anyhow::Result<()> {
        let mut command = machine.server(self.sbin.join("rabbitmq-server"))?;
        command.envs(self.environment.iter().cloned()).current_dir(&self.folder);
        self.process = Some(Process::start(command, &self.log(machine))?);
        Ok(())
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Waits until it is back: until it confirms a message in a quorum queue of ours. It takes connections before that.
    pub async fn answers(&self, within: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if speaks_amqp(self.port).await
                && let Ok(Ok(())) = timeout(Duration::from_secs(5), confirms(self.port)).await
            {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("RabbitMQ does not answer; the end of its log:\n{}", tail(&self.folder.join("log/console.log"), 20))
    }

    /// Raises or clears an alarm.
    pub async fn alarm(&self, machine: &Machine, alarm: Alarm, raised: bool) -> anyhow::Result<()> {
        let words = match (alarm, raised) {
            (Alarm::Memory, true) => ["set_vm_memory_high_watermark", "0.0000001"],
            (Alarm::Memory, false) => ["set_vm_memory_high_watermark", "0.6"],
            // More than any disk has, and less.
            (Alarm::Disk, true) => ["set_disk_free_limit", "900000GB"],
            (Alarm::Disk, false) => ["set_disk_free_limit", "1MB"],
        };
        self.control(machine, &words).await.map(|_| ())
    }

    /// The queues that start with `prefix` and hold something, as `name ready unacked`.
    pub async fn left(&self, machine: &Machine, prefix: &str) -> anyhow::Result<Vec<String>> {
        let words = ["list_queues", "--quiet", "name", "messages_ready", "messages_unacknowledged"];
        let listed = self.control(machine, &words).await?;
        let ours = listed.lines().filter(|line| line.starts_with(prefix));
        Ok(ours.filter(|line| !line.ends_with("\t0\t0")).map(|line| line.replace('\t', " ")).collect())
    }

    /// Runs rabbitmqctl.
    pub async fn control(&self, machine: &Machine, words: &[&str]) -> anyhow::Result<String> {
        let mut command: Command = machine.server(self.sbin.join("rabbitmqctl"))?;
        command.envs(self.environment.iter().cloned()).current_dir(&self.folder).args(words);
        let output =
            timeout(Duration::from_secs(60), command.output()).await.context("rabbitmqctl takes too long")??;
        if !output.status.success() {
            bail!("rabbitmqctl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn log(&self, machine: &Machine) -> PathBuf {
        machine.folder.join(format!("{}.log", self.name))
    }
}

/// Whether the protocol header is answered with connection.start.
async fn speaks_amqp(port: u16) -> bool {
    let hello = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await.ok()?;
        let mut head = [0; 3];
        stream.read_exact(&mut head).await.ok()?;
        (head == [1, 0, 0]).then_some(())
    };
    matches!(timeout(Duration::from_secs(2), hello).await, Ok(Some(())))
}

/// Publishes one message to a quorum queue and has it confirmed.
async fn confirms(port: u16) -> lapin::Result<()> {
    const QUEUE: &str = "probe";
    let address = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
    let connection = Connection::connect(&address, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(QUEUE.into(), durable, arguments).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let published = channel.basic_publish(
        "".into(),
        QUEUE.into(),
        BasicPublishOptions::default(),
        b"probe",
        BasicProperties::default().with_delivery_mode(2),
    );
    published.await?.await?;
    connection.close(200, "done".into()).await
}

/// The program of the newest of several installed versions.
pub fn newest(base: &str, start: &str, program: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(base).ok()?.flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(start)))
        .map(|entry| entry.path().join(program))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop()
}
