//! What operators and the product's back end ask and do: the decisions behind `/v1`, the dashboard and the commands of
//! the same names.
//!
//! Law: nothing that is sealed leaves here but to a reader who may have it and says why, and every act leaves an audit
//! line with who, what and why. A question waits for its turn, because the database belongs to the workers first, and
//! never longer than its time. Where next: `console/events.rs`; callers are `http/api` and `cli`.

pub mod acts;
pub mod audit;
pub mod cursor;
pub mod events;
pub mod people;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::read::Desk;
use super::watch::Watch;
use crate::crypto::UrlKeys;
use crate::domain::Timestamp;
use crate::queue::Queue;
use crate::store::{Store, StoreError, StoreTrouble, Vault};

/// How many questions are with the database at once: of the connections that are there besides the workers' own
/// (`store::open`), one stays free for sweeps and health.
const TURNS: usize = 3;
/// How long a question waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// How long the database may take for one question; PostgreSQL's own limit for a statement is 20 s.
const ANSWER_PATIENCE: Duration = Duration::from_secs(15);

/// What is said of somebody who was forgotten.
const FORGOTTEN: &str = "the user was forgotten: `finhook forget --lift` takes them again";

/// Why there is no answer. Holds nothing of what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// This process has no database: it only receives, and none is configured for it.
    #[error("this process has no database: ask one that works")]
    NoStore,
    /// Too many ask at once.
    #[error("too many questions at once")]
    Busy,
    /// The database does not answer, or not in time.
    #[error("the database does not answer")]
    Away,
    /// The queue takes nothing.
    #[error("the queue takes nothing")]
    QueueAway,
    /// It cannot be done as things are, and why.
    #[error("{0}")]
    Conflict(&'static str),
    /// What it is about is not there, and what that is.
    #[error("{0}")]
    NotThere(&'static str),
    /// What is stored sealed does not open.
    #[error("a sealed value does not open: is its key in FINHOOK_KEYS?")]
    Unopenable,
    /// A defect of ours, or a database that is not as it should be: the log has it.
    #[error("it failed: the log says why")]
    Failed,
}

/// What answers.
pub struct Console {
    store: Option<Arc<dyn Store>>,
    desk: Arc<Desk>,
    vault: Arc<Vault>,
    queue: Option<Arc<dyn Queue>>,
    url_keys: Option<Arc<UrlKeys>>,
    create_users: bool,
    watch: Arc<Watch>,
    stop: CancellationToken,
    turns: Semaphore,
}

/// What a console is made from.
pub struct Parts {
    /// The tables; `None` in a process that has none.
    pub store: Option<Arc<dyn Store>>,
    /// What opens and reads.
    pub desk: Arc<Desk>,
    /// What seals.
    pub vault: Arc<Vault>,
    /// Where replayed events are published for the workers; `None` applies them here.
    pub queue: Option<Arc<dyn Queue>>,
    /// What mints webhook URLs; `None` if they are off.
    pub url_keys: Option<Arc<UrlKeys>>,
    /// Whether a link may create its user.
    pub create_users: bool,
    /// What this process sees of queues and tables.
    pub watch: Arc<Watch>,
    /// Ends what takes long.
    pub stop: CancellationToken,
}

impl Console {
    /// Puts it together.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { store, desk, vault, queue, url_keys, create_users, watch, stop } = parts;
        let turns = Semaphore::new(TURNS);
        Arc::new(Self { store, desk, vault, queue, url_keys, create_users, watch, stop, turns })
    }

    /// What this process sees, taken by one observer for everybody: it waits for nothing.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.desk.now()
    }

    fn store(&self) -> Result<&Arc<dyn Store>, Trouble> {
        self.store.as_ref().ok_or(Trouble::NoStore)
    }

    /// One question to the database, in its turn and within its time.
    async fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, Trouble> {
        let _turn = self.turn().await?;
        self.timed(question).await
    }

    /// A turn with the database, until it is dropped.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Trouble> {
        let turn = tokio::time::timeout(TURN_PATIENCE, self.turns.acquire()).await;
        turn.map_err(|_| Trouble::Busy)?.map_err(|_| Trouble::Busy)
    }

    /// One question within its time, for whoever has the turn.
    async fn timed<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, Trouble> {
        match tokio::time::timeout(ANSWER_PATIENCE, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(trouble(&error)),
            Err(_) => {
                tracing::warn!("a question to the database took too long");
                Err(Trouble::Away)
            }
        }
    }
}

/// Logged here, because here it is handled: who asked is told the kind and no more.
fn trouble(error: &StoreError) -> Trouble {
    if error.trouble == StoreTrouble::Forgotten {
        Trouble::Conflict(FORGOTTEN)
    } else if error.is_transient() {
        tracing::warn!(error = %error, "a question to the database failed");
        Trouble::Away
    } else {
        tracing::error!(error = %error, "a question to the database failed for good");
        Trouble::Failed
    }
}
