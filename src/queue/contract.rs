//! What every queue owes its callers, written once and run against each backend.
//!
//! A backend that needs a server is left out, and says so, when `FINHOOK_TEST_AMQP_URL` is not set; with
//! `FINHOOK_TEST_REQUIRED=1` (as `tests/run` sets it) leaving out is a failure.

use std::collections::HashSet;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future;
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::time::timeout;
use uuid::Uuid;

use super::embedded::{Embedded, EmbeddedSettings};
use super::rabbitmq::{RabbitMq, RabbitMqSettings, Topology};
use super::{Consumer, Queue, Received, Token};
use crate::crypto::{Sealed, SealedDelivery};
use crate::domain::{ProviderName, Timestamp};

/// Longer than anything that works takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long "nothing comes" is watched.
const SILENCE: Duration = Duration::from_millis(300);

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The broker to test with, or a word on what is left out.
pub(super) fn amqp_url(test: &str) -> Option<String> {
    static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);
    if let Ok(url) = std::env::var("FINHOOK_TEST_AMQP_URL") {
        return Some(url);
    }
    let required = std::env::var("FINHOOK_TEST_REQUIRED").is_ok_and(|value| value == "1");
    assert!(!required, "{test} needs a broker: FINHOOK_TEST_AMQP_URL is not set, and nothing may be left out");
    let count = LEFT_OUT.fetch_add(1, Ordering::SeqCst) + 1;
    // Not by `eprintln!`, which the test harness swallows.
    let _ = writeln!(std::io::stderr(), "left out ({count} so far): {test}: FINHOOK_TEST_AMQP_URL is not set");
    None
}

/// A delivery of one provider with any body.
pub(super) fn delivery_of(provider: &'static str, body: impl Into<Bytes>) -> SealedDelivery {
    SealedDelivery {
        id: Uuid::now_v7(),
        provider: ProviderName::new(provider),
        received_at: Timestamp::parse("2026-01-02T03:04:05.678901Z").unwrap(),
        traceparent: Some(TRACEPARENT.into()),
        message: Sealed::for_test(body.into()),
    }
}

pub(super) fn delivery(body: impl Into<Bytes>) -> SealedDelivery {
    delivery_of("unit", body)
}

/// Publishes bodies, all at once.
pub(super) async fn publish(queue: &Arc<dyn Queue>, bodies: impl IntoIterator<Item = String>) {
    let published = bodies.into_iter().map(|body| queue.publish(delivery(body)));
    for result in future::join_all(published).await {
        result.unwrap();
    }
}

/// Takes messages until there are `count`.
pub(super) async fn take(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<Received> {
    let mut taken: Vec<Received> = Vec::new();
    let taking = async {
        while taken.len() < count {
            taken.extend(consumer.next(count - taken.len(), Duration::ZERO).await.unwrap());
        }
    };
    timeout(PATIENCE, taking).await.expect("the messages come");
    taken
}

pub(super) async fn nothing_comes(consumer: &mut Box<dyn Consumer>) {
    let came = timeout(SILENCE, consumer.next(1, Duration::ZERO)).await;
    assert!(came.is_err(), "nothing should come, but: {:?}", came.unwrap().unwrap());
}

pub(super) fn bodies(messages: &[Received]) -> Vec<String> {
    let mut bodies: Vec<_> = messages.iter().map(body).collect();
    bodies.sort();
    bodies
}

fn body(message: &Received) -> String {
    String::from_utf8(message.body.to_vec()).unwrap()
}

pub(super) fn tokens(messages: Vec<Received>) -> Vec<Token> {
    messages.into_iter().map(|message| message.token).collect()
}

pub(super) fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:06}")).collect()
}

/// A backend under test: a place that queues can be opened on again and again.
#[async_trait]
pub(super) trait Place: Send + Sync + Sized + 'static {
    /// `None` where what it needs is missing.
    async fn new(test: &str) -> Option<Self>;
    async fn open(&self) -> Arc<dyn Queue>;
    async fn clean(&self);
}

pub(super) struct OnDisk(TempDir);

impl OnDisk {
    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("queue.db")
    }
}

#[async_trait]
impl Place for OnDisk {
    async fn new(_test: &str) -> Option<Self> {
        Some(Self(tempfile::tempdir().unwrap()))
    }

    async fn open(&self) -> Arc<dyn Queue> {
        let settings =
            EmbeddedSettings { path: self.path(), max_bytes: None, max_in_flight: 4_096, providers: Vec::new() };
        Embedded::open(settings).await.unwrap()
    }

    async fn clean(&self) {}
}

/// Names of its own at a real broker.
pub(super) struct AtBroker {
    pub(super) url: String,
    pub(super) prefix: String,
}

pub(super) const PROVIDERS: [&str; 2] = ["unit", "plaid"];

impl AtBroker {
    pub(super) fn settings(&self) -> RabbitMqSettings {
        RabbitMqSettings {
            url: SecretString::from(self.url.clone()),
            prefix: self.prefix.clone(),
            providers: PROVIDERS.to_vec(),
            confirm_timeout: Duration::from_secs(10),
            max_in_flight: 4_096,
            management: None,
        }
    }
}

#[async_trait]
impl Place for AtBroker {
    async fn new(test: &str) -> Option<Self> {
        let url = amqp_url(test)?;
        Some(Self { url, prefix: format!("finhook-test-{}", Uuid::new_v4().simple()) })
    }

    async fn open(&self) -> Arc<dyn Queue> {
        let queue = RabbitMq::connect(self.settings());
        queue.ready(PATIENCE).await.unwrap();
        queue
    }

    async fn clean(&self) {
        Topology::new(self.prefix.clone(), &PROVIDERS).delete(&self.url).await;
    }
}

/// Runs a test on a place and cleans up after it, also after a panic.
pub(super) async fn on<P: Place, F: Future<Output = ()> + Send + 'static>(test: &str, run: impl FnOnce(Arc<P>) -> F) {
    let Some(place) = P::new(test).await else { return };
    let place = Arc::new(place);
    let outcome = tokio::spawn(run(Arc::clone(&place))).await;
    place.clean().await;
    if let Err(panicked) = outcome {
        std::panic::resume_unwind(panicked.into_panic());
    }
}

async fn what_is_published_comes_out_with_the_same_bytes<P: Place>(place: Arc<P>) {
    let queue = place.open().await;
    let all_bytes: Bytes = (0..=u8::MAX).cycle().take(300_000).collect();
    queue.publish(delivery(all_bytes.clone())).await.unwrap();
    let mut consumer = queue.consume(100, 0).await.unwrap();
    let message = take(&mut consumer, 1).await.pop().unwrap();
    assert_eq!(message.body, all_bytes);
    assert_eq!(message.traceparent.as_deref(), Some(TRACEPARENT));
    assert!(message.queue.ends_with(".unit"), "{}", message.queue);
    assert_eq!(message.redeliveries, 0);
    queue.close().await;
}

async fn what_is_not_acked_comes_again_when_its_consumer_is_dropped<P: Place>(place: Arc<P>) {
    let queue = place.open().await;
    publish(&queue, numbered(10)).await;
    let mut first = queue.consume(100, 0).await.unwrap();
    assert_eq!(take(&mut first, 10).await.len(), 10);
    drop(first);
    let mut second = queue.consume(100, 0).await.unwrap();
    let again = take(&mut second, 10).await;
    assert_eq!(bodies(&again), numbered(10));
    assert!(again.iter().all(|message| message.redeliveries == 1));
    queue.close().await;
}

async fn what_is_not_acked_comes_again_after_reopening<P: Place>(place: Arc<P>) {
    let queue = place.open().await;
    publish(&queue, numbered(10)).await;
    let mut consumer = queue.consume(100, 0).await.unwrap();
    take(&mut consumer, 5).await;
    drop(consumer);
    queue.close().await;
    let queue = place.open().await;
    let mut consumer = queue.consume(100, 0).await.unwrap();
    assert_eq!(bodies(&take(&mut consumer, 10).await), numbered(10));
    queue.close().await;
}

async fn what_is_acked_never_comes_again<P: Place>(place: Arc<P>) {
    const COUNT: usize = 1_000;
    let queue = place.open().await;
    publish(&queue, numbered(COUNT)).await;
    let mut consumer = queue.consume(4_000, 0).await.unwrap();
    let messages = take(&mut consumer, COUNT).await;
    // Every other one, so that hardly any run is contiguous: the hardest case for what acks by ranges.
    let (even, odd): (Vec<_>, Vec<_>) =
        messages.into_iter().partition(|message| body(message).ends_with(['0', '2', '4']));
    let open = bodies(&odd);
    consumer.ack(tokens(even)).await.unwrap();
    consumer.close().await;
    queue.close().await;

    let queue = place.open().await;
    let mut consumer = queue.consume(4_000, 0).await.unwrap();
    let messages = take(&mut consumer, open.len()).await;
    assert_eq!(bodies(&messages), open);
    nothing_comes(&mut consumer).await;
    consumer.ack(tokens(messages)).await.unwrap();
    consumer.close().await;
    queue.close().await;

    let queue = place.open().await;
    let mut consumer = queue.consume(100, 0).await.unwrap();
    nothing_comes(&mut consumer).await;
    queue.close().await;
}

async fn two_thousand_publishers_are_all_confirmed_and_consumed_once<P: Place>(place: Arc<P>) {
    const COUNT: usize = 2_000;
    let queue = place.open().await;
    let consuming = {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move {
            let mut consumer = queue.consume(500, 0).await.unwrap();
            let mut seen = Vec::new();
            while seen.len() < COUNT {
                let messages = consumer.next(100, Duration::from_millis(5)).await.unwrap();
                seen.extend(messages.iter().map(body));
                consumer.ack(tokens(messages)).await.unwrap();
            }
            nothing_comes(&mut consumer).await;
            consumer.close().await;
            seen
        })
    };
    let publishers: Vec<_> = numbered(COUNT)
        .into_iter()
        .map(|body| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move { queue.publish(delivery(body)).await })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap().unwrap();
    }
    let mut seen = timeout(PATIENCE, consuming).await.unwrap().unwrap();
    seen.sort();
    assert_eq!(seen, numbered(COUNT));
    queue.close().await;
}

async fn next_gives_no_more_than_asked_and_keeps_the_rest<P: Place>(place: Arc<P>) {
    let queue = place.open().await;
    publish(&queue, numbered(10)).await;
    let mut consumer = queue.consume(100, 0).await.unwrap();
    let mut all = Vec::new();
    while all.len() < 10 {
        let messages = timeout(PATIENCE, consumer.next(3, Duration::from_millis(50))).await.unwrap().unwrap();
        assert!((1..=3).contains(&messages.len()), "{}", messages.len());
        all.extend(messages);
    }
    assert_eq!(bodies(&all), numbered(10));
    queue.close().await;
}

async fn a_next_that_is_given_up_loses_nothing<P: Place>(place: Arc<P>) {
    let queue = place.open().await;
    let mut consumer = queue.consume(100, 0).await.unwrap();
    publish(&queue, numbered(3)).await;
    // Has what there is and waits for more, until it is given up.
    let given_up = timeout(SILENCE, consumer.next(10, PATIENCE)).await;
    assert!(given_up.is_err());
    assert_eq!(bodies(&take(&mut consumer, 3).await), numbered(3));
    queue.close().await;
}

async fn no_more_than_the_prefetch_is_held<P: Place>(place: Arc<P>) {
    const PREFETCH: u16 = 20;
    let queue = place.open().await;
    publish(&queue, numbered(100)).await;
    let mut consumer = queue.consume(PREFETCH, 0).await.unwrap();
    let mut held = Vec::new();
    while let Ok(messages) = timeout(SILENCE, consumer.next(100, Duration::from_millis(20))).await {
        held.extend(messages.unwrap());
    }
    assert!((5..=usize::from(PREFETCH)).contains(&held.len()), "{}", held.len());
    let mut seen = bodies(&held);
    consumer.ack(tokens(held)).await.unwrap();
    while seen.len() < 100 {
        let messages = take(&mut consumer, 1).await;
        seen.extend(bodies(&messages));
        consumer.ack(tokens(messages)).await.unwrap();
    }
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 100);
    consumer.close().await;
    queue.close().await;
}

async fn large_messages_are_held_by_their_bytes_and_not_by_their_count<P: Place>(place: Arc<P>) {
    const SIZE: usize = 1 << 20;
    let queue = place.open().await;
    let body = |number: u8| Bytes::from(vec![number; SIZE]);
    for number in 0..60 {
        queue.publish(delivery(body(number))).await.unwrap();
    }
    let mut consumer = queue.consume(1_024, 0).await.unwrap();
    let mut held = Vec::new();
    let mut seen = HashSet::new();
    while seen.len() < 60 {
        match timeout(SILENCE, consumer.next(512, Duration::from_millis(20))).await {
            Ok(messages) => held.extend(messages.unwrap()),
            Err(_) => {
                seen.extend(held.iter().map(|message: &Received| message.body[0]));
                assert!((1..=17).contains(&held.len()), "{} MiB are held", held.len());
                consumer.ack(tokens(std::mem::take(&mut held))).await.unwrap();
            }
        }
    }
    consumer.close().await;
    queue.close().await;
}

async fn two_consumers_share_the_work_without_overlap<P: Place>(place: Arc<P>) {
    let queue = place.open().await;
    let mut one = queue.consume(20, 0).await.unwrap();
    let mut two = queue.consume(20, 0).await.unwrap();
    let publishing = {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move { publish(&queue, numbered(200)).await })
    };
    let mut seen = Vec::new();
    let both = async {
        while seen.len() < 200 {
            let (consumer, messages) = tokio::select! {
                messages = one.next(10, Duration::ZERO) => (&mut one, messages.unwrap()),
                messages = two.next(10, Duration::ZERO) => (&mut two, messages.unwrap()),
            };
            seen.extend(messages.iter().map(body));
            consumer.ack(tokens(messages)).await.unwrap();
        }
    };
    timeout(PATIENCE, both).await.unwrap();
    publishing.await.unwrap();
    seen.sort();
    assert_eq!(seen, numbered(200));
    one.close().await;
    two.close().await;
    queue.close().await;
}

async fn depths_tell_what_waits<P: Place>(place: Arc<P>) {
    let queue = place.open().await;
    publish(&queue, numbered(7)).await;
    queue.publish(delivery_of("plaid", "one")).await.unwrap();
    let ready = |depths: Vec<super::Depth>, name: &str| {
        depths.into_iter().find(|depth| depth.queue.ends_with(name)).map(|depth| (depth.ready, depth.unacked))
    };
    let (waiting, _) = ready(queue.depths().await.unwrap(), ".unit").unwrap();
    assert_eq!(waiting, 7);
    let (waiting, _) = ready(queue.depths().await.unwrap(), ".plaid").unwrap();
    assert_eq!(waiting, 1);
    let mut consumer = queue.consume(100, 0).await.unwrap();
    take(&mut consumer, 8).await;
    let (waiting, held) = ready(queue.depths().await.unwrap(), ".unit").unwrap();
    assert_eq!(waiting, 0);
    assert!(held.is_none_or(|held| held == 7), "{held:?}");
    queue.close().await;
}

async fn closing_ends_a_consumer_that_waits<P: Place>(place: Arc<P>) {
    let queue = place.open().await;
    let mut consumer = queue.consume(100, 0).await.unwrap();
    let waiting = tokio::spawn(async move { consumer.next(1, Duration::ZERO).await });
    queue.close().await;
    let messages = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert!(messages.is_empty());
    assert!(queue.accepts().is_err());
    assert!(queue.publish(delivery("late")).await.is_err());
    assert!(queue.consume(1, 0).await.is_err());
}

macro_rules! for_both {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::on::<super::OnDisk, _>(stringify!($test), super::$test).await;
                }
            )+
        }

        mod rabbitmq {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::on::<super::AtBroker, _>(stringify!($test), super::$test).await;
                }
            )+
        }
    };
}

for_both!(
    what_is_published_comes_out_with_the_same_bytes,
    what_is_not_acked_comes_again_when_its_consumer_is_dropped,
    what_is_not_acked_comes_again_after_reopening,
    what_is_acked_never_comes_again,
    two_thousand_publishers_are_all_confirmed_and_consumed_once,
    next_gives_no_more_than_asked_and_keeps_the_rest,
    a_next_that_is_given_up_loses_nothing,
    no_more_than_the_prefetch_is_held,
    large_messages_are_held_by_their_bytes_and_not_by_their_count,
    two_consumers_share_the_work_without_overlap,
    depths_tell_what_waits,
    closing_ends_a_consumer_that_waits,
);
