//! Whether a key can go: what in tables and queues still needs it, and whether all of it was sealed after the switch.
//!
//! A broker's queue cannot be looked into, so it is judged by what workers have committed of it: queues give their
//! deliveries in order, and once a queue's newest committed delivery was received after the switch, those from before are
//! through. That is evidence and not proof (another receiver's spool cannot be seen from here), and nothing is lost where it
//! deceives: a delivery whose key is missing is kept as it came, and is taken up again when the key is back.

use crate::domain::Timestamp;
use crate::store::keys::{KnownKey, Purpose, Sighting};

use super::rotate::{ByKey, Survey};

/// A delivery can be on its way to the queue for so long after it was received; another one may overtake it.
const ON_ITS_WAY_SECONDS: i64 = 60;

/// What one queue, or a spool, holds.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its name.
    pub queue: String,
    /// How many deliveries.
    pub count: u64,
    /// Under which keys, where it can be looked into.
    pub under: Option<ByKey>,
    /// Whether its deliveries come in the order in which they were received.
    pub in_order: bool,
}

/// What is known when the question is asked.
pub struct Evidence<'e> {
    /// The key that seals, by the ring of whoever asks.
    pub primary: u32,
    /// The keys that the database knows.
    pub known: &'e [KnownKey],
    /// What is sealed in the tables.
    pub survey: &'e Survey,
    /// What waits.
    pub queues: &'e [Waiting],
    /// What workers have committed.
    pub sightings: &'e [Sighting],
    /// The time now.
    pub now: Timestamp,
}

impl Evidence<'_> {
    /// Every reason why a key cannot go yet, each with what to do; none: it can.
    pub fn against(&self, id: u32) -> Vec<String> {
        let mut reasons = Vec::new();
        if id == self.primary {
            reasons.push(format!("key {id} stands first in FINHOOK_KEYS and seals: put the one first that follows it"));
            return reasons;
        }
        self.tables(id, &mut reasons);
        let ring = self.known.iter().filter(|key| key.purpose == Purpose::Ring);
        let sealing = ring.filter_map(|key| Some((key.primary_at?, key.id))).max();
        match sealing {
            Some((switch, sealing)) if sealing == self.primary => self.deliveries(id, switch, &mut reasons),
            Some((at, sealing)) => reasons.push(format!(
                "workers began to seal with key {sealing} at {at}, not with key {}: start them with the same FINHOOK_KEYS",
                self.primary
            )),
            None => reasons.push("no worker was ever started with these keys: start one".to_owned()),
        }
        reasons
    }

    fn tables(&self, id: u32, reasons: &mut Vec<String>) {
        for (shelf, by_key) in &self.survey.columns {
            if let Some(count) = by_key.get(&Some(id)) {
                let (table, column) = (shelf.table(), shelf.column());
                reasons.push(format!(
                    "{count} value(s) of {table}.{column} are sealed with it: run `finhook keys rotate`"
                ));
            }
        }
        if let Some(count) = self.survey.kept.get(&Some(id)) {
            reasons.push(format!(
                "{count} delivery(ies) that could not be opened when they came are sealed with it: run `finhook keys rotate`"
            ));
        }
    }

    fn deliveries(&self, id: u32, switch: Timestamp, reasons: &mut Vec<String>) {
        let last = self.sightings.iter().filter(|seen| seen.key == id).map(|seen| seen.received_at).max();
        if let Some(last) = last.filter(|last| *last > switch && *last > self.now.plus_seconds(-ON_ITS_WAY_SECONDS)) {
            reasons.push(format!(
                "a receiver sealed with it at {last}, after key {} became the first at {switch}: start every receiver with the \
                 same FINHOOK_KEYS, and ask again {ON_ITS_WAY_SECONDS} s later",
                self.primary
            ));
        }
        // A receiver that was switched later than the others moves the switch.
        let switch = last.map_or(switch, |last| last.max(switch));
        for waiting in self.queues.iter().filter(|waiting| waiting.count > 0) {
            let (queue, count) = (&waiting.queue, waiting.count);
            match &waiting.under {
                Some(under) => {
                    if let Some(count) = under.get(&Some(id)) {
                        reasons.push(format!("{count} delivery(ies) in {queue} are sealed with it: wait until it has less"));
                    }
                }
                None if !waiting.in_order => reasons.push(format!(
                    "{count} delivery(ies) wait in {queue}, in no order that says when they were sealed: wait until it is empty"
                )),
                None => {
                    let here = self.sightings.iter().filter(|seen| seen.queue == *queue);
                    let newest = here.map(|seen| seen.received_at).max();
                    if newest.is_none_or(|newest| newest <= switch.plus_seconds(ON_ITS_WAY_SECONDS)) {
                        let newest = newest.map_or("none".to_owned(), |newest| newest.to_string());
                        reasons.push(format!(
                            "{count} delivery(ies) wait in {queue}, whose newest committed one ({newest}) was not received \
                             {ON_ITS_WAY_SECONDS} s after the switch ({switch}): wait until workers are through, or it is empty"
                        ));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rotation::Shelf;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000 + seconds).unwrap()
    }

    fn known(id: u32, primary_at: Option<i64>) -> KnownKey {
        let (canary, first_seen_at) = (String::new(), at(0));
        KnownKey { purpose: Purpose::Ring, id, canary, first_seen_at, primary_at: primary_at.map(at), retired_at: None }
    }

    fn seen(queue: &str, key: u32, seconds: i64) -> Sighting {
        Sighting { queue: queue.to_owned(), key, received_at: at(seconds) }
    }

    fn waiting(queue: &str, count: u64) -> Waiting {
        Waiting { queue: queue.to_owned(), count, under: None, in_order: !queue.ends_with("dead") }
    }

    /// What stands against key 1 at second 1,000, with key 2 sealing since second 500.
    fn against(survey: &Survey, queues: &[Waiting], sightings: &[Sighting]) -> Vec<String> {
        let known = [known(1, Some(0)), known(2, Some(500))];
        Evidence { primary: 2, known: &known, survey, queues, sightings, now: at(1_000) }.against(1)
    }

    #[track_caller]
    fn one(reasons: Vec<String>, says: &str) {
        assert!(reasons.len() == 1 && reasons[0].contains(says), "{reasons:?}");
    }

    #[test]
    fn a_key_that_nothing_needs_can_go() {
        assert_eq!(against(&Survey::default(), &[], &[]), [""; 0]);
        let under = Some(ByKey::from([(Some(2), 9)]));
        let queues = [waiting("a", 0), waiting("b", 7), Waiting { under, ..waiting("spool", 9) }];
        let sightings = [seen("a", 1, 400), seen("b", 1, 499), seen("b", 2, 561)];
        assert_eq!(against(&Survey::default(), &queues, &sightings), [""; 0]);
    }

    #[test]
    fn what_is_sealed_in_tables_keeps_a_key() {
        let under = |key| ByKey::from([(Some(key), 3)]);
        let survey = |column, kept| Survey { columns: vec![(Shelf::BaasId, under(column))], kept: under(kept) };
        one(against(&survey(1, 2), &[], &[]), "3 value(s) of account.baas_id");
        one(against(&survey(2, 1), &[], &[]), "3 delivery(ies) that could not be opened");
        assert_eq!((survey(1, 1).under(1), survey(1, 2).elsewhere(2)), (6, 3));
    }

    #[test]
    fn a_queue_keeps_a_key_until_what_was_committed_of_it_came_after_the_switch() {
        for sightings in [&[][..], &[seen("q", 1, 499)], &[seen("q", 2, 560)], &[seen("r", 2, 900)]] {
            one(against(&Survey::default(), &[waiting("q", 4)], sightings), "4 delivery(ies) wait in q, whose newest");
        }
        assert_eq!(against(&Survey::default(), &[waiting("q", 4)], &[seen("q", 2, 561)]), [""; 0]);
    }

    #[test]
    fn a_queue_without_order_keeps_a_key_until_it_is_empty() {
        let newest = [seen("q.dead", 2, 999)];
        one(against(&Survey::default(), &[waiting("q.dead", 1)], &newest), "wait until it is empty");
    }

    #[test]
    fn a_queue_that_can_be_looked_into_keeps_a_key_as_long_as_it_holds_something_under_it() {
        let under = Some(ByKey::from([(Some(1), 2), (Some(2), 7)]));
        let queues = [Waiting { under, ..waiting("spool", 9) }];
        one(against(&Survey::default(), &queues, &[]), "2 delivery(ies) in spool");
    }

    #[test]
    fn a_receiver_that_still_seals_with_a_key_keeps_it() {
        one(against(&Survey::default(), &[], &[seen("q", 1, 990)]), "a receiver sealed with it at");
        // It was switched later than the others: what is committed has to be younger than that.
        assert_eq!(against(&Survey::default(), &[], &[seen("q", 1, 700)]), [""; 0]);
        let late = [seen("q", 1, 700), seen("q", 2, 759)];
        one(against(&Survey::default(), &[waiting("q", 4)], &late), "wait in q, whose newest");
    }

    #[test]
    fn the_first_key_and_one_that_workers_still_have_first_cannot_go() {
        let survey = Survey::default();
        let ask = |known: &[KnownKey], id| {
            let (queues, sightings): (&[_], &[_]) = (&[], &[]);
            Evidence { primary: 2, known, survey: &survey, queues, sightings, now: at(1_000) }.against(id)
        };
        one(ask(&[known(2, Some(500))], 2), "stands first");
        one(ask(&[known(1, Some(600)), known(2, Some(500))], 1), "began to seal with key 1");
        one(ask(&[known(1, None), known(2, None)], 1), "no worker was ever started");
    }
}
