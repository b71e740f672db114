//! A commit's tables on PostgreSQL: each method is one statement over all of a batch's rows.

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;
use sqlx::{Postgres, query, query_as, query_scalar};
use uuid::Uuid;

use super::binding::{PgQuery, bind_accounts, bind_events, bind_integrations, column, naive, zoned};
use super::statements::{
    ACCOUNTS, BURY, DELETE_SUBJECTS, INSERT_ACCOUNTS, INSERT_EVENTS, INSERT_INTEGRATIONS, INTEGRATIONS, KEEP_ORIGINALS,
    LOCK_SUBJECTS, OWNED_ADDRESSES, STORED_COPIES, UNLINKED, UPDATE_ACCOUNTS, UPDATE_EVENTS, UPDATE_INTEGRATIONS,
    USER_ADDRESSES, WRITE_USER_ADDRESSES, insert_event_rows,
};
use super::{changes, errors};
use crate::crypto::{Column, Sealed};
use crate::domain::register::Address;
use crate::domain::{Timestamp, UserId};
use crate::store::aside::TAKES_ITS_PLACE;
use crate::store::columns::{
    AccountColumns, CopyColumns, IntegrationColumns, OwnedAddressColumns, StoredColumns, UserAddressColumns,
    UserColumns, at, key,
};
use crate::store::forget::Tombstone;
use crate::store::marks::Mark;
use crate::store::rows::{
    AccountRow, EventKey, IntegrationRow, NewEvent, SealedIds, StoredCopy, SubjectKey, UserAddress, UserRow,
};
use crate::store::tables::Tables;
use crate::store::{StoreError, StoreTrouble, StoredEvent};

/// The statements, over the connection of one open transaction.
pub struct PgTables<'t> {
    /// The connection.
    pub connection: &'t mut PgConnection,
}

impl PgTables<'_> {
    pub(super) async fn run(&mut self, doing: &'static str, statement: PgQuery<'_>) -> Result<u64, StoreError> {
        let done = statement.execute(&mut *self.connection).await.map_err(errors::of(doing))?;
        Ok(done.rows_affected())
    }

    pub(super) async fn load<C, R>(
        &mut self,
        doing: &'static str,
        statement: QueryAs<'_, Postgres, C, PgArguments>,
        read: fn(C) -> Result<R, StoreError>,
    ) -> Result<Vec<R>, StoreError>
    where
        C: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        let rows = statement.fetch_all(&mut *self.connection).await.map_err(errors::of(doing))?;
        rows.into_iter().map(read).collect()
    }
}

/// Fewer rows than asked for: somebody who takes no lock of ours inserted one since it was looked for.
fn all_inserted(inserted: u64, asked: usize, doing: &str) -> Result<(), StoreError> {
    if inserted == asked as u64 {
        return Ok(());
    }
    Err(StoreError { trouble: StoreTrouble::Conflict, what: format!("{doing}: one is there already") })
}

#[async_trait]
impl Tables for PgTables<'_> {
    async fn lock_subjects(&mut self, subjects: &[SubjectKey]) -> Result<(), StoreError> {
        let statement = query(LOCK_SUBJECTS)
            .bind(column!(subjects, |(service, _)| service.as_str()))
            .bind(column!(subjects, |(_, external_id)| external_id.as_str()));
        self.run("lock subjects", statement).await.map(drop)
    }

    async fn tombstones(&mut self, marks: &[Mark]) -> Result<Vec<Mark>, StoreError> {
        if marks.is_empty() {
            return Ok(Vec::new());
        }
        query_scalar("select mark from tombstone where mark = any($1)")
            .bind(marks.to_vec())
            .fetch_all(&mut *self.connection)
            .await
            .map_err(errors::of("ask the tombstones"))
    }

    async fn bury(&mut self, tombstones: &[Tombstone], now: Timestamp) -> Result<(), StoreError> {
        if tombstones.is_empty() {
            return Ok(());
        }
        let statement = query(BURY)
            .bind(column!(tombstones, |stone| stone.mark.as_slice()))
            .bind(column!(tombstones, |stone| stone.of_user.as_slice()))
            .bind(column!(tombstones, |stone| stone.subject.as_ref().map(|(service, _)| service.as_str())))
            .bind(column!(tombstones, |stone| stone.subject.as_ref().map(|(_, subject)| subject.as_str())))
            .bind(zoned(now));
        self.run("put tombstones up", statement).await.map(drop)
    }

    async fn lift_subjects(&mut self, subjects: &[(SubjectKey, Mark)]) -> Result<(), StoreError> {
        if subjects.is_empty() {
            return Ok(());
        }
        let stored = query(DELETE_SUBJECTS)
            .bind(column!(subjects, |((service, _), _)| service.as_str()))
            .bind(column!(subjects, |((_, subject), _)| subject.as_str()));
        self.run("delete events", stored).await?;
        let tombstones = query("delete from tombstone where mark = any($1)");
        let marks: Vec<Mark> = column!(subjects, |(_, mark)| mark.clone());
        self.run("lift tombstones", tombstones.bind(marks)).await.map(drop)
    }

    async fn upsert_failed(&mut self, rows: &[NewEvent], now: Timestamp) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let statement = format!(
            "{insert}
             on conflict (provider, dedup_key) do update
             set occurred_at = excluded.occurred_at, received_at = excluded.received_at,
                processed_at = excluded.processed_at, next_attempt_at = excluded.next_attempt_at,
                attempts = excluded.attempts, state = excluded.state, kind = excluded.kind, subject = excluded.subject,
                reason = excluded.reason, user_mark = excluded.user_mark,
                payload = case when length(excluded.payload) > 0 then excluded.payload else event.payload end
             where {TAKES_ITS_PLACE}",
            insert = insert_event_rows!(),
        );
        // Safe: put together from constants of this crate only.
        let statement = sqlx::AssertSqlSafe(statement);
        self.run("set events aside", bind_events(statement, rows, now)).await.map(drop)
    }

    async fn integrations(&mut self, subjects: &[SubjectKey]) -> Result<Vec<IntegrationRow>, StoreError> {
        if subjects.is_empty() {
            return Ok(Vec::new());
        }
        let statement = query_as(INTEGRATIONS)
            .bind(column!(subjects, |(service, _)| service.as_str()))
            .bind(column!(subjects, |(_, external_id)| external_id.as_str()));
        self.load("load integrations", statement, IntegrationColumns::read).await
    }

    async fn users(&mut self, external_ids: &[UserId]) -> Result<Vec<UserRow>, StoreError> {
        if external_ids.is_empty() {
            return Ok(Vec::new());
        }
        let statement = query_as(r#"select id, external_id from "user" where external_id = any($1)"#)
            .bind(column!(external_ids, |id| id.as_str()));
        self.load("load users", statement, UserColumns::read).await
    }

    async fn insert_users(&mut self, users: &[UserRow], now: Timestamp) -> Result<Vec<Uuid>, StoreError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let statement = query_scalar(
            r#"insert into "user" (id, external_id, created_at, updated_at)
               select unnest($1::uuid[]), unnest($2::text[]), $3::timestamp, $3::timestamp
               on conflict (external_id) do nothing
               returning id"#,
        )
        .bind(column!(users, |user| user.id))
        .bind(column!(users, |user| user.external_id.as_str()))
        .bind(naive(now));
        statement.fetch_all(&mut *self.connection).await.map_err(errors::of("insert users"))
    }

    async fn insert_events(&mut self, events: &[NewEvent], now: Timestamp) -> Result<u64, StoreError> {
        if events.is_empty() {
            return Ok(0);
        }
        self.run("insert events", bind_events(INSERT_EVENTS, events, now)).await
    }

    async fn stored_copies(&mut self, keys: &[EventKey]) -> Result<Vec<StoredCopy>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let statement = query_as(STORED_COPIES)
            .bind(column!(keys, |(provider, _)| provider.as_str()))
            .bind(column!(keys, |(_, key)| key.as_bytes()));
        self.load("load stored copies", statement, CopyColumns::read).await
    }

    async fn update_events(&mut self, events: &[NewEvent], now: Timestamp) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        self.run("update events", bind_events(UPDATE_EVENTS, events, now)).await.map(drop)
    }

    async fn unlinked(&mut self, subjects: &[SubjectKey], limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        if subjects.is_empty() {
            return Ok(Vec::new());
        }
        let statement = query_as(UNLINKED)
            .bind(column!(subjects, |(service, _)| service.as_str()))
            .bind(column!(subjects, |(_, external_id)| external_id.as_str()))
            .bind(i64::from(limit));
        self.load("load unlinked events", statement, StoredColumns::read).await
    }

    async fn mark_applied(&mut self, ids: &[Uuid], now: Timestamp) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let statement = query(
            "update event set state = 'applied', reason = null, next_attempt_at = null, processed_at = $2
             where id = any($1)",
        )
        .bind(ids.to_vec())
        .bind(zoned(now));
        self.run("mark events applied", statement).await.map(drop)
    }

    async fn delete_events(&mut self, ids: &[Uuid]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.run("delete events", query("delete from event where id = any($1)").bind(ids.to_vec())).await.map(drop)
    }

    async fn insert_integrations(
        &mut self,
        rows: &[(IntegrationRow, Option<Sealed<Column>>)],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let doing = "insert integrations";
        let inserted = self.run(doing, bind_integrations(query(INSERT_INTEGRATIONS), rows, now)).await?;
        all_inserted(inserted, rows.len(), doing)
    }

    async fn update_integrations(
        &mut self,
        rows: &[(IntegrationRow, Option<Sealed<Column>>)],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.run("update integrations", bind_integrations(query(UPDATE_INTEGRATIONS), rows, now)).await.map(drop)
    }

    async fn accounts(&mut self, wanted: &[(Uuid, Vec<u8>)], whole: &[Uuid]) -> Result<Vec<AccountRow>, StoreError> {
        if wanted.is_empty() && whole.is_empty() {
            return Ok(Vec::new());
        }
        let statement = query_as(ACCOUNTS)
            .bind(column!(wanted, |(integration, _)| *integration))
            .bind(column!(wanted, |(_, index)| index.as_slice()))
            .bind(whole.to_vec());
        self.load("load accounts", statement, AccountColumns::read).await
    }

    async fn keep_originals(&mut self, accounts: &[Uuid]) -> Result<(), StoreError> {
        if accounts.is_empty() {
            return Ok(());
        }
        self.run("keep originals", query(KEEP_ORIGINALS).bind(accounts.to_vec())).await.map(drop)
    }

    async fn insert_accounts(&mut self, rows: &[(AccountRow, SealedIds)], now: Timestamp) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let doing = "insert accounts";
        let inserted = self.run(doing, bind_accounts(query(INSERT_ACCOUNTS), rows, now)).await?;
        all_inserted(inserted, rows.len(), doing)
    }

    async fn update_accounts(&mut self, rows: &[(AccountRow, SealedIds)], now: Timestamp) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.run("update accounts", bind_accounts(query(UPDATE_ACCOUNTS), rows, now)).await.map(drop)
    }

    async fn user_addresses(&mut self, users: &[Uuid]) -> Result<Vec<UserAddress>, StoreError> {
        let statement = query_as(USER_ADDRESSES).bind(users.to_vec());
        self.load("load addresses", statement, UserAddressColumns::read).await
    }

    async fn owned_addresses(&mut self, users: &[Uuid]) -> Result<Vec<(Uuid, Address)>, StoreError> {
        let statement = query_as(OWNED_ADDRESSES).bind(users.to_vec());
        self.load("load owned addresses", statement, OwnedAddressColumns::read).await
    }

    async fn notify(&mut self, rows: &[(&'static str, Uuid)]) -> Result<(), StoreError> {
        changes::notify(self.connection, rows).await
    }

    async fn keep_changed(&mut self, rows: &[(&'static str, Uuid)]) -> Result<(), StoreError> {
        changes::keep(self.connection, rows).await
    }

    async fn write_user_addresses(&mut self, rows: &[UserAddress], now: Timestamp) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let statement = query(WRITE_USER_ADDRESSES)
            .bind(column!(rows, |user| user.id))
            .bind(column!(rows, |user| user.email.as_deref()))
            .bind(column!(rows, |user| user.verified))
            .bind(column!(rows, |user| at(user.clock.as_ref())))
            .bind(column!(rows, |user| key(user.clock.as_ref())))
            .bind(naive(now));
        self.run("write addresses", statement).await.map(drop)
    }
}
