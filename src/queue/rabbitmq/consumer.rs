//! Consuming: a channel and a consumer for every queue, acks that never reach further than what was settled.
//!
//! A queue that does not answer takes its channel along, with everything that was given on it; so none shares one.
//!
//! Law: a `multiple` ack settles every lower tag of the channel, also one that still stands in a buffer unread. It is used
//! only for the contiguous run of settled tags from the lowest open one; beyond that run each tag is acked by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, SelectAll, StreamExt};
use futures_util::{FutureExt, future};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use super::link::{Link, Session};
use super::refusal::{CALL_TIMEOUT, Trouble, call, judge};
use super::topology::{Topology, count};
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

/// What a queue's stream gives: a message, or its end with what was wrong.
enum Item {
    Message(usize, Box<Delivery>),
    End(String),
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

/// One queue's channel.
struct Lane {
    queue: String,
    channel: Channel,
    tags: Tags,
}

impl RabbitConsumer {
    /// Consumes from every queue but the `silent` ones: a quorum queue without a leader, or one that the broker lost in a
    /// crash, answers nothing for as long as that lasts, and the others must not wait for it.
    pub(super) async fn open(
        link: Arc<Link>,
        session: Session,
        topology: &Topology,
        prefetch: u16,
        silent: &Silent,
    ) -> Result<Self, NotOpened> {
        // Also here, not on connecting alone: a consumer that was cancelled because somebody deleted its queue comes back.
        topology.declare(session.connection()).await?;
        let queues: Vec<_> = topology.queues().into_iter().map(|queue| queue.name).collect();
        let (mut lanes, mut items) = (Vec::new(), SelectAll::new());
        for (index, queue) in queues.iter().enumerate().filter(|(_, queue)| !silent.contains_key(*queue)) {
            let channel = session.channel().await?;
            // Quorum queues refuse a limit for all consumers together, so it is shared out among them
            // (<https://www.rabbitmq.com/docs/quorum-queues#global-qos>).
            let share = share(prefetch, index, queues.len());
            call("limit what is prefetched", channel.basic_qos(share, BasicQosOptions::default())).await?;
            let consume = channel.basic_consume(
                queue.as_str().into(),
                TAG.into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let consumer = match timeout(CALL_TIMEOUT, consume).await {
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
            let (name, lane) = (queue.clone(), lanes.len());
            let messages = consumer.map(move |item| match item {
                Ok(delivery) => Item::Message(lane, Box::new(delivery)),
                Err(error) => {
                    Item::End(judge(&format!("go on consuming from queue {name}"), &error).sentence().to_owned())
                }
            });
            // A cancel by the broker just ends the stream: that must be seen, not merged away.
            let cancelled = format!("the broker cancelled the consumer of queue {queue}");
            items.push(messages.chain(stream::once(future::ready(Item::End(cancelled)))).boxed());
            lanes.push(Lane { queue: queue.clone(), channel, tags: Tags::default() });
        }
        let until = silent.values().min().copied();
        Ok(Self { link, session, lanes, until, items, buffer: VecDeque::new() })
    }

    /// Takes over one item; an error ends this consumer.
    fn admit(&mut self, item: Option<Item>) -> Result<(), QueueError> {
        match item {
            Some(Item::Message(index, delivery)) => {
                let lane = &mut self.lanes[index];
                lane.tags.given(delivery.delivery_tag);
                self.buffer.push_back(received(index, &lane.queue, *delivery));
                Ok(())
            }
            Some(Item::End(sentence)) => {
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
        let deadline = Instant::now() + linger;
        while self.buffer.len() < max {
            match timeout_at(deadline, self.item()).await {
                Ok(admitted) => admitted?,
                Err(_) => break,
            }
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

    async fn close(self: Box<Self>) {
        if !self.session.up() {
            return;
        }
        // Closing right after an ack loses some (measured: up to 62 came again), because the channel sends acks on to the
        // queues in its own time. A cancel goes through each queue's log behind the acks sent before it, and the count
        // after it reaches the queue behind what the channel still held back.
        let goodbyes = self.lanes.iter().map(|Lane { queue, channel, .. }| async move {
            let cancelled = channel.basic_cancel(TAG.into(), BasicCancelOptions::default()).await;
            cancelled.map_err(|error| judge("cancel a consumer", &error))?;
            count(channel, queue).await?;
            call("close a channel", channel.close(200, "done".into())).await
        });
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

/// The consumer's name on its channel.
const TAG: &str = "finhook";

/// Where a token has the lane: the broker numbers each channel's deliveries from 1 on, and never gets that far.
const LANE_SHIFT: u32 = 48;

fn token(lane: usize, tag: u64) -> Token {
    Token((lane as u64) << LANE_SHIFT | tag)
}

fn lane_and_tag(token: &Token) -> (usize, u64) {
    ((token.0 >> LANE_SHIFT) as usize, token.0 & ((1 << LANE_SHIFT) - 1))
}

/// What of `prefetch` the consumer of a queue gets: the unrouted and the dead, which are last and nearly always empty, a
/// sixteenth each, the providers the rest in equal parts; at least one.
fn share(prefetch: u16, index: usize, queues: usize) -> u16 {
    let providers = u16::try_from(queues.saturating_sub(2)).unwrap_or(u16::MAX);
    let rare = (prefetch / 16).max(1);
    if index >= usize::from(providers) {
        return rare;
    }
    (prefetch.saturating_sub(2 * rare) / providers).max(1)
}

fn received(lane: usize, queue: &str, delivery: Delivery) -> Received {
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
        queue: queue.to_owned(),
        // Quorum queues count; others only say that there was a first time.
        redeliveries: header("x-delivery-count").and_then(number).unwrap_or(u32::from(delivery.redelivered)),
        traceparent: header("traceparent").and_then(text),
        body: Bytes::from(delivery.data),
    }
}

/// One ack as it is sent.
#[derive(Debug, PartialEq, Eq)]
struct Ack {
    tag: u64,
    multiple: bool,
}

/// Which tags of the channel are settled. The broker numbers them 1, 2, 3 …
#[derive(Default)]
struct Tags {
    /// Every tag up to here is settled.
    floor: u64,
    /// Settled ones above it.
    above: BTreeSet<u64>,
    /// Given and not settled.
    open: BTreeSet<u64>,
}

impl Tags {
    fn given(&mut self, tag: u64) {
        self.open.insert(tag);
    }

    /// Settles tags that are open, and says which acks do that.
    fn settle(&mut self, tags: impl Iterator<Item = u64>) -> Vec<Ack> {
        let fresh: BTreeSet<u64> = tags.filter(|tag| self.open.remove(tag)).collect();
        self.above.extend(&fresh);
        while self.above.first() == Some(&(self.floor + 1)) {
            self.above.pop_first();
            self.floor += 1;
        }
        // The broker refuses an ack of a tag that is not open any more, so the run ends at one that was settled just now.
        let run = fresh.range(..=self.floor).next_back().copied();
        let mut acks: Vec<_> = run.map(|tag| Ack { tag, multiple: true }).into_iter().collect();
        acks.extend(fresh.range(self.floor + 1..).map(|tag| Ack { tag: *tag, multiple: false }));
        acks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(tags: impl IntoIterator<Item = u64>) -> Tags {
        let mut all = Tags::default();
        tags.into_iter().for_each(|tag| all.given(tag));
        all
    }

    #[test]
    fn a_contiguous_run_is_one_ack() {
        let mut tags = given(1..=4);
        assert_eq!(tags.settle([2, 1, 3].into_iter()), [Ack { tag: 3, multiple: true }]);
    }

    #[test]
    fn a_tag_that_is_still_unread_is_never_swept_up() {
        // 2 was delivered to another queue's buffer and nobody has read it yet.
        let mut tags = given([1, 3]);
        assert_eq!(tags.settle([1, 3].into_iter()), [Ack { tag: 1, multiple: true }, Ack { tag: 3, multiple: false }]);
        tags.given(2);
        assert_eq!(tags.settle([2].into_iter()), [Ack { tag: 2, multiple: true }]);
        tags.given(4);
        assert_eq!(tags.settle([4].into_iter()), [Ack { tag: 4, multiple: true }]);
    }

    #[test]
    fn nothing_is_acked_twice() {
        let mut tags = given(1..=3);
        tags.settle([1, 2].into_iter());
        assert_eq!(tags.settle([1, 2, 9].into_iter()), []);
    }

    #[test]
    fn shares_stay_within_the_prefetch() {
        let total = |prefetch| (0..6).map(|index| u32::from(share(prefetch, index, 6))).sum::<u32>();
        for prefetch in [6, 7, 16, 100, 1024, u16::MAX] {
            assert!(total(prefetch) <= u32::from(prefetch), "{prefetch}: {}", total(prefetch));
        }
        assert_eq!(share(1024, 0, 6), 224);
    }
}
