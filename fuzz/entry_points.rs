//! Where bytes from outside enter finhook: one function for each, with what has to hold whatever the bytes are.
//!
//! The targets in `fuzz_targets` run them under `cargo fuzz`; `tests/entry_points.rs` runs the same functions on stable.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use finhook::config::{Settings, Sources, Values};
use finhook::crypto::{KeyRing, OpenError, Place, UrlKeys, check_user_id, frame_of};
use finhook::domain::{DedupKey, Delivery, Event, Proof, ProviderName, Scope, Timestamp, UserId, WallClock};
use finhook::providers::{self, PROVIDERS, Provider, Reader, Refusal, Request, Setup, Signer, Verifier, keep};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// One provider, ready to prove, read and sign.
struct Stage {
    provider: &'static Provider,
    verifier: Box<dyn Verifier>,
    reader: Box<dyn Reader>,
    signer: Box<dyn Signer>,
}

static RING: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::parse(&SecretString::from(format!("1:{KEY}"))).unwrap());

static URL_KEYS: LazyLock<Arc<UrlKeys>> =
    LazyLock::new(|| Arc::new(UrlKeys::parse(&[SecretString::from(KEY)]).unwrap().unwrap()));

static STAGES: LazyLock<HashMap<&'static str, Stage>> = LazyLock::new(|| {
    let secrets = PROVIDERS.iter().flat_map(|provider| (provider.development)());
    let sources = Sources::of(secrets.map(|(name, secret)| (name, secret.expose_secret().to_owned())));
    let values = Values::load(&sources, &declared()).unwrap();
    let url_keys = Some(Arc::clone(&URL_KEYS));
    let setup = Setup { values: &values, url_keys, clock: WallClock::held(now()) };
    let stage = |provider: &&'static Provider| {
        let stage = Stage {
            provider,
            verifier: (provider.verifier)(&setup).unwrap().unwrap(),
            reader: (provider.reader)(&values).unwrap(),
            signer: (provider.signer)(&setup).unwrap().unwrap(),
        };
        (provider.name.as_str(), stage)
    };
    PROVIDERS.iter().map(stage).collect()
});

fn declared() -> Vec<&'static [finhook::config::Variable]> {
    PROVIDERS.iter().map(|provider| provider.variables).collect()
}

fn now() -> Timestamp {
    Timestamp::from_seconds(1_754_377_200).unwrap()
}

fn known(name: &str) -> Option<ProviderName> {
    providers::find(name).map(|provider| provider.name)
}

/// The first line as the value of the header that carries the proof, the rest as the body. A body that is really signed
/// passes, and nothing else of ours is needed to refuse the rest.
pub fn verify(provider: &str, data: &[u8]) {
    let stage = &STAGES[provider];
    let at = data.iter().position(|byte| *byte == b'\n');
    let (proof, body) = at.map_or((data, &data[data.len()..]), |at| (&data[..at], &data[at + 1..]));
    let body = Bytes::copy_from_slice(body);
    let ask = |headers: &HeaderMap, token: Option<&str>| -> Result<(), Refusal> {
        let request = Request { headers, body: &body, token };
        let answer = stage.verifier.verify(&request, now()).now_or_never();
        answer.expect("with a key at hand nobody is asked").map(drop)
    };
    let signed: HeaderMap = stage.signer.sign(&body, now()).into_iter().collect();
    assert_eq!(ask(&signed, None), Ok(()), "a body that is really signed passes");
    assert_eq!(ask(&HeaderMap::new(), None), Err(Refusal::Missing));
    let Ok(value) = HeaderValue::from_bytes(proof) else { return };
    let mut forged = signed.clone();
    for name in signed.keys() {
        forged.insert(name, value.clone());
    }
    // Whoever guesses a whole proof has found a hole; Auth0's is the token alone.
    if forged != signed {
        assert!(ask(&forged, None).is_err(), "a proof out of nothing");
    }
    if let Ok(token) = std::str::from_utf8(proof) {
        let bound = ask(&signed, Some(token));
        assert!(!stage.provider.binds_urls || bound.is_err(), "a webhook URL out of nothing");
    }
}

/// The first byte says what the rest is: a whole body or one stored element, and whether its URL was bound.
pub fn events(provider: &str, data: &[u8]) {
    let stage = &STAGES[provider];
    let Some((flags, body)) = data.split_first() else { return };
    let user = (flags & 2 != 0).then(|| UserId("u_1".to_owned()));
    let iat = (stage.provider.binds_urls || flags & 4 != 0).then(|| now().seconds());
    let proof = Proof { scheme: "fuzz".to_owned(), iat, user, ..Proof::default() };
    let whole = providers::unproved(stage.provider, now(), proof, Bytes::copy_from_slice(body));
    let delivery = if flags & 1 == 0 { whole } else { whole.narrowed(whole.bytes.clone(), Scope::Element, None) };
    let read = stage.reader.events(&delivery);
    assert!(read.len() <= 2 * body.len() + 1, "more events than bytes could name");
    // The law of reading again, on a few of them: it is quadratic in a joint account's customers.
    for event in read.iter().take(16) {
        let stored = keep::stored(&delivery, event);
        let again = stage.reader.events(&stored);
        let same = again.iter().find(|again| again.dedup_key == event.dedup_key);
        let shown = |event: &Event| (format!("{event:?}"), event.meaning.clone());
        assert_eq!(same.map(shown), Some(shown(event)), "read again it is the same");
        for text in [&event.kind, &event.subject].into_iter().flatten() {
            assert!(!text.is_empty() && text.len() <= 200 && !text.contains('\0'));
        }
    }
}

/// The bytes as a message, a payload and a column; then sealed, opened, and damaged at every place that they name.
pub fn sealed(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    assert!(RING.open_delivery(&message, &known).is_err(), "a message out of nothing");
    let _ = frame_of(&message);
    let key = DedupKey::from_bytes_of(data);
    assert!(RING.open_payload("unit", &key, data, &known).is_err(), "a payload out of nothing");
    let id: [&[u8]; 1] = [data];
    let place = Place { table: "account", column: "external_id", key: &id };
    let text = String::from_utf8_lossy(data);
    assert!(RING.open_column(&place, &text).is_err(), "a column out of nothing");
    assert!(RING.open_column(&place, &format!("fh1.{text}")).is_err());

    let provider = PROVIDERS[data.first().map_or(0, |byte| usize::from(*byte)) % PROVIDERS.len()];
    let proof = Proof {
        scheme: text.chars().take(40).collect(),
        iat: None,
        user: Some(UserId(text.to_string())),
        ..Proof::default()
    };
    let delivery = providers::unproved(provider, now(), proof, message.clone());
    let sealed = RING.seal_delivery(&delivery);
    let opened = RING.open_delivery(&sealed.message.bytes(), &known).unwrap();
    assert_eq!((&opened.bytes, &opened.proof), (&delivery.bytes, &delivery.proof));
    for byte in data.iter().take(8) {
        let mut damaged = sealed.message.as_bytes().to_vec();
        let at = usize::from(*byte) * damaged.len() / 256;
        damaged[at] ^= 1 << (byte & 7);
        assert!(RING.open_delivery(&Bytes::from(damaged), &known).is_err(), "damaged at {at}");
    }
    let payload = RING.seal_payload(&key, &delivery);
    let stored = RING.open_payload(provider.name.as_str(), &key, payload.as_bytes(), &known);
    assert_eq!(stored.map(|it: Delivery| it.bytes), Ok(delivery.bytes));
    let elsewhere = RING.open_payload("elsewhere", &key, payload.as_bytes(), &known).map(drop);
    assert_eq!(elsewhere, Err(OpenError::Refused));
    let column = RING.seal_column(&place, &text);
    assert_eq!(RING.open_column(&place, column.as_str()).unwrap().expose_secret(), text);
}

/// The bytes as a token, and as a user id to mint one for.
pub fn url_token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(URL_KEYS.open(text).is_err(), "a token out of nothing");
    let token = URL_KEYS.mint(&UserId(text.to_owned()));
    match check_user_id(text) {
        Ok(()) => assert_eq!(URL_KEYS.open(&token), Ok(UserId(text.to_owned()))),
        Err(_) => assert!(URL_KEYS.open(&token).is_err()),
    }
}

/// The bytes as a configuration file. What is wrong with it is said in words, and secrets are never quoted.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let nothing: [(&str, &str); 0] = [];
    let values = match Values::load(&Sources::of(nothing).with_file("finhook.toml", text), &declared()) {
        Ok(values) => values,
        Err(problems) => {
            assert!(!problems.is_empty());
            return;
        }
    };
    let _ = Settings::from_values(&values);
    let setup = Setup { values: &values, url_keys: None, clock: WallClock::held(now()) };
    for provider in PROVIDERS {
        let _ = (provider.verifier)(&setup);
        let _ = (provider.reader)(&values);
        let _ = (provider.signer)(&setup);
    }
}
