//! How rows become the arrays of a statement on PostgreSQL.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Arguments, Postgres, SqlSafeStr, query_with};
use time::{OffsetDateTime, PrimitiveDateTime};

#[cfg(doc)]
use super::statements::{
    INSERT_ACCOUNTS, INSERT_EVENTS, INSERT_INTEGRATIONS, UPDATE_ACCOUNTS, UPDATE_EVENTS, UPDATE_INTEGRATIONS,
};
use crate::crypto::{Column, Sealed};
use crate::domain::Timestamp;
use crate::store::columns::{at, key};
use crate::store::rows::{AccountRow, IntegrationRow, NewEvent, SealedIds};

/// A statement with what is bound to it.
pub type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

/// Columns of type `timestamptz` take this.
pub fn zoned(at: Timestamp) -> OffsetDateTime {
    at.to_datetime()
}

/// The product's columns of type `timestamp` (UTC, no zone) take this.
pub fn naive(at: Timestamp) -> PrimitiveDateTime {
    let at = at.to_datetime();
    PrimitiveDateTime::new(at.date(), at.time())
}

/// One array per column, from the same rows: `unnest` would fill a shorter one up with nulls without a word.
macro_rules! column {
    ($rows:expr, |$row:pat_param| $value:expr) => {
        $rows.iter().map(|$row| $value).collect::<Vec<_>>()
    };
}
pub(super) use column;

/// A row's columns in a statement, all but its payload.
const EVENT_BYTES: usize = 256;

/// Binds the columns that [`INSERT_EVENTS`] and [`UPDATE_EVENTS`] unnest.
pub fn bind_events<'q>(statement: impl SqlSafeStr, events: &[NewEvent], now: Timestamp) -> PgQuery<'q> {
    // Room for all of it at once: growing to half a megabyte would copy it several times.
    let mut arguments = PgArguments::default();
    arguments.reserve(14, events.iter().map(|event| event.payload.len() + EVENT_BYTES).sum());
    query_with(statement, arguments)
        .bind(column!(events, |e| e.id))
        .bind(column!(events, |e| zoned(e.occurred_at)))
        .bind(column!(events, |e| zoned(e.received_at)))
        .bind(column!(events, |e| e.next_attempt_at.map(zoned)))
        .bind(column!(events, |e| i32::try_from(e.attempts).unwrap_or(i32::MAX)))
        .bind(column!(events, |e| e.key.0.as_str()))
        .bind(column!(events, |e| e.state.as_str()))
        .bind(column!(events, |e| e.key.1.as_bytes()))
        .bind(column!(events, |e| e.kind.as_deref()))
        .bind(column!(events, |e| e.subject.as_deref()))
        .bind(column!(events, |e| e.reason.as_deref()))
        .bind(column!(events, |e| &e.payload[..]))
        .bind(zoned(now))
        .bind(column!(events, |e| e.user_mark.as_deref()))
}

/// Binds the columns that [`INSERT_INTEGRATIONS`] and [`UPDATE_INTEGRATIONS`] unnest.
pub fn bind_integrations<'q>(
    statement: PgQuery<'q>,
    rows: &[(IntegrationRow, Option<Sealed<Column>>)],
    now: Timestamp,
) -> PgQuery<'q> {
    statement
        .bind(column!(rows, |(i, _)| i.id))
        .bind(column!(rows, |(i, _)| i.service.as_str()))
        .bind(column!(rows, |(i, _)| i.external_id.as_str()))
        .bind(column!(rows, |(i, _)| i.user_id))
        .bind(column!(rows, |(i, _)| i.owner.as_ref().map(|owner| owner.rank.number())))
        .bind(column!(rows, |(i, _)| at(i.owner.as_ref().map(|owner| &owner.clock))))
        .bind(column!(rows, |(i, _)| key(i.owner.as_ref().map(|owner| &owner.clock))))
        .bind(column!(rows, |(i, _)| i.status.status.as_str()))
        .bind(column!(rows, |(i, _)| i.status.reason.as_deref()))
        .bind(column!(rows, |(i, _)| i.status.is_final))
        .bind(column!(rows, |(i, _)| at(i.status.clock.as_ref())))
        .bind(column!(rows, |(i, _)| key(i.status.clock.as_ref())))
        .bind(column!(rows, |(i, _)| i.status.deleted_at.map(naive)))
        .bind(column!(rows, |(i, _)| i.closing.as_ref().map(|closing| closing.status.as_str())))
        .bind(column!(rows, |(i, _)| i.closing.as_ref().is_some_and(|closing| closing.is_final)))
        .bind(column!(rows, |(i, _)| at(i.closing.as_ref().map(|closing| &closing.clock))))
        .bind(column!(rows, |(i, _)| key(i.closing.as_ref().map(|closing| &closing.clock))))
        .bind(column!(rows, |(i, _)| i.address.as_ref().map(|address| address.email.address.as_str())))
        .bind(column!(rows, |(i, _)| i.address.as_ref().map(|address| address.email.verified)))
        .bind(column!(rows, |(i, _)| at(i.address.as_ref().map(|address| &address.clock))))
        .bind(column!(rows, |(i, _)| key(i.address.as_ref().map(|address| &address.clock))))
        .bind(column!(rows, |(i, _)| at(i.authorization.as_ref())))
        .bind(column!(rows, |(i, _)| key(i.authorization.as_ref())))
        .bind(column!(rows, |(i, _)| i.observed_at.map(naive)))
        .bind(column!(rows, |(_, token)| token.as_ref().map(Sealed::as_str)))
        .bind(naive(now))
}

/// Binds the columns that [`INSERT_ACCOUNTS`] and [`UPDATE_ACCOUNTS`] unnest.
pub fn bind_accounts<'q>(statement: PgQuery<'q>, rows: &[(AccountRow, SealedIds)], now: Timestamp) -> PgQuery<'q> {
    statement
        .bind(column!(rows, |(a, _)| a.id))
        .bind(column!(rows, |(a, _)| a.integration_id))
        .bind(column!(rows, |(a, _)| a.user_id))
        .bind(column!(rows, |(a, _)| a.external_id_index.as_deref()))
        .bind(column!(rows, |(a, _)| a.baas_id_index.as_deref()))
        .bind(column!(rows, |(a, _)| a.status.status.as_str()))
        .bind(column!(rows, |(a, _)| a.status.reason.as_deref()))
        .bind(column!(rows, |(a, _)| at(a.status.clock.as_ref())))
        .bind(column!(rows, |(a, _)| key(a.status.clock.as_ref())))
        .bind(column!(rows, |(a, _)| a.status.deleted_at.map(naive)))
        .bind(column!(rows, |(a, _)| a.observed_at.map(naive)))
        .bind(column!(rows, |(_, ids)| ids.external_id.as_ref().map(Sealed::as_str)))
        .bind(column!(rows, |(_, ids)| ids.baas_id.as_ref().map(Sealed::as_str)))
        .bind(naive(now))
}
