//! A rotation under load: receivers take, workers write and the product reads while everything is sealed anew by a process
//! that is killed again and again.
//!
//! Here it is small. `tests/rotation/run` is the same with 200,000 accounts, 1,000,000 events and ten kills.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use finhook::cli::posting::{Answer, Post};
use finhook::crypto::{BlindIndex, KeyRing, Place};
use finhook::domain::{DedupKey, Delivery, Scope, UserId, WallClock};
use finhook::providers;
use finhook::store::postgres::Postgres;
use finhook::store::{EventRow, Store, StoreOptions, StoredEvent, Telling, Vault};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::postgres::{PgPool, PgPoolOptions};
use uuid::Uuid;

use crate::app::{Keys, TestApp, folder};
use crate::process::{Finhook, Served, eventually};
use crate::servers::{OwnBroker, OwnDatabase, servers};

/// Rows that are written or read at once.
const CHUNK: usize = 2_000;
/// How many senders post, and how many readers read, at once.
const AT_ONCE: u64 = 4;

/// How much there is to do.
#[derive(Clone, Copy)]
struct Size {
    accounts: usize,
    events: usize,
    kills: u32,
    /// Values a second; `None`: as fast as it goes.
    rate: Option<usize>,
}

impl Size {
    /// `ACCOUNTS,EVENTS,KILLS` of the environment, or little.
    fn given() -> Self {
        let Ok(text) = std::env::var("FINHOOK_TEST_ROTATION") else {
            return Self { accounts: 300, events: 3_000, kills: 3, rate: Some(1_500) };
        };
        let numbers: Vec<usize> =
            text.split(',').map(|number| number.parse().expect("ACCOUNTS,EVENTS,KILLS")).collect();
        let [accounts, events, kills] = numbers[..] else { panic!("FINHOOK_TEST_ROTATION is ACCOUNTS,EVENTS,KILLS") };
        Self { accounts, events, kills: u32::try_from(kills).unwrap(), rate: None }
    }

    fn integrations(self) -> usize {
        (self.accounts / 2).max(1)
    }

    fn users(self) -> usize {
        (self.accounts / 10).max(1)
    }

    fn values(self) -> usize {
        2 * self.accounts + self.integrations() + self.events
    }

    /// Within which time a rotation is killed, so that all kills happen before it is through.
    fn window(self) -> Duration {
        let speed = self.rate.unwrap_or(6_000);
        Duration::from_secs_f64(self.values() as f64 / speed as f64 / f64::from(self.kills + 1))
    }
}

/// What stands in a seeded event.
fn body(number: usize) -> String {
    let padding = "p".repeat(300 + number % 200);
    json!({ "id": format!("e{number}"), "type": "account.created", "padding": padding }).to_string()
}

fn vault(ring: &str, index: &SecretString) -> Arc<Vault> {
    let ring = KeyRing::parse(&SecretString::from(ring.to_owned())).unwrap();
    Arc::new(Vault { ring, index: BlindIndex::parse(index).unwrap(), theirs: None })
}

/// Fills a database as workers with one key would have, at a time long ago.
async fn seed(pool: &PgPool, vault: &Vault, sample: &Delivery, size: Size) {
    let (mut users, mut integrations) = (Vec::new(), Vec::new());
    users.resize_with(size.users(), Uuid::now_v7);
    integrations.resize_with(size.integrations(), Uuid::now_v7);
    let names: Vec<String> = (0..users.len()).map(|user| format!("u{user}")).collect();
    let long_ago = "timestamp '2026-01-01'";
    sqlx::query(sqlx::AssertSqlSafe(format!(
        r#"insert into "user" (id, external_id, created_at, updated_at)
           select id, name, {long_ago}, {long_ago} from unnest($1::uuid[], $2::text[]) as new (id, name)"#
    )))
    .bind(&users)
    .bind(&names)
    .execute(pool)
    .await
    .unwrap();
    let all: Vec<usize> = (0..size.integrations()).collect();
    for chunk in all.chunks(CHUNK) {
        let names: Vec<String> = chunk.iter().map(|number| format!("c{number}")).collect();
        let tokens: Vec<String> = names
            .iter()
            .map(|name| {
                let key = [b"unit".as_slice(), name.as_bytes()];
                let place = Place { table: "integration", column: "authorization_id", key: &key };
                vault.ring.seal_column(&place, &format!("token of {name}")).as_str().to_owned()
            })
            .collect();
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "insert into integration (id, service, external_id, user_id, authorization_id, created_at, updated_at)
             select id, 'unit', name, owner, token, {long_ago}, {long_ago}
             from unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) as new (id, name, owner, token)"
        )))
        .bind(chunk.iter().map(|number| integrations[*number]).collect::<Vec<_>>())
        .bind(names)
        .bind(chunk.iter().map(|number| users[number % users.len()]).collect::<Vec<_>>())
        .bind(tokens)
        .execute(pool)
        .await
        .unwrap();
    }
    let all: Vec<usize> = (0..size.accounts).collect();
    for chunk in all.chunks(CHUNK) {
        let of = |column: &'static str| {
            let sealed = chunk.iter().map(move |number| {
                let subject = format!("c{}", number % size.integrations());
                let index = vault.index.of("external_id", "unit", &format!("a{number}"));
                let key = [b"unit".as_slice(), subject.as_bytes(), &index];
                let place = Place { table: "account", column, key: &key };
                vault.ring.seal_column(&place, &format!("a{number}")).as_str().to_owned()
            });
            sealed.collect::<Vec<String>>()
        };
        let index = |column: &str| {
            chunk
                .iter()
                .map(|number| vault.index.of(column, "unit", &format!("a{number}")).to_vec())
                .collect::<Vec<_>>()
        };
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "insert into account (id, integration_id, user_id, external_id, baas_id, external_id_index, baas_id_index,
                created_at, updated_at)
             select new.*, {long_ago}, {long_ago}
             from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::bytea[], $7::bytea[]) as new"
        )))
        .bind(chunk.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|number| integrations[number % integrations.len()]).collect::<Vec<_>>())
        .bind(chunk.iter().map(|number| users[number % integrations.len() % users.len()]).collect::<Vec<_>>())
        .bind(of("external_id"))
        .bind(of("baas_id"))
        .bind(index("external_id"))
        .bind(index("baas_id"))
        .execute(pool)
        .await
        .unwrap();
    }
    let all: Vec<usize> = (0..size.events).collect();
    for chunk in all.chunks(CHUNK) {
        let payloads: Vec<Vec<u8>> = chunk
            .iter()
            .map(|number| {
                let delivery = sample.narrowed(Bytes::from(body(*number)), Scope::Element, None);
                let key = DedupKey::from_id(&format!("e{number}"));
                vault.ring.seal_payload(&key, &delivery).as_bytes().to_vec()
            })
            .collect();
        sqlx::query(
            "insert into event (id, occurred_at, received_at, processed_at, provider, state, dedup_key, kind, subject,
                payload)
             select id, now(), timestamptz '2026-01-01Z', now(), 'unit', 'applied', key, 'account.created', subject, payload
             from unnest($1::uuid[], $2::bytea[], $3::text[], $4::bytea[]) as new (id, key, subject, payload)",
        )
        .bind(chunk.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|number| format!("e{number}").into_bytes()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|number| format!("c{}", number % size.integrations())).collect::<Vec<_>>())
        .bind(payloads)
        .execute(pool)
        .await
        .unwrap();
    }
    sqlx::query("analyze").execute(pool).await.unwrap();
}

/// A delivery of Unit, as only a receiver makes one.
async fn sample(app: &TestApp) -> Delivery {
    app.accept("unit", r#"{"data":[{"id":"1","type":"sample"}]}"#).await;
    app.drain().await;
    let (row, payload) = app.store.event(app.events().await[0].id).await.unwrap().unwrap();
    let EventRow { id, provider, dedup_key, attempts, .. } = row;
    app.desk.open(&StoredEvent { id, provider, dedup_key, attempts, payload }).unwrap()
}

/// What goes on meanwhile, and how it goes.
#[derive(Default)]
struct Load {
    through: AtomicBool,
    accepted: AtomicU64,
    refused: AtomicU64,
    read: AtomicU64,
    unread: AtomicU64,
    /// Accounts that were closed.
    touched: Mutex<BTreeSet<usize>>,
}

impl Load {
    /// Closes accounts one after the other, each by a delivery of its own.
    async fn post(&self, app: &TestApp, to: &str, size: Size, sender: u64) {
        let post = Post::new(to).unwrap();
        let mut number = usize::try_from(sender).unwrap();
        while !self.through.load(Ordering::SeqCst) {
            let account = number % size.accounts;
            let related = json!({
                "customer": { "data": { "id": format!("c{}", account % size.integrations()) } },
                "account": { "data": { "id": format!("a{account}") } },
            });
            let attributes = json!({ "createdAt": "2026-11-20T10:00:00.000Z" });
            let event = json!({ "id": format!("x{number}"), "type": "account.closed", "attributes": attributes, "relationships": related });
            let signed = app.signed("unit", json!({ "data": [event] }).to_string());
            let accepted = post.send(&signed).await == Answer::Accepted;
            (if accepted { &self.accepted } else { &self.refused }).fetch_add(1, Ordering::SeqCst);
            self.touched.lock().unwrap().insert(account);
            number += usize::try_from(AT_ONCE).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Opens accounts, access tokens and payloads as the product and the commands do, with both keys.
    async fn read(&self, store: &dyn Store, pool: &PgPool, vault: &Vault, size: Size, reader: u64) {
        let unit = |name: &str| providers::find(name).map(|provider| provider.name);
        let mut number = usize::try_from(reader).unwrap();
        while !self.through.load(Ordering::SeqCst) {
            let mut well = true;
            for account in store.accounts(&UserId(format!("u{}", number % size.users()))).await.unwrap() {
                let key = [
                    account.service.as_bytes(),
                    account.integration_external_id.as_bytes(),
                    &account.external_id_index,
                ];
                for (column, sealed) in [("external_id", &account.external_id), ("baas_id", &account.baas_id)] {
                    let place = Place { table: "account", column, key: &key };
                    let opened = vault.ring.open_column(&place, sealed.as_ref().unwrap());
                    well &= opened.is_ok_and(|id| {
                        let index = vault.index.of("external_id", "unit", id.expose_secret());
                        index == account.external_id_index[..]
                    });
                }
            }
            let name = format!("c{}", number % size.integrations());
            let token = store.integration("unit", &name).await.unwrap().unwrap().authorization_id.unwrap();
            let key = [b"unit".as_slice(), name.as_bytes()];
            let place = Place { table: "integration", column: "authorization_id", key: &key };
            let opened = vault.ring.open_column(&place, &token);
            well &= opened.is_ok_and(|token| token.expose_secret() == format!("token of {name}"));
            let event = number % size.events;
            let payload: Vec<u8> =
                sqlx::query_scalar("select payload from event where provider = 'unit' and dedup_key = $1")
                    .bind(format!("e{event}").into_bytes())
                    .fetch_one(pool)
                    .await
                    .unwrap();
            let opened = vault.ring.open_payload("unit", &DedupKey::from_id(&format!("e{event}")), &payload, &unit);
            well &= opened.is_ok_and(|delivery| delivery.bytes == body(event).as_bytes());
            (if well { &self.read } else { &self.unread }).fetch_add(1, Ordering::SeqCst);
            // Steps that share no factor with the sizes: all of it is looked at.
            number += 7_919;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Starts rotations and kills each at a random instant; how many were killed while they ran.
async fn kill_rotations(finhook: &Finhook, size: Size) -> u32 {
    let mut killed = 0;
    for _ in 0..size.kills {
        let rate = size.rate.map(|rate| format!("--rate={rate}"));
        let args = ["keys", "rotate", "--json"].map(str::to_owned).into_iter().chain(rate);
        let mut rotating =
            finhook.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let instant = Duration::from_millis(50) + size.window().mul_f64(f64::from(rand::random::<u16>()) / 65_536.0);
        tokio::time::sleep(instant).await;
        killed += u32::from(rotating.try_wait().unwrap().is_none());
        rotating.kill().unwrap();
        rotating.wait().unwrap();
    }
    killed
}

/// Reads every value with the new key alone.
async fn everything_opens(pool: &PgPool, vault: &Vault, size: Size) {
    let unit = |name: &str| providers::find(name).map(|provider| provider.name);
    let (mut after, mut accounts) = (Uuid::nil(), 0);
    loop {
        let rows: Vec<(Uuid, String, Vec<u8>, String, String)> = sqlx::query_as(
            "select a.id, i.external_id, a.external_id_index, a.external_id, a.baas_id
             from account a join integration i on i.id = a.integration_id where a.id > $1 order by a.id limit 2000",
        )
        .bind(after)
        .fetch_all(pool)
        .await
        .unwrap();
        let Some(last) = rows.last() else { break };
        (after, accounts) = (last.0, accounts + rows.len());
        for (_, subject, index, external_id, baas_id) in &rows {
            let key = [b"unit".as_slice(), subject.as_bytes(), index];
            let open = |column, sealed: &str| {
                vault.ring.open_column(&Place { table: "account", column, key: &key }, sealed).unwrap()
            };
            let (external_id, baas_id) = (open("external_id", external_id), open("baas_id", baas_id));
            assert_eq!(external_id.expose_secret(), baas_id.expose_secret());
            assert_eq!(vault.index.of("external_id", "unit", external_id.expose_secret()), index[..]);
        }
    }
    let tokens: Vec<(String, String)> =
        sqlx::query_as("select external_id, authorization_id from integration").fetch_all(pool).await.unwrap();
    for (name, token) in &tokens {
        let key = [b"unit".as_slice(), name.as_bytes()];
        let place = Place { table: "integration", column: "authorization_id", key: &key };
        assert_eq!(vault.ring.open_column(&place, token).unwrap().expose_secret(), format!("token of {name}"));
    }
    let (mut after, mut events) = (Uuid::nil(), 0);
    loop {
        let rows: Vec<(Uuid, Vec<u8>, Vec<u8>)> =
            sqlx::query_as("select id, dedup_key, payload from event where id > $1 order by id limit 2000")
                .bind(after)
                .fetch_all(pool)
                .await
                .unwrap();
        let Some(last) = rows.last() else { break };
        after = last.0;
        for (_, key, payload) in &rows {
            let opened = vault.ring.open_payload("unit", &DedupKey::from_stored(key.clone()), payload, &unit).unwrap();
            let name = String::from_utf8(key.clone()).unwrap();
            if let Some(number) = name.strip_prefix('e').and_then(|number| number.parse().ok()) {
                assert_eq!(opened.bytes, body(number).as_bytes());
                events += 1;
            }
        }
    }
    assert_eq!((accounts, tokens.len(), events), (size.accounts, size.integrations(), size.events));
}

async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotation_under_load_that_is_killed_again_and_again_loses_nothing_and_leaves_nothing_under_the_old_key() {
    let Some(servers) = servers("a rotation under load") else { return };
    let (size, began) = (Size::given(), Instant::now());
    let say = |what: String| {
        use std::io::Write;
        if size.rate.is_none() {
            let _ = writeln!(std::io::stderr(), "{:>5} s  {what}", began.elapsed().as_secs());
        }
    };
    let (database, broker) = (OwnDatabase::new(&servers.database).await, OwnBroker::new(&servers.amqp));
    let folder = folder();
    let keys = Keys::fresh(folder.path());
    let app = TestApp::embedded_with_keys(&keys).await;
    let [old, new] = [1, 2].map(|id| KeyRing::generate_entry(id).expose_secret().to_owned());
    let finhook = |ring: &str| {
        let finhook = Finhook::new().with_all(&keys.settings).with("DATABASE_URL", &database.url);
        finhook.with("AMQP_URL", &broker.url).with("FINHOOK_AMQP_PREFIX", &broker.prefix).with("FINHOOK_KEYS", ring)
    };
    let index = keys.settings.iter().find(|(name, _)| name == "FINHOOK_INDEX_KEY").unwrap();
    let index = SecretString::from(index.1.clone());
    let (before, after, at_last) = (finhook(&format!("{old},{new}")), finhook(&format!("{new},{old}")), finhook(&new));

    before.run(&["migrate", "up"]).exits(0);
    let pool = PgPoolOptions::new().max_connections(4).connect(&database.url).await.unwrap();
    seed(&pool, &vault(&old, &index), &sample(&app).await, size).await;
    say(format!("{} accounts and {} events are there", size.accounts, size.events));

    // With the old key first, then with the new one: what came before the switch is under the old one.
    let served: Served = before.serve(&[]);
    let load = Arc::new(Load::default());
    let customer = json!({ "customer": { "data": { "id": "c0" } } });
    let event = json!({ "id": "first", "type": "customer.updated", "attributes": { "createdAt": "2026-11-20T10:00:00.000Z" }, "relationships": customer });
    let first = app.signed("unit", json!({ "data": [event] }).to_string());
    assert_eq!(Post::new(&served.public).unwrap().send(&first).await, Answer::Accepted);
    assert!(served.terminate().0.success());
    let served = after.serve(&[]);

    let both = vault(&format!("{new},{old}"), &index);
    let options = StoreOptions {
        create_users: true,
        telling: Telling::default(),
        vault: both.clone(),
        clock: WallClock::system(),
    };
    let url = SecretString::from(database.url.clone());
    let store: Arc<dyn Store> = Arc::new(Postgres::open(&url, 4, options).unwrap());
    let app = Arc::new(app);
    let mut running = tokio::task::JoinSet::new();
    for nth in 0..AT_ONCE {
        let (posting, app, to) = (load.clone(), app.clone(), served.public.clone());
        running.spawn(async move { posting.post(&app, &to, size, nth).await });
        let (reading, store, pool, both) = (load.clone(), store.clone(), pool.clone(), both.clone());
        running.spawn(async move { reading.read(store.as_ref(), &pool, &both, size, nth).await });
    }

    let killed = kill_rotations(&after, size).await;
    let moved = number(&pool, r"select count(*) from event where substr(payload, 2, 4) = '\x00000002'").await;
    say(format!(
        "{killed} of {} rotations were killed while they ran; {moved} payloads are under the new key",
        size.kills
    ));
    let started = Instant::now();
    let (mut rotations, mut said) = (0, after.run(&["keys", "rotate", "--json"]));
    while said.code != Some(0) && rotations < 5 {
        rotations += 1;
        said = after.run(&["keys", "rotate", "--json"]);
    }
    let said = said.exits(0).json_lines();
    say(format!("the last rotation took {} s: {}", started.elapsed().as_secs(), said.last().unwrap()));
    assert!(killed > 0, "no rotation was killed while it ran");

    load.through.store(true, Ordering::SeqCst);
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let counted = [&load.read, &load.unread, &load.accepted, &load.refused].map(count);
    say(format!("read {}, failed {}; accepted {}, refused {}", counted[0], counted[1], counted[2], counted[3]));
    assert!(counted[0] > 0 && counted[2] > 0, "there was no load: {counted:?}");
    assert_eq!((counted[1], counted[3]), (0, 0), "failed reads, refused deliveries");

    let accepted = i64::try_from(counted[2]).unwrap();
    eventually("all of the load is worked off", async || {
        number(&pool, "select count(*) from event where dedup_key >= 'x' and dedup_key < 'y'").await == accepted
    })
    .await;
    eventually("the old key can go", async || after.run(&["keys", "retire", "1"]).code == Some(0)).await;
    assert!(served.terminate().0.success());
    let under_old = number(&pool, r"select count(*) from event where substr(payload, 2, 4) = '\x00000001'").await;
    assert_eq!(under_old, 0);
    everything_opens(&pool, &vault(&new, &index), size).await;
    say("everything opens with the new key alone".to_owned());

    let touched = i64::try_from(load.touched.lock().unwrap().len()).unwrap();
    let closed = number(&pool, "select count(*) from account where status = 'closed'").await;
    let written = number(&pool, "select count(*) from account where updated_at <> timestamp '2026-01-01'").await;
    assert_eq!(
        (closed, written),
        (touched, touched),
        "what deliveries wrote, and nothing else, has another updated_at"
    );
    let status = at_last.run(&["keys", "status", "--json"]).exits(0).json_lines();
    let old = status.iter().find(|line| line["key"] == 1).unwrap();
    assert!(old["sealed"].as_object().unwrap().values().all(|count| count == 0), "{old}");
    assert!(old["retired_at"].is_string() && old["in_ring"] == false, "{old}");
    let served = at_last.serve(&[]);
    let again = app.signed("unit", r#"{"data":[]}"#);
    assert_eq!(Post::new(&served.public).unwrap().send(&again).await, Answer::Accepted);
    assert!(served.terminate().0.success());
    say("done".to_owned());
    store.close().await;
    pool.close().await;
}
