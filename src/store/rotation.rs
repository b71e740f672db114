//! What is sealed in the tables, by key: counted, read in pages and replaced, beside everything else that goes on.
//!
//! Which rows are left to do is asked of the rows themselves, page by page along the primary key: a sealed value says in the
//! clear which key it is under. So there is no cursor to keep or to go stale, and no index on what nearly never is asked,
//! which every event would have to pay for; a row that is done is passed over without being read whole.
//!
//! Law: a value is replaced only while it is still the one that was read, and nothing else of its row is touched
//! (`updated_at` says when the row's meaning changed, which this does not). A row that somebody else holds right now is left
//! for the next round: this waits for nobody, and so nobody waits in a circle.

use async_trait::async_trait;
use uuid::Uuid;

use super::{StoreError, StoredEvent};
use crate::crypto::{Column, Payload, Place, Sealed};

/// A sealed column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shelf {
    /// `integration.authorization_id`.
    AuthorizationId,
    /// `account.external_id`.
    ExternalId,
    /// `account.baas_id`.
    BaasId,
    /// `event.payload`.
    Payload,
}

impl Shelf {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::AuthorizationId, Self::ExternalId, Self::BaasId, Self::Payload];

    /// Its table.
    pub fn table(self) -> &'static str {
        match self {
            Self::AuthorizationId => "integration",
            Self::ExternalId | Self::BaasId => "account",
            Self::Payload => "event",
        }
    }

    /// Its column.
    pub fn column(self) -> &'static str {
        match self {
            Self::AuthorizationId => "authorization_id",
            Self::ExternalId => "external_id",
            Self::BaasId => "baas_id",
            Self::Payload => "payload",
        }
    }
}

/// The rows of a page: those with ids above the first, up to and with the second.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// The last id of the page before.
    pub after: Uuid,
    /// The last id of this one.
    pub to: Uuid,
}

/// How many values of one column are under one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// The key; `None` if what stands there is of no version that we know.
    pub key: Option<u32>,
    /// How many.
    pub count: u64,
}

/// A sealed text with what its place is made of.
#[derive(Debug, Clone)]
pub struct SealedText {
    /// The row.
    pub id: Uuid,
    /// The value.
    pub value: String,
    /// The integration's provider.
    pub service: String,
    /// The provider's id of the integration.
    pub subject: String,
    /// An account's index.
    pub index: Vec<u8>,
}

impl SealedText {
    /// Calls `with` with the place that the value is bound to.
    pub fn in_place<R>(&self, shelf: Shelf, with: impl FnOnce(&Place<'_>) -> R) -> R {
        let whole: [&[u8]; 3] = [self.service.as_bytes(), self.subject.as_bytes(), &self.index];
        let (integration, _) = whole.split_at(2);
        let key = if shelf == Shelf::AuthorizationId { integration } else { &whole[..] };
        with(&Place { table: shelf.table(), column: shelf.column(), key })
    }
}

/// A text to be replaced.
pub struct NewText {
    /// The row.
    pub id: Uuid,
    /// What has to stand there still.
    pub old: String,
    /// What takes its place.
    pub new: Sealed<Column>,
}

/// A payload to be replaced.
pub struct NewPayload {
    /// The row.
    pub id: Uuid,
    /// What has to stand at the old payload's beginning still (`PAYLOAD_HEADER` bytes): with its random nonce no other
    /// payload begins like this one.
    pub header: Vec<u8>,
    /// What takes its place.
    pub new: Sealed<Payload>,
}

/// The sealed columns of one database.
#[async_trait]
pub trait Shelves: Send + Sync {
    /// The last id of the page of `size` rows behind `after`; `None` if there is no row behind it.
    async fn page_end(&self, shelf: Shelf, after: Uuid, size: u32) -> Result<Option<Uuid>, StoreError>;

    /// How many sealed values a page has under which key. What does not start with `fh1.` is not ours and not counted.
    async fn tally(&self, shelf: Shelf, page: Page) -> Result<Vec<Tally>, StoreError>;

    /// The sealed texts of a page that are not under `primary`.
    async fn texts(&self, shelf: Shelf, page: Page, primary: u32) -> Result<Vec<SealedText>, StoreError>;

    /// The rows of a page whose payload is not under `primary`, and how many bytes it has.
    async fn payload_sizes(&self, page: Page, primary: u32) -> Result<Vec<(Uuid, u64)>, StoreError>;

    /// The payloads of these rows.
    async fn payloads(&self, ids: &[Uuid]) -> Result<Vec<StoredEvent>, StoreError>;

    /// Up to `limit` rows that may hold a message as it came, older ids first, ids greater than `after`.
    async fn kept(&self, after: Uuid, limit: u32) -> Result<Vec<StoredEvent>, StoreError>;

    /// Replaces texts that are still what they were; how many it were.
    async fn replace_texts(&self, shelf: Shelf, rows: &[NewText]) -> Result<u64, StoreError>;

    /// Replaces payloads that are still what they were; how many it were.
    async fn replace_payloads(&self, rows: &[NewPayload]) -> Result<u64, StoreError>;
}

/// The reasons of rows that can hold a message as it came.
pub(super) const KEPT_REASONS: [crate::domain::Cause; 4] = {
    use crate::domain::Cause;
    [Cause::UnknownKey, Cause::UnknownProvider, Cause::Unopenable, Cause::Panicked]
};

/// A statement's name for errors.
pub(super) const DOING: [&str; 4] = ["count sealed values", "load sealed values", "seal values anew", "find a page"];

/// Counts by what a key's values start with, as counts by key. A text starts in one of four ways under one key.
pub(super) fn tallies<M>(rows: Vec<(M, i64)>, key: impl Fn(M) -> Option<u32>) -> Vec<Tally> {
    rows.into_iter().map(|(mark, count)| Tally { key: key(mark), count: count.unsigned_abs() }).collect()
}
