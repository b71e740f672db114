//! How much a queue may give ahead.
//!
//! A broker counts what it gives ahead and does not weigh it. So each lane begins with one tap of a few messages, opens
//! further ones, up to its share, while what it holds is light, and closes them when it gets heavy:
//!
//! ```text
//!     all of it or a batch taken, little in it              more than LANE_BYTES
//! 8 ──▶ 32 ──▶ 128 ──▶ its share  ─────────────────────────────────────────────▶ 8
//! ```

use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{self, BoxFuture};
use futures_util::stream::{self, BoxStream, StreamExt};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::refusal::{Trouble, call, judge};
use super::tags::Tags;
use super::topology::count;

/// What a tap's stream gives: a message of its lane, or its end with what was wrong.
pub(super) enum Item {
    Message(usize, Box<Delivery>),
    End { lane: usize, tap: usize, sentence: String },
}

/// The first tap's prefetch: this many of the largest bodies from every queue are no burden.
const FIRST_TAP: u16 = 8;

/// The first tap's number.
pub(super) const FIRST: usize = 0;

/// How much a lane may hold before it goes back to its first tap.
const LANE_BYTES: usize = 8 << 20;

/// How many times as much a lane may be given after each further tap; it must hold less than that part of its bytes.
const GROWTH: u16 = 4;

/// One queue's channel.
pub(super) struct Lane {
    pub(super) queue: Arc<str>,
    pub(super) channel: Channel,
    pub(super) tags: Tags,
    /// The most messages that it may hold.
    share: u16,
    /// The first taps of lower ranks are given messages first.
    rank: u16,
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

impl Lane {
    /// A lane that may grow to `share`, with its first tap, which is to be opened as [`FIRST`].
    pub(super) fn new(queue: &str, channel: Channel, share: u16, rank: u16) -> Self {
        let first = Tap { number: FIRST, prefetch: share.min(FIRST_TAP) };
        Self {
            queue: queue.into(),
            channel,
            tags: Tags::default(),
            share,
            rank,
            taps: vec![first],
            numbered: FIRST,
            change: None,
        }
    }

    /// How much its taps may give ahead.
    pub(super) fn prefetch(&self) -> u16 {
        self.taps.iter().map(|tap| tap.prefetch).sum()
    }

    /// Whether it has this tap still.
    pub(super) fn has(&self, tap: usize) -> bool {
        self.taps.iter().any(|held| held.number == tap)
    }

    /// Begins to open or close taps, if what it holds says so.
    pub(super) fn turn(&mut self, index: usize) {
        if self.change.is_some() {
            return;
        }
        let further = self.taps.len() > 1;
        match turn(self.tags.open.len(), self.tags.bytes, (self.prefetch(), self.share), further) {
            Some(Turn::Open(prefetch)) => {
                self.numbered += 1;
                let number = self.numbered;
                self.taps.push(Tap { number, prefetch });
                let (channel, queue, rank) = (self.channel.clone(), self.queue.to_string(), self.rank);
                self.change = Some(Box::pin(async move {
                    limit(&channel, prefetch).await?;
                    let consumer = call("consume more from a queue", consume(&channel, &queue, number, rank)).await?;
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

    /// Cancels its taps and closes its channel.
    ///
    /// Closing right after an ack loses some (measured: up to 62 came again), because the channel sends acks on to the
    /// queues in its own time. A cancel goes through each queue's log behind the acks sent before it, and the count after
    /// it reaches the queue behind what the channel still held back.
    pub(super) async fn close(self) -> Result<(), Trouble> {
        for tap in &self.taps {
            cancel(&self.channel, tap.number).await?;
        }
        count(&self.channel, &self.queue).await?;
        call("close a channel", self.channel.close(200, "done".into())).await
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
pub(super) async fn changed(lanes: &mut [Lane]) -> Result<Option<BoxStream<'static, Item>>, Trouble> {
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

pub(super) async fn limit(channel: &Channel, prefetch: u16) -> Result<(), Trouble> {
    call("limit what is prefetched", channel.basic_qos(prefetch, BasicQosOptions::default())).await
}

/// The limit that was set last holds for this one, and those before it keep theirs. The broker gives to the highest priority
/// that has room (<https://www.rabbitmq.com/docs/consumer-priority>): to first taps by rank, and what they have no room for to
/// further ones in turn. So what waits behind a commit that takes long is a first tap, and not all that its lane has grown to.
pub(super) async fn consume(channel: &Channel, queue: &str, tap: usize, rank: u16) -> lapin::Result<lapin::Consumer> {
    let place = if tap == FIRST { rank } else { u16::MAX };
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongInt(-i32::from(place)));
    channel.basic_consume(queue.into(), tag(tap).into(), BasicConsumeOptions::default(), arguments).await
}

async fn cancel(channel: &Channel, tap: usize) -> Result<(), Trouble> {
    call("cancel a consumer", channel.basic_cancel(tag(tap).into(), BasicCancelOptions::default())).await
}

pub(super) fn flow(consumer: lapin::Consumer, queue: String, lane: usize, tap: usize) -> BoxStream<'static, Item> {
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

/// What of `prefetch` the consumer of a queue may grow to: a provider's all of it, because most of the time one provider
/// posts most, and [`LANE_BYTES`] bound what is held; the unrouted and the dead, which are last and nearly always empty, a
/// sixteenth.
pub(super) fn share(prefetch: u16, index: usize, queues: usize) -> u16 {
    let rare = index >= queues.saturating_sub(2);
    if rare { (prefetch / 16).max(1) } else { prefetch.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn one_provider_alone_fills_the_prefetch_and_what_is_rare_does_not() {
        for prefetch in [1, 6, 16, 2048, u16::MAX] {
            let shares: Vec<u16> = (0..6).map(|index| share(prefetch, index, 6)).collect();
            let rare = (prefetch / 16).max(1);
            assert_eq!(shares, [prefetch, prefetch, prefetch, prefetch, rare, rare]);
        }
    }
}
