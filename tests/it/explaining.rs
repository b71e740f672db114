//! `finhook explain`: real deliveries verify, anything changed about them does not, and what is printed has the shape that
//! scripts read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::{Finhook, Said};

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

fn explain(finhook: &Finhook, provider: &str, body: &Path, more: &[&str]) -> Said {
    let body = body.to_str().unwrap();
    let args: Vec<&str> =
        ["explain", provider, "--json", "--body", body].into_iter().chain(more.iter().copied()).collect();
    finhook.run(&args)
}

/// What is always there, and of which type.
#[track_caller]
fn has_its_shape(explained: &Value) {
    let object = explained.as_object().unwrap();
    assert_eq!(object.keys().collect::<Vec<_>>().len(), 3, "{explained}");
    assert!(object["verified"].is_boolean() || object["verified"].is_null());
    assert!(object["reason"].is_string() == (object["verified"] == json!(false)), "{explained}");
    for event in object["events"].as_array().unwrap() {
        for field in ["kind", "dedup_key", "subject", "occurred_at", "changes", "dead"] {
            assert!(event.get(field).is_some(), "{field} is missing: {event}");
        }
        assert!(event["dedup_key"].is_string() && event["occurred_at"].is_string());
        let mut rows = Vec::new();
        for change in event["changes"].as_array().unwrap() {
            let table = change["table"].as_str().unwrap();
            assert!(["user", "integration", "account"].contains(&table));
            for field in ["external_id", "status", "user"] {
                assert!(change.get(field).is_some(), "{field} is missing: {change}");
            }
            assert_eq!(table == "account", change.get("integration").is_some(), "{change}");
            rows.push((table, change["external_id"].as_str().unwrap()));
        }
        let all = rows.len();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), all, "a row twice: {event}");
        assert!(event["dead"].is_null() || rows.is_empty());
    }
}

#[track_caller]
fn refused(said: Said, reason: &str) {
    let explained = said.exits(1).json();
    has_its_shape(&explained);
    assert_eq!(explained, json!({ "verified": false, "reason": reason, "events": [] }));
}

const PLAID: [(&str, &str, &str, &str); 2] = [
    (
        "01-2020-05-TRANSACTIONS-HISTORICAL_UPDATE",
        "2020-05-31T01:04:00Z",
        "TRANSACTIONS.HISTORICAL_UPDATE",
        "yxQbxDjnD8hr69pKbQpbcKeVn3GL9QuyA7NV3",
    ),
    (
        "04-2023-09-INCOME-INCOME_VERIFICATION",
        "2023-09-11T17:06:00Z",
        "INCOME.INCOME_VERIFICATION",
        "1q19XQywZ7CQN8b8PNBpUKxlmQl4yrS53KGbj",
    ),
];

#[test]
fn real_deliveries_of_plaid_verify_with_their_key_at_their_time() {
    let finhook = Finhook::new();
    let key = vectors("plaid/key.json");
    let set: Value = serde_json::from_slice(&std::fs::read(&key).unwrap()).unwrap();
    let bare = set.get("key").cloned().unwrap_or(set);
    let forms = [bare.clone(), json!({ "key": bare, "request_id": "x" }), json!({ "keys": [bare] })];
    for (name, _, kind, item) in PLAID {
        let token = std::fs::read_to_string(vectors(&format!("plaid/{name}.jwt"))).unwrap();
        let claims = token.trim().split('.').nth(1).unwrap();
        let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims).unwrap();
        let iat = serde_json::from_slice::<Value>(&claims).unwrap()["iat"].as_i64().unwrap();
        let at = |seconds: i64| finhook::domain::Timestamp::from_seconds(iat + seconds).unwrap().to_string();
        let body = vectors(&format!("plaid/{name}.body"));
        let header = format!("Plaid-Verification: {}", token.trim());
        for (number, form) in forms.iter().enumerate() {
            let jwk = finhook.file(&format!("{number}.json"), form.to_string());
            let said = explain(
                &finhook,
                "plaid",
                &body,
                &["--header", &header, "--jwk", jwk.to_str().unwrap(), "--at", &at(10)],
            );
            let explained = said.exits(0).json();
            has_its_shape(&explained);
            assert_eq!((&explained["verified"], &explained["reason"]), (&json!(true), &Value::Null));
            let [event] = &explained["events"].as_array().unwrap()[..] else { panic!("one event") };
            assert_eq!((&event["kind"], &event["subject"], &event["dead"]), (&json!(kind), &json!(item), &Value::Null));
            assert_eq!(event["occurred_at"], json!(at(0)));
            assert_eq!(event["changes"][0]["table"], json!("integration"));
        }
        let jwk = finhook.file("key.json", forms[0].to_string());
        let with = |header: &str, seconds: i64| {
            explain(
                &finhook,
                "plaid",
                &body,
                &["--header", header, "--jwk", jwk.to_str().unwrap(), "--at", &at(seconds)],
            )
        };
        with(&header, 300).exits(0);
        refused(with(&header, 301), "stale");
        refused(with(&header, -61), "future");
        refused(with(&format!("{header}="), 0), "malformed");
        refused(with("Plaid-Verification: x", 0), "malformed");
        refused(with("X-Other: x", 0), "missing");
        let mut bytes = std::fs::read(&body).unwrap();
        bytes[3] ^= 1;
        let changed = finhook.file("changed.body", bytes);
        let said = explain(
            &finhook,
            "plaid",
            &changed,
            &["--header", &header, "--jwk", jwk.to_str().unwrap(), "--at", &at(0)],
        );
        refused(said, "mismatch");
    }
    assert!(!finhook.folder().join("finhook-data").exists(), "explaining makes nothing");
}

#[test]
fn signatures_published_with_units_kits_verify_and_changed_ones_do_not() {
    let list: Value = serde_json::from_slice(&std::fs::read(vectors("unit/signatures.json")).unwrap()).unwrap();
    for vector in list.as_array().unwrap() {
        let text = |name: &str| vector[name].as_str().unwrap();
        let finhook = Finhook::new().with("FINHOOK_UNIT_TOKENS", text("token"));
        let body = vectors(&format!("unit/{}", text("body")));
        let signature = text("x-unit-signature");
        let with = |body: &Path, signature: &str| {
            explain(&finhook, "unit", body, &["--header", &format!("x-unit-signature:{signature}")])
        };
        let explained = with(&body, signature).exits(0).json();
        has_its_shape(&explained);
        assert_eq!(explained["verified"], json!(true));
        assert_eq!(explained["events"][0]["kind"], json!(text("body").trim_end_matches(".json")));
        let mut bytes = std::fs::read(&body).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        refused(with(&finhook.file("changed", bytes), signature), "mismatch");
        with(&body, &signature.to_ascii_lowercase()).exits(1);
        refused(with(&body, signature.trim_end_matches('=')), "malformed");
        // The right signature is never told.
        let said = with(&body, "AAAAAAAAAAAAAAAAAAAAAAAAAAA=").exits(1);
        assert!(!said.out.contains(signature) && !said.err.contains(signature));
    }
}

#[test]
fn the_synapse_vector_verifies_by_its_body_and_by_its_object_only_where_that_is_allowed() {
    let vector: Value = serde_json::from_slice(&std::fs::read(vectors("synapse.json")).unwrap()).unwrap();
    let text = |name: &str| vector[name].as_str().unwrap();
    let finhook = Finhook::new()
        .with("FINHOOK_SYNAPSE_CLIENT_ID", text("client_id"))
        .with("FINHOOK_SYNAPSE_CLIENT_SECRETS", text("client_secret"));
    let body = finhook.file("body", text("body"));
    let field = |name: &str| format!("{name}: {}", text(name));
    let (full, long, short) = (
        field("X-Synapse-Signature-SHA256-FullBody"),
        field("X-Synapse-Signature-Sha256"),
        field("X-Synapse-Signature"),
    );
    let with = |finhook: &Finhook, headers: &[&str]| {
        let headers: Vec<&str> = headers.iter().flat_map(|header| ["--header", header]).collect();
        explain(finhook, "synapse", &body, &headers)
    };
    let explained = with(&finhook, &[&full]).exits(0).json();
    has_its_shape(&explained);
    let changes = explained["events"][0]["changes"].as_array().unwrap();
    let account = changes.iter().find(|change| change["table"] == "account").unwrap();
    assert_eq!((&account["external_id"], &account["status"]), (&json!("60b8d295f1c2a94d3e7a0001"), &json!("open")));
    assert_eq!(account["integration"], json!("60b8d295f1c2a94d3e7a00aa"));
    refused(with(&finhook, &[&short, &long]), "object_signature");
    let upper = full.replace(
        text("X-Synapse-Signature-SHA256-FullBody"),
        &text("X-Synapse-Signature-SHA256-FullBody").to_uppercase(),
    );
    refused(with(&finhook, &[&upper]), "malformed");
    let allowed = finhook.with("FINHOOK_SYNAPSE_ALLOW_OBJECT_SIGNATURES", "true");
    for headers in [&[long.as_str()][..], &[&short], &[&short, &long]] {
        assert_eq!(with(&allowed, headers).exits(0).json()["verified"], json!(true));
    }
    refused(
        with(&allowed, &[&short, &long, &format!("X-Synapse-Signature-SHA256-FullBody: {}", "0".repeat(64))]),
        "mismatch",
    );
}

#[test]
fn auth0_tokens_are_compared_whole() {
    let finhook = Finhook::new().with("FINHOOK_AUTH0_TOKENS", "other,t0ken");
    let body = finhook
        .file("body", r#"{"log_id":"1","data":{"type":"ss","user_id":"auth0|1","user_name":"ada@example.com"}}"#);
    let with = |value: &str| explain(&finhook, "auth0", &body, &["--header", &format!("Authorization: {value}")]);
    for right in ["t0ken", "Bearer t0ken", "other"] {
        let explained = with(right).exits(0).json();
        has_its_shape(&explained);
        let changes = &explained["events"][0]["changes"];
        assert_eq!(changes[0]["external_id"], changes[1]["user"]);
        assert_eq!(changes[1]["email"], json!("ada@example.com"));
    }
    for wrong in ["t0kem", "bearer t0ken", "t0ken2", "Basic t0ken", "Bearer Bearer t0ken"] {
        refused(with(wrong), "mismatch");
    }
}

#[test]
fn a_header_that_no_message_can_carry_is_refused_and_no_usage_error() {
    let finhook = Finhook::new().with("FINHOOK_UNIT_TOKENS", "t");
    let body = finhook.file("body", r#"{"data":[]}"#);
    for value in [&b"X-Unit-Signature: a\nb"[..], b"X-Unit-Signature: a\x7fb", b"X-Unit-Signature: \x01"] {
        let mut command = finhook.command(["explain", "unit", "--json", "--body", body.to_str().unwrap(), "--header"]);
        let output = command.arg(OsString::from_vec(value.to_vec())).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{value:?}");
        let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&explained["verified"], &explained["events"]), (&json!(false), &json!([])));
    }
    // Bytes that are not ASCII are allowed in a header field, and prove nothing.
    let mut command = finhook.command(["explain", "unit", "--json", "--body", body.to_str().unwrap(), "--header"]);
    let output = command.arg(OsString::from_vec(b"X-Unit-Signature: \xff\xfe".to_vec())).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    for usage in ["no colon", ": x", "a b: x"] {
        explain(&finhook, "unit", &body, &["--header", usage]).exits(64);
    }
    explain(&finhook, "unit", &body, &["--at", "yesterday"]).exits(64);
    explain(&Finhook::new(), "unit", &body, &["--header", "X-Unit-Signature: x"]).exits(64);
}

#[test]
fn without_a_header_nothing_is_verified_and_no_configuration_is_needed() {
    // Settings that nobody could start with.
    let finhook = Finhook::new().with("FINHOOK_NO_SUCH", "x").with("DATABASE_URL", "nonsense");
    for case in finhook::fixtures::all().unwrap() {
        // One of each provider's.
        if !matches!(
            case.path().as_str(),
            "plaid/item.error" | "unit/joint-account" | "synapse/node.post" | "auth0/log-stream.ndjson"
        ) {
            continue;
        }
        for body in &case.bodies {
            let said =
                finhook.run_with_input(&["explain", &case.provider, "--body", "-", "--json"], &body.bytes).exits(0);
            let explained = said.json();
            has_its_shape(&explained);
            assert_eq!((&explained["verified"], &explained["reason"]), (&Value::Null, &Value::Null));
            assert!(explained["events"].as_array().unwrap().iter().all(|event| event["dead"].is_null()));
        }
    }
    let body = finhook.file("body", "{\"data\":[{\"id\":\"1\"},7]}");
    let explained = explain(&finhook, "unit", &body, &[]).exits(0).json();
    has_its_shape(&explained);
    let dead: Vec<&str> =
        explained["events"].as_array().unwrap().iter().map(|event| event["dead"].as_str().unwrap()).collect();
    assert_eq!(dead, ["missing_field at /type", "wrong_shape"]);
    finhook.run(&["explain", "unit", "--body", body.to_str().unwrap()]).exits(0);
    finhook.run(&["explain", "unit", "--body", "/no/such/file"]).exits(1);
    assert_eq!(std::fs::read_dir(finhook.folder()).unwrap().count(), 1);
}
