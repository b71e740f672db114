//! What the statements of a commit and of forgetting say on PostgreSQL: static text, so that each is prepared once per
//! connection. Rows come by `unnest`, in the order in which [`super::binding`] binds their columns; locks and writes go in the order of keys.
//!
//! Row locks are `for no key update`: they exclude every other writer, but not the `key share` that a foreign key takes on
//! a parent, so that two batches which own rows of each other's users do not wait in a circle.

use crate::store::days::any_day;

/// Names the days of events that have this column.
macro_rules! days {
    ($column:literal) => {
        any_day!("(received_at at time zone 'utc')::date", $column, " = any (array(", "))")
    };
}

/// By which a look-up of a subject goes through its index.
pub const SUBJECT_DAYS: &str = days!("subject");
/// By which a look-up of a user's mark goes through its index.
pub const USER_DAYS: &str = days!("user_mark");

/// Advisory locks of subjects: `$1` services, `$2` external ids. A rotation holds the first one alone.
pub const LOCK_SUBJECTS: &str = "
    select pg_advisory_xact_lock_shared(7236, 0)
    union all
    select pg_advisory_xact_lock(held.value)
    from (
        select distinct hashtextextended(wanted.service || ':' || wanted.external_id, 7236) as value
        from unnest($1::text[], $2::text[]) as wanted (service, external_id)
        order by value
    ) as held";

/// Integrations by service and external id, with their owners.
pub const INTEGRATIONS: &str = r#"
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
pub(super) use insert_event_rows;

/// Events that are new; a stored copy stays.
pub const INSERT_EVENTS: &str = concat!(
    insert_event_rows!(),
    "
    on conflict (provider, dedup_key) do nothing"
);

/// Tombstones: mark, its user's mark, and the subject if it is one.
pub const BURY: &str = "
    insert into tombstone (mark, of_user, at, pending, service, subject)
    select new.mark, new.of_user, $5, true, new.service, new.subject
    from unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[]) as new (mark, of_user, service, subject)
    on conflict (mark) do update
    set pending = true, service = excluded.service, subject = excluded.subject";

/// Some events about a subject go: `$1` provider, `$2` subject, `$3` how many.
pub const DELETE_ABOUT_SUBJECT: &str = concat!(
    "delete from event where id in (select id from event where provider = $1 and subject = $2 and ",
    days!("subject"),
    " limit $3 for update)"
);

/// Some events that name a user go: `$1` the user's mark, `$2` how many.
pub const DELETE_ABOUT_USER: &str = concat!(
    "delete from event where id in (select id from event where user_mark = $1 and ",
    days!("user_mark"),
    " limit $2 for update)"
);

/// Events about subjects go: `$1` providers, `$2` subjects.
pub const DELETE_SUBJECTS: &str = concat!(
    "
    delete from event
    using unnest($1::text[], $2::text[]) as gone (provider, subject)
    where event.provider = gone.provider and event.subject = gone.subject and ",
    days!("subject")
);

/// Events over their stored copies, by provider and key. An empty payload leaves the stored one.
pub const UPDATE_EVENTS: &str = "
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

/// Copies of events, by provider and key.
pub const STORED_COPIES: &str = "
    select e.id, e.provider, e.dedup_key, e.state, e.occurred_at, e.received_at
    from unnest($1::text[], $2::bytea[]) as wanted (provider, dedup_key)
    join event e on e.provider = wanted.provider and e.dedup_key = wanted.dedup_key
    order by e.provider, e.dedup_key
    for no key update of e";

/// Events that waited for these subjects, oldest first, at most so many.
pub const UNLINKED: &str = "
    select e.id, e.provider, e.dedup_key, e.attempts, e.payload
    from unnest($1::text[], $2::text[]) as wanted (provider, subject)
    join event e on e.provider = wanted.provider and e.subject = wanted.subject and e.state = 'unlinked'
    order by e.id
    limit $3
    for no key update of e";

/// Integrations that are new.
pub const INSERT_INTEGRATIONS: &str = "
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

/// All columns of integrations, by id. No token leaves the stored one.
pub const UPDATE_INTEGRATIONS: &str = "
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

/// Accounts by integration and blind index, all of some integrations, and those that no index finds.
pub const ACCOUNTS: &str = "
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

/// Accounts that are new.
pub const INSERT_ACCOUNTS: &str = "
    insert into account (id, integration_id, user_id, external_id_index, baas_id_index, status, status_reason, status_at,
        status_key, deleted_at, observed_at, external_id, baas_id, created_at, updated_at)
    select unnest($1::uuid[]), unnest($2::uuid[]), unnest($3::uuid[]), unnest($4::bytea[]), unnest($5::bytea[]),
        unnest($6::text[]), unnest($7::text[]), unnest($8::bigint[]), unnest($9::bytea[]), unnest($10::timestamp[]),
        unnest($11::timestamp[]), unnest($12::text[]), unnest($13::text[]), $14::timestamp, $14::timestamp
    on conflict (integration_id, external_id_index) do nothing";

/// All columns of accounts, by id. No sealed id leaves the stored one.
pub const UPDATE_ACCOUNTS: &str = "
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

/// Accounts as the product wrote them, kept before they are changed.
pub const KEEP_ORIGINALS: &str = "
    insert into moved_in (id, integration_id, external_id, baas_id, deleted_at)
    select id, integration_id, external_id, baas_id, deleted_at from account where id = any($1)
    on conflict (id) do nothing";

/// The addresses of users; one that the product wrote has no clock.
pub const USER_ADDRESSES: &str = r#"
    select id, email, email_verified, email_key,
        case when email is not distinct from email_written then email_at end as email_at
    from "user"
    where id = any($1)
    order by id
    for no key update"#;

/// The addresses that users' integrations tell.
pub const OWNED_ADDRESSES: &str = "
    select user_id, email, email_verified, email_at, email_key
    from integration
    where user_id = any($1) and email is not null and email_at is not null";

/// Addresses over those of users, by id.
pub const WRITE_USER_ADDRESSES: &str = r#"
    update "user"
    set email = new.email, email_written = new.email, email_verified = new.email_verified, email_at = new.email_at,
        email_key = new.email_key, updated_at = $6
    from unnest($1::uuid[], $2::text[], $3::bool[], $4::bigint[], $5::bytea[])
        as new (id, email, email_verified, email_at, email_key)
    where "user".id = new.id"#;
