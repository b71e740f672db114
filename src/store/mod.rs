//! The tables: one trait, two databases, one transaction per batch.
//!
//! Law: [`Store::commit`] is coarse and hides its transaction. What a batch means is decided once, in [`commit`] (the order
//! of the steps) and [`fold`] (which change wins), over the few statements of [`tables`]; `postgres` and `sqlite` only
//! speak SQL. Where next: `commit.rs`.

mod aside;
pub mod audit;
mod columns;
pub mod commit;
#[cfg(test)]
pub(crate) mod contract;
mod days;
pub mod fold;
pub mod forget;
pub mod keys;
pub mod marks;
pub mod moving;
pub mod postgres;
pub mod rotation;
pub mod rows;
pub mod sqlite;
pub mod tables;
pub mod views;

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use uuid::Uuid;

use self::audit::{AuditEntry, AuditFilter, AuditRow};
use self::forget::Forgot;
use self::keys::KeyBook;
use self::rotation::Shelves;
pub use self::views::{
    AccountView, EventCount, EventFilter, EventRow, IntegrationView, MigrationStatus, Pending, Progress, RowCounts,
    SecretUse, UserView,
};
use crate::crypto::{BlindIndex, KeyRing, OpenError, Payload, Place, Sealed, TypeormCipher, is_sealed};
use crate::domain::{
    Cause, ChangedRow, DedupKey, Email, Event, EventState, ProviderName, Timestamp, TraceParent, UserId,
};

/// The most that the databases' library may log, whatever the filter says: it quotes what it does not know in an address,
/// which can be a misspelt password.
pub const SILENT_LOG_TARGETS: &[&str] = &["sqlx_postgres::options=off", "sqlx_postgres::options::parse=off"];

/// What seals and indexes account identifiers and access tokens.
pub struct Vault {
    /// Seals and opens columns and payloads.
    pub ring: KeyRing,
    /// Finds sealed values.
    pub index: BlindIndex,
    /// Opens what the product wrote before it moved in.
    pub theirs: Option<TypeormCipher>,
}

impl Vault {
    /// Opens a column, whether finhook sealed it or the product did before it moved in.
    pub fn open(&self, place: &Place<'_>, text: &str) -> Result<SecretString, OpenError> {
        match &self.theirs {
            _ if is_sealed(text) => self.ring.open_column(place, text),
            Some(theirs) => theirs.open(text),
            None => Err(OpenError::NotOurs),
        }
    }
}

/// A batch: everything that one transaction takes.
#[derive(Default)]
pub struct Batch {
    /// Events, in any order; copies of one event may be among them.
    pub events: Vec<Arriving>,
    /// Links made by a person or the product.
    pub links: Vec<Link>,
    /// Rows of held deliveries (`unknown_key`) that these events replace.
    pub replaces: Vec<Uuid>,
}

/// An event on its way into the tables.
pub struct Arriving {
    /// What was read.
    pub event: Event,
    /// Its envelope, sealed for its row.
    pub payload: Sealed<Payload>,
    /// Whether it counts even if an equal or better copy is stored: a replay, a retry, a sweep.
    pub force: bool,
    /// The span in which its delivery was received.
    pub trace: Option<TraceParent>,
    /// The user that the webhook URL was minted for, whatever the event means.
    pub bound: Option<UserId>,
}

/// The act that says which user an integration belongs to.
pub struct Link {
    /// The provider.
    pub provider: ProviderName,
    /// Its id of the integration.
    pub subject: String,
    /// Our id of the user; created if it is not there.
    pub user: UserId,
    /// The address that the linker knows.
    pub email: Option<Email>,
    /// The access token, to be sealed; `None` leaves the stored one as it is.
    pub authorization_id: Option<SecretString>,
    /// When the link was made: its clock.
    pub at: Timestamp,
}

/// Proof of a commit: the transaction is durable. The field is private to this room.
#[derive(Debug)]
pub struct Committed {
    /// What became of each event of the batch, in its order.
    pub outcomes: Vec<Outcome>,
    /// How many stored unlinked events were applied because their subject got its user.
    pub relinked: usize,
    /// The rows that changed: table and id, each once.
    pub changed: Vec<(&'static str, Uuid)>,
    _durable: Durable,
}

/// Only this room can name it, so only this room makes a [`Committed`].
#[derive(Debug)]
struct Durable;

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its row is in this state.
    Stored(EventState),
    /// A copy that counts more is stored already.
    Duplicate,
    /// It is about somebody who was forgotten, and has no row.
    Forgotten,
}

/// A stored event with its payload.
#[derive(Clone)]
pub struct StoredEvent {
    /// The row's id.
    pub id: Uuid,
    /// The provider's name as stored.
    pub provider: String,
    /// The row's key.
    pub dedup_key: DedupKey,
    /// How often it was tried (`retrying`).
    pub attempts: u32,
    /// The sealed envelope; empty where it was wiped.
    pub payload: Vec<u8>,
}

/// Opens and reads stored events again: the one thing that a commit needs from the rooms above.
pub trait Reread: Send + Sync {
    /// The event as today's code reads it; `None` if it cannot be opened now.
    fn reread(&self, stored: &StoredEvent) -> Option<Event>;
}

/// How an event failed on its own, for [`Store::set_aside`].
pub struct Failed {
    /// The event, as it would have been committed.
    pub arriving: Arriving,
    /// `Retrying` or `Dead`.
    pub state: EventState,
    /// Why, in our words.
    pub reason: String,
    /// Tries so far, this one counted.
    pub attempts: u32,
    /// When it is due again; `None` if dead.
    pub next_attempt_at: Option<Timestamp>,
}

/// The tables of one database.
#[async_trait]
pub trait Store: Send + Sync {
    /// Takes a batch in one transaction. Safe to repeat when the answer was lost. Errors leave nothing behind.
    async fn commit(&self, batch: &Batch, reread: &dyn Reread) -> Result<Committed, StoreError>;

    /// Writes the rows of events that fail on their own (upsert by key), without touching any other table.
    async fn set_aside(&self, failed: &[Failed]) -> Result<(), StoreError>;

    /// Takes up to `limit` events in state `retrying` that are due, and moves their `next_attempt_at` to `lease_until`
    /// so that no other worker takes them meanwhile.
    async fn take_due(
        &self,
        now: Timestamp,
        lease_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// Up to `limit` unlinked events whose subject has its user by now, older ids first, ids greater than `after`.
    async fn linkable(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError>;

    /// Up to `limit` unlinked events of any subject, older ids first, ids greater than `after`.
    async fn unlinked(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError>;

    /// Makes up to `limit` unlinked events received before `before` dead (`unlinked_expired`); how many it were.
    async fn expire_unlinked(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Up to `limit` deliveries that are held because their key is unknown, older ids first, ids greater than `after`.
    async fn held(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError>;

    /// Moves those of these events that are in state `from` to state `to`, no more tries due; which ones it were.
    async fn conclude(
        &self,
        ids: &[Uuid],
        from: EventState,
        to: EventState,
        reason: Cause,
    ) -> Result<Vec<Uuid>, StoreError>;

    /// Events, in the order that the filter asks for.
    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>, StoreError>;

    /// How many events a filter lets through, its limit left aside.
    async fn events_count(&self, filter: &EventFilter) -> Result<u64, StoreError>;

    /// One event with its sealed payload.
    async fn event(&self, id: Uuid) -> Result<Option<(EventRow, Vec<u8>)>, StoreError>;

    /// The accounts of a user, by our id of the user.
    async fn accounts(&self, user: &UserId) -> Result<Vec<AccountView>, StoreError>;

    /// A user, soft-deleted ones too.
    async fn user(&self, user: &UserId) -> Result<Option<UserView>, StoreError>;

    /// An integration, by the provider's name and its id.
    async fn integration(&self, service: &str, external_id: &str) -> Result<Option<IntegrationView>, StoreError>;

    /// The integrations that a user owns, by provider and id.
    async fn integrations(&self, user: &UserId) -> Result<Vec<IntegrationView>, StoreError>;

    /// Makes a user if there is none; whether there was none. An address that is given becomes the product's own, of which
    /// no event takes it away; a soft-deleted user stays as they are, and one who was forgotten is `Forgotten`.
    async fn put_user(&self, user: &UserId, email: Option<&Email>) -> Result<bool, StoreError>;

    /// How many rows there are.
    async fn row_counts(&self) -> Result<RowCounts, StoreError>;

    /// How many events there are by provider and state.
    async fn event_counts(&self) -> Result<Vec<EventCount>, StoreError>;

    /// How many events are unlinked, retrying or dead, by provider and state, and since when the oldest of them: asked for
    /// often, and cheap however many events are stored.
    async fn pending(&self) -> Result<Vec<Pending>, StoreError>;

    /// Tells how far queues are worked off, as far as this process knows, and learns what all processes know; the later
    /// of two receipts stands.
    async fn progress(&self, ours: &[Progress]) -> Result<Vec<Progress>, StoreError>;

    /// Forgets a user in one transaction: their rows are gone, and tombstones stand for them and their subjects. Their
    /// stored events are deleted by [`Store::forget_events`].
    async fn forget(&self, user: &UserId, entry: &AuditEntry) -> Result<Forgot, StoreError>;

    /// Deletes up to about `limit` stored events of forgotten users; `None` when there are none left.
    async fn forget_events(&self, limit: u32) -> Result<Option<u64>, StoreError>;

    /// What forgetting a user would delete.
    async fn forget_preview(&self, user: &UserId) -> Result<Forgot, StoreError>;

    /// Takes a forgotten user again from now on; how many tombstones are gone.
    async fn lift(&self, user: &UserId, entry: &AuditEntry) -> Result<u64, StoreError>;

    /// Whether a user was forgotten. Whoever makes a row of a user asks this first.
    async fn is_forgotten(&self, user: &UserId) -> Result<bool, StoreError>;

    /// Wipes the payload of up to `limit` applied or recorded events received before `before`; how many it were.
    async fn wipe_payloads(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Deletes up to `limit` applied, recorded or dead events first stored before `before`, but for deliveries that are
    /// held for their key; how many it were.
    async fn delete_old_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Notes when inbound secrets last proved a delivery; one that is known keeps its later time.
    async fn note_secrets(&self, used: &[SecretUse]) -> Result<(), StoreError>;

    /// When inbound secrets last proved a delivery.
    async fn secrets_used(&self) -> Result<Vec<SecretUse>, StoreError>;

    /// Writes an entry of the audit trail; call it before the act that it is about.
    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError>;

    /// Entries of the audit trail, newest first.
    async fn audits(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError>;

    /// What the database's clock says; `None` where it is this process's own.
    async fn clock(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Takes up to `limit` changed rows that are not told yet, the oldest first, and leases them until `lease_until`, so
    /// that nobody else takes them meanwhile.
    async fn take_changed(
        &self,
        now: Timestamp,
        lease_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<ChangedRow>, StoreError>;

    /// Removes changed rows that were told.
    async fn forget_changed(&self, seqs: &[i64]) -> Result<(), StoreError>;

    /// What the database knows of the keys.
    fn keys(&self) -> &dyn KeyBook;

    /// What is sealed, by key.
    fn shelves(&self) -> &dyn Shelves;

    /// Whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Which migrations there are and which the database has.
    async fn migrations(&self) -> Result<Vec<MigrationStatus>, StoreError>;

    /// Applies what is missing; how many it were.
    async fn migrate_up(&self) -> Result<usize, StoreError>;

    /// Reverts to `target` (a migration's number; 0 = everything); how many it were.
    async fn migrate_down(&self, target: i64) -> Result<usize, StoreError>;

    /// The statements with which the product's own tables are moved in, where it has any.
    fn moving(&self) -> Option<&dyn moving::Moving> {
        None
    }

    /// Closes the connections.
    async fn close(&self);
}

/// What kind of trouble a database call met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreTrouble {
    /// The database is away, starting, stopping, out of connections or room: nobody's event is at fault. Hold and retry.
    Unavailable,
    /// Another transaction was in the way (40001, 40P01, 55P03): the same batch again.
    Conflict,
    /// The database refuses what an event contains (class 22): that event is dead.
    Refused,
    /// It names a user who was forgotten: nothing is wrong with the database, and nothing was written.
    Forgotten,
    /// Anything else that one event may be at fault for: isolate it, and try it again later.
    Failed,
}

/// A database error by kind. Holds no value of any row: SQLSTATE and our own sentence only.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StoreError {
    /// The kind.
    pub trouble: StoreTrouble,
    /// What was being done, with the SQLSTATE or result code.
    pub what: String,
}

impl StoreError {
    /// Whether the same call can succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self.trouble, StoreTrouble::Unavailable | StoreTrouble::Conflict)
    }
}

/// Whom a commit tells of the rows that it changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Telling {
    /// Whoever listens at PostgreSQL.
    pub notify: bool,
    /// An exchange, from the table in which they are kept for it.
    pub exchange: bool,
}

/// Settings that a store needs besides its address.
#[derive(Clone)]
pub struct StoreOptions {
    /// Whether a user named by a verified claim is created.
    pub create_users: bool,
    /// Whom a commit tells.
    pub telling: Telling,
    /// What seals.
    pub vault: Arc<Vault>,
    /// For `created_at`, `updated_at`, `processed_at`.
    pub clock: crate::domain::WallClock,
}

/// The smallest id that a row first stored at `at` can have: ids are uuid v7, ordered by time.
fn first_id_of(at: Timestamp) -> Uuid {
    let millis = u64::try_from(at.micros() / 1_000).unwrap_or(0);
    Uuid::from_u128(u128::from(millis) << 80)
}

/// A pool without upkeep: connections stay until they fail, which a pool tries before it hands one out, and the pools are
/// small. sqlx's own upkeep (0.9) counts idle connections in two steps; read in between, the count is below zero, and a
/// thread of the runtime goes round for good.
fn without_upkeep<DB: sqlx::Database>(options: sqlx::pool::PoolOptions<DB>) -> sqlx::pool::PoolOptions<DB> {
    options.idle_timeout(None).max_lifetime(None)
}

/// How many connections one process has to PostgreSQL: one for each worker's transaction, and a few for sweeps and reads.
const SPARE_CONNECTIONS: u32 = 4;

/// Opens the database that the settings name.
pub async fn open(
    settings: &crate::config::StoreSettings,
    workers: usize,
    options: StoreOptions,
) -> Result<Arc<dyn Store>, StoreError> {
    use crate::config::StoreSettings;
    Ok(match settings {
        StoreSettings::Postgres { url } => {
            let connections = u32::try_from(workers).unwrap_or(u32::MAX).saturating_add(SPARE_CONNECTIONS);
            Arc::new(postgres::Postgres::open(url, connections, options)?)
        }
        StoreSettings::Sqlite { path } => Arc::new(sqlite::Sqlite::open(path, options).await?),
    })
}

/// What is wrong with the migrations themselves, in our words.
fn migration_trouble(error: &sqlx::migrate::MigrateError) -> String {
    use sqlx::migrate::MigrateError;
    match error {
        MigrateError::VersionMissing(version) => {
            format!(
                "the database has migration {version}, which this version of finhook does not know: use a newer one"
            )
        }
        MigrateError::VersionMismatch(version) => {
            format!("migration {version} was applied with another text than this version of finhook has")
        }
        MigrateError::Dirty(version) => format!("migration {version} was applied in part: look at the database"),
        _ => "the migrations cannot be read".into(),
    }
}
