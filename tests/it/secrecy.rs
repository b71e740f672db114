//! Nothing that was sealed is anywhere in the clear: not in the files of SQLite, not in PostgreSQL, not in a broker's queue,
//! not in a log at its most talkative.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use finhook::cli::posting::{Answer, Signed};
use finhook::domain::{UserId, WallClock};
use finhook::pipeline::settle::Settler;
use finhook::providers;
use finhook::store::{Batch, Link};
use http::{HeaderName, HeaderValue};
use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::{Connection, ConnectionProperties};
use secrecy::SecretString;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::{Keys, SECRETS, TestApp};
use crate::process::{Finhook, eventually};
use crate::servers::{OwnBroker, OwnDatabase, servers};
use crate::tables::TABLES;

/// What must be found nowhere: account ids, tokens, personal data, whatever an attacker would look for.
const MARKERS: [&str; 12] = [
    "acctmarkerunit7781",
    "acctmarkerplaid7782",
    "acctmarkernode7783",
    "access-marker-7784",
    "721-07-4426",
    "privatemail7785@example.net",
    "Marker Street 7786",
    "refreshmarker7787",
    "headermarker7788",
    "brokenmarker7789",
    "queryvaluemarker7790",
    "nicknamemarker7791",
];

/// Where one of them is in some bytes, as it is or encoded.
fn found(bytes: &[u8]) -> Option<&'static str> {
    let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    MARKERS.into_iter().chain(SECRETS.iter().skip(2).map(|(_, value)| *value)).find(|marker| {
        // Of base64 only the middle is the same whatever stands before it.
        let middles = (0..3).map(|skip| {
            let text = STANDARD.encode(&marker.as_bytes()[skip..]);
            text[..text.len() - 6].to_owned().into_bytes()
        });
        holds(marker.as_bytes()) || holds(hex::encode(marker).as_bytes()) || middles.into_iter().any(|it| holds(&it))
    })
}

#[track_caller]
fn clean(what: &str, bytes: &[u8]) {
    if let Some(marker) = found(bytes) {
        panic!("{what} holds {marker} in the clear");
    }
}

/// Deliveries full of what must stay hidden. Subjects, kinds, users and an Auth0 user's address are clear by design.
fn planted() -> Vec<(&'static str, String)> {
    let [unit, plaid, node, _, ssn, mail, street, refresh, header, broken, query, nickname] = MARKERS;
    let customer = json!({ "customer": { "data": { "id": "c1", "type": "individualCustomer" } } });
    let account =
        json!({ "customer": customer["customer"], "account": { "data": { "id": unit, "type": "depositAccount" } } });
    let data = json!([
        { "id": "e1", "type": "customer.created", "attributes": { "tags": { "userId": "u_1", "more": header }, "ssn": ssn, "email": mail }, "relationships": customer },
        { "id": "e2", "type": "account.created", "attributes": { "address": street }, "relationships": account },
        { "id": "e3", "type": "payment.sent", "attributes": { "counterparty": { "name": nickname, "url": query } }, "relationships": account },
        { "id": "e4", "type": "account.closed", "attributes": { "closeReason": "ByCustomer" }, "relationships": customer, "lost": broken },
        { "id": 5, "type": "customer.created", "ssn": ssn },
    ]);
    let included = json!([{ "type": "individualCustomer", "attributes": { "ssn": ssn, "email": mail } }]);
    vec![
        ("unit", json!({ "data": data, "included": included }).to_string()),
        ("unit", format!("{{\"data\":[{{\"id\":\"{broken}")),
        ("unit", format!("not json {ssn} {mail}")),
        ("plaid", json!({ "webhook_type": "AUTH", "webhook_code": "AUTOMATICALLY_VERIFIED", "item_id": "i1", "account_id": plaid }).to_string()),
        ("plaid", json!({ "webhook_type": "AUTH", "webhook_code": "DEFAULT_UPDATE", "item_id": "i1", "account_ids_with_updated_auth": { plaid: [street] } }).to_string()),
        ("plaid", json!({ "webhook_type": "LINK", "webhook_code": "SESSION_FINISHED", "public_tokens": [query] }).to_string()),
        ("synapse", json!({ "_id": { "$oid": "s1" }, "_rest": { "permission": "SEND", "refresh_token": refresh, "logins": [{ "email": mail }], "extra": { "supp_id": "u_1" } }, "webhook_meta": { "function": "USERS|POST", "log_id": "l1" } }).to_string()),
        ("synapse", json!({ "_id": { "$oid": node }, "_rest": { "user_id": "s1", "allowed": "CREDIT", "info": { "nickname": nickname } }, "webhook_meta": { "function": "NODES|POST", "log_id": "l2" } }).to_string()),
        ("auth0", json!({ "log_id": "a1", "data": { "type": "s", "user_id": "auth0|1", "details": { "ssn": ssn, "prompts": [query] } } }).to_string()),
        ("auth0", format!("{{\"log_id\":\"a2\",\"data\":{{\"type\":\"ss\",\"{broken}\"}}}}")),
    ]
}

/// Posts all of it, with more in header fields that nobody asked for, and some that is refused.
async fn plant(app: &TestApp) {
    app.ready().await;
    let extra = |signed: Signed| {
        let mut signed = signed;
        signed.headers.push((HeaderName::from_static("x-more"), HeaderValue::from_static("headermarker7788")));
        signed
    };
    for (provider, body) in planted() {
        assert_eq!(app.send(&extra(app.signed(provider, body.clone()))).await, Answer::Accepted);
        let mut tampered = extra(app.signed(provider, body));
        tampered.headers[0].1 = HeaderValue::from_static("queryvaluemarker7790");
        assert_eq!(app.send(&tampered).await, Answer::Status(401));
    }
    let bound = app.signed_for(
        "u_1",
        json!({ "webhook_type": "ITEM", "webhook_code": "LOGIN_REPAIRED", "item_id": "i1" }).to_string(),
    );
    assert_eq!(app.send(&extra(bound)).await, Answer::Accepted);
}

async fn link(app: &TestApp) {
    let link = Link {
        provider: providers::find("plaid").unwrap().name,
        subject: "i1".to_owned(),
        user: UserId("u_1".to_owned()),
        email: None,
        authorization_id: Some(SecretString::from("access-marker-7784")),
        at: app.clock.now(),
    };
    let settler = Settler::new(app.store.clone(), app.desk.clone(), CancellationToken::new());
    settler.commit(&Batch { links: vec![link], ..Batch::default() }).await.unwrap();
}

/// That the hidden is there all the same: opened, it is what went in.
async fn it_is_there(app: &TestApp) {
    let rows = app.rows().await;
    let accounts: Vec<&str> = rows.accounts.keys().map(|(_, _, id)| id.as_str()).collect();
    assert_eq!(accounts, ["acctmarkerplaid7782", "acctmarkernode7783", "acctmarkerunit7781"]);
    let item = &rows.integrations[&("plaid".to_owned(), "i1".to_owned())];
    assert_eq!(item["authorization_id"].as_deref(), Some("access-marker-7784"));
    assert!(rows.in_state("dead") >= 5, "{:?}", app.dead().await);
}

/// Every file of a folder but the keys, which are the secret by which all others are kept.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| !path.ends_with("secrets.toml"));
    files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

#[tokio::test]
async fn the_files_of_the_embedded_application_hold_nothing_in_the_clear() {
    let app = TestApp::embedded_with(&SECRETS).await;
    let data = app.folder.path().join("data");
    plant(&app).await;
    let queued = files(&data);
    assert!(queued.iter().any(|(name, bytes)| name.contains("queue.db") && bytes.len() > 4_000));
    queued.iter().for_each(|(name, bytes)| clean(name, bytes));
    app.drain().await;
    link(&app).await;
    it_is_there(&app).await;
    let stored = files(&data);
    assert!(
        stored.iter().any(|(name, _)| name.ends_with("finhook.db-wal")),
        "the log beside the file is looked at too"
    );
    stored.iter().for_each(|(name, bytes)| clean(name, bytes));
}

#[tokio::test]
async fn queue_and_tables_of_the_full_application_hold_nothing_in_the_clear() {
    let Some(app) = TestApp::full("secrecy on PostgreSQL and RabbitMQ").await else { return };
    // Its own consumer must not have the messages: this one looks first.
    let broker = app.broker.as_ref().unwrap();
    app.ready().await;
    app.give_back().await;
    plant_without_consumer(&app).await;
    let connection = Connection::connect(&broker.url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut seen = 0;
    for queue in broker.topology().queues() {
        while let Some(message) =
            channel.basic_get(queue.name.clone().into(), BasicGetOptions::default()).await.unwrap()
        {
            seen += 1;
            clean("a message", &message.delivery.data);
            clean("a message's properties", format!("{:?}", message.delivery.properties).as_bytes());
        }
    }
    assert_eq!(seen, planted().len() + 1);
    let all = BasicNackOptions { multiple: true, requeue: true };
    channel.basic_nack(0, all).await.unwrap();
    connection.close(200, "seen".into()).await.unwrap();
    app.drain().await;
    link(&app).await;
    it_is_there(&app).await;
    for table in TABLES {
        for row in app.tables.all(table).await {
            for (column, value) in row {
                let Some(text) = value else { continue };
                clean(&format!("{table}.{column}"), text.as_bytes());
                if let Ok(bytes) = hex::decode(&text) {
                    clean(&format!("{table}.{column}"), &bytes);
                }
                if let Some(bytes) = text.strip_prefix("fh1.").map(|text| URL_SAFE_NO_PAD.decode(text).unwrap()) {
                    clean(&format!("{table}.{column}"), &bytes);
                }
            }
        }
    }
}

/// Posts while nobody consumes.
async fn plant_without_consumer(app: &TestApp) {
    for (provider, body) in planted() {
        assert_eq!(app.send(&app.signed(provider, body)).await, Answer::Accepted);
    }
    let body = json!({ "webhook_type": "ITEM", "webhook_code": "LOGIN_REPAIRED", "item_id": "i1" }).to_string();
    assert_eq!(app.send(&app.signed_for("u_1", body)).await, Answer::Accepted);
}

/// Posts to a process, what is accepted and what is not.
async fn provoke(app: &TestApp, to: &str) -> u64 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    // The process goes by the system's clock.
    app.clock.set(WallClock::system().now());
    let mut accepted = 0;
    for (provider, body) in planted() {
        let good = app.signed(provider, body);
        let mut tampered = good.clone();
        tampered.headers[0].1 = HeaderValue::from_static("queryvaluemarker7790");
        let wrong_token =
            Signed { path: "/webhooks/plaid/headermarker7788?x=queryvaluemarker7790".to_owned(), ..good.clone() };
        let nowhere = Signed { path: "/webhooks/headermarker7788".to_owned(), ..good.clone() };
        for signed in [&good, &tampered, &wrong_token, &nowhere] {
            let mut request = client.post(format!("{to}{}", signed.path)).body(signed.body.clone());
            for (name, value) in &signed.headers {
                request = request.header(name, value);
            }
            request = request.header("x-more", "headermarker7788").header("user-agent", "headermarker7788");
            accepted += u64::from(request.send().await.unwrap().status() == 200);
        }
    }
    accepted
}

#[tokio::test]
async fn the_log_of_the_embedded_process_at_its_most_talkative_says_nothing_of_it() {
    let finhook =
        SECRETS.iter().fold(Finhook::new(), |all, (name, value)| all.with(name, *value)).with("FINHOOK_LOG", "trace");
    let data = finhook.folder().join("finhook-data");
    let app = TestApp::embedded_in(&data, &SECRETS).await;
    let serving = finhook.serve(&[]);
    assert_eq!(provoke(&app, &serving.public).await, planted().len() as u64);
    let token = finhook.file("token", "access-marker-7784");
    let linked = finhook
        .run(&["link", "plaid", "i1", "--user", "u_1", "--authorization-id-file", token.to_str().unwrap()])
        .exits(0);
    let expected = 14;
    eventually("every event has its row", || async {
        finhook.run(&["events", "list", "--json"]).exits(0).json_lines().len() >= expected
    })
    .await;
    let events = finhook.run(&["events", "list", "--json"]).exits(0);
    let accounts = finhook.run(&["accounts", "--user", "u_1", "--json"]).exits(0);
    let check = finhook.run(&["check", "--json"]);
    for said in [&linked, &events, &accounts, &check] {
        clean("a command's output", said.out.as_bytes());
        clean("a command's log", said.err.as_bytes());
    }
    let metrics = reqwest::get(format!("{}/metrics", serving.ops)).await.unwrap().text().await.unwrap();
    clean("the metrics", metrics.as_bytes());
    let (status, log) = serving.terminate();
    assert!(status.success() && log.contains("not accepted"), "{log}");
    clean("the log", log.as_bytes());
}

#[tokio::test]
async fn the_logs_of_receiver_and_worker_at_their_most_talkative_say_nothing_of_it() {
    let Some(servers) = servers("logs of receiver and worker") else { return };
    let (database, broker) = (OwnDatabase::new(&servers.database).await, OwnBroker::new(&servers.amqp));
    let finhook = Finhook::new();
    let keys = Keys::fresh(finhook.folder());
    let app = TestApp::embedded_with_keys(&keys).await;
    let finhook =
        finhook.with_all(&keys.settings).with("FINHOOK_LOG", "trace").with("DATABASE_URL", database.url.clone());
    let finhook = finhook.with("AMQP_URL", broker.url.clone()).with("FINHOOK_AMQP_PREFIX", broker.prefix.clone());
    finhook.run(&["migrate", "up"]).exits(0);
    let (receiver, worker) = (finhook.serve(&["--only", "receiver"]), finhook.serve(&["--only", "worker"]));
    let client = reqwest::Client::new();
    eventually("the receiver has its broker", || async {
        client.get(format!("{}/readyz", receiver.ops)).send().await.unwrap().status() == 200
    })
    .await;
    assert_eq!(provoke(&app, &receiver.public).await, planted().len() as u64);
    eventually("every event has its row", || async {
        finhook.run(&["events", "list", "--json"]).exits(0).json_lines().len() >= 14
    })
    .await;
    for served in [receiver, worker] {
        let (status, log) = served.terminate();
        assert!(status.success(), "{log}");
        clean("a log", log.as_bytes());
    }
}
