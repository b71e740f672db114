//! A known value under each key. Whoever keeps it beside what was sealed can tell another key of the same id, or another
//! index key, before anything is sealed or indexed with it.
//!
//! A canary says nothing about the key: it is sealed like any column, or is one more blind index.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::{BlindIndex, Column, KeyRing, Place, Sealed};

/// What is sealed.
const VALUE: &str = "canary";

impl KeyRing {
    /// A canary under the key of this id; `None` if the ring does not hold it.
    pub fn canary(&self, id: u32) -> Option<Sealed<Column>> {
        let key = id.to_be_bytes();
        self.seal_column_under(id, &place(&[&key]), VALUE)
    }

    /// Whether a canary was made with the key that the ring holds under this id.
    pub fn fits(&self, id: u32, canary: &str) -> bool {
        let key = id.to_be_bytes();
        super::key_of_column(canary) == Some(id)
            && self.open_column(&place(&[&key]), canary).is_ok_and(|opened| opened.expose_secret() == VALUE)
    }
}

impl BlindIndex {
    /// A canary of the index key.
    pub fn canary(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.of(VALUE, "", VALUE))
    }

    /// Whether a canary was made with this key.
    pub fn fits(&self, canary: &str) -> bool {
        self.canary().as_bytes().ct_eq(canary.as_bytes()).into()
    }
}

fn place<'a>(key: &'a [&'a [u8]]) -> Place<'a> {
    Place { table: "sealing_key", column: "canary", key }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::crypto::fresh_key;

    fn ring(entries: &[&SecretString]) -> KeyRing {
        let list: Vec<&str> = entries.iter().map(|entry| entry.expose_secret()).collect();
        KeyRing::parse(&SecretString::from(list.join(","))).unwrap()
    }

    #[test]
    fn a_canary_fits_the_key_that_made_it_and_no_other_of_its_id() {
        let [one, two, impostor] = [1, 2, 2].map(KeyRing::generate_entry);
        let canary = ring(&[&one, &two]).canary(2).unwrap();
        assert!(ring(&[&two]).fits(2, canary.as_str()));
        assert!(!ring(&[&one, &impostor]).fits(2, canary.as_str()));
        assert!(!ring(&[&one]).fits(2, canary.as_str()), "a ring without that key");
        assert!(!ring(&[&one, &two]).fits(1, canary.as_str()), "another key's");
        assert!(!ring(&[&two]).fits(2, "fh1.") && ring(&[&one]).canary(2).is_none());
    }

    #[test]
    fn an_index_canary_fits_its_own_key() {
        let [one, two] = [0; 2].map(|_| BlindIndex::parse(&fresh_key()).unwrap());
        assert!(one.fits(&one.canary()) && !two.fits(&one.canary()) && !one.fits(""));
    }
}
