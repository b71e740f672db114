//! What the product's back end asks and tells: users, integrations, accounts.

use super::*;

const ACCOUNT: &str = "unit/account.created.tagged";

#[tokio::test]
async fn a_user_is_made_once_and_keeps_the_products_address() {
    for ground in Ground::both("a_user_is_made_once_and_keeps_the_products_address").await {
        let served = ground.finhook.serve(&[]);
        let port = Port::of(&served);
        let put =
            |id: &str, body: Value| port.request(Method::PUT, &format!("/v1/users/{id}")).bearer_auth(APP).json(&body);
        problem(port.get("/v1/users/u_1").bearer_auth(APP), 404).await;
        let made = answered(put("u_1", json!({})), 201).await;
        assert_eq!((&made["external_id"], &made["email"]), (&json!("u_1"), &Value::Null));
        let given = ok(put("u_1", json!({ "email": "ada@example.com" }))).await;
        assert_eq!((&given["id"], &given["email"]), (&made["id"], &json!("ada@example.com")));
        for again in [json!({ "email": "ada@example.com" }), json!({}), json!({ "email": null })] {
            assert_eq!(ok(put("u_1", again)).await, given);
        }
        assert_eq!(port.app("/v1/users/u_1").await, given);
        let odd = "auth0|a b/c%é";
        let path = "auth0%7Ca%20b%2Fc%25%C3%A9";
        assert_eq!(answered(put(path, json!({ "email": "b@example.com" })), 201).await["external_id"], json!(odd));
        for (body, pointer) in [
            (json!({ "email": "nobody" }), "/email"),
            (json!({ "email": 7 }), "/email"),
            (json!({ "external_id": "u_2" }), ""),
        ] {
            let (_, problem) = problem(put("u_1", body), 422).await;
            assert_eq!(problem["errors"][0]["pointer"], json!(pointer), "{problem}");
        }
        problem(put(&"u".repeat(201), json!({})), 400).await;
        problem(put("%00", json!({})), 400).await;
        problem(put("%FF", json!({})), 400).await;
        answered(put("u_gone", json!({})), 201).await;
        ground.finhook.run(&["forget", "--user", "u_gone", "--yes"]).exits(0);
        let mint = port.request(Method::POST, "/v1/users/u_gone/webhook-url").bearer_auth(APP);
        let link = port.request(Method::PUT, "/v1/integrations/plaid/item").bearer_auth(APP);
        for refused in [put("u_gone", json!({})), mint, link.json(&json!({ "user": "u_gone" }))] {
            assert_eq!(problem(refused, 409).await.0, "conflict", "who was forgotten stays so");
        }
        problem(port.get("/v1/users/u_gone").bearer_auth(APP), 404).await;
        let (status, log) = served.terminate();
        assert!(status.success() && !log.contains("ada@example.com"), "{log}");
        let trail = ground.finhook.run(&["audit", "list", "--act", "user", "--json"]).exits(0).json_lines();
        assert_eq!(trail.len(), 4, "only what changes something is an act: {trail:?}");
    }
}

#[tokio::test]
async fn a_link_is_told_once_applies_what_waited_and_keeps_its_token_sealed() {
    const SECRET: &str = "access-sandbox-s3cret";
    for ground in Ground::both("a_link_is_told_once_applies_what_waited_and_keeps_its_token_sealed").await {
        let served = ground.finhook.serve(&[]);
        let port = Port::of(&served);
        ground.play(&served, &port, &["unit/customer.created.without-tag"], 1).await;
        let event = port.ops("/v1/events").await["events"][0].clone();
        let (subject, waited) = (event["subject"].as_str().unwrap(), event["state"] == "unlinked");
        let path = format!("/v1/integrations/unit/{subject}");
        let put = |body: Value| port.request(Method::PUT, &path).bearer_auth(APP).json(&body);
        let body = json!({ "user": "u_42", "email": "ada@example.com", "authorization_id": SECRET });
        let first = put(body.clone()).send().await.unwrap();
        assert_eq!(first.status().as_u16(), if waited { 201 } else { 200 });
        let first: Value = first.json().await.unwrap();
        assert_eq!((&first["changed"], &first["applied_events"]), (&json!(true), &json!(u64::from(waited))));
        let integration = &first["integration"];
        assert_eq!((&integration["user"], &integration["has_authorization_id"]), (&json!("u_42"), &json!(true)));
        assert!(!first.to_string().contains(SECRET));
        let again = ok(put(body.clone())).await;
        assert_eq!((&again["changed"], &again["integration"]), (&json!(false), integration));
        assert_eq!(ok(put(json!({ "user": "u_42" }))).await["changed"], json!(false));

        assert_eq!(&port.app(&path).await, integration);
        let revealed = port.app(&format!("{path}?reveal=true&reason=case%201234")).await;
        assert_eq!(revealed["authorization_id"], json!(SECRET));
        let (_, problem_) = problem(port.get(&format!("{path}?reveal=true")).bearer_auth(APP), 403).await;
        assert_eq!(problem_["errors"][0]["parameter"], json!("reason"));
        problem(port.get(&format!("{path}?reveal=maybe")).bearer_auth(APP), 400).await;
        problem(port.get(&format!("{path}?reveal=true&reason=a%0Ab")).bearer_auth(APP), 400).await;
        let moved = ok(put(json!({ "user": "u_43" }))).await;
        assert_eq!((&moved["changed"], &moved["integration"]["user"]), (&json!(true), &json!("u_43")));
        assert_eq!(port.app("/v1/users/u_42/integrations").await, json!({ "integrations": [] }));
        let theirs = port.app("/v1/users/u_43/integrations").await;
        assert_eq!(theirs["integrations"][0]["external_id"], json!(subject));
        problem(port.request(Method::PUT, "/v1/integrations/stripe/x").bearer_auth(APP).json(&body), 404).await;
        for (body, pointer) in [
            (json!({ "email": "a@example.com" }), ""),
            (json!({ "user": "" }), "/user"),
            (json!({ "user": "u", "authorization_id": "" }), "/authorization_id"),
            (json!({ "user": "u", "authorization_id": [SECRET] }), "/authorization_id"),
        ] {
            let (_, problem) = problem(put(body), 422).await;
            assert_eq!(problem["errors"][0]["pointer"], json!(pointer), "{problem}");
            assert!(!problem.to_string().contains(SECRET));
        }
        let (status, log) = served.terminate();
        assert!(status.success() && !log.contains(SECRET) && !log.contains("ada@example.com"), "{log}");
        let trail = ground.finhook.run(&["audit", "list", "--json"]).exits(0).json_lines();
        let acts: Vec<&str> = trail.iter().rev().map(|row| row["act"].as_str().unwrap()).collect();
        assert_eq!(acts, ["link", "reveal", "link"], "{trail:?}");
        assert_eq!(trail[1]["reason"], json!("case 1234"));
    }
}

#[tokio::test]
async fn accounts_are_listed_and_opened_only_with_a_reason() {
    for ground in Ground::both("accounts_are_listed_and_opened_only_with_a_reason").await {
        let served = ground.finhook.serve(&[]);
        let port = Port::of(&served);
        ground.play(&served, &port, &[ACCOUNT], 1).await;
        let case = &finhook::fixtures::select(ACCOUNT).unwrap()[0];
        let expected = &case.expect.as_ref().unwrap().accounts[0];
        let user = {
            let event = port.ops("/v1/events").await["events"][0].clone();
            let path = format!("/v1/integrations/unit/{}", event["subject"].as_str().unwrap());
            port.app(&path).await["user"].as_str().unwrap().to_owned()
        };
        let path = format!("/v1/users/{user}/accounts");
        let sealed = port.app(&path).await;
        let [account] = &sealed["accounts"].as_array().unwrap()[..] else { panic!("{sealed}") };
        assert!(account.get("external_id").is_none() && account["service"] == "unit", "{account}");
        let opened = port.app(&format!("{path}?reveal=true&reason=case%201234")).await;
        assert_eq!(opened["accounts"][0]["external_id"], json!(expected.external_id));
        problem(port.get(&format!("{path}?reveal=true")).bearer_auth(APP), 403).await;
        problem(port.get("/v1/users/nobody/accounts").bearer_auth(APP), 404).await;
        problem(port.get("/v1/users/nobody/integrations").bearer_auth(APP), 404).await;
        let trail = ground.finhook.run(&["audit", "list", "--json"]).exits(0).json_lines();
        let [row] = &trail[..] else { panic!("{trail:?}") };
        assert_eq!((&row["act"], &row["reason"]), (&json!("reveal"), &json!("case 1234")));
        assert!(row["actor"].as_str().unwrap().starts_with("app:"));
        assert!(served.terminate().0.success());
    }
}

#[tokio::test]
async fn a_minted_webhook_url_binds_its_user() {
    for ground in Ground::both("a_minted_webhook_url_binds_its_user").await {
        let served = ground.finhook.serve(&[]);
        let port = Port::of(&served);
        let mint = || port.request(Method::POST, "/v1/users/u_42/webhook-url").bearer_auth(APP);
        let minted = ok(mint()).await;
        let path = minted["path"].as_str().unwrap();
        assert!(path.starts_with("/webhooks/plaid/") && minted["user"] == "u_42", "{minted}");
        let keys = ground.finhook.setting("FINHOOK_URL_KEYS");
        let keys = finhook::crypto::UrlKeys::parse(&[keys.into()]).unwrap().unwrap();
        assert_eq!(keys.open(path.rsplit('/').next().unwrap()).unwrap().as_str(), "u_42");
        let (status, log) = served.terminate();
        assert!(status.success() && !log.contains(path), "{log}");
    }
}
