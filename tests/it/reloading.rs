//! Secrets are rolled under running requests, and which of them is still used is known.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use finhook::cli::posting::{Answer, Post, Signed};
use finhook::domain::WallClock;
use finhook::providers::Signer;
use finhook::providers::unit::UnitSigner;
use secrecy::SecretString;
use serde_json::json;

use crate::process::{Finhook, Served, eventually};

fn signed(token: &str, n: usize) -> Signed {
    let body =
        json!({ "data": [{ "id": format!("r{token}{n}"), "type": "card.activated", "attributes": {} }] }).to_string();
    let signer = UnitSigner { token: SecretString::from(token.to_owned()) };
    let headers = signer.sign(body.as_bytes(), WallClock::system().now());
    Signed { name: "unit".into(), path: "/webhooks/unit".into(), headers, body: body.into() }
}

async fn answer(serving: &Served, token: &str, n: usize) -> Answer {
    Post::new(&serving.public).unwrap().send(&signed(token, n)).await
}

/// The same, as a proxy passes it on.
async fn forwarded(serving: &Served, provider: &str, forwarded: &str) -> Answer {
    let mut signed = signed("token", 1);
    signed.path = format!("/webhooks/{provider}");
    signed.headers.push((http::HeaderName::from_static("x-forwarded-for"), forwarded.parse().unwrap()));
    Post::new(&serving.public).unwrap().send(&signed).await
}

#[tokio::test]
async fn a_delivery_from_an_address_that_is_not_listed_is_refused_before_its_proof() {
    let finhook = Finhook::new()
        .with("FINHOOK_UNIT_TOKENS", "token")
        .with("FINHOOK_AUTH0_TOKENS", "token")
        .with("FINHOOK_UNIT_ALLOW_FROM", "unit-live, 10.0.0.0/8")
        .with("FINHOOK_AUTH0_ALLOW_FROM", "10.0.0.0/8");
    let serving = finhook.serve(&[]);
    assert_eq!(forwarded(&serving, "unit", "10.1.2.3").await, Answer::Status(403), "nobody trusts this proxy");
    // Auth0's event streams never send again what got a 4xx.
    assert_eq!(forwarded(&serving, "auth0", "10.1.2.3").await, Answer::Status(503));
    assert!(serving.terminate().0.success());
    let finhook = finhook.with("FINHOOK_TRUSTED_PROXIES", "127.0.0.0/8");
    let serving = finhook.serve(&[]);
    assert_eq!(forwarded(&serving, "unit", "6.6.6.6, 54.156.65.95").await, Answer::Accepted);
    assert_eq!(forwarded(&serving, "unit", "10.1.2.3, 6.6.6.6").await, Answer::Status(403));
    assert!(serving.terminate().0.success());
    let said = finhook.with("FINHOOK_PLAID_ALLOW_FROM", "plaid.com").run(&["serve"]).exits(64);
    assert!(said.err.contains("FINHOOK_PLAID_ALLOW_FROM") && said.err.contains("192.0.2.0/24, plaid"), "{}", said.err);
}

async fn logged(serving: &Served, what: &str, times: usize) {
    eventually(what, || async { serving.log().matches(what).count() >= times }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_rolled_by_sighup_without_a_refused_delivery_and_a_bad_list_changes_nothing() {
    let finhook = Finhook::new();
    let file = finhook.file("tokens", "old-token");
    let finhook = finhook.with("FINHOOK_UNIT_TOKENS_FILE", file.to_str().unwrap());
    let serving = finhook.serve(&[]);
    assert_eq!(answer(&serving, "old-token", 0).await, Answer::Accepted);
    assert_eq!(answer(&serving, "new-token", 0).await, Answer::Status(401));

    let over = AtomicBool::new(false);
    let load = async {
        let mut n = 1;
        while !over.load(Ordering::SeqCst) {
            assert_eq!(answer(&serving, "old-token", n).await, Answer::Accepted, "delivery {n} under the reloads");
            n += 1;
        }
        n
    };
    let rolling = async {
        std::fs::write(&file, "old-token,new-token").unwrap();
        serving.hang_up();
        logged(&serving, "configuration read again", 1).await;
        assert_eq!(answer(&serving, "new-token", 1).await, Answer::Accepted);
        for times in [1, 2] {
            if times == 1 {
                std::fs::write(&file, ",,").unwrap()
            } else {
                std::fs::remove_file(&file).unwrap()
            };
            serving.hang_up();
            logged(&serving, "the new configuration is not taken", times).await;
            assert_eq!(answer(&serving, "new-token", 1 + times).await, Answer::Accepted, "the old ones hold");
        }
        over.store(true, Ordering::SeqCst);
    };
    let (posted, ()) = tokio::join!(load, rolling);
    assert!(posted > 1);

    std::fs::write(&file, "new-token").unwrap();
    serving.hang_up();
    logged(&serving, "configuration read again", 2).await;
    assert_eq!(answer(&serving, "old-token", 9_999).await, Answer::Status(401));
    assert_eq!(answer(&serving, "new-token", 9_999).await, Answer::Accepted);
    let log = serving.log();
    assert!(log.contains("FINHOOK_UNIT_TOKENS") && !log.contains("old-token") && !log.contains("new-token"), "{log}");

    // Which one is used is written down at the next round of the sweep.
    std::fs::write(&file, "unused-token,new-token").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let said = finhook.run(&["secrets", "--json"]).exits(0);
        let lines: Vec<_> = said.json_lines().into_iter().filter(|line| line["provider"] == "unit").collect();
        if lines.len() == 3 && lines[1]["last_verified_at"].is_string() {
            assert_eq!((&lines[0]["place"], &lines[0]["last_verified_at"]), (&json!(1), &json!(null)));
            assert_eq!(
                (&lines[1]["place"], &lines[2]["place"]),
                (&json!(2), &json!(null)),
                "the old one is known still"
            );
            assert!(!said.out.contains("token\"") && !said.out.contains("new-token"), "{}", said.out);
            break;
        }
        assert!(Instant::now() < deadline, "{lines:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(finhook.run(&["secrets"]).exits(0).out.contains("never"));
    let checked = finhook.run(&["check"]).out;
    assert!(checked.contains("secret 1 (") && checked.contains(") never used; secret 2 ("), "{checked}");
    assert!(serving.terminate().0.success());
}
