//! The one writer: everything that waits becomes one transaction, and one fsync.
//!
//! Law: an answer goes out only after the commit that it speaks of. A transaction that fails takes nothing with it: its
//! publishes are refused, its deletes wait for the next one.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{error, info};

use super::handout::{Handout, Item};
use crate::crypto::SealedDelivery;
use crate::queue::PublishError;

/// Most rows of a transaction.
const GROUP: usize = 1_024;

/// How long deletes wait for a publish to share its fsync with.
const SETTLE_DELAY: Duration = Duration::from_millis(20);

/// Rows of one insert statement. A few fixed lengths, so that each is prepared once.
const LENGTHS: [usize; 4] = [64, 16, 4, 1];

static INSERTS: LazyLock<[Texts; LENGTHS.len()]> = LazyLock::new(|| {
    LENGTHS.map(|rows| {
        let values = vec!["(?, ?, ?, ?, ?, ?)"; rows].join(", ");
        Texts::of(&format!(
            "insert into message (seq, id, provider, received_at, traceparent, message) values {values}"
        ))
    })
});

static DELETE: LazyLock<Texts> =
    LazyLock::new(|| Texts::of("delete from message where seq in (select value from json_each(?))"));

/// A statement by itself, and with the begin and the commit of its transaction around it: each text is one way to the
/// thread of the connection and back. Immediate: a transaction that reads first and writes then could be refused half way.
struct Texts([[Arc<str>; 2]; 2]);

impl Texts {
    fn of(statement: &str) -> Self {
        Self(
            ["", "begin immediate; "]
                .map(|begin| ["", "; commit"].map(|commit| Arc::from(format!("{begin}{statement}{commit}")))),
        )
    }

    fn text(&self, first: bool, last: bool) -> AssertSqlSafe<Arc<str>> {
        let [[alone, ends], [begins, whole]] = &self.0;
        AssertSqlSafe(Arc::clone(match (first, last) {
            (false, false) => alone,
            (false, true) => ends,
            (true, false) => begins,
            (true, true) => whole,
        }))
    }
}

/// A publish that waits for its commit.
pub(super) struct Request {
    pub(super) delivery: SealedDelivery,
    pub(super) answer: oneshot::Sender<Result<(), PublishError>>,
}

/// What consumers settled and is not deleted yet.
pub(super) struct Settlements {
    waiting: Mutex<Vec<i64>>,
    due: Notify,
    /// Who waits for the next transaction; `None` once there will be none.
    flushes: Mutex<Option<Vec<oneshot::Sender<()>>>>,
    flush: Notify,
}

impl Default for Settlements {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            due: Notify::new(),
            flushes: Mutex::new(Some(Vec::new())),
            flush: Notify::new(),
        }
    }
}

impl Settlements {
    /// Has messages deleted, soon.
    pub(super) fn add(&self, seqs: impl Iterator<Item = i64>) {
        locked(&self.waiting).extend(seqs);
        self.due.notify_one();
    }

    /// Waits until everything settled so far is deleted, or cannot be.
    pub(super) async fn flush(&self) {
        let (done, deleted) = oneshot::channel();
        match &mut *locked(&self.flushes) {
            Some(flushes) => flushes.push(done),
            None => return,
        }
        self.flush.notify_one();
        // An error means that the writer ended, which it does only after a last transaction.
        let _ = deleted.await;
    }

    async fn wanted(&self) {
        tokio::select! {
            () = self.flush.notified() => {}
            () = async { self.due.notified().await; tokio::time::sleep(SETTLE_DELAY).await } => {}
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The writer's connection and what it tells of its commits.
pub(super) struct Writer {
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
    handout: Arc<Handout>,
    settlements: Arc<Settlements>,
    next: i64,
    failing: bool,
}

impl Writer {
    pub(super) fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        handout: Arc<Handout>,
        settlements: Arc<Settlements>,
    ) -> Self {
        let next = handout.last() + 1;
        Self { options, connection: Some(connection), handout, settlements, next, failing: false }
    }

    /// Writes until all senders are gone and everything is written.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut group = Vec::with_capacity(GROUP);
        let mut open = true;
        while open {
            tokio::select! {
                count = requests.recv_many(&mut group, GROUP) => open = count > 0,
                () = self.settlements.wanted() => {}
            }
            // Whoever asks for a flush settled before: taken in this order, the flush covers it.
            let flushes = locked(&self.settlements.flushes).as_mut().map(std::mem::take).unwrap_or_default();
            let settled = std::mem::take(&mut *locked(&self.settlements.waiting));
            self.commit(std::mem::take(&mut group), settled).await;
            flushes.into_iter().for_each(|flush| flush.send(()).unwrap_or_default());
        }
        drop(locked(&self.settlements.flushes).take());
        if let Some(connection) = self.connection {
            let _ = sqlx::Connection::close(connection).await;
        }
    }

    async fn commit(&mut self, group: Vec<Request>, settled: Vec<i64>) {
        if group.is_empty() && settled.is_empty() {
            return;
        }
        match self.transact(&group, &settled).await {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    info!("the queue file can be written again");
                }
                let first = self.next;
                self.next += group.len() as i64;
                let (deliveries, answers): (Vec<_>, Vec<_>) =
                    group.into_iter().map(|request| (request.delivery, request.answer)).unzip();
                let items = (first..).zip(deliveries).map(|(seq, delivery)| Item {
                    seq,
                    provider: Arc::from(delivery.provider.as_str()),
                    received_at: delivery.received_at.micros(),
                    body: delivery.message.bytes(),
                    traceparent: delivery.traceparent,
                    redeliveries: 0,
                });
                self.handout.committed(items.collect());
                for answer in answers {
                    let _ = answer.send(Ok(()));
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    error!("the queue file cannot be written, publishes are refused: {error}");
                }
                for Request { delivery, answer } in group {
                    self.handout.release(delivery.message.as_bytes().len());
                    let _ = answer.send(Err(PublishError::Storage));
                }
                self.settlements.add(settled.into_iter());
            }
        }
    }

    async fn transact(&mut self, group: &[Request], settled: &[i64]) -> Result<(), sqlx::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.reopen().await?,
        };
        let written = write(&mut connection, self.next, group, settled).await;
        if written.is_ok() || sqlx::query("rollback").execute(&mut connection).await.is_ok() {
            self.connection = Some(connection);
        }
        // Otherwise nobody knows in what state the connection is: the next transaction opens a new one.
        written
    }

    /// Opens the file again after a failure. The transaction that failed may be in it all the same, if the disk failed
    /// after the write: then its messages are taken over, for their numbers are used up.
    async fn reopen(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        let last: i64 =
            sqlx::query_scalar("select coalesce(max(seq), 0) from message").fetch_one(&mut connection).await?;
        if last >= self.next {
            let counts = super::counts(&mut connection, self.next - 1).await?;
            self.handout.found(last, counts);
            self.next = last + 1;
        }
        Ok(connection)
    }
}

async fn write(
    connection: &mut SqliteConnection,
    first: i64,
    group: &[Request],
    settled: &[i64],
) -> Result<(), sqlx::Error> {
    let (mut rest, mut seq, mut begun) = (group, first, false);
    for (rows, texts) in LENGTHS.into_iter().zip(INSERTS.iter()) {
        while rest.len() >= rows {
            let (now, later) = rest.split_at(rows);
            let last = later.is_empty() && settled.is_empty();
            let mut insert = sqlx::query(texts.text(!begun, last));
            for Request { delivery, .. } in now {
                insert = insert
                    .bind(seq)
                    .bind(delivery.id.as_bytes().to_vec())
                    .bind(delivery.provider.as_str())
                    .bind(delivery.received_at.micros())
                    .bind(delivery.traceparent.as_deref())
                    .bind(Vec::from(delivery.message.bytes()));
                seq += 1;
            }
            insert.execute(&mut *connection).await?;
            (rest, begun) = (later, true);
        }
    }
    if !settled.is_empty() {
        let seqs = settled.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let delete = sqlx::query(DELETE.text(!begun, true)).bind(format!("[{seqs}]"));
        delete.execute(connection).await?;
    }
    Ok(())
}
