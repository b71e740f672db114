//! What the statements of a commit and of forgetting say on SQLite; those over many rows, before and after the rows.

use crate::store::aside::TAKES_ITS_PLACE;
use crate::store::days::any_day;

/// Names the days of events that have this column.
macro_rules! days {
    ($column:literal) => {
        any_day!("received_at / 86400000000", $column, " in (", ")")
    };
}

/// By which a look-up of a subject goes through its index.
pub const SUBJECT_DAYS: &str = days!("subject");
/// By which a look-up of a user's mark goes through its index.
pub const USER_DAYS: &str = days!("user_mark");

/// Integrations by service and external id, with their owners.
pub const INTEGRATIONS: (&str, &str) = (
    "with wanted (service, external_id) as (",
    r#")
    select i.id, i.service, i.external_id, i.user_id, u.external_id as owner, i.owner_rank, i.owner_at, i.owner_key,
        i.status, i.status_reason, i.status_final, i.status_at, i.status_key, i.deleted_at,
        i.closing_status, i.closing_final, i.closing_at, i.closing_key,
        i.email, i.email_verified, i.email_at, i.email_key, i.authorization_at, i.authorization_key, i.observed_at
    from wanted
    cross join integration i on i.service = wanted.service and i.external_id = wanted.external_id
    left join "user" u on u.id = i.user_id
    where i.duplicate_of is null"#,
);

/// Users by external id.
pub const USERS: (&str, &str) = (
    "with wanted (external_id) as (",
    r#") select u.id, u.external_id from wanted cross join "user" u on u.external_id = wanted.external_id"#,
);

/// Users that are new.
pub const INSERT_USERS: (&str, &str) = (
    r#"insert into "user" (id, external_id, created_at, updated_at)"#,
    " on conflict (external_id) do nothing returning id",
);

/// The columns that [`super::binding::bind_event`] binds.
pub const INSERT_EVENTS: &str =
    "insert into event (id, occurred_at, received_at, processed_at, next_attempt_at, attempts,
    provider, state, dedup_key, kind, subject, reason, payload, user_mark)";

/// Events that are new; a stored copy stays.
pub const INSERT_NEW_EVENTS: (&str, &str) = (INSERT_EVENTS, " on conflict (provider, dedup_key) do nothing");

/// Events over their stored copies, by provider and key. An empty payload leaves the stored one.
pub const UPDATE_EVENTS: (&str, &str) = (
    "with new (id, occurred_at, received_at, processed_at, next_attempt_at, attempts, provider, state, dedup_key, kind,
        subject, reason, payload, user_mark) as (",
    ")
    update event
    set occurred_at = new.occurred_at, received_at = new.received_at, processed_at = new.processed_at,
        next_attempt_at = new.next_attempt_at, attempts = new.attempts, state = new.state, kind = new.kind,
        subject = new.subject, reason = new.reason, user_mark = new.user_mark,
        payload = case when length(new.payload) > 0 then new.payload else event.payload end
    from new
    where event.provider = new.provider and event.dedup_key = new.dedup_key",
);

/// Over stored copies only as [`TAKES_ITS_PLACE`] says.
pub fn over_failed() -> String {
    format!(
        " on conflict (provider, dedup_key) do update
         set occurred_at = excluded.occurred_at, received_at = excluded.received_at,
            processed_at = excluded.processed_at, next_attempt_at = excluded.next_attempt_at,
            attempts = excluded.attempts, state = excluded.state, kind = excluded.kind, subject = excluded.subject,
            reason = excluded.reason, user_mark = excluded.user_mark,
            payload = case when length(excluded.payload) > 0 then excluded.payload else event.payload end
         where {TAKES_ITS_PLACE}"
    )
}

/// Which marks are those of tombstones.
pub const TOMBSTONES: (&str, &str) =
    ("with wanted (mark) as (", ") select t.mark from wanted cross join tombstone t on t.mark = wanted.mark");

/// Tombstones: mark, its user's mark, and the subject if it is one.
pub const BURY: (&str, &str) = (
    "insert into tombstone (mark, of_user, at, pending, service, subject)",
    " on conflict (mark) do update set pending = 1, service = excluded.service, subject = excluded.subject",
);

/// Some events about a subject go: `$1` provider, `$2` subject, `$3` how many.
pub const DELETE_ABOUT_SUBJECT: &str = concat!(
    "delete from event where id in (select id from event where provider = $1 and subject = $2 and ",
    days!("subject"),
    " limit $3)"
);

/// Some events that name a user go: `$1` the user's mark, `$2` how many.
pub const DELETE_ABOUT_USER: &str = concat!(
    "delete from event where id in (select id from event where user_mark = $1 and ",
    days!("user_mark"),
    " limit $2)"
);

/// Events about subjects go.
pub const DELETE_SUBJECTS: (&str, &str) = (
    "with gone (provider, subject) as (",
    concat!(
        ")
    delete from event
    where id in (
        select e.id
        from gone
        cross join event e on e.provider = gone.provider and e.subject = gone.subject and e.",
        days!("subject"),
        ")"
    ),
);

/// Tombstones go.
pub const LIFT_SUBJECTS: (&str, &str) = ("delete from tombstone where mark in (", ")");

/// Copies of events, by provider and key.
pub const STORED_COPIES: (&str, &str) = (
    "with wanted (provider, dedup_key) as (",
    ")
    select e.id, e.provider, e.dedup_key, e.state, e.occurred_at, e.received_at
    from wanted cross join event e on e.provider = wanted.provider and e.dedup_key = wanted.dedup_key",
);

/// Events that waited for these subjects, oldest first, at most so many.
pub const UNLINKED: (&str, &str) = (
    "with wanted (provider, subject, most) as (",
    ")
    select e.id, e.provider, e.dedup_key, e.attempts, e.payload
    from wanted
    cross join event e on e.provider = wanted.provider and e.subject = wanted.subject and e.state = 'unlinked'
    order by e.id
    limit (select max(most) from wanted)",
);

/// Events that waited are applied, by id.
pub const MARK_APPLIED: (&str, &str) = (
    "with done (id, processed_at) as (",
    ")
    update event
    set state = 'applied', reason = null, next_attempt_at = null, processed_at = done.processed_at
    from done
    where event.id = done.id",
);

/// Events go, by id.
pub const DELETE_EVENTS: (&str, &str) = ("delete from event where id in (", ")");

/// Integrations that are new.
pub const INSERT_INTEGRATIONS: (&str, &str) = (
    "insert into integration (id, service, external_id, user_id, owner_rank, owner_at, owner_key, status, status_reason,
        status_final, status_at, status_key, deleted_at, closing_status, closing_final, closing_at, closing_key, email,
        email_verified, email_at, email_key, authorization_at, authorization_key, observed_at, authorization_id,
        created_at, updated_at)",
    " on conflict do nothing",
);

/// All columns of integrations, by id. No token leaves the stored one.
pub const UPDATE_INTEGRATIONS: (&str, &str) = (
    "with new (id, service, external_id, user_id, owner_rank, owner_at, owner_key, status, status_reason, status_final,
        status_at, status_key, deleted_at, closing_status, closing_final, closing_at, closing_key, email, email_verified,
        email_at, email_key, authorization_at, authorization_key, observed_at, authorization_id, created_at, updated_at)
        as (",
    ")
    update integration
    set user_id = new.user_id, owner_rank = new.owner_rank, owner_at = new.owner_at, owner_key = new.owner_key,
        status = new.status, status_reason = new.status_reason, status_final = new.status_final,
        status_at = new.status_at, status_key = new.status_key, deleted_at = new.deleted_at,
        closing_status = new.closing_status, closing_final = new.closing_final, closing_at = new.closing_at,
        closing_key = new.closing_key, email = new.email, email_verified = new.email_verified, email_at = new.email_at,
        email_key = new.email_key, authorization_at = new.authorization_at, authorization_key = new.authorization_key,
        observed_at = new.observed_at,
        authorization_id = coalesce(new.authorization_id, integration.authorization_id), updated_at = new.updated_at
    from new
    where integration.id = new.id",
);

/// Accounts by integration and blind index.
pub const ACCOUNTS: (&str, &str) = (
    "with wanted (integration_id, external_id_index) as (",
    ")
    select a.id, a.integration_id, a.user_id, a.external_id_index, a.baas_id_index, a.status, a.status_reason,
        a.status_at, a.status_key, a.deleted_at, a.observed_at
    from wanted
    cross join account a
        on a.integration_id = wanted.integration_id and a.external_id_index = wanted.external_id_index",
);

/// Accounts of integrations that no index finds, because the product wrote them.
pub const UNINDEXED_ACCOUNTS: (&str, &str) = (
    "with wanted (integration_id) as (",
    ")
    select a.id, a.integration_id, a.user_id, a.external_id_index, a.baas_id_index, a.status, a.status_reason,
        a.status_at, a.status_key, a.deleted_at, a.observed_at, a.external_id as unindexed_external_id,
        a.baas_id as unindexed_baas_id
    from wanted
    cross join account a on a.integration_id = wanted.integration_id
    where a.external_id_index is null and a.duplicate_of is null",
);

/// All accounts of integrations.
pub const WHOLE_ACCOUNTS: (&str, &str) = (
    "with whole (integration_id) as (",
    ")
    select a.id, a.integration_id, a.user_id, a.external_id_index, a.baas_id_index, a.status, a.status_reason,
        a.status_at, a.status_key, a.deleted_at, a.observed_at,
        case when a.external_id_index is null and a.duplicate_of is null then a.external_id end as unindexed_external_id,
        case when a.external_id_index is null and a.duplicate_of is null then a.baas_id end as unindexed_baas_id
    from whole cross join account a on a.integration_id = whole.integration_id",
);

/// Accounts that are new.
pub const INSERT_ACCOUNTS: (&str, &str) = (
    "insert into account (id, integration_id, user_id, external_id_index, baas_id_index, status, status_reason, status_at,
        status_key, deleted_at, observed_at, external_id, baas_id, created_at, updated_at)",
    " on conflict (integration_id, external_id_index) do nothing",
);

/// All columns of accounts, by id. No sealed id leaves the stored one.
pub const UPDATE_ACCOUNTS: (&str, &str) = (
    "with new (id, integration_id, user_id, external_id_index, baas_id_index, status, status_reason, status_at, status_key,
        deleted_at, observed_at, external_id, baas_id, created_at, updated_at) as (",
    ")
    update account
    set user_id = new.user_id, external_id_index = coalesce(account.external_id_index, new.external_id_index),
        baas_id_index = new.baas_id_index, status = new.status, status_reason = new.status_reason,
        status_at = new.status_at, status_key = new.status_key, deleted_at = new.deleted_at,
        observed_at = new.observed_at,
        external_id = coalesce(new.external_id, account.external_id), baas_id = coalesce(new.baas_id, account.baas_id),
        updated_at = new.updated_at
    from new
    where account.id = new.id",
);

/// Accounts as the product wrote them, kept before they are changed.
pub const KEEP_ORIGINALS: (&str, &str) = (
    "insert into moved_in (id, integration_id, external_id, baas_id, deleted_at)
    select id, integration_id, external_id, baas_id, deleted_at from account where id in (",
    ") on conflict (id) do nothing",
);

/// The addresses of users; one that the product wrote has no clock.
pub const USER_ADDRESSES: (&str, &str) = (
    "with wanted (id) as (",
    r#")
    select u.id, u.email, u.email_verified, u.email_key, case when u.email is u.email_written then u.email_at end as email_at
    from wanted cross join "user" u on u.id = wanted.id"#,
);

/// The addresses that users' integrations tell.
pub const OWNED_ADDRESSES: (&str, &str) = (
    "with wanted (id) as (",
    ")
    select i.user_id, i.email, i.email_verified, i.email_at, i.email_key
    from wanted cross join integration i on i.user_id = wanted.id
    where i.email is not null and i.email_at is not null",
);

/// Addresses over those of users, by id.
pub const WRITE_USER_ADDRESSES: (&str, &str) = (
    "with new (id, email, email_verified, email_at, email_key, updated_at) as (",
    r#")
    update "user"
    set email = new.email, email_written = new.email, email_verified = new.email_verified, email_at = new.email_at,
        email_key = new.email_key, updated_at = new.updated_at
    from new
    where "user".id = new.id"#,
);
