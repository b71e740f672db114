//! RabbitMQ: topology, supervised connections, a publisher that pipelines confirms, consumers over all queues.
//!
//! Law: publishing and consuming have a connection each, because an alarm of the broker stops every write on a connection
//! that publishes, acks included. Every call to the broker has a timeout. Read on in `link`, then `publisher`, `consumer`.

pub mod topology;

mod changes;
mod consumer;
mod gate;
mod inbox;
mod lane;
mod link;
mod management;
mod publisher;
mod refusal;
mod tags;

#[cfg(test)]
mod node;
#[cfg(test)]
pub(super) mod proxy;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use lapin::Connection;
use secrecy::SecretString;
use tokio::time::{Instant, timeout};
use tracing::warn;

pub use self::changes::RabbitChanges;
use self::consumer::{NotOpened, RabbitConsumer, Silent};
pub use self::link::is_exposed;
use self::link::{Alarm, Link, Session, connect_once};
pub use self::management::{Inspection, Management};
use self::publisher::Publisher;
use self::refusal::{CALL_TIMEOUT, Trouble};
pub use self::topology::{Standing, Topology};
use super::{Consumer, Depth, PublishError, Queue, QueueError};
use crate::crypto::SealedDelivery;
use crate::ops::delays::Delays;

/// lapin prints the bodies of returned messages as warnings, and at `trace` every frame: bodies, headers, and the password
/// that it logs in with. A target of its own beats the library's name, so each is named.
pub(super) const SILENT_LOG_TARGETS: &[&str] = &[
    "lapin=warn",
    "lapin::channel=warn",
    "lapin::channels=warn",
    "lapin::frames=warn",
    "lapin::internal_rpc=warn",
    "lapin::io_loop=warn",
    "lapin::returned_messages=off",
];

/// How long the other queues are consumed without one that does not answer. Trying it costs a channel, which hangs in
/// the broker until the connection ends, and holds the others up for a call.
const WITHOUT_SILENT: Duration = Duration::from_secs(30);

/// How to reach a broker and what to call things there.
#[derive(Clone)]
pub struct RabbitMqSettings {
    /// `amqp://` or `amqps://`, with user, password and vhost.
    pub url: SecretString,
    /// The exchange's name and what every queue's name starts with.
    pub prefix: String,
    /// Whose queues there are.
    pub providers: Vec<&'static str>,
    /// How long a publish waits for its confirm.
    pub confirm_timeout: Duration,
    /// How many publishes wait for their confirm at once; above it they are refused.
    pub max_in_flight: usize,
    /// What else can be asked about the queues; `None`: nothing.
    pub management: Option<Arc<Management>>,
}

/// The queue at a RabbitMQ broker.
pub struct RabbitMq {
    settings: RabbitMqSettings,
    topology: Arc<Topology>,
    publishing: Arc<Link>,
    consuming: OnceLock<Arc<Link>>,
    publisher: Publisher,
    alarm: Alarm,
    /// Shared by all consumers, so that each need not find out by itself.
    silent: Mutex<Silent>,
}

impl RabbitMq {
    /// Starts to connect and returns at once; what is published before the broker is there is refused. The consuming
    /// connection is opened by the first consumer.
    pub fn connect(settings: RabbitMqSettings) -> Arc<Self> {
        let topology = Arc::new(Topology::new(settings.prefix.clone(), &settings.providers));
        let alarm = Alarm::default();
        let publishing = Link::start("publish", settings.url.clone(), Arc::clone(&topology), Arc::clone(&alarm));
        let publisher = Publisher::start(
            Arc::clone(&publishing),
            topology.exchange(),
            settings.confirm_timeout,
            settings.max_in_flight,
        );
        Arc::new(Self {
            settings,
            topology,
            publishing,
            consuming: OnceLock::new(),
            publisher,
            alarm,
            silent: Mutex::default(),
        })
    }

    /// Waits until the broker is there and everything is declared; [`QueueError::Gone`] if that takes longer.
    pub async fn ready(&self, within: Duration) -> Result<(), QueueError> {
        let ready = async {
            self.publishing.wait().await?;
            self.publisher.open().await;
            Ok(())
        };
        timeout(within, ready).await.unwrap_or(Err(QueueError::Gone))
    }

    /// Completes, with a sentence for a person, when the broker said something that no reconnect mends. Then nothing is
    /// published or consumed any more, and the process should end loudly.
    pub async fn stopped(&self) -> String {
        let mut alarm = self.alarm.subscribe();
        // The guard must not live across an await, so that callers can be spawned.
        let stopped = alarm.wait_for(Option::is_some).await.map(|sentence| sentence.as_deref().map(str::to_owned));
        stopped.ok().flatten().unwrap_or_default()
    }

    /// Declares the topology once, for the command; every error is a sentence.
    pub async fn apply_topology(settings: &RabbitMqSettings) -> Result<(), QueueError> {
        let topology = Topology::new(settings.prefix.clone(), &settings.providers);
        let connection = connect_once(&settings.url).await.map_err(told)?;
        let declared = topology.declare(&connection).await;
        goodbye(&connection).await;
        declared.map_err(told)
    }

    /// Which parts of the topology the broker has, for the command; every error is a sentence.
    pub async fn show_topology(settings: &RabbitMqSettings) -> Result<Vec<Standing>, QueueError> {
        let topology = Topology::new(settings.prefix.clone(), &settings.providers);
        let connection = connect_once(&settings.url).await.map_err(told)?;
        let seen = topology.inspect(&connection).await;
        goodbye(&connection).await;
        seen.map_err(told)
    }

    /// Looks at the broker through its management API, for the command; `None` where that is not configured.
    pub async fn inspect(settings: &RabbitMqSettings) -> Option<Result<Inspection, String>> {
        let topology = Topology::new(settings.prefix.clone(), &settings.providers);
        Some(settings.management.as_ref()?.inspect(&topology).await)
    }

    /// Which queues are left alone now.
    fn silent(&self) -> Silent {
        let mut silent = self.lock_silent();
        silent.retain(|_, until| *until > Instant::now());
        silent.clone()
    }

    fn lock_silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn consuming(&self) -> &Arc<Link> {
        self.consuming.get_or_init(|| {
            let (url, topology) = (self.settings.url.clone(), Arc::clone(&self.topology));
            Link::start("consume", url, topology, Arc::clone(&self.alarm))
        })
    }
}

fn told(trouble: Trouble) -> QueueError {
    QueueError::Fatal(trouble.sentence().to_owned())
}

async fn goodbye(connection: &Connection) {
    let _ = timeout(CALL_TIMEOUT, connection.close(200, "done".into())).await;
}

#[async_trait]
impl Queue for RabbitMq {
    async fn publish(&self, delivery: SealedDelivery) -> Result<(), PublishError> {
        self.publisher.publish(delivery).await
    }

    async fn stopped(&self) -> String {
        RabbitMq::stopped(self).await
    }

    fn accepts(&self) -> Result<(), PublishError> {
        self.publisher.accepts()
    }

    async fn consume(&self, prefetch: u16, rank: u16) -> Result<Box<dyn Consumer>, QueueError> {
        let link = self.consuming();
        let mut delays = Delays::new(Duration::from_millis(100), Duration::from_secs(3));
        loop {
            let session = link.wait().await?;
            let silent = self.silent();
            match RabbitConsumer::open(Arc::clone(link), session, &self.topology, prefetch, rank, &silent).await {
                Ok(consumer) => return Ok(Box::new(consumer)),
                Err(NotOpened::Trouble(Trouble::Standing { sentence, .. })) => {
                    link.stop(&sentence);
                    return Err(QueueError::Fatal(sentence));
                }
                Err(NotOpened::Trouble(trouble)) => warn!("{}", trouble.sentence()),
                Err(NotOpened::Silent(queue)) => {
                    warn!(
                        "queue {queue} does not answer: it is tried again in 30 s, the others are consumed meanwhile"
                    );
                    self.lock_silent().insert(queue, Instant::now() + WITHOUT_SILENT);
                    continue;
                }
            }
            tokio::time::sleep(delays.after_failure()).await;
        }
    }

    async fn depths(&self) -> Result<Vec<Depth>, QueueError> {
        // The consuming connection is never blocked by an alarm; a receiver alone has none.
        let session = match self.consuming.get().and_then(|link| link.session()) {
            Some(session) => session,
            None => self.publishing.session().ok_or(QueueError::Gone)?,
        };
        if session.blocked() {
            // Nothing is written: each try would leave a channel behind that opens when the alarm ends.
            return Err(QueueError::Gone);
        }
        let management = self.settings.management.as_deref();
        let known = async { management?.known().await };
        let (depths, known) = tokio::join!(depths(&session, &self.topology), known);
        let mut depths = depths?;
        Management::complete(&mut depths, known);
        Ok(depths)
    }

    async fn close(&self) {
        self.publisher.drain().await;
        self.publishing.close().await;
        if let Some(link) = self.consuming.get() {
            link.close().await;
        }
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.publishing.let_go();
        if let Some(link) = self.consuming.get() {
            link.let_go();
        }
    }
}

/// Passive declares, on a channel of their own because a 404 closes it.
async fn depths(session: &Session, topology: &Topology) -> Result<Vec<Depth>, Trouble> {
    let channel = session.channel().await?;
    let mut depths = Vec::new();
    for queue in topology.queues() {
        let (ready, consumers) = topology::count(&channel, &queue.name).await?;
        // A passive declare does not say what consumers hold; only the management API does.
        depths.push(Depth { queue: queue.name, ready, consumers: Some(consumers), ..Depth::default() });
    }
    refusal::call("close a channel", channel.close(200, "done".into())).await?;
    Ok(depths)
}
