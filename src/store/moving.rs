//! Moving the product's tables in: its rows subject by subject, as they are and as they shall be.
//!
//! Law: one transaction takes a few subjects, under the locks that a commit takes; what a row becomes is decided by a
//! [`Mover`], and what the product had written there is kept in `moved_in`, until [`Moving::finish`] drops it or a mover
//! puts it back. A process that dies in between leaves whole subjects behind, moved or not. Where next: `pipeline::moving`.

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use super::rows::SubjectKey;
use crate::domain::Timestamp;

/// Everything of one subject. Old tables may have more than one row for it.
#[derive(Debug, Clone)]
pub struct MovingSubject {
    /// Service and provider's id.
    pub key: SubjectKey,
    /// Its integrations, by id.
    pub integrations: Vec<MovingIntegration>,
    /// The accounts of all of them, by id.
    pub accounts: Vec<MovingAccount>,
}

/// A row of `integration`, as far as moving in touches it.
#[derive(Debug, Clone, PartialEq)]
pub struct MovingIntegration {
    /// The row.
    pub id: Uuid,
    /// Its user; the old table may have none.
    pub user_id: Option<Uuid>,
    /// The access token as it stands there.
    pub authorization_id: Option<String>,
    /// The row that counts, if this is a surplus one.
    pub duplicate_of: Option<Uuid>,
    /// When the product made it.
    pub created_at: Option<Timestamp>,
    /// When it was last written.
    pub updated_at: Option<Timestamp>,
    /// When it was closed.
    pub deleted_at: Option<Timestamp>,
    /// What is kept of it.
    pub original: Option<Original>,
}

/// A row of `account`, as far as moving in touches it.
#[derive(Debug, Clone, PartialEq)]
pub struct MovingAccount {
    /// The row.
    pub id: Uuid,
    /// Its integration.
    pub integration_id: Uuid,
    /// Its user.
    pub user_id: Option<Uuid>,
    /// As it stands there.
    pub external_id: Option<String>,
    /// As it stands there.
    pub baas_id: Option<String>,
    /// What finds it.
    pub external_id_index: Option<Vec<u8>>,
    /// What finds it by the ledger's id.
    pub baas_id_index: Option<Vec<u8>>,
    /// The row that counts, if this is a surplus one.
    pub duplicate_of: Option<Uuid>,
    /// When the product made it.
    pub created_at: Option<Timestamp>,
    /// When it was closed.
    pub deleted_at: Option<Timestamp>,
    /// What is kept of it.
    pub original: Option<Original>,
}

/// A row as it was before it was moved in.
#[derive(Debug, Clone, PartialEq)]
pub struct Original {
    /// Its integration (an integration: itself).
    pub integration_id: Uuid,
    /// `authorization_id` of an integration.
    pub authorization_id: Option<String>,
    /// `external_id` of an account.
    pub external_id: Option<String>,
    /// `baas_id` of an account.
    pub baas_id: Option<String>,
    /// When it was closed.
    pub deleted_at: Option<Timestamp>,
    /// Whether it was merged into the row that counts.
    pub merged: bool,
}

/// The rows of a subject that change.
#[derive(Debug, Default)]
pub struct Moved {
    /// Integrations as they shall be.
    pub integrations: Vec<MovingIntegration>,
    /// Accounts as they shall be.
    pub accounts: Vec<MovingAccount>,
    /// Which of these rows were merged into another.
    pub merged: Vec<Uuid>,
    /// Whether the rows go back: what is kept of them is dropped instead of made.
    pub back: bool,
}

/// Decides what rows become.
pub trait Mover: Send {
    /// What of a subject changes.
    fn decide(&mut self, subject: MovingSubject) -> Moved;
}

/// How far the move is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MoveCounts {
    /// Integrations and accounts.
    pub rows: u64,
    /// Values that the product wrote and that are not moved.
    pub theirs: u64,
    /// Rows of which what the product wrote is kept.
    pub kept: u64,
    /// Rows that were merged, and go when the move is finished.
    pub merged: u64,
}

/// A row that has no place to be sealed for: its integration has no service or no provider's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placeless {
    /// The table.
    pub table: &'static str,
    /// The row.
    pub id: Uuid,
}

/// The statements of a move. The product's tables are in PostgreSQL, so only that store has them.
#[async_trait]
pub trait Moving: Send + Sync {
    /// Takes the next subjects behind `after` (at most `limit`) through the mover; the last of them, `None` at the end.
    /// Without `write` nothing is locked, and what the mover says is dropped.
    async fn move_subjects(
        &self,
        after: Option<&SubjectKey>,
        limit: u32,
        mover: &mut dyn Mover,
        write: bool,
    ) -> Result<Option<SubjectKey>, StoreError>;

    /// How far the move is.
    async fn move_counts(&self) -> Result<MoveCounts, StoreError>;

    /// Whether there are accounts that no index finds, because the product wrote them and nobody moved them in yet. Cheap.
    async fn has_unmoved_accounts(&self) -> Result<bool, StoreError>;

    /// Up to `limit` rows that hold what the product wrote and have no place.
    async fn placeless(&self, limit: u32) -> Result<Vec<Placeless>, StoreError>;

    /// Columns that are too short for a sealed value, as `table.column`.
    async fn short_columns(&self) -> Result<Vec<String>, StoreError>;

    /// Deletes merged rows, after what refers to them refers to the row that counts, and drops what was kept, all at once.
    ///
    /// # Errors
    /// `Failed` if something that the product wrote is not moved yet, or a reference cannot be moved; then nothing is done.
    async fn finish(&self) -> Result<MoveCounts, StoreError>;
}
