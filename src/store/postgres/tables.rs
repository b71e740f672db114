//! The statements of a commit on PostgreSQL: static text (so that each is prepared once per connection), rows by `unnest`,
//! locks and writes in the order of their keys.
//!
//! Row locks are `for no key update`: they exclude every other writer, but not the `key share` that a foreign key takes on
//! a parent, so that two batches which own rows of each other's users do not wait in a circle.

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::{Query, QueryAs};
use sqlx::{Arguments, Postgres, SqlSafeStr, query, query_as, query_scalar, query_with};
use time::{OffsetDateTime, PrimitiveDateTime};
use uuid::Uuid;

use super::{changes, errors};
use crate::crypto::{Column, Sealed};
use crate::domain::register::Address;
use crate::domain::{Clock, Timestamp, UserId};
use crate::store::aside::TAKES_ITS_PLACE;
use crate::store::columns::{
    AccountColumns, CopyColumns, IntegrationColumns, OwnedAddressColumns, StoredColumns, UserAddressColumns,
    UserColumns,
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

type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

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

fn at(clock: Option<&Clock>) -> Option<i64> {
    clock.map(|clock| clock.at.micros())
}

fn key(clock: Option<&Clock>) -> Option<&[u8]> {
    clock.map(|clock| clock.key.as_bytes())
}

const LOCK_SUBJECTS: &str = "
    select pg_advisory_xact_lock_shared(7236, 0)
    union all
    select pg_advisory_xact_lock(held.value)
    from (
        select distinct hashtextextended(wanted.service || ':' || wanted.external_id, 7236) as value
        from unnest($1::text[], $2::text[]) as wanted (service, external_id)
        order by value
    ) as held";

const INTEGRATIONS: &str = r#"
    select i.id, i.service, i.external_id, i.user_id, u.external_id as owner, i.owner_rank, i.owner_at, i.owner_key,
        i.status, i.status_reason, i.status_final, i.status_at, i.status_key, i.deleted_at,
        i.closing_status, i.closing_final, i.closing_at, i.closing_key,
        i.email, i.email_verified, i.email_at, i.email_key, i.authorization_at, i.authorization_key, i.observed_at
    from unnest($1::text[], $2::text[]) as wanted (service, external_id)
    join integration i on i.service = wanted.service and i.external_id = wanted.external_id
    left join "user" u on u.id = i.user_id
    where i.duplicate_of is null
    order by i.service, i.external_id
    for no key update of i"#;

/// What inserts rows has `unnest` in its list of columns and not in `from`, where each array would go through a temporary
/// store of its own.
macro_rules! insert_event_rows {
    () => {
        "
    insert into event (id, occurred_at, received_at, processed_at, next_attempt_at, attempts, provider, state, dedup_key,
        kind, subject, reason, payload, user_mark)
    select unnest($1::uuid[]), unnest($2::timestamptz[]), unnest($3::timestamptz[]), $13::timestamptz,
        unnest($4::timestamptz[]), unnest($5::int[]), unnest($6::text[]), unnest($7::text[]), unnest($8::bytea[]),
        unnest($9::text[]), unnest($10::text[]), unnest($11::text[]), unnest($12::bytea[]), unnest($14::bytea[])"
    };
}

const INSERT_EVENTS: &str = concat!(
    insert_event_rows!(),
    "
    on conflict (provider, dedup_key) do nothing"
);

const BURY: &str = "
    insert into tombstone (mark, of_user, at, pending, service, subject)
    select new.mark, new.of_user, $5, true, new.service, new.subject
    from unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[]) as new (mark, of_user, service, subject)
    on conflict (mark) do update
    set pending = true, service = excluded.service, subject = excluded.subject";

const UPDATE_EVENTS: &str = "
    update event
    set occurred_at = new.occurred_at, received_at = new.received_at, processed_at = $13,
        next_attempt_at = new.next_attempt_at, attempts = new.attempts, state = new.state, kind = new.kind,
        subject = new.subject, reason = new.reason, user_mark = new.user_mark,
        payload = case when length(new.payload) > 0 then new.payload else event.payload end
    from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::int[], $6::text[], $7::text[],
        $8::bytea[], $9::text[], $10::text[], $11::text[], $12::bytea[], $14::bytea[])
        as new (id, occurred_at, received_at, next_attempt_at, attempts, provider, state, dedup_key, kind, subject, reason,
            payload, user_mark)
    where event.provider = new.provider and event.dedup_key = new.dedup_key";

const STORED_COPIES: &str = "
    select e.id, e.provider, e.dedup_key, e.state, e.occurred_at, e.received_at
    from unnest($1::text[], $2::bytea[]) as wanted (provider, dedup_key)
    join event e on e.provider = wanted.provider and e.dedup_key = wanted.dedup_key
    order by e.provider, e.dedup_key
    for no key update of e";

const UNLINKED: &str = "
    select e.id, e.provider, e.dedup_key, e.attempts, e.payload
    from unnest($1::text[], $2::text[]) as wanted (provider, subject)
    join event e on e.provider = wanted.provider and e.subject = wanted.subject and e.state = 'unlinked'
    order by e.id
    limit $3
    for no key update of e";

const INSERT_INTEGRATIONS: &str = "
    insert into integration (id, service, external_id, user_id, owner_rank, owner_at, owner_key, status, status_reason,
        status_final, status_at, status_key, deleted_at, closing_status, closing_final, closing_at, closing_key, email,
        email_verified, email_at, email_key, authorization_at, authorization_key, observed_at, authorization_id,
        created_at, updated_at)
    select unnest($1::uuid[]), unnest($2::text[]), unnest($3::text[]), unnest($4::uuid[]), unnest($5::smallint[]),
        unnest($6::bigint[]), unnest($7::bytea[]), unnest($8::text[]), unnest($9::text[]), unnest($10::bool[]),
        unnest($11::bigint[]), unnest($12::bytea[]), unnest($13::timestamp[]), unnest($14::text[]), unnest($15::bool[]),
        unnest($16::bigint[]), unnest($17::bytea[]), unnest($18::text[]), unnest($19::bool[]), unnest($20::bigint[]),
        unnest($21::bytea[]), unnest($22::bigint[]), unnest($23::bytea[]), unnest($24::timestamp[]), unnest($25::text[]),
        $26::timestamp, $26::timestamp
    on conflict do nothing";

const UPDATE_INTEGRATIONS: &str = "
    update integration
    set user_id = new.user_id, owner_rank = new.owner_rank, owner_at = new.owner_at, owner_key = new.owner_key,
        status = new.status, status_reason = new.status_reason, status_final = new.status_final,
        status_at = new.status_at, status_key = new.status_key, deleted_at = new.deleted_at,
        closing_status = new.closing_status, closing_final = new.closing_final, closing_at = new.closing_at,
        closing_key = new.closing_key, email = new.email, email_verified = new.email_verified, email_at = new.email_at,
        email_key = new.email_key, authorization_at = new.authorization_at, authorization_key = new.authorization_key,
        observed_at = new.observed_at,
        authorization_id = coalesce(new.authorization_id, integration.authorization_id), updated_at = $26
    from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::smallint[], $6::bigint[], $7::bytea[], $8::text[],
        $9::text[], $10::bool[], $11::bigint[], $12::bytea[], $13::timestamp[], $14::text[], $15::bool[], $16::bigint[],
        $17::bytea[], $18::text[], $19::bool[], $20::bigint[], $21::bytea[], $22::bigint[], $23::bytea[],
        $24::timestamp[], $25::text[])
        as new (id, service, external_id, user_id, owner_rank, owner_at, owner_key, status, status_reason, status_final,
            status_at, status_key, deleted_at, closing_status, closing_final, closing_at, closing_key, email,
            email_verified, email_at, email_key, authorization_at, authorization_key, observed_at, authorization_id)
    where integration.id = new.id";

const ACCOUNTS: &str = "
    select id, integration_id, user_id, external_id_index, baas_id_index, status, status_reason, status_at, status_key,
        deleted_at, observed_at,
        case when external_id_index is null and duplicate_of is null then external_id end as unindexed_external_id,
        case when external_id_index is null and duplicate_of is null then baas_id end as unindexed_baas_id
    from account
    where id in (
        select a.id
        from unnest($1::uuid[], $2::bytea[]) as wanted (integration_id, external_id_index)
        join account a
            on a.integration_id = wanted.integration_id and a.external_id_index = wanted.external_id_index
        union
        select id from account where integration_id = any($3::uuid[])
        union
        select id from account
        where integration_id = any($1::uuid[]) and external_id_index is null and duplicate_of is null
    )
    order by id
    for no key update";

const INSERT_ACCOUNTS: &str = "
    insert into account (id, integration_id, user_id, external_id_index, baas_id_index, status, status_reason, status_at,
        status_key, deleted_at, observed_at, external_id, baas_id, created_at, updated_at)
    select unnest($1::uuid[]), unnest($2::uuid[]), unnest($3::uuid[]), unnest($4::bytea[]), unnest($5::bytea[]),
        unnest($6::text[]), unnest($7::text[]), unnest($8::bigint[]), unnest($9::bytea[]), unnest($10::timestamp[]),
        unnest($11::timestamp[]), unnest($12::text[]), unnest($13::text[]), $14::timestamp, $14::timestamp
    on conflict (integration_id, external_id_index) do nothing";

const UPDATE_ACCOUNTS: &str = "
    update account
    set user_id = new.user_id, external_id_index = coalesce(account.external_id_index, new.external_id_index),
        baas_id_index = new.baas_id_index, status = new.status, status_reason = new.status_reason,
        status_at = new.status_at, status_key = new.status_key, deleted_at = new.deleted_at,
        observed_at = new.observed_at,
        external_id = coalesce(new.external_id, account.external_id), baas_id = coalesce(new.baas_id, account.baas_id),
        updated_at = $14
    from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bytea[], $5::bytea[], $6::text[], $7::text[], $8::bigint[],
        $9::bytea[], $10::timestamp[], $11::timestamp[], $12::text[], $13::text[])
        as new (id, integration_id, user_id, external_id_index, baas_id_index, status, status_reason, status_at,
            status_key, deleted_at, observed_at, external_id, baas_id)
    where account.id = new.id";

const KEEP_ORIGINALS: &str = "
    insert into moved_in (id, integration_id, external_id, baas_id, deleted_at)
    select id, integration_id, external_id, baas_id, deleted_at from account where id = any($1)
    on conflict (id) do nothing";

const USER_ADDRESSES: &str = r#"
    select id, email, email_verified, email_key,
        case when email is not distinct from email_written then email_at end as email_at
    from "user"
    where id = any($1)
    order by id
    for no key update"#;

const OWNED_ADDRESSES: &str = "
    select user_id, email, email_verified, email_at, email_key
    from integration
    where user_id = any($1) and email is not null and email_at is not null";

const WRITE_USER_ADDRESSES: &str = r#"
    update "user"
    set email = new.email, email_written = new.email, email_verified = new.email_verified, email_at = new.email_at,
        email_key = new.email_key, updated_at = $6
    from unnest($1::uuid[], $2::text[], $3::bool[], $4::bigint[], $5::bytea[])
        as new (id, email, email_verified, email_at, email_key)
    where "user".id = new.id"#;

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

fn bind_integrations<'q>(
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

fn bind_accounts<'q>(statement: PgQuery<'q>, rows: &[(AccountRow, SealedIds)], now: Timestamp) -> PgQuery<'q> {
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
        let stored = query(
            "delete from event e
             using unnest($1::text[], $2::text[]) as gone (provider, subject)
             where e.provider = gone.provider and e.subject = gone.subject",
        )
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
