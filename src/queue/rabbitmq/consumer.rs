//! Consuming: a channel and a consumer for every queue, acks that never reach further than what was settled.
//!
//! A queue that does not answer takes its channel along, with everything that was given on it; so none shares one.
//!
//! Where next: `lane.rs`, how much a queue may give ahead; `tags.rs`, which acks settle what was committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future;
use futures_util::stream::{BoxStream, SelectAll, StreamExt};
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use super::lane::{FIRST, Item, Lane, changed, consume, flow, limit, share};
use super::link::{Link, Session};
use super::refusal::{CALL_TIMEOUT, Trouble, call, judge};
use super::topology::Topology;
use crate::queue::{Consumer, QueueError, Received, Token};

/// Queues that did not answer, and until when the others are consumed without them.
pub(super) type Silent = BTreeMap<String, Instant>;

/// Why a consumer could not be opened.
pub(super) enum NotOpened {
    /// For a reason of the connection or of all queues.
    Trouble(Trouble),
    /// The broker answers, and this queue does not.
    Silent(String),
}

impl From<Trouble> for NotOpened {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// A consumer over all queues.
pub(super) struct RabbitConsumer {
    link: Arc<Link>,
    session: Session,
    lanes: Vec<Lane>,
    /// When it ends by itself, because it has not all of them.
    until: Option<Instant>,
    items: SelectAll<BoxStream<'static, Item>>,
    buffer: VecDeque<Received>,
}

impl RabbitConsumer {
    /// Consumes from every queue but the `silent` ones: a quorum queue without a leader, or one that the broker lost in a
    /// crash, answers nothing for as long as that lasts, and the others must not wait for it.
    pub(super) async fn open(
        link: Arc<Link>,
        session: Session,
        topology: &Topology,
        prefetch: u16,
        rank: u16,
        silent: &Silent,
    ) -> Result<Self, NotOpened> {
        // Also here, not on connecting alone: a consumer that was cancelled because somebody deleted its queue comes back.
        topology.declare(session.connection()).await?;
        let queues: Vec<_> = topology.queues().into_iter().map(|queue| queue.name).collect();
        let (mut lanes, mut items) = (Vec::new(), SelectAll::new());
        for (index, queue) in queues.iter().enumerate().filter(|(_, queue)| !silent.contains_key(*queue)) {
            let channel = session.channel().await?;
            // Quorum queues refuse a limit for all consumers together, so each has one of its own
            // (<https://www.rabbitmq.com/docs/quorum-queues#global-qos>).
            let lane = Lane::new(queue, channel, share(prefetch, index, queues.len()), rank);
            limit(&lane.channel, lane.prefetch()).await?;
            let consumer = match timeout(CALL_TIMEOUT, consume(&lane.channel, queue, FIRST, rank)).await {
                Ok(Ok(consumer)) => consumer,
                Ok(Err(error)) => {
                    let trouble = judge(&format!("consume from queue {queue}"), &error);
                    return Err(trouble.if_missing_passes().into());
                }
                Err(_) => {
                    // Is it the queue or the broker that is silent?
                    session.channel().await?;
                    return Err(NotOpened::Silent(queue.clone()));
                }
            };
            items.push(flow(consumer, queue.clone(), lanes.len(), FIRST));
            lanes.push(lane);
        }
        let until = silent.values().min().copied();
        Ok(Self { link, session, lanes, until, items, buffer: VecDeque::new() })
    }

    /// Takes over one item; an error ends this consumer.
    fn admit(&mut self, item: Option<Item>) -> Result<(), QueueError> {
        match item {
            Some(Item::Message(index, delivery)) => {
                let lane = &mut self.lanes[index];
                lane.tags.given(delivery.delivery_tag, delivery.data.len());
                self.buffer.push_back(received(index, &lane.queue, *delivery));
                lane.turn(index);
                Ok(())
            }
            // What a tap was given before it was closed has been read by now.
            Some(Item::End { lane, tap, .. }) if !self.lanes[lane].has(tap) => Ok(()),
            Some(Item::End { sentence, .. }) => {
                if !self.link.closed() {
                    warn!("{sentence}");
                }
                Err(QueueError::Gone)
            }
            None => Err(QueueError::Gone),
        }
    }

    async fn item(&mut self) -> Result<(), QueueError> {
        let item = tokio::select! {
            biased;
            changed = changed(&mut self.lanes) => {
                match changed {
                    Ok(Some(tap)) => self.items.push(tap),
                    Ok(None) => {}
                    Err(trouble) => {
                        warn!("{}", trouble.sentence());
                        return Err(QueueError::Gone);
                    }
                }
                return Ok(());
            }
            item = self.items.next() => item,
            () = self.session.over() => return Err(QueueError::Gone),
            () = ended(self.until) => return Err(QueueError::Gone),
        };
        self.admit(item)
    }

    async fn gather(&mut self, max: usize, linger: Duration) -> Result<(), QueueError> {
        while self.buffer.is_empty() {
            self.item().await?;
        }
        self.admit_ready(max)?;
        let deadline = Instant::now() + linger;
        while self.buffer.len() < max {
            match timeout_at(deadline, self.item()).await {
                Ok(admitted) => admitted?,
                Err(_) => break,
            }
            self.admit_ready(max)?;
        }
        Ok(())
    }

    /// Takes over what is here already, without a timer and a look at everything else for each message.
    fn admit_ready(&mut self, max: usize) -> Result<(), QueueError> {
        while self.buffer.len() < max {
            let Some(item) = self.items.next().now_or_never() else { break };
            self.admit(item)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self, max: usize, linger: Duration) -> Result<Vec<Received>, QueueError> {
        match self.gather(max.max(1), linger).await {
            Ok(()) => {
                let count = self.buffer.len().min(max.max(1));
                Ok(self.buffer.drain(..count).collect())
            }
            // What was buffered is the broker's again, and cannot be acked any more.
            Err(_) if self.link.closed() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn ack(&mut self, tokens: Vec<Token>) -> Result<(), QueueError> {
        if !self.session.up() {
            return Err(QueueError::Gone);
        }
        let mut tags = vec![Vec::new(); self.lanes.len()];
        for (lane, tag) in tokens.into_iter().map(|token| lane_and_tag(&token)) {
            // A token of another consumer settles nothing here.
            if let Some(tags) = tags.get_mut(lane) {
                tags.push(tag);
            }
        }
        let sent = async {
            let mut writes = Vec::new();
            for (lane, tags) in self.lanes.iter_mut().zip(tags) {
                let channel = &lane.channel;
                for ack in lane.tags.settle(tags.into_iter()) {
                    writes.push(Box::pin(channel.basic_ack(ack.tag, BasicAckOptions { multiple: ack.multiple })));
                }
            }
            let mut all = Vec::with_capacity(writes.len());
            for mut write in writes {
                // As in publishing: all are queued by the first poll, and written together.
                let written = (&mut write).now_or_never();
                all.push((write, written));
            }
            for (write, written) in all {
                match written {
                    Some(result) => result?,
                    None => write.await?,
                }
            }
            Ok(())
        };
        call("acknowledge messages", sent).await.map_err(|trouble| {
            warn!("{}", trouble.sentence());
            QueueError::Gone
        })
    }

    async fn close(mut self: Box<Self>) {
        if !self.session.up() {
            return;
        }
        let goodbyes = std::mem::take(&mut self.lanes).into_iter().map(Lane::close);
        let goodbye = async { future::join_all(goodbyes).await.into_iter().collect::<Result<(), Trouble>>() };
        match timeout(CALL_TIMEOUT, goodbye).await {
            Ok(Ok(())) => {}
            Ok(Err(trouble)) => warn!("{}", trouble.sentence()),
            Err(_) => warn!("the broker did not confirm the end of a consumer; some messages may come again"),
        }
    }
}

async fn ended(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => future::pending().await,
    }
}

/// Where a token has the lane: the broker numbers each channel's deliveries from 1 on, and never gets that far.
const LANE_SHIFT: u32 = 48;

fn token(lane: usize, tag: u64) -> Token {
    Token((lane as u64) << LANE_SHIFT | tag)
}

fn lane_and_tag(token: &Token) -> (usize, u64) {
    ((token.0 >> LANE_SHIFT) as usize, token.0 & ((1 << LANE_SHIFT) - 1))
}

fn received(lane: usize, queue: &Arc<str>, delivery: Delivery) -> Received {
    let headers = delivery.properties.headers().as_ref().map(FieldTable::inner);
    let header = |name: &str| headers.and_then(|headers| headers.get(name));
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        _ => None,
    };
    let number = |value: &AMQPValue| match value {
        AMQPValue::LongLongInt(number) => u32::try_from(*number).ok(),
        AMQPValue::LongInt(number) => u32::try_from(*number).ok(),
        AMQPValue::LongUInt(number) => Some(*number),
        _ => None,
    };
    Received {
        token: token(lane, delivery.delivery_tag),
        queue: Arc::clone(queue),
        // Quorum queues count; others only say that there was a first time.
        redeliveries: header("x-delivery-count").and_then(number).unwrap_or(u32::from(delivery.redelivered)),
        traceparent: header("traceparent").and_then(text),
        body: Bytes::from(delivery.data),
    }
}
