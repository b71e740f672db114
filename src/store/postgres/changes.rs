//! Changed rows on PostgreSQL: told to whoever listens, and kept for the exchange until they are told there.
//!
//! `notify` costs: every transaction with one takes a lock of the whole server while it commits, so such commits go one after
//! the other. Measured with 64 notifications each (PostgreSQL 15, 8 connections): 177 commits a second instead of 1,885. A
//! worker commits hundreds of events at a time, so that is no limit here; where it is one, `FINHOOK_NOTIFY=false`.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{query, query_as};
use uuid::Uuid;

use super::binding::zoned;
use super::errors;
use crate::domain::{ChangedRow, Timestamp, changed};
use crate::store::StoreError;
use crate::store::columns::ChangedColumns;

/// Whether the last commit found the queue of notifications nearly full.
static FULL: AtomicBool = AtomicBool::new(false);

/// Notifies `finhook_changes` when the transaction commits, once for each row: one message for all would not fit into the
/// 8,000 bytes that one may have. A listener that sleeps in a transaction keeps the server's queue (8 GiB) from being
/// emptied, and a full one would make every commit fail: before that we keep silent.
pub async fn notify(connection: &mut PgConnection, rows: &[(&'static str, Uuid)]) -> Result<(), StoreError> {
    let messages: Vec<String> = rows.iter().map(|(table, id)| changed::message(table, *id)).collect();
    let told = query(
        "select pg_notify('finhook_changes', unnest($1::text[]))
         where (select pg_notification_queue_usage()) < 0.9",
    )
    .bind(&messages)
    .execute(connection)
    .await
    .map_err(errors::of("notify listeners"))?
    .rows_affected();
    let full = told < messages.len() as u64;
    if full && !FULL.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "listeners are not notified: the server's queue is nearly full, a listener sleeps in a transaction"
        );
    } else if !full && FULL.swap(false, Ordering::Relaxed) {
        tracing::info!("listeners are notified again");
    }
    Ok(())
}

/// Keeps rows until they are told. The update changes nothing but locks the row that waits already, so that nobody takes it
/// before this transaction is through: what was told then would have been read without it.
pub async fn keep(connection: &mut PgConnection, rows: &[(&'static str, Uuid)]) -> Result<(), StoreError> {
    let (tables, ids): (Vec<&str>, Vec<Uuid>) = rows.iter().copied().unzip();
    query(
        "insert into changed_row (table_name, row_id) select * from unnest($1::text[], $2::uuid[])
         on conflict (table_name, row_id) where taken_until is null do update set table_name = excluded.table_name",
    )
    .bind(&tables)
    .bind(&ids)
    .execute(connection)
    .await
    .map(drop)
    .map_err(errors::of("keep changed rows"))
}

/// Leases the oldest. `skip locked`: workers that look at once share what there is.
pub async fn take(
    pool: &PgPool,
    now: Timestamp,
    lease_until: Timestamp,
    limit: u32,
) -> Result<Vec<ChangedRow>, StoreError> {
    let rows: Vec<ChangedColumns> = query_as(
        "update changed_row set taken_until = $2
         where seq in (
             select seq from changed_row
             where taken_until is null or taken_until <= $1
             order by seq
             limit $3
             for update skip locked
         )
         returning seq, table_name, row_id",
    )
    .bind(zoned(now))
    .bind(zoned(lease_until))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(errors::of("take changed rows"))?;
    Ok(rows.into_iter().map(ChangedColumns::read).collect())
}

/// Removes what was told.
pub async fn forget(pool: &PgPool, seqs: &[i64]) -> Result<(), StoreError> {
    let statement = query("delete from changed_row where seq = any($1)").bind(seqs.to_vec());
    statement.execute(pool).await.map(drop).map_err(errors::of("forget changed rows"))
}
