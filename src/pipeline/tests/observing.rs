//! One look at queues and tables: depth, lag, what waits, and when a process has to say that it is stuck.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;

use super::bench::{Bench, about, received_at, rings, vault};
use crate::crypto::SealedDelivery;
use crate::domain::{EventState, Timestamp};
use crate::ops::readiness::Readiness;
use crate::pipeline::observe::{EVERY, Observer, Pace};
use crate::pipeline::watch::{PendingNow, QueueNow, Watch};
use crate::queue::{Consumer, Depth, PublishError, Queue, QueueError};
use crate::store::contract::on_both;
use crate::store::keys::recognise;

const UNIT: &str = "finhook.unit";

/// A queue that says what it was told to say.
struct Told(Mutex<Option<Vec<Depth>>>);

impl Told {
    fn new() -> Arc<Self> {
        let told = Arc::new(Self(Mutex::default()));
        told.holds(0);
        told
    }

    /// So many messages wait in Unit's queue, as a broker without management interface says it.
    fn holds(&self, ready: u64) {
        let depth = Depth { queue: UNIT.into(), ready, consumers: Some(2), ..Depth::default() };
        *self.0.lock().unwrap() = Some(vec![depth]);
    }

    fn goes_away(&self) {
        *self.0.lock().unwrap() = None;
    }
}

#[async_trait]
impl Queue for Told {
    async fn publish(&self, _: SealedDelivery) -> Result<(), PublishError> {
        Err(PublishError::Refused)
    }

    fn accepts(&self) -> Result<(), PublishError> {
        Ok(())
    }

    async fn consume(&self, _: u16, _: u16) -> Result<Box<dyn Consumer>, QueueError> {
        Err(QueueError::Gone)
    }

    async fn depths(&self) -> Result<Vec<Depth>, QueueError> {
        self.0.lock().unwrap().clone().ok_or(QueueError::Gone)
    }

    async fn close(&self) {}
}

/// A process that only works, and what it sees.
struct Looking {
    bench: Bench,
    queue: Arc<Told>,
    watch: Arc<Watch>,
    readiness: Readiness,
    observer: Observer,
}

impl Looking {
    fn new(bench: Bench) -> Self {
        Self::holding(bench, &rings()[0])
    }

    /// With the keys of this ring.
    fn holding(bench: Bench, ring: &str) -> Self {
        let (clock, queue) = (bench.db.options.clock.clone(), Told::new());
        let (watch, readiness) = (Watch::new(clock.now()), Readiness::new(clock.clone()));
        let observer = Observer::new(watch.clone(), queue.clone(), false, readiness.clone(), clock).working(
            bench.tables.clone(),
            vault(ring),
            Duration::from_secs(60),
        );
        Self { bench, queue, watch, readiness, observer }
    }

    fn now(&self) -> Timestamp {
        self.bench.db.options.clock.now()
    }

    /// So many seconds later, a look at Unit's queue.
    async fn later(&self, seconds: i64) -> QueueNow {
        self.bench.wait(seconds);
        self.observer.look().await;
        self.watch.now().queues.iter().find(|queue| &*queue.queue == UNIT).unwrap().clone()
    }

    fn commits(&self, received_at: Timestamp) {
        self.watch.committed(BTreeMap::from([(UNIT.to_owned(), received_at)]), self.now());
    }

    /// What `/readyz` says of a check, and since when.
    fn check(&self, name: &str) -> (Option<String>, Timestamp) {
        let state = self.readiness.state().into_iter().find(|check| check.name == name).unwrap();
        (state.why, state.since)
    }
}

on_both! {
    async fn lag_is_the_age_of_the_newest_committed_delivery_while_something_waits(db) {
        let looking = Looking::new(Bench::new(&db).await);
        assert_eq!(looking.later(5).await.lag_seconds, Some(0.0));
        looking.queue.holds(3);
        assert_eq!(looking.later(5).await.lag_seconds, Some(0.0), "nothing was committed yet, and it just came");
        assert_eq!(looking.later(10).await.lag_seconds, Some(10.0));
        looking.commits(looking.now().plus_seconds(-100));
        let seen = looking.later(5).await;
        assert_eq!((seen.ready, seen.unacked, seen.consumers, seen.lag_seconds), (3, None, Some(2), Some(105.0)));
        // An older one that comes late takes nothing back.
        looking.commits(looking.now().plus_seconds(-900));
        assert_eq!(looking.later(0).await.lag_seconds, Some(105.0));
        looking.queue.holds(0);
        assert_eq!(looking.later(5).await.lag_seconds, Some(0.0));
    }

    async fn what_another_process_committed_counts_too(db) {
        let looking = Looking::new(Bench::new(&db).await);
        looking.queue.holds(1);
        looking.commits(looking.now().plus_seconds(-300));
        db.store.progress(&[(UNIT.to_owned(), looking.now().plus_seconds(-20))]).await.unwrap();
        assert_eq!(looking.later(0).await.lag_seconds, Some(20.0));
        // And it is told what this process knows better.
        looking.commits(looking.now());
        looking.later(1).await;
        assert_eq!(db.store.progress(&[]).await.unwrap(), [(UNIT.to_owned(), looking.now().plus_seconds(-1))]);
    }

    async fn work_and_no_commit_for_a_minute_is_not_ready(db) {
        let looking = Looking::new(Bench::new(&db).await);
        looking.queue.holds(3);
        looking.later(5).await;
        looking.later(59).await;
        assert_eq!(looking.check("commits").0, None);
        looking.later(1).await;
        let since = looking.now();
        assert_eq!(looking.check("commits").0.as_deref(), Some("there is work, and nothing was committed for 60 s"));
        looking.later(5).await;
        assert_eq!(looking.check("commits").1, since);
        looking.commits(looking.now());
        looking.later(5).await;
        assert_eq!(looking.check("commits").0, None);
        // What a worker has in its hands is work as well.
        looking.queue.holds(0);
        let in_hand = looking.watch.taken();
        looking.later(5).await;
        looking.later(60).await;
        assert!(looking.check("commits").0.is_some());
        drop(in_hand);
        looking.later(5).await;
        assert_eq!(looking.check("commits").0, None);
        // Nothing to do is no reason to do something.
        looking.later(3_600).await;
        assert_eq!(looking.check("commits").0, None);
    }

    async fn a_broker_that_is_away_is_not_ready_and_leaves_the_last_answer_with_its_time(db) {
        let looking = Looking::new(Bench::new(&db).await);
        looking.queue.holds(3);
        looking.later(5).await;
        let asked = looking.now();
        looking.queue.goes_away();
        assert_eq!(looking.later(5).await.ready, 3);
        let seen = looking.watch.now();
        assert_eq!((seen.queues_at, seen.pending_at), (Some(asked), Some(looking.now())));
        assert_eq!(looking.check("queue").0.as_deref(), Some("the queue connection is gone"));
        let history = looking.watch.history();
        assert_eq!(history.iter().map(|sample| sample.queues.len()).collect::<Vec<_>>(), [2, 0]);
    }

    async fn a_sweep_that_finds_nothing_is_no_commit(db) {
        let bench = Bench::new(&db).await;
        bench.sweeper(bench.desk()).everything().await.unwrap();
        assert!(bench.tables.committed.notified().now_or_never().is_none());
        bench.take(&[about(1, "created", 0)]).await;
        assert!(bench.tables.committed.notified().now_or_never().is_some());
    }

    async fn a_key_that_is_not_the_databases_is_not_ready(db) {
        let [usual, other, _] = rings();
        recognise(db.store.keys(), &vault(&usual)).await.unwrap().unwrap();
        let right = Looking::new(Bench::new(&db).await);
        right.later(5).await;
        assert_eq!(right.check("keys").0, None);
        let impostor = format!("1:{}", other.split_once(':').unwrap().1);
        let wrong = Looking::holding(Bench::new(&db).await, &impostor);
        wrong.later(5).await;
        let why = wrong.check("keys").0.unwrap();
        assert!(why.starts_with("FINHOOK_KEYS: key 1 is not the key"), "{why}");
    }

    async fn what_waits_in_the_tables_is_counted_with_its_age(db) {
        let looking = Looking::new(Bench::new(&db).await);
        looking.bench.poison("a1", true).await;
        looking.bench.take(&[about(1, "created", 0)]).await;
        looking.bench.cure().await;
        db.options.clock.set(received_at().plus_seconds(40));
        looking.later(2).await;
        let seen = looking.watch.now();
        let of = |provider: &str, state| -> PendingNow {
            let found = seen.pending.iter().find(|it| it.provider.as_str() == provider && it.state == state);
            found.unwrap().clone()
        };
        let dead = of("unit", EventState::Dead);
        assert_eq!((dead.count, dead.oldest_received_at, dead.age_seconds), (1, Some(received_at()), 42.0));
        assert_eq!((of("plaid", EventState::Dead).count, of("unit", EventState::Retrying).age_seconds), (0, 0.0));
        let retrying = seen.queues.last().unwrap();
        assert_eq!((&*retrying.queue, retrying.ready, retrying.lag_seconds), ("retrying", 0, Some(0.0)));
        // With the database away the old counts stay, and get older.
        looking.bench.tables.away.store(1, std::sync::atomic::Ordering::SeqCst);
        looking.later(8).await;
        assert_eq!(looking.check("store").0.as_deref(), Some("the database does not answer"));
        let before = seen.pending_at;
        let seen = looking.watch.now();
        assert_eq!((seen.pending_at, seen.pending.iter().map(|it| it.age_seconds).fold(0.0, f64::max)), (before, 50.0));
    }
}

#[tokio::test]
async fn a_process_that_only_receives_says_nothing_of_a_lag_that_it_cannot_know() {
    let clock = crate::domain::WallClock::held(received_at());
    let (watch, queue) = (Watch::new(clock.now()), Told::new());
    let observer = Observer::new(watch.clone(), queue.clone(), true, Readiness::new(clock.clone()), clock.clone());
    queue.holds(3);
    observer.look().await;
    clock.set(received_at().plus_seconds(60));
    observer.look().await;
    let seen = watch.now();
    assert_eq!((seen.queues[0].ready, seen.queues[0].lag_seconds), (3, None));
    assert!(seen.intake.is_some() && seen.work.is_none() && seen.pending.is_empty());
    let shown = serde_json::to_value(&*seen).unwrap();
    assert_eq!(shown["at"], "2023-11-14T22:31:00Z");
    assert_eq!(shown["queues"][0]["ready"], 3);
    assert!(shown["pending_at"].is_null() && shown["intake"]["accepted_per_second"].is_f64());
}

#[tokio::test]
async fn a_look_says_whether_the_queue_answered() {
    let clock = crate::domain::WallClock::held(received_at());
    let (watch, queue) = (Watch::new(clock.now()), Told::new());
    let observer = Observer::new(watch, queue.clone(), true, Readiness::new(clock.clone()), clock);
    queue.goes_away();
    assert!(!observer.look().await);
    queue.holds(3);
    assert!(observer.look().await);
}

#[test]
fn what_does_not_answer_is_asked_again_soon_and_later_and_later() {
    let mut pace = Pace::new();
    assert!(pace.after(false) < Duration::from_millis(100));
    let all: Vec<_> = (0..100).map(|_| pace.after(false)).collect();
    assert!(all.iter().all(|wait| *wait <= EVERY) && all[50..].iter().all(|wait| *wait == EVERY));
    assert_eq!(pace.after(true), EVERY);
    assert!(pace.after(false) < Duration::from_millis(100));
}

#[tokio::test]
async fn looks_that_follow_each_other_soon_are_one_in_the_history() {
    let clock = crate::domain::WallClock::held(received_at());
    let watch = Watch::new(clock.now());
    let observer = Observer::new(watch.clone(), Told::new(), true, Readiness::new(clock.clone()), clock.clone());
    for seconds in [0, 1, 2, 5, 10] {
        clock.set(received_at().plus_seconds(seconds));
        observer.look().await;
    }
    let kept: Vec<_> = watch.history().iter().map(|sample| sample.at).collect();
    assert_eq!(kept, [0, 5, 10].map(|seconds| received_at().plus_seconds(seconds)));
    assert_eq!(watch.now().at, received_at().plus_seconds(10));
}
