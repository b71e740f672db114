//! Sealing anew under the primary what another key of the ring sealed: the same plaintext, byte for byte, in the same place.
//!
//! A payload can hold a queue message that was kept as it came; the seal of that one is made anew with it, or retiring its
//! key would take the delivery along.

use super::asked::{key_of_column, key_of_message};
use super::cipher::Envelope;
use super::envelope::{Frame, kept_at};
use super::keyring::{bind_message, bind_payload};
use super::{Column, KeyRing, OpenError, Payload, Place, Sealed};
use crate::domain::DedupKey;

impl KeyRing {
    /// A column under the primary; `None` if it is already.
    pub fn reseal_column(&self, place: &Place<'_>, sealed: &str) -> Result<Option<Sealed<Column>>, OpenError> {
        if key_of_column(sealed) == Some(self.primary()) {
            return Ok(None);
        }
        let opened = self.open_column(place, sealed)?;
        Ok(Some(self.seal_column(place, secrecy::ExposeSecret::expose_secret(&opened))))
    }

    /// A payload under the primary, and a kept message in it too; `None` if both are already, or as far as they can be.
    pub fn reseal_payload(
        &self,
        provider: &str,
        key: &DedupKey,
        payload: &[u8],
    ) -> Result<Option<Sealed<Payload>>, OpenError> {
        let envelope = Envelope::parse(payload)?;
        let bound = bind_payload(provider, key);
        let plaintext = self.key(envelope.key_id)?.payload.open(&bound, &envelope)?;
        let kept = kept_at(&plaintext).and_then(|at| plaintext.split_at_checked(at));
        // A message that does not open stays as it is: its key may come back, and nothing is lost by waiting.
        let kept = kept.and_then(|(head, message)| Some((head, self.reseal_message(message).ok()??)));
        if envelope.key_id == self.primary() && kept.is_none() {
            return Ok(None);
        }
        let (head, body) = kept.as_ref().map_or((&plaintext[..], &[][..]), |(head, message)| (*head, &message[..]));
        Ok(Some(self.seal_payload_parts(&bound, head, body)))
    }

    /// Under which key a kept message is sealed that a payload holds; `None` if the payload is an event's own.
    pub fn kept_key(&self, provider: &str, key: &DedupKey, payload: &[u8]) -> Result<Option<u32>, OpenError> {
        let envelope = Envelope::parse(payload)?;
        let plaintext = self.key(envelope.key_id)?.payload.open(&bind_payload(provider, key), &envelope)?;
        Ok(kept_at(&plaintext).and_then(|at| plaintext.get(at..)).and_then(key_of_message))
    }

    /// A queue message under the primary; `None` if it is already.
    fn reseal_message(&self, message: &[u8]) -> Result<Option<Vec<u8>>, OpenError> {
        let (frame, envelope) = Frame::split(message).ok_or(OpenError::Refused)?;
        let in_front = message.get(..message.len().saturating_sub(envelope.len())).ok_or(OpenError::Refused)?;
        let envelope = Envelope::parse(envelope)?;
        if envelope.key_id == self.primary() {
            return Ok(None);
        }
        let bound = bind_message(frame.provider, frame.id);
        let plaintext = self.key(envelope.key_id)?.queue.open(&bound, &envelope)?;
        Ok(Some(self.seal_message_parts(&bound, in_front, &plaintext)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use secrecy::{ExposeSecret, SecretString};
    use uuid::Uuid;

    use super::*;
    use crate::crypto::{kept, key_of_payload};
    use crate::domain::{Delivery, Proof, ProviderName, Scope, Timestamp};

    const UNIT: ProviderName = ProviderName::new("unit");
    const PLACE: Place<'_> = Place { table: "account", column: "external_id", key: &[b"unit", b"c_1"] };

    fn find(name: &str) -> Option<ProviderName> {
        (name == "unit").then_some(UNIT)
    }

    fn ring(list: &str) -> KeyRing {
        KeyRing::parse(&SecretString::from(list.to_owned())).unwrap()
    }

    /// Before the switch, after it, and after the old key is gone.
    fn rings() -> [KeyRing; 3] {
        let [old, new] = [1, 2].map(|id| KeyRing::generate_entry(id).expose_secret().to_owned());
        [ring(&format!("{old},{new}")), ring(&format!("{new},{old}")), ring(&new)]
    }

    fn delivery(body: &'static [u8]) -> Delivery {
        let at = Timestamp::from_seconds(1_700_000_000).unwrap();
        Delivery::assemble(Uuid::now_v7(), UNIT, at, Proof::default(), Scope::Element, true, Bytes::from_static(body))
    }

    #[test]
    fn a_column_is_the_same_under_another_key_and_is_left_alone_the_second_time() {
        let [before, after, without] = rings();
        let sealed = before.seal_column(&PLACE, "1002");
        let anew = after.reseal_column(&PLACE, sealed.as_str()).unwrap().unwrap();
        assert_eq!(without.open_column(&PLACE, anew.as_str()).unwrap().expose_secret(), "1002");
        assert!(after.reseal_column(&PLACE, anew.as_str()).unwrap().is_none());
        let elsewhere = Place { column: "baas_id", ..PLACE };
        assert_eq!(after.reseal_column(&elsewhere, sealed.as_str()).err(), Some(OpenError::Refused));
    }

    #[test]
    fn a_payload_is_the_same_under_another_key_byte_for_byte() {
        let [before, after, without] = rings();
        let (key, delivery) = (DedupKey::from_id("55"), delivery(b"{\"a\":1}"));
        let sealed = before.seal_payload(&key, &delivery);
        let anew = after.reseal_payload("unit", &key, sealed.as_bytes()).unwrap().unwrap();
        assert_eq!(key_of_payload(anew.as_bytes()), Some(2));
        let opened = without.open_payload("unit", &key, anew.as_bytes(), &find).unwrap();
        assert_eq!((opened.id, opened.force, &opened.bytes), (delivery.id, true, &delivery.bytes));
        assert!(after.reseal_payload("unit", &key, anew.as_bytes()).unwrap().is_none());
        assert!(after.reseal_payload("unit", &DedupKey::from_id("56"), sealed.as_bytes()).is_err());
    }

    #[test]
    fn a_message_that_was_kept_is_sealed_anew_with_the_payload_around_it() {
        let [before, after, without] = rings();
        let message = before.seal_delivery(&delivery(b"kept")).message.bytes();
        let held = kept(UNIT, Timestamp::from_seconds(1_700_000_009).unwrap(), message);
        let key = DedupKey::from_bytes_of(&held.bytes);
        // Under either key around it: what a worker before the switch kept, and what one after it did.
        for outer in [before.seal_payload(&key, &held), after.seal_payload(&key, &held)] {
            assert_eq!(after.kept_key("unit", &key, outer.as_bytes()), Ok(Some(1)));
            let anew = after.reseal_payload("unit", &key, outer.as_bytes()).unwrap().unwrap();
            let opened = without.open_payload("unit", &key, anew.as_bytes(), &find).unwrap();
            assert_eq!(opened.scope, Scope::Message);
            assert_eq!(&without.open_delivery(&opened.bytes, &find).unwrap().bytes[..], b"kept");
            assert_eq!(without.kept_key("unit", &key, anew.as_bytes()), Ok(Some(2)));
            assert!(after.reseal_payload("unit", &key, anew.as_bytes()).unwrap().is_none());
        }
    }

    #[test]
    fn a_kept_message_without_its_key_is_left_as_it_is() {
        let [before, after, without] = rings();
        let stranger = ring(KeyRing::generate_entry(9).expose_secret());
        let message = stranger.seal_delivery(&delivery(b"kept")).message.bytes();
        let held = kept(UNIT, Timestamp::from_seconds(1_700_000_009).unwrap(), message.clone());
        let key = DedupKey::from_bytes_of(&held.bytes);
        let sealed = before.seal_payload(&key, &held);
        let anew = after.reseal_payload("unit", &key, sealed.as_bytes()).unwrap().unwrap();
        assert_eq!(without.open_payload("unit", &key, anew.as_bytes(), &find).unwrap().bytes, message);
        assert!(after.reseal_payload("unit", &key, anew.as_bytes()).unwrap().is_none());
        assert_eq!(after.kept_key("unit", &key, anew.as_bytes()), Ok(Some(9)));
        assert_eq!(after.kept_key("unit", &DedupKey::from_id("1"), anew.as_bytes()), Err(OpenError::Refused));
    }
}
