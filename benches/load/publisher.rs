//! The floor of the receiver: confirmed publishes by lapin alone, without HTTP, proofs and seals.
//!
//! To finhook's exchange go the messages that finhook would publish: as large, with the same properties, and as many at
//! once as a sender has connections. To the default exchange go bare ones, as many at once as serve the broker best: the
//! most that it takes.

use anyhow::ensure;
use futures_util::FutureExt;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use uuid::Uuid;

use super::pace::{Found, Pace, Tally};

/// Bytes of a delivery's message: its body, sealed, with frame and head.
pub const MESSAGE_BYTES: usize = 1_300;
/// Channels, each with one window in flight.
const CHANNELS: usize = 4;
/// Messages of a window: together those of 64 connections.
const WINDOW: usize = 16;
/// Messages of a window of bare ones.
const BARE_WINDOW: usize = 128;

/// Where messages go.
#[derive(Clone)]
pub struct To {
    /// The exchange; empty for a quorum queue of its own, which is made and deleted.
    pub exchange: String,
    /// The routing key, or the queue.
    pub key: String,
}

/// Publishes `count` messages in windows, or each when it is due.
pub async fn publish(url: &str, to: To, count: u64, rate: Option<f64>) -> anyhow::Result<Found> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let bare = to.exchange.is_empty();
    if bare {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(to.key.as_str().into(), durable, arguments).await?;
    }
    let pace = Pace::new(count, rate);
    let mut tasks = Vec::new();
    // In an open loop each message waits for its own confirm, as many as come together.
    let (tasks_wanted, window) = match (rate, bare) {
        (Some(_), _) => (CHANNELS * WINDOW, 1),
        (None, true) => (CHANNELS, BARE_WINDOW),
        (None, false) => (CHANNELS, WINDOW),
    };
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channels.push(channel);
    }
    for channel in channels.iter().cycle().take(tasks_wanted) {
        tasks.push(tokio::spawn(windows(channel.clone(), to.clone(), pace.clone(), window)));
    }
    let mut tallies = Vec::new();
    for task in tasks {
        tallies.push(task.await??);
    }
    if bare {
        channel.queue_delete(to.key.as_str().into(), QueueDeleteOptions::default()).await?;
    }
    let found = Tally::found(tallies);
    connection.close(200, "done".into()).await?;
    found
}

/// What finhook says of a delivery outside the seal, in the same fields.
fn properties() -> BasicProperties {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut headers = FieldTable::default();
    headers.insert("provider".into(), text("unit"));
    headers.insert("received-at".into(), text("2026-01-01T00:00:00.000000Z"));
    headers.insert("traceparent".into(), text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/octet-stream".into())
        .with_type("finhook.delivery.v1".into())
        .with_message_id(Uuid::now_v7().to_string().into())
        .with_timestamp(1_700_000_000)
        .with_headers(headers)
}

async fn windows(channel: Channel, to: To, pace: Pace, window: usize) -> anyhow::Result<Tally> {
    let (mut tally, message) = (Tally::default(), vec![7_u8; MESSAGE_BYTES]);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let bare = to.exchange.is_empty();
    loop {
        let mut writes = Vec::with_capacity(window);
        while writes.len() < window {
            let Some((_, due)) = pace.next().await else { break };
            let properties = if bare { BasicProperties::default().with_delivery_mode(2) } else { properties() };
            let (exchange, key) = (to.exchange.as_str().into(), to.key.as_str().into());
            let publish = channel.basic_publish(exchange, key, options, &message, properties);
            let mut publish = Box::pin(publish);
            // Queued by the first poll: all of a window are written together.
            let written = (&mut publish).now_or_never();
            writes.push((publish, written, due));
        }
        if writes.is_empty() {
            return Ok(tally);
        }
        let mut confirms = Vec::with_capacity(writes.len());
        for (publish, written, due) in writes {
            confirms.push((if let Some(confirm) = written { confirm? } else { publish.await? }, due));
        }
        for (confirm, due) in confirms {
            let confirmation = confirm.await?;
            ensure!(matches!(confirmation, Confirmation::Ack(None)), "a publish was not confirmed");
            tally.answer(due, true);
        }
    }
}
