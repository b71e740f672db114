//! Step 7: the worker takes batches of sealed deliveries from all queues, settles them, and only then acks.
//!
//! ```text
//!            ┌────── gone, gave up, stuck ───────┐
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

    /// The same, holding a batch for another time while the database is away.
    pub fn holding(self, hold: Duration) -> Self {
        Self { settler: self.settler.holding(hold), ..self }
    }

    /// Consumes for ever; returns when told to stop, or with a sentence when the broker says what no reconnect mends.
    pub async fn run(&self) -> Result<(), QueueError> {
        let mut delays = Delays::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut unstuck = Delays::new(Duration::from_secs(1), Duration::from_secs(60));
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
            let ended = self.drain(consumer.as_mut()).await;
            match &ended {
                Ok(_) => consumer.close().await,
                Err(QueueError::Fatal(_)) => return ended.map(drop),
                Err(error) => tracing::warn!(error = %error, "the consumer ended; consuming anew"),
            }
            if matches!(ended, Ok(Settled::Stuck)) {
                // It comes back at once, soon alone; in between the others get their turn.
                self.pause(unstuck.after_failure()).await;
            } else {
                unstuck.reset();
            }
            self.settler.until_available().await;
        }
        Ok(())
    }

    /// Takes batches until the consumer ends, a batch is not settled, or we are told to stop.
    async fn drain(&self, consumer: &mut dyn Consumer) -> Result<Settled, QueueError> {
        loop {
            let batch = tokio::select! {
                batch = consumer.next(self.size.max, self.size.linger) => batch?,
                () = self.stop.cancelled() => return Ok(Settled::Done),
            };
            if batch.is_empty() {
                return Ok(Settled::Done);
            }
            let settled = self.step(consumer, batch).await?;
            if settled != Settled::Done {
                return Ok(settled);
            }
        }
    }

    /// One batch: read, settled, acked, in portions of bounded size. A suspect is a portion of its own. way: 7/12
    pub async fn step(&self, consumer: &mut dyn Consumer, batch: Vec<Received>) -> Result<Settled, QueueError> {
        let mut portion = Portion::default();
        let mut settled = Settled::Done;
        for received in batch {
            let suspect = received.redeliveries >= SUSPECT_AFTER;
            if suspect {
                settled = settled.and(self.flush(consumer, &mut portion).await?);
            }
            portion.take(received, &self.desk);
            if suspect || portion.is_full() {
                settled = settled.and(self.flush(consumer, &mut portion).await?);
            }
            if settled == Settled::GaveUp {
                return Ok(settled);
            }
        }
        Ok(settled.and(self.flush(consumer, &mut portion).await?))
    }

    /// Settles a portion, acks its messages, and leaves it empty.
    async fn flush(&self, consumer: &mut dyn Consumer, portion: &mut Portion) -> Result<Settled, QueueError> {
        let Portion { items, tokens, .. } = std::mem::take(portion);
        if tokens.is_empty() {
            return Ok(Settled::Done);
        }
        let settled = self.settler.settle(items).await;
        if settled == Settled::Done {
            consumer.ack(tokens).await?;
        }
        Ok(settled)
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
