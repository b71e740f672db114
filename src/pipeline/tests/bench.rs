//! One database, one embedded queue, and what stands between them: a store that can be made to fail in three ways.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{Sources, Values};
use crate::crypto::{BlindIndex, KeyRing, Sealed, SealedDelivery};
use crate::domain::{Cause, ChangedRow, Delivery, Email, EventState, Proof, ProviderName, Scope, Timestamp, UserId};
use crate::pipeline::read::Desk;
use crate::pipeline::settle::Settled;
use crate::pipeline::sweep::Sweeper;
use crate::pipeline::work::{BatchSize, Worker};
use crate::providers::PROVIDERS;
use crate::queue::embedded::{Embedded, EmbeddedSettings};
use crate::queue::{Consumer, Queue};
use crate::store::audit::{AuditEntry, AuditFilter, AuditRow};
use crate::store::contract::database::{Db, Raw};
use crate::store::forget::Forgot;
use crate::store::keys::KeyBook;
use crate::store::rotation::Shelves;
use crate::store::{
    AccountView, Batch, Committed, EventCount, EventFilter, EventRow, Failed, IntegrationView, MigrationStatus,
    Pending, Progress, Reread, RowCounts, SecretUse, Store, StoreError, StoreTrouble, StoredEvent, UserView, Vault,
};

pub const UNIT: ProviderName = ProviderName::new("unit");
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// The real store with switches.
pub struct Tables {
    db: Arc<Db>,
    /// So many calls more find no database.
    pub away: AtomicUsize,
    /// A commit that carries an event of this key panics.
    pub panics_at: Mutex<Option<String>>,
    /// Not even the row of a failure can be written.
    pub refuses_failures: AtomicBool,
    /// A commit went through.
    pub committed: Notify,
}

impl Tables {
    fn is_there(&self) -> Result<(), StoreError> {
        let left = self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(StoreError { trouble: StoreTrouble::Unavailable, what: "away".to_owned() }),
            Err(_) => Ok(()),
        }
    }
}

macro_rules! passed_on {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)+) => {
        #[async_trait]
        impl Store for Tables {
            async fn commit(&self, batch: &Batch, reread: &dyn Reread) -> Result<Committed, StoreError> {
                self.is_there()?;
                let poison = self.panics_at.lock().unwrap().clone();
                let panics = |key: &str| batch.events.iter().any(|it| it.event.dedup_key.to_string() == key);
                assert!(!poison.is_some_and(|key| panics(&key)), "a defect in the commit");
                let committed = self.db.store.commit(batch, reread).await?;
                self.committed.notify_one();
                Ok(committed)
            }

            async fn set_aside(&self, failed: &[Failed]) -> Result<(), StoreError> {
                self.is_there()?;
                if self.refuses_failures.load(Ordering::SeqCst) {
                    return Err(StoreError { trouble: StoreTrouble::Failed, what: "refused".to_owned() });
                }
                self.db.store.set_aside(failed).await
            }

            async fn ping(&self) -> Result<(), StoreError> {
                self.is_there()?;
                self.db.store.ping().await
            }

            async fn close(&self) {
                self.db.store.close().await;
            }

            fn shelves(&self) -> &dyn Shelves {
                self.db.store.shelves()
            }

            fn keys(&self) -> &dyn KeyBook {
                self.db.store.keys()
            }

            $(async fn $name(&self, $($arg: $type),*) -> $answer {
                self.db.store.$name($($arg),*).await
            })+
        }
    };
}

passed_on! {
    fn take_due(now: Timestamp, lease_until: Timestamp, limit: u32) -> Result<Vec<StoredEvent>, StoreError>;
    fn linkable(after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError>;
    fn unlinked(after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError>;
    fn expire_unlinked(before: Timestamp, limit: u32) -> Result<u64, StoreError>;
    fn held(after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError>;
    fn conclude(ids: &[Uuid], from: EventState, to: EventState, reason: Cause) -> Result<Vec<Uuid>, StoreError>;
    fn events(filter: &EventFilter) -> Result<Vec<EventRow>, StoreError>;
    fn events_count(filter: &EventFilter) -> Result<u64, StoreError>;
    fn event(id: Uuid) -> Result<Option<(EventRow, Vec<u8>)>, StoreError>;
    fn accounts(user: &UserId) -> Result<Vec<AccountView>, StoreError>;
    fn user(user: &UserId) -> Result<Option<UserView>, StoreError>;
    fn integration(service: &str, external_id: &str) -> Result<Option<IntegrationView>, StoreError>;
    fn integrations(user: &UserId) -> Result<Vec<IntegrationView>, StoreError>;
    fn put_user(user: &UserId, email: Option<&Email>) -> Result<bool, StoreError>;
    fn row_counts() -> Result<RowCounts, StoreError>;
    fn event_counts() -> Result<Vec<EventCount>, StoreError>;
    fn forget(user: &UserId, entry: &AuditEntry) -> Result<Forgot, StoreError>;
    fn forget_events(limit: u32) -> Result<Option<u64>, StoreError>;
    fn forget_preview(user: &UserId) -> Result<Forgot, StoreError>;
    fn lift(user: &UserId, entry: &AuditEntry) -> Result<u64, StoreError>;
    fn is_forgotten(user: &UserId) -> Result<bool, StoreError>;
    fn wipe_payloads(before: Timestamp, limit: u32) -> Result<u64, StoreError>;
    fn delete_old_events(before: Timestamp, limit: u32) -> Result<u64, StoreError>;
    fn note_secrets(used: &[SecretUse]) -> Result<(), StoreError>;
    fn secrets_used() -> Result<Vec<SecretUse>, StoreError>;
    fn audit(entry: &AuditEntry) -> Result<(), StoreError>;
    fn audits(filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError>;
    fn pending() -> Result<Vec<Pending>, StoreError>;
    fn clock() -> Result<Option<Timestamp>, StoreError>;
    fn progress(ours: &[Progress]) -> Result<Vec<Progress>, StoreError>;
    fn take_changed(now: Timestamp, lease_until: Timestamp, limit: u32) -> Result<Vec<ChangedRow>, StoreError>;
    fn forget_changed(seqs: &[i64]) -> Result<(), StoreError>;
    fn migrations() -> Result<Vec<MigrationStatus>, StoreError>;
    fn migrate_up() -> Result<usize, StoreError>;
    fn migrate_down(target: i64) -> Result<usize, StoreError>;
}

/// A worker's half of finhook, taken step by step.
pub struct Bench {
    pub db: Arc<Db>,
    pub tables: Arc<Tables>,
    pub queue: Arc<Embedded>,
    pub stop: CancellationToken,
    _folder: TempDir,
}

/// A vault with the key ring `list`, and the tests' index key.
pub fn vault(list: &str) -> Arc<Vault> {
    let ring = KeyRing::parse(&SecretString::from(list)).unwrap();
    Arc::new(Vault { ring, index: BlindIndex::parse(&SecretString::from(KEY)).unwrap(), theirs: None })
}

/// The ring that everything is sealed with, another one, and one with both.
pub fn rings() -> [String; 3] {
    [format!("1:{KEY}"), format!("2:{OTHER_KEY}"), format!("1:{KEY},2:{OTHER_KEY}")]
}

/// One event of Unit about account `a<n>` of customer `c<n % 100>` of user `u1`, `seconds` after the tests' beginning.
pub fn about(n: usize, kind: &str, seconds: i64) -> String {
    let at = received_at().plus_seconds(seconds - 1_000);
    format!(
        r#"{{"id":"{kind}-{n}","type":"account.{kind}","attributes":{{"createdAt":"{at}","tags":{{"userId":"u1"}}}},
        "relationships":{{"account":{{"data":{{"type":"account","id":"a{n}"}}}},
        "customer":{{"data":{{"type":"customer","id":"c{}"}}}}}}}}"#,
        n % 100
    )
}

/// A body of Unit.
pub fn body(events: &[String]) -> String {
    format!(r#"{{"data":[{}]}}"#, events.join(","))
}

pub fn received_at() -> Timestamp {
    Timestamp::from_seconds(1_700_001_000).unwrap()
}

pub fn delivery(body: impl Into<Bytes>) -> Delivery {
    Delivery::assemble(Uuid::now_v7(), UNIT, received_at(), Proof::default(), Scope::Body, false, body.into())
}

impl Bench {
    pub async fn new(db: &Arc<Db>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        let queue =
            Embedded::open(EmbeddedSettings { path, max_bytes: None, max_in_flight: 64, providers: Vec::new() })
                .await
                .unwrap();
        let tables = Tables {
            db: db.clone(),
            away: AtomicUsize::new(0),
            panics_at: Mutex::default(),
            refuses_failures: AtomicBool::new(false),
            committed: Notify::new(),
        };
        let (tables, stop) = (Arc::new(tables), CancellationToken::new());
        Self { db: db.clone(), tables, queue, stop, _folder: folder }
    }

    /// A desk of the real readers with a key ring.
    pub fn desk_with(&self, ring: &str) -> Desk {
        let declared: Vec<_> = PROVIDERS.iter().map(|provider| provider.variables).collect();
        let nothing: [(&str, &str); 0] = [];
        let values = Values::load(&Sources::of(nothing), &declared).unwrap();
        Desk::new(&values, vault(ring), self.db.options.clock.clone()).unwrap()
    }

    pub fn desk(&self) -> Arc<Desk> {
        Arc::new(self.desk_with(&rings()[0]))
    }

    pub fn worker(&self, desk: Arc<Desk>) -> Worker {
        let size = BatchSize { max: 64, linger: Duration::ZERO };
        Worker::new(self.queue.clone(), self.tables.clone(), desk, size, self.stop.clone()).holding(Duration::ZERO)
    }

    pub fn sweeper(&self, desk: Arc<Desk>) -> Sweeper {
        Sweeper::new(self.tables.clone(), desk, 90, self.stop.clone())
    }

    /// Publishes deliveries, sealed with the usual ring.
    pub async fn publish(&self, bodies: impl IntoIterator<Item = String>) {
        let ring = &self.db.options.vault.ring;
        for body in bodies {
            self.queue.publish(ring.seal_delivery(&delivery(body))).await.unwrap();
        }
    }

    /// Publishes a message as it is to the queue `finhook.<queue>`.
    pub async fn publish_raw(&self, queue: &'static str, message: Bytes) {
        let (id, provider) = (Uuid::now_v7(), ProviderName::new(queue));
        let message = Sealed::for_test(message);
        let sealed = SealedDelivery { id, provider, received_at: received_at(), traceparent: None, message };
        self.queue.publish(sealed).await.unwrap();
    }

    /// How many messages stand in the queue, held ones too.
    pub async fn waiting(&self) -> u64 {
        let depths = self.queue.depths().await.unwrap();
        depths.iter().map(|depth| depth.ready + depth.unacked.unwrap_or(0)).sum()
    }

    /// Works until the queue is empty or a batch is not settled.
    pub async fn work(&self, desk: Arc<Desk>) -> Settled {
        let worker = self.worker(desk);
        let mut consumer = self.queue.consume(128, 0).await.unwrap();
        let settled = self.steps(&worker, consumer.as_mut()).await;
        consumer.close().await;
        settled
    }

    async fn steps(&self, worker: &Worker, consumer: &mut dyn Consumer) -> Settled {
        while self.waiting().await > 0 {
            let batch = consumer.next(64, Duration::ZERO).await.unwrap();
            let settled = worker.step(consumer, batch).await.unwrap();
            if settled != Settled::Done {
                return settled;
            }
        }
        Settled::Done
    }

    /// Publishes and works it off.
    pub async fn take(&self, events: &[String]) {
        self.publish([body(events)]).await;
        assert_eq!(self.work(self.desk()).await, Settled::Done);
    }

    /// The rows of all events.
    pub async fn listed(&self) -> Vec<EventRow> {
        self.db.listed().await
    }

    /// The row of one event.
    pub async fn row(&self, key: &str) -> EventRow {
        let rows = self.listed().await;
        rows.into_iter().find(|row| row.dedup_key.to_string() == key).unwrap_or_else(|| panic!("{key} has a row"))
    }

    /// State and reason of one event.
    pub async fn state(&self, key: &str) -> (&'static str, Option<String>) {
        let row = self.row(key).await;
        (row.state.as_str(), row.reason)
    }

    /// How many events there are in a state.
    pub async fn count(&self, state: EventState) -> u64 {
        self.tables.events_count(&EventFilter { state: Some(state), ..EventFilter::default() }).await.unwrap()
    }

    /// From now on the database raises for this account: an error that may pass, or one that says the value is wrong.
    pub async fn poison(&self, account: &str, refused: bool) {
        let index = hex::encode(self.db.options.vault.index.of("external_id", "unit", account));
        let sql = match &self.db.raw {
            Raw::Lite(_) => {
                // Text as a row id is a mismatch, the one way for SQLite to refuse a value.
                let raise = if refused { "insert into narrow values ('x')" } else { "select raise(abort, 'poison')" };
                format!(
                    "create table narrow (id integer primary key);
                     create trigger poison before insert on account when new.external_id_index = x'{index}'
                     begin {raise}; end"
                )
            }
            Raw::Pg(_) => {
                let code = if refused { "22023" } else { "P0001" };
                format!(
                    r"create function poison() returns trigger language plpgsql as $$
                      begin
                          if new.external_id_index = '\x{index}' then
                              raise exception 'poison' using errcode = '{code}';
                          end if;
                          return new;
                      end $$;
                      create trigger poison before insert on account for each row execute function poison()"
                )
            }
        };
        self.db.sql(&sql).await;
    }

    /// The database takes everything again.
    pub async fn cure(&self) {
        let sql = match &self.db.raw {
            Raw::Lite(_) => "drop trigger poison",
            Raw::Pg(_) => "drop trigger poison on account",
        };
        self.db.sql(sql).await;
    }

    /// Moves the clock.
    pub fn wait(&self, seconds: i64) {
        let clock = &self.db.options.clock;
        clock.set(clock.now().plus_seconds(seconds));
    }
}
