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

/// Events, by their ids or by a filter: one of the two.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "filter": { "provider": "unit", "since": "2026-01-31T00:00:00Z" }, "dry_run": true }))]
pub struct Which {
    /// These.
    #[schema(min_items = 1, max_items = 1000)]
    ids: Option<Vec<Uuid>>,
    /// Those that it lets through; an empty filter lets all of them through.
    filter: Option<Filter>,
    /// Only say how many it would be.
    dry_run: Option<bool>,
    /// Go on where the answer before ended (`next`), with the same events.
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
    /// Only in this state; of dead and unlinked events nothing else may be said.
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

impl Which {
    /// The order that it is. `only` = the state that the route is about.
    fn order(self, what: What, only: Option<EventState>) -> Result<Order, Cause> {
        let mut check = Check::default();
        let after = check.read(At::Pointer("/after"), self.after.as_deref(), "what `next` of an answer said", |text| {
            Cursor::parse(text).filter(|cursor| cursor.oldest_first)
        });
        let state = self.filter.as_ref().and_then(|filter| filter.state.as_deref());
        let state = check.read(At::Pointer("/filter/state"), state, STATES, EventState::parse);
        if state.is_some_and(|state| only.is_some_and(|only| only != state)) {
            check.wrong(At::Pointer("/filter/state"), "is not the state that this is about");
        }
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
        let only = only.or(state);
        Ok(Order { what, chosen, only, after, dry_run: self.dry_run.unwrap_or(false) })
    }
}

async fn act(
    api: &Api,
    caller: &Caller,
    which: Which,
    what: What,
    only: Option<EventState>,
) -> Result<Json<Done>, Cause> {
    let order = which.order(what, only)?;
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
    Body(which): Body<Which>,
) -> Result<Json<Done>, Cause> {
    act(&api, &caller, which, What::Replay, None).await
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
    Body(which): Body<Which>,
) -> Result<Json<Done>, Cause> {
    act(&api, &caller, which, What::Replay, Some(EventState::Dead)).await
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
    Body(which): Body<Which>,
) -> Result<Json<Done>, Cause> {
    act(&api, &caller, which, What::Discard, Some(EventState::Dead)).await
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
    Body(which): Body<Which>,
) -> Result<Json<Done>, Cause> {
    act(&api, &caller, which, What::Replay, Some(EventState::Unlinked)).await
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
    Body(which): Body<Which>,
) -> Result<Json<Done>, Cause> {
    act(&api, &caller, which, What::Discard, Some(EventState::Unlinked)).await
}
