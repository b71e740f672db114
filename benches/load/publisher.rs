//! The floor of the receiver: bare confirmed publishes of messages as large as a sealed delivery, without HTTP.

use anyhow::ensure;
use futures_util::FutureExt;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use super::pace::{Found, Pace, Tally};

/// Bytes of a delivery's message: its body, sealed, with frame and head.
pub const MESSAGE_BYTES: usize = 1_300;
/// Channels, each with one window in flight.
const CHANNELS: usize = 4;
/// Messages of a window.
const WINDOW: usize = 128;

/// Publishes `count` messages to a quorum queue of its own, in windows or each when it is due, and deletes the queue.
pub async fn publish(url: &str, queue: &str, count: u64, rate: Option<f64>) -> anyhow::Result<Found> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), durable, arguments).await?;
    let pace = Pace::new(count, rate);
    let win: usize = std::env::var("XWIN").ok().and_then(|v| v.parse().ok()).unwrap_or(WINDOW);
    let ch: usize = std::env::var("XCH").ok().and_then(|v| v.parse().ok()).unwrap_or(CHANNELS);
    let mut tasks = Vec::new();
    // In an open loop each message waits for its own confirm, as many as come together.
    let (tasks_wanted, window) = if rate.is_some() { (64, 1) } else { (ch, win) };
    let mut channels = Vec::new();
    for _ in 0..ch {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channels.push(channel);
    }
    for channel in channels.iter().cycle().take(tasks_wanted) {
        tasks.push(tokio::spawn(windows(channel.clone(), queue.to_owned(), pace.clone(), window)));
    }
    let mut tallies = Vec::new();
    for task in tasks {
        tallies.push(task.await??);
    }
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    let found = Tally::found(tallies);
    connection.close(200, "done".into()).await?;
    found
}

async fn windows(channel: Channel, queue: String, pace: Pace, window: usize) -> anyhow::Result<Tally> {
    let (mut tally, message) = (Tally::default(), vec![7_u8; MESSAGE_BYTES]);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default().with_delivery_mode(2);
    loop {
        let mut writes = Vec::with_capacity(window);
        while writes.len() < window {
            let Some((_, due)) = pace.next().await else { break };
            let publish =
                channel.basic_publish("".into(), queue.as_str().into(), options, &message, properties.clone());
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
