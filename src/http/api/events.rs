//! `/v1/events`: what came in and what became of it, never what is sealed in it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::input::{At, Check, EventId, Nothing, Query};
use super::problem::Cause;
use crate::domain::EventState;
use crate::pipeline::console::cursor::Cursor;
use crate::pipeline::console::events::{EventDetail, EventPage, Narrow};

/// How many events a page has at most, and how many if nobody says.
const LARGEST_PAGE: u32 = 1_000;
const PAGE: u32 = 100;

/// Which events. Every parameter narrows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Only this provider's.
    #[param(min_length = 1, max_length = 200, pattern = "^[^\\x00]*$")]
    provider: Option<String>,
    /// Only this kind, as the provider writes it.
    #[param(min_length = 1, max_length = 200, pattern = "^[^\\x00]*$")]
    kind: Option<String>,
    /// Only in this state.
    #[param(pattern = "^(applied|recorded|unlinked|retrying|dead)$")]
    state: Option<String>,
    /// Only about this subject.
    #[param(min_length = 1, max_length = 200, pattern = "^[^\\x00]*$")]
    subject: Option<String>,
    /// Received at or after this time.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Received before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// `newest` first (as they were stored), or `oldest`; a cursor brings its order along.
    #[param(pattern = "^(newest|oldest)$")]
    order: Option<String>,
    /// Where the page before said that the list goes on (`next`), with the same parameters.
    #[param(pattern = "^A[Q-Za-v](?:[A-Za-z0-9_-]{20}[AEIMQUYcgkosw048]|[A-Za-z0-9_-]{42})$")]
    cursor: Option<String>,
    /// How many at most; 100 if nothing is said.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    limit: Option<String>,
}

/// List events, newest first unless asked otherwise.
///
/// The order is that in which finhook stored them: the order of their receipt, but for what waited in a queue.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", params(EventQuery),
    responses((status = 200, description = "A page of events", body = EventPage))
)]
pub async fn list(State(api): State<Arc<Api>>, Query(query): Query<EventQuery>) -> Result<Json<EventPage>, Cause> {
    let mut check = Check::default();
    let narrow = Narrow {
        provider: check.id(At::Parameter("provider"), query.provider),
        kind: check.id(At::Parameter("kind"), query.kind),
        state: check.read(At::Parameter("state"), query.state.as_deref(), STATES, EventState::parse),
        subject: check.id(At::Parameter("subject"), query.subject),
        since: check.time(At::Parameter("since"), query.since.as_deref()),
        until: check.time(At::Parameter("until"), query.until.as_deref()),
    };
    let order = check.read(At::Parameter("order"), query.order.as_deref(), "newest or oldest", |text| match text {
        "newest" => Some(false),
        "oldest" => Some(true),
        _ => None,
    });
    let cursor = check.read(At::Parameter("cursor"), query.cursor.as_deref(), "what `next` of a page said", |text| {
        Cursor::parse(text)
    });
    let limit = check.read(At::Parameter("limit"), query.limit.as_deref(), "a number from 1 to 1000", |text| {
        text.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit))
    });
    check.parameters()?;
    let page = api.console.events(narrow, order.unwrap_or(false), cursor, limit.unwrap_or(PAGE)).await?;
    Ok(Json(page))
}

/// The states, for people.
pub const STATES: &str = "applied, recorded, unlinked, retrying or dead";

/// Show one event: its row and its way, with the ids of the rows that it is about.
#[utoipa::path(
    get, path = "/v1/events/{id}", tag = "events",
    params(("id" = uuid::Uuid, Path, description = "The event's id")),
    responses((status = 200, description = "The event", body = EventDetail))
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    EventId(id): EventId,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<EventDetail>, Cause> {
    let event = api.console.event(id).await?;
    event.map(Json).ok_or(Cause::NotFound("there is no event with this id"))
}
