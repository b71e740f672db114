//! Points in time as microseconds since the Unix epoch, and the one place that asks the operating system for them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

/// A point in time: microseconds since 1970-01-01T00:00:00Z. Finer digits are cut off, because PostgreSQL keeps none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Years 0001 to 9999, which RFC 3339, PostgreSQL and SQLite all can carry.
const EARLIEST: i64 = -62_135_596_800_000_000;
const LATEST: i64 = 253_402_300_799_999_999;

impl Timestamp {
    /// From microseconds since the epoch; `None` outside the years 0001 to 9999.
    pub fn from_micros(micros: i64) -> Option<Self> {
        (EARLIEST..=LATEST).contains(&micros).then_some(Self(micros))
    }

    /// From whole seconds since the epoch (a JWT's `iat`); `None` outside the years 0001 to 9999.
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        seconds.checked_mul(1_000_000).and_then(Self::from_micros)
    }

    /// From milliseconds since the epoch (Mongo's `$date`); `None` outside the years 0001 to 9999.
    pub fn from_millis(millis: i64) -> Option<Self> {
        millis.checked_mul(1_000).and_then(Self::from_micros)
    }

    /// Reads an RFC 3339 date-time with any offset; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(parsed.unix_timestamp_nanos().div_euclid(1_000)).ok().and_then(Self::from_micros)
    }

    /// Reads the date of an HTTP header (RFC 9110, 5.6.7), which has no fraction; `None` if it is not one.
    pub fn parse_http(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc2822).ok().map(Self::from_datetime)
    }

    /// Microseconds since the epoch.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This point moved by `micros`, kept within the range that a timestamp can have.
    pub fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros).clamp(EARLIEST, LATEST))
    }

    /// This point moved by whole seconds.
    pub fn plus_seconds(self, seconds: i64) -> Self {
        self.plus_micros(seconds.saturating_mul(1_000_000))
    }

    /// The same point as the `time` crate has it.
    pub fn to_datetime(self) -> OffsetDateTime {
        // Cannot fail: every constructor keeps the value within the years that OffsetDateTime covers.
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// From the `time` crate's type, cut to microseconds and kept within range.
    pub fn from_datetime(at: OffsetDateTime) -> Self {
        let micros = i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(LATEST);
        Self(micros.clamp(EARLIEST, LATEST))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_datetime().format(&Rfc3339) {
            Ok(text) => f.write_str(&text),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

/// What the time is. Everything that decides by time is handed one, so that tests can hold it still.
#[derive(Clone, Debug)]
pub struct WallClock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Held(Arc<AtomicI64>),
}

impl WallClock {
    /// The operating system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `at` until [`WallClock::set`] moves it; clones share it.
    pub fn held(at: Timestamp) -> Self {
        Self(Source::Held(Arc::new(AtomicI64::new(at.0))))
    }

    /// Moves a held clock; the system's clock stays as it is.
    pub fn set(&self, at: Timestamp) {
        if let Source::Held(micros) = &self.0 {
            micros.store(at.0, Ordering::SeqCst);
        }
    }

    /// The time now.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::from_datetime(OffsetDateTime::now_utc()),
            Source::Held(micros) => Timestamp(micros.load(Ordering::SeqCst)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_and_prints_rfc_3339_in_utc() {
        let at = Timestamp::parse("2025-08-05T08:48:38.9571239+02:00").unwrap();
        assert_eq!(at.to_string(), "2025-08-05T06:48:38.957123Z");
    }

    #[test]
    fn the_date_of_an_http_header_is_read() {
        let at = Timestamp::parse_http("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(at.to_string(), "1994-11-06T08:49:37Z");
        assert_eq!(Timestamp::parse_http("yesterday"), None);
    }

    #[test]
    fn times_that_no_database_could_keep_are_not_times() {
        assert_eq!(Timestamp::from_seconds(i64::MAX), None);
        assert_eq!(Timestamp::from_millis(i64::MIN), None);
        assert_eq!(Timestamp::parse("99999-01-01T00:00:00Z"), None);
    }
}
