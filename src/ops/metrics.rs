//! Every metric, once: its name, what it means, its labels, and the function that writes it.
//!
//! Law: a label is a provider of the list, a fieldless enum's name or a queue's name, never anything that a sender
//! chose, so that the number of series is bounded. Where next: `http/ops_api.rs` shows them at `/metrics`.

use std::fmt::Display;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

use super::meter::Second;
use super::tally;
use crate::domain::{EventState, ProviderName, Timestamp};

/// Renders everything in Prometheus' text format.
pub use metrics_exporter_prometheus::PrometheusHandle;

const DELIVERIES: &str = "finhook_deliveries_total";
const VERIFICATION_FAILURES: &str = "finhook_verification_failures_total";
const ACK_SECONDS: &str = "finhook_ack_seconds";
const QUEUE_MESSAGES: &str = "finhook_queue_messages";
const QUEUE_LAG_SECONDS: &str = "finhook_queue_lag_seconds";
const QUEUE_CONSUMERS: &str = "finhook_queue_consumers";
const QUEUE_RATE: &str = "finhook_queue_messages_per_second";
const EVENTS: &str = "finhook_events_total";
const EVENT_LATENCY_SECONDS: &str = "finhook_event_latency_seconds";
const UNLINKED_EVENTS: &str = "finhook_unlinked_events";
const RETRYING_EVENTS: &str = "finhook_retrying_events";
const DEAD_EVENTS: &str = "finhook_dead_events";
const OLDEST_EVENT_SECONDS: &str = "finhook_oldest_event_seconds";
const WORKER_LAST_COMMIT: &str = "finhook_worker_last_commit_timestamp_seconds";
const OBSERVED: &str = "finhook_observed_timestamp_seconds";
const READY: &str = "finhook_ready";

/// From half a millisecond, what a confirm costs at best, to the 10 s after which Plaid gives up on an answer.
const ACK_BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// From one commit, close together where events are when nothing waits, to a day: while database or broker are away, events
/// wait, and a retry may be due hours later.
const LATENCY_BUCKETS: &[f64] = &[
    0.0025, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 900.0, 3600.0, 14_400.0, 86_400.0,
];

/// How often samples are folded into the histograms when nobody reads them.
const UPKEEP: Duration = Duration::from_secs(5);

/// What became of a request to a webhook path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Verified, durable, answered 200.
    Accepted,
    /// No proof, or not a good one: 401.
    Refused,
    /// The provider has no secret here: 503.
    NotConfigured,
    /// Keys, broker or log are away: 503.
    Unavailable,
    /// Too much in flight already: 503.
    Overloaded,
    /// The body is larger than allowed: 413.
    TooLarge,
    /// The body did not come in time: 408.
    TooSlow,
    /// The sender went away before its body was complete.
    Aborted,
    /// Not a path or not a method of ours: 404, 405.
    Misdirected,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 9] = [
        Self::Accepted,
        Self::Refused,
        Self::NotConfigured,
        Self::Unavailable,
        Self::Overloaded,
        Self::TooLarge,
        Self::TooSlow,
        Self::Aborted,
        Self::Misdirected,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::NotConfigured => "not_configured",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::Aborted => "aborted",
            Self::Misdirected => "misdirected",
        }
    }
}

/// Which of a queue's messages are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueState {
    /// They wait.
    Ready,
    /// A consumer holds them.
    Unacked,
}

impl QueueState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unacked => "unacked",
        }
    }
}

/// Which way messages go through a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// They come in.
    In,
    /// They are settled for good.
    Out,
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// What is looked at from time to time, and may not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Observed {
    /// The queues' depths.
    Queue,
    /// The events that wait in the tables.
    Store,
}

impl Observed {
    fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Store => "store",
        }
    }
}

/// What became of one event: the state of its row, or a copy that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventFate {
    /// Its row is in this state.
    Stored(EventState),
    /// A copy that counts more is stored already.
    Duplicate,
    /// It is about somebody who was forgotten: no row.
    Forgotten,
}

impl EventFate {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stored(state) => state.as_str(),
            Self::Duplicate => "duplicate",
            Self::Forgotten => "forgotten",
        }
    }
}

/// One request to a webhook path; `None` = the name in the path is nobody's.
pub fn deliveries(provider: Option<ProviderName>, outcome: Outcome) {
    counter!(DELIVERIES, "provider" => label(provider), "outcome" => outcome.as_str()).increment(1);
    if outcome != Outcome::Accepted {
        tally::of_process().not_accepted(Second::now(), label(provider), outcome.as_str());
    }
}

/// One delivery whose proof did not hold. `reason` is printed: pass a fieldless enum.
pub fn verification_failure(provider: ProviderName, reason: impl Display) {
    let reason = reason.to_string();
    counter!(VERIFICATION_FAILURES, "provider" => provider.as_str(), "reason" => reason.clone()).increment(1);
    tally::of_process().verification_failed(Second::now(), provider.as_str(), reason);
}

/// From having read a delivery to its 200.
pub fn ack_seconds(provider: ProviderName, took: Duration) {
    tally::of_process().acked(Second::now(), took);
    histogram!(ACK_SECONDS, "provider" => provider.as_str()).record(took.as_secs_f64());
}

/// How many messages stand in a queue.
pub fn queue_messages(queue: &str, state: QueueState, messages: u64) {
    gauge!(QUEUE_MESSAGES, "queue" => queue.to_owned(), "state" => state.as_str()).set(messages as f64);
}

/// How far a queue is behind: now minus the receipt of its newest committed delivery; 0 when it is empty.
pub fn queue_lag(queue: &str, lag: Duration) {
    gauge!(QUEUE_LAG_SECONDS, "queue" => queue.to_owned()).set(lag.as_secs_f64());
}

/// How many consumers a queue has.
pub fn queue_consumers(queue: &str, consumers: u64) {
    gauge!(QUEUE_CONSUMERS, "queue" => queue.to_owned()).set(consumers as f64);
}

/// How many messages go into a queue, or are settled, a second.
pub fn queue_rate(queue: &str, direction: Direction, per_second: f64) {
    gauge!(QUEUE_RATE, "queue" => queue.to_owned(), "direction" => direction.as_str()).set(per_second);
}

/// Events of a commit that ended alike.
pub fn events(provider: ProviderName, fate: EventFate, count: u64) {
    counter!(EVENTS, "provider" => provider.as_str(), "state" => fate.as_str()).increment(count);
    if count > 0 {
        tally::of_process().committed(Second::now(), count);
    }
}

/// From the receipt of each event's delivery to its commit, of a commit's events.
pub fn event_latencies(provider: ProviderName, took: &[Duration]) {
    tally::of_process().latencies(Second::now(), took);
    let histogram = histogram!(EVENT_LATENCY_SECONDS, "provider" => provider.as_str());
    took.iter().for_each(|took| histogram.record(took.as_secs_f64()));
}

/// How many events of a provider wait in a state that waits, and how long the oldest of them has since its receipt; other
/// states have no gauge.
pub fn pending_events(provider: ProviderName, state: EventState, count: u64, oldest: Duration) {
    let name = match state {
        EventState::Unlinked => UNLINKED_EVENTS,
        EventState::Retrying => RETRYING_EVENTS,
        EventState::Dead => DEAD_EVENTS,
        EventState::Applied | EventState::Recorded => return,
    };
    gauge!(name, "provider" => provider.as_str()).set(count as f64);
    gauge!(OLDEST_EVENT_SECONDS, "provider" => provider.as_str(), "state" => state.as_str()).set(oldest.as_secs_f64());
}

/// A worker has committed a batch.
pub fn last_commit(at: Timestamp) {
    gauge!(WORKER_LAST_COMMIT).set(at.micros() as f64 / 1e6);
}

/// Something was asked and answered: what its gauges say is of then.
pub fn observed(what: Observed, at: Timestamp) {
    gauge!(OBSERVED, "what" => what.as_str()).set(at.micros() as f64 / 1e6);
}

/// Whether one check of readiness is well.
pub fn ready(check: &'static str, ok: bool) {
    gauge!(READY, "check" => check).set(f64::from(u8::from(ok)));
}

fn label(provider: Option<ProviderName>) -> &'static str {
    provider.map_or("unknown", ProviderName::as_str)
}

/// Installs the recorder of this process and returns what renders it; again is the same as once.
///
/// A thread folds samples into the histograms: without it they would pile up until somebody reads `/metrics`.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = with_buckets(PrometheusBuilder::new()).build_recorder();
            let handle = recorder.handle();
            // Fails only if another library installed one of its own; then ours renders nothing, and nothing breaks.
            if metrics::set_global_recorder(recorder).is_ok() {
                describe();
            }
            let folded = handle.clone();
            let upkeep = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
                loop {
                    std::thread::sleep(UPKEEP);
                    folded.run_upkeep();
                }
            });
            if let Err(error) = upkeep {
                tracing::warn!(error.kind = %error.kind(), "no thread for metrics: they are folded when read");
            }
            handle
        })
        .clone()
}

/// Shows every series of these providers as 0 from the start: a counter that appears with its first failure hides that
/// failure from `rate()`. `reasons` are those of [`verification_failure`].
pub fn start_at_zero(providers: impl IntoIterator<Item = ProviderName>, reasons: &[impl Display]) {
    for provider in providers {
        for reason in reasons {
            let reason = reason.to_string();
            counter!(VERIFICATION_FAILURES, "provider" => provider.as_str(), "reason" => reason).increment(0);
        }
        for outcome in Outcome::ALL {
            counter!(DELIVERIES, "provider" => provider.as_str(), "outcome" => outcome.as_str()).increment(0);
        }
        let fates =
            EventState::ALL.into_iter().map(EventFate::Stored).chain([EventFate::Duplicate, EventFate::Forgotten]);
        for fate in fates {
            events(provider, fate, 0);
        }
    }
}

fn with_buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
    [(ACK_SECONDS, ACK_BUCKETS), (EVENT_LATENCY_SECONDS, LATENCY_BUCKETS)].into_iter().fold(
        builder,
        |builder, (name, buckets)| {
            // Fails only for an empty list of buckets.
            builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets).expect("buckets are given")
        },
    )
}

fn describe() {
    describe_counter!(DELIVERIES, "Requests to webhook paths, by what became of them.");
    describe_counter!(VERIFICATION_FAILURES, "Deliveries whose proof did not hold, by reason.");
    describe_histogram!(ACK_SECONDS, "Seconds from having read a delivery to its 200.");
    describe_gauge!(QUEUE_MESSAGES, "Messages in each queue, ready or unacked.");
    describe_gauge!(QUEUE_LAG_SECONDS, "Seconds since the receipt of the newest committed delivery, 0 if empty.");
    describe_counter!(EVENTS, "Events by the state that their commit left them in.");
    describe_histogram!(EVENT_LATENCY_SECONDS, "Seconds from the receipt of a delivery to the commit of its event.");
    describe_gauge!(QUEUE_CONSUMERS, "Consumers of each queue.");
    describe_gauge!(QUEUE_RATE, "Messages a second into each queue, and settled out of it.");
    describe_gauge!(UNLINKED_EVENTS, "Events that wait for a user of their subject.");
    describe_gauge!(RETRYING_EVENTS, "Events that are tried again later.");
    describe_gauge!(DEAD_EVENTS, "Events that could not be applied.");
    describe_gauge!(OLDEST_EVENT_SECONDS, "Seconds since the receipt of the oldest waiting event, 0 if there is none.");
    describe_gauge!(WORKER_LAST_COMMIT, "When a worker last committed a batch, in seconds since the epoch.");
    describe_gauge!(OBSERVED, "When queues and tables were last asked and answered, in seconds since the epoch.");
    describe_gauge!(READY, "1 if a check of /readyz is well, 0 if not.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_rendered_under_its_name_with_help() {
        let handle = install();
        let unit = ProviderName::new("unit");
        start_at_zero([unit], &["of_this_test"]);
        deliveries(None, Outcome::Misdirected);
        verification_failure(unit, "stale");
        ack_seconds(unit, Duration::from_millis(3));
        queue_messages("finhook.unit", QueueState::Ready, 7);
        queue_lag("finhook.unit", Duration::from_secs(2));
        event_latencies(unit, &[Duration::from_millis(12)]);
        queue_consumers("finhook.unit", 2);
        queue_rate("finhook.unit", Direction::Out, 1.5);
        for (state, count) in [(EventState::Unlinked, 1), (EventState::Retrying, 0), (EventState::Dead, 2)] {
            pending_events(unit, state, count, Duration::from_secs(9 * count));
        }
        observed(Observed::Queue, Timestamp::from_seconds(1_700_000_000).unwrap());
        ready("store", false);
        last_commit(Timestamp::from_seconds(1_700_000_000).unwrap());
        let text = handle.render();
        for name in [
            DELIVERIES,
            VERIFICATION_FAILURES,
            ACK_SECONDS,
            QUEUE_MESSAGES,
            QUEUE_LAG_SECONDS,
            EVENTS,
            EVENT_LATENCY_SECONDS,
            QUEUE_CONSUMERS,
            QUEUE_RATE,
            UNLINKED_EVENTS,
            RETRYING_EVENTS,
            DEAD_EVENTS,
            OLDEST_EVENT_SECONDS,
            WORKER_LAST_COMMIT,
            OBSERVED,
            READY,
        ] {
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
        assert!(text.contains("finhook_ack_seconds_bucket{provider=\"unit\",le=\"0.005\"}"), "{text}");
        assert!(
            text.contains("finhook_verification_failures_total{provider=\"unit\",reason=\"of_this_test\"} 0"),
            "{text}"
        );
        assert!(text.contains("finhook_queue_messages{queue=\"finhook.unit\",state=\"ready\"} 7"));
        assert!(text.contains("finhook_events_total{provider=\"unit\",state=\"duplicate\"} 0"));
    }

    #[test]
    fn installing_twice_gives_the_same_registry() {
        let (first, second) = (install(), install());
        deliveries(Some(ProviderName::new("twice")), Outcome::Accepted);
        for handle in [first, second] {
            assert!(handle.render().contains("finhook_deliveries_total{provider=\"twice\",outcome=\"accepted\"} 1"));
        }
    }
}
