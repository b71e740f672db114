//! The statements of one transaction: multi-row, one round trip each, the same meaning on both databases.
//!
//! Every slice may be empty (then nothing is sent) and holds no key twice; slices that lock or write come sorted by key,
//! so that two transactions never wait for each other in a circle (40P01).

use async_trait::async_trait;
use uuid::Uuid;

use super::forget::Tombstone;
use super::marks::Mark;
use super::rows::{
    AccountRow, EventKey, IntegrationRow, NewEvent, SealedIds, StoredCopy, SubjectKey, UserAddress, UserRow,
};
use super::{StoreError, StoredEvent};
use crate::crypto::{Column, Sealed};
use crate::domain::register::Address;
use crate::domain::{Timestamp, UserId};

/// One open transaction.
#[async_trait]
pub trait Tables: Send {
    /// Holds the gate open that forgetting closes, and takes the advisory lock on each subject, both until the transaction
    /// ends (SQLite: the transaction is the lock).
    async fn lock_subjects(&mut self, subjects: &[SubjectKey]) -> Result<(), StoreError>;

    /// Which of these marks have a tombstone.
    async fn tombstones(&mut self, marks: &[Mark]) -> Result<Vec<Mark>, StoreError>;

    /// Puts tombstones up, their stored events still to be deleted; one that is there is begun anew.
    async fn bury(&mut self, tombstones: &[Tombstone], now: Timestamp) -> Result<(), StoreError>;

    /// Takes the tombstones of subjects away, with what was stored about those before.
    async fn lift_subjects(&mut self, subjects: &[(SubjectKey, Mark)]) -> Result<(), StoreError>;

    /// Upserts the rows of failed events, over stored copies only as `aside::TAKES_ITS_PLACE` says.
    async fn upsert_failed(&mut self, rows: &[NewEvent], now: Timestamp) -> Result<(), StoreError>;

    /// The integrations of these subjects that have a row, the rows locked until the transaction ends: the product writes
    /// them too, and what was loaded is written back.
    async fn integrations(&mut self, subjects: &[SubjectKey]) -> Result<Vec<IntegrationRow>, StoreError>;

    /// The users of these external ids that have a row, soft-deleted ones too.
    async fn users(&mut self, external_ids: &[UserId]) -> Result<Vec<UserRow>, StoreError>;

    /// Inserts users; one that is there already (another worker was first) is left as it is. The ids of those that were not.
    async fn insert_users(&mut self, users: &[UserRow], now: Timestamp) -> Result<Vec<Uuid>, StoreError>;

    /// Inserts events whose key is new; how many it were.
    async fn insert_events(&mut self, events: &[NewEvent], now: Timestamp) -> Result<u64, StoreError>;

    /// The stored copies of these keys, locked until the transaction ends.
    async fn stored_copies(&mut self, keys: &[EventKey]) -> Result<Vec<StoredCopy>, StoreError>;

    /// Overwrites stored events by key: everything but their id, and their payload where the new one is empty.
    async fn update_events(&mut self, events: &[NewEvent], now: Timestamp) -> Result<(), StoreError>;

    /// Up to `limit` events in state `unlinked` of these subjects, oldest first, locked until the transaction ends.
    async fn unlinked(&mut self, subjects: &[SubjectKey], limit: u32) -> Result<Vec<StoredEvent>, StoreError>;

    /// Sets events to `applied`, without reason.
    async fn mark_applied(&mut self, ids: &[Uuid], now: Timestamp) -> Result<(), StoreError>;

    /// Removes events: held deliveries that their events replace.
    async fn delete_events(&mut self, ids: &[Uuid]) -> Result<(), StoreError>;

    /// Inserts integrations. One that is there by now was made by the product, which takes no lock of ours: a conflict.
    async fn insert_integrations(
        &mut self,
        rows: &[(IntegrationRow, Option<Sealed<Column>>)],
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Overwrites integrations by id, with a new sealed `authorization_id` where one is given.
    async fn update_integrations(
        &mut self,
        rows: &[(IntegrationRow, Option<Sealed<Column>>)],
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// The accounts with these (integration, index), those of the same integrations that have no index yet, and all
    /// accounts of `whole`, locked until the transaction ends.
    async fn accounts(&mut self, wanted: &[(Uuid, Vec<u8>)], whole: &[Uuid]) -> Result<Vec<AccountRow>, StoreError>;

    /// Keeps what the product had written into these accounts' sealed columns, before it is written over; a row that is kept
    /// already stays as it is.
    async fn keep_originals(&mut self, accounts: &[Uuid]) -> Result<(), StoreError>;

    /// Inserts accounts. One that is there by now was made by the product: a conflict.
    async fn insert_accounts(&mut self, rows: &[(AccountRow, SealedIds)], now: Timestamp) -> Result<(), StoreError>;

    /// Overwrites accounts by id, sealed columns only where one is given.
    async fn update_accounts(&mut self, rows: &[(AccountRow, SealedIds)], now: Timestamp) -> Result<(), StoreError>;

    /// The addresses in these users' rows, the rows locked until the transaction ends.
    async fn user_addresses(&mut self, users: &[Uuid]) -> Result<Vec<UserAddress>, StoreError>;

    /// The addresses of all integrations that these users own now.
    async fn owned_addresses(&mut self, users: &[Uuid]) -> Result<Vec<(Uuid, Address)>, StoreError>;

    /// Notifies whoever listens of these rows, once the transaction commits.
    async fn notify(&mut self, rows: &[(&'static str, Uuid)]) -> Result<(), StoreError>;

    /// Keeps these rows until they are told to the exchange.
    async fn keep_changed(&mut self, rows: &[(&'static str, Uuid)]) -> Result<(), StoreError>;

    /// Overwrites users' addresses by id.
    async fn write_user_addresses(&mut self, rows: &[UserAddress], now: Timestamp) -> Result<(), StoreError>;
}
