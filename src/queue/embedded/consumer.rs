//! One consumer of the embedded queue: holds at most its prefetch and so many bytes, gives back what it did not settle.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use super::handout::{Handout, Item, Taken};
use super::writer::Settlements;
use super::{COMMIT_TIMEOUT, queue_name};
use crate::queue::{Consumer, QueueError, Received, Token};

/// How many bytes it holds at most, the last message besides.
const HELD_BYTES: usize = 16 << 20;

/// A stored message with everything that its row says.
pub(in crate::queue) struct Stored {
    pub(in crate::queue) token: Token,
    pub(in crate::queue) provider: Arc<str>,
    /// Microseconds since the epoch.
    pub(in crate::queue) received_at: i64,
    pub(in crate::queue) traceparent: Option<String>,
    pub(in crate::queue) body: Bytes,
}

/// A consumer over all messages.
pub(in crate::queue) struct EmbeddedConsumer {
    handout: Arc<Handout>,
    settlements: Arc<Settlements>,
    prefetch: usize,
    /// Taken and not given out yet: what a cancelled `next` leaves behind.
    buffer: Vec<i64>,
    held: HashMap<i64, Item>,
    held_bytes: usize,
}

impl EmbeddedConsumer {
    pub(super) fn new(handout: Arc<Handout>, settlements: Arc<Settlements>, prefetch: u16) -> Self {
        handout.join();
        let prefetch = usize::from(prefetch).max(1);
        Self { handout, settlements, prefetch, buffer: Vec::new(), held: HashMap::new(), held_bytes: 0 }
    }

    /// As [`Consumer::next`], with the whole rows: for the spool, which passes them on.
    pub(in crate::queue) async fn next_stored(&mut self, max: usize) -> Vec<Stored> {
        self.gather(max, Duration::ZERO).await.map(stored).collect()
    }

    /// Waits for one message, then takes what else arrives within `linger`, up to `max`; nothing if the queue is closed.
    async fn gather(&mut self, max: usize, linger: Duration) -> impl Iterator<Item = &Item> {
        let max = max.max(1);
        let mut now = 0;
        if !self.buffer.is_empty() || self.fill(max).await {
            let deadline = Instant::now() + linger;
            while self.buffer.len() < max && self.held.len() < self.prefetch && self.held_bytes < HELD_BYTES {
                if !timeout_at(deadline, self.fill(max)).await.unwrap_or(false) {
                    break;
                }
            }
            now = self.buffer.len().min(max);
        }
        self.buffer.drain(..now).filter_map(|seq| self.held.get(&seq))
    }

    /// Buffers up to `max` messages, waiting for at least one more; false if the queue is closed.
    async fn fill(&mut self, max: usize) -> bool {
        loop {
            let handout = Arc::clone(&self.handout);
            let mut arrived = pin!(handout.arrived.notified());
            // Registered before looking, or what comes in between would wake nobody.
            arrived.as_mut().enable();
            let room = self.prefetch.saturating_sub(self.held.len());
            let room = room.min(max.saturating_sub(self.buffer.len()));
            match handout.take(room, HELD_BYTES.saturating_sub(self.held_bytes)) {
                Taken::Closed => return false,
                Taken::Items(items) if !items.is_empty() => {
                    for item in items {
                        self.buffer.push(item.seq);
                        self.held_bytes += item.body.len();
                        self.held.insert(item.seq, item);
                    }
                    return true;
                }
                Taken::Items(_) => arrived.await,
            }
        }
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&mut self, max: usize, linger: Duration) -> Result<Vec<Received>, QueueError> {
        Ok(self.gather(max, linger).await.map(received).collect())
    }

    async fn ack(&mut self, tokens: Vec<Token>) -> Result<(), QueueError> {
        let seqs = tokens.into_iter().filter_map(|token| i64::try_from(token.0).ok());
        let items: Vec<_> = seqs.filter_map(|seq| self.held.remove(&seq)).collect();
        self.held_bytes -= items.iter().map(|item| item.body.len()).sum::<usize>();
        self.handout.settled(&items);
        self.settlements.add(items.iter().map(|item| item.seq));
        Ok(())
    }

    async fn close(self: Box<Self>) {
        let settlements = Arc::clone(&self.settlements);
        drop(self);
        let _ = timeout(COMMIT_TIMEOUT, settlements.flush()).await;
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        self.handout.leave();
        self.handout.give_back(self.held.drain().map(|(_, item)| item));
    }
}

fn stored(item: &Item) -> Stored {
    Stored {
        token: Token(item.seq.unsigned_abs()),
        provider: Arc::clone(&item.provider),
        received_at: item.received_at,
        traceparent: item.traceparent.clone(),
        body: item.body.clone(),
    }
}

fn received(item: &Item) -> Received {
    Received {
        body: item.body.clone(),
        token: Token(item.seq.unsigned_abs()),
        queue: queue_name(&item.provider).into(),
        redeliveries: item.redeliveries,
        traceparent: item.traceparent.clone(),
    }
}
