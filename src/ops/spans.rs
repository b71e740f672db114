//! Spans: one for each delivery received, one for its publish, one for each commit, which links to those of its
//! deliveries; none for an event.
//!
//! ```text
//! sender's span ─▶ receive ─▶ publish            commit (a trace of its own)
//!                     ▲                             │ links
//!                     └─────── traceparent, in the sealed head and beside the message, kept with every event
//! ```
//! Law: an attribute is an id, a provider's name, a count or a duration. Nothing else is ever said of a delivery, and no log
//! line becomes part of a span. Without an endpoint there is nothing to do but to pass contexts on.

#[cfg(not(feature = "otlp"))]
#[path = "spans/off.rs"]
mod backend;
#[cfg(feature = "otlp")]
#[path = "spans/otlp.rs"]
mod backend;

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use self::backend::Recorded;
use crate::config::TraceSettings;
use crate::domain::{ProviderName, TraceParent};

/// The most links of a commit: as many as deliveries can be in one batch.
const MAX_LINKS: usize = 10_000;

/// Why spans cannot be exported at all.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotExporting(&'static str);

/// The export that was started, if any.
pub struct Export(Option<backend::Provider>);

/// Starts the export, once in a process; without settings nothing is recorded.
pub fn start(settings: Option<&TraceSettings>) -> Result<Export, NotExporting> {
    settings.map(|settings| backend::start(settings, MAX_LINKS)).transpose().map(Export)
}

impl Export {
    /// Sends what is recorded and not sent yet, and ends the export; whether all of it was sent in that time.
    pub async fn finish(self, within: Duration) -> bool {
        let Some(provider) = self.0 else { return true };
        // It waits for a thread of its own, and a runtime's thread must not.
        let finished = tokio::task::spawn_blocking(move || backend::finish(&provider, within));
        finished.await.unwrap_or(false)
    }
}

/// What a span is of.
#[derive(Clone, Copy)]
enum Kind {
    Receive,
    Publish,
    Commit,
}

/// A span that ends when it is dropped.
pub struct Span {
    recorded: Option<Recorded>,
    context: TraceParent,
}

impl Span {
    /// A delivery is received: in the trace of its sender, or in a new one.
    pub fn receive(provider: ProviderName, sender: Option<TraceParent>) -> Self {
        let mut span = Self::begin(Kind::Receive, sender, &[]);
        span.say("provider.name", || provider.as_str().into());
        span
    }

    /// It is published, as a part of `received`.
    pub fn publish(provider: ProviderName, delivery: Uuid, received: &Span) -> Self {
        let mut span = Self::begin(Kind::Publish, Some(received.context), &[]);
        span.say("provider.name", || provider.as_str().into());
        span.delivery(delivery);
        span
    }

    /// Events of these deliveries are committed together.
    pub fn commit(events: usize, deliveries: impl Iterator<Item = TraceParent>) -> Self {
        if !backend::is_on() {
            return Self { recorded: None, context: fresh() };
        }
        // Most events of a batch share their delivery with others.
        let links: BTreeSet<TraceParent> = deliveries.collect();
        let links: Vec<TraceParent> = links.into_iter().collect();
        let mut span = Self::begin(Kind::Commit, None, &links);
        span.count("events", events);
        span.count("deliveries", links.len());
        span
    }

    fn begin(kind: Kind, parent: Option<TraceParent>, links: &[TraceParent]) -> Self {
        let recorded = backend::begin(kind, parent, links);
        let context = recorded.as_ref().and_then(Recorded::context).or(parent).unwrap_or_else(fresh);
        Self { recorded, context }
    }

    /// Where this is, for what follows from it. Where nothing is recorded that is where the sender was.
    pub fn context(&self) -> TraceParent {
        self.context
    }

    /// Says which delivery it is about.
    pub fn delivery(&mut self, id: Uuid) {
        self.say("delivery.id", || id.to_string().into());
    }

    /// Says how many.
    pub fn count(&mut self, what: &'static str, count: usize) {
        self.say(what, || i64::try_from(count).unwrap_or(i64::MAX).into());
    }

    /// It was not done. Why, is in the log and the metrics.
    pub fn failed(&mut self) {
        if let Some(recorded) = &mut self.recorded {
            recorded.failed();
        }
    }

    fn say(&mut self, name: &'static str, value: impl FnOnce() -> backend::Value) {
        if let Some(recorded) = &mut self.recorded {
            recorded.say(name, value());
        }
    }
}

/// A trace that nobody records, so that a delivery can be followed by its id in logs all the same.
fn fresh() -> TraceParent {
    loop {
        if let Some(fresh) = TraceParent::new(rand::random(), rand::random(), false) {
            return fresh;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: ProviderName = ProviderName::new("unit");

    #[test]
    fn where_nothing_is_recorded_the_senders_context_is_passed_on() {
        let sender = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let received = Span::receive(UNIT, sender);
        assert_eq!(Some(received.context()), sender);
        assert_eq!(Some(Span::publish(UNIT, Uuid::nil(), &received).context()), sender);
    }

    #[test]
    fn without_a_context_a_delivery_has_a_trace_of_its_own() {
        let (one, other) = (Span::receive(UNIT, None).context(), Span::receive(UNIT, None).context());
        assert!(one.trace_id() != other.trace_id() && !one.is_sampled());
    }
}
