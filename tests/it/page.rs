//! The dashboard's answers, seen without a browser: what protects the page, and who may listen to `/live` for how long.

use reqwest::{Client, Response, StatusCode};

use crate::process::{Finhook, Served};

const TOKENS: &str = "ops:ops-token-of-the-tests,app:app-token-of-the-tests";
const OPS: &str = "ops-token-of-the-tests";
const APP: &str = "app-token-of-the-tests";

fn serving() -> (Finhook, Served) {
    let finhook = Finhook::new().with("FINHOOK_OPS_TOKENS", TOKENS);
    let serving = finhook.serve(&[]);
    (finhook, serving)
}

async fn listen(client: &Client, serving: &Served, token: &str) -> Response {
    client.get(format!("{}/live", serving.ops)).bearer_auth(token).send().await.unwrap()
}

/// The next piece of a stream; `None` at its end.
async fn piece(stream: &mut Response) -> Option<String> {
    // Cut in the middle is an end too.
    let piece = stream.chunk().await.ok()??;
    Some(String::from_utf8(piece.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_comes_with_a_policy_that_lets_nothing_in_and_without_a_word_of_what_is_held() {
    let (_finhook, serving) = serving();
    for path in ["/", "/login", "/events", "/events/018f0000-0000-7000-8000-000000000000", "/assets/start.js"] {
        let answer = reqwest::get(format!("{}{path}", serving.ops)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{path}: {policy}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("cache-control"), "no-store");
    }
    for path in ["/assets/", "/assets/nothing.js", "/assets/..%2fmod.rs", "/events/x/y"] {
        let answer = reqwest::get(format!("{}{path}", serving.ops)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert!(serving.terminate().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_for_role_ops_and_ends_with_the_session() {
    let (_finhook, serving) = serving();
    let client = Client::new();
    let live = format!("{}/live", serving.ops);
    assert_eq!(client.get(&live).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(listen(&client, &serving, "another").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(listen(&client, &serving, APP).await.status(), StatusCode::FORBIDDEN);

    let session = format!("{}/session", serving.ops);
    let opened = client.post(&session).json(&serde_json::json!({ "token": OPS })).send().await.unwrap();
    let cookie = opened.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let mut stream = client.get(&live).header("cookie", &cookie).send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let first = piece(&mut stream).await.unwrap();
    assert!(
        first.contains("event: snapshot") && first.contains("\"queues\"") && first.contains("\"checks\""),
        "{first}"
    );
    let closed = client.delete(&session).header("cookie", &cookie).header("x-finhook-csrf", "1").send().await.unwrap();
    assert_eq!(closed.status(), StatusCode::NO_CONTENT);
    // What was told before the log-out may still be on its way; then nothing follows.
    while piece(&mut stream).await.is_some() {}
    let again = client.get(&live).header("cookie", &cookie).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED);
    assert!(serving.terminate().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_end_when_the_process_stops() {
    let (_finhook, serving) = serving();
    let client = Client::new();
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut stream = listen(&client, &serving, OPS).await;
        assert!(piece(&mut stream).await.is_some());
        streams.push(stream);
    }
    assert_eq!(listen(&client, &serving, OPS).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let ended = tokio::spawn(async move {
        let mut last = String::new();
        for mut stream in streams {
            while let Some(piece) = piece(&mut stream).await {
                last = piece;
            }
        }
        last
    });
    let stopped = tokio::task::spawn_blocking(move || serving.terminate().0.success());
    assert!(ended.await.unwrap().contains("stopping"), "the last event says so");
    assert!(stopped.await.unwrap());
}
