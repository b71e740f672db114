//! Killed with -9 at any moment under load and started again: every delivery that got its 200 has exactly its events, and
//! the rows are those of the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use finhook::cli::posting::{Answer, Post, Signed};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use crate::app::{Keys, SECRETS, TestApp};
use crate::process::{Finhook, Served, eventually};
use crate::servers::{OwnBroker, OwnDatabase, servers};
use crate::tables::{Rows, Tables};

/// Posting at the same time.
const SENDERS: usize = 16;

/// What is sent: customers with their accounts, of which some are closed and one in five is a batch.
struct Ledger {
    requests: Vec<Signed>,
    /// Events by provider and id.
    events: BTreeSet<(String, String)>,
    /// Accounts by service, integration and id, and their status.
    accounts: BTreeMap<(String, String, String), &'static str>,
}

impl Ledger {
    fn new(app: &TestApp, customers: usize) -> Self {
        let mut ledger = Self { requests: Vec::new(), events: BTreeSet::new(), accounts: BTreeMap::new() };
        for number in 0..customers {
            let (customer, account) = (format!("c{number}"), format!("a{number}"));
            let related =
                json!({ "customer": { "data": { "id": customer } }, "account": { "data": { "id": account } } });
            let event = |what: &str, kind: &str, second: usize| {
                let created = format!("2026-11-20T10:00:{second:02}.000Z");
                let attributes = json!({ "createdAt": created, "tags": { "userId": format!("u_{number}") } });
                json!({ "id": format!("{what}{number}"), "type": kind, "attributes": attributes, "relationships": related })
            };
            let mut events = vec![event("m", "customer.created", 1), event("o", "account.created", 2)];
            ledger.events.extend(["m", "o"].map(|what| ("unit".to_owned(), format!("{what}{number}"))));
            let closed = number % 3 == 0;
            if closed {
                events.push(event("x", "account.closed", 3));
                ledger.events.insert(("unit".to_owned(), format!("x{number}")));
            }
            ledger.accounts.insert(("unit".to_owned(), customer, account), if closed { "closed" } else { "open" });
            let batches = if number % 5 == 0 { vec![events] } else { events.into_iter().map(|it| vec![it]).collect() };
            ledger
                .requests
                .extend(batches.into_iter().map(|data| app.signed("unit", json!({ "data": data }).to_string())));
            // A node needs its user: also what waits unlinked is not lost.
            if number % 4 == 0 {
                let node = json!({
                    "_id": { "$oid": format!("n{number}") }, "_rest": { "user_id": format!("s{number}"), "allowed": "CREDIT" },
                    "webhook_meta": { "function": "NODES|POST", "log_id": format!("n{number}") },
                });
                let person = json!({
                    "_id": { "$oid": format!("s{number}") }, "_rest": { "permission": "SEND", "extra": { "supp_id": "u_s" } },
                    "webhook_meta": { "function": "USERS|POST", "log_id": format!("s{number}") },
                });
                for body in [node, person] {
                    ledger.requests.push(app.signed("synapse", body.to_string()));
                }
                ledger.events.extend(["n", "s"].map(|what| ("synapse".to_owned(), format!("{what}{number}"))));
                ledger.accounts.insert(("synapse".to_owned(), format!("s{number}"), format!("n{number}")), "open");
            }
        }
        ledger
    }

    fn holds(&self, rows: &Rows) {
        let events: BTreeSet<(String, String)> = rows
            .events
            .keys()
            .map(|(provider, key)| (provider.clone(), String::from_utf8(hex::decode(key).unwrap()).unwrap()))
            .collect();
        assert_eq!(events, self.events);
        assert_eq!(rows.in_state("applied"), self.events.len());
        let accounts: BTreeMap<_, _> =
            rows.accounts.iter().map(|(key, row)| (key.clone(), row["status"].as_deref().unwrap())).collect();
        assert_eq!(accounts, self.accounts);
    }
}

/// Posts everything from several connections at once, each until it gets its 200 as a provider would; says so each time.
/// The address is asked for anew after every failure.
fn senders(requests: &[Signed], to: &Arc<std::sync::Mutex<String>>, accepted: &UnboundedSender<()>) -> JoinSet<()> {
    let mut sending = JoinSet::new();
    for lane in 0..SENDERS {
        let mine: Vec<Signed> = requests.iter().skip(lane).step_by(SENDERS).cloned().collect();
        let (to, accepted) = (to.clone(), accepted.clone());
        sending.spawn(async move {
            for signed in mine {
                eventually("a delivery is taken", || async {
                    let to = to.lock().unwrap().clone();
                    Post::new(&to).unwrap().send(&signed).await == Answer::Accepted
                })
                .await;
                // A process is killed after so many of these.
                let _ = accepted.send(());
            }
        });
    }
    sending
}

/// Waits until so many more were accepted.
async fn after(count: usize, accepted: &mut UnboundedReceiver<()>) {
    for _ in 0..count {
        accepted.recv().await.unwrap();
    }
}

async fn all_settled(ledger: &Ledger, tables: &Tables) {
    let expected = ledger.events.len() as u64;
    eventually("every event has its row", || async { tables.count("event").await >= expected }).await;
    // The last ones may still wait for their user's delivery.
    eventually("every event is applied", || async {
        tables.all("event").await.iter().all(|row| row["state"].as_deref() == Some("applied"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_process_killed_under_load_loses_nothing_and_does_nothing_twice() {
    let finhook = SECRETS.iter().fold(Finhook::new(), |all, (name, value)| all.with(name, *value));
    let data = finhook.folder().join("finhook-data");
    let signer = TestApp::embedded_in(&data, &SECRETS).await;
    let ledger = Ledger::new(&signer, 120);
    let mut serving = finhook.serve(&[]);
    let to = Arc::new(std::sync::Mutex::new(serving.public.clone()));
    let (sender, mut accepted) = unbounded_channel();
    let mut sending = senders(&ledger.requests, &to, &sender);
    for _ in 0..3 {
        after(60, &mut accepted).await;
        serving.kill();
        serving = finhook.serve(&[]);
        *to.lock().unwrap() = serving.public.clone();
    }
    while let Some(done) = sending.join_next().await {
        done.unwrap();
    }
    let tables = Tables::sqlite(&data.join("finhook.db"));
    all_settled(&ledger, &tables).await;
    ledger.holds(&Rows::read(&tables, &signer.vault).await);
    assert!(serving.terminate().0.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_and_a_worker_killed_under_load_lose_nothing_and_do_nothing_twice() {
    let Some(servers) = servers("crashes on PostgreSQL and RabbitMQ") else { return };
    let (database, broker) = (OwnDatabase::new(&servers.database).await, OwnBroker::new(&servers.amqp));
    let finhook = Finhook::new();
    let keys = Keys::fresh(finhook.folder());
    let signer = TestApp::embedded_with_keys(&keys).await;
    let finhook = finhook.with_all(&keys.settings).with("DATABASE_URL", database.url.clone());
    let finhook = finhook.with("AMQP_URL", broker.url.clone()).with("FINHOOK_AMQP_PREFIX", broker.prefix.clone());
    finhook.run(&["migrate", "up"]).exits(0);
    let ledger = Ledger::new(&signer, 120);
    let start = |half: &str| -> Served { finhook.serve(&["--only", half]) };
    let (mut receiver, mut worker) = (start("receiver"), start("worker"));
    let to = Arc::new(std::sync::Mutex::new(receiver.public.clone()));
    let (sender, mut accepted) = unbounded_channel();
    let mut sending = senders(&ledger.requests, &to, &sender);
    for round in 0..4 {
        after(45, &mut accepted).await;
        if round % 2 == 0 {
            worker.kill();
            worker = start("worker");
        } else {
            receiver.kill();
            receiver = start("receiver");
            *to.lock().unwrap() = receiver.public.clone();
        }
    }
    while let Some(done) = sending.join_next().await {
        done.unwrap();
    }
    let tables = Tables::postgres(&database.url);
    all_settled(&ledger, &tables).await;
    ledger.holds(&Rows::read(&tables, &signer.vault).await);
    assert!(receiver.terminate().0.success());
    assert!(worker.terminate().0.success());
}
