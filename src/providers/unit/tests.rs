//! Unit: published signatures, every row of its table, and bodies that it would not send.

use proptest::prelude::*;

use super::super::testing::{self, HOSTILE, deep, delivery, event, headers, received_at, setup, shown, values, verify};
use super::*;

fn reader() -> UnitReader {
    UnitReader { user_tag: "userId".into() }
}

fn read(body: impl Into<Bytes>) -> Vec<Event> {
    testing::events(&PROVIDER, &reader(), body, Proof::default())
}

/// One event of `kind` with these attributes and relationships.
fn one(kind: &str, attributes: &str, relationships: &str) -> String {
    let created = r#""createdAt":"2025-08-05T06:48:38.957Z""#;
    let comma = if attributes.is_empty() { "" } else { "," };
    format!(
        r#"{{"id":"46306092","type":"{kind}","attributes":{{{created}{comma}{attributes}}},"relationships":{{{relationships}}}}}"#
    )
}

fn meaning(kind: &str, attributes: &str, relationships: &str) -> String {
    let body = format!(r#"{{"data":[{}]}}"#, one(kind, attributes, relationships));
    read(body).iter().map(shown).collect::<Vec<_>>().join(" & ")
}

const CUSTOMER: &str = r#""customer":{"data":{"id":"c1","type":"individualCustomer"}}"#;
const BOTH: &str =
    r#""customer":{"data":{"id":"c1","type":"x"}},"account":{"data":{"id":"a1","type":"depositAccount"}}"#;
const JOINT: &str = r#""customers":{"data":[{"id":"c2"},{"id":"c1"},{"id":"c2"}]},"account":{"data":{"id":"a1"}}"#;
const TAG: &str = r#""tags":{"userId":"u1","other":null}"#;

fn verifier(token: &str) -> Unit {
    Unit { tokens: vec![SecretString::from("another"), SecretString::from(token)] }
}

fn vectors() -> Vec<(Vec<u8>, String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/unit/");
    let list: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{folder}signatures.json")).unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    list.as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let body = std::fs::read(format!("{folder}{}", text(&it["body"]))).unwrap();
            (body, text(&it["token"]), text(&it["x-unit-signature"]))
        })
        .collect()
}

fn check(unit: &Unit, body: &[u8], signature: &str) -> Result<(), Refusal> {
    verify(unit, &headers(&[("X-Unit-Signature", signature.as_bytes())]), body, None, received_at()).map(|_| ())
}

/// The files may have been kept with or without the newline that editors add.
fn as_signed(body: &[u8], token: &str, signature: &str) -> Vec<u8> {
    let candidates = [body.to_vec(), body.trim_ascii_end().to_vec()];
    candidates
        .into_iter()
        .find(|body| check(&verifier(token), body, signature).is_ok())
        .expect("a vector that verifies")
}

#[test]
fn the_signatures_published_with_the_sdks_verify() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 2);
    for (body, token, signature) in vectors {
        as_signed(&body, &token, &signature);
    }
}

#[test]
fn every_single_byte_mutation_of_body_and_signature_is_refused() {
    for (body, token, signature) in vectors() {
        let unit = verifier(&token);
        let body = as_signed(&body, &token, &signature);
        for at in 0..body.len() {
            let mut body = body.clone();
            body[at] ^= 1;
            assert_eq!(check(&unit, &body, &signature), Err(Refusal::Mismatch));
        }
        for at in 0..signature.len() {
            for byte in (b' '..=b'~').filter(|byte| *byte != signature.as_bytes()[at]) {
                let mut mutated = signature.clone().into_bytes();
                mutated[at] = byte;
                assert!(check(&unit, &body, std::str::from_utf8(&mutated).unwrap()).is_err());
            }
        }
    }
}

#[test]
fn other_spellings_of_a_right_signature_are_malformed() {
    let (body, token, signature) = vectors().remove(0);
    let (unit, body) = (verifier(&token), as_signed(&body, &token, &signature));
    let bare = signature.trim_end_matches('=').to_owned();
    let stray = format!("{}V=", &bare[..bare.len() - 1]);
    let url = signature.replace('+', "-");
    for odd in [bare, stray, url, format!("{signature}, {signature}"), format!("{signature}="), String::new()] {
        assert_eq!(check(&unit, &body, &odd), Err(Refusal::Malformed), "{odd}");
    }
    let twice = headers(&[("x-unit-signature", signature.as_bytes()), ("x-unit-signature", signature.as_bytes())]);
    assert_eq!(verify(&unit, &twice, &body, None, received_at()).err(), Some(Refusal::Malformed));
    let bytes = headers(&[("x-unit-signature", b"\xff\xfe")]);
    assert_eq!(verify(&unit, &bytes, &body, None, received_at()).err(), Some(Refusal::Malformed));
    assert_eq!(verify(&unit, &headers(&[]), &body, None, received_at()).err(), Some(Refusal::Missing));
}

#[test]
fn settings_make_a_verifier_that_accepts_what_the_signer_signs() {
    let settings = values(&[(TOKENS, "one,two"), (USER_TAG, "ourUser")]);
    let signed = (PROVIDER.signer)(&setup(&settings, None)).unwrap().unwrap().sign(b"{}", received_at());
    let verifier = (PROVIDER.verifier)(&setup(&settings, None)).unwrap().unwrap();
    let proof = verify(verifier.as_ref(), &signed.into_iter().collect(), b"{}", None, received_at()).unwrap();
    assert_eq!(proof.proof().scheme, "hmac-sha1");
    let body = format!(r#"{{"data":[{}]}}"#, one("customer.created", r#""tags":{"ourUser":"u9"}"#, CUSTOMER));
    let events = (PROVIDER.reader)(&settings).unwrap().events(&delivery(&PROVIDER, body, Proof::default()));
    assert_eq!(shown(&events[0]), "c1 active=u9@2");
    let none = values(&[]);
    assert!((PROVIDER.verifier)(&setup(&none, None)).unwrap().is_none());
    assert!((PROVIDER.signer)(&setup(&none, None)).unwrap().is_none());
    assert_eq!((PROVIDER.development)().len(), 1);
}

#[test]
fn the_published_body_is_an_applying_event() {
    let event = event(&PROVIDER, &reader(), vectors().remove(0).0);
    assert_eq!(shown(&event), "3310133 active");
    assert_eq!(event.dedup_key, DedupKey::from_id("46306092"));
    assert_eq!(event.occurred_at, Timestamp::parse("2025-08-05T06:48:38.957Z").unwrap());
    assert_eq!(event.kind.as_deref(), Some("application.approved"));
}

#[test]
fn customers_become_integrations() {
    assert_eq!(meaning("customer.created", TAG, CUSTOMER), "c1 active=u1@2");
    assert_eq!(meaning("Application.Approved", TAG, CUSTOMER), "c1 active=u1@2");
    assert_eq!(meaning("customer.updated", TAG, CUSTOMER), "c1 touch=u1@2");
    assert_eq!(meaning("customer.updated", r#""tags":{"userId":null}"#, CUSTOMER), "c1 touch");
    assert_eq!(meaning("customer.updated", r#""tags":{"userId":"  "}"#, CUSTOMER), "c1 touch");
    assert_eq!(meaning("customer.updated", r#""tags":{"userId":7}"#, CUSTOMER), "c1 touch");
    assert_eq!(meaning("customer.updated", r#""tags":[]"#, CUSTOMER), "c1 touch");
}

#[test]
fn an_archived_customer_closes_and_its_tags_name_no_owner() {
    let attributes = format!(r#"{TAG},"archiveReason":"Inactive""#);
    assert_eq!(meaning("customer.archived", &attributes, CUSTOMER), "c1 archived! (Inactive)");
    assert_eq!(meaning("customer.archived", r#""archiveReason":7"#, CUSTOMER), "c1 archived!");
}

#[test]
fn accounts_become_accounts() {
    assert_eq!(meaning("account.created", TAG, BOTH), "c1 touch=u1@1 | ledger account a1 open");
    assert_eq!(
        meaning("account.closed", r#""closeReason":"ByCustomer""#, BOTH),
        "c1 touch | ledger account a1 closed! (ByCustomer)"
    );
    assert_eq!(
        meaning("account.frozen", r#""freezeReason":"Fraud\u0000""#, BOTH),
        "c1 touch | ledger account a1 frozen (Fraud\u{fffd})"
    );
    assert_eq!(meaning("account.unfrozen", "", BOTH), "c1 touch | ledger account a1 open");
    assert_eq!(meaning("account.reopened", "", BOTH), "c1 touch | ledger account a1 open");
    assert_eq!(meaning("ACCOUNT.UPDATED", "", BOTH), "c1 touch | ledger account a1 touch");
}

#[test]
fn a_joint_account_is_one_event_per_customer_and_its_tag_names_nobody() {
    let body = format!(r#"{{"data":[{}]}}"#, one("account.created", TAG, JOINT));
    let events = read(body);
    let shown: Vec<String> = events.iter().map(shown).collect();
    assert_eq!(shown, ["c1 touch | ledger account a1 open", "c2 touch | ledger account a1 open"]);
    let plain = DedupKey::from_id("46306092");
    assert_eq!(events[0].dedup_key, plain);
    assert_eq!(events[1].dedup_key, plain.for_customer("c2"));
    let recorded = read(format!(r#"{{"data":[{}]}}"#, one("account.somethingElse", TAG, JOINT)));
    assert_eq!(recorded.iter().map(|event| event.subject.as_deref().unwrap()).collect::<Vec<_>>(), ["c1", "c2"]);
    assert_eq!(meaning("card.created", TAG, JOINT), "recorded");
}

#[test]
fn customer_and_customers_are_one_set() {
    let twice = r#""customer":{"data":{"id":"c1"}},"customers":{"data":[{"id":"c1"}]},"account":{"data":{"id":"a1"}}"#;
    assert_eq!(meaning("account.created", TAG, twice), "c1 touch=u1@1 | ledger account a1 open");
    let more = r#""customer":{"data":{"id":"c3"}},"customers":{"data":[{"id":"c1"}]},"account":{"data":[{"id":"a1"}]}"#;
    assert_eq!(
        meaning("account.updated", TAG, more),
        "c1 touch | ledger account a1 touch & c3 touch | ledger account a1 touch"
    );
}

#[test]
fn every_other_kind_is_recorded_with_its_customer() {
    for kind in [
        "application.denied",
        "document.approved",
        "card.created",
        "authorizationRequest.pending",
        "payment.sent",
        "transaction.created",
        "checkDeposit.pending",
        "brand.new",
        "account.creating",
    ] {
        let event = event(&PROVIDER, &reader(), format!(r#"{{"data":[{}]}}"#, one(kind, "", CUSTOMER)));
        assert_eq!(
            (shown(&event).as_str(), event.subject.as_deref(), event.kind.as_deref()),
            ("recorded", Some("c1"), Some(kind))
        );
    }
    let statements = event(
        &PROVIDER,
        &reader(),
        r#"{"data":[{"id":"9","type":"statements.created","attributes":{"createdAt":"x"}}]}"#,
    );
    assert_eq!(
        (shown(&statements).as_str(), statements.subject, statements.occurred_at),
        ("recorded", None, received_at())
    );
    let odd = r#""customer":{"data":{"id":7}}"#;
    assert_eq!(meaning("card.created", "", odd), "recorded");
}

#[test]
fn a_missing_subject_is_recorded_and_a_missing_id_is_dead() {
    assert_eq!(meaning("customer.created", TAG, ""), "recorded no_subject");
    assert_eq!(meaning("account.created", TAG, r#""account":{"data":{"id":"a1"}}"#), "recorded no_subject");
    assert_eq!(meaning("account.created", TAG, CUSTOMER), "dead missing_field at /relationships/account/data/id");
    let number = r#""customer":{"data":{"id":"c1"}},"account":{"data":{"id":7}}"#;
    assert_eq!(meaning("account.created", TAG, number), "dead wrong_type at /relationships/account/data/id");
    let customer = r#""customer":{"data":{"id":7}}"#;
    assert_eq!(meaning("customer.created", TAG, customer), "dead wrong_type at /relationships/customer/data/id");
    for (id, why) in [
        ("", "missing_field"),
        (r#""id":null,"#, "missing_field"),
        (r#""id":"","#, "missing_field"),
        (r#""id":7,"#, "wrong_type"),
    ] {
        let element = format!(r#"{{{id}"type":"customer.created","relationships":{{{CUSTOMER}}}}}"#);
        let event = event(&PROVIDER, &reader(), format!(r#"{{"data":[{element}]}}"#));
        assert_eq!(shown(&event), format!("dead {why} at /id"));
        assert_eq!(event.dedup_key, DedupKey::from_bytes_of(element.as_bytes()));
        assert_eq!((event.kind.as_deref(), event.subject.as_deref()), (Some("customer.created"), Some("c1")));
    }
    assert_eq!(shown(&event(&PROVIDER, &reader(), r#"{"data":[{"id":"1"}]}"#)), "dead missing_field at /type");
    assert_eq!(shown(&event(&PROVIDER, &reader(), r#"{"data":[{"id":"1","type":{}}]}"#)), "dead wrong_type at /type");
}

#[test]
fn ids_with_nul_or_too_long_are_dead_and_nul_elsewhere_is_not() {
    let long = "x".repeat(201);
    let customer = |id: &str| format!(r#""customer":{{"data":{{"id":"{id}"}}}}"#);
    assert_eq!(meaning("customer.created", "", &customer(&long)), "dead too_long at /relationships/customer/data/id");
    assert_eq!(meaning("card.created", "", &customer("a\\u0000")), "dead has_nul at /relationships/customer/data/id");
    assert_eq!(meaning(&long, "", CUSTOMER), "dead too_long at /type");
    assert_eq!(
        meaning("customer.created", r#""tags":{"userId":"a\u0000"}"#, CUSTOMER),
        "dead has_nul at /attributes/tags"
    );
    assert_eq!(meaning("customer.created", r#""note":"a\u0000","n":1e999,"s":"\udfff""#, CUSTOMER), "c1 active");
}

#[test]
fn the_seventh_element_breaks_alone() {
    let broken: [&[u8]; 9] = [
        b"{\"id\": }",
        b"{\"id\":\"7\",\"type\":\"\xff\"}",
        b"{\"id\":\"\\ud800\",\"type\":\"x\"}",
        b"{\"id\":7,\"type\":\"x\"}",
        b"1e999",
        b"{\"id\":\"7\",\"type\":[1,2}",
        b"nope",
        b"[]",
        b"{\"id\":\"7\"}}",
    ];
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes();
    for seventh in broken.into_iter().chain([deep.as_slice()]) {
        let good = |n: usize| one("customer.created", "", CUSTOMER).replace("46306092", &n.to_string()).into_bytes();
        let elements: Vec<Vec<u8>> = (1..=10).map(|n| if n == 7 { seventh.to_vec() } else { good(n) }).collect();
        let body = [b"{ \"data\" : [ ".to_vec(), elements.join(&b" , "[..]), b" ] }".to_vec()].concat();
        let shown: Vec<String> = read(body).iter().map(shown).collect();
        assert_eq!(shown.len(), 10);
        for (index, shown) in shown.iter().enumerate() {
            assert_eq!(shown.starts_with("dead"), index == 6, "{index} {shown}");
        }
    }
}

#[test]
fn a_deeply_nested_field_that_nobody_needs_does_no_harm() {
    let deep = format!(r#""x":{}{}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(meaning("customer.created", &deep, CUSTOMER), "c1 active");
}

#[test]
fn duplicate_members_do_no_harm() {
    let body = r#"{"data":[],"data":[{"id":"1","id":"2","type":"x","type":"customer.created","relationships":{"customer":{"data":{"id":"c9"}}}}]}"#;
    let event = event(&PROVIDER, &reader(), body);
    assert_eq!((shown(&event).as_str(), event.dedup_key), ("c9 active", DedupKey::from_id("2")));
}

#[test]
fn what_is_no_batch_is_one_dead_event() {
    for body in HOSTILE.iter().map(|body| body.to_vec()).chain(deep()) {
        assert!(shown(&event(&PROVIDER, &reader(), body)).starts_with("dead"));
    }
    for body in [r#"{"data":null}"#, r#"{"data":{"id":"1"}}"#, "{}", "[]", r#"{"data":"x"}"#] {
        let event = event(&PROVIDER, &reader(), body);
        assert_eq!((shown(&event).as_str(), event.scope), ("dead wrong_shape", Scope::Body), "{body}");
    }
    assert!(read(r#"{"data":[]}"#).is_empty());
    assert!(read(r#" {"data": [ ] , "included":[]} "#).is_empty());
}

#[test]
fn included_is_in_no_event_whatever_the_body_looks_like() {
    let good = one("customer.created", TAG, CUSTOMER);
    let included = r#""included":[{"attributes":{"ssn":"123-45-6789"}}]"#;
    let bodies = [
        format!(r#"{{"data":[{good}],{included}}}"#),
        format!(r#"{{{included},"data":[{good}]}}"#),
        format!(r#"{{{included},"data":{{}}}}"#),
        format!(r#"{{"data":null,"meta":1,{included}}}"#),
        format!(r#"{{"data":[{good}],{included}"#),
        format!(r#"{{"data":[{good}],{included}}} x"#),
        format!(r#"{{"data":[{good},{{"id": }}],{included}"#),
        format!(r#"{{"data":[{good},{included}"#),
        format!(r#"{{"data":[{good},{{"id":"8",{included}}}"#),
        format!(r#"{{{included}"#),
        included.to_owned(),
    ];
    for body in bodies {
        let events = read(body.clone());
        assert!(!events.is_empty(), "{body}");
        for event in events {
            assert!(!String::from_utf8_lossy(&event.bytes).contains("123-45"), "{body}");
        }
    }
    assert_eq!(shown(&event(&PROVIDER, &reader(), format!(r#"{{"data":null,{included}}}"#))), "dead wrong_shape");
}

#[test]
fn a_truncated_batch_keeps_its_whole_elements() {
    let good = one("customer.created", "", CUSTOMER);
    let body = format!(r#"{{"data":[{good},{good}"#);
    let shown: Vec<String> = read(body[..body.len() - 3].to_owned()).iter().map(shown).collect();
    assert_eq!(shown.len(), 2);
    assert_eq!(shown[0], "c1 active");
    assert!(shown[1].starts_with("dead not_json"), "{}", shown[1]);
}

#[test]
fn a_large_batch_is_split_without_copies() {
    let good = one("transaction.created", &format!(r#""text":"{}""#, "y".repeat(14_000)), CUSTOMER);
    let body = Bytes::from(format!(r#"{{"data":[{}]}}"#, vec![good; 64].join(",")));
    let range = body.as_ptr_range();
    let events = read(body.clone());
    assert_eq!(events.len(), 64);
    assert!(events.iter().all(|event| range.contains(&event.bytes.as_ptr())));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_without_a_panic_and_read_again_alike(body in prop::collection::vec(any::<u8>(), 0..200)) {
        read(body);
    }

    #[test]
    fn mutated_batches_are_read_without_a_panic_and_read_again_alike(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), "[\\[\\]{},:\"\\\\0a ]{0,2}"), 1..4)
    ) {
        let included = r#""included":[{"ssn":"123"}]"#;
        let good = one("account.created", TAG, JOINT);
        let mut body = format!(r#"{{"data":[{good},{good},{}],{included}}}"#, one("card.created", "", CUSTOMER)).into_bytes();
        for (at, text) in cuts {
            let at = at.index(body.len());
            let end = (at + 1).min(body.len());
            body.splice(at..end, text.into_bytes());
        }
        read(body);
    }
}
