//! Stored events taken through the way again, from step 7 on, past the dedup and with their original time.
//!
//! ```text
//! rows by id ─> read again ─┬─ its own event ──── a broker: forced inside the seal, published, a worker applies it
//!                           │                └─── embedded: applied here, steps 10 to 12
//!                           ├─ other events than then ──> dead rows only: applied here, and they replace the row
//!                           └─ wiped, key missing, … ───> counted and named, the row stays as it is
//! ```
//! Law: every register takes only what is newer, so a replay cannot move a row backwards; and rows are taken in the order
//! of their ids, so one that was interrupted goes on after the last id that it named.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::read::{Desk, Reading};
use super::settle::{Item, Settled, Settler};
use crate::crypto::SealedDelivery;
use crate::domain::{Cause, EventState};
use crate::ops::delays::Delays;
use crate::queue::{PublishError, Queue};
use crate::store::{Arriving, Batch, EventFilter, EventRow, Store, StoreError, StoredEvent};

/// Rows looked up at a time.
const PAGE: u32 = 1_000;
/// Payloads held at once: an element can be as large as a body.
const PORTION: usize = 64;
/// How often a publish that was refused is tried again: about half a minute.
const PUBLISH_TRIES: usize = 10;

/// Which events are replayed.
#[derive(Debug, Clone)]
pub enum Which {
    /// These, in any order.
    Ids(Vec<Uuid>),
    /// Those that a filter lets through.
    Filter(Box<EventFilter>),
}

/// What came of a replay.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Events that went through again.
    pub replayed: u64,
    /// Events that could not, and why.
    pub left: Vec<(Uuid, Left)>,
    /// The last id that was dealt with: where an interrupted replay goes on after.
    pub last: Option<Uuid>,
    /// Why it ended before everything was dealt with.
    pub interrupted: Option<&'static str>,
}

/// Why an event was left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// There is no such event.
    NotThere,
    /// It is in another state than was asked for.
    Not(EventState),
    /// Its payload was wiped.
    Wiped,
    /// It cannot be read again.
    Unread(Cause),
}

/// Takes stored events through the way again.
pub struct Replayer {
    store: Arc<dyn Store>,
    desk: Arc<Desk>,
    settler: Settler,
    queue: Option<Arc<dyn Queue>>,
    stop: CancellationToken,
    at_most: u64,
}

/// A row ready for its way.
enum Ready {
    Publish(SealedDelivery),
    Apply(Box<Item>),
    Replace(Vec<Item>),
}

impl Replayer {
    /// Publishes to `queue`, or applies directly without one. `stop` ends it between two portions.
    pub fn new(store: Arc<dyn Store>, desk: Arc<Desk>, queue: Option<Arc<dyn Queue>>, stop: CancellationToken) -> Self {
        let settler = Settler::new(store.clone(), desk.clone(), stop.clone());
        Self { store, desk, settler, queue, stop, at_most: u64::MAX }
    }

    /// The same, interrupted after so many events of a filter.
    pub fn at_most(self, events: u64) -> Self {
        Self { at_most: events, ..self }
    }

    /// How many events a replay would take.
    pub async fn count(&self, which: &Which) -> Result<u64, StoreError> {
        match which {
            Which::Ids(ids) => Ok(ids.len() as u64),
            Which::Filter(filter) => self.store.events_count(filter).await,
        }
    }

    /// Replays. `only` leaves events of another state alone; `progress` is told of every event that is dealt with.
    pub async fn run(
        &self,
        which: Which,
        only: Option<EventState>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Replayed, StoreError> {
        let mut done = Replayed::default();
        match which {
            Which::Ids(mut ids) => {
                ids.sort();
                ids.dedup();
                self.portions(&ids, only, progress, &mut done).await?;
            }
            Which::Filter(filter) => {
                // What is stored meanwhile is not replayed: that of a row that is replaced would come back here.
                let until = filter.before.unwrap_or_else(Uuid::now_v7);
                let mut filter = EventFilter { before: Some(until), oldest_first: true, ..*filter };
                let mut room = self.at_most;
                loop {
                    // One at least: whether there is more has to be known before it is said.
                    filter.limit = u32::try_from(room).unwrap_or(PAGE).clamp(1, PAGE);
                    let page: Vec<EventRow> = self.store.events(&filter).await?;
                    let ids: Vec<Uuid> = page.iter().map(|row| row.id).collect();
                    let Some(last) = ids.last() else { break };
                    if room == 0 {
                        done.interrupted = Some("there is more than is done at once");
                        break;
                    }
                    room = room.saturating_sub(ids.len() as u64);
                    filter.after = Some(*last);
                    self.portions(&ids, only, progress, &mut done).await?;
                    if done.interrupted.is_some() {
                        break;
                    }
                }
            }
        }
        Ok(done)
    }

    async fn portions(
        &self,
        ids: &[Uuid],
        only: Option<EventState>,
        progress: &(dyn Fn(u64) + Sync),
        done: &mut Replayed,
    ) -> Result<(), StoreError> {
        for portion in ids.chunks(PORTION) {
            if self.stop.is_cancelled() {
                done.interrupted = Some("stopped");
                return Ok(());
            }
            let (mut ready, mut left) = (Vec::new(), Vec::new());
            for id in portion {
                match self.ready(*id, only).await? {
                    Ok(row) => ready.push((*id, row)),
                    Err(why) => left.push((*id, why)),
                }
            }
            let went = ready.len() as u64;
            done.interrupted = self.send(ready).await?;
            if done.interrupted.is_some() {
                if self.stop.is_cancelled() {
                    done.interrupted = Some("stopped");
                }
                return Ok(());
            }
            done.replayed += went;
            done.left.extend(left);
            done.last = portion.last().copied();
            progress(portion.len() as u64);
        }
        Ok(())
    }

    /// Loads a row and reads it again.
    async fn ready(&self, id: Uuid, only: Option<EventState>) -> Result<Result<Ready, Left>, StoreError> {
        let Some((row, payload)) = self.store.event(id).await? else { return Ok(Err(Left::NotThere)) };
        if only.is_some_and(|state| state != row.state) {
            return Ok(Err(Left::Not(row.state)));
        }
        if payload.is_empty() {
            return Ok(Err(Left::Wiped));
        }
        let (state, attempts) = (row.state, row.attempts);
        let stored = StoredEvent { id, provider: row.provider, dedup_key: row.dedup_key, attempts, payload };
        Ok(match self.desk.reading(&stored) {
            Ok((delivery, Reading::Same(_))) if self.queue.is_some() => Ok(Ready::Publish(self.desk.sealed(&delivery))),
            Ok((_, Reading::Same(arriving))) => Ok(Ready::Apply(Box::new(item(*arriving)))),
            // Whatever else it is read as today, what it did stays done.
            Ok((_, Reading::Others(_))) if state != EventState::Dead => Err(Left::Unread(Cause::ReadOtherwise)),
            Ok((_, Reading::Others(events))) => Ok(Ready::Replace(events.into_iter().map(item).collect())),
            Err(cause) => Err(Left::Unread(cause)),
        })
    }

    /// Sends a portion on its way; why it had to stop, if it did. Repeating it is harmless.
    async fn send(&self, ready: Vec<(Uuid, Ready)>) -> Result<Option<&'static str>, StoreError> {
        let (mut publish, mut apply, mut replace) = (Vec::new(), Vec::new(), Vec::new());
        for (id, row) in ready {
            match row {
                Ready::Publish(sealed) => publish.push(sealed),
                Ready::Apply(item) => apply.push(*item),
                Ready::Replace(items) => replace.push((id, items)),
            }
        }
        if let Some(queue) = &self.queue {
            let mut confirms = stream::iter(publish).map(|sealed| self.publish(queue, sealed)).buffered(PORTION);
            while let Some(confirmed) = confirms.next().await {
                if confirmed.is_err() {
                    return Ok(Some("the queue takes nothing"));
                }
            }
        }
        if let Some(why) = trouble(self.settler.settle(apply).await) {
            return Ok(Some(why));
        }
        for (id, items) in replace {
            if let Some(why) = trouble(self.settler.settle(items).await) {
                return Ok(Some(why));
            }
            // Dying here is harmless: the row is found again, and its events are duplicates by then.
            self.settler.commit(&Batch { replaces: vec![id], ..Batch::default() }).await?;
        }
        Ok(None)
    }

    /// Publishes, and tries again for a while: a person waits.
    async fn publish(&self, queue: &Arc<dyn Queue>, sealed: SealedDelivery) -> Result<(), PublishError> {
        let mut delays = Delays::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut tries = 0;
        loop {
            let Err(error) = queue.publish(sealed.clone()).await else { return Ok(()) };
            tries += 1;
            if tries >= PUBLISH_TRIES {
                return Err(error);
            }
            tokio::select! {
                () = tokio::time::sleep(delays.after_failure()) => {}
                () = self.stop.cancelled() => return Err(error),
            }
        }
    }
}

fn item(arriving: Arriving) -> Item {
    Item { arriving, attempts: 0 }
}

fn trouble(settled: Settled) -> Option<&'static str> {
    match settled {
        Settled::Done => None,
        Settled::GaveUp => Some("the database takes nothing"),
        Settled::Stuck => Some("an event could not be written: the log says which"),
    }
}
