//! `/live`: every new observation as a server-sent event, as long as whoever listens may and somebody observes.
//!
//! A listener is asked for its credential again before every event, so that a log-out or a token that is taken away ends
//! the stream. Streams are bounded, and end when the process begins to stop: its last event says so by its checks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::{self, Stream};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, HeaderName};
use http::request::Parts;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Role;
use crate::http::api::auth::{self, Doorkeeper};
use crate::http::api::problem::Cause;
use crate::ops::readiness::{CheckState, Readiness};
use crate::pipeline::watch::{Snapshot, Watch};

/// How many may listen at once: more than there are operators, few enough that their connections leave room for others.
const LISTENERS: usize = 64;
/// How soon a browser comes back when a stream ended.
const COME_BACK: Duration = Duration::from_secs(1);
/// How often a silent stream shows proxies that it lives.
const BEAT: Duration = Duration::from_secs(15);
/// nginx collects answers before it passes them on unless it is told not to.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What a stream is made of.
#[derive(Clone)]
pub struct Live {
    /// The observation.
    pub watch: Arc<Watch>,
    /// The checks.
    pub readiness: Readiness,
    /// Who may listen.
    pub keeper: Doorkeeper,
    /// When the process stops.
    pub stop: CancellationToken,
}

/// The route.
pub fn router(live: Live) -> Router {
    let guard = live.keeper.guard(Some(Role::Ops));
    let places = Arc::new(Semaphore::new(LISTENERS));
    Router::new()
        .route("/live", get(listen))
        .route_layer(middleware::from_fn_with_state(guard, auth::guard))
        .with_state((live, places))
}

async fn listen(State((live, places)): State<(Live, Arc<Semaphore>)>, request: Request) -> Response {
    if live.stop.is_cancelled() {
        return Cause::Unavailable("it is stopping").into_response();
    }
    let Ok(place) = places.try_acquire_owned() else {
        return Cause::Unavailable("as many listen as may at once").into_response();
    };
    let (asked, _) = request.into_parts();
    let news = live.watch.subscribe();
    let listener = Listener { live, asked, news, phase: Phase::First, _place: place };
    let stream = Sse::new(events(listener)).keep_alive(KeepAlive::new().interval(BEAT));
    let mut response = stream.into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// One stream.
struct Listener {
    live: Live,
    /// The head of its request, by which it is let in again each time.
    asked: Parts,
    news: watch::Receiver<Arc<Snapshot>>,
    phase: Phase,
    _place: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// What was seen last is told at once.
    First,
    Following,
    /// The last event was told.
    Over,
}

/// What an event says.
#[derive(Serialize)]
struct Told<'a> {
    snapshot: &'a Snapshot,
    checks: Vec<CheckState>,
}

fn events(listener: Listener) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(listener, |mut listener| async move {
        match listener.phase {
            Phase::First => listener.phase = Phase::Following,
            Phase::Following => tokio::select! {
                biased;
                () = listener.live.stop.cancelled() => listener.phase = Phase::Over,
                changed = listener.news.changed() => changed.ok()?,
            },
            Phase::Over => return None,
        }
        let event = listener.tell()?;
        Some((Ok(event), listener))
    })
}

impl Listener {
    /// The event of now; `None` when who listens may no longer.
    fn tell(&mut self) -> Option<Event> {
        let asks = Request::from_parts(self.asked.clone(), Body::empty());
        self.live.keeper.admit(&asks, Some(Role::Ops)).ok()?;
        let snapshot = self.news.borrow_and_update().clone();
        let told = Told { snapshot: &snapshot, checks: self.live.readiness.state() };
        // Fails only for maps with keys that are no text: there are none in it.
        Event::default().event("snapshot").retry(COME_BACK).json_data(&told).ok()
    }
}
