//! The product hears of every row that changed, by PostgreSQL's notifications and from an exchange, and of nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use finhook::cli::posting::{Answer, Post};
use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use serde_json::{Value, json};
use sqlx::postgres::PgListener;

use crate::app::{Keys, PATIENCE, SECRETS, TestApp};
use crate::process::{Finhook, eventually};
use crate::servers::{OwnBroker, OwnDatabase, amqp_server, servers};
use crate::tables::Tables;

/// Table and id of a row.
type Told = (String, String);

fn told(message: &[u8]) -> Told {
    let message: Value = serde_json::from_slice(message).unwrap();
    let fields = message.as_object().unwrap();
    assert_eq!(fields.len(), 2, "table and id, and nothing else: {message}");
    (fields["table"].as_str().unwrap().to_owned(), fields["id"].as_str().unwrap().to_owned())
}

/// Every row of the product's tables.
async fn rows(tables: &Tables) -> BTreeSet<Told> {
    let mut rows = BTreeSet::new();
    for table in ["user", "integration", "account"] {
        let all = tables.all(table).await;
        rows.extend(all.into_iter().map(|row| (table.to_owned(), row["id"].clone().unwrap())));
    }
    rows
}

/// An exchange of one test, and what is bound to it.
struct OwnExchange {
    connection: Connection,
    channel: Channel,
    name: String,
    consumer: Option<Consumer>,
}

impl OwnExchange {
    async fn named(broker: &OwnBroker) -> Self {
        let connection = Connection::connect(&broker.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { connection, channel, name: format!("{}-changes", broker.prefix), consumer: None }
    }

    /// Binds a queue, once finhook has made the exchange.
    async fn listen(&mut self) {
        let queue = format!("{}-listener", self.name);
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let options = QueueDeclareOptions::default();
            self.channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
            let (name, options) = (self.name.as_str().into(), QueueBindOptions::default());
            if self
                .channel
                .queue_bind(queue.as_str().into(), name, "#".into(), options, FieldTable::default())
                .await
                .is_ok()
            {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "finhook makes the exchange");
            // A refusal closes the channel.
            self.channel = self.connection.create_channel().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let consumer = self.channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
        self.consumer = Some(consumer.await.unwrap());
    }

    /// Hears until everything in `rows` was heard.
    async fn hears_all(&mut self, rows: &BTreeSet<Told>) {
        let consumer = self.consumer.as_mut().unwrap();
        let mut heard = BTreeSet::new();
        while !heard.is_superset(rows) {
            let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
            let delivery = next.unwrap_or_else(|_| panic!("of {rows:?} only {heard:?}")).unwrap().unwrap();
            let told = told(&delivery.data);
            assert_eq!(delivery.routing_key.as_str(), told.0);
            assert_eq!(delivery.properties.content_type().as_ref().unwrap().as_str(), "application/json");
            heard.insert(told);
        }
        assert_eq!(&heard, rows);
    }

    async fn gone(self) {
        let queue = format!("{}-listener", self.name);
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
        self.channel.exchange_delete(self.name.into(), ExchangeDeleteOptions::default()).await.unwrap();
        self.connection.close(200, "done".into()).await.unwrap();
    }
}

/// Customers of users of their own, each with an account, `n` deliveries.
async fn post(app: &TestApp, to: &str, numbers: std::ops::Range<usize>) {
    let post = Post::new(to).unwrap();
    for n in numbers {
        let related = json!({ "customer": { "data": { "id": format!("c{n}") } }, "account": { "data": { "id": format!("acct{n}") } } });
        let event = |what: &str, kind: &str| {
            let attributes = json!({ "createdAt": "2026-11-20T10:00:01.000Z", "tags": { "userId": format!("u_{n}") } });
            json!({ "id": format!("{what}{n}"), "type": kind, "attributes": attributes, "relationships": related })
        };
        let body = json!({ "data": [event("m", "customer.created"), event("o", "account.created")] });
        assert_eq!(post.send(&app.signed("unit", body.to_string())).await, Answer::Accepted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_and_the_exchange_hear_of_every_row_also_of_what_a_killed_process_left_untold() {
    let Some(servers) = servers("changes on PostgreSQL and RabbitMQ") else { return };
    let (database, broker) = (OwnDatabase::new(&servers.database).await, OwnBroker::new(&servers.amqp));
    let finhook = Finhook::new();
    let keys = Keys::fresh(finhook.folder());
    let app = TestApp::embedded_with_keys(&keys).await;
    let mut exchange = OwnExchange::named(&broker).await;
    let finhook = finhook
        .with_all(&keys.settings)
        .with("DATABASE_URL", &database.url)
        .with("AMQP_URL", &broker.url)
        .with("FINHOOK_AMQP_PREFIX", &broker.prefix)
        .with("FINHOOK_CHANGES_EXCHANGE", &exchange.name);
    finhook.run(&["migrate", "up"]).exits(0);
    let tables = Tables::postgres(&database.url);
    let mut listener = PgListener::connect(&database.url).await.unwrap();
    listener.listen("finhook_changes").await.unwrap();

    let served = finhook.serve(&[]);
    exchange.listen().await;
    post(&app, &served.public, 0..20).await;
    // Killed at whatever it is doing: what was answered 200 is in the queue, what changed is in the table.
    served.kill();
    let served = finhook.serve(&[]);
    post(&app, &served.public, 20..30).await;
    eventually("all are committed", async || rows(&tables).await.len() == 90).await;
    let rows = rows(&tables).await;
    exchange.hears_all(&rows).await;
    let mut notified = BTreeSet::new();
    while !notified.is_superset(&rows) {
        let next = tokio::time::timeout(PATIENCE, listener.recv()).await.unwrap().unwrap();
        notified.insert(told(next.payload().as_bytes()));
    }
    assert_eq!(notified, rows);
    eventually("nothing is left to be told", async || tables.all("changed_row").await.is_empty()).await;
    assert!(served.terminate().0.success());
    exchange.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_in_sqlite_are_told_to_the_exchange_too() {
    let Some(amqp) = amqp_server("changes on SQLite and RabbitMQ") else { return };
    let broker = OwnBroker::new(&amqp);
    let mut exchange = OwnExchange::named(&broker).await;
    let finhook = SECRETS.iter().fold(Finhook::new(), |all, (name, value)| all.with(name, *value));
    let finhook = finhook
        .with("AMQP_URL", &broker.url)
        .with("FINHOOK_AMQP_PREFIX", &broker.prefix)
        .with("FINHOOK_CHANGES_EXCHANGE", &exchange.name);
    let data = finhook.folder().join("finhook-data");
    let served = finhook.serve(&[]);
    let app = TestApp::embedded_in(&data, &SECRETS).await;
    exchange.listen().await;
    post(&app, &served.public, 0..5).await;
    let tables = Tables::sqlite(&data.join("finhook.db"));
    eventually("all are committed", async || rows(&tables).await.len() == 15).await;
    exchange.hears_all(&rows(&tables).await).await;
    assert!(served.terminate().0.success());
    exchange.gone().await;
}
