//! Who gets which message: what was just committed while there is room, what stands on disk otherwise, each to one consumer.
//!
//! Law: `cursor` is the highest number in memory, `last` the highest committed. The writer hands messages over directly
//! only while nothing between the two is unread, so everything is given out once and about in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::queue_name;
use crate::domain::Timestamp;
use crate::ops::delays::Delays;
use crate::ops::meter::{Meter, Second};
use crate::queue::Depth;

/// How much stands in memory ahead of the consumers.
const AHEAD: usize = 1_024;
const AHEAD_BYTES: usize = 8 << 20;

/// How many rows the reader takes at once.
const PAGE: i64 = 128;

/// A message in memory.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) seq: i64,
    pub(super) provider: Arc<str>,
    /// Microseconds since the epoch.
    pub(super) received_at: i64,
    pub(super) traceparent: Option<String>,
    pub(super) body: Bytes,
    pub(super) redeliveries: u32,
}

#[derive(Debug, Default)]
struct Count {
    stored: u64,
    held: u64,
    entered: Meter,
    left: Meter,
    /// Receipt of the newest that was settled, in microseconds since the epoch.
    newest_out: Option<i64>,
}

struct State {
    returned: BTreeMap<i64, Item>,
    ahead: VecDeque<Item>,
    ahead_bytes: usize,
    cursor: i64,
    last: i64,
    counts: BTreeMap<Arc<str>, Count>,
    bytes: u64,
    consumers: u64,
    closed: bool,
}

/// The messages that can be given to consumers.
pub(super) struct Handout {
    state: Mutex<State>,
    /// Something can be taken, or the queue is closed.
    pub(super) arrived: Notify,
    /// There is room and something unread on disk.
    wanted: Notify,
    max_bytes: u64,
}

/// What taking found.
pub(super) enum Taken {
    Items(Vec<Item>),
    Closed,
}

impl Handout {
    /// Of an empty file.
    pub(super) fn new(max_bytes: Option<u64>, providers: &[&str]) -> Self {
        let state = State {
            returned: BTreeMap::new(),
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            cursor: 0,
            last: 0,
            counts: providers.iter().map(|provider| ((*provider).into(), Count::default())).collect(),
            bytes: 0,
            consumers: 0,
            closed: false,
        };
        let max_bytes = max_bytes.unwrap_or(u64::MAX);
        Self { state: Mutex::new(state), arrived: Notify::new(), wanted: Notify::new(), max_bytes }
    }

    /// Takes over what stands in the file above the last number known: up to `last`, for each provider how many messages
    /// of how many bytes.
    pub(super) fn found(&self, last: i64, counts: Vec<(String, u64, u64)>) {
        let mut state = self.lock();
        state.last = state.last.max(last);
        for (provider, stored, bytes) in counts {
            state.counts.entry(provider.into()).or_default().stored += stored;
            state.bytes = state.bytes.saturating_add(bytes);
        }
        drop(state);
        self.wanted.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The highest number committed so far.
    pub(super) fn last(&self) -> i64 {
        self.lock().last
    }

    /// Takes up room for a message that is about to be written; false if there is none.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        let with = state.bytes.saturating_add(bytes as u64);
        let fits = with <= self.max_bytes;
        if fits {
            state.bytes = with;
        }
        fits
    }

    /// Gives up room that was reserved for what could not be written.
    pub(super) fn release(&self, bytes: usize) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes as u64);
    }

    /// Whether the room is used up.
    pub(super) fn full(&self) -> bool {
        self.lock().bytes >= self.max_bytes
    }

    /// Takes over what was committed, in order of its numbers.
    pub(super) fn committed(&self, items: Vec<Item>) {
        let now = Second::now();
        let mut state = self.lock();
        for item in items {
            let count = state.counts.entry(Arc::clone(&item.provider)).or_default();
            count.stored += 1;
            count.entered.add(now, 1);
            let gapless = state.cursor == state.last;
            state.last = item.seq;
            if gapless && state.has_room() {
                state.cursor = item.seq;
                state.put(item);
            }
        }
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Takes up to `max` for a consumer, and no more once they have `max_bytes`.
    pub(super) fn take(&self, max: usize, max_bytes: usize) -> Taken {
        let mut state = self.lock();
        if state.closed {
            return Taken::Closed;
        }
        let mut items = Vec::new();
        let mut bytes = 0;
        while items.len() < max && bytes < max_bytes {
            let item = match state.returned.pop_first() {
                Some((_, item)) => item,
                None => match state.ahead.pop_front() {
                    Some(item) => {
                        state.ahead_bytes -= item.body.len();
                        item
                    }
                    None => break,
                },
            };
            if let Some(count) = state.counts.get_mut(&item.provider) {
                count.held += 1;
            }
            bytes += item.body.len();
            items.push(item);
        }
        let wanted = state.cursor < state.last && state.ahead.len() < AHEAD / 2;
        drop(state);
        if wanted {
            self.wanted.notify_one();
        }
        Taken::Items(items)
    }

    /// Forgets what a consumer settled.
    pub(super) fn settled(&self, items: &[Item]) {
        let now = Second::now();
        let mut state = self.lock();
        for item in items {
            if let Some(count) = state.counts.get_mut(&item.provider) {
                count.stored = count.stored.saturating_sub(1);
                count.held = count.held.saturating_sub(1);
                count.left.add(now, 1);
                count.newest_out = count.newest_out.max(Some(item.received_at));
            }
            state.bytes = state.bytes.saturating_sub(item.body.len() as u64);
        }
    }

    /// Takes back what a consumer did not settle.
    pub(super) fn give_back(&self, items: impl Iterator<Item = Item>) {
        let mut state = self.lock();
        for mut item in items {
            if let Some(count) = state.counts.get_mut(&item.provider) {
                count.held = count.held.saturating_sub(1);
            }
            item.redeliveries = item.redeliveries.saturating_add(1);
            state.returned.insert(item.seq, item);
        }
        drop(state);
        self.arrived.notify_waiters();
    }

    /// A consumer came.
    pub(super) fn join(&self) {
        self.lock().consumers += 1;
    }

    /// A consumer went.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.consumers = state.consumers.saturating_sub(1);
    }

    /// Gives nothing more, and wakes whoever waits.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_waiters();
    }

    /// Every queue of a provider that is known or had a message.
    pub(super) fn depths(&self) -> Vec<Depth> {
        let now = Second::now();
        let state = self.lock();
        let depth = |(provider, count): (&Arc<str>, &Count)| Depth {
            queue: queue_name(provider),
            ready: count.stored.saturating_sub(count.held),
            unacked: Some(count.held),
            consumers: Some(state.consumers),
            in_per_second: Some(count.entered.per_second(now)),
            out_per_second: Some(count.left.per_second(now)),
            newest_out: count.newest_out.and_then(Timestamp::from_micros),
        };
        state.counts.iter().map(depth).collect()
    }

    /// From where the reader has to read, if it has to.
    fn unread(&self) -> Option<(i64, i64)> {
        let state = self.lock();
        (state.cursor < state.last && state.has_room() && !state.closed).then_some((state.cursor, state.last))
    }

    /// Takes over what the reader found above the cursor; `whole` if that was all up to `last`.
    fn read(&self, items: Vec<Item>, whole: bool, last: i64) {
        let mut state = self.lock();
        if let Some(newest) = items.last() {
            state.cursor = state.cursor.max(newest.seq);
        }
        if whole {
            state.cursor = state.cursor.max(last);
        }
        items.into_iter().for_each(|item| state.put(item));
        drop(state);
        self.arrived.notify_waiters();
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.ahead.len() < AHEAD && self.ahead_bytes < AHEAD_BYTES
    }

    fn put(&mut self, item: Item) {
        self.ahead_bytes += item.body.len();
        self.ahead.push_back(item);
    }
}

/// Reads ahead from disk whenever that is wanted.
pub(super) async fn read_ahead(handout: Arc<Handout>, mut reader: SqliteConnection, closing: CancellationToken) {
    let mut delays = Delays::new(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        tokio::select! {
            () = handout.wanted.notified() => {}
            () = closing.cancelled() => return,
        }
        while let Some((cursor, last)) = handout.unread() {
            match page(&mut reader, cursor).await {
                Ok((items, whole)) => {
                    handout.read(items, whole, last);
                    delays.reset();
                }
                Err(error) => {
                    warn!("the queue file could not be read: {error}");
                    tokio::select! {
                        () = tokio::time::sleep(delays.after_failure()) => {}
                        () = closing.cancelled() => return,
                    }
                }
            }
        }
    }
}

/// Rows above the cursor, as many as there should be ahead; and whether that was all there is.
async fn page(reader: &mut SqliteConnection, cursor: i64) -> Result<(Vec<Item>, bool), sqlx::Error> {
    let mut rows = sqlx::query(
        "select seq, provider, traceparent, message, received_at from message where seq > ? order by seq limit ?",
    )
    .bind(cursor)
    .bind(PAGE)
    .fetch(reader);
    let (mut items, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        let body = Bytes::from(row.try_get::<Vec<u8>, _>(3)?);
        bytes += body.len();
        items.push(Item {
            seq: row.try_get(0)?,
            provider: Arc::from(row.try_get::<&str, _>(1)?),
            received_at: row.try_get(4)?,
            traceparent: row.try_get(2)?,
            body,
            redeliveries: 0,
        });
        if bytes >= AHEAD_BYTES {
            return Ok((items, false));
        }
    }
    let whole = (items.len() as i64) < PAGE;
    Ok((items, whole))
}
