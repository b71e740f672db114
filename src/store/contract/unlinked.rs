//! Events whose subject has no user yet, and the moment that it gets one.

use super::{Saying, at, event, link, on_both};
use crate::domain::{Cause, Event, EventState, Meaning, Rank, StatusChange};
use crate::store::Outcome;

fn waiting(key: &str, seconds: i64) -> Event {
    event(key, seconds).account("a1", Some(StatusChange::open("frozen")))
}

on_both! {
    async fn an_event_without_a_user_is_unlinked_and_writes_no_other_row(db) {
        assert_eq!(db.take_one(waiting("e1", 1)).await, Outcome::Stored(EventState::Unlinked));
        let rows = db.rows().await;
        assert!(rows.integrations.is_empty() && rows.accounts.is_empty());
    }

    async fn unlinked_events_apply_in_the_transaction_of_the_claim(db) {
        db.take([waiting("e1", 1), waiting("e2", 2).about("c2")]).await;
        let done = db.take([event("e3", 3).claiming("u1", Rank::Inferred)]).await;
        assert_eq!(done.relinked, 1);
        assert_eq!((db.state("e1").await.0, db.state("e2").await.0), ("applied", "unlinked"));
        assert_eq!(db.account("a1").await.status.status, "frozen");
    }

    async fn unlinked_events_apply_in_the_transaction_of_the_link(db) {
        db.take([waiting("e1", 1)]).await;
        assert_eq!(db.link([link("u1", 3)]).await.relinked, 1);
        assert_eq!((db.state("e1").await.0, db.account("a1").await.user.as_str()), ("applied", "u1"));
    }

    async fn unlinked_events_apply_by_the_claim_of_a_duplicate(db) {
        db.take([waiting("e1", 1)]).await;
        let bound = waiting("e1", 1).claiming("u1", Rank::BoundUrl);
        let done = db.take([bound]).await;
        assert_eq!((done.outcomes[0], done.relinked), (Outcome::Duplicate, 1));
        assert_eq!((db.state("e1").await.0, db.account("a1").await.user.as_str()), ("applied", "u1"));
    }

    async fn an_event_that_is_unlinked_in_the_plain_copy_applies_beside_the_bound_one(db) {
        let done = db.take([waiting("e1", 1), waiting("e1", 1).claiming("u1", Rank::BoundUrl)]).await;
        assert_eq!(done.outcomes, [Outcome::Stored(EventState::Applied), Outcome::Duplicate]);
        assert_eq!(db.account("a1").await.user, "u1");
    }

    async fn a_recorded_copy_of_an_unlinked_event_changes_nothing(db) {
        db.take([waiting("e1", 1)]).await;
        db.take([event("e1", 9).meaning(Meaning::Record(None))]).await;
        db.link([link("u1", 3)]).await;
        assert_eq!(db.c1().await.observed_at, Some(at(1)));
    }

    async fn what_is_over_a_thousand_is_left_to_the_sweep(db) {
        for batch in 0..3 {
            db.take((0..350).map(|n| event(&format!("e{batch}-{n:03}"), n))).await;
        }
        let done = db.link([link("u1", 3)]).await;
        assert_eq!(done.relinked, 1_000);
        assert_eq!(db.sweep().await, 50);
        assert!(db.rows().await.events.values().all(|event| event.state == "applied"));
        assert!(db.store.linkable(None, 10).await.unwrap().is_empty());
    }

    async fn the_sweep_finds_events_of_a_subject_that_the_product_inserted(db) {
        db.take([waiting("e1", 1)]).await;
        assert!(db.store.linkable(None, 10).await.unwrap().is_empty());
        db.sql(
            r#"insert into "user" (id, external_id) values ('018f0000-0000-7000-8000-000000000001', 'product');
               insert into integration (id, service, external_id, user_id) values
               ('018f0000-0000-7000-8000-000000000002', 'unit', 'c1', '018f0000-0000-7000-8000-000000000001')"#,
        ).await;
        assert_eq!(db.sweep().await, 1);
        assert_eq!(db.account("a1").await.user, "product");
    }

    async fn unlinked_events_expire_to_dead_and_a_replay_still_applies(db) {
        db.take([waiting("e1", 1).received(10), waiting("e2", 1).received(20)]).await;
        assert_eq!(db.store.expire_unlinked(at(20), 10).await.unwrap(), 1);
        assert_eq!(db.state("e1").await, ("dead", Some(Cause::UnlinkedExpired.as_str().into())));
        assert_eq!(db.state("e2").await.0, "unlinked");
        db.link([link("u1", 3)]).await;
        assert_eq!(db.state("e1").await.0, "dead");
        db.force(waiting("e1", 1).received(10)).await;
        assert_eq!(db.state("e1").await, ("applied", None));
    }

    async fn an_unlinked_event_that_cannot_be_opened_now_stays(db) {
        db.take([waiting("e1", 1), waiting("e2", 2)]).await;
        db.sql("update event set payload = dedup_key where id = (select id from event order by id limit 1)").await;
        assert_eq!(db.link([link("u1", 3)]).await.relinked, 1);
        assert_eq!((db.state("e1").await.0, db.state("e2").await.0), ("unlinked", "applied"));
    }
}
