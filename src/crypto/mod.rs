//! Sealing and opening: the key ring, sealed values, blind indexes and webhook-URL tokens.

pub mod index;
pub mod keyring;
pub mod sealed;
pub mod url;

pub use index::BlindIndex;
pub use keyring::{KeyError, KeyRing};
pub use sealed::{Column, Message, OpenError, Payload, Place, Sealed, SealedDelivery};
pub use url::UrlKeys;
