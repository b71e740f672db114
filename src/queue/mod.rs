//! The durable queue between receiver and worker: one trait, two backends.
//!
//! Law: [`Queue::publish`] takes only what a key ring sealed, and returns `Ok` only when the delivery is on disk: at a
//! quorum of the broker, or fsynced in the embedded log. Where next: `rabbitmq/mod.rs` or `embedded.rs`;
//! `spool.rs` puts the one before the other.

pub mod changes;
pub mod embedded;
pub mod rabbitmq;
pub mod spool;

#[cfg(test)]
mod contract;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::crypto::SealedDelivery;
use crate::domain::Timestamp;

/// The most that the backends' libraries may log, whatever the filter says: they print whole messages. Those are sealed,
/// and have no place in a log all the same.
pub const SILENT_LOG_TARGETS: &[&str] = rabbitmq::SILENT_LOG_TARGETS;

/// A durable queue of sealed deliveries.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Hands a delivery over; `Ok` only when it is durable. Never waits longer than the backend's confirm timeout.
    async fn publish(&self, delivery: SealedDelivery) -> Result<(), PublishError>;

    /// Whether a delivery could be accepted now, answered without waiting for broker or disk: `Err` says why not.
    fn accepts(&self) -> Result<(), PublishError>;

    /// Opens a consumer over all queues (every provider's, the unrouted and the broker's dead ones) holding at most
    /// `prefetch` unsettled messages of each. Waits, reconnecting, until the broker is there.
    ///
    /// A broker gives the first few messages to the consumer of the lowest `rank`, then to the next, and what is more to all
    /// of them in turn. Where little waits, one worker then takes what comes together instead of several that wait for each
    /// other's subjects. The embedded queue, whose store commits one batch after the other, knows no rank.
    async fn consume(&self, prefetch: u16, rank: u16) -> Result<Box<dyn Consumer>, QueueError>;

    /// How many messages stand in each queue.
    async fn depths(&self) -> Result<Vec<Depth>, QueueError>;

    /// Completes, with a sentence for a person, when the backend met what no reconnect mends (403, 404, 406); else never.
    async fn stopped(&self) -> String {
        std::future::pending().await
    }

    /// Makes sure that confirms and acks have arrived, then closes.
    async fn close(&self);
}

/// A stream of messages that stay the queue's until they are settled. Dropping it gives back what is not.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for one message, then takes what else arrives within `linger`, up to `max`. Never empty unless the queue is
    /// being closed. Cancel-safe: a message is either returned or still buffered.
    async fn next(&mut self, max: usize, linger: Duration) -> Result<Vec<Received>, QueueError>;

    /// Settles messages for good; call after the commit.
    async fn ack(&mut self, tokens: Vec<Token>) -> Result<(), QueueError>;

    /// Gives back what is not settled, and waits until the acks have arrived.
    async fn close(self: Box<Self>);
}

/// What settles one message. Opaque to everybody but the consumer that gave it.
#[derive(Debug)]
pub struct Token(pub(in crate::queue) u64);

#[cfg(test)]
impl Token {
    /// A token of no consumer.
    pub(crate) fn for_test() -> Self {
        Self(0)
    }
}

/// A message as a consumer gives it.
#[derive(Debug)]
pub struct Received {
    /// The framed, sealed body.
    pub body: Bytes,
    /// Settles it.
    pub token: Token,
    /// Which queue it stood in.
    pub queue: Arc<str>,
    /// How many times it was delivered before, as far as the queue knows.
    pub redeliveries: u32,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
}

/// How full one queue is, and how fast messages go through it. What the backend does not say is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Depth {
    /// The queue's name.
    pub queue: String,
    /// Messages that wait.
    pub ready: u64,
    /// Messages that a consumer holds; `None` where the broker does not say.
    pub unacked: Option<u64>,
    /// Consumers; `None` where it makes no sense.
    pub consumers: Option<u64>,
    /// Messages that come in, a second.
    pub in_per_second: Option<f64>,
    /// Messages that are settled for good, a second.
    pub out_per_second: Option<f64>,
    /// When the newest of the messages that were settled had been received.
    pub newest_out: Option<Timestamp>,
}

/// Why a delivery was not taken. All of them are 503 to the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No connection to the broker.
    #[error("the broker is away")]
    Disconnected,
    /// The broker takes nothing: memory or disk alarm.
    #[error("the broker is blocked")]
    Blocked,
    /// Too much is in flight already.
    #[error("too many deliveries in flight")]
    Full,
    /// The broker said no, or could not route it.
    #[error("the broker refused it")]
    Refused,
    /// No confirm in time.
    #[error("no confirm in time")]
    Timeout,
    /// The embedded log could not be written.
    #[error("the log could not be written")]
    Storage,
}

/// What went wrong between us and the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The connection or channel is gone; what was not acked will come again. Consume anew.
    #[error("the queue connection is gone")]
    Gone,
    /// The broker says something that no reconnect mends (403, 404, 406): a sentence for a person.
    #[error("{0}")]
    Fatal(String),
    /// The embedded log failed.
    #[error("the embedded queue failed: {0}")]
    Storage(String),
}
