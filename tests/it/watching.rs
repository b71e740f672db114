//! What operators see: the same numbers everywhere, and readiness that says what is wrong.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Finhook, Served, eventually};
use crate::servers::{OwnBroker, amqp_server};

/// Within this everything has to say the same.
const SOON: Duration = Duration::from_secs(15);

async fn get(served: &Served, path: &str) -> String {
    reqwest::get(format!("{}{path}", served.ops)).await.unwrap().text().await.unwrap()
}

/// The value of one series.
fn value(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

fn queue(finhook: &Finhook, name: &str) -> Value {
    let queues = finhook.run(&["queues", "--json"]).exits(0).json_lines();
    queues.into_iter().find(|queue| queue["queue"] == json!(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_worker_stopped_command_and_metrics_say_how_many_wait() {
    let Some(amqp) = amqp_server("with_the_worker_stopped") else { return };
    let broker = OwnBroker::new(&amqp);
    let finhook =
        Finhook::new().with("AMQP_URL", broker.url.clone()).with("FINHOOK_AMQP_PREFIX", broker.prefix.clone());
    let receiver = finhook.serve(&["--only", "receiver"]);
    let played = ["replay", "unit/account.created.tagged", "--to", &receiver.public, "--repeat", "13", "--json"];
    let sent = finhook.run(&played).exits(0).json();
    let sent = sent["accepted"].as_u64().unwrap_or_else(|| panic!("{sent}"));
    let since = Instant::now();
    let name = format!("{}.unit", broker.prefix);
    let series = format!(r#"finhook_queue_messages{{queue="{name}",state="ready"}}"#);
    let all_say = |expected: u64| {
        let (finhook, name, series, receiver) = (&finhook, &name, &series, &receiver);
        async move {
            let counted = value(&get(receiver, "/metrics").await, series);
            queue(finhook, name)["ready"] == json!(expected) && counted == Some(expected as f64)
        }
    };
    eventually("command and metrics say how many were sent", || all_say(sent)).await;
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert!(receiver.log().lines().count() < 50, "no line for each delivery");

    let worker = finhook.serve(&["--only", "worker"]);
    eventually("command and metrics say that nothing waits", || all_say(0)).await;
    let lag = format!(r#"finhook_queue_lag_seconds{{queue="{name}"}}"#);
    eventually("the worker knows that it is not behind", async || {
        value(&get(&worker, "/metrics").await, &lag) == Some(0.0)
    })
    .await;
    let ready: Value = serde_json::from_str(&get(&worker, "/readyz").await).unwrap();
    let checks: Vec<_> = ready["checks"].as_array().unwrap().iter().map(|check| check["name"].clone()).collect();
    assert_eq!(
        (&ready["ready"], checks),
        (&json!(true), vec!["store".into(), "keys".into(), "commits".into(), "queue".into(), "running".into()])
    );
    assert!(worker.terminate().0.success());
    assert!(receiver.terminate().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_without_broker_is_ready_only_with_a_spool() {
    let away = Finhook::new().with("AMQP_URL", "amqp://guest:hunter2@127.0.0.1:9");
    let receiver = away.serve(&["--only", "receiver"]);
    assert!(receiver.log().contains("these keys were made here"), "{}", receiver.log());
    let answer = reqwest::get(format!("{}/readyz", receiver.ops)).await.unwrap();
    assert_eq!(answer.status(), 503);
    let ready: Value = answer.json().await.unwrap();
    let queue = ready["checks"].as_array().unwrap().iter().find(|check| check["name"] == json!("queue")).unwrap();
    assert_eq!((&queue["ok"], &queue["why"]), (&json!(false), &json!("the broker is away")));
    assert!(queue["since"].as_str().unwrap().ends_with('Z'), "{queue}");
    assert_eq!(reqwest::get(format!("{}/healthz", receiver.ops)).await.unwrap().status(), 200);
    assert!(receiver.terminate().0.success());

    let folder = away.folder().join("spool.db").display().to_string();
    let receiver = away.with("FINHOOK_SPOOL", folder).serve(&["--only", "receiver"]);
    let answer = reqwest::get(format!("{}/readyz", receiver.ops)).await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    assert!(receiver.terminate().0.success());
}

#[test]
fn watching_without_a_terminal_prints_a_line_a_queue_until_it_is_interrupted() {
    let finhook = Finhook::new();
    let mut child = finhook
        .command(["queues", "--watch", "--every", "100ms"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Three looks at four queues.
    for line in lines.by_ref().take(12) {
        let line = line.unwrap();
        assert!(line.contains("finhook.") && line.contains("ready 0"), "{line}");
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    // What was on its way comes still, then it ends.
    assert!(lines.all(|line| line.is_ok()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
