//! How long events took, as a worker's own histogram says.

const METRIC: &str = "finhook_event_latency_seconds_bucket";

/// Cumulative buckets: up to so many seconds, so many events.
#[derive(Default)]
pub struct Latencies(Vec<(f64, f64)>);

impl Latencies {
    /// What a worker counted so far, all providers together.
    pub fn of(metrics: &str) -> Self {
        let mut all = Self::default();
        for line in metrics.lines().filter(|line| line.starts_with(METRIC)) {
            let bound = line.split_once("le=\"").and_then(|(_, rest)| rest.split_once('"'));
            let Some(bound) = bound.and_then(|(bound, _)| bound.parse::<f64>().ok()) else { continue };
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok()).unwrap_or_default();
            all.count(bound, count);
        }
        all.0.sort_by(|one, other| one.0.total_cmp(&other.0));
        all
    }

    /// Without what was counted before.
    pub fn take_away(&mut self, before: &Self) {
        before.0.iter().for_each(|(bound, count)| self.count(*bound, -count));
    }

    /// With what was counted at another time.
    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(bound, count)| self.count(*bound, *count));
    }

    fn count(&mut self, bound: f64, count: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((bound, count)),
        }
    }

    /// Within how many milliseconds this part of them was committed, evenly spread within its bucket.
    pub fn quantile(&self, part: f64) -> f64 {
        let all = self.0.last().map_or(0.0, |(_, count)| *count);
        let (mut below, mut before) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            if *count >= all * part && *count > before {
                return 1e3 * (below + (bound - below) * (all * part - before) / (count - before));
            }
            (below, before) = (*bound, *count);
        }
        f64::INFINITY
    }
}
