//! Consuming: a channel and a consumer for every queue, acks that never reach further than what was settled.
//!
//! A queue that does not answer takes its channel along, with everything that was given on it; so none shares one.
//!
//! A broker counts what it gives ahead and does not weigh it. So each lane begins with one tap of a few messages, opens
//! further ones, up to its share, while what it holds is light, and closes them when it gets heavy:
//!
//! ```text
//!     all of it or a batch taken, little in it              more than LANE_BYTES
//! 8 ──▶ 32 ──▶ 128 ──▶ its share  ─────────────────────────────────────────────▶ 8
//! ```
//!
//! Law: a `multiple` ack settles every lower tag of the channel, also one that still stands in a buffer unread. It is used
//! only for the contiguous run of settled tags from the lowest open one; beyond that run each tag is acked by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use futures_util::stream::{self, BoxStream, SelectAll, StreamExt};
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

/// What a tap's stream gives: a message of its lane, or its end with what was wrong.
enum Item {
    Message(usize, Box<Delivery>),
    End { lane: usize, tap: usize, sentence: String },
}

/// The first tap's prefetch: this many of the largest bodies from every queue are no burden.
const FIRST_TAP: u16 = 8;

/// How much a lane may hold before it goes back to its first tap.
const LANE_BYTES: usize = 8 << 20;

/// How many times as much a lane may be given after each further tap; it must hold less than that part of its bytes.
const GROWTH: u16 = 4;

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
    queue: Arc<str>,
    channel: Channel,
    tags: Tags,
    /// The most messages that it may hold.
    share: u16,
    /// Those that are open, the first one first.
    taps: Vec<Tap>,
    /// How many there were so far: no name is used twice.
    numbered: usize,
    /// A tap that is being opened, or taps that are being closed. It stands here so that a `next` that is given up, and
    /// polled no more, leaves no consumer behind that nobody reads.
    change: Option<BoxFuture<'static, Result<Option<BoxStream<'static, Item>>, Trouble>>>,
}

/// One consumer of the broker.
struct Tap {
    number: usize,
    prefetch: u16,
}

/// What a lane should do about its taps.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Open(u16),
    CloseFurther,
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
            // Quorum queues refuse a limit for all consumers together, so each has one of its own
            // (<https://www.rabbitmq.com/docs/quorum-queues#global-qos>).
            let share = share(prefetch, index, queues.len());
            let first = Tap { number: 0, prefetch: share.min(FIRST_TAP) };
            limit(&channel, first.prefetch).await?;
            let consumer = match timeout(CALL_TIMEOUT, consume(&channel, queue, first.number)).await {
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
            items.push(flow(consumer, queue.clone(), lanes.len(), first.number));
            let (queue, tags) = (queue.as_str().into(), Tags::default());
            lanes.push(Lane { queue, channel, tags, share, taps: vec![first], numbered: 0, change: None });
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
        // Closing right after an ack loses some (measured: up to 62 came again), because the channel sends acks on to the
        // queues in its own time. A cancel goes through each queue's log behind the acks sent before it, and the count
        // after it reaches the queue behind what the channel still held back.
        let goodbyes =
            std::mem::take(&mut self.lanes).into_iter().map(|Lane { queue, channel, taps, .. }| async move {
                for tap in taps {
                    cancel(&channel, tap.number).await?;
                }
                count(&channel, &queue).await?;
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

impl Lane {
    fn has(&self, tap: usize) -> bool {
        self.taps.iter().any(|held| held.number == tap)
    }

    /// Begins to open or close taps, if what it holds says so.
    fn turn(&mut self, index: usize) {
        if self.change.is_some() {
            return;
        }
        let prefetch = self.taps.iter().map(|tap| tap.prefetch).sum();
        let further = self.taps.len() > 1;
        match turn(self.tags.open.len(), self.tags.bytes, (prefetch, self.share), further) {
            Some(Turn::Open(prefetch)) => {
                self.numbered += 1;
                let number = self.numbered;
                self.taps.push(Tap { number, prefetch });
                let (channel, queue) = (self.channel.clone(), self.queue.to_string());
                self.change = Some(Box::pin(async move {
                    limit(&channel, prefetch).await?;
                    let consumer = call("consume more from a queue", consume(&channel, &queue, number)).await?;
                    Ok(Some(flow(consumer, queue, index, number)))
                }));
            }
            Some(Turn::CloseFurther) => {
                let closed: Vec<usize> = self.taps.drain(1..).map(|tap| tap.number).collect();
                let channel = self.channel.clone();
                self.change = Some(Box::pin(async move {
                    for number in closed {
                        cancel(&channel, number).await?;
                    }
                    Ok(None)
                }));
            }
            None => {}
        }
    }
}

/// What to do about the taps of a lane that holds `count` messages of `bytes` in all: `prefetch` of its `share` are open.
fn turn(count: usize, bytes: usize, (prefetch, share): (u16, u16), further: bool) -> Option<Turn> {
    if bytes > LANE_BYTES {
        return further.then_some(Turn::CloseFurther);
    }
    // No more than a batch is taken before it is settled, which is half a share.
    let saturated = count >= usize::from(prefetch.min(share / 2).max(1)) && prefetch < share;
    let light = bytes <= LANE_BYTES / usize::from(GROWTH);
    (saturated && light).then(|| Turn::Open(prefetch.saturating_mul(GROWTH - 1).min(share - prefetch)))
}

/// Completes when a lane's taps are as they should be, with the stream of a new one.
async fn changed(lanes: &mut [Lane]) -> Result<Option<BoxStream<'static, Item>>, Trouble> {
    future::poll_fn(|context| {
        for lane in &mut *lanes {
            let Some(change) = &mut lane.change else { continue };
            if let Poll::Ready(changed) = change.as_mut().poll(context) {
                lane.change = None;
                return Poll::Ready(changed);
            }
        }
        Poll::Pending
    })
    .await
}

async fn limit(channel: &Channel, prefetch: u16) -> Result<(), Trouble> {
    call("limit what is prefetched", channel.basic_qos(prefetch, BasicQosOptions::default())).await
}

/// The limit that was set last holds for this one, and those before it keep theirs.
async fn consume(channel: &Channel, queue: &str, tap: usize) -> lapin::Result<lapin::Consumer> {
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue.into(), tag(tap).into(), options, FieldTable::default()).await
}

async fn cancel(channel: &Channel, tap: usize) -> Result<(), Trouble> {
    call("cancel a consumer", channel.basic_cancel(tag(tap).into(), BasicCancelOptions::default())).await
}

fn flow(consumer: lapin::Consumer, queue: String, lane: usize, tap: usize) -> BoxStream<'static, Item> {
    // A cancel by the broker just ends the stream: that must be seen, not merged away.
    let cancelled = format!("the broker cancelled the consumer of queue {queue}");
    let messages = consumer.map(move |item| match item {
        Ok(delivery) => Item::Message(lane, Box::new(delivery)),
        Err(error) => {
            let sentence = judge(&format!("go on consuming from queue {queue}"), &error).sentence().to_owned();
            Item::End { lane, tap, sentence }
        }
    });
    messages.chain(stream::once(future::ready(Item::End { lane, tap, sentence: cancelled }))).boxed()
}

/// A consumer's name on its channel.
fn tag(tap: usize) -> String {
    format!("finhook-{tap}")
}

/// Where a token has the lane: the broker numbers each channel's deliveries from 1 on, and never gets that far.
const LANE_SHIFT: u32 = 48;

fn token(lane: usize, tag: u64) -> Token {
    Token((lane as u64) << LANE_SHIFT | tag)
}

fn lane_and_tag(token: &Token) -> (usize, u64) {
    ((token.0 >> LANE_SHIFT) as usize, token.0 & ((1 << LANE_SHIFT) - 1))
}

/// What of `prefetch` the consumer of a queue may grow to: a provider's all of it, because most of the time one provider
/// posts most, and [`LANE_BYTES`] bound what is held; the unrouted and the dead, which are last and nearly always empty, a
/// sixteenth.
fn share(prefetch: u16, index: usize, queues: usize) -> u16 {
    let rare = index >= queues.saturating_sub(2);
    if rare { (prefetch / 16).max(1) } else { prefetch.max(1) }
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
    /// Given and not settled, with their sizes.
    open: BTreeMap<u64, usize>,
    /// All of those.
    bytes: usize,
}

impl Tags {
    fn given(&mut self, tag: u64, bytes: usize) {
        self.open.insert(tag, bytes);
        self.bytes += bytes;
    }

    /// Whether it was open.
    fn close(&mut self, tag: u64) -> bool {
        let bytes = self.open.remove(&tag);
        self.bytes -= bytes.unwrap_or(0);
        bytes.is_some()
    }

    /// Settles tags that are open, and says which acks do that.
    fn settle(&mut self, tags: impl Iterator<Item = u64>) -> Vec<Ack> {
        let fresh: BTreeSet<u64> = tags.filter(|tag| self.close(*tag)).collect();
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
        tags.into_iter().for_each(|tag| all.given(tag, 1));
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
        tags.given(2, 1);
        assert_eq!(tags.settle([2].into_iter()), [Ack { tag: 2, multiple: true }]);
        tags.given(4, 1);
        assert_eq!(tags.settle([4].into_iter()), [Ack { tag: 4, multiple: true }]);
    }

    #[test]
    fn nothing_is_acked_twice() {
        let mut tags = given(1..=3);
        tags.settle([1, 2].into_iter());
        assert_eq!(tags.settle([1, 2, 9].into_iter()), []);
    }

    #[test]
    fn a_lane_is_given_more_as_long_as_it_holds_little_and_less_when_it_holds_much() {
        let (small, large) = (2_000, 1 << 20);
        assert_eq!(turn(7, 7 * small, (8, 224), false), None, "not all of it was taken");
        assert_eq!(turn(8, 8 * small, (8, 224), false), Some(Turn::Open(24)));
        assert_eq!(turn(128, 128 * small, (128, 224), true), Some(Turn::Open(96)));
        assert_eq!(turn(224, 224 * small, (224, 224), true), None, "that is its share");
        assert_eq!(turn(96, 96 * small, (128, 224), true), None, "less than a batch");
        assert_eq!(turn(112, 112 * small, (128, 224), true), Some(Turn::Open(96)), "a batch, and no more is taken");
        assert_eq!(turn(8, 8 * large, (8, 224), false), None);
        assert_eq!(turn(20, 9 * large, (32, 224), true), Some(Turn::CloseFurther));
        assert_eq!(turn(8, 100 * large, (8, 224), false), None, "the first one stays");
    }

    #[test]
    fn what_is_held_is_weighed() {
        let mut tags = Tags::default();
        tags.given(1, 100);
        tags.given(2, 10);
        tags.settle([1, 1, 7].into_iter());
        assert_eq!(tags.bytes, 10);
    }

    #[test]
    fn one_provider_alone_fills_the_prefetch_and_what_is_rare_does_not() {
        for prefetch in [1, 6, 16, 2048, u16::MAX] {
            let shares: Vec<u16> = (0..6).map(|index| share(prefetch, index, 6)).collect();
            let rare = (prefetch / 16).max(1);
            assert_eq!(shares, [prefetch, prefetch, prefetch, prefetch, rare, rare]);
        }
    }
}
