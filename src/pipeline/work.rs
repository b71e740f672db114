//! Step 7: the worker takes batches of sealed deliveries from all queues, settles them, and only then acks.
//!
//! ```text
//!            ┌────────── gone, gave up ──────────┐
//!            v                                   │
//! start ─> consume ─> next batch ─> settle ─> ack ─> next batch …      stop: give back what is not settled
//! ```
//! Each worker task has a consumer of its own; while one batch commits, the next ones wait in its prefetch. The broker gives
//! a few messages to the first worker that has room, so that where little waits, one worker takes together what is about one
//! subject.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::read::Desk;
use super::settle::{Item, Settled, Settler};
use super::watch::Watch;
use crate::domain::Timestamp;
use crate::ops::delays::Delays;
use crate::queue::{Consumer, Queue, QueueError, Received, Token};
use crate::store::{Arriving, Store};

/// After so many deliveries of one message it is a suspect: it may be what kills the worker.
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
const PORTION_BYTES: usize = 4 << 20;

/// After so many bytes that were opened and read the runtime gets its turn: its heartbeats must not wait for a batch.
const TURN_BYTES: usize = 128 << 10;

/// How many messages may be settled together with one that was delivered `redeliveries` times before. A worker that is
/// killed adds one to everything that it held, so most suspects are innocent: the circle gets narrower step by step.
fn company(redeliveries: u32) -> usize {
    match redeliveries.saturating_sub(SUSPECT_AFTER) {
        _ if redeliveries < SUSPECT_AFTER => usize::MAX,
        further => (256_usize >> (2 * further).min(8)).max(1),
    }
}

/// Parts of a batch that are opened, settled and acked together, those first that were never tried.
fn portions(mut batch: Vec<Received>) -> Vec<Vec<Received>> {
    batch.sort_by_key(|received| received.redeliveries);
    let mut portions: Vec<Vec<Received>> = Vec::new();
    let mut bytes = 0;
    for received in batch {
        let room = company(received.redeliveries);
        match portions.last_mut() {
            Some(open) if bytes + received.body.len() <= PORTION_BYTES && open.len() < room => {
                bytes += received.body.len();
                open.push(received);
            }
            _ => {
                bytes = received.body.len();
                portions.push(vec![received]);
            }
        }
    }
    portions
}

/// What was read of a portion.
struct Portion {
    /// The events.
    items: Vec<Item>,
    /// What acks it.
    tokens: Vec<Token>,
    /// By queue, when the newest of its deliveries had been received.
    newest: BTreeMap<Arc<str>, Timestamp>,
    /// By queue and key that they came under, when the newest had been received.
    seen: BTreeMap<(Arc<str>, u32), Timestamp>,
}

impl Portion {
    fn with_room_for(messages: usize) -> Self {
        Self {
            items: Vec::with_capacity(messages),
            tokens: Vec::with_capacity(messages),
            newest: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Adds a message, which came under a key of ours if there is one, and its events.
    fn add(&mut self, received: Received, key: Option<u32>, events: Vec<Arriving>) {
        if let Some(at) = events.first().map(|arriving| arriving.event.received_at) {
            if let Some(key) = key {
                let newest = self.seen.entry((received.queue.clone(), key)).or_insert(at);
                *newest = at.max(*newest);
            }
            let newest = self.newest.entry(received.queue).or_insert(at);
            *newest = at.max(*newest);
        }
        self.items.extend(events.into_iter().map(|arriving| Item { arriving, attempts: 0 }));
        self.tokens.push(received.token);
    }
}

/// One worker: one consumer, one transaction at a time.
pub struct Worker {
    queue: Arc<dyn Queue>,
    desk: Arc<Desk>,
    settler: Settler,
    size: BatchSize,
    rank: u16,
    watch: Arc<Watch>,
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
        let watch = Watch::new(desk.now());
        Self { queue, desk, settler, size, rank: 0, watch, stop }
    }

    /// The same, telling what it commits to `watch`.
    pub fn watched_by(self, watch: Arc<Watch>) -> Self {
        Self { watch, ..self }
    }

    /// The same, after those of lower ranks ([`Queue::consume`]).
    pub fn of_rank(self, rank: u16) -> Self {
        Self { rank, ..self }
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
                opened = self.queue.consume(self.prefetch(), self.rank) => opened,
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
            let ended = self.drain(consumer.as_mut(), &mut unstuck).await;
            match &ended {
                Ok(_) => consumer.close().await,
                Err(QueueError::Fatal(_)) => return ended.map(drop),
                Err(error) => tracing::warn!(error = %error, "the consumer ended; consuming anew"),
            }
            if !matches!(ended, Ok(Settled::Stuck)) {
                unstuck.reset();
            }
            self.settler.until_available().await;
        }
        Ok(())
    }

    /// Takes batches until the consumer ends, a batch is given up, or we are told to stop. What is stuck stays with the
    /// consumer for a while, so that the others go on, and is then given back: it comes again in a narrower circle.
    async fn drain(&self, consumer: &mut dyn Consumer, unstuck: &mut Delays) -> Result<Settled, QueueError> {
        let (mut stuck, mut held) = (0, None);
        let mut give_back_at: Option<Instant> = None;
        loop {
            let due = give_back_at.unwrap_or_else(Instant::now);
            let batch = tokio::select! {
                // The prefetch has room for one more batch beside those that are stuck.
                batch = consumer.next(self.size.max, self.size.linger), if stuck <= self.size.max => batch?,
                () = tokio::time::sleep_until(due), if give_back_at.is_some() => return Ok(Settled::Stuck),
                () = self.stop.cancelled() => return Ok(Settled::Done),
            };
            if batch.is_empty() {
                return Ok(Settled::Done);
            }
            let messages = batch.len();
            match self.step(consumer, batch).await? {
                Settled::Done => {}
                Settled::GaveUp => return Ok(Settled::GaveUp),
                Settled::Stuck => {
                    stuck += messages;
                    // Work that is not done, as long as it is not given back.
                    held.get_or_insert_with(|| self.watch.taken());
                    give_back_at.get_or_insert_with(|| Instant::now() + unstuck.after_failure());
                }
            }
        }
    }

    /// One batch: read, settled, acked, in portions of bounded size. way: 7/12
    pub async fn step(&self, consumer: &mut dyn Consumer, batch: Vec<Received>) -> Result<Settled, QueueError> {
        let _in_hand = self.watch.taken();
        let mut settled = Settled::Done;
        for portion in portions(batch) {
            let Portion { items, tokens, newest, seen } = self.read(portion).await;
            match self.settler.settle(items).await {
                Settled::Done => {
                    self.watch.committed(newest, self.desk.now());
                    self.desk.sightings().note(seen);
                    consumer.ack(tokens).await?;
                }
                Settled::GaveUp => return Ok(Settled::GaveUp),
                Settled::Stuck => settled = Settled::Stuck,
            }
        }
        Ok(settled)
    }

    /// Opens and reads a portion.
    async fn read(&self, portion: Vec<Received>) -> Portion {
        let mut read = Portion::with_room_for(portion.len());
        let mut bytes = 0;
        for received in portion {
            bytes += received.body.len();
            if bytes > TURN_BYTES {
                bytes = received.body.len();
                tokio::task::yield_now().await;
            }
            let (received, events) = if received.body.len() > TURN_BYTES {
                self.read_beside(received).await
            } else {
                let events = self.desk.arriving(&received);
                (received, events)
            };
            let key = self.desk.key_seen(&received);
            read.add(received, key, events);
        }
        read
    }

    /// Opens and reads a large message beside the runtime.
    async fn read_beside(&self, received: Received) -> (Received, Vec<Arriving>) {
        let desk = self.desk.clone();
        let read = tokio::task::spawn_blocking(move || {
            let events = desk.arriving(&received);
            (received, events)
        });
        match read.await {
            Ok(read) => read,
            // Readers' panics are caught where they happen; another one ends this worker, which is started again.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::queue::Token;

    fn received(redeliveries: u32, bytes: usize) -> Received {
        Received {
            body: Bytes::from(vec![0; bytes]),
            token: Token::for_test(),
            queue: "finhook.unit".into(),
            redeliveries,
            traceparent: None,
        }
    }

    fn sizes(batch: Vec<Received>) -> Vec<usize> {
        portions(batch).iter().map(Vec::len).collect()
    }

    #[test]
    fn the_oftener_a_message_came_the_fewer_are_settled_with_it() {
        let batch = |redeliveries| (0..512).map(|_| received(redeliveries, 10)).collect::<Vec<_>>();
        assert_eq!(sizes(batch(2)), [512]);
        assert_eq!(sizes(batch(3)), [256, 256]);
        assert_eq!(sizes(batch(4)).len(), 8);
        assert_eq!(sizes(batch(7)).len(), 512);
        assert_eq!(sizes(batch(1_000)).len(), 512);
    }

    #[test]
    fn messages_that_were_never_tried_do_not_wait_for_suspects() {
        let batch = vec![received(9, 1), received(0, 1), received(9, 1), received(0, 1)];
        let portions = portions(batch);
        assert_eq!(portions.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1]);
        assert!(portions[0].iter().all(|received| received.redeliveries == 0));
    }

    #[test]
    fn a_portion_is_bounded_by_bytes() {
        assert_eq!(sizes((0..9).map(|_| received(0, 1 << 20)).collect()), [4, 4, 1]);
        assert_eq!(sizes(vec![received(0, 15 << 20)]), [1]);
    }
}
