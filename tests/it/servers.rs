//! PostgreSQL and RabbitMQ for one test: a database and a prefix of its own, removed when the test ends, however it ends.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use finhook::providers::PROVIDERS;
use finhook::queue::rabbitmq::Topology;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

/// Where the servers are that a test may use.
#[derive(Clone)]
pub struct Servers {
    /// A PostgreSQL on which databases may be made.
    pub database: String,
    /// A RabbitMQ on which queues may be declared.
    pub amqp: String,
}

/// The servers, or a word on what is left out.
pub fn servers(test: &str) -> Option<Servers> {
    let (database, amqp) = (database_server(test)?, amqp_server(test)?);
    Some(Servers { database, amqp })
}

/// PostgreSQL alone, or a word on what is left out.
pub fn database_server(test: &str) -> Option<String> {
    given("FINHOOK_TEST_DATABASE_URL", test)
}

/// RabbitMQ alone, or a word on what is left out.
pub fn amqp_server(test: &str) -> Option<String> {
    given("FINHOOK_TEST_AMQP_URL", test)
}

fn given(name: &str, test: &str) -> Option<String> {
    static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);
    if let Some(url) = std::env::var(name).ok().filter(|url| !url.is_empty()) {
        return Some(url);
    }
    let required = std::env::var("FINHOOK_TEST_REQUIRED").is_ok_and(|value| value == "1");
    assert!(!required, "{test} needs a server: {name} is not set, and nothing may be left out");
    let count = LEFT_OUT.fetch_add(1, Ordering::SeqCst) + 1;
    // Not by `eprintln!`, which the test harness swallows.
    let _ = writeln!(std::io::stderr(), "left out ({count} so far): {test}: {name} is not set");
    None
}

/// A database of one test.
pub struct OwnDatabase {
    server: String,
    name: String,
    /// Where it is.
    pub url: String,
}

impl OwnDatabase {
    /// Makes an empty one.
    pub async fn new(server: &str) -> Self {
        let name = format!("finhook_it_{}", Uuid::new_v4().simple());
        let admin = PgPoolOptions::new().max_connections(1).connect(server).await.unwrap();
        admin.execute(AssertSqlSafe(format!("create database {name} template template0"))).await.unwrap();
        // These tests kill processes, not machines: what was committed stays.
        let relaxed = format!("alter database {name} set synchronous_commit = off");
        admin.execute(AssertSqlSafe(relaxed)).await.unwrap();
        admin.close().await;
        let (address, _) = server.rsplit_once('/').unwrap();
        Self { server: server.to_owned(), url: format!("{address}/{name}"), name }
    }
}

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        in_a_runtime_of_its_own(async move {
            let admin = PgPoolOptions::new().max_connections(1).connect(&server).await?;
            admin.execute(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).await?;
            Ok::<(), sqlx::Error>(())
        });
    }
}

/// A prefix of one test on the broker.
pub struct OwnBroker {
    /// Where the broker is.
    pub url: String,
    /// What exchange and queues are called.
    pub prefix: String,
}

impl OwnBroker {
    /// A prefix that nobody else has; nothing is declared yet.
    pub fn new(server: &str) -> Self {
        Self { url: server.to_owned(), prefix: format!("it-{}", Uuid::new_v4().simple()) }
    }

    /// Its exchanges and queues.
    pub fn topology(&self) -> Topology {
        let providers: Vec<&'static str> = PROVIDERS.iter().map(|provider| provider.name.as_str()).collect();
        Topology::new(self.prefix.clone(), &providers)
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let (url, topology) = (self.url.clone(), self.topology());
        in_a_runtime_of_its_own(async move {
            let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            for queue in topology.queues() {
                channel.queue_delete(queue.name.into(), QueueDeleteOptions::default()).await?;
            }
            for exchange in topology.exchanges() {
                channel.exchange_delete(exchange.name.into(), ExchangeDeleteOptions::default()).await?;
            }
            connection.close(200, "done".into()).await
        });
    }
}

/// Runs to its end even where a destructor cannot wait; a server that is gone keeps what it has.
fn in_a_runtime_of_its_own<E: std::fmt::Display + Send + 'static>(
    work: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work).map_err(|error| error.to_string())
    };
    if let Ok(Err(error)) = std::thread::spawn(work).join() {
        eprintln!("a test's servers were not cleaned up: {error}");
    }
}
