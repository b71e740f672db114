//! The tables in SQLite: the embedded default, for laptops, demos, tests and small installs.
//!
//! One connection writes, in `begin immediate` transactions; a pool of read-only ones serves everything that only looks.
//! Other processes (a command beside `serve`) wait for each other by `busy_timeout`.

mod audit;
mod binding;
mod changes;
pub mod errors;
mod forget;
mod keys;
mod migrations;
mod pieces;
mod queries;
mod rotation;
pub(super) mod statements;
mod tables;

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
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
use crate::domain::{Cause, ChangedRow, Email, EventState, Timestamp, UserId};

/// How long to wait for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a commit waits for the one that is before it.
const WRITER_TIMEOUT: Duration = Duration::from_secs(15);

/// Read-only connections: SQLite readers never wait for the writer in WAL, and few of them look at once.
const READERS: u32 = 4;

/// One database file.
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    options: StoreOptions,
}

impl Sqlite {
    /// Opens the file, and makes it (mode 0600) and its folder (mode 0700) if they are not there.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be made or opened.
    pub async fn open(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        create(path).map_err(|error| StoreError {
            trouble: StoreTrouble::Unavailable,
            what: format!("make the database's file: {:?}", error.kind()),
        })?;
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            // Each statement comes in five sizes (pieces.rs); all of them stay prepared.
            .statement_cache_capacity(256)
            .disable_statement_logging();
        let write = connect
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            // A commit is what a delivery is acknowledged for: it has to outlive a power cut, which NORMAL does not
            // promise in WAL.
            .synchronous(SqliteSynchronous::Full)
            // What is deleted is overwritten: a forgotten user's id does not stay in a free page.
            .pragma("secure_delete", "on")
            // Pages that one commit after the other changes, those of the indexes, are kept (in KiB), and taken over into
            // the file once for many commits (in pages).
            .pragma("cache_size", "-8192")
            .pragma("wal_autocheckpoint", "4000")
            // After a burst the log is cut back to this instead of keeping the space.
            .pragma("journal_size_limit", "67108864");
        let writer = without_upkeep(SqlitePoolOptions::new())
            .max_connections(1)
            .acquire_timeout(WRITER_TIMEOUT)
            // A full disk makes SQLite roll back by itself. The driver, whose own rollback then fails, believes for ever
            // that a transaction is open and begins no other: such a connection is closed and another one opened.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect_with(write)
            .await
            .map_err(errors::of("open the database"))?;
        let readers = without_upkeep(SqlitePoolOptions::new())
            .max_connections(READERS)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_lazy_with(connect.read_only(true));
        Ok(Self { writer, readers, options })
    }

    /// A transaction of a rarer kind than a commit. Immediate, like all that write.
    async fn begin(&self) -> Result<Transaction<'static, sqlx::Sqlite>, StoreError> {
        self.writer.begin_with("begin immediate").await.map_err(errors::of("begin"))
    }
}

/// SQLite gives the log files beside the database the database's own mode.
fn create(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn commit(&self, batch: &Batch, reread: &dyn Reread) -> Result<Committed, StoreError> {
        let mut connection = self.writer.acquire().await.map_err(errors::of("connect"))?;
        // Immediate: a transaction that starts by reading could not become a writer once another process has written.
        let mut transaction = connection.begin_with("begin immediate").await.map_err(errors::of("begin"))?;
        let mut tables = tables::SqliteTables { connection: &mut transaction };
        let committed = commit::run(&mut tables, batch, &self.options, reread).await?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(committed)
    }

    async fn set_aside(&self, failed: &[Failed]) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let mut tables = tables::SqliteTables { connection: &mut transaction };
        aside::run(&mut tables, failed, &self.options).await?;
        transaction.commit().await.map_err(errors::of("commit"))
    }

    async fn take_due(
        &self,
        now: Timestamp,
        lease_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        queries::take_due(&self.writer, now, lease_until, limit).await
    }

    async fn linkable(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        queries::linkable(&self.readers, after, limit).await
    }

    async fn unlinked(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        queries::unlinked(&self.readers, after, limit).await
    }

    async fn expire_unlinked(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        queries::expire_unlinked(&self.writer, before, limit, self.options.clock.now()).await
    }

    async fn held(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        queries::held(&self.readers, after, limit).await
    }

    async fn conclude(
        &self,
        ids: &[Uuid],
        from: EventState,
        to: EventState,
        reason: Cause,
    ) -> Result<Vec<Uuid>, StoreError> {
        queries::conclude(&self.writer, ids, (from, to), reason, self.options.clock.now()).await
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>, StoreError> {
        queries::events(&self.readers, filter).await
    }

    async fn events_count(&self, filter: &EventFilter) -> Result<u64, StoreError> {
        queries::events_count(&self.readers, filter).await
    }

    async fn event(&self, id: Uuid) -> Result<Option<(EventRow, Vec<u8>)>, StoreError> {
        queries::event(&self.readers, id).await
    }

    async fn accounts(&self, user: &UserId) -> Result<Vec<AccountView>, StoreError> {
        queries::accounts(&self.readers, user).await
    }

    async fn user(&self, user: &UserId) -> Result<Option<UserView>, StoreError> {
        queries::user(&self.readers, user).await
    }

    async fn integration(&self, service: &str, external_id: &str) -> Result<Option<IntegrationView>, StoreError> {
        queries::integration(&self.readers, service, external_id).await
    }

    async fn integrations(&self, user: &UserId) -> Result<Vec<IntegrationView>, StoreError> {
        queries::integrations(&self.readers, user).await
    }

    async fn put_user(&self, user: &UserId, email: Option<&Email>) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let mut tables = tables::SqliteTables { connection: &mut transaction };
        forget_user::admit(&mut tables, user, &self.options.vault.index).await?;
        let made = queries::put_user(&mut transaction, user, email, self.options.clock.now()).await?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(made)
    }

    async fn row_counts(&self) -> Result<RowCounts, StoreError> {
        queries::row_counts(&self.readers).await
    }

    async fn event_counts(&self) -> Result<Vec<EventCount>, StoreError> {
        queries::event_counts(&self.readers).await
    }

    async fn pending(&self) -> Result<Vec<Pending>, StoreError> {
        queries::pending(&self.readers).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    async fn progress(&self, ours: &[Progress]) -> Result<Vec<Progress>, StoreError> {
        if !ours.is_empty() {
            queries::tell_progress(&self.writer, ours).await?;
        }
        queries::progress(&self.readers).await
    }

    async fn forget(&self, user: &UserId, entry: &AuditEntry) -> Result<Forgot, StoreError> {
        let mut transaction = self.begin().await?;
        let mut tables = tables::SqliteTables { connection: &mut transaction };
        let forgot = forget_user::run(&mut tables, user, &self.options, entry).await?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(forgot)
    }

    async fn forget_events(&self, limit: u32) -> Result<Option<u64>, StoreError> {
        let mut deleted = 0;
        for behind_the_gate in [false, true] {
            let mut transaction = self.begin().await?;
            let mut tables = tables::SqliteTables { connection: &mut transaction };
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
        forget::count(&self.readers, user, &marks::of_user(&self.options.vault.index, user)).await
    }

    async fn lift(&self, user: &UserId, entry: &AuditEntry) -> Result<u64, StoreError> {
        let mut transaction = self.begin().await?;
        let mut tables = tables::SqliteTables { connection: &mut transaction };
        let lifted = forget_user::lift(&mut tables, user, &self.options, entry).await?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(lifted)
    }

    async fn is_forgotten(&self, user: &UserId) -> Result<bool, StoreError> {
        let mark = marks::of_user(&self.options.vault.index, user);
        sqlx::query_scalar("select exists (select 1 from tombstone where mark = $1)")
            .bind(mark)
            .fetch_one(&self.readers)
            .await
            .map_err(errors::of("ask the tombstones"))
    }

    async fn wipe_payloads(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        queries::wipe_payloads(&self.writer, before, limit).await
    }

    async fn delete_old_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        queries::delete_old_events(&self.writer, first_id_of(before), limit).await
    }

    async fn note_secrets(&self, used: &[SecretUse]) -> Result<(), StoreError> {
        queries::note_secrets(&self.writer, used).await
    }

    async fn secrets_used(&self) -> Result<Vec<SecretUse>, StoreError> {
        queries::secrets_used(&self.readers).await
    }

    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let mut connection = self.writer.acquire().await.map_err(errors::of("connect"))?;
        audit::insert(&mut connection, &entry.row(&self.options.vault.index, self.options.clock.now())).await
    }

    async fn audits(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        audit::list(&self.readers, filter, &self.options.vault.index).await
    }

    async fn take_changed(
        &self,
        now: Timestamp,
        lease_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<ChangedRow>, StoreError> {
        changes::take(&self.writer, now, lease_until, limit).await
    }

    async fn forget_changed(&self, seqs: &[i64]) -> Result<(), StoreError> {
        changes::forget(&self.writer, seqs).await
    }

    fn keys(&self) -> &dyn KeyBook {
        self
    }

    fn shelves(&self) -> &dyn Shelves {
        self
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("select count(*) from sqlite_schema")
            .execute(&self.readers)
            .await
            .map(drop)
            .map_err(errors::of("ping"))
    }

    async fn migrations(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        migrations::status(&self.readers).await
    }

    async fn migrate_up(&self) -> Result<usize, StoreError> {
        migrations::up(&self.writer).await
    }

    async fn migrate_down(&self, target: i64) -> Result<usize, StoreError> {
        migrations::down(&self.writer, target).await
    }

    async fn close(&self) {
        // The writer last: whoever closes last folds the log into the file, which a read-only connection cannot.
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Rows with a payload, as the queries and the sweeps give them back.
fn stored(rows: Vec<StoredColumns>) -> Result<Vec<StoredEvent>, StoreError> {
    rows.into_iter().map(StoredColumns::read).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::contract::options;

    #[tokio::test]
    async fn the_folder_and_the_files_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("finhook-data").join("finhook.db");
        let store = Sqlite::open(&path, options()).await.unwrap();
        store.migrate_up().await.unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        for name in ["finhook.db", "finhook.db-wal"] {
            assert_eq!(mode(&path.with_file_name(name)), 0o600, "{name}");
        }
        store.close().await;
    }

    #[tokio::test]
    async fn a_full_disk_is_nobodys_fault() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("finhook.db"), options()).await.unwrap();
        sqlx::query("pragma max_page_count = 3").execute(&store.writer).await.unwrap();
        let error = store.migrate_up().await.unwrap_err();
        assert_eq!(error.trouble, StoreTrouble::Unavailable, "{error}");
        store.close().await;
    }

    #[tokio::test]
    async fn a_transaction_that_sqlite_rolled_back_by_itself_is_not_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("finhook.db"), options()).await.unwrap();
        store.migrate_up().await.unwrap();
        let mut connection = store.writer.acquire().await.unwrap();
        let mut transaction = connection.begin_with("begin immediate").await.unwrap();
        sqlx::query("rollback").execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap_err();
        drop(connection);
        store.set_aside(&[]).await.unwrap();
        store.close().await;
    }

    #[tokio::test]
    async fn a_database_that_another_process_writes_for_too_long_is_a_conflict() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("finhook.db");
        let store = Sqlite::open(&path, options()).await.unwrap();
        store.migrate_up().await.unwrap();
        let other = Sqlite::open(&path, options()).await.unwrap();
        let held = other.writer.begin_with("begin immediate").await.unwrap();
        sqlx::query("pragma busy_timeout = 20").execute(&store.writer).await.unwrap();
        let error = store.set_aside(&[]).await.unwrap_err();
        assert_eq!(error.trouble, StoreTrouble::Conflict, "{error}");
        held.rollback().await.unwrap();
        store.set_aside(&[]).await.unwrap();
        other.close().await;
        store.close().await;
    }
}
