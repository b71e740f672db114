//! Events that failed alone, are due again, are held or are looked at.

use super::{Saying, at, event, on_both};
use crate::domain::{Cause, EventState, Meaning, Rank, Reason};
use crate::store::{Batch, EventCount, EventFilter, Outcome, Pending};

on_both! {
    async fn an_event_set_aside_is_taken_when_it_is_due_and_by_one_worker(db) {
        db.set_aside(event("e1", 1), EventState::Retrying, 1, Some(50)).await;
        db.set_aside(event("e2", 1), EventState::Retrying, 3, Some(60)).await;
        assert!(db.store.take_due(at(49), at(100), 10).await.unwrap().is_empty());
        let due = db.store.take_due(at(50), at(100), 10).await.unwrap();
        assert_eq!((due.len(), due[0].attempts), (1, 1));
        assert!(db.store.take_due(at(50), at(100), 10).await.unwrap().is_empty());
        assert_eq!(db.store.take_due(at(100), at(200), 10).await.unwrap().len(), 2);
    }

    async fn a_second_failure_updates_the_row_and_the_last_one_makes_it_dead(db) {
        db.set_aside(event("e1", 1), EventState::Retrying, 1, Some(50)).await;
        db.set_aside(event("e1", 1), EventState::Retrying, 2, Some(60)).await;
        let row = db.listed().await.remove(0);
        assert_eq!((row.attempts, row.next_attempt_at), (2, Some(at(60))));
        db.set_aside(event("e1", 1), EventState::Dead, 3, None).await;
        assert_eq!(db.state("e1").await, ("dead", Some("attempts_exhausted".into())));
        assert!(db.store.take_due(at(999), at(1_000), 10).await.unwrap().is_empty());
    }

    async fn a_message_that_is_delivered_again_does_not_give_an_event_its_tries_back(db) {
        db.set_aside(event("e1", 1), EventState::Retrying, 3, Some(120)).await;
        db.set_aside(event("e1", 1), EventState::Retrying, 1, Some(5)).await;
        let row = db.listed().await.remove(0);
        assert_eq!((row.attempts, row.next_attempt_at), (3, Some(at(120))));
        db.set_aside(event("e1", 1), EventState::Retrying, 4, Some(600)).await;
        assert_eq!(db.listed().await[0].attempts, 4);
    }

    async fn an_event_set_aside_does_not_overwrite_a_copy_that_was_applied_meanwhile(db) {
        db.take([event("e1", 1).claiming("u1", Rank::Payload), event("e2", 1).meaning(Meaning::Record(None))]).await;
        db.set_aside(event("e1", 1), EventState::Retrying, 1, Some(50)).await;
        db.set_aside(event("e1", 9), EventState::Dead, 1, None).await;
        db.set_aside(event("e2", 9), EventState::Dead, 1, None).await;
        assert_eq!((db.state("e1").await.0, db.state("e2").await.0), ("applied", "recorded"));
    }

    async fn an_event_set_aside_overwrites_a_copy_that_counts_less(db) {
        db.take([event("e1", 1).meaning(Meaning::Record(None))]).await;
        db.set_aside(event("e1", 0), EventState::Retrying, 1, Some(50)).await;
        assert_eq!(db.state("e1").await.0, "retrying");
        db.take([event("e2", 1).claiming("u1", Rank::Payload)]).await;
        db.set_aside(event("e2", 2), EventState::Retrying, 1, Some(50)).await;
        assert_eq!(db.state("e2").await.0, "retrying");
    }

    async fn an_unlinked_event_that_fails_on_its_way_is_set_aside(db) {
        db.take([event("e1", 1)]).await;
        db.set_aside(event("e1", 1), EventState::Retrying, 1, Some(50)).await;
        assert_eq!(db.state("e1").await.0, "retrying");
    }

    async fn a_retrying_event_that_succeeds_is_applied_and_forgets_its_tries(db) {
        let claimed = event("e1", 1).claiming("u1", Rank::Payload);
        db.set_aside(claimed.clone(), EventState::Retrying, 2, Some(50)).await;
        assert_eq!(db.take_one(claimed.clone()).await, Outcome::Duplicate);
        assert_eq!(db.force(claimed).await, Outcome::Stored(EventState::Applied));
        let row = db.listed().await.remove(0);
        assert_eq!((row.state, row.attempts, row.reason, row.next_attempt_at), (EventState::Applied, 0, None, None));
    }

    async fn several_failures_of_one_key_are_one_row(db) {
        let failed = [1, 2].map(|attempts| crate::store::Failed {
            arriving: db.archive.arriving(event("e1", 1), false),
            state: EventState::Retrying,
            reason: "store_refused".into(),
            attempts,
            next_attempt_at: Some(at(50)),
        });
        db.store.set_aside(&failed).await.unwrap();
        assert_eq!(db.listed().await[0].attempts, 2);
        db.store.set_aside(&[]).await.unwrap();
    }

    async fn held_deliveries_are_listed_by_id_and_replaced_by_their_events(db) {
        let held = |key: &str| event(key, 1).meaning(Meaning::Dead(Reason::at(Cause::UnknownKey, "/key")));
        db.take([held("h1"), held("h2"), event("d", 1).meaning(Meaning::Dead(Cause::NotJson.into()))]).await;
        let first = db.store.held(None, 1).await.unwrap();
        let second = db.store.held(Some(first[0].id), 10).await.unwrap();
        assert_eq!((first.len(), second.len()), (1, 1));
        assert!(db.store.held(Some(second[0].id), 10).await.unwrap().is_empty());
        let batch = Batch {
            events: vec![db.archive.arriving(event("e1", 1).claiming("u1", Rank::Payload), false)],
            replaces: vec![first[0].id, second[0].id],
            ..Batch::default()
        };
        db.store.commit(&batch, &db.archive).await.unwrap();
        assert!(db.store.held(None, 10).await.unwrap().is_empty());
        assert_eq!(db.listed().await.len(), 2);
    }

    async fn events_are_listed_newest_first_by_pages_and_by_every_filter(db) {
        for n in 0..5 {
            db.take([event(&format!("e{n}"), n).about(&format!("c{n}")).received(n)]).await;
        }
        let list = async |filter: EventFilter| {
            let rows = db.store.events(&EventFilter { limit: 2, ..filter }).await.unwrap();
            rows.into_iter().map(|row| (row.dedup_key.to_string(), row.id)).unzip::<_, _, Vec<_>, Vec<_>>()
        };
        let (keys, ids) = list(EventFilter::default()).await;
        assert_eq!(keys, ["e4", "e3"]);
        assert_eq!(list(EventFilter { before: Some(ids[1]), ..Default::default() }).await.0, ["e2", "e1"]);
        assert_eq!(list(EventFilter { subject: Some("c2".into()), ..Default::default() }).await.0, ["e2"]);
        assert_eq!(list(EventFilter { since: Some(at(1)), until: Some(at(3)), ..Default::default() }).await.0, ["e2", "e1"]);
        let unlinked = EventFilter {
            state: Some(EventState::Unlinked),
            provider: Some("unit".into()),
            kind: Some("customer.updated".into()),
            ..Default::default()
        };
        assert_eq!(list(unlinked).await.0, ["e4", "e3"]);
        assert!(list(EventFilter { provider: Some("plaid".into()), ..Default::default() }).await.0.is_empty());
    }

    async fn one_event_is_shown_with_a_payload_that_opens(db) {
        db.take([event("e1", 1)]).await;
        let id = db.listed().await[0].id;
        let (row, payload) = db.store.event(id).await.unwrap().unwrap();
        let find = |name: &str| (name == "unit").then_some(super::UNIT);
        let opened = db.options.vault.ring.open_payload("unit", &row.dedup_key, &payload, &find).unwrap();
        assert_eq!((row.received_at, opened.received_at), (at(1_000), at(1_000)));
        assert!(db.store.event(uuid::Uuid::now_v7()).await.unwrap().is_none());
    }

    async fn events_are_counted_by_provider_and_state(db) {
        db.take([
            event("e1", 1).claiming("u1", Rank::Payload),
            event("e2", 1).about("c2"),
            event("e3", 1).by(super::PLAID).meaning(Meaning::Dead(Cause::NotJson.into())),
        ]).await;
        let count = |provider: &str, state| EventCount { provider: provider.into(), state, count: 1 };
        let (dead, unlinked) = (count("plaid", EventState::Dead), count("unit", EventState::Unlinked));
        assert_eq!(
            db.store.event_counts().await.unwrap(),
            [dead.clone(), count("unit", EventState::Applied), unlinked.clone()]
        );
        let waits = |count: &EventCount, oldest| {
            Pending { provider: count.provider.clone(), state: count.state, count: count.count, oldest }
        };
        assert_eq!(db.store.pending().await.unwrap(), [waits(&dead, at(1_000)), waits(&unlinked, at(1_000))]);
        db.store.ping().await.unwrap();
    }
    async fn the_later_of_two_receipts_says_how_far_a_queue_is_worked_off(db) {
        let told = |queue: &str, seconds| (queue.to_owned(), at(seconds));
        assert!(db.store.progress(&[]).await.unwrap().is_empty());
        let ours = [told("finhook.unit", 10), told("finhook.plaid", 20)];
        assert_eq!(db.store.progress(&ours).await.unwrap(), [told("finhook.plaid", 20), told("finhook.unit", 10)]);
        let theirs = [told("finhook.plaid", 15), told("finhook.unit", 30)];
        let both = [told("finhook.plaid", 20), told("finhook.unit", 30)];
        assert_eq!(db.store.progress(&theirs).await.unwrap(), both);
        assert_eq!(db.store.progress(&[]).await.unwrap(), both);
    }
}
