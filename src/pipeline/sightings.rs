//! Under which keys deliveries come, as workers see it when they have committed them: what a broker's queue cannot be asked
//! for, and what one has to know before a key can go.
//!
//! Kept in memory, one entry for each queue and key, and written to the tables now and then: a statement for every batch
//! would be dear, and what a process that dies has not written is only known a little later.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::domain::Timestamp;
use crate::store::StoreError;
use crate::store::keys::{KeyBook, Sighting};

/// What was seen and not written yet.
#[derive(Default)]
pub struct Sightings(Mutex<BTreeMap<(String, u32), Timestamp>>);

impl Sightings {
    /// Notes what was committed: by queue and key, when the newest of it had been received.
    pub fn note<Q: AsRef<str>>(&self, seen: impl IntoIterator<Item = ((Q, u32), Timestamp)>) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((queue, key), received_at) in seen {
            let at = newest.entry((queue.as_ref().to_owned(), key)).or_insert(received_at);
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
            self.note(seen.into_iter().map(|Sighting { queue, key, received_at }| ((queue, key), received_at)));
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(queue: &str, key: u32, seconds: i64) -> ((&str, u32), Timestamp) {
        ((queue, key), Timestamp::from_seconds(seconds).unwrap())
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
