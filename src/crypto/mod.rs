//! Sealing and opening: the key ring, sealed values, blind indexes and webhook-URL tokens. The only room that knows a key.
//!
//! # Wire format
//! ```text
//! envelope       version 1 | key id (4, big endian) | nonce (24) | ciphertext | tag (16)
//! text column    "fh1." and unpadded base64url of an envelope
//! queue message  frame version 1 | length (1) and name of the provider | delivery id (16) | envelope
//! URL token      unpadded base64url of an envelope; its key id is derived from the key
//! ```
//! An envelope of a delivery holds: length (4, big endian) of a head, the head as JSON (see [`envelope`]), the raw bytes.
//! A text column without `fh1.` is what the product wrote before it moved in: only [`typeorm`] reads that.
//! The cipher is AES-256-GCM in the XAES-256-GCM construction of C2SP (<https://c2sp.org/XAES-256-GCM>): one plain GCM key
//! is spent after 2^32 random nonces, which a busy receiver reaches; with 24 bytes a random nonce never has to be counted.
//!
//! # What a value is bound to
//! The associated data is a list of parts, each preceded by its length (4, big endian), so that no two lists look alike:
//! `delivery`, provider, delivery id for messages; `event`, `payload`, provider, dedup key for stored payloads; table,
//! column and the row's natural key for columns; `webhook-url` for URL tokens. Each purpose has a key of its own, derived
//! from the ring's with HKDF-SHA256. So a sealed value moved to another row, column, table or queue message does not open.
//!
//! # What this protects against, and what not
//! Whoever holds only …
//! - **the broker, or its disk**, learns provider, delivery id, time and size of each delivery, and can drop, delay or
//!   repeat deliveries (repeats are deduplicated); can neither read nor make nor change one.
//! - **the database, or a dump**, learns what is clear by design (users, e-mails, integration ids, kinds, states, times)
//!   and which account ids are equal, by their blind index; reads no sealed value, cannot guess an account id without the
//!   index key, and cannot move a sealed value elsewhere. It can put back an older sealed value of the same place, delete
//!   rows, and change every clear column.
//! - **a webhook URL** can post to it, which proves nothing without the provider's signature; does not learn the user.
//! - **a receiver's memory** gets the ring, because sealing is symmetric: it opens everything in queue and database that
//!   was sealed under these keys and forges deliveries. The receiver faces the internet, so its memory is worth guarding.
//! - **a worker's memory** gets the same, and the database's credentials.
//! - **one key of the ring** opens what was sealed under it, past and future, until it is rotated away and what it sealed
//!   is sealed anew; there is no forward secrecy. **The index key** confirms guesses of account ids. **A URL key** mints
//!   webhook URLs for any user, which still need the provider's signature on every post.
//!
//! Keys are wiped from memory when dropped, have no `Debug`, and errors are mute: a failed opening does not say why, and
//! a bad list says which entry, never what stands there. Copies in registers or swap are not guarded here;
//! a core dump is not written (`ops::limits`).

pub mod asked;
pub mod canary;
pub mod envelope;
pub mod index;
pub mod keyring;
pub mod reseal;
pub mod sealed;
pub mod typeorm;
pub mod url;

mod cipher;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use asked::{key_of_column, key_of_message, key_of_payload};
pub use cipher::fresh_key;
pub use envelope::{frame_of, kept};
pub use index::BlindIndex;
pub use keyring::{KeyError, KeyRing, is_sealed};
pub use sealed::{Column, Message, OpenError, Payload, Place, Sealed, SealedDelivery};
pub use typeorm::{Encoding, TypeormCipher};
pub use url::{UrlKeys, UserIdError, check_user_id};
