//! The statements of a commit on SQLite. The transaction has the only writer (`begin immediate`), so nothing is locked row
//! by row.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

use super::changes;
use super::pieces::{Values, execute, load};
use crate::crypto::{Column, Sealed};
use crate::domain::register::Address;
use crate::domain::{Clock, Timestamp, UserId};
use crate::store::aside::TAKES_ITS_PLACE;
use crate::store::columns::{
    AccountColumns, CopyColumns, Id, IntegrationColumns, OwnedAddressColumns, StoredColumns, UserAddressColumns,
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
pub struct SqliteTables<'t> {
    /// The connection.
    pub connection: &'t mut SqliteConnection,
}

/// A row beside the time of its writing, which every row of a statement binds.
pub type Timed<'r, T> = (&'r T, Timestamp);

/// The rows of one statement with their time.
pub fn timed<T>(rows: &[T], now: Timestamp) -> Vec<Timed<'_, T>> {
    rows.iter().map(|row| (row, now)).collect()
}

fn at(clock: Option<&Clock>) -> Option<i64> {
    clock.map(|clock| clock.at.micros())
}

fn key(clock: Option<&Clock>) -> Option<&[u8]> {
    clock.map(|clock| clock.key.as_bytes())
}

const INTEGRATIONS: (&str, &str) = (
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

const USERS: (&str, &str) = (
    "with wanted (external_id) as (",
    r#") select u.id, u.external_id from wanted cross join "user" u on u.external_id = wanted.external_id"#,
);

const INSERT_USERS: (&str, &str) = (
    r#"insert into "user" (id, external_id, created_at, updated_at)"#,
    " on conflict (external_id) do nothing returning id",
);

/// The columns that [`bind_event`] binds.
pub const INSERT_EVENTS: &str =
    "insert into event (id, occurred_at, received_at, processed_at, next_attempt_at, attempts,
    provider, state, dedup_key, kind, subject, reason, payload, user_mark)";

const INSERT_NEW_EVENTS: (&str, &str) = (INSERT_EVENTS, " on conflict (provider, dedup_key) do nothing");

const UPDATE_EVENTS: (&str, &str) = (
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
fn over_failed() -> String {
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

const TOMBSTONES: (&str, &str) =
    ("with wanted (mark) as (", ") select t.mark from wanted cross join tombstone t on t.mark = wanted.mark");

const BURY: (&str, &str) = (
    "insert into tombstone (mark, of_user, at, pending, service, subject)",
    " on conflict (mark) do update set pending = 1, service = excluded.service, subject = excluded.subject",
);

const DELETE_SUBJECTS: (&str, &str) = ("delete from event where (provider, subject) in (", ")");

const LIFT_SUBJECTS: (&str, &str) = ("delete from tombstone where mark in (", ")");

const STORED_COPIES: (&str, &str) = (
    "with wanted (provider, dedup_key) as (",
    ")
    select e.id, e.provider, e.dedup_key, e.state, e.occurred_at, e.received_at
    from wanted cross join event e on e.provider = wanted.provider and e.dedup_key = wanted.dedup_key",
);

const UNLINKED: (&str, &str) = (
    "with wanted (provider, subject, most) as (",
    ")
    select e.id, e.provider, e.dedup_key, e.attempts, e.payload
    from wanted
    cross join event e on e.provider = wanted.provider and e.subject = wanted.subject and e.state = 'unlinked'
    order by e.id
    limit (select max(most) from wanted)",
);

const MARK_APPLIED: (&str, &str) = (
    "with done (id, processed_at) as (",
    ")
    update event
    set state = 'applied', reason = null, next_attempt_at = null, processed_at = done.processed_at
    from done
    where event.id = done.id",
);

const DELETE_EVENTS: (&str, &str) = ("delete from event where id in (", ")");

const INSERT_INTEGRATIONS: (&str, &str) = (
    "insert into integration (id, service, external_id, user_id, owner_rank, owner_at, owner_key, status, status_reason,
        status_final, status_at, status_key, deleted_at, closing_status, closing_final, closing_at, closing_key, email,
        email_verified, email_at, email_key, authorization_at, authorization_key, observed_at, authorization_id,
        created_at, updated_at)",
    " on conflict do nothing",
);

const UPDATE_INTEGRATIONS: (&str, &str) = (
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

const ACCOUNTS: (&str, &str) = (
    "with wanted (integration_id, external_id_index) as (",
    ")
    select a.id, a.integration_id, a.user_id, a.external_id_index, a.baas_id_index, a.status, a.status_reason,
        a.status_at, a.status_key, a.deleted_at, a.observed_at
    from wanted
    cross join account a
        on a.integration_id = wanted.integration_id and a.external_id_index = wanted.external_id_index",
);

const UNINDEXED_ACCOUNTS: (&str, &str) = (
    "with wanted (integration_id) as (",
    ")
    select a.id, a.integration_id, a.user_id, a.external_id_index, a.baas_id_index, a.status, a.status_reason,
        a.status_at, a.status_key, a.deleted_at, a.observed_at, a.external_id as unindexed_external_id,
        a.baas_id as unindexed_baas_id
    from wanted
    cross join account a on a.integration_id = wanted.integration_id
    where a.external_id_index is null and a.duplicate_of is null",
);

const WHOLE_ACCOUNTS: (&str, &str) = (
    "with whole (integration_id) as (",
    ")
    select a.id, a.integration_id, a.user_id, a.external_id_index, a.baas_id_index, a.status, a.status_reason,
        a.status_at, a.status_key, a.deleted_at, a.observed_at,
        case when a.external_id_index is null and a.duplicate_of is null then a.external_id end as unindexed_external_id,
        case when a.external_id_index is null and a.duplicate_of is null then a.baas_id end as unindexed_baas_id
    from whole cross join account a on a.integration_id = whole.integration_id",
);

const INSERT_ACCOUNTS: (&str, &str) = (
    "insert into account (id, integration_id, user_id, external_id_index, baas_id_index, status, status_reason, status_at,
        status_key, deleted_at, observed_at, external_id, baas_id, created_at, updated_at)",
    " on conflict (integration_id, external_id_index) do nothing",
);

const UPDATE_ACCOUNTS: (&str, &str) = (
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

const KEEP_ORIGINALS: (&str, &str) = (
    "insert into moved_in (id, integration_id, external_id, baas_id, deleted_at)
    select id, integration_id, external_id, baas_id, deleted_at from account where id in (",
    ") on conflict (id) do nothing",
);

const USER_ADDRESSES: (&str, &str) = (
    "with wanted (id) as (",
    r#")
    select u.id, u.email, u.email_verified, u.email_key, case when u.email is u.email_written then u.email_at end as email_at
    from wanted cross join "user" u on u.id = wanted.id"#,
);

const OWNED_ADDRESSES: (&str, &str) = (
    "with wanted (id) as (",
    ")
    select i.user_id, i.email, i.email_verified, i.email_at, i.email_key
    from wanted cross join integration i on i.user_id = wanted.id
    where i.email is not null and i.email_at is not null",
);

const WRITE_USER_ADDRESSES: (&str, &str) = (
    "with new (id, email, email_verified, email_at, email_key, updated_at) as (",
    r#")
    update "user"
    set email = new.email, email_written = new.email, email_verified = new.email_verified, email_at = new.email_at,
        email_key = new.email_key, updated_at = new.updated_at
    from new
    where "user".id = new.id"#,
);

fn bind_id(values: &mut Values<'_>, id: &Uuid) {
    values.push_bind(id.hyphenated());
}

fn bind_subject(values: &mut Values<'_>, (service, external_id): &SubjectKey) {
    values.push_bind(service.as_str()).push_bind(external_id.as_str());
}

/// Binds the columns of [`INSERT_EVENTS`].
pub fn bind_event(values: &mut Values<'_>, (event, now): &Timed<'_, NewEvent>) {
    values
        .push_bind(event.id.hyphenated())
        .push_bind(event.occurred_at.micros())
        .push_bind(event.received_at.micros())
        .push_bind(now.micros())
        .push_bind(event.next_attempt_at.map(Timestamp::micros))
        .push_bind(event.attempts)
        .push_bind(event.key.0.as_str())
        .push_bind(event.state.as_str())
        .push_bind(event.key.1.as_bytes())
        .push_bind(event.kind.as_deref())
        .push_bind(event.subject.as_deref())
        .push_bind(event.reason.as_deref())
        .push_bind(&event.payload[..])
        .push_bind(event.user_mark.as_deref());
}

fn bind_integration(values: &mut Values<'_>, (row, now): &Timed<'_, (IntegrationRow, Option<Sealed<Column>>)>) {
    let (row, token) = row;
    let owner = row.owner.as_ref();
    let closing = row.closing.as_ref();
    let address = row.address.as_ref();
    values
        .push_bind(row.id.hyphenated())
        .push_bind(row.service.as_str())
        .push_bind(row.external_id.as_str())
        .push_bind(row.user_id.hyphenated())
        .push_bind(owner.map(|owner| owner.rank.number()))
        .push_bind(at(owner.map(|owner| &owner.clock)))
        .push_bind(key(owner.map(|owner| &owner.clock)))
        .push_bind(row.status.status.as_str())
        .push_bind(row.status.reason.as_deref())
        .push_bind(row.status.is_final)
        .push_bind(at(row.status.clock.as_ref()))
        .push_bind(key(row.status.clock.as_ref()))
        .push_bind(row.status.deleted_at.map(Timestamp::micros))
        .push_bind(closing.map(|closing| closing.status.as_str()))
        .push_bind(closing.is_some_and(|closing| closing.is_final))
        .push_bind(at(closing.map(|closing| &closing.clock)))
        .push_bind(key(closing.map(|closing| &closing.clock)))
        .push_bind(address.map(|address| address.email.address.as_str()))
        .push_bind(address.map(|address| address.email.verified))
        .push_bind(at(address.map(|address| &address.clock)))
        .push_bind(key(address.map(|address| &address.clock)))
        .push_bind(at(row.authorization.as_ref()))
        .push_bind(key(row.authorization.as_ref()))
        .push_bind(row.observed_at.map(Timestamp::micros))
        .push_bind(token.as_ref().map(Sealed::as_str))
        .push_bind(now.micros())
        .push_bind(now.micros());
}

fn bind_account(values: &mut Values<'_>, (row, now): &Timed<'_, (AccountRow, SealedIds)>) {
    let (row, ids) = row;
    values
        .push_bind(row.id.hyphenated())
        .push_bind(row.integration_id.hyphenated())
        .push_bind(row.user_id.hyphenated())
        .push_bind(row.external_id_index.as_deref())
        .push_bind(row.baas_id_index.as_deref())
        .push_bind(row.status.status.as_str())
        .push_bind(row.status.reason.as_deref())
        .push_bind(at(row.status.clock.as_ref()))
        .push_bind(key(row.status.clock.as_ref()))
        .push_bind(row.status.deleted_at.map(Timestamp::micros))
        .push_bind(row.observed_at.map(Timestamp::micros))
        .push_bind(ids.external_id.as_ref().map(Sealed::as_str))
        .push_bind(ids.baas_id.as_ref().map(Sealed::as_str))
        .push_bind(now.micros())
        .push_bind(now.micros());
}

/// Fewer rows than asked for: the product inserted one, in another process, since it was looked for.
fn all_inserted(inserted: u64, asked: usize, doing: &str) -> Result<(), StoreError> {
    if inserted == asked as u64 {
        return Ok(());
    }
    Err(StoreError { trouble: StoreTrouble::Conflict, what: format!("{doing}: one is there already") })
}

#[async_trait]
impl Tables for SqliteTables<'_> {
    async fn lock_subjects(&mut self, _subjects: &[SubjectKey]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn tombstones(&mut self, marks: &[Mark]) -> Result<Vec<Mark>, StoreError> {
        let bind = |values: &mut Values<'_>, mark: &Mark| {
            values.push_bind(mark.as_slice());
        };
        let read = |(mark,): (Mark,)| Ok(mark);
        load(self.connection, "ask the tombstones", TOMBSTONES, marks, bind, read).await
    }

    async fn bury(&mut self, tombstones: &[Tombstone], now: Timestamp) -> Result<(), StoreError> {
        let bind = |values: &mut Values<'_>, (stone, now): &Timed<'_, Tombstone>| {
            let subject = stone.subject.as_ref();
            values
                .push_bind(stone.mark.as_slice())
                .push_bind(stone.of_user.as_slice())
                .push_bind(now.micros())
                .push_bind(true)
                .push_bind(subject.map(|(service, _)| service.as_str()))
                .push_bind(subject.map(|(_, subject)| subject.as_str()));
        };
        execute(self.connection, "put tombstones up", BURY, &timed(tombstones, now), bind).await.map(drop)
    }

    async fn lift_subjects(&mut self, subjects: &[(SubjectKey, Mark)]) -> Result<(), StoreError> {
        let bind_key = |values: &mut Values<'_>, (subject, _): &(SubjectKey, Mark)| bind_subject(values, subject);
        let bind_mark = |values: &mut Values<'_>, (_, mark): &(SubjectKey, Mark)| {
            values.push_bind(mark.as_slice());
        };
        execute(self.connection, "delete events", DELETE_SUBJECTS, subjects, bind_key).await?;
        execute(self.connection, "lift tombstones", LIFT_SUBJECTS, subjects, bind_mark).await.map(drop)
    }

    async fn upsert_failed(&mut self, rows: &[NewEvent], now: Timestamp) -> Result<(), StoreError> {
        let over = over_failed();
        let statement = (INSERT_EVENTS, over.as_str());
        execute(self.connection, "set events aside", statement, &timed(rows, now), bind_event).await.map(drop)
    }

    async fn integrations(&mut self, subjects: &[SubjectKey]) -> Result<Vec<IntegrationRow>, StoreError> {
        let read = IntegrationColumns::read;
        load(self.connection, "load integrations", INTEGRATIONS, subjects, bind_subject, read).await
    }

    async fn users(&mut self, external_ids: &[UserId]) -> Result<Vec<UserRow>, StoreError> {
        let bind = |values: &mut Values<'_>, id: &UserId| {
            values.push_bind(id.as_str());
        };
        load(self.connection, "load users", USERS, external_ids, bind, UserColumns::read).await
    }

    async fn insert_users(&mut self, users: &[UserRow], now: Timestamp) -> Result<Vec<Uuid>, StoreError> {
        let bind = |values: &mut Values<'_>, (user, now): &Timed<'_, UserRow>| {
            values.push_bind(user.id.hyphenated()).push_bind(user.external_id.as_str());
            values.push_bind(now.micros()).push_bind(now.micros());
        };
        let read = |(id,): (Id,)| Ok(id.0);
        load(self.connection, "insert users", INSERT_USERS, &timed(users, now), bind, read).await
    }

    async fn insert_events(&mut self, events: &[NewEvent], now: Timestamp) -> Result<u64, StoreError> {
        execute(self.connection, "insert events", INSERT_NEW_EVENTS, &timed(events, now), bind_event).await
    }

    async fn stored_copies(&mut self, keys: &[EventKey]) -> Result<Vec<StoredCopy>, StoreError> {
        let bind = |values: &mut Values<'_>, (provider, key): &EventKey| {
            values.push_bind(provider.as_str()).push_bind(key.as_bytes());
        };
        load(self.connection, "load stored copies", STORED_COPIES, keys, bind, CopyColumns::read).await
    }

    async fn update_events(&mut self, events: &[NewEvent], now: Timestamp) -> Result<(), StoreError> {
        execute(self.connection, "update events", UPDATE_EVENTS, &timed(events, now), bind_event).await.map(drop)
    }

    async fn unlinked(&mut self, subjects: &[SubjectKey], limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let bind = |values: &mut Values<'_>, (subject, limit): &(&SubjectKey, u32)| {
            bind_subject(values, subject);
            values.push_bind(*limit);
        };
        let doing = "load unlinked events";
        let wanted: Vec<(&SubjectKey, u32)> = subjects.iter().map(|subject| (subject, limit)).collect();
        let mut events = load(self.connection, doing, UNLINKED, &wanted, bind, StoredColumns::read).await?;
        // Each piece of subjects brought its own oldest ones.
        events.sort_by_key(|event| event.id);
        events.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(events)
    }

    async fn mark_applied(&mut self, ids: &[Uuid], now: Timestamp) -> Result<(), StoreError> {
        let bind = |values: &mut Values<'_>, (id, now): &Timed<'_, Uuid>| {
            values.push_bind(id.hyphenated()).push_bind(now.micros());
        };
        execute(self.connection, "mark events applied", MARK_APPLIED, &timed(ids, now), bind).await.map(drop)
    }

    async fn delete_events(&mut self, ids: &[Uuid]) -> Result<(), StoreError> {
        execute(self.connection, "delete events", DELETE_EVENTS, ids, bind_id).await.map(drop)
    }

    async fn insert_integrations(
        &mut self,
        rows: &[(IntegrationRow, Option<Sealed<Column>>)],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let doing = "insert integrations";
        let done = execute(self.connection, doing, INSERT_INTEGRATIONS, &timed(rows, now), bind_integration).await?;
        all_inserted(done, rows.len(), doing)
    }

    async fn update_integrations(
        &mut self,
        rows: &[(IntegrationRow, Option<Sealed<Column>>)],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (doing, rows) = ("update integrations", timed(rows, now));
        execute(self.connection, doing, UPDATE_INTEGRATIONS, &rows, bind_integration).await.map(drop)
    }

    async fn accounts(&mut self, wanted: &[(Uuid, Vec<u8>)], whole: &[Uuid]) -> Result<Vec<AccountRow>, StoreError> {
        let bind = |values: &mut Values<'_>, (integration, index): &(Uuid, Vec<u8>)| {
            values.push_bind(integration.hyphenated()).push_bind(index.as_slice());
        };
        let (doing, read) = ("load accounts", AccountColumns::read);
        let mut rows = load(self.connection, doing, WHOLE_ACCOUNTS, whole, bind_id, read).await?;
        let named: Vec<(Uuid, Vec<u8>)> =
            wanted.iter().filter(|(integration, _)| !whole.contains(integration)).cloned().collect();
        rows.extend(load(self.connection, doing, ACCOUNTS, &named, bind, read).await?);
        let integrations: BTreeSet<Uuid> = named.iter().map(|(integration, _)| *integration).collect();
        let integrations: Vec<Uuid> = integrations.into_iter().collect();
        rows.extend(load(self.connection, doing, UNINDEXED_ACCOUNTS, &integrations, bind_id, read).await?);
        Ok(rows)
    }

    async fn keep_originals(&mut self, accounts: &[Uuid]) -> Result<(), StoreError> {
        execute(self.connection, "keep originals", KEEP_ORIGINALS, accounts, bind_id).await.map(drop)
    }

    async fn insert_accounts(&mut self, rows: &[(AccountRow, SealedIds)], now: Timestamp) -> Result<(), StoreError> {
        let doing = "insert accounts";
        let done = execute(self.connection, doing, INSERT_ACCOUNTS, &timed(rows, now), bind_account).await?;
        all_inserted(done, rows.len(), doing)
    }

    async fn update_accounts(&mut self, rows: &[(AccountRow, SealedIds)], now: Timestamp) -> Result<(), StoreError> {
        execute(self.connection, "update accounts", UPDATE_ACCOUNTS, &timed(rows, now), bind_account).await.map(drop)
    }

    async fn user_addresses(&mut self, users: &[Uuid]) -> Result<Vec<UserAddress>, StoreError> {
        load(self.connection, "load addresses", USER_ADDRESSES, users, bind_id, UserAddressColumns::read).await
    }

    async fn owned_addresses(&mut self, users: &[Uuid]) -> Result<Vec<(Uuid, Address)>, StoreError> {
        let read = OwnedAddressColumns::read;
        load(self.connection, "load owned addresses", OWNED_ADDRESSES, users, bind_id, read).await
    }

    async fn notify(&mut self, _rows: &[(&'static str, Uuid)]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn keep_changed(&mut self, rows: &[(&'static str, Uuid)]) -> Result<(), StoreError> {
        changes::keep(self.connection, rows).await
    }

    async fn write_user_addresses(&mut self, rows: &[UserAddress], now: Timestamp) -> Result<(), StoreError> {
        let bind = |values: &mut Values<'_>, (user, now): &Timed<'_, UserAddress>| {
            values
                .push_bind(user.id.hyphenated())
                .push_bind(user.email.as_deref())
                .push_bind(user.verified)
                .push_bind(at(user.clock.as_ref()))
                .push_bind(key(user.clock.as_ref()))
                .push_bind(now.micros());
        };
        execute(self.connection, "write addresses", WRITE_USER_ADDRESSES, &timed(rows, now), bind).await.map(drop)
    }
}
