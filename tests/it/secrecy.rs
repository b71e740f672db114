//! Nothing that was sealed is anywhere in the clear: not in the files of SQLite, not in PostgreSQL, not in a broker's queue,
//! not in a log at its most talkative, the libraries' included, not in metrics, spans, answers and pages.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

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

use crate::app::{Keys, SECRETS, TestApp, provider_names};
use crate::cut::Way;
use crate::planted::{self, MARK};
use crate::process::{Finhook, eventually};
use crate::servers::{OwnBroker, OwnDatabase, servers};
use crate::tables::TABLES;
use crate::traces::Collector;

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

/// The log at its most talkative: everything that any library says.
const EVERYTHING: &str = "trace,finhook=trace,lapin=trace,sqlx=trace,hyper=trace,h2=trace,rustls=trace,tower=trace";

/// Tokens of the operators' port.
const OPS_TOKENS: &str = "ops:opstokenmarker7792,app:apptokenmarker7793";

/// That a text holds neither a marker nor a secret nor anything of what was planted in fixtures, as it is or encoded.
#[track_caller]
fn unsaid(what: &str, text: &str) {
    let secrets = SECRETS.iter().skip(2).map(|(_, value)| *value);
    let tokens = ["opstokenmarker7792", "apptokenmarker7793", "collectormarker7794"];
    for marker in MARKERS.into_iter().chain(secrets).chain(tokens).chain([MARK]) {
        // Of base64 only the middle is the same whatever stands before it.
        let middles = [0, 1, 2].map(|skip| STANDARD.encode(&marker.as_bytes()[skip..]));
        let middles = middles.each_ref().map(|text| &text[..text.len() - 6]);
        let bytes = format!("{:?}", marker.as_bytes());
        let forms = [marker, &hex::encode(marker), bytes.trim_matches(['[', ']'])];
        if let Some(at) = forms.into_iter().chain(middles).find_map(|form| text.find(form)) {
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            panic!("{what} says {marker}: {}", text[line..].chars().take(400).collect::<String>());
        }
    }
}

#[test]
fn what_is_planted_would_be_found_in_every_form() {
    assert!(planted::bodies().len() > 500, "every field of every fixture");
    for marker in [MARKERS[5], MARK, SECRETS[2].1] {
        let encoded = ["", "x", "xy"].map(|before| STANDARD.encode(format!("{before}{marker}tail")));
        let forms = [marker.to_owned(), hex::encode(marker), format!("{:?}", marker.as_bytes())];
        for form in forms.into_iter().chain(encoded) {
            let said = std::panic::catch_unwind(|| unsaid("a text", &format!("before\n {form}, after")));
            assert!(said.is_err(), "{marker} as {form}");
        }
    }
    unsaid("a text", "nothing of it");
}

/// Posts a request as it is, and looks at everything that comes back; its status.
async fn post(client: &reqwest::Client, to: &str, signed: &Signed) -> u16 {
    let mut request = client.post(format!("{to}{}", signed.path)).body(signed.body.clone());
    for (name, value) in &signed.headers {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let headers = format!("{:?}", response.headers());
    unsaid("an answer", &format!("{status} {headers} {}", response.text().await.unwrap()));
    status
}

/// Posts to a process, what is accepted and what is not: the deliveries full of markers, then every fixture with every
/// field planted. `disturb` is called on the way. How many have an event at least.
async fn provoke(app: &TestApp, to: &str, mut disturb: impl AsyncFnMut(usize)) -> usize {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let marked = planted().into_iter().map(|(provider, body)| app.signed(provider, body));
    let fields = planted::bodies();
    let fields = fields.iter().map(|(case, body)| app.request(case, body));
    let mut accepted = 0;
    let mut providers = BTreeSet::new();
    app.clock.set(WallClock::system().now());
    for (number, signed) in marked.chain(fields).enumerate() {
        disturb(number).await;
        loop {
            match post(&client, to, &signed).await {
                200 => break,
                // What is proved is taken as soon as somebody is there to take it.
                503 => tokio::time::sleep(Duration::from_millis(50)).await,
                status => panic!("{status} for {}", signed.name),
            }
        }
        // The process goes by the system's clock, and signatures grow old.
        app.clock.set(WallClock::system().now());
        accepted += 1;
        if providers.insert(signed.path.split('/').nth(2).unwrap_or_default().to_owned()) {
            for strange in planted::strange(app, &signed) {
                post(&client, to, &strange).await;
            }
        }
    }
    assert_eq!(providers.len(), provider_names().len());
    accepted
}

/// Every page of the operators' port: for nobody, for operators, and for the product where that is not what it is for.
async fn pages(ops: &str, event: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |path: &str, token: Option<&str>| {
        let request = client.get(format!("{ops}{path}"));
        let request = token.map_or(request.try_clone().unwrap(), |token| request.bearer_auth(token));
        let mut response = request.send().await.unwrap();
        let head = format!("{} {:?}", response.status(), response.headers());
        let mut page = Vec::new();
        // What goes on for ever is looked at for a moment.
        let until = tokio::time::Instant::now() + Duration::from_secs(2);
        while let Ok(Ok(Some(part))) = tokio::time::timeout_at(until, response.chunk()).await {
            page.extend(part);
        }
        (head, page)
    };
    let (head, document) = get("/openapi.json", Some("opstokenmarker7792")).await;
    let described = if head.starts_with("200") { &document[..] } else { b"{}" };
    let document: serde_json::Value = serde_json::from_slice(described).unwrap();
    let described = document["paths"].as_object().into_iter().flatten();
    let described = described.filter(|(_, methods)| methods["get"].is_object()).map(|(path, _)| path.as_str());
    for path in ["/", "/healthz", "/readyz", "/metrics", "/nowhere"].into_iter().chain(described) {
        let parts = path.split('/').map(|part| match part.trim_matches(['{', '}']) {
            name if name == part => name.to_owned(),
            name if name.contains("user") => "u_1".to_owned(),
            name if name.contains("provider") || name.contains("service") => "plaid".to_owned(),
            name if name.contains("subject") || name.contains("external") => "i1".to_owned(),
            _ => event.to_owned(),
        });
        let path = parts.collect::<Vec<_>>().join("/");
        let about_users = ["user", "integration", "account"].iter().any(|what| path.contains(what));
        let roles = [None, Some("opstokenmarker7792"), Some("wrong"), Some("apptokenmarker7793")];
        for token in roles {
            if token == Some("apptokenmarker7793") && about_users {
                continue; // The product reads there what it stored.
            }
            let (head, page) = get(&path, token).await;
            clean(&format!("the head of {path} for {token:?}"), head.as_bytes());
            clean(&format!("{path} for {token:?}"), &page);
        }
    }
}

/// That what a process exports says nothing of it, and that it exports at all.
async fn spans_say_nothing(collector: &Collector) {
    let bodies = collector.bodies().await;
    assert!(!bodies.is_empty(), "spans are exported");
    bodies.iter().for_each(|body| unsaid("an export of spans", &String::from_utf8_lossy(body)));
}

/// The settings under which everything is said that can be said.
fn talkative(finhook: Finhook, collector: &Collector) -> Finhook {
    finhook
        .with("FINHOOK_LOG", EVERYTHING)
        .with("FINHOOK_OPS_TOKENS", OPS_TOKENS)
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address())
        .with("OTEL_EXPORTER_OTLP_HEADERS", "x-key=collectormarker7794")
        .with("OTEL_BSP_SCHEDULE_DELAY", "100")
}

/// The ids of all events, once everything that was accepted is worked off: nothing is in the queues any more.
async fn worked_off(finhook: &Finhook) -> Vec<String> {
    eventually("everything is worked off", async || {
        let queues = finhook.run(&["queues", "--json"]).exits(0).json_lines();
        queues.iter().all(|queue| queue["ready"] == json!(0) && queue["unacked"].as_u64().unwrap_or(0) == 0)
    })
    .await;
    let listed = finhook.run(&["events", "list", "--json"]).exits(0);
    clean("the events", listed.out.as_bytes());
    listed.json_lines().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_process_at_its_most_talkative_says_nothing_of_it_anywhere() {
    let collector = Collector::start().await;
    let finhook = SECRETS.iter().fold(Finhook::new(), |all, (name, value)| all.with(name, *value));
    let finhook = talkative(finhook, &collector);
    let data = finhook.folder().join("finhook-data");
    let app = TestApp::embedded_in(&data, &SECRETS).await;
    let serving = finhook.serve(&[]);
    let accepted = provoke(&app, &serving.public, async |_| {}).await;
    let token = finhook.file("token", "access-marker-7784");
    let linked = finhook
        .run(&["link", "plaid", "i1", "--user", "u_1", "--authorization-id-file", token.to_str().unwrap()])
        .exits(0);
    let events = worked_off(&finhook).await;
    assert!(events.len() > accepted / 2, "{} events of {accepted} deliveries", events.len());
    let accounts = finhook.run(&["accounts", "--user", "u_1", "--json"]).exits(0);
    let check = finhook.run(&["check", "--json"]);
    for said in [&linked, &accounts, &check] {
        clean("a command's output", said.out.as_bytes());
        unsaid("a command's log", &said.err);
    }
    let metrics = reqwest::get(format!("{}/metrics", serving.ops)).await.unwrap().text().await.unwrap();
    unsaid("the metrics", &metrics);
    pages(&serving.ops, &events[0]).await;
    let (status, log) = serving.terminate();
    assert!(status.success() && log.contains("not accepted") && log.contains("\"hyper"), "it is talkative");
    unsaid("the log", &log);
    spans_say_nothing(&collector).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receiver_and_worker_at_their_most_talkative_say_nothing_of_it_whatever_is_cut_or_killed() {
    let Some(servers) = servers("logs of receiver and worker") else { return };
    let (database, broker) = (OwnDatabase::new(&servers.database).await, OwnBroker::new(&servers.amqp));
    let (to_broker, to_database) = (Way::to(&broker.url).await, Way::to(&database.url).await);
    let collector = Collector::start().await;
    let finhook = Finhook::new();
    let keys = Keys::fresh(finhook.folder());
    let app = TestApp::embedded_with_keys(&keys).await;
    let finhook = talkative(finhook.with_all(&keys.settings), &collector)
        .with("DATABASE_URL", format!("{}?passwort=queryvaluemarker7790", to_database.url))
        .with("AMQP_URL", to_broker.url.clone())
        .with("FINHOOK_AMQP_PREFIX", broker.prefix.clone());
    finhook.run(&["migrate", "up"]).exits(0);
    let (receiver, worker) = (finhook.serve(&["--only", "receiver"]), finhook.serve(&["--only", "worker"]));
    let client = reqwest::Client::new();
    eventually("the receiver has its broker", || async {
        client.get(format!("{}/readyz", receiver.ops)).send().await.unwrap().status() == 200
    })
    .await;
    let (mut workers, mut logs) = (vec![worker], Vec::new());
    let disturb = async |number: usize| match number {
        50 | 150 => to_broker.cut(),
        100 | 200 => to_database.cut(),
        120 => {
            let worker = workers.pop().unwrap();
            logs.push(worker.log());
            worker.kill();
            workers.push(finhook.serve(&["--only", "worker"]));
        }
        _ => {}
    };
    let accepted = provoke(&app, &receiver.public, disturb).await;
    let events = worked_off(&finhook).await;
    assert!(events.len() > accepted / 2, "{} events of {accepted} deliveries", events.len());
    let worker = workers.pop().unwrap();
    for served in [&receiver, &worker] {
        pages(&served.ops, &events[0]).await;
    }
    for served in [receiver, worker] {
        let (status, log) = served.terminate();
        assert!(status.success(), "{}", &log[log.len().saturating_sub(2_000)..]);
        logs.push(log);
    }
    assert!(logs.iter().any(|log| log.contains("lost the broker")));
    logs.iter().for_each(|log| unsaid("a log", log));
    spans_say_nothing(&collector).await;
}
