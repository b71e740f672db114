//! When things are sent: as fast as answers come, or at a rate whatever happens (open loop), and what that took.
//!
//! In an open loop a latency is counted from when a delivery was due and not from when it was sent, so that one slow answer
//! does not hide the wait of those behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc};

/// What is due within so short a time is told together: to be woken for each would take the processor from what is measured.
/// Their latencies count from when each was due, as all do.
const TOGETHER: Duration = Duration::from_micros(500);

/// What a sender or publisher found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Found {
    /// What was taken.
    pub accepted: u64,
    /// What was not.
    pub refused: u64,
    /// From the first to the last.
    pub seconds: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Microseconds of processor for each, in the process that sent.
    pub processor: f64,
}

impl Found {
    /// How many were taken in a second.
    pub fn rate(&self) -> f64 {
        self.accepted as f64 / self.seconds
    }
}

/// Which one is next, and when it is due.
#[derive(Clone)]
pub enum Pace {
    /// The next as soon as there is an answer, up to so many.
    Closed(Arc<AtomicU64>, u64),
    /// As a clock on a thread of its own says.
    Open(Arc<Mutex<mpsc::UnboundedReceiver<(u64, Instant)>>>),
}

impl Pace {
    /// `count` of them, at `rate` a second or as fast as they are taken.
    pub fn new(count: u64, rate: Option<f64>) -> Self {
        let Some(rate) = rate else { return Self::Closed(Arc::default(), count) };
        let (due, dues) = mpsc::unbounded_channel();
        // The runtime's timer has a resolution of a millisecond, which is more than what is measured here.
        std::thread::spawn(move || {
            let began = Instant::now() + Duration::from_millis(50);
            let at = |place: u64| began + Duration::from_secs_f64(place as f64 / rate);
            let together = ((rate * TOGETHER.as_secs_f64()) as usize).max(1);
            for first in (0..count).step_by(together) {
                let places = first..count.min(first + together as u64);
                std::thread::sleep(at(places.end - 1).saturating_duration_since(Instant::now()));
                for place in places {
                    if due.send((place, at(place))).is_err() {
                        return;
                    }
                }
            }
        });
        Self::Open(Arc::new(Mutex::new(dues)))
    }

    /// The next place in the stream and when it was due; `None` when all are out.
    pub async fn next(&self) -> Option<(u64, Instant)> {
        match self {
            Self::Closed(next, count) => {
                let place = next.fetch_add(1, Ordering::Relaxed);
                (place < *count).then(|| (place, Instant::now()))
            }
            Self::Open(dues) => dues.lock().await.recv().await,
        }
    }
}

/// Answers of one task.
pub struct Tally {
    latencies: Histogram<u64>,
    accepted: u64,
    refused: u64,
    first: Option<Instant>,
    last: Instant,
}

impl Default for Tally {
    fn default() -> Self {
        // Three digits need no bounds that could be exceeded.
        let latencies = Histogram::new(3).expect("three digits are within what a histogram takes");
        Self { latencies, accepted: 0, refused: 0, first: None, last: Instant::now() }
    }
}

impl Tally {
    /// One answer to what was due at `due`.
    pub fn answer(&mut self, due: Instant, accepted: bool) {
        self.first.get_or_insert(due);
        self.last = Instant::now();
        let micros = u64::try_from((self.last - due).as_micros()).unwrap_or(u64::MAX);
        // Grows with what it is given, so this fails for nothing that a clock can say.
        self.latencies.record(micros).expect("a histogram without bounds takes any time");
        if accepted { self.accepted += 1 } else { self.refused += 1 }
    }

    /// All of them together.
    pub fn found(tallies: Vec<Self>) -> anyhow::Result<Found> {
        let mut all = Self::default();
        let mut last = None;
        for tally in tallies {
            all.latencies.add(&tally.latencies)?;
            all.accepted += tally.accepted;
            all.refused += tally.refused;
            if let Some(first) = tally.first {
                all.first = Some(all.first.map_or(first, |least| least.min(first)));
                last = last.max(Some(tally.last));
            }
        }
        let seconds = all.first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        let at = |quantile| all.latencies.value_at_quantile(quantile) as f64 / 1e3;
        let processor = super::process::Usage::of(std::process::id())?.processor;
        let processor = processor.as_secs_f64() * 1e6 / (all.accepted.max(1) as f64);
        Ok(Found { accepted: all.accepted, refused: all.refused, seconds, p50: at(0.5), p99: at(0.99), processor })
    }
}
