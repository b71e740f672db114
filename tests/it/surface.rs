//! What a sender is answered, over a real socket and against the real verifiers: each line of "refused", and that nothing of
//! it reaches the queue.

use bytes::Bytes;
use finhook::cli::posting::{Answer, Signed};
use finhook::config::Sources;
use finhook::ops::readiness::Readiness;
use finhook::ops::shutdown::Shutdown;
use finhook::providers::Signer;
use finhook::providers::plaid::PlaidSigner;
use finhook::providers::plaid_jws::DevelopmentKey;
use http::{HeaderName, HeaderValue, Method};

use crate::app::{Keys, PATIENCE, TestApp, configured, folder, provider_names};

/// What came back.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    retry_after: Option<String>,
    allow: Option<String>,
    text: String,
}

async fn request(to: &str, method: Method, signed: &Signed) -> Response {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let mut request = client.request(method, format!("{to}{}", signed.path)).body(signed.body.clone());
    for (name, value) in &signed.headers {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    let field = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (retry_after, allow) = (field("retry-after"), field("allow"));
    Response { status: response.status().as_u16(), retry_after, allow, text: response.text().await.unwrap() }
}

async fn post(app: &TestApp, signed: &Signed) -> Response {
    request(&app.to, Method::POST, signed).await
}

/// A body that each provider could send.
fn body(provider: &str) -> &'static str {
    match provider {
        "plaid" => {
            "{\n  \"item_id\": \"i1\",\n  \"webhook_code\": \"LOGIN_REPAIRED\",\n  \"webhook_type\": \"ITEM\"\n}"
        }
        "unit" => r#"{"data":[{"id":"1","type":"customer.created"}]}"#,
        "synapse" => r#"{"_id":{"$oid":"60b8"},"webhook_meta":{"function":"SUBNET|PATCH","log_id":"1"}}"#,
        _ => r#"{"log_id":"1","data":{"type":"sapi"}}"#,
    }
}

async fn nothing_was_taken(app: &TestApp) {
    assert!(app.queue.depths().await.unwrap().iter().all(|depth| depth.ready == 0), "something is queued");
    assert!(app.events().await.is_empty(), "something is stored");
}

#[tokio::test]
async fn what_is_not_ours_is_404_and_any_method_but_post_405() {
    let app = TestApp::embedded().await;
    for path in [
        "/",
        "/webhooks",
        "/webhooks/",
        "/webhooks/paypal",
        "/webhooks/Unit",
        "/webhooks/unit/extra/more",
        "/v1",
        "/webhooks/%ff",
    ] {
        let signed = Signed { path: path.to_owned(), ..app.signed("unit", body("unit")) };
        assert_eq!(post(&app, &signed).await.status, 404, "{path}");
    }
    // Only Plaid's URL can be bound: a token behind another name is nobody's.
    for provider in ["unit", "synapse", "auth0"] {
        let signed = app.signed(provider, body(provider));
        let signed = Signed { path: format!("{}/token", signed.path), ..signed };
        assert_eq!(post(&app, &signed).await.status, 404, "{provider}");
    }
    for provider in provider_names() {
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let response = request(&app.to, method.clone(), &app.signed(provider, body(provider))).await;
            assert_eq!((response.status, response.allow.as_deref()), (405, Some("POST")), "{method} {provider}");
        }
    }
    nothing_was_taken(&app).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_one_at_the_limit_is_taken() {
    let app = TestApp::embedded().await;
    for provider in provider_names() {
        let fits = app.signed(provider, vec![b' '; 1 << 20]);
        assert_eq!(app.send(&fits).await, Answer::Accepted, "{provider}");
        let over = app.signed(provider, vec![b' '; (1 << 20) + 1]);
        assert_eq!(post(&app, &over).await.status, 413, "{provider}");
    }
    app.drain().await;
    assert_eq!(app.dead().await, ["empty"; 4]);
}

#[tokio::test]
async fn every_missing_garbled_or_wrong_proof_is_401_with_one_text() {
    let app = TestApp::embedded().await;
    for provider in provider_names() {
        let good = app.signed(provider, body(provider));
        let deciding = good.headers[0].0.clone();
        let with = |value: Option<&[u8]>| {
            let mut headers: Vec<(HeaderName, HeaderValue)> =
                good.headers.iter().filter(|(name, _)| *name != deciding).cloned().collect();
            headers.extend(value.map(|value| (deciding.clone(), HeaderValue::from_bytes(value).unwrap())));
            Signed { headers, ..good.clone() }
        };
        let right = good.headers[0].1.as_bytes().to_vec();
        let mut wrong: Vec<Signed> = vec![Signed { headers: Vec::new(), ..good.clone() }];
        for value in [&b""[..], b"x", b"garbled", b"Bearer ", b"....", b"e30.e30.e30", b"\xff\xfe", &[b'a'; 7_000]] {
            wrong.push(with(Some(value)));
        }
        let last = |byte: u8| [&right[..right.len() - 1], &[byte]].concat();
        for value in [
            last(b'A'),
            last(b'B'),
            last(b'0'),
            right[1..].to_vec(),
            [&right[..], b"x"].concat(),
            right.to_ascii_uppercase(),
        ] {
            if value != right {
                wrong.push(with(Some(&value)));
            }
        }
        // The right one beside a wrong one.
        let mut twice = good.clone();
        twice.headers.insert(0, (deciding.clone(), HeaderValue::from_static("0000")));
        wrong.push(twice);
        if provider != "auth0" {
            let mut changed = good.body.to_vec();
            *changed.last_mut().unwrap() ^= 1;
            wrong.push(Signed { body: Bytes::from(changed), ..good.clone() });
            wrong.push(Signed { body: Bytes::new(), ..good.clone() });
        }
        if provider == "synapse" {
            // The short signatures alone prove neither body nor time.
            wrong.push(with(None));
        }
        for signed in &wrong {
            let response = post(&app, signed).await;
            assert_eq!(
                (response.status, response.text.as_str()),
                (401, "not verified\n"),
                "{provider}: {:?}",
                signed.headers
            );
            assert_eq!((response.retry_after, response.allow), (None, None));
        }
    }
    nothing_was_taken(&app).await;
}

#[tokio::test]
async fn plaid_is_401_outside_its_time_and_200_within() {
    let app = TestApp::embedded().await;
    let now = app.clock.now();
    for (seconds, status) in [(-301, 401), (-300, 200), (0, 200), (60, 200), (61, 401), (-90_000, 401)] {
        app.clock.set(now.plus_seconds(seconds));
        let signed = app.signed("plaid", body("plaid"));
        app.clock.set(now);
        let expected = if status == 200 { Answer::Accepted } else { Answer::Status(status) };
        assert_eq!(app.send(&signed).await, expected, "signed {seconds} s from now");
    }
    app.drain().await;
    assert_eq!(app.rows().await.in_state("unlinked"), 3);
}

#[tokio::test]
async fn a_bound_url_names_the_user_and_a_wrong_token_is_401() {
    let app = TestApp::embedded().await;
    let good = app.signed_for("u_bound", body("plaid"));
    let token = good.path.rsplit('/').next().unwrap().to_owned();
    let mut other = token.clone().into_bytes();
    let last = other.len() - 2;
    other[last] = if other[last] == b'A' { b'B' } else { b'A' };
    let other = String::from_utf8(other).unwrap();
    for wrong in ["x", "%00", &token[1..], &other, &format!("{token}x"), &"A".repeat(4_000)] {
        let signed = Signed { path: format!("/webhooks/plaid/{wrong}"), ..good.clone() };
        let response = post(&app, &signed).await;
        assert_eq!((response.status, response.text.as_str()), (401, "not verified\n"), "{wrong}");
    }
    nothing_was_taken(&app).await;
    app.ready().await;
    assert_eq!(app.send(&good).await, Answer::Accepted);
    app.drain().await;
    let rows = app.rows().await;
    assert_eq!(rows.integrations[&("plaid".to_owned(), "i1".to_owned())]["user"].as_deref(), Some("u_bound"));
}

#[tokio::test]
async fn where_bound_urls_are_required_the_plain_one_is_401() {
    let app = TestApp::embedded_with(&[("FINHOOK_PLAID_REQUIRE_BOUND_URL", "true")]).await;
    assert_eq!(post(&app, &app.signed("plaid", body("plaid"))).await.status, 401);
    assert_eq!(app.send(&app.signed_for("u_1", body("plaid"))).await, Answer::Accepted);
    app.drain().await;
}

#[tokio::test]
async fn a_rolled_secret_is_taken_beside_the_new_one() {
    let both = [("FINHOOK_UNIT_TOKENS", "new-token,old-token"), ("FINHOOK_AUTH0_TOKENS", "new,old")];
    let app = TestApp::embedded_with(&both).await;
    let old = TestApp::embedded_with(&[("FINHOOK_UNIT_TOKENS", "old-token"), ("FINHOOK_AUTH0_TOKENS", "old")]).await;
    for provider in ["unit", "auth0"] {
        assert_eq!(app.send(&app.signed(provider, body(provider))).await, Answer::Accepted);
        assert_eq!(app.send(&old.signed(provider, body(provider))).await, Answer::Accepted);
        assert_eq!(post(&old, &app.signed(provider, body(provider))).await.status, 401);
    }
    app.drain().await;
}

#[tokio::test]
async fn synapse_object_signatures_count_only_where_they_are_allowed() {
    let settings = [
        ("FINHOOK_SYNAPSE_CLIENT_ID", "client"),
        ("FINHOOK_SYNAPSE_CLIENT_SECRETS", "secret"),
        ("FINHOOK_SYNAPSE_ALLOW_OBJECT_SIGNATURES", "true"),
    ];
    let app = TestApp::embedded_with(&settings).await;
    let full = app.signed("synapse", body("synapse"));
    let short = Signed { headers: full.headers[1..].to_vec(), ..full.clone() };
    assert_eq!(app.send(&short).await, Answer::Accepted);
    // A wrong full-body signature is not rescued by right short ones.
    let mut wrong = full.clone();
    wrong.headers[0].1 = HeaderValue::from_str(&"0".repeat(64)).unwrap();
    assert_eq!(post(&app, &wrong).await.status, 401);
    app.drain().await;
}

#[tokio::test]
async fn a_key_endpoint_that_is_away_is_503_for_unknown_keys_alone() {
    let settings = [
        ("FINHOOK_PLAID_CLIENT_ID", "client"),
        ("FINHOOK_PLAID_SECRET", "secret"),
        ("FINHOOK_PLAID_BASE_URL", "http://127.0.0.1:9"),
    ];
    let app = TestApp::embedded_with(&settings).await;
    let known = app.signed("plaid", body("plaid"));
    let stranger = PlaidSigner { key: DevelopmentKey::parse(&DevelopmentKey::generate().unwrap()).unwrap() };
    let unknown = Signed { headers: stranger.sign(&known.body, app.clock.now()), ..known.clone() };
    let response = post(&app, &unknown).await;
    assert_eq!(response.status, 503);
    assert!(response.retry_after.unwrap().parse::<u32>().unwrap() > 0);
    nothing_was_taken(&app).await;
    assert_eq!(app.send(&known).await, Answer::Accepted);
    app.drain().await;
}

#[tokio::test]
async fn a_provider_without_its_secret_is_503_as_long_as_another_has_one() {
    let app = TestApp::embedded_with(&[("FINHOOK_UNIT_TOKENS", "real")]).await;
    for provider in ["synapse", "auth0"] {
        for signed in [app.signed(provider, body(provider)), Signed { headers: Vec::new(), ..app.signed(provider, "") }]
        {
            let response = post(&app, &signed).await;
            assert_eq!((response.status, response.text.as_str()), (503, "not configured\n"), "{provider}");
            assert!(response.retry_after.unwrap().parse::<u32>().unwrap() > 0);
        }
    }
    nothing_was_taken(&app).await;
}

/// A receiver alone, whose broker is away.
async fn receiver(settings: &[(String, String)]) -> String {
    let urls = [("DATABASE_URL", "postgres://127.0.0.1:9/x"), ("AMQP_URL", "amqp://127.0.0.1:9")];
    let sources = settings.iter().fold(Sources::of(urls), |all, (name, value)| all.with(name.clone(), value.clone()));
    let app = configured(sources);
    let doors = finhook::cli::opening::verifiers(&app).unwrap();
    let queue = finhook::cli::opening::open_queue(&app).await.unwrap();
    let readiness = Readiness::new(app.clock.clone());
    let shutdown = Shutdown::new(PATIENCE);
    let vault = app.vault().unwrap();
    let receiving = finhook::cli::serving::receive(&app, doors, vault, queue, &readiness, &shutdown);
    format!("http://{}", receiving.await.unwrap().address)
}

#[tokio::test]
async fn without_any_secret_every_provider_is_503_and_with_them_while_the_broker_is_away() {
    let (app, folder) = (TestApp::embedded().await, folder());
    let keys = Keys::fresh(folder.path());
    let secrets = ["FINHOOK_PLAID", "FINHOOK_UNIT", "FINHOOK_SYNAPSE", "FINHOOK_AUTH0"];
    let bare: Vec<_> =
        keys.settings.iter().filter(|(name, _)| !secrets.iter().any(|it| name.starts_with(it))).cloned().collect();
    for (to, text) in [(receiver(&bare).await, "not configured\n"), (receiver(&keys.settings).await, "unavailable\n")] {
        for provider in provider_names() {
            let response = request(&to, Method::POST, &app.signed(provider, body(provider))).await;
            assert_eq!((response.status, response.text.as_str()), (503, text), "{provider}");
            assert!(response.retry_after.unwrap().parse::<u32>().unwrap() > 0, "{provider}");
        }
    }
}
