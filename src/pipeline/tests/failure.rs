//! What fails alone never holds up the others, and what is nobody's fault is counted against nobody.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bench::{Bench, UNIT, about, body, delivery, received_at, rings, vault};
use crate::domain::{Delivery, Event, EventState};
use crate::pipeline::settle::Settled;
use crate::providers::Reader;
use crate::queue::Queue;
use crate::store::contract::on_both;

/// Panics at a body that asks for it.
struct Panicking(Box<dyn Reader>);

impl Reader for Panicking {
    fn events(&self, delivery: &Delivery) -> Vec<Event> {
        assert!(!delivery.bytes.windows(5).any(|window| window == b"panic"), "a defect in the reader");
        self.0.events(delivery)
    }
}

fn panicking(bench: &Bench) -> Arc<crate::pipeline::read::Desk> {
    let reader = Box::new(crate::providers::unit::UnitReader { user_tag: "userId".to_owned() });
    Arc::new(bench.desk_with(&rings()[0]).reading_with(UNIT, Box::new(Panicking(reader))))
}

on_both! {
    async fn a_poison_event_among_ten_thousand_is_retried_by_the_table_until_its_attempts_run_out(db) {
        let bench = Bench::new(&db).await;
        bench.poison("a4711", false).await;
        let events: Vec<String> = (0..10_000).map(|n| about(n, "created", 0)).collect();
        bench.publish(events.chunks(250).map(body)).await;
        assert_eq!(bench.work(bench.desk()).await, Settled::Done);
        assert_eq!(bench.waiting().await, 0);
        assert_eq!((bench.count(EventState::Applied).await, bench.count(EventState::Retrying).await), (9_999, 1));
        assert_eq!(db.store.row_counts().await.unwrap().account, 9_999);

        let sweeper = bench.sweeper(bench.desk());
        for (attempts, seconds) in [(1, 5), (2, 30), (3, 120), (4, 600), (5, 3_600)] {
            let row = bench.row("created-4711").await;
            let next = bench.db.options.clock.now().plus_seconds(seconds);
            assert_eq!((row.state, row.attempts, row.next_attempt_at), (EventState::Retrying, attempts, Some(next)));
            bench.wait(seconds - 1);
            sweeper.retries().await.unwrap();
            assert_eq!(bench.row("created-4711").await.attempts, attempts, "not before it is due");
            bench.wait(1);
            sweeper.retries().await.unwrap();
        }
        let row = bench.row("created-4711").await;
        assert_eq!((row.state, row.attempts, row.next_attempt_at), (EventState::Dead, 6, None));
        assert_eq!(row.reason.as_deref(), Some("attempts_exhausted"));
        bench.wait(1_000_000);
        sweeper.retries().await.unwrap();
        assert_eq!(bench.row("created-4711").await.attempts, 6, "dead stays dead");
    }

    async fn an_event_is_applied_once_the_database_takes_it(db) {
        let bench = Bench::new(&db).await;
        bench.poison("a1", false).await;
        bench.take(&[about(1, "created", 0), about(2, "created", 0)]).await;
        assert_eq!(bench.state("created-1").await, ("retrying", Some("store_failed".to_owned())));
        bench.cure().await;
        bench.wait(5);
        bench.sweeper(bench.desk()).retries().await.unwrap();
        let row = bench.row("created-1").await;
        assert_eq!((row.state, row.attempts, row.next_attempt_at), (EventState::Applied, 0, None));
        assert_eq!(db.store.row_counts().await.unwrap().account, 2);
    }

    async fn an_event_whose_values_the_database_refuses_is_dead_at_once(db) {
        let bench = Bench::new(&db).await;
        bench.poison("a1", true).await;
        bench.take(&[about(1, "created", 0), about(2, "created", 0)]).await;
        assert_eq!(bench.state("created-1").await, ("dead", Some("store_refused".to_owned())));
        assert_eq!(bench.state("created-2").await.0, "applied");
    }

    async fn a_redelivery_of_what_waits_for_its_retry_is_a_duplicate(db) {
        let bench = Bench::new(&db).await;
        bench.poison("a1", false).await;
        bench.take(&[about(1, "created", 0)]).await;
        bench.wait(5);
        bench.sweeper(bench.desk()).retries().await.unwrap();
        bench.take(&[about(1, "created", 0)]).await;
        assert_eq!(bench.row("created-1").await.attempts, 2);
        assert_eq!(bench.listed().await.len(), 1);
    }

    async fn a_panic_while_reading_is_one_dead_event_and_the_others_apply(db) {
        let bench = Bench::new(&db).await;
        let bad = r#"{"data":[{"id":"panic"}]}"#.to_owned();
        bench.publish([body(&[about(1, "created", 0)]), bad, body(&[about(2, "created", 0)])]).await;
        assert_eq!(bench.work(panicking(&bench)).await, Settled::Done);
        assert_eq!((bench.count(EventState::Applied).await, bench.count(EventState::Dead).await), (2, 1));
        let dead = bench.listed().await.into_iter().find(|row| row.state == EventState::Dead).unwrap();
        assert_eq!(dead.reason.as_deref(), Some("panicked"));
    }

    async fn a_panic_in_the_commit_is_the_failure_of_the_event_that_causes_it(db) {
        let bench = Bench::new(&db).await;
        *bench.tables.panics_at.lock().unwrap() = Some("created-3".to_owned());
        bench.take(&(0..9).map(|n| about(n, "created", 0)).collect::<Vec<_>>()).await;
        assert_eq!(bench.state("created-3").await, ("retrying", Some("store_failed".to_owned())));
        assert_eq!(bench.count(EventState::Applied).await, 8);
    }

    async fn a_database_that_is_away_counts_against_nobody_and_the_messages_are_given_back(db) {
        let bench = Bench::new(&db).await;
        bench.publish([body(&[about(1, "created", 0)]), body(&[about(2, "created", 0)])]).await;
        bench.tables.away.store(1, Ordering::SeqCst);
        assert_eq!(bench.work(bench.desk()).await, Settled::GaveUp);
        assert!(bench.listed().await.is_empty());
        let depths = bench.queue.depths().await.unwrap();
        assert_eq!((depths.iter().map(|depth| depth.ready).sum::<u64>(), bench.waiting().await), (2, 2));
        let mut consumer = bench.queue.consume(8, 0).await.unwrap();
        let again = consumer.next(8, std::time::Duration::ZERO).await.unwrap();
        assert_eq!((again.len(), again[0].redeliveries), (2, 1));
        assert_eq!(bench.worker(bench.desk()).step(consumer.as_mut(), again).await.unwrap(), Settled::Done);
        assert!(bench.listed().await.iter().all(|row| row.state == EventState::Applied && row.attempts == 0));
    }

    async fn a_worker_goes_on_by_itself_when_the_database_is_back(db) {
        let bench = Bench::new(&db).await;
        bench.publish([body(&[about(1, "created", 0)])]).await;
        // A commit, two pings, the next commit: all of them before anything works again.
        bench.tables.away.store(4, Ordering::SeqCst);
        let worker = bench.worker(bench.desk());
        let running = tokio::spawn(async move { worker.run().await });
        bench.tables.committed.notified().await;
        bench.stop.cancel();
        running.await.unwrap().unwrap();
        let row = bench.row("created-1").await;
        assert_eq!((row.state, row.attempts), (EventState::Applied, 0));
    }

    async fn a_failure_that_cannot_even_be_written_down_is_given_back_and_the_others_go_on(db) {
        let bench = Bench::new(&db).await;
        bench.poison("a1", false).await;
        bench.tables.refuses_failures.store(true, Ordering::SeqCst);
        bench.publish([body(&[about(0, "created", 0), about(1, "created", 0)])]).await;
        bench.publish((2..70).map(|n| body(&[about(n, "created", 0)]))).await;
        // Eight times, until it is settled alone.
        for _ in 0..8 {
            assert_eq!(bench.work(bench.desk()).await, Settled::Stuck);
        }
        assert_eq!((bench.count(EventState::Applied).await, bench.waiting().await), (69, 1));
        bench.tables.refuses_failures.store(false, Ordering::SeqCst);
        assert_eq!(bench.work(bench.desk()).await, Settled::Done);
        assert_eq!((bench.state("created-1").await.0, bench.waiting().await), ("retrying", 0));
    }

    async fn a_worker_goes_on_with_the_others_while_something_is_stuck(db) {
        let bench = Bench::new(&db).await;
        bench.poison("a0", false).await;
        bench.tables.refuses_failures.store(true, Ordering::SeqCst);
        bench.publish((0..70).map(|n| body(&[about(n, "created", 0)]))).await;
        let worker = bench.worker(bench.desk());
        let running = tokio::spawn(async move { worker.run().await });
        while bench.count(EventState::Applied).await < 69 {
            bench.tables.committed.notified().await;
        }
        bench.stop.cancel();
        running.await.unwrap().unwrap();
        assert!(bench.waiting().await >= 1, "and it is still there");
    }

    async fn what_the_broker_gave_up_and_what_it_could_not_route_become_rows(db) {
        let bench = Bench::new(&db).await;
        let sealed = |n| db.options.vault.ring.seal_delivery(&delivery(body(&[about(n, "created", 0)])));
        bench.publish_raw("dead", sealed(1).message.bytes()).await;
        bench.publish_raw("unrouted", sealed(2).message.bytes()).await;
        bench.publish_raw("dead", "not one of ours".into()).await;
        assert_eq!(bench.work(bench.desk()).await, Settled::Done);
        assert_eq!((bench.state("created-1").await.0, bench.state("created-2").await.0), ("applied", "applied"));
        let dead = bench.listed().await.into_iter().find(|row| row.state == EventState::Dead).unwrap();
        assert_eq!((dead.provider.as_str(), dead.reason.as_deref()), ("unknown", Some("unopenable")));
        assert_eq!(bench.waiting().await, 0);
    }

    async fn a_delivery_whose_key_is_unknown_is_kept_and_released_once_the_key_is_back(db) {
        let bench = Bench::new(&db).await;
        let [usual, other, both] = rings();
        let sealed = vault(&other).ring.seal_delivery(&delivery(body(&[about(1, "created", 0), about(2, "created", 0)])));
        bench.queue.publish(sealed).await.unwrap();
        assert_eq!(bench.work(bench.desk()).await, Settled::Done);
        let rows = bench.listed().await;
        assert_eq!((rows.len(), rows[0].state, rows[0].reason.as_deref()), (1, EventState::Dead, Some("unknown_key")));
        assert_eq!(rows[0].provider, "unit");

        bench.sweeper(Arc::new(bench.desk_with(&usual))).held().await.unwrap();
        assert_eq!(bench.listed().await[0].id, rows[0].id, "held as long as the key is missing");
        bench.sweeper(Arc::new(bench.desk_with(&both))).held().await.unwrap();
        let rows = bench.listed().await;
        assert!(rows.len() == 2 && rows.iter().all(|row| row.state == EventState::Applied));
        assert!(rows.iter().all(|row| row.received_at == received_at()), "with its original time");
    }

    async fn a_held_delivery_that_no_key_opens_is_held_no_longer(db) {
        let bench = Bench::new(&db).await;
        let [_, other, both] = rings();
        let sealed = vault(&other).ring.seal_delivery(&delivery(body(&[about(1, "created", 0)])));
        let mut damaged = sealed.message.as_bytes().to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        bench.publish_raw("unit", damaged.into()).await;
        bench.work(bench.desk()).await;
        assert_eq!(db.store.held(None, 10).await.unwrap().len(), 1);
        bench.sweeper(Arc::new(bench.desk_with(&both))).held().await.unwrap();
        assert!(db.store.held(None, 10).await.unwrap().is_empty());
        assert_eq!(bench.listed().await[0].reason.as_deref(), Some("unopenable"));
    }
}
