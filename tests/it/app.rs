//! The application under test: the real receiver on a real port, the real queue and store, and a worker that is stepped by
//! hand, so that no test waits for anything but what it asked for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use finhook::cli::app::{App, Configured};
use finhook::cli::posting::{Answer, Post, Press, Signed, Treatment};
use finhook::cli::{opening, serving};
use finhook::config::Sources;
use finhook::crypto::{KeyRing, fresh_key};
use finhook::domain::{Timestamp, UserId, WallClock};
use finhook::fixtures::{Body, Case};
use finhook::ops::readiness::Readiness;
use finhook::ops::shutdown::Shutdown;
use finhook::pipeline::read::Desk;
use finhook::pipeline::settle::Settler;
use finhook::pipeline::work::{BatchSize, Worker};
use finhook::providers::plaid_jws::DevelopmentKey;
use finhook::providers::{self, PROVIDERS};
use finhook::queue::{Consumer, Queue};
use finhook::store::{Batch, EventFilter, EventRow, Link, Store, Vault};
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::servers::{OwnBroker, OwnDatabase, Servers, servers};
use crate::tables::{Rows, Tables};

/// Longer than anything that works takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Secrets that are the same in all tests; the first of each list signs.
pub const SECRETS: [(&str, &str); 4] = [
    ("FINHOOK_UNIT_TOKENS", "unit-token-of-the-tests,unit-token-before"),
    ("FINHOOK_SYNAPSE_CLIENT_ID", "client_id_of_the_tests"),
    ("FINHOOK_SYNAPSE_CLIENT_SECRETS", "client-secret-of-the-tests"),
    ("FINHOOK_AUTH0_TOKENS", "auth0-token-of-the-tests"),
];

/// A running application.
pub struct TestApp {
    /// Scheme and authority of the public port.
    pub to: String,
    /// By what it decides; held still.
    pub clock: WallClock,
    /// The settings it was put together from.
    pub configured: Configured,
    /// What seals.
    pub vault: Arc<Vault>,
    /// What opens and reads.
    pub desk: Arc<Desk>,
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The same rows past the store.
    pub tables: Tables,
    worker: Worker,
    consumer: Mutex<Option<Box<dyn Consumer>>>,
    /// Deliveries that were answered 200 and not worked on yet.
    waiting: AtomicU64,
    /// The sender's settings: with the development key that signs as Plaid.
    sender: Configured,
    /// Its folder.
    pub folder: TempDir,
    // Last, so that connections are gone before what they are to.
    _database: Option<OwnDatabase>,
    /// Its place on the broker.
    pub broker: Option<OwnBroker>,
}

/// Keys as an operator would give them, and Plaid's trust in a key of ours.
pub struct Keys {
    /// Variables and values.
    pub settings: Vec<(String, String)>,
    /// The private key that signs as Plaid.
    pub plaid: SecretString,
}

impl Keys {
    /// Makes them; the file with Plaid's public key is put into `folder`.
    pub fn fresh(folder: &Path) -> Self {
        let plaid = DevelopmentKey::generate().unwrap();
        let pkcs8 = STANDARD.decode(plaid.expose_secret()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let kid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, pair.public_key().as_ref());
        let jwk = serde_json::json!({ "key": {
            "alg": "ES256", "crv": "P-256", "kid": kid, "kty": "EC", "use": "sig", "created_at": 1_700_000_000,
            "expired_at": null, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }});
        let file = folder.join("plaid.json");
        std::fs::write(&file, jwk.to_string()).unwrap();
        let given = [
            ("FINHOOK_KEYS", KeyRing::generate_entry(7).expose_secret().to_owned()),
            ("FINHOOK_INDEX_KEY", fresh_key().expose_secret().to_owned()),
            ("FINHOOK_URL_KEYS", fresh_key().expose_secret().to_owned()),
            ("FINHOOK_PLAID_JWKS_FILE", file.display().to_string()),
        ];
        let mut settings: Vec<(String, String)> = given.map(|(name, value)| (name.to_owned(), value)).into();
        settings.extend(SECRETS.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Self { settings, plaid }
    }
}

/// A folder in memory where the system has one: these tests are about rows, not about power cuts.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("finhook-it-").tempdir_in(parent).unwrap()
}

/// Noon of the day on which these tests run.
pub fn noon() -> Timestamp {
    Timestamp::parse("2026-11-23T12:00:00Z").unwrap()
}

impl TestApp {
    /// SQLite as store and queue, no configuration but the folder.
    pub async fn embedded() -> Self {
        Self::embedded_with(&[]).await
    }

    /// The same with settings; an empty value takes what embedded mode would generate.
    pub async fn embedded_with(settings: &[(&str, &str)]) -> Self {
        let folder = folder();
        let mut sources = Sources::of([("FINHOOK_DATA_DIR", folder.path().join("data"))]);
        for (name, value) in settings {
            sources = sources.with(*name, *value);
        }
        let configured = configured(sources);
        let signs = Sources::of([("FINHOOK_DATA_DIR", folder.path().join("data"))]);
        // Signs with what is configured and, for the others, with what nobody trusts.
        let mut signs = settings
            .iter()
            .filter(|(name, _)| !name.starts_with("FINHOOK_PLAID_") || *name == "FINHOOK_PLAID_DEVELOPMENT_KEY")
            .fold(signs, |all, (name, value)| all.with(*name, *value));
        let given = |name: &str| settings.iter().any(|(given, _)| *given == name);
        if SECRETS.iter().any(|(name, _)| given(name)) {
            for (name, value) in SECRETS.iter().filter(|(name, _)| !given(name)) {
                signs = signs.with(*name, *value);
            }
        }
        let tables = Tables::sqlite(&folder.path().join("data").join("finhook.db"));
        Self::start(configured, self::configured(signs), tables, folder, None, None).await
    }

    /// The same in the data folder of a process, whose keys it shares: to sign for it and to open what it sealed.
    pub async fn embedded_in(data: &Path, settings: &[(&str, &str)]) -> Self {
        let sources = Sources::of([("FINHOOK_DATA_DIR", data)]);
        let sources = settings.iter().fold(sources, |all, (name, value)| all.with(*name, *value));
        // Its own tables are elsewhere, so that nothing but the process writes the process's.
        let shared = configured(sources);
        let own = ["FINHOOK_KEYS", "FINHOOK_INDEX_KEY", "FINHOOK_URL_KEYS", "FINHOOK_PLAID_DEVELOPMENT_KEY"];
        let own = own.map(|name| (name, shared.values().secret(name).unwrap().unwrap()));
        let own = own.iter().map(|(name, secret)| (*name, secret.expose_secret()));
        let settings: Vec<(&str, &str)> = settings.iter().copied().chain(own).collect();
        Self::embedded_with(&settings).await
    }

    /// The same with an operator's keys and secrets, and the key that signs as Plaid for them.
    pub async fn embedded_with_keys(keys: &Keys) -> Self {
        let plaid = [("FINHOOK_PLAID_DEVELOPMENT_KEY", keys.plaid.expose_secret())];
        let given = keys.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Self::embedded_with(&given.chain(plaid).collect::<Vec<_>>()).await
    }

    /// PostgreSQL and RabbitMQ, with a database and a prefix of its own; `None` where there are no servers.
    pub async fn full(test: &str) -> Option<Self> {
        Some(Self::full_on(servers(test)?).await)
    }

    async fn full_on(servers: Servers) -> Self {
        let (database, broker) = (OwnDatabase::new(&servers.database).await, OwnBroker::new(&servers.amqp));
        let folder = folder();
        let keys = Keys::fresh(folder.path());
        let with = |mut sources: Sources| {
            for (name, value) in &keys.settings {
                sources = sources.with(name.clone(), value.clone());
            }
            sources
        };
        let urls = [
            ("DATABASE_URL", database.url.as_str()),
            ("AMQP_URL", &broker.url),
            ("FINHOOK_AMQP_PREFIX", &broker.prefix),
        ];
        let configured = configured(with(Sources::of(urls)));
        let sender = Sources::of([("FINHOOK_DATA_DIR", folder.path().join("sender"))]);
        let sender = with(sender).with("FINHOOK_PLAID_DEVELOPMENT_KEY", keys.plaid.expose_secret());
        let tables = Tables::postgres(&database.url);
        let store = configured.store_as_it_is(configured.vault().unwrap()).await.unwrap();
        store.migrate_up().await.unwrap();
        store.close().await;
        Self::start(configured, self::configured(sender), tables, folder, Some(database), Some(broker)).await
    }

    async fn start(
        configured: Configured,
        sender: Configured,
        tables: Tables,
        folder: TempDir,
        database: Option<OwnDatabase>,
        broker: Option<OwnBroker>,
    ) -> Self {
        let vault = configured.vault().unwrap();
        let desk = configured.desk(vault.clone()).unwrap();
        let doors = opening::verifiers(&configured).unwrap();
        let store = configured.store(vault.clone()).await.unwrap();
        let queue = opening::open_queue(&configured).await.unwrap();
        let clock = configured.clock.clone();
        let shutdown = Shutdown::new(PATIENCE);
        let readiness = Readiness::new(clock.clone());
        let receiving = serving::receive(&configured, doors, vault.clone(), queue.clone(), &readiness, &shutdown);
        let address = receiving.await.unwrap().address;
        let size = BatchSize { max: 512, linger: Duration::ZERO };
        let worker = Worker::new(queue.clone(), store.clone(), desk.clone(), size, CancellationToken::new());
        Self {
            to: format!("http://{address}"),
            clock,
            configured,
            vault,
            desk,
            queue,
            store,
            tables,
            worker,
            consumer: Mutex::new(None),
            waiting: AtomicU64::new(0),
            sender,
            folder,
            _database: database,
            broker,
        }
    }

    /// Waits until the broker is there; an embedded queue is at once.
    pub async fn ready(&self) {
        let mut consumer = self.consumer.lock().await;
        if consumer.is_none() {
            *consumer = Some(tokio::time::timeout(PATIENCE, self.queue.consume(1_024, 0)).await.unwrap().unwrap());
        }
    }

    /// Stops consuming until the next step: what is queued stays there to be looked at.
    pub async fn give_back(&self) {
        if let Some(consumer) = self.consumer.lock().await.take() {
            consumer.close().await;
        }
    }

    /// The links that a case needs, then all its bodies, really signed; each has to be answered 200.
    pub async fn post_signed(&self, case: &Case) {
        self.ready().await;
        for link in &case.links {
            self.link(&case.provider, &link.subject, &link.user).await;
        }
        let press = Press::new(self.sender.setup().unwrap()).unwrap();
        for body in &case.bodies {
            let signed = press.request(case, body, &Treatment::default()).unwrap();
            let answer = self.send(&signed).await;
            assert_eq!(answer, Answer::Accepted, "{}", signed.name);
        }
    }

    /// One body of a case, really signed now, to the path that the case says.
    pub fn request(&self, case: &Case, body: &Body) -> Signed {
        self.sender.clock.set(self.clock.now());
        let press = Press::new(self.sender.setup().unwrap()).unwrap();
        press.request(case, body, &Treatment::default()).unwrap()
    }

    /// One body, really signed now, to the plain path.
    pub fn signed(&self, provider: &str, body: impl Into<Bytes>) -> Signed {
        let (provider, body) = (providers::find(provider).unwrap(), body.into());
        let signer = (provider.signer)(&self.sender.setup().unwrap()).unwrap().unwrap();
        let headers = signer.sign(&body, self.clock.now());
        Signed { name: provider.name.to_string(), path: format!("/webhooks/{}", provider.name), headers, body }
    }

    /// The same to the bound path of a user.
    pub fn signed_for(&self, user: &str, body: impl Into<Bytes>) -> Signed {
        let token = self.configured.url_keys().unwrap().unwrap().mint(&UserId(user.to_owned()));
        let signed = self.signed("plaid", body);
        Signed { path: format!("{}/{token}", signed.path), ..signed }
    }

    /// Posts a request; what is accepted has to be worked on before the test ends.
    pub async fn send(&self, signed: &Signed) -> Answer {
        let answer = Post::new(&self.to).unwrap().send(signed).await;
        if answer == Answer::Accepted {
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        answer
    }

    /// Posts a body, really signed; it has to be answered 200.
    pub async fn accept(&self, provider: &str, body: impl Into<Bytes>) {
        self.ready().await;
        assert_eq!(self.send(&self.signed(provider, body)).await, Answer::Accepted);
    }

    /// Says whose an integration is, as `finhook link` does.
    pub async fn link(&self, provider: &str, subject: &str, user: &str) {
        let link = Link {
            provider: providers::find(provider).unwrap().name,
            subject: subject.to_owned(),
            user: UserId(user.to_owned()),
            email: None,
            authorization_id: None,
            at: self.clock.now(),
        };
        let settler = Settler::new(self.store.clone(), self.desk.clone(), CancellationToken::new());
        settler.commit(&Batch { links: vec![link], ..Batch::default() }).await.unwrap();
    }

    /// One batch of the worker; how many deliveries it took.
    pub async fn step(&self) -> u64 {
        self.ready().await;
        let mut consumer = self.consumer.lock().await;
        let consumer = consumer.as_mut().unwrap();
        let batch = tokio::time::timeout(PATIENCE, consumer.next(512, Duration::ZERO)).await.unwrap().unwrap();
        let taken = batch.len() as u64;
        self.worker.step(consumer.as_mut(), batch).await.unwrap();
        self.waiting.fetch_sub(taken, Ordering::SeqCst);
        taken
    }

    /// Steps until everything that was answered 200 is settled.
    pub async fn drain(&self) {
        while self.waiting.load(Ordering::SeqCst) > 0 {
            self.step().await;
        }
    }

    /// Every row, without ids and the times of writing, identifiers opened.
    pub async fn rows(&self) -> Rows {
        Rows::read(&self.tables, &self.vault).await
    }

    /// Every event as the commands list it, newest first.
    pub async fn events(&self) -> Vec<EventRow> {
        self.store.events(&EventFilter { limit: 100_000, ..EventFilter::default() }).await.unwrap()
    }

    /// Why events are dead.
    pub async fn dead(&self) -> Vec<String> {
        let dead = |row: &EventRow| row.state == finhook::domain::EventState::Dead;
        let mut reasons: Vec<String> =
            self.events().await.into_iter().filter(dead).map(|row| row.reason.unwrap_or_default()).collect();
        reasons.sort();
        reasons
    }
}

/// A finhook by a clock that stands still, on any free port.
pub fn configured(sources: Sources) -> Configured {
    let sources = sources.with("FINHOOK_HTTP_BIND", "127.0.0.1:0").with("FINHOOK_OPS_BIND", "127.0.0.1:0");
    App::from_sources(sources).unwrap().with_clock(WallClock::held(noon())).configured().unwrap()
}

impl Drop for TestApp {
    fn drop(&mut self) {
        let waiting = self.waiting.load(Ordering::SeqCst);
        if waiting > 0 && !std::thread::panicking() {
            panic!("{waiting} deliveries were answered 200 and never settled: call drain()");
        }
    }
}

/// Every provider's name.
pub fn provider_names() -> Vec<&'static str> {
    PROVIDERS.iter().map(|provider| provider.name.as_str()).collect()
}
