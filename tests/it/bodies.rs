//! A verified delivery is never refused for its content: what cannot be read is a dead event with a reason, and the rest of
//! its batch applies.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::app::{TestApp, provider_names};

/// What no provider sends; each is one dead event.
fn hostile() -> Vec<Vec<u8>> {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    let mut bodies: Vec<Vec<u8>> = [
        &b""[..],
        b" \r\n\t ",
        b"\xff\xfe\x00",
        b"{\"a\":\"\xc3\x28\"}",
        b"null",
        b"true",
        b"17",
        b"1e999",
        b"\"text\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b"{\"a\":",
        b"nul",
        b"\"",
        b"\\",
        b",",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b"<xml/>",
        b"\0",
    ]
    .map(<[u8]>::to_vec)
    .into();
    bodies.push(deep("{\"a\":", "").into_bytes());
    bodies.push(deep("{\"a\":[", "").into_bytes());
    bodies.push(format!("{{\"a\":{}}}", deep("[", "]")).into_bytes());
    bodies.push(format!("{{\"a\":{}", deep("[", "]")).into_bytes());
    bodies
}

#[tokio::test]
async fn what_cannot_be_read_at_all_is_one_dead_event_with_a_reason_of_ours() {
    for provider in provider_names() {
        let app = TestApp::embedded().await;
        let mut distinct = BTreeSet::new();
        for body in hostile() {
            distinct.insert(if provider == "plaid" { body.clone() } else { body.trim_ascii().to_vec() });
            app.accept(provider, body).await;
        }
        app.drain().await;
        let rows = app.rows().await;
        assert_eq!((rows.in_state("dead"), rows.events.len()), (distinct.len(), distinct.len()), "{provider}");
        assert!(rows.users.is_empty() && rows.integrations.is_empty() && rows.accounts.is_empty());
        let ours = ["empty", "not_utf8", "not_json", "wrong_shape", "missing_field"];
        for reason in app.dead().await {
            assert!(ours.contains(&reason.split(' ').next().unwrap()), "{provider}: {reason}");
        }
        // And it goes on: what can be read is applied.
        app.link("plaid", "i1", "u_1").await;
        app.accept("plaid", r#"{"webhook_type":"ITEM","webhook_code":"LOGIN_REPAIRED","item_id":"i1"}"#).await;
        app.drain().await;
        assert_eq!(app.rows().await.in_state("applied"), 1);
    }
}

#[tokio::test]
async fn a_batch_of_nothing_is_no_event() {
    let app = TestApp::embedded().await;
    for (provider, body) in [
        ("unit", r#"{"data":[]}"#),
        ("unit", r#"{ "data" : [ ] , "included":[{}]}"#),
        ("auth0", "[]"),
        ("auth0", r#"{"logs":[]}"#),
    ] {
        app.accept(provider, body).await;
    }
    app.drain().await;
    assert!(app.events().await.is_empty());
}

#[tokio::test]
async fn data_that_is_no_array_and_logs_that_are_none_are_dead() {
    let app = TestApp::embedded().await;
    let unit = [
        r#"{"data":null}"#,
        r#"{"data":{"id":"1","type":"customer.created"}}"#,
        r#"{"data":"x"}"#,
        r#"{"data":7}"#,
        "{}",
    ];
    let auth0 =
        [r#"{"logs":null}"#, r#"{"logs":{}}"#, r#"{"log_id":"1","data":null}"#, r#"{"log_id":"2","data":[]}"#, "{}"];
    let synapse = ["{}", r#"{"_rest":null,"webhook_meta":null}"#, r#"{"webhook_meta":[]}"#];
    let plaid = [
        "{}",
        r#"{"webhook_type":"ITEM"}"#,
        r#"{"webhook_type":null,"webhook_code":null}"#,
        r#"{"webhook_type":7,"webhook_code":8}"#,
    ];
    let mut sent = 0;
    for (provider, bodies) in [("unit", &unit[..]), ("auth0", &auth0), ("synapse", &synapse), ("plaid", &plaid)] {
        for body in bodies {
            app.accept(provider, *body).await;
            sent += 1;
        }
    }
    app.drain().await;
    assert_eq!((app.rows().await.in_state("dead"), app.events().await.len()), (sent, sent));
}

fn customer(number: usize) -> Value {
    json!({
        "id": format!("e{number}"), "type": "customer.created",
        "attributes": { "createdAt": "2026-11-20T10:00:00.000Z", "tags": { "userId": format!("u_{number}") } },
        "relationships": { "customer": { "data": { "id": format!("c{number}"), "type": "individualCustomer" } } },
    })
}

/// What can be wrong with one event of a batch without taking its neighbours with it.
fn broken() -> Vec<Vec<u8>> {
    let good = customer(7);
    let without = |field: &str| {
        let mut event = good.clone();
        event.as_object_mut().unwrap().remove(field);
        event
    };
    let with = |path: &str, value: Value| {
        let mut event = good.clone();
        *event.pointer_mut(path).unwrap() = value;
        event
    };
    let long = "x".repeat(201);
    let mut all: Vec<Vec<u8>> = [
        json!(null),
        json!(true),
        json!(7),
        json!("text"),
        json!([]),
        json!({}),
        without("id"),
        without("type"),
        with("/id", json!(7)),
        with("/id", json!(null)),
        with("/id", json!("")),
        with("/id", json!("a\u{0}b")),
        with("/id", json!(long)),
        with("/type", json!("customer\u{0}")),
        with("/type", json!(7)),
        with("/type", json!(long)),
        with("/relationships/customer/data/id", json!(7)),
        with("/relationships/customer/data/id", json!("c\u{0}")),
        with("/attributes/tags/userId", json!("u\u{0}")),
        json!({ "id": "e7", "type": "account.created", "relationships": good["relationships"] }),
    ]
    .map(|value| value.to_string().into_bytes())
    .into();
    let text = good.to_string();
    all.push(text.replace("\"type\":", "\"type\"").into_bytes());
    all.push(text.replace("\"id\":\"e7\"", "\"id\":e7").into_bytes());
    all.push(text.replace("\"e7\"", "\"\\ud800\"").into_bytes());
    all.push([text.replace("e7", "e").as_bytes(), b"garbage"].concat());
    let at = text.find("u_7").unwrap();
    all.push([&text.as_bytes()[..at], b"\xff\xfe", &text.as_bytes()[at..]].concat());
    all.push(b"{\"id\":nul}".to_vec());
    all
}

#[tokio::test]
async fn a_batch_whose_seventh_event_is_broken_applies_the_other_nine() {
    let app = TestApp::embedded().await;
    for (round, seventh) in broken().into_iter().enumerate() {
        app.tables.clear().await;
        let events: Vec<Vec<u8>> = (1..=10)
            .map(|number| if number == 7 { seventh.clone() } else { customer(number).to_string().into_bytes() })
            .collect();
        let body = [b"{\"data\":[", &events.join(&b","[..])[..], b"],\"included\":[]}"].concat();
        app.accept("unit", body).await;
        app.drain().await;
        let rows = app.rows().await;
        let shown = String::from_utf8_lossy(&seventh).into_owned();
        assert_eq!(
            (rows.in_state("applied"), rows.in_state("dead"), rows.events.len()),
            (9, 1, 10),
            "{round}: {shown}"
        );
        assert_eq!((rows.integrations.len(), rows.users.len()), (9, 9), "{round}: {shown}");
        assert!(app.dead().await.iter().all(|reason| !reason.is_empty()));
    }
}

#[tokio::test]
async fn a_batch_that_breaks_off_in_its_seventh_event_applies_the_six_before() {
    let app = TestApp::embedded().await;
    let whole = customer(7).to_string();
    for cut in [0, 1, 5, 20, whole.len() - 1] {
        app.tables.clear().await;
        let before: Vec<String> = (1..=6).map(|number| customer(number).to_string()).collect();
        app.accept("unit", format!("{{\"data\":[{},{}", before.join(","), &whole[..cut])).await;
        app.drain().await;
        let rows = app.rows().await;
        assert_eq!((rows.in_state("applied"), rows.in_state("dead")), (6, 1), "cut at {cut}");
    }
}

#[tokio::test]
async fn one_bad_line_of_a_log_stream_is_one_dead_event() {
    let entry = |number: usize| {
        let data = json!({ "type": "ss", "user_id": format!("auth0|{number}"), "date": "2026-11-20T10:00:00.000Z" });
        json!({ "log_id": format!("l{number}"), "data": data }).to_string()
    };
    let bad = [
        "null",
        "7",
        "{}",
        r#"{"log_id":"l7"}"#,
        r#"{"log_id":7,"data":{"type":"ss"}}"#,
        r#"{"log_id":"l7","data":{"type":"ss","user_id":7}}"#,
        r#"{"log_id":"a\u0000","data":{"type":"ss"}}"#,
        r#"{"log_id" "l7"}"#,
    ];
    let app = TestApp::embedded().await;
    for bad in bad {
        let lines: Vec<String> =
            (1..=10).map(|number| if number == 7 { bad.to_owned() } else { entry(number) }).collect();
        for body in [
            lines.join("\n"),
            lines.join("\r\n"),
            format!("[{}]", lines.join(",")),
            format!("{{\"logs\":[{}]}}", lines.join(", ")),
        ] {
            app.tables.clear().await;
            app.accept("auth0", body).await;
            app.drain().await;
            let rows = app.rows().await;
            assert_eq!((rows.in_state("applied"), rows.in_state("dead"), rows.events.len()), (9, 1, 10), "{bad}");
        }
    }
}

#[tokio::test]
async fn numbers_out_of_range_and_nul_in_free_text_are_no_reason_to_die() {
    let app = TestApp::embedded().await;
    let numbers = r#"{"balance":1e999,"x":-99999999999999999999999999999999,"y":1.7976931348623157e309,"createdAt":"#;
    for (number, at) in
        [r#""99999-01-01T00:00:00Z""#, "99999999999999999999", r#""not a time""#, "null", r#""2026-13-40T99:99:99Z""#]
            .iter()
            .enumerate()
    {
        let event = customer(number).to_string();
        let event = event.replacen(r#"{"createdAt":"2026-11-20T10:00:00.000Z""#, &format!("{numbers}{at}"), 1);
        assert!(event.contains("1e999"));
        app.accept("unit", format!("{{\"data\":[{event}]}}")).await;
    }
    for (number, date) in ["1e400", "99999999999999999999999", "-1", r#"{"$numberLong":"1622725269123"}"#, "null", "[]"]
        .iter()
        .enumerate()
    {
        let body = format!(
            r#"{{"_id":{{"$oid":"s{number}"}},"_rest":{{"permission":"SEND","extra":{{"supp_id":"u_s"}},"n":1e999}},"webhook_meta":{{"function":"USERS|POST","log_id":"s{number}","date":{{"$date":{date}}}}}}}"#
        );
        app.accept("synapse", body).await;
    }
    app.accept("auth0", r#"{"log_id":"n","data":{"type":"ss","user_id":"auth0|n","user_name":"a\u0000@example.com","date":"2026-11-20","x":1e999}}"#).await;
    app.accept("plaid", "{\n  \"item_id\": \"i\",\n  \"new_transactions\": 1e999,\n  \"webhook_code\": \"SYNC_UPDATES_AVAILABLE\",\n  \"webhook_type\": \"TRANSACTIONS\"\n}").await;
    let closed = json!({ "id": "nul", "type": "account.closed", "attributes": { "closeReason": "By\u{0}Customer" },
        "relationships": { "customer": { "data": { "id": "c0" } }, "account": { "data": { "id": "a1" } } } });
    app.accept("unit", json!({ "data": [closed] }).to_string()).await;
    app.drain().await;
    let rows = app.rows().await;
    assert_eq!((rows.in_state("dead"), rows.in_state("applied"), rows.in_state("unlinked")), (0, 13, 1));
    let account = &rows.accounts[&("unit".to_owned(), "c0".to_owned(), "a1".to_owned())];
    assert_eq!(account["status_reason"].as_deref(), Some("By\u{fffd}Customer"));
    // No time that can be used: that of receipt counts.
    let noon = crate::app::noon().micros().to_string();
    for id in ["e0", "e1", "e2", "e3", "e4"] {
        assert_eq!(rows.events[&("unit".to_owned(), hex::encode(id))]["occurred_at"].as_deref(), Some(&*noon), "{id}");
    }
}

#[tokio::test]
async fn a_batch_of_900_kilobytes_is_taken_whole() {
    let app = TestApp::embedded().await;
    let events: Vec<String> = (0..64)
        .map(|number| {
            let mut event = customer(number);
            event["attributes"]["padding"] = "0123456789abcdef".repeat(875).into();
            event.to_string()
        })
        .collect();
    let body = format!("{{\"data\":[{}]}}", events.join(","));
    assert!((880_000..950_000).contains(&body.len()), "{}", body.len());
    app.accept("unit", body).await;
    app.drain().await;
    let rows = app.rows().await;
    assert_eq!((rows.in_state("applied"), rows.integrations.len(), rows.users.len()), (64, 64, 64));
}
