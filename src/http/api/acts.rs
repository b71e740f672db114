//! `/v1/events/replay`, `/v1/dead/…` and `/v1/unlinked/…`: what a person decides about stored events, counted first with
//! `dry_run`.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::events::STATES;
use super::input::{At, Body, Check, Nothing, Query};
use super::problem::Cause;
use crate::domain::EventState;
use crate::pipeline::access::Caller;
use crate::pipeline::console::acts::{Chosen, Done, Order, What};
use crate::pipeline::console::audit::Actor;
use crate::pipeline::console::cursor::Cursor;
use crate::pipeline::console::events::Narrow;

/// How many events are named one by one at most.
const MAX_IDS: usize = 1_000;

/// Events by their ids, or by a filter.
#[derive(ToSchema)]
#[serde(untagged)]
#[schema(example = json!({ "filter": { "provider": "unit", "since": "2026-01-31T00:00:00Z" }, "dry_run": true }))]
#[allow(dead_code, reason = "for the document: what is read is `Given`, whose errors name the field")]
pub enum Which {
    /// By their ids.
    Ids(ByIds),
    /// By a filter.
    Filter(ByFilter),
}

/// Events by their ids.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "for the document")]
pub struct ByIds {
    /// These.
    #[schema(min_items = 1, max_items = 1000)]
    ids: Vec<Uuid>,
    /// Only say how many it would be.
    dry_run: Option<bool>,
    /// Go on where the answer before ended (`next`), with the same events.
    #[schema(pattern = "^A[g-v](?:[A-Za-z0-9_-]{20}[AEIMQUYcgkosw048]|[A-Za-z0-9_-]{42})$")]
    after: Option<String>,
}

/// Events by a filter.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "for the document")]
pub struct ByFilter {
    /// Those that it lets through; an empty filter lets all of them through.
    filter: Filter,
    /// Only say how many it would be.
    dry_run: Option<bool>,
    /// Go on where the answer before ended (`next`), with the same events.
    #[schema(pattern = "^A[g-v](?:[A-Za-z0-9_-]{20}[AEIMQUYcgkosw048]|[A-Za-z0-9_-]{42})$")]
    after: Option<String>,
}

/// The same as it is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    ids: Option<Vec<Uuid>>,
    filter: Option<Filter>,
    dry_run: Option<bool>,
    after: Option<String>,
}

/// Which events, by what their rows say. Every field narrows.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Only this provider's.
    #[schema(min_length = 1, max_length = 200, pattern = "^[^\\x00]*$")]
    provider: Option<String>,
    /// Only this kind, as the provider writes it.
    #[schema(min_length = 1, max_length = 200, pattern = "^[^\\x00]*$")]
    kind: Option<String>,
    /// Only in this state: of dead and unlinked events none are in another.
    #[schema(pattern = "^(applied|recorded|unlinked|retrying|dead)$")]
    state: Option<String>,
    /// Only about this subject.
    #[schema(min_length = 1, max_length = 200, pattern = "^[^\\x00]*$")]
    subject: Option<String>,
    /// Received at or after this time.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// Received before this time.
    #[schema(format = DateTime)]
    until: Option<String>,
}

impl Given {
    /// The order that it is; `None` if it can select nothing. `only` = the state that the route is about.
    fn order(self, what: What, only: Option<EventState>) -> Result<Option<Order>, Cause> {
        let mut check = Check::default();
        let after = check.read(At::Pointer("/after"), self.after.as_deref(), "what `next` of an answer said", |text| {
            Cursor::parse(text).filter(|cursor| cursor.oldest_first)
        });
        let state = self.filter.as_ref().and_then(|filter| filter.state.as_deref());
        let state = check.read(At::Pointer("/filter/state"), state, STATES, EventState::parse);
        let chosen = match (self.ids, self.filter) {
            (Some(ids), None) => {
                if ids.is_empty() || ids.len() > MAX_IDS {
                    check.wrong(At::Pointer("/ids"), "names 1 to 1000 events");
                }
                Chosen::Ids(ids)
            }
            (None, Some(filter)) => Chosen::Those(Narrow {
                provider: check.id(At::Pointer("/filter/provider"), filter.provider),
                kind: check.id(At::Pointer("/filter/kind"), filter.kind),
                state,
                subject: check.id(At::Pointer("/filter/subject"), filter.subject),
                since: check.time(At::Pointer("/filter/since"), filter.since.as_deref()),
                until: check.time(At::Pointer("/filter/until"), filter.until.as_deref()),
            }),
            _ => {
                check.wrong(At::Pointer(""), "needs one of ids and filter");
                Chosen::Ids(Vec::new())
            }
        };
        check.fields()?;
        if only.is_some() && state.is_some() && only != state {
            return Ok(None);
        }
        let (only, dry_run) = (only.or(state), self.dry_run.unwrap_or(false));
        Ok(Some(Order { what, chosen, only, after, dry_run }))
    }
}

async fn act(
    api: &Api,
    caller: &Caller,
    given: Given,
    what: What,
    only: Option<EventState>,
) -> Result<Json<Done>, Cause> {
    let Some(order) = given.order(what, only)? else { return Ok(Json(Done::default())) };
    Ok(Json(api.console.act(order, Actor::of(caller)).await?))
}

/// Take stored events through finhook again, past the dedup and with their original time.
///
/// A replay never moves a row backwards. One call takes up to 1,000 events; `next` says where to go on.
#[utoipa::path(
    post, path = "/v1/events/replay", tag = "events", request_body = Which,
    responses((status = 200, description = "What came of it", body = Done))
)]
pub async fn replay(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Query(Nothing {}): Query<Nothing>,
    Body(given): Body<Given>,
) -> Result<Json<Done>, Cause> {
    act(&api, &caller, given, What::Replay, None).await
}

/// Take dead events through finhook again.
#[utoipa::path(
    post, path = "/v1/dead/requeue", tag = "dead", request_body = Which,
    responses((status = 200, description = "What came of it", body = Done))
)]
pub async fn requeue_dead(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Query(Nothing {}): Query<Nothing>,
    Body(given): Body<Given>,
) -> Result<Json<Done>, Cause> {
    act(&api, &caller, given, What::Replay, Some(EventState::Dead)).await
}

/// Settle dead events: they stay as recorded, and another copy that cannot be read either stays a duplicate.
///
/// One call takes up to 10,000 events; `next` says where to go on.
#[utoipa::path(
    post, path = "/v1/dead/discard", tag = "dead", request_body = Which,
    responses((status = 200, description = "What came of it", body = Done))
)]
pub async fn discard_dead(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Query(Nothing {}): Query<Nothing>,
    Body(given): Body<Given>,
) -> Result<Json<Done>, Cause> {
    act(&api, &caller, given, What::Discard, Some(EventState::Dead)).await
}

/// Take unlinked events through finhook again: what today's code reads otherwise may find its user.
#[utoipa::path(
    post, path = "/v1/unlinked/requeue", tag = "unlinked", request_body = Which,
    responses((status = 200, description = "What came of it", body = Done))
)]
pub async fn requeue_unlinked(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Query(Nothing {}): Query<Nothing>,
    Body(given): Body<Given>,
) -> Result<Json<Done>, Cause> {
    act(&api, &caller, given, What::Replay, Some(EventState::Unlinked)).await
}

/// Settle unlinked events: they stay as recorded and are not applied when their subject gets its user.
///
/// One call takes up to 10,000 events; `next` says where to go on.
#[utoipa::path(
    post, path = "/v1/unlinked/discard", tag = "unlinked", request_body = Which,
    responses((status = 200, description = "What came of it", body = Done))
)]
pub async fn discard_unlinked(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Query(Nothing {}): Query<Nothing>,
    Body(given): Body<Given>,
) -> Result<Json<Done>, Cause> {
    act(&api, &caller, given, What::Discard, Some(EventState::Unlinked)).await
}
