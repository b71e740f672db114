//! What is asked of the tables outside a commit, and what is answered: rows as people and the product see them.

use uuid::Uuid;

#[cfg(doc)]
use super::marks;
use crate::domain::{DedupKey, EventState, Timestamp, UserId};

/// Which events to list. Every field narrows.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only these.
    pub ids: Option<Vec<Uuid>>,
    /// Only this provider's.
    pub provider: Option<String>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only in this state.
    pub state: Option<EventState>,
    /// Only about this subject.
    pub subject: Option<String>,
    /// Received at or after.
    pub since: Option<Timestamp>,
    /// Received before.
    pub until: Option<Timestamp>,
    /// Only ids smaller than this one: the last of the page before.
    pub before: Option<Uuid>,
    /// Only ids larger than this one.
    pub after: Option<Uuid>,
    /// Oldest first, for going through all of them; else newest first, for looking.
    pub oldest_first: bool,
    /// At most so many.
    pub limit: u32,
}

/// An event's row without its payload, as the commands show it.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// The row's id (version 7: ordered by when we first stored it).
    pub id: Uuid,
    /// The provider.
    pub provider: String,
    /// What makes two copies the same.
    pub dedup_key: DedupKey,
    /// Its type as the provider writes it.
    pub kind: Option<String>,
    /// What it is about.
    pub subject: Option<String>,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// When its delivery was received.
    pub received_at: Timestamp,
    /// When its row was last written by a worker.
    pub processed_at: Timestamp,
    /// Its state.
    pub state: EventState,
    /// Why, where there is a why.
    pub reason: Option<String>,
    /// Tries.
    pub attempts: u32,
    /// When it is due again.
    pub next_attempt_at: Option<Timestamp>,
}

/// An account as an authorised reader sees it: the identifiers are still sealed.
#[derive(Debug, Clone)]
pub struct AccountView {
    /// The row's id.
    pub id: Uuid,
    /// The provider.
    pub service: String,
    /// The provider's id of the integration.
    pub integration_external_id: String,
    /// Sealed.
    pub external_id: Option<String>,
    /// The blind index, part of the seal's place.
    pub external_id_index: Vec<u8>,
    /// Sealed.
    pub baas_id: Option<String>,
    /// `open`, `closed`, …
    pub status: String,
    /// Why.
    pub status_reason: Option<String>,
    /// When it was closed.
    pub deleted_at: Option<Timestamp>,
}

/// A user as an authorised reader sees them.
#[derive(Debug, Clone)]
pub struct UserView {
    /// The row's id.
    pub id: Uuid,
    /// Our id.
    pub external_id: UserId,
    /// The address, wherever it came from.
    pub email: Option<String>,
    /// Whether a provider says that it was verified; `None` where the product wrote it.
    pub email_verified: Option<bool>,
    /// Whether the product wrote the address, so that no provider's replaces it.
    pub email_by_product: bool,
    /// When the product deleted them.
    pub deleted_at: Option<Timestamp>,
}

/// An integration as an authorised reader sees it.
#[derive(Debug, Clone)]
pub struct IntegrationView {
    /// The row's id.
    pub id: Uuid,
    /// The provider.
    pub service: String,
    /// The provider's id of it.
    pub external_id: String,
    /// Our id of its user.
    pub user: UserId,
    /// Whether a person or the product said so, and not only a provider.
    pub linked: bool,
    /// The address that its register holds.
    pub email: Option<String>,
    /// Whether that is verified.
    pub email_verified: Option<bool>,
    /// The access token, sealed.
    pub authorization_id: Option<String>,
    /// The blind index of the access token that was told last.
    pub authorization_index: Option<Vec<u8>>,
    /// `active`, `revoked`, …
    pub status: String,
    /// Why.
    pub status_reason: Option<String>,
    /// When it was closed.
    pub deleted_at: Option<Timestamp>,
}

/// When one of a provider's inbound secrets last proved a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretUse {
    /// The provider.
    pub provider: String,
    /// Which secret: [`marks::of_secret`].
    pub fingerprint: String,
    /// The receipt of the newest delivery that it proved.
    pub last_verified_at: Timestamp,
}

/// How many rows there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Users, the soft-deleted ones too.
    pub user: u64,
    /// Integrations.
    pub integration: u64,
    /// Accounts.
    pub account: u64,
}

/// How many events one provider has in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCount {
    /// The provider.
    pub provider: String,
    /// The state.
    pub state: EventState,
    /// How many.
    pub count: u64,
}

/// The events of one provider that wait in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The provider.
    pub provider: String,
    /// `Unlinked`, `Retrying` or `Dead`.
    pub state: EventState,
    /// How many.
    pub count: u64,
    /// When the delivery of the oldest was received.
    pub oldest: Timestamp,
}

/// How far a queue is worked off: its name, and when the newest of its committed deliveries had been received.
pub type Progress = (String, Timestamp);

/// One migration and whether it is applied.
#[derive(Debug, Clone)]
pub struct MigrationStatus {
    /// Its number.
    pub version: i64,
    /// Its sentence.
    pub description: String,
    /// Whether the database has it.
    pub applied: bool,
}
