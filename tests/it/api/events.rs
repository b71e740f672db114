//! What operators read and decide: events, dead ones, queues.

use super::*;

const ACCOUNT: &str = "unit/account.created.tagged";
const DEAD: [&str; 3] = ["unit/recorded.card.activated", "--set", "id="];
const NOBODY: &str = "018f0000-0000-7000-8000-000000000000";

fn listed(page: &Value) -> Vec<String> {
    page["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn events_are_listed_by_page_and_shown_with_their_way() {
    for ground in Ground::both("events_are_listed_by_page_and_shown_with_their_way").await {
        let served = ground.finhook.serve(&[]);
        let port = Port::of(&served);
        ground.play(&served, &port, &[ACCOUNT], 1).await;
        ground.play(&served, &port, &["unit/recorded.card.activated"], 2).await;
        let all = port.ops("/v1/events").await;
        let ids = listed(&all);
        assert_eq!((ids.len(), &all["next"]), (2, &Value::Null));
        let mut walked = Vec::new();
        let mut path = "/v1/events?limit=1&order=oldest".to_owned();
        loop {
            let page = port.ops(&path).await;
            walked.extend(listed(&page));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/v1/events?limit=1&cursor={next}");
        }
        assert!(walked.iter().rev().eq(&ids), "{walked:?}");
        let applied = port.ops("/v1/events?state=applied&provider=unit&kind=account.created").await;
        let [applied] = &applied["events"].as_array().unwrap()[..] else { panic!("{applied}") };
        let shown = port.ops(&format!("/v1/events/{}", applied["id"].as_str().unwrap())).await;
        assert_eq!(&shown["event"], applied);
        let rows = shown["lineage"]["rows"].as_array().unwrap();
        let tables: Vec<&str> = rows.iter().map(|row| row["table"].as_str().unwrap()).collect();
        assert_eq!(tables, ["integration", "user", "account"], "{shown}");
        assert!(shown["lineage"]["delivery_id"].is_string() && shown["payload_bytes"].as_u64().unwrap() > 0);

        for wrong in
            ["limit=0", "limit=1001", "since=yesterday", "state=gone", "cursor=x", "order=up", "kind=", "kind=%00"]
        {
            let (kind, problem) = problem(port.get(&format!("/v1/events?{wrong}")).bearer_auth(OPS), 400).await;
            assert_eq!(kind, "malformed");
            assert_eq!(problem["errors"][0]["parameter"].as_str(), wrong.split('=').next(), "{problem}");
        }
        let (_, unknown) = problem(port.get("/v1/events?s3cret=s3cret").bearer_auth(OPS), 400).await;
        assert!(!unknown.to_string().contains("s3cret"), "{unknown}");
        problem(port.get("/v1/events/s3cret").bearer_auth(OPS), 400).await;
        problem(port.get(&format!("/v1/events/{NOBODY}")).bearer_auth(OPS), 404).await;
        assert!(served.terminate().0.success());
    }
}

#[tokio::test]
async fn dead_events_are_counted_requeued_and_discarded_by_id_and_by_filter() {
    for ground in Ground::both("dead_events_are_counted_requeued_and_discarded_by_id_and_by_filter").await {
        let served = ground.finhook.serve(&[]);
        let port = Port::of(&served);
        ground.play(&served, &port, &DEAD, 1).await;
        ground.play(&served, &port, &[ACCOUNT], 2).await;
        let events = port.ops("/v1/events").await["events"].as_array().unwrap().clone();
        let act = |path: &str, body: Value| port.request(Method::POST, path).bearer_auth(OPS).json(&body);
        let of = |state: &str| events.iter().find(|event| event["state"] == state).unwrap()["id"].clone();
        let (dead, applied) = (of("dead"), of("applied"));

        let counted = ok(act("/v1/dead/requeue", json!({ "filter": {}, "dry_run": true }))).await;
        assert_eq!((&counted["selected"], &counted["done"]), (&json!(1), &json!(0)));
        let requeued = ok(act("/v1/dead/requeue", json!({ "filter": { "provider": "unit" } }))).await;
        assert_eq!(
            (&requeued["done"], &requeued["interrupted"], &requeued["next"]),
            (&json!(1), &Value::Null, &Value::Null)
        );
        let requeued = ok(act("/v1/dead/requeue", json!({ "ids": [dead, applied] }))).await;
        assert_eq!((&requeued["selected"], &requeued["done"]), (&json!(1), &json!(1)));
        assert_eq!(requeued["left"], json!([{ "id": applied, "why": "it is applied" }]));
        let replayed = ok(act("/v1/events/replay", json!({ "filter": { "state": "applied" } }))).await;
        assert_eq!((&replayed["selected"], &replayed["done"]), (&json!(1), &json!(1)));

        for (path, body, pointer) in [
            ("/v1/dead/discard", json!({}), ""),
            ("/v1/dead/discard", json!({ "ids": [dead], "filter": {} }), ""),
            ("/v1/dead/discard", json!({ "ids": [] }), "/ids"),
            ("/v1/dead/discard", json!({ "ids": ["x"] }), "/ids/0"),
            ("/v1/dead/discard", json!({ "filter": { "state": "gone" } }), "/filter/state"),
            ("/v1/dead/discard", json!({ "filter": { "since": "x" } }), "/filter/since"),
            ("/v1/events/replay", json!({ "filter": {}, "after": "x" }), "/after"),
            ("/v1/events/replay", json!({ "filter": {}, "dry_run": "yes" }), "/dry_run"),
        ] {
            let (_, problem) = problem(act(path, body), 422).await;
            assert_eq!(problem["errors"][0]["pointer"], json!(pointer), "{problem}");
        }
        let none = ok(act("/v1/dead/discard", json!({ "filter": { "state": "applied" } }))).await;
        assert_eq!((&none["selected"], &none["done"]), (&json!(0), &json!(0)), "no dead event is applied");
        let discard = || port.request(Method::POST, "/v1/dead/discard").bearer_auth(OPS);
        assert_eq!(problem(discard().header("content-type", "application/json").body("{"), 400).await.0, "malformed");
        assert_eq!(problem(discard().body("{}"), 415).await.0, "media-type");
        let large = discard().header("content-type", "application/json").body(vec![b' '; 200_000]);
        assert_eq!(problem(large, 413).await.0, "too-large");

        let discarded = ok(act("/v1/dead/discard", json!({ "ids": [dead, applied, NOBODY] }))).await;
        assert_eq!((&discarded["selected"], &discarded["done"]), (&json!(1), &json!(1)));
        assert_eq!(discarded["left"].as_array().unwrap().len(), 2, "{discarded}");
        let shown = port.ops(&format!("/v1/events/{}", dead.as_str().unwrap())).await;
        assert_eq!((&shown["event"]["state"], &shown["event"]["reason"]), (&json!("recorded"), &json!("discarded")));
        assert_eq!(ok(act("/v1/dead/discard", json!({ "filter": {} }))).await["selected"], json!(0));
        let (status, log) = served.terminate();
        assert!(status.success() && log.contains(r#""audit.act":"discard""#), "{log}");
        let trail = ground.finhook.run(&["audit", "list", "--json"]).exits(0).json_lines();
        let acts: Vec<&str> = trail.iter().rev().map(|row| row["act"].as_str().unwrap()).collect();
        assert_eq!(acts, ["requeue", "requeue", "replay", "discard", "discard"], "{trail:?}");
        assert!(trail.iter().all(|row| row["actor"].as_str().unwrap().starts_with("ops:")), "{trail:?}");
    }
}

#[tokio::test]
async fn unlinked_events_are_discarded_and_stay_so_when_their_subject_is_linked() {
    for ground in Ground::both("unlinked_events_are_discarded_and_stay_so").await {
        let served = ground.finhook.serve(&[]);
        let port = Port::of(&served);
        ground.play(&served, &port, &["unit/customer.created.without-tag"], 1).await;
        let unlinked = port.ops("/v1/events?state=unlinked").await;
        let [event] = &unlinked["events"].as_array().unwrap()[..] else { panic!("{unlinked}") };
        let act = |path: &str, body: Value| port.request(Method::POST, path).bearer_auth(OPS).json(&body);
        let requeued = ok(act("/v1/unlinked/requeue", json!({ "filter": {} }))).await;
        assert_eq!(requeued["done"], json!(1));
        let path = format!("/v1/events/{}", event["id"].as_str().unwrap());
        eventually("it was taken through again", async || {
            let now = port.ops(&path).await["event"].clone();
            now["processed_at"] != event["processed_at"] && now["state"] == "unlinked"
        })
        .await;
        let discarded = ok(act("/v1/unlinked/discard", json!({ "ids": [event["id"]] }))).await;
        assert_eq!((&discarded["done"], &discarded["left"]), (&json!(1), &json!([])));
        let subject = event["subject"].as_str().unwrap();
        let link = port.request(Method::PUT, &format!("/v1/integrations/unit/{subject}")).bearer_auth(APP);
        assert_eq!(answered(link.json(&json!({ "user": "u_1" })), 201).await["applied_events"], json!(0));
        assert!(served.terminate().0.success());
    }
}

#[tokio::test]
async fn queues_their_history_and_the_counts_are_told() {
    for ground in Ground::both("queues_their_history_and_the_counts_are_told").await {
        let served = ground.finhook.serve(&[]);
        let port = Port::of(&served);
        ground.play(&served, &port, &DEAD, 1).await;
        eventually("the dead event is counted", async || {
            let counts = port.ops("/v1/counts").await;
            let pending = counts["pending"].as_array().unwrap();
            pending.iter().any(|it| it["provider"] == "unit" && it["state"] == "dead" && it["count"] == json!(1))
        })
        .await;
        let queues = port.ops("/v1/queues").await;
        assert!(queues["queues"].as_array().unwrap().iter().any(|queue| queue["ready"] == json!(0)), "{queues}");
        let history = port.ops("/v1/queues/history").await;
        assert!(!history["samples"].as_array().unwrap().is_empty());
        assert!(served.terminate().0.success());
    }
}

#[tokio::test]
async fn each_half_alone_answers_from_the_same_tables() {
    let Some(ground) = Ground::both("each_half_alone_answers_from_the_same_tables").await.into_iter().nth(1) else {
        return;
    };
    let receiver = ground.finhook.serve(&["--only", "receiver"]);
    let worker = ground.finhook.serve(&["--only", "worker"]);
    let [asks, works] = [&receiver, &worker].map(Port::of);
    ground.play(&receiver, &works, &DEAD, 1).await;
    assert_eq!(asks.ops("/v1/events").await, works.ops("/v1/events").await);
    let requeue = asks.request(Method::POST, "/v1/dead/requeue").bearer_auth(OPS).json(&json!({ "filter": {} }));
    assert_eq!(ok(requeue).await["done"], json!(1));
    assert!(receiver.terminate().0.success() && worker.terminate().0.success());
}
