//! Counts over the last minute, second by second: what a rate is read from without asking anybody twice.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

/// How many seconds are kept.
const KEPT: usize = 60;

/// Over how many whole seconds a rate is the mean: as many as pass between two observations.
const RATE_OVER: u64 = 5;

/// A second of this process, counted from its first question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Second(u64);

impl Second {
    /// The one that runs now, by the monotonic clock: a clock that is set must not make a rate.
    pub fn now() -> Self {
        static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self(FIRST.elapsed().as_secs())
    }

    /// The one that runs `later` after this one.
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later.as_secs()))
    }

    /// Its place in a ring of so many slots, each of `width` seconds, and the number of its slot.
    pub(super) fn slot(self, width: u64) -> u64 {
        self.0 / width.max(1)
    }
}

/// Counts what happens.
#[derive(Debug, Clone)]
pub struct Meter {
    slots: [u64; KEPT],
    newest: Second,
    total: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self { slots: [0; KEPT], newest: Second(0), total: 0 }
    }
}

impl Meter {
    /// Something happened `count` times.
    pub fn add(&mut self, now: Second, count: u64) {
        self.turn(now);
        self.total = self.total.saturating_add(count);
        if let Some(slot) = self.slots.get_mut(place(self.newest.0)) {
            *slot = slot.saturating_add(count);
        }
    }

    /// How often since the process started.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How often a second, as the mean of the last five whole ones.
    pub fn per_second(&self, now: Second) -> f64 {
        let whole = now.0.saturating_sub(RATE_OVER)..now.0;
        self.sum(whole) as f64 / RATE_OVER as f64
    }

    /// How often in the last minute.
    pub fn last_minute(&self, now: Second) -> u64 {
        self.sum(now.0.saturating_sub(KEPT as u64 - 1)..now.0.saturating_add(1))
    }

    fn sum(&self, seconds: std::ops::Range<u64>) -> u64 {
        let oldest = self.newest.0.saturating_sub(KEPT as u64 - 1);
        let known = seconds.filter(|second| (oldest..=self.newest.0).contains(second));
        known.filter_map(|second| self.slots.get(place(second))).sum()
    }

    /// Empties the slots of the seconds that passed since the newest one.
    fn turn(&mut self, now: Second) {
        let passed = now.0.saturating_sub(self.newest.0);
        for second in (1..=passed.min(KEPT as u64)).map(|back| now.0 - (back - 1)) {
            if let Some(slot) = self.slots.get_mut(place(second)) {
                *slot = 0;
            }
        }
        self.newest = self.newest.max(now);
    }
}

/// The slot of a second: below [`KEPT`], so the cast loses nothing.
fn place(second: u64) -> usize {
    (second % KEPT as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at: u64) -> Second {
        Second(at)
    }

    #[test]
    fn a_rate_is_the_mean_of_the_last_five_whole_seconds() {
        let mut meter = Meter::default();
        for at in 100..110 {
            meter.add(second(at), 7);
        }
        assert_eq!(meter.per_second(second(110)), 7.0);
        // The running second does not count: it is not over.
        meter.add(second(110), 1_000);
        assert_eq!(meter.per_second(second(110)), 7.0);
        assert_eq!(meter.per_second(second(112)), (7.0 + 7.0 + 7.0 + 1_000.0) / 5.0);
        assert_eq!(meter.per_second(second(200)), 0.0);
    }

    #[test]
    fn a_minute_forgets_what_is_older_and_the_total_nothing() {
        let mut meter = Meter::default();
        meter.add(second(0), 1);
        meter.add(second(59), 2);
        assert_eq!(meter.last_minute(second(59)), 3);
        assert_eq!(meter.last_minute(second(60)), 2);
        meter.add(second(100_000), 4);
        assert_eq!((meter.last_minute(second(100_000)), meter.total()), (4, 7));
    }

    #[test]
    fn a_slot_that_comes_round_again_starts_at_zero() {
        let mut meter = Meter::default();
        (0..200).for_each(|at| meter.add(second(at), 1));
        assert_eq!(meter.last_minute(second(199)), 60);
    }
}
