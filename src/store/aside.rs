//! The rows of events that failed on their own: which are written, and over which stored copies. Pure; both databases send
//! the same rows with the same condition.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::forget::{Fate, Forgotten, named};
use super::rows::{EventKey, NewEvent};
use super::tables::Tables;
use super::{Arriving, Failed, StoreError, StoreOptions, marks};
use crate::crypto::BlindIndex;

/// When a failed event takes the place of a stored copy: it counts more (retrying beats recorded beats dead, then the later
/// time), or it is that same copy on another try (known by its receipt) and has not been applied meanwhile. What was
/// applied or recorded in between by another worker stays, and so does a row that waits after more tries: its message was
/// delivered once more, which is no try of the event.
pub const TAKES_ITS_PLACE: &str = "
    (case excluded.state when 'retrying' then 2 else 0 end, excluded.occurred_at)
        > (case event.state when 'dead' then 0 when 'recorded' then 1 else 2 end, event.occurred_at)
    or (event.received_at = excluded.received_at and (event.state in ('unlinked', 'dead')
        or (event.state = 'retrying' and excluded.attempts > event.attempts)))";

/// Writes the rows of failed events inside an open transaction; those that are about a forgotten user are left out.
pub async fn run(tables: &mut dyn Tables, failed: &[Failed], options: &StoreOptions) -> Result<(), StoreError> {
    let (now, index) = (options.clock.now(), &options.vault.index);
    tables.lock_subjects(&[]).await?;
    // Nothing is known here of who owns a subject; so what names a forgotten user is left out, whosever its subject is.
    let arriving: Vec<&Arriving> = failed.iter().map(|failed| &failed.arriving).collect();
    let forgotten = Forgotten::ask(tables, &arriving, &[], index).await?;
    let fates = forgotten.fates(tables, &arriving, &|_| true, (index, now)).await?;
    let taken: Vec<&Failed> =
        failed.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Taken).map(|(failed, _)| failed).collect();
    tables.upsert_failed(&rows(&taken, index), now).await
}

/// The rows to write, one per key, sorted by key.
fn rows(failed: &[&Failed], index: &BlindIndex) -> Vec<NewEvent> {
    let mut best: BTreeMap<EventKey, &Failed> = BTreeMap::new();
    for failed in failed.iter().copied() {
        let event = &failed.arriving.event;
        let key = (event.provider.as_str().to_owned(), event.dedup_key.clone());
        let held = best.entry(key).or_insert(failed);
        if standing(failed) > standing(held) {
            *held = failed;
        }
    }
    best.into_iter().map(|(key, failed)| row_of(key, failed, index)).collect()
}

fn standing(failed: &Failed) -> (u8, crate::domain::Timestamp, u32) {
    (failed.state.weight(), failed.arriving.event.occurred_at, failed.attempts)
}

fn row_of(key: EventKey, failed: &Failed, index: &BlindIndex) -> NewEvent {
    let event = &failed.arriving.event;
    NewEvent {
        id: Uuid::now_v7(),
        key,
        kind: event.kind.clone(),
        subject: event.subject.clone(),
        occurred_at: event.occurred_at,
        received_at: event.received_at,
        state: failed.state,
        reason: Some(failed.reason.clone()),
        attempts: failed.attempts,
        next_attempt_at: failed.next_attempt_at,
        payload: failed.arriving.payload.bytes(),
        user_mark: named(&failed.arriving).map(|user| marks::of_user(index, user)),
    }
}
