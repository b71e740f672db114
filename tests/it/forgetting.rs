//! Forgetting a user while their deliveries are everywhere: in the queue, in the tables, on their way through again.

use finhook::domain::{Cause, EventState, UserId};
use finhook::store::Failed;
use finhook::store::audit::{About, Act, AuditEntry};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::app::TestApp;
use crate::commands::{played, settled};
use crate::process::{Finhook, eventually};
use crate::servers::{OwnBroker, amqp_server};

const USERS: usize = 8;

/// Deliveries of all four providers about a user; `n` tells those of one user apart.
fn about(user: usize, n: usize) -> Vec<(&'static str, String)> {
    let (id, customer) = (format!("u_forget{user}"), format!("unitcustomer{user}"));
    let relationships = json!({
        "customer": { "data": { "id": customer, "type": "customer" } },
        "account": { "data": { "id": format!("unitaccount{user}x{n}"), "type": "account" } },
    });
    let unit = json!({ "data": [
        { "id": format!("unitevent{user}x{n}a"), "type": "customer.created", "attributes": { "tags": { "userId": id } },
          "relationships": relationships },
        { "id": format!("unitevent{user}x{n}b"), "type": "account.created", "relationships": relationships },
        { "id": format!("unitevent{user}x{n}c"), "type": "payment.sent", "relationships": relationships },
        { "type": "account.created", "relationships": relationships },
    ] });
    let synapse = json!({
        "_id": { "$oid": format!("synapseuser{user}") }, "_rest": { "permission": "SEND", "extra": { "supp_id": id } },
        "webhook_meta": { "function": "USERS|PATCH", "log_id": format!("synapselog{user}x{n}") },
    });
    let auth0 = json!({
        "specversion": "1.0", "id": format!("authevent{user}x{n}"), "type": "user.created",
        "data": { "object": { "user_id": format!("auth0|forget{user}"), "email": format!("forget{user}@example.com"),
                              "app_metadata": { "external_user_id": id } } },
    });
    vec![("unit", unit.to_string()), ("synapse", synapse.to_string()), ("auth0", auth0.to_string())]
}

/// To the bound URL of the user: an item's event, and one that names no item.
fn bound(n: usize, user: usize) -> [String; 2] {
    let item = json!({ "webhook_type": "ITEM", "webhook_code": "LOGIN_REPAIRED", "item_id": format!("plaiditem{user}"), "n": n });
    let none =
        json!({ "webhook_type": "LINK", "webhook_code": "SESSION_FINISHED", "link_session_id": format!("{user}x{n}") });
    [item.to_string(), none.to_string()]
}

async fn post(app: &TestApp, user: usize, n: usize) {
    for (provider, body) in about(user, n) {
        app.accept(provider, body).await;
    }
    for body in bound(n, user) {
        let signed = app.signed_for(&format!("u_forget{user}"), body);
        assert_eq!(app.send(&signed).await, finhook::cli::posting::Answer::Accepted);
    }
}

/// Everything that stands in the tables in the clear, and every payload that opens.
async fn everything(app: &TestApp) -> String {
    let mut text = String::new();
    for table in ["user", "integration", "account", "event", "audit", "tombstone"] {
        for row in app.tables.all(table).await {
            for (column, value) in row {
                // A dedup key that is the provider's own id is text.
                let value = value.unwrap_or_default();
                let id = (column == "dedup_key")
                    .then(|| hex::decode(&value).ok().and_then(|key| String::from_utf8(key).ok()));
                text.push_str(&id.flatten().unwrap_or(value));
                text.push('\n');
            }
        }
    }
    for row in app.events().await {
        let (row, payload) = app.store.event(row.id).await.unwrap().unwrap();
        let stored = finhook::store::StoredEvent {
            id: row.id,
            provider: row.provider,
            dedup_key: row.dedup_key,
            attempts: row.attempts,
            payload,
        };
        if let Ok(delivery) = app.desk.open(&stored) {
            text.push_str(&String::from_utf8_lossy(&delivery.bytes));
            text.push_str(delivery.proof.user.as_ref().map_or("", UserId::as_str));
        }
    }
    text
}

async fn forget(app: &TestApp, user: usize) {
    let user = UserId(format!("u_forget{user}"));
    let entry = AuditEntry::new("os:test", Act::Forget).about(About::User(user.clone()));
    app.store.forget(&user, &entry).await.unwrap();
    while app.store.forget_events(50).await.unwrap().is_some() {}
}

async fn nothing_is_left_of_a_user_forgotten_under_load(app: &TestApp) {
    for user in 0..USERS {
        post(app, user, 0).await;
    }
    app.drain().await;
    // Two are on another try while they are forgotten: one of user 0, of whom there are rows, one of somebody else.
    for user in [0, 1] {
        let body = &about(user, 99)[0].1;
        let delivery = finhook::providers::unproved(
            finhook::providers::find("unit").unwrap(),
            app.clock.now(),
            finhook::domain::Proof::default(),
            body.clone().into(),
        );
        let failed: Vec<Failed> = app
            .desk
            .events_of(&delivery)
            .into_iter()
            .take(2)
            .map(|arriving| Failed {
                arriving,
                state: EventState::Retrying,
                reason: Cause::StoreFailed.as_str().to_owned(),
                attempts: 1,
                next_attempt_at: Some(app.clock.now()),
            })
            .collect();
        app.store.set_aside(&failed).await.unwrap();
    }
    // Queued and not yet worked on; user 7 was never seen before.
    for n in 1..4 {
        for user in [0, 1, 2, 9] {
            post(app, user, n).await;
        }
    }
    let forgetting = async {
        forget(app, 0).await;
        forget(app, 9).await;
    };
    tokio::join!(app.drain(), forgetting);
    // The providers send all of it again.
    for user in [0, 9] {
        post(app, user, 1).await;
    }
    app.drain().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let sweeper = finhook::pipeline::sweep::Sweeper::new(app.store.clone(), app.desk.clone(), 90, stop);
    sweeper.everything().await.unwrap();
    while app.store.forget_events(50).await.unwrap().is_some() {}

    let left = everything(app).await;
    for gone in [
        "forget0",
        "unitcustomer0",
        "unitevent0x",
        "synapseuser0",
        "synapselog0x",
        "authevent0x",
        "plaiditem0",
        "forget9",
        "unitcustomer9",
        "synapseuser9",
        "plaiditem9",
    ] {
        assert!(!left.contains(gone), "{gone} is left in\n{left}");
    }
    let rows = app.rows().await;
    let users = USERS - 1;
    assert_eq!(rows.users.len(), users, "and nobody else is touched");
    assert_eq!(rows.integrations.len(), users * 4);
    assert_eq!(rows.accounts.len(), users + 3 * 2 + 1, "one each, three more of two users, one by a retry");
}

#[tokio::test]
async fn nothing_is_left_of_a_user_who_is_forgotten_under_load_embedded() {
    let app = TestApp::embedded().await;
    nothing_is_left_of_a_user_forgotten_under_load(&app).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_user_who_is_forgotten_under_load_on_postgresql_and_rabbitmq() {
    let Some(app) = TestApp::full("forgetting under load").await else { return };
    nothing_is_left_of_a_user_forgotten_under_load(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_spool_still_holds_of_a_forgotten_user_becomes_no_row() {
    let Some(amqp) = amqp_server("forgetting with a spool") else { return };
    let broker = OwnBroker::new(&amqp);
    let case = "unit/account.created.tagged";
    let user = finhook::fixtures::select(case).unwrap()[0].expect.as_ref().unwrap().users[0].external_id.clone();
    let listed = |finhook: &Finhook| finhook.run(&["events", "list", "--json"]).exits(0).json_lines().len();

    let finhook = Finhook::new().with("FINHOOK_AMQP_PREFIX", broker.prefix.clone());
    let spool = finhook.folder().join("spool.db").display().to_string();
    let finhook = finhook.with("FINHOOK_SPOOL", spool).with("AMQP_URL", broker.url.clone());
    let serving = finhook.serve(&[]);
    finhook.run(&["replay", case, "--to", &serving.public]).exits(0);
    eventually("the row is there", async || listed(&finhook) == 1).await;
    assert!(serving.terminate().0.success());

    let finhook = finhook.with("AMQP_URL", "amqp://guest:guest@127.0.0.1:9");
    let receiver = finhook.serve(&["--only", "receiver"]);
    finhook.run(&["replay", case, "--to", &receiver.public]).exits(0);
    assert!(receiver.terminate().0.success());
    finhook.run(&["forget", "--user", &user, "--yes"]).exits(0);
    assert_eq!(listed(&finhook), 0);

    let finhook = finhook.with("AMQP_URL", broker.url.clone());
    let serving = finhook.serve(&[]);
    let dropped = r#"finhook_events_total{provider="unit",state="forgotten"} 1"#;
    eventually("the delivery came out of the spool and was dropped", async || {
        let metrics = reqwest::get(format!("{}/metrics", serving.ops)).await.unwrap().text().await.unwrap();
        metrics.lines().any(|line| line == dropped)
    })
    .await;
    assert!(serving.terminate().0.success());
    assert_eq!(listed(&finhook), 0);
    finhook.run(&["accounts", "--user", &user]).exits(1);
}

#[tokio::test]
async fn a_joint_account_stays_with_the_customer_who_was_not_forgotten() {
    let app = TestApp::embedded().await;
    for user in [0, 1] {
        post(&app, user, 0).await;
    }
    let joint = json!({ "data": [{ "id": "joint1", "type": "account.created", "relationships": {
        "account": { "data": { "id": "jointaccount", "type": "account" } },
        "customers": { "data": [{ "id": "unitcustomer0", "type": "customer" }, { "id": "unitcustomer1", "type": "customer" }] },
    } }] });
    app.accept("unit", joint.to_string()).await;
    app.drain().await;
    forget(&app, 0).await;
    app.accept("unit", joint.to_string()).await;
    app.drain().await;
    let accounts = app.store.accounts(&UserId("u_forget1".to_owned())).await.unwrap();
    let opened: Vec<String> = accounts
        .iter()
        .map(|account| {
            let key: [&[u8]; 3] =
                [account.service.as_bytes(), account.integration_external_id.as_bytes(), &account.external_id_index];
            let place = finhook::crypto::Place { table: "account", column: "external_id", key: &key };
            app.vault
                .ring
                .open_column(&place, account.external_id.as_ref().unwrap())
                .unwrap()
                .expose_secret()
                .to_owned()
        })
        .collect();
    assert!(opened.contains(&"jointaccount".to_owned()), "{opened:?}");
    assert_eq!(app.rows().await.accounts.keys().filter(|(_, _, id)| id == "jointaccount").count(), 1);
}

#[test]
fn the_command_counts_asks_forgets_and_lifts() {
    let finhook = Finhook::new();
    let case = &finhook::fixtures::select("unit/account.created.tagged").unwrap()[0];
    let expect = case.expect.as_ref().unwrap();
    let (user, subject) = (expect.users[0].external_id.as_str(), expect.integrations[0].external_id.as_str());
    played(&finhook, &["unit/account.created.tagged"]);
    settled(&finhook, usize::try_from(expect.events.total()).unwrap());
    let counted = finhook.run(&["forget", "--user", user, "--dry-run", "--json"]).exits(0).json();
    assert_eq!((&counted["user"], &counted["integration"], &counted["done"]), (&json!(1), &json!(1), &json!(false)));
    assert!(counted["account"].as_u64().unwrap() > 0 && counted["event"].as_u64().unwrap() > 0);
    let asked = finhook.run(&["forget", "--user", user]).exits(1);
    assert!(asked.err.contains("--yes") && asked.out.is_empty(), "{}", asked.err);
    let done = finhook
        .run(&["forget", "--user", user, "--yes", "--reason", &format!("{user} wrote"), "--json"])
        .exits(0)
        .json();
    assert_eq!(
        (&done["account"], &done["event"], &done["done"]),
        (&counted["account"], &counted["event"], &json!(true))
    );
    assert_eq!(finhook.run(&["events", "list", "--json"]).exits(0).out, "");
    finhook.run(&["accounts", "--user", user]).exits(1);
    // It comes again, and is gone again.
    played(&finhook, &["unit/account.created.tagged"]);
    assert!(finhook.serve(&[]).terminate().0.success());
    assert_eq!(finhook.run(&["events", "list", "--json"]).exits(0).out, "");
    let refused = finhook.run(&["link", "unit", subject, "--user", user]).exits(1);
    assert!(refused.err.contains("was forgotten") && refused.err.contains("--lift"), "{}", refused.err);
    let trail = finhook.run(&["audit", "list", "--user", user, "--json"]).exits(0).out;
    assert!(trail.contains("\"forget\"") && trail.contains("… wrote"), "{trail}");
    assert!(!trail.contains(user), "{trail}");
    assert_eq!(
        finhook.run(&["forget", "--user", user, "--lift", "--yes", "--json"]).exits(0).json()["lifted"],
        json!(2)
    );
    finhook.run(&["forget", "--user", user, "--lift", "--yes"]).exits(1);
    finhook.run(&["link", "unit", subject, "--user", user]).exits(0);
    finhook.run(&["forget", "--user", ""]).exits(64);
}
