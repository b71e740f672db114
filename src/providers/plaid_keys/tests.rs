//! Fetching and caching keys, against a server that plays Plaid, with a clock that stands still.

use wiremock::matchers::{body_partial_json, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::super::plaid_jws::tests::{jwk, own_key};
use super::*;

const JUNK: &str = "00000000-0000-4000-8000-000000000000";

struct Plaid {
    server: MockServer,
    clock: WallClock,
    keys: PlaidKeys,
}

impl Plaid {
    async fn start() -> Self {
        let server = MockServer::start().await;
        let clock = WallClock::held(Timestamp::from_seconds(1_700_000_000).unwrap());
        let base = base_url(&format!("{}/", server.uri())).unwrap();
        let credential = Credential { base, client_id: "me".into(), secret: SecretString::from("hush") };
        let keys = PlaidKeys::fixed(Vec::new()).fetching(credential, clock.clone()).unwrap();
        Self { server, clock, keys }
    }

    async fn answers(&self, kid: &str, answer: ResponseTemplate) {
        let request = serde_json::json!({"client_id": "me", "secret": "hush", "key_id": kid});
        Mock::given(method("POST"))
            .and(path("/webhook_verification_key/get"))
            .and(body_partial_json(request))
            .respond_with(answer)
            .mount(&self.server)
            .await;
    }

    async fn asked(&self) -> usize {
        self.server.received_requests().await.unwrap().len()
    }

    async fn find(&self, kid: &str) -> Result<String, Refusal> {
        self.keys.find(kid).await.map(|key| key.kid().to_owned())
    }

    fn later(&self, seconds: i64) {
        self.clock.set(self.clock.now().plus_seconds(seconds));
    }
}

fn answer(key: &Key, more: &str) -> ResponseTemplate {
    let body = format!(r#"{{"key":{},"request_id":"r"}}"#, jwk(key, more));
    ResponseTemplate::new(200).set_body_string(body)
}

fn unknown() -> ResponseTemplate {
    let code = r#"{"error_type":"INVALID_INPUT","error_code":"INVALID_WEBHOOK_VERIFICATION_KEY_ID"}"#;
    ResponseTemplate::new(400).set_body_string(code)
}

fn junk(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

#[tokio::test]
async fn a_key_is_asked_for_once_however_many_wait_and_then_kept_for_a_day() {
    let plaid = Plaid::start().await;
    let (_, key) = own_key();
    plaid.answers(key.kid(), answer(&key, "").set_delay(Duration::from_millis(50))).await;
    let waiting = futures_util::future::join_all((0..50).map(|_| plaid.find(key.kid()))).await;
    assert!(waiting.iter().all(|found| found.as_deref() == Ok(key.kid())));
    plaid.later(24 * 3600 - 1);
    assert!(plaid.find(key.kid()).await.is_ok());
    assert_eq!(plaid.asked().await, 1);
    plaid.later(1);
    assert!(plaid.find(key.kid()).await.is_ok());
    assert_eq!(plaid.asked().await, 2);
}

#[tokio::test]
async fn a_sender_that_hangs_up_takes_the_answer_from_nobody() {
    let plaid = Plaid::start().await;
    let (_, key) = own_key();
    plaid.answers(key.kid(), answer(&key, "").set_delay(Duration::from_millis(50))).await;
    let mut gone = Box::pin(plaid.keys.find(key.kid()));
    assert!(futures_util::poll!(&mut gone).is_pending());
    drop(gone);
    assert!(plaid.find(key.kid()).await.is_ok());
    assert_eq!(plaid.asked().await, 1);
}

#[tokio::test]
async fn a_known_key_goes_on_serving_through_an_outage() {
    let plaid = Plaid::start().await;
    let (_, key) = own_key();
    plaid.answers(key.kid(), answer(&key, "")).await;
    assert!(plaid.find(key.kid()).await.is_ok());
    plaid.server.reset().await;
    plaid.answers(key.kid(), ResponseTemplate::new(500)).await;
    plaid.later(25 * 3600);
    for _ in 0..5 {
        assert!(plaid.find(key.kid()).await.is_ok());
    }
    assert_eq!(plaid.asked().await, 1, "not asked again at once");
    plaid.later(60);
    assert!(plaid.find(key.kid()).await.is_ok());
    assert_eq!(plaid.asked().await, 2);
    assert_eq!(plaid.find(JUNK).await, Err(Refusal::UnknownKey), "404: nothing is mounted for it");
}

#[tokio::test]
async fn an_expired_key_is_refused_at_once_and_from_its_refresh_on() {
    let plaid = Plaid::start().await;
    let (_, key) = own_key();
    plaid.answers(key.kid(), answer(&key, r#","expired_at":1700000000"#)).await;
    assert_eq!(plaid.find(key.kid()).await, Err(Refusal::UnknownKey));

    let (_, later) = own_key();
    plaid.answers(later.kid(), answer(&later, "")).await;
    assert!(plaid.find(later.kid()).await.is_ok());
    plaid.server.reset().await;
    plaid.answers(later.kid(), answer(&later, r#","expired_at":1700000000"#)).await;
    plaid.later(24 * 3600);
    assert_eq!(plaid.find(later.kid()).await, Err(Refusal::UnknownKey));
}

#[tokio::test]
async fn unknown_is_believed_for_a_minute() {
    let plaid = Plaid::start().await;
    plaid.answers(JUNK, unknown()).await;
    for _ in 0..5 {
        assert_eq!(plaid.find(JUNK).await, Err(Refusal::UnknownKey));
    }
    plaid.later(59);
    assert_eq!(plaid.find(JUNK).await, Err(Refusal::UnknownKey));
    assert_eq!(plaid.asked().await, 1);
    plaid.later(1);
    assert_eq!(plaid.find(JUNK).await, Err(Refusal::UnknownKey));
    assert_eq!(plaid.asked().await, 2);
}

#[tokio::test]
async fn junk_costs_its_budget_and_starves_no_known_key() {
    let plaid = Plaid::start().await;
    let (_, key) = own_key();
    plaid.answers(key.kid(), answer(&key, "")).await;
    assert!(plaid.find(key.kid()).await.is_ok());
    let mut refusals = Vec::new();
    for n in 0..100 {
        refusals.push(plaid.find(&junk(n)).await.unwrap_err());
    }
    assert!(refusals[..9].iter().all(|it| *it == Refusal::UnknownKey));
    assert!(refusals[9..].iter().all(|it| *it == Refusal::KeysUnavailable));
    assert_eq!(plaid.asked().await, 10);
    assert!(plaid.find(key.kid()).await.is_ok());
    plaid.later(24 * 3600);
    for n in 100..200 {
        let _ = plaid.find(&junk(n)).await;
    }
    assert!(plaid.find(key.kid()).await.is_ok(), "a refresh takes nothing from the budget of unknown kids");
    plaid.later(2);
    assert_eq!(plaid.find(&junk(300)).await, Err(Refusal::UnknownKey));
    assert_eq!(plaid.find(&junk(301)).await, Err(Refusal::UnknownKey));
    assert_eq!(plaid.find(&junk(302)).await, Err(Refusal::KeysUnavailable));
}

#[tokio::test]
async fn what_plaid_does_not_say_clearly_is_no_verdict_about_the_key() {
    let (_, key) = own_key();
    let (_, other) = own_key();
    let long = format!(r#"{{"key":{},"x":"{}"}}"#, jwk(&key, ""), "y".repeat(70_000));
    let unclear = [
        ResponseTemplate::new(500),
        ResponseTemplate::new(429),
        ResponseTemplate::new(401).set_body_string(r#"{"error_code":"INVALID_API_KEYS"}"#),
        ResponseTemplate::new(400).set_body_string(r#"{"error_code":"INVALID_API_KEYS"}"#),
        ResponseTemplate::new(400),
        ResponseTemplate::new(302).insert_header("location", "https://example.com/"),
        ResponseTemplate::new(200).set_body_string("not json"),
        ResponseTemplate::new(200).set_body_string(long),
        answer(&other, ""),
    ];
    for template in unclear {
        let plaid = Plaid::start().await;
        plaid.answers(key.kid(), template).await;
        assert_eq!(plaid.find(key.kid()).await, Err(Refusal::KeysUnavailable));
        plaid.server.reset().await;
        plaid.answers(key.kid(), answer(&key, "")).await;
        assert!(plaid.find(key.kid()).await.is_ok(), "and is asked again at once");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_makes_unknown_kids_wait() {
    let base = base_url("http://127.0.0.1:9").unwrap();
    let clock = WallClock::held(Timestamp::from_seconds(0).unwrap());
    let credential = Credential { base, client_id: "me".into(), secret: SecretString::from("hush") };
    let (_, own) = own_key();
    let keys = PlaidKeys::fixed(vec![own.clone()]).fetching(credential, clock).unwrap();
    assert_eq!(keys.find(JUNK).await.err(), Some(Refusal::KeysUnavailable));
    assert!(keys.find(own.kid()).await.is_ok(), "the file comes first");
}

#[test]
fn what_is_remembered_is_bounded_and_a_clock_set_back_is_no_reason_to_wait() {
    let now = Timestamp::from_seconds(1_700_000_000).unwrap();
    let mut cache = Cache::new(now);
    let (_, key) = own_key();
    assert!(cache.settle("real", Answer::Key(key.clone()), now.plus_seconds(1)).is_ok());
    for n in 0..3 * UNKNOWN {
        let _ = cache.settle(&junk(n), Answer::Unknown, now);
    }
    assert!(cache.unknown.len() <= UNKNOWN);
    assert!(matches!(cache.decided("real", now.plus_seconds(1)), Some(Ok(_))));
    for n in 0..2 * KNOWN {
        let _ = cache.settle(&junk(n), Answer::Key(key.clone()), now);
    }
    assert_eq!(cache.known.len(), KNOWN);
    assert!(cache.decided(&junk(2 * KNOWN - 1), now.plus_seconds(-1)).is_none());
    let taken = (0..100).filter(|_| cache.take_token(now)).count();
    assert_eq!(taken, 10);
    assert!(!cache.take_token(now.plus_seconds(-3600)));
    assert!(cache.take_token(now.plus_seconds(-3599)));
}
