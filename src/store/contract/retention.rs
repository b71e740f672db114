//! Retention: payloads are wiped and rows deleted, oldest first, and what still needs them is left alone.

use super::{Saying, at, event, on_both};
use crate::domain::{Cause, EventState, Meaning, Rank, Reason};
use crate::store::Outcome;
use crate::store::contract::database::Db;

/// One event in every state, each received 100 seconds after the tests' beginning; and one applied later.
async fn one_in_each_state(db: &Db) {
    db.take([
        event("applied", 1).claiming("u1", Rank::Payload).received(100),
        event("recorded", 1).received(100).meaning(Meaning::Record(None)),
        event("unlinked", 1).about("c2").received(100),
        event("dead", 1).received(100).meaning(Meaning::Dead(Cause::NotJson.into())),
        event("held", 1).received(100).meaning(Meaning::Dead(Reason::at(Cause::UnknownKey, "/key"))),
        event("later", 1).received(101),
    ])
    .await;
    db.set_aside(event("retrying", 1).received(100), EventState::Retrying, 1, Some(9_999)).await;
}

impl Db {
    /// The keys of the events whose payload is wiped, sorted.
    async fn wiped(&self) -> Vec<String> {
        let rows: Vec<(Vec<u8>,)> =
            self.fetch("select dedup_key from event where length(payload) = 0 order by dedup_key").await;
        rows.into_iter().map(|(key,)| String::from_utf8(key).unwrap()).collect()
    }
}

on_both! {
    async fn payloads_of_what_is_done_are_wiped_and_their_rows_stay(db) {
        one_in_each_state(&db).await;
        assert_eq!(db.store.wipe_payloads(at(100), 10).await.unwrap(), 0);
        assert_eq!(db.store.wipe_payloads(at(101), 1).await.unwrap(), 1, "in small batches");
        assert_eq!(db.store.wipe_payloads(at(101), 10).await.unwrap(), 1);
        assert_eq!(db.store.wipe_payloads(at(101), 10).await.unwrap(), 0);
        assert_eq!(db.wiped().await, ["applied", "recorded"]);
        assert_eq!(db.take_one(event("applied", 1)).await, Outcome::Duplicate, "the dedup still knows it");
    }

    async fn a_payload_is_wiped_once_nothing_needs_it_any_more(db) {
        one_in_each_state(&db).await;
        db.store.wipe_payloads(at(200), 10).await.unwrap();
        db.take([event("link", 1).about("c2").claiming("u2", Rank::Payload).received(300)]).await;
        assert_eq!(db.store.wipe_payloads(at(200), 10).await.unwrap(), 1);
        assert_eq!(db.wiped().await, ["applied", "later", "recorded", "unlinked"]);
    }

    async fn rows_are_deleted_by_the_time_they_were_stored_and_what_waits_stays(db) {
        one_in_each_state(&db).await;
        let now = crate::domain::WallClock::system().now();
        assert_eq!(db.store.delete_old_events(now.plus_seconds(-60), 10).await.unwrap(), 0);
        assert_eq!(db.store.delete_old_events(now.plus_seconds(60), 2).await.unwrap(), 2);
        assert_eq!(db.store.delete_old_events(now.plus_seconds(60), 10).await.unwrap(), 2);
        let left: Vec<String> = db.rows().await.events.keys().map(|(_, key)| key.to_string()).collect();
        assert_eq!(left, ["held", "retrying", "unlinked"]);
        assert_eq!(db.rows().await.integrations.len(), 1, "the rows of the product stay");
    }
}
