//! Registers: the pieces of a row's state, and the rule that makes the order of events not matter.
//!
//! A register takes a change whose clock is greater or equal, so it always holds the maximum of all it was ever offered:
//! any permutation, duplication or batching of the same changes ends in the same value. Every comparison that decides a
//! row's state is in this file.

use super::{Claim, DedupKey, Email, Rank, StatusChange, Timestamp, UserId};

/// When a change happened, with the event's key to make the order total: compared by time, then the key's length, then
/// the key's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// The event's time.
    pub at: Timestamp,
    /// The event's dedup key; empty for a link.
    pub key: DedupKey,
}

impl Clock {
    /// The clock of a link made at `at`.
    pub fn of_link(at: Timestamp) -> Self {
        Self { at, key: DedupKey::from_stored(Vec::new()) }
    }
}

impl Ord for Clock {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (mine, theirs) = (self.key.as_bytes(), other.key.as_bytes());
        self.at.cmp(&other.at).then(mine.len().cmp(&theirs.len())).then_with(|| mine.cmp(theirs))
    }
}

impl PartialOrd for Clock {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The status of an integration or account: what the product reads, and the clock that it was written at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `active`, `open`, `closed`, …
    pub status: String,
    /// Why, in the provider's words.
    pub reason: Option<String>,
    /// The event's time if the status closes the row.
    pub deleted_at: Option<Timestamp>,
    /// Whether it beats any clock.
    pub is_final: bool,
    /// `None` = minus infinity: the row was made by a kind that names no status.
    pub clock: Option<Clock>,
}

impl Status {
    /// The status of a row that no event has given one yet.
    pub fn initial(status: &str) -> Self {
        Self { status: status.to_owned(), reason: None, deleted_at: None, is_final: false, clock: None }
    }

    /// Offers a change; whether it was taken.
    pub fn offer(&mut self, change: &StatusChange, clock: &Clock) -> bool {
        if (change.is_final, Some(clock)) < (self.is_final, self.clock.as_ref()) {
            return false;
        }
        *self = Self {
            status: change.status.to_owned(),
            reason: change.reason.clone(),
            deleted_at: change.closing.then_some(clock.at),
            is_final: change.is_final,
            clock: Some(clock.clone()),
        };
        true
    }

    /// Offers an account its integration's closing: it shows whichever is larger, a final closing before any clock.
    ///
    /// Keeping only the larger is enough, because both sides only ever grow. The row keeps no finality of its own: the
    /// closing is offered again after every change of the account, so a final one always has the last word.
    pub fn offer_closing(&mut self, closing: &Closing) -> bool {
        if !closing.is_final && Some(&closing.clock) < self.clock.as_ref() {
            return false;
        }
        let closed = Self {
            status: "closed".to_owned(),
            reason: Some(closing.status.clone()),
            deleted_at: Some(closing.clock.at),
            is_final: false,
            clock: Some(closing.clock.clone()),
        };
        let changed = *self != closed;
        *self = closed;
        changed
    }
}

/// The largest closing status that an integration was ever offered, also one that its status register refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// The closing event's clock; its time is the `deleted_at` of what it closes.
    pub clock: Clock,
    /// Whether it beats any clock.
    pub is_final: bool,
    /// The integration's status of that event (`archived`, `closed`, `revoked`, `deleted`).
    pub status: String,
}

impl Closing {
    /// Offers a status to the register `held`, which takes closing ones only; whether it was taken.
    pub fn offer(held: &mut Option<Closing>, change: &StatusChange, clock: &Clock) -> bool {
        let larger = held.as_ref().is_none_or(|held| (change.is_final, clock) >= (held.is_final, &held.clock));
        if !change.closing || !larger {
            return false;
        }
        *held = Some(Closing { clock: clock.clone(), is_final: change.is_final, status: change.status.to_owned() });
        true
    }
}

/// Whose an integration is. Larger rank wins, then the larger clock, then the larger user id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Our own id of the user.
    pub user: UserId,
    /// How sure the claim was.
    pub rank: Rank,
    /// When it was made.
    pub clock: Clock,
}

impl Owner {
    /// Offers a claim to the register `held`; whether it was taken.
    pub fn offer(held: &mut Option<Owner>, claim: &Claim, clock: &Clock) -> bool {
        let larger =
            held.as_ref().is_none_or(|held| (claim.rank, clock, &claim.user) > (held.rank, &held.clock, &held.user));
        if larger {
            *held = Some(Owner { user: claim.user.clone(), rank: claim.rank, clock: clock.clone() });
        }
        larger
    }
}

/// The address that a provider knows for an integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address and whether it was verified.
    pub email: Email,
    /// When it was stated.
    pub clock: Clock,
}

impl Address {
    /// Offers an address to the register `held`; at an equal clock the larger address wins. Whether it was taken.
    pub fn offer(held: &mut Option<Address>, email: &Email, clock: &Clock) -> bool {
        let larger = held.as_ref().is_none_or(|held| (clock, email) > (&held.clock, &held.email));
        if larger {
            *held = Some(Address { email: email.clone(), clock: clock.clone() });
        }
        larger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(seconds: i64, key: &str) -> Clock {
        Clock { at: Timestamp::from_seconds(seconds).unwrap(), key: DedupKey::from_id(key) }
    }

    #[test]
    fn clocks_order_by_time_then_key_length_then_key() {
        assert!(clock(1, "9") < clock(2, "1"));
        assert!(clock(1, "9") < clock(1, "10"));
        assert!(clock(1, "10") < clock(1, "11"));
        assert!(Clock::of_link(Timestamp::from_seconds(1).unwrap()) < clock(1, "0"));
    }

    #[test]
    fn a_final_status_beats_any_clock_and_the_larger_clock_wins_among_finals() {
        let mut status = Status::initial("active");
        assert!(status.offer(&StatusChange::closing_for_good("revoked"), &clock(5, "a")));
        assert!(!status.offer(&StatusChange::open("active"), &clock(9, "b")));
        assert!(status.offer(&StatusChange::closing_for_good("revoked"), &clock(7, "c")));
        assert_eq!(status.deleted_at, Timestamp::from_seconds(7));
    }

    #[test]
    fn a_refused_closing_status_still_closes_accounts_that_are_older() {
        let mut integration = Status::initial("active");
        let mut closing = None;
        assert!(integration.offer(&StatusChange::open("active"), &clock(9, "b")));
        let archived = StatusChange::closing("archived");
        assert!(!integration.offer(&archived, &clock(5, "a")));
        assert!(Closing::offer(&mut closing, &archived, &clock(5, "a")));
        let mut older = Status::initial("open");
        older.offer(&StatusChange::open("frozen"), &clock(3, "c"));
        assert!(older.offer_closing(closing.as_ref().unwrap()));
        assert_eq!((older.status.as_str(), older.reason.as_deref()), ("closed", Some("archived")));
        let mut younger = Status::initial("open");
        younger.offer(&StatusChange::open("open"), &clock(6, "d"));
        assert!(!younger.offer_closing(closing.as_ref().unwrap()));
    }

    #[test]
    fn owners_are_decided_by_rank_then_clock_then_user() {
        let claim = |user: &str, rank| Claim { user: UserId(user.into()), rank };
        let mut owner = None;
        assert!(Owner::offer(&mut owner, &claim("b", Rank::Payload), &clock(5, "x")));
        assert!(!Owner::offer(&mut owner, &claim("z", Rank::Inferred), &clock(9, "x")));
        assert!(!Owner::offer(&mut owner, &claim("a", Rank::Payload), &clock(5, "x")));
        assert!(Owner::offer(&mut owner, &claim("c", Rank::Payload), &clock(5, "x")));
        assert!(Owner::offer(&mut owner, &claim("a", Rank::Link), &clock(1, "")));
        assert_eq!(owner.unwrap().user.as_str(), "a");
    }
}
