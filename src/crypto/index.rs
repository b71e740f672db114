//! Blind indexes: keyed hashes that find a sealed value without opening anything.

use secrecy::SecretString;

use super::KeyError;

/// The index key. It is not part of the ring, so that rotating the ring leaves every index as it is.
pub struct BlindIndex {}

impl BlindIndex {
    /// Reads standard base64 of 32 bytes.
    pub fn parse(_key: &SecretString) -> Result<Self, KeyError> {
        todo!()
    }

    /// HMAC-SHA256 over the length-prefixed column (`external_id`, `baas_id`), service and value.
    pub fn of(&self, _column: &str, _service: &str, _value: &str) -> [u8; 32] {
        todo!()
    }
}
