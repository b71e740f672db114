//! What only a broker can do to us, and what becomes of it: cut, silent and blocked connections, returns, refusals.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::{
    BasicGetOptions, BasicNackOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Connection, ExchangeKind};
use secrecy::SecretString;
use tokio::time::timeout;
use uuid::Uuid;

use super::gate::Gate;
use super::link::tend;
use super::node::Node;
use super::proxy::{Mode, Proxy};
use super::publisher::publish_window;
use super::{RabbitMq, RabbitMqSettings, connect_once};
use crate::queue::contract::{
    AtBroker, PATIENCE, Place, bodies, delivery, delivery_of, nothing_comes, numbered, on, publish, take, tokens,
};
use crate::queue::{PublishError, Queue, QueueError};

/// As [`on`], with the test's name.
macro_rules! at_broker {
    ($($(#[$doc:meta])* async fn $test:ident($place:ident) $body:block)+) => {
        $(
            $(#[$doc])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                on::<AtBroker, _>(stringify!($test), |$place| async move { $body }).await;
            }
        )+
    };
}

async fn raw(place: &AtBroker) -> Connection {
    connect_once(&SecretString::from(place.url.clone())).await.unwrap()
}

async fn through(proxy: &Proxy, place: &AtBroker, confirm_timeout: Duration, max_in_flight: usize) -> Arc<RabbitMq> {
    let mut settings = place.settings();
    settings.url = SecretString::from(proxy.url());
    settings.confirm_timeout = confirm_timeout;
    settings.max_in_flight = max_in_flight;
    RabbitMq::connect(settings)
}

/// Publishes until it works.
async fn published(queue: &RabbitMq, body: &str) {
    let publishing = async {
        while queue.publish(delivery(body.to_owned())).await.is_err() {
            let _ = queue.ready(PATIENCE).await;
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, publishing).await.expect("publishing works again by itself");
}

/// Waits until `accepts` answers so.
async fn accepts(queue: &RabbitMq, answer: Result<(), PublishError>) {
    let asking = async {
        while queue.accepts() != answer {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asking).await.expect("the answer changes");
}

at_broker! {
    async fn a_message_that_no_queue_is_bound_for_is_consumed_all_the_same(place) {
        let queue = place.open().await;
        queue.publish(delivery_of("nobody", "astray")).await.unwrap();
        let mut consumer = queue.consume(100, 0).await.unwrap();
        let message = take(&mut consumer, 1).await.pop().unwrap();
        assert!(message.queue.ends_with(".unrouted"), "{}", message.queue);
        assert_eq!(&message.body[..], b"astray");
        queue.close().await;
    }

    async fn a_message_that_the_broker_gives_up_is_consumed_all_the_same(place) {
        let queue = place.open().await;
        queue.publish(delivery("given up")).await.unwrap();
        let connection = raw(&place).await;
        let channel = connection.create_channel().await.unwrap();
        let name = format!("{}.unit", place.prefix);
        let got = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
        channel.basic_nack(got.delivery_tag, BasicNackOptions { requeue: false, multiple: false }).await.unwrap();
        let mut consumer = queue.consume(100, 0).await.unwrap();
        let message = take(&mut consumer, 1).await.pop().unwrap();
        assert!(message.queue.ends_with(".dead"), "{}", message.queue);
        assert_eq!(&message.body[..], b"given up");
        queue.close().await;
    }

    async fn a_consumer_is_given_what_those_of_lower_ranks_have_no_room_for(place) {
        let queue = place.open().await;
        let mut second = queue.consume(4, 1).await.unwrap();
        let mut first = queue.consume(4, 0).await.unwrap();
        publish(&queue, numbered(3)).await;
        assert_eq!(take(&mut first, 3).await.len(), 3);
        nothing_comes(&mut second).await;
        publish(&queue, numbered(2)).await;
        assert_eq!((take(&mut first, 1).await.len(), take(&mut second, 1).await.len()), (1, 1));
        queue.close().await;
    }

    async fn little_waits_behind_a_consumer_of_low_rank_that_is_busy_however_much_it_may_hold(place) {
        let queue = place.open().await;
        let mut busy = queue.consume(32, 0).await.unwrap();
        publish(&queue, numbered(32)).await;
        let all = take(&mut busy, 32).await;
        busy.ack(tokens(all)).await.unwrap();
        let mut second = queue.consume(32, 1).await.unwrap();
        publish(&queue, numbered(16)).await;
        assert_eq!(take(&mut second, 8).await.len(), 8);
        queue.close().await;
    }

    async fn returned_messages_are_matched_by_their_ids(place) {
        let connection = raw(&place).await;
        let channel = connection.create_channel().await.unwrap();
        let exchange = format!("{}-{}", place.prefix, Uuid::new_v4().simple());
        // Gone with its last binding; without an alternate exchange, so that what is unroutable comes back.
        let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
        channel
            .exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, options, FieldTable::default())
            .await
            .unwrap();
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let bound = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        channel
            .queue_bind(
                bound.name().clone(),
                exchange.as_str().into(),
                "unit".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let deliveries: Vec<_> =
            (0..300).map(|number| delivery_of(if number % 3 == 0 { "nobody" } else { "unit" }, "x")).collect();
        let deliveries: Vec<_> = deliveries.iter().collect();
        let verdicts =
            publish_window(&channel, &Gate::default(), &exchange.as_str().into(), &deliveries).await.unwrap();
        for (number, verdict) in verdicts.iter().enumerate() {
            let expected = if number % 3 == 0 { Err(PublishError::Refused) } else { Ok(()) };
            assert_eq!(*verdict, expected, "message {number}");
        }
        connection.close(200, "done".into()).await.unwrap();
        place.open().await.close().await;
    }

    async fn what_was_cut_works_again_by_itself(place) {
        let proxy = Proxy::before(&place.url, Mode::Cut).await;
        let queue = through(&proxy, &place, PATIENCE, 100).await;
        assert_eq!(queue.accepts(), Err(PublishError::Disconnected));
        assert_eq!(queue.publish(delivery("too early")).await, Err(PublishError::Disconnected));

        proxy.set(Mode::Through);
        published(&queue, "before").await;
        let mut consumer = queue.consume(100, 0).await.unwrap();
        assert_eq!(bodies(&take(&mut consumer, 1).await), ["before"]);

        proxy.set(Mode::Cut);
        let gone = timeout(PATIENCE, consumer.next(1, Duration::ZERO)).await.unwrap();
        assert!(matches!(gone, Err(QueueError::Gone)), "{gone:?}");
        accepts(&queue, Err(PublishError::Disconnected)).await;
        assert_eq!(queue.publish(delivery("meanwhile")).await, Err(PublishError::Disconnected));

        proxy.set(Mode::Through);
        published(&queue, "after").await;
        let mut consumer = timeout(PATIENCE, queue.consume(100, 0)).await.unwrap().unwrap();
        let messages = take(&mut consumer, 2).await;
        assert_eq!(bodies(&messages), ["after", "before"]);
        consumer.ack(tokens(messages)).await.unwrap();
        consumer.close().await;
        queue.close().await;
    }

    async fn a_broker_that_shuts_down_is_waited_for(place) {
        let proxy = Proxy::before(&place.url, Mode::Through).await;
        let queue = through(&proxy, &place, PATIENCE, 100).await;
        published(&queue, "before").await;
        let mut consumer = queue.consume(100, 0).await.unwrap();
        assert_eq!(bodies(&take(&mut consumer, 1).await), ["before"]);
        proxy.say_goodbye();
        let gone = timeout(PATIENCE, consumer.next(1, Duration::ZERO)).await.unwrap();
        assert!(matches!(gone, Err(QueueError::Gone)), "{gone:?}");
        drop(consumer);
        let mut consumer = timeout(PATIENCE, queue.consume(100, 0)).await.unwrap().unwrap();
        published(&queue, "after").await;
        assert_eq!(bodies(&take(&mut consumer, 2).await), ["after", "before"]);
        queue.close().await;
    }

    async fn a_broker_that_falls_silent_is_noticed(place) {
        let proxy = Proxy::before(&place.url, Mode::Through).await;
        let mut settings = place.settings();
        let vhost = if proxy.url().matches('/').count() > 2 { "" } else { "/" };
        settings.url = SecretString::from(format!("{}{vhost}?heartbeat=1", proxy.url()));
        let queue = RabbitMq::connect(settings);
        let mut consumer = queue.consume(100, 0).await.unwrap();
        proxy.set(Mode::Stalled);
        let gone = timeout(PATIENCE, consumer.next(1, Duration::ZERO)).await.unwrap();
        assert!(matches!(gone, Err(QueueError::Gone)), "{gone:?}");
        proxy.set(Mode::Through);
        published(&queue, "after").await;
        let mut consumer = timeout(PATIENCE, queue.consume(100, 0)).await.unwrap().unwrap();
        assert_eq!(bodies(&take(&mut consumer, 1).await), ["after"]);
        queue.close().await;
    }

    async fn a_cut_in_the_middle_answers_everybody(place) {
        let proxy = Proxy::before(&place.url, Mode::Through).await;
        let queue = through(&proxy, &place, PATIENCE, 4_000).await;
        queue.ready(PATIENCE).await.unwrap();
        let publishers: Vec<_> = (0..2_000)
            .map(|number| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move { (number, queue.publish(delivery(number.to_string())).await) })
            })
            .collect();
        queue.publish(delivery("first")).await.unwrap();
        proxy.set(Mode::Cut);
        let mut confirmed = std::collections::HashSet::from(["first".to_owned()]);
        for publisher in publishers {
            let (number, verdict) = timeout(PATIENCE / 2, publisher).await.expect("nobody waits").unwrap();
            if verdict.is_ok() {
                confirmed.insert(number.to_string());
            }
        }
        proxy.set(Mode::Through);
        let mut consumer = queue.consume(1_000, 0).await.unwrap();
        while !confirmed.is_empty() {
            let messages = timeout(PATIENCE, consumer.next(1_000, Duration::ZERO)).await.unwrap().unwrap();
            for body in bodies(&messages) {
                confirmed.remove(&body);
            }
            consumer.ack(tokens(messages)).await.unwrap();
        }
        consumer.close().await;
        queue.close().await;
    }

    async fn a_broker_that_does_not_confirm_is_given_up_in_time(place) {
        let proxy = Proxy::before(&place.url, Mode::Through).await;
        let queue = through(&proxy, &place, Duration::from_millis(300), 100).await;
        queue.ready(PATIENCE).await.unwrap();
        proxy.set(Mode::Stalled);
        assert_eq!(queue.publish(delivery("unheard")).await, Err(PublishError::Timeout));
        proxy.set(Mode::Through);
        published(&queue, "heard").await;
        queue.close().await;
    }

    async fn no_more_is_in_flight_than_allowed(place) {
        let proxy = Proxy::before(&place.url, Mode::Through).await;
        let queue = through(&proxy, &place, Duration::from_secs(2), 2).await;
        queue.ready(PATIENCE).await.unwrap();
        proxy.set(Mode::Stalled);
        let waiting: Vec<_> = numbered(2)
            .into_iter()
            .map(|body| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move { queue.publish(delivery(body)).await })
            })
            .collect();
        accepts(&queue, Err(PublishError::Full)).await;
        assert_eq!(queue.publish(delivery("one too many")).await, Err(PublishError::Full));
        proxy.set(Mode::Through);
        for publisher in waiting {
            publisher.await.unwrap().unwrap();
        }
        assert_eq!(queue.accepts(), Ok(()));
        queue.close().await;
    }

    async fn a_blocked_broker_is_not_waited_for(place) {
        let proxy = Proxy::before(&place.url, Mode::Through).await;
        let queue = through(&proxy, &place, PATIENCE, 100).await;
        queue.ready(PATIENCE).await.unwrap();
        published(&queue, "before").await;
        proxy.say_blocked();
        accepts(&queue, Err(PublishError::Blocked)).await;
        assert_eq!(queue.publish(delivery("meanwhile")).await, Err(PublishError::Blocked));
        proxy.say_unblocked();
        accepts(&queue, Ok(())).await;
        queue.publish(delivery("after")).await.unwrap();
        queue.close().await;
    }

    async fn a_queue_that_takes_no_more_refuses(place) {
        let queue = place.open().await;
        let connection = raw(&place).await;
        let channel = connection.create_channel().await.unwrap();
        // Beside our own queue, gone with its connection: one refusal of several queues is a refusal.
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let full = channel.queue_declare("".into(), options, arguments).await.unwrap();
        let (exchange, key) = (place.prefix.as_str().into(), "unit".into());
        let bound = QueueBindOptions::default();
        channel.queue_bind(full.name().clone(), exchange, key, bound, FieldTable::default()).await.unwrap();
        queue.publish(delivery("fits")).await.unwrap();
        assert_eq!(queue.publish(delivery("too many")).await, Err(PublishError::Refused));
        queue.publish(delivery_of("plaid", "elsewhere")).await.unwrap();
        channel.queue_purge(full.name().clone(), Default::default()).await.unwrap();
        queue.publish(delivery("fits again")).await.unwrap();
        queue.close().await;
    }

    async fn a_queue_with_other_arguments_stops_us_with_a_sentence(place) {
        let connection = raw(&place).await;
        let channel = connection.create_channel().await.unwrap();
        let name = format!("{}.unit", place.prefix);
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.unwrap();
        let queue = RabbitMq::connect(place.settings());
        let Err(QueueError::Fatal(sentence)) = queue.ready(PATIENCE).await else { panic!("it goes on") };
        assert!(sentence.contains(&name) && sentence.contains("406"), "{sentence}");
        assert_eq!(timeout(PATIENCE, queue.stopped()).await.unwrap(), sentence);
        assert_eq!(queue.publish(delivery("x")).await, Err(PublishError::Disconnected));
        assert!(matches!(queue.consume(1, 0).await, Err(QueueError::Fatal(_))));
        let told = RabbitMq::apply_topology(&place.settings()).await;
        assert!(matches!(told, Err(QueueError::Fatal(again)) if again == sentence));
        queue.close().await;
    }

    async fn a_refused_user_stops_us_with_a_sentence_that_keeps_the_password(place) {
        let mut settings = place.settings();
        let uri: AMQPUri = place.url.parse().unwrap();
        let password = format!(":{}@", uri.authority.userinfo.password);
        settings.url = SecretString::from(place.url.replacen(&password, ":hunter2@", 1));
        let queue = RabbitMq::connect(settings);
        let Err(QueueError::Fatal(sentence)) = queue.ready(PATIENCE).await else { panic!("it goes on") };
        assert!(sentence.contains("403") && sentence.contains("AMQP_URL") && !sentence.contains("hunter2"), "{sentence}");
    }

    async fn a_queue_that_was_deleted_comes_back_with_its_consumer(place) {
        let queue = place.open().await;
        let mut consumer = queue.consume(100, 0).await.unwrap();
        let connection = raw(&place).await;
        let channel = connection.create_channel().await.unwrap();
        let name = format!("{}.unit", place.prefix);
        channel.queue_delete(name.as_str().into(), Default::default()).await.unwrap();
        let gone = timeout(PATIENCE, consumer.next(1, Duration::ZERO)).await.unwrap();
        assert!(matches!(gone, Err(QueueError::Gone)), "{gone:?}");
        let mut consumer = queue.consume(100, 0).await.unwrap();
        queue.publish(delivery("again")).await.unwrap();
        let message = take(&mut consumer, 1).await.pop().unwrap();
        assert!(message.queue.ends_with(".unit"), "{}", message.queue);
        queue.close().await;
    }

    async fn an_exchange_that_was_deleted_is_declared_again(place) {
        let queue = place.open().await;
        let connection = raw(&place).await;
        let channel = connection.create_channel().await.unwrap();
        channel.exchange_delete(place.prefix.as_str().into(), Default::default()).await.unwrap();
        assert_eq!(queue.publish(delivery("nowhere")).await, Err(PublishError::Disconnected));
        let publishing = async {
            while queue.publish(delivery("somewhere")).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, publishing).await.unwrap();
        let mut consumer = queue.consume(100, 0).await.unwrap();
        assert_eq!(bodies(&take(&mut consumer, 1).await), ["somewhere"]);
        nothing_comes(&mut consumer).await;
        queue.close().await;
    }

    async fn the_topology_is_applied_and_shown(place) {
        let settings = place.settings();
        let before = RabbitMq::show_topology(&settings).await.unwrap();
        assert!(before.iter().all(|it| !it.present), "{before:?}");
        RabbitMq::apply_topology(&settings).await.unwrap();
        RabbitMq::apply_topology(&settings).await.unwrap();
        let after = RabbitMq::show_topology(&settings).await.unwrap();
        assert_eq!(after.len(), 7);
        assert!(after.iter().all(|it| it.present), "{after:?}");
    }
}

fn at_node(node: &Node) -> RabbitMqSettings {
    let prefix = "finhook".to_owned();
    AtBroker { url: node.url(), prefix }.settings()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_alarm_refuses_at_once_and_lets_acks_through() {
    let Some(node) = Node::start("a_memory_alarm").await else { return };
    let queue = RabbitMq::connect(at_node(&node));
    queue.ready(PATIENCE).await.unwrap();
    for body in numbered(20) {
        queue.publish(delivery(body)).await.unwrap();
    }
    let mut consumer = queue.consume(100, 0).await.unwrap();
    let held = take(&mut consumer, 20).await;

    node.memory_alarm(true).await;
    // The broker stops reading and says so once somebody publishes: that one is told, and nobody after it is let in.
    let since = Instant::now();
    assert_eq!(queue.publish(delivery("behind the alarm")).await, Err(PublishError::Blocked));
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(queue.accepts(), Err(PublishError::Blocked));
    let since = Instant::now();
    assert_eq!(queue.publish(delivery("meanwhile")).await, Err(PublishError::Blocked));
    assert!(since.elapsed() < Duration::from_millis(100), "{:?}", since.elapsed());

    consumer.ack(tokens(held)).await.unwrap();
    consumer.close().await;
    let mut consumer = queue.consume(100, 0).await.unwrap();
    nothing_comes(&mut consumer).await;
    assert!(queue.depths().await.is_ok(), "the consuming connection is not blocked");

    node.memory_alarm(false).await;
    accepts(&queue, Ok(())).await;
    published(&queue, "after").await;
    consumer.close().await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_works_again_soon_after_its_return() {
    let Some(mut node) = Node::start("a_broker_that_is_killed").await else { return };
    let queue = RabbitMq::connect(at_node(&node));
    queue.ready(PATIENCE).await.unwrap();
    published(&queue, "before").await;
    for _ in 0..2 {
        let mut consumer = queue.consume(100, 0).await.unwrap();
        node.kill().await;
        let gone = timeout(PATIENCE, consumer.next(100, Duration::ZERO)).await.unwrap();
        // What came before the end may be given first.
        let gone =
            if gone.is_ok() { timeout(PATIENCE, consumer.next(100, Duration::ZERO)).await.unwrap() } else { gone };
        assert!(matches!(gone, Err(QueueError::Gone)), "{gone:?}");
        accepts(&queue, Err(PublishError::Disconnected)).await;
        node.restart().await;
        let since = Instant::now();
        published(&queue, "after").await;
        let mut consumer = timeout(PATIENCE, queue.consume(100, 0)).await.unwrap().unwrap();
        assert!(!take(&mut consumer, 1).await.is_empty());
        let took = since.elapsed();
        println!("publishing and consuming again {took:?} after the broker's return");
        drop(consumer);
    }
    queue.close().await;
}

#[tokio::test]
async fn a_task_that_panics_is_started_again() {
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let task = || async {
        assert!(tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0, "the first try panics");
    };
    timeout(PATIENCE, tend("a test", task)).await.unwrap();
    assert_eq!(tries.into_inner(), 2);
}
