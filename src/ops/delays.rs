//! How long to wait before trying again: exponential, jittered, capped, for ever. The one file that names the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// A run of growing delays. It never ends: whoever waits for a broker or a database waits until it is back.
#[derive(Debug)]
pub struct Delays {
    grown: ExponentialBackoff,
    cap: Duration,
}

impl Delays {
    /// Starts around `first`, doubles each time, and never exceeds `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        let grown = ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            // Half up, half down: a fleet that lost its broker at one instant must not come back at one instant.
            randomization_factor: 0.5,
            multiplier: 2.0,
            max_interval: cap,
            // The crate gives up after 15 minutes unless told otherwise.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { grown, cap }
    }

    /// The next delay.
    pub fn after_failure(&mut self) -> Duration {
        self.grown.next_backoff().map_or(self.cap, |delay| delay.min(self.cap))
    }

    /// Starts over, after something worked.
    pub fn reset(&mut self) {
        self.grown.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_never_end() {
        let cap = Duration::from_secs(5);
        let mut delays = Delays::new(Duration::from_millis(100), cap);
        let first = delays.after_failure();
        assert!(first >= Duration::from_millis(50) && first <= Duration::from_millis(151), "{first:?}");
        let all: Vec<_> = (0..1_000).map(|_| delays.after_failure()).collect();
        assert!(all.iter().all(|delay| *delay <= cap));
        assert!(all[20..].iter().all(|delay| *delay >= cap / 2));
    }

    #[test]
    fn delays_start_over_after_a_success() {
        let mut delays = Delays::new(Duration::from_millis(100), Duration::from_secs(5));
        for _ in 0..50 {
            delays.after_failure();
        }
        delays.reset();
        assert!(delays.after_failure() <= Duration::from_millis(151));
    }
}
