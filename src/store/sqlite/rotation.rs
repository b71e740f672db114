//! The statements of a rotation on SQLite. Whoever replaces holds the one writer for a batch, which is kept small.

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection, QueryBuilder, query_as, query_scalar};
use uuid::Uuid;

use super::pieces::{Values, execute};
use super::{Sqlite, errors, stored};
use crate::crypto::asked::{COLUMN_MARK, PAYLOAD_HEADER, PAYLOAD_MARK, column_marks, payload_mark};
use crate::crypto::{Sealed, key_of_column, key_of_payload};
use crate::store::columns::{Id, SealedTextColumns, SizeColumns};
use crate::store::rotation::{
    DOING, KEPT_REASONS, NewPayload, NewText, Page, SealedText, Shelf, Shelves, Tally, tallies,
};
use crate::store::{StoreError, StoredEvent};

#[async_trait]
impl Shelves for Sqlite {
    async fn page_end(&self, shelf: Shelf, after: Uuid, size: u32) -> Result<Option<Uuid>, StoreError> {
        let table = shelf.table();
        // Safe, like all that follow: put together from constants of this crate only.
        let end: Option<Id> = query_scalar(AssertSqlSafe(format!(
            "select coalesce(
                 (select id from {table} where id > $1 order by id limit 1 offset $2),
                 (select id from {table} where id > $1 order by id desc limit 1))"
        )))
        .bind(after.hyphenated())
        .bind(i64::from(size.saturating_sub(1)))
        .fetch_one(&self.readers)
        .await
        .map_err(errors::of(DOING[3]))?;
        Ok(end.map(|id| id.0))
    }

    async fn tally(&self, shelf: Shelf, page: Page) -> Result<Vec<Tally>, StoreError> {
        let (table, column) = (shelf.table(), shelf.column());
        if shelf == Shelf::Payload {
            let rows: Vec<(Vec<u8>, i64)> = query_as(AssertSqlSafe(format!(
                "select substr(payload, 1, {PAYLOAD_MARK}), count(*) from event
                 where id > $1 and id <= $2 and length(payload) > 0
                 group by 1"
            )))
            .bind(page.after.hyphenated())
            .bind(page.to.hyphenated())
            .fetch_all(&self.readers)
            .await
            .map_err(errors::of(DOING[0]))?;
            return Ok(tallies(rows, |mark| key_of_payload(&mark)));
        }
        let rows: Vec<(String, i64)> = query_as(AssertSqlSafe(format!(
            "select substr({column}, 1, {COLUMN_MARK}), count(*) from {table}
             where id > $1 and id <= $2 and substr({column}, 1, 4) = 'fh1.'
             group by 1"
        )))
        .bind(page.after.hyphenated())
        .bind(page.to.hyphenated())
        .fetch_all(&self.readers)
        .await
        .map_err(errors::of(DOING[0]))?;
        Ok(tallies(rows, |mark| key_of_column(&mark)))
    }

    async fn texts(&self, shelf: Shelf, page: Page, primary: u32) -> Result<Vec<SealedText>, StoreError> {
        let column = shelf.column();
        let (row, from) = match shelf {
            Shelf::AuthorizationId => ("i", "null as \"index\" from integration i"),
            _ => ("t", "t.external_id_index as \"index\" from account t join integration i on i.id = t.integration_id"),
        };
        let [one, two, three, four] = column_marks(primary);
        let rows: Vec<SealedTextColumns> = query_as(AssertSqlSafe(format!(
            "select {row}.id, i.service, i.external_id as subject, {row}.{column} as value, {from}
             where {row}.id > $1 and {row}.id <= $2 and substr({row}.{column}, 1, 4) = 'fh1.'
                 and substr({row}.{column}, 1, {COLUMN_MARK}) not in ($3, $4, $5, $6)
             order by {row}.id"
        )))
        .bind(page.after.hyphenated())
        .bind(page.to.hyphenated())
        .bind(one)
        .bind(two)
        .bind(three)
        .bind(four)
        .fetch_all(&self.readers)
        .await
        .map_err(errors::of(DOING[1]))?;
        Ok(rows.into_iter().map(SealedTextColumns::read).collect())
    }

    async fn payload_sizes(&self, page: Page, primary: u32) -> Result<Vec<(Uuid, u64)>, StoreError> {
        let rows: Vec<SizeColumns> = query_as(AssertSqlSafe(format!(
            "select id, length(payload) as size from event
             where id > $1 and id <= $2 and length(payload) > 0 and substr(payload, 1, {PAYLOAD_MARK}) <> $3
             order by id"
        )))
        .bind(page.after.hyphenated())
        .bind(page.to.hyphenated())
        .bind(payload_mark(primary).to_vec())
        .fetch_all(&self.readers)
        .await
        .map_err(errors::of(DOING[1]))?;
        Ok(rows.into_iter().map(SizeColumns::read).collect())
    }

    async fn payloads(&self, ids: &[Uuid]) -> Result<Vec<StoredEvent>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = QueryBuilder::new("select id, provider, dedup_key, attempts, payload from event where id in (");
        let mut wanted = sql.separated(", ");
        for id in ids {
            wanted.push_bind(id.hyphenated());
        }
        sql.push(") order by id");
        stored(sql.build_query_as().fetch_all(&self.readers).await.map_err(errors::of(DOING[1]))?)
    }

    async fn kept(&self, after: Uuid, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let [one, two, three, four] = KEPT_REASONS.map(|cause| cause.as_str());
        let rows = query_as(
            "select id, provider, dedup_key, attempts, payload from event
             where state = 'dead' and substr(reason, 1, instr(reason || ' ', ' ') - 1) in ($1, $2, $3, $4)
                 and length(payload) > 0 and id > $5
             order by id
             limit $6",
        )
        .bind(one)
        .bind(two)
        .bind(three)
        .bind(four)
        .bind(after.hyphenated())
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(errors::of(DOING[1]))?;
        stored(rows)
    }

    async fn replace_texts(&self, shelf: Shelf, rows: &[NewText]) -> Result<u64, StoreError> {
        let (table, column) = (shelf.table(), shelf.column());
        let tail = format!(
            ") update {table} set {column} = new.value from new where {table}.id = new.id and {table}.{column} = new.old"
        );
        let bind = |values: &mut Values<'_>, row: &NewText| {
            values.push_bind(row.id.hyphenated()).push_bind(row.old.clone()).push_bind(row.new.as_str().to_owned());
        };
        let mut connection = self.writer.acquire().await.map_err(errors::of("connect"))?;
        let mut transaction = connection.begin_with("begin immediate").await.map_err(errors::of("begin"))?;
        let done = execute(&mut transaction, DOING[2], ("with new (id, old, value) as (", &tail), rows, bind).await?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(done)
    }

    async fn replace_payloads(&self, rows: &[NewPayload]) -> Result<u64, StoreError> {
        let tail = format!(
            ") update event set payload = new.value from new
             where event.id = new.id and substr(event.payload, 1, {PAYLOAD_HEADER}) = new.header"
        );
        let bind = |values: &mut Values<'_>, row: &NewPayload| {
            let value = Sealed::as_bytes(&row.new).to_vec();
            values.push_bind(row.id.hyphenated()).push_bind(row.header.clone()).push_bind(value);
        };
        let mut connection = self.writer.acquire().await.map_err(errors::of("connect"))?;
        let mut transaction = connection.begin_with("begin immediate").await.map_err(errors::of("begin"))?;
        let done =
            execute(&mut transaction, DOING[2], ("with new (id, header, value) as (", &tail), rows, bind).await?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(done)
    }
}
