//! The one task that looks: every few seconds it asks the queues and the tables once, and everything that shows depth, lag or
//! what waits is made of that look: the [`Watch`], the gauges, the checks of readiness.
//!
//! Law: each question has a timeout, and one that fails leaves the other's answer alone.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::watch::{Intake, PendingNow, QueueNow, RETRYING, Snapshot, Watch, Work};
use crate::domain::{EventState, ProviderName, Timestamp, WallClock};
use crate::ops::delays::Delays;
use crate::ops::meter::Second;
use crate::ops::metrics::{self, Direction, Observed, QueueState};
use crate::ops::readiness::{Check, Readiness};
use crate::ops::tally;
use crate::providers::PROVIDERS;
use crate::queue::{Depth, Queue};
use crate::store::keys::compare;
use crate::store::{Pending, Store, StoreError, Vault};

/// How often it looks.
pub const EVERY: Duration = Duration::from_secs(5);

/// How soon it looks again when there was no answer; later and later, up to [`EVERY`].
const SOON: Duration = Duration::from_millis(20);

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// The states in which events wait for something.
const WAITING: [EventState; 3] = [EventState::Unlinked, EventState::Retrying, EventState::Dead];

/// When it looks again: soon while there is no answer, because a process that starts is not ready before the first one, and
/// one whose broker or database was away not before the next.
pub(super) struct Pace(Delays);

impl Pace {
    pub(super) fn new() -> Self {
        Self(Delays::new(SOON, EVERY))
    }

    /// How long to wait after a look: [`EVERY`], also where there has been no answer for long.
    pub(super) fn after(&mut self, answered: bool) -> Duration {
        if answered {
            self.0.reset();
            return EVERY;
        }
        let soon = self.0.after_failure();
        if soon < EVERY / 2 { soon } else { EVERY }
    }
}

/// What is looked at, and who is told.
pub struct Observer {
    watch: Arc<Watch>,
    queue: Arc<dyn Queue>,
    readiness: Readiness,
    clock: WallClock,
    receives: bool,
    works: Option<Working>,
}

/// What a process that works looks at besides.
struct Working {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    checks: Checks,
    stalled_after: Duration,
    seen: Mutex<Seen>,
}

/// What the looks so far found without a break.
#[derive(Default)]
struct Seen {
    /// Since when there has been work.
    busy_since: Option<Timestamp>,
    /// By queue, since when something stands in it.
    filled_since: BTreeMap<String, Timestamp>,
}

struct Checks {
    store: Check,
    keys: Check,
    commits: Check,
    /// Only where nobody receives: there the receiver's own check speaks for the broker, and knows of the spool.
    queue: Option<Check>,
}

impl Observer {
    /// Looks at a queue. `receives` says whether this process takes deliveries.
    pub fn new(
        watch: Arc<Watch>,
        queue: Arc<dyn Queue>,
        receives: bool,
        readiness: Readiness,
        clock: WallClock,
    ) -> Self {
        Self { watch, queue, readiness, clock, receives, works: None }
    }

    /// The same in a process that works into `store` with the keys of `vault`: it counts as stalled when there is work and
    /// nothing was committed for `stalled_after`.
    pub fn working(self, store: Arc<dyn Store>, vault: Arc<Vault>, stalled_after: Duration) -> Self {
        let checks = Checks {
            store: self.readiness.check("store"),
            keys: self.readiness.check("keys"),
            commits: self.readiness.check("commits"),
            queue: (!self.receives).then(|| self.readiness.check("queue")),
        };
        Self { works: Some(Working { store, vault, checks, stalled_after, seen: Mutex::default() }), ..self }
    }

    /// Looks until it is stopped.
    pub async fn run(&self, stop: CancellationToken) {
        let looking = async {
            let mut pace = Pace::new();
            loop {
                // Nobody starts this task again: a panic is this look's failure, not the end of all of them.
                let answered = AssertUnwindSafe(self.look()).catch_unwind().await.unwrap_or_else(|_| {
                    tracing::error!("a look at queues and tables panicked; the next one follows");
                    false
                });
                tokio::time::sleep(pace.after(answered)).await;
            }
        };
        tokio::select! {
            () = looking => {}
            () = stop.cancelled() => {}
        }
    }

    /// One look; whether everything that was asked answered.
    pub async fn look(&self) -> bool {
        let (depths, tables) = tokio::join!(self.depths(), self.tables());
        let now = self.clock.now();
        let before = self.watch.now();
        if let Some(working) = &self.works {
            working.judge(&self.watch, depths.as_ref().ok().map(Vec::as_slice), now);
            if let (Some(check), Err(why)) = (&working.checks.queue, &depths) {
                check.failed(why.clone());
            } else if let Some(check) = &working.checks.queue {
                check.ok();
            }
        }
        let all_answered = depths.is_ok() && (tables.is_some() || self.works.is_none());
        let (pending, pending_at) = match tables {
            Some(rows) => (pending(&rows, now), Some(now)),
            None => (before.pending.iter().map(|seen| aged(seen, now)).collect(), before.pending_at),
        };
        let answered = depths.is_ok();
        let (mut queues, queues_at) = match depths {
            Ok(depths) => (self.queues(&depths, now), Some(now)),
            Err(_) => {
                let known = before.queues.iter().filter(|queue| &*queue.queue != RETRYING);
                (known.cloned().collect(), before.queues_at)
            }
        };
        queues.extend(retrying(&pending, Some(retrying_rates())));
        let snapshot = Snapshot {
            at: now,
            queues,
            queues_at,
            pending,
            pending_at,
            intake: self.receives.then(intake),
            work: self.works.as_ref().map(|_| work(&self.watch)),
        };
        report(&snapshot);
        for check in self.readiness.state() {
            metrics::ready(check.name, check.ok);
        }
        self.watch.show(snapshot, answered);
        all_answered
    }

    /// What stands in the queues; else why that cannot be known, in our words.
    async fn depths(&self) -> Result<Vec<Depth>, String> {
        match timeout(PATIENCE, self.queue.depths()).await {
            Ok(Ok(depths)) => Ok(depths),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the queue does not answer".to_owned()),
        }
    }

    /// What waits in the tables, and how far the queues are worked off by all processes together.
    async fn tables(&self) -> Option<Vec<Pending>> {
        let working = self.works.as_ref()?;
        let asked = async {
            working.store.ping().await?;
            let ours: Vec<_> = self.watch.newest().into_iter().collect();
            self.watch.learn(working.store.progress(&ours).await?);
            let known = working.store.keys().known_keys().await?;
            let held = working.store.held(None, 1).await?;
            let keys = match compare(&known, &working.vault) {
                Err(misfit) => Err(format!("{}: {misfit}", misfit.variable())),
                Ok(()) if !held.is_empty() => {
                    Err("a delivery is sealed with a key that is not in FINHOOK_KEYS".to_owned())
                }
                Ok(()) => Ok(()),
            };
            Ok::<_, StoreError>((working.store.pending().await?, keys))
        };
        let answer = timeout(PATIENCE, asked).await;
        let Ok(Ok((pending, keys))) = answer else {
            working.checks.store.failed("the database does not answer");
            return None;
        };
        working.checks.store.ok();
        match keys {
            Ok(()) => working.checks.keys.ok(),
            Err(why) => working.checks.keys.failed(why),
        }
        Some(pending)
    }

    fn queues(&self, depths: &[Depth], now: Timestamp) -> Vec<QueueNow> {
        // Where nothing was ever committed, from when it was seen to be filled; only who works knows that it was not.
        let filled_since = |queue: &str| self.works.as_ref()?.filled_since(queue);
        queues(depths, &self.watch.newest(), filled_since, now)
    }
}

impl Working {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filled_since(&self, queue: &str) -> Option<Timestamp> {
        self.seen().filled_since.get(queue).copied()
    }

    /// Whether there is work and nothing becomes of it. What others hold is not our work; what waits is everybody's, because
    /// a message waits only while the hands of all workers are full.
    fn judge(&self, watch: &Watch, depths: Option<&[Depth]>, now: Timestamp) {
        let Some(depths) = depths else { return };
        let mut seen = self.seen();
        let filled = depths.iter().filter(|depth| stands(depth) > 0).map(|depth| {
            let since = seen.filled_since.get(&depth.queue).copied().unwrap_or(now);
            (depth.queue.clone(), since)
        });
        seen.filled_since = filled.collect();
        // The spool has no consumers, and is not ours to work off.
        let waits = depths.iter().any(|depth| depth.consumers.is_some() && depth.ready > 0);
        seen.busy_since = (waits || watch.in_hand() > 0).then(|| seen.busy_since.unwrap_or(now));
        let idle_since = seen.busy_since.map(|since| watch.last_commit().map_or(since, |at| at.max(since)));
        match idle_since.map(|since| seconds_since(since, now)) {
            Some(idle) if idle >= self.stalled_after.as_secs_f64() => {
                self.checks.commits.failed(format!("there is work, and nothing was committed for {idle:.0} s"));
            }
            _ => self.checks.commits.ok(),
        }
    }
}

/// How many messages stand in a queue, as far as it says.
fn stands(depth: &Depth) -> u64 {
    depth.ready.saturating_add(depth.unacked.unwrap_or(0))
}

/// Depths as they are shown, with the lag that the newest committed deliveries say.
pub fn queues(
    depths: &[Depth],
    newest: &BTreeMap<String, Timestamp>,
    filled_since: impl Fn(&str) -> Option<Timestamp>,
    now: Timestamp,
) -> Vec<QueueNow> {
    let lag = |depth: &Depth| {
        if stands(depth) == 0 {
            return Some(0.0);
        }
        let newest = newest.get(&depth.queue).copied().max(depth.newest_out);
        newest.or_else(|| filled_since(&depth.queue)).map(|since| seconds_since(since, now))
    };
    let shown = |depth: &Depth| QueueNow {
        queue: depth.queue.as_str().into(),
        ready: depth.ready,
        unacked: depth.unacked,
        consumers: depth.consumers,
        in_per_second: depth.in_per_second,
        out_per_second: depth.out_per_second,
        lag_seconds: lag(depth),
    };
    depths.iter().map(shown).collect()
}

fn seconds_since(then: Timestamp, now: Timestamp) -> f64 {
    now.micros().saturating_sub(then.micros()).max(0) as f64 / 1e6
}

/// Every provider in every state that waits; one that has none there has 0.
pub fn pending(rows: &[Pending], now: Timestamp) -> Vec<PendingNow> {
    let names = PROVIDERS.iter().map(|provider| provider.name).chain([ProviderName::UNKNOWN]);
    names
        .flat_map(|name| WAITING.map(|state| (name, state)))
        .map(|(name, state)| {
            let row = rows.iter().find(|row| row.provider == name.as_str() && row.state == state);
            let oldest = row.map(|row| row.oldest);
            PendingNow {
                provider: name,
                state,
                count: row.map_or(0, |row| row.count),
                oldest_received_at: oldest,
                age_seconds: oldest.map_or(0.0, |oldest| seconds_since(oldest, now)),
            }
        })
        .collect()
}

/// What was seen before, at another time.
fn aged(seen: &PendingNow, now: Timestamp) -> PendingNow {
    let age_seconds = seen.oldest_received_at.map_or(0.0, |oldest| seconds_since(oldest, now));
    PendingNow { age_seconds, ..seen.clone() }
}

/// The retrying events as a queue, with the rates in and out of it if they are known; none where the tables are not looked at.
pub fn retrying(pending: &[PendingNow], rates: Option<(f64, f64)>) -> Option<QueueNow> {
    let rows: Vec<_> = pending.iter().filter(|pending| pending.state == EventState::Retrying).collect();
    let (in_per_second, out_per_second) = rates.unzip();
    (!rows.is_empty()).then(|| QueueNow {
        queue: RETRYING.into(),
        ready: rows.iter().map(|row| row.count).sum(),
        unacked: None,
        consumers: None,
        in_per_second,
        out_per_second,
        lag_seconds: Some(rows.iter().map(|row| row.age_seconds).fold(0.0, f64::max)),
    })
}

/// Events that this process put among the retrying ones, and took from them, a second.
fn retrying_rates() -> (f64, f64) {
    tally::of_process().retrying_per_second(Second::now())
}

fn intake() -> Intake {
    let (tally, now) = (tally::of_process(), Second::now());
    Intake {
        accepted_per_second: tally.accepted_per_second(now),
        not_accepted_per_second: tally.not_accepted_per_second(now),
        refusals: tally.refusals(now),
        verification_failures: tally.verification_failures(now),
        ack: tally.ack(now),
    }
}

fn work(watch: &Watch) -> Work {
    let (tally, now) = (tally::of_process(), Second::now());
    Work {
        events_per_second: tally.events_per_second(now),
        latency: tally.event_latency(now),
        last_commit: watch.last_commit(),
    }
}

/// Sets the gauges. Those of what was not asked keep what they say; `finhook_observed_timestamp_seconds` says of when.
fn report(snapshot: &Snapshot) {
    for queue in &snapshot.queues {
        metrics::queue_messages(&queue.queue, QueueState::Ready, queue.ready);
        if let Some(unacked) = queue.unacked {
            metrics::queue_messages(&queue.queue, QueueState::Unacked, unacked);
        }
        if let Some(consumers) = queue.consumers {
            metrics::queue_consumers(&queue.queue, consumers);
        }
        for (direction, rate) in [(Direction::In, queue.in_per_second), (Direction::Out, queue.out_per_second)] {
            if let Some(rate) = rate {
                metrics::queue_rate(&queue.queue, direction, rate);
            }
        }
        if let Some(lag) = queue.lag_seconds {
            metrics::queue_lag(&queue.queue, Duration::from_secs_f64(lag));
        }
    }
    for pending in &snapshot.pending {
        let oldest = Duration::from_secs_f64(pending.age_seconds);
        metrics::pending_events(pending.provider, pending.state, pending.count, oldest);
    }
    for (what, at) in [(Observed::Queue, snapshot.queues_at), (Observed::Store, snapshot.pending_at)] {
        if let Some(at) = at {
            metrics::observed(what, at);
        }
    }
}
