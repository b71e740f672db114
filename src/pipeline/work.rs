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
use super::settle::{Item, MAX_EVENTS, Settled, Settler};
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

/// The most bytes of messages that are opened at once: what is read from them takes several times as much.
const PORTION_BYTES: usize = 8 << 20;

/// What is settled and acked together.
#[derive(Default)]
struct Portion {
    items: Vec<Item>,
    tokens: Vec<Token>,
    bytes: usize,
}

impl Portion {
    fn take(&mut self, received: Received, desk: &Desk) {
        self.items.extend(desk.arriving(&received).into_iter().map(|arriving| Item { arriving, attempts: 0 }));
        self.bytes += received.body.len();
        self.tokens.push(received.token);
    }

    fn is_full(&self) -> bool {
        self.bytes >= PORTION_BYTES || self.items.len() >= MAX_EVENTS
    }
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

    /// One batch: read, settled, acked, in portions of bounded size. A suspect is a portion of its own. way: 7/12
    pub async fn step(&self, consumer: &mut dyn Consumer, batch: Vec<Received>) -> Result<Settled, QueueError> {
        let mut portion = Portion::default();
        for received in batch {
            let suspect = received.redeliveries >= SUSPECT_AFTER;
            if suspect && self.flush(consumer, &mut portion).await? == Settled::GaveUp {
                return Ok(Settled::GaveUp);
            }
            portion.take(received, &self.desk);
            if (suspect || portion.is_full()) && self.flush(consumer, &mut portion).await? == Settled::GaveUp {
                return Ok(Settled::GaveUp);
            }
        }
        self.flush(consumer, &mut portion).await
    }

    /// Settles a portion, acks its messages, and leaves it empty.
    async fn flush(&self, consumer: &mut dyn Consumer, portion: &mut Portion) -> Result<Settled, QueueError> {
        let Portion { items, tokens, .. } = std::mem::take(portion);
        if tokens.is_empty() {
            return Ok(Settled::Done);
        }
        if self.settler.settle(items).await == Settled::GaveUp {
            return Ok(Settled::GaveUp);
        }
        consumer.ack(tokens).await?;
        Ok(Settled::Done)
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
