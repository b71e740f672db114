//! Replays: past the dedup, with the original time, never backwards, and resumable.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::bench::{Bench, about, body, delivery, received_at, rings, vault};
use crate::domain::{Cause, EventState};
use crate::pipeline::read::Desk;
use crate::pipeline::replay::{Left, Replayed, Replayer, Which};
use crate::pipeline::settle::Settled;
use crate::queue::Queue;
use crate::store::EventFilter;
use crate::store::contract::on_both;

/// An account of two customers.
const JOINT: &str = r#"{"id":"joint","type":"account.created","attributes":{"createdAt":"2023-11-14T22:13:20Z"},
    "relationships":{"account":{"data":{"type":"account","id":"a1"}},
    "customers":{"data":[{"type":"customer","id":"c1"},{"type":"customer","id":"c2"}]}}}"#;

fn customer(id: &str) -> String {
    format!(
        r#"{{"id":"{id}-made","type":"customer.created","attributes":{{"createdAt":"2023-11-14T22:13:19Z",
        "tags":{{"userId":"u-{id}"}}}},"relationships":{{"customer":{{"data":{{"type":"customer","id":"{id}"}}}}}}}}"#
    )
}

fn everything() -> Which {
    Which::Filter(Box::default())
}

fn in_state(state: EventState) -> Which {
    Which::Filter(Box::new(EventFilter { state: Some(state), ..EventFilter::default() }))
}

impl Bench {
    fn replayer(&self, desk: Arc<Desk>, published: bool) -> Replayer {
        let queue = published.then(|| self.queue.clone() as Arc<dyn Queue>);
        Replayer::new(self.tables.clone(), desk, queue, self.stop.clone())
    }

    async fn replay(&self, which: Which, published: bool) -> Replayed {
        let replayed = self.replayer(self.desk(), published).run(which, None, &|_| {}).await.unwrap();
        assert_eq!(self.work(self.desk()).await, Settled::Done);
        replayed
    }
}

on_both! {
    async fn a_replay_ends_in_the_same_rows_by_either_way(db) {
        let bench = Bench::new(&db).await;
        bench.take(&[about(1, "created", 0), about(1, "frozen", 10), about(1, "closed", 20)]).await;
        bench.take(&[customer("c1"), customer("c2"), JOINT.to_owned()]).await;
        let (before, events) = (db.rows().await, bench.listed().await);
        for published in [false, true] {
            let oldest = events.iter().find(|row| row.dedup_key.to_string() == "created-1").unwrap().id;
            let one = bench.replay(Which::Ids(vec![oldest]), published).await;
            assert_eq!((one.replayed, one.last), (1, Some(oldest)));
            let all = bench.replay(everything(), published).await;
            assert_eq!((all.replayed, all.left.len(), all.interrupted), (7, 0, None));
            assert!(db.rows().await == before, "a replay moved a row");
            let times = |row: &crate::store::EventRow| (row.id, row.received_at, row.occurred_at, row.state);
            assert!(bench.listed().await.iter().map(times).eq(events.iter().map(times)));
        }
    }

    async fn what_travels_is_forced_inside_the_seal_and_keeps_its_time(db) {
        let bench = Bench::new(&db).await;
        bench.take(&[about(1, "created", 0)]).await;
        let row = bench.row("created-1").await;
        db.sql("update account set status = 'frozen', status_at = null, status_key = null").await;
        bench.replayer(bench.desk(), true).run(Which::Ids(vec![row.id]), None, &|_| {}).await.unwrap();
        let mut consumer = bench.queue.consume(1, 0).await.unwrap();
        let message = consumer.next(1, std::time::Duration::ZERO).await.unwrap().remove(0);
        let find = |name: &str| crate::providers::find(name).map(|provider| provider.name);
        let opened = db.options.vault.ring.open_delivery(&message.body, &find).unwrap();
        assert!(opened.force && opened.received_at == received_at());
        drop(consumer);
        assert_eq!(bench.work(bench.desk()).await, Settled::Done);
        let statuses: Vec<(String,)> = db.fetch("select status from account").await;
        assert_eq!(statuses[0].0, "open", "past the dedup");
    }

    async fn every_event_of_a_joint_account_is_found_by_its_own_key(db) {
        for published in [false, true] {
            let bench = Bench::new(&db).await;
            db.clear().await;
            bench.take(&[JOINT.to_owned()]).await;
            bench.take(&[customer("c1"), customer("c2")]).await;
            let rows = bench.listed().await;
            assert_eq!((rows.len(), bench.count(EventState::Applied).await), (4, 4));
            for row in &rows {
                let replayed = bench.replay(Which::Ids(vec![row.id]), published).await;
                assert_eq!((replayed.replayed, replayed.left.len()), (1, 0), "{}", row.dedup_key);
            }
            assert_eq!(bench.listed().await.len(), 4);
        }
    }

    async fn dead_events_are_requeued_once_what_was_wrong_is_mended(db) {
        let bench = Bench::new(&db).await;
        bench.poison("a1", true).await;
        bench.take(&[about(1, "created", 0), about(2, "created", 0)]).await;
        let failed = bench.replay(in_state(EventState::Dead), true).await;
        assert_eq!((failed.replayed, bench.state("created-1").await.0), (1, "dead"));
        bench.cure().await;
        let replayed = bench.replay(in_state(EventState::Dead), false).await;
        assert_eq!((replayed.replayed, bench.state("created-1").await.0), (1, "applied"));
        assert_eq!(bench.replay(in_state(EventState::Dead), false).await.replayed, 0);
    }

    async fn what_cannot_be_replayed_is_named_and_left_as_it_is(db) {
        let bench = Bench::new(&db).await;
        bench.take(&[about(1, "created", 0), about(2, "created", 0), about(3, "created", 0)]).await;
        let [one, two, three] = [1, 2, 3].map(|n| format!("created-{n}"));
        let ids = [bench.row(&one).await.id, bench.row(&two).await.id, bench.row(&three).await.id];
        db.sql(&format!("update event set payload = substr(payload, 1, 0) where id = '{}'", ids[0])).await;
        db.sql(&format!("update event set payload = substr(payload, 1, 40) where id = '{}'", ids[1])).await;
        let nobody = Uuid::max();
        let which = Which::Ids(vec![ids[2], nobody, ids[1], ids[0]]);
        let replayed = bench.replay(which, false).await;
        let mut left = replayed.left.clone();
        left.sort_by_key(|(id, _)| *id);
        let mut expected = vec![(ids[0], Left::Wiped), (ids[1], Left::Unread(Cause::Unopenable)), (nobody, Left::NotThere)];
        expected.sort_by_key(|(id, _)| *id);
        assert_eq!((replayed.replayed, left), (1, expected));
        let only = Some(EventState::Dead);
        let dead = bench.replayer(bench.desk(), false).run(Which::Ids(vec![ids[2]]), only, &|_| {}).await.unwrap();
        assert_eq!(dead.left, [(ids[2], Left::Not(EventState::Applied))]);
        assert_eq!(bench.count(EventState::Applied).await, 3);
    }

    async fn a_replay_that_is_interrupted_goes_on_where_it_ended(db) {
        let bench = Bench::new(&db).await;
        bench.take(&(0..150).map(|n| about(n, "created", 0)).collect::<Vec<_>>()).await;
        let stop = CancellationToken::new();
        let replayer = Replayer::new(bench.tables.clone(), bench.desk(), None, stop.clone());
        assert_eq!(replayer.count(&everything()).await.unwrap(), 150);
        let first = replayer.run(everything(), None, &|_| stop.cancel()).await.unwrap();
        assert_eq!((first.interrupted, first.replayed), (Some("stopped"), 64));
        let mut ids: Vec<Uuid> = bench.listed().await.iter().map(|row| row.id).collect();
        ids.sort();
        assert_eq!(first.last, Some(ids[63]), "in the order of their ids");
        let rest = Which::Filter(Box::new(EventFilter { after: first.last, ..EventFilter::default() }));
        assert_eq!(bench.replayer(bench.desk(), false).count(&rest).await.unwrap(), 86);
        let rest = bench.replay(rest, false).await;
        assert_eq!((rest.replayed, rest.interrupted, rest.last), (86, None, Some(ids[149])));
    }

    async fn a_message_that_was_kept_is_released_by_a_replay_and_its_row_replaced(db) {
        let bench = Bench::new(&db).await;
        let [_, other, both] = rings();
        let sealed = vault(&other).ring.seal_delivery(&delivery(body(&[about(1, "created", 0), about(2, "created", 0)])));
        bench.queue.publish(sealed).await.unwrap();
        bench.work(bench.desk()).await;
        let missing = bench.replay(everything(), false).await;
        assert_eq!(missing.left[0].1, Left::Unread(Cause::UnknownKey));
        let desk = Arc::new(bench.desk_with(&both));
        let released = bench.replayer(desk, true).run(in_state(EventState::Dead), None, &|_| {}).await.unwrap();
        assert_eq!((released.replayed, bench.count(EventState::Dead).await), (1, 0));
        assert_eq!((bench.listed().await.len(), bench.count(EventState::Applied).await), (2, 2));
    }

    async fn a_dead_row_that_is_read_as_other_events_today_is_replaced_by_them(db) {
        let bench = Bench::new(&db).await;
        let desk = Arc::new(bench.desk_with(&rings()[0]).reading_with(super::bench::UNIT, Box::new(Blind)));
        bench.publish([body(&[about(1, "created", 0), about(2, "created", 0)])]).await;
        bench.work(desk).await;
        assert_eq!((bench.listed().await.len(), bench.count(EventState::Dead).await), (1, 1));
        assert_eq!(bench.replay(in_state(EventState::Dead), false).await.replayed, 1);
        assert_eq!((bench.listed().await.len(), bench.count(EventState::Applied).await), (2, 2));

        let blind = Arc::new(bench.desk_with(&rings()[0]).reading_with(super::bench::UNIT, Box::new(Blind)));
        let applied = bench.replayer(blind, false).run(everything(), None, &|_| {}).await.unwrap();
        assert_eq!((applied.replayed, applied.left.len()), (0, 2), "what was applied is not undone by a reader that fails");
        assert_eq!(bench.count(EventState::Applied).await, 2);
    }
}

/// Reads nothing.
struct Blind;

impl crate::providers::Reader for Blind {
    fn events(&self, _: &crate::domain::Delivery) -> Vec<crate::domain::Event> {
        panic!("a defect in the reader")
    }
}
