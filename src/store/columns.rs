//! The rows as both databases give them back: one struct per statement's columns, and what they mean.
//!
//! Ids and times are the only columns that the two store differently (PostgreSQL: uuid, timestamp; SQLite: hyphenated
//! text, microseconds), so each has a type of its own here that reads either.

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueRef};
use sqlx::sqlite::{SqliteTypeInfo, SqliteValueRef};
use sqlx::{Decode, FromRow, Postgres, Sqlite, Type, TypeInfo};
use time::{OffsetDateTime, PrimitiveDateTime};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::SecretUse;
use super::audit::AuditRow;
use super::forget::Tombstone;
use super::keys::{KnownKey, Purpose, Sighting};
use super::rotation::SealedText;
use super::rows::{AccountRow, IntegrationRow, StoredCopy, Unindexed, UserAddress, UserRow};
use super::{
    AccountView, EventCount, EventRow, IntegrationView, Pending, Progress, StoreError, StoreTrouble, StoredEvent,
    UserView,
};
use crate::domain::register::{Address, Closing, Owner, Status};
use crate::domain::{ChangedRow, Clock, DedupKey, Email, EventState, Rank, Timestamp, UserId};

/// An id column.
#[derive(Debug, Clone, Copy)]
pub struct Id(pub Uuid);

/// When a register was set, as both store it.
pub fn at(clock: Option<&Clock>) -> Option<i64> {
    clock.map(|clock| clock.at.micros())
}

/// By what registers of the same time are told apart.
pub fn key(clock: Option<&Clock>) -> Option<&[u8]> {
    clock.map(|clock| clock.key.as_bytes())
}

/// A changed row that is not told yet.
#[derive(FromRow)]
pub struct ChangedColumns {
    seq: i64,
    table_name: String,
    row_id: Id,
}

impl ChangedColumns {
    /// The row as the pipeline knows it.
    pub fn read(self) -> ChangedRow {
        ChangedRow { seq: self.seq, table: self.table_name, id: self.row_id.0 }
    }
}

/// A column with a point in time.
#[derive(Debug, Clone, Copy)]
pub struct At(pub Timestamp);

impl Type<Postgres> for Id {
    fn type_info() -> PgTypeInfo {
        <Uuid as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Id {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        <Uuid as Decode<Postgres>>::decode(value).map(Self)
    }
}

impl Type<Sqlite> for Id {
    fn type_info() -> SqliteTypeInfo {
        <Hyphenated as Type<Sqlite>>::type_info()
    }
}

impl<'r> Decode<'r, Sqlite> for Id {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        <Hyphenated as Decode<Sqlite>>::decode(value).map(|id| Self(id.into_uuid()))
    }
}

impl Type<Postgres> for At {
    fn type_info() -> PgTypeInfo {
        <OffsetDateTime as Type<Postgres>>::type_info()
    }

    /// The product's columns are `timestamp` in UTC, the event table's `timestamptz`.
    fn compatible(ty: &PgTypeInfo) -> bool {
        <OffsetDateTime as Type<Postgres>>::compatible(ty) || <PrimitiveDateTime as Type<Postgres>>::compatible(ty)
    }
}

impl<'r> Decode<'r, Postgres> for At {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        use sqlx::ValueRef;
        let zoned = value.type_info().name() == "TIMESTAMPTZ";
        let at = if zoned {
            <OffsetDateTime as Decode<Postgres>>::decode(value)?
        } else {
            <PrimitiveDateTime as Decode<Postgres>>::decode(value)?.assume_utc()
        };
        Ok(Self(Timestamp::from_datetime(at)))
    }
}

impl Type<Sqlite> for At {
    fn type_info() -> SqliteTypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }
}

impl<'r> Decode<'r, Sqlite> for At {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        let micros = <i64 as Decode<Sqlite>>::decode(value)?;
        Timestamp::from_micros(micros).map(Self).ok_or_else(|| "a time out of range".into())
    }
}

/// A column that holds what finhook never writes.
fn odd(column: &str) -> StoreError {
    StoreError { trouble: StoreTrouble::Failed, what: format!("read a row: {column} holds what finhook never writes") }
}

/// A clock's two columns.
fn clock(at: Option<i64>, key: Option<Vec<u8>>, column: &str) -> Result<Option<Clock>, StoreError> {
    let Some(at) = at else { return Ok(None) };
    let at = Timestamp::from_micros(at).ok_or_else(|| odd(column))?;
    Ok(Some(Clock { at, key: DedupKey::from_stored(key.unwrap_or_default()) }))
}

fn state(text: &str) -> Result<EventState, StoreError> {
    EventState::parse(text).ok_or_else(|| odd("event.state"))
}

/// `tombstone`.
#[derive(FromRow)]
pub struct TombstoneColumns {
    mark: Vec<u8>,
    of_user: Vec<u8>,
    service: Option<String>,
    subject: Option<String>,
}

impl TombstoneColumns {
    /// The tombstone that they are.
    pub fn read(self) -> Result<Tombstone, StoreError> {
        Ok(Tombstone { mark: self.mark, of_user: self.of_user, subject: self.service.zip(self.subject) })
    }
}

/// `inbound_secret`.
#[derive(FromRow)]
pub struct SecretUseColumns {
    provider: String,
    fingerprint: String,
    last_verified_at: At,
}

impl SecretUseColumns {
    /// What they say.
    pub fn read(self) -> SecretUse {
        let Self { provider, fingerprint, last_verified_at } = self;
        SecretUse { provider, fingerprint, last_verified_at: last_verified_at.0 }
    }
}

/// `audit`, without the mark.
#[derive(FromRow)]
pub struct AuditColumns {
    id: Id,
    at: At,
    actor: String,
    act: String,
    target: Option<String>,
    reason: Option<String>,
    detail: Option<String>,
}

impl AuditColumns {
    /// The row that they are.
    pub fn read(self) -> AuditRow {
        let Self { id, at, actor, act, target, reason, detail } = self;
        AuditRow { id: id.0, at: at.0, actor, act, target, reason, detail }
    }
}

/// `integration`, and its user's `external_id` as `owner`.
#[derive(FromRow)]
pub struct IntegrationColumns {
    id: Id,
    service: String,
    external_id: String,
    user_id: Option<Id>,
    owner: Option<String>,
    owner_rank: i16,
    owner_at: i64,
    owner_key: Vec<u8>,
    status: String,
    status_reason: Option<String>,
    status_final: bool,
    status_at: Option<i64>,
    status_key: Option<Vec<u8>>,
    deleted_at: Option<At>,
    closing_status: Option<String>,
    closing_final: bool,
    closing_at: Option<i64>,
    closing_key: Option<Vec<u8>>,
    email: Option<String>,
    email_verified: Option<bool>,
    email_at: Option<i64>,
    email_key: Option<Vec<u8>>,
    authorization_at: Option<i64>,
    authorization_key: Option<Vec<u8>>,
    observed_at: Option<At>,
}

impl IntegrationColumns {
    /// The row that they are.
    pub fn read(self) -> Result<IntegrationRow, StoreError> {
        let owner_clock = clock(Some(self.owner_at), Some(self.owner_key), "integration.owner_at")?;
        let closing_clock = clock(self.closing_at, self.closing_key, "integration.closing_at")?;
        Ok(IntegrationRow {
            id: self.id.0,
            service: self.service,
            external_id: self.external_id,
            user_id: self.user_id.map_or(Uuid::nil(), |id| id.0),
            // The product's tables may have integrations without a user, and users without an id of ours: the first are
            // nobody's yet, the second have the empty id, which no claim names.
            owner: match self.user_id {
                None => None,
                Some(_) => Some(Owner {
                    user: UserId(self.owner.unwrap_or_default()),
                    rank: Rank::from_number(self.owner_rank).ok_or_else(|| odd("integration.owner_rank"))?,
                    clock: owner_clock.ok_or_else(|| odd("integration.owner_at"))?,
                }),
            },
            status: Status {
                status: self.status,
                reason: self.status_reason,
                deleted_at: self.deleted_at.map(|at| at.0),
                is_final: self.status_final,
                clock: clock(self.status_at, self.status_key, "integration.status_at")?,
            },
            closing: self.closing_status.zip(closing_clock).map(|(status, clock)| Closing {
                clock,
                is_final: self.closing_final,
                status,
            }),
            address: address(self.email, self.email_verified, self.email_at, self.email_key)?,
            authorization: clock(self.authorization_at, self.authorization_key, "integration.authorization_at")?,
            observed_at: self.observed_at.map(|at| at.0),
        })
    }
}

fn address(
    email: Option<String>,
    verified: Option<bool>,
    at: Option<i64>,
    key: Option<Vec<u8>>,
) -> Result<Option<Address>, StoreError> {
    let email = email.map(|address| Email { address, verified: verified.unwrap_or(false) });
    Ok(email.zip(clock(at, key, "integration.email_at")?).map(|(email, clock)| Address { email, clock }))
}

/// `account` without its sealed columns, but for those of a row that no index finds.
#[derive(FromRow)]
pub struct AccountColumns {
    id: Id,
    integration_id: Id,
    user_id: Option<Id>,
    external_id_index: Option<Vec<u8>>,
    baas_id_index: Option<Vec<u8>>,
    status: String,
    status_reason: Option<String>,
    status_at: Option<i64>,
    status_key: Option<Vec<u8>>,
    deleted_at: Option<At>,
    observed_at: Option<At>,
    #[sqlx(default)]
    unindexed_external_id: Option<String>,
    #[sqlx(default)]
    unindexed_baas_id: Option<String>,
}

impl AccountColumns {
    /// The row that they are.
    pub fn read(self) -> Result<AccountRow, StoreError> {
        Ok(AccountRow {
            id: self.id.0,
            integration_id: self.integration_id.0,
            user_id: self.user_id.map_or(Uuid::nil(), |id| id.0),
            external_id_index: self.external_id_index,
            baas_id_index: self.baas_id_index,
            status: Status {
                status: self.status,
                reason: self.status_reason,
                deleted_at: self.deleted_at.map(|at| at.0),
                is_final: false,
                clock: clock(self.status_at, self.status_key, "account.status_at")?,
            },
            observed_at: self.observed_at.map(|at| at.0),
            unindexed: self
                .unindexed_external_id
                .map(|external_id| Unindexed { external_id, baas_id: self.unindexed_baas_id }),
        })
    }
}

/// `"user"` by its two ids.
#[derive(FromRow)]
pub struct UserColumns {
    id: Id,
    external_id: String,
}

impl UserColumns {
    /// The row that they are.
    pub fn read(self) -> Result<UserRow, StoreError> {
        Ok(UserRow { id: self.id.0, external_id: UserId(self.external_id) })
    }
}

/// A user's address; the clock is null where `email` is not what finhook wrote last.
#[derive(FromRow)]
pub struct UserAddressColumns {
    id: Id,
    email: Option<String>,
    email_verified: Option<bool>,
    email_at: Option<i64>,
    email_key: Option<Vec<u8>>,
}

impl UserAddressColumns {
    /// The row that they are.
    pub fn read(self) -> Result<UserAddress, StoreError> {
        let clock = clock(self.email_at, self.email_key, "user.email_at")?;
        Ok(UserAddress { id: self.id.0, email: self.email, verified: self.email_verified, clock })
    }
}

/// The address of an integration that somebody owns.
#[derive(FromRow)]
pub struct OwnedAddressColumns {
    user_id: Id,
    email: Option<String>,
    email_verified: Option<bool>,
    email_at: Option<i64>,
    email_key: Option<Vec<u8>>,
}

impl OwnedAddressColumns {
    /// The owner and the address.
    pub fn read(self) -> Result<(Uuid, Address), StoreError> {
        let address = address(self.email, self.email_verified, self.email_at, self.email_key)?;
        address.map(|address| (self.user_id.0, address)).ok_or_else(|| odd("integration.email_at"))
    }
}

/// What decides between copies.
#[derive(FromRow)]
pub struct CopyColumns {
    id: Id,
    provider: String,
    dedup_key: Vec<u8>,
    state: String,
    occurred_at: At,
    received_at: At,
}

impl CopyColumns {
    /// The copy that they are.
    pub fn read(self) -> Result<StoredCopy, StoreError> {
        Ok(StoredCopy {
            id: self.id.0,
            key: (self.provider, DedupKey::from_stored(self.dedup_key)),
            state: state(&self.state)?,
            occurred_at: self.occurred_at.0,
            received_at: self.received_at.0,
        })
    }
}

/// A stored event with its payload.
#[derive(FromRow)]
pub struct StoredColumns {
    id: Id,
    provider: String,
    dedup_key: Vec<u8>,
    attempts: i32,
    payload: Vec<u8>,
}

impl StoredColumns {
    /// The event that they are.
    pub fn read(self) -> Result<StoredEvent, StoreError> {
        Ok(StoredEvent {
            id: self.id.0,
            provider: self.provider,
            dedup_key: DedupKey::from_stored(self.dedup_key),
            attempts: self.attempts.unsigned_abs(),
            payload: self.payload,
        })
    }
}

/// An event's row without its payload.
#[derive(FromRow)]
pub struct EventColumns {
    id: Id,
    provider: String,
    dedup_key: Vec<u8>,
    kind: Option<String>,
    subject: Option<String>,
    occurred_at: At,
    received_at: At,
    processed_at: At,
    state: String,
    reason: Option<String>,
    attempts: i32,
    next_attempt_at: Option<At>,
}

impl EventColumns {
    /// The row that they are.
    pub fn read(self) -> Result<EventRow, StoreError> {
        Ok(EventRow {
            id: self.id.0,
            provider: self.provider,
            dedup_key: DedupKey::from_stored(self.dedup_key),
            kind: self.kind,
            subject: self.subject,
            occurred_at: self.occurred_at.0,
            received_at: self.received_at.0,
            processed_at: self.processed_at.0,
            state: state(&self.state)?,
            reason: self.reason,
            attempts: self.attempts.unsigned_abs(),
            next_attempt_at: self.next_attempt_at.map(|at| at.0),
        })
    }
}

/// An account as an authorised reader sees it.
#[derive(FromRow)]
pub struct AccountViewColumns {
    id: Id,
    service: String,
    integration_external_id: String,
    external_id: Option<String>,
    external_id_index: Option<Vec<u8>>,
    baas_id: Option<String>,
    status: String,
    status_reason: Option<String>,
    deleted_at: Option<At>,
}

impl AccountViewColumns {
    /// The account that they are.
    pub fn read(self) -> Result<AccountView, StoreError> {
        Ok(AccountView {
            id: self.id.0,
            service: self.service,
            integration_external_id: self.integration_external_id,
            external_id: self.external_id,
            external_id_index: self.external_id_index.unwrap_or_default(),
            baas_id: self.baas_id,
            status: self.status,
            status_reason: self.status_reason,
            deleted_at: self.deleted_at.map(|at| at.0),
        })
    }
}

/// A user, as an authorised reader sees them.
#[derive(FromRow)]
pub struct UserViewColumns {
    id: Id,
    external_id: String,
    email: Option<String>,
    email_verified: Option<bool>,
    email_by_product: bool,
    deleted_at: Option<At>,
}

impl UserViewColumns {
    /// The user that they are.
    pub fn read(self) -> UserView {
        UserView {
            id: self.id.0,
            external_id: UserId(self.external_id),
            email: self.email,
            email_verified: self.email_verified,
            email_by_product: self.email_by_product,
            deleted_at: self.deleted_at.map(|at| at.0),
        }
    }
}

/// An integration, as an authorised reader sees it.
#[derive(FromRow)]
pub struct IntegrationViewColumns {
    id: Id,
    service: String,
    external_id: String,
    user: Option<String>,
    owner_rank: i16,
    email: Option<String>,
    email_verified: Option<bool>,
    authorization_id: Option<String>,
    authorization_key: Option<Vec<u8>>,
    status: String,
    status_reason: Option<String>,
    deleted_at: Option<At>,
}

impl IntegrationViewColumns {
    /// The integration that they are.
    pub fn read(self) -> IntegrationView {
        IntegrationView {
            id: self.id.0,
            service: self.service,
            external_id: self.external_id,
            user: UserId(self.user.unwrap_or_default()),
            linked: self.owner_rank == Rank::Link.number(),
            email: self.email,
            email_verified: self.email_verified,
            authorization_id: self.authorization_id,
            authorization_index: self.authorization_key,
            status: self.status,
            status_reason: self.status_reason,
            deleted_at: self.deleted_at.map(|at| at.0),
        }
    }
}

/// How many events one provider has in one state.
#[derive(FromRow)]
pub struct EventCountColumns {
    provider: String,
    state: String,
    count: i64,
}

impl EventCountColumns {
    /// The count that they are.
    pub fn read(self) -> Result<EventCount, StoreError> {
        let count = self.count.unsigned_abs();
        Ok(EventCount { provider: self.provider, state: state(&self.state)?, count })
    }
}

/// The waiting events of one provider in one state.
#[derive(FromRow)]
pub struct PendingColumns {
    provider: String,
    state: String,
    count: i64,
    oldest: At,
}

impl PendingColumns {
    /// What waits.
    pub fn read(self) -> Result<Pending, StoreError> {
        let count = self.count.unsigned_abs();
        Ok(Pending { provider: self.provider, state: state(&self.state)?, count, oldest: self.oldest.0 })
    }
}

/// How far a queue is worked off.
#[derive(FromRow)]
pub struct ProgressColumns {
    queue: String,
    received_at: At,
}

impl ProgressColumns {
    /// Its name and the receipt of its newest committed delivery.
    pub fn read(self) -> Progress {
        (self.queue, self.received_at.0)
    }
}

/// `sealing_key`.
#[derive(FromRow)]
pub struct KnownKeyColumns {
    purpose: String,
    id: i64,
    canary: String,
    first_seen_at: At,
    primary_at: Option<At>,
    retired_at: Option<At>,
}

impl KnownKeyColumns {
    /// The key.
    pub fn read(self) -> Result<KnownKey, StoreError> {
        Ok(KnownKey {
            purpose: Purpose::parse(&self.purpose).ok_or_else(|| odd("sealing_key.purpose"))?,
            id: u32::try_from(self.id).map_err(|_| odd("sealing_key.id"))?,
            canary: self.canary,
            first_seen_at: self.first_seen_at.0,
            primary_at: self.primary_at.map(|at| at.0),
            retired_at: self.retired_at.map(|at| at.0),
        })
    }
}

/// `delivery_key`.
#[derive(FromRow)]
pub struct SightingColumns {
    queue: String,
    key_id: i64,
    received_at: At,
}

impl SightingColumns {
    /// The sighting.
    pub fn read(self) -> Result<Sighting, StoreError> {
        let key = u32::try_from(self.key_id).map_err(|_| odd("delivery_key.key_id"))?;
        Ok(Sighting { queue: self.queue, key, received_at: self.received_at.0 })
    }
}

/// A sealed text and what its place is made of.
#[derive(FromRow)]
pub struct SealedTextColumns {
    id: Id,
    value: String,
    service: String,
    subject: String,
    index: Option<Vec<u8>>,
}

impl SealedTextColumns {
    /// The text.
    pub fn read(self) -> SealedText {
        let index = self.index.unwrap_or_default();
        SealedText { id: self.id.0, value: self.value, service: self.service, subject: self.subject, index }
    }
}

/// A row and how many bytes it holds.
#[derive(FromRow)]
pub struct SizeColumns {
    id: Id,
    size: i64,
}

impl SizeColumns {
    /// Both.
    pub fn read(self) -> (Uuid, u64) {
        (self.id.0, self.size.unsigned_abs())
    }
}
