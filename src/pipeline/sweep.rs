//! What the tables hold back is looked after here: retries that are due, unlinked events whose subject has its user by
//! now, unlinked events that nobody claimed, and deliveries whose sealing key was missing.
//!
//! Every sweep goes the normal way from step 9 on, so it can run beside any number of workers and other sweeps.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::read::Desk;
use super::settle::{Item, Settled, Settler};
use crate::domain::{Cause, EventState, Timestamp, UserId};
use crate::ops::throttle::Throttle;
use crate::store::fold::claim_of;
use crate::store::{Batch, Store, StoreError, StoredEvent};

/// How many rows one sweep takes at a time.
const PORTION: u32 = 500;
/// How long a due retry is ours before another worker may take it.
const LEASE_SECONDS: i64 = 120;
/// How often retries are looked for; the shortest delay is 5 s.
const EVERY: Duration = Duration::from_secs(1);
/// Every how many rounds the rarer sweeps run.
const RARELY: u64 = 30;

/// Lines about single events: there can be thousands of them.
static LINES: Throttle<&str> = Throttle::new(5);

/// The periodic sweeps of one process.
pub struct Sweeper {
    store: Arc<dyn Store>,
    desk: Arc<Desk>,
    settler: Settler,
    unlinked_days: i64,
    create_users: bool,
    stop: CancellationToken,
}

impl Sweeper {
    /// Sweeps `store` until `stop` is cancelled; unlinked events expire after `unlinked_days`.
    pub fn new(store: Arc<dyn Store>, desk: Arc<Desk>, unlinked_days: i64, stop: CancellationToken) -> Self {
        let settler = Settler::new(store.clone(), desk.clone(), stop.clone());
        Self { store, desk, settler, unlinked_days, create_users: true, stop }
    }

    /// The same where commits create no users.
    pub fn creating_users(self, create_users: bool) -> Self {
        Self { create_users, ..self }
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
            let sweep = async { if round % RARELY == 0 { self.everything().await } else { self.retries().await } };
            // Nobody starts this task again: a panic is this round's failure, not the end of all retries.
            match AssertUnwindSafe(sweep).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = %error, "sweep left out"),
                Err(_) => tracing::error!("a sweep panicked; the next one finds the same rows"),
            }
        }
    }

    /// One round of every sweep.
    pub async fn everything(&self) -> Result<(), StoreError> {
        self.retries().await?;
        self.unlinked().await?;
        self.claimed().await?;
        self.expired().await?;
        self.held().await?;
        self.secrets().await
    }

    /// Takes events in state `retrying` that are due.
    pub async fn retries(&self) -> Result<(), StoreError> {
        let now = self.desk.now();
        let due = self.store.take_due(now, now.plus_seconds(LEASE_SECONDS), PORTION).await?;
        let (items, unread) = self.read(&due);
        for (stored, cause) in unread {
            if may_pass(cause) {
                // It is due again when the lease ends, and no try of it is counted.
                if let Some(held_back) = LINES.admit("waits", now) {
                    let reason = cause.as_str();
                    tracing::warn!(event.id = %stored.id, reason, log.held_back = held_back, "retry waits: it cannot be read now");
                }
                continue;
            }
            if let Some(held_back) = LINES.admit("given up", now) {
                let reason = cause.as_str();
                tracing::warn!(event.id = %stored.id, reason, log.held_back = held_back, "retry given up: it cannot be read");
            }
            self.store.conclude(&[stored.id], EventState::Retrying, EventState::Dead, cause).await?;
        }
        self.settler.settle(items).await;
        Ok(())
    }

    /// Applies unlinked events whose subject got its user: more than one transaction took, or left by a race.
    pub async fn unlinked(&self) -> Result<(), StoreError> {
        // By id, so that each is taken once and rows that cannot be read now do not stand before the others.
        let mut after: Option<Uuid> = None;
        loop {
            let linkable = self.store.linkable(after, PORTION).await?;
            let Some(last) = linkable.last() else { return Ok(()) };
            after = Some(last.id);
            let (items, unread) = self.read(&linkable);
            if let Some((stored, cause)) = unread.first() {
                let (events, reason) = (unread.len(), cause.as_str());
                tracing::warn!(events, event.id = %stored.id, reason, "unlinked events cannot be read now");
            }
            if self.settler.settle(items).await == Settled::GaveUp {
                return Ok(());
            }
        }
    }

    /// Applies unlinked events that name a user who was not there when they came and is by now. Only where we may not
    /// create users ourselves (`FINHOOK_CREATE_USERS=false`): their claims were left out then, and are made up for here.
    pub async fn claimed(&self) -> Result<(), StoreError> {
        if self.create_users {
            return Ok(());
        }
        let mut there: HashMap<UserId, bool> = HashMap::new();
        let mut after: Option<Uuid> = None;
        loop {
            let unlinked = self.store.unlinked(after, PORTION).await?;
            let Some(last) = unlinked.last() else { return Ok(()) };
            after = Some(last.id);
            let mut claimed = Vec::new();
            for item in self.read(&unlinked).0 {
                let Some(claim) = claim_of(&item.arriving.event) else { continue };
                let there = match there.get(&claim.user) {
                    Some(there) => *there,
                    None => {
                        let found = self.store.user(&claim.user).await?.is_some();
                        there.insert(claim.user.clone(), found);
                        found
                    }
                };
                if there {
                    claimed.push(item);
                }
            }
            if self.settler.settle(claimed).await == Settled::GaveUp {
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
                let events = match self.desk.released(stored) {
                    Ok(events) => events,
                    Err(cause) if may_pass(cause) => continue,
                    Err(cause) => {
                        // The key is back, and what it was needed for is damaged: no key will help.
                        self.store.conclude(&[stored.id], EventState::Dead, EventState::Dead, cause).await?;
                        continue;
                    }
                };
                let items = events.into_iter().map(|arriving| Item { arriving, attempts: 0 }).collect();
                match self.settler.settle(items).await {
                    Settled::Done => {}
                    Settled::Stuck => continue,
                    Settled::GaveUp => return Ok(()),
                }
                // Dying here is harmless: the next round finds the row again, and its events are duplicates by then.
                self.settler.commit(&Batch { replaces: vec![stored.id], ..Batch::default() }).await?;
                if let Some(held_back) = LINES.admit("released", self.desk.now()) {
                    tracing::info!(event.id = %stored.id, log.held_back = held_back, "held delivery released: its key is back");
                }
            }
        }
    }

    /// Writes down which inbound secrets proved something. What is lost when this fails comes with the next delivery.
    pub async fn secrets(&self) -> Result<(), StoreError> {
        self.store.note_secrets(&self.desk.take_secrets()).await
    }

    /// Stored events read again, and those that cannot be, with the cause.
    fn read<'a>(&self, rows: &'a [StoredEvent]) -> (Vec<Item>, Vec<(&'a StoredEvent, Cause)>) {
        let (mut items, mut unread) = (Vec::new(), Vec::new());
        for row in rows {
            match self.desk.again(row) {
                Ok(arriving) => items.push(Item { arriving, attempts: row.attempts }),
                Err(cause) => unread.push((row, cause)),
            }
        }
        (items, unread)
    }
}

/// Whether a row that cannot be read now can be read later without anybody touching it: a key or a newer version is missing.
fn may_pass(cause: Cause) -> bool {
    matches!(cause, Cause::UnknownKey | Cause::UnknownProvider)
}
