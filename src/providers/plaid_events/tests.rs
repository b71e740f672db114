//! What Plaid's events mean: every row of its table, and bodies that it would not send.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::plaid::PROVIDER;
use super::super::testing::{self, HOSTILE, deep, received_at, shown};
use super::*;
use crate::domain::{Proof, UserId};

const IAT: i64 = 1_754_377_100;

fn proof(user: Option<&str>) -> Proof {
    Proof { scheme: "es256".into(), iat: Some(IAT), user: user.map(|user| UserId(user.into())), ..Proof::default() }
}

fn read(body: impl Into<Bytes>) -> Event {
    let mut events = testing::events(&PROVIDER, &PlaidReader, body, proof(None));
    assert_eq!(events.len(), 1);
    events.remove(0)
}

fn body(kind: &str, fields: &str) -> String {
    let (family, code) = kind.split_once('.').unwrap();
    let comma = if fields.is_empty() { "" } else { "," };
    format!("{{\n  \"webhook_code\": \"{code}\",\n  \"webhook_type\": \"{family}\"{comma}{fields}\n}}")
}

fn meaning(kind: &str, fields: &str) -> String {
    shown(&read(body(kind, fields)))
}

const ITEM: &str = r#""item_id":"i1""#;

fn with(fields: &str) -> String {
    format!("{ITEM},{fields}")
}

#[test]
fn the_real_deliveries_are_touches() {
    let real: [&[u8]; 2] = [
        include_bytes!("../../../tests/vectors/plaid/01-2020-05-TRANSACTIONS-HISTORICAL_UPDATE.body"),
        include_bytes!("../../../tests/vectors/plaid/04-2023-09-INCOME-INCOME_VERIFICATION.body"),
    ];
    let events = real.map(|body| read(Bytes::from_static(body)));
    assert_eq!(shown(&events[0]), "yxQbxDjnD8hr69pKbQpbcKeVn3GL9QuyA7NV3 touch");
    assert_eq!(shown(&events[1]), "1q19XQywZ7CQN8b8PNBpUKxlmQl4yrS53KGbj touch");
    assert_eq!(events[0].kind.as_deref(), Some("TRANSACTIONS.HISTORICAL_UPDATE"));
    assert_eq!(events[0].dedup_key, DedupKey::from_signing_time(IAT, real[0]));
    assert_eq!(events[0].occurred_at, Timestamp::from_seconds(IAT).unwrap());
}

#[test]
fn an_items_state_is_the_integrations_status() {
    assert_eq!(
        meaning("ITEM.ERROR", &with(r#""error":{"error_code":"ITEM_LOGIN_REQUIRED"}"#)),
        "i1 error (ITEM_LOGIN_REQUIRED)"
    );
    for error in ["null", "{}", "\"text\"", "7", "[]", r#"{"error_code":7}"#] {
        assert_eq!(meaning("ITEM.ERROR", &with(&format!("\"error\":{error}"))), "i1 error", "{error}");
    }
    assert_eq!(meaning("ITEM.ERROR", ITEM), "i1 error");
    assert_eq!(meaning("ITEM.LOGIN_REPAIRED", ITEM), "i1 active");
    assert_eq!(
        meaning("ITEM.PENDING_EXPIRATION", &with(r#""consent_expiration_time":"2025-09-01T00:00:00Z""#)),
        "i1 expiring"
    );
    assert_eq!(
        meaning("ITEM.PENDING_DISCONNECT", &with(r#""reason":"INSTITUTION_MIGRATION""#)),
        "i1 expiring (INSTITUTION_MIGRATION)"
    );
    assert_eq!(meaning("ITEM.USER_PERMISSION_REVOKED", &with(r#""error":null"#)), "i1 revoked!!");
    assert_eq!(meaning("item.user_permission_revoked", ITEM), "i1 revoked!!");
}

#[test]
fn an_account_is_revoked_by_itself_and_not_for_good() {
    assert_eq!(meaning("ITEM.USER_ACCOUNT_REVOKED", &with(r#""account_id":"a1""#)), "i1 touch | account a1 revoked!");
}

#[test]
fn new_accounts_and_acknowledgements_touch() {
    assert_eq!(meaning("ITEM.NEW_ACCOUNTS_AVAILABLE", ITEM), "i1 touch");
    assert_eq!(meaning("ITEM.NEW_ACCOUNTS_AVAILABLE", ""), "recorded no_subject");
    assert_eq!(meaning("ITEM.WEBHOOK_UPDATE_ACKNOWLEDGED", &with(r#""new_webhook_url":"https://x""#)), "i1 touch");
}

#[test]
fn auth_verifies_accounts() {
    let account = with(r#""account_id":"a1""#);
    assert_eq!(meaning("AUTH.AUTOMATICALLY_VERIFIED", &account), "i1 touch | account a1 verified");
    assert_eq!(meaning("AUTH.VERIFICATION_EXPIRED", &account), "i1 touch | account a1 verification_expired");
    let sms = |status: &str| meaning("AUTH.SMS_MICRODEPOSITS_VERIFICATION", &format!(r#"{account},"status":{status}"#));
    assert_eq!(sms("\"MANUALLY_VERIFIED\""), "i1 touch | account a1 verified");
    assert_eq!(sms("\"VERIFICATION_FAILED\""), "i1 touch | account a1 verification_failed");
    assert_eq!(sms("\"SOMETHING\""), "i1 touch | account a1 touch");
    assert_eq!(sms("null"), "i1 touch | account a1 touch");
    assert_eq!(meaning("AUTH.AUTOMATICALLY_VERIFIED", ITEM), "dead missing_field at /account_id");
    assert_eq!(meaning("AUTH.AUTOMATICALLY_VERIFIED", &with(r#""account_id":7"#)), "dead wrong_type at /account_id");
    assert_eq!(meaning("AUTH.AUTOMATICALLY_VERIFIED", r#""account_id":"a1""#), "recorded no_subject");
}

#[test]
fn updates_touch_each_account_once_from_arrays_and_from_keys() {
    let auth = with(
        r#""account_ids_with_new_auth":["a2","a1",null,""],"account_ids_with_updated_auth":{"a1":["ACCOUNT_NUMBER"],"a3":[]}"#,
    );
    assert_eq!(
        meaning("AUTH.DEFAULT_UPDATE", &auth),
        "i1 touch | account a1 touch | account a2 touch | account a3 touch"
    );
    let liabilities =
        with(r#""account_ids_with_new_liabilities":["a1"],"account_ids_with_updated_liabilities":{"a2":["x"]}"#);
    assert_eq!(meaning("LIABILITIES.DEFAULT_UPDATE", &liabilities), "i1 touch | account a1 touch | account a2 touch");
    assert_eq!(
        meaning("IDENTITY.DEFAULT_UPDATE", &with(r#""account_ids_with_updated_identity":{"a1":["PHONES"]}"#)),
        "i1 touch | account a1 touch"
    );
    assert_eq!(
        meaning("TRANSACTIONS.RECURRING_TRANSACTIONS_UPDATE", &with(r#""account_ids":["a1","a1"]"#)),
        "i1 touch | account a1 touch"
    );
    for none in ["null", "{}", "[]", "\"a1\"", "7"] {
        assert_eq!(meaning("AUTH.DEFAULT_UPDATE", &with(&format!("\"account_ids_with_new_auth\":{none}"))), "i1 touch");
    }
    assert_eq!(
        meaning("TRANSACTIONS.RECURRING_TRANSACTIONS_UPDATE", &with(r#""account_ids":[7]"#)),
        "dead wrong_type at /account_ids"
    );
}

#[test]
fn ordinary_traffic_makes_the_integration_and_writes_no_status() {
    for kind in [
        "TRANSACTIONS.SYNC_UPDATES_AVAILABLE",
        "HOLDINGS.DEFAULT_UPDATE",
        "INVESTMENTS_TRANSACTIONS.DEFAULT_UPDATE",
        "INCOME.INCOME_VERIFICATION",
        "STATEMENTS.STATEMENTS_REFRESH_COMPLETE",
    ] {
        assert_eq!(meaning(kind, ITEM), "i1 touch");
        assert_eq!(meaning(kind, r#""account_id":"a1""#), "recorded no_subject");
    }
}

#[test]
fn everything_else_is_recorded() {
    let session = r#""link_session_id":"l","link_token":"t","public_tokens":["p"],"status":"success""#;
    assert_eq!(meaning("LINK.SESSION_FINISHED", session), "recorded");
    assert_eq!(meaning("LINK.ITEM_ADD_RESULT", session), "recorded");
    for kind in [
        "TRANSFER.TRANSFER_EVENTS_UPDATE",
        "ASSETS.PRODUCT_READY",
        "AUTH.BRAND_NEW",
        "ITEM.BRAND_NEW",
        "TRANSACTIONSX.Y",
    ] {
        let event = read(body(kind, ITEM));
        assert_eq!(
            (shown(&event).as_str(), event.subject.as_deref(), event.kind.as_deref()),
            ("recorded", Some("i1"), Some(kind))
        );
    }
    assert_eq!(meaning("TRANSFER.X", r#""item_id":7"#), "recorded");
}

#[test]
fn a_bound_url_claims_what_applies_and_nothing_else() {
    let bound = |kind: &str, fields: &str| {
        let events = testing::events(&PROVIDER, &PlaidReader, body(kind, fields), proof(Some("u9")));
        events.iter().map(shown).collect::<String>()
    };
    assert_eq!(bound("ITEM.LOGIN_REPAIRED", ITEM), "i1 active=u9@3");
    assert_eq!(
        bound("AUTH.AUTOMATICALLY_VERIFIED", &with(r#""account_id":"a1""#)),
        "i1 touch=u9@3 | account a1 verified"
    );
    assert_eq!(bound("TRANSACTIONS.X", ITEM), "i1 touch=u9@3");
    assert_eq!(bound("ASSETS.PRODUCT_READY", ITEM), "recorded");
}

#[test]
fn a_bad_kind_or_subject_is_dead() {
    assert_eq!(shown(&read(format!("{{{ITEM}}}"))), "dead missing_field at /webhook_type");
    assert_eq!(shown(&read(r#"{"webhook_type":"ITEM","item_id":"i1"}"#)), "dead missing_field at /webhook_code");
    assert_eq!(shown(&read(r#"{"webhook_type":"ITEM","webhook_code":7}"#)), "dead wrong_type at /webhook_code");
    assert_eq!(meaning("ITEM.ERROR", r#""item_id":7"#), "dead wrong_type at /item_id");
    assert_eq!(meaning("ITEM.ERROR", r#""item_id":"a\u0000""#), "dead has_nul at /item_id");
    assert_eq!(meaning("ITEM.ERROR", &format!(r#""item_id":"{}""#, "x".repeat(201))), "dead too_long at /item_id");
    assert_eq!(meaning(&format!("ITEM.{}", "x".repeat(199)), ITEM), "dead too_long at /webhook_code");
    let dead = read(body("AUTH.AUTOMATICALLY_VERIFIED", ITEM));
    assert_eq!((dead.kind.as_deref(), dead.subject.as_deref()), (Some("AUTH.AUTOMATICALLY_VERIFIED"), Some("i1")));
    assert_eq!(
        meaning("ITEM.ERROR", &with(r#""x":"\u0000","n":1e999,"error":{"error_code":"a\u0000"}"#)),
        "i1 error (a\u{fffd})"
    );
}

#[test]
fn a_body_that_is_no_object_is_one_dead_event_under_its_own_key() {
    for bytes in HOSTILE.iter().map(|body| body.to_vec()).chain(deep()).chain([b"[]".to_vec()]) {
        let event = read(bytes.clone());
        assert!(shown(&event).starts_with("dead"));
        assert_eq!(event.dedup_key, DedupKey::from_signing_time(IAT, &bytes));
    }
    assert_eq!((shown(&read("[]")).as_str(), read("[]").scope), ("dead wrong_shape", Scope::Body));
}

#[test]
fn white_space_is_part_of_what_was_signed() {
    let bytes = format!(" {}\n", body("ITEM.LOGIN_REPAIRED", ITEM));
    let event = read(bytes.clone());
    assert_eq!(event.bytes, bytes);
    assert_eq!(event.dedup_key, DedupKey::from_signing_time(IAT, bytes.as_bytes()));
}

#[test]
fn without_a_proof_the_time_is_the_receipt() {
    let events = testing::events(&PROVIDER, &PlaidReader, body("ITEM.ERROR", ITEM), Proof::default());
    assert_eq!(events[0].occurred_at, received_at());
}

proptest! {
    #[test]
    fn arbitrary_and_mutated_bodies_are_read_without_a_panic_and_read_again_alike(
        noise in prop::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(), text in "[\\[\\]{},:\"\\\\0a]{0,3}"
    ) {
        testing::events(&PROVIDER, &PlaidReader, noise, proof(Some("u")));
        let auth = with(r#""account_ids_with_new_auth":["a2","a1"],"account_ids_with_updated_auth":{"a1":[]}"#);
        let mut body = body("AUTH.DEFAULT_UPDATE", &auth).into_bytes();
        let at = at.index(body.len());
        body.splice(at..=at, text.into_bytes());
        testing::events(&PROVIDER, &PlaidReader, body, proof(None));
    }
}
