//! The embedded queue: a durable log in one SQLite file with group commit, for one process.
//!
//! ```text
//! publish ─▶ bounded channel ─▶ writer: one transaction for all that waits ─▶ committed ─▶ Ok
//!                                  ▲ deletes ride along                          │
//! ack ─▶ settled ─────────────────┘                             handout ◀────────┤ as long as it has room,
//! consumers ◀── each message to one of them ─────────────────────┘ ◀── reader ◀──┘ from disk by number otherwise
//! ```
//!
//! Law: `Ok` from publish means committed with `synchronous = FULL`. What is handed out stays in the file until its delete
//! is committed; after a restart everything that stands in the file is handed out again. A delete may come late (a crash
//! then repeats a delivery, which deduplication absorbs), but before `close` returns.

mod consumer;
mod handout;
mod keys;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Row};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(super) use self::consumer::{EmbeddedConsumer, Stored};
use self::handout::Handout;
pub use self::keys::{Stored as StoredKeys, stored_keys};
use self::writer::{Request, Settlements, Writer};
use super::{Consumer, Depth, PublishError, Queue, QueueError};
use crate::crypto::SealedDelivery;

/// What queue names start with, as on a broker.
const PREFIX: &str = "finhook";

/// The file's layout. It is a log and not a schema of the product: another number is refused, not migrated.
const LAYOUT: i64 = 1;

/// How long a publish waits for its commit: a disk that takes longer is as good as away.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long SQLite waits for a lock. Nobody else should hold one: the lock file keeps other processes of ours out.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);

/// Where the log is and how much it may take.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// The SQLite file; beside it stand its journal and `….lock`.
    pub path: PathBuf,
    /// Most bytes of messages that are not settled; above it publishes are refused. `None`: as much as the disk holds.
    pub max_bytes: Option<u64>,
    /// How many publishes wait for their commit at once; above it they are refused.
    pub max_in_flight: usize,
    /// Whose queues are told of before they had a message.
    pub providers: Vec<&'static str>,
}

/// The embedded queue.
pub struct Embedded {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    handout: Arc<Handout>,
    settlements: Arc<Settlements>,
    closing: CancellationToken,
    /// One of our tasks panicked: nothing can be relied on any more.
    broken: CancellationToken,
    writer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens or makes the file; refused with a sentence while another process has it open.
    pub async fn open(settings: EmbeddedSettings) -> Result<Arc<Self>, QueueError> {
        let taken = format!(
            "the queue file {} is open in another finhook process; the embedded queue serves one process at a time. Stop \
             the other one, or set AMQP_URL to share a broker",
            settings.path.display()
        );
        Self::open_if_free(settings).await?.ok_or(QueueError::Fatal(taken))
    }

    /// Opens or makes the file; `None` while another process has it open.
    pub(super) async fn open_if_free(settings: EmbeddedSettings) -> Result<Option<Arc<Self>>, QueueError> {
        let Some(lock) = lock(&settings.path)? else { return Ok(None) };
        let options = options(&settings.path);
        let mut connection = prepare(&options, &settings.path).await?;
        let handout = Arc::new(stored(&mut connection, &settings).await.map_err(storage)?);
        // Few rows ahead of the one that is looked at: they can be 1 MiB each.
        let reader = options.clone().read_only(true).row_buffer_size(4).connect().await.map_err(storage)?;

        let settlements = Arc::new(Settlements::default());
        let closing = CancellationToken::new();
        let (requests, waiting) = mpsc::channel(settings.max_in_flight.max(1));
        let writer = Writer::new(options, connection, Arc::clone(&handout), Arc::clone(&settlements));
        let broken = CancellationToken::new();
        let writer = tokio::spawn(until_broken(broken.clone(), async move {
            writer.run(waiting).await;
            // Only now may another process have the file.
            drop(lock);
        }));
        let reading = handout::read_ahead(Arc::clone(&handout), reader, closing.clone());
        tokio::spawn(until_broken(broken.clone(), reading));
        Ok(Some(Arc::new(Self {
            requests: Mutex::new(Some(requests)),
            handout,
            settlements,
            closing,
            broken,
            writer: tokio::sync::Mutex::new(Some(writer)),
        })))
    }

    /// A consumer that knows the whole rows.
    pub(super) fn stored(&self, prefetch: u16) -> EmbeddedConsumer {
        EmbeddedConsumer::new(Arc::clone(&self.handout), Arc::clone(&self.settlements), prefetch)
    }

    /// What stands in the file, also while another process has it open: of these providers, and of any other that has some.
    pub async fn look(path: &Path, providers: &[&str]) -> Result<Vec<Depth>, QueueError> {
        let mut ready: BTreeMap<String, u64> = providers.iter().map(|provider| ((*provider).to_owned(), 0)).collect();
        if path.exists() {
            let options = options(path).create_if_missing(false).read_only(true);
            let mut connection = options.connect().await.map_err(storage)?;
            let counts = counts(&mut connection, 0).await.map_err(storage)?;
            ready.extend(counts.into_iter().map(|(provider, count, _)| (provider, count)));
        }
        let depth =
            |(provider, ready): (String, u64)| Depth { queue: queue_name(&provider), ready, ..Depth::default() };
        Ok(ready.into_iter().map(depth).collect())
    }

    fn requests(&self) -> Option<mpsc::Sender<Request>> {
        self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

#[async_trait]
impl Queue for Embedded {
    async fn publish(&self, delivery: SealedDelivery) -> Result<(), PublishError> {
        let requests = self.requests().ok_or(PublishError::Disconnected)?;
        let slot = requests.try_reserve_owned().map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::Full,
            mpsc::error::TrySendError::Closed(_) => PublishError::Disconnected,
        })?;
        if !self.handout.reserve(delivery.message.as_bytes().len()) {
            return Err(PublishError::Full);
        }
        let (answer, committed) = oneshot::channel();
        slot.send(Request { delivery, answer });
        match timeout(COMMIT_TIMEOUT, committed).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(PublishError::Storage),
            Err(_) => Err(PublishError::Timeout),
        }
    }

    fn accepts(&self) -> Result<(), PublishError> {
        match self.requests() {
            None => Err(PublishError::Disconnected),
            Some(_) if self.broken.is_cancelled() => Err(PublishError::Storage),
            Some(requests) if requests.capacity() == 0 || self.handout.full() => Err(PublishError::Full),
            Some(_) => Ok(()),
        }
    }

    async fn consume(&self, prefetch: u16, _rank: u16) -> Result<Box<dyn Consumer>, QueueError> {
        if self.closing.is_cancelled() {
            return Err(QueueError::Gone);
        }
        Ok(Box::new(self.stored(prefetch)))
    }

    async fn depths(&self) -> Result<Vec<Depth>, QueueError> {
        Ok(self.handout.depths())
    }

    async fn stopped(&self) -> String {
        self.broken.cancelled().await;
        "a task of the embedded queue panicked: this is a defect of finhook. What is in the file is safe".to_owned()
    }

    async fn close(&self) {
        self.closing.cancel();
        self.handout.close();
        // Without a sender the writer commits what waits, and ends.
        drop(self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take());
        if let Some(writer) = self.writer.lock().await.take() {
            let _ = timeout(COMMIT_TIMEOUT, writer).await;
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.closing.cancel();
        self.handout.close();
    }
}

/// Runs a task; a panic in it is told, so that the process ends loudly instead of taking what nobody works off.
async fn until_broken(broken: CancellationToken, task: impl Future<Output = ()>) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        broken.cancel();
    }
}

/// The name that a provider's queue would have on a broker.
fn queue_name(provider: &str) -> String {
    format!("{PREFIX}.{provider}")
}

fn storage(error: sqlx::Error) -> QueueError {
    QueueError::Storage(error.to_string())
}

/// Whether another process has the queue file open.
pub fn is_in_use(path: &Path) -> Result<bool, QueueError> {
    lock(path).map(|lock| lock.is_none())
}

/// Locks `….lock` beside the file for as long as the handle lives; `None` while another process does. SQLite itself would
/// let a second process in.
fn lock(path: &Path) -> Result<Option<File>, QueueError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&name).map_err(|error| {
            QueueError::Fatal(format!("cannot write beside the queue file {}: {error}", path.display()))
        })?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(QueueError::Fatal(format!("cannot lock the queue file {}: {error}", path.display())))
        }
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        // Readers and the writer do not wait for each other, and a commit is one sequential write and one fsync.
        .journal_mode(SqliteJournalMode::Wal)
        // In WAL mode NORMAL would not sync each commit: a power cut would take back what was answered with 200.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        // A statement that waits 1 s for a disk is the log's business once, not a warning with its SQL for each.
        .disable_statement_logging()
}

async fn prepare(options: &SqliteConnectOptions, path: &Path) -> Result<SqliteConnection, QueueError> {
    // Made before SQLite makes it, which would let others read it; its journal gets the same mode.
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(|error| {
        QueueError::Fatal(format!("cannot make the queue file {}: {}", path.display(), error.kind()))
    })?;
    let mut connection = options.connect().await.map_err(storage)?;
    let layout: i64 = sqlx::query_scalar("pragma user_version").fetch_one(&mut connection).await.map_err(storage)?;
    if layout != 0 && layout != LAYOUT {
        return Err(QueueError::Fatal(format!(
            "the queue file {} was written by another version of finhook (layout {layout}, this one reads {LAYOUT}): let that \
             version work it off, or move the file away",
            path.display()
        )));
    }
    sqlx::raw_sql(
        "create table if not exists message (
            seq integer primary key,
            id blob not null,
            provider text not null,
            received_at integer not null,
            traceparent text,
            message blob not null
        );
        pragma user_version = 1;",
    )
    .execute(&mut connection)
    .await
    .map_err(storage)?;
    Ok(connection)
}

/// What stands in the file from before.
async fn stored(connection: &mut SqliteConnection, settings: &EmbeddedSettings) -> Result<Handout, sqlx::Error> {
    let last: i64 = sqlx::query_scalar("select coalesce(max(seq), 0) from message").fetch_one(&mut *connection).await?;
    let handout = Handout::new(settings.max_bytes, &settings.providers);
    handout.found(last, counts(connection, 0).await?);
    Ok(handout)
}

/// For each provider, how many messages of how many bytes stand above `seq`.
async fn counts(connection: &mut SqliteConnection, seq: i64) -> Result<Vec<(String, u64, u64)>, sqlx::Error> {
    let sql = "select provider, count(*), sum(length(message)) from message where seq > ? group by provider";
    let rows = sqlx::query(sql).bind(seq).fetch_all(connection).await?;
    let number = |row: &SqliteRow, index: usize| row.try_get::<i64, _>(index).map(i64::unsigned_abs);
    rows.iter().map(|row| Ok((row.try_get(0)?, number(row, 1)?, number(row, 2)?))).collect()
}
