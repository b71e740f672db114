//! What typeorm-encrypted wrote into the product's columns: read until the move is finished, written only to go back.
//!
//! ```text
//! value    base64 (or hex) of  IV (16) | AES-256-CBC ciphertext, PKCS#7        the key is 64 hex digits
//! ```
//! typeorm-encrypted puts the IV in front also where it is fixed. Code of one's own around a fixed IV may leave it out:
//! with an IV given, values with and without it are read, and [`TypeormCipher::seal`] writes as the last one read was.
//! CBC proves nothing: a wrong key shows by its padding, or by bytes that are no text. That is enough to tell a wrong key
//! from the right one over many values, and no more than the product had.

use std::sync::atomic::{AtomicBool, Ordering};

use aes::Aes256;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::cipher::{KeyBytes, fill_random};
use super::{KeyError, OpenError};

/// A block, and so an IV.
const BLOCK: usize = 16;

/// As lenient as Node's own decoder where it matters: with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// How the product wrote bytes as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As typeorm-encrypted does.
    Base64,
    /// Lower-case or upper-case hex digits.
    Hex,
}

impl Encoding {
    /// Reads `base64` or `hex`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "base64" => Some(Self::Base64),
            "hex" => Some(Self::Hex),
            _ => None,
        }
    }
}

/// The product's key, and the form of its values.
pub struct TypeormCipher {
    key: KeyBytes,
    iv: Option<[u8; BLOCK]>,
    encoding: Encoding,
    /// Whether the last value read had no IV in front.
    bare: AtomicBool,
}

impl TypeormCipher {
    /// Reads the key (64 hex digits) and the fixed IV (32 hex digits), if there is one.
    pub fn parse(key: &SecretString, iv: Option<&str>, encoding: Encoding) -> Result<Self, KeyError> {
        let bytes = from_hex(key.expose_secret().trim()).ok_or_else(|| KeyError("is not hex digits".into()))?;
        let mut key = KeyBytes::default();
        if bytes.len() != key.len() {
            return Err(KeyError("is not 64 hex digits: AES-256 takes 32 bytes".into()));
        }
        key.copy_from_slice(&bytes);
        let iv = iv.map(|iv| {
            let bytes = from_hex(iv.trim()).and_then(|bytes| <[u8; BLOCK]>::try_from(bytes.as_slice()).ok());
            bytes.ok_or_else(|| KeyError("comes with an IV that is not 32 hex digits".into()))
        });
        Ok(Self { key, iv: iv.transpose()?, encoding, bare: AtomicBool::new(false) })
    }

    /// Opens a value. One that finhook sealed is refused like any other that does not open.
    pub fn open(&self, text: &str) -> Result<SecretString, OpenError> {
        let bytes = self.decode(text).ok_or(OpenError::Refused)?;
        let (iv, ciphertext, bare) = match (bytes.split_first_chunk::<BLOCK>(), self.iv) {
            (Some((front, rest)), None) => (*front, rest, false),
            (Some((front, rest)), Some(iv)) if *front == iv && !rest.is_empty() => (iv, rest, false),
            (Some(_), Some(iv)) => (iv, bytes.as_slice(), true),
            (None, _) => return Err(OpenError::Refused),
        };
        if ciphertext.is_empty() || ciphertext.len() % BLOCK != 0 {
            return Err(OpenError::Refused);
        }
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        let opened = cbc::Decryptor::<Aes256>::new((&*self.key).into(), (&iv).into())
            .decrypt_padded::<Pkcs7>(&mut plaintext)
            .map_err(|_| OpenError::Refused)?;
        let opened = std::str::from_utf8(opened).ok().filter(|text| !text.contains('\0')).ok_or(OpenError::Refused)?;
        self.bare.store(bare, Ordering::Relaxed);
        Ok(SecretString::from(opened))
    }

    /// Seals as the product did, so that its old entities read what was written since.
    pub fn seal(&self, plaintext: &str) -> String {
        let iv = self.iv.unwrap_or_else(|| {
            let mut iv = [0; BLOCK];
            fill_random(&mut iv);
            iv
        });
        let length = plaintext.len();
        // Padding always adds at least one byte and fills the block.
        let mut buffer = Zeroizing::new(vec![0; (length / BLOCK + 1) * BLOCK]);
        let mut sealed = if self.iv.is_some() && self.bare.load(Ordering::Relaxed) { Vec::new() } else { iv.to_vec() };
        if let Some(front) = buffer.get_mut(..length) {
            front.copy_from_slice(plaintext.as_bytes());
        }
        let ciphertext = cbc::Encryptor::<Aes256>::new((&*self.key).into(), (&iv).into())
            .encrypt_padded::<Pkcs7>(&mut buffer, length)
            // The buffer was made for exactly this.
            .expect("room for the padding");
        sealed.extend_from_slice(ciphertext);
        match self.encoding {
            Encoding::Base64 => BASE64.encode(sealed),
            Encoding::Hex => sealed.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    fn decode(&self, text: &str) -> Option<Vec<u8>> {
        match self.encoding {
            Encoding::Base64 => BASE64.decode(text.trim()).ok(),
            Encoding::Hex => from_hex(text.trim()).map(|bytes| bytes.to_vec()),
        }
    }
}

fn from_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    let mut digits = text.bytes();
    while let Some(high) = digits.next() {
        bytes.push(digit(high)? << 4 | digit(digits.next()?)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "e41c966f21f9e1577802463f8924e6a3fe3e9751f201304213b2f845d8841d61";
    const IV: &str = "ff5ac19190424b1d88f9419ef949ae56";
    // Made with Node's crypto, as typeorm-encrypted calls it: EncryptionTransformer with this key and IV, "acc_1".
    const PREFIXED: &str = "/1rBkZBCSx2I+UGe+UmuVuSRPOh71vLrKbJaVnwcY5c=";

    fn cipher(iv: Option<&str>, encoding: Encoding) -> TypeormCipher {
        TypeormCipher::parse(&SecretString::from(KEY), iv, encoding).unwrap()
    }

    fn open(cipher: &TypeormCipher, text: &str) -> Result<String, OpenError> {
        cipher.open(text).map(|opened| opened.expose_secret().to_owned())
    }

    #[test]
    fn a_value_is_read_with_its_iv_in_front_and_without_where_the_iv_is_known() {
        let hex = hex::encode(BASE64.decode(PREFIXED).unwrap());
        for iv in [None, Some(IV)] {
            assert_eq!(open(&cipher(iv, Encoding::Base64), PREFIXED).as_deref(), Ok("acc_1"));
            assert_eq!(open(&cipher(iv, Encoding::Hex), &hex.to_uppercase()).as_deref(), Ok("acc_1"));
        }
        assert_eq!(open(&cipher(Some(IV), Encoding::Hex), &hex[32..]).as_deref(), Ok("acc_1"));
        assert_eq!(open(&cipher(None, Encoding::Hex), &hex[32..]), Err(OpenError::Refused));
    }

    #[test]
    fn what_is_sealed_to_go_back_looks_like_what_was_read() {
        let fixed = cipher(Some(IV), Encoding::Base64);
        assert_eq!(fixed.seal("acc_1"), PREFIXED);
        let bare = &hex::encode(BASE64.decode(PREFIXED).unwrap())[32..];
        let fixed = cipher(Some(IV), Encoding::Hex);
        fixed.open(bare).unwrap();
        assert_eq!(fixed.seal("acc_1"), bare);
        let free = cipher(None, Encoding::Base64);
        assert_ne!(free.seal("acc_1"), free.seal("acc_1"), "an IV is drawn for each");
        for text in ["", "a", "fifteen bytes..", "sixteen bytes...", "größer als ein Block, und kein ASCII"] {
            assert_eq!(open(&free, &free.seal(text)).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_wrong_key_a_cut_and_anything_else_are_refused() {
        let ours = cipher(None, Encoding::Base64);
        let other = TypeormCipher::parse(&SecretString::from(KEY.replace('e', "d")), None, Encoding::Base64).unwrap();
        assert_eq!(open(&other, PREFIXED), Err(OpenError::Refused));
        for text in ["", "acc_1", "fh1.AQAAAAE", "äöü", &PREFIXED[..24], &PREFIXED[..40]] {
            assert_eq!(open(&ours, text), Err(OpenError::Refused), "{text}");
        }
    }

    #[test]
    fn a_key_or_iv_that_is_none_is_refused_without_quoting_it() {
        for key in ["", "e41c", "hunter2", &KEY[1..], &format!("{KEY}00")] {
            let problem = TypeormCipher::parse(&SecretString::from(key), None, Encoding::Base64).err().unwrap();
            assert!(key.is_empty() || !problem.to_string().contains(key));
        }
        assert!(TypeormCipher::parse(&SecretString::from(KEY), Some("ff"), Encoding::Base64).is_err());
    }
}
