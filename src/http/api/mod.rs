//! `/v1`, `/session` and `/openapi.json` on the operators' port: what the dashboard uses and what the product's back end
//! needs.
//!
//! ```text
//! bounds (a panic, a minute) ─▶ auth (401, 403) ─▶ input (400, 405, 408, 413, 415, 422) ─▶ pipeline::console ─▶ JSON
//!                                                       problem: the one map from cause to status ◀─┘
//! ```
//! Law: before the guard has said yes, nothing of a request is read but its head. A group of routes is guarded and
//! documented from one value, so that the document cannot promise another guard than there is. One more route is one
//! handler with its `utoipa::path`, and its place in [`router`]. Where next: `auth.rs`.

pub mod auth;

mod acts;
mod document;
mod events;
mod input;
mod people;
pub mod problem;
mod queues;
mod session;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::auth::Doorkeeper;
use self::document::Needs;
use self::input::refuse;
use self::problem::Cause;
use crate::config::Role;
use crate::pipeline::console::Console;

/// How long one request may take in all: a replay's portion is the longest, and ends itself before.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// What the handlers share.
pub struct Api {
    console: Arc<Console>,
    keeper: Doorkeeper,
    /// As JSON: its tree would take a mebibyte for as long as the process runs.
    document: Bytes,
}

/// The routes, and a problem for whatever else is asked for on this port.
pub fn router(console: Arc<Console>, keeper: Doorkeeper) -> Router {
    let groups = [
        (Needs::Session, OpenApiRouter::new().routes(routes!(session::open, session::show, session::close))),
        (Needs::Any, OpenApiRouter::new().routes(routes!(document::show))),
        (Needs::Role(Role::Ops), ops_routes()),
        (Needs::Role(Role::App), app_routes()),
    ];
    let mut document = document::empty();
    let mut all = Router::new();
    for (needs, routes) in groups {
        let (routes, mut described) = routes.split_for_parts();
        document::complete(&mut described, needs);
        document.merge(described);
        let routes = routes.method_not_allowed_fallback(no_method);
        all = all.merge(match needs {
            // Its handlers ask by themselves: one of them is how one gets in.
            Needs::Session => routes,
            Needs::Any => routes.route_layer(middleware::from_fn_with_state(keeper.guard(None), auth::guard)),
            Needs::Role(role) => {
                routes.route_layer(middleware::from_fn_with_state(keeper.guard(Some(role)), auth::guard))
            }
        });
    }
    let api = Api { console, keeper, document: document::text(&document) };
    all.layer(middleware::from_fn(bounds)).fallback(nowhere).with_state(Arc::new(api))
}

fn ops_routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(events::list))
        .routes(routes!(events::show))
        .routes(routes!(acts::replay))
        .routes(routes!(acts::requeue_dead))
        .routes(routes!(acts::discard_dead))
        .routes(routes!(acts::requeue_unlinked))
        .routes(routes!(acts::discard_unlinked))
        .routes(routes!(queues::now))
        .routes(routes!(queues::history))
        .routes(routes!(queues::counts))
}

fn app_routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(people::user, people::put_user))
        .routes(routes!(people::integrations))
        .routes(routes!(people::accounts))
        .routes(routes!(people::webhook_url))
        .routes(routes!(people::integration, people::put_integration))
}

async fn no_method(request: Request) -> Response {
    refuse(request, Cause::Method).into_response()
}

async fn nowhere(request: Request) -> Response {
    refuse(request, Cause::Path).into_response()
}

/// Around every route: a panic is that request's failure, nothing takes for ever, nothing is kept by a cache.
async fn bounds(request: Request, next: Next) -> Response {
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = match tokio::time::timeout(REQUEST_TIME, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            // The panic itself went to standard error; its payload could quote input.
            tracing::error!("a request to the operators' port panicked");
            Cause::Internal.into_response()
        }
        Err(_) => Cause::Unavailable("it took too long").into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
