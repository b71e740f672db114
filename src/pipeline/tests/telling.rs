//! Changed rows are told at least once, whoever dies in between, and wait for a broker that is away.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::bench::{Bench, about, body};
use crate::domain::ChangedRow;
use crate::pipeline::settle::Settled;
use crate::pipeline::tell::{LEASE_SECONDS, Portion, Teller};
use crate::pipeline::work::{BatchSize, Worker};
use crate::queue::changes::ChangesExchange;
use crate::queue::{Queue, QueueError};
use crate::store::contract::database::Db;
use crate::store::contract::on_both;
use crate::store::{Store, Telling};

/// Hears everything; is away, or never answers, as often as it is told to.
#[derive(Default)]
struct Hearer {
    heard: Mutex<Vec<(String, Uuid)>>,
    away: AtomicUsize,
    silent: AtomicUsize,
}

fn one_less(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).is_ok()
}

impl Hearer {
    fn heard(&self) -> Vec<(String, Uuid)> {
        self.heard.lock().unwrap().clone()
    }
}

#[async_trait]
impl ChangesExchange for Hearer {
    async fn ready(&self) -> Result<(), QueueError> {
        if one_less(&self.away) { Err(QueueError::Gone) } else { Ok(()) }
    }

    async fn tell(&self, rows: &[ChangedRow]) -> Result<(), QueueError> {
        self.heard.lock().unwrap().extend(rows.iter().map(|row| (row.table.clone(), row.id)));
        if one_less(&self.silent) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn close(&self) {}
}

/// Two accounts of two customers of one user are committed; who hears of it, and who tells.
async fn committed(db: &Arc<Db>) -> (Bench, Arc<Hearer>, Teller) {
    let bench = Bench::new(db).await;
    let store: Arc<dyn Store> = Arc::from(db.telling(Telling { notify: false, exchange: true }).await);
    bench.publish([body(&[about(1, "created", 0), about(2, "created", 0)])]).await;
    let size = BatchSize { max: 64, linger: Duration::ZERO };
    let worker = Worker::new(bench.queue.clone(), store.clone(), bench.desk(), size, bench.stop.clone());
    let mut consumer = bench.queue.consume(128, 0).await.unwrap();
    let batch = consumer.next(64, Duration::ZERO).await.unwrap();
    assert_eq!(worker.step(consumer.as_mut(), batch).await.unwrap(), Settled::Done);
    consumer.close().await;
    let hearer = Arc::new(Hearer::default());
    let teller = Teller::new(store, hearer.clone(), db.options.clock.clone(), CancellationToken::new());
    (bench, hearer, teller)
}

on_both! {
    async fn what_changed_is_told_once_and_forgotten(db) {
        let (bench, hearer, teller) = committed(&db).await;
        let told = teller.round(&mut Portion::default()).await.unwrap();
        let mut heard = hearer.heard();
        heard.sort();
        heard.dedup();
        let counts = db.store.row_counts().await.unwrap();
        assert_eq!((told, heard.len() as u64), (5, counts.user + counts.integration + counts.account), "{heard:?}");
        bench.wait(1_000);
        assert_eq!(teller.round(&mut Portion::default()).await.unwrap(), 0);
    }

    async fn who_dies_between_confirm_and_removal_has_it_told_again_and_not_lost(db) {
        let (bench, hearer, teller) = committed(&db).await;
        hearer.silent.store(1, Ordering::SeqCst);
        // It dies here: what it was doing is dropped, what it held in memory is gone.
        let mut held = Portion::default();
        tokio::select! {
            _ = teller.round(&mut held) => panic!("it never answers"),
            () = async { while hearer.heard().is_empty() { tokio::task::yield_now().await } } => {}
        }
        drop(held);
        let first = hearer.heard();
        assert_eq!(teller.round(&mut Portion::default()).await.unwrap(), 0, "its lease holds still");
        bench.wait(LEASE_SECONDS + 1);
        assert_eq!(teller.round(&mut Portion::default()).await.unwrap(), first.len());
        assert_eq!(hearer.heard(), [first.clone(), first].concat());
        bench.wait(LEASE_SECONDS + 1);
        assert_eq!(teller.round(&mut Portion::default()).await.unwrap(), 0);
    }

    async fn nothing_is_taken_while_the_broker_is_away_and_all_of_it_is_told_afterwards(db) {
        let (_bench, hearer, teller) = committed(&db).await;
        hearer.away.store(3, Ordering::SeqCst);
        let mut portion = Portion::default();
        for _ in 0..3 {
            assert!(teller.round(&mut portion).await.is_err() && portion.rows.is_empty());
        }
        assert_eq!(teller.round(&mut portion).await.unwrap(), 5);
        assert_eq!(hearer.heard().len(), 5);
    }
}
