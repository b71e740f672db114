//! Telling the product's exchange which rows changed: at least once, from a table, in the background.
//!
//! ```text
//! commit writes changed rows beside the rows ─▶ taken (leased) ─▶ published, confirmed ─▶ removed
//! ```
//! Nothing is taken before the broker is there, and what was taken is held until it is told, so a broker that stays away
//! costs nothing but time. What if the process dies here? The lease ends, and somebody tells it: again, if it was told
//! already. Several workers at once share what there is.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::domain::{ChangedRow, WallClock};
use crate::ops::delays::Delays;
use crate::queue::QueueError;
use crate::queue::changes::ChangesExchange;
use crate::store::{Store, StoreError};

/// How many rows are told at a time.
const PORTION: u32 = 500;
/// How long they are this process's alone. Well above what telling them takes.
pub(super) const LEASE_SECONDS: i64 = 30;
/// How often the table is looked at while there is nothing in it.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Tells.
pub struct Teller {
    store: Arc<dyn Store>,
    exchange: Arc<dyn ChangesExchange>,
    clock: WallClock,
    stop: CancellationToken,
}

/// What was taken.
#[derive(Default)]
pub(super) struct Portion {
    pub(super) rows: Vec<ChangedRow>,
    /// Whether the broker has confirmed it: then it is only to be removed.
    told: bool,
}

/// Why nothing could be told now.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTold {
    /// The broker does not take it.
    #[error("{0}")]
    Broker(#[from] QueueError),
    /// The table cannot be read or written.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A defect.
    #[error("it panicked")]
    Panicked,
}

impl Teller {
    /// Tells `exchange` what stands in `store` until `stop` is cancelled.
    pub fn new(
        store: Arc<dyn Store>,
        exchange: Arc<dyn ChangesExchange>,
        clock: WallClock,
        stop: CancellationToken,
    ) -> Self {
        Self { store, exchange, clock, stop }
    }

    /// Goes on for ever, whatever happens; says when it begins to be unable to and when that is over.
    pub async fn run(&self) {
        let mut delays = Delays::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut portion = Portion::default();
        let mut failing = false;
        while !self.stop.is_cancelled() {
            let went = AssertUnwindSafe(self.round(&mut portion)).catch_unwind().await;
            let wait = match went.unwrap_or(Err(NotTold::Panicked)) {
                Ok(told) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("changes are told again");
                    }
                    delays.reset();
                    if told == PORTION as usize { Duration::ZERO } else { LOOK_EVERY }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = %error, "changes cannot be told; they wait");
                    }
                    delays.after_failure()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => {}
            }
        }
        self.exchange.close().await;
    }

    /// One portion; how many rows it had.
    pub(super) async fn round(&self, portion: &mut Portion) -> Result<usize, NotTold> {
        if !portion.told {
            // The only wait that may be long, and nothing is lost by leaving it.
            tokio::select! {
                ready = self.exchange.ready() => ready?,
                () = self.stop.cancelled() => return Ok(0),
            }
            if portion.rows.is_empty() {
                let now = self.clock.now();
                portion.rows = self.store.take_changed(now, now.plus_seconds(LEASE_SECONDS), PORTION).await?;
            }
            if portion.rows.is_empty() {
                return Ok(0);
            }
            self.exchange.tell(&portion.rows).await?;
            portion.told = true;
        }
        let seqs: Vec<i64> = portion.rows.iter().map(|row| row.seq).collect();
        self.store.forget_changed(&seqs).await?;
        *portion = Portion::default();
        Ok(seqs.len())
    }
}
