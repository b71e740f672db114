//! The statements outside a commit on PostgreSQL: what fails alone, what is due, what waits, and what people look at.

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Postgres, QueryBuilder, query, query_as, query_scalar};
use uuid::Uuid;

use super::binding::{naive, zoned};
use super::statements::SUBJECT_DAYS;
use super::{errors, stored};
use crate::domain::{Cause, Email, EventState, Timestamp, UserId};
use crate::store::SecretUse;
use crate::store::columns::{
    AccountViewColumns, EventColumns, EventCountColumns, IntegrationViewColumns, PendingColumns, ProgressColumns,
    SecretUseColumns, UserViewColumns,
};
use crate::store::{
    AccountView, EventCount, EventFilter, EventRow, IntegrationView, Pending, Progress, RowCounts, StoreError,
    StoredEvent, UserView,
};

/// Leases what is due. `skip locked`: workers that poll at once share the work instead of waiting for each other.
pub async fn take_due(
    pool: &PgPool,
    now: Timestamp,
    lease_until: Timestamp,
    limit: u32,
) -> Result<Vec<StoredEvent>, StoreError> {
    let rows = query_as(
        "update event set next_attempt_at = $2
         where id in (
             select id from event
             where state = 'retrying' and next_attempt_at <= $1
             order by next_attempt_at
             limit $3
             for no key update skip locked
         )
         returning id, provider, dedup_key, attempts, payload",
    )
    .bind(zoned(now))
    .bind(zoned(lease_until))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(errors::of("take due events"))?;
    stored(rows)
}

/// Unlinked events whose subject has a row by now.
pub async fn linkable(pool: &PgPool, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
    let rows = query_as(
        "select e.id, e.provider, e.dedup_key, e.attempts, e.payload
         from event e
         join integration i on i.service = e.provider and i.external_id = e.subject
         where e.state = 'unlinked' and e.id > $1 and i.user_id is not null and i.duplicate_of is null
         order by e.id
         limit $2",
    )
    .bind(after.unwrap_or(Uuid::nil()))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(errors::of("load linkable events"))?;
    stored(rows)
}

/// Unlinked events, whether or not their subject has its user by now.
pub async fn unlinked(pool: &PgPool, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
    let rows = query_as(
        "select e.id, e.provider, e.dedup_key, e.attempts, e.payload
         from event e
         where e.state = 'unlinked' and e.id > $1
         order by e.id
         limit $2",
    )
    .bind(after.unwrap_or(Uuid::nil()))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(errors::of("load unlinked events"))?;
    stored(rows)
}

/// Makes unlinked events dead that waited too long. One that a commit is linking right now is skipped.
pub async fn expire_unlinked(pool: &PgPool, before: Timestamp, limit: u32, now: Timestamp) -> Result<u64, StoreError> {
    let done = query(
        "update event set state = 'dead', reason = $3, processed_at = $4
         where id in (
             select id from event
             where state = 'unlinked' and received_at < $1
             order by received_at
             limit $2
             for no key update skip locked
         )",
    )
    .bind(zoned(before))
    .bind(i64::from(limit))
    .bind(Cause::UnlinkedExpired.as_str())
    .bind(zoned(now))
    .execute(pool)
    .await
    .map_err(errors::of("expire unlinked events"))?;
    Ok(done.rows_affected())
}

/// Deliveries that wait for their key.
pub async fn held(pool: &PgPool, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
    let rows = query_as(
        "select id, provider, dedup_key, attempts, payload
         from event
         where state = 'dead' and starts_with(reason, $1) and id > $2
         order by id
         limit $3",
    )
    .bind(Cause::UnknownKey.as_str())
    .bind(after.unwrap_or(Uuid::nil()))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(errors::of("load held deliveries"))?;
    stored(rows)
}

const EVENT_COLUMNS: &str =
    "id, provider, dedup_key, kind, subject, occurred_at, received_at, processed_at, state, reason,
    attempts, next_attempt_at";

/// Events. The text is built per filter, because a partial index is only found by a literal state.
pub async fn events(pool: &PgPool, filter: &EventFilter) -> Result<Vec<EventRow>, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new(format!("select {EVENT_COLUMNS} from event"));
    narrow(&mut sql, filter);
    sql.push(if filter.oldest_first { " order by id" } else { " order by id desc" });
    sql.push(" limit ").push_bind(i64::from(filter.limit));
    let rows: Vec<EventColumns> = sql.build_query_as().fetch_all(pool).await.map_err(errors::of("list events"))?;
    rows.into_iter().map(EventColumns::read).collect()
}

/// How many events a filter lets through.
pub async fn events_count(pool: &PgPool, filter: &EventFilter) -> Result<u64, StoreError> {
    let mut sql = QueryBuilder::<Postgres>::new("select count(*) from event");
    narrow(&mut sql, filter);
    let count: i64 = sql.build_query_scalar().fetch_one(pool).await.map_err(errors::of("count events"))?;
    Ok(count.unsigned_abs())
}

fn narrow(sql: &mut QueryBuilder<Postgres>, filter: &EventFilter) {
    sql.push(" where true");
    if let Some(ids) = &filter.ids {
        sql.push(" and id = any (").push_bind(ids.clone()).push(")");
    }
    if let Some(state) = filter.state {
        sql.push(format!(" and state = '{}'", state.as_str()));
    }
    if let Some(provider) = &filter.provider {
        sql.push(" and provider = ").push_bind(provider.clone());
    }
    if let Some(kind) = &filter.kind {
        sql.push(" and kind = ").push_bind(kind.clone());
    }
    if let Some(subject) = &filter.subject {
        sql.push(" and subject = ").push_bind(subject.clone()).push(" and ").push(SUBJECT_DAYS);
    }
    if let Some(since) = filter.since {
        sql.push(" and received_at >= ").push_bind(zoned(since));
    }
    if let Some(until) = filter.until {
        sql.push(" and received_at < ").push_bind(zoned(until));
    }
    if let Some(before) = filter.before {
        sql.push(" and id < ").push_bind(before);
    }
    if let Some(after) = filter.after {
        sql.push(" and id > ").push_bind(after);
    }
}

/// Settles events that nothing more is to be done for, if they are still in the state that they were found in.
pub async fn conclude(
    pool: &PgPool,
    ids: &[Uuid],
    (from, to): (EventState, EventState),
    reason: Cause,
    now: Timestamp,
) -> Result<Vec<Uuid>, StoreError> {
    query_scalar(
        "update event set state = $3, reason = $4, next_attempt_at = null, processed_at = $5
         where id = any ($1) and state = $2
         returning id",
    )
    .bind(ids)
    .bind(from.as_str())
    .bind(to.as_str())
    .bind(reason.as_str())
    .bind(zoned(now))
    .fetch_all(pool)
    .await
    .map_err(errors::of("conclude events"))
}

/// One event with its payload.
pub async fn event(pool: &PgPool, id: Uuid) -> Result<Option<(EventRow, Vec<u8>)>, StoreError> {
    let doing = "load an event";
    let mut sql = QueryBuilder::<Postgres>::new(format!("select {EVENT_COLUMNS}, payload from event where id = "));
    let row = sql.push_bind(id).build().fetch_optional(pool).await.map_err(errors::of(doing))?;
    let Some(row) = row else { return Ok(None) };
    let columns: EventColumns = sqlx::FromRow::from_row(&row).map_err(errors::of(doing))?;
    let payload = sqlx::Row::try_get(&row, "payload").map_err(errors::of(doing))?;
    Ok(Some((columns.read()?, payload)))
}

/// The accounts of a user, closed ones too.
pub async fn accounts(pool: &PgPool, user: &UserId) -> Result<Vec<AccountView>, StoreError> {
    let rows: Vec<AccountViewColumns> = query_as(
        r#"select a.id, i.service, i.external_id as integration_external_id, a.external_id, a.external_id_index, a.baas_id,
             a.status, a.status_reason, a.deleted_at
         from "user" u
         join account a on a.user_id = u.id
         join integration i on i.id = a.integration_id
         where u.external_id = $1 and a.duplicate_of is null
         order by i.service, i.external_id, a.id"#,
    )
    .bind(user.as_str())
    .fetch_all(pool)
    .await
    .map_err(errors::of("list accounts"))?;
    rows.into_iter().map(AccountViewColumns::read).collect()
}

/// A user, soft-deleted ones too.
pub async fn user(pool: &PgPool, user: &UserId) -> Result<Option<UserView>, StoreError> {
    let row: Option<UserViewColumns> = query_as(
        r#"select id, external_id, email, deleted_at,
                 case when email is not distinct from email_written then email_verified end as email_verified,
                 (email is not null and not (email is not distinct from email_written)) as email_by_product
             from "user" where external_id = $1"#,
    )
    .bind(user.as_str())
    .fetch_optional(pool)
    .await
    .map_err(errors::of("read a user"))?;
    Ok(row.map(UserViewColumns::read))
}

/// An integration, by its natural key.
pub async fn integration(
    pool: &PgPool,
    service: &str,
    external_id: &str,
) -> Result<Option<IntegrationView>, StoreError> {
    let row: Option<IntegrationViewColumns> = query_as(
        r#"select i.id, i.service, i.external_id, u.external_id as "user", i.owner_rank, i.email, i.email_verified,
            i.authorization_id, i.authorization_key, i.status, i.status_reason, i.deleted_at
         from integration i
         left join "user" u on u.id = i.user_id
         where i.service = $1 and i.external_id = $2 and i.duplicate_of is null"#,
    )
    .bind(service)
    .bind(external_id)
    .fetch_optional(pool)
    .await
    .map_err(errors::of("read an integration"))?;
    Ok(row.map(IntegrationViewColumns::read))
}

/// The integrations that a user owns.
pub async fn integrations(pool: &PgPool, user: &UserId) -> Result<Vec<IntegrationView>, StoreError> {
    let rows: Vec<IntegrationViewColumns> = query_as(
        r#"select i.id, i.service, i.external_id, u.external_id as "user", i.owner_rank, i.email, i.email_verified,
            i.authorization_id, i.authorization_key, i.status, i.status_reason, i.deleted_at
         from "user" u
         join integration i on i.user_id = u.id
         where u.external_id = $1
         order by i.service, i.external_id"#,
    )
    .bind(user.as_str())
    .fetch_all(pool)
    .await
    .map_err(errors::of("list integrations"))?;
    Ok(rows.into_iter().map(IntegrationViewColumns::read).collect())
}

/// Makes a user if there is none, and gives them the product's address. Two statements that may be repeated: dying between
/// them leaves a user without an address, whom the next try gives it.
pub async fn put_user(
    connection: &mut PgConnection,
    user: &UserId,
    email: Option<&Email>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let doing = "write a user";
    let email = email.map(|email| email.address.as_str());
    let made = query(
        r#"insert into "user" (id, external_id, email, created_at, updated_at) values ($1, $2, $3, $4, $4)
         on conflict (external_id) do nothing"#,
    )
    .bind(Uuid::now_v7())
    .bind(user.as_str())
    .bind(email)
    .bind(naive(now))
    .execute(&mut *connection)
    .await
    .map_err(errors::of(doing))?;
    if made.rows_affected() > 0 || email.is_none() {
        return Ok(made.rows_affected() > 0);
    }
    // Where `email` differs from `email_written`, the product wrote it.
    query(
        r#"update "user"
         set email = $2, email_written = null, email_verified = null, email_at = null, email_key = null, updated_at = $3
         where external_id = $1 and deleted_at is null and (email is distinct from $2 or email is not distinct from email_written)"#,
    )
    .bind(user.as_str())
    .bind(email)
    .bind(naive(now))
    .execute(&mut *connection)
    .await
    .map_err(errors::of(doing))?;
    Ok(false)
}

/// How many rows there are.
pub async fn row_counts(pool: &PgPool) -> Result<RowCounts, StoreError> {
    let (user, integration, account): (i64, i64, i64) = query_as(
        r#"select (select count(*) from "user"), (select count(*) from integration), (select count(*) from account)"#,
    )
    .fetch_one(pool)
    .await
    .map_err(errors::of("count rows"))?;
    Ok(RowCounts {
        user: user.unsigned_abs(),
        integration: integration.unsigned_abs(),
        account: account.unsigned_abs(),
    })
}

/// How many events there are, of every state.
pub async fn event_counts(pool: &PgPool) -> Result<Vec<EventCount>, StoreError> {
    counts(
        pool,
        "select provider, state, count(*) as count from event group by provider, state order by provider, state",
    )
    .await
}

/// How many events wait or are dead, and since when: by the partial indexes alone, one branch for each.
pub async fn pending(pool: &PgPool) -> Result<Vec<Pending>, StoreError> {
    let rows: Vec<PendingColumns> = query_as(
        "select provider, state, count(*) as count, min(received_at) as oldest
         from event where state = 'unlinked' group by provider, state
         union all
         select provider, state, count(*) as count, min(received_at) as oldest
         from event where state = 'retrying' group by provider, state
         union all
         select provider, state, count(*) as count, min(received_at) as oldest
         from event where state = 'dead' group by provider, state
         order by provider, state",
    )
    .fetch_all(pool)
    .await
    .map_err(errors::of("count waiting events"))?;
    rows.into_iter().map(PendingColumns::read).collect()
}

/// Notes how far queues are worked off; what is known already stands if it is later.
pub async fn tell_progress(pool: &PgPool, ours: &[Progress]) -> Result<(), StoreError> {
    let (queues, times): (Vec<&str>, Vec<_>) =
        ours.iter().map(|(queue, received_at)| (queue.as_str(), received_at.to_datetime())).unzip();
    // In one order, or two processes would wait for each other.
    query(
        "insert into queue_progress (queue, received_at)
         select * from unnest($1::text[], $2::timestamptz[]) as new (queue, received_at) order by queue
         on conflict (queue) do update set received_at = excluded.received_at
         where queue_progress.received_at < excluded.received_at",
    )
    .bind(queues)
    .bind(times)
    .execute(pool)
    .await
    .map_err(errors::of("tell how far queues are worked off"))?;
    Ok(())
}

/// What time it is at the server.
pub async fn clock(pool: &PgPool) -> Result<Timestamp, StoreError> {
    let (at,): (time::OffsetDateTime,) =
        query_as("select clock_timestamp()").fetch_one(pool).await.map_err(errors::of("ask for the time"))?;
    Ok(Timestamp::from_datetime(at))
}

/// How far each queue is worked off.
pub async fn progress(pool: &PgPool) -> Result<Vec<Progress>, StoreError> {
    let rows: Vec<ProgressColumns> = query_as("select queue, received_at from queue_progress order by queue")
        .fetch_all(pool)
        .await
        .map_err(errors::of("ask how far queues are worked off"))?;
    Ok(rows.into_iter().map(ProgressColumns::read).collect())
}

async fn counts(pool: &PgPool, statement: &'static str) -> Result<Vec<EventCount>, StoreError> {
    let rows: Vec<EventCountColumns> = query_as(statement).fetch_all(pool).await.map_err(errors::of("count events"))?;
    rows.into_iter().map(EventCountColumns::read).collect()
}

/// Wipes payloads that nothing needs any more, oldest first. `skip locked`: what somebody works on is left to a later round.
pub async fn wipe_payloads(pool: &PgPool, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
    let done = query(
        "update event set payload = ''
         where id in (
             select id from event
             where state in ('applied', 'recorded') and payload <> '' and received_at < $1
             order by received_at
             limit $2
             for no key update skip locked
         )",
    )
    .bind(zoned(before))
    .bind(i64::from(limit))
    .execute(pool)
    .await
    .map_err(errors::of("wipe payloads"))?;
    Ok(done.rows_affected())
}

/// Deletes rows that were kept long enough, oldest first.
pub async fn delete_old_events(pool: &PgPool, before: Uuid, limit: u32) -> Result<u64, StoreError> {
    let done = query(
        "delete from event
         where id in (
             select id from event
             where id < $1 and (
                 state in ('applied', 'recorded')
                 or state = 'dead' and not starts_with(coalesce(reason, ''), $2)
             )
             order by id
             limit $3
             for update skip locked
         )",
    )
    .bind(before)
    .bind(Cause::UnknownKey.as_str())
    .bind(i64::from(limit))
    .execute(pool)
    .await
    .map_err(errors::of("delete old events"))?;
    Ok(done.rows_affected())
}

/// Notes when inbound secrets last proved a delivery.
pub async fn note_secrets(pool: &PgPool, used: &[SecretUse]) -> Result<(), StoreError> {
    if used.is_empty() {
        return Ok(());
    }
    let providers: Vec<&str> = used.iter().map(|used| used.provider.as_str()).collect();
    let fingerprints: Vec<&str> = used.iter().map(|used| used.fingerprint.as_str()).collect();
    let times: Vec<_> = used.iter().map(|used| zoned(used.last_verified_at)).collect();
    query(
        "insert into inbound_secret (provider, fingerprint, last_verified_at)
         select * from unnest($1::text[], $2::text[], $3::timestamptz[]) as new (provider, fingerprint, at)
         order by provider, fingerprint
         on conflict (provider, fingerprint) do update
         set last_verified_at = excluded.last_verified_at
         where inbound_secret.last_verified_at < excluded.last_verified_at",
    )
    .bind(providers)
    .bind(fingerprints)
    .bind(times)
    .execute(pool)
    .await
    .map(drop)
    .map_err(errors::of("note used secrets"))
}

/// When inbound secrets last proved a delivery.
pub async fn secrets_used(pool: &PgPool) -> Result<Vec<SecretUse>, StoreError> {
    let rows: Vec<SecretUseColumns> =
        query_as("select provider, fingerprint, last_verified_at from inbound_secret order by provider, fingerprint")
            .fetch_all(pool)
            .await
            .map_err(errors::of("read used secrets"))?;
    Ok(rows.into_iter().map(SecretUseColumns::read).collect())
}
