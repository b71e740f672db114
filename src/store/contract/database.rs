//! A database for one test, and its rows read back in a form in which two databases can be compared.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::{Archive, at};
use crate::crypto::{BlindIndex, Encoding, KeyRing, Place, TypeormCipher};
use crate::domain::WallClock;
use crate::domain::register::{Address, Closing, Owner, Status};
use crate::domain::{Clock, DedupKey, Timestamp};
use crate::store::columns::{AccountColumns, EventColumns, Id, IntegrationColumns, UserAddressColumns};
use crate::store::postgres::Postgres;
use crate::store::sqlite::Sqlite;
use crate::store::{EventFilter, Store, StoreOptions, Telling, Vault};

/// The same statement on either database.
pub enum Raw {
    Pg(PgPool),
    Lite(SqlitePool),
}

/// A database, its store, and what seals in it.
pub struct Db {
    pub store: Box<dyn Store>,
    pub raw: Raw,
    pub options: StoreOptions,
    pub archive: Archive,
    /// Opens another store over the same database, with other options.
    again: Box<dyn Fn(StoreOptions) -> futures_util::future::BoxFuture<'static, Box<dyn Store>> + Send + Sync>,
}

/// What the product encrypted with before it moved in.
pub fn theirs() -> TypeormCipher {
    TypeormCipher::parse(&SecretString::from("0f".repeat(32)), None, Encoding::Base64).unwrap()
}

pub fn options() -> StoreOptions {
    let key = SecretString::from("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let ring = SecretString::from(format!("1:{}", key.expose_secret()));
    let (ring, index) = (KeyRing::parse(&ring).unwrap(), BlindIndex::parse(&key).unwrap());
    let vault = Vault { ring, index, theirs: Some(theirs()) };
    StoreOptions {
        create_users: true,
        telling: Telling::default(),
        vault: Arc::new(vault),
        clock: WallClock::held(at(5_000)),
    }
}

/// Runs a test on a new SQLite file, in memory where the system has a folder for that.
pub async fn on_sqlite<F: Future<Output = ()>>(test: fn(Arc<Db>) -> F) {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(parent).unwrap();
    let db = Arc::new(Db::sqlite(&folder.path().join("data").join("finhook.db")).await);
    db.store.migrate_up().await.unwrap();
    test(db.clone()).await;
    db.store.close().await;
}

/// Runs a test on a new PostgreSQL database, which is dropped afterwards, also when the test fails.
pub async fn on_postgres<F: Future<Output = ()> + Send + 'static>(test: fn(Arc<Db>) -> F) {
    let Ok(server) = std::env::var("FINHOOK_TEST_DATABASE_URL") else {
        assert!(
            std::env::var("FINHOOK_TEST_REQUIRED").as_deref() != Ok("1"),
            "FINHOOK_TEST_REQUIRED=1, but FINHOOK_TEST_DATABASE_URL is not set"
        );
        eprintln!("left out: FINHOOK_TEST_DATABASE_URL is not set");
        return;
    };
    let name = format!("finhook_test_{}", Uuid::new_v4().simple());
    let admin = PgPoolOptions::new().max_connections(1).connect(&server).await.unwrap();
    let run = |sql: String| sqlx::query(AssertSqlSafe(sql)).execute(&admin);
    run(format!("create database {name} template template0")).await.unwrap();
    // These tests are about rows, not about power cuts.
    run(format!("alter database {name} set synchronous_commit = off")).await.unwrap();
    let (address, _) = server.rsplit_once('/').unwrap();
    let db = Arc::new(Db::postgres(&format!("{address}/{name}")).await);
    db.store.migrate_up().await.unwrap();
    let outcome = tokio::spawn(test(db.clone())).await;
    db.store.close().await;
    run(format!("drop database {name} with (force)")).await.unwrap();
    if let Err(failed) = outcome {
        std::panic::resume_unwind(failed.into_panic());
    }
}

impl Db {
    pub async fn sqlite(path: &Path) -> Self {
        let (options, file) = (options(), path.to_owned());
        let store = Box::new(Sqlite::open(path, options.clone()).await.unwrap());
        let connect = SqliteConnectOptions::new().filename(path).busy_timeout(std::time::Duration::from_secs(5));
        let raw = Raw::Lite(SqlitePool::connect_lazy_with(connect));
        let archive = Archive::new(options.vault.clone());
        let again = move |options| {
            let file = file.clone();
            let open = async move { Box::new(Sqlite::open(&file, options).await.unwrap()) as Box<dyn Store> };
            Box::pin(open) as futures_util::future::BoxFuture<'static, _>
        };
        Self { store, raw, options, archive, again: Box::new(again) }
    }

    pub async fn postgres(url: &str) -> Self {
        let (options, address) = (options(), SecretString::from(url.to_owned()));
        let store = Box::new(Postgres::open(&address, 4, options.clone()).unwrap());
        let raw = Raw::Pg(PgPoolOptions::new().max_connections(2).connect_lazy(url).unwrap());
        let archive = Archive::new(options.vault.clone());
        let again = move |options| {
            let store = Box::new(Postgres::open(&address, 4, options).unwrap()) as Box<dyn Store>;
            Box::pin(std::future::ready(store)) as futures_util::future::BoxFuture<'static, _>
        };
        Self { store, raw, options, archive, again: Box::new(again) }
    }

    /// The same database as one sees it that has `FINHOOK_CREATE_USERS=false`.
    pub async fn without_creating_users(&self) -> Box<dyn Store> {
        (self.again)(StoreOptions { create_users: false, ..self.options.clone() }).await
    }

    /// The same database as one sees it that tells of changes.
    pub async fn telling(&self, telling: Telling) -> Box<dyn Store> {
        (self.again)(StoreOptions { telling, ..self.options.clone() }).await
    }

    /// A connection that listens; PostgreSQL only.
    pub async fn listener(&self) -> sqlx::postgres::PgListener {
        let Raw::Pg(pool) = &self.raw else { panic!("nobody can listen at a file") };
        sqlx::postgres::PgListener::connect_with(pool).await.unwrap()
    }

    /// Sends a statement past the store, as the product would.
    pub async fn sql(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.raw {
            Raw::Pg(pool) => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
            Raw::Lite(pool) => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
        }
    }

    /// Rows past the store.
    pub async fn fetch<C>(&self, sql: &str) -> Vec<C>
    where
        C: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.raw {
            Raw::Pg(pool) => sqlx::query_as(sql).fetch_all(pool).await.unwrap(),
            Raw::Lite(pool) => sqlx::query_as(sql).fetch_all(pool).await.unwrap(),
        }
    }

    /// Empties all tables.
    pub async fn clear(&self) {
        self.sql(r#"delete from event; delete from "user""#).await;
    }
}

/// All rows, without ids, `created_at` and `updated_at`, sealed columns opened.
#[derive(Debug, Default, PartialEq)]
pub struct Rows {
    pub users: BTreeMap<String, User>,
    pub integrations: BTreeMap<(String, String), Integration>,
    /// By service, integration and opened `external_id`.
    pub accounts: BTreeMap<(String, String, String), Account>,
    pub events: BTreeMap<(String, DedupKey), Event>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct User {
    pub email: Option<String>,
    pub verified: Option<bool>,
    pub clock: Option<Clock>,
    pub deleted: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Integration {
    pub owner: Option<Owner>,
    pub status: Status,
    pub closing: Option<Closing>,
    pub address: Option<Address>,
    pub token: Option<String>,
    pub observed_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    pub user: String,
    pub baas_id: Option<String>,
    pub status: Status,
    pub observed_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub state: &'static str,
    pub reason: Option<String>,
    pub occurred_at: Timestamp,
    pub subject: Option<String>,
}

impl Db {
    /// Everything that is stored.
    pub async fn rows(&self) -> Rows {
        let mut rows = Rows::default();
        let mut names: BTreeMap<Uuid, String> = BTreeMap::new();
        let deleted: Vec<(Id, String, bool)> =
            self.fetch(r#"select id, external_id, deleted_at is not null from "user""#).await;
        for (id, name, deleted) in deleted {
            rows.users.insert(name.clone(), User { deleted, ..User::default() });
            names.insert(id.0, name);
        }
        let addresses: Vec<UserAddressColumns> =
            self.fetch(r#"select id, email, email_verified, email_at, email_key from "user""#).await;
        for address in addresses {
            let address = address.read().unwrap();
            let user = rows.users.get_mut(&names[&address.id]).unwrap();
            (user.email, user.verified, user.clock) = (address.email, address.verified, address.clock);
        }
        let mut subjects: BTreeMap<Uuid, (String, String)> = BTreeMap::new();
        let integrations: Vec<IntegrationColumns> = self
            .fetch(r#"select i.*, u.external_id as owner from integration i join "user" u on u.id = i.user_id"#)
            .await;
        for columns in integrations {
            let row = columns.read().unwrap();
            let key = (row.service, row.external_id);
            subjects.insert(row.id, key.clone());
            let integration = Integration {
                owner: row.owner,
                status: row.status,
                closing: row.closing,
                address: row.address,
                token: None,
                observed_at: row.observed_at,
            };
            rows.integrations.insert(key, integration);
        }
        let tokens: Vec<(Id, String)> =
            self.fetch("select id, authorization_id from integration where authorization_id is not null").await;
        for (id, sealed) in tokens {
            let subject = &subjects[&id.0];
            let key: [&[u8]; 2] = [subject.0.as_bytes(), subject.1.as_bytes()];
            let place = Place { table: "integration", column: "authorization_id", key: &key };
            let token = self.options.vault.open(&place, &sealed).unwrap();
            rows.integrations.get_mut(subject).unwrap().token = Some(token.expose_secret().to_owned());
        }
        self.read_accounts(&mut rows, &subjects, &names).await;
        let events: Vec<EventColumns> = self.fetch("select * from event").await;
        for event in events {
            let row = event.read().unwrap();
            let event = Event {
                state: row.state.as_str(),
                reason: row.reason,
                occurred_at: row.occurred_at,
                subject: row.subject,
            };
            rows.events.insert((row.provider, row.dedup_key), event);
        }
        rows
    }

    async fn read_accounts(
        &self,
        rows: &mut Rows,
        subjects: &BTreeMap<Uuid, (String, String)>,
        names: &BTreeMap<Uuid, String>,
    ) {
        let sealed: Vec<(Id, Option<String>, Option<String>)> =
            self.fetch("select id, external_id, baas_id from account").await;
        let sealed: BTreeMap<Uuid, _> = sealed.into_iter().map(|(id, one, two)| (id.0, (one, two))).collect();
        let accounts: Vec<AccountColumns> = self.fetch("select * from account").await;
        for columns in accounts {
            let row = columns.read().unwrap();
            let (service, subject) = &subjects[&row.integration_id];
            let index = row.external_id_index.unwrap_or_default();
            let key: [&[u8]; 3] = [service.as_bytes(), subject.as_bytes(), &index];
            let open = |column: &str, value: &Option<String>| {
                let place = Place { table: "account", column, key: &key };
                value.as_ref().map(|value| self.options.vault.open(&place, value).unwrap().expose_secret().to_owned())
            };
            let (external_id, baas_id) = &sealed[&row.id];
            let id = open("external_id", external_id).unwrap_or_default();
            let account = Account {
                user: names[&row.user_id].clone(),
                baas_id: open("baas_id", baas_id),
                status: row.status,
                observed_at: row.observed_at,
            };
            rows.accounts.insert((service.clone(), subject.clone(), id), account);
        }
    }

    /// The integration of customer `c1` of Unit.
    pub async fn c1(&self) -> Integration {
        self.rows().await.integrations.remove(&("unit".into(), "c1".into())).expect("c1 has a row")
    }

    /// An account of `c1`.
    pub async fn account(&self, id: &str) -> Account {
        self.rows().await.accounts.remove(&("unit".into(), "c1".into(), id.into())).expect("the account has a row")
    }

    /// A user.
    pub async fn user(&self, id: &str) -> User {
        self.rows().await.users.remove(id).expect("the user has a row")
    }

    /// The state of a Unit event, and its reason.
    pub async fn state(&self, key: &str) -> (&'static str, Option<String>) {
        let mut rows = self.rows().await;
        let event = rows.events.remove(&("unit".into(), DedupKey::from_id(key))).expect("the event has a row");
        (event.state, event.reason)
    }

    /// Everything that is listed, newest first.
    pub async fn listed(&self) -> Vec<crate::store::EventRow> {
        self.store.events(&EventFilter { limit: 10_000, ..EventFilter::default() }).await.unwrap()
    }
}
