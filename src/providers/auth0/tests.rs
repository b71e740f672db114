//! Auth0: its tokens, both of its products, and every way in which a body can carry them.

use proptest::prelude::*;

use super::super::testing::{self, HOSTILE, deep, event, headers, received_at, setup, shown, values, verify};
use super::*;

fn read(body: impl Into<Bytes>) -> Vec<Event> {
    testing::events(&PROVIDER, &Auth0Reader, body, Proof::default())
}

fn all(body: impl Into<Bytes>) -> Vec<String> {
    read(body).iter().map(shown).collect()
}

/// One log entry.
fn log(id: &str, kind: &str, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    format!(r#"{{"log_id":"{id}","data":{{"date":"2025-08-05T06:00:00.000Z","type":"{kind}"{comma}{fields}}}}}"#)
}

/// One CloudEvent.
fn cloud(kind: &str, object: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"evt_1","source":"urn:auth0","type":"{kind}","time":"2025-08-05T06:00:00.000Z","data":{{"object":{object}}}}}"#
    )
}

fn meaning(body: String) -> String {
    shown(&event(&PROVIDER, &Auth0Reader, body))
}

fn derived(user_id: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("auth0:{user_id}").as_bytes()).to_string()
}

const USER: &str = r#""user_id":"auth0|1""#;

#[test]
fn the_whole_value_is_the_token_with_or_without_bearer() {
    let verifier = Auth0::new(&[SecretString::from("old"), SecretString::from("Secret-1")]);
    let check = |value: &[u8]| {
        let headers = headers(&[("AUTHORIZATION", value)]);
        verify(&verifier, &headers, b"", None, received_at()).map(|it| it.proof().scheme.clone())
    };
    for right in ["old", "Secret-1", "Bearer Secret-1", "Bearer old"] {
        assert_eq!(check(right.as_bytes()), Ok("token".into()), "{right}");
    }
    for wrong in [
        "",
        "Secret",
        "Secret-11",
        "secret-1",
        "bearer Secret-1",
        "Bearer  Secret-1",
        "Bearer",
        "Basic Secret-1",
        "Bearer Bearer Secret-1",
    ] {
        assert_eq!(check(wrong.as_bytes()), Err(Refusal::Mismatch), "{wrong}");
    }
    assert_eq!(check(b"Secret-1\xff"), Err(Refusal::Malformed));
    let right = b"Secret-1";
    for at in 0..right.len() {
        for byte in (b'!'..=b'~').filter(|byte| *byte != right[at]) {
            let mut mutated = right.to_vec();
            mutated[at] = byte;
            assert_eq!(check(&mutated), Err(Refusal::Mismatch));
        }
    }
    let twice = headers(&[("authorization", b"old"), ("authorization", b"old")]);
    assert_eq!(verify(&verifier, &twice, b"", None, received_at()).err(), Some(Refusal::Malformed));
    assert_eq!(verify(&verifier, &headers(&[]), b"", None, received_at()).err(), Some(Refusal::Missing));
}

#[test]
fn settings_make_a_verifier_that_accepts_what_the_signer_signs() {
    let settings = values(&[(TOKENS, "one,two")]);
    let signed = (PROVIDER.signer)(&setup(&settings, None)).unwrap().unwrap().sign(b"x", received_at());
    assert!(signed[0].1.is_sensitive());
    let verifier = (PROVIDER.verifier)(&setup(&settings, None)).unwrap().unwrap();
    assert!(verify(verifier.as_ref(), &signed.into_iter().collect(), b"x", None, received_at()).is_ok());
    assert!((PROVIDER.verifier)(&setup(&values(&[]), None)).unwrap().is_none());
    let error = (PROVIDER.verifier)(&setup(&values(&[(TOKENS, "fine,n\u{e9}")]), None)).err().unwrap();
    assert_eq!((error.name.as_str(), error.problem.contains("entry 2")), (TOKENS, true));
    assert_eq!((PROVIDER.development)().len(), 1);
}

#[test]
fn a_sign_up_makes_an_integration_with_its_owner_and_address() {
    let me = derived("auth0|1");
    assert_eq!(
        meaning(log("1", "ss", &format!(r#"{USER},"user_name":"a@b.co""#))),
        format!("auth0|1 active={me}@1 <a@b.co> false")
    );
    assert_eq!(
        meaning(log("1", "ss", &format!(r#"{USER},"user_name":"ada","email":"a@b.co""#))),
        format!("auth0|1 active={me}@1 <a@b.co> false")
    );
    assert_eq!(
        meaning(log("1", "ss", &format!(r#"{USER},"user_name":"a***@b.co""#))),
        format!("auth0|1 active={me}@1")
    );
    assert_eq!(meaning(log("1", "ss", r#""user_name":"a@b.co""#)), "recorded no_subject");
    for kind in ["user.created", "com.auth0.user.created"] {
        let stated =
            format!(r#"{{{USER},"email":"a@b.co","email_verified":true,"app_metadata":{{"external_user_id":"o1"}}}}"#);
        assert_eq!(meaning(cloud(kind, &stated)), "auth0|1 active=o1@2 <a@b.co> true");
        assert_eq!(meaning(cloud(kind, &format!("{{{USER}}}"))), format!("auth0|1 active={me}@1"));
        assert_eq!(
            meaning(cloud(kind, &format!(r#"{{{USER},"email":"a@b.co","app_metadata":{{"external_user_id":" "}}}}"#))),
            format!("auth0|1 active={me}@1 <a@b.co> false")
        );
    }
}

#[test]
fn an_update_touches() {
    let stated =
        format!(r#"{{{USER},"email":"a@b.co","email_verified":false,"app_metadata":{{"external_user_id":"o1"}}}}"#);
    assert_eq!(meaning(cloud("user.updated", &stated)), "auth0|1 touch=o1@2 <a@b.co> false");
    assert_eq!(meaning(cloud("user.updated", &format!("{{{USER}}}"))), "auth0|1 touch");
}

#[test]
fn a_login_and_a_verified_address_touch_with_the_derived_owner() {
    let me = derived("auth0|1");
    assert_eq!(meaning(log("1", "s", &format!(r#"{USER},"user_name":"a@b.co""#))), format!("auth0|1 touch={me}@1"));
    assert_eq!(meaning(log("1", "s", "")), "recorded no_subject");
    assert_eq!(meaning(log("1", "s", r#""user_id":"""#)), "recorded no_subject");
    for address in [
        r#""user_name":"a@b.co""#,
        r#""email":"a@b.co""#,
        r#""details":{"email":"a@b.co"}"#,
        r#""user_name":"ada","details":{"body":{"email":"a@b.co"}}"#,
    ] {
        assert_eq!(
            meaning(log("1", "sv", &format!("{USER},{address}"))),
            format!("auth0|1 touch={me}@1 <a@b.co> true"),
            "{address}"
        );
    }
    assert_eq!(meaning(log("1", "sv", &format!(r#"{USER},"details":"none""#))), format!("auth0|1 touch={me}@1"));
}

#[test]
fn a_deleted_user_is_deleted_for_good() {
    assert_eq!(meaning(log("1", "sdu", USER)), "auth0|1 deleted!!");
    assert_eq!(meaning(cloud("user.deleted", &format!("{{{USER}}}"))), "auth0|1 deleted!!");
    assert_eq!(meaning(log("1", "sdu", "")), "recorded no_subject");
}

#[test]
fn everything_else_is_recorded() {
    for kind in ["sce", "f", "fp", "scp", "limit_wc", "brand_new"] {
        let event = event(&PROVIDER, &Auth0Reader, log("1", kind, USER));
        assert_eq!((shown(&event).as_str(), event.subject.as_deref()), ("recorded", Some("auth0|1")));
    }
    let administrator = event(&PROVIDER, &Auth0Reader, log("1", "sapi", USER));
    assert_eq!((shown(&administrator).as_str(), administrator.subject), ("recorded", None));
    for kind in ["organization.created", "group.member.added", "user.new"] {
        assert_eq!(meaning(cloud(kind, "{}")), "recorded");
    }
    assert_eq!(meaning(log("1", "sce", r#""user_id":7"#)), "recorded");
}

#[test]
fn logs_come_as_lines_as_an_array_under_logs_or_alone() {
    let (one, two) = (log("1", "sce", USER), log("2", "f", ""));
    let bodies = [
        format!("{one}\n{two}\n"),
        format!("\r\n{one}\r\n\r\n{two}"),
        format!(" [{one} ,\n {two}] "),
        format!(r#"{{"logs":[{one},{two}]}}"#),
    ];
    for body in bodies {
        let keys: Vec<DedupKey> = read(body.clone()).into_iter().map(|event| event.dedup_key).collect();
        assert_eq!(keys, [DedupKey::from_id("1"), DedupKey::from_id("2")], "{body}");
    }
    let pretty = "{\n  \"log_id\": \"1\",\n  \"data\": {\n    \"type\": \"sce\"\n  }\n}\n";
    let alone = event(&PROVIDER, &Auth0Reader, pretty);
    assert_eq!(
        (shown(&alone).as_str(), alone.dedup_key, alone.scope),
        ("recorded", DedupKey::from_id("1"), Scope::Element)
    );
    assert!(read("[]").is_empty() && read(r#"{"logs":[]}"#).is_empty());
    assert_eq!(event(&PROVIDER, &Auth0Reader, one).occurred_at, Timestamp::parse("2025-08-05T06:00:00Z").unwrap());
    assert_eq!(
        event(&PROVIDER, &Auth0Reader, r#"{"log_id":"1","data":{"type":"x","date":7}}"#).occurred_at,
        received_at()
    );
}

#[test]
fn one_bad_line_or_element_is_one_dead_event() {
    let good = log("1", "sce", USER);
    let broken = [
        "{\"log_id\": }",
        "garbage",
        "{\"log_id\":\"2\",\"da",
        "[]",
        "7",
        "{\"log_id\":7,\"data\":{\"type\":\"s\"}}",
        "{\"log_id\":\"\\ud800\",\"data\":{\"type\":\"s\"}}",
    ];
    for bad in broken {
        let shown = all(format!("{good}\n{bad}\n{good}"));
        assert_eq!(shown.iter().map(|it| it.starts_with("dead")).collect::<Vec<_>>(), [false, true, false], "{bad}");
        assert_eq!(all(format!("{bad}\n{good}")).len(), 2, "{bad}");
    }
    for bad in ["{\"log_id\": }", "garbage", "[]", "7"] {
        for body in [format!("[{good},{bad},{good}]"), format!(r#"{{"logs":[{good},{bad},{good}]}}"#)] {
            let shown = all(body);
            assert_eq!(
                shown.iter().map(|it| it.starts_with("dead")).collect::<Vec<_>>(),
                [false, true, false],
                "{bad}"
            );
        }
    }
    let mut bytes = format!("{good}\n").into_bytes();
    bytes.extend_from_slice(b"{\"log_id\":\"\xff\"}\n");
    assert_eq!(all(bytes)[1], "dead not_utf8 at byte 11");
    assert_eq!(all("{\"log_id\": }\n{\"log_id\": }\n").len(), 2);
    assert_eq!(all("{\n\"log_id\": \n}\n").len(), 1);
}

#[test]
fn only_the_id_and_the_kind_are_required() {
    assert_eq!(meaning(r#"{"log_id":"1","data":{"type":"s"}}"#.into()), "recorded no_subject");
    assert_eq!(meaning(r#"{"data":{"type":"s"}}"#.into()), "dead missing_field at /log_id");
    assert_eq!(meaning(r#"{"log_id":"1","data":{}}"#.into()), "dead missing_field at /data/type");
    assert_eq!(meaning(r#"{"log_id":"1","data":"x"}"#.into()), "dead missing_field at /data/type");
    assert_eq!(meaning(r#"{"specversion":"1.0","type":"user.created"}"#.into()), "dead missing_field at /id");
    assert_eq!(meaning(r#"{"specversion":"1.0","id":"1"}"#.into()), "dead missing_field at /type");
    assert_eq!(meaning(log("1", "s", r#""user_id":7"#)), "dead wrong_type at /data/user_id");
    assert_eq!(
        meaning(log("1", "f", &format!(r#""user_id":"{}""#, "x".repeat(201)))),
        "dead too_long at /data/user_id"
    );
    let dead = event(&PROVIDER, &Auth0Reader, log("a\\u0000", "ss", USER));
    assert_eq!(
        (shown(&dead).as_str(), dead.kind.as_deref(), dead.subject.as_deref()),
        ("dead has_nul at /log_id", Some("ss"), Some("auth0|1"))
    );
    assert_eq!(meaning(log("1", "sce", r#""description":"a\u0000","n":1e999,"client_id":7"#)), "recorded");
}

#[test]
fn what_is_no_log_is_one_dead_event() {
    for body in HOSTILE.iter().map(|body| body.to_vec()).chain(deep()) {
        let shown = all(body.clone());
        assert_eq!(shown.len(), 1, "{:?}", String::from_utf8_lossy(&body[..body.len().min(40)]));
        assert!(shown[0].starts_with("dead"));
    }
    assert_eq!(all("{}\n{}"), ["dead missing_field at /log_id", "dead missing_field at /log_id"]);
}

#[test]
fn duplicate_members_do_no_harm() {
    assert_eq!(
        meaning(format!(r#"{{"log_id":"0","log_id":"1","data":null,"data":{{"type":"x","type":"sdu",{USER}}}}}"#)),
        "auth0|1 deleted!!"
    );
}

proptest! {
    #[test]
    fn arbitrary_and_mutated_bodies_are_read_without_a_panic_and_read_again_alike(
        noise in prop::collection::vec(any::<u8>(), 0..120),
        form in 0..4_usize,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), "[\\[\\]{},:\"\\\\0a\n]{0,3}"), 1..4)
    ) {
        read(noise);
        let (one, two) = (log("1", "ss", USER), cloud("user.created", "{\"user_id\":\"u\"}"));
        let mut body = match form {
            0 => format!("{one}\n{two}\n"),
            1 => format!("[{one},{two}]"),
            2 => format!(r#"{{"logs":[{one},{two}]}}"#),
            _ => two,
        }.into_bytes();
        for (at, text) in cuts {
            let at = at.index(body.len());
            let end = (at + 1).min(body.len());
            body.splice(at..end, text.into_bytes());
        }
        read(body);
    }
}
