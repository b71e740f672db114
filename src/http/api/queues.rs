//! `/v1/queues` and `/v1/counts`: what this process sees of queues and tables, taken from its one observation. Nothing is
//! asked for these, so they answer while broker and database are away.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::input::{Nothing, Query};
use super::problem::Cause;
use crate::pipeline::watch::{PendingNow, Sample, Snapshot};

/// Samples of the last hour.
#[derive(Serialize, ToSchema)]
pub struct History {
    /// Oldest first, one every 5 s.
    samples: Vec<Sample>,
}

/// How many events wait or are dead.
#[derive(Serialize, ToSchema)]
pub struct Counts {
    /// When the tables were asked; null if never, or in a process without database.
    #[schema(format = DateTime)]
    at: Option<String>,
    /// Every provider's unlinked, retrying and dead events, with the age of the oldest.
    pending: Vec<PendingNow>,
}

/// Queues, waiting events and rates, as this process saw them last.
#[utoipa::path(
    get, path = "/v1/queues", tag = "queues",
    responses((status = 200, description = "What was seen, and when", body = Snapshot))
)]
pub async fn now(State(api): State<Arc<Api>>, Query(Nothing {}): Query<Nothing>) -> Result<Json<Arc<Snapshot>>, Cause> {
    Ok(Json(api.console.watch().now()))
}

/// Depths and rates of the last hour.
#[utoipa::path(
    get, path = "/v1/queues/history", tag = "queues",
    responses((status = 200, description = "The last hour", body = History))
)]
pub async fn history(State(api): State<Arc<Api>>, Query(Nothing {}): Query<Nothing>) -> Result<Json<History>, Cause> {
    Ok(Json(History { samples: api.console.watch().history() }))
}

/// Unlinked, retrying and dead events with the age of the oldest.
#[utoipa::path(
    get, path = "/v1/counts", tag = "events",
    responses((status = 200, description = "The counts, and when they were taken", body = Counts))
)]
pub async fn counts(State(api): State<Arc<Api>>, Query(Nothing {}): Query<Nothing>) -> Result<Json<Counts>, Cause> {
    let now = api.console.watch().now();
    Ok(Json(Counts { at: now.pending_at.map(|at| at.to_string()), pending: now.pending.clone() }))
}
