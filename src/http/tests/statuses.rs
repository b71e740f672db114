//! Which cause gets which status.

use super::*;
use crate::pipeline::receive::PublishError;

#[tokio::test]
async fn a_verified_delivery_is_200_with_a_short_text_once_it_is_confirmed() {
    let server = TestServer::start(FakeQueue::holding()).await;
    let mut client = server.connect().await;
    client.send(post("/webhooks/unit", "good", "{}")).await;
    server.handed_over(1).await;
    assert!(timeout(Duration::from_millis(30), client.answer()).await.is_err(), "answered before the confirm");
    server.queue.confirm(1);
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn every_method_but_post_is_405_and_says_which_is_allowed() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    for path in ["/webhooks/unit", "/webhooks/plaid/token", "/webhooks/nobody"] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            let answer = server.ask(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some("post")), "{method} {path}");
        }
    }
    let mut client = server.connect().await;
    client.send("HEAD /webhooks/unit HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let mut text = String::new();
    client.stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 405 ") && text.ends_with("\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn unknown_providers_and_paths_are_404() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    for path in [
        "/",
        "/webhooks",
        "/webhooks/",
        "/webhooks/stripe",
        "/webhooks/UNIT",
        "/webhooks/%ff",
        "/webhooks/unit/",
        "/webhooks/unit/token",
        "/webhooks/plaid/",
        "/webhooks/plaid/token/more",
        "/webhooks//unit",
        "/healthz",
    ] {
        assert_eq!(server.ask(&post(path, "good", "{}")).await.status, 404, "{path}");
    }
    assert!(server.queue.published().is_empty());
}

#[tokio::test]
async fn a_provider_without_secret_is_503_and_its_body_is_not_awaited() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    let answer = server.ask("POST /webhooks/synapse HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\nnot yet").await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn every_bad_proof_is_401_with_the_same_bytes() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    let mut answers = Vec::new();
    for proof in ["garbled", "stale", "wrong", ""] {
        answers.push(server.ask(&post("/webhooks/unit", proof, "{}")).await);
    }
    answers.push(server.ask("POST /webhooks/unit HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await);
    answers.push(server.ask(&post("/webhooks/plaid/wrong", "good", "{}")).await);
    for answer in answers {
        let head = answer.head.split("date:").next().unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (401, "not verified\n"));
        assert!(!head.contains("retry-after"));
    }
    assert!(server.queue.published().is_empty());
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_are_503() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    let answer = server.ask(&post("/webhooks/plaid", "keys", "{}")).await;
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
}

#[tokio::test]
async fn a_queue_that_does_not_confirm_is_503() {
    for error in [PublishError::Timeout, PublishError::Refused, PublishError::Storage, PublishError::Full] {
        let server = TestServer::start(FakeQueue::failing(error)).await;
        let answer = server.ask(&post("/webhooks/unit", "good", "{}")).await;
        assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{error}");
    }
}

#[tokio::test]
async fn a_queue_that_is_away_is_503_before_the_body_is_read() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    server.queue.go_away(PublishError::Blocked);
    let answer = server.ask("POST /webhooks/unit HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
}

#[tokio::test]
async fn empty_and_odd_bodies_and_any_content_type_are_the_providers_matter() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    assert_eq!(server.ask(&post("/webhooks/unit", "good", "")).await.status, 200);
    assert_eq!(server.ask(&post("/webhooks/unit", "good", "\0[[[")).await.status, 200);
    let mut client = server.connect().await;
    client.send(b"POST /webhooks/unit HTTP/1.1\r\nhost: x\r\nx-proof: good\r\ncontent-type: \xff\xfe\r\n").await;
    client.send(b"content-length: 2\r\n\r\n\xff\xfe").await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert_eq!(server.queue.published().len(), 3);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_announced_or_not() {
    let server = TestServer::limited(FakeQueue::confirming(), tight(), ServerLimits::default()).await;
    let announced = "POST /webhooks/unit HTTP/1.1\r\nhost: x\r\nx-proof: good\r\ncontent-length: 1001\r\n\r\n";
    assert_eq!(server.ask(announced).await.status, 413, "before a byte of it was sent");
    let chunked = "POST /webhooks/unit HTTP/1.1\r\nhost: x\r\nx-proof: good\r\ntransfer-encoding: chunked\r\n\r\n";
    let half = format!("1f4\r\n{}\r\n", "x".repeat(500));
    assert_eq!(server.ask(&format!("{chunked}{half}{half}1\r\nx\r\n0\r\n\r\n")).await.status, 413);
    assert_eq!(server.ask(&format!("{chunked}{half}{half}0\r\n\r\n")).await.status, 200, "exactly the limit");
    assert_eq!(server.ask(&post("/webhooks/unit", "good", &"x".repeat(1_000))).await.status, 200);
}

#[tokio::test]
async fn a_sender_that_writes_it_all_before_it_reads_still_sees_its_413() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    let mut client = server.connect().await;
    client.send(post("/webhooks/unit", "good", &"x".repeat(3 << 20))).await;
    assert_eq!(client.answer().await.unwrap().status, 413);
    client.send(post("/webhooks/unit", "good", "{}")).await;
    assert_eq!(client.answer().await.unwrap().status, 200, "the connection is good for the next delivery");
}

#[tokio::test]
async fn a_sender_that_asks_first_is_told_before_it_sends_a_large_body() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    let head = "POST /webhooks/unit HTTP/1.1\r\nhost: x\r\nx-proof: good\r\nexpect: 100-continue\r\n";
    assert_eq!(server.ask(&format!("{head}content-length: 3000000\r\n\r\n")).await.status, 413);
    let mut client = server.connect().await;
    client.send(format!("{head}content-length: 2\r\n\r\n")).await;
    assert_eq!(client.answer().await.unwrap().status, 100);
    client.send("{}").await;
    assert_eq!(client.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_large_head_is_431() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    let mut client = server.connect().await;
    let large = format!("POST /webhooks/unit HTTP/1.1\r\nhost: x\r\nx-proof: {}\r\n\r\n", "x".repeat(64 << 10));
    // The server may close while this is still being written.
    let _ = client.stream.write_all(large.as_bytes()).await;
    if let Some(answer) = client.answer().await {
        assert_eq!(answer.status, 431);
    }
    let fits = post("/webhooks/unit", &"x".repeat(8 << 10), "{}");
    assert_eq!(server.ask(&fits).await.status, 401);
}

#[tokio::test]
async fn requests_sent_ahead_on_one_connection_are_answered_in_order() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    let mut client = server.connect().await;
    let proofs = [("good", 200), ("slow", 200), ("wrong", 401), ("good", 200)];
    let requests: String = proofs.iter().map(|(proof, _)| post("/webhooks/unit", proof, "{\"a\":1}")).collect();
    client.send(requests).await;
    for (proof, status) in proofs {
        assert_eq!(client.answer().await.unwrap().status, status, "{proof}");
    }
}

#[tokio::test]
async fn a_panic_on_the_way_is_503_and_the_connection_and_the_room_survive() {
    let server = TestServer::limited(FakeQueue::confirming(), tight(), ServerLimits::default()).await;
    let mut client = server.connect().await;
    for _ in 0..5 {
        client.send(post("/webhooks/unit", "panic", "{}")).await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
    }
    client.send(post("/webhooks/unit", "good", "{}")).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_no_http_is_400_and_ends_the_connection() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    for nonsense in
        ["\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "POST /webhooks/unit HTTP/1.1\r\ncontent-length: x\r\n\r\n"]
    {
        let mut client = server.connect().await;
        client.send(nonsense).await;
        assert_eq!(client.answer().await.unwrap().status, 400);
        assert!(client.is_closed().await);
    }
}
