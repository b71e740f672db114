//! Identifiers: which provider, which user, which account, and the key by which two copies of one event are known.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// A provider's name as it stands in paths, metric labels and the tables' `service` column.
///
/// Only the list in `providers` makes them, so that the set of labels is bounded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderName(&'static str);

impl ProviderName {
    /// Names a provider; called once in each provider's file.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// Stands for the provider of a message that names none we know.
    pub const UNKNOWN: ProviderName = ProviderName("unknown");

    /// The name in lower case.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Our system's own id for a user (`"user".external_id`): opaque text that we hand to the providers. Clear by design.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub String);

impl UserId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A provider's id of an account: sealed wherever it is stored, wiped from memory when dropped, never printed.
#[derive(Clone)]
pub struct AccountId(SecretString);

impl AccountId {
    /// Takes the id as the provider wrote it.
    pub fn new(id: impl Into<String>) -> Self {
        Self(SecretString::from(id.into()))
    }

    /// The id itself: for sealing, for its blind index, and for an authorised reader.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for AccountId {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for AccountId {}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountId(…)")
    }
}

/// What makes two copies the same event: the provider's own id as the UTF-8 text received, or a key made here.
///
/// Keys made here start with a zero byte, which no id can: an id with NUL makes its event dead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DedupKey(Vec<u8>);

impl DedupKey {
    /// The provider's own id of the event.
    pub fn from_id(id: &str) -> Self {
        Self(id.as_bytes().to_vec())
    }

    /// For what carries no id: `0x00`, then SHA-256 of the element without the white space around it.
    pub fn from_bytes_of(element: &[u8]) -> Self {
        let mut key = Vec::with_capacity(33);
        key.push(0);
        key.extend_from_slice(&Sha256::digest(element.trim_ascii()));
        Self(key)
    }

    /// Plaid's: `iat` in 8 bytes, big endian, then SHA-256 of the body. A body's hash alone would swallow a second true
    /// occurrence, since two can be byte for byte the same.
    pub fn from_signing_time(iat: i64, body: &[u8]) -> Self {
        let mut key = Vec::with_capacity(40);
        key.extend_from_slice(&iat.to_be_bytes());
        key.extend_from_slice(&Sha256::digest(body));
        Self(key)
    }

    /// This key for one of a joint account's further customers: the key, `0x00`, the customer's id.
    pub fn for_customer(&self, customer: &str) -> Self {
        let mut key = Vec::with_capacity(self.0.len() + 1 + customer.len());
        key.extend_from_slice(&self.0);
        key.push(0);
        key.extend_from_slice(customer.as_bytes());
        Self(key)
    }

    /// A key as a table gave it back.
    pub fn from_stored(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Whether it was made here, from the event's bytes, and is no id of the provider's.
    pub fn is_made_here(&self) -> bool {
        self.0.first() == Some(&0)
    }

    /// The bytes that the table's `dedup_key` column holds.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for DedupKey {
    /// A provider's id as text, a key made here in lower hex.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.first(), std::str::from_utf8(&self.0)) {
            (Some(first), Ok(text)) if *first != 0 => f.write_str(text),
            _ => self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}
