//! What this process took, refused and committed lately, for people who look: rates and percentiles that a counter's total
//! does not say. `ops::metrics` fills it with the same calls that feed `/metrics`, so the two cannot disagree.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::meter::{Meter, Second};

/// Percentiles are those of the last five minutes, in steps of half a minute: long enough to say something about a
/// provider that posts once a minute.
const STEP_SECONDS: u64 = 30;
const STEPS: u64 = 10;

/// Times from a microsecond to an hour are told apart, to two digits.
const LONGEST_MICROS: u64 = 3_600_000_000;
const DIGITS: u8 = 2;

/// The counts of one process.
#[derive(Default)]
pub struct Tally {
    accepted: Mutex<(Meter, Times)>,
    not_accepted: Mutex<BTreeMap<(&'static str, &'static str), Meter>>,
    failures: Mutex<BTreeMap<(&'static str, String), Meter>>,
    events: Mutex<(Meter, Times)>,
    /// Into the retrying events, and out of them.
    retrying: Mutex<(Meter, Meter)>,
}

/// How often something was said to a sender.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Said {
    /// Whose deliveries; `unknown` for a path that is nobody's.
    #[schema(value_type = String)]
    pub provider: &'static str,
    /// The outcome or the reason, as the metric's label has it.
    pub reason: String,
    /// Since the process started.
    pub total: u64,
    /// Of these, in the last minute.
    pub last_minute: u64,
}

/// How long something took, in seconds, over the last five minutes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Percentiles {
    /// How many there were.
    pub count: u64,
    /// Half took no longer.
    pub p50: f64,
    /// 95 of 100 took no longer.
    pub p95: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// The tally of this process.
pub fn of_process() -> &'static Tally {
    static TALLY: LazyLock<Tally> = LazyLock::new(Tally::default);
    &TALLY
}

impl Tally {
    /// A delivery got its 200 after so long.
    pub fn acked(&self, now: Second, took: Duration) {
        let (meter, times) = &mut *locked(&self.accepted);
        meter.add(now, 1);
        times.record(now, took);
    }

    /// A request was not accepted.
    pub fn not_accepted(&self, now: Second, provider: &'static str, outcome: &'static str) {
        locked(&self.not_accepted).entry((provider, outcome)).or_default().add(now, 1);
    }

    /// A proof did not hold. `reason` is the name of a fieldless enum: their number is bounded.
    pub fn verification_failed(&self, now: Second, provider: &'static str, reason: String) {
        locked(&self.failures).entry((provider, reason)).or_default().add(now, 1);
    }

    /// Events were committed, duplicates too.
    pub fn committed(&self, now: Second, events: u64) {
        locked(&self.events).0.add(now, events);
    }

    /// Events were committed so long after their receipt.
    pub fn latencies(&self, now: Second, took: &[Duration]) {
        let times = &mut locked(&self.events).1;
        took.iter().for_each(|took| times.record(now, *took));
    }

    /// Events were put among the retrying ones, or left them.
    pub fn retrying(&self, now: Second, entered: u64, left: u64) {
        let (into, out) = &mut *locked(&self.retrying);
        into.add(now, entered);
        out.add(now, left);
    }

    /// Events that are put among the retrying ones, and that leave them, a second.
    pub fn retrying_per_second(&self, now: Second) -> (f64, f64) {
        let (into, out) = &*locked(&self.retrying);
        (into.per_second(now), out.per_second(now))
    }

    /// Deliveries accepted a second.
    pub fn accepted_per_second(&self, now: Second) -> f64 {
        locked(&self.accepted).0.per_second(now)
    }

    /// Requests not accepted a second, whatever for.
    pub fn not_accepted_per_second(&self, now: Second) -> f64 {
        locked(&self.not_accepted).values().map(|meter| meter.per_second(now)).sum()
    }

    /// Events committed a second.
    pub fn events_per_second(&self, now: Second) -> f64 {
        locked(&self.events).0.per_second(now)
    }

    /// From having read a delivery to its 200; `None` if there was none.
    pub fn ack(&self, now: Second) -> Option<Percentiles> {
        locked(&self.accepted).1.percentiles(now)
    }

    /// From a delivery's receipt to the commit of its events; `None` if there was none.
    pub fn event_latency(&self, now: Second) -> Option<Percentiles> {
        locked(&self.events).1.percentiles(now)
    }

    /// What was said to senders instead of a 200, by provider and outcome.
    pub fn refusals(&self, now: Second) -> Vec<Said> {
        let all = locked(&self.not_accepted);
        all.iter().map(|((provider, outcome), meter)| said(provider, outcome, meter, now)).collect()
    }

    /// Why proofs did not hold, by provider and reason.
    pub fn verification_failures(&self, now: Second) -> Vec<Said> {
        let all = locked(&self.failures);
        all.iter().map(|((provider, reason), meter)| said(provider, reason, meter, now)).collect()
    }
}

fn said(provider: &'static str, reason: &str, meter: &Meter, now: Second) -> Said {
    Said { provider, reason: reason.to_owned(), total: meter.total(), last_minute: meter.last_minute(now) }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long things took, in steps.
#[derive(Default)]
struct Times {
    /// Oldest first: the number of the step, and what was recorded in it.
    steps: VecDeque<(u64, Histogram<u32>)>,
}

impl Times {
    fn record(&mut self, now: Second, took: Duration) {
        let step = now.slot(STEP_SECONDS);
        if self.steps.back().is_none_or(|(newest, _)| *newest != step) {
            self.steps.retain(|(old, _)| old.saturating_add(STEPS) > step);
            self.steps.push_back((step, empty()));
        }
        if let Some((_, histogram)) = self.steps.back_mut() {
            histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn percentiles(&self, now: Second) -> Option<Percentiles> {
        let step = now.slot(STEP_SECONDS);
        let mut all = empty();
        for (_, histogram) in self.steps.iter().filter(|(old, _)| old.saturating_add(STEPS) > step) {
            // Fails only where the other one holds what this one cannot: they have the same bounds.
            let _ = all.add(histogram);
        }
        let seconds = |quantile| all.value_at_quantile(quantile) as f64 / 1e6;
        (!all.is_empty()).then(|| Percentiles {
            count: all.len(),
            p50: seconds(0.5),
            p95: seconds(0.95),
            p99: seconds(0.99),
            max: all.max() as f64 / 1e6,
        })
    }
}

fn empty() -> Histogram<u32> {
    // Fails only for bounds or digits out of range: these are within.
    Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS).expect("bounds are in range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_last_five_minutes() {
        let (tally, start) = (Tally::default(), Second::now());
        for millis in 1..=100 {
            tally.acked(start, Duration::from_millis(millis));
        }
        let ack = tally.ack(start).unwrap();
        assert_eq!(ack.count, 100);
        for (value, expected) in [(ack.p50, 0.050), (ack.p95, 0.095), (ack.p99, 0.099), (ack.max, 0.100)] {
            assert!((value - expected).abs() < 0.002, "{value} is not about {expected}");
        }
        let later = start.plus(Duration::from_secs(200));
        tally.acked(later, Duration::from_secs(2));
        assert_eq!(tally.ack(later).unwrap().count, 101);
        let much_later = start.plus(Duration::from_secs(400));
        assert_eq!(tally.ack(much_later).map(|ack| (ack.count, ack.p50.round())), Some((1, 2.0)));
        assert_eq!(tally.ack(start.plus(Duration::from_secs(3_600))), None);
    }

    #[test]
    fn a_time_beyond_an_hour_counts_as_an_hour() {
        let (tally, now) = (Tally::default(), Second::now());
        tally.latencies(now, &[Duration::from_secs(86_400)]);
        assert!((3_500.0..3_700.0).contains(&tally.event_latency(now).unwrap().max));
    }

    #[test]
    fn retrying_events_come_and_go() {
        let (tally, now) = (Tally::default(), Second::now());
        tally.retrying(now, 10, 0);
        tally.retrying(now, 0, 5);
        assert_eq!(tally.retrying_per_second(now.plus(Duration::from_secs(1))), (2.0, 1.0));
    }

    #[test]
    fn refusals_are_counted_by_provider_and_reason() {
        let (tally, now) = (Tally::default(), Second::now());
        tally.not_accepted(now, "unit", "refused");
        tally.not_accepted(now, "unit", "refused");
        tally.verification_failed(now, "unit", "stale".to_owned());
        let later = now.plus(Duration::from_secs(61));
        tally.not_accepted(later, "plaid", "unavailable");
        let said: Vec<_> =
            tally.refusals(later).iter().map(|s| (s.provider, s.reason.clone(), s.total, s.last_minute)).collect();
        assert_eq!(said, [("plaid", "unavailable".to_owned(), 1, 1), ("unit", "refused".to_owned(), 2, 0)]);
        assert_eq!(tally.verification_failures(now)[0].reason, "stale");
    }
}
