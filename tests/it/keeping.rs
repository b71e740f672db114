//! What is stored of a delivery is what reading it needs, and nothing else that stood in it.

use finhook::domain::{Proof, UserId};
use finhook::fixtures;
use finhook::providers;
use finhook::store::{Arriving, StoredEvent};
use serde_json::json;
use uuid::Uuid;

use crate::app::{TestApp, noon};

/// What no interpretation reads, in every place where a provider could put it.
const PRIVATE: [&str; 6] =
    ["721-07-4426", "refresh-7787", "Marker Street 7786", "Ada Private", "passport.png", "10.20.30.40"];

fn stored(arriving: &Arriving) -> StoredEvent {
    StoredEvent {
        id: Uuid::now_v7(),
        provider: arriving.event.provider.as_str().to_owned(),
        dedup_key: arriving.event.dedup_key.clone(),
        attempts: 0,
        payload: arriving.payload.bytes().to_vec(),
    }
}

fn arriving(app: &TestApp, provider: &str, body: &str) -> Vec<Arriving> {
    let proof = Proof { iat: Some(noon().seconds()), user: Some(UserId("u_1".to_owned())), ..Proof::default() };
    let provider = providers::find(provider).unwrap();
    app.desk.events_of(&providers::unproved(provider, noon(), proof, body.to_owned().into()))
}

#[tokio::test]
async fn every_fixture_reads_the_same_from_what_is_kept_of_it() {
    let app = TestApp::embedded().await;
    let (mut read, mut cut) = (0, 0);
    for case in fixtures::all().unwrap() {
        for body in &case.bodies {
            let text = String::from_utf8_lossy(&body.bytes).into_owned();
            for whole in arriving(&app, &case.provider, &text) {
                let stored = stored(&whole);
                let again = app.desk.again(&stored).unwrap_or_else(|cause| panic!("{}: {cause:?}", case.name));
                assert_eq!(format!("{:?}", again.event), format!("{:?}", whole.event), "{}", case.name);
                assert_eq!(again.event.meaning, whole.event.meaning, "{}", case.name);
                read += 1;
                cut += usize::from(app.desk.open(&stored).unwrap().bytes.len() < text.len());
            }
        }
    }
    assert!(read > 100 && cut > 50, "{read} events, {cut} of them cut");
}

#[tokio::test]
async fn what_nothing_reads_is_not_kept() {
    let app = TestApp::embedded().await;
    let [ssn, token, street, name, document, address] = PRIVATE;
    let customer = json!({ "customer": { "data": { "id": "c1", "type": "individualCustomer" } } });
    let person = json!({ "ssn": ssn, "address": { "street": street }, "fullName": { "first": name } });
    let synapse = json!({
        "refresh_token": token, "documents": [{ "name": name, "physical_docs": [document] }], "permission": "SEND",
        "legal_names": [name], "logins": [{ "ip": address }], "extra": { "supp_id": "u_1", "note": ssn },
    });
    let mut nested = json!({ "_id": { "$oid": "s1" }, "webhook_meta": { "function": "USERS|POST", "log_id": "l1", "updated_by": name } });
    nested["_rest"] = synapse.clone();
    let mut flat = synapse;
    flat["_id"] = json!({ "$oid": "s1" });
    flat["webhook_meta"] = json!({ "function": "USERS|PATCH" });
    let mut unread = nested.clone();
    unread["webhook_meta"] = json!({ "function": 7 });
    for (key, value) in [("fullname", name), ("ssn", ssn), ("ip", address)] {
        unread["_rest"].as_object_mut().unwrap().remove("legal_names");
        unread["_rest"][key] = json!(value);
    }
    let bodies = [
        (
            "unit",
            json!({ "data": [{ "id": "1", "type": "customer.created", "attributes": person, "relationships": customer }], "included": [person] }),
        ),
        ("unit", json!({ "data": [{ "id": "2", "type": "new.kind", "attributes": person, "ssn": ssn }] })),
        (
            "plaid",
            json!({ "webhook_type": "ITEM", "webhook_code": "ERROR", "item_id": "i1", "error": { "error_code": "X", "display_message": name }, "owner": person }),
        ),
        ("plaid", json!({ "webhook_type": "LINK", "webhook_code": "SESSION_FINISHED", "public_tokens": [token] })),
        ("synapse", nested),
        ("synapse", flat),
        (
            "auth0",
            json!({ "log_id": "a1", "data": { "type": "fp", "ip": address, "user_agent": name, "details": { "ssn": ssn, "body": { "street": street } } } }),
        ),
        (
            "auth0",
            json!({ "specversion": "1.0", "id": "a2", "type": "user.created", "data": { "object": { "user_id": "auth0|1", "given_name": name, "app_metadata": { "ssn": ssn } } } }),
        ),
    ];
    let kept = |provider: &str, body: &serde_json::Value| {
        let events = arriving(&app, provider, &body.to_string());
        events.iter().map(|event| app.desk.open(&stored(event)).unwrap()).collect::<Vec<_>>()
    };
    for (provider, body) in &bodies {
        for delivery in kept(provider, body) {
            let text = String::from_utf8_lossy(&delivery.bytes);
            let found = PRIVATE.iter().find(|private| text.contains(**private));
            assert_eq!(found, None, "{provider}: {text}");
            assert!(!text.is_empty());
        }
    }
    // What cannot be read waits for a person as it came, but for what nobody will ever need.
    let [delivery] = &kept("synapse", &unread)[..] else { panic!("one event") };
    let text = String::from_utf8_lossy(&delivery.bytes);
    assert!(text.contains(name) && !text.contains(token) && !text.contains(document), "{text}");
}
