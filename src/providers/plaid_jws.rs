//! Plaid's proof: a compact JWS, ES256, whose claims carry the signing time and the body's hash.
//!
//! Law: the algorithm is ours and not the header's choice, every part has one spelling only, and claims are not looked
//! at before the signature over them holds. `kid` is chosen by the caller before anything is proved.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::Refusal;
use super::elements::Json;
use super::signature::{base64url, lower_hex, sha256, to_hex};
use crate::domain::Timestamp;

/// The most bytes of a token: Plaid's have 327.
const TOKEN_BYTES: usize = 4096;

/// Keys that cannot be used. Says what is wrong in our own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// The bytes are not JSON.
    #[error("is not JSON")]
    NotJson,
    /// JSON, but neither a JWK, nor Plaid's answer, nor a set.
    #[error("is neither a JWK nor {{\"key\":…}} nor {{\"keys\":[…]}}")]
    WrongShape,
    /// No key for ES256 among them.
    #[error("has no EC key on P-256 for ES256 with a kid")]
    NoKey,
    /// A key of the right kind whose coordinates are not those of a point on the curve.
    #[error("has a key whose x and y are not a point on P-256 in unpadded base64url")]
    BadPoint,
}

/// A public key for ES256.
#[derive(Clone)]
pub struct Key {
    kid: String,
    point: Arc<ParsedPublicKey>,
    expired: bool,
}

impl Key {
    /// The id by which tokens name it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Whether Plaid has retired it.
    pub fn is_expired(&self) -> bool {
        self.expired
    }

    /// Whether `signature`, raw `r||s` of 64 bytes, is this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.point.verify_sig(message, signature).is_ok()
    }

    /// A key from its id and its point, uncompressed.
    fn from_point(kid: String, point: &[u8], expired: bool) -> Result<Self, JwkError> {
        let point = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| JwkError::BadPoint)?;
        Ok(Self { kid, point: Arc::new(point), expired })
    }

    /// Reads a JWK; `NoKey` if it is one for something else.
    fn from_jwk(jwk: Json<'_>) -> Result<Self, JwkError> {
        let [kty, crv, alg, purpose, kid, x, y, expired_at] =
            jwk.pick(["kty", "crv", "alg", "use", "kid", "x", "y", "expired_at"]);
        let is = |value: Option<Json<'_>>, text: &str| value.and_then(Json::text).is_some_and(|value| value == text);
        let fits = is(kty, "EC")
            && is(crv, "P-256")
            && (alg.is_none() || is(alg, "ES256"))
            && (purpose.is_none() || is(purpose, "sig"));
        let kid = kid.and_then(Json::text).filter(|kid| fits && !kid.is_empty()).ok_or(JwkError::NoKey)?;
        let coordinate = |value: Option<Json<'_>>| {
            value.and_then(Json::text).and_then(|text| base64url(&text)).filter(|bytes| bytes.len() == 32)
        };
        let (x, y) = coordinate(x).zip(coordinate(y)).ok_or(JwkError::BadPoint)?;
        // SEC 1, 2.3.3: 0x04 says that both coordinates follow.
        let point = [&[4_u8][..], &x, &y].concat();
        Self::from_point(kid.into_owned(), &point, expired_at.is_some())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("expired", &self.expired).finish_non_exhaustive()
    }
}

/// Reads one JWK, Plaid's answer `{"key":…}`, or a set `{"keys":[…]}`. In a set, keys for something else are left out.
pub fn parse_jwks(bytes: &[u8]) -> Result<Vec<Key>, JwkError> {
    let json = Json::parse(bytes).map_err(|_| JwkError::NotJson)?;
    let [key, keys] = json.pick(["key", "keys"]);
    if let Some(keys) = keys.filter(|keys| keys.is_array()) {
        let read = keys.items().map(Key::from_jwk).filter(|read| !matches!(read, Err(JwkError::NoKey)));
        let found = read.collect::<Result<Vec<Key>, JwkError>>()?;
        return if found.is_empty() { Err(JwkError::NoKey) } else { Ok(found) };
    }
    let one = key.unwrap_or(json);
    if one.is_object() { Ok(vec![Key::from_jwk(one)?]) } else { Err(JwkError::WrongShape) }
}

/// A token whose header was read and whose signature has still to be checked.
pub struct Token<'a> {
    /// The key that it says it is signed with.
    pub kid: String,
    signed: &'a str,
    claims: Vec<u8>,
    signature: [u8; 64],
}

/// What a token claims, once its signature held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    /// When Plaid signed, in seconds since the epoch.
    pub iat: i64,
    body: [u8; 32],
}

impl<'a> Token<'a> {
    /// Reads the header: ES256 or nothing, no `crit`, a kid that looks like a UUID.
    pub fn read(token: &'a str) -> Result<Self, Refusal> {
        Self::parts(token).filter(|_| token.len() <= TOKEN_BYTES).ok_or(Refusal::Malformed)
    }

    fn parts(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header = base64url(header)?;
        let header = Json::parse(&header).ok().filter(|header| header.is_object())?;
        let [alg, kid] = header.pick(["alg", "kid"]);
        if alg?.text()? != "ES256" || header.has("crit") {
            return None;
        }
        let kid = kid?.text().filter(|kid| looks_like_uuid(kid))?.into_owned();
        Some(Self { kid, signed, claims: base64url(claims)?, signature: base64url(signature)?.try_into().ok()? })
    }

    /// Checks the signature, then reads the claims.
    pub fn verify(&self, key: &Key) -> Result<Claims, Refusal> {
        if !key.verify(self.signed.as_bytes(), &self.signature) {
            return Err(Refusal::Mismatch);
        }
        let read = || {
            let claims = Json::parse(&self.claims).ok().filter(|claims| claims.is_object())?;
            let [iat, body] = claims.pick(["iat", "request_body_sha256"]);
            Some(Claims { iat: iat?.raw().parse().ok()?, body: lower_hex(&body?.text()?)? })
        };
        read().ok_or(Refusal::Malformed)
    }
}

impl Claims {
    /// When Plaid signed; `None` for a time that no calendar has.
    pub fn signed_at(&self) -> Option<Timestamp> {
        Timestamp::from_seconds(self.iat)
    }

    /// Whether they are for this body.
    pub fn cover(&self, body: &[u8]) -> bool {
        sha256(body).ct_eq(&self.body).into()
    }
}

/// 8-4-4-4-12 hex digits.
fn looks_like_uuid(kid: &str) -> bool {
    kid.len() == 36
        && kid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The key that signs fixtures in development. Plaid's own private key is Plaid's; this one is trusted only where it is
/// configured.
pub struct DevelopmentKey {
    pair: EcdsaKeyPair,
    kid: String,
}

impl DevelopmentKey {
    /// Reads standard base64 of a PKCS#8 P-256 private key.
    pub fn parse(key: &SecretString) -> Option<Self> {
        let pkcs8 = STANDARD.decode(key.expose_secret().trim()).ok()?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).ok()?;
        let kid = Uuid::new_v5(&Uuid::NAMESPACE_OID, pair.public_key().as_ref()).to_string();
        Some(Self { pair, kid })
    }

    /// A fresh one, as [`DevelopmentKey::parse`] reads it; `None` if the system has no randomness to give.
    pub fn generate() -> Option<SecretString> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).ok()?;
        Some(SecretString::from(STANDARD.encode(pkcs8.as_ref())))
    }

    /// Its public half, under an id derived from it.
    pub fn public(&self) -> Result<Key, JwkError> {
        Key::from_point(self.kid.clone(), self.pair.public_key().as_ref(), false)
    }

    /// The token that Plaid would send with this body at this time; `None` if the system has no randomness to give.
    pub fn sign(&self, body: &[u8], now: Timestamp) -> Option<String> {
        let header = format!(r#"{{"alg":"ES256","kid":"{}","typ":"JWT"}}"#, self.kid);
        let claims = format!(r#"{{"iat":{},"request_body_sha256":"{}"}}"#, now.seconds(), to_hex(&sha256(body)));
        self.sign_parts(&header, &claims)
    }

    /// A token of any header and claims: tests try with it what Plaid would not send.
    fn sign_parts(&self, header: &str, claims: &str) -> Option<String> {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }
}

#[cfg(test)]
pub(super) mod tests;
