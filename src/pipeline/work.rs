//! Step 7: the worker takes batches of sealed deliveries from all queues, settles them, and only then acks.
//!
//! ```text
//!            ┌────────── gone, gave up ──────────┐
//!            v                                   │
//! start ─> consume ─> next batch ─> settle ─> ack ─> next batch …      stop: give back what is not settled
//! ```
//! Each worker task has a consumer of its own; while one batch commits, the next ones wait in its prefetch.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::read::Desk;
use super::settle::{Item, Settled, Settler};
use crate::ops::delays::Delays;
use crate::queue::{Consumer, Queue, QueueError, Received, Token};
use crate::store::Store;

/// After so many deliveries of one message it is handled alone: it may be what kills the batch.
const SUSPECT_AFTER: u32 = 3;

/// How a worker takes its batches.
#[derive(Debug, Clone, Copy)]
pub struct BatchSize {
    /// At most so many deliveries in one transaction.
    pub max: usize,
    /// How long to wait for more after the first. Small: under a backlog the prefetch is full anyway.
    pub linger: Duration,
}

/// One worker: one consumer, one transaction at a time.
pub struct Worker {
    queue: Arc<dyn Queue>,
    desk: Arc<Desk>,
    settler: Settler,
    size: BatchSize,
    stop: CancellationToken,
}

impl Worker {
    /// Works from `queue` into `store` until `stop` is cancelled.
    pub fn new(
        queue: Arc<dyn Queue>,
        store: Arc<dyn Store>,
        desk: Arc<Desk>,
        size: BatchSize,
        stop: CancellationToken,
    ) -> Self {
        let settler = Settler::new(store, desk.clone(), stop.clone());
        Self { queue, desk, settler, size, stop }
    }

    /// Consumes for ever; returns when told to stop, or with a sentence when the broker says what no reconnect mends.
    pub async fn run(&self) -> Result<(), QueueError> {
        let mut delays = Delays::new(Duration::from_millis(100), Duration::from_secs(5));
        while !self.stop.is_cancelled() {
            let opened = tokio::select! {
                opened = self.queue.consume(self.prefetch()) => opened,
                () = self.stop.cancelled() => break,
            };
            let mut consumer = match opened {
                Ok(consumer) => consumer,
                Err(error @ QueueError::Fatal(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(error = %error, "cannot consume yet");
                    self.pause(delays.after_failure()).await;
                    continue;
                }
            };
            delays = Delays::new(Duration::from_millis(100), Duration::from_secs(5));
            match self.drain(consumer.as_mut()).await {
                Ok(()) => consumer.close().await,
                Err(error @ QueueError::Fatal(_)) => return Err(error),
                Err(error) => tracing::warn!(error = %error, "the consumer ended; consuming anew"),
            }
            self.settler.until_available().await;
        }
        Ok(())
    }

    /// Takes batches until the consumer ends, a batch is given up, or we are told to stop.
    async fn drain(&self, consumer: &mut dyn Consumer) -> Result<(), QueueError> {
        loop {
            let batch = tokio::select! {
                batch = consumer.next(self.size.max, self.size.linger) => batch?,
                () = self.stop.cancelled() => return Ok(()),
            };
            if batch.is_empty() || self.step(consumer, batch).await? == Settled::GaveUp {
                return Ok(());
            }
        }
    }

    /// One batch: read, settled, acked. way: 7/12
    pub async fn step(&self, consumer: &mut dyn Consumer, batch: Vec<Received>) -> Result<Settled, QueueError> {
        let (suspects, batch): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|received| received.redeliveries >= SUSPECT_AFTER);
        let alone = suspects.into_iter().map(|received| vec![received]);
        for messages in std::iter::once(batch).chain(alone).filter(|messages| !messages.is_empty()) {
            let (items, tokens) = self.read(messages);
            if self.settler.settle(items).await == Settled::GaveUp {
                return Ok(Settled::GaveUp);
            }
            consumer.ack(tokens).await?;
        }
        Ok(Settled::Done)
    }

    fn read(&self, messages: Vec<Received>) -> (Vec<Item>, Vec<Token>) {
        let mut items = Vec::with_capacity(messages.len());
        let mut tokens = Vec::with_capacity(messages.len());
        for received in messages {
            items.extend(self.desk.arriving(&received).into_iter().map(|arriving| Item { arriving, attempts: 0 }));
            tokens.push(received.token);
        }
        (items, tokens)
    }

    /// Twice a batch, so that the next one is here while this one commits.
    fn prefetch(&self) -> u16 {
        u16::try_from(self.size.max.saturating_mul(2)).unwrap_or(u16::MAX)
    }

    async fn pause(&self, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.stop.cancelled() => {}
        }
    }
}
