//! The exchange at which the product hears of changed rows, as the pipeline needs it. The only one is `rabbitmq/changes.rs`.

use async_trait::async_trait;

use super::QueueError;
use crate::domain::ChangedRow;

/// Where changed rows are told.
#[async_trait]
pub trait ChangesExchange: Send + Sync {
    /// Makes sure that something could be told now; `Err` is a sentence for a person.
    async fn ready(&self) -> Result<(), QueueError>;

    /// Tells of all these rows; `Ok` only when the broker has confirmed each. Call [`ChangesExchange::ready`] before.
    async fn tell(&self, rows: &[ChangedRow]) -> Result<(), QueueError>;

    /// Says goodbye.
    async fn close(&self);
}
