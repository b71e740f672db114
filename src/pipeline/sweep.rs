//! What the tables hold back is looked after here: retries that are due, unlinked events whose subject has its user by
//! now, unlinked events that nobody claimed, and deliveries whose sealing key was missing.
//!
//! Every sweep goes the normal way from step 9 on, so it can run beside any number of workers and other sweeps.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::read::Desk;
use super::settle::{Item, Settled, Settler};
use crate::domain::Timestamp;
use crate::store::{Batch, Store, StoreError, StoredEvent};

/// How many rows one sweep takes at a time.
const PORTION: u32 = 500;
/// How long a due retry is ours before another worker may take it.
const LEASE_SECONDS: i64 = 120;
/// How often retries are looked for; the shortest delay is 5 s.
const EVERY: Duration = Duration::from_secs(1);
/// Every how many rounds the rarer sweeps run.
const RARELY: u64 = 30;

/// The periodic sweeps of one process.
pub struct Sweeper {
    store: Arc<dyn Store>,
    desk: Arc<Desk>,
    settler: Settler,
    unlinked_days: i64,
    stop: CancellationToken,
}

impl Sweeper {
    /// Sweeps `store` until `stop` is cancelled; unlinked events expire after `unlinked_days`.
    pub fn new(store: Arc<dyn Store>, desk: Arc<Desk>, unlinked_days: i64, stop: CancellationToken) -> Self {
        let settler = Settler::new(store.clone(), desk.clone(), stop.clone());
        Self { store, desk, settler, unlinked_days, stop }
    }

    /// Sweeps for ever. An error is logged and the round left out: the next one finds the same rows.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0_u64.. {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let swept = if round % RARELY == 0 { self.everything().await } else { self.retries().await };
            if let Err(error) = swept {
                tracing::warn!(error = %error, "sweep left out");
            }
        }
    }

    /// One round of every sweep.
    pub async fn everything(&self) -> Result<(), StoreError> {
        self.retries().await?;
        self.unlinked().await?;
        self.expired().await?;
        self.held().await
    }

    /// Takes events in state `retrying` that are due.
    pub async fn retries(&self) -> Result<(), StoreError> {
        let now = self.desk.now();
        let due = self.store.take_due(now, now.plus_seconds(LEASE_SECONDS), PORTION).await?;
        self.again(&due).await;
        Ok(())
    }

    /// Applies unlinked events whose subject got its user: more than one transaction took, or left by a race.
    pub async fn unlinked(&self) -> Result<(), StoreError> {
        loop {
            let linkable = self.store.linkable(PORTION).await?;
            let full = linkable.len() >= PORTION as usize;
            // A portion of which nothing could be applied (a key is missing) would come back for ever.
            if !self.again(&linkable).await || !full {
                return Ok(());
            }
        }
    }

    /// Makes unlinked events dead that nobody claimed in time.
    pub async fn expired(&self) -> Result<(), StoreError> {
        let before: Timestamp = self.desk.now().plus_seconds(-self.unlinked_days.saturating_mul(86_400));
        let expired = self.store.expire_unlinked(before, PORTION).await?;
        if expired > 0 {
            tracing::warn!(events = expired, "unlinked events expired: nobody linked their subject");
        }
        Ok(())
    }

    /// Takes deliveries whose sealing key is back through the way again.
    pub async fn held(&self) -> Result<(), StoreError> {
        let mut after: Option<Uuid> = None;
        loop {
            let held = self.store.held(after, PORTION).await?;
            let Some(last) = held.last() else { return Ok(()) };
            after = Some(last.id);
            for stored in &held {
                let Some(events) = self.desk.released(stored) else { continue };
                let items = events.into_iter().map(|arriving| Item { arriving, attempts: 0 }).collect();
                if self.settler.settle(items).await == Settled::GaveUp {
                    return Ok(());
                }
                // Dying here is harmless: the next round finds the row again, and its events are duplicates by then.
                self.settler.commit(&Batch { replaces: vec![stored.id], ..Batch::default() }).await?;
                tracing::info!(event.id = %stored.id, "held delivery released: its key is back");
            }
        }
    }

    /// Settles stored events again, past the dedup; whether any could be.
    async fn again(&self, stored: &[StoredEvent]) -> bool {
        let items: Vec<Item> = stored
            .iter()
            .filter_map(|row| Some(Item { arriving: self.desk.again(row)?, attempts: row.attempts }))
            .collect();
        !items.is_empty() && self.settler.settle(items).await == Settled::Done
    }
}
