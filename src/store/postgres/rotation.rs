//! The statements of a rotation on PostgreSQL. Rows are locked with `skip locked`, so that a rotation neither waits for a
//! commit nor is in a circle with one. The locked rows carry their new values on to the update: joined a second time with
//! what was sent, which the planner takes for a handful of rows, a thousand values took half a second.

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, query, query_as, query_scalar};
use uuid::Uuid;

use super::{Postgres, errors, stored};
use crate::crypto::asked::{COLUMN_MARK, PAYLOAD_HEADER, PAYLOAD_MARK, column_marks, payload_mark};
use crate::crypto::{Sealed, key_of_column, key_of_payload};
use crate::store::columns::{SealedTextColumns, SizeColumns};
use crate::store::rotation::{
    DOING, KEPT_REASONS, NewPayload, NewText, Page, SealedText, Shelf, Shelves, Tally, tallies,
};
use crate::store::{StoreError, StoredEvent};

#[async_trait]
impl Shelves for Postgres {
    async fn page_end(&self, shelf: Shelf, after: Uuid, size: u32) -> Result<Option<Uuid>, StoreError> {
        let table = shelf.table();
        // Safe, like all that follow: put together from constants of this crate only.
        query_scalar(AssertSqlSafe(format!(
            "select coalesce(
                 (select id from {table} where id > $1 order by id offset $2 limit 1),
                 (select id from {table} where id > $1 order by id desc limit 1))"
        )))
        .bind(after)
        .bind(i64::from(size.saturating_sub(1)))
        .fetch_one(&self.pool)
        .await
        .map_err(errors::of(DOING[3]))
    }

    async fn tally(&self, shelf: Shelf, page: Page) -> Result<Vec<Tally>, StoreError> {
        let (table, column) = (shelf.table(), shelf.column());
        if shelf == Shelf::Payload {
            let rows: Vec<(Vec<u8>, i64)> = query_as(AssertSqlSafe(format!(
                "select substr(payload, 1, {PAYLOAD_MARK}), count(*) from event
                 where id > $1 and id <= $2 and length(payload) > 0
                 group by 1"
            )))
            .bind(page.after)
            .bind(page.to)
            .fetch_all(&self.pool)
            .await
            .map_err(errors::of(DOING[0]))?;
            return Ok(tallies(rows, |mark| key_of_payload(&mark)));
        }
        let rows: Vec<(String, i64)> = query_as(AssertSqlSafe(format!(
            "select substr({column}, 1, {COLUMN_MARK}), count(*) from {table}
             where id > $1 and id <= $2 and starts_with({column}, 'fh1.')
             group by 1"
        )))
        .bind(page.after)
        .bind(page.to)
        .fetch_all(&self.pool)
        .await
        .map_err(errors::of(DOING[0]))?;
        Ok(tallies(rows, |mark| key_of_column(&mark)))
    }

    async fn texts(&self, shelf: Shelf, page: Page, primary: u32) -> Result<Vec<SealedText>, StoreError> {
        let column = shelf.column();
        let (row, from) = match shelf {
            Shelf::AuthorizationId => ("i", "null::bytea as index from integration i"),
            _ => ("t", "t.external_id_index as index from account t join integration i on i.id = t.integration_id"),
        };
        let rows: Vec<SealedTextColumns> = query_as(AssertSqlSafe(format!(
            "select {row}.id, i.service, i.external_id as subject, {row}.{column} as value, {from}
             where {row}.id > $1 and {row}.id <= $2 and starts_with({row}.{column}, 'fh1.')
                 and substr({row}.{column}, 1, {COLUMN_MARK}) <> all ($3)
             order by {row}.id"
        )))
        .bind(page.after)
        .bind(page.to)
        .bind(&column_marks(primary)[..])
        .fetch_all(&self.pool)
        .await
        .map_err(errors::of(DOING[1]))?;
        Ok(rows.into_iter().map(SealedTextColumns::read).collect())
    }

    async fn payload_sizes(&self, page: Page, primary: u32) -> Result<Vec<(Uuid, u64)>, StoreError> {
        let rows: Vec<SizeColumns> = query_as(AssertSqlSafe(format!(
            "select id, length(payload)::bigint as size from event
             where id > $1 and id <= $2 and length(payload) > 0 and substr(payload, 1, {PAYLOAD_MARK}) <> $3
             order by id"
        )))
        .bind(page.after)
        .bind(page.to)
        .bind(&payload_mark(primary)[..])
        .fetch_all(&self.pool)
        .await
        .map_err(errors::of(DOING[1]))?;
        Ok(rows.into_iter().map(SizeColumns::read).collect())
    }

    async fn payloads(&self, ids: &[Uuid]) -> Result<Vec<StoredEvent>, StoreError> {
        let rows =
            query_as("select id, provider, dedup_key, attempts, payload from event where id = any ($1) order by id")
                .bind(ids)
                .fetch_all(&self.pool)
                .await
                .map_err(errors::of(DOING[1]))?;
        stored(rows)
    }

    async fn kept(&self, after: Uuid, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let rows = query_as(
            "select id, provider, dedup_key, attempts, payload from event
             where state = 'dead' and split_part(reason, ' ', 1) = any ($1) and length(payload) > 0 and id > $2
             order by id
             limit $3",
        )
        .bind(&KEPT_REASONS.map(|cause| cause.as_str())[..])
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(errors::of(DOING[1]))?;
        stored(rows)
    }

    async fn replace_texts(&self, shelf: Shelf, rows: &[NewText]) -> Result<u64, StoreError> {
        let (table, column) = (shelf.table(), shelf.column());
        let done = query(AssertSqlSafe(format!(
            "with held as (
                 select t.id, new.old, new.value
                 from unnest($1::uuid[], $2::text[], $3::text[]) as new (id, old, value)
                 join {table} t on t.id = new.id and t.{column} = new.old
                 for no key update of t skip locked
             )
             update {table} set {column} = held.value
             from held
             where {table}.id = held.id and {table}.{column} = held.old"
        )))
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.old.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.new.as_str()).collect::<Vec<_>>())
        .execute(&self.pool)
        .await
        .map_err(errors::of(DOING[2]))?;
        Ok(done.rows_affected())
    }

    async fn replace_payloads(&self, rows: &[NewPayload]) -> Result<u64, StoreError> {
        let done = query(AssertSqlSafe(format!(
            "with held as (
                 select t.id, new.header, new.value
                 from unnest($1::uuid[], $2::bytea[], $3::bytea[]) as new (id, header, value)
                 join event t on t.id = new.id and substr(t.payload, 1, {PAYLOAD_HEADER}) = new.header
                 for no key update of t skip locked
             )
             update event set payload = held.value
             from held
             where event.id = held.id and substr(event.payload, 1, {PAYLOAD_HEADER}) = held.header"
        )))
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &row.header[..]).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| Sealed::as_bytes(&row.new)).collect::<Vec<_>>())
        .execute(&self.pool)
        .await
        .map_err(errors::of(DOING[2]))?;
        Ok(done.rows_affected())
    }
}
