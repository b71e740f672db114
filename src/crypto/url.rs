//! Webhook-URL tokens: a user's id, encrypted and authenticated under keys of their own.
//!
//! A token answers "whose item is this?" and binds a delivery to this tenant. Its key id is derived from the key, so that
//! a token finds its key without trying all of them and nobody has to number the list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::cipher::{Cipher, Envelope, KeyBytes, bind, derive, parse_secret_key};
use super::{KeyError, OpenError};
use crate::domain::UserId;

/// The longest token that is looked at; one for the longest user id has 327 characters.
const MAX_TOKEN: usize = 1024;
/// The longest user id, in bytes, as for every id.
const MAX_USER: usize = 200;

/// The keys of bound webhook URLs: the first mints, all open.
pub struct UrlKeys {
    first: Cipher,
    others: Vec<Cipher>,
}

impl UrlKeys {
    /// Reads a list of standard base64 keys of 32 bytes each; `None` if the list is empty.
    pub fn parse(keys: &[SecretString]) -> Result<Option<Self>, KeyError> {
        let mut ciphers: Vec<Cipher> = Vec::with_capacity(keys.len());
        for (place, key) in keys.iter().enumerate() {
            let key = parse_secret_key(key).map_err(|error| KeyError(format!("entry {} {error}", place + 1)))?;
            let id = key_id(&key);
            if let Some(same) = ciphers.iter().position(|cipher| cipher.id() == id) {
                let (one, other) = (place + 1, same + 1);
                return Err(KeyError(format!("entry {one} cannot be told from entry {other}: give each key once")));
            }
            ciphers.push(Cipher::new(id, &key, "url"));
        }
        let mut ciphers = ciphers.into_iter();
        Ok(ciphers.next().map(|first| Self { first, others: ciphers.collect() }))
    }

    /// The token for `/webhooks/plaid/<token>`: unpadded base64url. Ask [`check_user_id`] first: a token for an id that
    /// it refuses does not open.
    pub fn mint(&self, user: &UserId) -> String {
        URL_SAFE_NO_PAD.encode(self.first.seal(&associated(), user.as_str().as_bytes()))
    }

    /// The user that a token was minted for. Mute about what is wrong with a token, its key included: a token comes from
    /// the internet.
    pub fn open(&self, token: &str) -> Result<UserId, OpenError> {
        if token.len() > MAX_TOKEN {
            return Err(OpenError::Refused);
        }
        // The engine is strict: no padding and no stray bits, so that a token has exactly one spelling.
        let sealed = URL_SAFE_NO_PAD.decode(token).map_err(|_| OpenError::Refused)?;
        let envelope = Envelope::parse(&sealed)?;
        let cipher = std::iter::once(&self.first)
            .chain(&self.others)
            .find(|cipher| cipher.id() == envelope.key_id)
            .ok_or(OpenError::Refused)?;
        let mut opened: Zeroizing<Vec<u8>> = cipher.open(&associated(), &envelope)?;
        let user = String::from_utf8(std::mem::take(&mut *opened)).map_err(|_| OpenError::Refused)?;
        check_user_id(&user).map_err(|_| OpenError::Refused)?;
        Ok(UserId(user))
    }
}

/// Why no webhook URL can be minted for a user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    /// It is empty.
    #[error("the user id is empty")]
    Empty,
    /// It is longer than 200 bytes.
    #[error("the user id is longer than 200 bytes")]
    TooLong,
    /// It contains NUL, which no text column can hold.
    #[error("the user id contains NUL")]
    Nul,
}

/// Whether a webhook URL can be minted for a user id: what a text column holds, not empty, at most 200 bytes.
pub fn check_user_id(user: &str) -> Result<(), UserIdError> {
    if user.is_empty() {
        return Err(UserIdError::Empty);
    }
    if user.len() > MAX_USER {
        return Err(UserIdError::TooLong);
    }
    if user.contains('\0') {
        return Err(UserIdError::Nul);
    }
    Ok(())
}

fn associated() -> Vec<u8> {
    bind(&[b"webhook-url"])
}

/// Four bytes that tell keys apart and say nothing about them.
fn key_id(key: &KeyBytes) -> u32 {
    let [a, b, c, d, ..] = *derive(key, "url key id");
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::fresh_key;

    fn keys(list: &[&SecretString]) -> UrlKeys {
        UrlKeys::parse(&list.iter().map(|key| (*key).clone()).collect::<Vec<_>>()).unwrap().unwrap()
    }

    fn user(id: &str) -> UserId {
        UserId(id.to_owned())
    }

    #[test]
    fn a_token_opens_to_its_user_under_every_key_of_the_list() {
        let (old, new) = (fresh_key(), fresh_key());
        let token = keys(&[&old]).mint(&user("u_42"));
        assert_eq!(keys(&[&new, &old]).open(&token), Ok(user("u_42")));
        assert_eq!(keys(&[&new]).open(&token), Err(OpenError::Refused));
        assert_ne!(token, keys(&[&old]).mint(&user("u_42")));
    }

    #[test]
    fn no_key_means_no_bound_urls_and_a_repeated_key_is_refused() {
        assert!(UrlKeys::parse(&[]).unwrap().is_none());
        let key = fresh_key();
        let problem = UrlKeys::parse(&[fresh_key(), key.clone(), key]).err().unwrap().to_string();
        assert!(problem.starts_with("entry 3 cannot be told from entry 2"), "{problem}");
        let problem = UrlKeys::parse(&[fresh_key(), SecretString::from("c2hvcnQ=")]).err().unwrap().to_string();
        assert_eq!(problem, "entry 2 is not standard base64 of 32 bytes");
    }

    #[test]
    fn every_other_spelling_of_a_token_is_refused() {
        let keys = keys(&[&fresh_key()]);
        let token = keys.mint(&user("u_4"));
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(keys.open(std::str::from_utf8(&other).unwrap()), Err(OpenError::Refused), "at {at}");
            assert_eq!(keys.open(&token[..at]), Err(OpenError::Refused), "cut at {at}");
        }
        for wrapped in [format!("{token}="), format!("{token}A"), format!(" {token}"), format!("{token}\n")] {
            assert_eq!(keys.open(&wrapped), Err(OpenError::Refused));
        }
        assert_eq!(keys.open(&"A".repeat(1_000_000)), Err(OpenError::Refused));
    }

    #[test]
    fn a_last_character_with_stray_bits_is_refused() {
        let keys = keys(&[&fresh_key()]);
        // 45 + 4 bytes: the last character carries two bits of them, and four that have to be zero.
        let token = keys.mint(&user("u_42"));
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let spellings =
            alphabet.chars().filter(|last| keys.open(&format!("{}{last}", &token[..token.len() - 1])).is_ok());
        assert_eq!(spellings.count(), 1);
    }

    #[test]
    fn user_ids_that_no_column_could_hold_are_refused() {
        assert_eq!(check_user_id("u_42"), Ok(()));
        assert_eq!(check_user_id(&"u".repeat(200)), Ok(()));
        assert_eq!(check_user_id(&"u".repeat(201)), Err(UserIdError::TooLong));
        assert_eq!(check_user_id("u\0"), Err(UserIdError::Nul));
        assert_eq!(check_user_id(""), Err(UserIdError::Empty));
        let keys = keys(&[&fresh_key()]);
        for id in ["", "u\0", &"u".repeat(201)] {
            assert_eq!(keys.open(&keys.mint(&user(id))), Err(OpenError::Refused));
        }
        assert!(keys.mint(&user(&"u".repeat(200))).len() < MAX_TOKEN);
    }
}
