//! A database and a place on the broker that nothing else uses, made for a run and taken away afterwards.

use std::process::Stdio;

use anyhow::{Context, ensure};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use finhook::providers::PROVIDERS;
use finhook::providers::plaid_jws::DevelopmentKey;
use finhook::queue::rabbitmq::topology::Topology;
use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection};
use tempfile::TempDir;

use super::process::finhook;
use super::traffic::UNIT_TOKEN;

/// Where the servers are, unless the environment says otherwise.
const DATABASE: &str = "postgres://postgres@127.0.0.1:5432/postgres";
const BROKER: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// What a run works with.
pub struct Stage {
    /// For files.
    pub folder: TempDir,
    /// The broker.
    pub broker: String,
    /// What its queues start with.
    pub prefix: String,
    /// A private key that signs as Plaid.
    pub plaid: String,
    settings: Vec<(String, String)>,
    server: String,
    databases: Vec<String>,
    connection: Connection,
    channel: Channel,
}

impl Stage {
    /// Connects to both servers.
    pub async fn open() -> anyhow::Result<Self> {
        let given = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let (server, broker) = (given("FINHOOK_TEST_DATABASE_URL", DATABASE), given("FINHOOK_TEST_AMQP_URL", BROKER));
        let folder = tempfile::Builder::new().prefix("finhook-bench-").tempdir()?;
        let connection = Connection::connect(&broker, ConnectionProperties::default()).await;
        let connection = connection.context("no RabbitMQ: set FINHOOK_TEST_AMQP_URL")?;
        let channel = connection.create_channel().await?;
        let prefix = format!("finhook-bench-{}", std::process::id());
        let (plaid, jwks) = plaid_key()?;
        let file = folder.path().join("plaid.json");
        std::fs::write(&file, jwks)?;
        let settings = [
            ("AMQP_URL", broker.clone()),
            ("FINHOOK_AMQP_PREFIX", prefix.clone()),
            ("FINHOOK_KEYS", "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".to_owned()),
            ("FINHOOK_INDEX_KEY", "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=".to_owned()),
            ("FINHOOK_UNIT_TOKENS", UNIT_TOKEN.to_owned()),
            ("FINHOOK_PLAID_JWKS_FILE", file.display().to_string()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value)).into();
        let databases = Vec::new();
        Ok(Self { folder, broker, prefix, plaid, settings, server, databases, connection, channel })
    }

    /// A new database with all tables; its address.
    pub async fn database(&mut self) -> anyhow::Result<String> {
        let name = format!("finhook_bench_{}_{}", std::process::id(), self.databases.len());
        let mut admin = PgConnection::connect(&self.server).await;
        let admin = admin.as_mut().map_err(|error| anyhow::anyhow!("no PostgreSQL: {error}"))?;
        admin.execute(AssertSqlSafe(format!("create database {name} template template0"))).await?;
        self.databases.push(name.clone());
        let (address, _) = self.server.rsplit_once('/').context("the database server's address has no path")?;
        let url = format!("{address}/{name}");
        let mut migrate = finhook();
        migrate.args(["migrate", "up"]).envs(self.settings(&url)).stdout(Stdio::null());
        ensure!(migrate.status()?.success(), "the tables were not made");
        Ok(url)
    }

    /// Drops the newest database: what a measurement left behind is nothing that the next one should have on its disk.
    pub async fn drop_database(&mut self) -> anyhow::Result<()> {
        if let Some(name) = self.databases.pop() {
            let mut admin = PgConnection::connect(&self.server).await?;
            admin.execute(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).await?;
        }
        Ok(())
    }

    /// The settings of a finhook on this stage.
    pub fn settings(&self, database: &str) -> Vec<(String, String)> {
        let database = ("DATABASE_URL".to_owned(), database.to_owned());
        self.settings.iter().cloned().chain([database]).collect()
    }

    /// The settings of one that has neither broker nor database server.
    pub fn embedded(&self, folder: &str) -> Vec<(String, String)> {
        let folder = self.folder.path().join(folder).display().to_string();
        let own = self.settings.iter().filter(|(name, _)| !name.contains("AMQP")).cloned();
        own.chain([("FINHOOK_DATA_DIR".to_owned(), folder)]).collect()
    }

    /// The queue of a provider.
    pub fn queue(&self, provider: &str) -> String {
        format!("{}.{provider}", self.prefix)
    }

    /// Messages that wait in a provider's queue.
    pub async fn waiting(&self, provider: &str) -> anyhow::Result<u64> {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = self.channel.queue_declare(self.queue(provider).into(), passive, FieldTable::default()).await?;
        Ok(u64::from(queue.message_count()))
    }

    /// Empties a provider's queue.
    pub async fn purge(&self, provider: &str) -> anyhow::Result<()> {
        self.channel.queue_purge(self.queue(provider).into(), QueuePurgeOptions::default()).await?;
        Ok(())
    }

    /// Takes everything away.
    pub async fn close(mut self) -> anyhow::Result<()> {
        while !self.databases.is_empty() {
            self.drop_database().await?;
        }
        let names: Vec<&'static str> = PROVIDERS.iter().map(|provider| provider.name.as_str()).collect();
        let topology = Topology::new(self.prefix.clone(), &names);
        for queue in topology.queues() {
            self.channel.queue_delete(queue.name.into(), QueueDeleteOptions::default()).await?;
        }
        for exchange in topology.exchanges() {
            self.channel.exchange_delete(exchange.name.into(), ExchangeDeleteOptions::default()).await?;
        }
        self.connection.close(200, "done".into()).await?;
        Ok(())
    }
}

/// A private key that signs as Plaid, and the set of keys that a receiver takes for Plaid's.
fn plaid_key() -> anyhow::Result<(String, String)> {
    let key = DevelopmentKey::generate().context("make a key")?.expose_secret().to_owned();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &STANDARD.decode(&key)?);
    let pair = pair.map_err(|_| anyhow::anyhow!("a fresh key cannot be read"))?;
    let (x, y) = pair.public_key().as_ref().get(1..).and_then(|point| point.split_at_checked(32)).context("a point")?;
    let kid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, pair.public_key().as_ref());
    let jwk = serde_json::json!({ "key": {
        "alg": "ES256", "crv": "P-256", "kid": kid, "kty": "EC", "use": "sig", "created_at": 1_700_000_000,
        "expired_at": null, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    }});
    Ok((key, jwk.to_string()))
}
