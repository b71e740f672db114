//! What the whole room promises: what was sealed opens in its place with its key, and nothing else opens at all.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::*;
use crate::domain::{DedupKey, Delivery, Proof, ProviderName, Scope, Timestamp, TraceParent, UserId};

const UNIT: ProviderName = ProviderName::new("unit");
const PLAID: ProviderName = ProviderName::new("plaid");
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PLACE: Place<'_> = Place { table: "account", column: "external_id", key: &[b"unit", b"c_1"] };

fn find(name: &str) -> Option<ProviderName> {
    [UNIT, PLAID].into_iter().find(|known| known.as_str() == name)
}

fn ring(list: &str) -> KeyRing {
    KeyRing::parse(&SecretString::from(list)).unwrap()
}

fn entry(id: u32) -> String {
    KeyRing::generate_entry(id).expose_secret().to_owned()
}

fn delivery(provider: ProviderName, body: &[u8]) -> Delivery {
    let proof =
        Proof { scheme: "hmac-sha1".into(), iat: Some(1_700_000_000), user: Some(UserId("u_42".into())), secret: None };
    let received_at = Timestamp::from_micros(1_700_000_000_123_456).unwrap();
    let id = Uuid::from_u128(0x0192_f0c4_0000_7000_8000_0000_0000_0001);
    Delivery::assemble(id, provider, received_at, proof, Scope::Body, false, Bytes::copy_from_slice(body))
}

type Parts = (Uuid, ProviderName, Timestamp, Proof, Scope, bool, Option<TraceParent>, Bytes, Option<DedupKey>);

fn parts(delivery: &Delivery) -> Parts {
    let Delivery { id, provider, received_at, proof, scope, force, trace, bytes, key } = delivery.clone();
    (id, provider, received_at, proof, scope, force, trace, bytes, key)
}

fn open(ring: &KeyRing, message: &[u8]) -> Result<Delivery, OpenError> {
    ring.open_delivery(&Bytes::copy_from_slice(message), &find)
}

/// Every way to damage bytes by one: each bit flipped, each length cut, one byte more at the end.
fn damaged(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    let flips = (0..bytes.len() * 8).map(|bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        (bit / 8, flipped)
    });
    let cuts = (0..bytes.len()).map(|end| (usize::MAX, bytes[..end].to_vec()));
    let longer = std::iter::once((usize::MAX, [bytes, &[0]].concat()));
    flips.chain(cuts).chain(longer)
}

#[test]
fn a_delivery_opens_to_what_was_sealed() {
    let ring = ring(&entry(1));
    let mut delivery = delivery(UNIT, br#"{"data":[]}"#);
    delivery.proof.secret = Some("1a2b3c4d".into());
    let sealed = ring.seal_delivery(&delivery);
    assert_eq!((sealed.id, sealed.provider, sealed.received_at), (delivery.id, UNIT, delivery.received_at));
    let opened = open(&ring, sealed.message.as_bytes()).unwrap();
    assert_eq!(parts(&opened), parts(&delivery));
    assert_eq!(frame_of(sealed.message.as_bytes()), Some(("unit".into(), delivery.id)));
}

#[test]
fn a_message_is_sealed_in_the_buffer_that_was_reserved_for_it() {
    let nasty = "\u{1}\"\\".repeat(50);
    let mut delivery = delivery(UNIT, &[7; 1000]);
    let secret = Some("1a2b3c4d".into());
    delivery.proof = Proof { scheme: nasty.clone(), iat: Some(i64::MIN), user: Some(UserId(nasty)), secret };
    delivery.key = Some(DedupKey::from_stored(vec![0xff; 40]));
    delivery.trace = TraceParent::new(u128::MAX, u64::MAX, true);
    let sealed = ring(&entry(1)).seal_delivery(&delivery);
    assert!(sealed.message.as_bytes().len() <= envelope::room_for(&delivery));
}

#[test]
fn nothing_of_a_body_or_its_proof_stands_in_a_message() {
    let sealed = ring(&entry(1)).seal_delivery(&delivery(UNIT, b"account 1000123456"));
    for plain in ["account", "1000123456", "hmac-sha1", "u_42", "received_at"] {
        let bytes = sealed.message.as_bytes();
        assert!(!bytes.windows(plain.len()).any(|window| window == plain.as_bytes()), "{plain}");
    }
}

#[test]
fn every_damage_to_a_message_is_refused_without_saying_where() {
    let ring = ring(&entry(0x0102_0304));
    let message = ring.seal_delivery(&delivery(UNIT, b"{}")).message;
    for (at, damaged) in damaged(message.as_bytes()) {
        assert_eq!(open(&ring, &damaged).map(|_| ()), Err(OpenError::Refused), "at {at}");
    }
}

#[test]
fn every_damage_to_a_payload_is_refused_without_saying_where() {
    let ring = ring(&entry(0x0102_0304));
    let key = DedupKey::from_id("55");
    let payload = ring.seal_payload(&key, &delivery(UNIT, b"{}"));
    for (at, damaged) in damaged(payload.as_bytes()) {
        let opened = ring.open_payload("unit", &key, &damaged, &find).map(|_| ());
        assert_eq!(opened, Err(OpenError::Refused), "at {at}");
    }
}

#[test]
fn every_other_spelling_of_a_sealed_column_is_refused() {
    let ring = ring(&entry(9));
    let sealed = ring.seal_column(&PLACE, "1000");
    let text = sealed.as_str();
    assert!(text.starts_with("fh1.") && text.is_ascii() && !text.contains('='));
    assert_eq!(ring.open_column(&PLACE, text).unwrap().expose_secret(), "1000");
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/. \n";
    for at in 0..text.len() {
        assert!(ring.open_column(&PLACE, &text[..at]).is_err());
        for other in alphabet.chars().filter(|other| !text[at..].starts_with(*other)) {
            let spelling = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(ring.open_column(&PLACE, &spelling).err(), Some(OpenError::Refused), "{other:?} at {at}");
        }
    }
    for other in [format!("{text}="), format!("{text}A"), format!("{text}AAAA"), text.replacen("fh1", "FH1", 1)] {
        assert_eq!(ring.open_column(&PLACE, &other).err(), Some(OpenError::Refused));
    }
}

#[test]
fn a_column_opens_in_its_own_place_only() {
    let ring = ring(&entry(1));
    let sealed = ring.seal_column(&PLACE, "1000");
    let elsewhere = [
        Place { table: "integration", ..PLACE },
        Place { column: "baas_id", ..PLACE },
        Place { key: &[b"unit", b"c_2"], ..PLACE },
        Place { key: &[b"unitc", b"_1"], ..PLACE },
        Place { key: &[b"unit"], ..PLACE },
        Place { key: &[b"unit", b"c_1", b""], ..PLACE },
        Place { table: "accountexternal_id", column: "", ..PLACE },
    ];
    for place in elsewhere {
        assert_eq!(ring.open_column(&place, sealed.as_str()).err(), Some(OpenError::Refused));
    }
}

#[test]
fn a_payload_opens_with_its_own_row_only() {
    let ring = ring(&entry(1));
    let key = DedupKey::from_id("55");
    let payload = ring.seal_payload(&key, &delivery(UNIT, b"{}"));
    let open = |provider: &str, key: &DedupKey| ring.open_payload(provider, key, payload.as_bytes(), &find).map(|_| ());
    assert_eq!(open("unit", &key), Ok(()));
    assert_eq!(open("plaid", &key), Err(OpenError::Refused));
    assert_eq!(open("unit", &DedupKey::from_id("56")), Err(OpenError::Refused));
}

#[test]
fn a_stored_event_keeps_proof_scope_and_force() {
    let ring = ring(&entry(1));
    let key = DedupKey::from_bytes_of(b"{}");
    let mut element = delivery(PLAID, b"[{}]").narrowed(Bytes::from_static(b"{}"), Scope::Element, None);
    element.force = true;
    element.key = Some(key.clone());
    let payload = ring.seal_payload(&key, &element);
    let opened = ring.open_payload("plaid", &key, payload.as_bytes(), &find).unwrap();
    assert_eq!(parts(&opened), parts(&element));
}

#[test]
fn purposes_do_not_open_each_other() {
    let ring = ring(&entry(1));
    let key = DedupKey::from_id("55");
    let message = ring.seal_delivery(&delivery(UNIT, b"{}")).message;
    let envelope = &message.as_bytes()[2 + 4 + 16..];
    assert!(ring.open_payload("unit", &key, envelope, &find).is_err());
    let payload = ring.seal_payload(&key, &delivery(UNIT, b"{}"));
    let framed = [&message.as_bytes()[..2 + 4 + 16], payload.as_bytes()].concat();
    assert_eq!(open(&ring, &framed).err(), Some(OpenError::Refused));
}

#[test]
fn a_frame_of_another_delivery_does_not_fit() {
    let ring = ring(&entry(1));
    let one = ring.seal_delivery(&delivery(UNIT, b"{}")).message;
    let other = ring.seal_delivery(&delivery(PLAID, b"{}")).message;
    let swapped = [&other.as_bytes()[..2 + 5 + 16], &one.as_bytes()[2 + 4 + 16..]].concat();
    assert_eq!(open(&ring, &swapped).err(), Some(OpenError::Refused));
}

#[test]
fn a_rotated_ring_opens_old_values_and_one_without_the_retired_key_is_mute_about_them() {
    let (old, new) = (entry(1), entry(2));
    let before = ring(&old);
    let message = before.seal_delivery(&delivery(UNIT, b"{}")).message;
    let column = before.seal_column(&PLACE, "1000");
    let rotated = ring(&format!("{new},{old}"));
    assert!(open(&rotated, message.as_bytes()).is_ok());
    assert_eq!(rotated.open_column(&PLACE, column.as_str()).unwrap().expose_secret(), "1000");
    let sealed_anew = rotated.seal_delivery(&delivery(UNIT, b"{}")).message;
    let retired = ring(&new);
    assert!(open(&retired, sealed_anew.as_bytes()).is_ok());
    assert_eq!(open(&retired, message.as_bytes()).err(), Some(OpenError::Refused));
    assert_eq!(retired.open_column(&PLACE, column.as_str()).err(), Some(OpenError::Refused));
    // What it is under stands there in the clear, for those who decide to wait for the key.
    assert_eq!((key_of_message(message.as_bytes()), key_of_column(column.as_str())), (Some(1), Some(1)));
    assert!(rotated.holds(1) && !retired.holds(1));
}

#[test]
fn another_key_under_the_same_id_is_refused_like_any_damage() {
    let message = ring(&entry(1)).seal_delivery(&delivery(UNIT, b"{}")).message;
    assert_eq!(open(&ring(&entry(1)), message.as_bytes()).err(), Some(OpenError::Refused));
}

/// Damage, cuts, another place, another key under the same id, a key that is gone: one answer, so that nobody learns from it
/// how near they came.
#[test]
fn whatever_is_wrong_is_refused_with_one_and_the_same_error() {
    let (one, two, impostor) = (entry(1), entry(2), entry(1));
    let (right, wrong, retired) = (ring(&format!("{one},{two}")), ring(&format!("{impostor},{two}")), ring(&two));
    let (key, delivery) = (DedupKey::from_id("55"), delivery(UNIT, b"{}"));
    let message = right.seal_delivery(&delivery).message;
    let payload = right.seal_payload(&key, &delivery);
    let column = right.seal_column(&PLACE, "1002");
    let envelope = URL_SAFE_NO_PAD.decode(&column.as_str()[4..]).unwrap();
    let mut said: Vec<OpenError> = Vec::new();
    for ring in [&wrong, &retired] {
        said.extend(open(ring, message.as_bytes()).err());
        said.extend(ring.open_payload("unit", &key, payload.as_bytes(), &find).err());
        said.extend(ring.open_column(&PLACE, column.as_str()).err());
        said.extend(ring.reseal_payload("unit", &key, payload.as_bytes()).err());
    }
    said.extend(right.open_payload("plaid", &key, payload.as_bytes(), &find).err());
    said.extend(right.open_column(&Place { column: "baas_id", ..PLACE }, column.as_str()).err());
    let of_whole = said.len();
    assert_eq!(of_whole, 10);
    let (mut damages, mut opened) = (0, 0);
    for (sealed, what) in [(message.as_bytes(), 0), (payload.as_bytes(), 1), (&envelope[..], 2)] {
        for (_, damaged) in damaged(sealed) {
            damages += 1;
            let outcome = match what {
                0 => open(&right, &damaged).map(drop),
                1 => right.open_payload("unit", &key, &damaged, &find).map(drop),
                _ => right.open_column(&PLACE, &format!("fh1.{}", URL_SAFE_NO_PAD.encode(&damaged))).map(drop),
            };
            match outcome {
                Ok(()) => opened += 1,
                Err(error) => said.push(error),
            }
        }
    }
    assert_eq!((opened, said.len()), (0, of_whole + damages));
    let words: std::collections::BTreeSet<String> = said.iter().map(|error| format!("{error} {error:?}")).collect();
    assert_eq!(words.into_iter().collect::<Vec<_>>(), ["cannot be opened Refused"]);
}

#[test]
fn a_provider_that_this_version_does_not_know_is_told_apart() {
    let ring = ring(&entry(1));
    let message = ring.seal_delivery(&delivery(ProviderName::new("moov"), b"{}")).message;
    assert_eq!(open(&ring, message.as_bytes()).err(), Some(OpenError::UnknownProvider));
}

#[test]
fn whatever_holds_a_key_wipes_it_when_dropped() {
    fn wipes<T: zeroize::ZeroizeOnDrop>() {}
    // These hold only while the crates' `zeroize` features are on.
    wipes::<xaes_256_gcm::Xaes256Gcm>();
    // HMAC is two of these and does not say so itself.
    wipes::<sha2::Sha256>();
    wipes::<cipher::KeyBytes>();
}

#[test]
fn equal_values_never_look_alike() {
    let ring = ring(&entry(1));
    assert_ne!(ring.seal_column(&PLACE, "1000").as_str(), ring.seal_column(&PLACE, "1000").as_str());
}

/// Rows, queues and URLs outlive versions: what an earlier version sealed has to open for ever. These were sealed by an
/// independent implementation (Python's `cryptography`) of the wire format in the room's header.
#[test]
fn what_another_implementation_sealed_opens() {
    let ring = ring(&format!("7:{KEY}"));
    let column = "fh1.AQAAAAdhYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3jJpoHgTLvKrOdn9aZ3EOGxLGkDAg";
    assert_eq!(ring.open_column(&PLACE, column).unwrap().expose_secret(), "1002");
    let message = "AQR1bml0AZLwxAAAcACAAAAAAAAAAQEAAAAHYWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4PKv3eGBaNU2aLEbScTgI5WYpQp2J6Qm1\
        IIQ92sUBkrrPZuuHhGY-u6ii-aDoOmC906qAmovNE3zqxADXgRJUOsDoi_Dr_jwfUatxs4DOoSgnqTjWCWIBzHxAuDNCIuQRn-1K\
        _y6dnWrVwz-uQ5j-01X47wYXvfyAKVG2eXlPSEC0OXNpF2-Yr0BSKBdYuPZydDH8DCBJOVgQ7eWmS3NA4y0rjL809onCLE4kDENN\
        IrtASLtNQX1av6jQrwAAQI48mnDkqhZrPzQgQ4uXEChw";
    let message = URL_SAFE_NO_PAD.decode(message).unwrap();
    assert_eq!(parts(&open(&ring, &message).unwrap()), parts(&delivery(UNIT, b"{}")));
    let payload = "AQAAAAdhYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3hYVbv2NsAQue1VUxybJr3AM-cdo38mVPHXMlZKlFC8QcimbfMYN0LAf8Ns-gpz\
        1MzEAWDJ_UQW_toQ67N6wsXzv_8vkoDwff7zkVnu2jaaTSj5zQCY4mbhqyBldOXwZJP9TcP4XE5WK9MB2DARGOvxN-tXR9gTdbR0\
        dDZZJ1wLvoDMuyqBIE3Txnb2cAo25e_wb0CtSeuvGXEUi2boBnzu6DNr3n5IhnXVnRLvt1BaE6yWQgPr6ibVOtKlVckwt0qXETrJ\
        Tg4JbVSzdKqwqgo";
    let payload = URL_SAFE_NO_PAD.decode(payload).unwrap();
    let opened = ring.open_payload("unit", &DedupKey::from_id("55"), &payload, &find).unwrap();
    assert_eq!(parts(&opened), parts(&delivery(UNIT, b"{}")));
    let urls = UrlKeys::parse(&[SecretString::from(KEY)]).unwrap().unwrap();
    assert_eq!(
        urls.open("AUmTXJNhYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3ig2AEG9V8CmkOa2nmDqm6294h4OA"),
        Ok(UserId("u_42".into()))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_delivery_comes_back(
        body in proptest::collection::vec(any::<u8>(), 0..4096),
        scheme in ".{0,40}", user in proptest::option::of(".{0,200}"), iat in any::<Option<i64>>(),
        id in any::<u128>(), micros in 0..253_402_300_799_999_999_i64, force in any::<bool>(),
        trace in any::<(u128, u64, bool)>(),
    ) {
        let ring = ring(&format!("7:{KEY}"));
        let mut given = delivery(UNIT, &body);
        given.proof = Proof { scheme, iat, user: user.map(UserId), secret: None };
        given.id = Uuid::from_u128(id);
        given.received_at = Timestamp::from_micros(micros).unwrap();
        given.force = force;
        given.trace = TraceParent::new(trace.0, trace.1, trace.2);
        let sealed = ring.seal_delivery(&given);
        prop_assert!(sealed.message.as_bytes().len() <= envelope::room_for(&given));
        prop_assert_eq!(&sealed.traceparent, &given.trace.map(|trace| trace.to_string()));
        prop_assert_eq!(parts(&open(&ring, sealed.message.as_bytes()).unwrap()), parts(&given));
        let key = DedupKey::from_stored(body);
        let payload = ring.seal_payload(&key, &given);
        let opened = ring.open_payload("unit", &key, payload.as_bytes(), &find).unwrap();
        prop_assert_eq!(parts(&opened), parts(&given));
    }

    #[test]
    fn any_text_comes_back_from_a_column(text in "\\PC{0,300}", table in ".*", part in any::<Vec<u8>>()) {
        let ring = ring(&format!("7:{KEY}"));
        let parts: [&[u8]; 1] = [&part];
        let place = Place { table: &table, column: "x", key: &parts };
        let sealed = ring.seal_column(&place, &text);
        let opened = ring.open_column(&place, sealed.as_str()).unwrap();
        prop_assert_eq!(opened.expose_secret(), &text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_open_and_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), len in 0..40u8, text in ".{0,80}",
    ) {
        let ring = ring(&format!("7:{KEY}"));
        let mut framed = vec![1, len];
        framed.extend_from_slice(&bytes);
        for message in [&bytes, &framed] {
            let _ = frame_of(message);
            prop_assert!(open(&ring, message).is_err());
            prop_assert!(ring.open_payload("unit", &DedupKey::from_id("1"), message, &find).is_err());
        }
        prop_assert!(ring.open_column(&PLACE, &text).is_err());
        let prefixed = format!("fh1.{text}");
        prop_assert!(ring.open_column(&PLACE, &prefixed).is_err());
        let urls = UrlKeys::parse(&[SecretString::from(KEY)]).unwrap().unwrap();
        prop_assert!(urls.open(&text).is_err());
    }
}
