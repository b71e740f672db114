//! The key ring: one primary seals, the others only open, an unknown id fails loudly.

use bytes::Bytes;
use secrecy::SecretString;

use super::sealed::{Column, OpenError, Payload, Place, Sealed, SealedDelivery};
use crate::domain::{DedupKey, Delivery, ProviderName};

/// A key list that cannot be used. Says which entry by its place in the list, never what stands there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

/// The ring: keys by id, the first given is the primary. Purposes (queue, payload, columns) are separated by HKDF-SHA256.
pub struct KeyRing {}

impl KeyRing {
    /// Reads `ID:KEY[,ID:KEY…]`: ID a decimal u32, KEY standard base64 of 32 bytes.
    pub fn parse(_list: &SecretString) -> Result<Self, KeyError> {
        todo!()
    }

    /// A fresh random list entry `ID:KEY`.
    pub fn generate_entry(_id: u32) -> SecretString {
        todo!()
    }

    /// The id of the key that seals.
    pub fn primary(&self) -> u32 {
        todo!()
    }

    /// The ids of all keys that open.
    pub fn ids(&self) -> Vec<u32> {
        todo!()
    }

    /// Seals a whole delivery for the queue, in one buffer.
    pub fn seal_delivery(&self, _delivery: &Delivery) -> SealedDelivery {
        todo!()
    }

    /// Opens a message of the queue. `find` turns a name into a provider that this version knows.
    pub fn open_delivery(
        &self,
        _message: &Bytes,
        _find: &dyn Fn(&str) -> Option<ProviderName>,
    ) -> Result<Delivery, OpenError> {
        todo!()
    }

    /// Seals one event's envelope for `event.payload`, bound to the row by provider and dedup key.
    pub fn seal_payload(&self, _key: &DedupKey, _delivery: &Delivery) -> Sealed<Payload> {
        todo!()
    }

    /// Opens an `event.payload`.
    pub fn open_payload(
        &self,
        _provider: &str,
        _key: &DedupKey,
        _payload: &[u8],
        _find: &dyn Fn(&str) -> Option<ProviderName>,
    ) -> Result<Delivery, OpenError> {
        todo!()
    }

    /// Seals a text column: `fh1.` and unpadded base64url.
    pub fn seal_column(&self, _place: &Place<'_>, _plaintext: &str) -> Sealed<Column> {
        todo!()
    }

    /// Opens a text column.
    pub fn open_column(&self, _place: &Place<'_>, _sealed: &str) -> Result<SecretString, OpenError> {
        todo!()
    }
}
