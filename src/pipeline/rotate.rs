//! Rotation: everything that is sealed in the tables is sealed anew under the primary, while receivers and workers run.
//!
//! ```text
//! survey ── nothing to do ──────────────────────────────────────────────▶ done
//!    ▲          └─ a round: column by column, page by page ─ read, seal, replace what is still the same ─┐
//!    └────────────────────────────── some were replaced, some were held or new ─────────────────────────┘
//! ```
//! There is no state but the rows: whoever dies between two batches has done what is done, and the next one goes on with
//! the rest; two at once do the same work and disturb neither each other nor anybody else. When a round replaces nothing
//! and nobody else did meanwhile, what is left does not open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::crypto::asked::PAYLOAD_HEADER;
use crate::ops::delays::Delays;
use crate::store::rotation::{NewPayload, NewText, Page, Shelf};
use crate::store::{Store, StoreError, StoredEvent, Vault};

/// How many rows one statement looks at to count them.
const COUNTED: u32 = 20_000;
/// How many rows one statement replaces at most. The rows of a batch are locked for as long as it takes.
const BATCH: u32 = 1_000;
/// How many bytes of payloads a batch reads at most, its first one aside.
const BATCH_BYTES: u64 = 4 << 20;
/// How many kept messages are read at once; each can be as large as a request.
const KEPT_AT_ONCE: u32 = 16;
/// How many rounds there are at most: workers that still seal under another key would make it go on for ever.
const ROUNDS: usize = 10;
/// How long a database that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many values are under which key; `None` is what says of no key that we know.
pub type ByKey = BTreeMap<Option<u32>, u64>;

/// What is sealed in the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Column by column, in the order of [`Shelf::ALL`].
    pub columns: Vec<(Shelf, ByKey)>,
    /// Messages that could not be opened when they came and stand in payloads as they were.
    pub kept: ByKey,
}

impl Survey {
    /// How many values are under a key, kept messages too.
    pub fn under(&self, key: u32) -> u64 {
        let columns = self.columns.iter().map(|(_, by_key)| by_key);
        columns.chain([&self.kept]).filter_map(|by_key| by_key.get(&Some(key))).sum()
    }

    /// How many values a ring could seal anew under its primary.
    fn movable(&self, vault: &Vault) -> u64 {
        let ids = vault.ring.ids();
        ids.into_iter().filter(|id| *id != vault.ring.primary()).map(|id| self.under(id)).sum()
    }

    /// How many values are not under the primary.
    pub fn elsewhere(&self, primary: u32) -> u64 {
        let columns = self.columns.iter().map(|(_, by_key)| by_key);
        let others = columns.chain([&self.kept]).flatten().filter(|(key, _)| **key != Some(primary));
        others.map(|(_, count)| count).sum()
    }
}

/// Counts what is sealed, in pages, so that no statement runs long however much there is.
pub async fn survey(store: &dyn Store, vault: &Vault) -> Result<Survey, StoreError> {
    let mut survey = Survey::default();
    for shelf in Shelf::ALL {
        let mut by_key = ByKey::new();
        let mut after = Uuid::nil();
        while let Some(to) = store.shelves().page_end(shelf, after, COUNTED).await? {
            for tally in store.shelves().tally(shelf, Page { after, to }).await? {
                *by_key.entry(tally.key).or_default() += tally.count;
            }
            after = to;
        }
        survey.columns.push((shelf, by_key));
    }
    let mut after = Uuid::nil();
    loop {
        let rows = store.shelves().kept(after, KEPT_AT_ONCE).await?;
        let Some(last) = rows.last() else { return Ok(survey) };
        after = last.id;
        for row in &rows {
            if let Ok(Some(key)) = vault.ring.kept_key(&row.provider, &row.dedup_key, &row.payload) {
                *survey.kept.entry(Some(key)).or_default() += 1;
            }
        }
    }
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many values it has sealed anew.
    pub resealed: u64,
    /// How many there were to do when its first round began.
    pub of: u64,
}

/// How a rotation ended.
#[derive(Debug, Clone)]
pub struct Rotated {
    /// How many values were sealed anew.
    pub resealed: u64,
    /// What there is now.
    pub survey: Survey,
    /// It was told to stop before it was through.
    pub stopped: bool,
}

/// A rotation of one database.
pub struct Rotation {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    pace: Pace,
    stop: CancellationToken,
}

/// At most so many values a second.
struct Pace {
    rate: Option<u32>,
    most: u32,
    started: Instant,
    done: u64,
}

impl Pace {
    /// How many values a batch may have: no more than a second's.
    fn batch(&self) -> u32 {
        self.rate.map_or(self.most, |rate| rate.clamp(1, self.most))
    }

    /// Waits until `more` values fit under the rate.
    async fn keep(&mut self, more: usize) {
        self.done += more as u64;
        if let Some(due) = self.due() {
            tokio::time::sleep_until(due).await;
        }
    }

    /// When what is done so far may be done.
    fn due(&self) -> Option<Instant> {
        Some(self.started + Duration::from_secs_f64(self.done as f64 / f64::from(self.rate?.max(1))))
    }
}

impl Rotation {
    /// Seals anew under the primary of `vault` until it is through or `stop` is cancelled; at most `rate` values a second.
    pub fn new(store: Arc<dyn Store>, vault: Arc<Vault>, rate: Option<u32>, stop: CancellationToken) -> Self {
        Self { store, vault, pace: Pace { rate, most: BATCH, started: Instant::now(), done: 0 }, stop }
    }

    /// The same in batches of at most so many values.
    #[cfg(test)]
    pub(crate) fn in_batches_of(mut self, most: u32) -> Self {
        self.pace.most = most;
        self
    }

    /// Rotates; `tell` is told how far it is after every batch.
    pub async fn run(mut self, tell: &(dyn Fn(Progress) + Sync)) -> Result<Rotated, StoreError> {
        let mut progress = Progress { resealed: 0, of: 0 };
        // What the round before left alone; `None` while rounds replace something.
        let mut untouched = None;
        for round in 0..ROUNDS {
            let survey = survey(self.store.as_ref(), &self.vault).await?;
            let movable = survey.movable(&self.vault);
            if round == 0 {
                progress.of = movable;
                tell(progress);
            }
            // Fewer than were left alone: another rotation held them, and may hold the rest.
            let through = movable == 0 || untouched.is_some_and(|left| movable >= left);
            let before = progress.resealed;
            if !through && !self.stop.is_cancelled() {
                self.round(&mut progress, tell).await?;
            }
            if through || self.stop.is_cancelled() {
                let stopped = self.stop.is_cancelled() && movable > 0;
                return Ok(Rotated { resealed: progress.resealed, survey, stopped });
            }
            untouched = (progress.resealed == before).then_some(movable);
        }
        let survey = survey(self.store.as_ref(), &self.vault).await?;
        Ok(Rotated { resealed: progress.resealed, survey, stopped: false })
    }

    /// Every column once from its first row to its last.
    async fn round(&mut self, progress: &mut Progress, tell: &(dyn Fn(Progress) + Sync)) -> Result<(), StoreError> {
        for shelf in Shelf::ALL {
            let mut after = Uuid::nil();
            while let Some(to) =
                self.patiently(|store| store.shelves().page_end(shelf, after, self.pace.batch())).await?
            {
                let page = Page { after, to };
                match shelf {
                    Shelf::Payload => self.payloads(page, progress, tell).await?,
                    _ => self.texts(shelf, page, progress, tell).await?,
                }
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                after = to;
            }
        }
        self.kept(progress, tell).await
    }

    async fn texts(
        &mut self,
        shelf: Shelf,
        page: Page,
        progress: &mut Progress,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), StoreError> {
        let ring = &self.vault.ring;
        let texts = self.patiently(|store| store.shelves().texts(shelf, page, ring.primary())).await?;
        let anew = texts.into_iter().filter_map(|text| {
            let new = text.in_place(shelf, |place| ring.reseal_column(place, &text.value)).ok()??;
            Some(NewText { id: text.id, old: text.value, new })
        });
        let anew: Vec<NewText> = anew.collect();
        if anew.is_empty() {
            return Ok(());
        }
        self.pace.keep(anew.len()).await;
        progress.resealed += self.patiently(|store| store.shelves().replace_texts(shelf, &anew)).await?;
        tell(*progress);
        Ok(())
    }

    async fn payloads(
        &mut self,
        page: Page,
        progress: &mut Progress,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), StoreError> {
        let primary = self.vault.ring.primary();
        let sizes = self.patiently(|store| store.shelves().payload_sizes(page, primary)).await?;
        for batch in batches(&sizes) {
            let rows = self.patiently(|store| store.shelves().payloads(&batch)).await?;
            self.replace(rows, progress, tell).await?;
            if self.stop.is_cancelled() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Messages that were kept as they came, in payloads that are under the primary already.
    async fn kept(&mut self, progress: &mut Progress, tell: &(dyn Fn(Progress) + Sync)) -> Result<(), StoreError> {
        let mut after = Uuid::nil();
        loop {
            let rows = self.patiently(|store| store.shelves().kept(after, KEPT_AT_ONCE)).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.id;
            self.replace(rows, progress, tell).await?;
            if self.stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    async fn replace(
        &mut self,
        rows: Vec<StoredEvent>,
        progress: &mut Progress,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), StoreError> {
        let ring = &self.vault.ring;
        let anew = rows.into_iter().filter_map(|row| {
            let new = ring.reseal_payload(&row.provider, &row.dedup_key, &row.payload).ok()??;
            let header = row.payload.get(..PAYLOAD_HEADER)?.to_vec();
            Some(NewPayload { id: row.id, header, new })
        });
        let anew: Vec<NewPayload> = anew.collect();
        if anew.is_empty() {
            return Ok(());
        }
        self.pace.keep(anew.len()).await;
        progress.resealed += self.patiently(|store| store.shelves().replace_payloads(&anew)).await?;
        tell(*progress);
        Ok(())
    }

    /// Asks the database until it answers. All of it can be asked twice: what was replaced is not what it was any more.
    async fn patiently<'s, T, F>(&'s self, ask: impl Fn(&'s dyn Store) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + 's,
    {
        let mut delays = Delays::new(Duration::from_millis(100), Duration::from_secs(5));
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask(self.store.as_ref()).await {
                Err(error) if error.is_transient() && Instant::now() < deadline && !self.stop.is_cancelled() => {
                    tracing::warn!(error = %error, "the database does not answer; the rotation waits for it");
                    tokio::time::sleep(delays.after_failure()).await;
                }
                other => return other,
            }
        }
    }
}

/// Rows whose payloads are read together, by their sizes.
fn batches(sizes: &[(Uuid, u64)]) -> Vec<Vec<Uuid>> {
    let mut batches: Vec<Vec<Uuid>> = Vec::new();
    let mut bytes = 0;
    for (id, size) in sizes {
        match batches.last_mut() {
            Some(open) if bytes + size <= BATCH_BYTES => {
                bytes += size;
                open.push(*id);
            }
            _ => {
                bytes = *size;
                batches.push(vec![*id]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_by_bytes() {
        let sizes = |list: &[u64]| list.iter().map(|size| (Uuid::now_v7(), *size)).collect::<Vec<_>>();
        let counts = |list: &[u64]| batches(&sizes(list)).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(counts(&[1 << 20; 9]), [4, 4, 1]);
        assert_eq!(counts(&[15 << 20, 10, 10]), [1, 2]);
        assert_eq!(counts(&[]), [0usize; 0]);
    }

    #[test]
    fn a_rate_is_kept_over_all_batches() {
        let started = Instant::now();
        let pace = |rate, done| Pace { rate, most: BATCH, started, done };
        assert_eq!(
            (pace(Some(100), 0).batch(), pace(Some(9_999), 0).batch(), pace(None, 0).batch()),
            (100, BATCH, BATCH)
        );
        assert_eq!(pace(Some(100), 500).due(), Some(started + Duration::from_secs(5)));
        assert_eq!(pace(None, 500).due(), None);
    }
}
