//! The rows as a commit holds them in memory: what the statements of [`super::tables`] load and write.

use uuid::Uuid;

use super::marks::Mark;
use crate::crypto::{Column, Sealed};
use crate::domain::register::{Address, Closing, Owner, Status};
use crate::domain::{Clock, DedupKey, EventState, Timestamp, UserId};

/// Who sent an event and what makes two copies of it the same: the unique key of the event table.
pub type EventKey = (String, DedupKey);

/// A subject: the provider's name and its id of the integration.
pub type SubjectKey = (String, String);

/// A row of `integration`.
#[derive(Debug, Clone, PartialEq)]
pub struct IntegrationRow {
    /// Version 7, made here.
    pub id: Uuid,
    /// The provider's name.
    pub service: String,
    /// The provider's id of it.
    pub external_id: String,
    /// The row of its user; nil until the user's row is made, and where the product made the row without one. Never
    /// written so.
    pub user_id: Uuid,
    /// Whose it is.
    pub owner: Option<Owner>,
    /// What the product reads.
    pub status: Status,
    /// The largest closing status it was offered.
    pub closing: Option<Closing>,
    /// The address its provider knows.
    pub address: Option<Address>,
    /// When the stored access token was given: the link's time, then the token's blind index, so that two links of the
    /// same instant end in the same token in any order.
    pub authorization: Option<Clock>,
    /// The newest event time of all.
    pub observed_at: Option<Timestamp>,
}

/// A row of `account` without its sealed columns, which are written once and never read by a commit.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountRow {
    /// Version 7, made here.
    pub id: Uuid,
    /// Its integration.
    pub integration_id: Uuid,
    /// Its integration's user.
    pub user_id: Uuid,
    /// Finds it; `None` if the product made the row itself and has not indexed it.
    pub external_id_index: Option<Vec<u8>>,
    /// Finds it by the ledger's id; `None` = not connected to one.
    pub baas_id_index: Option<Vec<u8>>,
    /// What the product reads.
    pub status: Status,
    /// The newest event time of all.
    pub observed_at: Option<Timestamp>,
    /// The columns of a row that has no index yet, because the product wrote it before it moved in.
    pub unindexed: Option<Unindexed>,
}

/// The sealed columns of an account that no index finds.
#[derive(Debug, Clone, PartialEq)]
pub struct Unindexed {
    /// `external_id`, as it stands there.
    pub external_id: String,
    /// `baas_id`, as it stands there.
    pub baas_id: Option<String>,
}

/// The sealed columns of an account's row, to be written.
#[derive(Clone)]
pub struct SealedIds {
    /// `external_id`; `None` leaves the stored one as it is.
    pub external_id: Option<Sealed<Column>>,
    /// `baas_id`; `None` leaves the stored one as it is.
    pub baas_id: Option<Sealed<Column>>,
}

/// A row of `event`, to be written.
#[derive(Clone)]
pub struct NewEvent {
    /// Version 7, made here; an update keeps the stored one.
    pub id: Uuid,
    /// Provider and dedup key.
    pub key: EventKey,
    /// Its type.
    pub kind: Option<String>,
    /// What it is about.
    pub subject: Option<String>,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// When its delivery was received.
    pub received_at: Timestamp,
    /// Its state.
    pub state: EventState,
    /// Why, where there is a why.
    pub reason: Option<String>,
    /// Tries.
    pub attempts: u32,
    /// When it is due again.
    pub next_attempt_at: Option<Timestamp>,
    /// The sealed envelope.
    pub payload: bytes::Bytes,
    /// The mark of the user whom it names, as the payload does.
    pub user_mark: Option<Mark>,
}

/// What a commit has to know of a stored copy to decide which counts.
#[derive(Debug, Clone)]
pub struct StoredCopy {
    /// The row.
    pub id: Uuid,
    /// Provider and dedup key.
    pub key: EventKey,
    /// Its state.
    pub state: EventState,
    /// Its event time.
    pub occurred_at: Timestamp,
    /// When its delivery was received: tells a copy that comes through again from another copy.
    pub received_at: Timestamp,
}

/// A user's address as its row has it.
#[derive(Debug, Clone, PartialEq)]
pub struct UserAddress {
    /// The user's row.
    pub id: Uuid,
    /// The address, if there is one.
    pub email: Option<String>,
    /// Whether it was verified, where we wrote it.
    pub verified: Option<bool>,
    /// The clock that we wrote it at; `None` beside an address: the product wrote it, and it is never touched.
    pub clock: Option<Clock>,
}

/// A user's row, as far as a commit needs it.
#[derive(Debug, Clone)]
pub struct UserRow {
    /// The row.
    pub id: Uuid,
    /// Our id.
    pub external_id: UserId,
}
