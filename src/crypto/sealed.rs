//! Sealed values: ciphertext with its key id and nonce, bound to the place that it is for. Only a key ring makes them.

use std::marker::PhantomData;

use bytes::Bytes;
use uuid::Uuid;

use super::envelope::frame_of;
use crate::domain::{ProviderName, Timestamp};

/// Marks a whole delivery, as queues carry it.
pub enum Message {}
/// Marks one event's envelope, as `event.payload` holds it.
pub enum Payload {}
/// Marks a text column.
pub enum Column {}

/// Ciphertext of a `T`. The field is private: holding one proves that a key ring made it, now or, for a message that was
/// kept in the embedded log, before ([`SealedDelivery::restored`]).
pub struct Sealed<T> {
    bytes: Bytes,
    what: PhantomData<fn() -> T>,
}

impl<T> Clone for Sealed<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), what: PhantomData }
    }
}

impl<T> Sealed<T> {
    /// For the key ring alone.
    pub(super) fn mint(bytes: Bytes) -> Self {
        Self { bytes, what: PhantomData }
    }

    /// The bytes as they are stored or sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same without a copy.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

#[cfg(test)]
impl Sealed<Message> {
    /// A message of any bytes, for tests of what carries messages and never opens them.
    pub(crate) fn for_test(bytes: Bytes) -> Self {
        Self::mint(bytes)
    }
}

impl Sealed<Column> {
    /// The text as the column holds it (ASCII by construction).
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }
}

/// A delivery ready for the queue: what a broker may know of it, and the sealed rest.
#[derive(Clone)]
pub struct SealedDelivery {
    /// The delivery's id: `message_id`.
    pub id: Uuid,
    /// Header `provider`, and the queue that it goes to.
    pub provider: ProviderName,
    /// Header `received-at`.
    pub received_at: Timestamp,
    /// Header `traceparent` (W3C Trace Context).
    pub traceparent: Option<String>,
    /// The body: a clear frame (version, provider, id), which the seal's associated data binds, and the sealed envelope.
    pub message: Sealed<Message>,
}

impl SealedDelivery {
    /// A delivery that a key ring sealed, as it stood in the embedded log: for whoever passes it on to a broker, and for
    /// nobody else (`tests/tidy.rs` holds that). The message says itself whose it is; `None` if it has no frame, or one
    /// that names another provider ([`ProviderName::UNKNOWN`] stands for one that this version does not have). Nothing is
    /// proved by that, and nothing has to be: a message that no ring sealed does not open at the worker.
    pub fn restored(
        provider: ProviderName,
        received_at: Timestamp,
        traceparent: Option<String>,
        message: Bytes,
    ) -> Option<Self> {
        let (named, id) = frame_of(&message)?;
        let message = Sealed::mint(message);
        let agrees = named == provider.as_str() || provider == ProviderName::UNKNOWN;
        agrees.then_some(Self { id, provider, received_at, traceparent, message })
    }
}

/// Where a sealed column stands: its associated data, length-prefixed.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The table.
    pub table: &'a str,
    /// The column.
    pub column: &'a str,
    /// The row's natural key.
    pub key: &'a [&'a [u8]],
}

/// Why something could not be opened. Mute by design: it does not say what was wrong with a ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Opened, but it names a provider that this version does not know.
    #[error("names an unknown provider")]
    UnknownProvider,
    /// In a column that was never sealed by us, and nothing was given that opens it.
    #[error("was not written by finhook; FINHOOK_TYPEORM_KEY opens what typeorm-encrypted wrote")]
    NotOurs,
    /// Not one of ours, damaged, from another place, or under a key that is another one, retired or never was.
    #[error("cannot be opened")]
    Refused,
}
