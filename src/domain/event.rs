//! An event: one thing that happened at a provider, what it means for our tables, and the states its row can be in.

use std::fmt;

use bytes::Bytes;

use super::{Change, Clock, DedupKey, ProviderName, Reason, Scope, Timestamp};

/// How far ahead of its receipt an event time may lie before it counts as the time of receipt: 5 minutes.
const AHEAD_MICROS: i64 = 5 * 60 * 1_000_000;

/// One event, as a provider's file read it from a delivery. A value: no database has been asked yet.
#[derive(Clone)]
pub struct Event {
    /// Who sent it.
    pub provider: ProviderName,
    /// What makes two copies the same event.
    pub dedup_key: DedupKey,
    /// Its type as the provider writes it; `None` when it could not be read.
    pub kind: Option<String>,
    /// The provider's id of the integration that it is about.
    pub subject: Option<String>,
    /// When it happened, by the rule of [`occurred_at`].
    pub occurred_at: Timestamp,
    /// When its delivery was received.
    pub received_at: Timestamp,
    /// What it means.
    pub meaning: Meaning,
    /// Its own bytes, shared with the delivery's.
    pub bytes: Bytes,
    /// What these bytes are: an element, or what could not be split.
    pub scope: Scope,
}

impl Event {
    /// The clock that this event brings to every register that it writes.
    pub fn clock(&self) -> Clock {
        Clock { at: self.occurred_at, key: self.dedup_key.clone() }
    }
}

impl fmt::Debug for Event {
    /// Everything but the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("provider", &self.provider)
            .field("dedup_key", &self.dedup_key.to_string())
            .field("kind", &self.kind)
            .field("subject", &self.subject)
            .field("occurred_at", &self.occurred_at.to_string())
            .field("meaning", &self.meaning)
            .finish_non_exhaustive()
    }
}

/// An event's time: what the provider says, unless it says nothing or something more than 5 minutes ahead of receipt.
pub fn occurred_at(stated: Option<Timestamp>, received_at: Timestamp) -> Timestamp {
    match stated {
        Some(at) if at <= received_at.plus_micros(AHEAD_MICROS) => at,
        _ => received_at,
    }
}

/// What an event means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// It changes rows of its subject: one [`Change::Integration`] first, then its accounts, each row at most once.
    Apply(Vec<Change>),
    /// It is kept and changes nothing; the reason says why where a kind that changes rows could not.
    Record(Option<Reason>),
    /// It cannot be read, and nothing but a person can help.
    Dead(Reason),
}

impl Meaning {
    /// Of two copies of one event the one with the larger weight counts: applied beats recorded beats dead.
    pub fn weight(&self) -> u8 {
        match self {
            Meaning::Apply(_) => 2,
            Meaning::Record(_) => 1,
            Meaning::Dead(_) => 0,
        }
    }
}

/// The state of an event's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventState {
    /// Its changes are in the tables.
    Applied,
    /// Kept; it changes nothing.
    Recorded,
    /// Waits for a user of its subject.
    Unlinked,
    /// Failed for a reason of our own that may pass; due again at `next_attempt_at`.
    Retrying,
    /// Could not be applied; a person decides.
    Dead,
}

impl EventState {
    /// Every state.
    pub const ALL: [EventState; 5] = [Self::Applied, Self::Recorded, Self::Unlinked, Self::Retrying, Self::Dead];

    /// As the table, the metrics and the commands write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Recorded => "recorded",
            Self::Unlinked => "unlinked",
            Self::Retrying => "retrying",
            Self::Dead => "dead",
        }
    }

    /// Reads what [`EventState::as_str`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The weight of a stored copy, comparable with [`Meaning::weight`].
    pub fn weight(self) -> u8 {
        match self {
            Self::Applied | Self::Unlinked | Self::Retrying => 2,
            Self::Recorded => 1,
            Self::Dead => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_time_missing_or_far_ahead_counts_as_the_receipt() {
        let received = Timestamp::from_seconds(1_000_000).unwrap();
        assert_eq!(occurred_at(None, received), received);
        assert_eq!(occurred_at(Some(received.plus_seconds(301)), received), received);
        assert_eq!(occurred_at(Some(received.plus_seconds(300)), received), received.plus_seconds(300));
        let long_ago = received.plus_seconds(-999_999);
        assert_eq!(occurred_at(Some(long_ago), received), long_ago);
    }
}
