//! Marks: blind indexes of a user's and of a subject's id, each for its own purpose. A mark finds what is about somebody
//! whose own id is not stored (any more), and without the index key it confirms no guess.

use secrecy::{ExposeSecret, SecretString};

use super::rows::SubjectKey;
use crate::crypto::BlindIndex;
use crate::domain::{ProviderName, UserId};

/// A mark.
pub type Mark = Vec<u8>;

/// The mark of a user, by our id of them.
pub fn of_user(index: &BlindIndex, user: &UserId) -> Mark {
    index.of("mark of a user", "", user.as_str()).to_vec()
}

/// The mark of a subject, by the provider's name and its id.
pub fn of_subject(index: &BlindIndex, (service, subject): &SubjectKey) -> Mark {
    index.of("mark of a subject", service, subject).to_vec()
}

/// How one of a provider's inbound secrets is called without being told: short, and nothing without the index key.
pub fn of_secret(index: &BlindIndex, provider: ProviderName, secret: &SecretString) -> String {
    let mark = index.of("fingerprint of a secret", provider.as_str(), secret.expose_secret());
    mark.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::options;

    #[test]
    fn a_mark_is_for_one_purpose_and_one_provider() {
        let vault = options().vault;
        let subject = |service: &str| of_subject(&vault.index, &(service.to_owned(), "x".to_owned()));
        let user = of_user(&vault.index, &UserId("x".into()));
        assert_eq!(subject("unit"), subject("unit"));
        assert_ne!(subject("unit"), subject("plaid"));
        assert_ne!(subject("unit"), user);
        assert_ne!(user, vault.index.of("external_id", "", "x").to_vec());
    }
}
