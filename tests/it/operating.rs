//! What operators do: replays, dead events, queues and the broker's topology, by the commands and their exit codes.

use serde_json::{Value, json};

use crate::commands::{played, settled};
use crate::process::Finhook;
use crate::servers::{OwnBroker, amqp_server};

const ACCOUNT: &str = "unit/account.created.tagged";

/// Plays an account and an event without an id, which is dead.
fn with_a_dead_event() -> (Finhook, Vec<Value>) {
    let finhook = Finhook::new();
    played(&finhook, &[ACCOUNT]);
    let events = settled_somehow(&finhook);
    played(&finhook, &["unit/recorded.card.activated", "--set", "id="]);
    let all = settled(&finhook, events.len() + 1);
    (finhook, all)
}

fn settled_somehow(finhook: &Finhook) -> Vec<Value> {
    let case = &finhook::fixtures::select(ACCOUNT).unwrap()[0];
    let events = &case.expect.as_ref().unwrap().events;
    settled(finhook, usize::try_from(events.applied + events.recorded + events.unlinked + events.dead).unwrap())
}

#[test]
fn a_replay_is_counted_asked_for_and_changes_nothing_that_was_right() {
    let finhook = Finhook::new();
    played(&finhook, &[ACCOUNT]);
    let events = settled_somehow(&finhook);
    let said = finhook.run(&["events", "replay", "--all"]).exits(1);
    assert!(said.err.contains("--yes") && said.err.contains(&format!("replay {} event", events.len())), "{}", said.err);
    let counted = finhook.run(&["events", "replay", "--provider", "unit", "--dry-run", "--json"]).exits(0).json();
    assert_eq!((&counted["selected"], &counted["replayed"]), (&json!(events.len()), &json!(0)));
    let serving = finhook.serve(&[]);
    let replayed = finhook.run(&["events", "replay", "--all", "--yes", "--json"]).exits(0).json();
    assert_eq!((&replayed["replayed"], &replayed["interrupted"]), (&json!(events.len()), &Value::Null));
    assert!(serving.terminate().0.success());
    let state = |event: &Value| (event["id"].clone(), event["state"].clone(), event["received_at"].clone());
    assert!(settled_somehow(&finhook).iter().map(state).eq(events.iter().map(state)));

    let oldest = events.last().unwrap()["id"].as_str().unwrap();
    let rest = finhook.run(&["events", "replay", "--all", "--after", oldest, "--dry-run", "--json"]).exits(0).json();
    assert_eq!(rest["selected"], json!(events.len() - 1));
    let nobody = "018f0000-0000-7000-8000-000000000000";
    let said = finhook.run(&["events", "replay", nobody, oldest, "--yes", "--json"]).exits(1).json();
    assert_eq!((&said["replayed"], &said["left"][0]["id"]), (&json!(1), &json!(nobody)));
}

#[test]
fn a_dead_event_is_listed_explained_requeued_and_discarded() {
    let (finhook, events) = with_a_dead_event();
    let dead = finhook.run(&["dead", "list", "--json"]).exits(0).json();
    assert_eq!((&dead["reason"], &dead["path"]), (&json!("missing_field"), &json!("/id")));
    assert!(dead["age_seconds"].as_i64().is_some_and(|age| age >= 0));
    assert!(finhook.run(&["dead", "list"]).exits(0).out.contains("missing_field"));
    assert_eq!(finhook.run(&["dead", "list", "--provider", "plaid", "--json"]).exits(0).out, "");
    let id = dead["id"].as_str().unwrap();
    let shown = finhook.run(&["dead", "show", id, "--json"]).exits(0).json();
    assert!(shown["payload_bytes"].as_u64().unwrap() > 0 && shown["help"].is_string());
    let text = finhook.run(&["dead", "show", id]).exits(0).out;
    assert!(text.contains("sealed") && !text.contains("relationships"), "{text}");
    let alive = events.iter().find(|event| event["state"] != "dead").unwrap()["id"].as_str().unwrap();
    finhook.run(&["dead", "show", alive]).exits(1);

    finhook.run(&["dead", "requeue", "--all"]).exits(1);
    let requeued = finhook.run(&["dead", "requeue", "--all", "--yes", "--json"]).exits(0).json();
    assert_eq!(requeued["replayed"], json!(1));
    assert_eq!(finhook.run(&["dead", "list", "--json"]).exits(0).json()["id"], dead["id"], "it reads as it did");
    finhook.run(&["dead", "requeue", alive, "--yes"]).exits(1);

    assert!(finhook.run(&["dead", "discard", id]).exits(1).err.contains("--yes"));
    let said = finhook.run(&["dead", "discard", id, "--yes", "--json"]).exits(0);
    assert_eq!(said.json()["discarded"], json!([id]));
    assert!(said.err.contains("discarded by hand") && said.err.contains(id), "{}", said.err);
    assert_eq!(finhook.run(&["dead", "list", "--json"]).exits(0).out, "");
    let kept = finhook.run(&["events", "show", id, "--json"]).exits(0).json();
    assert_eq!((&kept["state"], &kept["reason"]), (&json!("recorded"), &json!("discarded")));
    finhook.run(&["dead", "discard", id, "--yes"]).exits(1);
}

#[test]
fn what_is_not_said_clearly_is_bad_usage() {
    let finhook = Finhook::new();
    for wrong in [
        &["events", "replay"][..],
        &["events", "replay", "x"],
        &["events", "replay", "--all", "--state", "dead"],
        &["events", "replay", "018f0000-0000-7000-8000-000000000000", "--provider", "unit"],
        &["dead", "requeue"],
        &["dead", "discard", "--yes"],
        &["topology", "show"],
        &["topology", "apply"],
    ] {
        let said = finhook.run(wrong).exits(64);
        assert!(said.out.is_empty() && !said.err.is_empty(), "{wrong:?}");
    }
}

#[test]
fn the_embedded_queue_is_looked_at_beside_the_process_that_has_it() {
    let finhook = Finhook::new();
    let names = || {
        let queues = finhook.run(&["queues", "--json"]).exits(0).json_lines();
        assert!(queues.iter().all(|queue| queue["ready"] == json!(0)), "{queues:?}");
        queues.iter().map(|queue| queue["queue"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let queues = ["finhook.auth0", "finhook.plaid", "finhook.synapse", "finhook.unit"];
    assert_eq!(names(), queues);
    let serving = finhook.serve(&[]);
    finhook.run(&["queues"]).exits(0);
    assert_eq!(names(), [&queues[..], &["retrying"]].concat());
    assert!(serving.terminate().0.success());
}

#[test]
fn the_topology_is_exported_shown_and_declared() {
    let exported = Finhook::new().run(&["topology", "export"]).exits(0).json_of_all();
    let shipped: Value = serde_json::from_str(include_str!("../../deploy/rabbitmq/definitions.json")).unwrap();
    assert_eq!(exported, shipped);
    let Some(amqp) = amqp_server("the_topology_is_exported_shown_and_declared") else { return };
    let broker = OwnBroker::new(&amqp);
    let finhook =
        Finhook::new().with("AMQP_URL", broker.url.clone()).with("FINHOOK_AMQP_PREFIX", broker.prefix.clone());
    let shown = finhook.run(&["topology", "show", "--json"]).exits(1).json_lines();
    assert!(shown.len() == 9 && shown.iter().all(|it| it["present"] == json!(false)), "{shown:?}");
    finhook.run(&["topology", "apply"]).exits(0);
    finhook.run(&["topology", "show"]).exits(0);
    let queues = finhook.run(&["queues", "--json"]).exits(0).json_lines();
    assert!(queues.len() == 6 && queues.iter().all(|queue| queue["ready"] == json!(0)), "{queues:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_broker_a_replay_is_published_for_the_workers() {
    let Some(amqp) = amqp_server("with_a_broker_a_replay_is_published_for_the_workers") else { return };
    let broker = OwnBroker::new(&amqp);
    let finhook =
        Finhook::new().with("AMQP_URL", broker.url.clone()).with("FINHOOK_AMQP_PREFIX", broker.prefix.clone());
    played(&finhook, &[ACCOUNT]);
    let events = settled_somehow(&finhook);
    let replayed = finhook.run(&["events", "replay", "--all", "--yes", "--json"]).exits(0).json();
    assert_eq!(replayed["replayed"], json!(events.len()));
    let waiting = || {
        let queues = finhook.run(&["queues", "--json"]).exits(0).json_lines();
        queues.iter().map(|queue| queue["ready"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(waiting(), events.len() as u64, "nobody works yet");
    let serving = finhook.serve(&[]);
    crate::process::eventually("the replayed events are worked off", async || waiting() == 0).await;
    assert!(serving.terminate().0.success());
    assert_eq!(settled_somehow(&finhook).len(), events.len());
}
