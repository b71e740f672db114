//! What a slow, silent or numerous sender can take, and what it cannot.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::stream;

use super::*;

fn short() -> ServerLimits {
    ServerLimits {
        head_time: Duration::from_millis(60),
        idle_time: Duration::from_millis(60),
        ..ServerLimits::default()
    }
}

#[tokio::test]
async fn a_slow_body_is_408_and_ends_the_connection() {
    let limits = WebhookLimits { body_time: Duration::from_millis(30), ..tight() };
    let server = TestServer::limited(FakeQueue::confirming(), limits, ServerLimits::default()).await;
    let mut client = server.connect().await;
    client.send("POST /webhooks/unit HTTP/1.1\r\nhost: x\r\nx-proof: good\r\ncontent-length: 10\r\n\r\n{").await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_slow_head_is_closed_and_so_is_a_silent_connection() {
    let server = TestServer::limited(FakeQueue::confirming(), WebhookLimits::default(), short()).await;
    for beginning in ["", "P", "PRI * HT", "POST /webhooks/unit HTTP/1.1\r\nhost:"] {
        let mut client = server.connect().await;
        client.send(beginning).await;
        assert!(client.is_closed().await, "{beginning}");
    }
    let mut client = server.connect().await;
    client.send(post("/webhooks/unit", "good", "{}")).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert!(client.is_closed().await, "idle after an answer");
}

#[tokio::test]
async fn a_head_that_begins_after_an_answer_has_no_more_time_than_the_first() {
    let limits = ServerLimits { idle_time: TOO_LONG, ..short() };
    let server = TestServer::limited(FakeQueue::confirming(), WebhookLimits::default(), limits).await;
    let mut client = server.connect().await;
    client.send(post("/webhooks/unit", "good", "{}")).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    client.send("POST /webh").await;
    assert!(timeout(Duration::from_secs(2), client.is_closed()).await.unwrap());
}

#[tokio::test]
async fn a_request_that_is_served_may_take_longer_than_silence_may() {
    let server = TestServer::limited(FakeQueue::holding(), WebhookLimits::default(), short()).await;
    let mut client = server.connect().await;
    client.send(post("/webhooks/unit", "good", "{}")).await;
    server.handed_over(1).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    server.queue.confirm(1);
    assert_eq!(client.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn an_answer_that_goes_on_keeps_its_connection_for_longer_than_silence_may() {
    let pieces = || {
        stream::unfold(0, |told| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            (told < 10).then_some((Ok::<_, Infallible>("."), told + 1))
        })
    };
    let router = Router::new().route("/", get(move || async move { Body::from_stream(pieces()) }));
    let listener = server::bind("FINHOOK_OPS_BIND", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { server::serve(listener, router, short(), &Shutdown::new(TOO_LONG)).await });
    let answer = reqwest::get(format!("http://{address}/")).await.unwrap().text().await;
    assert_eq!(answer.unwrap(), "..........");
    serving.abort();
}

#[tokio::test]
async fn a_connection_over_the_limit_is_told_503_and_closed() {
    let limits = ServerLimits { connections: 2, ..ServerLimits::default() };
    let server = TestServer::limited(FakeQueue::confirming(), WebhookLimits::default(), limits).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for client in [&mut first, &mut second] {
        client.send(post("/webhooks/unit", "good", "{}")).await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    let answer = server.ask(&post("/webhooks/unit", "good", "{}")).await;
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
    drop(first);
    let again = async {
        while server.ask(&post("/webhooks/unit", "good", "{}")).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(TOO_LONG, again).await.expect("the place of a closed connection is free again");
}

#[tokio::test]
async fn deliveries_over_the_limit_are_503_at_once_while_the_others_wait_for_their_confirm() {
    let server = TestServer::limited(FakeQueue::holding(), tight(), ServerLimits::default()).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    first.send(post("/webhooks/unit", "good", "{}")).await;
    second.send(post("/webhooks/plaid", "good", "{}")).await;
    server.handed_over(2).await;
    let answer = server.ask("POST /webhooks/unit HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "and its body is not awaited");
    server.queue.confirm(2);
    assert_eq!(first.answer().await.unwrap().status, 200);
    assert_eq!(second.answer().await.unwrap().status, 200);
    server.queue.confirm(1);
    assert_eq!(server.ask(&post("/webhooks/unit", "good", "{}")).await.status, 200);
}

#[tokio::test]
async fn slow_bodies_take_no_delivery_from_a_good_one() {
    let server = TestServer::limited(FakeQueue::confirming(), tight(), ServerLimits::default()).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut client = server.connect().await;
        client.send("POST /webhooks/unit HTTP/1.1\r\nhost: x\r\nx-proof: good\r\ncontent-length: 900\r\n\r\n{").await;
        slow.push(client);
    }
    assert_eq!(server.ask(&post("/webhooks/unit", "good", "{}")).await.status, 200);
    let mut last = slow.pop().unwrap();
    last.send(" ".repeat(899)).await;
    assert_eq!(last.answer().await.unwrap().status, 200, "and a slow one is taken when it is complete");
}

#[tokio::test]
async fn bytes_of_unfinished_bodies_are_bounded_and_take_nothing_from_whole_ones() {
    let mut limits = tight();
    limits.room.arriving_bytes = 1_000;
    let server = TestServer::limited(FakeQueue::confirming(), limits, ServerLimits::default()).await;
    let head = "POST /webhooks/unit HTTP/1.1\r\nhost: x\r\nx-proof: good\r\ncontent-length: 900\r\n\r\n";
    let mut hoarder = server.connect().await;
    hoarder.send(format!("{head}{}", "x".repeat(800))).await;
    let second = async {
        // The first may not have been read yet: whoever is the second to arrive is refused.
        loop {
            let mut client = server.connect().await;
            client.send(format!("{head}{}", "x".repeat(800))).await;
            if let Ok(Some(answer)) = timeout(Duration::from_millis(50), client.answer()).await {
                return answer.status;
            }
        }
    };
    assert_eq!(timeout(TOO_LONG, second).await.unwrap(), 503);
    assert_eq!(server.ask(&post("/webhooks/unit", "good", &"x".repeat(900))).await.status, 200);
}

#[tokio::test]
async fn a_sender_that_goes_away_leaves_no_permit_behind_and_loses_nothing_published() {
    let server = TestServer::limited(FakeQueue::holding(), tight(), ServerLimits::default()).await;
    let mut senders = [server.connect().await, server.connect().await];
    for client in &mut senders {
        client.send(post("/webhooks/unit", "good", "{}")).await;
    }
    server.handed_over(2).await;
    drop(senders);
    eventually(|| server.webhooks.unattended() == 2).await;
    let mut half = server.connect().await;
    half.send("POST /webhooks/unit HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{").await;
    drop(half);
    // Their senders are gone, and the queue still holds both: so do their permits.
    assert_eq!(server.ask(&post("/webhooks/unit", "good", "{}")).await.status, 503);
    server.queue.confirm(2);
    timeout(TOO_LONG, server.webhooks.settled()).await.expect("unattended deliveries were not finished");
    server.queue.confirm(1);
    let free = async {
        while server.ask(&post("/webhooks/unit", "good", "{}")).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(TOO_LONG, free).await.expect("the permits came back");
}
