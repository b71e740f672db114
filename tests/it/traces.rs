//! Spans as a collector gets them: the trace of a request goes on through queue, commit, retry and replay, and what is
//! exported says nothing of a delivery but its id, its provider and counts.

use std::collections::BTreeSet;
use std::time::Duration;

use finhook::cli::posting::{Answer, Post, Signed};
use http::{HeaderName, HeaderValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::app::{Keys, SECRETS, TestApp, folder};
use crate::process::{Finhook, Served, eventually};
use crate::servers::{OwnBroker, OwnDatabase, servers};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDER: &str = "b7ad6b7169203331";

/// A collector that takes everything.
pub struct Collector(MockServer);

impl Collector {
    pub async fn start() -> Self {
        let server = MockServer::start().await;
        let taken = ResponseTemplate::new(200).set_body_raw(Vec::new(), "application/x-protobuf");
        let asked = Mock::given(method("POST")).and(path("/v1/traces"));
        asked.and(header("content-type", "application/x-protobuf")).respond_with(taken).mount(&server).await;
        Self(server)
    }

    /// Its address, as `OTEL_EXPORTER_OTLP_ENDPOINT` takes it.
    pub fn address(&self) -> String {
        self.0.uri()
    }

    /// Every request's body as it came.
    pub async fn bodies(&self) -> Vec<Vec<u8>> {
        self.0.received_requests().await.unwrap().into_iter().map(|request| request.body).collect()
    }

    async fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let bodies = self.bodies().await;
        bodies.iter().map(|body| ExportTraceServiceRequest::decode(&body[..]).unwrap()).collect()
    }

    /// Every span so far, in the order in which they came.
    async fn spans(&self) -> Vec<Span> {
        let resources = self.requests().await.into_iter().flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }
}

/// An embedded finhook that trusts the secrets of the tests.
fn configured() -> Finhook {
    SECRETS.iter().fold(Finhook::new(), |finhook, (name, value)| finhook.with(name, *value))
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn traced(mut signed: Signed, value: &str) -> Signed {
    signed.headers.push((HeaderName::from_static("traceparent"), HeaderValue::from_str(value).unwrap()));
    signed
}

fn unit(id: &str) -> String {
    let customer = json!({ "customer": { "data": { "id": "c1", "type": "individualCustomer" } } });
    let attributes = json!({ "tags": { "userId": "u_1" } });
    json!({ "data": [{ "id": id, "type": "customer.created", "attributes": attributes, "relationships": customer }] })
        .to_string()
}

/// Sends one delivery in a trace and one with a malformed `traceparent` through a process, and takes the first through
/// again; then looks at what the collector got.
async fn goes_through(finhook: Finhook, sender: &TestApp, replay: impl AsyncFnOnce(&Finhook)) {
    let collector = Collector::start().await;
    let finhook = finhook
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address())
        .with("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20collectorsecret")
        .with("OTEL_BSP_SCHEDULE_DELAY", "50")
        .with("FINHOOK_LOG", "debug");
    let served = finhook.serve(&[]);
    let post = Post::new(&served.public).unwrap();
    let given = format!("00-{TRACE}-{SENDER}-01");
    for (id, traceparent) in [("e1", given.as_str()), ("e2", "00-short-01")] {
        let signed = traced(sender.signed("unit", unit(id)), traceparent);
        assert_eq!(post.send(&signed).await, Answer::Accepted);
    }
    eventually("both deliveries are committed", async || linked(&collector.spans().await).len() == 2).await;
    replay(&finhook).await;
    eventually("the replay is committed", async || commits_of(&collector.spans().await, TRACE) >= 2).await;

    let spans = collector.spans().await;
    let received = named(&spans, "receive");
    assert_eq!(received.len(), 2);
    let first = received.iter().find(|span| hex::encode(&span.trace_id) == TRACE).unwrap();
    assert_eq!(hex::encode(&first.parent_span_id), SENDER);
    let second = received.iter().find(|span| hex::encode(&span.trace_id) != TRACE).unwrap();
    assert!(second.parent_span_id.is_empty(), "a malformed context is none");
    for span in &received {
        let publish = named(&spans, "publish").into_iter().find(|publish| publish.trace_id == span.trace_id).unwrap();
        assert_eq!(publish.parent_span_id, span.span_id);
    }
    let attributes: BTreeSet<&str> =
        spans.iter().flat_map(|span| &span.attributes).map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(
        attributes.into_iter().collect::<Vec<_>>(),
        ["deliveries", "delivery.id", "events", "provider.name", "rows"]
    );
    assert!(spans.iter().all(|span| span.events.is_empty()), "no log line is part of a span");

    let (status, log) = served.terminate();
    assert!(status.success(), "{log}");
    assert!(log.contains(TRACE), "the delivery's line names its trace");
    assert!(!log.contains("collectorsecret"));
    let requests = collector.0.received_requests().await.unwrap();
    assert!(requests.iter().all(|request| request.headers["authorization"] == "Bearer collectorsecret"));
    let resource = collector.requests().await[0].resource_spans[0].resource.clone().unwrap();
    assert!(format!("{resource:?}").contains("\"finhook\""), "{resource:?}");
}

/// The traces that commits link to.
fn linked(spans: &[Span]) -> BTreeSet<String> {
    let links = named(spans, "commit").into_iter().flat_map(|span| &span.links);
    links.map(|link| hex::encode(&link.trace_id)).collect()
}

/// How many commits link to a trace.
fn commits_of(spans: &[Span], trace: &str) -> usize {
    let of = |span: &&Span| span.links.iter().any(|link| hex::encode(&link.trace_id) == trace);
    named(spans, "commit").into_iter().filter(of).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_the_request_to_the_commit_and_its_replay_on_rabbitmq_and_postgresql() {
    let Some(servers) = servers("traces on PostgreSQL and RabbitMQ") else { return };
    let database = OwnDatabase::new(&servers.database).await;
    let broker = OwnBroker::new(&servers.amqp);
    let keys_folder = folder();
    let keys = Keys::fresh(keys_folder.path());
    let finhook = Finhook::new()
        .with_all(&keys.settings)
        .with("DATABASE_URL", &database.url)
        .with("AMQP_URL", &broker.url)
        .with("FINHOOK_AMQP_PREFIX", &broker.prefix);
    finhook.run(&["migrate", "up"]).exits(0);
    let sender = TestApp::embedded_with_keys(&keys).await;
    goes_through(finhook, &sender, replay_first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_exported_before_a_process_ends_however_long_their_batch_would_have_waited() {
    let collector = Collector::start().await;
    let finhook = configured()
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address())
        .with("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let served = finhook.serve(&[]);
    let sender = TestApp::embedded_in(&finhook.folder().join("finhook-data"), &SECRETS).await;
    let signed = traced(sender.signed("unit", unit("e1")), &format!("00-{TRACE}-{SENDER}-01"));
    assert_eq!(Post::new(&served.public).unwrap().send(&signed).await, Answer::Accepted);
    eventually("it is committed", async || committed(&served).await).await;
    assert!(collector.spans().await.is_empty(), "nothing is due yet");
    let (status, log) = served.terminate();
    assert!(status.success(), "{log}");
    let spans = collector.spans().await;
    assert_eq!((named(&spans, "receive").len(), linked(&spans).len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_refuses_holds_nothing_up_and_is_named_once() {
    let away = format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let finhook = configured().with("OTEL_EXPORTER_OTLP_ENDPOINT", away).with("OTEL_BSP_SCHEDULE_DELAY", "20");
    let served = finhook.serve(&[]);
    let sender = TestApp::embedded_in(&finhook.folder().join("finhook-data"), &SECRETS).await;
    let post = Post::new(&served.public).unwrap();
    for id in 0..20 {
        assert_eq!(post.send(&sender.signed("unit", unit(&id.to_string()))).await, Answer::Accepted);
    }
    eventually("it is said", async || served.log().contains("spans cannot be exported")).await;
    let begun = std::time::Instant::now();
    let (status, log) = served.terminate();
    assert!(status.success() && begun.elapsed() < Duration::from_secs(15), "{log}");
    assert_eq!(log.matches("spans cannot be exported").count(), 1, "{log}");
}

async fn replay_first(finhook: &Finhook) {
    let listed = finhook.run(&["events", "list", "--json"]).exits(0).json_lines();
    let ids: Vec<String> = listed.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2);
    let mut args = vec!["events", "replay", "--yes"];
    args.extend(ids.iter().map(String::as_str));
    finhook.run(&args).exits(0);
}

/// Whether a process has committed something.
async fn committed(served: &Served) -> bool {
    let page = reqwest::get(format!("{}/metrics", served.ops)).await.unwrap().text().await.unwrap();
    page.lines()
        .any(|line| line.starts_with("finhook_events_total{") && line.contains("applied") && !line.ends_with(" 0"))
}
