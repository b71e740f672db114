//! What was sent is not in the logs, whatever became of it.

use tracing_subscriber::fmt;

use super::*;
use crate::ops::telemetry::Lines;

#[tokio::test]
async fn no_log_line_at_trace_contains_a_header_a_body_or_a_token() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let limits = WebhookLimits { body_time: Duration::from_millis(200), ..tight() };
    let server = TestServer::limited(FakeQueue::confirming(), limits, ServerLimits::default()).await;
    let mut statuses = Vec::new();
    for (path, proof, body) in [
        ("/webhooks/plaid/MARKER-token", "good", "{\"MARKER\":\"body\"}".to_owned()),
        ("/webhooks/plaid/wrong?MARKER=query", "MARKER-proof", "MARKER".to_owned()),
        ("/webhooks/unit", "MARKER-proof", "MARKER".to_owned()),
        ("/webhooks/unit", "stale", "MARKER".to_owned()),
        ("/webhooks/plaid", "keys", "MARKER".to_owned()),
        ("/webhooks/MARKER-provider", "good", "MARKER".to_owned()),
        ("/webhooks/MARKER-provider/MARKER-token", "good", "MARKER".to_owned()),
        ("/MARKER/path", "good", "MARKER".to_owned()),
        ("/webhooks/unit", "good", "MARKER".repeat(500)),
    ] {
        let request = post(path, proof, &body)
            .replace("host: x\r\n", "host: MARKER\r\nauthorization: MARKER\r\nMARKER-name: x\r\n");
        statuses.push(server.ask(&request).await.status);
    }
    for broken in [
        "POST /webhooks/unit HTTP/1.1\r\nhost: x\r\ncontent-length: MARKER\r\n\r\n",
        "MARKER /webhooks/unit HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /webhooks/unit HTTP/1.1\r\nMARKER header\r\n\r\n",
        "POST MARKER HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /webhooks/unit HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nMARKER\r\n",
        "POST /webhooks/unit HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\nMARKER",
    ] {
        statuses.push(server.ask(broken).await.status);
    }
    assert_eq!(statuses, [200, 401, 401, 401, 503, 404, 404, 404, 413, 400, 405, 400, 404, 400, 408]);
    http2::ask(&server, "/webhooks/plaid/MARKER-token", &[("x-proof", "MARKER"), ("marker", "MARKER")], "MARKER").await;

    let text = lines.text();
    assert!(text.contains("not accepted") && text.contains("/webhooks/plaid/…"), "nothing was logged: {text}");
    for line in text.lines() {
        assert!(!line.to_ascii_uppercase().contains("MARKER"), "{line}");
    }
}

#[tokio::test]
async fn a_flood_of_refusals_is_a_few_lines() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        fmt().with_max_level(tracing::Level::INFO).with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = TestServer::start(FakeQueue::confirming()).await;
    let mut client = server.connect().await;
    for _ in 0..50 {
        client.send(post("/webhooks/unit", "stale", "{}")).await;
        assert_eq!(client.answer().await.unwrap().status, 401);
    }
    assert_eq!(lines.text().matches("refused: stale").count(), 5, "{}", lines.text());
}
