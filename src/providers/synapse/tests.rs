//! Synapse: the computed vector, the rule about its three signatures, and every row of its table.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::testing::{self, HOSTILE, deep, event, headers, received_at, setup, shown, values, verify};
use super::*;
use crate::domain::Scope;

fn read(body: impl Into<Bytes>) -> Event {
    event(&PROVIDER, &SynapseReader, body)
}

/// One event about a user object.
fn user(kind: &str, fields: &str) -> String {
    format!(
        r#"{{"_id":{{"$oid":"u1"}},"_rest":{{"_id":"u1",{fields}}},"webhook_meta":{{"function":"{kind}","log_id":"l1","date":{{"$date":1622725269123}}}}}}"#
    )
}

/// One event about a node object.
fn node(kind: &str, fields: &str) -> String {
    user(kind, "FIELDS").replace("\"u1\"", "\"n1\"").replace("FIELDS", fields)
}

struct Vector {
    body: String,
    synapse: Synapse,
    sha1: String,
    sha256: String,
    full: String,
}

fn vector(allow_object_signatures: bool) -> Vector {
    let json: serde_json::Value =
        serde_json::from_slice(include_bytes!("../../../tests/vectors/synapse.json")).unwrap();
    let text = |name: &str| json[name].as_str().unwrap().to_owned();
    let secrets = vec![SecretString::from("older"), SecretString::from(text("client_secret"))];
    Vector {
        body: text("body"),
        synapse: Synapse { client_id: text("client_id"), secrets, allow_object_signatures },
        sha1: text("X-Synapse-Signature"),
        sha256: text("X-Synapse-Signature-Sha256"),
        full: text("X-Synapse-Signature-SHA256-FullBody"),
    }
}

impl Vector {
    fn check(&self, fields: &[(&str, &str)]) -> Result<String, Refusal> {
        self.check_body(self.body.as_bytes(), fields)
    }

    fn check_body(&self, body: &[u8], fields: &[(&str, &str)]) -> Result<String, Refusal> {
        let fields: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let verified = verify(&self.synapse, &headers(&fields), body, None, received_at())?;
        Ok(verified.proof().scheme.clone())
    }
}

const FULL: &str = "X-Synapse-Signature-SHA256-FullBody";
const SHA256: &str = "X-Synapse-Signature-Sha256";
const SHA1: &str = "X-Synapse-Signature";

#[test]
fn the_vector_verifies_by_each_of_its_signatures() {
    let vector = vector(true);
    assert_eq!(vector.check(&[(FULL, &vector.full)]), Ok("fullbody".into()));
    assert_eq!(vector.check(&[(SHA256, &vector.sha256)]), Ok("object-sha256".into()));
    assert_eq!(vector.check(&[(SHA1, &vector.sha1)]), Ok("object-sha1".into()));
    let all = [(FULL, vector.full.as_str()), (SHA256, &vector.sha256), (SHA1, &vector.sha1)];
    assert_eq!(vector.check(&all), Ok("fullbody".into()));
}

#[test]
fn a_right_short_signature_never_rescues_a_wrong_full_one() {
    let vector = vector(true);
    for full in [vector.sha256.as_str(), "", "zz", &vector.full.to_uppercase()] {
        assert!(vector.check(&[(FULL, full), (SHA256, &vector.sha256), (SHA1, &vector.sha1)]).is_err(), "{full}");
    }
    let wrong = "0".repeat(64);
    assert_eq!(vector.check(&[(SHA256, &wrong), (SHA1, &vector.sha1)]), Err(Refusal::Mismatch));
}

#[test]
fn short_signatures_count_only_where_they_are_allowed() {
    let vector = vector(false);
    assert_eq!(vector.check(&[(SHA256, &vector.sha256)]), Err(Refusal::ObjectSignature));
    assert_eq!(vector.check(&[(SHA1, &vector.sha1)]), Err(Refusal::ObjectSignature));
    assert_eq!(vector.check(&[]), Err(Refusal::Missing));
    assert_eq!(vector.check(&[(FULL, &vector.full), (SHA1, "x")]), Ok("fullbody".into()));
}

#[test]
fn every_single_byte_mutation_is_refused() {
    let vector = vector(true);
    for at in 0..vector.body.len() {
        let mut body = vector.body.clone().into_bytes();
        body[at] ^= 1;
        assert_eq!(vector.check_body(&body, &[(FULL, &vector.full)]), Err(Refusal::Mismatch));
    }
    for (name, right) in [(FULL, &vector.full), (SHA256, &vector.sha256), (SHA1, &vector.sha1)] {
        for at in 0..right.len() {
            for byte in (b' '..=b'~').filter(|byte| *byte != right.as_bytes()[at]) {
                let mut mutated = right.clone().into_bytes();
                mutated[at] = byte;
                assert!(vector.check(&[(name, std::str::from_utf8(&mutated).unwrap())]).is_err());
            }
        }
        assert_eq!(vector.check(&[(name, &right.to_uppercase())]), Err(Refusal::Malformed));
        assert_eq!(vector.check(&[(name, right), (name, right)]), Err(Refusal::Malformed));
        assert_eq!(vector.check(&[(name, &right[1..])]), Err(Refusal::Malformed));
    }
}

#[test]
fn a_body_without_an_object_id_cannot_be_signed_by_it() {
    let vector = vector(true);
    for body in HOSTILE.iter().map(|body| body.to_vec()).chain(deep()) {
        assert_eq!(vector.check_body(&body, &[(SHA1, &vector.sha1)]), Err(Refusal::Malformed));
    }
    let other = vector.body.replace("60b8d295f1c2a94d3e7a0001", "60b8d295f1c2a94d3e7a0002");
    assert_eq!(vector.check_body(other.as_bytes(), &[(SHA1, &vector.sha1)]), Err(Refusal::Mismatch));
}

#[test]
fn settings_make_a_verifier_that_accepts_what_the_signer_signs() {
    let vector = vector(false);
    let secret = vector.synapse.secrets[1].clone();
    let signed = SynapseSigner { client_id: vector.synapse.client_id.clone(), secret }
        .sign(vector.body.as_bytes(), received_at());
    let signed: Vec<&str> = signed.iter().map(|(_, value)| value.to_str().unwrap()).collect();
    assert_eq!(signed, [vector.full.as_str(), &vector.sha1, &vector.sha256]);

    let settings = values(&[(CLIENT_ID, "me"), (CLIENT_SECRETS, "one,two")]);
    let signed = (PROVIDER.signer)(&setup(&settings, None)).unwrap().unwrap().sign(b"x", received_at());
    let verifier = (PROVIDER.verifier)(&setup(&settings, None)).unwrap().unwrap();
    assert!(verify(verifier.as_ref(), &signed.into_iter().collect(), b"x", None, received_at()).is_ok());
    assert!((PROVIDER.verifier)(&setup(&values(&[]), None)).unwrap().is_none());
    let alone = values(&[(CLIENT_SECRETS, "one")]);
    let error = (PROVIDER.verifier)(&setup(&alone, None)).err().unwrap();
    assert_eq!(error.name, CLIENT_ID);
    assert_eq!((PROVIDER.development)().len(), 2);
}

#[test]
fn the_vectors_body_is_an_applying_event() {
    let event = read(vector(false).body);
    assert_eq!(shown(&event), "60b8d295f1c2a94d3e7a00aa touch | ledger account 60b8d295f1c2a94d3e7a0001 open");
    assert_eq!(event.kind.as_deref(), Some("NODES|POST"));
    assert_eq!(event.dedup_key, DedupKey::from_id("60b8d295f1c2a94d3e7a0f01"));
    assert_eq!(event.occurred_at, Timestamp::from_millis(1_622_725_269_123).unwrap());
}

#[test]
fn a_users_permission_is_its_status() {
    for kind in ["USER|POST", "USERS|POST", "USER|PATCH", "USERS|PATCH", "users|patch"] {
        let status = |permission: &str| {
            let fields = format!(r#""permission":"{permission}","permission_code":"why","extra":{{"supp_id":"o1"}}"#);
            shown(&read(user(kind, &fields)))
        };
        for active in ["UNVERIFIED", "RECEIVE", "SEND", "SEND-AND-RECEIVE", "send_and_receive"] {
            assert_eq!(status(active), "u1 active (why)=o1@2");
        }
        assert_eq!(status("LOCKED"), "u1 locked (why)=o1@2");
        assert_eq!(status("CLOSED"), "u1 closed! (why)=o1@2");
        assert_eq!(status("MAKE-IT-GO-AWAY"), "u1 closed! (why)=o1@2");
        assert_eq!(status("SOMETHING-NEW"), "u1 touch=o1@2");
    }
    for extra in [r#"{"supp_id":""}"#, r#"{"supp_id":null}"#, "{}", "null", "7", r#"{"supp_id":7}"#] {
        assert_eq!(shown(&read(user("USER|POST", &format!(r#""permission":"SEND","extra":{extra}"#)))), "u1 active");
    }
}

#[test]
fn a_nodes_allowance_is_its_accounts_status() {
    for kind in ["NODE|POST", "NODES|POST", "NODE|PATCH", "NODES|PATCH"] {
        let status = |fields: &str| shown(&read(node(kind, &format!(r#""user_id":"u1",{fields}"#))));
        assert_eq!(status(r#""allowed":"CREDIT-AND-DEBIT""#), "u1 touch | ledger account n1 open");
        assert_eq!(status(r#""allowed":"LOCKED""#), "u1 touch | ledger account n1 frozen");
        assert_eq!(status(r#""allowed":"CLOSED""#), "u1 touch | ledger account n1 closed!");
        assert_eq!(status(r#""allowed":"INACTIVE""#), "u1 touch | ledger account n1 closed!");
        assert_eq!(status(r#""allowed":"LOCKED","is_active":false"#), "u1 touch | ledger account n1 closed!");
        assert_eq!(status(r#""is_active":"False""#), "u1 touch | ledger account n1 closed!");
        assert_eq!(status(r#""is_active":true,"extra":{"supp_id":"node"}"#), "u1 touch | ledger account n1 open");
    }
    for kind in ["NODE|DELETE", "NODES|DELETE"] {
        assert_eq!(shown(&read(node(kind, r#""user_id":"u1""#))), "u1 touch | ledger account n1 closed!");
    }
}

#[test]
fn without_rest_the_top_level_is_the_object() {
    let legacy =
        r#"{"_id":{"$oid":"n1"},"user_id":{"$oid":"u1"},"allowed":"LOCKED","webhook_meta":{"function":"NODE|PATCH"}}"#;
    let event = read(legacy);
    assert_eq!(shown(&event), "u1 touch | ledger account n1 frozen");
    assert_eq!(event.dedup_key, DedupKey::from_bytes_of(legacy.as_bytes()));
    let rest_only =
        r#"{"_rest":{"_id":"u7","permission":"SEND"},"webhook_meta":{"function":"USER|POST","log_id":"l"}}"#;
    assert_eq!(shown(&read(rest_only)), "u7 active");
}

#[test]
fn everything_else_is_recorded_under_its_user() {
    let subnet = read(node("SUBNETS|POST", r#""user_id":"u1","supp_id":"x""#));
    assert_eq!((shown(&subnet).as_str(), subnet.subject.as_deref()), ("recorded", Some("u1")));
    let transaction = read(node("TRANS|POST", r#""from":{"user":{"_id":"u1"}}"#));
    assert_eq!((shown(&transaction).as_str(), transaction.subject.as_deref()), ("recorded", Some("u1")));
    let deleted = read(user("USER|DELETE", r#""permission":"CLOSED""#));
    assert_eq!((shown(&deleted).as_str(), deleted.subject.as_deref()), ("recorded", Some("u1")));
    let new = read(user("BRAND|NEW", r#""permission":"CLOSED""#));
    assert_eq!((shown(&new).as_str(), new.subject, new.kind.as_deref()), ("recorded", None, Some("BRAND|NEW")));
}

#[test]
fn what_is_missing_is_recorded_or_dead_by_what_it_is() {
    assert_eq!(shown(&read(node("NODE|POST", r#""x":1"#))), "recorded no_subject");
    let nameless = r#"{"_rest":{"user_id":"u1"},"webhook_meta":{"function":"NODE|POST","log_id":"l"}}"#;
    let event = read(nameless);
    assert_eq!(shown(&event), "dead missing_field at /_id");
    assert_eq!((event.subject.as_deref(), event.kind.as_deref()), (Some("u1"), Some("NODE|POST")));
    assert_eq!(shown(&read(r#"{"_id":{"$oid":"x"}}"#)), "dead missing_field at /webhook_meta/function");
    assert_eq!(
        shown(&read(user("USER|POST", "\"a\":1").replace("\"l1\"", "7"))),
        "dead wrong_type at /webhook_meta/log_id"
    );
    let nul = user("USER|POST", r#""extra":{"supp_id":"a\u0000"}"#);
    assert_eq!(shown(&read(nul)), "dead has_nul at /_rest/extra/supp_id");
    assert_eq!(shown(&read(user("USER|POST", r#""note":"a\u0000","n":1e999,"permission":"SEND""#))), "u1 active");
}

#[test]
fn dates_are_read_in_every_form_that_mongo_writes() {
    let at = |date: &str| read(user("USER|POST", "\"a\":1").replace("{\"$date\":1622725269123}", date)).occurred_at;
    let right = Timestamp::from_millis(1_622_725_269_123).unwrap();
    for date in [
        r#"{"$date":1622725269123}"#,
        r#"{"$date":"1622725269123"}"#,
        r#"{"$date":1622725269123.0}"#,
        r#"{"$date":1.622725269123e12}"#,
        r#"{"$date":{"$numberLong":"1622725269123"}}"#,
        r#"{"$date":"2021-06-03T13:01:09.123Z"}"#,
        "1622725269123",
    ] {
        assert_eq!(at(date), right, "{date}");
    }
    for date in [
        "null",
        "{}",
        r#"{"$date":1e999}"#,
        r#"{"$date":"NaN"}"#,
        r#"{"$date":"soon"}"#,
        r#"{"$date":{}}"#,
        "[]",
        r#"{"$date":99999999999999999999}"#,
    ] {
        assert_eq!(at(date), received_at(), "{date}");
    }
}

#[test]
fn what_is_no_object_is_one_dead_event() {
    for body in HOSTILE.iter().map(|body| body.to_vec()).chain(deep()).chain([b"[]".to_vec()]) {
        let event = read(body);
        assert!(shown(&event).starts_with("dead"));
    }
    assert_eq!(read("[]").scope, Scope::Body);
}

proptest! {
    #[test]
    fn arbitrary_and_mutated_bodies_are_read_without_a_panic_and_read_again_alike(
        noise in prop::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(), text in "[\\[\\]{},:\"\\\\0a|]{0,3}"
    ) {
        testing::events(&PROVIDER, &SynapseReader, noise, Proof::default());
        let mut body = vector(false).body.into_bytes();
        let at = at.index(body.len());
        body.splice(at..=at, text.into_bytes());
        testing::events(&PROVIDER, &SynapseReader, body, Proof::default());
    }
}
