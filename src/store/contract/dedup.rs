//! Of several copies of one event one counts.

use super::at;
use super::database::Db;
use super::{Saying, event, on_both};
use crate::domain::{Cause, EventState, Meaning, Rank, StatusChange, Timestamp};
use crate::store::Outcome;

const APPLIED: Outcome = Outcome::Stored(EventState::Applied);

fn owned(key: &str, seconds: i64) -> crate::domain::Event {
    event(key, seconds).claiming("u1", Rank::Payload)
}

async fn occurred(db: &Db, key: &str) -> Timestamp {
    let key = ("unit".to_owned(), crate::domain::DedupKey::from_id(key));
    db.rows().await.events[&key].occurred_at
}

on_both! {
    async fn a_second_copy_is_a_duplicate_and_changes_nothing(db) {
        assert_eq!(db.take_one(owned("e1", 1).status(StatusChange::open("active"))).await, APPLIED);
        let before = db.rows().await;
        let copy = owned("e1", 1).status(StatusChange::closing("archived"));
        assert_eq!(db.take_one(copy).await, Outcome::Duplicate);
        assert_eq!(db.rows().await, before);
    }

    async fn copies_within_one_batch_count_once_and_the_later_time_wins(db) {
        let done = db.take([owned("e1", 1), owned("e1", 3), owned("e1", 2)]).await;
        assert_eq!(done.outcomes, [Outcome::Duplicate, APPLIED, Outcome::Duplicate]);
        assert_eq!(occurred(&db, "e1").await, at(3));
    }

    async fn a_copy_with_a_later_time_counts_and_one_with_an_earlier_time_does_not(db) {
        db.take([owned("e1", 2)]).await;
        assert_eq!(db.take_one(owned("e1", 1)).await, Outcome::Duplicate);
        assert_eq!(db.c1().await.observed_at, Some(at(2)));
        assert_eq!(db.take_one(owned("e1", 3)).await, APPLIED);
        assert_eq!((db.c1().await.observed_at, occurred(&db, "e1").await), (Some(at(3)), at(3)));
    }

    async fn applied_beats_recorded_beats_dead_whatever_their_times(db) {
        let dead = || event("e1", 9).meaning(Meaning::Dead(Cause::NotJson.into()));
        let recorded = || event("e1", 8).meaning(Meaning::Record(None));
        assert_eq!(db.take_one(dead()).await, Outcome::Stored(EventState::Dead));
        assert_eq!(db.take_one(recorded()).await, Outcome::Stored(EventState::Recorded));
        assert_eq!(db.take_one(owned("e1", 1)).await, APPLIED);
        assert_eq!(db.take_one(recorded()).await, Outcome::Duplicate);
        assert_eq!(db.take_one(dead()).await, Outcome::Duplicate);
        assert_eq!(db.state("e1").await, ("applied", None));
        assert_eq!(occurred(&db, "e1").await, at(1));
    }

    async fn an_unlinked_copy_beats_a_recorded_one(db) {
        db.take([event("e1", 1).meaning(Meaning::Record(None))]).await;
        assert_eq!(db.take_one(event("e1", 0)).await, Outcome::Stored(EventState::Unlinked));
    }

    async fn a_duplicate_counts_its_owner_claim_all_the_same(db) {
        db.take([owned("e1", 1)]).await;
        let bound = event("e1", 1).claiming("u2", Rank::BoundUrl);
        assert_eq!(db.take_one(bound).await, Outcome::Duplicate);
        assert_eq!(db.c1().await.owner.unwrap().user.as_str(), "u2");
    }

    async fn keys_of_two_providers_are_two_events(db) {
        db.take([owned("e1", 1), owned("e1", 1).by(super::PLAID)]).await;
        assert_eq!(db.listed().await.len(), 2);
    }

    async fn a_forced_copy_counts_again_and_cannot_move_a_row_backwards(db) {
        let archived = owned("e1", 5).status(StatusChange::closing("archived")).account("a1", None);
        db.take([archived.clone(), owned("e2", 6).status(StatusChange::open("active"))]).await;
        let before = db.rows().await;
        assert_eq!(db.force(archived).await, APPLIED);
        assert_eq!(db.rows().await, before);
    }

    async fn a_forced_copy_that_counts_less_than_another_stored_copy_is_a_duplicate(db) {
        db.take([owned("e1", 5).received(20)]).await;
        assert_eq!(db.force(owned("e1", 4).received(10)).await, Outcome::Duplicate);
        let dead = event("e1", 9).received(10).meaning(Meaning::Dead(Cause::NotJson.into()));
        assert_eq!(db.force(dead).await, Outcome::Duplicate);
        assert_eq!(occurred(&db, "e1").await, at(5));
    }

    async fn a_forced_copy_says_what_the_same_event_means_today(db) {
        db.take([event("e1", 1).meaning(Meaning::Dead(Cause::NotJson.into()))]).await;
        assert_eq!(db.force(owned("e1", 1)).await, APPLIED);
        assert_eq!(db.force(event("e1", 1).meaning(Meaning::Record(None))).await, Outcome::Stored(EventState::Recorded));
    }

    async fn a_forced_copy_does_not_displace_a_better_one_of_its_own_batch(db) {
        db.take([owned("e1", 1)]).await;
        let (old, new) = (owned("e1", 1), owned("e1", 2));
        let batch = crate::store::Batch {
            events: vec![db.archive.arriving(old, true), db.archive.arriving(new, false)],
            ..Default::default()
        };
        let done = db.store.commit(&batch, &db.archive).await.unwrap();
        assert_eq!(done.outcomes, [Outcome::Duplicate, APPLIED]);
        assert_eq!(occurred(&db, "e1").await, at(2));
    }

    async fn recorded_and_dead_events_make_no_user_and_no_integration(db) {
        let dead = event("e1", 1).meaning(Meaning::Dead(Cause::MissingField.into()));
        let recorded = event("e2", 1).meaning(Meaning::Record(Some(Cause::NoSubject.into())));
        db.take([dead, recorded]).await;
        let rows = db.rows().await;
        assert!(rows.users.is_empty() && rows.integrations.is_empty());
        assert_eq!(db.state("e1").await, ("dead", Some("missing_field".into())));
        assert_eq!(db.state("e2").await, ("recorded", Some("no_subject".into())));
    }

    async fn an_empty_batch_is_committed_too(db) {
        assert!(db.take([]).await.outcomes.is_empty());
    }

    async fn a_batch_of_a_thousand_events_is_one_transaction(db) {
        let events = (0..1_100).map(|n| {
            let subject = format!("c{}", n % 300);
            owned(&format!("e{n:05}"), n).about(&subject).account(&format!("a{}", n % 700), None)
        });
        let done = db.take(events.collect::<Vec<_>>()).await;
        assert!(done.outcomes.iter().all(|outcome| *outcome == APPLIED));
        let counts = db.store.row_counts().await.unwrap();
        assert_eq!((counts.user, counts.integration), (1, 300));
        let known: std::collections::BTreeSet<_> = (0..1_100).map(|n| (n % 300, n % 700)).collect();
        assert_eq!(counts.account, known.len() as u64);
    }
}
