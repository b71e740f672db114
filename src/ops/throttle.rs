//! Log lines at a bounded rate: so many per second and key, then a count of what was held back.

use std::sync::{Mutex, PoisonError};

use crate::domain::Timestamp;

/// Lets `per_second` lines of each key through in every second. Keys must be few: they are searched one by one.
pub struct Throttle<K> {
    per_second: u32,
    seen: Mutex<Vec<Window<K>>>,
}

struct Window<K> {
    key: K,
    second: i64,
    lines: u32,
    held_back: u64,
}

impl<K: Copy + PartialEq> Throttle<K> {
    /// A throttle that has seen nothing yet.
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, seen: Mutex::new(Vec::new()) }
    }

    /// Whether a line of this key may be written now: `Some(n)` = yes, and `n` were held back since the last one.
    pub fn admit(&self, key: K, now: Timestamp) -> Option<u64> {
        // A panic of another thread between these few lines leaves counts that are still counts.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let second = now.seconds();
        let window = match seen.iter().position(|window| window.key == key) {
            Some(at) => &mut seen[at],
            None => {
                seen.push(Window { key, second, lines: 0, held_back: 0 });
                seen.last_mut()?
            }
        };
        if window.second != second {
            (window.second, window.lines) = (second, 0);
        }
        if window.lines >= self.per_second {
            window.held_back += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_becomes_a_few_lines_and_a_count() {
        let throttle = Throttle::new(2);
        let now = Timestamp::from_seconds(100).unwrap();
        let lines: Vec<_> = (0..5).map(|_| throttle.admit("stale", now)).collect();
        assert_eq!(lines, [Some(0), Some(0), None, None, None]);
        assert_eq!(throttle.admit("missing", now), Some(0), "another key has its own lines");
        assert_eq!(throttle.admit("stale", now.plus_seconds(1)), Some(3));
        assert_eq!(throttle.admit("stale", now.plus_seconds(1)), Some(0));
    }
}
