//! The ops bind: `/healthz`, `/readyz` and `/metrics`, which need no token and say nothing that does.
//!
//! The dashboard at `/` and `api` have routers of their own and are merged with this one where the server is put together;
//! what they answer needs a token.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::ops::metrics::PrometheusHandle;
use crate::ops::readiness::{CheckState, Readiness};

/// What the ops bind shows.
#[derive(Clone)]
pub struct OpsState {
    /// The checks.
    pub readiness: Readiness,
    /// From `ops::metrics::install`.
    pub metrics: PrometheusHandle,
}

/// The routes that every process has.
pub fn router(state: OpsState) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
}

/// The process lives: 200 once it serves. Says nothing about what it depends on, or an orchestrator would restart it for
/// a broker's outage.
async fn healthz() -> Response {
    uncached("ok\n")
}

#[derive(Serialize)]
struct Readyz {
    ready: bool,
    checks: Vec<CheckState>,
}

/// Whether it could do its work now: 200, or 503 with what fails and since when.
async fn readyz(State(state): State<OpsState>) -> Response {
    let checks = state.readiness.state();
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    uncached((status, Json(Readyz { ready, checks })))
}

/// Prometheus' text format, version 0.0.4.
async fn metrics(State(state): State<OpsState>) -> Response {
    let mut response = uncached(state.metrics.render());
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

fn uncached(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
