//! The management API, as it says things and as it does not; and the real plugin on a node of its own.

use std::sync::Arc;

use serde_json::json;
use wiremock::matchers::{basic_auth, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::super::RabbitMq;
use super::super::node::Node;
use super::*;
use crate::queue::Queue;
use crate::queue::contract::{AtBroker, PATIENCE, delivery, numbered, take, tokens};

fn of(management: &str, broker: &str) -> Result<Management, String> {
    Management::new(&SecretString::from(management), &SecretString::from(broker), "fin.hook")
}

fn depth() -> Depth {
    Depth { queue: "fin.hook.unit".into(), ready: 4, consumers: Some(1), ..Depth::default() }
}

/// An API that counts rates, in the way of `mode`, and says this of the queues.
async fn api(mode: &str, items: Value) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(path("/base/api/overview"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "rates_mode": mode })))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/base/api/queues/%2Fv"))
        .and(basic_auth("u", "p@ss"))
        .and(query_param("name", r"^fin\.hook\."))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "items": items })))
        .mount(&server)
        .await;
    server
}

async fn completed(management: &Management) -> Depth {
    let mut depths = [depth()];
    Management::complete(&mut depths, management.known().await);
    let [depth] = depths;
    depth
}

#[tokio::test]
async fn unacked_and_rates_are_added_to_what_the_broker_says() {
    let items = json!([{ "name": "fin.hook.unit", "messages_unacknowledged": 3,
        "message_stats": { "publish_details": { "rate": 2.5 }, "ack_details": { "rate": 1.0 } } }]);
    let server = api("basic", items).await;
    for (management, broker) in [
        (format!("{}/base/", server.uri()), "amqp://u:p%40ss@localhost/%2Fv"),
        (format!("{}/base", server.uri().replace("http://", "http://u:p%40ss@")), "amqp://x:y@localhost/%2Fv"),
    ] {
        let seen = completed(&of(&management, broker).unwrap()).await;
        let expected = (4, Some(3), Some(1), Some(2.5), Some(1.0));
        assert_eq!((seen.ready, seen.unacked, seen.consumers, seen.in_per_second, seen.out_per_second), expected);
    }
}

#[tokio::test]
async fn a_queue_in_which_nothing_happened_has_rates_of_0_and_a_broker_that_counts_none_has_no_rates() {
    let items = json!([{ "name": "fin.hook.unit", "messages_unacknowledged": 0 }]);
    for (mode, rate) in [("basic", Some(0.0)), ("none", None)] {
        let server = api(mode, items.clone()).await;
        let management = of(&format!("{}/base", server.uri()), "amqp://u:p%40ss@localhost/%2Fv").unwrap();
        let seen = completed(&management).await;
        assert_eq!((seen.unacked, seen.in_per_second, seen.out_per_second), (Some(0), rate, rate));
    }
}

#[tokio::test]
async fn without_an_answer_the_depths_stay_as_the_broker_says_and_nothing_secret_is_said() {
    let server = api("basic", json!([])).await;
    for url in [format!("{}/base", server.uri()), "http://u:hunter2@127.0.0.1:1".to_owned()] {
        let management = of(&url, "amqp://u:hunter2@localhost/%2Fv").unwrap();
        assert_eq!(completed(&management).await, depth());
        let why = management.figures().await.err().unwrap();
        assert!(why.starts_with("the management API") && !why.contains("hunter2"), "{why}");
    }
}

#[test]
fn what_is_no_address_is_refused_with_a_sentence_that_quotes_nothing() {
    for url in ["hunter2", "amqp://hunter2", "mailto:hunter2@x"] {
        let why = of(url, "amqp://localhost").err().unwrap();
        assert!(why.contains("takes http://") && !why.contains("hunter2"), "{why}");
    }
}

#[test]
fn what_loses_messages_is_objected_to() {
    let declared = BTreeMap::from([
        ("x-queue-type", Argument::Text("quorum".into())),
        ("x-delivery-limit", Argument::Number(1_000)),
    ]);
    let standing = |definition, arguments| QueueStanding {
        name: "finhook.unit".into(),
        policy: Some("tidy".into()),
        effective_policy_definition: definition,
        arguments,
    };
    let good = json!({ "x-queue-type": "quorum", "x-delivery-limit": 1_000 });
    assert!(objections(&standing(json!([]), good.clone()), &declared).is_empty());
    assert!(objections(&standing(json!({ "max-length": 5 }), good.clone()), &declared).is_empty());
    let said = objections(&standing(json!({ "message-ttl": 5 }), good), &declared);
    assert!(said[0].starts_with("finhook.unit: tidy sets message-ttl"), "{said:?}");
    let classic = json!({ "x-queue-type": "classic", "x-delivery-limit": 1_000 });
    let said = objections(&standing(json!({}), classic), &declared);
    assert!(said.len() == 1 && said[0].contains("another x-queue-type"), "{said:?}");
}

/// A broker with the real plugin, and a queue there that asks it.
async fn managed(node: &Node, url: &str) -> Arc<RabbitMq> {
    let mut settings = AtBroker { url: node.url(), prefix: "finhook".to_owned() }.settings();
    let management = Management::new(&SecretString::from(url), &settings.url, &settings.prefix).unwrap();
    settings.management = Some(Arc::new(management));
    let queue = RabbitMq::connect(settings);
    queue.ready(PATIENCE).await.unwrap();
    queue
}

async fn unit(queue: &RabbitMq) -> Depth {
    queue.depths().await.unwrap().into_iter().find(|depth| depth.queue == "finhook.unit").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_broker_says_what_is_held_and_how_fast_it_moves() {
    let Some(node) = Node::with_management("a_real_broker_says").await else { return };
    let queue = managed(&node, &node.management_url()).await;
    for body in numbered(20) {
        queue.publish(delivery(body)).await.unwrap();
    }
    let mut consumer = queue.consume(10, 0).await.unwrap();
    let mut held = take(&mut consumer, 10).await;
    // The API is asked until its figures have come: they are some seconds old.
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    let all_is_told = async {
        loop {
            looks.tick().await;
            let seen = unit(&queue).await;
            if (seen.ready, seen.unacked) == (10, Some(10)) && node.messages("finhook.unit").await == 20 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, all_is_told).await.expect("ten wait and ten are held");
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    let moving = async {
        loop {
            looks.tick().await;
            queue.publish(delivery("one more")).await.unwrap();
            consumer.ack(tokens(std::mem::take(&mut held))).await.unwrap();
            held = take(&mut consumer, 1).await;
            let seen = unit(&queue).await;
            if seen.in_per_second > Some(0.0) && seen.out_per_second > Some(0.0) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, moving).await.expect("rates are told");

    let inspected = RabbitMq::inspect(&queue.settings).await.unwrap().unwrap();
    assert!(inspected.version.contains('.') && inspected.date.is_some(), "{inspected:?}");
    assert!(inspected.objections.is_empty(), "{inspected:?}");
    node.control(&["set_policy", "--apply-to", "queues", "tidy", "^finhook", r#"{"message-ttl":60000}"#]).await;
    let objections = async {
        loop {
            let inspected = RabbitMq::inspect(&queue.settings).await.unwrap().unwrap();
            if inspected.objections.iter().any(|said| said.contains("tidy sets message-ttl")) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, objections).await.expect("the policy is objected to");
    drop(consumer);
    queue.close().await;
}
