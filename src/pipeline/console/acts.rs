//! Acts on stored events: again, or never mind. Counted first if asked to, bounded in number and time, and resumable.
//!
//! An act goes on when whoever asked for it has gone, and ends between two portions when its time is over or the process
//! stops. What was not reached is named by the cursor in the answer; doing a part of it twice is harmless.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::audit::Actor;
use super::cursor::Cursor;
use super::events::Narrow;
use super::{Console, Trouble};
use crate::domain::{Cause, EventState};
use crate::pipeline::replay::{Left, Replayer, Which};
use crate::store::audit::{About, Act};
use crate::store::{EventFilter, StoreError};

/// How many events one call replays: each is opened and read.
const REPLAYED_AT_ONCE: u64 = 1_000;
/// How many events one call discards, and how many one statement does.
const DISCARDED_AT_ONCE: u64 = 10_000;
const PORTION: u32 = 1_000;
/// How long one call works.
const ACT_TIME: Duration = Duration::from_secs(30);

/// What is to be done with events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Taken through the way again.
    Replay,
    /// Settled as they are: recorded, reason `discarded`.
    Discard,
}

/// Which events an act is for.
#[derive(Debug, Clone)]
pub enum Chosen {
    /// These.
    Ids(Vec<Uuid>),
    /// Those that this lets through.
    Those(Narrow),
}

/// An order.
#[derive(Debug, Clone)]
pub struct Order {
    /// What.
    pub what: What,
    /// With which.
    pub chosen: Chosen,
    /// Only with events in this state.
    pub only: Option<EventState>,
    /// Where the call before ended.
    pub after: Option<Cursor>,
    /// Only count.
    pub dry_run: bool,
}

/// What came of an order.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Done {
    /// How many events it is about, from the cursor on.
    pub selected: u64,
    /// How many it was done with now; embedded and discarded at once, with a broker by a worker soon. 0 for a dry run.
    pub done: u64,
    /// Events that it could not be done with.
    pub left: Vec<LeftOver>,
    /// Why it ended before all of it was done; null if it was.
    pub interrupted: Option<&'static str>,
    /// What to send as `after` to go on; null if nothing is left to do.
    pub next: Option<String>,
}

/// An event that an order could not be done with.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LeftOver {
    /// Which.
    pub id: Uuid,
    /// Why.
    pub why: String,
}

impl Console {
    /// Does it. Whoever asked may go away meanwhile.
    pub async fn act(self: &Arc<Self>, order: Order, actor: Actor) -> Result<Done, Trouble> {
        self.store()?;
        let console = self.clone();
        let done = tokio::spawn(async move { console.act_now(order, &actor).await });
        done.await.unwrap_or_else(|_| {
            tracing::error!("an act on events panicked");
            Err(Trouble::Failed)
        })
    }

    async fn act_now(&self, order: Order, actor: &Actor) -> Result<Done, Trouble> {
        let store = self.store()?;
        let mut filter = filter(&order);
        let selected = self.ask(store.events_count(&filter)).await?;
        let mut done = Done { selected, ..Done::default() };
        if order.dry_run {
            return Ok(done);
        }
        // Before, so that no act is without its line, whatever happens on the way.
        let act = match order.what {
            What::Replay if order.only == Some(EventState::Dead) => Act::Requeue,
            What::Replay => Act::Replay,
            What::Discard => Act::Discard,
        };
        self.audit(actor, act, Some(about(&order)), None, Some(selected)).await?;
        let _turn = self.turn().await?;
        // What is stored meanwhile is not meant: that of a row that is replaced would come back here.
        let before = filter.before.unwrap_or_else(Uuid::now_v7);
        filter.before = Some(before);
        let last = match order.what {
            What::Replay => self.replay(&order, filter, &mut done).await?,
            What::Discard => self.discard(&order, filter, &mut done).await?,
        };
        let unfinished = done.interrupted.is_some();
        let on = last.filter(|_| unfinished).map(|last| Cursor { last, oldest_first: true, before: Some(before) });
        // Interrupted before anything was done: it goes on where it began.
        let on = on.or(order.after.filter(|_| unfinished));
        done.next = on.map(Cursor::to_text);
        let left = done.left.len();
        tracing::info!(audit.act = act.as_str(), done = done.done, left, why = done.interrupted, "act on events ended");
        Ok(done)
    }

    async fn replay(&self, order: &Order, filter: EventFilter, done: &mut Done) -> Result<Option<Uuid>, Trouble> {
        let store = self.store()?;
        let stop = self.stop.child_token();
        let replayer =
            Replayer::new(store.clone(), self.desk.clone(), self.queue.clone(), stop.clone()).at_most(REPLAYED_AT_ONCE);
        let which = match &order.chosen {
            Chosen::Ids(ids) => {
                let after = order.after.map_or(Uuid::nil(), |cursor| cursor.last);
                Which::Ids(ids.iter().copied().filter(|id| *id > after).collect())
            }
            Chosen::Those(_) => Which::Filter(Box::new(filter)),
        };
        let timer = async {
            tokio::time::sleep(ACT_TIME).await;
            stop.cancel();
            std::future::pending::<Infallible>().await
        };
        let replayed = tokio::select! {
            replayed = replayer.run(which, order.only, &|_| {}) => replayed.map_err(|error| super::trouble(&error))?,
            never = timer => match never {},
        };
        done.done = replayed.replayed;
        done.left = replayed.left.into_iter().map(|(id, why)| LeftOver { id, why: why_left(why) }).collect();
        done.interrupted = replayed.interrupted;
        Ok(replayed.last)
    }

    async fn discard(&self, order: &Order, mut filter: EventFilter, done: &mut Done) -> Result<Option<Uuid>, Trouble> {
        let Some(state) = order.only else { return Err(Trouble::Failed) };
        let started = tokio::time::Instant::now();
        let (mut last, mut seen) = (None, 0);
        loop {
            filter.limit = PORTION;
            let page = self.timed(self.store()?.events(&filter)).await?;
            let ids: Vec<Uuid> = page.iter().map(|row| row.id).collect();
            let Some(newest) = ids.last() else { break };
            if seen >= DISCARDED_AT_ONCE || started.elapsed() >= ACT_TIME || self.stop.is_cancelled() {
                done.interrupted = Some("there is more than is done at once");
                break;
            }
            let concluded = self.conclude(&ids, state).await?;
            seen += ids.len() as u64;
            done.done += concluded.len() as u64;
            (last, filter.after) = (Some(*newest), Some(*newest));
        }
        if let Chosen::Ids(ids) = &order.chosen {
            // Not in this state, or not there: `selected` does not count them either.
            done.left = self.timed(self.left_of(ids.clone(), state)).await?;
        }
        Ok(last)
    }

    async fn conclude(&self, ids: &[Uuid], state: EventState) -> Result<Vec<Uuid>, Trouble> {
        let store = self.store()?;
        let concluded = self.timed(store.conclude(ids, state, EventState::Recorded, Cause::Discarded)).await?;
        for id in &concluded {
            tracing::debug!(event.id = %id, "event discarded by hand");
        }
        Ok(concluded)
    }

    /// Those of these events that were not discarded, and why.
    async fn left_of(&self, mut ids: Vec<Uuid>, state: EventState) -> Result<Vec<LeftOver>, StoreError> {
        let Some(store) = &self.store else { return Ok(Vec::new()) };
        ids.sort_unstable();
        ids.dedup();
        let limit = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let rows = store.events(&EventFilter { ids: Some(ids.clone()), limit, ..EventFilter::default() }).await?;
        let mut left = Vec::new();
        for id in ids {
            match rows.iter().find(|row| row.id == id) {
                None => left.push(LeftOver { id, why: why_left(Left::NotThere) }),
                // Discarded just now, or before: what was asked for is so.
                Some(row) if row.state == EventState::Recorded && row.reason.as_deref() == Some(DISCARDED) => {}
                Some(row) if row.state != state => left.push(LeftOver { id, why: why_left(Left::Not(row.state)) }),
                Some(_) => {}
            }
        }
        Ok(left)
    }
}

const DISCARDED: &str = Cause::Discarded.as_str();

/// What the trail says that it is about: as many ids as fit, or what the filter asks for, subjects left out.
fn about(order: &Order) -> About {
    About::Thing(match &order.chosen {
        Chosen::Ids(ids) => format!("event {}", ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(" ")),
        Chosen::Those(narrow) => {
            let state = order.only.map(|state| format!("state {}", state.as_str()));
            let time = |name: &str, at: Option<crate::domain::Timestamp>| at.map(|at| format!("{name} {at}"));
            let parts = [
                state,
                narrow.provider.as_ref().map(|provider| format!("provider {provider}")),
                narrow.kind.as_ref().map(|kind| format!("kind {kind}")),
                narrow.subject.as_ref().map(|_| "one subject".to_owned()),
                time("since", narrow.since),
                time("until", narrow.until),
            ];
            format!("events: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
        }
    })
}

/// What an order selects, oldest first.
fn filter(order: &Order) -> EventFilter {
    let after = order.after.map(|cursor| cursor.last);
    let before = order.after.and_then(|cursor| cursor.before);
    let base = match &order.chosen {
        Chosen::Ids(ids) => EventFilter { ids: Some(ids.clone()), ..EventFilter::default() },
        Chosen::Those(narrow) => narrow.clone().filter(PORTION),
    };
    EventFilter { state: order.only.or(base.state), after, before, oldest_first: true, limit: PORTION, ..base }
}

/// Why, for people.
pub fn why_left(why: Left) -> String {
    match why {
        Left::NotThere => "there is no such event".to_owned(),
        Left::Not(state) => format!("it is {}", state.as_str()),
        Left::Wiped => "its payload was wiped".to_owned(),
        Left::Unread(cause) => format!("it cannot be read again: {}", cause.as_str()),
    }
}
