//! `POST /webhooks/{provider}` and `/webhooks/{provider}/{token}`: what providers post to.
//!
//! Decided in this order, and up to the body without waiting for anything: 405 · 404 · 503 without secret · 403 from elsewhere · 503 busy ·
//! 503 queue away · 413 announced · the body (413, 408) · the proof (401, 503) · the confirm (503). A 200 is written only
//! after the queue's confirm. Where next: `pipeline/receive.rs`; statuses are in `error.rs`.

use std::fmt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{HeaderMap, Method, Version};
use hyper::body::Body as _;
use ipnet::IpNet;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;

use super::body;
use super::client::client;
use super::error::Cause;
use super::room::{Held, Room};
use super::server::Peer;
use super::shield::shield;
use crate::domain::ProviderName;
use crate::ops::metrics;
use crate::ops::throttle::Throttle;
use crate::pipeline::receive::{NotAccepted, Receiver};

pub use super::room::RoomLimits;

/// How many log lines per second a cause may have for a provider.
const LINES_PER_SECOND: u32 = 5;

/// What a request may take.
#[derive(Debug, Clone)]
pub struct WebhookLimits {
    /// Bytes of one body.
    pub body_bytes: usize,
    /// From the head to the end of the body.
    pub body_time: Duration,
    /// What may be in flight at once.
    pub room: RoomLimits,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for WebhookLimits {
    /// 1 MiB, and the 10 seconds after which Plaid itself gives up.
    fn default() -> Self {
        let (body_time, room) = (Duration::from_secs(10), RoomLimits::default());
        Self { body_bytes: 1 << 20, body_time, room, trusted_proxies: Vec::new() }
    }
}

/// The webhook paths.
pub struct Webhooks {
    receiver: Receiver,
    room: Room,
    limits: WebhookLimits,
    lines: Throttle<(Option<ProviderName>, Cause)>,
    unattended: TaskTracker,
}

impl Webhooks {
    /// The webhook paths of a receiver.
    pub fn new(receiver: Receiver, limits: WebhookLimits) -> Arc<Self> {
        let (room, lines) = (Room::new(&limits.room), Throttle::new(LINES_PER_SECOND));
        Arc::new(Self { receiver, room, limits, lines, unattended: TaskTracker::new() })
    }

    /// Their routes.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/webhooks/{provider}", any(plain))
            .route("/webhooks/{provider}/{token}", any(bound))
            .fallback(nowhere)
            .with_state(Arc::clone(self))
    }

    /// How many deliveries are not done whose senders went away.
    pub fn unattended(&self) -> usize {
        self.unattended.len()
    }

    /// Waits until the deliveries whose senders went away are done. Call when the server has stopped.
    pub async fn settled(&self) {
        self.unattended.close();
        self.unattended.wait().await;
    }

    async fn answer(self: &Arc<Self>, path: Place<'_>, request: Request) -> Response {
        let (head, mut body) = request.into_parts();
        let peer = head.extensions.get::<Peer>().copied();
        let client = client(peer, &head.headers, &self.limits.trusted_proxies);
        let read = match self.admit(&head.method, path, client, &body) {
            Ok((provider, room)) => self.read(&mut body).await.map(|held| (provider, room, held)),
            Err(cause) => Err(cause),
        };
        let (provider, _room, held) = match read {
            Ok(read) => read,
            Err(cause) => {
                self.note(path, cause);
                let mut response = cause.into_response();
                if head.version > Version::HTTP_11 {
                    // Says nothing in HTTP/2, where the stream ends by itself, and is a warning there.
                    response.headers_mut().remove(CONNECTION);
                } else if !matches!(cause, Cause::TooSlow | Cause::Broken) {
                    body::drain(&head.headers, body);
                }
                return response;
            }
        };
        let token = path.token.map(str::to_owned);
        let delivery = Arc::clone(self).deliver(provider, token, head.headers, held);
        // A panic is this delivery's failure, not that of the others on its connection. Nothing that it could have left
        // half-done is shared: permits are given back as it unwinds.
        let delivery = shield(&self.unattended, AssertUnwindSafe(delivery).catch_unwind());
        match delivery.await {
            Some(Ok(Ok(()))) => "ok\n".into_response(), // 200, exactly: Unit takes no other for delivered
            Some(Ok(Err(cause))) => cause.into_response(),
            Some(Err(_)) | None => {
                self.note(path, Cause::Internal);
                Cause::Internal.into_response()
            }
        }
    }

    /// What is decided before a byte of the body is read.
    fn admit(
        &self,
        method: &Method,
        path: Place<'_>,
        client: Option<IpAddr>,
        body: &Body,
    ) -> Result<(ProviderName, OwnedSemaphorePermit), Cause> {
        if method != Method::POST {
            return Err(Cause::Method);
        }
        let provider = self.receiver.find(path.provider, path.token.is_some(), client)?;
        let room = self.room.request()?;
        self.receiver.accepts()?;
        // The length that was announced, which hyper holds the sender to; 0 where none was.
        if body.size_hint().lower() > self.limits.body_bytes as u64 {
            return Err(Cause::TooLarge);
        }
        Ok((provider, room))
    }

    async fn read(&self, body: &mut Body) -> Result<Held, Cause> {
        let read = body::read(body, self.limits.body_bytes, &self.room);
        tokio::time::timeout(self.limits.body_time, read).await.unwrap_or(Err(Cause::TooSlow)) // way: 1/12
    }

    /// The rest of the way, which goes on when the sender has gone: counted and logged here, once.
    async fn deliver(
        self: Arc<Self>,
        provider: ProviderName,
        token: Option<String>,
        headers: HeaderMap,
        held: Held,
    ) -> Result<(), Cause> {
        let started = Instant::now();
        let (body, room) = held.into_parts();
        let path = Place { provider: provider.as_str(), token: token.as_deref() };
        let received = self.receiver.receive(path.provider, path.token, &headers, body).await;
        drop(room);
        match received {
            Ok((id, trace)) => {
                let took = started.elapsed();
                metrics::deliveries(Some(provider), metrics::Outcome::Accepted);
                metrics::ack_seconds(provider, took);
                tracing::debug!(
                    delivery.id = %id,
                    trace.id = %format_args!("{:032x}", trace.trace_id()),
                    provider.name = provider.as_str(),
                    duration_ms = took.as_secs_f64() * 1e3,
                    "accepted"
                );
                Ok(())
            }
            Err(not_accepted) => {
                if let NotAccepted::Refused(refusal) = not_accepted {
                    metrics::verification_failure(provider, refusal);
                }
                self.note(path, not_accepted.into());
                Err(not_accepted.into())
            }
        }
    }

    /// Counts a request that was not accepted, and logs it at a bounded rate.
    fn note(&self, path: Place<'_>, cause: Cause) {
        let provider = self.receiver.named(path.provider);
        metrics::deliveries(provider, cause.outcome());
        if let (Some(provider), Cause::NotAccepted(NotAccepted::Address { .. })) = (provider, cause) {
            metrics::verification_failure(provider, "address");
        }
        if let Some(held_back) = self.lines.admit((provider, cause), self.receiver.clock().now()) {
            tracing::info!(
                provider.name = provider.map(ProviderName::as_str),
                http.route = %Route { provider, bound: path.token.is_some() },
                delivery.outcome = cause.outcome().as_str(),
                delivery.reason = %cause,
                log.held_back = held_back,
                "not accepted"
            );
        }
    }
}

async fn plain(
    State(webhooks): State<Arc<Webhooks>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    // A path that is not UTF-8 once decoded is nobody's, like an empty name.
    let provider = path.map(|Path(provider)| provider).unwrap_or_default();
    webhooks.answer(Place { provider: &provider, token: None }, request).await
}

async fn bound(
    State(webhooks): State<Arc<Webhooks>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    let (provider, token) = path.map(|Path(parts)| parts).unwrap_or_default();
    webhooks.answer(Place { provider: &provider, token: Some(&token) }, request).await
}

async fn nowhere(State(webhooks): State<Arc<Webhooks>>, request: Request) -> Response {
    webhooks.note(Place { provider: "", token: None }, Cause::Path);
    let (head, body) = request.into_parts();
    if head.version <= Version::HTTP_11 {
        body::drain(&head.headers, body);
    }
    Cause::Path.into_response()
}

/// What a path says.
#[derive(Clone, Copy)]
struct Place<'a> {
    provider: &'a str,
    token: Option<&'a str>,
}

/// A path as logs may show it: names of ours only, and never a token.
struct Route {
    provider: Option<ProviderName>,
    bound: bool,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.provider {
            Some(provider) => write!(f, "/webhooks/{provider}{}", if self.bound { "/…" } else { "" }),
            None => f.write_str("…"),
        }
    }
}
