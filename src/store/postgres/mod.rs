//! The tables in PostgreSQL: the pool, and the one transaction of a commit. Its statements: `tables.rs` (what each is given
//! and gives), `statements.rs` (what they say), `binding.rs` (their rows); all others: `queries.rs`.

mod audit;
mod binding;
mod changes;
pub mod errors;
mod forget;
mod keys;
mod migrations;
mod moving;
mod queries;
mod rotation;
pub(super) mod statements;
mod tables;

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, Transaction};
use uuid::Uuid;

use super::audit::{AuditEntry, AuditFilter, AuditRow};
use super::columns::StoredColumns;
use super::forget::Forgot;
use super::keys::KeyBook;
use super::rotation::Shelves;
use super::{
    AccountView, Batch, Committed, EventCount, EventFilter, EventRow, Failed, IntegrationView, MigrationStatus,
    Pending, Progress, Reread, RowCounts, SecretUse, Store, StoreError, StoreOptions, StoreTrouble, StoredEvent,
    UserView, aside, commit, first_id_of, forget as forget_user, marks, without_upkeep,
};
use crate::config::is_this_machine;
use crate::domain::{Cause, ChangedRow, Email, EventState, Timestamp, UserId};

/// How long to wait for a free connection. A worker that gets none has its batch held and tries again.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a commit may take in all. Longer than any lock or statement is waited for, so that the database's own answer
/// comes first; this is for a link that went silent.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A pool of connections to one database.
pub struct Postgres {
    pool: PgPool,
    /// For migrations, which need a connection without the pool's time limits.
    connect: PgConnectOptions,
    options: StoreOptions,
    /// [`COMMIT_TIMEOUT`], unless a test cannot wait for it.
    pub(in crate::store) commit_timeout: Duration,
}

/// Whether what is sent to an address could be read or changed on the way: another machine, and no TLS that verifies it.
/// One that cannot be read is not judged here.
pub fn is_exposed(url: &SecretString) -> bool {
    let Ok(connect) = PgConnectOptions::from_str(url.expose_secret()) else { return false };
    !is_local(&connect) && !matches!(connect.get_ssl_mode(), PgSslMode::VerifyFull)
}

fn is_local(connect: &PgConnectOptions) -> bool {
    let host = connect.get_host();
    connect.get_socket().is_some() || host.starts_with('/') || is_this_machine(host)
}

/// On this machine nobody can listen, so TLS only where it is asked for. It would also be slow: sqlx sets no
/// `TCP_NODELAY`, TLS cuts a statement into records of 16 KiB, and on the loopback's large segments the kernel holds the
/// last one back for a delayed ack, 40 ms for each large statement. `prefer` is what sqlx takes where nothing is said.
fn without_needless_tls(connect: PgConnectOptions) -> PgConnectOptions {
    match connect.get_ssl_mode() {
        PgSslMode::Prefer if is_local(&connect) => connect.ssl_mode(PgSslMode::Disable),
        _ => connect,
    }
}

/// Every statement of a commit finds its rows by key, and is planned once per connection: the server would otherwise plan
/// many of them anew for each batch. A plan that was made while the tables were small, or never analysed, would read them
/// whole ever after: it may only go through an index, row by row.
const BEGIN_BY_KEY: &str = "begin; set local plan_cache_mode = force_generic_plan; \
    set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off";

impl Postgres {
    /// Reads the address and prepares a pool of at most `connections`. Connects lazily: a database that is away at start is
    /// the same trouble as one that goes away later.
    ///
    /// # Errors
    /// `Failed` if the address cannot be read; it is never quoted, because it can hold a password.
    pub fn open(url: &SecretString, connections: u32, options: StoreOptions) -> Result<Self, StoreError> {
        let connect = PgConnectOptions::from_str(url.expose_secret()).map_err(|_| StoreError {
            trouble: StoreTrouble::Failed,
            what: "the database's address cannot be read: it has to look like postgres://user@host/database".into(),
        })?;
        let connect = without_needless_tls(connect)
            .application_name("finhook")
            // At level debug sqlx would log every statement; slow ones are the database's own log's matter.
            .disable_statement_logging();
        let limited = connect.clone().options([
            // The order of a commit's steps relies on each statement seeing what others committed before it.
            ("default_transaction_isolation", "read committed"),
            // Under the commit's own timeout, so that the server frees its locks before we give up on it.
            ("statement_timeout", "20s"),
            // Longer than a batch ever holds a lock; then another transaction is stuck, and the batch is tried again.
            ("lock_timeout", "10s"),
            // A worker that hangs between two statements must not hold its subjects for ever.
            ("idle_in_transaction_session_timeout", "30s"),
        ]);
        let pool = without_upkeep(PgPoolOptions::new())
            .max_connections(connections.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(limited);
        Ok(Self { pool, connect, options, commit_timeout: COMMIT_TIMEOUT })
    }

    /// A transaction of a rarer kind than a commit.
    async fn begin(&self) -> Result<Transaction<'static, sqlx::Postgres>, StoreError> {
        self.pool.begin().await.map_err(errors::of("begin"))
    }

    /// One transaction from begin to commit. Dropped on the way, it is rolled back.
    async fn transact(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
        reread: &dyn Reread,
    ) -> Result<Committed, StoreError> {
        let mut transaction = connection.begin_with(BEGIN_BY_KEY).await.map_err(errors::of("begin"))?;
        let mut tables = tables::PgTables { connection: &mut transaction };
        let committed = commit::run(&mut tables, batch, &self.options, reread).await?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(committed)
    }
}

#[async_trait]
impl Store for Postgres {
    async fn commit(&self, batch: &Batch, reread: &dyn Reread) -> Result<Committed, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(errors::connecting)?;
        match tokio::time::timeout(self.commit_timeout, self.transact(&mut connection, batch, reread)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                // Closed, not given back: the pool would wait for this silent link before it opens another one.
                drop(connection.detach());
                Err(StoreError { trouble: StoreTrouble::Unavailable, what: "commit: no answer in time".into() })
            }
        }
    }

    async fn set_aside(&self, failed: &[Failed]) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let mut tables = tables::PgTables { connection: &mut transaction };
        aside::run(&mut tables, failed, &self.options).await?;
        transaction.commit().await.map_err(errors::of("commit"))
    }

    async fn take_due(
        &self,
        now: Timestamp,
        lease_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        queries::take_due(&self.pool, now, lease_until, limit).await
    }

    async fn linkable(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        queries::linkable(&self.pool, after, limit).await
    }

    async fn unlinked(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        queries::unlinked(&self.pool, after, limit).await
    }

    async fn expire_unlinked(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        queries::expire_unlinked(&self.pool, before, limit, self.options.clock.now()).await
    }

    async fn held(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        queries::held(&self.pool, after, limit).await
    }

    async fn conclude(
        &self,
        ids: &[Uuid],
        from: EventState,
        to: EventState,
        reason: Cause,
    ) -> Result<Vec<Uuid>, StoreError> {
        queries::conclude(&self.pool, ids, (from, to), reason, self.options.clock.now()).await
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>, StoreError> {
        queries::events(&self.pool, filter).await
    }

    async fn events_count(&self, filter: &EventFilter) -> Result<u64, StoreError> {
        queries::events_count(&self.pool, filter).await
    }

    async fn event(&self, id: Uuid) -> Result<Option<(EventRow, Vec<u8>)>, StoreError> {
        queries::event(&self.pool, id).await
    }

    async fn accounts(&self, user: &UserId) -> Result<Vec<AccountView>, StoreError> {
        queries::accounts(&self.pool, user).await
    }

    async fn user(&self, user: &UserId) -> Result<Option<UserView>, StoreError> {
        queries::user(&self.pool, user).await
    }

    async fn integration(&self, service: &str, external_id: &str) -> Result<Option<IntegrationView>, StoreError> {
        queries::integration(&self.pool, service, external_id).await
    }

    async fn integrations(&self, user: &UserId) -> Result<Vec<IntegrationView>, StoreError> {
        queries::integrations(&self.pool, user).await
    }

    async fn put_user(&self, user: &UserId, email: Option<&Email>) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let mut tables = tables::PgTables { connection: &mut transaction };
        forget_user::admit(&mut tables, user, &self.options.vault.index).await?;
        let made = queries::put_user(&mut transaction, user, email, self.options.clock.now()).await?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(made)
    }

    async fn row_counts(&self) -> Result<RowCounts, StoreError> {
        queries::row_counts(&self.pool).await
    }

    async fn event_counts(&self) -> Result<Vec<EventCount>, StoreError> {
        queries::event_counts(&self.pool).await
    }

    async fn pending(&self) -> Result<Vec<Pending>, StoreError> {
        queries::pending(&self.pool).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        queries::clock(&self.pool).await.map(Some)
    }

    async fn progress(&self, ours: &[Progress]) -> Result<Vec<Progress>, StoreError> {
        if !ours.is_empty() {
            queries::tell_progress(&self.pool, ours).await?;
        }
        queries::progress(&self.pool).await
    }

    async fn forget(&self, user: &UserId, entry: &AuditEntry) -> Result<Forgot, StoreError> {
        let mut transaction = self.begin().await?;
        let mut tables = tables::PgTables { connection: &mut transaction };
        let forgot = forget_user::run(&mut tables, user, &self.options, entry).await?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(forgot)
    }

    async fn forget_events(&self, limit: u32) -> Result<Option<u64>, StoreError> {
        let mut deleted = 0;
        for behind_the_gate in [false, true] {
            let mut transaction = self.begin().await?;
            let mut tables = tables::PgTables { connection: &mut transaction };
            let some = forget_user::some_events(&mut tables, limit, behind_the_gate).await?;
            transaction.commit().await.map_err(errors::of("commit"))?;
            let Some(some) = some else { return Ok((deleted > 0).then_some(deleted)) };
            deleted += some;
            if some >= u64::from(limit) {
                break;
            }
        }
        Ok(Some(deleted))
    }

    async fn forget_preview(&self, user: &UserId) -> Result<Forgot, StoreError> {
        forget::count(&self.pool, user, &marks::of_user(&self.options.vault.index, user)).await
    }

    async fn lift(&self, user: &UserId, entry: &AuditEntry) -> Result<u64, StoreError> {
        let mut transaction = self.begin().await?;
        let mut tables = tables::PgTables { connection: &mut transaction };
        let lifted = forget_user::lift(&mut tables, user, &self.options, entry).await?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(lifted)
    }

    async fn is_forgotten(&self, user: &UserId) -> Result<bool, StoreError> {
        let mark = marks::of_user(&self.options.vault.index, user);
        sqlx::query_scalar("select exists (select 1 from tombstone where mark = $1)")
            .bind(mark)
            .fetch_one(&self.pool)
            .await
            .map_err(errors::of("ask the tombstones"))
    }

    async fn wipe_payloads(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        queries::wipe_payloads(&self.pool, before, limit).await
    }

    async fn delete_old_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        queries::delete_old_events(&self.pool, first_id_of(before), limit).await
    }

    async fn note_secrets(&self, used: &[SecretUse]) -> Result<(), StoreError> {
        queries::note_secrets(&self.pool, used).await
    }

    async fn secrets_used(&self) -> Result<Vec<SecretUse>, StoreError> {
        queries::secrets_used(&self.pool).await
    }

    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(errors::connecting)?;
        audit::insert(&mut connection, &entry.row(&self.options.vault.index, self.options.clock.now())).await
    }

    async fn audits(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        audit::list(&self.pool, filter, &self.options.vault.index).await
    }

    async fn take_changed(
        &self,
        now: Timestamp,
        lease_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<ChangedRow>, StoreError> {
        changes::take(&self.pool, now, lease_until, limit).await
    }

    async fn forget_changed(&self, seqs: &[i64]) -> Result<(), StoreError> {
        changes::forget(&self.pool, seqs).await
    }

    fn keys(&self) -> &dyn KeyBook {
        self
    }

    fn shelves(&self) -> &dyn Shelves {
        self
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("select 1").execute(&self.pool).await.map(drop).map_err(errors::of("ping"))
    }

    async fn migrations(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        migrations::status(&self.pool).await
    }

    async fn migrate_up(&self) -> Result<usize, StoreError> {
        migrations::up(&self.connect).await
    }

    async fn migrate_down(&self, target: i64) -> Result<usize, StoreError> {
        migrations::down(&self.connect, target).await
    }

    fn moving(&self) -> Option<&dyn crate::store::moving::Moving> {
        Some(self)
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// Rows with a payload, as the queries and the sweeps give them back.
fn stored(rows: Vec<StoredColumns>) -> Result<Vec<StoredEvent>, StoreError> {
    rows.into_iter().map(StoredColumns::read).collect()
}
