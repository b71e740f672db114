//! The providers: how each proves a delivery, and what its events mean. Pure: bytes and a clock in, values out.
//!
//! Law: nothing is parsed before the proof holds (one exception, bounded and documented in [`synapse`]), every comparison
//! is in constant time, and only verification makes a [`Verified`]. One more provider is one file here, its `mod` line,
//! its entry in [`PROVIDERS`] and a folder in `fixtures/`.

pub mod addresses;
pub mod auth0;
mod draft;
pub mod elements;
pub mod keep;
pub mod plaid;
mod plaid_events;
pub mod plaid_jws;
pub mod plaid_keys;
pub mod signature;
pub mod synapse;
#[cfg(test)]
mod testing;
pub mod unit;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;
use uuid::Uuid;

use self::addresses::Preset;
use self::keep::Keep;
use crate::config::{ConfigError, Values, Variable};
use crate::crypto::UrlKeys;
use crate::domain::{Delivery, Event, Proof, ProviderName, Scope, Timestamp, WallClock};

/// Every provider, in the order in which they are shown.
pub static PROVIDERS: &[&Provider] = &[&plaid::PROVIDER, &unit::PROVIDER, &synapse::PROVIDER, &auth0::PROVIDER];

/// The provider of a name as it stands in a path or a sealed frame.
pub fn find(name: &str) -> Option<&'static Provider> {
    PROVIDERS.iter().copied().find(|provider| provider.name.as_str() == name)
}

/// One provider: its name, its settings, and how to make its three parts from them.
pub struct Provider {
    /// As in paths, labels and tables.
    pub name: ProviderName,
    /// As people write it.
    pub title: &'static str,
    /// Its settings, declared here and nowhere else.
    pub variables: &'static [Variable],
    /// Whether its webhook URL can be bound to a user.
    pub binds_urls: bool,
    /// Makes what proves deliveries; `Ok(None)` if its secrets are not configured (503).
    pub verifier: fn(&Setup<'_>) -> Made<dyn Verifier>,
    /// Makes what reads them; needs no secret.
    pub reader: fn(&Values) -> Result<Box<dyn Reader>, ConfigError>,
    /// Makes what signs fixtures as the provider would; `Ok(None)` if there is nothing to sign with.
    pub signer: fn(&Setup<'_>) -> Made<dyn Signer>,
    /// The setting that lists where it may post from.
    pub allow_from: &'static str,
    /// The addresses that it documents.
    pub presets: &'static [Preset],
    /// Whether it sends again what was answered 403.
    pub resends_refused: bool,
    /// What is kept of an event that was read, when its envelope is stored.
    pub keeps: Keep,
    /// What is kept of one that could not be read.
    pub keeps_unread: Keep,
    /// Settings for development: what embedded mode generates when it is not given. `(variable, fresh secret)`.
    pub development: fn() -> Vec<(&'static str, SecretString)>,
}

/// A part of a provider; `None` where the settings that it needs are not given.
pub type Made<T> = Result<Option<Box<T>>, ConfigError>;

/// What a provider's parts are made from.
pub struct Setup<'a> {
    /// The settings.
    pub values: &'a Values,
    /// The keys of bound webhook URLs, if there are any.
    pub url_keys: Option<Arc<UrlKeys>>,
    /// For key caches.
    pub clock: WallClock,
}

/// A request as it came: nothing parsed.
pub struct Request<'a> {
    /// All header fields.
    pub headers: &'a HeaderMap,
    /// The raw body.
    pub body: &'a Bytes,
    /// What followed the provider's name in the path.
    pub token: Option<&'a str>,
}

/// Proves deliveries.
#[async_trait]
pub trait Verifier: Send + Sync {
    /// Signature over the raw bytes, age, tenant binding. Asks the network only for a Plaid key that is not cached.
    async fn verify(&self, request: &Request<'_>, now: Timestamp) -> Result<Verified, Refusal>;

    /// The secrets that a delivery can be proved with, in the order of the setting; none where proofs are by public keys.
    fn secrets(&self) -> &[SecretString] {
        &[]
    }
}

/// Reads deliveries.
pub trait Reader: Send + Sync {
    /// One delivery (or one stored element of one) as events. Total: what cannot be read is a dead event.
    fn events(&self, delivery: &Delivery) -> Vec<Event>;
}

/// Signs a body as the provider would, for replays and tests.
pub trait Signer: Send + Sync {
    /// The header fields that make `body` a valid delivery at `now`.
    fn sign(&self, body: &[u8], now: Timestamp) -> Vec<(HeaderName, HeaderValue)>;
}

/// A proof. The field is private: holding one means that verification passed.
#[derive(Debug)]
pub struct Verified {
    provider: ProviderName,
    proof: Proof,
    /// Which of [`Verifier::secrets`] held.
    place: Option<usize>,
}

impl Verified {
    /// What was proved.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Which of [`Verifier::secrets`] held, where it was a secret.
    pub fn place(&self) -> Option<usize> {
        self.place
    }

    /// The proof with the body that it is for becomes a delivery. way: 4/12
    pub fn into_delivery(self, id: Uuid, received_at: Timestamp, body: Bytes) -> Delivery {
        Delivery::assemble(id, self.provider, received_at, self.proof, Scope::Body, false, body)
    }
}

/// The delivery that `finhook explain` reads without a proof: it can be interpreted, and is never sealed.
pub fn unproved(provider: &Provider, received_at: Timestamp, proof: Proof, body: Bytes) -> Delivery {
    Delivery::assemble(Uuid::nil(), provider.name, received_at, proof, Scope::Body, false, body)
}

/// Why a delivery was not accepted: one public text for all, this for the metric and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The header that carries the proof is not there: 401.
    #[error("missing")]
    Missing,
    /// The proof cannot be read (encoding, length, algorithm): 401.
    #[error("malformed")]
    Malformed,
    /// The proof is for something else: 401.
    #[error("mismatch")]
    Mismatch,
    /// Signed too long ago: 401.
    #[error("stale")]
    Stale,
    /// Signed in the future: 401.
    #[error("future")]
    Future,
    /// Signed with a key that is not trusted (unknown with a JWKS file, expired, wrong curve): 401.
    #[error("unknown_key")]
    UnknownKey,
    /// The webhook URL's token is wrong, or one is required and missing: 401.
    #[error("unbound")]
    Unbound,
    /// Only an object signature, which proves neither body nor time, and those are not allowed: 401.
    #[error("object_signature")]
    ObjectSignature,
    /// The keys cannot be fetched: 503.
    #[error("keys_unavailable")]
    KeysUnavailable,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Refusal; 9] = [
        Self::Missing,
        Self::Malformed,
        Self::Mismatch,
        Self::Stale,
        Self::Future,
        Self::UnknownKey,
        Self::Unbound,
        Self::ObjectSignature,
        Self::KeysUnavailable,
    ];

    /// Whether the sender should try again (503) or not (401).
    pub fn is_transient(self) -> bool {
        matches!(self, Refusal::KeysUnavailable)
    }
}

#[cfg(test)]
impl Verified {
    /// A proof that nobody checked, for tests of what comes after verification.
    pub(crate) fn pretended(provider: ProviderName) -> Self {
        Self { provider, proof: Proof { scheme: "pretended".to_owned(), ..Proof::default() }, place: None }
    }
}
