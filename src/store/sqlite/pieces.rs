//! Multi-row statements on SQLite: `head values (…), (…) tail`, in pieces of few different sizes.
//!
//! A statement's text depends on its number of rows. Pieces of 256, 64, 16, 4 and 1 keep the number of texts small, so that
//! each is prepared once per connection, and stay under the limit of 32,766 bound values.

use sqlx::query_builder::Separated;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{FromRow, QueryBuilder};

use super::errors;
use crate::store::StoreError;

const SIZES: [usize; 5] = [256, 64, 16, 4, 1];

/// One row's bound values.
pub type Values<'b> = Separated<'b, Sqlite, &'static str>;

/// Sends a statement over all rows; how many rows it changed.
pub async fn execute<T>(
    connection: &mut SqliteConnection,
    doing: &'static str,
    (head, tail): (&str, &str),
    rows: &[T],
    bind: fn(&mut Values<'_>, &T),
) -> Result<u64, StoreError> {
    let mut changed = 0;
    for piece in pieces(rows) {
        let mut sql = statement(head, tail, piece, bind);
        let done = sql.build().execute(&mut *connection).await.map_err(errors::of(doing))?;
        changed += done.rows_affected();
    }
    Ok(changed)
}

/// Sends a statement over all rows; what it gives back, as `C` has its columns and `read` understands them.
pub async fn load<T, C, R>(
    connection: &mut SqliteConnection,
    doing: &'static str,
    (head, tail): (&str, &str),
    rows: &[T],
    bind: fn(&mut Values<'_>, &T),
    read: fn(C) -> Result<R, StoreError>,
) -> Result<Vec<R>, StoreError>
where
    C: for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
{
    let mut loaded = Vec::new();
    for piece in pieces(rows) {
        let mut sql = statement(head, tail, piece, bind);
        let columns: Vec<C> = sql.build_query_as().fetch_all(&mut *connection).await.map_err(errors::of(doing))?;
        for columns in columns {
            loaded.push(read(columns)?);
        }
    }
    Ok(loaded)
}

fn statement<T>(head: &str, tail: &str, piece: &[T], bind: fn(&mut Values<'_>, &T)) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::new(head);
    sql.push(" ");
    sql.push_values(piece, |mut values, row| bind(&mut values, row));
    sql.push(tail);
    sql
}

fn pieces<T>(mut rows: &[T]) -> Vec<&[T]> {
    let mut pieces = Vec::new();
    for size in SIZES {
        while let Some((piece, rest)) = rows.split_at_checked(size) {
            pieces.push(piece);
            rows = rest;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_every_row_once_in_order() {
        for count in [0, 1, 3, 4, 83, 256, 1024, 1025] {
            let rows: Vec<usize> = (0..count).collect();
            assert_eq!(pieces(&rows).concat(), rows);
            assert!(pieces(&rows).iter().all(|piece| SIZES.contains(&piece.len())));
        }
    }
}
