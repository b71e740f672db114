//! The operators' port as operators, browsers and the product's back end use it: who is let in, what is answered, and that
//! the document says all of it.

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, redirect};
use serde_json::{Value, json};

use crate::commands::{played, settled};
use crate::process::{Finhook, Served};

const OPS: &str = "ops-token-of-the-tests";
const APP: &str = "app-token-of-the-tests";

/// A finhook with tokens.
pub fn with_tokens() -> Finhook {
    Finhook::new().with("FINHOOK_OPS_TOKENS", format!("ops:{OPS},app:{APP}"))
}

/// Its operators' port.
pub struct Port {
    base: String,
    client: Client,
}

impl Port {
    pub fn of(served: &Served) -> Self {
        let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        Self { base: served.ops.clone(), client }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    /// What role `ops` is answered, which has to be 200.
    pub async fn ops(&self, path: &str) -> Value {
        ok(self.get(path).bearer_auth(OPS)).await
    }
}

/// A JSON answer, which has to be 200.
pub async fn ok(request: RequestBuilder) -> Value {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

/// A problem of this status, by the last word of its type.
pub async fn problem(request: RequestBuilder, status: u16) -> (String, Value) {
    let answer = request.send().await.unwrap();
    let (given, kind) = (answer.status().as_u16(), answer.headers().get("content-type").cloned());
    let text = answer.text().await.unwrap();
    assert_eq!(
        (given, kind.as_ref().map(|kind| kind.to_str().unwrap())),
        (status, Some("application/problem+json")),
        "{text}"
    );
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], json!(status));
    (problem["type"].as_str().unwrap().strip_prefix("urn:finhook:problem:").unwrap().to_owned(), problem)
}

fn cookie(answer: &Response) -> String {
    answer.headers()["set-cookie"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_opens_a_session_that_reads_and_with_a_sign_of_ours_ends() {
    let finhook = with_tokens();
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

#[tokio::test]
async fn events_are_listed_by_page_and_shown_with_their_way() {
    let finhook = with_tokens();
    played(&finhook, &["unit/account.created.tagged", "unit/recorded.card.activated"]);
    let events = settled(&finhook, 2);
    let served = finhook.serve(&[]);
    let port = Port::of(&served);
    let all = port.ops("/v1/events").await;
    let ids = |page: &Value| -> Vec<String> {
        page["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    };
    let listed: Vec<String> = events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((ids(&all), &all["next"]), (listed.clone(), &Value::Null));
    let mut walked = Vec::new();
    let mut path = "/v1/events?limit=1&order=oldest".to_owned();
    loop {
        let page = port.ops(&path).await;
        walked.extend(ids(&page));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/events?limit=1&cursor={next}");
    }
    assert!(walked.iter().rev().eq(&listed), "{walked:?}");
    let applied = port.ops("/v1/events?state=applied&provider=unit&kind=account.created").await;
    let [applied] = &applied["events"].as_array().unwrap()[..] else { panic!("{applied}") };
    let shown = port.ops(&format!("/v1/events/{}", applied["id"].as_str().unwrap())).await;
    assert_eq!(&shown["event"], applied);
    let tables: Vec<&str> =
        shown["lineage"]["rows"].as_array().unwrap().iter().map(|row| row["table"].as_str().unwrap()).collect();
    assert_eq!(tables, ["integration", "user", "account"], "{shown}");
    assert!(shown["lineage"]["delivery_id"].is_string() && shown["payload_bytes"].as_u64().unwrap() > 0);

    for wrong in ["limit=0", "limit=1001", "since=yesterday", "state=gone", "cursor=x", "order=up", "kind=", "kind=%00"]
    {
        let (kind, problem) = problem(port.get(&format!("/v1/events?{wrong}")).bearer_auth(OPS), 400).await;
        assert_eq!(kind, "malformed");
        assert_eq!(problem["errors"][0]["parameter"].as_str(), wrong.split('=').next(), "{problem}");
    }
    let (_, unknown) = problem(port.get("/v1/events?s3cret=s3cret").bearer_auth(OPS), 400).await;
    assert!(!unknown.to_string().contains("s3cret"), "{unknown}");
    problem(port.get("/v1/events/s3cret").bearer_auth(OPS), 400).await;
    problem(port.get("/v1/events/018f0000-0000-7000-8000-000000000000").bearer_auth(OPS), 404).await;
    assert_eq!(problem(port.get("/v1/events").bearer_auth(APP), 403).await.0, "forbidden");
    assert_eq!(problem(port.get("/v1/nowhere").bearer_auth(OPS), 404).await.0, "no-such-path");
    let wrong_method = port.request(Method::PATCH, "/v1/events");
    problem(wrong_method, 401).await;
    let answer = port.request(Method::PATCH, "/v1/events").bearer_auth(OPS).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, "GET,HEAD"));
    let document = port.ops("/openapi.json").await;
    assert_eq!(document["openapi"], json!("3.1.0"));
    assert!(served.terminate().0.success());
}

#[tokio::test]
async fn dead_events_are_counted_requeued_and_discarded_by_id_and_by_filter() {
    let finhook = with_tokens();
    let dead = ["unit/recorded.card.activated", "--set", "id="];
    played(&finhook, &dead);
    played(&finhook, &["unit/account.created.tagged"]);
    let events = settled(&finhook, 2);
    let served = finhook.serve(&[]);
    let port = Port::of(&served);
    let act = |path: &str, body: Value| port.request(Method::POST, path).bearer_auth(OPS).json(&body);
    let of = |state: &str| events.iter().find(|event| event["state"] == state).unwrap()["id"].clone();
    let (dead, applied) = (of("dead"), of("applied"));

    let counted = ok(act("/v1/dead/requeue", json!({ "filter": {}, "dry_run": true }))).await;
    assert_eq!((&counted["selected"], &counted["done"]), (&json!(1), &json!(0)));
    let requeued = ok(act("/v1/dead/requeue", json!({ "filter": { "provider": "unit" } }))).await;
    assert_eq!(
        (&requeued["done"], &requeued["interrupted"], &requeued["next"]),
        (&json!(1), &Value::Null, &Value::Null)
    );
    let requeued = ok(act("/v1/dead/requeue", json!({ "ids": [dead, applied] }))).await;
    assert_eq!((&requeued["selected"], &requeued["done"]), (&json!(1), &json!(1)));
    assert_eq!(requeued["left"], json!([{ "id": applied, "why": "it is applied" }]));
    let replayed = ok(act("/v1/events/replay", json!({ "filter": { "state": "applied" } }))).await;
    assert_eq!((&replayed["selected"], &replayed["done"]), (&json!(1), &json!(1)));

    for (path, body, pointer) in [
        ("/v1/dead/discard", json!({}), ""),
        ("/v1/dead/discard", json!({ "ids": [dead], "filter": {} }), ""),
        ("/v1/dead/discard", json!({ "ids": [] }), "/ids"),
        ("/v1/dead/discard", json!({ "ids": ["x"] }), "/ids/0"),
        ("/v1/dead/discard", json!({ "filter": { "state": "applied" } }), "/filter/state"),
        ("/v1/dead/discard", json!({ "filter": { "since": "x" } }), "/filter/since"),
        ("/v1/events/replay", json!({ "filter": {}, "after": "x" }), "/after"),
        ("/v1/events/replay", json!({ "filter": {}, "dry_run": "yes" }), "/dry_run"),
    ] {
        let (_, problem) = problem(act(path, body), 422).await;
        assert_eq!(problem["errors"][0]["pointer"], json!(pointer), "{problem}");
    }
    let discard = || port.request(Method::POST, "/v1/dead/discard").bearer_auth(OPS);
    assert_eq!(problem(discard().header("content-type", "application/json").body("{"), 400).await.0, "malformed");
    assert_eq!(problem(discard().body("{}"), 415).await.0, "media-type");
    let large = discard().header("content-type", "application/json").body(vec![b' '; 200_000]);
    assert_eq!(problem(large, 413).await.0, "too-large");

    let nobody = "018f0000-0000-7000-8000-000000000000";
    let discarded = ok(act("/v1/dead/discard", json!({ "ids": [dead, applied, nobody] }))).await;
    assert_eq!(
        (&discarded["selected"], &discarded["done"], discarded["left"].as_array().unwrap().len()),
        (&json!(1), &json!(1), 2)
    );
    let shown = port.ops(&format!("/v1/events/{}", dead.as_str().unwrap())).await;
    assert_eq!((&shown["event"]["state"], &shown["event"]["reason"]), (&json!("recorded"), &json!("discarded")));
    assert_eq!(ok(act("/v1/dead/discard", json!({ "filter": {} }))).await["selected"], json!(0));
    let (status, log) = served.terminate();
    assert!(status.success() && log.contains(r#""audit.act":"discard""#) && log.contains("token:"), "{log}");
}
