//! The operators' port as operators, browsers and the product's back end use it: who is let in, what is answered, and that
//! the document says all of it.

mod events;
mod guard;
mod people;
mod sessions;

use std::path::Path;

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, redirect};
use serde_json::{Value, json};

use crate::app::{Keys, folder};
use crate::process::{Finhook, Served, eventually};
use crate::servers::{OwnBroker, OwnDatabase, servers};

const OPS: &str = "ops-token-of-the-tests";
const APP: &str = "app-token-of-the-tests";
const TOKENS: &str = "ops:ops-token-of-the-tests,app:app-token-of-the-tests";

/// A finhook with tokens and what it stands on.
struct Ground {
    finhook: Finhook,
    _keys: tempfile::TempDir,
    // Last, so that connections are gone before what they are to.
    _database: Option<OwnDatabase>,
    _broker: Option<OwnBroker>,
}

impl Ground {
    fn of(database: Option<OwnDatabase>, broker: Option<OwnBroker>) -> Self {
        let folder = folder();
        let keys = Keys::fresh(Path::new(folder.path()));
        let mut finhook = Finhook::new().with_all(&keys.settings).with("FINHOOK_OPS_TOKENS", TOKENS);
        if let Some(broker) = &broker {
            finhook = finhook.with("AMQP_URL", broker.url.clone()).with("FINHOOK_AMQP_PREFIX", broker.prefix.clone());
        }
        if let Some(database) = &database {
            finhook = finhook.with("DATABASE_URL", database.url.clone());
            finhook.run(&["migrate", "up"]).exits(0);
        }
        Self { finhook, _keys: folder, _database: database, _broker: broker }
    }

    /// Embedded, and with servers where there are some.
    async fn both(test: &str) -> Vec<Self> {
        let mut all = vec![Self::of(None, None)];
        if let Some(servers) = servers(test) {
            let database = OwnDatabase::new(&servers.database).await;
            all.push(Self::of(Some(database), Some(OwnBroker::new(&servers.amqp))));
        }
        all
    }

    /// Posts what `replay` posts, and waits until so many events are there.
    async fn play(&self, served: &Served, port: &Port, what: &[&str], events: usize) {
        let args = ["replay"].into_iter().chain(what.iter().copied()).chain(["--to", &served.public]);
        self.finhook.run(&args.collect::<Vec<_>>()).exits(0);
        eventually("the events are there", async || {
            port.ops("/v1/events?limit=1000").await["events"].as_array().unwrap().len() >= events
        })
        .await;
    }
}

/// The operators' port of a process.
struct Port {
    base: String,
    client: Client,
}

impl Port {
    fn of(served: &Served) -> Self {
        let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        Self { base: served.ops.clone(), client }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    /// What role `ops` is answered, which has to be 200.
    async fn ops(&self, path: &str) -> Value {
        ok(self.get(path).bearer_auth(OPS)).await
    }

    /// What role `app` is answered, which has to be 200.
    async fn app(&self, path: &str) -> Value {
        ok(self.get(path).bearer_auth(APP)).await
    }
}

/// A JSON answer, which has to be 200.
async fn ok(request: RequestBuilder) -> Value {
    answered(request, 200).await
}

/// A JSON answer of this status.
async fn answered(request: RequestBuilder, status: u16) -> Value {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    assert_eq!(answer.status().as_u16(), status, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

/// A problem of this status, by the last word of its type.
async fn problem(request: RequestBuilder, status: u16) -> (String, Value) {
    let answer = request.send().await.unwrap();
    let (given, kind) = (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap().to_owned());
    let text = answer.text().await.unwrap();
    assert_eq!((given, kind.as_str()), (status, "application/problem+json"), "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], json!(status));
    (problem["type"].as_str().unwrap().strip_prefix("urn:finhook:problem:").unwrap().to_owned(), problem)
}

fn cookie(answer: &Response) -> String {
    answer.headers()["set-cookie"].to_str().unwrap().to_owned()
}
