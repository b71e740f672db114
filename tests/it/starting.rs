//! A worker that is started before its database.

use std::process::{Child, Stdio};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};

use crate::app::Keys;
use crate::process::{Finhook, eventually};
use crate::servers::{OwnBroker, OwnDatabase, servers};

/// A port that nothing listens on, and what keeps it from everybody who asks for any port; who names it may listen there.
fn closed_port() -> (TcpSocket, u16) {
    let held = TcpSocket::new_v4().unwrap();
    held.set_reuseaddr(true).unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = held.local_addr().unwrap().port();
    (held, port)
}

/// What `/readyz` says: the status, and why a check fails.
async fn readyz(port: u16, check: &str) -> Option<(StatusCode, Option<String>)> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    let response = client.get(format!("http://127.0.0.1:{port}/readyz")).send().await.ok()?;
    let status = response.status();
    let body: Value = response.json().await.ok()?;
    let checks = body["checks"].as_array()?;
    let why = checks.iter().find(|it| it["name"] == check)?["why"].as_str().map(str::to_owned);
    Some((status, why))
}

/// SIGTERM; its exit code.
fn terminated(mut child: Child) -> Option<i32> {
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    child.wait().unwrap().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_waits_for_its_database_says_so_and_begins_when_it_is_there() {
    let Some(servers) = servers("a worker before its database") else { return };
    let (database, broker) = (OwnDatabase::new(&servers.database).await, OwnBroker::new(&servers.amqp));
    let finhook = Finhook::new();
    let keys = Keys::fresh(finhook.folder());
    let finhook = finhook.with_all(&keys.settings).with("DATABASE_URL", database.url.clone());
    let finhook = finhook.with("AMQP_URL", broker.url.clone()).with("FINHOOK_AMQP_PREFIX", broker.prefix.clone());
    finhook.run(&["migrate", "up"]).exits(0);

    let ((_held, ops), (held, front)) = (closed_port(), closed_port());
    let (address, name) = database.url.rsplit_once('/').unwrap();
    let server = address.rsplit_once('@').map_or(address, |(_, server)| server).to_owned();
    let away = format!("postgres://postgres@127.0.0.1:{front}/{name}");
    let finhook = finhook.with("DATABASE_URL", away).with("FINHOOK_OPS_BIND", format!("127.0.0.1:{ops}"));
    let start = || finhook.command(["serve", "--only", "worker"]).stderr(Stdio::null()).spawn().unwrap();

    let waiting = start();
    let said = Some((StatusCode::SERVICE_UNAVAILABLE, Some("the database does not answer yet".to_owned())));
    eventually("it says what it waits for", || async { readyz(ops, "store").await == said }).await;
    assert_eq!(terminated(waiting), Some(0), "told to stop, it has nothing to finish");

    let worker = start();
    eventually("it says what it waits for", || async { readyz(ops, "store").await == said }).await;
    let listener = held.listen(16).unwrap();
    let link = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    eventually("it works", || async { readyz(ops, "store").await == Some((StatusCode::OK, None)) }).await;
    assert_eq!(terminated(worker), Some(0));
    link.abort();
}
