//! What this process knows of itself and of what it works on: one observation, taken by one task, read by everybody without
//! waiting.
//!
//! ```text
//! workers ── committed(queue, receipt) ──▶┐          ┌──▶ now(), subscribe()   the API, the dashboard's events
//! queue.depths · store.pending ──▶ observe ──▶ Watch ├──▶ history()            the last hour, for a plot
//! ops::tally (acks, refusals, events) ───▶┘          └──▶ gauges of /metrics, readiness
//! ```
//! Law: only `observe` asks queue or database; the gauges, the page and the API show what it saw. What could not be asked
//! keeps its last answer and the time of it (`queues_at`, `pending_at`), so that an old number is never taken for a new one.
//!
//! A queue's lag is DESIGN's: while something stands in it, now minus the receipt of its newest committed delivery; else 0.
//! For what is not committed from (the spool) the newest forwarded one counts; for `retrying`, which is rows and not a
//! queue, it is the age of the oldest. Where nobody here can know it (a process that only receives), there is none.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Serialize, Serializer};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::observe::EVERY;
use crate::domain::{EventState, ProviderName, Timestamp};
use crate::ops::metrics;
use crate::ops::tally::{Percentiles, Said};

/// The row of the retrying events among the queues.
pub const RETRYING: &str = "retrying";

/// How long the history is, at one observation every 5 s: an hour.
const KEPT: usize = 720;

/// Everything that is known at one time. Times are RFC 3339, durations seconds.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Snapshot {
    /// When it was taken.
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Every queue: the providers', `….unrouted`, `….dead`, then `spool` and `retrying` where there are such.
    pub queues: Vec<QueueNow>,
    /// When the queues were asked and answered; older than `at` while the broker is away.
    #[serde(serialize_with = "maybe_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub queues_at: Option<Timestamp>,
    /// Unlinked, retrying and dead events of every provider, those without any too; empty in a process without store.
    pub pending: Vec<PendingNow>,
    /// When the tables were asked and answered.
    #[serde(serialize_with = "maybe_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub pending_at: Option<Timestamp>,
    /// What this process takes from senders; `None` if it does not receive.
    pub intake: Option<Intake>,
    /// What this process commits; `None` if it does not work.
    pub work: Option<Work>,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct QueueNow {
    /// Its name.
    #[schema(value_type = String)]
    pub queue: Arc<str>,
    /// Messages that wait.
    pub ready: u64,
    /// Messages that a consumer holds; `None` where the broker does not say.
    pub unacked: Option<u64>,
    /// Its consumers.
    pub consumers: Option<u64>,
    /// Messages that come in, a second; `None` where nobody says.
    pub in_per_second: Option<f64>,
    /// Messages that are settled for good, a second; `None` where nobody says.
    pub out_per_second: Option<f64>,
    /// How far it is behind; `None` where this process cannot know.
    pub lag_seconds: Option<f64>,
}

/// The events of one provider that wait in one state.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PendingNow {
    /// The provider.
    #[serde(serialize_with = "name")]
    #[schema(value_type = String)]
    pub provider: ProviderName,
    /// `unlinked`, `retrying` or `dead`.
    #[serde(serialize_with = "state")]
    #[schema(value_type = String)]
    pub state: EventState,
    /// How many.
    pub count: u64,
    /// When the delivery of the oldest was received.
    #[serde(serialize_with = "maybe_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest_received_at: Option<Timestamp>,
    /// How long ago that is; 0 if there is none.
    pub age_seconds: f64,
}

/// What this process takes from senders.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Intake {
    /// Deliveries answered 200, a second.
    pub accepted_per_second: f64,
    /// Requests answered otherwise, a second.
    pub not_accepted_per_second: f64,
    /// The latter by provider and outcome, as `finhook_deliveries_total` has it.
    pub refusals: Vec<Said>,
    /// Proofs that did not hold by provider and reason, as `finhook_verification_failures_total` has it.
    pub verification_failures: Vec<Said>,
    /// From having read a delivery to its 200; `None` if there was none lately.
    pub ack: Option<Percentiles>,
}

/// What this process commits.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Work {
    /// Events committed, duplicates too, a second.
    pub events_per_second: f64,
    /// From a delivery's receipt to the commit of its event; `None` if there was none lately.
    pub latency: Option<Percentiles>,
    /// When a worker of this process last committed a batch.
    #[serde(serialize_with = "maybe_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_commit: Option<Timestamp>,
}

/// What is kept of a snapshot for the plot of the last hour.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Sample {
    /// When it was taken.
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Every queue; none of them when the broker did not answer then.
    pub queues: Vec<Level>,
    /// Deliveries answered 200, a second.
    pub accepted_per_second: Option<f64>,
    /// Requests answered otherwise, a second.
    pub not_accepted_per_second: Option<f64>,
    /// 95 of 100 acks took no longer, in seconds.
    pub ack_p95: Option<f64>,
    /// Events committed a second.
    pub events_per_second: Option<f64>,
    /// 95 of 100 events were committed within this, in seconds.
    pub latency_p95: Option<f64>,
}

/// One queue in the history.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Level {
    /// Its name.
    #[schema(value_type = String)]
    pub queue: Arc<str>,
    /// Messages that wait or are held.
    pub depth: u64,
    /// Messages that come in, a second.
    pub in_per_second: Option<f64>,
    /// Messages that are settled, a second.
    pub out_per_second: Option<f64>,
}

/// The observation of one process. Made once, shared behind an `Arc`.
pub struct Watch {
    now: watch::Sender<Arc<Snapshot>>,
    history: Mutex<VecDeque<Sample>>,
    /// By queue, the receipt of the newest delivery that this process committed, or that another one told of.
    newest: Mutex<BTreeMap<String, Timestamp>>,
    /// In microseconds since the epoch; 0: none yet.
    last_commit: AtomicI64,
    in_hand: AtomicU64,
}

impl Watch {
    /// Nothing seen yet.
    pub fn new(at: Timestamp) -> Arc<Self> {
        let nothing = Snapshot {
            at,
            queues: Vec::new(),
            queues_at: None,
            pending: Vec::new(),
            pending_at: None,
            intake: None,
            work: None,
        };
        Arc::new(Self {
            now: watch::Sender::new(Arc::new(nothing)),
            history: Mutex::default(),
            newest: Mutex::default(),
            last_commit: AtomicI64::new(0),
            in_hand: AtomicU64::new(0),
        })
    }

    /// What was seen last.
    pub fn now(&self) -> Arc<Snapshot> {
        self.now.borrow().clone()
    }

    /// Tells of every new snapshot: wait for `changed()`, then look at `borrow_and_update()`.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.now.subscribe()
    }

    /// The last hour, oldest first.
    pub fn history(&self) -> Vec<Sample> {
        locked(&self.history).iter().cloned().collect()
    }

    /// A worker has taken a batch; it is in its hands until the guard is dropped.
    pub fn taken(&self) -> InHand<'_> {
        self.in_hand.fetch_add(1, Ordering::Relaxed);
        InHand(self)
    }

    /// A worker has committed deliveries: of each queue, when the newest had been received.
    pub fn committed<Q: AsRef<str>>(&self, newest: impl IntoIterator<Item = (Q, Timestamp)>, now: Timestamp) {
        self.learn(newest.into_iter().map(|(queue, at)| (queue.as_ref().to_owned(), at)));
        self.last_commit.fetch_max(now.micros(), Ordering::Relaxed);
        metrics::last_commit(now);
    }

    /// Takes over how far queues are worked off, where that is further than known here.
    pub(super) fn learn(&self, newest: impl IntoIterator<Item = (String, Timestamp)>) {
        let mut known = locked(&self.newest);
        for (queue, at) in newest {
            let known = known.entry(queue).or_insert(at);
            *known = at.max(*known);
        }
    }

    /// By queue, the receipt of the newest committed delivery that is known here.
    pub(super) fn newest(&self) -> BTreeMap<String, Timestamp> {
        locked(&self.newest).clone()
    }

    /// When a worker of this process last committed.
    pub(super) fn last_commit(&self) -> Option<Timestamp> {
        Some(self.last_commit.load(Ordering::Relaxed)).filter(|at| *at != 0).and_then(Timestamp::from_micros)
    }

    /// How many batches the workers of this process have in their hands.
    pub(super) fn in_hand(&self) -> u64 {
        self.in_hand.load(Ordering::Relaxed)
    }

    /// Takes over a new snapshot; `answered` says whether the queues are of now. Looks that follow each other soon, while
    /// there is no answer, do not crowd the history.
    pub(super) fn show(&self, snapshot: Snapshot, answered: bool) {
        let mut history = locked(&self.history);
        let age = |newest: &Sample| snapshot.at.micros().saturating_sub(newest.at.micros());
        let soon = EVERY.as_micros() as i64 / 2;
        if history.back().is_none_or(|newest| !(0..soon).contains(&age(newest))) {
            if history.len() >= KEPT {
                history.pop_front();
            }
            history.push_back(sample(&snapshot, answered));
        }
        drop(history);
        self.now.send_replace(Arc::new(snapshot));
    }
}

/// A batch in the hands of a worker.
pub struct InHand<'a>(&'a Watch);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

fn sample(snapshot: &Snapshot, answered: bool) -> Sample {
    let level = |queue: &QueueNow| Level {
        queue: queue.queue.clone(),
        depth: queue.ready.saturating_add(queue.unacked.unwrap_or(0)),
        in_per_second: queue.in_per_second,
        out_per_second: queue.out_per_second,
    };
    let (intake, work) = (snapshot.intake.as_ref(), snapshot.work.as_ref());
    Sample {
        at: snapshot.at,
        queues: if answered { snapshot.queues.iter().map(level).collect() } else { Vec::new() },
        accepted_per_second: intake.map(|intake| intake.accepted_per_second),
        not_accepted_per_second: intake.map(|intake| intake.not_accepted_per_second),
        ack_p95: intake.and_then(|intake| intake.ack).map(|ack| ack.p95),
        events_per_second: work.map(|work| work.events_per_second),
        latency_p95: work.and_then(|work| work.latency).map(|latency| latency.p95),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rfc3339<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

fn maybe_rfc3339<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.collect_str(at),
        None => serializer.serialize_none(),
    }
}

fn name<S: Serializer>(name: &ProviderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

fn state<S: Serializer>(state: &EventState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}
