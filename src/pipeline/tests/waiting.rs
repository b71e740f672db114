//! What waits in the table never waits for ever, and never in front of something else.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::bench::{Bench, about, body, delivery, rings};
use crate::domain::EventState;
use crate::pipeline::settle::{Item, Settler};
use crate::pipeline::sweep::Sweeper;
use crate::store::Store;
use crate::store::contract::database::Raw;
use crate::store::contract::on_both;

/// The same event about customer `c0` without a word on whose it is.
fn unclaimed(n: usize) -> String {
    let event = about(n * 100, "created", 0);
    event.replace(r#","tags":{"userId":"u1"}"#, "")
}

on_both! {
    async fn a_retry_whose_payload_is_gone_is_dead_and_not_leased_for_ever(db) {
        let bench = Bench::new(&db).await;
        bench.poison("a1", false).await;
        bench.take(&[about(1, "created", 0)]).await;
        db.sql("update event set payload = substr(payload, 1, 0)").await;
        bench.wait(5);
        bench.sweeper(bench.desk()).retries().await.unwrap();
        let row = bench.row("created-1").await;
        assert_eq!((row.state, row.reason.as_deref(), row.next_attempt_at), (EventState::Dead, Some("unopenable"), None));
    }

    async fn a_retry_whose_key_is_missing_waits_and_no_try_is_counted(db) {
        let bench = Bench::new(&db).await;
        bench.poison("a1", false).await;
        bench.take(&[about(1, "created", 0)]).await;
        bench.cure().await;
        bench.wait(5);
        let [usual, other, _] = rings();
        bench.sweeper(Arc::new(bench.desk_with(&other))).retries().await.unwrap();
        let row = bench.row("created-1").await;
        assert_eq!((row.state, row.attempts), (EventState::Retrying, 1));
        assert!(row.next_attempt_at > Some(db.options.clock.now()), "leased, so that it is not asked for all the time");
        bench.wait(120);
        bench.sweeper(Arc::new(bench.desk_with(&usual))).retries().await.unwrap();
        assert_eq!(bench.state("created-1").await.0, "applied");
    }

    async fn unlinked_events_that_cannot_be_read_do_not_stand_before_the_others(db) {
        let bench = Bench::new(&db).await;
        let events: Vec<String> = (0..1_001).map(unclaimed).collect();
        bench.take(&events).await;
        assert_eq!(bench.count(EventState::Unlinked).await, 1_001);
        let user = "0192f0c4-0000-7000-8000-000000000001";
        let integration = "0192f0c4-0000-7000-8000-000000000002";
        let (now, cut) = match &db.raw {
            Raw::Pg(_) => ("now()", "'\\x'::bytea"),
            Raw::Lite(_) => ("0", "x''"),
        };
        db.sql(&format!(
            r#"insert into "user" (id, external_id, created_at, updated_at) values ('{user}', 'u9', {now}, {now});
               insert into integration (id, service, external_id, user_id, created_at, updated_at)
               values ('{integration}', 'unit', 'c0', '{user}', {now}, {now});
               update event set payload = {cut} where id not in (select id from event order by id desc limit 1)"#
        ))
        .await;
        bench.sweeper(bench.desk()).unlinked().await.unwrap();
        assert_eq!((bench.count(EventState::Applied).await, bench.count(EventState::Unlinked).await), (1, 1_000));
    }

    async fn where_users_are_not_created_an_event_waits_until_its_user_is_there(db) {
        let bench = Bench::new(&db).await;
        let store: Arc<dyn Store> = Arc::from(db.without_creating_users().await);
        let sweeper = |creates| {
            Sweeper::new(store.clone(), bench.desk(), 90, CancellationToken::new()).creating_users(creates)
        };
        let settler = Settler::new(store.clone(), bench.desk(), CancellationToken::new());
        let tagged = about(1, "created", 0);
        let events = bench.desk().events_of(&delivery(body(&[tagged])));
        settler.settle(events.into_iter().map(|arriving| Item { arriving, attempts: 0 }).collect()).await;
        sweeper(false).everything().await.unwrap();
        assert_eq!(bench.state("created-1").await.0, "unlinked");
        let now = if matches!(db.raw, Raw::Pg(_)) { "now()" } else { "0" };
        let user = "0192f0c4-0000-7000-8000-000000000001";
        db.sql(&format!(
            r#"insert into "user" (id, external_id, created_at, updated_at) values ('{user}', 'u1', {now}, {now})"#
        ))
        .await;
        sweeper(false).everything().await.unwrap();
        assert_eq!(bench.state("created-1").await.0, "applied");
    }

    async fn a_discarded_event_stays_a_row_and_keeps_its_copies_out(db) {
        use crate::domain::Cause;
        let bench = Bench::new(&db).await;
        let bad = r#"{"id":"e1","type":"account.created"}"#.to_owned();
        bench.take(&[bad.clone(), about(1, "created", 0)]).await;
        let (dead, applied) = (bench.row("e1").await, bench.row("created-1").await);
        assert_eq!(dead.state, EventState::Dead);
        let both = [dead.id, applied.id];
        let discard = || bench.tables.conclude(&both, EventState::Dead, EventState::Recorded, Cause::Discarded);
        assert_eq!(discard().await.unwrap(), [dead.id], "only what is dead");
        assert!(discard().await.unwrap().is_empty());
        bench.take(&[bad]).await;
        assert_eq!(bench.state("e1").await, ("recorded", Some("discarded".to_owned())));
        assert_eq!((bench.state("created-1").await.0, bench.listed().await.len()), ("applied", 2));
    }
}
