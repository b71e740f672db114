//! The forwarder: hands what stands in the log to the broker, many at a time, and has each deleted after its confirm.
//!
//! ```text
//! waiting for the broker ── it accepts ──▶ forwarding ── a failure: what is in flight ends ──▶ given back, a delay ─┐
//!          ▲                                  │ nothing stored: waits for the log                                   │
//!          └────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! A queue that refuses (it is full) says nothing about the others: what it refused is held and tried again after a delay,
//! the rest goes on meanwhile.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{FORWARDED_AT_ONCE, Weather, waiting};
use crate::crypto::SealedDelivery;
use crate::domain::{ProviderName, Timestamp};
use crate::ops::delays::Delays;
use crate::queue::embedded::{Embedded, EmbeddedConsumer, Stored};
use crate::queue::{Consumer, PublishError, Queue, Token};

/// Most bytes in flight, and as many that were refused.
const BYTES: usize = 8 << 20;

/// How many refused ones are held before the others have to wait too.
const REFUSED: usize = 1_024;

/// The broker's return is to be noticed soon; asking it costs nothing.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

pub(super) struct Forwarder {
    pub(super) broker: Arc<dyn Queue>,
    pub(super) log: Arc<Embedded>,
    pub(super) weather: Arc<Weather>,
    pub(super) providers: Vec<&'static str>,
    pub(super) stop: CancellationToken,
}

/// What is going on with the stored deliveries that a consumer holds.
#[derive(Default)]
struct Round {
    bytes: usize,
    refused: usize,
    refused_bytes: usize,
    /// When the refused ones are tried again.
    again_at: Option<Instant>,
    failed: bool,
    confirmed: u64,
}

impl Forwarder {
    /// Forwards until it is stopped. A panic costs what is in flight another try.
    pub(super) async fn run(self) {
        let mut delays = Delays::new(FIRST_DELAY, LONGEST_DELAY);
        while !self.stop.is_cancelled() {
            if self.broker.accepts().is_ok() {
                match AssertUnwindSafe(self.forward()).catch_unwind().await {
                    Ok(confirmed) if confirmed > 0 => delays.reset(),
                    Ok(_) => {}
                    Err(_) => error!("the forwarder panicked; what it held is tried again"),
                }
            }
            tokio::select! {
                () = sleep(delays.after_failure()) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Forwards until something fails or it is stopped; how many were confirmed.
    async fn forward(&self) -> u64 {
        let prefetch = u16::try_from(FORWARDED_AT_ONCE + REFUSED).unwrap_or(u16::MAX);
        let mut consumer = self.log.stored(prefetch);
        let mut in_flight = FuturesUnordered::new();
        let mut round = Round::default();
        loop {
            let room = FORWARDED_AT_ONCE.saturating_sub(in_flight.len());
            let goes_on = !round.failed && !self.stop.is_cancelled();
            tokio::select! {
                Some(answered) = in_flight.next(), if !in_flight.is_empty() => {
                    self.settle(&mut consumer, &mut round, answered).await;
                    if in_flight.is_empty() && waiting(&self.log).await == 0 {
                        self.weather.emptied();
                    }
                }
                stored = consumer.next_stored(room), if goes_on && room > 0 && round.bytes < BYTES => {
                    // Nothing at all: the log was closed.
                    round.failed |= stored.is_empty();
                    for stored in stored {
                        if let Some((token, delivery)) = self.restore(stored) {
                            let bytes = delivery.message.as_bytes().len();
                            round.bytes += bytes;
                            let publishing = self.broker.publish(delivery);
                            in_flight.push(async move { (token, bytes, publishing.await) });
                        }
                    }
                }
                () = again(round.again_at), if goes_on => round.failed = true,
                () = self.stop.cancelled(), if goes_on => {}
                else => break,
            }
        }
        // Gives back what is not confirmed, after the deletes of what is.
        Box::new(consumer).close().await;
        if round.confirmed > 0 {
            info!(deliveries = round.confirmed, "forwarded from the spool");
        }
        round.confirmed
    }

    async fn settle(
        &self,
        consumer: &mut EmbeddedConsumer,
        round: &mut Round,
        (token, bytes, verdict): (Token, usize, Result<(), PublishError>),
    ) {
        round.bytes = round.bytes.saturating_sub(bytes);
        match verdict {
            Ok(()) => {
                self.weather.confirmed();
                round.confirmed += 1;
                round.failed |= consumer.ack(vec![token]).await.is_err();
            }
            Err(PublishError::Refused) => {
                round.refused += 1;
                round.refused_bytes += bytes;
                round.again_at.get_or_insert_with(|| Instant::now() + LONGEST_DELAY);
                round.failed |= round.refused >= REFUSED || round.refused_bytes >= BYTES;
            }
            Err(_) => round.failed = true,
        }
    }

    /// A stored row as the delivery that it was. What is none is kept where it is, and seen in the spool's depth.
    fn restore(&self, stored: Stored) -> Option<(Token, SealedDelivery)> {
        let known = self.providers.iter().find(|name| name.as_bytes() == stored.provider.as_bytes());
        let provider = known.map_or(ProviderName::UNKNOWN, |name| ProviderName::new(name));
        let received_at = Timestamp::from_micros(stored.received_at);
        let restored =
            received_at.and_then(|at| SealedDelivery::restored(provider, at, stored.traceparent, stored.body));
        if restored.is_none() {
            error!("a message in the spool is damaged; it stays there");
        }
        Some((stored.token, restored?))
    }
}

async fn again(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
