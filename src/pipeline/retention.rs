//! Retention: payloads and rows that were kept long enough go, in small batches in the background, and the stored events
//! of forgotten users go first.
//!
//! Law: what is not done yet keeps its payload. An unlinked or retrying event is neither wiped nor deleted; a dead one
//! keeps its payload, because a person may still requeue it, and goes with its row; a delivery that is held for its key is
//! never deleted. Any number of processes may do this at once: each takes rows that no other has. Dying in between leaves
//! the rest to the next round.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::domain::WallClock;
use crate::store::{Store, StoreError};

/// Rows of one transaction: few enough that nobody waits for its locks.
const PORTION: u32 = 500;
/// The rest between two portions, which leaves the database to the workers.
const REST: Duration = Duration::from_millis(100);
/// How often it is looked whether there is something to do.
const EVERY: Duration = Duration::from_secs(30);
/// The most portions of one kind in one round, so that each kind gets its turn.
const PORTIONS: u32 = 1_000;

/// How long what is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retention {
    /// Days after receipt that the payload of an applied or recorded event is kept; `None` = for ever.
    pub payload_days: Option<u32>,
    /// Days after they were stored that rows of applied, recorded and dead events are kept; `None` = for ever.
    pub event_days: Option<u32>,
}

/// Keeps the tables to what may be kept.
pub struct Keeper {
    store: Arc<dyn Store>,
    clock: WallClock,
    retention: Retention,
    stop: CancellationToken,
}

impl Keeper {
    /// Works on `store` until `stop` is cancelled.
    pub fn new(store: Arc<dyn Store>, clock: WallClock, retention: Retention, stop: CancellationToken) -> Self {
        Self { store, clock, retention, stop }
    }

    /// Works for ever. An error is logged and the round left out.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stop.cancelled() => return,
            }
            match AssertUnwindSafe(self.round()).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = %error, "retention left out"),
                Err(_) => tracing::error!("retention panicked; the next round finds the same rows"),
            }
        }
    }

    /// One round of everything.
    pub async fn round(&self) -> Result<(), StoreError> {
        let forgotten = self.portions(|| async { self.store.forget_events(PORTION).await }).await?;
        if forgotten > 0 {
            tracing::info!(events = forgotten, "stored events of forgotten users deleted");
        }
        let now = self.clock.now();
        let before = |days: u32| now.plus_seconds(-i64::from(days).saturating_mul(86_400));
        if let Some(days) = self.retention.payload_days {
            let wiped =
                self.portions(|| async { full(self.store.wipe_payloads(before(days), PORTION).await?) }).await?;
            if wiped > 0 {
                tracing::info!(events = wiped, "payloads wiped: kept for FINHOOK_PAYLOAD_DAYS");
            }
        }
        if let Some(days) = self.retention.event_days {
            let deleted =
                self.portions(|| async { full(self.store.delete_old_events(before(days), PORTION).await?) }).await?;
            if deleted > 0 {
                tracing::info!(events = deleted, "event rows deleted: kept for FINHOOK_EVENT_DAYS");
            }
        }
        Ok(())
    }

    /// Repeats until there is nothing left, it is enough for one round, or we are told to stop; how many rows it were.
    async fn portions<F, Fut>(&self, mut portion: F) -> Result<u64, StoreError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Option<u64>, StoreError>>,
    {
        let mut rows = 0;
        for _ in 0..PORTIONS {
            let Some(done) = portion().await? else { break };
            rows += done;
            tokio::select! {
                () = tokio::time::sleep(REST) => {}
                () = self.stop.cancelled() => break,
            }
        }
        Ok(rows)
    }
}

/// A portion that was not full was the last one, but for what others hold: the next round takes that.
#[allow(clippy::unnecessary_wraps, reason = "the shape that `portions` repeats")]
fn full(rows: u64) -> Result<Option<u64>, StoreError> {
    Ok((rows > 0).then_some(rows))
}
