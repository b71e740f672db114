//! The statements outside a commit on SQLite: what fails alone, what is due, what waits, and what people look at.

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{Connection, QueryBuilder, Sqlite, query, query_as};
use uuid::Uuid;

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

/// Leases what is due, in one statement: no other process can take the same rows.
pub async fn take_due(
    pool: &SqlitePool,
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
         )
         returning id, provider, dedup_key, attempts, payload",
    )
    .bind(now.micros())
    .bind(lease_until.micros())
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(errors::of("take due events"))?;
    stored(rows)
}

/// Unlinked events whose subject has a row by now.
pub async fn linkable(pool: &SqlitePool, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
    let rows = query_as(
        "select e.id, e.provider, e.dedup_key, e.attempts, e.payload
         from event e
         join integration i on i.service = e.provider and i.external_id = e.subject
         where e.state = 'unlinked' and e.id > $1 and i.user_id is not null and i.duplicate_of is null
         order by e.id
         limit $2",
    )
    .bind(after.unwrap_or(Uuid::nil()).hyphenated())
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(errors::of("load linkable events"))?;
    stored(rows)
}

/// Unlinked events, whether or not their subject has its user by now.
pub async fn unlinked(pool: &SqlitePool, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
    let rows = query_as(
        "select e.id, e.provider, e.dedup_key, e.attempts, e.payload
         from event e
         where e.state = 'unlinked' and e.id > $1
         order by e.id
         limit $2",
    )
    .bind(after.unwrap_or(Uuid::nil()).hyphenated())
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(errors::of("load unlinked events"))?;
    stored(rows)
}

/// Makes unlinked events dead that waited too long.
pub async fn expire_unlinked(
    pool: &SqlitePool,
    before: Timestamp,
    limit: u32,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let done = query(
        "update event set state = 'dead', reason = $3, processed_at = $4
         where id in (
             select id from event
             where state = 'unlinked' and received_at < $1
             order by received_at
             limit $2
         )",
    )
    .bind(before.micros())
    .bind(i64::from(limit))
    .bind(Cause::UnlinkedExpired.as_str())
    .bind(now.micros())
    .execute(pool)
    .await
    .map_err(errors::of("expire unlinked events"))?;
    Ok(done.rows_affected())
}

/// Deliveries that wait for their key.
pub async fn held(pool: &SqlitePool, after: Option<Uuid>, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
    let rows = query_as(
        "select id, provider, dedup_key, attempts, payload
         from event
         where state = 'dead' and substr(reason, 1, length($1)) = $1 and id > $2
         order by id
         limit $3",
    )
    .bind(Cause::UnknownKey.as_str())
    .bind(after.unwrap_or(Uuid::nil()).hyphenated())
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
pub async fn events(pool: &SqlitePool, filter: &EventFilter) -> Result<Vec<EventRow>, StoreError> {
    let mut sql = QueryBuilder::<Sqlite>::new(format!("select {EVENT_COLUMNS} from event"));
    narrow(&mut sql, filter);
    sql.push(if filter.oldest_first { " order by id" } else { " order by id desc" });
    sql.push(" limit ").push_bind(i64::from(filter.limit));
    let rows: Vec<EventColumns> = sql.build_query_as().fetch_all(pool).await.map_err(errors::of("list events"))?;
    rows.into_iter().map(EventColumns::read).collect()
}

/// How many events a filter lets through.
pub async fn events_count(pool: &SqlitePool, filter: &EventFilter) -> Result<u64, StoreError> {
    let mut sql = QueryBuilder::<Sqlite>::new("select count(*) from event");
    narrow(&mut sql, filter);
    let count: i64 = sql.build_query_scalar().fetch_one(pool).await.map_err(errors::of("count events"))?;
    Ok(count.unsigned_abs())
}

fn narrow(sql: &mut QueryBuilder<Sqlite>, filter: &EventFilter) {
    sql.push(" where true");
    if let Some(ids) = &filter.ids {
        sql.push(" and id in (");
        let mut list = sql.separated(", ");
        ids.iter().for_each(|id| {
            list.push_bind(id.hyphenated());
        });
        sql.push(")");
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
        sql.push(" and received_at >= ").push_bind(since.micros());
    }
    if let Some(until) = filter.until {
        sql.push(" and received_at < ").push_bind(until.micros());
    }
    if let Some(before) = filter.before {
        sql.push(" and id < ").push_bind(before.hyphenated());
    }
    if let Some(after) = filter.after {
        sql.push(" and id > ").push_bind(after.hyphenated());
    }
}

/// Settles events that nothing more is to be done for, if they are still in the state that they were found in.
pub async fn conclude(
    pool: &SqlitePool,
    ids: &[Uuid],
    (from, to): (EventState, EventState),
    reason: Cause,
    now: Timestamp,
) -> Result<Vec<Uuid>, StoreError> {
    let doing = "conclude events";
    let mut connection = pool.acquire().await.map_err(errors::of("connect"))?;
    let mut transaction = connection.begin_with("begin immediate").await.map_err(errors::of("begin"))?;
    let mut concluded = Vec::new();
    for id in ids {
        let done = query(
            "update event set state = $3, reason = $4, next_attempt_at = null, processed_at = $5
             where id = $1 and state = $2",
        )
        .bind(id.hyphenated())
        .bind(from.as_str())
        .bind(to.as_str())
        .bind(reason.as_str())
        .bind(now.micros())
        .execute(&mut *transaction)
        .await
        .map_err(errors::of(doing))?;
        if done.rows_affected() > 0 {
            concluded.push(*id);
        }
    }
    transaction.commit().await.map_err(errors::of("commit"))?;
    Ok(concluded)
}

/// One event with its payload.
pub async fn event(pool: &SqlitePool, id: Uuid) -> Result<Option<(EventRow, Vec<u8>)>, StoreError> {
    let doing = "load an event";
    let mut sql = QueryBuilder::<Sqlite>::new(format!("select {EVENT_COLUMNS}, payload from event where id = "));
    let row = sql.push_bind(id.hyphenated()).build().fetch_optional(pool).await.map_err(errors::of(doing))?;
    let Some(row) = row else { return Ok(None) };
    let columns: EventColumns = sqlx::FromRow::from_row(&row).map_err(errors::of(doing))?;
    let payload = sqlx::Row::try_get(&row, "payload").map_err(errors::of(doing))?;
    Ok(Some((columns.read()?, payload)))
}

/// The accounts of a user, closed ones too.
pub async fn accounts(pool: &SqlitePool, user: &UserId) -> Result<Vec<AccountView>, StoreError> {
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
pub async fn user(pool: &SqlitePool, user: &UserId) -> Result<Option<UserView>, StoreError> {
    let row: Option<UserViewColumns> = query_as(
        r#"select id, external_id, email, deleted_at,
                 case when email is email_written then email_verified end as email_verified,
                 (email is not null and not (email is email_written)) as email_by_product
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
    pool: &SqlitePool,
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
pub async fn integrations(pool: &SqlitePool, user: &UserId) -> Result<Vec<IntegrationView>, StoreError> {
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
    connection: &mut SqliteConnection,
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
    .bind(Uuid::now_v7().hyphenated())
    .bind(user.as_str())
    .bind(email)
    .bind(now.micros())
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
         where external_id = $1 and deleted_at is null and (email is not $2 or email is email_written)"#,
    )
    .bind(user.as_str())
    .bind(email)
    .bind(now.micros())
    .execute(&mut *connection)
    .await
    .map_err(errors::of(doing))?;
    Ok(false)
}

/// How many rows there are.
pub async fn row_counts(pool: &SqlitePool) -> Result<RowCounts, StoreError> {
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
pub async fn event_counts(pool: &SqlitePool) -> Result<Vec<EventCount>, StoreError> {
    counts(
        pool,
        "select provider, state, count(*) as count from event group by provider, state order by provider, state",
    )
    .await
}

/// How many events wait or are dead, and since when: by the partial indexes alone, one branch for each.
pub async fn pending(pool: &SqlitePool) -> Result<Vec<Pending>, StoreError> {
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
pub async fn tell_progress(pool: &SqlitePool, ours: &[Progress]) -> Result<(), StoreError> {
    let mut insert = QueryBuilder::<Sqlite>::new("insert into queue_progress (queue, received_at) ");
    insert.push_values(ours, |mut row, (queue, received_at)| {
        row.push_bind(queue.as_str()).push_bind(received_at.micros());
    });
    insert.push(
        " on conflict (queue) do update set received_at = excluded.received_at
         where queue_progress.received_at < excluded.received_at",
    );
    insert.build().execute(pool).await.map_err(errors::of("tell how far queues are worked off"))?;
    Ok(())
}

/// How far each queue is worked off.
pub async fn progress(pool: &SqlitePool) -> Result<Vec<Progress>, StoreError> {
    let rows: Vec<ProgressColumns> = query_as("select queue, received_at from queue_progress order by queue")
        .fetch_all(pool)
        .await
        .map_err(errors::of("ask how far queues are worked off"))?;
    Ok(rows.into_iter().map(ProgressColumns::read).collect())
}

async fn counts(pool: &SqlitePool, statement: &'static str) -> Result<Vec<EventCount>, StoreError> {
    let rows: Vec<EventCountColumns> = query_as(statement).fetch_all(pool).await.map_err(errors::of("count events"))?;
    rows.into_iter().map(EventCountColumns::read).collect()
}

/// Wipes payloads that nothing needs any more, oldest first.
pub async fn wipe_payloads(pool: &SqlitePool, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
    let done = query(
        "update event set payload = x''
         where id in (
             select id from event
             where state in ('applied', 'recorded') and payload <> x'' and received_at < $1
             order by received_at
             limit $2
         )",
    )
    .bind(before.micros())
    .bind(i64::from(limit))
    .execute(pool)
    .await
    .map_err(errors::of("wipe payloads"))?;
    Ok(done.rows_affected())
}

/// Deletes rows that were kept long enough, oldest first.
pub async fn delete_old_events(pool: &SqlitePool, before: Uuid, limit: u32) -> Result<u64, StoreError> {
    let done = query(
        "delete from event
         where id in (
             select id from event
             where id < $1 and (
                 state in ('applied', 'recorded')
                 or state = 'dead' and substr(coalesce(reason, ''), 1, length($2)) <> $2
             )
             order by id
             limit $3
         )",
    )
    .bind(before.hyphenated())
    .bind(Cause::UnknownKey.as_str())
    .bind(i64::from(limit))
    .execute(pool)
    .await
    .map_err(errors::of("delete old events"))?;
    Ok(done.rows_affected())
}

/// Notes when inbound secrets last proved a delivery: a few, every half minute.
pub async fn note_secrets(pool: &SqlitePool, used: &[SecretUse]) -> Result<(), StoreError> {
    if used.is_empty() {
        return Ok(());
    }
    let mut sql = QueryBuilder::<Sqlite>::new("insert into inbound_secret (provider, fingerprint, last_verified_at) ");
    sql.push_values(used, |mut values, used| {
        values.push_bind(used.provider.as_str()).push_bind(used.fingerprint.as_str());
        values.push_bind(used.last_verified_at.micros());
    });
    sql.push(
        " on conflict (provider, fingerprint) do update
         set last_verified_at = excluded.last_verified_at
         where inbound_secret.last_verified_at < excluded.last_verified_at",
    );
    sql.build().execute(pool).await.map(drop).map_err(errors::of("note used secrets"))
}

/// When inbound secrets last proved a delivery.
pub async fn secrets_used(pool: &SqlitePool) -> Result<Vec<SecretUse>, StoreError> {
    let rows: Vec<SecretUseColumns> =
        query_as("select provider, fingerprint, last_verified_at from inbound_secret order by provider, fingerprint")
            .fetch_all(pool)
            .await
            .map_err(errors::of("read used secrets"))?;
    Ok(rows.into_iter().map(SecretUseColumns::read).collect())
}
