//! Webhook-URL tokens: a user's id, encrypted and authenticated under keys of their own.

use secrecy::SecretString;

use super::{KeyError, OpenError};
use crate::domain::UserId;

/// The keys of bound webhook URLs: the first mints, all open.
pub struct UrlKeys {}

impl UrlKeys {
    /// Reads a list of standard base64 keys of 32 bytes each; `None` if the list is empty.
    pub fn parse(_keys: &[SecretString]) -> Result<Option<Self>, KeyError> {
        todo!()
    }

    /// The token for `/webhooks/plaid/<token>`: unpadded base64url.
    pub fn mint(&self, _user: &UserId) -> String {
        todo!()
    }

    /// The user that a token was minted for.
    pub fn open(&self, _token: &str) -> Result<UserId, OpenError> {
        todo!()
    }
}
