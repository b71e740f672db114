//! The key ring: one primary seals, the others only open, and no key is tried but the one that is asked for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::cipher::{Cipher, Envelope, KeyBytes, OVERHEAD, bind, fresh_key, parse_key};
use super::envelope::{Frame, read_plaintext, room_for, write_plaintext};
use super::sealed::{Column, OpenError, Payload, Place, Sealed, SealedDelivery};
use crate::domain::{DedupKey, Delivery, ProviderName};

/// What every sealed text column starts with.
pub(super) const COLUMN_PREFIX: &str = "fh1.";

/// Whether the text of a column is one of ours: what the product wrote before never begins so.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(COLUMN_PREFIX)
}

/// A key list that cannot be used. Says which entry by its place in the list, never what stands there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

/// The ring: keys by id, the first given is the primary. Purposes (queue, payload, columns) are separated by HKDF-SHA256.
pub struct KeyRing {
    primary: RingKey,
    others: Vec<RingKey>,
}

/// One key of the ring, as the ciphers of its purposes; the key itself is not kept.
pub(super) struct RingKey {
    id: u32,
    pub(super) queue: Cipher,
    pub(super) payload: Cipher,
    columns: Cipher,
}

impl RingKey {
    fn new(id: u32, key: &KeyBytes) -> Self {
        Self {
            id,
            queue: Cipher::new(id, key, "queue"),
            payload: Cipher::new(id, key, "payload"),
            columns: Cipher::new(id, key, "columns"),
        }
    }

    fn seal_column(&self, place: &Place<'_>, plaintext: &str) -> Sealed<Column> {
        let sealed = self.columns.seal(&bind_place(place), plaintext.as_bytes());
        let mut text = String::with_capacity(COLUMN_PREFIX.len() + sealed.len().div_ceil(3) * 4);
        text.push_str(COLUMN_PREFIX);
        URL_SAFE_NO_PAD.encode_string(&sealed, &mut text);
        Sealed::mint(Bytes::from(text))
    }
}

impl KeyRing {
    /// Reads `ID:KEY[,ID:KEY…]`: ID a decimal u32, KEY standard base64 of 32 bytes.
    pub fn parse(list: &SecretString) -> Result<Self, KeyError> {
        let mut seen: Vec<(u32, KeyBytes)> = Vec::new();
        for (place, entry) in list.expose_secret().split(',').enumerate() {
            let (id, key) = parse_entry(entry.trim(), place + 1)?;
            // The same key under two ids would make retiring one of them an illusion.
            if let Some(same) = seen.iter().position(|(other, bytes)| *other == id || **bytes == *key) {
                let (one, other) = (place + 1, same + 1);
                return Err(KeyError(format!("entry {one} repeats the id or the key of entry {other}")));
            }
            seen.push((id, key));
        }
        let mut keys = seen.iter().map(|(id, key)| RingKey::new(*id, key));
        let primary = keys.next().ok_or_else(|| KeyError("the list is empty".into()))?;
        Ok(Self { primary, others: keys.collect() })
    }

    /// A fresh random list entry `ID:KEY`.
    pub fn generate_entry(id: u32) -> SecretString {
        let entry = Zeroizing::new(format!("{id}:{}", fresh_key().expose_secret()));
        SecretString::from(entry.as_str())
    }

    /// The id of the key that seals.
    pub fn primary(&self) -> u32 {
        self.primary.id
    }

    /// The ids of all keys that open, the primary first.
    pub fn ids(&self) -> Vec<u32> {
        self.keys().map(|key| key.id).collect()
    }

    /// Seals a whole delivery for the queue, in one buffer. way: 5/12
    pub fn seal_delivery(&self, delivery: &Delivery) -> SealedDelivery {
        let cipher = &self.primary.queue;
        let mut buffer = Vec::with_capacity(room_for(delivery));
        Frame::write(delivery, &mut buffer);
        let started = cipher.start(&mut buffer);
        write_plaintext(delivery, &mut buffer);
        cipher.finish(started, &bind_message(delivery.provider.as_str(), delivery.id), &mut buffer);
        SealedDelivery {
            id: delivery.id,
            provider: delivery.provider,
            received_at: delivery.received_at,
            traceparent: delivery.trace.map(|trace| trace.to_string()),
            message: Sealed::mint(Bytes::from(buffer)),
        }
    }

    /// Opens a message of the queue. `find` turns a name into a provider that this version knows. way: 8/12
    pub fn open_delivery(
        &self,
        message: &Bytes,
        find: &dyn Fn(&str) -> Option<ProviderName>,
    ) -> Result<Delivery, OpenError> {
        let (frame, envelope) = Frame::split(message).ok_or(OpenError::Refused)?;
        let envelope = Envelope::parse(envelope)?;
        let cipher = &self.key(envelope.key_id)?.queue;
        let plaintext = cipher.open(&bind_message(frame.provider, frame.id), &envelope)?;
        read_plaintext(plaintext, frame.provider, Some(frame.id), find)
    }

    /// Seals one event's envelope for `event.payload`, bound to the row by provider and dedup key.
    pub fn seal_payload(&self, key: &DedupKey, delivery: &Delivery) -> Sealed<Payload> {
        let cipher = &self.primary.payload;
        let mut buffer = Vec::with_capacity(room_for(delivery));
        let started = cipher.start(&mut buffer);
        write_plaintext(delivery, &mut buffer);
        cipher.finish(started, &bind_payload(delivery.provider.as_str(), key), &mut buffer);
        Sealed::mint(Bytes::from(buffer))
    }

    /// Seals what is an event's envelope already, given in two parts.
    pub(super) fn seal_payload_parts(&self, bound: &[u8], head: &[u8], body: &[u8]) -> Sealed<Payload> {
        Sealed::mint(Bytes::from(sealed_parts(&self.primary.payload, bound, &[], &[head, body])))
    }

    /// Seals what is a delivery's envelope already, behind the frame that stands `in_front` of it.
    pub(super) fn seal_message_parts(&self, bound: &[u8], in_front: &[u8], plaintext: &[u8]) -> Vec<u8> {
        sealed_parts(&self.primary.queue, bound, in_front, &[plaintext])
    }

    /// Opens an `event.payload`.
    pub fn open_payload(
        &self,
        provider: &str,
        key: &DedupKey,
        payload: &[u8],
        find: &dyn Fn(&str) -> Option<ProviderName>,
    ) -> Result<Delivery, OpenError> {
        let envelope = Envelope::parse(payload)?;
        let cipher = &self.key(envelope.key_id)?.payload;
        let plaintext = cipher.open(&bind_payload(provider, key), &envelope)?;
        read_plaintext(plaintext, provider, None, find)
    }

    /// Seals a text column: `fh1.` and unpadded base64url.
    pub fn seal_column(&self, place: &Place<'_>, plaintext: &str) -> Sealed<Column> {
        self.primary.seal_column(place, plaintext)
    }

    /// Seals a text column under another key than the primary; `None` if the ring does not hold it.
    pub(super) fn seal_column_under(&self, id: u32, place: &Place<'_>, plaintext: &str) -> Option<Sealed<Column>> {
        self.key(id).ok().map(|key| key.seal_column(place, plaintext))
    }

    /// Opens a text column.
    pub fn open_column(&self, place: &Place<'_>, sealed: &str) -> Result<SecretString, OpenError> {
        let text = sealed.strip_prefix(COLUMN_PREFIX).ok_or(OpenError::Refused)?;
        // The engine is strict: no padding and no stray bits, so that a sealed value has exactly one spelling.
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| OpenError::Refused)?;
        let envelope = Envelope::parse(&bytes)?;
        let plaintext = self.key(envelope.key_id)?.columns.open(&bind_place(place), &envelope)?;
        // From a slice and not from a String, whose shrinking could leave a copy behind.
        std::str::from_utf8(&plaintext).map(SecretString::from).map_err(|_| OpenError::Refused)
    }

    fn keys(&self) -> impl Iterator<Item = &RingKey> {
        std::iter::once(&self.primary).chain(&self.others)
    }

    /// Whether there is a key of this id.
    pub fn holds(&self, id: u32) -> bool {
        self.keys().any(|key| key.id == id)
    }

    /// The key of an id. No other one is tried: that would hide that a key was retired too early. Without it the answer is
    /// as mute as for any damage; whoever has to know asks [`KeyRing::holds`] for what stands there in the clear.
    pub(super) fn key(&self, id: u32) -> Result<&RingKey, OpenError> {
        self.keys().find(|key| key.id == id).ok_or(OpenError::Refused)
    }
}

/// An envelope in a buffer that never moves, so that no copy of its plaintext is left behind.
fn sealed_parts(cipher: &Cipher, bound: &[u8], in_front: &[u8], plaintext: &[&[u8]]) -> Vec<u8> {
    let length: usize = plaintext.iter().map(|part| part.len()).sum();
    let mut buffer = Vec::with_capacity(in_front.len() + length + OVERHEAD);
    buffer.extend_from_slice(in_front);
    let started = cipher.start(&mut buffer);
    plaintext.iter().for_each(|part| buffer.extend_from_slice(part));
    cipher.finish(started, bound, &mut buffer);
    buffer
}

/// One entry `ID:KEY`; `place` counts from 1.
fn parse_entry(entry: &str, place: usize) -> Result<(u32, KeyBytes), KeyError> {
    let problem = |what: &str| KeyError(format!("entry {place} {what}"));
    let (id, key) = entry.split_once(':').ok_or_else(|| problem("is not ID:KEY"))?;
    // Digits alone: Rust would read a leading plus sign too.
    let decimal = id.bytes().all(|byte| byte.is_ascii_digit());
    let id = id.parse().ok().filter(|_| decimal).ok_or_else(|| problem("has an id that is not a number below 2^32"))?;
    let key = parse_key(key).ok_or_else(|| problem("has a key that is not standard base64 of 32 bytes"))?;
    Ok((id, key))
}

pub(super) fn bind_message(provider: &str, id: Uuid) -> Vec<u8> {
    bind(&[b"delivery", provider.as_bytes(), id.as_bytes()])
}

pub(super) fn bind_payload(provider: &str, key: &DedupKey) -> Vec<u8> {
    bind(&[b"event", b"payload", provider.as_bytes(), key.as_bytes()])
}

fn bind_place(place: &Place<'_>) -> Vec<u8> {
    let mut parts = vec![place.table.as_bytes(), place.column.as_bytes()];
    parts.extend_from_slice(place.key);
    bind(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn problem(list: &str) -> String {
        KeyRing::parse(&SecretString::from(list)).err().unwrap().to_string()
    }

    #[test]
    fn the_first_key_of_the_list_is_the_primary() {
        let list = format!("7:{KEY}, {}", KeyRing::generate_entry(3).expose_secret());
        let ring = KeyRing::parse(&SecretString::from(list)).unwrap();
        assert_eq!((ring.primary(), ring.ids()), (7, vec![7, 3]));
    }

    #[test]
    fn a_bad_list_is_named_by_its_entry_and_never_quoted() {
        let cases = [
            (String::new(), "entry 1 is not ID:KEY"),
            (KEY.to_owned(), "entry 1 is not ID:KEY"),
            (format!("1:{KEY},"), "entry 2 is not ID:KEY"),
            (format!("1:{KEY},+2:{KEY}"), "entry 2 has an id that is not a number below 2^32"),
            (format!("4294967296:{KEY}"), "entry 1 has an id that is not a number below 2^32"),
            (format!(":{KEY}"), "entry 1 has an id that is not a number below 2^32"),
            (format!("1:{KEY}A"), "entry 1 has a key that is not standard base64 of 32 bytes"),
            (format!("1:{}", KEY.trim_end_matches('=')), "entry 1 has a key that is not standard base64 of 32 bytes"),
            // The last character of a key carries four bits; a spelling with stray ones is not canonical.
            (format!("1:{}9=", &KEY[..42]), "entry 1 has a key that is not standard base64 of 32 bytes"),
            ("1:c2hvcnQ=".to_owned(), "entry 1 has a key that is not standard base64 of 32 bytes"),
            (format!("1:{KEY},2:{KEY}"), "entry 2 repeats the id or the key of entry 1"),
            (format!("1:{KEY},01:{}", fresh_key().expose_secret()), "entry 2 repeats the id or the key of entry 1"),
        ];
        for (list, expected) in cases {
            assert_eq!(problem(&list), expected);
        }
    }
}
