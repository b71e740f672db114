//! Spans by OpenTelemetry's own library: recorded here, sent in batches by a thread of its own, as http/protobuf.
//!
//! What cannot be sent is dropped: the queue of the library is bounded (`OTEL_BSP_MAX_QUEUE_SIZE`), and nothing ever waits
//! for a collector.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData};
use secrecy::ExposeSecret;

use super::{Kind, NotExporting};
use crate::config::{Sampling, TraceSettings};
use crate::domain::TraceParent;

/// What spans are made with, once the export has started. Not the library's global one: that costs a lock and a box for
/// each span, also where nothing is exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

pub(super) use opentelemetry::Value;
pub(super) use opentelemetry_sdk::trace::SdkTracerProvider as Provider;

/// A span of the library's. It ends when it is dropped.
pub(super) struct Recorded(opentelemetry_sdk::trace::Span);

pub(super) fn start(settings: &TraceSettings, max_links: usize) -> Result<Provider, NotExporting> {
    let headers: HashMap<String, String> =
        settings.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&settings.endpoint)
        .with_headers(headers)
        .with_timeout(settings.timeout)
        .build()
        // The library's message may quote what it was given.
        .map_err(|_| NotExporting("cannot be exported to: check the address and the header fields"))?;
    let resource = settings.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    let resource = Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(resource)
        .with_service_name(settings.service.clone())
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(Told { exporter, failing: AtomicBool::new(false) })
        .with_sampler(sampler(settings.sampling))
        .with_max_links_per_span(u32::try_from(max_links).unwrap_or(u32::MAX))
        .with_resource(resource)
        .build();
    match TRACER.set(provider.tracer("finhook")) {
        Ok(()) => Ok(provider),
        Err(_) => Err(NotExporting("was started already")),
    }
}

fn sampler(sampling: Sampling) -> Sampler {
    let own = Sampler::TraceIdRatioBased(sampling.ratio);
    if sampling.follows_parent { Sampler::ParentBased(Box::new(own)) } else { own }
}

pub(super) fn finish(provider: &Provider, within: Duration) -> bool {
    provider.shutdown_with_timeout(within).is_ok()
}

pub(super) fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Begins a span, if the export has started.
pub(super) fn begin(kind: Kind, parent: Option<TraceParent>, links: &[TraceParent]) -> Option<Recorded> {
    let tracer = TRACER.get()?;
    let (name, role) = match kind {
        Kind::Receive => ("receive", SpanKind::Server),
        Kind::Publish => ("publish", SpanKind::Producer),
        Kind::Commit => ("commit", SpanKind::Consumer),
    };
    let links = links.iter().map(|link| Link::with_context(outside(*link))).collect();
    let builder = SpanBuilder::from_name(name).with_kind(role).with_links(links);
    let context = Context::new();
    let context = parent.map_or(context.clone(), |parent| context.with_remote_span_context(outside(parent)));
    Some(Recorded(tracer.build_with_context(builder, &context)))
}

impl Recorded {
    /// Where it is; `None` after the end of the export.
    pub(super) fn context(&self) -> Option<TraceParent> {
        let context = self.0.span_context();
        let (trace, span) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
        TraceParent::new(u128::from_be_bytes(trace), u64::from_be_bytes(span), context.is_sampled())
    }

    pub(super) fn say(&mut self, name: &'static str, value: Value) {
        self.0.set_attribute(KeyValue::new(name, value));
    }

    pub(super) fn failed(&mut self) {
        self.0.set_status(Status::error(""));
    }
}

/// A context of ours as the library has it.
fn outside(context: TraceParent) -> SpanContext {
    let flags = if context.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, span) = (TraceId::from(context.trace_id()), SpanId::from(context.span_id()));
    SpanContext::new(trace, span, flags, true, TraceState::NONE)
}

/// An exporter that says when it begins to fail and when it has stopped to: the library itself keeps silent.
#[derive(Debug)]
struct Told {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        match &exported {
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => tracing::info!("spans are exported again"),
            Ok(()) => {}
            // Its text can hold what the collector answered.
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                let timed_out = matches!(error, OTelSdkError::Timeout(_));
                tracing::warn!(
                    spans,
                    timed_out,
                    "spans cannot be exported: the collector does not answer or refuses them; they are dropped until it takes them"
                );
            }
            Err(_) => {}
        }
        exported
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
