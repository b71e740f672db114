//! Logging in and out, and who is let in without.

use super::*;

#[tokio::test]
async fn a_token_opens_a_session_that_reads_and_with_a_sign_of_ours_ends() {
    let finhook = Finhook::new().with("FINHOOK_OPS_TOKENS", TOKENS);
    let served = finhook.serve(&[]);
    let port = Port::of(&served);
    assert_eq!(problem(port.get("/session"), 401).await.0, "unauthenticated");
    let log_in = |token: &str| port.request(Method::POST, "/session").json(&json!({ "token": token }));
    assert_eq!(problem(log_in("wrong"), 401).await.0, "unauthenticated");
    let answer = log_in(OPS).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let set = cookie(&answer);
    for part in ["finhook_session=fh1.", "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=28800"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("Secure") && !set.contains(OPS), "{set}");
    let session = set.split(';').next().unwrap().to_owned();
    let view: Value = answer.json().await.unwrap();
    assert_eq!((&view["roles"], &view["by"]), (&json!(["ops"]), &json!("session")));
    assert_eq!(ok(port.get("/session").header("cookie", &session)).await["by"], json!("session"));
    assert_eq!(ok(port.get("/v1/events").header("cookie", &session)).await["events"], json!([]));

    let ends = || port.request(Method::DELETE, "/session").header("cookie", &session);
    assert_eq!(problem(ends(), 403).await.0, "cross-site", "a cookie alone is what a browser sends for anybody");
    assert_eq!(problem(ends().header("sec-fetch-site", "cross-site"), 403).await.0, "cross-site");
    let ended = ends().header("sec-fetch-site", "same-origin").send().await.unwrap();
    assert_eq!(ended.status(), StatusCode::NO_CONTENT);
    assert!(cookie(&ended).contains("Max-Age=0"));
    problem(port.get("/v1/events").header("cookie", &session), 401).await;

    let form = port.request(Method::POST, "/session").header("x-forwarded-proto", "https");
    let form = form.header("content-type", "application/x-www-form-urlencoded").body(format!("token={OPS}"));
    let answer = form.send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()), (303, "/"));
    assert!(cookie(&answer).contains("; Secure"));
    let foreign = log_in(OPS).header("origin", "https://evil.example");
    assert_eq!(problem(foreign, 403).await.0, "cross-site", "nobody is logged in by another site's page");
    for _ in 0..9 {
        problem(log_in("wrong"), 401).await;
    }
    let (status, log) = {
        let limited = log_in(OPS).send().await.unwrap();
        assert!(limited.status() == StatusCode::TOO_MANY_REQUESTS && limited.headers().contains_key("retry-after"));
        served.terminate()
    };
    assert!(status.success() && log.contains("a log-in failed") && log.contains("logged in"), "{log}");
    assert!(!log.contains(OPS) && !log.contains("wrong\""), "{log}");
}

#[tokio::test]
async fn a_session_over_our_own_https_is_sent_by_https_alone() {
    let file = |name: &str| format!("{}/tests/transport/{name}", env!("CARGO_MANIFEST_DIR"));
    let finhook = Finhook::new().with("FINHOOK_OPS_TOKENS", TOKENS);
    let finhook = finhook.with("FINHOOK_OPS_TLS_CERT", file("server.pem"));
    let served = finhook.with("FINHOOK_OPS_TLS_KEY", file("server.key")).serve(&[]);
    let authority = reqwest::Certificate::from_pem(&std::fs::read(file("ca.pem")).unwrap()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
    let session = format!("{}/session", served.ops.replace("http://", "https://"));
    let answer = client.post(&session).json(&json!({ "token": OPS })).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(cookie(&answer).contains("; Secure"), "{}", cookie(&answer));
}

#[tokio::test]
async fn without_tokens_this_machine_is_let_in_under_its_own_name_only() {
    let finhook = Finhook::new();
    let served = finhook.serve(&[]);
    let port = Port::of(&served);
    assert_eq!(ok(port.get("/session")).await, json!({ "roles": ["ops", "app"], "by": "loopback" }));
    assert_eq!(ok(port.get("/v1/events")).await["next"], Value::Null);
    let log_in = port.request(Method::POST, "/session").json(&json!({ "token": "" }));
    assert_eq!(ok(log_in).await["by"], json!("loopback"));
    problem(port.get("/v1/events").header("host", "rebound.example"), 401).await;
    problem(port.get("/v1/events").header("x-forwarded-for", "192.0.2.1"), 401).await;
    problem(port.get("/v1/events").bearer_auth("of nobody"), 401).await;
    let foreign = port.request(Method::DELETE, "/session").header("origin", "http://evil.example");
    assert_eq!(problem(foreign, 403).await.0, "cross-site");
    assert!(served.terminate().0.success());
}
