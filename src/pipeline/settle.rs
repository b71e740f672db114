//! Steps 10 to 12: a batch is committed whatever happens, and only then may its messages be acked.
//!
//! ```text
//! commit ── ok ───────────────────────────────────────────────> Settled (ack)
//!   │  unavailable, conflict: wait, the same batch again ── 60 s without the database ──> GaveUp (give back)
//!   └─ refused, failed: halve ── one event alone fails ──> its row: dead, or retrying with the next attempt
//!                                                            └─ not even that: Stuck (give back), the others go on
//! ```
//! Trouble with the database never counts against an event; an event that alone makes its transaction fail never holds up
//! another. What if the process dies here? Before the commit the messages come again; after it they come again and are
//! duplicates.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::read::Desk;
use crate::domain::{Cause, EventState, ProviderName, Timestamp};
use crate::ops::delays::Delays;
use crate::ops::meter::Second;
use crate::ops::metrics::{self, EventFate};
use crate::ops::spans::Span;
use crate::ops::tally;
use crate::ops::throttle::Throttle;
use crate::store::{Arriving, Batch, Committed, Failed, Outcome, Store, StoreError, StoreTrouble};

/// How long a batch is held while the database is away before its messages are given back: well below the broker's own
/// limit of 30 minutes for an ack, after which it would close the channel with a 406.
const HOLD: Duration = Duration::from_secs(60);

/// Waits for the database start around here, and never grow beyond [`LONGEST_DELAY`]: recovery is to be seen within 10 s.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// When an event that failed alone is due again, by how often it failed; after the last one it is dead.
const RETRY_AFTER_SECONDS: [i64; 5] = [5, 30, 120, 600, 3_600];

/// The most events of one transaction: enough to make its cost per event small, few enough to keep its locks short.
pub const MAX_EVENTS: usize = 1_024;

/// Lines about events that fail alone: a table that takes none of a kind would make one of each.
static SET_ASIDE_LINES: Throttle<(ProviderName, EventState)> = Throttle::new(5);

/// An event with how often it has failed alone before.
pub struct Item {
    /// The event and its envelope.
    pub arriving: Arriving,
    /// Failures before this try.
    pub attempts: u32,
}

/// How a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Every event of it has its row: ack.
    Done,
    /// The database stayed away, or we are stopping: give the messages back.
    GaveUp,
    /// Every event has its row but at least one, of which not even the failure could be written: give the messages back.
    Stuck,
}

/// Commits batches.
#[derive(Clone)]
pub struct Settler {
    store: Arc<dyn Store>,
    desk: Arc<Desk>,
    stop: CancellationToken,
    hold: Duration,
}

impl Settler {
    /// Commits through `store`; gives up waiting when `stop` is cancelled.
    pub fn new(store: Arc<dyn Store>, desk: Arc<Desk>, stop: CancellationToken) -> Self {
        Self { store, desk, stop, hold: HOLD }
    }

    /// The same, holding a batch for another time while the database is away.
    pub fn holding(self, hold: Duration) -> Self {
        Self { hold, ..self }
    }

    /// Commits a batch, isolating events that fail alone. way: 12/12
    pub async fn settle(&self, items: Vec<Item>) -> Settled {
        if items.is_empty() {
            // A sweep that found nothing is no commit, and must not look like one.
            return Settled::Done;
        }
        // Portions and halves wait on a stack and not in recursion.
        let mut pending = portions(items);
        let mut settled = Settled::Done;
        while let Some(items) = pending.pop() {
            let attempts: Vec<u32> = items.iter().map(|item| item.attempts).collect();
            let events = items.into_iter().map(|item| item.arriving).collect();
            let batch = Batch { events, ..Batch::default() };
            match self.commit(&batch).await {
                Ok(committed) => {
                    record(&batch, &committed, self.desk.now());
                    let retried = attempts.iter().filter(|attempts| **attempts > 0).count();
                    tally::of_process().retrying(Second::now(), 0, retried as u64);
                }
                Err(error) if error.is_transient() => return Settled::GaveUp,
                Err(error) => {
                    let mut items: Vec<Item> = batch
                        .events
                        .into_iter()
                        .zip(attempts)
                        .map(|(arriving, attempts)| Item { arriving, attempts })
                        .collect();
                    if items.len() > 1 {
                        let rest = items.split_off(items.len() / 2);
                        pending.extend([rest, items]);
                    } else if let Some(item) = items.pop() {
                        match self.set_aside(item, &error).await {
                            Settled::Done => {}
                            Settled::GaveUp => return Settled::GaveUp,
                            Settled::Stuck => settled = Settled::Stuck,
                        }
                    }
                }
            }
        }
        settled
    }

    /// Commits one batch, waiting out trouble that is nobody's fault. A transient error means that waiting was given up.
    pub async fn commit(&self, batch: &Batch) -> Result<Committed, StoreError> {
        let mut span = Span::commit(batch.events.len(), batch.events.iter().filter_map(|arriving| arriving.trace));
        let committed = self.commit_patiently(batch).await;
        match &committed {
            Ok(committed) => span.count("rows", committed.changed.len()),
            Err(_) => span.failed(),
        }
        committed
    }

    async fn commit_patiently(&self, batch: &Batch) -> Result<Committed, StoreError> {
        self.patiently(|| async {
            // A panic in there is this batch's failure: it is isolated like any other.
            AssertUnwindSafe(self.store.commit(batch, self.desk.as_ref())).catch_unwind().await.unwrap_or_else(|_| {
                Err(StoreError { trouble: StoreTrouble::Failed, what: "the commit panicked".to_owned() })
            })
        })
        .await
    }

    /// Writes the row of an event that fails alone: due again later, or dead.
    async fn set_aside(&self, item: Item, error: &StoreError) -> Settled {
        let now = self.desk.now();
        let attempts = item.attempts + 1;
        let wait = usize::try_from(item.attempts).ok().and_then(|failures| RETRY_AFTER_SECONDS.get(failures));
        let refused = error.trouble == StoreTrouble::Refused;
        let (state, cause, next) = match wait {
            _ if refused => (EventState::Dead, Cause::StoreRefused, None),
            Some(seconds) => (EventState::Retrying, Cause::StoreFailed, Some(now.plus_seconds(*seconds))),
            None => (EventState::Dead, Cause::AttemptsExhausted, None),
        };
        let provider = item.arriving.event.provider;
        if let Some(held_back) = SET_ASIDE_LINES.admit((provider, state), now) {
            tracing::warn!(
                provider.name = %provider, event.state = state.as_str(), event.attempts = attempts, error = %error,
                log.held_back = held_back, "event set aside"
            );
        }
        let failed = Failed {
            arriving: item.arriving,
            state,
            reason: cause.as_str().to_owned(),
            attempts,
            next_attempt_at: next,
        };
        let rows = [failed];
        match self.patiently(|| self.store.set_aside(&rows)).await {
            Ok(()) => {
                metrics::events(provider, EventFate::Stored(state), 1);
                let (again, before) = (state == EventState::Retrying, attempts > 1);
                let (entered, left) = (u64::from(again && !before), u64::from(!again && before));
                tally::of_process().retrying(Second::now(), entered, left);
                Settled::Done
            }
            Err(error) if error.is_transient() => Settled::GaveUp,
            Err(error) => {
                // Not even its row can be written: nothing is acked, so nothing is lost, and somebody has to look.
                tracing::error!(provider.name = %provider, error = %error, "event could not be set aside");
                Settled::Stuck
            }
        }
    }

    /// Repeats a call while its error is transient, up to the hold, or until we are told to stop.
    async fn patiently<T, F, Fut>(&self, mut call: F) -> Result<T, StoreError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let since = Instant::now();
        let mut delays = Delays::new(FIRST_DELAY, LONGEST_DELAY);
        loop {
            let error = match call().await {
                Err(error) if error.is_transient() => error,
                other => return other,
            };
            if since.elapsed() >= self.hold {
                return Err(error);
            }
            let wait = delays.after_failure();
            tracing::warn!(error = %error, wait_ms = wait.as_millis() as u64, "the database is in trouble; holding the batch");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return Err(error),
            }
        }
    }

    /// Waits until the database answers again, or we are told to stop.
    pub async fn until_available(&self) {
        let mut delays = Delays::new(FIRST_DELAY, LONGEST_DELAY);
        while self.store.ping().await.is_err() {
            tokio::select! {
                () = tokio::time::sleep(delays.after_failure()) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

/// Parts of at most [`MAX_EVENTS`], the first one last: one delivery can carry any number of events.
fn portions(mut items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut portions = Vec::new();
    while items.len() > MAX_EVENTS {
        portions.push(items.split_off(items.len() - MAX_EVENTS));
    }
    portions.push(items);
    portions
}

/// Counts what became of a batch's events, once for all that ended alike.
fn record(batch: &Batch, committed: &Committed, now: Timestamp) {
    let mut fates: Vec<((ProviderName, EventFate), u64)> = Vec::new();
    let mut latencies: Vec<(ProviderName, Vec<Duration>)> = Vec::new();
    for (arriving, outcome) in batch.events.iter().zip(&committed.outcomes) {
        let event = &arriving.event;
        let fate = match outcome {
            Outcome::Stored(state) => EventFate::Stored(*state),
            Outcome::Duplicate => EventFate::Duplicate,
            Outcome::Forgotten => EventFate::Forgotten,
        };
        *of(&mut fates, (event.provider, fate)) += 1;
        if matches!(fate, EventFate::Stored(_)) {
            let took = now.micros().saturating_sub(event.received_at.micros());
            of(&mut latencies, event.provider).push(Duration::from_micros(u64::try_from(took).unwrap_or(0)));
        }
    }
    fates.iter().for_each(|((provider, fate), count)| metrics::events(*provider, *fate, *count));
    latencies.iter().for_each(|(provider, took)| metrics::event_latencies(*provider, took));
}

/// The entry of a key among the few that a batch has.
fn of<K: PartialEq, V: Default>(all: &mut Vec<(K, V)>, key: K) -> &mut V {
    let at = all.iter().position(|(held, _)| *held == key).unwrap_or_else(|| {
        all.push((key, V::default()));
        all.len() - 1
    });
    // It was found there, or was pushed there just now.
    &mut all[at].1
}
