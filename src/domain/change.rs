//! What an event means for our tables, as values: statuses, owner claims, addresses and accounts.

use super::{AccountId, UserId};

/// One row that an event touches. The integration is always the event's subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The subject itself: makes its row exist, and writes the registers that are given.
    Integration {
        /// Its status, if this kind names one.
        status: Option<StatusChange>,
        /// Whose it is, if the event says so.
        owner: Option<Claim>,
        /// The address that the provider knows for it.
        email: Option<Email>,
    },
    /// One account of the subject: makes its row exist, and writes its status if this kind names one.
    Account {
        /// The provider's id of the account.
        external_id: AccountId,
        /// The id at the banking-as-a-service ledger; `None` = not connected to one.
        baas_id: Option<AccountId>,
        /// Its status, if this kind names one.
        status: Option<StatusChange>,
    },
}

/// A new status with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange {
    /// The status as the table holds it (`active`, `closed`, …).
    pub status: &'static str,
    /// The provider's own word for why, at most 200 characters and without NUL.
    pub reason: Option<String>,
    /// Whether this status sets `deleted_at` (archived, closed, revoked, deleted) and, of an integration, closes its accounts.
    pub closing: bool,
    /// Whether it beats any clock (PROVIDERS: Plaid `revoked` and Auth0 `deleted` of an integration).
    pub is_final: bool,
}

/// The most characters that are kept of a provider's free text.
pub const FREE_TEXT_CHARS: usize = 200;

impl StatusChange {
    /// A status that leaves the row alive.
    pub fn open(status: &'static str) -> Self {
        Self { status, reason: None, closing: false, is_final: false }
    }

    /// A status that closes the row.
    pub fn closing(status: &'static str) -> Self {
        Self { status, reason: None, closing: true, is_final: false }
    }

    /// A status that closes the row for good.
    pub fn closing_for_good(status: &'static str) -> Self {
        Self { status, reason: None, closing: true, is_final: true }
    }

    /// The same with the provider's free text, cut at [`FREE_TEXT_CHARS`], NUL replaced (no text column can hold it).
    pub fn because(mut self, reason: Option<&str>) -> Self {
        self.reason = reason
            .filter(|text| !text.trim().is_empty())
            .map(|text| text.chars().take(FREE_TEXT_CHARS).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect());
        self
    }
}

/// How sure a claim of ownership is. Larger wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// A tag on a Unit account event that names exactly one customer; the user derived from an Auth0 `user_id`.
    Inferred = 1,
    /// Our own id in the subject's own payload.
    Payload = 2,
    /// A webhook URL minted for the user.
    BoundUrl = 3,
    /// Somebody said so: `finhook link` or the API.
    Link = 4,
}

impl Rank {
    /// As `integration.owner_rank` holds it.
    pub fn number(self) -> i16 {
        self as i16
    }

    /// Reads what [`Rank::number`] writes.
    pub fn from_number(number: i16) -> Option<Self> {
        [Rank::Inferred, Rank::Payload, Rank::BoundUrl, Rank::Link].into_iter().find(|rank| rank.number() == number)
    }
}

/// A claim that the subject belongs to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Our own id of the user.
    pub user: UserId,
    /// How sure.
    pub rank: Rank,
}

/// An e-mail address as a provider states it. Ordered so that at an equal clock the larger one wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Email {
    /// The address.
    pub address: String,
    /// Whether the provider says that it was verified.
    pub verified: bool,
}

impl Email {
    /// Takes an address that looks like one: one `@` with text on both sides, a dot after it, no white space, no control
    /// character, no `*` (Auth0 can mask addresses), at most 254 bytes (RFC 5321, 4.5.3.1.3).
    pub fn parse(address: &str, verified: bool) -> Option<Self> {
        let (local, host) = address.split_once('@')?;
        let looks_like_one = !local.is_empty()
            && host.len() >= 3
            && host.contains('.')
            && !host.starts_with('.')
            && !host.ends_with('.')
            && !host.contains('@')
            && address.len() <= 254
            && !address.chars().any(|c| c == '*' || c.is_whitespace() || c.is_control());
        looks_like_one.then(|| Self { address: address.to_owned(), verified })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_and_odd_addresses_are_not_addresses() {
        for odd in
            ["j***@example.com", "no-at.example.com", "a@b", "a b@example.com", "@example.com", "a@@example.com", ""]
        {
            assert_eq!(Email::parse(odd, true), None, "{odd}");
        }
        assert!(Email::parse("ada+1@example.co.uk", false).is_some());
    }

    #[test]
    fn free_text_is_cut_by_characters_and_freed_of_nul() {
        let long = "é".repeat(300);
        let change = StatusChange::closing("closed").because(Some(&long));
        assert_eq!(change.reason.unwrap().chars().count(), 200);
        assert_eq!(StatusChange::open("open").because(Some("a\0b")).reason.as_deref(), Some("a\u{fffd}b"));
        assert_eq!(StatusChange::open("open").because(Some("  ")).reason, None);
    }
}
