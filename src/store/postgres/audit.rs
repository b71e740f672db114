//! The audit trail on PostgreSQL.

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Postgres, QueryBuilder, query};

use super::binding::zoned;
use super::errors;
use crate::crypto::BlindIndex;
use crate::store::StoreError;
use crate::store::audit::{About, AuditFilter, AuditRow, NewAudit};
use crate::store::columns::AuditColumns;

/// Writes an entry.
pub async fn insert(connection: &mut PgConnection, row: &NewAudit) -> Result<(), StoreError> {
    query(
        "insert into audit (id, at, actor, act, target, target_index, reason, detail)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(row.id)
    .bind(zoned(row.at))
    .bind(&row.actor)
    .bind(row.act)
    .bind(&row.target)
    .bind(&row.target_index)
    .bind(&row.reason)
    .bind(&row.detail)
    .execute(connection)
    .await
    .map(drop)
    .map_err(errors::of("write the audit trail"))
}

/// Entries, newest first.
pub async fn list(pool: &PgPool, filter: &AuditFilter, index: &BlindIndex) -> Result<Vec<AuditRow>, StoreError> {
    let mut sql =
        QueryBuilder::<Postgres>::new("select id, at, actor, act, target, reason, detail from audit where true");
    if let Some(act) = &filter.act {
        sql.push(" and act = ").push_bind(act.clone());
    }
    if let Some(actor) = &filter.actor {
        sql.push(" and actor = ").push_bind(actor.clone());
    }
    if let Some(mark) = filter.mark(index) {
        sql.push(" and target_index = ").push_bind(mark);
    }
    if let Some(About::Thing(thing)) = &filter.about {
        sql.push(" and target = ").push_bind(thing.clone());
    }
    if let Some(since) = filter.since {
        sql.push(" and at >= ").push_bind(zoned(since));
    }
    if let Some(until) = filter.until {
        sql.push(" and at < ").push_bind(zoned(until));
    }
    if let Some(before) = filter.before {
        sql.push(" and id < ").push_bind(before);
    }
    sql.push(" order by id desc limit ").push_bind(i64::from(filter.limit));
    let doing = errors::of("list the audit trail");
    let rows: Vec<AuditColumns> = sql.build_query_as().fetch_all(pool).await.map_err(doing)?;
    Ok(rows.into_iter().map(AuditColumns::read).collect())
}
