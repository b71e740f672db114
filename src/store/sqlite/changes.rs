//! Changed rows on SQLite, kept for the exchange until they are told there. Nobody can listen at a file.

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{query, query_as};
use uuid::Uuid;

use super::errors;
use super::pieces::{Values, execute};
use crate::domain::{ChangedRow, Timestamp};
use crate::store::StoreError;
use crate::store::columns::ChangedColumns;

/// One that waits already is told once; the transaction has the only writer, so nobody takes it meanwhile.
const KEEP: (&str, &str) = (
    "insert into changed_row (table_name, row_id)",
    " on conflict (table_name, row_id) where taken_until is null do nothing",
);

/// Keeps rows until they are told.
pub async fn keep(connection: &mut SqliteConnection, rows: &[(&'static str, Uuid)]) -> Result<(), StoreError> {
    let bind = |values: &mut Values<'_>, (table, id): &(&'static str, Uuid)| {
        values.push_bind(*table).push_bind(id.hyphenated());
    };
    execute(connection, "keep changed rows", KEEP, rows, bind).await.map(drop)
}

/// Leases the oldest.
pub async fn take(
    pool: &SqlitePool,
    now: Timestamp,
    lease_until: Timestamp,
    limit: u32,
) -> Result<Vec<ChangedRow>, StoreError> {
    let rows: Vec<ChangedColumns> = query_as(
        "update changed_row set taken_until = $2
         where seq in (
             select seq from changed_row where taken_until is null or taken_until <= $1 order by seq limit $3
         )
         returning seq, table_name, row_id",
    )
    .bind(now.micros())
    .bind(lease_until.micros())
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(errors::of("take changed rows"))?;
    Ok(rows.into_iter().map(ChangedColumns::read).collect())
}

/// Removes what was told.
pub async fn forget(pool: &SqlitePool, seqs: &[i64]) -> Result<(), StoreError> {
    let list = seqs.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    let statement =
        query("delete from changed_row where seq in (select value from json_each(?))").bind(format!("[{list}]"));
    statement.execute(pool).await.map(drop).map_err(errors::of("forget changed rows"))
}
