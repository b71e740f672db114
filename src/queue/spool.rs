//! The spool: the embedded log before a broker, which takes what the broker does not, until the broker takes it again.
//!
//! ```text
//! publish ─▶ broker ── confirmed ──────────────────────────────────────────▶ Ok
//!              │ away, blocked, full, nacked, returned, silent for too long
//!              └──▶ log ── fsynced ────────────────────────────────────────▶ Ok
//!                    │ no room, no disk ───▶ what the broker said              forwarder: log ─▶ broker ─▶ confirmed ─▶ deleted
//! ```
//!
//! Law: a delivery leaves the log only after the broker's confirm. What was sent and not confirmed may be there all the
//! same, and whoever dies between confirm and delete repeats it: deliveries come twice then, and count once. They come in
//! any order, which nothing depends on. Where next: `forwarder.rs`.

mod forwarder;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::forwarder::Forwarder;
use super::embedded::{Embedded, EmbeddedSettings, StoredKeys, stored_keys};
use super::{Consumer, Depth, PublishError, Queue, QueueError};
use crate::crypto::SealedDelivery;

/// How many stored deliveries wait for their confirm at once: enough to keep the publisher's channels busy. A broker
/// behind a spool has to have that much room beside what senders are given.
pub const FORWARDED_AT_ONCE: usize = 256;

/// How long a delivery waits for the broker before it goes to the disk instead. Far above what a confirm takes, and short
/// enough that a broker that falls silent does not fill the receiver up with what waits for it.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The spool's row among the queues.
const NAME: &str = "spool";

/// Where the spool is and how much it may take.
#[derive(Debug, Clone)]
pub struct SpoolSettings {
    /// The SQLite file, or a folder for it, on a disk that outlives the process.
    pub path: PathBuf,
    /// Most bytes of deliveries in it; above it senders get what the broker says.
    pub max_bytes: u64,
    /// How many deliveries wait for the disk at once.
    pub max_in_flight: usize,
    /// Whose deliveries there can be.
    pub providers: Vec<&'static str>,
    /// How long a delivery waits for the broker.
    pub patience: Duration,
}

/// A broker with a spool before it.
pub struct Spool {
    broker: Arc<dyn Queue>,
    log: Arc<Embedded>,
    weather: Arc<Weather>,
    patience: Duration,
    stop: CancellationToken,
    forwarder: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What is known of the broker, shared with the forwarder.
#[derive(Default)]
struct Weather {
    /// It did not confirm in time and has confirmed nothing since: nobody else is made to wait for it.
    silent: AtomicBool,
    /// Deliveries go to the disk.
    spooling: AtomicBool,
}

impl Weather {
    fn confirmed(&self) {
        self.silent.store(false, Ordering::Relaxed);
    }

    fn spooled(&self, why: PublishError) {
        if !self.spooling.swap(true, Ordering::Relaxed) {
            warn!("{why}: deliveries go to the spool");
        }
    }

    fn emptied(&self) {
        if self.spooling.swap(false, Ordering::Relaxed) {
            info!("everything in the spool is forwarded");
        }
    }
}

/// What stands in a spool's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// There is no file yet.
    Absent,
    /// A running process has it open.
    InUse,
    /// So many deliveries wait to be forwarded.
    Waiting(u64),
}

impl Spool {
    /// Puts a spool before a broker, and starts to forward what stands in it from before.
    pub async fn open(broker: Arc<dyn Queue>, settings: SpoolSettings) -> Result<Arc<Self>, QueueError> {
        let path = file(&settings.path)?;
        let taken = format!(
            "the spool {} is open in another finhook process: every receiver needs one of its own (FINHOOK_SPOOL)",
            path.display()
        );
        let embedded = embedded(path, &settings);
        let log = Embedded::open_if_free(embedded).await?.ok_or(QueueError::Fatal(taken))?;
        let weather = Arc::new(Weather::default());
        let stop = CancellationToken::new();
        let forwarder = Forwarder {
            broker: Arc::clone(&broker),
            log: Arc::clone(&log),
            weather: Arc::clone(&weather),
            providers: settings.providers,
            stop: stop.clone(),
        };
        let forwarder = tokio::sync::Mutex::new(Some(tokio::spawn(forwarder.run())));
        Ok(Arc::new(Self { broker, log, weather, patience: settings.patience, stop, forwarder }))
    }

    /// Looks at a spool without making one, for the command.
    pub async fn look(settings: &SpoolSettings) -> Result<(PathBuf, Contents), QueueError> {
        let path = file(&settings.path)?;
        if !path.exists() {
            return Ok((path, Contents::Absent));
        }
        let Some(log) = Embedded::open_if_free(embedded(path.clone(), settings)).await? else {
            return Ok((path, Contents::InUse));
        };
        let waiting = waiting(&log).await;
        log.close().await;
        Ok((path, Contents::Waiting(waiting)))
    }

    /// How much stands in a spool, also while a receiver has it open, for the command; `None` if there is none yet.
    pub async fn depth(settings: &SpoolSettings) -> Result<Option<Depth>, QueueError> {
        let path = file(&settings.path)?;
        if !path.exists() {
            return Ok(None);
        }
        let known = |depth| Depth { unacked: None, in_per_second: None, out_per_second: None, ..depth };
        Ok(Some(known(together(&Embedded::look(&path, &[]).await?))))
    }

    /// Under which keys the deliveries in a spool are, also while a receiver has it open.
    pub async fn stored_keys(settings: &SpoolSettings) -> Result<StoredKeys, QueueError> {
        stored_keys(&file(&settings.path)?).await
    }

    /// Hands a delivery to the broker, and notes what that says of it.
    async fn send(&self, delivery: &SealedDelivery) -> Result<(), PublishError> {
        let sent = timeout(self.patience, self.broker.publish(delivery.clone())).await;
        let sent = sent.unwrap_or(Err(PublishError::Timeout));
        match sent {
            Ok(()) => self.weather.confirmed(),
            // The forwarder, which has this one to send then, finds out when that changes.
            Err(PublishError::Timeout) => self.weather.silent.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
        sent
    }
}

#[async_trait]
impl Queue for Spool {
    async fn publish(&self, delivery: SealedDelivery) -> Result<(), PublishError> {
        let silent = self.weather.silent.load(Ordering::Relaxed);
        let sent = match self.broker.accepts() {
            Ok(()) if silent => Err(PublishError::Timeout),
            Ok(()) => self.send(&delivery).await,
            away => away,
        };
        let Err(why) = sent else { return Ok(()) };
        self.weather.spooled(why);
        match self.log.publish(delivery.clone()).await {
            Ok(()) => Ok(()),
            // A log that takes nothing may have nothing to find out with that the broker speaks again.
            Err(_) if silent && self.broker.accepts().is_ok() => self.send(&delivery).await,
            Err(_) => Err(why),
        }
    }

    fn accepts(&self) -> Result<(), PublishError> {
        self.broker.accepts().or_else(|why| self.log.accepts().map_err(|_| why))
    }

    async fn consume(&self, prefetch: u16, rank: u16) -> Result<Box<dyn Consumer>, QueueError> {
        self.broker.consume(prefetch, rank).await
    }

    /// While the broker is away, the spool's row alone: that is when it matters.
    async fn depths(&self) -> Result<Vec<Depth>, QueueError> {
        let mut depths = match self.broker.depths().await {
            Err(QueueError::Gone) => Vec::new(),
            depths => depths?,
        };
        depths.push(together(&self.log.depths().await?));
        Ok(depths)
    }

    async fn stopped(&self) -> String {
        tokio::select! {
            sentence = self.broker.stopped() => sentence,
            sentence = self.log.stopped() => sentence,
        }
    }

    async fn close(&self) {
        self.stop.cancel();
        if let Some(forwarder) = self.forwarder.lock().await.take() {
            let _ = forwarder.await;
        }
        self.broker.close().await;
        self.log.close().await;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn embedded(path: PathBuf, settings: &SpoolSettings) -> EmbeddedSettings {
    EmbeddedSettings {
        path,
        max_bytes: Some(settings.max_bytes),
        max_in_flight: settings.max_in_flight,
        providers: settings.providers.clone(),
    }
}

/// How many deliveries stand in the log.
async fn waiting(log: &Embedded) -> u64 {
    let depth = together(&log.depths().await.unwrap_or_default());
    depth.ready + depth.unacked.unwrap_or(0)
}

/// The log's rows as one: it is forwarded as a whole, and by one forwarder, which is nobody's consumer.
fn together(depths: &[Depth]) -> Depth {
    let rate = |of: fn(&Depth) -> Option<f64>| depths.iter().map(of).sum::<Option<f64>>();
    Depth {
        queue: NAME.into(),
        ready: depths.iter().map(|depth| depth.ready).sum(),
        unacked: depths.iter().map(|depth| depth.unacked).sum(),
        consumers: None,
        in_per_second: rate(|depth| depth.in_per_second),
        out_per_second: rate(|depth| depth.out_per_second),
        newest_out: depths.iter().filter_map(|depth| depth.newest_out).max(),
    }
}

/// The file that a path means. Its folder is never made: what looks like a missing folder is a disk that is not mounted.
fn file(path: &Path) -> Result<PathBuf, QueueError> {
    let is_folder = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let file = if is_folder { path.join("spool.db") } else { path.to_owned() };
    let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    if folder.is_dir() {
        return Ok(file);
    }
    Err(QueueError::Fatal(format!(
        "FINHOOK_SPOOL: the folder {} does not exist; mount or make it first, on a disk that outlives the process",
        folder.display()
    )))
}
