//! The floor of the worker: consumes and acks the same messages, and runs bare multi-row statements that leave the same
//! number of rows in the same tables with the same indexes, and values in the columns where finhook leaves some. It opens,
//! reads and decides nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection as _, query};
use time::OffsetDateTime;
use uuid::Uuid;

use super::traffic;

/// Connections to the database, each with a consumer of its own: as many as workers.
const CONNECTIONS: usize = 2;
/// The most messages of a transaction.
const BATCH: usize = 1_024;
/// After so long without a message the queue is empty.
const EMPTY_AFTER: Duration = Duration::from_secs(2);

/// What a drain found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drained {
    /// Messages.
    pub messages: u64,
    /// From the first message to the last commit.
    pub seconds: f64,
}

impl Drained {
    /// Messages in a second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }
}

/// Drains a queue into a database.
pub async fn drain(url: &str, queue: &str, database: &str, first: u64) -> anyhow::Result<Drained> {
    let broker = Connection::connect(url, ConnectionProperties::default()).await?;
    let options: PgConnectOptions = database.parse().context("the database's address")?;
    // As finhook does on this machine.
    let options = options.ssl_mode(PgSslMode::Disable);
    let (number, began) = (Arc::new(AtomicU64::new(first)), Instant::now());
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = broker.create_channel().await?;
        channel.basic_qos(u16::try_from(2 * BATCH)?, BasicQosOptions::default()).await?;
        let consumer = channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await?;
        let database = options.clone().disable_statement_logging().connect().await?;
        tasks.push(tokio::spawn(batches(channel, consumer, database, Arc::clone(&number))));
    }
    let mut last = began;
    for task in tasks {
        last = last.max(task.await??);
    }
    broker.close(200, "done".into()).await?;
    let messages = number.load(Ordering::Relaxed) - first;
    Ok(Drained { messages, seconds: (last - began).as_secs_f64() })
}

async fn batches(
    channel: Channel,
    mut consumer: Consumer,
    mut database: PgConnection,
    number: Arc<AtomicU64>,
) -> anyhow::Result<Instant> {
    let mut last = Instant::now();
    loop {
        let mut messages = Vec::with_capacity(BATCH);
        let Ok(Some(message)) = tokio::time::timeout(EMPTY_AFTER, consumer.next()).await else { return Ok(last) };
        messages.push(message?);
        while messages.len() < BATCH {
            let more = tokio::time::timeout(Duration::from_millis(1), consumer.next()).await;
            let Ok(Some(message)) = more else { break };
            messages.push(message?);
        }
        let first = number.fetch_add(messages.len() as u64, Ordering::Relaxed);
        let payloads: Vec<&[u8]> = messages.iter().map(|message| &message.data[..]).collect();
        commit(&mut database, first, &payloads).await?;
        last = Instant::now();
        if let Some(message) = messages.last() {
            channel.basic_ack(message.delivery_tag, BasicAckOptions { multiple: true }).await?;
        }
    }
}

/// An id that a number has, so that nothing has to be looked up.
fn id(of: u64) -> Uuid {
    Uuid::from_u128(u128::from(of))
}

/// One transaction: one statement for each table.
async fn commit(database: &mut PgConnection, first: u64, payloads: &[&[u8]]) -> anyhow::Result<()> {
    let numbers: Vec<u64> = (first..first + payloads.len() as u64).collect();
    let now = OffsetDateTime::from(std::time::UNIX_EPOCH + Duration::from_secs(1_767_225_600));
    let naive = time::PrimitiveDateTime::new(now.date(), now.time());
    let customers: BTreeSet<u64> = numbers.iter().map(|number| traffic::customer(*number)).collect();
    let users: Vec<Uuid> = customers.iter().map(|customer| id(*customer)).collect();
    let names: Vec<String> = customers.iter().map(|customer| format!("u_{customer}")).collect();
    let subjects: Vec<String> = customers.iter().map(u64::to_string).collect();
    let accounts: BTreeSet<(u64, u64)> =
        numbers.iter().filter_map(|number| Some((traffic::account(*number)?, traffic::customer(*number)))).collect();
    let indexes: Vec<Vec<u8>> = accounts.iter().map(|(account, _)| index(*account)).collect();
    let sealed: Vec<String> = accounts.iter().map(|_| "f".repeat(83)).collect();
    let marks: Vec<Option<Vec<u8>>> = numbers
        .iter()
        .map(|n| (traffic::kind(*n) == "customer.created").then(|| index(traffic::customer(*n))))
        .collect();
    // A register's clock: when, and by which event.
    let at = i64::try_from(now.unix_timestamp_nanos() / 1_000)?;
    let key = |of: u64| of.to_string().into_bytes();
    let mut transaction = database.begin().await?;
    query(
        "insert into event (id, occurred_at, received_at, processed_at, attempts, provider, state, dedup_key, kind,
            subject, payload, user_mark)
         select new.id, $7, $7, $7, 0, 'unit', 'applied', new.dedup_key, new.kind, new.subject, new.payload, new.mark
         from unnest($1::uuid[], $2::bytea[], $3::text[], $4::text[], $5::bytea[], $6::bytea[])
            as new (id, dedup_key, kind, subject, payload, mark)
         on conflict (provider, dedup_key) do nothing",
    )
    .bind(numbers.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
    .bind(numbers.iter().map(|n| traffic::event(*n).to_string().into_bytes()).collect::<Vec<_>>())
    .bind(numbers.iter().map(|n| traffic::kind(*n)).collect::<Vec<_>>())
    .bind(numbers.iter().map(|n| traffic::customer(*n).to_string()).collect::<Vec<_>>())
    .bind(payloads)
    .bind(&marks)
    .bind(now)
    .execute(&mut *transaction)
    .await?;
    query(
        "insert into \"user\" (id, external_id, created_at, updated_at)
         select new.id, new.name, $3, $3 from unnest($1::uuid[], $2::text[]) as new (id, name)
         on conflict do nothing",
    )
    .bind(&users)
    .bind(&names)
    .bind(naive)
    .execute(&mut *transaction)
    .await?;
    query(
        "insert into integration (id, service, external_id, user_id, owner_rank, owner_at, owner_key, status, status_at,
            status_key, observed_at, created_at, updated_at)
         select new.id, 'unit', new.subject, new.id, 2, $4, new.key, 'active', $4, new.key, $3, $3, $3
         from unnest($1::uuid[], $2::text[], $5::bytea[]) as new (id, subject, key)
         on conflict (service, external_id) do update
         set observed_at = excluded.observed_at, updated_at = excluded.updated_at",
    )
    .bind(&users)
    .bind(&subjects)
    .bind(naive)
    .bind(at)
    .bind(customers.iter().map(|customer| key(*customer)).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await?;
    query(
        "insert into account (id, integration_id, user_id, external_id_index, baas_id_index, external_id, baas_id, status,
            status_at, status_key, observed_at, created_at, updated_at)
         select new.id, new.owner, new.owner, new.place, new.place, new.sealed, new.sealed, 'open', $6, new.key, $5, $5, $5
         from unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[], $7::bytea[]) as new (id, owner, place, sealed, key)
         on conflict (integration_id, external_id_index) do update
         set observed_at = excluded.observed_at, updated_at = excluded.updated_at",
    )
    .bind(accounts.iter().map(|(account, _)| id(*account)).collect::<Vec<_>>())
    .bind(accounts.iter().map(|(_, customer)| id(*customer)).collect::<Vec<_>>())
    .bind(&indexes)
    .bind(&sealed)
    .bind(naive)
    .bind(at)
    .bind(accounts.iter().map(|(account, _)| key(*account)).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// 32 bytes that look like a blind index: spread over the whole range.
fn index(account: u64) -> Vec<u8> {
    let spread = account.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [spread, !spread, spread.rotate_left(17), account].iter().flat_map(|part| part.to_be_bytes()).collect()
}
