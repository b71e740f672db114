//! `finhook serve` with `finhook replay` and `finhook sign` beside it, as a developer has them in two terminals: no
//! configuration, no network, one data folder.

use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Finhook, Served, eventually};

/// How many events are in which state.
fn states(finhook: &Finhook) -> Vec<(String, usize)> {
    let mut states: Vec<(String, usize)> = Vec::new();
    for event in finhook.run(&["events", "list", "--json"]).exits(0).json_lines() {
        let state = event["state"].as_str().unwrap().to_owned();
        match states.iter_mut().find(|(held, _)| *held == state) {
            Some((_, count)) => *count += 1,
            None => states.push((state, 1)),
        }
    }
    states.sort();
    states
}

fn total(finhook: &Finhook) -> usize {
    states(finhook).into_iter().map(|(_, count)| count).sum()
}

/// How many events cases make.
fn events_of(what: &[&str]) -> usize {
    let cases = what.iter().flat_map(|what| finhook::fixtures::select(what).unwrap());
    let events = cases.filter_map(|case| case.expect).map(|expect| expect.events);
    let counts = events.map(|events| events.applied + events.recorded + events.unlinked + events.dead);
    usize::try_from(counts.sum::<u64>()).unwrap()
}

fn bodies_of(what: &[&str]) -> u64 {
    what.iter().flat_map(|what| finhook::fixtures::select(what).unwrap()).map(|case| case.bodies.len() as u64).sum()
}

fn replay(finhook: &Finhook, serving: &Served, args: &[&str]) -> Value {
    let args: Vec<&str> =
        ["replay", "--json", "--to", &serving.public].into_iter().chain(args.iter().copied()).collect();
    finhook.run(&args).exits(0).json()
}

const ALL: [&str; 4] = ["plaid", "unit", "synapse", "auth0"];

#[tokio::test]
async fn serve_and_replay_share_a_folder_and_need_no_configuration() {
    let finhook = Finhook::new();
    let serving = finhook.serve(&[]);
    assert_eq!(reqwest::get(format!("{}/healthz", serving.ops)).await.unwrap().status(), 200);
    let summary = replay(&finhook, &serving, &ALL);
    assert_eq!((&summary["as_expected"], &summary["accepted"]), (&json!(true), &json!(bodies_of(&ALL))));
    let expected = events_of(&ALL);
    eventually("every event has its row", || async { total(&finhook) >= expected }).await;
    assert_eq!(total(&finhook), expected);

    // Everything again is all duplicates, except Plaid's, which is signed anew.
    replay(&finhook, &serving, &["unit", "synapse", "auth0"]);
    // Each twice, with fresh ids from the second time on, in any order.
    let summary = replay(&finhook, &serving, &["unit", "--repeat", "3", "--shuffle", "--duplicate"]);
    assert_eq!(summary["accepted"], json!(6 * bodies_of(&["unit"])));
    let expected = expected + 2 * events_of(&["unit"]);
    eventually("every event has its row", || async { total(&finhook) >= expected }).await;

    // What was changed after signing, or signed too long ago, is refused and leaves nothing.
    let summary = replay(&finhook, &serving, &[&ALL[..], &["--tamper"]].concat());
    assert_eq!((&summary["refused"], &summary["accepted"]), (&json!(bodies_of(&ALL)), &json!(0)));
    let summary = replay(&finhook, &serving, &["plaid", "--stale"]);
    assert_eq!(summary["refused"], json!(bodies_of(&["plaid"])));

    // A field set, a user bound.
    replay(&finhook, &serving, &["plaid/item.error", "--set", "item_id=i_set", "--user", "u_set"]);
    eventually("the event that was set has its row", || async {
        let args = ["events", "list", "--json", "--subject", "i_set", "--state", "applied"];
        finhook.run(&args).exits(0).json_lines().len() == 1
    })
    .await;
    let (status, log) = serving.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(total(&finhook), expected + 1);
    assert!(states(&finhook).iter().all(|(state, _)| state != "dead" && state != "retrying"));
    // Nobody is there: no answer, exit 1.
    finhook.run(&["replay", "unit/customer.created", "--to", "http://127.0.0.1:9"]).exits(1);
}

#[tokio::test]
async fn a_signed_request_is_taken_from_a_shell() {
    let plain = Finhook::new();
    let serving = plain.serve(&[]);
    let bind = serving.public.trim_start_matches("http://").to_owned();
    let finhook = plain.with("FINHOOK_HTTP_BIND", bind);
    for fixture in ["unit/customer.created", "plaid/bound-url", "synapse/users.post", "auth0/ss"] {
        let printed = finhook.run(&["sign", fixture]).exits(0).out;
        let (head, body) = printed.split_once("\n\n").unwrap();
        let case = &finhook::fixtures::select(fixture).unwrap()[0];
        assert_eq!(body.as_bytes(), &case.bodies[0].bytes[..]);
        assert!(head.starts_with(&format!("POST /webhooks/{}", case.provider)), "{head}");
        let command = finhook.run(&["sign", fixture, "--curl"]).exits(0).out;
        assert!(command.starts_with("curl ") && command.contains("--data-binary"));
        if Command::new("curl").arg("--version").output().is_ok() {
            let printing = command.trim_end().replacen("curl ", "curl -w '%{http_code}' ", 1);
            let output = Command::new("sh").args(["-c", &printing]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n200", "{fixture}");
        } else {
            let mut request =
                reqwest::Client::new().post(format!("{}{}", serving.public, head.split(' ').nth(1).unwrap()));
            for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
                request = request.header(name, value);
            }
            assert_eq!(request.body(body.to_owned()).send().await.unwrap().status(), 200, "{fixture}");
        }
    }
    eventually("all four have their rows", || async { total(&finhook) == 4 }).await;
    assert_eq!(serving.terminate().0.code(), Some(0));
}

#[test]
fn deliveries_are_replayed_by_https_where_the_receiver_has_a_certificate() {
    let file = |name: &str| format!("{}/tests/transport/{name}", env!("CARGO_MANIFEST_DIR"));
    let finhook = Finhook::new().with("SSL_CERT_FILE", file("ca.pem"));
    let finhook = finhook.with("FINHOOK_HTTP_TLS_CERT", file("server.pem"));
    let finhook = finhook.with("FINHOOK_HTTP_TLS_KEY", file("server.key"));
    let serving = finhook.serve(&[]);
    let bind = serving.public.trim_start_matches("http://").to_owned();
    let finhook = finhook.with("FINHOOK_HTTP_BIND", bind.clone());
    let summary = finhook.run(&["replay", "unit/account.created.tagged", "--json"]).exits(0).json();
    assert!(summary["accepted"].as_u64().is_some_and(|accepted| accepted > 0), "{summary}");
    let signed = finhook.run(&["sign", "unit/account.created.tagged", "--curl"]).exits(0).out;
    assert!(signed.contains(&format!("https://{bind}/webhooks/unit")), "{signed}");
}
