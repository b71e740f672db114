//! A commit's tables on SQLite: each method is one statement over all of a batch's rows. The transaction has the only
//! writer (`begin immediate`), so nothing is locked row by row.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

use super::binding::{Timed, bind_account, bind_event, bind_id, bind_integration, bind_subject, timed};
use super::changes;
use super::pieces::{Values, execute, load};
use super::statements::{
    ACCOUNTS, BURY, DELETE_EVENTS, DELETE_SUBJECTS, INSERT_ACCOUNTS, INSERT_EVENTS, INSERT_INTEGRATIONS,
    INSERT_NEW_EVENTS, INSERT_USERS, INTEGRATIONS, KEEP_ORIGINALS, LIFT_SUBJECTS, MARK_APPLIED, OWNED_ADDRESSES,
    STORED_COPIES, TOMBSTONES, UNINDEXED_ACCOUNTS, UNLINKED, UPDATE_ACCOUNTS, UPDATE_EVENTS, UPDATE_INTEGRATIONS,
    USER_ADDRESSES, USERS, WHOLE_ACCOUNTS, WRITE_USER_ADDRESSES, over_failed,
};
use crate::crypto::{Column, Sealed};
use crate::domain::register::Address;
use crate::domain::{Timestamp, UserId};
use crate::store::columns::{
    AccountColumns, CopyColumns, Id, IntegrationColumns, OwnedAddressColumns, StoredColumns, UserAddressColumns,
    UserColumns, at, key,
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
