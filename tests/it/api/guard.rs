//! Who is not let in reads nothing and changes nothing, on every route that the document has.

use std::collections::BTreeSet;

use super::*;

/// One operation of the document, ready to be asked.
struct Operation {
    method: Method,
    path: String,
    roles: Vec<String>,
    body: Option<Value>,
}

/// Every operation but the one that logs in; path parameters are things that are there.
fn operations(document: &Value, event: &str, subject: &str) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if (path.as_str(), method.as_str()) == ("/session", "post") {
                assert_eq!(operation["security"], json!([]));
                continue;
            }
            let security = operation["security"].as_array().unwrap();
            assert_eq!(security.len(), 2, "{method} {path} says how one is let in");
            let roles = security[0]["bearer"].as_array().unwrap();
            assert_eq!(security[1]["session"].as_array().unwrap(), roles);
            let id = if path.contains("/events/") { event } else { "u_kept" };
            let filled = path.replace("{id}", id).replace("{service}", "unit").replace("{external_id}", subject);
            assert!(!filled.contains('{'), "{path}: a parameter that this test does not know");
            let body = operation.get("requestBody").map(|_| {
                if path.contains("/integrations/") {
                    json!({ "user": "u_new", "authorization_id": "s3cret" })
                } else if path.contains("/users/") {
                    json!({ "email": "new@example.com" })
                } else {
                    json!({ "filter": {} })
                }
            });
            all.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: filled,
                roles: roles.iter().map(|role| role.as_str().unwrap().to_owned()).collect(),
                body,
            });
        }
    }
    all
}

#[tokio::test]
async fn who_has_no_credential_or_another_role_reads_nothing_and_changes_nothing() {
    for ground in Ground::both("who_has_no_credential_or_another_role_reads_nothing_and_changes_nothing").await {
        let served = ground.finhook.serve(&[]);
        let port = Port::of(&served);
        ground.play(&served, &port, &["unit/account.created.tagged"], 1).await;
        ground.play(&served, &port, &["unit/recorded.card.activated", "--set", "id="], 2).await;
        answered(port.request(Method::PUT, "/v1/users/u_kept").bearer_auth(APP).json(&json!({})), 201).await;
        let account = port.ops("/v1/events?state=applied").await["events"][0].clone();
        let (event, subject) = (account["id"].as_str().unwrap(), account["subject"].as_str().unwrap());
        let document = port.ops("/openapi.json").await;
        let all = operations(&document, event, subject);
        assert!(all.len() >= 15, "{}", all.len());
        let log_in = port.request(Method::POST, "/session").json(&json!({ "token": OPS })).send().await.unwrap();
        let session = cookie(&log_in).split(';').next().unwrap().to_owned();

        let state = async || {
            let integration = port.app(&format!("/v1/integrations/unit/{subject}")).await;
            let user = port.app("/v1/users/u_kept").await;
            let trail = ground.finhook.run(&["audit", "list", "--json"]).exits(0).out;
            (port.ops("/v1/events").await, integration, user, trail)
        };
        let before = state().await;
        for it in &all {
            let ask = || {
                let request = port.request(it.method.clone(), &it.path);
                match &it.body {
                    Some(body) => request.json(body),
                    None => request,
                }
            };
            let what = format!("{} {}", it.method, it.path);
            let garbled = format!("{}x", &session[..session.len() - 1]);
            let mut refused = vec![
                (ask(), 401),
                (ask().bearer_auth("nobodys"), 401),
                (ask().bearer_auth(""), 401),
                (ask().basic_auth("ops", Some(OPS)), 401),
                (ask().header("authorization", OPS), 401),
                (ask().header("cookie", &garbled), 401),
                (ask().header("cookie", format!("finhook_session={OPS}")), 401),
                (ask().header("host", "localhost"), 401),
            ];
            let others = [(OPS, "ops"), (APP, "app")]
                .into_iter()
                .filter(|(_, role)| !it.roles.is_empty() && !it.roles.iter().any(|r| r == role));
            for (token, _) in others {
                refused.push((ask().bearer_auth(token), 403));
            }
            if !it.roles.is_empty() && !it.roles.iter().any(|role| role == "ops") {
                refused.push((ask().header("cookie", &session).header("sec-fetch-site", "same-origin"), 403));
            }
            if it.method != Method::GET {
                refused.push((ask().header("cookie", &session), 403));
                refused.push((ask().header("cookie", &session).header("sec-fetch-site", "cross-site"), 403));
                refused.push((ask().header("cookie", &session).header("origin", "https://evil.example"), 403));
            }
            for (request, status) in refused {
                let (_, problem) = problem(request, status).await;
                let text = problem.to_string();
                for told in [event, subject, "u_kept", "s3cret"] {
                    assert!(!text.contains(told), "{what}: {text}");
                }
            }
        }
        assert_eq!(state().await, before, "something was changed by somebody who may not");
        let path = port.request(Method::PATCH, "/v1/events");
        problem(path, 401).await;
        let answer = port.request(Method::PATCH, "/v1/events").bearer_auth(OPS).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, "GET,HEAD"));
        assert_eq!(problem(port.get("/v1/nowhere").bearer_auth(OPS), 404).await.0, "no-such-path");
        assert!(served.terminate().0.success());
    }
}

#[tokio::test]
async fn the_document_names_every_answer_and_every_schema_once() {
    let ground = Ground::of(None, None);
    let served = ground.finhook.serve(&[]);
    let port = Port::of(&served);
    let document = port.ops("/openapi.json").await;
    assert_eq!(document["openapi"], json!("3.1.0"));
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}: id twice");
            let answers = operation["responses"].as_object().unwrap();
            let mut wanted = vec!["400", "401", "403", "405", "500", "503"];
            if operation.get("requestBody").is_some() {
                wanted.extend(["408", "413", "415", "422"]);
            }
            if path.contains('{') {
                wanted.push("404");
            }
            for status in wanted {
                let content = &answers[status]["content"];
                assert!(content["application/problem+json"].is_object(), "{method} {path} {status}");
            }
        }
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(reference).is_some(), "{reference} leads nowhere");
    }
    assert!(served.terminate().0.success());
}

#[tokio::test]
async fn a_database_that_is_away_is_a_problem_that_says_when_to_come_back() {
    let Some(ground) = Ground::both("a_database_that_is_away_is_a_problem").await.into_iter().nth(1) else { return };
    let nowhere = "postgres://postgres@127.0.0.1:9/nowhere";
    let finhook = ground.finhook.with("DATABASE_URL", nowhere);
    let served = finhook.serve(&["--only", "receiver"]);
    let port = Port::of(&served);
    let answer = port.get("/v1/events").bearer_auth(OPS).send().await.unwrap();
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(problem(port.get("/v1/events").bearer_auth(OPS), 503).await.0, "unavailable");
    assert!(served.terminate().0.success());
}
