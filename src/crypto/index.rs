//! Blind indexes: keyed hashes that find a sealed value without opening anything.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha2::Sha256;

use super::KeyError;
use super::cipher::{bind, derive, parse_secret_key};

/// The index key. It is not part of the ring, so that rotating the ring leaves every index as it is.
pub struct BlindIndex {
    mac: Hmac<Sha256>,
}

impl BlindIndex {
    /// Reads standard base64 of 32 bytes.
    pub fn parse(key: &SecretString) -> Result<Self, KeyError> {
        let key = derive(&parse_secret_key(key)?, "blind-index");
        // HMAC takes a key of any length; 32 bytes are neither hashed nor weak.
        let mac = Hmac::new_from_slice(key.as_slice()).expect("HMAC takes a key of any length");
        Ok(Self { mac })
    }

    /// HMAC-SHA256 over the length-prefixed column (`external_id`, `baas_id`), service and value.
    pub fn of(&self, column: &str, service: &str, value: &str) -> [u8; 32] {
        let parts = bind(&[b"blind-index", column.as_bytes(), service.as_bytes(), value.as_bytes()]);
        let parts = zeroize::Zeroizing::new(parts);
        let mut mac = self.mac.clone();
        mac.update(&parts);
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::fresh_key;

    #[test]
    fn an_index_is_the_same_for_the_same_value_only() {
        let index = BlindIndex::parse(&fresh_key()).unwrap();
        let one = index.of("external_id", "unit", "123");
        assert_eq!(one, index.of("external_id", "unit", "123"));
        for other in [("baas_id", "unit", "123"), ("external_id", "synapse", "123"), ("external_id", "unit", "1234")] {
            assert_ne!(one, index.of(other.0, other.1, other.2));
        }
        assert_ne!(index.of("a", "bc", "d"), index.of("ab", "c", "d"));
    }

    #[test]
    fn another_key_makes_another_index() {
        let [one, two] = [0; 2].map(|_| BlindIndex::parse(&fresh_key()).unwrap());
        assert_ne!(one.of("external_id", "unit", "1"), two.of("external_id", "unit", "1"));
    }

    /// Rows in databases depend on this: computed apart with Python's hmac and hashlib.
    #[test]
    fn the_index_of_a_known_key_stays_what_it_is() {
        let key = SecretString::from("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        let index = BlindIndex::parse(&key).unwrap().of("external_id", "unit", "1002");
        assert_eq!(hex::encode(index), "696969c18680390e512755d7c2bac7206673b6946c3124c0816f0583868e51a1");
    }

    #[test]
    fn an_index_key_that_is_not_32_bytes_is_refused_without_quoting_it() {
        for key in ["", "c2hvcnQ=", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "not base64!"] {
            let problem = BlindIndex::parse(&SecretString::from(key)).err().unwrap().to_string();
            assert!(problem.contains("base64 of 32 bytes") && (key.is_empty() || !problem.contains(key)), "{problem}");
        }
    }
}
