//! What several proofs share: one header field as text, strict encodings, MACs compared in constant time.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::Refusal;

/// The value of a header field that may come once. Twice, or with bytes that are not visible ASCII, is malformed.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Refusal::Malformed),
        (Some(_), Some(_)) => Err(Refusal::Malformed),
    }
}

/// Standard base64 with padding of exactly `N` bytes. Canonical: one spelling per value, so that no other is accepted.
pub fn base64<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// Unpadded base64url, canonical: no padding, no other alphabet, no stray bits in the last letter.
pub fn base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Lower-case hex of exactly `N` bytes.
pub fn lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    bytes?.try_into().ok()
}

/// Lower-case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HMAC-SHA1: weak as a hash, sound as a MAC, and the only one that Unit has.
pub fn hmac_sha1(key: &SecretString, message: &[u8]) -> [u8; 20] {
    // Cannot fail, HMAC takes keys of any length; if it ever did, no presented MAC would hold.
    let mac = Hmac::<Sha1>::new_from_slice(key.expose_secret().as_bytes());
    mac.map(|mac| mac.chain_update(message).finalize().into_bytes().into()).unwrap_or_else(|_| rand::random())
}

/// HMAC-SHA256.
pub fn hmac_sha256(key: &SecretString, message: &[u8]) -> [u8; 32] {
    // Cannot fail, HMAC takes keys of any length; if it ever did, no presented MAC would hold.
    let mac = Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes());
    mac.map(|mac| mac.chain_update(message).finalize().into_bytes().into()).unwrap_or_else(|_| rand::random())
}

/// The place of the key whose MAC was presented. Every key is tried, whichever holds, so that time tells nothing.
pub fn held_by<const N: usize>(
    keys: &[SecretString],
    presented: &[u8; N],
    mac: impl Fn(&SecretString) -> [u8; N],
) -> Option<usize> {
    place_of(keys, |key| mac(key).ct_eq(presented))
}

/// The last place for which `holds` says so, found without a branch that depends on which it is.
pub fn place_of<T>(list: &[T], holds: impl Fn(&T) -> Choice) -> Option<usize> {
    let mut place = u64::MAX;
    for (index, entry) in list.iter().enumerate() {
        place.conditional_assign(&(index as u64), holds(entry));
    }
    usize::try_from(place).ok().filter(|place| *place < list.len())
}

/// SHA-256, for comparing what may have different lengths.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A header value made from encodings of ours, which are visible ASCII.
pub fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// 32 fresh random bytes as hex: a secret for development.
pub fn fresh_secret() -> SecretString {
    SecretString::from(to_hex(&rand::random::<[u8; 32]>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_lower_case_and_of_one_length() {
        assert_eq!(lower_hex::<2>("0aff"), Some([0x0a, 0xff]));
        for bad in ["0AFF", "0aF", "0af", "0aff0", "0aff00", "", "zz00", "0a f", "é0a"] {
            assert_eq!(lower_hex::<2>(bad), None, "{bad}");
        }
    }

    #[test]
    fn base64_has_one_spelling_per_value() {
        assert_eq!(base64::<1>("AA=="), Some([0]));
        for bad in ["AA", "AA=", "AB==", "AA==\n", " AA==", "AA==, AA==", "__8=", ""] {
            assert_eq!(base64::<1>(bad), None, "{bad}");
        }
        assert_eq!(base64url("AA"), Some(vec![0]));
        for bad in ["AA==", "AB", "A", "+/8", "A A"] {
            assert_eq!(base64url(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_header_field_counts_once_and_as_ascii() {
        let mut headers = HeaderMap::new();
        assert_eq!(header(&headers, "x-a"), Ok(None));
        headers.append("x-a", HeaderValue::from_static("1"));
        assert_eq!(header(&headers, "X-A"), Ok(Some("1")));
        headers.append("x-a", HeaderValue::from_static("1"));
        assert_eq!(header(&headers, "x-a"), Err(Refusal::Malformed));
        headers.insert("x-a", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        assert_eq!(header(&headers, "x-a"), Err(Refusal::Malformed));
    }

    #[test]
    fn any_of_several_keys_holds() {
        let keys = [SecretString::from("old"), SecretString::from("new")];
        for (place, key) in keys.iter().enumerate() {
            assert_eq!(held_by(&keys, &hmac_sha256(key, b"m"), |key| hmac_sha256(key, b"m")), Some(place));
        }
        assert_eq!(
            held_by(&keys, &hmac_sha256(&SecretString::from("other"), b"m"), |key| hmac_sha256(key, b"m")),
            None
        );
        assert_eq!(held_by(&[], &[0_u8; 32], |key| hmac_sha256(key, b"m")), None);
    }
}
