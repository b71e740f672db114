//! The OpenAPI document: made from the handlers, completed with what the guard and the bounds answer before a handler is
//! asked, so that it cannot forget an answer.

use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Components, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::Api;
use super::auth::SESSION_COOKIE;
use super::input::{Nothing, Query};
use super::problem::{Problem, Wrong};
use crate::config::Role;

/// An empty document: what it is about, and how one proves who one is.
pub fn empty() -> OpenApi {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token of FINHOOK_OPS_TOKENS; what an operation needs of its role stands with it."))
        .build();
    let cookie = ApiKey::Cookie(ApiKeyValue::with_description(SESSION_COOKIE, "From `POST /session`."));
    let mut components = Components::new();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme("session", SecurityScheme::ApiKey(cookie));
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    components.schemas.insert(Wrong::name().into_owned(), Wrong::schema());
    let info = InfoBuilder::new()
        .title("finhook")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "What operators and the product's back end ask finhook and tell it. Errors are application/problem+json \
             (RFC 9457), lists go on by opaque cursors, every PUT can be repeated. Without configured tokens it answers \
             on loopback only.",
        ));
    OpenApiBuilder::new().info(info.build()).components(Some(components)).build()
}

/// What guards the operations of a group.
#[derive(Clone, Copy)]
pub enum Needs {
    /// A credential of any role, but for the POST that gives one.
    Session,
    /// A credential of any role.
    Any,
    /// A credential of this role.
    Role(Role),
}

/// Adds to every operation what it needs, its name, and the answers that it has in common with all others.
pub fn complete(document: &mut OpenApi, needs: Needs) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            // `get_v1_events_id`: unique, because a path has a method once.
            let words = path.split(['/', '{', '}', '.', '-']).filter(|word| !word.is_empty());
            operation.operation_id = Some([method].into_iter().chain(words).collect::<Vec<_>>().join("_"));
            let logs_in = method == "post" && matches!(needs, Needs::Session);
            finish(operation, needs, path.contains('{'), logs_in);
        }
    }
}

/// The operations of a path, by their methods.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [("get", &mut item.get), ("put", &mut item.put), ("post", &mut item.post), ("delete", &mut item.delete)]
        .into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn finish(operation: &mut Operation, needs: Needs, has_parameters: bool, logs_in: bool) {
    let roles = match needs {
        Needs::Session | Needs::Any => Vec::new(),
        Needs::Role(Role::Ops) => vec!["ops"],
        Needs::Role(Role::App) => vec!["app"],
    };
    let schemes = ["bearer", "session"].map(|name| SecurityRequirement::new(name, roles.iter().copied()));
    // An empty list of requirements is none.
    operation.security = Some(if logs_in { Vec::new() } else { schemes.into() });
    let mut answers = vec![
        (400, "The request cannot be read: a parameter is unknown, given twice or not what it stands for"),
        (401, "No valid token or session"),
        (403, "A token of another role, a page of another site, or no reason to reveal"),
        (405, "Not with this method"),
        (500, "A defect of finhook: the log has it"),
        (503, "What it needs is away, or too many ask at once"),
    ];
    if has_parameters {
        answers.push((404, "There is no such thing"));
    }
    if operation.request_body.is_some() {
        answers.extend([
            (408, "The body was not complete in time"),
            (413, "The body is larger than 128 KiB"),
            (415, "The body is not of the type that is taken"),
            (422, "Fields of the body are not as they have to be"),
        ]);
    }
    if logs_in {
        answers.push((429, "Too many log-ins failed from this address"));
    }
    for (status, description) in answers {
        let held = &mut operation.responses.responses;
        held.entry(status.to_string()).or_insert_with(|| RefOr::T(problem(description)));
    }
}

fn problem(description: &str) -> utoipa::openapi::Response {
    let schema = RefOr::Ref(Ref::from_schema_name(Problem::name()));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}

/// The document as it is answered.
pub fn text(document: &OpenApi) -> Bytes {
    // Serde refuses only maps whose keys are no texts, and those of a document are names, paths and statuses.
    Bytes::from(document.to_json().expect("a document has names for keys"))
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "document",
    responses((status = 200, description = "The document, OpenAPI 3.1", body = serde_json::Value))
)]
pub async fn show(State(api): State<std::sync::Arc<Api>>, Query(Nothing {}): Query<Nothing>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], api.document.clone())
}
