//! Which key something sealed asks for. It stands there in the clear and proves nothing: it is for counting, for finding
//! what a key is still needed for, and for telling "the key is missing" from "it does not open", which no error says.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::cipher::{Envelope, VERSION};
use super::envelope::Frame;
use super::keyring::COLUMN_PREFIX;

/// How many characters of a sealed column say under which key it is: the prefix, and seven of base64url, which hold the
/// version, the key id and two bits of the nonce.
pub const COLUMN_MARK: usize = COLUMN_PREFIX.len() + 7;
/// How many bytes of a payload say it: version and key id.
pub const PAYLOAD_MARK: usize = 5;
/// How many bytes at the beginning of a payload no other payload has: version, key id and nonce.
pub const PAYLOAD_HEADER: usize = super::cipher::HEADER;

/// The key that an envelope, or the beginning of one, asks for.
pub fn key_of_payload(envelope: &[u8]) -> Option<u32> {
    let (version, rest) = envelope.split_first()?;
    let (id, _) = rest.split_first_chunk::<4>()?;
    (*version == VERSION).then(|| u32::from_be_bytes(*id))
}

/// The key that a sealed column, or the first [`COLUMN_MARK`] characters of one, asks for.
pub fn key_of_column(text: &str) -> Option<u32> {
    let mark = text.strip_prefix(COLUMN_PREFIX)?.get(..COLUMN_MARK - COLUMN_PREFIX.len())?;
    // An eighth character completes six bytes; the last of them belongs to the nonce.
    let bytes = URL_SAFE_NO_PAD.decode(format!("{mark}A")).ok()?;
    key_of_payload(&bytes)
}

/// The key that a whole queue message asks for.
pub fn key_of_message(message: &[u8]) -> Option<u32> {
    Envelope::parse(Frame::split(message)?.1).ok().map(|envelope| envelope.key_id)
}

/// How many bytes at the beginning of a queue message always hold its frame and its envelope's key id.
pub const MESSAGE_HEAD: usize = 2 + 255 + 16 + PAYLOAD_MARK;

/// The key that a queue message asks for, from its first [`MESSAGE_HEAD`] bytes.
pub fn key_of_message_head(head: &[u8]) -> Option<u32> {
    key_of_payload(Frame::split(head)?.1)
}

/// What columns under a key start with: one of these four, each [`COLUMN_MARK`] characters.
pub fn column_marks(id: u32) -> [String; 4] {
    let [a, b, c, d] = id.to_be_bytes();
    [0x00, 0x40, 0x80, 0xc0].map(|nonce| {
        let text = URL_SAFE_NO_PAD.encode([VERSION, a, b, c, d, nonce]);
        let mark = text.get(..COLUMN_MARK - COLUMN_PREFIX.len()).unwrap_or_default();
        format!("{COLUMN_PREFIX}{mark}")
    })
}

/// What payloads under a key start with.
pub fn payload_mark(id: u32) -> [u8; PAYLOAD_MARK] {
    let [a, b, c, d] = id.to_be_bytes();
    [VERSION, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use secrecy::SecretString;

    use super::*;
    use crate::crypto::{KeyRing, Place};

    fn ring(id: u32) -> KeyRing {
        KeyRing::parse(&SecretString::from(secrecy::ExposeSecret::expose_secret(&KeyRing::generate_entry(id)))).unwrap()
    }

    #[test]
    fn every_column_starts_with_one_of_four_marks_of_its_key() {
        let place = Place { table: "account", column: "external_id", key: &[b"unit"] };
        for id in [0, 1, 255, 256, 0x0102_0304, u32::MAX] {
            let (ring, marks) = (ring(id), column_marks(id));
            let sealed: Vec<String> = (0..200).map(|_| ring.seal_column(&place, "x").as_str().to_owned()).collect();
            let seen: BTreeSet<&str> = sealed.iter().map(|text| &text[..COLUMN_MARK]).collect();
            assert_eq!(seen, marks.iter().map(String::as_str).collect(), "key {id}");
            for text in sealed.iter().map(String::as_str).chain(seen) {
                assert_eq!(key_of_column(text), Some(id));
            }
        }
    }

    #[test]
    fn what_is_not_sealed_asks_for_no_key() {
        for text in ["", "fh1.", "fh1.AQAAAA", "fh2.AQAAAAEA", "plain", "fh1.AgAAAAEA", "fh1.ééééééé"] {
            assert_eq!(key_of_column(text), None, "{text}");
        }
        assert_eq!((key_of_payload(&[1, 0, 0, 0]), key_of_payload(&[2, 0, 0, 0, 1])), (None, None));
        let head = [&[1, 4][..], b"unit", &[7; 16], &payload_mark(9)].concat();
        assert_eq!((key_of_message_head(&head), key_of_message(&head)), (Some(9), None));
        assert_eq!((key_of_payload(&payload_mark(77)), key_of_message(b"\x01\x04unit")), (Some(77), None));
    }
}
