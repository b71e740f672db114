//! What the spool owes: a 200 whatever the broker does, as long as there is disk, and everything forwarded afterwards.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future;
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Contents, Spool, SpoolSettings};
use crate::crypto::{Sealed, SealedDelivery};
use crate::domain::{ProviderName, Timestamp};
use crate::queue::contract::{AtBroker, PATIENCE, PROVIDERS, delivery, on, tokens};
use crate::queue::rabbitmq::RabbitMq;
use crate::queue::rabbitmq::proxy::{Mode, Proxy};
use crate::queue::{Consumer, Depth, PublishError, Queue, QueueError};

type Verdict = Result<(), PublishError>;

/// What a broker does with what it is given.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Confirms,
    Away(PublishError),
    /// Accepts, and then fails so.
    Fails(PublishError),
    RefusesUnit,
    Silent,
}

/// A broker with moods.
struct Moody {
    mood: watch::Sender<Mood>,
    published: Mutex<Vec<SealedDelivery>>,
    asked: watch::Sender<usize>,
}

impl Moody {
    fn new(mood: Mood) -> Arc<Self> {
        let published = Mutex::default();
        Arc::new(Self { mood: watch::Sender::new(mood), published, asked: watch::Sender::new(0) })
    }

    fn ids(&self) -> HashSet<Uuid> {
        self.published.lock().unwrap().iter().map(|delivery| delivery.id).collect()
    }

    fn asked(&self) -> usize {
        *self.asked.borrow()
    }
}

#[async_trait]
impl Queue for Moody {
    async fn publish(&self, delivery: SealedDelivery) -> Verdict {
        self.asked.send_modify(|asked| *asked += 1);
        let mood = *self.mood.borrow();
        match mood {
            Mood::Confirms => {}
            Mood::Away(why) | Mood::Fails(why) => return Err(why),
            Mood::RefusesUnit if delivery.provider.as_str() == "unit" => return Err(PublishError::Refused),
            Mood::RefusesUnit => {}
            Mood::Silent => {
                let _ = self.mood.subscribe().wait_for(|mood| *mood != Mood::Silent).await;
            }
        }
        self.published.lock().unwrap().push(delivery);
        Ok(())
    }

    fn accepts(&self) -> Verdict {
        match *self.mood.borrow() {
            Mood::Away(why) => Err(why),
            _ => Ok(()),
        }
    }

    async fn consume(&self, _prefetch: u16, _rank: u16) -> Result<Box<dyn Consumer>, QueueError> {
        Err(QueueError::Gone)
    }

    async fn depths(&self) -> Result<Vec<Depth>, QueueError> {
        Err(QueueError::Gone)
    }

    async fn close(&self) {}
}

fn settings(folder: &Path) -> SpoolSettings {
    SpoolSettings {
        path: folder.to_owned(),
        max_bytes: 1 << 20,
        max_in_flight: 1_024,
        providers: PROVIDERS.to_vec(),
        patience: PATIENCE,
    }
}

async fn before(broker: &Arc<Moody>, folder: &TempDir) -> Arc<Spool> {
    Spool::open(broker.clone(), settings(folder.path())).await.unwrap()
}

/// A delivery with a frame, as a key ring writes it.
fn framed(provider: &'static str, body: &[u8]) -> SealedDelivery {
    let id = Uuid::now_v7();
    let mut message = vec![1, u8::try_from(provider.len()).unwrap()];
    message.extend_from_slice(provider.as_bytes());
    message.extend_from_slice(id.as_bytes());
    message.extend_from_slice(body);
    SealedDelivery {
        id,
        provider: ProviderName::new(provider),
        received_at: Timestamp::parse("2026-01-02T03:04:05.678901Z").unwrap(),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        message: Sealed::for_test(Bytes::from(message)),
    }
}

/// Publishes so many at once; all have to be taken.
async fn publish(queue: &Arc<Spool>, provider: &'static str, count: usize) -> HashSet<Uuid> {
    let deliveries: Vec<_> = (0..count).map(|_| framed(provider, b"body")).collect();
    let ids = deliveries.iter().map(|delivery| delivery.id).collect();
    for verdict in future::join_all(deliveries.into_iter().map(|delivery| queue.publish(delivery))).await {
        verdict.unwrap();
    }
    ids
}

async fn waiting(queue: &Arc<Spool>) -> u64 {
    let depths = queue.depths().await.unwrap();
    let spool = depths.iter().find(|depth| depth.queue == "spool").unwrap();
    spool.ready + spool.unacked.unwrap()
}

async fn until_waiting(queue: &Arc<Spool>, count: u64) {
    let settled = async {
        while waiting(queue).await != count {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, settled).await.expect("the spool is worked off");
}

const EVERY_KIND: [Mood; 7] = [
    Mood::Away(PublishError::Disconnected),
    Mood::Away(PublishError::Blocked),
    Mood::Away(PublishError::Full),
    Mood::Fails(PublishError::Refused),
    Mood::Fails(PublishError::Timeout),
    Mood::Fails(PublishError::Disconnected),
    Mood::Fails(PublishError::Full),
];

#[tokio::test]
async fn whatever_the_broker_says_a_delivery_is_kept_and_forwarded_later() {
    for mood in EVERY_KIND {
        let folder = tempfile::tempdir().unwrap();
        let broker = Moody::new(mood);
        let queue = before(&broker, &folder).await;
        let ids = publish(&queue, "unit", 600).await;
        assert_eq!((waiting(&queue).await, broker.ids().len()), (600, 0));
        assert_eq!(queue.accepts(), Ok(()));
        broker.mood.send_replace(Mood::Confirms);
        until_waiting(&queue, 0).await;
        assert_eq!(broker.ids(), ids);
        queue.close().await;
    }
}

#[tokio::test]
async fn while_the_broker_confirms_nothing_touches_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Moody::new(Mood::Confirms);
    let queue = before(&broker, &folder).await;
    let ids = publish(&queue, "unit", 10).await;
    assert_eq!((waiting(&queue).await, broker.ids()), (0, ids));
    queue.close().await;
}

#[tokio::test]
async fn a_delivery_is_forwarded_as_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Moody::new(Mood::Away(PublishError::Blocked));
    let queue = before(&broker, &folder).await;
    let sent = framed("plaid", b"sealed");
    queue.publish(sent.clone()).await.unwrap();
    queue.close().await;

    // From disk, by another process as it were.
    broker.mood.send_replace(Mood::Confirms);
    let queue = before(&broker, &folder).await;
    until_waiting(&queue, 0).await;
    let forwarded = broker.published.lock().unwrap().pop().unwrap();
    assert_eq!((forwarded.id, forwarded.provider, forwarded.received_at), (sent.id, sent.provider, sent.received_at));
    assert_eq!((forwarded.message.as_bytes(), forwarded.traceparent), (sent.message.as_bytes(), sent.traceparent));
    queue.close().await;
}

#[tokio::test]
async fn a_broker_that_does_not_confirm_is_waited_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Moody::new(Mood::Silent);
    let brief = SpoolSettings { patience: Duration::from_millis(50), ..settings(folder.path()) };
    let queue = Spool::open(broker.clone(), brief).await.unwrap();
    let mut ids = publish(&queue, "unit", 1).await;
    // The first one, and the forwarder with it.
    let mut asked = broker.asked.subscribe();
    timeout(PATIENCE, asked.wait_for(|asked| *asked == 2)).await.unwrap().unwrap();
    ids.extend(publish(&queue, "unit", super::FORWARDED_AT_ONCE + 50).await);
    assert!(broker.asked() <= 1 + super::FORWARDED_AT_ONCE, "only the forwarder asks");
    broker.mood.send_replace(Mood::Confirms);
    until_waiting(&queue, 0).await;
    assert_eq!(broker.ids(), ids);
    let before = broker.asked();
    publish(&queue, "unit", 1).await;
    assert_eq!((broker.asked(), waiting(&queue).await), (before + 1, 0), "the straight way is open again");
    queue.close().await;
}

#[tokio::test]
async fn beyond_its_room_senders_get_what_the_broker_says() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Moody::new(Mood::Away(PublishError::Blocked));
    let small = SpoolSettings { max_bytes: 100, ..settings(folder.path()) };
    let queue = Spool::open(broker.clone(), small).await.unwrap();
    let big = || framed("unit", &[0; 60]);
    queue.publish(big()).await.unwrap();
    assert_eq!(queue.publish(big()).await, Err(PublishError::Blocked));
    assert_eq!(waiting(&queue).await, 1);
    broker.mood.send_replace(Mood::Confirms);
    until_waiting(&queue, 0).await;
    broker.mood.send_replace(Mood::Away(PublishError::Blocked));
    queue.publish(big()).await.expect("there is room again");
    queue.close().await;
}

#[tokio::test]
async fn a_spool_without_room_does_not_accept_for_a_broker_that_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Moody::new(Mood::Away(PublishError::Disconnected));
    let small = SpoolSettings { max_bytes: 26, ..settings(folder.path()) };
    let queue = Spool::open(broker.clone(), small).await.unwrap();
    publish(&queue, "unit", 1).await;
    assert_eq!(queue.accepts(), Err(PublishError::Disconnected));
    broker.mood.send_replace(Mood::Confirms);
    assert_eq!(queue.accepts(), Ok(()));
    queue.close().await;
}

#[tokio::test]
async fn a_silent_broker_is_asked_again_when_the_disk_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Moody::new(Mood::Fails(PublishError::Timeout));
    let none = SpoolSettings { max_bytes: 0, ..settings(folder.path()) };
    let queue = Spool::open(broker.clone(), none).await.unwrap();
    assert_eq!(queue.publish(framed("unit", b"x")).await, Err(PublishError::Timeout));
    broker.mood.send_replace(Mood::Confirms);
    publish(&queue, "unit", 1).await;
    queue.close().await;
}

#[tokio::test]
async fn what_one_queue_refuses_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Moody::new(Mood::Away(PublishError::Disconnected));
    let queue = before(&broker, &folder).await;
    let refused = publish(&queue, "unit", 500).await;
    let taken = publish(&queue, "plaid", 500).await;
    broker.mood.send_replace(Mood::RefusesUnit);
    until_waiting(&queue, 500).await;
    assert_eq!(broker.ids(), taken);
    broker.mood.send_replace(Mood::Confirms);
    until_waiting(&queue, 0).await;
    assert_eq!(broker.ids(), taken.union(&refused).copied().collect());
    queue.close().await;
}

#[tokio::test]
async fn a_damaged_message_stays_and_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Moody::new(Mood::Away(PublishError::Disconnected));
    let queue = before(&broker, &folder).await;
    queue.publish(delivery("no frame")).await.unwrap();
    let ids = publish(&queue, "unit", 10).await;
    broker.mood.send_replace(Mood::Confirms);
    until_waiting(&queue, 1).await;
    assert_eq!(broker.ids(), ids);
    queue.close().await;
}

#[tokio::test]
async fn a_message_of_a_provider_that_is_gone_goes_where_workers_find_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Moody::new(Mood::Away(PublishError::Disconnected));
    let queue = before(&broker, &folder).await;
    publish(&queue, "stripe", 1).await;
    broker.mood.send_replace(Mood::Confirms);
    until_waiting(&queue, 0).await;
    assert_eq!(broker.published.lock().unwrap()[0].provider, ProviderName::UNKNOWN);
    queue.close().await;
}

#[tokio::test]
async fn a_second_process_is_turned_away_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Moody::new(Mood::Confirms);
    let queue = before(&broker, &folder).await;
    let Err(QueueError::Fatal(sentence)) = Spool::open(broker.clone(), settings(folder.path())).await else {
        panic!("two processes share a spool")
    };
    assert!(sentence.contains("FINHOOK_SPOOL") && sentence.contains("another finhook process"), "{sentence}");
    let (path, contents) = Spool::look(&settings(folder.path())).await.unwrap();
    assert_eq!((path, contents), (folder.path().join("spool.db"), Contents::InUse));
    queue.close().await;
}

#[tokio::test]
async fn a_look_says_what_waits_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let look = async || Spool::look(&settings(folder.path())).await.unwrap().1;
    assert_eq!(look().await, Contents::Absent);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let queue = before(&Moody::new(Mood::Away(PublishError::Blocked)), &folder).await;
    publish(&queue, "unit", 3).await;
    queue.close().await;
    assert_eq!(look().await, Contents::Waiting(3));
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("absent/"), folder.path().join("absent/spool.db")] {
        let Err(QueueError::Fatal(sentence)) = Spool::open(Moody::new(Mood::Confirms), settings(&path)).await.map(drop)
        else {
            panic!("it is made")
        };
        assert!(sentence.starts_with("FINHOOK_SPOOL: the folder"), "{sentence}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_broker_that_is_away_from_the_start_gets_everything_when_it_comes() {
    on::<AtBroker, _>("spool", |place| async move {
        let folder = tempfile::tempdir().unwrap();
        let proxy = Proxy::before(&place.url, Mode::Cut).await;
        let mut at = place.settings();
        at.url = SecretString::from(proxy.url());
        let queue = Spool::open(RabbitMq::connect(at), settings(folder.path())).await.unwrap();
        let mut expected = publish(&queue, "unit", 1_000).await;
        proxy.set(Mode::Through);
        expected.extend(publish(&queue, "plaid", 500).await);
        let mut consumer = timeout(PATIENCE, queue.consume(1_000, 0)).await.unwrap().unwrap();
        while !expected.is_empty() {
            let messages = timeout(PATIENCE, consumer.next(1_000, Duration::ZERO)).await.unwrap().unwrap();
            for message in &messages {
                expected.remove(&crate::crypto::frame_of(&message.body).unwrap().1);
            }
            consumer.ack(tokens(messages)).await.unwrap();
        }
        until_waiting(&queue, 0).await;
        consumer.close().await;
        queue.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_broker_that_falls_silent_costs_nobody_more_than_the_patience() {
    on::<AtBroker, _>("spool", |place| async move {
        let folder = tempfile::tempdir().unwrap();
        let proxy = Proxy::before(&place.url, Mode::Through).await;
        let mut at = place.settings();
        at.url = SecretString::from(proxy.url());
        let broker = RabbitMq::connect(at);
        broker.ready(PATIENCE).await.unwrap();
        let brief = SpoolSettings { patience: Duration::from_millis(300), ..settings(folder.path()) };
        let queue = Spool::open(broker, brief).await.unwrap();
        let mut expected = publish(&queue, "unit", 10).await;
        proxy.set(Mode::Stalled);
        expected.extend(publish(&queue, "unit", 300).await);
        let waited = std::time::Instant::now();
        expected.extend(publish(&queue, "unit", 300).await);
        assert!(waited.elapsed() < Duration::from_secs(2), "{:?}", waited.elapsed());
        assert!(waiting(&queue).await >= 600);
        proxy.set(Mode::Through);
        until_waiting(&queue, 0).await;
        let mut consumer = timeout(PATIENCE, queue.consume(1_000, 0)).await.unwrap().unwrap();
        while !expected.is_empty() {
            let messages = timeout(PATIENCE, consumer.next(1_000, Duration::ZERO)).await.unwrap().unwrap();
            for message in &messages {
                expected.remove(&crate::crypto::frame_of(&message.body).unwrap().1);
            }
            consumer.ack(tokens(messages)).await.unwrap();
        }
        consumer.close().await;
        queue.close().await;
    })
    .await;
}
