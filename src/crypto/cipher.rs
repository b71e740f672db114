//! One derived key and the envelope that it makes: `version | key id | nonce | ciphertext | tag`. Below it is only XAES.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use rand::TryRng as _;
use rand::rngs::SysRng;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use xaes_256_gcm::aead::{AeadInOut, KeyInit};
use xaes_256_gcm::{Nonce, Tag, Xaes256Gcm};
use zeroize::Zeroizing;

use super::{KeyError, OpenError};

/// The only version of an envelope.
pub(super) const VERSION: u8 = 1;
/// Version, key id and nonce.
pub(super) const HEADER: usize = 1 + 4 + 24;
/// The tag behind the ciphertext.
const TAG: usize = 16;
/// What an envelope adds to its plaintext.
pub(super) const OVERHEAD: usize = HEADER + TAG;

/// 32 bytes of key material, wiped when dropped.
pub(super) type KeyBytes = Zeroizing<[u8; 32]>;

/// Reads standard base64 of exactly 32 bytes. The engine is strict: right padding, no stray bits, no white space.
pub(super) fn parse_key(text: &str) -> Option<KeyBytes> {
    let mut key = KeyBytes::default();
    // The decoder wants room for what 44 characters could hold at most, one byte more than a key has.
    let mut room = Zeroizing::new([0u8; 33]);
    let len = STANDARD.decode_slice(text, room.as_mut_slice()).ok()?;
    if len != key.len() {
        return None;
    }
    key.copy_from_slice(room.get(..len)?);
    Some(key)
}

/// A new key from the operating system: standard base64 of 32 random bytes, as FINHOOK_INDEX_KEY and FINHOOK_URL_KEYS take it.
pub fn fresh_key() -> SecretString {
    let mut key = KeyBytes::default();
    fill_random(key.as_mut_slice());
    let text = Zeroizing::new(STANDARD.encode(key.as_slice()));
    SecretString::from(text.as_str())
}

/// Reads a secret that is one key.
pub(super) fn parse_secret_key(key: &SecretString) -> Result<KeyBytes, KeyError> {
    parse_key(key.expose_secret().trim()).ok_or_else(|| KeyError("is not standard base64 of 32 bytes".into()))
}

/// A key for one purpose, derived from another so that what one purpose leaks or mixes up never touches the other.
pub(super) fn derive(key: &KeyBytes, purpose: &str) -> KeyBytes {
    let mut derived = KeyBytes::default();
    Hkdf::<Sha256>::new(Some(b"finhook v1"), key.as_slice())
        .expand(purpose.as_bytes(), derived.as_mut_slice())
        // HKDF refuses only more than 255 hash lengths, and this asks for one.
        .expect("32 bytes are one block of HKDF-SHA256");
    derived
}

/// Random bytes straight from the operating system.
///
/// Not from a generator of the process, though that is faster: a virtual machine restored from a snapshot would go on
/// with the same state and repeat nonces under the same key, the one thing GCM cannot bear. A call costs under a
/// microsecond, against tens of microseconds for the publish that follows.
pub(super) fn fill_random(bytes: &mut [u8]) {
    // Once the machine is up the system's generator does not fail. Were it to, there is no safe way to go on sealing: the
    // request ends in a panic, its sender gets no 200 and sends again.
    SysRng.try_fill_bytes(bytes).expect("the operating system gives random bytes");
}

/// Associated data: each part preceded by its length, so that moving a border between two parts changes the whole.
pub(super) fn bind(parts: &[&[u8]]) -> Vec<u8> {
    let mut bound = Vec::with_capacity(parts.iter().map(|part| 4 + part.len()).sum());
    for part in parts {
        // Names and ids are far below 4 GiB; were one not, the length would saturate and the value still be bound to it.
        bound.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bound.extend_from_slice(part);
    }
    bound
}

/// The cipher of one key for one purpose.
pub(super) struct Cipher {
    id: u32,
    xaes: Xaes256Gcm,
}

impl Cipher {
    /// Derives the cipher of `purpose`; `id` is what its envelopes carry.
    pub(super) fn new(id: u32, key: &KeyBytes, purpose: &str) -> Self {
        let derived = derive(key, purpose);
        Self { id, xaes: Xaes256Gcm::new((&*derived).into()) }
    }

    /// The id that its envelopes carry.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Appends the header of an envelope to `buffer`; the plaintext is to be written behind it, then [`Cipher::finish`].
    pub(super) fn start(&self, buffer: &mut Vec<u8>) -> Started {
        let at = buffer.len();
        let mut nonce = [0u8; 24];
        fill_random(&mut nonce);
        buffer.push(VERSION);
        buffer.extend_from_slice(&self.id.to_be_bytes());
        buffer.extend_from_slice(&nonce);
        Started { plaintext_at: at + HEADER, nonce }
    }

    /// Encrypts in place what was written since [`Cipher::start`] and appends the tag.
    pub(super) fn finish(&self, started: Started, associated: &[u8], buffer: &mut Vec<u8>) {
        let (_, plaintext) = buffer.split_at_mut(started.plaintext_at);
        let tag = self
            .xaes
            .encrypt_inout_detached(&Nonce::from(started.nonce), associated, plaintext.into())
            // GCM refuses only plaintexts over 64 GiB; a request is limited to about a mebibyte.
            .expect("a plaintext below 64 GiB");
        buffer.extend_from_slice(&tag);
    }

    /// Seals `plaintext` in a buffer of its own.
    pub(super) fn seal(&self, associated: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(plaintext.len() + OVERHEAD);
        let started = self.start(&mut buffer);
        buffer.extend_from_slice(plaintext);
        self.finish(started, associated, &mut buffer);
        buffer
    }

    /// Opens an envelope into a buffer of its own, which is wiped if it does not open.
    pub(super) fn open(&self, associated: &[u8], envelope: &Envelope<'_>) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let mut plaintext = Zeroizing::new(envelope.ciphertext.to_vec());
        self.xaes
            .decrypt_inout_detached(
                &Nonce::from(envelope.nonce),
                associated,
                plaintext.as_mut_slice().into(),
                &Tag::from(envelope.tag),
            )
            .map_err(|_| OpenError::Refused)?;
        Ok(plaintext)
    }
}

/// An envelope whose plaintext is being written.
pub(super) struct Started {
    plaintext_at: usize,
    nonce: [u8; 24],
}

/// An envelope taken apart. Nothing in it is proved yet.
pub(super) struct Envelope<'a> {
    /// Which key it asks for.
    pub(super) key_id: u32,
    nonce: [u8; 24],
    ciphertext: &'a [u8],
    tag: [u8; TAG],
}

impl<'a> Envelope<'a> {
    /// Takes an envelope apart; refused if it is too short or of another version.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, OpenError> {
        let split = || {
            let (version, rest) = bytes.split_first()?;
            let (key_id, rest) = rest.split_first_chunk::<4>()?;
            let (nonce, rest) = rest.split_first_chunk::<24>()?;
            let (ciphertext, tag) = rest.split_last_chunk::<TAG>()?;
            let key_id = u32::from_be_bytes(*key_id);
            (*version == VERSION).then_some(Self { key_id, nonce: *nonce, ciphertext, tag: *tag })
        };
        split().ok_or(OpenError::Refused)
    }
}
