//! Under which keys deliveries come, as workers see it when they have committed them: what a broker's queue cannot be asked
//! for, and what one has to know before a key can go.
//!
//! Kept in memory, one entry for each queue and key, and written to the tables now and then: a statement for every batch
//! would be dear, and what a process that dies has not written is only known a little later.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::crypto::key_of_message;
use crate::domain::Timestamp;
use crate::queue::Received;
use crate::store::keys::{KeyBook, Sighting};
use crate::store::{Arriving, StoreError, Vault};

/// What was seen and not written yet.
#[derive(Default)]
pub struct Sightings(Mutex<BTreeMap<(String, u32), Timestamp>>);

impl Sightings {
    /// Notes what was committed.
    pub fn note(&self, seen: impl IntoIterator<Item = Sighting>) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for Sighting { queue, key, received_at } in seen {
            let at = newest.entry((queue, key)).or_insert(received_at);
            *at = received_at.max(*at);
        }
    }

    /// Writes what was noted since the last time; what could not be written is noted again.
    pub async fn write(&self, book: &dyn KeyBook) -> Result<(), StoreError> {
        let noted = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if noted.is_empty() {
            return Ok(());
        }
        let seen: Vec<Sighting> =
            noted.into_iter().map(|((queue, key), received_at)| Sighting { queue, key, received_at }).collect();
        let written = book.note_sightings(&seen).await;
        if written.is_err() {
            self.note(seen);
        }
        written
    }
}

/// What a message says of its key, if the ring holds it: what asks for any other is kept, and is no use of a key of ours.
pub fn sighting(vault: &Vault, received: &Received, events: &[Arriving]) -> Option<Sighting> {
    let key = key_of_message(&received.body).filter(|key| vault.ring.holds(*key))?;
    let received_at = events.first()?.event.received_at;
    Some(Sighting { queue: received.queue.clone(), key, received_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(queue: &str, key: u32, seconds: i64) -> Sighting {
        Sighting { queue: queue.to_owned(), key, received_at: Timestamp::from_seconds(seconds).unwrap() }
    }

    #[test]
    fn the_newest_of_each_queue_and_key_is_kept() {
        let sightings = Sightings::default();
        sightings.note([seen("a", 1, 5), seen("a", 2, 1), seen("b", 1, 9)]);
        sightings.note([seen("a", 1, 3), seen("b", 1, 10)]);
        let kept: Vec<i64> = sightings.0.lock().unwrap().values().map(|at| at.seconds()).collect();
        assert_eq!(kept, [5, 1, 10]);
    }
}
