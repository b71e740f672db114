//! `/session`: a token becomes the cookie that the dashboard's pages are asked for with, and ends again.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use cookie::time::Duration;
use cookie::{Cookie, SameSite};
use http::header::{FORWARDED, SET_COOKIE};
use http::{HeaderName, HeaderValue, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::auth::{SESSION_COOKIE, is_local, same_origin};
use super::input::{Nothing, Query, is_type, json, read, refuse, secret};
use super::problem::{Cause, Wrong};
use crate::http::server::Peer;
use crate::http::tls::OverTls;
use crate::pipeline::access::{By, Caller, Denied, SESSION_SECONDS};

const FORM: &str = "application/x-www-form-urlencoded";
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A log-in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// One of FINHOOK_OPS_TOKENS, without its role.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "secret")]
    token: SecretString,
}

/// Who somebody is to this finhook.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionView {
    /// What they may do.
    #[schema(value_type = Vec<String>)]
    roles: Vec<&'static str>,
    /// How they proved it: `session`, `token`, or `loopback` where no tokens are configured and none is needed.
    #[schema(value_type = String, pattern = "^(session|token|loopback)$")]
    by: &'static str,
    /// When a session that was opened just now ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, required = false)]
    until: Option<String>,
}

impl SessionView {
    fn of(caller: &Caller, until: Option<String>) -> Self {
        let by = match caller.by {
            By::Loopback => "loopback",
            By::Token => "token",
            By::Session(_) => "session",
        };
        Self { roles: caller.roles.names(), by, until }
    }
}

/// Log in: a token, in JSON or from a form, becomes the session cookie.
///
/// The cookie is HttpOnly, SameSite=Strict, lasts 8 hours, and is Secure if the request came by https. A form is answered
/// with a redirect to `/`. After ten failures in a minute all log-ins from that address are refused for the rest of it.
#[utoipa::path(
    post, path = "/session", tag = "session",
    request_body(content((LogIn = "application/json"), (LogIn = "application/x-www-form-urlencoded"))),
    responses(
        (status = 200, description = "Logged in; the cookie is set", body = SessionView),
        (status = 303, description = "Logged in by a form; the cookie is set, and `/` is next"),
    )
)]
pub async fn open(
    State(api): State<Arc<Api>>,
    query: Result<Query<Nothing>, Cause>,
    request: Request,
) -> Result<Response, Cause> {
    query?;
    // A page of another site must not log somebody into a session of its own.
    if let Err(cause) = same_origin(&request, false) {
        return Err(refuse(request, cause));
    }
    let peer = request.extensions().get::<Peer>().copied().ok_or(Cause::Unauthenticated)?;
    let (local, secure) = (is_local(&request), came_by_https(&request));
    let form = is_type(request.headers(), FORM);
    if !form && !is_type(request.headers(), "application/json") {
        return Err(refuse(request, Cause::MediaType("send application/json or a form")));
    }
    let body = zeroize::Zeroizing::new(read(request).await?);
    let LogIn { token } = if form { from_form(&body)? } else { json(&body)? };
    let opened = api.keeper.gate().log_in(token.expose_secret(), peer.0.ip(), local).map_err(|denied| {
        let what = match denied {
            Denied::Unknown => "a log-in failed",
            Denied::TooMany(_) => "log-ins are refused: too many failed",
        };
        api.keeper.note(Some(peer), what);
        Cause::from(denied)
    })?;
    tracing::info!(peer.address = %peer.0.ip(), audit.actor = opened.caller.name, "logged in");
    let view = SessionView::of(&opened.caller, opened.value.as_ref().map(|_| opened.until.to_string()));
    let mut response = if form { Redirect::to("/").into_response() } else { Json(view).into_response() };
    if let Some(value) = &opened.value {
        set(&mut response, session_cookie(value.expose_secret(), Duration::seconds(SESSION_SECONDS), secure));
    }
    Ok(response)
}

/// Who am I: the roles of the token, the session, or the machine that asks.
#[utoipa::path(
    get, path = "/session", tag = "session",
    responses((status = 200, description = "Who asks", body = SessionView))
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    query: Result<Query<Nothing>, Cause>,
    request: Request,
) -> Result<Json<SessionView>, Cause> {
    let caller = api.keeper.admit(&request, None)?;
    query?;
    Ok(Json(SessionView::of(&caller, None)))
}

/// Log out: the session ends and its cookie is taken away.
#[utoipa::path(
    delete, path = "/session", tag = "session",
    responses((status = 204, description = "Logged out"))
)]
pub async fn close(
    State(api): State<Arc<Api>>,
    query: Result<Query<Nothing>, Cause>,
    request: Request,
) -> Result<Response, Cause> {
    let caller = match api.keeper.admit(&request, None) {
        Ok(caller) => caller,
        Err(cause) => return Err(refuse(request, cause)),
    };
    query?;
    api.keeper.gate().log_out(&caller);
    let mut response = StatusCode::NO_CONTENT.into_response();
    set(&mut response, session_cookie("", Duration::ZERO, came_by_https(&request)));
    Ok(response)
}

fn from_form(body: &[u8]) -> Result<LogIn, Cause> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_bytes(body).unwrap_or_default();
    let mut token = None;
    for (name, value) in pairs {
        if name != "token" || token.replace(SecretString::from(value)).is_some() {
            return Err(Cause::Invalid(vec![Wrong::pointer("", "has other fields than one token")]));
        }
    }
    token.map(|token| LogIn { token }).ok_or(Cause::Invalid(vec![Wrong::pointer("/token", "is missing")]))
}

fn session_cookie(value: &str, lasts: Duration, secure: bool) -> String {
    Cookie::build((SESSION_COOKIE, value))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(secure)
        .max_age(lasts)
        .build()
        .to_string()
}

fn set(response: &mut Response, cookie: String) {
    // A cookie of ours is ASCII without control characters, so this does not fail; without it nobody is logged in.
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(SET_COOKIE, value);
    }
}

/// Whether the browser came by https: to our own TLS, or as far as a proxy before us says. Who lies about it only loses
/// their own cookie.
fn came_by_https(request: &Request) -> bool {
    let text =
        |name: &HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let forwarded = text(&FORWARDED).to_ascii_lowercase();
    request.extensions().get::<OverTls>().is_some()
        || request.uri().scheme_str() == Some("https")
        || text(&X_FORWARDED_PROTO).eq_ignore_ascii_case("https")
        || forwarded.split([';', ',']).any(|part| part.trim() == "proto=https")
}
