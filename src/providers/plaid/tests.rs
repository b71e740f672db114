//! Plaid's checks in their order, its binding to users, and its settings.

use http::HeaderMap;
use secrecy::SecretString;

use super::super::plaid_jws::parse_jwks;
use super::super::plaid_jws::tests::{PLAID_KEY, header_of, jwk, own_key, signed};
use super::super::signature::{sha256, to_hex};
use super::super::testing::{headers, received_at, setup, values, verify};
use super::*;
use crate::domain::UserId;

const BODY: &[u8] = include_bytes!("../../../tests/vectors/plaid/01-2020-05-TRANSACTIONS-HISTORICAL_UPDATE.body");
const JWT: &str = include_str!("../../../tests/vectors/plaid/01-2020-05-TRANSACTIONS-HISTORICAL_UPDATE.jwt");
const IAT: i64 = 1_590_887_001;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds).unwrap()
}

fn real() -> Plaid {
    Plaid::offline(parse_jwks(PLAID_KEY).unwrap(), Duration::from_secs(300), None)
}

fn proof(token: &str) -> HeaderMap {
    headers(&[("Plaid-Verification", token.as_bytes())])
}

fn check(plaid: &Plaid, token: &str, body: &[u8], now: Timestamp) -> Result<Proof, Refusal> {
    verify(plaid, &proof(token), body, None, now).map(|verified| verified.proof().clone())
}

fn url_keys(byte: &str) -> Arc<UrlKeys> {
    let key = SecretString::from(format!("{}=", byte.repeat(43)));
    Arc::new(UrlKeys::parse(&[key]).unwrap().unwrap())
}

#[test]
fn a_real_delivery_is_accepted_from_a_minute_before_to_five_minutes_after_it_was_signed() {
    let accepted = check(&real(), JWT.trim(), BODY, at(IAT)).unwrap();
    assert_eq!((accepted.scheme.as_str(), accepted.iat, accepted.user), ("es256", Some(IAT), None));
    for now in [at(IAT - 60), at(IAT + 300)] {
        assert!(check(&real(), JWT.trim(), BODY, now).is_ok());
    }
    assert_eq!(check(&real(), JWT.trim(), BODY, at(IAT + 300).plus_micros(1)), Err(Refusal::Stale));
    assert_eq!(check(&real(), JWT.trim(), BODY, at(IAT - 60).plus_micros(-1)), Err(Refusal::Future));
    let patient = Plaid { max_age: Duration::from_secs(25 * 3600), ..real() };
    assert!(check(&patient, JWT.trim(), BODY, at(IAT + 25 * 3600)).is_ok());
}

#[test]
fn every_single_byte_mutation_of_the_body_is_refused() {
    for index in 0..BODY.len() {
        let mut body = BODY.to_vec();
        body[index] ^= 1;
        assert_eq!(check(&real(), JWT.trim(), &body, at(IAT)), Err(Refusal::Mismatch));
    }
    assert_eq!(check(&real(), JWT.trim(), &[BODY, b"\n"].concat(), at(IAT)), Err(Refusal::Mismatch));
}

#[test]
fn the_proof_comes_once_and_as_ascii() {
    let plaid = real();
    let ask = |headers: &HeaderMap| verify(&plaid, headers, BODY, None, at(IAT)).err();
    assert_eq!(ask(&HeaderMap::new()), Some(Refusal::Missing));
    let token = JWT.trim().as_bytes();
    assert_eq!(
        ask(&headers(&[("plaid-verification", token), ("plaid-verification", token)])),
        Some(Refusal::Malformed)
    );
    assert_eq!(ask(&headers(&[("plaid-verification", b"\xc3\xa9.\xff.x")])), Some(Refusal::Malformed));
    assert_eq!(ask(&headers(&[("plaid-verification", b"")])), Some(Refusal::Malformed));
}

#[test]
fn the_checks_come_in_the_order_header_key_signature_age_body() {
    let (key, public) = own_key();
    let (other, other_public) = own_key();
    let plaid = Plaid::offline(vec![public.clone()], Duration::from_secs(300), None);
    let claims = |body: &[u8]| format!(r#"{{"iat":{IAT},"request_body_sha256":"{}"}}"#, to_hex(&sha256(body)));
    let none = header_of(&other_public).replace("ES256", "none");
    let later = at(IAT + 9999);
    assert_eq!(check(&plaid, &signed(&other, &none, &claims(b"x")), b"y", later), Err(Refusal::Malformed));
    let unknown = signed(&other, &header_of(&other_public), &claims(b"x"));
    assert_eq!(check(&plaid, &unknown, b"y", later), Err(Refusal::UnknownKey));
    let forged = signed(&other, &header_of(&public), &claims(b"x"));
    assert_eq!(check(&plaid, &forged, b"y", later), Err(Refusal::Mismatch));
    let own = signed(&key, &header_of(&public), &claims(b"x"));
    assert_eq!(check(&plaid, &own, b"y", later), Err(Refusal::Stale));
    assert_eq!(check(&plaid, &own, b"y", at(IAT)), Err(Refusal::Mismatch));
    assert!(check(&plaid, &own, b"x", at(IAT)).is_ok());
    let never = signed(&key, &header_of(&public), &claims(b"x").replace(&IAT.to_string(), "9223372036854775807"));
    assert_eq!(check(&plaid, &never, b"x", at(IAT)), Err(Refusal::Malformed));
}

#[test]
fn an_expired_key_is_not_trusted() {
    let (key, public) = own_key();
    let expired = parse_jwks(jwk(&public, r#","expired_at":1"#).as_bytes()).unwrap();
    let plaid = Plaid::offline(expired, Duration::from_secs(300), None);
    assert_eq!(check(&plaid, &key.sign(BODY, at(IAT)).unwrap(), BODY, at(IAT)), Err(Refusal::UnknownKey));
}

#[test]
fn a_bound_url_names_the_user_once_the_signature_holds() {
    let keys = url_keys("A");
    let token = keys.mint(&UserId("u_42".into()));
    let plaid = Plaid { url_keys: Some(keys), ..real() };
    let ask = |plaid: &Plaid, jwt: &str, token: Option<&str>| {
        verify(plaid, &proof(jwt), BODY, token, at(IAT)).map(|verified| verified.proof().user.clone())
    };
    assert_eq!(ask(&plaid, JWT.trim(), Some(&token)), Ok(Some(UserId("u_42".into()))));
    assert_eq!(ask(&plaid, JWT.trim(), None), Ok(None));
    for wrong in ["", "x", &token[1..], &url_keys("E").mint(&UserId("u_42".into()))] {
        assert_eq!(ask(&plaid, JWT.trim(), Some(wrong)), Err(Refusal::Unbound), "{wrong}");
    }
    let forged = own_key().0.sign(BODY, at(IAT)).unwrap();
    assert_eq!(ask(&plaid, &forged, Some("x")), Err(Refusal::UnknownKey));
    let required = Plaid { require_bound_url: true, ..plaid };
    assert_eq!(ask(&required, JWT.trim(), None), Err(Refusal::Unbound));
    assert!(ask(&required, JWT.trim(), Some(&token)).is_ok());
    assert_eq!(ask(&real(), JWT.trim(), Some(&token)), Err(Refusal::KeysUnavailable));
}

#[test]
fn the_development_key_signs_what_it_alone_makes_acceptable() {
    let generated = (PROVIDER.development)();
    let key = secrecy::ExposeSecret::expose_secret(&generated[0].1).to_owned();
    let settings = values(&[(DEVELOPMENT_KEY, &key)]);
    let signed = (PROVIDER.signer)(&setup(&settings, None)).unwrap().unwrap().sign(BODY, received_at());
    let verifier = (PROVIDER.verifier)(&setup(&settings, None)).unwrap().unwrap();
    let headers: HeaderMap = signed.into_iter().collect();
    let verified = verify(verifier.as_ref(), &headers, BODY, None, received_at()).unwrap();
    assert_eq!(verified.proof().iat, Some(received_at().seconds()));
    assert_eq!(verify(&real(), &headers, BODY, None, received_at()).err(), Some(Refusal::UnknownKey));
}

#[test]
fn settings_that_cannot_work_name_the_variable() {
    let problem = |settings: &[(&str, &str)]| {
        (PROVIDER.verifier)(&setup(&values(settings), None)).map(|it| it.is_some()).map_err(|error| error.name)
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/");
    let (file, other) = (format!("{folder}plaid/key.json"), format!("{folder}synapse.json"));
    assert_eq!(problem(&[]), Ok(false));
    assert!((PROVIDER.signer)(&setup(&values(&[]), None)).unwrap().is_none());
    assert_eq!(problem(&[(JWKS_FILE, &file)]), Ok(true));
    assert_eq!(problem(&[(JWKS_FILE, "/nowhere")]), Err(JWKS_FILE.into()));
    assert_eq!(problem(&[(JWKS_FILE, &other)]), Err(JWKS_FILE.into()));
    assert_eq!(problem(&[(DEVELOPMENT_KEY, "AAAA")]), Err(DEVELOPMENT_KEY.into()));
    assert_eq!(problem(&[(CLIENT_ID, "a")]), Err(SECRET.into()));
    assert_eq!(problem(&[(SECRET, "a")]), Err(CLIENT_ID.into()));
    let full = [(CLIENT_ID, "a"), (SECRET, "b")];
    assert_eq!(problem(&full), Ok(true));
    let with = |name, value| problem(&[full[0], full[1], (name, value)]);
    assert_eq!(with(BASE_URL, "https://sandbox.plaid.com"), Ok(true));
    assert_eq!(with(BASE_URL, "http://127.0.0.1:1"), Ok(true));
    for url in [
        "http://plaid.example",
        "plaid.com",
        "https://a:b@plaid.com",
        "ftp://127.0.0.1",
        "http://127.0.0.1.evil.example",
        "https://x/?q",
    ] {
        assert_eq!(with(BASE_URL, url), Err(BASE_URL.into()), "{url}");
    }
    assert_eq!(with(MAX_AGE, "25h"), Ok(true));
    assert_eq!(with(MAX_AGE, "26h"), Err(MAX_AGE.into()));
    assert_eq!(with(MAX_AGE, "0s"), Err(MAX_AGE.into()));
    assert_eq!(with(MAX_AHEAD, "6m"), Err(MAX_AHEAD.into()));
    assert_eq!(with(REQUIRE_BOUND_URL, "true"), Err(REQUIRE_BOUND_URL.into()));
    let required = values(&[full[0], full[1], (REQUIRE_BOUND_URL, "true")]);
    assert!((PROVIDER.verifier)(&setup(&required, Some(url_keys("A")))).unwrap().is_some());
}
